"""LoRA by hand (Hu et al. 2021, 2106.09685): y = x W^T + s (x A^T) B^T with s = alpha / r."""

import numpy as np


def lora_init(in_features, out_features, r, seed):
    bound = 1 / np.sqrt(in_features)
    A = np.random.default_rng(seed).uniform(-bound, bound, (r, in_features))
    return {"A": A, "B": np.zeros((out_features, r))}


def lora_forward(x, W, A, B, alpha):
    scaling = alpha / len(A)
    return x @ W.T + scaling * (x @ A.T) @ B.T  # (..., in) -> (..., r) -> (..., out)


def lora_backward(x, W, A, B, alpha, g):
    scaling = alpha / len(A)
    rows = x.reshape(-1, W.shape[1])  # (..., in) -> (N, in)
    gradients = g.reshape(-1, W.shape[0])  # (..., out) -> (N, out)
    u = rows @ A.T  # (N, r)
    du = scaling * gradients @ B  # (N, out) -> (N, r)
    dx = gradients @ W + du @ A  # (N, in)
    return {"x": dx.reshape(x.shape), "A": du.T @ rows, "B": scaling * gradients.T @ u}


def merge(W, A, B, alpha):
    return W + alpha / len(A) * B @ A


def unmerge(W, A, B, alpha):
    return W - alpha / len(A) * B @ A


def count_parameters(shapes, r):
    return sum(r * (out_features + in_features) for out_features, in_features in shapes)


def rslora_scaling(alpha, r):
    return alpha / r**0.5
