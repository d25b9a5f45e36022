"""The grader of exercise 02: what is asked of transformer.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import math

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------

ROOT, CUBIC, IGNORED = math.sqrt(2 / math.pi), 0.044715, -100


def gelu(x, root=ROOT, cubic=CUBIC, power=3):
    return 0.5 * x * (1 + np.tanh(root * (x + cubic * x**power)))


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def seen(T, S, offset=None):
    """(T, S): whether query t sees key s."""
    return np.arange(S) <= np.arange(T)[:, None] + (S - T if offset is None else offset)


def scored(q, k, scale=None):
    """(B, h, T, S)"""
    return np.einsum("bthd,bshd->bhts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)


def weighted(weights, v):
    return np.einsum("bhts,bshd->bthd", weights, v)


def attention(q, k, v, scale=None, mask=None, hidden=-np.inf, axis=-1):
    mask = seen(q.shape[1], k.shape[1]) if mask is None else mask
    return weighted(softmax(np.where(mask, scored(q, k, scale), hidden), axis), v)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def losses(logits, labels):
    """Of each row that counts."""
    counts = labels != IGNORED
    return -log_softmax(logits[counts])[np.arange(counts.sum()), labels[counts]]


def cross_entropy(logits, labels):
    return float(losses(logits, labels).mean())


def parts(config):
    """Parameters by what they belong to."""
    E, L = config["n_embd"], config["n_layer"]
    return {"tokens": config["vocab_size"] * E, "positions": config["n_positions"] * E,
            "matrices": L * (3 + 1 + 4 + 4) * E * E, "biases": L * (3 + 1 + 4 + 1) * E, "norms": L * 4 * E, "last norm": 2 * E}


def count(config):
    return sum(parts(config).values())


# ---- what is drawn --------------------------------------------------------------------------------------------------


def heads(rng, sizes):
    """q, k, v of sizes B, T, S, h, d."""
    for B, T, S, h, d in sizes:
        yield tuple(rng.standard_normal((B, steps, h, d)) for steps in (T, S, S))


def far_heads(rng, sizes):
    """The same, with scores that are by turns far below and far above zero. For one query they are near each other, but for
    the last key's, on the other side. The numbers are integers, so that float32 has them exactly."""
    for q, k, v in heads(rng, sizes):
        q, k = (rng.integers(-2, 3, array.shape).astype(float) for array in (q, k))
        q[..., 0], k[..., 0] = 120.0, 120.0
        q[:, ::2, :, 0] *= -1
        k[:, -1, :, 0] *= -1
        yield q, k, v


def rows(rng, ignored, sizes=((4, 5), (1, 3), (6, 2), (5, 7))):
    for N, V in sizes:
        labels = rng.integers(0, V, N)
        if ignored and N > 1:
            labels[rng.choice(N, int(rng.integers(1, N)), replace=False)] = IGNORED
        yield rng.standard_normal((N, V)) * 2, labels


def far_rows(rng):
    """Rows far below and far above zero, with 1,000 between one logit and the next, so that float32 has losses exactly."""
    for logits, labels in rows(rng, True):
        far = rng.choice([-9000.0, 9000.0], (len(logits), 1))
        yield far + 1000 * rng.permuted(np.tile(np.arange(logits.shape[1]), (len(logits), 1)), axis=1), labels
    yield np.array([[-8000.0, -9000.0, -7000.0], [8000.0, 9000.0, 7000.0]]), np.array([1, 0])


# ---- the tests ------------------------------------------------------------------------------------------------------


