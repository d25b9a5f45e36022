"""Exercise 00: the bytes of a training step."""

FLOAT32 = 4
STATES = {"sgd": 0, "momentum": 1, "adamw": 2}


def optimizer_state_bytes(parameters, optimizer):
    return STATES[optimizer] * FLOAT32 * parameters


def training_bytes(parameters, trainable, optimizer, weight_bytes, master_weights):
    weights = weight_bytes * parameters
    gradients = weight_bytes * trainable
    states = optimizer_state_bytes(trainable, optimizer)
    master = FLOAT32 * trainable if master_weights else 0
    return {"weights": weights, "gradients": gradients, "optimizer": states, "master": master,
            "total": weights + gradients + states + master}


def cards_needed(total_bytes, card_bytes):
    return (total_bytes + card_bytes - 1) // card_bytes


def adapter_storage(parameters, adapter_parameters, tasks, weight_bytes):
    return {"full": tasks * parameters * weight_bytes,
            "adapters": (parameters + tasks * adapter_parameters) * weight_bytes}
