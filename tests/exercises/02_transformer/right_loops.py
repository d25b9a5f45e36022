"""Correct: one query, one row and one number after the other."""

import math

import numpy as np


def gelu(x):
    out = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        z = math.sqrt(2 / math.pi) * (x[index] + 0.044715 * x[index] ** 3)
        out[index] = x[index] / 2 * (1 + math.tanh(z))
    return out


def causal_attention(q, k, v):
    (B, T, h, d), S = q.shape, k.shape[1]
    out = np.zeros(q.shape)
    for b in range(B):
        for i in range(h):
            for t in range(T):
                last = S - T + t + 1
                scores = [sum(q[b, t, i] * k[b, s, i]) / math.sqrt(d) for s in range(last)]
                powers = [math.exp(score - max(scores)) for score in scores]
                for s in range(last):
                    out[b, t, i] += powers[s] / sum(powers) * v[b, s, i]
    return out


def cross_entropy(logits, labels):
    total, rows = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        most = max(row)
        total += most + math.log(sum(math.exp(z - most) for z in row)) - row[label]
        rows += 1
    return total / rows


def parameter_count(config):
    E = config["n_embd"]
    shapes = [(config["vocab_size"], E), (config["n_positions"], E), (E,), (E,)]
    for _ in range(config["n_layer"]):
        shapes += [(E,), (E,), (E, 3 * E), (3 * E,), (E, E), (E,), (E,), (E,), (E, 4 * E), (4 * E,), (4 * E, E), (E,)]
    return sum(math.prod(shape) for shape in shapes)
