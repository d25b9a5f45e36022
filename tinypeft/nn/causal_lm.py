"""What GPT-2 and Llama have in common: ids in, logits and loss out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tinypeft.autograd import Tensor, checkpoint, functional as F, no_grad
from tinypeft.backend import Array, asarray, to_numpy
from tinypeft.files import write_json, write_safetensors
from tinypeft.nn.attention import KeyValueCache
from tinypeft.nn.checks import Checked
from tinypeft.nn.generation import generate
from tinypeft.nn.layers import Linear, as_ids
from tinypeft.nn.module import Module, refuse_meta


@dataclass
class Config(Checked):
    """A model's shape, with the keys of Hugging Face's config.json; keys that we have no use for are kept and written back."""

    vocab_size: int = 0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False, compare=False)

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    unsupported: ClassVar[dict[str, Any]] = {}  # key -> the only value that we implement

    # Every model has these, as fields or, where its own names are others, as properties.
    if TYPE_CHECKING:
        max_position_embeddings: Any = None
        hidden_size: Any = None
        num_hidden_layers: Any = None
        num_attention_heads: Any = None
        num_key_value_heads: Any = None
        head_dim: Any = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From the content of a config.json.

        Raises:
            ValueError: a key asks for something that is not implemented here, or a size is not a positive integer.
        """
        for key, only in cls.unsupported.items():
            if values.get(key, only) != only:
                raise ValueError(f"config.json says {key}={values[key]!r}; for {cls.model_type} only {only!r} is implemented")
        known = {field.name for field in fields(cls)} - {"extra"}
        return cls(**{key: value for key, value in values.items() if key in known},
                   extra={key: value for key, value in values.items() if key not in known})

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "extra"}
        named = {"model_type": self.model_type, "architectures": [self.architecture]}
        return dict(sorted({**self.extra, **own, **named}.items()))

    def check_multiple(self, name: str, of: str) -> None:
        if getattr(self, name) % getattr(self, of):
            raise ValueError(f"{type(self).__name__}: {name}={getattr(self, name)} must be a multiple of "
                             f"{of}={getattr(self, of)}")


@dataclass
class CausalLMOutput:
    """What a language model returns. logits (B, T, V); loss a single number or None; hidden_states (B, T, d) each."""

    logits: Tensor
    loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Decoder(Module):
    """The body of a language model: blocks, one after the other, between embeddings and a final norm."""

    gradient_checkpointing = False  # set by Module.gradient_checkpointing_enable

    def run(self, block: Module, x: Tensor, *context: Any) -> Tensor:
        """block(x, *context); with gradient checkpointing, in training, forgetting all that the block computes inside."""
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, x, *context)
        out: Tensor = block(x, *context)
        return out


