"""The grader of exercise 11: what is asked of optimization.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def is_bias(name):
    return name.split(".")[-1] == "bias"


def is_fast(name):
    return "lora_B" in name.split(".") or is_bias(name)


def rates(names, lr, ratio, fast=is_fast):
    return {name: lr * ratio if fast(name) else lr for name in names}


def gradient_of_B(x, A, g):
    """Without alpha / r: (out, r)."""
    return g.T @ (x @ A.T)


def update(alpha, r, lr, optimizer, x, A, g, backward=None, forward=None):
    """(alpha / r) B A after the step, with other factors in the gradient and in the update if they are given."""
    s = alpha / r
    gradient = (s if backward is None else backward) * gradient_of_B(x, A, g)
    step = -lr * (gradient if optimizer == "sgd" else np.sign(gradient))
    return (s if forward is None else forward) * step @ A


def stable_rate(alpha, r, curvature):
    return 2 / (curvature * (alpha / r) ** 2)


def length(V, axis=1):
    return np.linalg.norm(V, axis=axis, keepdims=True)


def direction(W, A, B, alpha, s=None):
    return W + (alpha / len(A) if s is None else s) * B @ A


def dora(W, A, B, alpha, magnitude, s=None, norm=length):
    V = direction(W, A, B, alpha, s)
    return magnitude[:, None] * V / norm(V)


def gradient_of_magnitude(W, A, B, alpha, magnitude, g, s=None, norm=length):
    V = direction(W, A, B, alpha, s)
    return (g * V / norm(V)).sum(axis=1)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def parameters(layers, adapter, base, modules):
    return [f"base_model.model.{base}.{i}.{module}.lora_{factor}.{adapter}.weight"
            for i in range(layers) for module in modules for factor in "AB"]


def adapters(rng, biases):
    """Names of adapters' parameters in no order, the adapters called what people call them; lr and ratio."""
    for base, modules, adapter in (("model.layers", ("self_attn.q_proj", "self_attn.v_proj"), "default"),
                                   ("transformer.Block", ("attn.c_attn", "mlp.fc_B"), "B"),
                                   ("bert.encoder.layer", ("attention.self.query",), "bias")):
        names = parameters(int(rng.integers(2, 5)), adapter, base, modules)
        names += [f"base_model.model.{module}.modules_to_save.{adapter}.{own}"
                  for module, own in (("classifier", "weight"), ("position", "relative_attention_bias"))]
        if biases:
            layer = f"base_model.model.{base}.0"
            names += [f"base_model.model.classifier.modules_to_save.{adapter}.bias", f"{layer}.norm.bias"]
            names += [f"{layer}.{modules[0]}.{module}.bias"
                      for module in ("base_layer", f"lora_A.{adapter}", f"lora_B.{adapter}")]
        yield [str(name) for name in rng.permutation(names)], float(rng.uniform(0.02, 0.9)), float(rng.integers(2, 33))


STEPS = [(3, 5, 4, 2), (1, 3, 6, 1), (4, 1, 3, 1), (2, 7, 1, 2), (5, 4, 4, 3)]  # rows, in, out, r


def steps(rng, optimizer):
    """alpha / r is on both sides of 1; no number of B's gradient is so near to 0 that float32 could turn its sign."""
    for (rows, n_in, n_out, r), s in zip(STEPS, rng.permutation([0.3, 0.7, 1.5, 2.5, 3.5]), strict=True):
        while True:
            x, A, g = (rng.standard_normal(shape) for shape in ((rows, n_in), (r, n_in), (rows, n_out)))
            if np.abs(gradient_of_B(x, A, g)).min() > 1e-2 and np.abs(gradient_of_B(x, A, np.sign(g))).min() > 1e-2:
                break
        yield float(s * r), r, float(rng.uniform(0.1, 0.9)), optimizer, x, A, g


def layers(rng):
    """W, A, B, alpha and magnitude; lengths are far from those of W and of its sum with the update."""
    for n_in, n_out, r in ((5, 4, 2), (3, 6, 1), (1, 3, 1), (7, 1, 2), (4, 4, 3)):
        W, A, B = (rng.standard_normal(shape) for shape in ((n_out, n_in), (r, n_in), (n_out, r)))
        magnitude = rng.uniform(1.5, 9.0, n_out) * rng.choice([-1.0, 1.0], n_out)
        yield W, A, B, float(rng.choice([3.0, 5.0, 7.0]) * r / 2), magnitude


def with_cotangents(rng):
    """One magnitude is 0, which has a gradient too."""
    for W, *rest, magnitude in layers(rng):
        magnitude[0] = 0
        yield W, *rest, magnitude, rng.standard_normal(W.shape)


# ---- the tests: LoRA+ -----------------------------------------------------------------------------------------------


def fast_if(fast):
    return lambda names, lr, ratio: rates(names, lr, ratio, fast)


