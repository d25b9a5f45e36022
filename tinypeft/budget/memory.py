"""What training or running a model needs in memory, part by part, at the moment when it needs the most.

    weights  +  gradients  +  optimizer states  +  activations        16 bytes a parameter, and what the tokens take
"""

from __future__ import annotations

from typing import Any

from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.weights import (
    adapt,
    bare_model,
    dtype_bytes,
    optimizer_bytes,
    parameter_bytes,
    weight_bytes,
)
from tinypeft.nn import CausalLM
from tinypeft.peft import PeftConfig
from tinypeft.quant import BitsAndBytesConfig
from tinypeft.quant.linear import QuantizedParameter

PARTS = ("base weights", "adapter weights", "master weights", "gradients", "optimizer states", "activations",
         "recomputed block", "logits and loss", "dequantized weight", "key-value cache")
ENGINES = ("torch", "tinypeft")
ATTENTIONS = ("sdpa", "eager")


def memory(model: str | CausalLM, method: PeftConfig | None = None, *, training: bool = True,
           quantization: BitsAndBytesConfig | None = None, batch: int = 1, tokens: int = 2048, engine: str = "torch",
           dtype: str = "bfloat16", adapter_dtype: str = "float32", optimizer: str = "adamw",
           master_weights: bool | None = None, checkpointing: bool = True, attention: str = "sdpa", margin: float = 0.0,
           prepared: bool = False) -> Breakdown:
    """What a training step, or generation, needs at its peak.

    Args:
        model: a name of the catalog, or a model (on the meta device or not).
        method: the adapter's config; None trains everything, or runs the bare base.
        training: False for generation with a cache of batch x tokens keys and values.
        quantization: of the base.
        batch, tokens: rows, and tokens in each.
        engine: "torch" or "tinypeft".
        dtype, adapter_dtype: of the base's numbers that are not quantized, and of the adapter's.
        optimizer: "adamw", "adamw_8bit", "paged_adamw_8bit", "sgd", "sgd_momentum" or "adafactor".
        master_weights: whether a float32 copy of 16-bit weights is trained; by default where all weights are.
        checkpointing: keep only what enters each block, and compute the rest again.
        attention: "sdpa" or "eager".
        margin: share to be kept free.
        prepared: whether prepare_model_for_kbit_training has stored 16-bit weights in float32.
    """
    for name, value, known in (("engine", engine, ENGINES), ("attention", attention, ATTENTIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(known)}")
    if batch < 1 or tokens < 1:
        raise ValueError(f"batch={batch} and tokens={tokens} must be at least 1")
    if quantization is not None and method is None and training:
        raise ValueError("quantized weights cannot be trained: name a method, such as LoraConfig(r=16) for QLoRA, or leave "
                         "quantization out")
    itemsize, adapter_itemsize = dtype_bytes(dtype), dtype_bytes(adapter_dtype, "adapter_dtype")
    bare = bare_model(model, quantization)
    config = bare.config
    if tokens > config.max_position_embeddings:
        raise ValueError(f"{tokens} tokens are more than the model's {config.max_position_embeddings} positions")
    parts = dict.fromkeys(PARTS, 0.0)
    parts["base weights"] = weight_bytes(bare, itemsize, prepared)
    largest = max((p.size for p in bare.parameters() if isinstance(p, QuantizedParameter)), default=0)
    adapted = adapt(bare, method)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    trainable = sum(p.size for p in trained) if training or method is not None else 0
    if method is not None:
        parts["adapter weights"] = trainable * adapter_itemsize
    if master_weights is None:
        master_weights = training and method is None and itemsize == 2
    d, layers, width = config.hidden_size, config.num_hidden_layers, max(itemsize, 4) if prepared else itemsize
    rows = batch * tokens
    if training:
        each = adapter_itemsize if method is not None else itemsize
        parts["gradients"] = trainable * each
        parts["master weights"] = 4 * trainable if master_weights else 0
        parts["optimizer states"] = optimizer_bytes([p.shape for p in trained], optimizer)
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * d
        kv = config.num_key_value_heads * config.head_dim
        block = rows * (2 * 4 * d + width * (7 * d + 2 * kv + 4 * inner))
        if attention == "eager":
            block += batch * config.num_attention_heads * tokens**2 * (4 + 2 * width)
        parts["activations"] = layers * (rows * d * width if checkpointing else block)
        parts["recomputed block"] = block if checkpointing else 0
        parts["logits and loss"] = rows * config.vocab_size * (width + 8)
        parts["dequantized weight"] = largest * itemsize
        if parts["recomputed block"] + parts["dequantized weight"] > parts["logits and loss"]:
            parts["logits and loss"], peak = 0.0, "the backward pass"
        else:
            parts["recomputed block"] = parts["dequantized weight"] = 0.0
            peak = "the loss"
    else:
        parts["dequantized weight"] = largest * itemsize
        parts["key-value cache"] = rows * 2 * layers * config.num_key_value_heads * config.head_dim * width
        peak = "generation"
    conditions: dict[str, Any] = {
        "engine": engine, "batch": batch, "tokens": tokens, "dtype": dtype, "adapter dtype": adapter_dtype,
        "optimizer": optimizer, "attention": attention, "checkpointing": checkpointing, "prepared": prepared,
        "margin": f"{margin:.0%}"}
    return Breakdown(f"{'training' if training else 'running'} {model if isinstance(model, str) else type(model).__name__}",
                     parts, peak, trainable if training else 0, margin, conditions)


def adapter_bytes(model: str | CausalLM, method: PeftConfig, dtype: str = "float32") -> int:
    """Bytes of the adapter's saved tensors."""
    return sum(p.size for p in adapt(bare_model(model), method).parameters() if p.requires_grad) * dtype_bytes(dtype)


def merge_memory(model: str | CausalLM, method: PeftConfig, *, dtype: str = "bfloat16", adapter_dtype: str = "float32",
                 margin: float = 0.0) -> Breakdown:
    """What merging an adapter into the base needs: the base in `dtype`, and the change of its largest target."""
    bare = bare_model(model)
    parts = {"base weights": float(weight_bytes(bare, dtype_bytes(dtype)))}
    largest = max(p.size for p in bare.parameters())
    adapted = adapt(bare, method)
    trainable = sum(p.size for p in adapted.parameters() if p.requires_grad)
    parts["adapter weights"] = float(trainable * dtype_bytes(adapter_dtype))
    parts["change of one weight"] = float(largest * dtype_bytes(adapter_dtype))
    return Breakdown(f"merging into {model}", parts, "the merge", 0, margin, {"dtype": dtype, "margin": f"{margin:.0%}"})


__all__ = ["Breakdown", "adapter_bytes", "memory", "merge_memory", "parameter_bytes"]
