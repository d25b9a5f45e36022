"""Correct: the states as one array, the gradients as one vector, the losses as arrays."""

import numpy as np


def adamw_step(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    betas = np.array([beta1, beta2]).reshape(2, *[1] * p.ndim)
    states = betas * np.stack([m, v]) + (1 - betas) * np.stack([g, g * g])
    mean, square = states / (1 - betas**t)
    return [(1 - lr * weight_decay) * p - lr * mean / (square**0.5 + eps), *states]


def clip_gradients(gradients, max_norm):
    whole = np.concatenate([gradient.ravel() for gradient in gradients])
    norm = np.linalg.norm(whole)
    whole = whole / max(1.0, norm / max_norm)
    pieces = np.split(whole, np.cumsum([gradient.size for gradient in gradients])[:-1])
    return {"gradients": [piece.reshape(g.shape) for piece, g in zip(pieces, gradients, strict=True)], "norm": norm}


def bits_per_character(nats, tokens, characters):
    return np.log2(np.exp(nats)) * (tokens / characters)


def forgetting(before, after):
    tasks = sorted(before)
    rise = np.array([after[task] for task in tasks]) - np.array([before[task] for task in tasks])
    return dict(zip(tasks, rise.clip(min=0).tolist(), strict=True))