RATES = [
    M("rates.equal", "all have the same rate", fast_if(lambda name: False)),
    M("rates.equal", "all have the same rate, lr * ratio", fast_if(lambda name: True)),
    M("rates.swapped", "A has the larger rate; it is B's", fast_if(lambda name: "lora_A" in name)),
    M("rates.swapped", "A has the larger rate; it is B's, and that of biases", fast_if(lambda name: not is_fast(name))),
    M("rates.divided", "lr is divided by ratio", lambda names, lr, ratio: rates(names, lr, 1 / ratio)),
    M("rates.divided", "lr is that of B, and A's is lr / ratio; lr is A's",
      lambda names, lr, ratio: rates(names, lr / ratio, ratio)),
    M("rates.ratio_alone", "the rate of B is ratio, not lr * ratio",
      lambda names, lr, ratio: {name: ratio if is_fast(name) else lr for name in names}),
    M("rates.letter", 'every name with a "B" in it is taken for a B: a module or an adapter may be called so',
      fast_if(lambda name: "B" in name or is_bias(name))),
    M("rates.contains_bias", 'names with "bias" somewhere in them are taken for biases: an adapter may be called so',
      fast_if(lambda name: is_fast(name) or "bias" in name)),
    M("rates.contains_bias", 'names with "bias" in their path are taken for biases: an adapter may be called so',
      fast_if(lambda name: is_fast(name) or "bias" in name.split("."))),
    M("rates.contains_bias", 'names that end in "bias" are taken for biases: a bias is called "bias", and no more',
      fast_if(lambda name: is_fast(name) or name.endswith("bias"))),
    M("rates.all_but_A", "all that is not in a lora_A has the larger rate, matrices that are trained whole too",
      fast_if(lambda name: "lora_A" not in name)),
]


def test_rates_of_matrices(submission):
    submission.agrees("loraplus_groups", adapters(submission.rng, biases=False), rates, RATES)


def test_rates_of_biases(submission):
    submission.agrees("loraplus_groups", adapters(submission.rng, biases=True), rates, [
        *RATES,
        M("rates.all_but_A", "all matrices that are not in a lora_A have the larger rate, those that are trained whole too",
          fast_if(lambda name: "lora_A" not in name or is_bias(name))),
        M("rates.biases_slow", "biases have the rate of A", fast_if(lambda name: "lora_B" in name.split("."))),
        M("rates.biases_slow", "biases have the rate of A, that of a lora_B too",
          fast_if(lambda name: is_fast(name) and not is_bias(name))),
        M("rates.biases_slow", "the bias of a lora_A has the rate of its matrix; every bias has the larger one",
          fast_if(lambda name: is_fast(name) and not ("lora_A" in name and is_bias(name)))),
    ])


# ---- alpha / r as a learning rate -----------------------------------------------------------------------------------


def updates(optimizer):
    """The misconceptions that either optimizer's first update may show."""
    other = "adam" if optimizer == "sgd" else "sgd"
    return [
        M("update.sign", "the step goes up the gradient", lambda *case: -update(*case)),
        M("update.other_optimizer", f"it is the step of {other}", lambda *case: update(*case[:3], other, *case[4:])),
        M("update.upstream_dropped", "g is not used: it is as if all of it were one",
          lambda *case: update(*case[:-1], np.ones_like(case[-1]))),
        M("update.upstream_dropped", "only the signs of g are used", lambda *case: update(*case[:-1], np.sign(case[-1]))),
        M("update.rate_missing", "lr is missing", lambda alpha, r, lr, *rest: update(alpha, r, 1.0, *rest)),
    ]


def test_first_update_sgd(submission):
    submission.agrees("first_update", steps(submission.rng, "sgd"), update, [
        M("update.no_scale", "alpha / r is missing", lambda *case: update(*case, backward=1.0, forward=1.0)),
        M("update.scale_once", "alpha / r is there once; it is in B's gradient and in the update",
          lambda *case: update(*case, backward=1.0)),
        M("update.scale_alpha_only", "alpha stands in the place of alpha / r",
          lambda *case: update(*case, backward=case[0], forward=case[0])),
        M("update.mean", "the gradient is a mean over the rows, not a sum", lambda *case: update(*case) / len(case[4])),
        M("update.full", "it is what full fine-tuning does, -lr times the weight's gradient: here the step has to go through A",
          lambda alpha, r, lr, name, x, A, g: -lr * g.T @ x),
        *updates("sgd"),
    ])


def test_first_update_adam(submission):
    submission.agrees("first_update", steps(submission.rng, "adam"), update, [
        M("update.no_scale", "alpha / r is missing: Adam's step on B does without it, the weight does not",
          lambda *case: update(*case, forward=1.0)),
        M("update.scale_twice", "alpha / r is multiplied twice: Adam divides it out of the gradient",
          lambda *case: update(*case, forward=(case[0] / case[1]) ** 2)),
        M("update.scale_alpha_only", "alpha stands in the place of alpha / r", lambda *case: update(*case, forward=case[0])),
        M("update.sign_of_weight", "the sign is of the weight's gradient, as in full fine-tuning; it is B that Adam steps on",
          lambda alpha, r, lr, name, x, A, g: -lr * np.sign(g.T @ x)),
        M("update.sign_of_weight", "the sign is taken of the weight's change, not of B's gradient",
          lambda *case: np.sign(update(*case[:3], "sgd", *case[4:])) * case[2] * case[0] / case[1]),
        M("update.other_optimizer", "it is the step of SGD, without alpha / r in the gradient",
          lambda *case: update(*case[:3], "sgd", *case[4:], backward=1.0)),
        *updates("adam"),
    ])


