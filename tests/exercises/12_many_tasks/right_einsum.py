"""With stacked arrays and einsum; the concatenation from the exact sum's singular values."""

import numpy as np


def stacked(adapters, weights):
    """A (R, in), B (out, R) and a factor (R,), R the sum of the ranks."""
    c = np.repeat([w * one["alpha"] / len(one["A"]) for one, w in zip(adapters, weights, strict=True)],
                  [len(one["A"]) for one in adapters])
    return np.concatenate([one["A"] for one in adapters]), np.concatenate([one["B"] for one in adapters], axis=-1), c


def weighted_delta(adapters, weights):
    A, B, c = stacked(adapters, weights)
    return np.einsum("ok,k,ki->oi", B, c, A)


def linear_combination(adapters, weights):
    A, B, c = stacked(adapters, weights)
    n, root = len(adapters), np.abs(c) ** 0.5
    return {"A": (np.sign(c) * root * A.T).T.reshape(n, -1, A.shape[1]).sum(0),
            "B": np.einsum("onr->or", (B * root).reshape(len(B), n, -1))}


def concatenate(adapters, weights):
    rank = sum(one["A"].shape[0] for one in adapters)
    U, s, V = np.linalg.svd(weighted_delta(adapters, weights), full_matrices=False)
    A, B = np.zeros((rank, V.shape[1])), np.zeros((len(U), rank))
    kept = min(rank, len(s))
    A[:kept], B[:, :kept] = V[:kept], U[:, :kept] * s[:kept]
    return {"A": A, "B": B}


def task_vector(base, tuned):
    return {name: np.add(tuned[name], -base[name]) for name in tuned}


def apply_task_vectors(base, vectors, weights):
    return {name: np.einsum("k,k...->...", [1.0, *weights], np.stack([base[name], *(v[name] for v in vectors)]))
            for name in base}


def mixed_batch(x, W, adapters, names):
    outputs = {name: x @ (W + weighted_delta([one], [1.0])).T for name, one in adapters.items()} | {"__base__": x @ W.T}
    return np.stack([outputs[name][i] for i, name in enumerate(names)])
