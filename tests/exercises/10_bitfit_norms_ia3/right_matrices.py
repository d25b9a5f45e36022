"""l as a diagonal matrix, and both kinds of layer as one: diag(after) (W diag(before) x + b)."""

import numpy as np


def trainable_names(names, method):
    def wanted(name):
        path, _, own = name.rpartition(".")
        if method == "bitfit":
            return own == "bias"
        module = path[path.rfind(".") + 1:]
        return module[:3] == "ln_" or module.lower().count("norm") > 0

    return list(np.sort([name for name in names if wanted(name)]).astype(object))


def sides(W, l, feedforward):
    return (np.ones(len(W)), l) if feedforward else (l, np.ones(W.shape[1]))


def ia3_forward(x, W, b, l, feedforward):
    folded = fold(W, b, l, feedforward)
    return np.einsum("...i,oi->...o", x, folded["W"]) + folded["b"]


def ia3_vjp(x, W, b, l, feedforward, g):
    rows, grads = np.atleast_2d(x).reshape(-1, x.shape[-1]), np.atleast_2d(g).reshape(-1, g.shape[-1])
    folded = fold(W, b, l, feedforward)["W"]
    outer = np.einsum("no,ni->oi", grads, rows)  # gradient of the folded matrix
    dl = (W * outer).sum(axis=0) if feedforward else (W * outer).sum(axis=1) + b * grads.sum(axis=0)
    return {"l": dl, "x": np.einsum("...o,oi->...i", g, folded)}


def fold(W, b, l, feedforward):
    after, before = sides(W, l, feedforward)
    return {"W": np.diag(after) @ W @ np.diag(before), "b": np.diag(after) @ b}


def ia3_parameters(layers, key_width, value_width, feedforward_width):
    return sum([key_width, value_width, feedforward_width] * layers)
