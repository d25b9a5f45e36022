"""What the quiz measures for its answers: small runs of the bundled model, each of a fraction of a second, and each once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tinypeft.autograd import no_grad
from tinypeft.autograd.tensor import observe
from tinypeft.models import AutoModelForCausalLM
from tinypeft.nn import CausalLM
from tinypeft.peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from tinypeft.training.optimizers import SGD, AdamW, Optimizer

BUNDLED = "tinypeft/surnames"
IDS = np.random.default_rng(0).integers(3, 50, (4, 12))  # four rows of letters


def bundled() -> CausalLM:
    """The bundled model, new."""
    return AutoModelForCausalLM.from_pretrained(BUNDLED)


@functools.cache
def base_logits() -> np.ndarray:
    """The bundled model's logits for IDS, (B, T, V)."""
    return bundled()(IDS).logits.numpy()


def first_shift(config: PeftConfig) -> float:
    """Mean |difference| between the logits of a new adapter and those of the base."""
    model = get_peft_model(bundled(), config)
    model.eval()
    logits = model(IDS).logits.numpy()
    return float(np.abs(logits[:, -IDS.shape[1]:] - base_logits()).mean())


def first_gradients(config: LoraConfig, change: Callable[[str, np.ndarray], np.ndarray] | None = None) -> tuple[float, float]:
    """Largest |gradient| of any A, and of any B, at the first step.

    Args:
        change: gives other values to start from: (parameter name, values) -> values.
    """
    model = get_peft_model(bundled(), config)
    for name, parameter in model.named_parameters():
        if change and parameter.requires_grad:
            parameter.data = change(name, parameter.data)
    loss_of(model).backward()
    A, B = (max(float(np.abs(p.grad).max()) for name, p in model.named_parameters() if f"{letter}." in name)
            for letter in ("_A", "_B"))
    return A, B


def first_change(alpha: float, learning_rate: float, optimizer: Callable[..., Optimizer]) -> float:
    """|change of a query matrix| that the first update of a LoRA (r=4) makes."""
    model = get_peft_model(bundled(), LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj"]))
    steps = optimizer([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    loss_of(model).backward()
    steps.step()
    layer: Any = model.layers()[0]
    return float(np.linalg.norm(layer.delta_weight("default")))


def loss_of(model: Any) -> Any:
    """The loss of predicting IDS."""
    return model(IDS, labels=IDS).loss


def multiplications(model: CausalLM | PeftModel, training: bool, checkpointing: bool = False) -> int:
    """Multiplications in the linear layers, forward and, for training, backward: each matrix product when it is computed."""
    count, gradient = 0, np.zeros(0)

    def observer(when: str, direction: str, name: str, arrays: Any) -> None:
        nonlocal count, gradient
        if name != "linear":
            return
        if (when, direction) == ("before", "forward"):  # x (..., in) and W (out, in)
            count += arrays[0].size * arrays[1].shape[0]
        elif (when, direction) == ("before", "backward"):  # dy (..., out)
            (gradient,) = arrays
        elif direction == "backward":  # dx and dW, where somebody wants them
            dx, dW = arrays[:2]
            count += gradient.size * dx.shape[-1] if dx is not None else 0
            count += gradient.size // gradient.shape[-1] * dW.size if dW is not None else 0

    if checkpointing:
        model.gradient_checkpointing_enable()
    with observe(observer):
        if training:
            loss_of(model.train(seed=0)).backward()
        else:
            with no_grad():
                model.eval()(IDS)
    return count


def first_attention(config: PeftConfig, tokens: int) -> np.ndarray:
    """Attention weights of the first layer's first head, (queries, keys), for a text of so many tokens and a new adapter."""
    seen: list[Any] = []

    def observer(when: str, direction: str, name: str, arrays: Any) -> None:
        if (when, direction, name) == ("before", "forward", "attention"):
            seen.append(arrays)

    model = get_peft_model(bundled(), config)
    with observe(observer), no_grad():
        model.eval()(IDS[:1, :tokens])
    q, k = (x[0, :, 0] for x in seen[0][:2])  # (B, T, h, head_dim) and (B, S, h_kv, head_dim)
    scores = q @ k.T / np.sqrt(q.shape[-1])
    scores += np.where(np.tri(len(q), len(k), len(k) - len(q)) > 0, 0, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"Adam": AdamW, "SGD": SGD}
