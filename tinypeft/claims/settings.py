"""What many claims are about: the usual adapters and quantization, by short names, and times that a paper measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinypeft.budget.methods import NF4
from tinypeft.peft import BottleneckConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig

QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = "all-linear"
# The planner's NF4, as in QLoRA's paper and in the script of 001: products are computed in bfloat16. (bitsandbytes' default is
# float32.)
NF4_PLAIN = replace(NF4, bnb_4bit_use_double_quant=False)
NF4_EXACT = replace(NF4, bnb_4bit_compute_dtype=None)  # products in the input's own precision, for small models in float64
PREFIX20 = PrefixTuningConfig(num_virtual_tokens=20)
PROMPT20 = PromptTuningConfig(num_virtual_tokens=20)
WIDTH_64 = BottleneckConfig(reduction_factor=64)  # adapters, in a model of width 4,096

# Milliseconds of a forward pass of GPT-2 medium (Hu et al. 2021, 2106.09685, table 1): of the model alone, as with merged LoRA;
# with one adapter a layer, as in Lin et al. (2020); with two, as in Houlsby et al. (2019).
LATENCY = {
    "32 rows of 512 tokens": (1449.4, 1482.0, 1492.2),  # adapters of 0.5M parameters
    "16 rows of 256 tokens": (338.0, 354.8, 366.3),  # of 11M
    "1 row of 128 tokens": (19.8, 23.9, 25.8),  # of 11M
}


def lora(r: int, target_modules: Any = QKVO, **options: Any) -> LoraConfig:
    """LoRA on queries, keys, values and outputs, unless other modules are named; alpha = r, so that nothing is scaled."""
    return LoraConfig(r=r, target_modules=target_modules, **{"lora_alpha": r, **options})


def slowdown(case: str, adapters: int) -> float:
    """By what share a forward pass took longer with so many adapters a layer, 1 or 2, in one of the cases of LATENCY."""
    return LATENCY[case][adapters] / LATENCY[case][0] - 1


__all__ = ["LATENCY", "LINEAR", "NF4", "NF4_EXACT", "NF4_PLAIN", "PREFIX20", "PROMPT20", "QKVO", "WIDTH_64", "lora", "slowdown"]
