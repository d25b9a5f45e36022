"""In plain loops over outputs, ranks and inputs."""

import math

import numpy as np


def loraplus_groups(names, lr, ratio):
    rates = {}
    for name in sorted(names):
        _, _, own = name.rpartition(".")
        rates[name] = lr
        if own == "bias" or ".lora_B." in name:
            rates[name] *= ratio
    return rates


def first_update(alpha, r, lr, optimizer, x, A, g):
    B = np.zeros((g.shape[1], r))
    for o in range(g.shape[1]):
        for k in range(r):
            gradient = 0.0
            for row in range(len(x)):
                for i in range(x.shape[1]):
                    gradient += alpha / r * g[row, o] * A[k, i] * x[row, i]
            B[o, k] -= lr * (gradient if optimizer == "sgd" else math.copysign(1, gradient))
    return alpha / r * np.dot(B, A)


def largest_stable_rate(alpha, r, curvature):
    return 2 / curvature / (alpha / r) / (alpha / r)


def direction(W, A, B, alpha):
    V = W.copy()
    for o in range(len(W)):
        for i in range(W.shape[1]):
            V[o, i] += alpha / len(A) * sum(B[o, k] * A[k, i] for k in range(len(A)))
    return V


def dora_weight(W, A, B, alpha, magnitude):
    return np.array([m * row / math.sqrt(sum(row**2)) for m, row in zip(magnitude, direction(W, A, B, alpha), strict=True)])


def dora_magnitude_gradient(W, A, B, alpha, magnitude, g):
    V = direction(W, A, B, alpha)
    return np.array([math.fsum(g[o] * V[o]) / math.hypot(*V[o]) for o in range(len(V))])
