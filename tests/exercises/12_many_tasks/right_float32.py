"""In single precision; the roots of w s in both factors of the concatenation, and their adapters in the other order."""

import numpy as np


def single(array):
    return np.asarray(array, np.float32)


def parts(adapters, weights):
    for one, w in zip(adapters, weights, strict=True):
        yield single(one["A"]), single(one["B"]), np.float32(w * one["alpha"] / one["B"].shape[1])


def weighted_delta(adapters, weights):
    return np.sum([c * np.dot(B, A) for A, B, c in parts(adapters, weights)], axis=0)


def linear_combination(adapters, weights):
    found = list(parts(adapters, weights))
    return {"A": np.sum([np.copysign(np.sqrt(abs(c)), c) * A for A, _, c in found], axis=0),
            "B": np.sum([np.sqrt(abs(c)) * B for _, B, c in found], axis=0)}


def concatenate(adapters, weights):
    found = list(parts(adapters, weights))[::-1]
    return {"A": np.vstack([np.sqrt(abs(c)) * A for A, _, c in found]),
            "B": np.hstack([np.sign(c) * np.sqrt(abs(c)) * B for _, B, c in found])}


def task_vector(base, tuned):
    return {name: single(value) - single(base[name]) for name, value in tuned.items()}


def apply_task_vectors(base, vectors, weights):
    return {name: single(value) + np.tensordot(single(weights), single([vector[name] for vector in vectors]), 1)
            for name, value in base.items()}


def mixed_batch(x, W, adapters, names):
    x, deltas = single(x), {"__base__": np.zeros(W.shape, np.float32)}
    for name, one in adapters.items():
        deltas[name] = weighted_delta([one], [1.0])
    return np.einsum("ni,noi->no", x, single(W) + single([deltas[name] for name in names]))
