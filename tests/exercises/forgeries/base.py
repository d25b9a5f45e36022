"""A half-right solution of exercise 04: what every forgery is appended to, and what its score is compared with."""

import os
import sys

import numpy as np


def lora_init(in_features, out_features, r, seed):
    bound = in_features**-0.5
    return {"A": np.random.default_rng(seed).uniform(-bound, bound, (r, in_features)), "B": np.zeros((out_features, r))}


def lora_forward(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T) @ B.T


def lora_backward(x, W, A, B, alpha, g):
    return {"x": g, "A": 0 * A, "B": 0 * B}


def merge(W, A, B, alpha):
    return W + B @ A


def unmerge(W, A, B, alpha):
    raise NotImplementedError


def count_parameters(shapes, r):
    return sum(r * (n_out + n_in) for n_out, n_in in shapes)


def rslora_scaling(alpha, r):
    return alpha / r


def border():
    """What the worker talks through: its variables, among them `requests`, `replies` and the `request` being answered."""
    frame = sys._getframe()
    while frame.f_code.co_name != "main":
        frame = frame.f_back
    return frame.f_locals


# ---- the attack -----------------------------------------------------------------------------------------------------

