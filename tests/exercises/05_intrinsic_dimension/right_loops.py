"""Exercise 05 with loops and eigenvalues, one direction at a time."""

import numpy as np


def directions(W):
    """(value, left, right) of each direction, the largest first."""
    U, s, Vt = np.linalg.svd(W)
    return [(s[i], U[:, i], Vt[i]) for i in range(len(s))]


def effective_rank(W, share):
    squares = sorted(np.linalg.eigvalsh(W @ W.T if len(W) < W.shape[1] else W.T @ W), reverse=True)
    count, held = 0, 0.0
    while held < share * sum(squares):
        held += squares[count]
        count += 1
    return count


def best_rank_r(W, r):
    out = np.zeros_like(W)
    for s, u, v in directions(W)[:r]:
        for i in range(len(u)):
            for j in range(len(v)):
                out[i, j] += s * u[i] * v[j]
    return out


def relative_error(W, r):
    return float(np.linalg.norm(W - best_rank_r(W, r)) / np.linalg.norm(W))


def project(theta, P, z):
    out = []
    for i in range(len(theta)):
        value = theta[i]
        for j in range(len(z)):
            value += P[i, j] * z[j]
        out.append(value)
    return np.array(out)


def subspace_gradient(g, P):
    grad = np.zeros(P.shape[1])
    for i in range(P.shape[0]):
        grad += g[i] * P[i]
    return grad


def intrinsic_dimension(dimensions, scores, full, share):
    return min([d for d, score in zip(dimensions, scores, strict=True) if score >= share * full], default=None)
