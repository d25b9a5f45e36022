"""Models of drawn shapes, and their parameters, counted by building them.

The blocks of such a model are all alike. So a model of one block and one of two are built, and say what every further block
adds: what is counted is what the library builds, for 80 layers in the time of three. (That whole models give the same is
tested.) Builds are kept: a block and a method that come up again are not built again.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from tinypeft.budget.weights import bare_model, dtype_bytes, optimizer_bytes, weight_bytes
from tinypeft.claims.practice.kinds import pick
from tinypeft.nn import CausalLM, GPT2Config, GPT2LMHeadModel, Linear, LlamaConfig, LlamaForCausalLM
from tinypeft.peft import PeftConfig, get_peft_model
from tinypeft.peft.config import TargetedConfig
from tinypeft.quant import BitsAndBytesConfig

T = TypeVar("T")

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = (("q_proj", "v_proj"), ATTENTION, (*ATTENTION, *MLP), ("q_proj", "o_proj"), ("k_proj", "v_proj"), MLP)


@dataclass(frozen=True)
class Shape:
    """A Llama (no biases, a head of its own) or a GPT-2 (biases everywhere, a head tied to the embeddings).

    Attributes:
        width: hidden size d.
        heads, kv_heads: of queries, and of keys and values.
        inner: width of the feed-forward part.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int = 64
    family: str = "llama"
    positions: int = 1024

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Features of all keys together, or of all values."""
        return self.kv_heads * self.head_dim

    def build(self) -> CausalLM:
        """On the meta device."""
        if self.family == "gpt2":
            return GPT2LMHeadModel(GPT2Config(vocab_size=self.vocab, n_positions=self.positions, n_embd=self.width,
                                              n_layer=self.layers, n_head=self.heads, n_inner=self.inner))
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=self.vocab, hidden_size=self.width, intermediate_size=self.inner, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.kv_heads, max_position_embeddings=self.positions))

    def sides(self, name: str) -> tuple[int, int]:
        """(out, in) of a matrix of the model's first block."""
        return _sides(replace(self, layers=1, vocab=64), name)

    def words(self, vocab: bool = False) -> str:
        """The shape in a sentence."""
        if self.family == "gpt2":
            text = (f"A GPT-2 has hidden size d = {self.width:,}, {self.layers} layers and a feed-forward part of width "
                    f"{self.inner:,}; every linear layer and every LayerNorm has a bias")
        else:
            heads = (f"{self.heads} heads of {self.head_dim} features" if self.heads == self.kv_heads else
                     f"{self.heads} query heads but only {self.kv_heads} key-value heads, of {self.head_dim} features each")
            text = (f"A Llama has hidden size d = {self.width:,}, {self.layers} layers, {heads}, and a feed-forward part of "
                    f"width {self.inner:,}; it has no biases")
        return text + (f". Its vocabulary has {self.vocab:,} tokens, its head is "
                       + ("the embedding table itself" if self.family == "gpt2" else "a matrix of its own") if vocab else "")


# (d, query heads, key-value heads, width of the feed-forward part): SmolLM2, Qwen2, Llama 2 and 3, TinyLlama, and between.
BLOCKS = ((512, 8, 8, 1408), (576, 9, 3, 1536), (768, 12, 4, 3072), (960, 15, 5, 2560), (1024, 16, 16, 2816),
          (1024, 16, 4, 3584), (1536, 12, 2, 8960), (2048, 32, 4, 5632), (2048, 16, 16, 5632), (2560, 20, 20, 6912),
          (3072, 24, 8, 8192), (3584, 28, 4, 18944), (4096, 32, 32, 11008), (4096, 32, 8, 14336), (5120, 40, 40, 13824),
          (8192, 64, 8, 28672))


VOCABULARIES = (32000, 49152, 128256)


