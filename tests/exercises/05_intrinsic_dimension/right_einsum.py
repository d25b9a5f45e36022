"""Exercise 05 with einsum; the error by Pythagoras, from what is kept."""

import numpy as np


def effective_rank(W, share):
    s = np.linalg.svd(W)[1]
    shares = s**2 / np.einsum("ij,ij->", W, W)
    return next(k for k in range(1, len(s) + 1) if shares[:k].sum() >= share)


def best_rank_r(W, r):
    _, _, Vt = np.linalg.svd(W)
    return np.einsum("ij,kj,kl->il", W, Vt[:r], Vt[:r])


def relative_error(W, r):
    s = np.linalg.svd(W)[1]
    return np.sqrt(1 - np.einsum("i,i->", s[:r], s[:r]) / np.einsum("i,i->", s, s))


def project(theta, P, z):
    return np.add(theta, np.einsum("nd,d->n", P, z))


def subspace_gradient(g, P):
    return np.einsum("n,nd->d", g, P)


def intrinsic_dimension(dimensions, scores, full, share):
    good = np.flatnonzero(np.asarray(scores) >= share * full)
    return np.asarray(dimensions)[good[0]] if good.size else None
