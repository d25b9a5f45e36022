"""A correct solution of exercise 05."""

import numpy as np


def effective_rank(W, share):
    held = np.cumsum(np.linalg.svd(W, compute_uv=False) ** 2)
    return int(np.searchsorted(held, share * held[-1])) + 1


def best_rank_r(W, r):
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    return (U[:, :r] * s[:r]) @ Vt[:r]


def relative_error(W, r):
    s = np.linalg.svd(W, compute_uv=False)
    return float(np.sqrt((s[r:] ** 2).sum() / (s**2).sum()))


def project(theta, P, z):
    return theta + P @ z


def subspace_gradient(g, P):
    return P.T @ g


def intrinsic_dimension(dimensions, scores, full, share):
    for dimension, score in zip(dimensions, scores, strict=True):
        if score >= share * full:
            return dimension
    return None
