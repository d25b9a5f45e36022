"""Correct: one number after the other."""

from math import e, hypot, log2, sqrt

import numpy as np


def adamw_step(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    p, m, v = np.array(p), np.array(m), np.array(v)
    for i in np.ndindex(p.shape):
        m[i] += (1 - beta1) * (g[i] - m[i])
        v[i] += (1 - beta2) * (g[i] * g[i] - v[i])
        p[i] *= 1 - lr * weight_decay
        p[i] -= lr / (1 - beta1**t) * m[i] / (sqrt(v[i]) / sqrt(1 - beta2**t) + eps)
    return p, m, v


def clip_gradients(gradients, max_norm):
    norm = 0.0
    for gradient in gradients:
        for number in gradient.ravel():
            norm = hypot(norm, number)
    clipped = []
    for gradient in gradients:
        if norm > max_norm:
            gradient = gradient * max_norm / norm
        clipped.append(gradient)
    return {"norm": norm, "gradients": clipped}


def bits_per_character(nats, tokens, characters):
    return tokens * (nats * log2(e)) / characters


def forgetting(before, after):
    risen = {}
    for task, loss in after.items():
        if loss > before[task]:
            risen[task] = loss - before[task]
        else:
            risen[task] = 0.0
    return risen