def test_largest_stable_rate(submission):
    rng = submission.rng
    cases = [(float(rng.choice([3.0, 5.0, 7.0]) * r / 2), r, float(rng.uniform(0.02, 0.5))) for r in (1, 2, 8, 64)]
    cases += [(float(rng.uniform(0.1, 0.4) * r), r, float(rng.uniform(1.5, 9.0))) for r in (4, 16)]
    submission.agrees("largest_stable_rate", cases, stable_rate, [
        M("stable.no_scale", "alpha / r is missing: it is the rate for the weight itself", lambda alpha, r, c: 2 / c),
        M("stable.scale_once", "alpha / r is there once; the step goes through it twice, in the gradient and in the weight",
          lambda alpha, r, c: 2 / (c * alpha / r)),
        M("stable.inverted", "it is multiplied by the square of alpha / r; the larger that is, the smaller the rate has to be",
          lambda alpha, r, c: 2 / c * (alpha / r) ** 2),
        M("stable.inverted", "it is multiplied by alpha / r; the larger that is, the smaller the rate has to be",
          lambda alpha, r, c: 2 / c * (alpha / r)),
        M("stable.one_step", "it is the rate that reaches the minimum in one step; twice of it is still stable",
          lambda *case: stable_rate(*case) / 2),
        M("stable.alpha_only", "alpha stands in the place of alpha / r", lambda alpha, r, c: 2 / (c * alpha**2)),
        M("stable.no_curvature", "the curvature is missing", lambda alpha, r, c: 2 / (alpha / r) ** 2),
    ])


# ---- DoRA -----------------------------------------------------------------------------------------------------------


def norms(gives):
    """Misconceptions of V and of its length; `gives` computes the result with another scale or another norm."""
    return [
        M("dora.no_scale", "the factor alpha / r is missing", lambda *case: gives(*case, s=1.0)),
        M("dora.scale_alpha_only", "B A is multiplied by alpha, not by alpha / r", lambda *case: gives(*case, s=case[3])),
        M("dora.columns", "columns are normalized; each output has a row of W (out, in)",
          lambda *case: gives(*case, norm=lambda V: length(V, axis=0))),
        M("dora.one_norm", "one norm is taken for all; each row has its own", lambda *case: gives(*case, norm=np.linalg.norm)),
        M("dora.no_norm", "it is not divided by the norm", lambda *case: gives(*case, norm=lambda V: 1.0)),
        M("dora.base_norm", "it is divided by the norms of W; they should be those of W + (alpha / r) B A",
          lambda *case: gives(*case, norm=lambda V: length(case[0]))),
        M("dora.squared_norm", "the root is missing in the norm", lambda *case: gives(*case, norm=lambda V: length(V) ** 2)),
        M("dora.update_missing", "the update B A is missing", lambda *case: gives(*case, s=0.0)),
        M("dora.base_missing", "W is missing: only the update is there", lambda W, *rest: gives(0 * W, *rest)),
    ]


def test_dora_weight(submission):
    submission.agrees("dora_weight", layers(submission.rng), dora, [
        *norms(dora),
        M("dora.no_magnitude", "magnitude is missing: each row has length 1",
          lambda *case: dora(*case[:4], np.ones_like(case[4]))),
        M("dora.no_magnitude", "each row has the length of W's; magnitude is missing",
          lambda W, A, B, alpha, m: dora(W, A, B, alpha, length(W)[:, 0])),
        M("dora.base_added", "the update alone is normalized, and W added to it",
          lambda W, A, B, alpha, m: W + dora(0 * W, A, B, alpha, m)),
    ])


def test_dora_magnitude_gradient(submission):
    def times(factor):
        return lambda *case: gradient_of_magnitude(*case) * factor(*case)

    submission.agrees("dora_magnitude_gradient", with_cotangents(submission.rng), gradient_of_magnitude, [
        *norms(gradient_of_magnitude),
        M("dora.sign", "the sign is wrong", times(lambda *case: -1)),
        M("dora.upstream_dropped", "g is not used: it is as if all of it were one",
          lambda *case: gradient_of_magnitude(*case[:-1], np.ones_like(case[-1]))),
        M("dora.times_magnitude", "it is multiplied by magnitude, which is the factor itself", times(lambda *case: case[4])),
        M("dora.mean", "it is a mean over the row, not a sum", times(lambda *case: 1 / case[0].shape[1])),
        M("dora.not_summed", "the sum over the row is missing: one number scales all of it",
          lambda W, A, B, alpha, m, g: g * dora(W, A, B, alpha, np.ones_like(m))),
        M("dora.not_summed", "the sum is over the columns; one number scales a row",
          lambda W, A, B, alpha, m, g: (g * dora(W, A, B, alpha, np.ones_like(m))).sum(axis=0)),
    ])
