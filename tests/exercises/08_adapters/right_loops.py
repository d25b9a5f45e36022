"""Number by number, as the formulas are written."""

import numpy as np


def adapter(h, W_down, b_down, W_up, b_up):
    m, d = W_down.shape
    out = np.empty(h.shape)
    for row in np.ndindex(*h.shape[:-1]):
        inner = []
        for j in range(m):
            z = b_down[j]
            for i in range(d):
                z += W_down[j, i] * h[row][i]
            inner.append(z if z > 0 else 0.0)
        for i in range(d):
            out[(*row, i)] = h[row][i] + b_up[i] + sum(W_up[i, j] * inner[j] for j in range(m))
    return out


def adapter_vjp(h, W_down, b_down, W_up, b_up, g):
    m, d = W_down.shape
    grads = {"h": g.copy(), "W_down": np.zeros((m, d)), "b_down": np.zeros(m), "W_up": np.zeros((d, m)), "b_up": np.zeros(d)}
    for row in np.ndindex(*h.shape[:-1]):
        x, y = h[row], g[row]
        grads["b_up"] += y
        for j in range(m):
            z = float(W_down[j] @ x) + b_down[j]
            if z <= 0:
                continue
            grads["W_up"][:, j] += y * z
            dz = float(y @ W_up[:, j])
            grads["b_down"][j] += dz
            grads["W_down"][j] += dz * x
            grads["h"][row] += dz * W_down[j]
    return grads


def block(x, weights, adapters):
    for name in ["attention", "mlp"]:
        a = adapters[name]
        inner = np.array([[weights[name][i] @ row for i in range(len(row))] for row in x])
        x = x + adapter(inner, a["W_down"], a["b_down"], a["W_up"], a["b_up"])
    return x


def near_identity(d, m, std, seed):
    rng = np.random.default_rng(seed)
    up = [[rng.normal(scale=std) for _ in range(m)] for _ in range(d)]
    down = [[rng.normal(scale=std) for _ in range(d)] for _ in range(m)]
    return {"W_up": np.array(up), "b_up": np.zeros(d), "W_down": np.array(down), "b_down": np.zeros(m)}


def count_parameters(d, m, layers):
    total = 0
    for _ in range(layers):
        for _ in ("attention", "mlp"):
            for size in (m * d, m, d * m, d):
                total += size
    return total
