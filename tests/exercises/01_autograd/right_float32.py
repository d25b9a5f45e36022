"""Correct: in float32, with Python's own tools for the graph."""

from graphlib import TopologicalSorter

import numpy as np


def _single(*arrays):
    return [np.asarray(array, dtype=np.float32) for array in arrays]


def add_vjp(a, b, g):
    g = np.float32(g)
    found = []
    for shape in (a.shape, b.shape):
        gradient = g
        while np.ndim(gradient) > len(shape):
            gradient = np.sum(gradient, axis=0)
        for axis, n in enumerate(shape):
            if n == 1:
                gradient = np.sum(gradient, axis=axis, keepdims=True)
        found.append(gradient)
    return found


def matmul_vjp(a, b, g):
    a, b, g = _single(a, b, g)
    return [g @ np.moveaxis(b, -1, -2), np.moveaxis(a, -1, -2) @ g]


def softmax_vjp(x, g):
    x, g = _single(x, g)
    s = np.exp(x - x.max(-1, keepdims=True))
    s /= s.sum(-1, keepdims=True)
    return s * (g - np.sum(s * g, -1, keepdims=True))


def layer_norm_vjp(x, weight, bias, eps, g):
    x, weight, g = _single(x, weight, g)
    mean, inverse = x.mean(-1, keepdims=True), 1 / np.sqrt(x.var(-1, keepdims=True) + np.float32(eps))
    n, h = (x - mean) * inverse, g * weight
    dvariance = np.sum(h * (x - mean), -1, keepdims=True) * -0.5 * inverse**3
    dmean = -np.sum(h, -1, keepdims=True) * inverse
    dx = h * inverse + (2 * dvariance * (x - mean) + dmean) / np.float32(x.shape[-1])
    return [dx, (g * n).reshape(-1, len(weight)).sum(0), g.reshape(-1, len(weight)).sum(0)]


def topological_order(edges, output):
    order, needed = [], {output}
    uses = {output: set()}
    for result, source in edges:
        uses.setdefault(source, set()).add(result)
    for node in TopologicalSorter(uses).static_order():
        if node == output or needed & uses.get(node, set()):
            needed.add(node)
            order.append(node)
    return order


def accumulate(edges, slopes, output):
    found = {output: np.float32(1)}
    for node in topological_order(edges, output):
        for source, slope in [(b, slope) for (a, b), slope in zip(edges, slopes, strict=True) if a == node]:
            found[source] = found.get(source, np.float32(0)) + found[node] * np.float32(slope)
    return {str(node): value for node, value in found.items()}
