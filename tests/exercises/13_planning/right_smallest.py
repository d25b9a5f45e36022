"""Whole numbers throughout, and plans that are as small as they can be: rank 1."""


def base_bytes(shapes, other, quantized):
    total = 2 * other
    for out, n_in in shapes:
        n = out * n_in
        blocks = n // 64
        total += n // 2 + blocks + 4 * (blocks // 256) if quantized else 2 * n
    return total


def adapter_training_bytes(parameters, weight_bytes):
    weights = gradients = parameters * weight_bytes
    first = second = parameters * 4
    return weights + gradients + first + second


def lora_parameters(shapes, r):
    return sum(r * n_in + out * r for out, n_in in shapes)


def largest_rank(free_bytes, shapes, weight_bytes):
    r = 0
    most = min(map(min, shapes))
    while r < most and adapter_training_bytes(lora_parameters(shapes, r + 1), weight_bytes) <= free_bytes:
        r += 1
    return r


def choose(model, card_bytes, tasks, latency_critical):
    plans = [(method, base_bytes(model["shapes"], model["other"], method == "qlora")
              + adapter_training_bytes(lora_parameters(model["shapes"], 1), 4) + model["activations"])
             for method in ("lora", "qlora")]
    method, needed = next(plan for plan in plans if plan[1] <= card_bytes)
    return {"merged": latency_critical, "bytes": needed, "r": 1, "method": method}
