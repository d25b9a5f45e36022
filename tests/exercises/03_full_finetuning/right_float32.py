"""Correct: in float32."""

import numpy as np


def adamw_step(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    p, g, m, v = (np.asarray(array, dtype=np.float32) for array in (p, g, m, v))
    m = m + np.float32(1 - beta1) * (g - m)
    v = np.float32(beta2) * v + np.float32(1 - beta2) * np.square(g)
    size = np.float32(lr / (1 - beta1**t))
    p = p - np.float32(lr * weight_decay) * p
    return [p - size * m / (np.sqrt(v / np.float32(1 - beta2**t)) + np.float32(eps)), m, v]


def clip_gradients(gradients, max_norm):
    gradients = [np.asarray(gradient, dtype=np.float32) for gradient in gradients]
    norm = np.sqrt(np.sum([np.sum(np.square(gradient)) for gradient in gradients], dtype=np.float32))
    if norm <= max_norm:
        return {"gradients": gradients, "norm": norm}
    return {"gradients": [gradient * np.float32(max_norm / norm) for gradient in gradients], "norm": norm}


def bits_per_character(nats, tokens, characters):
    return np.float32(nats) / np.log(np.float32(2)) * np.float32(tokens / characters)


def forgetting(before, after):
    return {task: np.maximum(np.float32(after[task]) - np.float32(loss), np.float32(0)) for task, loss in before.items()}
