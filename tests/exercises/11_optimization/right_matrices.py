"""Norms as diagonal matrices, the gradient from finite differences of what is linear, one Adam step written out."""

import numpy as np


def loraplus_groups(names, lr, ratio):
    groups = {True: lr * ratio, False: lr}
    return {name: groups[name.endswith(".bias") or "lora_B" in name] for name in names}  # peft's rule


def first_update(alpha, r, lr, optimizer, x, A, g):
    scaling, B = alpha / len(A), np.zeros((g.shape[1], len(A)))
    gradient = scaling * np.einsum("no,ni,ri->or", g, x, A)
    if optimizer == "adam":
        m, v = 0.1 * gradient / (1 - 0.9), 0.001 * gradient**2 / (1 - 0.999)
        gradient = m / np.sqrt(v)
    B -= lr * gradient
    return np.einsum("or,ri->oi", scaling * B, A)


def largest_stable_rate(alpha, r, curvature):
    return float(2 * np.float64(r) ** 2 / np.float64(alpha) ** 2 / curvature)


def dora_weight(W, A, B, alpha, magnitude):
    V = W + B @ (alpha / A.shape[0] * np.eye(A.shape[0])) @ A
    return np.diag(magnitude) @ np.diag(1 / np.sqrt(np.diag(V @ V.T))) @ V


def dora_magnitude_gradient(W, A, B, alpha, magnitude, g):
    return np.diag(g @ dora_weight(W, A, B, alpha, np.ones(len(W))).T)  # the weight is linear in magnitude
