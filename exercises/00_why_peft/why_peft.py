"""Exercise 00: the bytes of a training step, activations apart (Rajbhandari et al. 2020, ZeRO, 1910.02054, section 3.1).

    weights + gradients + optimizer states + master copies        4 bytes a number in float32, 2 in bfloat16

All results are Python integers. `tinypeft test 00` says how far you are, `tinypeft hint 00` gives a hint.
"""


def optimizer_state_bytes(parameters: int, optimizer: str) -> int:
    """Bytes of what an optimizer remembers between two steps. Its states are in float32.

    Args:
        parameters: how many are trained.
        optimizer: "sgd", "momentum" (SGD with momentum) or "adamw".
    """
    raise NotImplementedError


def training_bytes(parameters: int, trainable: int, optimizer: str, weight_bytes: int, master_weights: bool) -> dict:
    """Bytes that a training step keeps in memory, activations apart.

    Args:
        parameters: of the whole model.
        trainable: how many of them are trained.
        optimizer: "sgd", "momentum" or "adamw", with states in float32.
        weight_bytes: of a stored weight, and of its gradient: 2 or 4.
        master_weights: whether float32 copies of the trained weights are kept besides, whatever weight_bytes is.

    Returns:
        {"weights", "gradients", "optimizer", "master", "total"}: bytes, int.
    """
    raise NotImplementedError


def cards_needed(total_bytes: int, card_bytes: int) -> int:
    """The fewest cards whose memory together is enough."""
    raise NotImplementedError


def adapter_storage(parameters: int, adapter_parameters: int, tasks: int, weight_bytes: int) -> dict:
    """Bytes on disk for a number of tasks.

    Args:
        parameters: of the base.
        adapter_parameters: of one adapter.
        weight_bytes: of a stored number, in models and in adapters.

    Returns:
        {"full": a whole model for each task, "adapters": one base, and an adapter for each task}: bytes, int.
    """
    raise NotImplementedError
