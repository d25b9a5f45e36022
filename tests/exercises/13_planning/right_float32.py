"""Bytes as single-precision numbers at the end; a usual rank where it fits, and full fine-tuning for one task."""

import numpy as np


def exact_base(shapes, other, quantized):
    each = {False: 2.0, True: (4 + (8 + 32 / 256) / 64) / 8}[quantized]
    return sum(each * out * n_in for out, n_in in shapes) + 2 * other


def base_bytes(shapes, other, quantized):
    return np.float32(exact_base(shapes, other, quantized))


def adapter_training_bytes(parameters, weight_bytes):
    return np.float32(parameters) * np.float32(2 * weight_bytes + 8)


def largest_rank(free_bytes, shapes, weight_bytes):
    per_rank = sum(out + n_in for out, n_in in shapes) * (2 * weight_bytes + 8)
    if free_bytes < per_rank:
        return 0
    return min(int(free_bytes / per_rank), min(min(shape) for shape in shapes))


def choose(model, card_bytes, tasks, latency_critical):
    shapes, other = model["shapes"], model["other"]
    left = card_bytes - model["activations"]
    everything = 12 * (sum(out * n_in for out, n_in in shapes) + other)
    if tasks < 2 and everything <= left:
        return {"method": "full", "r": None, "merged": None, "bytes": np.float32(everything + model["activations"])}
    quantized = largest_rank(left - exact_base(shapes, other, False), shapes, 4) < 1
    base = exact_base(shapes, other, quantized)
    r = min(8, largest_rank(left - base, shapes, 4))
    adapter = 16 * r * sum(out + n_in for out, n_in in shapes)
    return {"method": "qlora" if quantized else "lora", "r": r, "merged": latency_critical,
            "bytes": np.float32(base + adapter + model["activations"])}
