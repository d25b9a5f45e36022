"""Exercise 08 solved."""

import numpy as np


def adapter(h, W_down, b_down, W_up, b_up):
    z = h @ W_down.T + b_down
    return h + np.maximum(z, 0) @ W_up.T + b_up


def adapter_vjp(h, W_down, b_down, W_up, b_up, g):
    rows = h.reshape(-1, h.shape[-1])  # (N, d)
    grads = g.reshape(rows.shape)
    z = rows @ W_down.T + b_down  # (N, m)
    a = np.maximum(z, 0)
    dz = (grads @ W_up) * (z > 0)
    return {
        "h": g + (dz @ W_down).reshape(h.shape),
        "W_down": dz.T @ rows,
        "b_down": dz.sum(axis=0),
        "W_up": grads.T @ a,
        "b_up": grads.sum(axis=0),
    }


def block(x, weights, adapters):
    for name in ("attention", "mlp"):
        x = x + adapter(x @ weights[name].T, **adapters[name])
    return x


def near_identity(d, m, std, seed):
    random = np.random.default_rng(seed)
    return {
        "W_down": random.normal(0, std, (m, d)),
        "b_down": np.zeros(m),
        "W_up": random.normal(0, std, (d, m)),
        "b_up": np.zeros(d),
    }


def count_parameters(d, m, layers):
    down = m * d + m
    up = d * m + d
    return 2 * layers * (down + up)
