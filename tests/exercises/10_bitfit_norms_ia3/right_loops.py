"""Row by row, and number by number."""

import re

import numpy as np

PATTERNS = {"bitfit": r"(.*\.)?bias", "norms": r"(.*\.)?(ln_[^.]*|[^.]*norm[^.]*)\.[^.]+"}


def trainable_names(names, method):
    return sorted(name for name in names if re.fullmatch(PATTERNS[method], name, re.IGNORECASE))


def ia3_forward(x, W, b, l, feedforward):
    out = np.zeros((*x.shape[:-1], len(W)))
    for row in np.ndindex(*x.shape[:-1]):
        for o in range(len(W)):
            for i in range(W.shape[1]):
                out[(*row, o)] += W[o, i] * x[(*row, i)] * (l[i] if feedforward else l[o])
            out[(*row, o)] += b[o] if feedforward else l[o] * b[o]
    return out


def ia3_vjp(x, W, b, l, feedforward, g):
    dx, dl = np.zeros(x.shape), np.zeros(len(l))
    for row in np.ndindex(*x.shape[:-1]):
        for o in range(len(W)):
            for i in range(W.shape[1]):
                place = i if feedforward else o
                dx[(*row, i)] += g[(*row, o)] * W[o, i] * l[place]
                dl[place] += g[(*row, o)] * W[o, i] * x[(*row, i)]
            if not feedforward:
                dl[o] += g[(*row, o)] * b[o]
    return {"x": dx, "l": dl}


def fold(W, b, l, feedforward):
    folded, bias = W.copy(), b.copy()
    if feedforward:
        for i in range(W.shape[1]):
            folded[:, i] *= l[i]
    else:
        for o in range(len(W)):
            folded[o] *= l[o]
            bias[o] *= l[o]
    return {"W": folded, "b": bias}


def ia3_parameters(layers, key_width, value_width, feedforward_width):
    total = 0
    for _ in range(layers):
        for width in (key_width, value_width, feedforward_width):
            total += width
    return total
