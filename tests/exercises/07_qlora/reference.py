"""A correct solution of exercise 07."""

import numpy as np


def dequantize(packed, absmax, code, blocksize, shape):
    size = shape[0] * shape[1]
    codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[:size]
    return (code[codes] * np.repeat(absmax, blocksize)[:size]).reshape(shape)


def qlora_forward(x, packed, absmax, code, blocksize, shape, A, B, alpha):
    W = dequantize(packed, absmax, code, blocksize, shape)
    return x @ W.T + alpha / len(A) * (x @ A.T) @ B.T


def qlora_backward(x, packed, absmax, code, blocksize, shape, A, B, alpha, g):
    W, s = dequantize(packed, absmax, code, blocksize, shape), alpha / len(A)
    rows, grads = x.reshape(-1, shape[1]), g.reshape(-1, shape[0])
    dB = s * grads.T @ (rows @ A.T)
    du = s * grads @ B
    dA = du.T @ rows
    dx = grads @ W + du @ A
    return {"x": dx.reshape(x.shape), "A": dA, "B": dB}


def round_to(code, weights, blocksize):
    out = np.empty_like(weights)
    for start in range(0, len(weights), blocksize):
        block = weights[start:start + blocksize]
        largest = np.abs(block).max()
        places = np.argmin(np.abs(block[:, None] / largest - code), axis=1)
        out[start:start + blocksize] = code[places] * largest
    return out


def merge_loss(packed, absmax, code, blocksize, shape, A, B, alpha):
    W = dequantize(packed, absmax, code, blocksize, shape)
    wanted = alpha / len(A) * B @ A
    merged = (W + wanted).reshape(-1)
    made = round_to(code, merged, blocksize).reshape(shape) - W
    return float(np.linalg.norm(made - wanted) / np.linalg.norm(wanted))


def memory_breakdown(quantized, kept, adapter, bits, kept_bytes, adapter_bytes):
    parts = {
        "base": quantized * bits / 8 + kept * kept_bytes,
        "adapter": adapter * adapter_bytes,
        "gradients": adapter * adapter_bytes,
        "optimizer": adapter * 2 * 4,
    }
    parts["total"] = sum(parts.values())
    return parts
