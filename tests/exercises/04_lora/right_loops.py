"""Exercise 04 in plain loops over rows, units and ranks."""

import math

import numpy as np


def lora_init(in_features, out_features, r, seed):
    random = np.random.default_rng(seed)
    A = np.empty((r, in_features))
    for i in range(r):
        for j in range(in_features):
            A[i, j] = (2 * random.random() - 1) / math.sqrt(in_features)
    return {"A": A, "B": np.zeros((out_features, r))}


def lora_forward(x, W, A, B, alpha):
    y = np.zeros((*x.shape[:-1], len(W)))
    for row in np.ndindex(x.shape[:-1]):
        for o in range(len(W)):
            base = sum(W[o, i] * x[row][i] for i in range(len(x[row])))
            update = sum(B[o, k] * sum(A[k, i] * x[row][i] for i in range(len(x[row]))) for k in range(len(A)))
            y[row][o] = base + alpha / len(A) * update
    return y


def lora_backward(x, W, A, B, alpha, g):
    dx, dA, dB = np.zeros(x.shape), np.zeros(A.shape), np.zeros(B.shape)
    scaling = alpha / len(A)
    for row in np.ndindex(x.shape[:-1]):
        for o in range(len(W)):
            for i in range(W.shape[1]):
                dx[row][i] += g[row][o] * W[o, i]
                for k in range(len(A)):
                    dx[row][i] += scaling * g[row][o] * B[o, k] * A[k, i]
                    dA[k, i] += scaling * g[row][o] * B[o, k] * x[row][i]
                    dB[o, k] += scaling * g[row][o] * A[k, i] * x[row][i]
    return {"x": dx, "A": dA, "B": dB}


def merge(W, A, B, alpha):
    merged = W.copy()
    for o in range(len(W)):
        for i in range(W.shape[1]):
            for k in range(len(A)):
                merged[o, i] += alpha / len(A) * B[o, k] * A[k, i]
    return merged


def unmerge(W, A, B, alpha):
    return merge(W, A, B, -alpha)


def count_parameters(shapes, r):
    count = 0
    for rows, columns in shapes:
        count += r * rows
        count += r * columns
    return count


def rslora_scaling(alpha, r):
    return alpha / math.sqrt(r)
