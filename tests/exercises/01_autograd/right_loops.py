"""Correct: loops over indices, whole Jacobians, and Kahn's order."""

import numpy as np


def add_vjp(a, b, g):
    da, db = np.zeros(a.shape), np.zeros(b.shape)
    for index in np.ndindex(g.shape):
        for gradient in (da, db):
            own = index[g.ndim - gradient.ndim:]
            gradient[tuple(i if n > 1 else 0 for i, n in zip(own, gradient.shape, strict=True))] += g[index]
    return [da, db]


def matmul_vjp(a, b, g):
    da, db = np.zeros(a.shape), np.zeros(b.shape)
    for lead in np.ndindex(a.shape[:-2]):
        for i in range(a.shape[-2]):
            for j in range(b.shape[-1]):
                for k in range(a.shape[-1]):
                    da[(*lead, i, k)] += g[(*lead, i, j)] * b[(*lead, k, j)]
                    db[(*lead, k, j)] += a[(*lead, i, k)] * g[(*lead, i, j)]
    return [da, db]


def softmax_vjp(x, g):
    dx = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        s = np.exp(x[row] - max(x[row]))
        s /= sum(s)
        dx[row] = (np.diag(s) - np.outer(s, s)) @ g[row]
    return dx


def layer_norm_vjp(x, weight, bias, eps, g):
    d = len(weight)
    dx, dweight, dbias = np.zeros(x.shape), np.zeros(d), np.zeros(d)
    for row in np.ndindex(x.shape[:-1]):
        centring = np.eye(d) - np.full((d, d), 1 / d)
        centred = centring @ x[row]
        deviation = (np.dot(centred, centred) / d + eps) ** 0.5
        jacobian = (np.eye(d) - np.outer(centred, centred) / (d * deviation**2)) / deviation @ centring
        dx[row] = jacobian.T @ (g[row] * weight)
        dweight += g[row] * centred / deviation
        dbias += g[row]
    return [dx, dweight, dbias]


def topological_order(edges, output):
    needed, waiting = [output], {output}
    for node in needed:
        for result, source in edges:
            if result == node and source not in waiting:
                waiting.add(source)
                needed.append(source)
    missing = dict.fromkeys(needed, 0)
    for result, source in edges:
        if result in waiting:
            missing[source] += 1
    order = [output]
    for node in order:
        for result, source in edges:
            if result == node:
                missing[source] -= 1
                if missing[source] == 0:
                    order.append(source)
    return order


def accumulate(edges, slopes, output):
    order = topological_order(edges, output)
    found = {}
    for node in order:  # pulled from the results, instead of pushed to the inputs
        total = 1.0 if node == output else 0.0
        for i in range(len(edges)):
            if edges[i][1] == node and edges[i][0] in order:
                total += found[str(edges[i][0])] * slopes[i]
        found[str(node)] = total
    return found
