"""From a model in floating point to a quantized one, and what is done before an adapter is trained on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.nn import CausalLM, Conv1D, Linear
from tinypeft.quant.config import BitsAndBytesConfig
from tinypeft.quant.linear import Linear4bit, Linear8bitLt, QuantizedLinear


def replace_with_bnb_linear(model: CausalLM, quantization_config: BitsAndBytesConfig) -> CausalLM:
    """Put a quantized layer in the place of every linear one, in place; transformers' name for it.

    A model on the meta device stays there, and is quantized tensor by tensor when its values are loaded.

    Raises:
        ValueError: the model carries adapters, is quantized already, or has weights that are not finite.
    """
    if model.adapted or any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise ValueError("a model is quantized once, and before adapters are put into it: load it again with "
                         "from_pretrained(..., quantization_config=)")
    kind = Linear4bit if quantization_config.load_in_4bit else Linear8bitLt
    skip = quantization_config.llm_int8_skip_modules
    skip = ["lm_head"] if skip is None else list(skip) + ["lm_head"] * model.config.tie_word_embeddings
    layers = {path: module for path, module in model.named_modules() if isinstance(module, Linear | Conv1D)
              and not any(f".{path}.".find(f".{name}.") >= 0 for name in skip)}
    for path, layer in layers.items():
        try:
            model.set_submodule(path, kind.of(layer, quantization_config))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    model.config.extra["quantization_config"] = quantization_config.to_dict()
    return model


def prepare_model_for_kbit_training(model: CausalLM, use_gradient_checkpointing: bool = True,
                                    gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> CausalLM:
    """Freeze a model, store what is left of it in float16 as float32, and switch gradient checkpointing on; peft's name.

    Args:
        gradient_checkpointing_kwargs: see `gradient_checkpointing_enable`.
    """
    model.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dtype == np.float16:
            parameter.data = parameter.data.astype(np.float32)
    if use_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)
    return model
