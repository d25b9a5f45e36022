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
    """The arguments of one call of a model, B rows of T tokens; arrays, as checked by CausalLM.forward later.

    Attributes:
        inputs_embeds: (B, T, d).
        attention_mask: (B, T), or (B, p + T) with p keys before the tokens; None for all ones.
        labels, position_ids: (B, T) or None.
        cache: None, or where keys and values are kept.
    """

    inputs_embeds: Tensor
    attention_mask: Array | None
    labels: Array | None
    position_ids: Array | None
    cache: Any


class SoftPrompt(Module):
    """The parameters of one adapter that stand for num_virtual_tokens tokens."""

    num_virtual_tokens: int

    def prepare(self, call: ModelCall) -> None:
        """Add the virtual tokens to a call, in place."""
        raise NotImplementedError

    def parameters_of(self) -> dict[str, Parameter]:
        """Name in files -> parameter."""
        raise NotImplementedError


@dataclass
class PromptLearningConfig(PeftConfig):
    """The arguments that soft prompts of both kinds have.

    Args:
        num_virtual_tokens: p, at least 1; they take as many of the model's positions.
        token_dim, num_layers, num_attention_heads, num_transformer_submodules: the model's shape; filled in from it.
    """

    num_virtual_tokens: int | None = None
    token_dim: int | None = None
    num_layers: int | None = None
    num_attention_heads: int | None = None
    num_transformer_submodules: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        p = self.num_virtual_tokens
        if not isinstance(p, int) or isinstance(p, bool) or p < 1:
            raise ValueError(f"{type(self).__name__}: num_virtual_tokens must be an integer of at least 1, got {p!r}")

    def fill_in(self, **shape: int) -> None:
        """Take over the model's shape.

        Raises:
            ValueError: the config says otherwise: it was made for another model.
        """
        for name, value in {**shape, "num_transformer_submodules": 1}.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(f"{type(self).__name__} has {name}={getattr(self, name)}, this model {value}: it is for "
                                 "another base")
            setattr(self, name, value)


def with_prompts(peft_model: PeftModel, input_ids: Any, attention_mask: Any, labels: Any, position_ids: Any, cache: Any,
                 inputs_embeds: Tensor | None) -> ModelCall:
    """The call of a model with its active soft prompts in it, the first listed leftmost.

    Raises:
        ValueError: shapes that do not fit.
    """
    model = peft_model.get_base_model()
    embeds = inputs_embeds
    if embeds is None:
        embeds = model.get_input_embeddings()(as_ids(input_ids, next(model.parameters())))
    B, T, _ = embeds.shape
    given = {"attention_mask": attention_mask, "labels": labels, "position_ids": position_ids}
    arrays = {name: asarray(getattr(x, "data", x), like=embeds.data) for name, x in given.items() if x is not None}
    if "position_ids" in arrays and len(arrays["position_ids"]) == 1:
        arrays["position_ids"] = np.repeat(arrays["position_ids"], B, axis=0)
    first = cache is None or not cache.length
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) != B or (array.shape[1] != T and (first or name != "attention_mask")):
            raise ValueError(f"{name} has shape {array.shape}, expected {(B, T)}")
    call = ModelCall(embeds, arrays.get("attention_mask"), arrays.get("labels"), arrays.get("position_ids"), cache)
    if not first:  # the virtual tokens are in the cache already
        if call.attention_mask is not None:
            seen = np.ones_like(call.attention_mask, shape=(B, cache.length)) if cache.mask is None else cache.mask
            call.attention_mask = cache.mask = np.concatenate([seen, call.attention_mask[:, -T:]], axis=1)
        if call.position_ids is not None:
            call.position_ids = call.position_ids + cache.virtual
        return call
    for name in reversed(peft_model.active_adapters):
        if name in peft_model.prompt_encoder:
            peft_model.prompt_encoder[name].prepare(call)
    if cache is not None:
        cache.mask, cache.virtual = call.attention_mask, peft_model.num_virtual_tokens
    return call
