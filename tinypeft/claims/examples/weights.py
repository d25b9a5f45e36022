"""What several examples look at: LoRA's matrices in a model, the parts of a model in four bits, a memory's conditions."""

from __future__ import annotations

from tinypeft.budget import Breakdown
from tinypeft.budget.weights import bare_model, weight_bytes
from tinypeft.claims.settings import NF4
from tinypeft.nn import Parameter
from tinypeft.peft import LoraLayer, PeftModel
from tinypeft.quant.linear import QuantizedParameter


def lora_factors(model: PeftModel) -> list[tuple[Parameter, Parameter]]:
    """A and B of each matrix that LoRA adapts, in the model's order."""
    return [module.factors("default") for module in model.modules() if isinstance(module, LoraLayer)]


def holds_for(needed: Breakdown) -> str:
    """The conditions of a memory's computation, in a sentence."""
    words = {True: "on", False: "off"}
    said = [f"{key} {words[value] if isinstance(value, bool) else value}" for key, value in needed.conditions.items()]
    return f"Holds for: {', '.join(said)}."


def stored_parts(model: str) -> tuple[int, int, int, int]:
    """Bytes of a model in NF4 with double quantization: all, the codes, the blocks' constants, what stays in 16 bits."""
    bare = bare_model(model, NF4)
    total = weight_bytes(bare, itemsize=2)
    codes = sum(p.data.size for p in bare.parameters() if isinstance(p, QuantizedParameter))
    kept = sum(2 * p.size for p in bare.parameters() if not isinstance(p, QuantizedParameter))
    return total, codes, total - codes - kept, kept
