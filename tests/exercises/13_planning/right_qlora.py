"""With NumPy; four bits wherever they allow a larger rank, or any at all."""

import numpy as np


def base_bytes(shapes, other, quantized):
    bits = 4 + 8 / 64 + 32 / (64 * 256) if quantized else 16
    return np.prod(shapes, axis=1).sum() * bits / 8 + 2 * other


def adapter_training_bytes(parameters, weight_bytes):
    return np.float64(parameters) * (weight_bytes + weight_bytes + 4 + 4)


def largest_rank(free_bytes, shapes, weight_bytes):
    ranks = np.arange(np.min(shapes) + 1)
    return ranks[adapter_training_bytes(ranks * np.sum(shapes), weight_bytes) <= max(0, free_bytes)].max()


def choose(model, card_bytes, tasks, latency_critical):
    plans = []
    for method in ("lora", "qlora"):
        fixed = base_bytes(model["shapes"], model["other"], method == "qlora") + model["activations"]
        r = largest_rank(card_bytes - fixed, model["shapes"], 4)
        plans.append((r, method == "lora", method, fixed + adapter_training_bytes(r * np.sum(model["shapes"]), 4)))
    r, _, method, needed = max(plans)  # of two equal ranks, LoRA's
    return {"method": method, "r": r, "merged": np.bool_(latency_critical), "bytes": needed}
