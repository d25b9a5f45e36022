"""Exercise 07 in float32."""

import numpy as np

F = np.float32


def dequantize(packed, absmax, code, blocksize, shape):
    codes = np.empty(2 * packed.size, np.uint8)
    codes[::2], codes[1::2] = packed >> 4, packed % 16
    values = code.astype(F)[codes[:shape[0] * shape[1]]]
    for i, largest in enumerate(absmax.astype(F)):
        values[i * blocksize:(i + 1) * blocksize] *= largest
    return values.reshape(shape)


def qlora_forward(x, packed, absmax, code, blocksize, shape, A, B, alpha):
    x, A, B = x.astype(F), A.astype(F), B.astype(F)
    return x @ dequantize(packed, absmax, code, blocksize, shape).T + x @ A.T @ B.T * F(alpha / len(A))


def qlora_backward(x, packed, absmax, code, blocksize, shape, A, B, alpha, g):
    x, A, B, g = x.astype(F), A.astype(F), B.astype(F), g.astype(F)
    g_update = (g * F(alpha / len(A))).reshape(-1, shape[0])
    rows = x.reshape(-1, shape[1])
    return {"x": g @ dequantize(packed, absmax, code, blocksize, shape) + (g_update @ B @ A).reshape(x.shape),
            "A": (g_update @ B).T @ rows, "B": g_update.T @ (rows @ A.T)}


def merge_loss(packed, absmax, code, blocksize, shape, A, B, alpha):
    W, code = dequantize(packed, absmax, code, blocksize, shape), code.astype(F)
    wanted = F(alpha / len(A)) * B.astype(F) @ A.astype(F)
    merged = (W + wanted).ravel()
    made = np.concatenate([nearest(merged[i:i + blocksize], code) for i in range(0, merged.size, blocksize)]) - W.ravel()
    return np.linalg.norm(made - wanted.ravel()) / np.linalg.norm(wanted)


def nearest(block, code):
    levels = code * np.abs(block).max()
    return levels[np.abs(block[:, None] - levels).argmin(axis=1)]


def memory_breakdown(quantized, kept, adapter, bits, kept_bytes, adapter_bytes):
    out = {"base": F(quantized * bits / 8 + kept * kept_bytes), "adapter": F(adapter * adapter_bytes),
           "gradients": F(adapter * adapter_bytes), "optimizer": F(adapter * 8)}
    return out | {"total": F(sum(out.values()))}
