"""In single precision."""

import numpy as np


def single(*arrays):
    return [a.astype(np.float32) for a in arrays]


def trainable_names(names, method):
    chosen = set()
    for name in names:
        parts = name.split(".")
        if method == "norms" and (parts[-2].upper().find("NORM") >= 0 or parts[-2].startswith("ln_")):
            chosen.add(name)
        if method == "bitfit" and name.endswith(".bias"):
            chosen.add(name)
    return sorted(chosen)


def ia3_forward(x, W, b, l, feedforward):
    x, W, b, l = single(x, W, b, l)
    if feedforward:
        x = x * l
    y = np.dot(x, W.T) + b
    return y if feedforward else y * l


def ia3_vjp(x, W, b, l, feedforward, g):
    x, W, b, l, g = single(x, W, b, l, g)
    leading = tuple(range(x.ndim - 1))
    if feedforward:
        back = np.dot(g, W)
        return {"x": l * back, "l": np.sum(x * back, axis=leading)}
    return {"x": np.dot(g * l, W), "l": np.sum(g * (np.dot(x, W.T) + b), axis=leading)}


def fold(W, b, l, feedforward):
    W, b, l = single(W, b, l)
    return {"W": W * l, "b": b} if feedforward else {"W": (W.T * l).T, "b": b * l}


def ia3_parameters(layers, key_width, value_width, feedforward_width):
    return layers * key_width + layers * value_width + layers * feedforward_width
