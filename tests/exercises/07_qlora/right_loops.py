"""Exercise 07 with loops: one number, one row at a time."""

import numpy as np


def weight(packed, absmax, code, blocksize, shape):
    out, n_in = shape
    W = np.zeros((out, n_in))
    for i in range(out * n_in):
        byte = int(packed[i // 2])
        nibble = byte // 16 if i % 2 == 0 else byte % 16
        W[i // n_in, i % n_in] = code[nibble] * absmax[i // blocksize]
    return W


def qlora_forward(x, packed, absmax, code, blocksize, shape, A, B, alpha):
    W = weight(packed, absmax, code, blocksize, shape)
    scale = alpha / A.shape[0]
    y = np.zeros((*x.shape[:-1], shape[0]))
    for place in np.ndindex(x.shape[:-1]):
        y[place] = W.dot(x[place]) + scale * B.dot(A.dot(x[place]))
    return y


def qlora_backward(x, packed, absmax, code, blocksize, shape, A, B, alpha, g):
    W = weight(packed, absmax, code, blocksize, shape)
    scale = alpha / A.shape[0]
    out = {"x": np.zeros(x.shape), "A": np.zeros(A.shape), "B": np.zeros(B.shape)}
    for place in np.ndindex(x.shape[:-1]):
        dy, row = g[place], x[place]
        through_B = B.T.dot(dy) * scale
        out["x"][place] = W.T.dot(dy) + A.T.dot(through_B)
        out["A"] += np.outer(through_B, row)
        out["B"] += scale * np.outer(dy, A.dot(row))
    return out


def merge_loss(packed, absmax, code, blocksize, shape, A, B, alpha):
    old = weight(packed, absmax, code, blocksize, shape).ravel()
    wanted = (alpha / A.shape[0] * B.dot(A)).ravel()
    new = old + wanted
    lost = 0.0
    for start in range(0, len(new), blocksize):
        part = range(start, min(start + blocksize, len(new)))
        largest = max(abs(new[i]) for i in part)
        for i in part:
            nearest = min(code, key=lambda value: abs(value - new[i] / largest))
            lost += (nearest * largest - old[i] - wanted[i]) ** 2
    return (lost / sum(value**2 for value in wanted)) ** 0.5


def memory_breakdown(quantized, kept, adapter, bits, kept_bytes, adapter_bytes):
    base = quantized * (bits / 8) + kept_bytes * kept
    return {"base": base, "adapter": float(adapter_bytes * adapter), "gradients": float(adapter_bytes * adapter),
            "optimizer": 8.0 * adapter, "total": base + 2.0 * adapter_bytes * adapter + 8.0 * adapter}
