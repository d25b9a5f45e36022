"""Gradient checkpointing of whole models: the same gradients bit for bit, whatever is frozen, for less memory."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest
from peft_cases import CASES, IDS, adapted, assert_same, base, config_of, scramble

from tinypeft import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    LlamaConfig,
    LoraConfig,
    Tensor,
    checkpoint,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from tinypeft.autograd import observe, ops
from tinypeft.quant import replace_with_bnb_linear

KINDS = ("gpt2", "llama")


def step(model: Any, seed: int = 3, **options: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Loss and gradients of a training step."""
    model.zero_grad()
    model.train(seed=seed)
    loss = model(IDS, labels=IDS, **options).loss
    loss.backward()
    model.eval()
    return loss.data, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def both(model: Any, **options: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The gradients without and with checkpointing; the losses are equal."""
    loss, plain = step(model, **options)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    again, checkpointed = step(model, **options)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert_same(again, loss)
    return plain, checkpointed


def assert_same_gradients(plain: dict[str, np.ndarray], checkpointed: dict[str, np.ndarray]) -> None:
    assert plain
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        assert_same(checkpointed[name], gradient)


# --- the same gradients ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_full_fine_tuning(kind):
    assert_same_gradients(*both(base(kind)))


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_every_method_on_a_frozen_base(kind, method):
    """Nothing before the first block wants a gradient here, where other libraries lose all of them; a prefix is made outside
    of the blocks and used in each."""
    plain, checkpointed = both(adapted(method, kind))
    assert plain
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():  # a prefix's gradients are summed in another order
        np.testing.assert_allclose(checkpointed[name], gradient, rtol=1e-10, atol=1e-12, err_msg=name)


def test_dropout_draws_the_same_numbers_twice():
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=97, n_positions=16, n_embd=16, n_layer=2, n_head=2,
                                                        resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3), dtype="float64")
    assert_same_gradients(*both(model))
    peft_model = scramble(get_peft_model(model, LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear")))
    assert_same_gradients(*both(peft_model))


@pytest.mark.parametrize("kind", KINDS)
def test_qlora(kind):
    model = replace_with_bnb_linear(base(kind, "float32"), BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    peft_model = scramble(get_peft_model(model, config_of("lora")))
    assert_same_gradients(*both(peft_model))
    model.gradient_checkpointing_disable()
    assert prepare_model_for_kbit_training(model) is model
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("options", [
    {"attention_mask": np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])}, {"position_ids": np.array([[0, 1, 2, 3, 5, 7]])},
    {"output_hidden_states": True}], ids=["mask", "positions", "hidden states"])
def test_options_of_the_call(options):
    assert_same_gradients(*both(base("llama"), **options))


def test_a_mixed_batch_keeps_its_activations():
    """Which row goes through which adapter is known during the call only, not when backward() computes a block again."""
    peft_model = adapted("lora", name="a")
    peft_model.add_adapter("b", config_of("lora"))
    peft_model.set_adapter(["a", "b"])
    scramble(peft_model)
    assert_same_gradients(*both(peft_model, adapter_names=["a", "b"]))


def test_a_tensor_made_outside_is_differentiated_once_through_all_blocks():
    """Two checkpoints share what was computed before them: its gradient is the sum, and its past is walked once."""
    x, w = (Tensor(np.random.default_rng(i).standard_normal((3, 3)), requires_grad=True) for i in range(2))

    def run(wrap: Any) -> list[np.ndarray]:
        x.grad = w.grad = None
        shared = ops.exp(w)
        first = wrap(lambda z: ops.tanh(z * shared), x)
        wrap(lambda z: z * shared + first, first).sum().backward()
        return [x.grad.copy(), w.grad.copy()]

    for received, expected in zip(run(checkpoint), run(lambda fn, *inputs: fn(*inputs)), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-12)
    for received, expected in zip(run(lambda fn, z: checkpoint(lambda z: checkpoint(fn, z), z)), run(checkpoint), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-12)


def test_a_function_that_returns_its_input():
    x = Tensor(np.ones(3), requires_grad=True)
    y = x * 2.0
    (checkpoint(lambda z: z, y) * 3.0 + y).sum().backward()
    assert_same(x.grad, np.full(3, 8.0))


# --- when it acts ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
def test_without_training_nothing_is_computed_twice(kind):
    model = base(kind, "float32")
    expected, text = model(IDS).logits.data, model.generate(IDS, max_new_tokens=3)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(model(IDS).logits.data, expected)
    assert_same(model.generate(IDS, max_new_tokens=3), text)
    seen: list[str] = []
    loss = model(IDS, labels=IDS).loss
    with observe(lambda moment, phase, name, arrays: seen.append(phase)):
        loss.backward()
    assert set(seen) == {"backward"}
    model.train(seed=0)
    assert_same(model.generate(IDS, max_new_tokens=3), text)


def peak(model: Any, ids: np.ndarray) -> int:
    """Most bytes that a training step adds to what the model has."""
    model.train(seed=0)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    model(ids, labels=ids).loss.backward()
    most = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("config", [
    GPT2Config(vocab_size=64, n_positions=64, n_embd=64, n_layer=8, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
    LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=176, num_hidden_layers=8, num_attention_heads=4,
                max_position_embeddings=64)], ids=KINDS)
def test_memory_of_eight_frozen_blocks_falls_below_half(config):
    """Measured: to 0.33 of it in GPT-2 and 0.22 in Llama."""
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(r=2))
    ids = np.random.default_rng(0).integers(0, 64, (8, 64))
    everything = peak(model, ids)
    model.gradient_checkpointing_enable()
    assert peak(model, ids) < everything / 2
