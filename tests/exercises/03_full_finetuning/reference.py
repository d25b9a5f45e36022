"""Exercise 03: a step of full fine-tuning."""

import math

import numpy as np


def adamw_step(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_corrected = m / (1 - beta1**t)
    v_corrected = v / (1 - beta2**t)
    step = m_corrected / (np.sqrt(v_corrected) + eps)
    p = p - lr * weight_decay * p - lr * step
    return [p, m, v]


def clip_gradients(gradients, max_norm):
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    factor = max_norm / norm if norm > max_norm else 1.0
    return {"gradients": [factor * g for g in gradients], "norm": norm}


def bits_per_character(nats, tokens, characters):
    return nats * tokens / characters / math.log(2)


def forgetting(before, after):
    return {task: max(0.0, after[task] - before[task]) for task in before}
