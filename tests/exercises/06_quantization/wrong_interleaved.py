"""Exercise 06 with blocks whose numbers do not stand side by side."""

from statistics import NormalDist

import numpy as np


def absmax_int8_quantize(x):
    absmax = float(np.abs(x).max())
    codes = np.round(127 * x / absmax) if absmax else np.zeros(x.shape)
    return {"codes": codes.astype(np.int8), "absmax": absmax}


def absmax_int8_dequantize(codes, absmax):
    return codes * absmax / 127


def nf4_codebook():
    offset, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    return np.sort([*below, 0.0, *above]) / above[0]


def quantize_blockwise(x, code, blocksize):
    count = -(-len(x) // blocksize)
    codes, absmax = np.zeros(len(x), np.uint8), np.zeros(count)
    for i in range(count):
        block = x[i::count]
        absmax[i] = np.abs(block).max()
        scaled = block / absmax[i] if absmax[i] > 0 else block
        codes[i::count] = np.argmin(np.abs(scaled[:, None] - code), axis=1)
    return {"codes": codes, "absmax": absmax}


def dequantize_blockwise(codes, absmax, code, blocksize):
    return code[codes] * np.repeat(absmax, blocksize)[:len(codes)]


def pack(codes):
    if len(codes) % 2:
        codes = np.append(codes, np.uint8(7))
    return codes[0::2] << 4 | codes[1::2]


def unpack(packed, n):
    codes = np.empty(2 * len(packed), np.uint8)
    codes[0::2], codes[1::2] = packed >> 4, packed & 15
    return codes[:n]


def double_quantize(absmax, blocksize):
    offset = absmax.mean()
    rest = absmax - offset
    blocks = [absmax_int8_quantize(rest[start:start + blocksize]) for start in range(0, len(rest), blocksize)]
    return {"offset": offset, "codes": np.concatenate([block["codes"] for block in blocks]),
            "absmax": np.array([block["absmax"] for block in blocks])}


def bits_per_parameter(blocksize, nested_blocksize):
    if nested_blocksize is None:
        return 4 + 32 / blocksize
    return 4 + 8 / blocksize + 32 / (blocksize * nested_blocksize)
