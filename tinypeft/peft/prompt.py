"""Prompt tuning: p trained vectors among the embedded tokens (Lester et al. 2021, 2104.08691).

    model(prompt_1, ..., prompt_p, embed(x_1), ..., embed(x_T))        prompt (p, d) trained, everything else frozen

The virtual tokens take positions, and have logits (a row each) and labels (-100: nothing is learned there). Prepended, they
stand before everything, as in peft. Appended, they stand in each row where its text to be learned begins: after the last
token of the given text, so that all before them is computed as without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinypeft.autograd import functional as F, ops
from tinypeft.backend import Array, asarray
from tinypeft.nn import Parameter, generator, new_parameter
from tinypeft.peft.config import register
from tinypeft.peft.soft_prompts import ModelCall, PromptLearningConfig, SoftPrompt

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel

tokenizer_loaders: list[Callable[[str], Any]] = []  # AutoTokenizer.from_pretrained; from models/, which imports this room


@register
@dataclass
class PromptTuningConfig(PromptLearningConfig):
    """Arguments, names and defaults of peft's PromptTuningConfig; those of the model's shape are filled in.

    Args:
        prompt_tuning_init: "RANDOM", N(0, 1) for each number: large, as a token's embedding has about 0.02; "SAMPLE_VOCAB",
            the embeddings of p random tokens; "TEXT", those of a text's tokens, repeated or cut to p.
        prompt_tuning_init_text: the text.
        tokenizer_name_or_path: what makes tokens of it: a name or folder for AutoTokenizer, or a tokenizer itself.
        position: "prepend" or (ours) "append".
    """

    prompt_tuning_init: str = "RANDOM"
    prompt_tuning_init_text: str | None = None
    tokenizer_name_or_path: Any = None
    position: str | None = None

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    unsupported: ClassVar[dict[str, Any]] = {"tokenizer_kwargs": None}
    beyond_peft: ClassVar[tuple[str, ...]] = ("position",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.prompt_tuning_init = str(getattr(self.prompt_tuning_init, "value", self.prompt_tuning_init))
        self.check_choice("prompt_tuning_init", "RANDOM", "SAMPLE_VOCAB", "TEXT")
        self.check_choice("position", None, "prepend", "append")
        if self.prompt_tuning_init == "TEXT" and not (self.prompt_tuning_init_text and self.tokenizer_name_or_path):
            raise ValueError('prompt_tuning_init="TEXT" needs prompt_tuning_init_text and tokenizer_name_or_path')

    def to_dict(self) -> dict[str, Any]:
        name = self.tokenizer_name_or_path
        return super().to_dict() | {"tokenizer_name_or_path": name if isinstance(name, str | None) else
                                    getattr(name, "name_or_path", None)}

    def inject(self, peft_model: PeftModel, adapter_name: str, seed: int) -> None:
        """Make the virtual tokens."""
        model = peft_model.get_base_model()
        self.fill_in(token_dim=model.config.hidden_size, num_layers=model.config.num_hidden_layers,
                     num_attention_heads=model.config.num_attention_heads)
        table = model.get_input_embeddings()
        weight, random = getattr(table, "base_layer", table).weight, generator(seed, adapter_name, "prompt_embeddings")
        embedding = new_parameter((self.num_virtual_tokens, self.token_dim), weight, lambda: self._initial(random, weight.data))
        peft_model.prompt_encoder[adapter_name] = PromptEncoder(self, embedding)

    def _initial(self, random: np.random.Generator, table: Array) -> Array:
        """(p, d)."""
        p = self.num_virtual_tokens
        if self.prompt_tuning_init == "RANDOM" or self.loading:
            return random.standard_normal((p, self.token_dim))
        if self.prompt_tuning_init == "SAMPLE_VOCAB":
            return table[random.integers(0, len(table), p)]
        tokenizer = self.tokenizer_name_or_path
        if isinstance(tokenizer, str):
            tokenizer = tokenizer_loaders[-1](tokenizer)
        ids = tokenizer.encode(self.prompt_tuning_init_text, add_special_tokens=False)
        if not ids:
            raise ValueError(f"prompt_tuning_init_text {self.prompt_tuning_init_text!r} has no tokens")
        return table[np.resize(ids, p)]  # repeated as often as needed


class PromptEncoder(SoftPrompt):
    """Virtual tokens, as embeddings that stand among those of the text."""

    def __init__(self, config: PromptTuningConfig, embedding: Parameter):
        super().__init__(config, embedding)
        self.append = config.position == "append"

    def prepare(self, call: ModelCall) -> None:
        """Put the virtual tokens into each row, before the token whose number `_places` gives."""
        (B, T, _), p = call.inputs_embeds.shape, self.num_virtual_tokens
        places = self._places(call) if self.append else np.zeros_like(call.inputs_embeds.data, shape=B, dtype=int)  # (B,)
        slots = asarray(np.arange(T + p), like=places)[None] - places[:, None]  # (B, T + p): 0 ... p - 1 are virtual
        virtual = (slots >= 0) & (slots < p)
        # Where each place of the new row comes from: the row's tokens are 0 to T - 1, the virtual ones T to T + p - 1.
        source = np.where(virtual, T + slots, np.where(slots < 0, slots, slots - p) + places[:, None])
        rows = asarray(np.arange(B), like=places)[:, None]
        prompt = self.embedding.weight * np.ones_like(call.inputs_embeds.data, shape=(B, 1, 1))  # (p, d) -> (B, p, d)
        both = ops.concatenate([call.inputs_embeds, prompt], axis=1).reshape(B * (T + p), -1)
        call.inputs_embeds = F.embedding(both, rows * (T + p) + source)  # (B, T + p, d)

        def spread(tokens: Array | None, filler: Any) -> Array | None:
            """(B, T) -> (B, T + p)."""
            if tokens is None:
                return None
            return np.concatenate([tokens, np.full_like(tokens, filler, shape=(B, p))], axis=1)[rows, source]

        call.attention_mask, call.labels = spread(call.attention_mask, 1), spread(call.labels, -100)
        if call.position_ids is not None:
            before = np.take_along_axis(call.position_ids, np.maximum(places - 1, 0)[:, None], axis=1) + 1  # (B, 1)
            first = np.where(places[:, None] > 0, before, 0)
            moved: Any = spread(call.position_ids, 0)
            call.position_ids = np.where(virtual, first + slots, np.where(slots < 0, moved, moved + p))

    def _places(self, call: ModelCall) -> Array:
        """For each row the number of tokens before its first label; without labels, of tokens before the padding at its end."""
        B, T, _ = call.inputs_embeds.shape
        if call.labels is not None:
            learned = call.labels != -100
            if not learned.any(axis=1).all():
                raise ValueError(f"row {int(np.argmin(learned.any(axis=1)))} of the batch has no label after the place of the "
                                 "appended prompt: nothing would train there. Leave such rows out")
            return learned.argmax(axis=1)
        if call.attention_mask is None:
            return np.full_like(call.inputs_embeds.data, T, shape=B, dtype=int)
        return T - (call.attention_mask != 0)[:, ::-1].argmax(axis=1)