def test_gelu(submission):
    error = np.vectorize(math.erf, otypes=[float])
    cases = [(np.asarray(submission.rng.standard_normal(shape) * 2),) for shape in ((7,), (3, 1), (2, 3, 4), (), (1,))]
    cases += [(submission.rng.uniform(5.1, 5.4, 2) * [1, -1],), (np.array([30.0, -30.0]),)]  # where it is nearly straight
    submission.agrees("gelu", cases, gelu, [
        M("transformer.gelu_exact", "it is the form with the error function; GPT-2 uses the one with tanh",
          lambda x: 0.5 * x * (1 + error(x / 2**0.5))),
        M("transformer.gelu_sigmoid", "it is the form with the sigmoid of 1.702 x", lambda x: x / (1 + np.exp(-1.702 * x))),
        M("transformer.relu", "it is ReLU", lambda x: np.maximum(x, 0)),
        M("transformer.silu", "it is SiLU, x sigmoid(x)", lambda x: x / (1 + np.exp(-x))),
        M("transformer.gate_only", "the last factor x is missing",
          lambda x: 0.5 * (1 + np.tanh(ROOT * (x + CUBIC * x**3)))),
        M("transformer.half_missing", "the factor 0.5 is missing", lambda x: 2 * gelu(x)),
        M("transformer.cubic_missing", "the term with x^3 is missing", lambda x: gelu(x, cubic=0.0)),
        M("transformer.root_missing", "the factor is 2 / pi, and not its root", lambda x: gelu(x, root=2 / math.pi)),
        M("transformer.root_missing", "the factor sqrt(2 / pi) is missing", lambda x: gelu(x, root=1.0)),
        M("transformer.square_for_cube", "x is squared where it should be cubed", lambda x: gelu(x, power=2)),
        M("transformer.sign", "the sign is wrong", lambda x: -gelu(x)),
    ])


def shared_mistakes():
    return [
        M("transformer.scale_missing", "scores are not divided by sqrt(d)", lambda q, k, v: attention(q, k, v, scale=1.0)),
        M("transformer.scale_squared", "scores are divided by d, and not by its root",
          lambda q, k, v: attention(q, k, v, scale=1 / q.shape[-1])),
        M("transformer.scale_of_width", "scores are divided by the root of all heads' width together",
          lambda q, k, v: attention(q, k, v, scale=(q.shape[-1] * q.shape[-2]) ** -0.5)),
        M("transformer.scale_multiplied", "scores are multiplied by sqrt(d)",
          lambda q, k, v: attention(q, k, v, scale=q.shape[-1] ** 0.5)),
        M("transformer.mask_missing", "every query sees all keys, later ones too",
          lambda q, k, v: attention(q, k, v, mask=np.array(True))),
        M("transformer.mask_reversed", "a query sees its own key and later ones, and not earlier ones",
          lambda q, k, v: attention(q, k, v, mask=np.arange(k.shape[1]) >= np.arange(q.shape[1])[:, None]
                                    + k.shape[1] - q.shape[1])),
        M("transformer.mask_strict", "a query does not see the key at its own position",
          lambda q, k, v: attention(q, k, v, mask=seen(q.shape[1], k.shape[1], k.shape[1] - q.shape[1] - 1), hidden=-1e9)),
        M("transformer.mask_offset", "a query sees one key too many",
          lambda q, k, v: attention(q, k, v, mask=seen(q.shape[1], k.shape[1], k.shape[1] - q.shape[1] + 1))),
        M("transformer.mask_zero", "the scores of later keys are set to 0, which is a score like others; it should be -inf",
          lambda q, k, v: attention(q, k, v, hidden=0.0)),
        M("transformer.mask_after_softmax", "later keys are removed after the softmax, and the rest no longer adds up to 1",
          lambda q, k, v: weighted(softmax(scored(q, k)) * seen(q.shape[1], k.shape[1]), v)),
        M("transformer.softmax_missing", "there is no softmax",
          lambda q, k, v: weighted(scored(q, k) * seen(q.shape[1], k.shape[1]), v)),
        M("transformer.wrong_axis", "the softmax is over the queries, and not over the keys",
          lambda q, k, v: attention(q, k, v, hidden=-1e9, axis=-2)),
        M("transformer.wrong_axis", "the softmax is over the heads, and not over the keys",
          lambda q, k, v: attention(q, k, v, hidden=-1e9, axis=1)),
        M("transformer.keys_for_values", "the weights are applied to the keys, and not to the values",
          lambda q, k, v: attention(q, k, k)),
        M("transformer.sign", "the sign is wrong", lambda q, k, v: -attention(q, k, v)),
    ]


