"""Prefix tuning: p trained keys and values in each layer (Li and Liang 2021, 2101.00190).

    attention(q, [K_prefix; K], [V_prefix; V])        K_prefix, V_prefix (p, h_kv, head_dim) trained, for each layer

Every token sees all of the prefix, which stands before the text: tokens take the positions p, p + 1, ... The prefix itself
has none (its keys are not rotated). Where queries share key heads, the prefix has as few heads as the keys.

With prefix_projection the keys and values come from smaller vectors E (p, token_dim) by way of a network,
W2 tanh(W1 E + b1) + b2, which steadies training; the file holds the result only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinypeft.autograd import Tensor, no_grad, ops
from tinypeft.backend import Array, to_numpy
from tinypeft.nn import Linear, Parameter, generator, new_parameter
from tinypeft.nn.attention import KeyValueCache
from tinypeft.peft.config import register
from tinypeft.peft.soft_prompts import ModelCall, PromptLearningConfig, SoftPrompt

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel


@register
@dataclass
class PrefixTuningConfig(PromptLearningConfig):
    """Arguments, names and defaults of peft's PrefixTuningConfig; those of the model's shape are filled in.

    Args:
        encoder_hidden_size: the width of the projection's hidden layer; token_dim if None.
        prefix_projection: compute the prefix by a small network, as in the paper.
        init_weights: None, N(0, 1) for each number; or "zero". Neither leaves the first output as it was: even keys of zero
            draw attention.
    """

    encoder_hidden_size: int = 0
    prefix_projection: bool = False
    init_weights: str | None = None

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("init_weights", None, "zero")

    def inject(self, peft_model: PeftModel, adapter_name: str, seed: int) -> None:
        """Make the prefix."""
        config, weight = peft_model.get_base_model().config, next(peft_model.get_base_model().parameters())
        h_kv, size = config.num_key_value_heads, config.head_dim
        self.fill_in(token_dim=h_kv * size, num_layers=config.num_hidden_layers, num_attention_heads=h_kv)
        self.encoder_hidden_size = self.encoder_hidden_size or self.token_dim
        # What a file holds is the prefix itself, so that is also what a loaded adapter has, and may go on training.
        flat = not self.prefix_projection or self.loading
        random = generator(seed, adapter_name, "prompt_embeddings")
        shape = self.num_virtual_tokens, 2 * self.num_layers * self.token_dim if flat else self.token_dim
        embedding = new_parameter(shape, weight, lambda: random.standard_normal(shape) * (self.init_weights != "zero"))
        network = {}
        if not flat:  # between the two stands tanh; the numbers are those of torch's Sequential, and so in peft's names
            network = {"0": Linear(self.token_dim, self.encoder_hidden_size),
                       "2": Linear(self.encoder_hidden_size, 2 * self.num_layers * self.token_dim)}
        for layer in network.values():
            for parameter in layer.parameters():  # starts as torch's does
                draw = partial(random.uniform, -(layer.in_features**-0.5), layer.in_features**-0.5, parameter.shape)
                parameter.data = new_parameter(parameter.shape, weight, draw).data
        self.encoder = PrefixEncoder(self, embedding, network)
        peft_model.prompt_encoder[adapter_name] = self.encoder

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        kept = {key: array for key, array in tensors.items() if not key.startswith("prompt_encoder.")}
        with no_grad():
            return kept | {"prompt_embeddings": to_numpy(self.encoder.prefix().data)}

    def from_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        return {"prompt_encoder.embedding.weight" if key == "prompt_embeddings" else key: x for key, x in tensors.items()}


class PrefixEncoder(SoftPrompt):
    """The keys and values of all layers, (p, 2 * layers * token_dim), trained themselves or by way of a network."""

    before_all = True

    def __init__(self, config: PrefixTuningConfig, embedding: Parameter, network: dict[str, Linear]):
        super().__init__(config, embedding)
        self.layers, self.heads, self.transform = config.num_layers, config.num_attention_heads, network

    def parameters_of(self) -> dict[str, Parameter]:
        return {f"prompt_encoder.{name}": parameter for name, parameter in self.named_parameters()}

    def prefix(self) -> Tensor:
        """(p, 2 * layers * token_dim)."""
        if not self.transform:
            return self.embedding.weight
        return self.transform["2"](ops.tanh(self.transform["0"](self.embedding.weight)))

    def prepare(self, call: ModelCall) -> None:
        """Put the prefix before the keys and values of each layer."""
        B, p = call.inputs_embeds.shape[0], self.num_virtual_tokens
        slots = self.prefix().reshape(p, 2 * self.layers, self.heads, -1)  # layer i: keys 2i, values 2i + 1
        slots = slots * np.ones_like(call.inputs_embeds.data, shape=(B, 1, 1, 1, 1))  # -> (B, p, 2 layers, h_kv, head_dim)
        if call.attention_mask is not None:
            ones = np.ones_like(call.attention_mask, shape=(B, p))
            call.attention_mask = np.concatenate([ones, call.attention_mask], axis=1)
        if call.position_ids is not None:
            call.position_ids = call.position_ids + p
        if isinstance(call.cache, KeyValueCache):  # generation: keep the prefix as if it had been text
            for layer in range(self.layers):
                call.cache.append(layer, slots[:, :, 2 * layer], slots[:, :, 2 * layer + 1])
            call.cache.length += p
        else:
            call.cache = Prefix(slots, call.cache)


class Prefix:
    """Takes the place of a cache of keys and values, for one call: what it holds can be trained."""

    differentiable = True

    def __init__(self, slots: Tensor, others: Any):
        self.slots, self.others = slots, others  # others: a second prefix
        self.length = slots.shape[1] + (0 if others is None else others.length)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens, (B, T, h_kv, head_dim), with the prefix before them."""
        if self.others is not None:
            k, v = self.others.append(layer, k, v)
        return (ops.concatenate([self.slots[:, :, 2 * layer], k], axis=1),
                ops.concatenate([self.slots[:, :, 2 * layer + 1], v], axis=1))
