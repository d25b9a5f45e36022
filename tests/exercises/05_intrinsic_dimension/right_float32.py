"""Exercise 05 in float32."""

import numpy as np


def effective_rank(W, share):
    squares = np.linalg.svd(np.float32(W), compute_uv=False) ** 2
    return 1 + int(np.sum(np.cumsum(squares) < np.float32(share) * np.sum(squares)))


def best_rank_r(W, r):
    U, s, Vt = np.linalg.svd(W.astype(np.float32), full_matrices=False)
    s[r:] = 0
    return U @ np.diag(s) @ Vt


def relative_error(W, r):
    W = W.astype(np.float32)
    return np.linalg.norm(W - best_rank_r(W, r)) / np.linalg.norm(W)


def project(theta, P, z):
    return theta.astype(np.float32) + np.float32(P) @ np.float32(z)


def subspace_gradient(g, P):
    return np.float32(g) @ np.float32(P)


def intrinsic_dimension(dimensions, scores, full, share):
    where = [np.float32(score) >= np.float32(share) * np.float32(full) for score in scores]
    return dimensions[where.index(True)] if True in where else None