def test_attention(submission):
    sizes = [(2, 3, 3, 2, 4), (1, 1, 1, 1, 1), (1, 5, 5, 3, 2), (3, 4, 4, 1, 5), (2, 6, 6, 2, 1)]
    submission.agrees("causal_attention", heads(submission.rng, sizes), attention, shared_mistakes())


def test_attention_after_cached_keys(submission):
    sizes = [(2, 2, 5, 3, 4), (1, 1, 4, 2, 5), (2, 5, 6, 1, 3), (3, 2, 3, 2, 1)]
    submission.agrees("causal_attention", heads(submission.rng, sizes), attention, [
        M("transformer.mask_offset", "query t sees the keys 0 ... t, as if no key came before; it is at position S - T + t",
          lambda q, k, v: attention(q, k, v, mask=seen(q.shape[1], k.shape[1], 0))),
        *shared_mistakes()])


def test_attention_with_large_scores(submission):
    for q, k, v in far_heads(submission.rng, [(2, 3, 3, 2, 16), (1, 4, 6, 1, 4), (1, 2, 2, 3, 64)]):
        submission.agrees("causal_attention", [(q / 128, k / 16, v)], attention)  # small: what fails here does not overflow
        given = submission.causal_attention(q, k, v)
        submission.require(not isinstance(given, np.ndarray) or bool(np.isfinite(given).all()), "causal_attention",
                           f"of scores up to ±{np.abs(scored(q, k)).max():.0f} it is not finite: exponentials overflow, or all "
                           "of a query vanish. The softmax stays the same if the largest score that a query sees is subtracted",
                           "transformer.overflow")
        submission.agrees("causal_attention", [(q, k, v)], attention, [
            *[M("transformer.mask_finite", "scores of later keys are lowered by a number that large ones outweigh; use -inf",
                lambda q, k, v, by=by: attention(q, k, v, hidden=scored(q, k) - by)) for by in (1000, 10_000)],
            M("transformer.mask_finite", "scores of later keys are set to -1,000, and others are lower; use -inf",
              lambda q, k, v: attention(q, k, v, hidden=-1000.0)),
        ])


def test_cross_entropy(submission):
    submission.agrees("cross_entropy", rows(submission.rng, ignored=False), cross_entropy, [
        M("transformer.sign", "the minus is missing", lambda *args: -cross_entropy(*args)),
        M("transformer.sum_for_mean", "the losses are added up; their mean is asked for",
          lambda *args: float(losses(*args).sum())),
        M("transformer.log_missing", "the logarithm is missing: it is 1 minus the label's probability",
          lambda *args: float(1 - np.exp(-losses(*args)).mean())),
        M("transformer.log_missing", "the logarithm is missing: it is minus the label's probability",
          lambda *args: -float(np.exp(-losses(*args)).mean())),
        M("transformer.log2", "it is in bits, with the logarithm to base 2", lambda *args: cross_entropy(*args) / math.log(2)),
        M("transformer.log2", "it is with the logarithm to base 10", lambda *args: cross_entropy(*args) / math.log(10)),
        M("transformer.logits_only", "it is minus the label's logit; the log of the softmax's denominator is missing",
          lambda z, y: -float(z[np.arange(len(y)), y].mean())),
        M("transformer.divided_by_vocabulary", "it is divided by the size of the vocabulary too, as a mean over all entries",
          lambda z, y: cross_entropy(z, y) / z.shape[1]),
        M("transformer.wrong_axis", "the softmax is over the rows, and not over the vocabulary",
          lambda z, y: -float(log_softmax(z.T).T[np.arange(len(y)), y].mean())),
    ])


