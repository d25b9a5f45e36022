"""Small models with values, in float64, on which a property is tried: what holds for every model has to hold for these."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, no_grad
from tinypeft.claims.settings import NF4_EXACT
from tinypeft.nn import CausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, generator
from tinypeft.peft import BottleneckConfig, LoraConfig, PeftModel, get_peft_model
from tinypeft.peft.bottleneck import BottleneckLayer
from tinypeft.quant import replace_with_bnb_linear

WIDTH, VOCABULARY = 32, 64


def small_gpt2(layers: int = 2) -> GPT2LMHeadModel:
    """A GPT-2 with random weights, larger than a fresh model's, so that every layer matters; always the same."""
    config = GPT2Config(VOCABULARY, n_positions=256, n_embd=WIDTH, n_layer=layers, n_head=4)
    return GPT2LMHeadModel(config).to("float64").init_weights(std=0.3)


def small_llama(layers: int = 2, width: int = WIDTH) -> LlamaForCausalLM:
    """A Llama with random weights; always the same."""
    config = LlamaConfig(VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                         num_attention_heads=4)
    return LlamaForCausalLM(config).to("float64").init_weights(std=0.3)


# Two rows of tokens for a toy Llama.
IDS = np.arange(24).reshape(2, 12) % 13


def toy_llama(quantized: bool = False) -> LlamaForCausalLM:
    """Two layers of width 32 whose four query heads share two key heads, so that k and v are half as wide as q and o."""
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32))
    model.to("float64").init_weights(seed=0, std=0.2)
    if quantized:
        replace_with_bnb_linear(model, NF4_EXACT)
    return model


def toy_lora(config: LoraConfig, *, trained: bool = False, quantized: bool = False) -> PeftModel:
    """A toy Llama with LoRA in it, as it starts; or with numbers in B, as after training."""
    model = get_peft_model(toy_llama(quantized), config)
    random = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if trained and ".lora_B." in name:
            parameter.data = random.standard_normal(parameter.shape)
    return model


def first_layer(model: PeftModel, name: str) -> Any:
    """The first layer that an adapter wraps, of this kind, such as "k_proj"."""
    return next(layer for layer in model.layers() if layer.path.endswith(name))


def inputs(n_in: int, rows: int = 5, seed: int = 1) -> Tensor:
    """Random vectors (rows, n_in)."""
    return Tensor(np.random.default_rng(seed).standard_normal((rows, n_in)))


# ---- what they are asked --------------------------------------------------------------------------------------------

def token_ids(tokens: int = 6) -> np.ndarray:
    """(1, tokens), always the same."""
    return generator(0, "tokens").integers(0, VOCABULARY, (1, tokens))


def logits(model: CausalLM | PeftModel, ids: np.ndarray | None = None, **call: Any) -> np.ndarray:
    """What a model says to these tokens, (B, T, V)."""
    with no_grad():
        return np.asarray(model(token_ids() if ids is None else ids, **call).logits.data)


def as_if_trained(peft_model: PeftModel, seed: int = 0, std: float = 0.3) -> PeftModel:
    """Give everything that is trained random values, those that start at zero too."""
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            parameter.data = generator(seed, name).standard_normal(parameter.shape).astype(parameter.dtype) * std
    return peft_model


def adapter_layer(**options: Any) -> BottleneckLayer:
    """A real adapter, full of numbers, after the attention of a small GPT-2."""
    peft_model = as_if_trained(get_peft_model(small_gpt2(), BottleneckConfig(reduction_factor=4, **options)))
    layer = peft_model.get_base_model().get_submodule("transformer.h.0.attention_add")
    assert isinstance(layer, BottleneckLayer)
    return layer


def base_values(peft_model: PeftModel) -> np.ndarray:
    """A copy of all numbers of the base, as they are now, (N,)."""
    adapters = {id(p) for name in peft_model.peft_config for p in peft_model.parameters_of(name).values()}
    return np.concatenate([p.data.reshape(-1) for p in peft_model.parameters() if id(p) not in adapters])


def largest(difference: Any) -> float:
    """max |difference|."""
    return float(np.abs(difference).max())
