"""Exercise 06 in float32, as bitsandbytes has it."""

from statistics import NormalDist

import numpy as np

F = np.float32


def absmax_int8_quantize(x):
    x = x.astype(F)
    absmax = np.abs(x).max()
    return {"codes": np.round(F(127) * x / (absmax or F(1))).astype(np.int8), "absmax": absmax}


def absmax_int8_dequantize(codes, absmax):
    return codes.astype(F) * F(absmax) / F(127)


def nf4_codebook():
    quantile = np.vectorize(NormalDist().inv_cdf)
    above, below = quantile(np.linspace(0.9677083, 0.5, 9)[:-1]), -quantile(np.linspace(0.9677083, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([below, [0], above])).astype(F)
    return values / values.max()


def quantize_blockwise(x, code, blocksize):
    x, code = x.astype(F), code.astype(F)
    codes, absmax = np.zeros(len(x), np.uint8), []
    for start in range(0, len(x), blocksize):
        block = x[start:start + blocksize]
        absmax.append(np.abs(block).max())
        scaled = block * (F(1) / absmax[-1]) if absmax[-1] else block
        for threshold in (code[1:] + code[:-1]) / F(2):
            codes[start:start + blocksize] += scaled > threshold
    return {"codes": codes, "absmax": np.array(absmax)}


def dequantize_blockwise(codes, absmax, code, blocksize):
    values = code.astype(F)[codes]
    for i, largest in enumerate(absmax.astype(F)):
        values[i * blocksize:(i + 1) * blocksize] *= largest
    return values


def pack(codes):
    first, second = codes[::2], np.full(len(codes[::2]), 7, np.uint8)
    second[:len(codes) // 2] = codes[1::2]
    return first * np.uint8(16) + second


def unpack(packed, n):
    return np.array([half for byte in packed for half in (byte >> 4, byte % 16)], np.uint8)[:n]


def double_quantize(absmax, blocksize):
    absmax = absmax.astype(F)
    offset = absmax.mean(dtype=F)
    parts = [absmax_int8_quantize(absmax[i:i + blocksize] - offset) for i in range(0, len(absmax), blocksize)]
    return {"offset": offset, "codes": np.hstack([part["codes"] for part in parts]),
            "absmax": np.array([part["absmax"] for part in parts], F)}


def bits_per_parameter(blocksize, nested_blocksize):
    return F(4 + 32 / blocksize if nested_blocksize is None else 4 + 8 / blocksize + 32 / (blocksize * nested_blocksize))