def draw_llama(rng: np.random.Generator, vocabularies: Sequence[int] = tuple(range(8000, 129000, 1000))) -> Shape:
    """A Llama.

    Args:
        vocabularies: sizes of a vocabulary to choose from; few, where counting takes its time.
    """
    width, heads, kv_heads, inner = pick(rng, BLOCKS)
    return Shape(width, int(rng.integers(6, 81)), heads, kv_heads, inner, pick(rng, vocabularies))


def draw_gpt2(rng: np.random.Generator) -> Shape:
    """A GPT-2."""
    width, positions = pick(rng, (256, 384, 512, 640, 768, 896, 1024, 1280, 1600, 2048)), pick(rng, (512, 1024, 2048))
    return Shape(width, int(rng.integers(4, 81)), width // 64, width // 64, pick(rng, (2, 3, 4, 5, 6)) * width,
                 1000 * int(rng.integers(8, 65)), "gpt2", positions)


_kept: dict[tuple[Any, ...], Any] = {}


def once(key: tuple[Any, ...], find: Callable[[], T]) -> T:
    """What `find` finds, asked once for each key."""
    if key not in _kept:
        _kept[key] = find()
    found: T = _kept[key]
    return found


def over_layers(shape: Shape, key: Any, count: Callable[[Shape], int]) -> int:
    """What is counted in a model of that shape, from models of one block and of two.

    Args:
        key: everything but the shape that the count depends on.
        count: of a shape of few layers; something that adds up over a model's parameters.
    """
    one, two = (once((small, key), lambda small=small: count(small))  # type: ignore[misc]
                for small in (replace(shape, layers=1), replace(shape, layers=2)))
    return one + (shape.layers - 1) * (two - one)


def trained(shape: Shape, method: PeftConfig) -> int:
    """How many parameters a method trains in a model of that shape."""
    return over_layers(replace(shape, vocab=64), repr(method),
                       lambda small: get_peft_model(small.build(), method).get_nb_trainable_parameters()[0])


def all_parameters(shape: Shape) -> int:
    """Of the base, a tied head counted once."""
    return over_layers(shape, "base", lambda small: sum(parameter.size for parameter in small.build().parameters()))


def base_bytes(shape: Shape, quantization: BitsAndBytesConfig | None = None) -> int:
    """Of the base's weights, in 16 bits or quantized."""
    return over_layers(shape, f"bytes, {quantization!r}",
                       lambda small: weight_bytes(bare_model(small.build(), quantization), dtype_bytes("bfloat16")))


def trained_bytes(shape: Shape, method: PeftConfig | None = None, adapter_dtype: str = "float32") -> dict[str, int]:
    """Bytes of what is trained, of its gradients, and of AdamW's states.

    Args:
        method: None for full fine-tuning, in 16 bits.
        adapter_dtype: of the adapter and of its gradients.
    """
    shape = replace(shape, vocab=64) if method else shape
    itemsize = dtype_bytes(adapter_dtype if method else "bfloat16")

    def states(small: Shape) -> int:
        model = get_peft_model(small.build(), method) if method else small.build()
        return optimizer_bytes(Counter(p.shape for p in model.parameters() if p.requires_grad), "adamw")

    weights = itemsize * (trained(shape, method) if method else all_parameters(shape))
    return {"weights": weights, "gradients": weights, "optimizer states": over_layers(shape, f"states, {method!r}", states)}


@functools.lru_cache(maxsize=4096)
def _sides(shape: Shape, name: str) -> tuple[int, int]:
    module = next(module for path, module in shape.build().named_modules() if path.endswith(f".{name}"))
    assert isinstance(module, Linear)
    return module.out_features, module.in_features


def trained_on_matrix(method: TargetedConfig, out_features: int, in_features: int) -> dict[str, int]:
    """Parameters of a method's adapter on one linear layer (out, in), by their names."""
    linear = Linear(in_features, out_features, bias=False)
    wrapper = method.layer_for(linear)
    assert wrapper is not None, type(method).__name__
    layer = wrapper(linear, "W")
    layer.add("default", method, 0)
    return {name: parameter.size for name, parameter in layer.parameters_of("default").items()}
