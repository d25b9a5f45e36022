"""Correct: NumPy's integers, and sizes asked of NumPy's types."""

import numpy as np

WORD = np.dtype(np.float32).itemsize


def optimizer_state_bytes(parameters, optimizer):
    return np.int64(parameters) * WORD * ["sgd", "momentum", "adamw"].index(optimizer)


def training_bytes(parameters, trainable, optimizer, weight_bytes, master_weights):
    counts = np.array([parameters, trainable, trainable], dtype=np.int64)
    sizes = np.array([weight_bytes, weight_bytes, WORD * bool(master_weights)], dtype=np.int64)
    weights, gradients, master = counts * sizes
    states = optimizer_state_bytes(trainable, optimizer)
    return {"weights": weights, "gradients": gradients, "master": master, "optimizer": states,
            "total": np.sum([weights, gradients, master, states])}


def cards_needed(total_bytes, card_bytes):
    return int(np.ceil(total_bytes / card_bytes))


def adapter_storage(parameters, adapter_parameters, tasks, weight_bytes):
    models = np.full(tasks, parameters, dtype=np.int64)
    adapters = np.full(tasks, adapter_parameters, dtype=np.int64)
    return {"full": models.sum() * weight_bytes, "adapters": (models[0] + adapters.sum()) * weight_bytes}
