"""What memory(engine="tinypeft") says, against the peak that tracemalloc sees over the second step of real training.

NumPy reports its arrays to tracemalloc. The model, its gradients and the optimizer's states are part of both numbers.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
from conftest import some

from tinypeft import AutoModelForCausalLM
from tinypeft.budget import memory
from tinypeft.budget.phantom import Ledger
from tinypeft.budget.rehearsal import _Codes, train_step
from tinypeft.nn import CausalLM, GPT2Config, Linear, LlamaConfig
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
from tinypeft.quant import BitsAndBytesConfig, Linear4bit, replace_with_bnb_linear
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
@pytest.mark.parametrize("method", some(METHODS, ["full", "lora", "prefix"]))
def test_every_method_on_gpt2(method, checkpointing):
    compare(GPT2, METHODS[method], None, 2, 128, checkpointing, within=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("method", ["full", "lora", "ia3", "houlsby", "prefix", "prompt"])
def test_methods_on_llama(method, checkpointing):
    compare(LLAMA, METHODS[method], None, 2, 128, checkpointing, within=0.03)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("shape", some([GPT2, LLAMA], [LLAMA]), ids=["gpt2", "llama"])
@pytest.mark.parametrize("quantization", [NF4, BitsAndBytesConfig(load_in_4bit=True), BitsAndBytesConfig(load_in_8bit=True)],
                         ids=["double", "single", "int8"])
def test_quantized_bases(quantization, shape, checkpointing):
    compare(shape, LORA, quantization, 2, 128, checkpointing, within=0.03)


@pytest.mark.parametrize("tokens", [1, 16])
def test_few_tokens_where_the_optimizers_step_needs_the_most(tokens):
    shape = GPT2Config(n_layer=2, n_embd=256, n_head=4, vocab_size=4000, n_positions=64)
    compare(shape, None, None, 1, tokens, True, within=0.1)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("method", some(["full", "lora", "prefix"], ["lora"]))
def test_the_bundled_base(method, checkpointing):
    compare("tinypeft/surnames", METHODS[method], None, 16, 24, checkpointing, within=0.1)


@pytest.mark.real
@pytest.mark.parametrize(("method", "quantization"), [("full", None), ("lora", None), ("lora", NF4)])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_smollm2(method, quantization, checkpointing):
    compare("tinypeft/smollm2-135m-instruct", METHODS[method], quantization, 2, 128, checkpointing, within=0.1)


EXPRESSIONS: dict[str, Any] = {
    "sum of a product": lambda x, y: (x * y) + y, "and the other way round": lambda x, y: y + (x * y),
    "a number": lambda x, y: (x * y) + 0.5, "quotient": lambda x, y: (x * y) / y, "divisor": lambda x, y: y / (x * y),
    "minus": lambda x, y: -(x * y), "two products": lambda x, y: (x * y) * (x + y), "in place": lambda x, y: _in_place(x),
    "transposed and flat": lambda x, y: x.T.reshape(-1), "flat": lambda x, y: x.reshape(-1),
    "half": lambda x, y: x[: len(x) // 2], "chosen rows": lambda x, y: x[np.arange(0, len(x), 2)],
    "softmax": lambda x, y: np.exp(x - x.max(axis=1, keepdims=True)),
    "matrix product": lambda x, y: x @ y.T, "joined": lambda x, y: np.concatenate([x, y]), "norm": lambda x, y: (x * x).sum()}


def _in_place(x: Any) -> Any:
    y = x.copy()
    y += x
    y *= 2
    return y


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_arrays_without_values_take_what_numpy_takes(name):
    ledger = Ledger()
    x, y = ledger.array((512, 512)), ledger.array((512, 512))
    before = ledger.live
    result = EXPRESSIONS[name](x, y)
    said = ledger.live - before, ledger.peak - before
    arrays = [np.ones((512, 512), np.float32) for _ in range(2)]
    tracemalloc.start()
    real = EXPRESSIONS[name](*arrays)
    seen = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.shape == np.shape(real)
    assert said == pytest.approx(seen, abs=20_000)


def test_dequantizing_needs_the_constants_too():
    shape = 1024, 1024
    layer = Linear(*shape, bias=False)
    layer.weight.load(np.ones(shape, np.float32))
    real, ledger = Linear4bit.of(layer, NF4), Ledger()
    codes = _Codes(real.weight, ledger)
    values = codes.values()
    tracemalloc.start()
    numbers = real.weight.values()
    seen = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (ledger.live, ledger.peak) == (numbers.nbytes, pytest.approx(seen[1], rel=0.01))
    assert values.shape == numbers.shape
