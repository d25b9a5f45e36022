"""What a forward pass in PyTorch keeps for the backward pass: the tensors that its operations save.

    with checkpointing      batch * tokens * width numbers a block, and the loss
    without                 every input that some operation's derivative needs: see torch_ops.py

A frozen weight needs no input for its gradient, so LoRA keeps less than full fine-tuning; but adapters in float32 beside a
base in 16 bits keep a wider copy of each input of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinypeft.budget.torch_step import WIDTHS, Setting, kept_activations, phases_of
from tinypeft.budget.weights import bare_model, dtype_bytes
from tinypeft.nn import CausalLM
from tinypeft.peft import PeftConfig
from tinypeft.quant import BitsAndBytesConfig


@dataclass(frozen=True)
class Activations:
    """Bytes kept after the forward pass.

    Attributes:
        block: by one more block.
        total: by all of them, the embeddings and the loss.
    """

    block: int
    total: int


def activations(model: str | CausalLM, method: PeftConfig | None = None, *, quantization: BitsAndBytesConfig | None = None,
                batch: int = 1, tokens: int = 2048, dtype: str = "bfloat16", adapter_dtype: str = "float32",
                attention: str = "sdpa", checkpointing: bool = False, prepared: bool = False) -> Activations:
    """Saved tensors of transformers and peft; arguments as for `memory`.

    Raises:
        ValueError: as `memory`.

    >>> activations("llama-2-70b", checkpointing=True).block  # 2048 tokens of 8192 numbers of 2 bytes
    33554432
    """
    for name, given in (("dtype", dtype), ("adapter_dtype", adapter_dtype)):
        dtype_bytes(given, name)
    stored, bare = WIDTHS[dtype], bare_model(model)
    stream = np.result_type(stored, np.float32) if prepared else stored
    setting = Setting(batch, tokens, stream, WIDTHS[adapter_dtype], stored, attention, checkpointing)
    blocks = bare.config.num_hidden_layers
    whole, fewer = (phases_of(bare, method, quantization, kept_activations, setting, n)[0][0][1]["activations"]
                    for n in (blocks, max(blocks - 1, 1)))
    return Activations(whole - fewer, whole)
