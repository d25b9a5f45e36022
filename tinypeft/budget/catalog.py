"""Well-known models by name: their exact shapes, and where those are published.

A model is built on the meta device, where shapes take no memory, and counted by walking over its parameters: no formula
stands between the shape and the count. `build` also takes a folder with a config.json, and any GPT-2 or Llama in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinypeft.budget.shapes import (
    GPTNeoXShape,
    GPTNeoXShapeConfig,
    OPTShape,
    OPTShapeConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    ShapeModel,
    T5Shape,
    T5ShapeConfig,
)
from tinypeft.budget.units import names_known
from tinypeft.models import AutoConfig, AutoModelForCausalLM
from tinypeft.nn import CausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from tinypeft.peft import PeftConfig, PeftModel, get_peft_model


@dataclass(frozen=True)
class Spec:
    """A named model.

    Attributes:
        title: its name in prose.
        hub_name: its name on the Hugging Face hub, by which it is found too; None for GPT-3, which is not there.
        source: where its shape is published.
        make: builds it, on the meta device.
    """

    title: str
    hub_name: str | None
    source: str
    make: Callable[[], CausalLM]


def _gpt2(layers: int, width: int, heads: int, **options: Any) -> Callable[[], CausalLM]:
    return lambda: GPT2LMHeadModel(GPT2Config(n_layer=layers, n_embd=width, n_head=heads, **options))


def _llama(layers: int, width: int, heads: int, inner: int, **options: Any) -> Callable[[], CausalLM]:
    return lambda: LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads,
                                                intermediate_size=inner, **options))


_LLAMA3: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
                           "rope_parameters": {"rope_theta": 500000.0}}
_OPENAI = "Radford et al. 2019, table 2; openai-community's config.json"

CATALOG: dict[str, Spec] = {
    "gpt2": Spec("GPT-2 small", "openai-community/gpt2", _OPENAI, _gpt2(12, 768, 12)),
    "gpt2-medium": Spec("GPT-2 medium", "openai-community/gpt2-medium", _OPENAI, _gpt2(24, 1024, 16)),
    "gpt2-large": Spec("GPT-2 large", "openai-community/gpt2-large", _OPENAI, _gpt2(36, 1280, 20)),
    "gpt2-xl": Spec("GPT-2 XL", "openai-community/gpt2-xl", _OPENAI, _gpt2(48, 1600, 25)),
    "gpt3": Spec("GPT-3", None, "Brown et al. 2020, 2005.14165, table 2.1, with GPT-2's vocabulary and 2,048 positions",
                 _gpt2(96, 12288, 96, n_positions=2048)),
    "llama-65b": Spec("Llama-1 65B", "huggyllama/llama-65b", "Touvron et al. 2023, 2302.13971, table 2; config.json",
                      _llama(80, 8192, 64, 22016)),
    "llama-2-7b": Spec("Llama-2 7B", "meta-llama/Llama-2-7b-hf", "Touvron et al. 2023, 2307.09288; config.json",
                       _llama(32, 4096, 32, 11008, max_position_embeddings=4096)),
    "llama-2-13b": Spec("Llama-2 13B", "meta-llama/Llama-2-13b-hf", "Touvron et al. 2023, 2307.09288; config.json",
                        _llama(40, 5120, 40, 13824, max_position_embeddings=4096)),
    "llama-2-70b": Spec("Llama-2 70B", "meta-llama/Llama-2-70b-hf", "Touvron et al. 2023, 2307.09288; config.json",
                        _llama(80, 8192, 64, 28672, num_key_value_heads=8, max_position_embeddings=4096)),
    "llama-3-8b": Spec("Llama-3 8B", "meta-llama/Meta-Llama-3-8B", "Llama Team 2024, 2407.21783, table 3; config.json",
                       _llama(32, 4096, 32, 14336, **_LLAMA3)),
    "llama-3-70b": Spec("Llama-3 70B", "meta-llama/Meta-Llama-3-70B", "Llama Team 2024, 2407.21783, table 3; config.json",
                        _llama(80, 8192, 64, 28672, **_LLAMA3)),
    "opt-6.7b": Spec("OPT-6.7B", "facebook/opt-6.7b", "Zhang et al. 2022, 2205.01068, table 1; config.json",
                     lambda: OPTShape(OPTShapeConfig(50272, hidden_size=4096, intermediate_size=16384, num_hidden_layers=32,
                                                     num_attention_heads=32, max_position_embeddings=2048,
                                                     tie_word_embeddings=True))),
    "pythia-6.9b": Spec("Pythia-6.9B", "EleutherAI/pythia-6.9b", "Biderman et al. 2023, 2304.01373, table 1; config.json",
                        lambda: GPTNeoXShape(GPTNeoXShapeConfig(50432, hidden_size=4096, intermediate_size=16384,
                                                                num_hidden_layers=32, num_attention_heads=32,
                                                                max_position_embeddings=2048))),
    "qwen2-7b": Spec("Qwen2-7B", "Qwen/Qwen2-7B", "Yang et al. 2024, 2407.10671, table 1; config.json",
                     lambda: Qwen2ForCausalLM(Qwen2Config(152064, hidden_size=3584, intermediate_size=18944,
                                                          num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
                                                          max_position_embeddings=131072, attention_bias=True,
                                                          rope_parameters={"rope_theta": 1e6}))),
    "t5-xxl": Spec("T5-XXL (1.1)", "google/t5-v1_1-xxl", "Raffel et al. 2020, 1910.10683; config.json of T5 1.1",
                   lambda: T5Shape(T5ShapeConfig(32128, hidden_size=4096, intermediate_size=10240, num_hidden_layers=24,
                                                 num_attention_heads=64, max_position_embeddings=512))),
    "smollm2-135m": Spec("SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct", "Allal et al. 2025, 2502.02737; config.json",
                         _llama(30, 576, 9, 1536, num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192,
                                tie_word_embeddings=True, rope_parameters={"rope_theta": 100000.0})),
}
COUNTED_ONLY = ("opt-6.7b", "pythia-6.9b", "t5-xxl")  # by shapes.py; all others have a forward pass here
RUNNABLE = tuple(name for name in CATALOG if name not in COUNTED_ONLY)
_HUB_NAMES = {spec.hub_name: name for name, spec in CATALOG.items() if spec.hub_name}


def build(model: str) -> CausalLM:
    """A model on the meta device: all its shapes, no memory.

    Args:
        model: a name in the CATALOG or on the hub, a bundled model ("tinypeft/surnames"), or a folder with a config.json.

    Raises:
        ValueError: none of these; near names are listed.

    >>> sum(p.size for p in build("llama-2-7b").parameters())
    6738415616
    """
    if spec := CATALOG.get(_HUB_NAMES.get(model, model.lower())):
        return spec.make()
    if model.startswith("tinypeft/") or (Path(model) / "config.json").exists():
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), device="meta")
    raise ValueError(f"unknown model {model!r}; {names_known(model.lower(), RUNNABLE, COUNTED_ONLY)}; to be counted only: "
                     f"{', '.join(COUNTED_ONLY)}; or give a folder with a config.json")


def refuse_counted_only(model: CausalLM) -> None:
    """Raise if a model can be counted, but has no forward pass here that tells what its activations take.

    Raises:
        ValueError: with the names of those that have one.
    """
    if isinstance(model, ShapeModel):
        raise ValueError(f"a model of type {model.config.model_type} can only be counted here: what its activations take is "
                         f"not known, and so neither is its memory. Those that can be planned: {', '.join(RUNNABLE)}; or a "
                         "folder with the config.json of a GPT-2 or a Llama")


def adapted(model: str, method: PeftConfig) -> PeftModel:
    """The same with an adapter in it, on the meta device."""
    return get_peft_model(build(model), method)


@dataclass(frozen=True)
class Counts:
    """How many parameters are trained, and how many there are with them, as peft counts.

    Attributes:
        trainable, total: parameters; total is the base's and the adapter's.
    """

    trainable: int
    total: int

    @property
    def fraction(self) -> float:
        return self.trainable / self.total


@functools.lru_cache(maxsize=64)
def base_parameters(model: str) -> int:
    """Number of parameters of a model, a tied head counted once.

    >>> base_parameters("gpt2")
    124439808
    """
    return sum(parameter.size for parameter in build(model).parameters())


def count_parameters(model: str, method: PeftConfig | None = None) -> Counts:
    """Build, adapt, count.

    Args:
        model: as for `build`.
        method: the adapter's config; None trains everything.

    Raises:
        ValueError: an unknown model, or a config that does not fit it.

    >>> from tinypeft.peft import LoraConfig
    >>> count_parameters("llama-3-8b", LoraConfig(r=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    Counts(trainable=13631488, total=8043892736)
    """
    if method is None:
        return Counts(base_parameters(model), base_parameters(model))
    return Counts(*adapted(model, method).get_nb_trainable_parameters())
