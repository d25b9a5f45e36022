"""What the tests of the methods share: the small bases, a config of every method, and a few measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from conftest import GOLDEN

from tinypeft import (
    AdaLoraConfig,
    AutoModelForCausalLM,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    SubspaceConfig,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)
from tinypeft.nn import CausalLM

IDS = np.array([[3, 14, 15, 92, 65, 35], [8, 96, 9, 79, 32, 38]])

METHODS: dict[str, Callable[[], PeftConfig]] = {
    "lora": lambda: LoraConfig(r=3, target_modules="all-linear"),
    "rslora": lambda: LoraConfig(r=3, use_rslora=True),
    "gaussian": lambda: LoraConfig(r=3, init_lora_weights="gaussian"),
    "pissa": lambda: LoraConfig(r=3, init_lora_weights="pissa", target_modules="all-linear"),
    "olora": lambda: LoraConfig(r=3, init_lora_weights="olora", target_modules="all-linear"),
    "dora": lambda: LoraConfig(r=3, use_dora=True, target_modules="all-linear"),
    "lora_head": lambda: LoraConfig(r=3, target_modules=["lm_head"]),
    "lora_biases": lambda: LoraConfig(r=3, bias="all"),
    "lora_only_biases": lambda: LoraConfig(r=3, bias="lora_only"),
    "adalora": lambda: AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules="all-linear"),
    "vera": lambda: VeraConfig(r=6, target_modules="all-linear"),
    "ulora_rank": lambda: ULoraConfig(r=3),
    "ulora_input": lambda: ULoraConfig(r=3, vector="input", target_modules="all-linear"),
    "ia3": IA3Config,
    "ln": LNTuningConfig,
    "bitfit": BitFitConfig,
    "bitfit_norms": lambda: BitFitConfig(train_norms=True),
    "subspace": lambda: SubspaceConfig(dimension=12),
    "houlsby": lambda: BottleneckConfig(reduction_factor=4),
    "pfeiffer": lambda: BottleneckConfig(style="pfeiffer", reduction_factor=4),
    "parallel": lambda: BottleneckConfig(style="parallel"),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3),
    "prefix_projected": lambda: PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3),
    "prompt_appended": lambda: PromptTuningConfig(num_virtual_tokens=3, position="append"),
}
EMBEDDING = {"lora_embedding": lambda: LoraConfig(r=3, target_modules=["wte", "c_attn"]),
             "modules_to_save": lambda: LoraConfig(r=3, modules_to_save=["ln_f"])}  # names that only GPT-2 has
BIASED = ("lora_only_biases", "bitfit", "bitfit_norms")  # methods that a Llama, without biases, cannot have
PROMPTS = ("prefix", "prefix_projected", "prompt", "prompt_appended")
UNMERGEABLE = ("houlsby", "pfeiffer", "parallel", *PROMPTS)
CASES = [("gpt2", method) for method in (METHODS | EMBEDDING)] + [("llama", m) for m in METHODS if m not in BIASED]
MERGEABLE = [(kind, method) for kind, method in CASES if method not in UNMERGEABLE]


def config_of(method: str) -> PeftConfig:
    return (METHODS | EMBEDDING)[method]()


def base(kind: str = "gpt2", dtype: str = "float64") -> CausalLM:
    return AutoModelForCausalLM.from_pretrained(GOLDEN / f"{kind}_base", dtype=dtype)


def scramble(peft_model: PeftModel, seed: int = 1, size: float = 0.2) -> PeftModel:
    """Move all that is trained away from where it started."""
    random = np.random.default_rng(seed)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = (parameter.data + size * random.standard_normal(parameter.shape)).astype(parameter.dtype)
    return peft_model


def adapted(method: str, kind: str = "gpt2", dtype: str = "float64", name: str = "default", seed: int = 1) -> PeftModel:
    """A base with an adapter that changes it."""
    return scramble(get_peft_model(base(kind, dtype), config_of(method), name), seed)


def stack(methods: list[str], kind: str = "gpt2", dtype: str = "float32") -> PeftModel:
    """One model with an adapter of each method, named after it, all active and away from their start."""
    peft_model = get_peft_model(base(kind, dtype), config_of(methods[0]), methods[0])
    for method in methods[1:]:
        peft_model.add_adapter(method, config_of(method))
    peft_model.set_adapter(methods)
    return scramble(peft_model)


def logits(model: Any, ids: Any = IDS, **options: Any) -> np.ndarray:
    return model(ids, **options).logits.data


def trainable(model: Any) -> dict[str, np.ndarray]:
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def snapshot(model: Any) -> list[tuple[str, bool, bytes]]:
    """Names, flags and values of all parameters: what must be as it was after a failure."""
    return [(name, p.requires_grad, p.data.tobytes()) for name, p in model.named_parameters()]


def distance(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def assert_same(received: Any, expected: Any) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(received, expected)
