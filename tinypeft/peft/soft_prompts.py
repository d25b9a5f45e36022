"""What soft prompts of both kinds share: they change what a model is called with, not its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import Array, asarray
from tinypeft.nn import Module, Parameter
from tinypeft.nn.layers import as_ids
from tinypeft.peft.config import PeftConfig

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel


@dataclass
class ModelCall:
    """The arguments of one call of a model, for B rows of T tokens.

    Attributes:
        inputs_embeds: (B, T, d).
        attention_mask: (B, T), or (B, p + T) with p keys before the tokens (a prefix); None for all ones.
        labels, position_ids: (B, T) or None.
        cache: None, or where keys and values are kept.
    """

    inputs_embeds: Tensor
    attention_mask: Array | None
    labels: Array | None
    position_ids: Array | None
    cache: Any


@dataclass
class PromptLearningConfig(PeftConfig):
    """The arguments that soft prompts of both kinds have.

    Args:
        num_virtual_tokens: p, at least 1; they take as many of the model's positions.
        token_dim, num_layers, num_attention_heads, num_transformer_submodules: the model's shape; filled in from it.
    """

    num_virtual_tokens: int = 0
    token_dim: int = 0
    num_layers: int = 0
    num_attention_heads: int = 0
    num_transformer_submodules: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_virtual_tokens")

    def fill_in(self, **shape: int) -> None:
        """Take over the model's shape.

        Raises:
            ValueError: the config says otherwise: it was made for another model.
        """
        for name, value in {**shape, "num_transformer_submodules": 1}.items():
            self.check(name, not getattr(self, name) or getattr(self, name) == value,
                       f"be {value} for this model (was the adapter made for another base?)")
            setattr(self, name, value)


class Table(Module):
    """Vectors under the name that peft gives them."""

    def __init__(self, weight: Parameter):
        self.weight = weight


class SoftPrompt(Module):
    """The parameters of one adapter that stand for num_virtual_tokens tokens; `embedding` holds (p, ...)."""

    before_all = False  # whether it stands before the text whatever else does

    def __init__(self, config: PromptLearningConfig, embedding: Parameter):
        self.num_virtual_tokens, self.embedding = config.num_virtual_tokens, Table(embedding)

    def prepare(self, call: ModelCall) -> None:
        """Add the virtual tokens to a call, in place."""
        raise NotImplementedError

    def parameters_of(self) -> dict[str, Parameter]:
        """Name in files -> parameter."""
        return {"prompt_embeddings": self.embedding.weight}


def with_prompts(peft_model: PeftModel, input_ids: Any, attention_mask: Any, labels: Any, position_ids: Any, cache: Any,
                 inputs_embeds: Tensor | None) -> ModelCall:
    """The call of a model with its active soft prompts in it, the first listed leftmost.

    Raises:
        ValueError: shapes that do not fit.
    """
    model, embeds = peft_model.get_base_model(), inputs_embeds
    if (input_ids is None) == (embeds is None):
        raise ValueError("give input_ids or inputs_embeds, one of the two")
    if embeds is None:
        embeds = model.get_input_embeddings()(as_ids(input_ids, next(model.parameters())))
    B, T, _ = embeds.shape
    call, first = ModelCall(embeds, None, None, None, cache), cache is None or not cache.length
    for name, given in (("attention_mask", attention_mask), ("labels", labels), ("position_ids", position_ids)):
        if given is not None:
            array = asarray(given.data if isinstance(given, Tensor) else given, like=embeds.data)
            if name == "position_ids" and len(array) == 1:
                array = np.repeat(array, B, axis=0)
            if array.shape[:1] != (B,) or array.ndim != 2 or (array.shape[1] != T and (first or name != "attention_mask")):
                raise ValueError(f"{name} has shape {array.shape}, expected {(B, T)}")
            setattr(call, name, array)
    if not first:  # the virtual tokens are in the cache already
        if call.attention_mask is not None:
            seen = np.ones_like(call.attention_mask, shape=(B, cache.length)) if cache.mask is None else cache.mask
            call.attention_mask = cache.mask = np.concatenate([seen, call.attention_mask[:, -T:]], axis=1)
        if call.position_ids is not None:
            call.position_ids = call.position_ids + cache.virtual
        return call
    active = [peft_model.prompt_encoder[name] for name in reversed(peft_model.active_adapters)
              if name in peft_model.prompt_encoder]
    for prompt in sorted(active, key=lambda prompt: prompt.before_all):
        prompt.prepare(call)
    if cache is not None:
        cache.mask, cache.virtual = call.attention_mask, peft_model.num_virtual_tokens
    return call
