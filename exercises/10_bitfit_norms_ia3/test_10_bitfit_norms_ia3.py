"""The grader of exercise 10: what is asked of vectors.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def is_bias(name):
    return name.split(".")[-1] == "bias"


def is_norm(module):
    return module.startswith("ln_") or "norm" in module.lower()


def module_of(name):
    return name.split(".")[-2]


def of_norm(name):
    return is_norm(module_of(name))


def trainable_names(names, method):
    return sorted(filter(is_bias if method == "bitfit" else of_norm, names))


def forward(x, W, b, l, feedforward):
    return (x * l) @ W.T + b if feedforward else l * (x @ W.T + b)


def by_row(x, W, b, l, feedforward, g):
    """The gradient of l, before it is summed over the rows."""
    return g @ W * x if feedforward else g * (x @ W.T + b)


def gradient_of_l(x, W, b, l, feedforward, g):
    return by_row(x, W, b, l, feedforward, g).reshape(-1, len(l)).sum(0)


def gradient_of_x(x, W, b, l, feedforward, g):
    return g @ W * l if feedforward else (g * l) @ W


def fold(W, b, l, feedforward):
    return {"W": W * l, "b": b} if feedforward else {"W": l[:, None] * W, "b": l * b}


# ---- what is drawn --------------------------------------------------------------------------------------------------

SHAPES = [((2, 3), 5, 4), ((), 3, 6), ((4,), 1, 3), ((1, 1), 6, 1), ((3,), 4, 4), ((3, 1, 2), 2, 5)]  # of x's rows, in, out


def layers(rng, feedforward):
    """x, W, b, l and the flag; l is far from 0, from 1 and from its own square."""
    for rows, n_in, n_out in SHAPES:
        size = n_in if feedforward else n_out
        l = rng.uniform(1.2, 2.5, size) * rng.choice([-1.0, 1.0], size)
        yield rng.standard_normal((*rows, n_in)), rng.standard_normal((n_out, n_in)), rng.standard_normal(n_out), l, feedforward


def with_cotangents(rng, feedforward):
    for x, W, *rest in layers(rng, feedforward):
        yield x, W, *rest, rng.standard_normal((*x.shape[:-1], len(W)))


def parameters(path, *owns):
    return [f"{path}.{own}" for own in owns or ("weight", "bias")]


def gpt2(layers):
    names = ["transformer.wte.weight", "transformer.wpe.weight", *parameters("transformer.ln_f")]
    for i in range(layers):
        for module in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
            names += parameters(f"transformer.h.{i}.{module}")
    return names


def llama(layers):
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for i in range(layers):
        for module in ("input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                       "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            names += parameters(f"model.layers.{i}.{module}", "weight")
    return names


def qwen(layers):
    """Like Llama, with biases in attention, or norms."""
    biases = [f"model.layers.{i}.self_attn.{module}.bias" for i in range(layers) for module in ("q_proj", "k_proj", "v_proj")]
    return llama(layers) + biases + [f"model.layers.{i}.self_attn.q_norm.weight" for i in range(layers)]


def bert(layers):
    names = ["bert.embeddings.word_embeddings.weight", *parameters("bert.embeddings.LayerNorm"), *parameters("classifier")]
    for i in range(layers):
        for module in ("attention.self.query", "attention.self.value", "attention.output.dense", "attention.output.LayerNorm",
                       "intermediate.dense", "output.dense", "output.LayerNorm"):
            names += parameters(f"bert.encoder.layer.{i}.{module}")
    return names


def t5(layers):
    """No biases; but a table that is called one."""
    names = ["shared.weight", "encoder.final_layer_norm.weight",
             "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    for i in range(layers):
        for module in ("layer.0.SelfAttention.q", "layer.0.SelfAttention.o", "layer.0.layer_norm", "layer.1.DenseReluDense.wi",
                       "layer.1.layer_norm"):
            names += parameters(f"encoder.block.{i}.{module}", "weight")
    return names


def diffusion(layers):
    """Norms with a linear layer in them, which gives their scale: it is no norm itself."""
    names = parameters("proj_out") + parameters("norm_out.linear")
    for i in range(layers):
        for module in ("norm1.linear", "norm2", "attn.to_q", "ff.net.0.proj"):
            names += parameters(f"transformer_blocks.{i}.{module}")
    return names


def custom(layers):
    """Norms that are called otherwise than in these, and much that is nearly called a norm or a bias and is none."""
    names = parameters("norm") + parameters("norm-en") + parameters("ln_emb")
    for i in range(layers):
        for module in ("NORM", "norm_attn", "ln_attn.linear", "attn.bias", "lnet", "mlp_ln_x"):
            names += parameters(f"h.{i}.{module}")
        names += [*parameters(f"h.{i}.LayerNorm", "gamma", "beta"), f"h.{i}.attn.in_proj_bias", f"h.{i}.mlp.norm_scale"]
    return names


def models(rng, method):
    for family in (gpt2, llama, qwen, bert, t5, diffusion, custom):
        yield [str(name) for name in rng.permutation(family(int(rng.integers(2, 13))))], method


# ---- the tests ------------------------------------------------------------------------------------------------------


def chosen(keep):
    return lambda names, method: sorted(filter(keep, names))


NAMES = [
    M("names.unsorted", "they are the right ones, and not sorted", lambda names, method: [
        name for name in names if name in trainable_names(names, method)]),
    M("names.frozen", "they are those that stay frozen", lambda names, method: sorted(
        set(names) - set(trainable_names(names, method)))),
]


def test_bitfit(submission):
    submission.agrees("trainable_names", models(submission.rng, "bitfit"), trainable_names, [
        *NAMES,
        M("names.contains_bias", 'every name with "bias" somewhere in it is taken, and T5 has a module called so',
          chosen(lambda name: "bias" in name)),
        M("names.contains_bias", 'every name that ends in "bias" is taken, such as "in_proj_bias"; a bias is called "bias"',
          chosen(lambda name: name.endswith("bias"))),
        M("names.contains_bias", 'what stands in a module called "bias" is taken; it is the last part of a name that counts',
          chosen(lambda name: "bias" in name.split("."))),
        M("names.without_norms", "the biases of norms are left out", chosen(lambda name: is_bias(name) and not of_norm(name))),
        M("names.norms_only", "only the biases of norms are taken", chosen(lambda name: is_bias(name) and of_norm(name))),
        M("names.norms_only", "the norms are taken, not the biases", chosen(of_norm)),
    ])


def test_norms(submission):
    submission.agrees("trainable_names", models(submission.rng, "norms"), trainable_names, [
        *NAMES,
        M("names.scales_only", "only the norms' weights, their scales, are taken: the biases, their shifts, are missing",
          chosen(lambda name: of_norm(name) and name.endswith(".weight"))),
        M("names.weights_and_biases", 'only what is called "weight" or "bias" is taken of the norms; others call it otherwise',
          chosen(lambda name: of_norm(name) and name.endswith((".weight", ".bias")))),
        M("names.shifts_only", "the norms' weights, their scales, are missing",
          chosen(lambda name: of_norm(name) and is_bias(name))),
        M("names.final_missing", "only norms with a number in their path are taken: one is not in a layer",
          chosen(lambda name: of_norm(name) and any(part.isdigit() for part in name.split(".")))),
        M("names.ln_missing", 'only names with "norm" are looked for: those of GPT-2 are called "ln_1" and so on',
          chosen(lambda name: "norm" in module_of(name).lower())),
        M("names.ln_missing", 'of the norms called "ln_...", only those of GPT-2 are there',
          chosen(lambda name: module_of(name) in ("ln_1", "ln_2", "ln_f") or "norm" in module_of(name).lower())),
        M("names.ln_like", 'modules with "ln_" anywhere in their names are taken; only at its start does it count',
          chosen(lambda name: of_norm(name) or "ln_" in module_of(name))),
        M("names.ln_like", 'modules are taken whose names start with "ln"; "ln_" is what counts',
          chosen(lambda name: of_norm(name) or module_of(name).startswith("ln"))),
        M("names.case", '"LayerNorm" is missing: capital letters count in a comparison',
          chosen(lambda name: module_of(name).startswith("ln_") or "norm" in module_of(name))),
        M("names.case", '"NORM" is missing: capital letters count in a comparison',
          chosen(lambda name: module_of(name).startswith("ln_") or any(norm in module_of(name) for norm in ("norm", "Norm")))),
        *(M("names.inside_norms", "what stands deeper in a norm is taken too, such as a linear layer in it", chosen(keep))
          for keep in (lambda name: any(map(is_norm, name.split(".")[:-1])),
                       lambda name: "ln_" in name or "norm" in name.lower(),
                       lambda name: of_norm(name) or "norm" in name.lower(),
                       lambda name: of_norm(name) or "norm" in name.lower().rpartition(".")[0])),
        M("names.own_name", "the parameter's own name is looked at too; it is its module that has to be a norm",
          chosen(lambda name: of_norm(name) or "norm" in name.split(".")[-1])),
        M("names.biases_too", "all biases are taken too", chosen(lambda name: of_norm(name) or is_bias(name))),
        M("names.biases_too", "the biases are taken, not the norms", chosen(is_bias)),
    ])


def forwards(feedforward):
    """The misconceptions of the output."""
    def of(change):
        return lambda x, W, b, l, f: forward(x, W, b, change(l), f)

    found = [
        M("ia3.missing", "l is missing", of(np.ones_like)),
        M("ia3.one_plus", "1 + l stands in the place of l", of(lambda l: 1 + l)),
        M("ia3.twice", "l is multiplied twice", of(lambda l: l * l)),
        M("ia3.divided", "it is divided by l", of(lambda l: 1 / l)),
        M("ia3.bias_missing", "b is missing", lambda x, W, b, l, f: forward(x, W, 0 * b, l, f)),
    ]
    if feedforward:
        return [*found, M("ia3.added", "l is added to x, not multiplied", lambda x, W, b, l, f: (x + l) @ W.T + b)]
    return [*found, M("ia3.added", "l is added, not multiplied", lambda x, W, b, l, f: x @ W.T + b + l),
            M("ia3.bias_not_scaled", "b is added after the multiplication with l, not before",
              lambda x, W, b, l, f: l * (x @ W.T) + b)]


def test_forward(submission):
    submission.agrees("ia3_forward", layers(submission.rng, False), forward, forwards(False))


def test_forward_feedforward(submission):
    submission.agrees("ia3_forward", layers(submission.rng, True), forward, forwards(True))


def gradients(gives):
    """The misconceptions of one gradient."""
    return [
        M("ia3.sign", "the sign is wrong", lambda *args: -gives(*args)),
        M("ia3.upstream_dropped", "g is not used: it is as if all of it were one",
          lambda *args: gives(*args[:-1], np.ones_like(args[-1]))),
        M("ia3.mean", "the mean over the rows is taken, not the sum",
          lambda *args: gives(*args) / max(1, args[0].size // args[0].shape[-1])),
    ]


def _gradient_of_l(submission, feedforward):
    misconceptions = [
        *gradients(gradient_of_l),
        M("ia3.already_scaled", "what l multiplies has been multiplied with it before", lambda x, W, b, l, f, g: (
            l * gradient_of_l(x, W, b, l, f, g))),
        M("ia3.rows_not_summed", "the sum over the rows is missing: every row has used the same l", by_row),
        M("ia3.rows_not_summed", "only the first axis is summed over, and all rows have used the same l",
          lambda *args: by_row(*args).sum(0) if args[0].ndim > 1 else by_row(*args)),
    ]
    if not feedforward:
        misconceptions.append(M("ia3.bias_missing", "b is missing: l multiplies it too", lambda x, W, b, l, f, g: gradient_of_l(
            x, W, 0 * b, l, f, g)))
    cases = list(with_cotangents(submission.rng, feedforward))
    for _, _, _, l, *_ in cases:
        l[0] = 0  # what is switched off has a gradient too
    submission.agrees("ia3_vjp", cases, gradient_of_l, misconceptions, part="l")


def test_gradient_of_l(submission):
    _gradient_of_l(submission, False)


def test_gradient_of_l_feedforward(submission):
    _gradient_of_l(submission, True)


def _gradient_of_x(submission, feedforward):
    submission.agrees("ia3_vjp", with_cotangents(submission.rng, feedforward), gradient_of_x, [
        M("ia3.missing", "l is missing", lambda x, W, b, l, f, g: g @ W),
        M("ia3.divided", "it is divided by l", lambda x, W, b, l, f, g: gradient_of_x(x, W, b, 1 / l, f, g)),
        M("ia3.twice", "l is multiplied twice", lambda x, W, b, l, f, g: gradient_of_x(x, W, b, l * l, f, g)),
        *gradients(gradient_of_x),
    ], part="x")


def test_gradient_of_x(submission):
    _gradient_of_x(submission, False)


def test_gradient_of_x_feedforward(submission):
    _gradient_of_x(submission, True)


def _fold(submission, feedforward):
    def of(change):
        return lambda W, b, l, f: fold(W, b, change(l), f)

    misconceptions = [
        M("ia3.missing", "l is missing", of(np.ones_like)),
        M("ia3.one_plus", "1 + l stands in the place of l", of(lambda l: 1 + l)),
        M("ia3.twice", "l is multiplied twice", of(lambda l: l * l)),
        M("ia3.divided", "it is divided by l: that takes a folded l out again", of(lambda l: 1 / l)),
        M("ia3.added", "l is added, not multiplied", lambda W, b, l, f: {
            "W": W + (l if f else l[:, None]), "b": b if f else b + l}),
        M("ia3.bias_missing", "b is lost", lambda W, b, l, f: {"W": fold(W, b, l, f)["W"], "b": 0 * b}),
    ]
    if not feedforward:
        misconceptions.append(M("ia3.bias_not_scaled", "b is not multiplied by l, and it should be", lambda W, b, l, f: {
            "W": fold(W, b, l, f)["W"], "b": b}))
    submission.agrees("fold", [layer[1:] for layer in layers(submission.rng, feedforward)], fold, misconceptions)


def test_fold(submission):
    _fold(submission, False)


def test_fold_feedforward(submission):
    _fold(submission, True)


def test_count(submission):
    cases = [tuple(int(n) for n in submission.rng.integers(3, (80, 1024, 4096, 16384))) for _ in range(4)]
    submission.agrees("ia3_parameters", cases, lambda layers, k, v, f: layers * (k + v + f), [
        M("ia3.one_layer", "one layer is counted", lambda layers, k, v, f: k + v + f),
        M("ia3.one_vector_missing", "the keys are not counted", lambda layers, k, v, f: layers * (v + f)),
        M("ia3.one_vector_missing", "the values are not counted", lambda layers, k, v, f: layers * (k + f)),
        M("ia3.one_vector_missing", "the feed-forward layer is not counted", lambda layers, k, v, f: layers * (k + v)),
        M("ia3.equal_widths", "values are taken to be as wide as keys", lambda layers, k, v, f: layers * (2 * k + f)),
        M("ia3.equal_widths", "keys are taken to be as wide as values", lambda layers, k, v, f: layers * (2 * v + f)),
        M("ia3.queries_too", "there is a vector for the queries too", lambda layers, k, v, f: layers * (2 * k + v + f)),
    ])
