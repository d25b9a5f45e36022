"""Correct: branches and loops, nothing shared."""


def optimizer_state_bytes(parameters, optimizer):
    if optimizer == "sgd":
        return 0
    if optimizer == "momentum":
        return parameters * 4
    if optimizer == "adamw":
        return parameters * 4 + parameters * 4
    raise ValueError(optimizer)


def training_bytes(parameters, trainable, optimizer, weight_bytes, master_weights):
    found = {"weights": parameters * weight_bytes, "gradients": trainable * weight_bytes}
    found["optimizer"] = optimizer_state_bytes(trainable, optimizer)
    found["master"] = int(master_weights) * trainable * 4
    total = 0
    for name in list(found):
        total += found[name]
    found["total"] = total
    return found


def cards_needed(total_bytes, card_bytes):
    cards, rest = divmod(total_bytes, card_bytes)
    if rest:
        cards += 1
    return cards


def adapter_storage(parameters, adapter_parameters, tasks, weight_bytes):
    full, adapters = 0, parameters * weight_bytes
    for _ in range(tasks):
        full += parameters * weight_bytes
        adapters += adapter_parameters * weight_bytes
    return {"full": full, "adapters": adapters}