def test_ignored_labels(submission):
    def counted(change):
        return lambda z, y: cross_entropy(z, np.where(y == IGNORED, change % z.shape[1], y))

    submission.agrees("cross_entropy", rows(submission.rng, True, ((4, 5), (3, 3), (6, 2), (5, 120))), cross_entropy, [
        M("transformer.divided_by_all", "the sum over the rows that count is divided by the number of all rows",
          lambda z, y: float(losses(z, y).sum() / len(y))),
        M("transformer.ignored_counted", "rows with the label -100 count, with the label 0", counted(0)),
        M("transformer.ignored_counted", "rows with the label -100 count, with the last label", counted(-1)),
        M("transformer.ignored_counted", "rows with the label -100 count, with the label V - 100, counted from the end",
          counted(IGNORED)),
        M("transformer.sum_for_mean", "the losses are added up; their mean is asked for",
          lambda z, y: float(losses(z, y).sum())),
        M("transformer.sign", "the minus is missing", lambda *args: -cross_entropy(*args)),
    ])


def test_cross_entropy_of_large_logits(submission):
    for logits, labels in far_rows(submission.rng):
        submission.agrees("cross_entropy", [(logits / 1024, labels)], cross_entropy)  # small: what fails here does not overflow
        given = submission.cross_entropy(logits, labels)
        finite = not isinstance(given, float | np.ndarray) or bool(np.isfinite(given).all())
        submission.require(finite, "cross_entropy", f"of logits up to ±{np.abs(logits).max():.0f} received {given!r}: "
                           "exponentials overflow or vanish, or the logarithm of a probability is taken that is rounded to 0. "
                           "Subtract each row's largest logit, and take log(sum(exp)), not the logarithm of a quotient",
                           "transformer.overflow")
        submission.agrees("cross_entropy", [(logits, labels)], cross_entropy)


def test_parameter_count(submission):
    rng = submission.rng
    cases = [({"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12},)]  # GPT-2
    cases += [({name: int(rng.integers(least, most)) for name, least, most in
                (("vocab_size", 100, 60000), ("n_positions", 8, 3000), ("n_embd", 4, 2000), ("n_layer", 2, 50))},)
              for _ in range(3)]

    def without(*names):
        return lambda config: count(config) - sum(parts(config)[name] for name in names)

    def plus(times):
        return lambda config: count(config) + times(config["n_embd"], config["n_layer"])

    submission.agrees("parameter_count", cases, count, [
        M("transformer.head_untied", "the output head had a matrix of its own; it is the embedding",
          lambda config: count(config) + parts(config)["tokens"]),
        M("transformer.positions_missing", "the embedding of positions is missing", without("positions")),
        M("transformer.embeddings_missing", "the embeddings are missing", without("tokens", "positions")),
        M("transformer.biases_missing", "the biases of the linear layers are missing", without("biases")),
        M("transformer.biases_missing", "all biases are missing, those of the layer norms too",
          lambda config: without("biases")(config) - (2 * config["n_layer"] + 1) * config["n_embd"]),
        M("transformer.biases_missing", "biases and layer norms are missing", without("biases", "norms", "last norm")),
        M("transformer.norms_missing", "the layer norms are missing", without("norms", "last norm")),
        M("transformer.norms_missing", "the layer norms of the layers are missing", without("norms")),
        M("transformer.last_norm_missing", "the layer norm after the last layer is missing", without("last norm")),
        M("transformer.norm_without_bias", "a layer norm had a weight and no bias", plus(lambda E, L: -(2 * L + 1) * E)),
        M("transformer.one_norm", "a layer had one layer norm; it has two", plus(lambda E, L: -2 * L * E)),
        M("transformer.output_matrix_missing", "attention's output matrix is missing", plus(lambda E, L: -L * E * E)),
        M("transformer.output_matrix_missing", "attention's output matrix and its bias are missing",
          plus(lambda E, L: -L * (E * E + E))),
        M("transformer.one_layer", "there were one layer", lambda config: count(config | {"n_layer": 1})),
    ])
