"""What many claims are about: the usual adapters and quantization, by short names."""

from __future__ import annotations

from typing import Any

from tinypeft.peft import LoraConfig
from tinypeft.quant import BitsAndBytesConfig

QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = "all-linear"
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
NF4_PLAIN = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False)


def lora(r: int, target_modules: Any = QKVO, **options: Any) -> LoraConfig:
    """LoRA on queries, keys, values and outputs, unless other modules are named; alpha = r, so that nothing is scaled."""
    return LoraConfig(r=r, target_modules=target_modules, **{"lora_alpha": r, **options})
