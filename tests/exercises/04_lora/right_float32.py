"""Exercise 04 in single precision, as a GPU would compute it."""

import numpy as np


def single(*arrays):
    return [np.asarray(array, dtype=np.float32) for array in arrays]


def lora_init(in_features, out_features, r, seed):
    random = np.random.default_rng(seed)
    A = (2 * random.random((r, in_features), dtype=np.float32) - 1) / np.sqrt(np.float32(in_features))
    return {"A": A, "B": np.zeros((out_features, r), np.float32)}


def lora_forward(x, W, A, B, alpha):
    x, W, A, B = single(x, W, A, B)
    return x @ W.T + np.float32(alpha / len(A)) * (x @ A.T @ B.T)


def lora_backward(x, W, A, B, alpha, g):
    x, W, A, B, g = single(x, W, A, B, g)
    scaling = np.float32(alpha / len(A))
    rows = tuple(range(x.ndim - 1))
    return {
        "x": g @ merge(W, A, B, alpha),
        "A": scaling * np.tensordot(g @ B, x, (rows, rows)),
        "B": scaling * np.tensordot(g, x @ A.T, (rows, rows)),
    }


def merge(W, A, B, alpha):
    W, A, B = single(W, A, B)
    return W + np.float32(alpha / len(A)) * (B @ A)


def unmerge(W, A, B, alpha):
    W, A, B = single(W, A, B)
    return W - np.float32(alpha / len(A)) * (B @ A)


def count_parameters(shapes, r):
    return r * sum(sum(shape) for shape in shapes)


def rslora_scaling(alpha, r):
    return np.float32(alpha) / np.sqrt(np.float32(r))
