"""What training or running a model needs in memory, part by part, at the moment when it needs the most.

    weights  +  gradients  +  optimizer states  +  activations       16 bytes a parameter, and what the tokens take

Nothing is estimated from a rule of thumb. Weights are counted tensor by tensor; the rest comes from running a step on arrays
that have shapes but no values (phantom.py), with the operations of this library (rehearsal.py) or those of PyTorch
(torch_ops.py, torch_model.py). The step's phases do not need their most at the same time, so the largest of them is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.catalog import refuse_counted_only
from tinypeft.budget.rehearsal import rehearse_generation, rehearse_training
from tinypeft.budget.torch_model import COMPUTE
from tinypeft.budget.torch_step import WIDTHS, Phase, Setting, generation_phases, phases_of, training_phases
from tinypeft.budget.weights import (
    BARE_OPTIMIZERS,
    adapt,
    adapter_parameters,
    bare_model,
    dtype_bytes,
    optimizer_bytes,
    weight_bytes,
)
from tinypeft.nn import CausalLM
from tinypeft.peft import PeftConfig, PeftModel
from tinypeft.quant import BitsAndBytesConfig

PARTS = ("base weights", "adapter weights", "master weights", "gradients", "optimizer states", "activations",
         "recomputed block", "logits and loss", "dequantized weight", "workspace", "key-value cache")
ENGINES = {"torch": "transformers, peft and bitsandbytes", "tinypeft": "this library on a CPU"}
ATTENTIONS = ("sdpa", "eager")


def memory(model: str | CausalLM, method: PeftConfig | None = None, *, training: bool = True,
           quantization: BitsAndBytesConfig | None = None, batch: int = 1, tokens: int = 2048, engine: str = "torch",
           dtype: str = "bfloat16", adapter_dtype: str = "float32", optimizer: str = "adamw",
           master_weights: bool | None = None, checkpointing: bool = True, attention: str = "sdpa", margin: float = 0.0,
           prepared: bool = False) -> Breakdown:
    """What a training step, or reading a prompt, needs at its peak; see README.md beside this file for how well it is met.

    Args:
        model: a name of the catalog, a folder, or a model (on the meta device or not; only its shape matters).
        method: the adapter's config. None trains all weights or, with training=False, runs the bare model.
        training: False for generation: batch texts of so many tokens are read into the cache.
        quantization: of the base. What it leaves as it is, `replace_with_bnb_linear` says.
        batch, tokens: rows, and tokens in each; a soft prompt's come on top.
        engine: "torch" for transformers, peft and bitsandbytes on a GPU, the optimizer fused; or "tinypeft" for this library on
            a CPU.
        dtype, adapter_dtype: of the base's numbers that are not quantized, and of the adapter's: peft keeps those in float32
            unless told otherwise. ("tinypeft" computes in float32 where bfloat16 is asked for, and has adapters in float32.)
        optimizer: "adamw" (two float32 means a number), "adamw_8bit" or "paged_adamw_8bit" (bitsandbytes), "sgd",
            "sgd_momentum", "adafactor".
        master_weights: whether 16-bit weights have a float32 copy, which is what is trained: by default where all are trained,
            which makes 16 bytes a parameter with AdamW, and 12 without.
        checkpointing: keep only what enters each block, and compute the rest again in the backward pass.
        attention: "sdpa", PyTorch's fused kernel, which keeps no scores, or "eager", which does. (Of no effect for "tinypeft",
            whose own attention keeps them.)
        margin: the share to be kept free on top, at least 0.
        prepared: whether peft's prepare_model_for_kbit_training has stored in float32 what is not quantized.

    Raises:
        ValueError: an unknown name (near ones are listed) or a value that makes no sense.

    >>> from tinypeft.peft import LoraConfig
    >>> all_linear = LoraConfig(r=16, target_modules="all-linear")
    >>> nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    >>> memory("llama-3-8b", all_linear, quantization=nf4).parts["base weights"]
    5702296448.0
    """
    _check(engine, attention, batch, tokens, margin, optimizer)
    if not (method is None or isinstance(method, PeftConfig)):
        raise TypeError(f"method {method!r}: expected an adapter's config, such as LoraConfig(r=16), or None for all weights")
    if quantization is not None and method is None and training:
        raise ValueError("quantized weights cannot be trained: name a method, such as LoraConfig(r=16) for QLoRA, or leave "
                         "quantization out")
    dtype, adapter_dtype = str(dtype).removeprefix("torch."), str(adapter_dtype).removeprefix("torch.")
    itemsize, _ = dtype_bytes(dtype), dtype_bytes(adapter_dtype, "adapter_dtype")
    bare = bare_model(model)
    refuse_counted_only(bare)
    limit, virtual = bare.config.max_position_embeddings, getattr(method, "num_virtual_tokens", 0)
    if tokens + virtual > limit:
        added = f" and {virtual} virtual ones" if virtual else ""
        raise ValueError(f"{tokens:,} tokens{added} are more than the model's {limit:,} positions: ask for at most "
                         f"{limit - virtual:,}")
    if master_weights is None:
        master_weights = training and method is None and itemsize == 2 and engine == "torch"
    asked = _Asked(bare, method, quantization, training, batch, tokens, dtype, adapter_dtype, optimizer, bool(master_weights),
                   checkpointing, attention, prepared)
    phases, trainable, extra = asked.on_tinypeft() if engine == "tinypeft" else asked.on_torch()
    peak, parts = max(phases, key=lambda phase: sum(phase[1].values()))
    if unknown := parts.keys() - set(PARTS):
        raise AssertionError(f"allocations of an unknown kind: {unknown}")
    name = model if isinstance(model, str) else type(model).__name__
    conditions = {"engine": engine, "batch": batch, "tokens": tokens, **extra, "margin": f"{margin:.0%}"}
    return Breakdown(_title(name, method, quantization, training), {part: float(parts.get(part, 0)) for part in PARTS}, peak,
                     trainable, margin, conditions)


@dataclass
class _Asked:
    """A question to `memory`, checked."""

    bare: CausalLM
    method: PeftConfig | None
    quantization: BitsAndBytesConfig | None
    training: bool
    batch: int
    tokens: int
    dtype: str
    adapter_dtype: str
    optimizer: str
    master_weights: bool
    checkpointing: bool
    attention: str
    prepared: bool

    def on_torch(self) -> tuple[list[Phase], int, dict[str, Any]]:
        """Phases, parameters trained, and conditions."""
        stored, adapter = WIDTHS[self.dtype], WIDTHS[self.adapter_dtype]
        stream = np.result_type(stored, np.float32) if self.prepared else stored
        setting = Setting(self.batch, self.tokens, stream, adapter, stored, self.attention, self.checkpointing)
        run = training_phases if self.training else generation_phases
        phases, shapes = phases_of(self.bare, self.method, self.quantization, run, setting)
        conditions: dict[str, Any] = {"dtype": self.dtype}
        if self.method is not None:
            conditions["adapter dtype"] = self.adapter_dtype
        if self.quantization is not None:
            compute = COMPUTE[self.quantization.bnb_4bit_compute_dtype] if self.quantization.load_in_4bit else stored
            conditions |= {"compute dtype": self.quantization.bnb_4bit_compute_dtype or str(compute), "prepared": self.prepared}
        conditions["attention"] = self.attention
        if not self.training:
            return phases, 0, conditions
        trainable = sum(int(np.prod(shape)) * count for shape, count in shapes.items())
        static = {"optimizer states": optimizer_bytes(shapes, self.optimizer),
                  "master weights": 4 * trainable if self.master_weights else 0}
        phases = [(name, {**kinds, **static}) for name, kinds in phases]
        conditions |= {"optimizer": self.optimizer, "checkpointing": self.checkpointing}
        if self.master_weights:
            conditions["master weights"] = "float32"
        return phases, trainable, conditions

    def on_tinypeft(self) -> tuple[list[Phase], int, dict[str, Any]]:
        """The same for this library."""
        if self.optimizer not in BARE_OPTIMIZERS:
            raise ValueError(f"engine 'tinypeft' has no optimizer {self.optimizer!r}; it has: {', '.join(BARE_OPTIMIZERS)}")
        if self.master_weights:
            raise ValueError("engine 'tinypeft' trains the weights themselves, master_weights must be False")
        model = adapt(bare_model(self.bare, self.quantization), self.method)
        dtype = np.dtype({"bfloat16": "float32"}.get(self.dtype, self.dtype))
        if self.prepared:
            dtype = np.result_type(dtype, np.float32)
        trainable = sum(p.size for p in model.parameters() if p.requires_grad)
        conditions: dict[str, Any] = {"dtype": str(dtype), "attention": "its own, which keeps the scores"}
        if not self.training:
            return rehearse_generation(model, self.batch, self.tokens, dtype), 0, conditions
        if self.checkpointing:
            model.gradient_checkpointing_enable()
        conditions |= {"optimizer": self.optimizer, "checkpointing": self.checkpointing}
        return rehearse_training(model, self.batch, self.tokens, self.optimizer, dtype), trainable, conditions


def adapter_bytes(model: str | CausalLM, method: PeftConfig, dtype: str = "float32") -> int:
    """Bytes of the tensors that an adapter's file holds.

    >>> from tinypeft.peft import LoraConfig
    >>> adapter_bytes("llama-2-7b", LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), "bfloat16")
    16777216
    """
    return sum(p.size for p in adapter_parameters(adapt(bare_model(model), method))) * dtype_bytes(dtype)


def merge_memory(model: str | CausalLM, method: PeftConfig, *, dtype: str = "bfloat16", adapter_dtype: str = "float32",
                 margin: float = 0.0) -> Breakdown:
    """What merging an adapter into the base needs: all of the base in `dtype`, and the change of the largest target's weight.

    A quantized base is dequantized first, since rounding the merged weights to 4 bits again would lose most of the change.

    Raises:
        ValueError: an adapter that is not a change of the base's weights; or as `memory`.
    """
    bare, itemsize, adapter_itemsize = bare_model(model), dtype_bytes(dtype), dtype_bytes(adapter_dtype, "adapter_dtype")
    base = weight_bytes(bare, itemsize)
    adapted = adapt(bare, method)
    assert isinstance(adapted, PeftModel)
    layers = list(adapted.layers())
    if adapted.prompt_encoder or not all(layer.mergeable for layer in layers):
        raise ValueError(f"{type(method).__name__} cannot be merged: it is not a change of the base's weights")
    changes = [getattr(layer.base_layer, "weight", None) for layer in layers]
    largest = max((weight.size for weight in changes if weight is not None), default=0)
    trained = sum(p.size for p in adapter_parameters(adapted))
    parts = {"base weights": float(base), "adapter weights": float(trained * adapter_itemsize),
             "change of one weight": float(largest * adapter_itemsize), "merged weight": float(largest * itemsize)}
    name = model if isinstance(model, str) else type(model).__name__
    return Breakdown(f"{name}: merging {_name(method)}", parts, "the largest weight's merge", 0, margin,
                     {"dtype": dtype, "adapter dtype": adapter_dtype, "margin": f"{margin:.0%}"})


def _check(engine: str, attention: str, batch: int, tokens: int, margin: float, optimizer: str) -> None:
    for name, value, known in (("engine", engine, ENGINES), ("attention", attention, ATTENTIONS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; known: {', '.join(known)}")
    optimizer_bytes({}, optimizer)
    for name, number in (("batch", batch), ("tokens", tokens)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {number!r}")
    if not 0 <= margin < float("inf"):
        raise ValueError(f"margin is a share of the total, such as 0.1, and at least 0; got {margin!r}")


def _name(method: PeftConfig) -> str:
    return type(method).__name__.removesuffix("Config")


def _title(model: str, method: PeftConfig | None, quantization: BitsAndBytesConfig | None, training: bool) -> str:
    """Such as "llama-2-7b, NF4 with double quantization: training with Lora"."""
    base = ""
    if quantization is not None and quantization.load_in_8bit:
        base = ", 8 bits"
    elif quantization is not None:
        nested = " with double quantization" if quantization.bnb_4bit_use_double_quant else ""
        base = f", {quantization.bnb_4bit_quant_type.upper()}{nested}"
    doing = "training" if training else "generation"
    return f"{model}{base}: {doing} {'with ' + _name(method) if method else 'all weights' if training else ''}".strip()


__all__ = ["Breakdown", "adapter_bytes", "memory", "merge_memory"]
