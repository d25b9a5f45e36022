"""Number by number."""

import math

import numpy as np


def scaled(adapters, weights):
    return [w * a["alpha"] / a["A"].shape[0] for w, a in zip(weights, adapters, strict=True)]


def weighted_delta(adapters, weights):
    delta = np.zeros((adapters[0]["B"].shape[0], adapters[0]["A"].shape[1]))
    for adapter, c in zip(adapters, scaled(adapters, weights), strict=True):
        A, B = adapter["A"], adapter["B"]
        for o in range(delta.shape[0]):
            for i in range(delta.shape[1]):
                for k in range(len(A)):
                    delta[o, i] += c * B[o, k] * A[k, i]
    return delta


def linear_combination(adapters, weights):
    A, B = np.zeros(adapters[0]["A"].shape), np.zeros(adapters[0]["B"].shape)
    for adapter, c in zip(adapters, scaled(adapters, weights), strict=True):
        A += (1 if c > 0 else -1) * math.sqrt(abs(c)) * adapter["A"]
        B += math.sqrt(abs(c)) * adapter["B"]
    return {"B": B, "A": A}


def concatenate(adapters, weights):
    rows, columns = [], []
    for adapter, c in zip(adapters, scaled(adapters, weights), strict=True):
        for k in range(len(adapter["A"])):
            rows.append(adapter["A"][k])
            columns.append(c * adapter["B"][:, k])
    return {"A": np.array(rows), "B": np.array(columns).T}


def task_vector(base, tuned):
    vector = {}
    for name in sorted(base):
        vector[name] = tuned[name].copy()
        vector[name] -= base[name]
    return vector


def apply_task_vectors(base, vectors, weights):
    model = {}
    for name in base:
        model[name] = base[name].copy()
        for k in range(len(vectors)):
            model[name] += weights[k] * vectors[k][name]
    return model


def mixed_batch(x, W, adapters, names):
    y = np.zeros((len(x), len(W)))
    for row, name in enumerate(names):
        for o in range(len(W)):
            y[row, o] = sum(W[o, i] * x[row, i] for i in range(W.shape[1]))
            if name != "__base__":
                A, B, alpha = (adapters[name][key] for key in ("A", "B", "alpha"))
                for k in range(len(A)):
                    y[row, o] += alpha / len(A) * B[o, k] * sum(A[k, i] * x[row, i] for i in range(len(x[row])))
    return y