class CausalLM(Module):
    """A decoder-only language model: a body that turns ids into hidden states, and a head that turns those into logits."""

    config: Config
    lm_head: Linear
    name_or_path: str | None = None  # where it was loaded from
    hub_name: str | None = None  # the name on the Hugging Face hub, which adapters record as their base
    adapted = False  # True while a PeftModel has adapters in it
    body_name: ClassVar[str]  # the attribute that holds the body; Hugging Face's base_model_prefix
    embedding_name: ClassVar[str]  # the body's attribute that holds the token table

    def get_input_embeddings(self) -> Any:
        """The module that turns ids (B, T) into vectors (B, T, d)."""
        return getattr(getattr(self, self.body_name), self.embedding_name)

    def dequantize(self) -> Self:
        """Give all quantized layers float weights again, in place: frozen, until requires_grad_() thaws them.

        Raises:
            ValueError: the model carries adapters, which have to follow: PeftModel.dequantize sees to it.
        """
        if self.adapted:
            raise ValueError("this model carries adapters: call dequantize() of its PeftModel")
        self.replace_quantized()
        return self

    def replace_quantized(self) -> None:
        """The work of `dequantize`."""
        for path, module in list(self.named_modules()):
            if hasattr(module, "dequantized"):
                self.set_submodule(path, module.dequantized())
        self.config.extra.pop("quantization_config", None)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, position_ids: Any = None,
                output_hidden_states: bool = False, cache: KeyValueCache | None = None,
                inputs_embeds: Tensor | None = None) -> CausalLMOutput:
        """Logits for the token after each position, and the mean next-token loss if labels are given.

        Args:
            input_ids: (B, T) integers.
            attention_mask: (B, S) of 1 (read it) and 0 (padding), S counting cached tokens too; None means all ones.
            labels: (B, T), usually input_ids; they are shifted here, so that position t is judged by label t + 1. -100 is
                ignored.
            position_ids: (B, T) or (1, T); 0, 1, 2, ... after the cached tokens unless given. As in transformers, a
                mask alone does not move them.
            cache: keys and values of earlier tokens; this call's are appended, and nothing is recorded for `backward`.
            inputs_embeds: (B, T, d) vectors instead of input_ids.

        Raises:
            ValueError: shapes that do not fit, ids outside the vocabulary, a sequence longer than the positions.
            RuntimeError: the model is on the meta device.
        """
        table = next(self.parameters())
        refuse_meta([table], "it can be counted, not run. Load it with from_pretrained, or build it without device='meta'")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of the two")
        ids = as_ids(input_ids, table) if inputs_embeds is None else inputs_embeds.data[:, :, 0]  # then for its shape only
        past = cache.length if cache is not None else 0
        mask = self._check_mask(attention_mask, ids, past)
        positions = self._check_positions(position_ids, ids, past)
        targets = None if labels is None else self._check_labels(labels, ids)
        with nullcontext() if cache is None or cache.differentiable else no_grad():
            embeds = self.get_input_embeddings()(ids) if inputs_embeds is None else inputs_embeds
            states: list[Tensor] = getattr(self, self.body_name)(embeds, mask, positions, cache)
            logits = self.lm_head(states[-1])  # (B, T, d) -> (B, T, V)
            loss = None if targets is None else F.cross_entropy(logits, targets)
        if cache is not None:
            cache.length = past + ids.shape[1]
        return CausalLMOutput(logits, loss, tuple(states) if output_hidden_states else None)

    def _check_mask(self, attention_mask: Any, ids: Array, past: int) -> Array | None:
        """As booleans (B, past + T); None if it hides nothing."""
        if attention_mask is None:
            return None
        given = attention_mask.data if isinstance(attention_mask, Tensor) else attention_mask
        mask, shape = asarray(given, like=ids).astype(bool), (len(ids), past + ids.shape[1])
        if mask.shape != shape:
            raise ValueError(f"attention_mask has shape {mask.shape}, expected {shape}")
        return None if mask.all() else mask

    def _check_positions(self, position_ids: Any, ids: Array, past: int) -> Array:
        """As integers (B, T) or (1, T), within what the model has."""
        (B, T), limit = ids.shape, self.config.max_position_embeddings
        if past + T > limit:
            raise ValueError(f"a sequence of {past + T} tokens is longer than the model's {limit} positions; shorten it")
        if position_ids is None:
            return asarray(np.arange(past, past + T)[None], like=ids)
        positions = as_ids(position_ids, ids, "position_ids")
        if positions.shape not in ((B, T), (1, T)):
            raise ValueError(f"position_ids have shape {positions.shape}, expected {(B, T)} or {(1, T)}")
        if positions.min() < 0 or positions.max() >= limit:
            raise ValueError(f"position_ids run from {positions.min()} to {positions.max()}, the model has positions 0 to "
                             f"{limit - 1}")
        return positions

    def _check_labels(self, given: Any, ids: Array) -> Array:
        """What each position is to predict: the labels moved one to the left, which saves moving the logits."""
        labels = as_ids(given, ids, "labels")
        if labels.shape != ids.shape:
            raise ValueError(f"labels have shape {labels.shape}, input_ids {ids.shape}: they must be equal")
        used = labels[labels != -100]
        if used.size and not 0 <= used.min() <= used.max() < self.config.vocab_size:
            raise ValueError(f"labels must lie in 0 to {self.config.vocab_size - 1} or be -100 (ignored), got {used.min()} to "
                             f"{used.max()}")
        return np.concatenate([labels[:, 1:], np.full_like(labels[:, :1], -100)], axis=1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; the folder loads in transformers. A tied head is stored once."""
        refuse_meta(self.parameters(), "there is nothing to save")
        state = self.state_dict()
        if self.adapted:
            raise ValueError("this model carries adapters: save them with PeftModel.save_pretrained, or merge_and_unload first")
        config = self.config.to_dict() | {"dtype": str(next(iter(state.values())).dtype)}
        config.pop("torch_dtype", None)  # the older key for the same, which would contradict it
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_safetensors(Path(folder) / "model.safetensors", {name: to_numpy(array) for name, array in state.items()})
        write_json(Path(folder) / "config.json", config)

    generate = generate
