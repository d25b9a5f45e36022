"""Exercise 13: plan a fine-tune before you pay for it: what fits the card, with which rank, and which method to take.

    memory = base + what is trained (weights, gradients, AdamW) + activations

`shapes` are those of the matrices that are quantized and adapted, [out, in] each; `other` is the number of all other parameters
(embeddings, norms), which are never quantized. All memory is in bytes.
Write each function in Python. `tinypeft test 13` says how far you are, `tinypeft hint 13` gives a hint.
"""


def base_bytes(shapes: list, other: int, quantized: bool) -> float:
    """The weights of the frozen base.

    Args:
        quantized: False: 2 bytes for every parameter. True: the matrices have 4 bits a number, in blocks of 64; each block has
            a maximum of 8 bits, and each 256 blocks a float32. (All matrices hold whole blocks. The mean of the maxima does not
            count.) All other parameters keep their 2 bytes.
    """
    raise NotImplementedError


def adapter_training_bytes(parameters: int, weight_bytes: int) -> float:
    """What is trained: weights and gradients of `weight_bytes` each (2 or 4), and AdamW's two numbers in float32."""
    raise NotImplementedError


def largest_rank(free_bytes: float, shapes: list, weight_bytes: int) -> int:
    """The largest LoRA rank whose training fits into what is left of the card.

    Every matrix of `shapes` gets an adapter of this rank, r (out + in) parameters. It fits if it takes free_bytes or fewer.

    Args:
        free_bytes: what is left for the adapter; negative if not even the base fits.

    Returns:
        0 if not even rank 1 fits; never more than the smallest side of all matrices.
    """
    raise NotImplementedError


def choose(model: dict, card_bytes: int, tasks: int, latency_critical: bool) -> dict:
    """A plan that works. Many are right: yours has to keep to the rules.

    Args:
        model: {"shapes", "other", "activations"}: as above, and the bytes of the activations.
        card_bytes: the memory of the card. Some plan always fits.
        tasks: how many tasks there will be.
        latency_critical: whether an answer must come as fast as from the base alone.

    Returns:
        {"method": "full", "lora" or "qlora",
         "r": the rank, an int from 1 to the smallest side of all matrices (with "full" it does not matter),
         "merged": bool: whether the adapter is merged before serving (with "full" it does not matter),
         "bytes": all that training needs, the activations too}.

    "full" trains all parameters, with weight_bytes 2. "lora" trains an adapter on each matrix, with weight_bytes 4, on a base
    in 16 bits; "qlora" does so on the quantized base.

    The rules: bytes is right, and at most card_bytes. merged if and only if latency is critical. Not "full" for more than one
    task: each would need a whole model. Not "qlora" where "lora" with the same rank would fit: four bits cost quality and time.
    """
    raise NotImplementedError
