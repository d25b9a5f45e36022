"""Exercise 11 solved."""

import numpy as np


def loraplus_groups(names, lr, ratio):
    rates = {}
    for name in names:
        parts = name.split(".")
        rates[name] = lr * ratio if "lora_B" in parts or parts[-1] == "bias" else lr
    return rates


def first_update(alpha, r, lr, optimizer, x, A, g):
    scaling = alpha / r
    gradient = scaling * g.T @ (x @ A.T)  # of B: (out, N) @ (N, r)
    step = lr * gradient if optimizer == "sgd" else lr * np.sign(gradient)
    return -scaling * step @ A  # B was 0


def largest_stable_rate(alpha, r, curvature):
    scaling = alpha / r
    return 2 / (curvature * scaling**2)  # b - rate * curvature * scaling^2 b = -b


def dora_weight(W, A, B, alpha, magnitude):
    V = W + alpha / len(A) * B @ A  # (out, in)
    return magnitude[:, None] * V / np.linalg.norm(V, axis=1, keepdims=True)


def dora_magnitude_gradient(W, A, B, alpha, magnitude, g):
    V = W + alpha / len(A) * B @ A
    return (g * V).sum(axis=1) / np.linalg.norm(V, axis=1)
