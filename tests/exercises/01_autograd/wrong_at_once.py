"""Wrong: a node passes on all that it has, each time that something arrives."""

import numpy as np


def _summed_to(g, shape):
    """Undo broadcasting: each number of the input gets the sum over all of its uses."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1)
    return g.sum(axis=stretched, keepdims=True)


def add_vjp(a, b, g):
    return [_summed_to(g, a.shape), _summed_to(g, b.shape)]


def matmul_vjp(a, b, g):
    da = g @ b.swapaxes(-1, -2)
    db = a.swapaxes(-1, -2) @ g
    return [da, db]


def softmax_vjp(x, g):
    s = np.exp(x - x.max(axis=-1, keepdims=True))
    s = s / s.sum(axis=-1, keepdims=True)
    return s * (g - (s * g).sum(axis=-1, keepdims=True))


def layer_norm_vjp(x, weight, bias, eps, g):
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    n = centred / deviation
    h = g * weight
    dx = (h - h.mean(axis=-1, keepdims=True) - n * (h * n).mean(axis=-1, keepdims=True)) / deviation
    rows = tuple(range(x.ndim - 1))
    return [dx, (g * n).sum(axis=rows), g.sum(axis=rows)]


def topological_order(edges, output):
    inputs = {}
    for result, source in edges:
        inputs.setdefault(result, []).append(source)
    finished, seen, stack = [], set(), [(output, False)]
    while stack:
        node, done = stack.pop()
        if done:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((source, False) for source in inputs.get(node, []))
    return finished[::-1]


def accumulate(edges, slopes, output):
    found = dict.fromkeys(topological_order(edges, output), 0.0)
    found[output] = 1.0

    def pass_on(node):
        for (result, source), slope in zip(edges, slopes, strict=True):
            if result == node:
                found[source] += found[node] * slope
                pass_on(source)

    pass_on(output)
    return {str(node): value for node, value in found.items()}
