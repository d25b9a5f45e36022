"""Exercise 13 solved: the first method that fits, with the largest rank."""


def numbers(shapes):
    return sum(out * n_in for out, n_in in shapes)


def base_bytes(shapes, other, quantized):
    each = 1 / 2 + 1 / 64 + 4 / (64 * 256) if quantized else 2
    return numbers(shapes) * each + other * 2.0


def adapter_training_bytes(parameters, weight_bytes):
    return parameters * (2 * weight_bytes + 8.0)


def largest_rank(free_bytes, shapes, weight_bytes):
    each = adapter_training_bytes(sum(out + n_in for out, n_in in shapes), weight_bytes)
    fitting = int(free_bytes // each)
    return max(0, min(fitting, *(side for shape in shapes for side in shape)))


def choose(model, card_bytes, tasks, latency_critical):
    shapes, other, activations = model["shapes"], model["other"], model["activations"]
    full = adapter_training_bytes(numbers(shapes) + other, 2) + activations
    if tasks == 1 and full <= card_bytes:
        return {"method": "full", "r": 0, "merged": latency_critical, "bytes": full}
    method, fixed = "lora", base_bytes(shapes, other, False) + activations
    r = largest_rank(card_bytes - fixed, shapes, 4)
    if r == 0:
        method, fixed = "qlora", base_bytes(shapes, other, True) + activations
        r = largest_rank(card_bytes - fixed, shapes, 4)
    needed = fixed + adapter_training_bytes(r * sum(map(sum, shapes)), 4)
    return {"method": method, "r": r, "merged": latency_critical, "bytes": needed}
