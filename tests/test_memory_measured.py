"""What memory(engine="tinypeft") says, against the peak that tracemalloc sees over the second step of real training.

NumPy reports its arrays to tracemalloc. The model, its gradients and the optimizer's states are part of both numbers.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

from tinypeft import AutoModelForCausalLM
from tinypeft.budget import memory
from tinypeft.budget.rehearsal import train_step
from tinypeft.nn import CausalLM, GPT2Config, LlamaConfig
from tinypeft.peft import (
    AdaLoraConfig,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SubspaceConfig,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)
from tinypeft.quant import BitsAndBytesConfig, replace_with_bnb_linear
from tinypeft.training.optimizers import AdamW

GPT2 = GPT2Config(n_layer=3, n_embd=128, n_head=4, vocab_size=1000, n_positions=256)
LLAMA = LlamaConfig(num_hidden_layers=3, hidden_size=128, intermediate_size=352, num_attention_heads=8, num_key_value_heads=2,
                    vocab_size=1000, max_position_embeddings=256)
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
LORA = LoraConfig(r=8, target_modules="all-linear")
METHODS: dict[str, Any] = {
    "full": None, "lora": LORA, "lora, dropout": LoraConfig(r=8, lora_dropout=0.1), "dora": LoraConfig(r=8, use_dora=True),
    "adalora": AdaLoraConfig(total_step=9, tinit=3, tfinal=1), "vera": VeraConfig(r=16), "ulora": ULoraConfig(),
    "ia3": IA3Config(), "houlsby": BottleneckConfig(), "prefix": PrefixTuningConfig(num_virtual_tokens=8),
    "prompt": PromptTuningConfig(num_virtual_tokens=8), "bitfit": BitFitConfig(), "norms": LNTuningConfig(),
    "subspace": SubspaceConfig()}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """What the first step of a process imports, and tables that are made once, are no part of a step."""
    for kind in ("nf4", "fp4"):
        measured(GPT2, LORA, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind), 1, 8, True)


def real_model(shape: Any, method: Any, quantization: Any) -> Any:
    if isinstance(shape, str):
        options = {"quantization_config": quantization} if quantization else {}
        base: CausalLM = AutoModelForCausalLM.from_pretrained(shape, **options)
    else:
        base = AutoModelForCausalLM.from_config(shape)
        if quantization:
            replace_with_bnb_linear(base, quantization)
    return base if method is None else get_peft_model(base, method)


def measured(shape: Any, method: Any, quantization: Any, batch: int, tokens: int, checkpointing: bool) -> int:
    """Peak bytes of the second step, all that the step needs included."""
    gc.collect()
    tracemalloc.start()
    try:
        model = real_model(shape, method, quantization)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train(seed=0)
        optimizer = AdamW([p for p in model.parameters() if p.requires_grad])
        ids = np.random.default_rng(0).integers(0, 50, (batch, tokens))
        train_step(model, optimizer, ids, 1)
        gc.collect()
        tracemalloc.reset_peak()
        train_step(model, optimizer, ids, 2)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def compare(shape: Any, method: Any, quantization: Any, batch: int, tokens: int, checkpointing: bool, within: float) -> None:
    model = shape if isinstance(shape, str) else AutoModelForCausalLM.from_config(shape, device="meta")
    said = memory(model, method, quantization=quantization, batch=batch, tokens=tokens, engine="tinypeft", dtype="float32",
                  checkpointing=checkpointing)
    peak = measured(shape, method, quantization, batch, tokens, checkpointing)
    assert said.total == pytest.approx(peak, rel=within), f"{said}\nmeasured {peak:,} bytes, ratio {said.total / peak:.3f}"


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_gpt2(method, checkpointing):
    compare(GPT2, METHODS[method], None, 2, 128, checkpointing, within=0.03)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("method", ["full", "lora", "ia3", "houlsby", "prefix", "prompt"])
def test_methods_on_llama(method, checkpointing):
    compare(LLAMA, METHODS[method], None, 2, 128, checkpointing, within=0.03)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("shape", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("quantization", [NF4, BitsAndBytesConfig(load_in_4bit=True), BitsAndBytesConfig(load_in_8bit=True)],
                         ids=["double", "single", "int8"])
def test_quantized_bases(quantization, shape, checkpointing):
    compare(shape, LORA, quantization, 2, 128, checkpointing, within=0.03)


@pytest.mark.parametrize("tokens", [1, 16])
def test_few_tokens_where_the_optimizers_step_needs_the_most(tokens):
    shape = GPT2Config(n_layer=2, n_embd=256, n_head=4, vocab_size=4000, n_positions=64)
    compare(shape, None, None, 1, tokens, True, within=0.1)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("method", ["full", "lora", "prefix"])
def test_the_bundled_base(method, checkpointing):
    compare("tinypeft/surnames", METHODS[method], None, 16, 24, checkpointing, within=0.1)


@pytest.mark.real
@pytest.mark.parametrize(("method", "quantization"), [("full", None), ("lora", None), ("lora", NF4)])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_smollm2(method, quantization, checkpointing):
    compare("tinypeft/smollm2-135m-instruct", METHODS[method], quantization, 2, 128, checkpointing, within=0.1)
