"""From a model in floating point to a quantized one, and what is done before an adapter is trained on it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from tinypeft.nn import CausalLM, Conv1D, Linear
from tinypeft.quant.config import BitsAndBytesConfig
from tinypeft.quant.linear import Linear4bit, Linear8bitLt, QuantizedLinear


def replace_with_bnb_linear(model: CausalLM, quantization_config: BitsAndBytesConfig) -> CausalLM:
    """Put a quantized layer in the place of every linear one, in place; transformers' name for it.

    A model on the meta device stays there, and is quantized tensor by tensor when its values are loaded.

    Raises:
        ValueError: the model carries adapters, is quantized already, or has weights that are not finite; or there is nothing to
            quantize. The model is unchanged.
    """
    if model.adapted or any(isinstance(module, QuantizedLinear) for module in model.modules()):
        raise ValueError("a model is quantized once, and before adapters are put into it: load it again with "
                         "from_pretrained(..., quantization_config=)")
    config = copy.deepcopy(quantization_config)
    if model.config.tie_word_embeddings and not config.skips("lm_head"):  # its weight is the token table
        config.llm_int8_skip_modules = [*(config.llm_int8_skip_modules or []), "lm_head"]
    kind, layers = Linear4bit if config.load_in_4bit else Linear8bitLt, {}
    for path, module in model.named_modules():
        if isinstance(module, Linear | Conv1D) and not config.skips(path):
            try:
                layers[path] = kind.of(module, config)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    if not layers:
        raise ValueError(f"llm_int8_skip_modules={config.llm_int8_skip_modules} leaves no linear layer to quantize")
    for path, layer in layers.items():
        model.set_submodule(path, layer)
    model.config.extra["quantization_config"] = config.to_dict()
    return model


def prepare_model_for_kbit_training(model: CausalLM, use_gradient_checkpointing: bool = True,
                                    gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> CausalLM:
    """Freeze a model, store what of it is in float16 as float32, and switch gradient checkpointing on; peft's name.

    Args:
        use_gradient_checkpointing: of no effect, as in peft, where nothing is quantized.
        gradient_checkpointing_kwargs: see `gradient_checkpointing_enable`.
    """
    model.requires_grad_(False)
    parameters = list(model.parameters())
    for parameter in parameters:
        if parameter.dtype == np.float16:
            parameter.cast(np.dtype(np.float32))
    if use_gradient_checkpointing and any(parameter.quantized for parameter in parameters):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)
    return model
