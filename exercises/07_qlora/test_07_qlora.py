"""The grader of exercise 07: what is asked of qlora.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def codes_of(packed):
    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)


def base(packed, absmax, code, blocksize, shape):
    size = shape[0] * shape[1]
    return (code[codes_of(packed)[:size]] * np.repeat(absmax, blocksize)[:size]).reshape(shape)


def of_weight(function):
    """f(W, ...) as a function of the quantized base; `weight` says how W is made."""
    def applied(*case, weight=base, **change):
        x, quantized, rest = case[:1], case[1:6], case[6:]
        return function(*x, weight(*quantized), *rest, **change)
    return applied


@of_weight
def forward(x, W, A, B, alpha, s=None):
    s = alpha / len(A) if s is None else s
    return x @ W.T + s * (x @ A.T) @ B.T


@of_weight
def backward(x, W, A, B, alpha, g, s=None):
    s = alpha / len(A) if s is None else s
    rows, grads = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])  # (N, in), (N, out)
    du = s * grads @ B  # (N, r)
    return {"x": (grads @ W + du @ A).reshape(x.shape), "A": du.T @ rows, "B": s * grads.T @ (rows @ A.T)}


def magnitudes(x, blocksize):
    return np.array([np.abs(x[start:start + blocksize]).max() for start in range(0, len(x), blocksize)])


def requantized(W, code, blocksize, maxima=None):
    """W in four bits and back, with these maxima, or with its own."""
    x = W.reshape(-1)
    each = np.repeat(magnitudes(x, blocksize) if maxima is None else maxima, blocksize)[:len(x)]
    return (code[np.abs((x / each)[:, None] - code).argmin(axis=1)] * each).reshape(W.shape)


def norm(x):
    return float(np.linalg.norm(x))


def changes(packed, absmax, code, blocksize, shape, A, B, alpha, s=None, weight=base, maxima=None):
    """The base, the change that was wanted, and the one made."""
    W = weight(packed, absmax, code, blocksize, shape)
    wanted = (alpha / len(A) if s is None else s) * B @ A
    return W, wanted, requantized(W + wanted, code, blocksize, maxima) - W


def merge_loss(*case, **change):
    _, wanted, made = changes(*case, **change)
    return norm(made - wanted) / norm(wanted)


def breakdown(quantized, kept, adapter, bits, kept_bytes, adapter_bytes):
    parts = {"base": quantized * bits / 8 + kept * kept_bytes, "adapter": float(adapter * adapter_bytes),
             "gradients": float(adapter * adapter_bytes), "optimizer": 8.0 * adapter}
    return parts | {"total": sum(parts.values())}


# ---- what is drawn --------------------------------------------------------------------------------------------------

# of x's rows, out, in, r, blocksize: whole blocks and much shorter ones, across rows, as long as them, one for all; odd sizes
SHAPES = [((2, 3), 4, 5, 2, 16), ((), 3, 5, 1, 4), ((4,), 1, 7, 1, 64), ((1, 1), 5, 1, 1, 2), ((3,), 6, 6, 3, 6)]


def codebook(rng):
    """16 values that rise from -1 to 1, 0 among them."""
    below = int(rng.integers(4, 11))
    down, up = np.cumsum(rng.uniform(0.5, 1.5, below)), np.cumsum(rng.uniform(0.5, 1.5, 15 - below))
    return np.concatenate([-down[::-1] / down[-1], [0.0], up / up[-1]])


def quantized(rng, out, n_in, blocksize):
    """packed, absmax, code, blocksize, shape."""
    count = out * n_in
    codes = (rng.integers(1, 16, count + count % 2).cumsum() % 16).astype(np.uint8)  # each differs from the one before
    absmax = rng.uniform(0.5, 3, -(-count // blocksize))
    return codes[::2] << 4 | codes[1::2], absmax, codebook(rng), blocksize, [out, n_in]


def layers(rng):
    """All arguments of qlora_forward; alpha / r is neither 1 nor its own square."""
    for rows, out, n_in, r, blocksize in SHAPES:
        yield (rng.standard_normal((*rows, n_in)), *quantized(rng, out, n_in, blocksize), rng.standard_normal((r, n_in)),
               rng.standard_normal((out, r)), float(rng.choice([3.0, 5.0, 7.0]) * r / 2))


def with_cotangents(rng):
    for x, *rest in layers(rng):
        yield x, *rest, rng.standard_normal((*x.shape[:-1], rest[4][0]))


def merges(rng):
    """Arguments of merge_loss; no number is so near to the middle between two codes that float32 could take the other one.

    The last change is so small that rounding does more than it: the loss is above 1.
    """
    for size, (_, out, n_in, r, blocksize) in zip((0.3, 0.3, 0.3, 0.3, 0.003), SHAPES, strict=True):
        while True:
            packed, absmax, code, *rest = quantized(rng, out, n_in, blocksize)
            A, B = size * rng.standard_normal((r, n_in)), rng.standard_normal((out, r))
            alpha = float(rng.choice([3.0, 5.0]) * r / 2)
            case = packed, absmax, code, *rest, A, B, alpha
            W = (base(packed, absmax, code, *rest) + alpha / r * B @ A).reshape(-1)
            scaled = W / np.repeat(magnitudes(W, blocksize), blocksize)[:len(W)]
            far = np.abs(scaled[:, None] - (code[1:] + code[:-1]) / 2).min() > 1e-3
            if far and (size == 0.3 or merge_loss(*case) > 1.1):
                break
        yield case


# ---- the tests ------------------------------------------------------------------------------------------------------


def low_first(packed, *rest):
    return base(packed << 4 | packed >> 4, *rest)


def not_scaled(packed, absmax, *rest):
    return base(packed, np.ones_like(absmax), *rest)


def in_turn(packed, absmax, code, blocksize, shape):
    size = shape[0] * shape[1]
    return (code[codes_of(packed)[:size]] * np.resize(absmax, size)).reshape(shape)


def of_equal_blocks(packed, absmax, code, blocksize, shape):
    return base(packed, absmax, code, -(-shape[0] * shape[1] // len(absmax)), shape)


def by_columns(packed, absmax, code, blocksize, shape):
    return base(packed, absmax, code, blocksize, shape[::-1]).T


def in_halves(packed, *rest):
    codes = np.concatenate([packed >> 4, packed & 15])
    return base(codes[::2] << 4 | codes[1::2], *rest)


def equal_steps(packed, absmax, code, blocksize, shape):
    return base(packed, absmax, np.linspace(-1, 1, 16), blocksize, shape)


def raw_codes(packed, absmax, code, blocksize, shape):
    return base(packed, absmax, np.arange(16.0), blocksize, shape)


def without(*quantized):
    return 0 * base(*quantized)


def weights(gives):
    """Misconceptions of how W is made; `gives` computes the result with another W."""
    return [
        M("qlora.low_first", "the first of two codes is taken from the low half of the byte; it is in the high half",
          gives(weight=low_first)),
        M("qlora.not_scaled", "the values are not multiplied by their block's maximum", gives(weight=not_scaled)),
        M("qlora.maxima_in_turn", "the maxima are taken in turn, one for each number; each is for a whole block",
          gives(weight=in_turn)),
        M("qlora.equal_blocks", "all blocks are taken to be equally long; each has `blocksize` numbers, the last one the rest",
          gives(weight=of_equal_blocks)),
        M("qlora.by_columns", "the numbers fill W column by column; they are stored row by row", gives(weight=by_columns)),
        M("qlora.halves", "all high halves come first, then all low ones; the two halves of a byte stand side by side",
          gives(weight=in_halves)),
        M("qlora.codebook", "the codes are taken for equal steps; they are places in `code`", gives(weight=equal_steps)),
        M("qlora.codebook", "the codes themselves are taken for values; they are places in `code`", gives(weight=raw_codes)),
        M("qlora.base_missing", "the base is missing", gives(weight=without)),
    ]


def scales(gives):
    """Misconceptions of alpha / r; `gives` computes the result with another scale, a function of alpha and r."""
    return [
        M("qlora.no_scale", "the factor alpha / r is missing", gives(lambda alpha, r: 1.0)),
        M("qlora.scale_twice", "alpha / r is multiplied twice", gives(lambda alpha, r: (alpha / r) ** 2)),
        M("qlora.scale_alpha_only", "B A is multiplied by alpha, not by alpha / r", gives(lambda alpha, r: alpha)),
        M("qlora.scale_inverted", "the factor is r / alpha", gives(lambda alpha, r: r / alpha)),
        M("qlora.scale_sqrt", "the factor is alpha / sqrt(r), which is rsLoRA's", gives(lambda alpha, r: alpha / r**0.5)),
    ]


def rounded_sum(x, packed, absmax, code, blocksize, shape, A, B, alpha):
    W = base(packed, absmax, code, blocksize, shape)
    return x @ requantized(W + alpha / len(A) * B @ A, code, blocksize).T


def test_forward(submission):
    submission.agrees("qlora_forward", layers(submission.rng), forward, [
        *weights(lambda weight: lambda *case: forward(*case, weight=weight)),
        *scales(lambda s: lambda *case: forward(*case, s=s(case[-1], len(case[-3])))),
        M("qlora.update_missing", "the adapter is missing", lambda *case: forward(*case, s=0.0)),
        M("qlora.sign", "the adapter is taken away", lambda *case: forward(*case, s=-case[-1] / len(case[-3]))),
        M("qlora.sum_rounded", "the sum of base and adapter is rounded to four bits; A and B stay in floats", rounded_sum),
    ])


def _gradient(submission, name, misconceptions=()):
    def with_scale(s):
        return lambda *case: backward(*case, s=s(case[-2], len(case[-4])))[name]

    submission.agrees("qlora_backward", with_cotangents(submission.rng), lambda *case: backward(*case)[name], [
        *misconceptions,
        *scales(with_scale),
        M("qlora.sign", "the sign is wrong", lambda *case: -backward(*case)[name]),
        M("qlora.upstream_dropped", "g is not used: it is as if all of it were one",
          lambda *case: backward(*case[:-1], np.ones_like(case[-1]))[name]),
    ], part=name)


def test_gradient_of_x(submission):
    _gradient(submission, "x", [
        *weights(lambda weight: lambda *case: backward(*case, weight=weight)["x"]),
        M("qlora.update_missing", "only the path through the base is there, and the one through A and B is missing",
          lambda *case: backward(*case, s=0.0)["x"]),
    ])


def test_gradient_of_A(submission):
    _gradient(submission, "A")


def test_gradient_of_B(submission):
    _gradient(submission, "B")


def test_merge_loss(submission):
    def of(change):
        return lambda *case: change(*changes(*case))

    def with_scale(s):
        return lambda *case: merge_loss(*case, s=s(case[-1], len(case[-3])))

    def one_maximum(*case):
        W, wanted, _ = changes(*case)
        return merge_loss(*case, maxima=np.full(len(case[1]), np.abs(W + wanted).max()))

    submission.agrees("merge_loss", merges(submission.rng), merge_loss, [
        M("qlora.not_rounded", "the sum is not rounded to four bits again, so nothing gets lost", lambda *_: 0.0),
        *scales(with_scale),
        M("qlora.update_alone", "B A is quantized alone; the sum of base and adapter is what has to be stored",
          lambda *case: merge_loss(*case, weight=without)),
        *weights(lambda weight: lambda *case: merge_loss(*case, weight=weight)),
        M("qlora.old_maxima", "the sum is quantized with the maxima of the base; it has its own",
          lambda *case: merge_loss(*case, maxima=case[1])),
        M("qlora.one_maximum", "the sum is quantized with one maximum for all, not one for each block",
          one_maximum),
        M("qlora.not_relative", "the error is not divided by the change wanted",
          of(lambda W, wanted, made: norm(made - wanted))),
        M("qlora.relative_to_weight", "the error is divided by the norm of the weight, not of the change wanted",
          of(lambda W, wanted, made: norm(made - wanted) / norm(W))),
        M("qlora.relative_to_weight", "the error is divided by the norm of the sum, not of the change wanted",
          of(lambda W, wanted, made: norm(made - wanted) / norm(W + wanted))),
        M("qlora.relative_to_made", "the error is divided by the change made, not by the change wanted",
          of(lambda W, wanted, made: norm(made - wanted) / norm(made))),
        M("qlora.capped", "what is above 1 comes back as 1; rounding may change more than the adapter did",
          lambda *case: min(1.0, merge_loss(*case))),
        M("qlora.no_root", "the root of the squares is missing",
          of(lambda W, wanted, made: (norm(made - wanted) / norm(wanted)) ** 2)),
        M("qlora.what_is_kept", "it is the change made, not what is missing of the change wanted",
          of(lambda W, wanted, made: norm(made) / norm(wanted))),
        M("qlora.what_is_kept", "norms are subtracted; the changes have to be, before the norm is taken",
          of(lambda W, wanted, made: abs(norm(made) - norm(wanted)) / norm(wanted))),
    ])


def models(rng):
    """Arguments of memory_breakdown: all widths differ at least once, and bits are no whole number."""
    for bits, kept_bytes, adapter_bytes in ((4.5, 2, 4), (4.127, 4, 2), (8.0, 2, 2)):
        yield (int(rng.integers(10**9, 10**10)), int(rng.integers(10**7, 10**9)), int(rng.integers(10**6, 10**8)), bits,
               kept_bytes, adapter_bytes)


def test_base_bytes(submission):
    submission.agrees("memory_breakdown", models(submission.rng), lambda *case: breakdown(*case)["base"], [
        M("qlora.bits", "bits are taken for bytes", lambda q, k, a, bits, kept, _: q * bits + k * kept),
        M("qlora.bits", "all is in bits", lambda q, k, a, bits, kept, _: q * bits + 8 * k * kept),
        M("qlora.bits", "half a byte is counted for a quantized number, whatever `bits` is",
          lambda q, k, a, bits, kept, _: q / 2 + k * kept),
        M("qlora.kept", "the numbers that are not quantized are missing", lambda q, k, a, bits, *_: q * bits / 8),
        M("qlora.kept", "all numbers of the base are taken for quantized ones", lambda q, k, a, bits, *_: (q + k) * bits / 8),
        M("qlora.kept", "numbers that are not quantized are counted with adapter_bytes each, not kept_bytes",
          lambda q, k, a, bits, _, width: q * bits / 8 + k * width),
        M("qlora.adapter_in_base", "the adapter is counted in the base",
          lambda q, k, a, bits, kept, width: q * bits / 8 + k * kept + a * width),
    ], part="base")


def test_training_bytes(submission):
    cases = list(models(submission.rng))
    widths = [
        M("qlora.adapter_width", "the adapter is counted with the width of the base's numbers",
          lambda q, k, a, bits, kept, width: a * kept),
        M("qlora.adapter_width", "the adapter is counted in four bits; it is stored in floats",
          lambda q, k, a, bits, *_: a * bits / 8),
    ]
    float32 = [M("qlora.float32", "they are counted as float32; they have adapter_bytes each", lambda q, k, a, *_: 4 * a)]
    submission.agrees("memory_breakdown", cases, lambda *case: breakdown(*case)["adapter"], [*widths, *float32], part="adapter")
    submission.agrees("memory_breakdown", cases, lambda *case: breakdown(*case)["gradients"], [
        M("qlora.base_trained", "the frozen base is given gradients", lambda q, k, a, bits, kept, width: (q + k + a) * width),
        M("qlora.base_trained", "what is not quantized is given gradients; the base is frozen",
          lambda q, k, a, bits, kept, width: k * kept + a * width),
        *widths, *float32,
    ], part="gradients")
    submission.agrees("memory_breakdown", cases, lambda *case: breakdown(*case)["optimizer"], [
        M("qlora.base_trained", "the frozen base is given an optimizer's state", lambda q, k, a, *_: 8 * (q + k + a)),
        M("qlora.one_moment", "one number is counted for each trained one; AdamW keeps two", lambda q, k, a, *_: 4 * a),
        M("qlora.optimizer_width", "AdamW's numbers are counted as wide as the adapter's; they are float32",
          lambda q, k, a, bits, kept, width: 2 * a * width),
        M("qlora.master_copies", "a float32 copy of the adapter is counted too; none was asked for",
          lambda q, k, a, *_: 12 * a),
    ], part="optimizer")


def test_total(submission):
    def left_out(*names):
        return lambda *case: breakdown(*case)["total"] - sum(breakdown(*case)[name] for name in names)

    submission.agrees("memory_breakdown", models(submission.rng), lambda *case: breakdown(*case)["total"], [
        *[M("qlora.left_out", f"it lacks {name}", left_out(name)) for name in ("base", "adapter", "gradients", "optimizer")],
        M("qlora.left_out", "it lacks gradients and optimizer", left_out("gradients", "optimizer")),
        M("qlora.left_out", "only base and optimizer are added", left_out("adapter", "gradients")),
        M("qlora.units", "it is in GB; bytes were asked for", lambda *case: breakdown(*case)["total"] / 1e9),
        M("qlora.units", "it is in GiB; bytes were asked for", lambda *case: breakdown(*case)["total"] / 2**30),
    ], part="total")
