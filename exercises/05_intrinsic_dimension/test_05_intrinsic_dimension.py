"""The grader of exercise 05: what is asked of dimension.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def values(W):
    return np.linalg.svd(W, compute_uv=False)


def first_to_reach(parts, share):
    """How many of the parts, from the first on, hold at least this share of all."""
    return int(np.argmax(np.cumsum(parts) >= share * parts.sum())) + 1


def effective_rank(W, share):
    return first_to_reach(values(W) ** 2, share)


def best_rank_r(W, r, power=1):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * s[:r] ** power) @ Vt[:r]


def relative_error(W, r):
    s = values(W)
    return float(np.sqrt((s[r:] ** 2).sum() / (s**2).sum()))


def enough(dimensions, scores, least):
    """The dimensions whose score is at least `least`."""
    return [d for d, score in zip(dimensions, scores, strict=True) if score >= least]


def intrinsic_dimension(dimensions, scores, full, share):
    return min(enough(dimensions, scores, share * full), default=None)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def matrix(rng, n, m, s):
    """(n, m) with these singular values and random directions."""
    U, _ = np.linalg.qr(rng.standard_normal((n, n)))
    V, _ = np.linalg.qr(rng.standard_normal((m, m)))
    return float(rng.uniform(2, 5)) * (U[:, :len(s)] * s) @ V[:, :len(s)].T


def falling(rng, k):
    """k singular values, each 0.5 to 0.75 of the one before: which is the larger does not depend on rounding."""
    return np.cumprod(rng.uniform(0.5, 0.75, k))


# n, m, rank, answer
RANKS = [(5, 8, 5, 2), (9, 6, 6, 4), (7, 7, 3, 2), (1, 4, 1, 1), (6, 1, 1, 1), (8, 10, 8, 5), (6, 5, 5, 1), (4, 3, 3, 3)]


def matrices_and_shares(rng):
    """Shares just above what one singular value fewer holds, and just below what is held; not nearer than rounding needs."""
    for n, m, rank, answer in RANKS:
        s = falling(rng, rank)
        held = np.concatenate([[0.0], np.cumsum(s**2) / (s**2).sum()])
        for share in (held[answer - 1] + 1e-4, held[answer] - 1e-4):
            yield matrix(rng, n, m, s), float(share)
    yield 2.0 ** rng.integers(-3, 4) * np.eye(4), 0.5  # two hold exactly this share
    yield np.array([[1.0, rng.uniform(20, 90)], [0.0, 1.0]]), 0.9  # both eigenvalues are 1


def matrices_and_ranks(rng, whole=True):
    """Some of which keep their rank, if `whole`."""
    for n, m, r in [(4, 7, 2), (6, 3, 1), (5, 5, 3)] + [(1, 5, 1), (4, 1, 1), (3, 4, 3), (1, 1, 1)] * whole:
        yield matrix(rng, n, m, falling(rng, min(n, m))), r


SIZES = [(12, 3), (5, 1), (4, 4), (1, 1), (3, 6), (1, 2)]  # of P: mostly thin, but nothing here depends on that


def subspaces(rng):
    """theta, P and z; the columns of P are neither of length one nor orthogonal."""
    for N, d in SIZES:
        yield rng.standard_normal(N), rng.uniform(0.5, 2) * rng.standard_normal((N, d)), rng.standard_normal(d)


def curves(rng):
    """Scores that rise with noise: the third dimension is enough, the fourth is not, all later ones are, the last but one best.

    Full fine-tuning's score is above all but the best of them.
    """
    for full, count in ((float(rng.uniform(60, 90)), 6), (float(rng.uniform(0.5, 0.9)), 8), (float(rng.uniform(2, 4)), 7)):
        share = float(rng.uniform(0.8, 0.9))
        dimensions = [int(d) for d in np.cumsum(rng.integers(3, 400, count))]
        reached = np.concatenate([[0.3, 0.97, 1.03, 0.98], rng.uniform(1.04, 1.07, count - 6), [1.3, 1.08]])
        yield dimensions, [float(score) for score in reached * share * full], full, share
    half = float(2 ** rng.integers(0, 5))  # a score that is exactly half of `full`
    yield [int(d) for d in np.cumsum(rng.integers(3, 400, 4))], [0.9 * half, half, 1.5 * half, 1.6 * half], 2 * half, 0.5
    yield [int(rng.integers(3, 400))], [0.95], 1.0, 0.9
    loss = float(rng.uniform(2, 3))  # whose negative is the score
    yield [int(d) for d in np.cumsum(rng.integers(3, 400, 3))], [-1.5 * loss, -0.95 * loss, -0.85 * loss], -loss, 0.9


# ---- the tests ------------------------------------------------------------------------------------------------------


def entropy_rank(W):
    shares = values(W)[values(W) > 1e-12] / values(W).sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def test_effective_rank(submission):
    submission.agrees("effective_rank", matrices_and_shares(submission.rng), effective_rank, [
        M("dimension.not_squared", "the singular values are added up, not their squares",
          lambda W, share: first_to_reach(values(W), share)),
        M("dimension.off_by_one", "the first place that is enough is returned, counted from 0, not how many values there are",
          lambda W, share: effective_rank(W, share) - 1),
        M("dimension.off_by_one", "one more value is counted than is needed",
          lambda W, share: effective_rank(W, share) + 1),
        M("dimension.strictly", "as many are counted as hold more than this share, not at least this share",
          lambda W, share: 1 + int((np.cumsum(values(W) ** 2) <= share * (values(W) ** 2).sum()).sum())),
        M("dimension.centred", "the mean of each column is taken away first, as principal components would ask for",
          lambda W, share: effective_rank(W - W.mean(axis=0), share)),
        M("dimension.rank", "all values but zeros are counted, whatever the share", lambda W, _: int((values(W) > 1e-9).sum())),
        M("dimension.one_by_one", "each value is compared with a share of the largest, and they are not added up",
          lambda W, share: int((values(W) >= share * values(W)[0]).sum())),
        M("dimension.one_by_one", "each square is compared with a share of the largest, and they are not added up",
          lambda W, share: int((values(W) ** 2 >= share * values(W)[0] ** 2).sum())),
        M("dimension.share_of_count", "it is a share of how many values there are, not of their squares",
          lambda W, share: int(np.ceil(share * min(W.shape)))),
        M("dimension.smallest_first", "the smallest values are counted first",
          lambda W, share: first_to_reach(values(W)[::-1] ** 2, share)),
        M("dimension.entropy", "it is exp of the entropy of the singular values, another measure of this name",
          lambda W, _: entropy_rank(W)),
    ])


def with_v_as_returned(W, r):
    U, s, Vt = np.linalg.svd(W)
    return (U[:, :r] * s[:r]) @ Vt[:, :r].T


def smallest(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return (U[:, len(s) - r:] * s[len(s) - r:]) @ Vt[len(s) - r:]


def test_best_rank_r(submission):
    submission.agrees("best_rank_r", matrices_and_ranks(submission.rng), best_rank_r, [
        M("dimension.unchanged", "W comes back as it was", lambda W, r: W),
        M("dimension.no_singular_values", "U and V are multiplied without the singular values",
          lambda W, r: best_rank_r(W, r, 0)),
        M("dimension.squared_values", "the singular values come in twice", lambda W, r: best_rank_r(W, r, 2)),
        M("dimension.v_not_transposed", "V is taken by its columns; np.linalg.svd returns it transposed", with_v_as_returned),
        M("dimension.smallest_first", "the r smallest singular values are kept", smallest),
        M("dimension.remainder", "what is left out is returned, not what is kept", lambda W, r: W - best_rank_r(W, r)),
        M("dimension.off_by_one", "one singular value too few is kept", lambda W, r: best_rank_r(W, r - 1)),
        M("dimension.off_by_one", "one singular value too many is kept", lambda W, r: best_rank_r(W, r + 1)),
        M("dimension.first_rows", "the first r rows are kept; their rank is r, but they are not nearest",
          lambda W, r: np.where(np.arange(len(W))[:, None] < r, W, 0)),
    ])


def test_relative_error(submission):
    submission.agrees("relative_error", matrices_and_ranks(submission.rng, whole=False), relative_error, [
        M("dimension.no_root", "the root of the squares is missing", lambda W, r: relative_error(W, r) ** 2),
        M("dimension.not_relative", "it is not divided by the norm of W",
          lambda W, r: relative_error(W, r) * float(np.linalg.norm(W))),
        M("dimension.not_relative", "it is divided by the norm of what is kept, not of W",
          lambda W, r: relative_error(W, r) / (1 - relative_error(W, r) ** 2) ** 0.5),
        M("dimension.what_is_kept", "it is the norm of what is kept, not of what is lost",
          lambda W, r: (1 - relative_error(W, r) ** 2) ** 0.5),
        M("dimension.what_is_kept", "it is 1 minus the norm that is kept; squares add up, norms do not",
          lambda W, r: 1 - (1 - relative_error(W, r) ** 2) ** 0.5),
        M("dimension.not_squared", "the singular values are added up, not their squares",
          lambda W, r: float(values(W)[r:].sum() / values(W).sum())),
        M("dimension.spectral", "it is the error in the spectral norm: one singular value divided by the largest",
          lambda W, r: float(values(W)[r] / values(W)[0])),
        M("dimension.off_by_one", "one singular value too few is kept", lambda W, r: relative_error(W, r - 1)),
        M("dimension.off_by_one", "one singular value too many is kept", lambda W, r: relative_error(W, r + 1)),
    ])


def unit_columns(P):
    return P / np.linalg.norm(P, axis=0)


RESCALED = "P's columns are divided by their lengths; P is used as given"


def test_project(submission):
    submission.agrees("project", subspaces(submission.rng), lambda theta, P, z: theta + P @ z, [
        M("dimension.start_missing", "theta, where training starts, is missing", lambda theta, P, z: P @ z),
        M("dimension.sign", "P z is taken away", lambda theta, P, z: theta - P @ z),
        M("dimension.unchanged", "theta comes back as it was", lambda theta, P, z: theta),
        M("dimension.rescaled", RESCALED, lambda theta, P, z: theta + unit_columns(P) @ z),
        M("dimension.rescaled", "P z is divided by the root of d; P is used as given",
          lambda theta, P, z: theta + P @ z / len(z) ** 0.5),
    ])


def test_subspace_gradient(submission):
    rng = submission.rng
    cases = [(rng.standard_normal(len(theta)), P) for theta, P, _ in subspaces(rng)]
    submission.agrees("subspace_gradient", cases, lambda g, P: P.T @ g, [
        M("dimension.sign", "the sign is wrong", lambda g, P: -P.T @ g),
        M("dimension.upstream_dropped", "g is not used: it is as if all of it were one", lambda g, P: P.T @ np.ones_like(g)),
        M("dimension.rescaled", RESCALED, lambda g, P: unit_columns(P).T @ g),
        M("dimension.rescaled", "it is divided by N: a mean instead of a sum", lambda g, P: P.T @ g / len(g)),
        M("dimension.rescaled", "it is divided by the root of d; P is used as given", lambda g, P: P.T @ g / P.shape[1] ** 0.5),
        M("dimension.pseudo_inverse", "it is the z whose P z is nearest to g (the pseudo-inverse), not the gradient",
          lambda g, P: np.linalg.pinv(P) @ g),
        M("dimension.projected_back", "the gradient of z is multiplied by P again: that is how theta moves",
          lambda g, P: P @ (P.T @ g)),
    ])


def stays(dimensions, scores, full, share):
    found = None
    for d, score in zip(dimensions[::-1], scores[::-1], strict=True):
        if score < share * full:
            break
        found = d
    return found


def first(found, default=None):
    return found[0] if found else default


def test_intrinsic_dimension(submission):
    submission.agrees("intrinsic_dimension", curves(submission.rng), intrinsic_dimension, [
        M("dimension.strictly", "a score of exactly share * full is not taken for enough",
          lambda dims, scores, full, share: first([d for d, s in zip(dims, scores, strict=True) if s > share * full])),
        M("dimension.share_alone", "the scores are compared with the share, not with share * full",
          lambda dims, scores, full, share: first(enough(dims, scores, share))),
        M("dimension.share_of_best", "it is a share of the best score in the list, not of full fine-tuning's",
          lambda dims, scores, full, share: first(enough(dims, scores, share * max(scores)))),
        M("dimension.share_of_best", "it is a share of the best of all scores, full fine-tuning's among them",
          lambda dims, scores, full, share: first(enough(dims, scores, share * max([*scores, full])))),
        M("dimension.ratio", "score / full is compared with the share: if full is negative, this turns the comparison around",
          lambda dims, scores, full, share: first([d for d, s in zip(dims, scores, strict=True) if s / full >= share])),
        M("dimension.share_of_best", "the scores are compared with full, without the share",
          lambda dims, scores, full, share: first(enough(dims, scores, full))),
        M("dimension.gap", "the scores are compared with full - (1 - share), not with share * full",
          lambda dims, scores, full, share: first(enough(dims, scores, full - (1 - share)))),
        M("dimension.place", "the place in the list is returned, not the dimension",
          lambda dims, scores, full, share: dims.index(intrinsic_dimension(dims, scores, full, share))),
        M("dimension.best", "the dimension of the best score is returned", lambda dims, scores, *_: dims[np.argmax(scores)]),
        M("dimension.largest", "the largest dimension that is enough is returned",
          lambda dims, scores, full, share: enough(dims, scores, share * full)[-1]),
        M("dimension.stays", "a dimension is taken only if all larger ones are enough too; the smallest was asked for",
          stays),
    ])


def test_no_dimension_is_enough(submission):
    rng = submission.rng
    best, full = float(rng.uniform(40, 60)), float(rng.uniform(80, 90))
    cases = [([8, 32, 200], [0.5 * best, 0.95 * best, best], full, 0.9), ([8], [best], full, 0.9)]
    cases.append(([int(rng.integers(2, 99))], [95.0], float(rng.uniform(80, 90)), 0.9))  # or who never finds one would pass

    def stands_for_none(what, gives):
        return M("dimension.never_none", f"{what} stands for none",
                 lambda *case: gives(*case) if (found := intrinsic_dimension(*case)) is None else found)

    submission.agrees("intrinsic_dimension", cases, intrinsic_dimension, [
        M("dimension.share_of_best", "it is a share of the best score in the list, not of full fine-tuning's",
          lambda dims, scores, full, share: first(enough(dims, scores, share * max(scores)))),
        stands_for_none("the largest dimension", lambda dims, *_: dims[-1]),
        stands_for_none("the first dimension", lambda dims, *_: dims[0]),
        stands_for_none("the dimension of the best score", lambda dims, scores, *_: dims[np.argmax(scores)]),
        stands_for_none("a number", lambda *_: -1),
        stands_for_none("a number", lambda *_: 0),
    ])
