"""Exercise 06 number by number, in plain Python."""

import math
import statistics

import numpy as np


def absmax_int8_quantize(x):
    absmax = max(abs(value) for value in x.flat)
    codes = [round(value * 127 / absmax) if absmax else 0 for value in x.flat]
    return {"codes": np.array(codes, np.int8).reshape(x.shape), "absmax": float(absmax)}


def absmax_int8_dequantize(codes, absmax):
    out = np.zeros(codes.shape)
    for index in np.ndindex(codes.shape):
        out[index] = int(codes[index]) / 127 * absmax
    return out


def nf4_codebook():
    normal = statistics.NormalDist()
    values = [0.0]
    for parts, sign in ((8, 1), (7, -1)):
        for i in range(parts):
            p = 0.9677083 + (0.5 - 0.9677083) * i / parts
            values.append(sign * normal.inv_cdf(p))
    largest = max(values)
    return np.array(sorted(value / largest for value in values))


def quantize_blockwise(x, code, blocksize):
    codes, absmax = [], []
    for i, value in enumerate(x):
        if i % blocksize == 0:
            absmax.append(max(abs(other) for other in x[i:i + blocksize]))
        scaled = value / absmax[-1] if absmax[-1] else 0.0
        best = 0
        for place in range(16):
            if abs(code[place] - scaled) < abs(code[best] - scaled):
                best = place
        codes.append(best)
    return {"codes": np.array(codes, np.uint8), "absmax": np.array(absmax)}


def dequantize_blockwise(codes, absmax, code, blocksize):
    return np.array([code[c] * absmax[i // blocksize] for i, c in enumerate(codes)])


def pack(codes):
    out = []
    for i in range(0, len(codes), 2):
        second = int(codes[i + 1]) if i + 1 < len(codes) else 7
        out.append(16 * int(codes[i]) + second)
    return np.array(out, np.uint8)


def unpack(packed, n):
    out = []
    for byte in packed:
        out.extend(divmod(int(byte), 16))
    return np.array(out[:n], np.uint8)


def double_quantize(absmax, blocksize):
    offset = math.fsum(absmax) / len(absmax)
    codes, outer = [], []
    for i in range(0, len(absmax), blocksize):
        part = absmax_int8_quantize(absmax[i:i + blocksize] - offset)
        codes.extend(part["codes"])
        outer.append(part["absmax"])
    return {"offset": offset, "codes": np.array(codes, np.int8), "absmax": np.array(outer)}


def bits_per_parameter(blocksize, nested_blocksize):
    bits = 4.0
    bits += (8 if nested_blocksize else 32) / blocksize
    if nested_blocksize:
        bits += 32 / blocksize / nested_blocksize
    return bits
