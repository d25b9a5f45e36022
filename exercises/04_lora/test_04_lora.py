"""The grader of exercise 04: what is asked of lora.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.compare import describe
from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def forward(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T) @ B.T


def backward(x, W, A, B, alpha, g, s=None):
    s = alpha / len(A) if s is None else s
    rows, grads = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])  # (N, in), (N, out)
    du = s * grads @ B  # (N, r)
    return {"x": (grads @ W + du @ A).reshape(x.shape), "A": du.T @ rows, "B": s * grads.T @ (rows @ A.T)}


def merged(W, A, B, alpha):
    return W + alpha / len(A) * B @ A


# ---- what is drawn --------------------------------------------------------------------------------------------------

SHAPES = [((2, 3), 5, 4, 2), ((), 3, 6, 1), ((4,), 1, 3, 1), ((1, 1), 7, 2, 2), ((3,), 4, 4, 3), ((2, 2, 3), 2, 3, 2)]


def layers(rng):
    """x, W, A, B and alpha of several shapes; alpha / r is neither 1 nor its own square."""
    for rows, n_in, n_out, r in SHAPES:  # x's leading axes, in, out, r
        x, W = rng.standard_normal((*rows, n_in)), rng.standard_normal((n_out, n_in))
        yield x, W, rng.standard_normal((r, n_in)), rng.standard_normal((n_out, r)), float(rng.choice([3.0, 5.0, 7.0]) * r / 2)


def with_cotangents(rng):
    for x, W, *rest in layers(rng):
        yield x, W, *rest, rng.standard_normal((*x.shape[:-1], len(W)))


def matrices(rng):
    return [layer[1:] for layer in layers(rng)]


# ---- the tests ------------------------------------------------------------------------------------------------------


def test_init(submission):
    seeds = [0, *submission.rng.integers(1, 2**31, 2).tolist()]
    for (n_in, n_out, r), seed in zip(((64, 32, 8), (128, 300, 64), (1, 5, 1)), seeds, strict=True):
        check, bound = submission.require, n_in**-0.5
        (A, B), (again, _), (other, _) = (_start(submission, n_in, n_out, r, one) for one in (seed, seed, seed + 1))
        check(bool(A.any() or B.any()), "lora_init", "A and B are both zero, so neither would ever get a gradient",
              "lora.both_zero")
        check(not (B.any() and not A.any()), "lora_init", "A is zero and B is not; LoRA starts the other way round",
              "lora.roles_swapped")
        check(not B.any(), "lora_init", "B is not zero, so the adapter changes the output before any training",
              "lora.both_random")
        check(bool(np.abs(A).max() <= bound * (1 + 1e-6)), "lora_init",
              f"A reaches {np.abs(A).max():.3g}; it is uniform between -1/sqrt(in) and 1/sqrt(in), here {bound:.3g}",
              "lora.bound")
        rank = np.linalg.matrix_rank(A)
        check(rank == min(A.shape), "lora_init", f"A {A.shape} has rank {rank}: its numbers are not drawn each for itself, as "
              "when each row is drawn from the same seed", "lora.rows_alike")
        drawn = np.sort(A, axis=None)
        share, uniform = np.arange(1, A.size + 1) / A.size, (drawn / bound + 1) / 2
        far = np.abs(share - uniform).argmax()
        check(bool(abs(share - uniform)[far] < 3.6 / A.size**0.5), "lora_init",  # by chance, once in 10^11 (Kolmogorov-Smirnov)
              f"{share[far]:.0%} of A are at most {drawn[far]:.3g}; of uniform numbers between ±{bound:.3g} these are "
              f"{uniform[far]:.0%}", "lora.bound")
        check(np.array_equal(A, again), "lora_init", f"the same seed, {seed}, gives another A")
        check(not np.array_equal(A, other), "lora_init", "another seed gives the same A")


def _start(submission, n_in, n_out, r, seed):
    """A and B as lora_init gives them, if they have the right form."""
    given = submission.lora_init(n_in, n_out, r, seed)
    submission.require(isinstance(given, dict) and set(given) == {"A", "B"}, "lora_init",
                       f'expected a dict of "A" and "B", received {describe(given)}', "keys")
    shapes = {name: np.shape(array) for name, array in given.items() if isinstance(array, np.ndarray)}
    submission.require(shapes != {"A": (n_in, r), "B": (r, n_out)} or n_in == r == n_out, "lora_init",
                       f"A is {(n_in, r)} and B {(r, n_out)}, transposed: A is (r, in), B is (out, r)", "shape")
    return (submission.real_array("lora_init", given["A"], (r, n_in), "A"),
            submission.real_array("lora_init", given["B"], (n_out, r), "B"))


def test_forward(submission):
    submission.agrees("lora_forward", layers(submission.rng), forward, [
        M("lora.no_scale", "the factor alpha / r is missing", lambda x, W, A, B, a: x @ W.T + x @ A.T @ B.T),
        M("lora.scale_twice", "alpha / r is multiplied twice",
          lambda x, W, A, B, a: x @ W.T + (a / len(A)) ** 2 * (x @ A.T) @ B.T),
        M("lora.scale_inverted", "the factor is r / alpha", lambda x, W, A, B, a: x @ W.T + len(A) / a * (x @ A.T) @ B.T),
        M("lora.scale_alpha_only", "the update is multiplied by alpha, not by alpha / r",
          lambda x, W, A, B, a: x @ W.T + a * (x @ A.T) @ B.T),
        M("lora.scale_of_width", "alpha is divided by the number of outputs, which is len(B), not by r",
          lambda x, W, A, B, a: x @ W.T + a / len(B) * (x @ A.T) @ B.T),
        M("lora.scale_of_width", "alpha is divided by the number of inputs, not by r",
          lambda x, W, A, B, a: x @ W.T + a / W.shape[1] * (x @ A.T) @ B.T),
        M("lora.scale_sqrt", "the factor is alpha / sqrt(r), which is rsLoRA's",
          lambda x, W, A, B, a: x @ W.T + a / len(A) ** 0.5 * (x @ A.T) @ B.T),
        M("lora.base_missing", "the base's x W^T is missing", lambda x, W, A, B, a: a / len(A) * (x @ A.T) @ B.T),
        M("lora.update_missing", "the update is missing", lambda x, W, A, B, a: x @ W.T),
    ])


def gradients(name):
    """The misconceptions of one gradient, as functions of all arguments."""
    def of(change):
        return lambda x, W, A, B, a, g: change(x, W, A, B, a, g)[name]

    return [
        M("lora.no_scale", "the factor alpha / r is missing", of(lambda *args: backward(*args, s=1.0))),
        M("lora.scale_twice", "alpha / r is multiplied twice",
          of(lambda x, W, A, B, a, g: backward(x, W, A, B, a, g, s=(a / len(A)) ** 2))),
        M("lora.scale_alpha_only", "it is multiplied by alpha, not by alpha / r",
          of(lambda x, W, A, B, a, g: backward(x, W, A, B, a, g, s=a))),
        M("lora.scale_of_width", "alpha is divided by the number of outputs, which is len(B), not by r",
          of(lambda x, W, A, B, a, g: backward(x, W, A, B, a, g, s=a / len(B)))),
        M("lora.scale_of_width", "alpha is divided by the number of inputs, not by r",
          of(lambda x, W, A, B, a, g: backward(x, W, A, B, a, g, s=a / W.shape[1]))),
        M("lora.sign", "the sign is wrong", lambda *args: -backward(*args)[name]),
        M("lora.upstream_dropped", "g is not used: it is as if all of it were one",
          of(lambda x, W, A, B, a, g: backward(x, W, A, B, a, np.ones_like(g)))),
    ]


def test_gradient_of_B(submission):
    _gradient(submission, "B", gradients("B"))


def test_gradient_of_A(submission):
    _gradient(submission, "A", gradients("A"))


def test_gradient_of_x(submission):
    _gradient(submission, "x", [
        M("lora.base_path_missing", "only the path through A and B is there, and the one through W is missing",
          lambda x, W, A, B, a, g: backward(x, 0 * W, A, B, a, g)["x"]),
        M("lora.update_path_missing", "only the path through W is there, and the one through A and B is missing",
          lambda x, W, A, B, a, g: backward(x, W, A, B, a, g, s=0.0)["x"]),
        *gradients("x")])


def _gradient(submission, name, misconceptions):
    submission.agrees("lora_backward", with_cotangents(submission.rng), lambda *args: backward(*args)[name], misconceptions,
                      part=name)


def test_merge(submission):
    submission.agrees("merge", matrices(submission.rng), merged, [
        M("lora.no_scale", "the factor alpha / r is missing", lambda W, A, B, a: W + B @ A),
        M("lora.scale_alpha_only", "B A is multiplied by alpha, not by alpha / r", lambda W, A, B, a: W + a * B @ A),
        M("lora.scale_twice", "alpha / r is multiplied twice", lambda W, A, B, a: W + (a / len(A)) ** 2 * B @ A),
        M("lora.base_missing", "W is missing", lambda W, A, B, a: a / len(A) * B @ A),
        M("lora.merge_sign", "B A is taken away", lambda W, A, B, a: W - a / len(A) * B @ A),
    ])


def test_unmerge(submission):
    cases = [(merged(W, A, B, alpha), A, B, alpha) for W, A, B, alpha in matrices(submission.rng)]
    submission.agrees("unmerge", cases, lambda W, A, B, alpha: W - alpha / len(A) * B @ A, [
        M("lora.no_scale", "the factor alpha / r is missing", lambda W, A, B, a: W - B @ A),
        M("lora.merge_sign", "B A is added once more", lambda W, A, B, a: W + a / len(A) * B @ A),
        M("lora.update_missing", "nothing is taken away", lambda W, A, B, a: W),
    ])


def test_count(submission):
    rng = submission.rng
    drawn = [[[int(n) for n in rng.integers(2, 4096, 2)] for _ in range(int(rng.integers(2, 9)))] for _ in range(4)]
    cases = [(shapes + shapes[-1:], int(rng.integers(2, 65))) for shapes in drawn]
    submission.agrees("count_parameters", cases, lambda shapes, r: sum(r * (out + n_in) for out, n_in in shapes), [
        M("lora.one_factor", "only one of A and B is counted", lambda shapes, r: sum(r * n_in for _, n_in in shapes)),
        M("lora.one_factor", "only one of A and B is counted", lambda shapes, r: sum(r * out for out, _ in shapes)),
        M("lora.product", "the whole matrices are counted", lambda shapes, r: sum(out * n_in for out, n_in in shapes)),
        M("lora.square", "every matrix is taken for a square one", lambda shapes, r: sum(2 * r * n_in for _, n_in in shapes)),
        M("lora.square", "every matrix is taken for a square one", lambda shapes, r: sum(2 * r * out for out, _ in shapes)),
        M("lora.shapes_once", "matrices of the same shape are counted once",
          lambda shapes, r: sum(r * (out + n_in) for out, n_in in set(map(tuple, shapes)))),
    ])


def test_rslora(submission):
    cases = [(float(submission.rng.uniform(1, 64)), r) for r in (2, 9, 64, 1)]
    submission.agrees("rslora_scaling", cases, lambda alpha, r: alpha / r**0.5, [
        M("lora.not_rank_stabilized", "it is alpha / r, LoRA's own", lambda alpha, r: alpha / r),
        M("lora.root_of_all", "it is the root of alpha / r; only that of r is asked for", lambda alpha, r: (alpha / r) ** 0.5),
        M("lora.rank_root_only", "alpha is missing", lambda alpha, r: 1 / r**0.5),
    ])
