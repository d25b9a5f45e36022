"""In single precision, with lists where the standard library is enough."""

import re

import numpy as np


def single(*arrays):
    return [np.asarray(array, dtype=np.float32) for array in arrays]


def loraplus_groups(names, lr, ratio):
    fast = [name for name in names if re.search(r"\.lora_B\.|\.bias$", name)]
    return {**dict.fromkeys(names, lr), **dict.fromkeys(fast, ratio * lr)}


def first_update(alpha, r, lr, optimizer, x, A, g):
    x, A, g, scaling, lr = single(x, A, g, alpha / r, lr)
    weight = g.T @ x  # the gradient that the whole weight would get
    gradient = scaling * (weight @ A.T)
    if optimizer == "adam":
        gradient = gradient / np.sqrt(gradient**2)
    return scaling * ((-lr * gradient) @ A)


def largest_stable_rate(alpha, r, curvature):
    alpha, r, curvature = single(alpha, r, curvature)
    return np.float32(2) * (r / alpha) ** 2 / curvature


def dora_weight(W, A, B, alpha, magnitude):
    W, A, B, magnitude = single(W, A, B, magnitude)
    V = W + np.float32(alpha / len(A)) * (B @ A)
    return (magnitude / np.sqrt(np.einsum("oi,oi->o", V, V)))[:, np.newaxis] * V


def dora_magnitude_gradient(W, A, B, alpha, magnitude, g):
    W, A, B, g = single(W, A, B, g)
    V = W + np.float32(alpha / len(A)) * (B @ A)
    return np.einsum("oi,oi->o", g, V) / np.sqrt(np.einsum("oi,oi->o", V, V))
