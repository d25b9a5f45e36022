"""LoRA+: a larger learning rate for B than for A (Hayou et al. 2024, 2402.12354).

    lr(A) = lr        lr(B) = ratio * lr

A sums over as many numbers as the layer has inputs, B over r only: in wide models a rate that is small enough for A moves B
too slowly, so that equal rates learn features inefficiently. A ratio of about 16 does better, says the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tinypeft.nn import LayerNorm, Module, Parameter, RMSNorm

Optimizer = TypeVar("Optimizer")


def create_loraplus_optimizer(model: Module, optimizer_cls: Callable[..., Optimizer], *, lr: float, loraplus_lr_ratio: float,
                              loraplus_weight_decay: float = 0.0, loraplus_lr_embedding: float = 1e-6, **kwargs: Any
                              ) -> Optimizer:
    """An optimizer with peft's four groups: A; embeddings' factors; B and vectors; vectors that do not decay.

    Args:
        model: its parameters that are not frozen are optimized.
        optimizer_cls: AdamW, SGD, or anything that takes a list of groups.
        lr: the learning rate of A.
        loraplus_lr_ratio: that of B, and of all vectors (biases, norms, DoRA's magnitudes), divided by lr.
        loraplus_weight_decay: the weight decay of every group but that of biases and norms, which is 0. It stands in the
            groups, and so overrides a `weight_decay` among `kwargs`.
        loraplus_lr_embedding: the learning rate of both factors of a LoRA on an embedding.
        kwargs: for the optimizer.

    Raises:
        ValueError: a ratio or rate that is not above 0, or nothing to train.
    """
    for name, value in (("lr", lr), ("loraplus_lr_ratio", loraplus_lr_ratio), ("loraplus_lr_embedding", loraplus_lr_embedding)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}")
    groups: dict[str, list[Parameter]] = {"A": [], "embedding": [], "B": [], "B, no decay": []}
    in_norms = {id(p) for module in model.modules() if isinstance(module, LayerNorm | RMSNorm) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        *_, above, attribute, last = ["", "", *name.split(".")]  # lora_B.<adapter>.weight, lora_embedding_B.<adapter>
        kind = above if last in ("weight", "bias") else attribute
        if kind.startswith("lora_embedding"):
            groups["embedding"].append(parameter)
        elif kind == "lora_B" or parameter.ndim == 1:
            groups["B, no decay" if last == "bias" or id(parameter) in in_norms else "B"].append(parameter)
        else:
            groups["A"].append(parameter)
    rates = {"A": lr, "embedding": loraplus_lr_embedding, "B": lr * loraplus_lr_ratio, "B, no decay": lr * loraplus_lr_ratio}
    return optimizer_cls([{"params": parameters, "lr": rates[name],
                           "weight_decay": 0.0 if name == "B, no decay" else loraplus_weight_decay}
                          for name, parameters in groups.items()], lr=lr, **kwargs)
