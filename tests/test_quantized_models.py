"""Models with quantized layers: what they compute, hold and store, and every adapter on top of them."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from peft_cases import (
    CASES,
    IDS,
    MERGEABLE,
    PROMPTS,
    assert_same,
    base,
    config_of,
    distance,
    logits,
    scramble,
    snapshot,
    trainable,
)

from tinypeft import (
    AutoModelForCausalLM,
    BitFitConfig,
    BitsAndBytesConfig,
    GPT2Config,
    LlamaConfig,
    LoraConfig,
    PeftModel,
    backend,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from tinypeft.autograd import Tensor
from tinypeft.files import read_json, read_safetensors, write_json, write_safetensors
from tinypeft.nn import CausalLM, Conv1D, Linear
from tinypeft.quant import (
    Linear4bit,
    Linear8bitLt,
    dequantize_4bit,
    int8_mixed_scaled_mm,
    int8_vectorwise_quant,
    quantize_4bit,
    replace_with_bnb_linear,
)
from tinypeft.training import AdamW, TrainingArguments, train
from tinypeft.training.checkpoints import describe_run

CONFIGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True},
    "fp4, double": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "int4": {"load_in_4bit": True, "bnb_4bit_quant_type": "int4"},
    "int4, double": {"load_in_4bit": True, "bnb_4bit_quant_type": "int4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
    "int8, no outliers": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
}
KINDS = ("gpt2", "llama")
REFUSED = ("pissa", "olora", "subspace")
NEARLY_IDENTICAL = ("houlsby", "pfeiffer")  # begin near the identity, as in the adapters library
EVERY = pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in CONFIGS])


def config(name: str, **changes: Any) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(**{**CONFIGS[name], **changes})


def quantized(kind: str = "gpt2", name: str = "nf4", dtype: str = "float64", **changes: Any) -> CausalLM:
    return AutoModelForCausalLM.from_pretrained(GOLDEN / f"{kind}_base", dtype=dtype,
                                                quantization_config=config(name, **changes))


def quantized_layers(model: Any) -> dict[str, Any]:
    return {path: module for path, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}


def layer(n_in: int, n_out: int, name: str = "nf4", dtype: Any = np.float32, bias: bool = True, seed: int = 0, **changes: Any
          ) -> tuple[Any, Linear]:
    """A quantized layer and the float one that it was made of."""
    random, plain = np.random.default_rng(seed), Linear(n_in, n_out, bias)
    for parameter in plain.parameters():
        parameter.data = random.standard_normal(parameter.shape).astype(dtype)
    kind = Linear8bitLt if "int8" in name else Linear4bit
    return kind.of(plain, config(name, **changes)), plain


# ---- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CONFIGS if "int8" not in name])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 7, 24), (5, 24), (24,)])
def test_a_4bit_layer_is_a_float_layer_with_dequantized_weights(name, dtype, shape):
    quant, plain = layer(24, 10, name, dtype)
    x = Tensor(np.random.default_rng(1).standard_normal(shape).astype(dtype))
    packed, state = quantize_4bit(plain.weight.data, config(name).bnb_4bit_quant_type,
                                  compress_statistics="double" in name)
    y = quant(x)
    assert (y.dtype, y.shape) == (np.dtype(dtype), (*shape[:-1], 10))
    expected = x.data @ dequantize_4bit(packed, state).T + plain.bias.data
    assert_close(y, expected, 1e-6 if dtype == "float32" else 1e-14)
    assert_close(quant.dequantized()(x), expected, 1e-6 if dtype == "float32" else 1e-14)
    assert distance(expected, plain(x).data) > 0.05  # and not the weights that it was made of


@pytest.mark.parametrize("name", ["int8", "int8, no outliers"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_8bit_layer_quantizes_its_input_too(name, dtype):
    quant, plain = layer(24, 10, name, dtype)
    x = np.random.default_rng(1).standard_normal((3, 7, 24)).astype(dtype)
    x[..., 5] *= 9
    codes_w, scales_w, _ = int8_vectorwise_quant(plain.weight.data.astype(np.float16))
    rows = x.reshape(-1, 24)
    codes, scales, columns = int8_vectorwise_quant(rows.astype(np.float16), 6.0 if name == "int8" else 0.0)
    assert (columns is None) == (name != "int8")
    expected = int8_mixed_scaled_mm(rows, codes, codes_w, scales, scales_w, columns).reshape(3, 7, 10) + plain.bias.data
    y = quant(Tensor(x))
    assert (y.dtype, y.shape) == (np.dtype(dtype), (3, 7, 10))
    assert_close(y, expected, 1e-6)
    # by another way: numbers that the codes stand for, in float64
    used = codes * scales[:, None].astype(np.float64) / 127
    if columns is not None:
        assert columns.tolist() == [5]
        used[:, columns] = rows[:, columns]
    wide = used @ (codes_w * scales_w[:, None].astype(np.float64) / 127).T + plain.bias.data
    assert_close(y, wide.reshape(3, 7, 10), 3e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["nf4, double", "fp4", "int4", "int8"])
def test_gradients_are_those_of_the_product_with_dequantized_weights(name, bias):
    """For 4 bits the layer is linear in x, and central differences are exact but for rounding."""
    quant, _ = layer(12, 7, name, np.float64, bias)
    random = np.random.default_rng(3)
    x, g = Tensor(random.standard_normal((2, 5, 12)), requires_grad=True), random.standard_normal((2, 5, 7))
    quant(x).backward(g)
    W = quant.weight.values()
    assert_close(x.grad, g @ W, 1e-12)
    assert quant.weight.grad is None
    if bias:
        assert_close(quant.bias.grad, g.sum(axis=(0, 1)), 1e-12)
    if "int8" not in name:
        for place in [(0, 0, 0), (1, 3, 7), (0, 4, 11)]:
            step = np.zeros_like(x.data)
            step[place] = 0.5
            slope = ((quant(Tensor(x.data + step)).data - quant(Tensor(x.data - step)).data) * g).sum()
            assert_close(x.grad[place], slope, 1e-12)


def test_a_frozen_input_records_nothing():
    quant, _ = layer(8, 8, bias=False)
    assert quant(Tensor(np.ones((2, 8), np.float32))).node is None


@EVERY
def test_a_quantized_model_is_the_float_model_with_dequantized_weights(kind, name):
    model = quantized(kind, name)
    layers = quantized_layers(model)
    assert len(layers) == (8 if kind == "gpt2" else 14)
    assert {type(module) for module in layers.values()} == {Linear8bitLt if "int8" in name else Linear4bit}
    out = logits(model)
    assert out.dtype == np.float64
    plain = copy.deepcopy(model).dequantize()
    assert not quantized_layers(plain)
    assert {path: type(plain.get_submodule(path)) for path in layers} == dict.fromkeys(
        layers, Conv1D if kind == "gpt2" else Linear)
    assert_close(out, logits(plain), 1e-12 if "int8" not in name else 0.2)  # int8: inputs are rounded as well
    assert distance(out, logits(base(kind))) > 1e-3
    for path, original in base(kind).named_modules():
        if path in layers:
            received = plain.get_submodule(path).weight.data
            assert received.shape == original.weight.shape
            assert distance(received, original.weight.data) < 0.2 * np.abs(original.weight.data).max()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_through_a_quantized_model(kind):
    model = quantized(kind)
    model.requires_grad_()
    model(IDS, labels=IDS).loss.backward()
    twin = copy.deepcopy(model).dequantize()
    twin.requires_grad_()
    twin(IDS, labels=IDS).loss.backward()
    expected = {name: p.grad for name, p in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == parameter.quantized == (not parameter.requires_grad)
        if not parameter.quantized:
            assert_close(parameter.grad, expected[name], 1e-10, name)


# ---- what is held ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), [("nf4", 4.5), ("nf4, double", 4.127), ("int8", 8.0)])
def test_parameters_take_the_bytes_that_they_should(name, bits):
    model = AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=8, hidden_size=512, intermediate_size=512, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=8))
    replace_with_bnb_linear(model, config(name))
    held = stored = 0
    for path, module in quantized_layers(model).items():
        weight = module.weight
        held += 8 * weight.size
        stored += sum(array.nbytes for key, array in weight.stored(f"{path}.weight").items()
                      if not key.endswith(("quant_map", "weight_format")) and "bitsandbytes__" not in key)
    assert 8 * stored / held * 8 == pytest.approx(bits, abs=0.07)


@pytest.mark.parametrize("name", ["nf4, double", "int8"])
def test_no_float_copy_of_the_model_is_ever_held(name):
    """One layer's weights at most are in floating point at a time, and none when the work is done."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=16, hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
        max_position_embeddings=16))
    numbers = sum(module.weight.size for module in model.modules() if isinstance(module, Linear)) - model.lm_head.weight.size
    largest = 4 * 256 * 512
    replace_with_bnb_linear(model, config(name))
    model.requires_grad_(False)
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    ids = np.arange(2)[None]  # few, so that activations are small beside weights

    def step() -> Any:
        return peft_model(ids, labels=ids).loss

    step().backward()  # fills caches
    peft_model.zero_grad()
    gc.collect()
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        loss = step()
        kept = tracemalloc.get_traced_memory()[0] - start
        assert kept < largest, "closures keep weights alive"
        loss.backward()
        peak = tracemalloc.get_traced_memory()[1] - start
    finally:
        tracemalloc.stop()
    assert peak < 4 * numbers / 3
    assert peak < 5 * largest


def test_a_model_without_values_can_be_quantized_and_counted():
    model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=32), device="meta")
    replace_with_bnb_linear(model, config("nf4"))
    peft_model = get_peft_model(model, LoraConfig(r=8))
    assert peft_model.get_nb_trainable_parameters() == (4_194_304, 6_742_609_920)
    with pytest.raises(RuntimeError, match="shapes but no values"):
        peft_model.dequantize()


@EVERY
def test_quantized_weights_count_as_the_numbers_they_stand_for(kind, name):
    counts = [get_peft_model(model, LoraConfig(r=3, target_modules="all-linear")).get_nb_trainable_parameters()
              for model in (quantized(kind, name), base(kind))]
    assert counts[0] == counts[1]


# ---- loading and storing --------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_quantized_folder_comes_back_to_the_bit(kind, name, dtype, tmp_path):
    model = quantized(kind, name, dtype)
    model.save_pretrained(tmp_path / "a")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=dtype)
    assert_same(logits(again), logits(model))
    again.save_pretrained(tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_files_have_the_names_of_bitsandbytes(tmp_path):
    quantized("llama", "nf4, double").save_pretrained(tmp_path)
    recorded = json.loads((GOLDEN / "bnb_linear4bit_state_dict.json").read_text())["state_dict"]
    start = "model.layers.0.self_attn.q_proj."
    stored = read_safetensors(tmp_path / "model.safetensors")
    assert {key.removeprefix(start) for key in stored if key.startswith(start)} == recorded.keys() - {"bias"}
    said = read_json(tmp_path / "config.json")["quantization_config"]
    assert said["quant_method"] == "bitsandbytes"
    assert (said["load_in_4bit"], said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]) == (True, "nf4", True)
    quantized("llama", "int8").save_pretrained(tmp_path)
    stored = read_safetensors(tmp_path / "model.safetensors")
    found = {key.removeprefix(start): array for key, array in stored.items() if key.startswith(start)}
    assert {key: (str(array.dtype), array.shape) for key, array in found.items()} == {
        "weight": ("int8", (32, 32)), "SCB": ("float32", (32,)), "weight_format": ("uint8", ())}


def test_a_config_beside_a_quantized_folder_must_be_its_own(tmp_path):
    quantized().save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config("nf4"))
    for other, message in (("fp4", "bnb_4bit_quant_type='nf4', not 'fp4'"), ("int8", "load_in_4bit=True, not False"),
                           ("nf4, double", "bnb_4bit_use_double_quant=False, not True")):
        with pytest.raises(ValueError, match=f"holds a quantized model already, with .*{message}"):
            AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config(other))
    half = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config("nf4", bnb_4bit_compute_dtype="float16"))
    assert 0 < distance(logits(half), logits(AutoModelForCausalLM.from_pretrained(tmp_path))) < 0.1


PARTS = {"nf4, double": ["", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".quant_state.bitsandbytes__nf4"],
         "int8": ["", "SCB"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in PARTS.items() for part in parts])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_broken_quantized_files_are_refused_when_they_are_loaded(kind, name, part, damage, tmp_path):
    quantized(kind, name).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = dict(read_safetensors(file))
    path = {"gpt2": "transformer.h.1.mlp.c_fc", "llama": "model.layers.1.self_attn.q_proj"}[kind]
    key = f"{path}.SCB" if part == "SCB" else f"{path}.weight{part}"
    value = tensors.pop(key)
    if damage == "short":
        tensors[key] = value[:-1].copy()
    write_safetensors(file, tensors)
    with pytest.raises(ValueError, match=str(tmp_path)):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_other_methods_of_quantization_are_refused(tmp_path):
    quantized().save_pretrained(tmp_path)
    values = read_json(tmp_path / "config.json")
    values["quantization_config"]["quant_method"] = "gptq"
    write_json(tmp_path / "config.json", values)
    with pytest.raises(ValueError, match="quantized by 'gptq'; only 'bitsandbytes'"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_head_embeddings_and_norms_are_untouched(kind):
    model, plain = quantized(kind), dict(base(kind).named_parameters())
    layers = quantized_layers(model)
    assert not any("lm_head" in path for path in layers)
    for name, parameter in model.named_parameters():
        if not parameter.quantized:
            assert_same(parameter.data, plain[name].data)
    assert {name for name, p in model.named_parameters() if p.quantized} == {f"{path}.weight" for path in layers}
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind == "gpt2")


def test_skip_modules_stay_as_they_are():
    model = quantized("gpt2", llm_int8_skip_modules=["c_attn", "transformer.h.1"])
    assert set(quantized_layers(model)) == {f"transformer.h.0.{path}" for path in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert set(quantized_layers(quantized("gpt2", llm_int8_skip_modules=[r"transformer\.h\.\d\.attn"]))) == {
        f"transformer.h.{i}.mlp.{path}" for i in (0, 1) for path in ("c_fc", "c_proj")}
    with pytest.raises(ValueError, match="leaves no linear layer to quantize"):
        quantized("gpt2", llm_int8_skip_modules=["transformer"])
    assert "lm_head" in quantized_layers(quantized("llama", llm_int8_skip_modules=["mlp"]))  # the list replaces ["lm_head"]
    tied = quantized("gpt2", llm_int8_skip_modules=["mlp"])  # but a tied head stays, and the folder says so
    assert "lm_head" not in quantized_layers(tied)
    assert tied.config.extra["quantization_config"]["llm_int8_skip_modules"] == ["mlp", "lm_head"]


@pytest.mark.parametrize("make", [lambda: quantized(), lambda: get_peft_model(base(), LoraConfig(r=2)).get_base_model()],
                         ids=["quantized", "adapted"])
def test_a_model_is_quantized_once_and_before_adapters(make):
    model = make()
    before = snapshot(model)
    with pytest.raises(ValueError, match="quantized once, and before adapters"):
        replace_with_bnb_linear(model, config("nf4"))
    assert snapshot(model) == before


def test_a_broken_weight_is_named():
    model = base()
    model.get_submodule("transformer.h.1.mlp.c_fc").weight.data[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"transformer.h.1.mlp.c_fc: cannot quantize"):
        replace_with_bnb_linear(model, config("nf4"))


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def test_the_compute_dtype_is_that_of_the_product():
    quant, _ = layer(64, 32, bias=False)
    half, _ = layer(64, 32, bias=False, bnb_4bit_compute_dtype="float16")
    double, _ = layer(64, 32, bias=False, bnb_4bit_compute_dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    W = quant.weight.values()
    for module, expected in ((quant, x @ W.T), (half, (x.astype(np.float16) @ W.astype(np.float16).T).astype(np.float32)),
                             (double, (x.astype(np.float64) @ W.astype(np.float64).T).astype(np.float32))):
        y = module(Tensor(x))
        assert y.dtype == np.float32
        assert_same(y.data, expected)
    assert 1e-4 < distance(half(Tensor(x)).data, quant(Tensor(x)).data) < 0.5


def test_bfloat16_is_computed_in_float32_and_said_once(monkeypatch):
    monkeypatch.setattr(backend, "_told_about_bfloat16", False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = quantized("gpt2", dtype="float32", bnb_4bit_compute_dtype="bfloat16")
        out = logits(model)
    assert [str(w.message) for w in told] == ["bfloat16 is computed in float32 here: NumPy has no bfloat16 arithmetic"]
    assert_same(out, logits(quantized("gpt2", dtype="float32", bnb_4bit_compute_dtype="float32")))


def test_quantized_weights_keep_their_dtype_when_the_model_is_converted():
    model = quantized("gpt2", dtype="float32").to("float64")
    codes = {p.data.dtype for p in model.parameters() if p.quantized}
    assert codes == {np.dtype(np.uint8)}
    assert logits(model).dtype == np.float64
    assert_close(logits(model), logits(quantized("gpt2")), 1e-5)


def test_half_precision_models_can_be_prepared_for_training():
    model = quantized("llama", "nf4, double", "float16")
    assert logits(model).dtype == np.float16
    model.requires_grad_()
    assert prepare_model_for_kbit_training(model) is model
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {p.dtype for p in model.parameters() if not p.quantized} == {np.dtype(np.float32)}
    assert {p.dtype for p in model.parameters() if p.quantized} == {np.dtype(np.uint8)}
    assert model.is_gradient_checkpointing
    assert not prepare_model_for_kbit_training(quantized(), use_gradient_checkpointing=False).is_gradient_checkpointing
    assert logits(model).dtype == np.float32
    peft_model = scramble(get_peft_model(model, LoraConfig(r=2))).train(seed=0)
    peft_model(IDS, labels=IDS).loss.backward()
    with_it = {name: p.grad for name, p in peft_model.named_parameters() if p.grad is not None}
    assert with_it.keys() == trainable(peft_model).keys()
    model.gradient_checkpointing_disable()
    peft_model.zero_grad()
    peft_model(IDS, labels=IDS).loss.backward()
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            assert_close(parameter.grad, with_it[name], 1e-6, name)


def test_configs_take_dtypes_as_names_and_as_types():
    for dtype in ("float16", np.float16, np.dtype("float16"), backend.float16):
        assert config("nf4", bnb_4bit_compute_dtype=dtype).compute_dtype(np.ones(1)) == np.float16
    for given, used in ((np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)):
        assert config("nf4").compute_dtype(np.ones(1, given)) == used
    assert config("nf4", bnb_4bit_quant_storage=None) == config("nf4", bnb_4bit_quant_storage=np.uint8) == config("nf4")
    for changes, message in (({"load_in_8bit": True}, "both True"), ({"load_in_4bit": False}, "both False"),
                             ({"bnb_4bit_quant_type": "nf3"}, "nf3"), ({"llm_int8_threshold": -1.0}, "at least 0"),
                             ({"llm_int8_skip_modules": "lm_head"}, "a list of names"),
                             ({"llm_int8_skip_modules": [1]}, "a list of names"), ({"llm_int8_threshold": "6"}, "be a number"),
                             ({"bnb_4bit_compute_dtype": "nonsense"}, "'float16'.*got 'nonsense'"),
                             ({"bnb_4bit_compute_dtype": "int8"}, "got 'int8'"),
                             ({"llm_int8_has_fp16_weight": True}, "all that is implemented here"),
                             ({"bnb_4bit_quant_storage": "float16"}, "all that is implemented here")):
        with pytest.raises(ValueError, match=message):
            config("nf4", **changes)


# ---- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nf4, double", "int8"])
@pytest.mark.parametrize(("kind", "method"), CASES)
def test_every_method_works_on_a_quantized_base_or_is_refused(kind, method, name, tmp_path):
    model = quantized(kind, name)
    plain = logits(model)
    if method in REFUSED:
        before = snapshot(model)
        with pytest.raises(ValueError, match="the weights of .* are quantized, and .*: load the model without "
                                             "quantization_config, or use a method that leaves them as they are"):
            get_peft_model(model, config_of(method))
        assert snapshot(model) == before
        assert_same(logits(model), plain)
        return
    peft_model = get_peft_model(model, config_of(method))
    if method not in PROMPTS:
        assert_close(logits(peft_model), plain, 0.2 if method in NEARLY_IDENTICAL else 1e-12, "at the start")
    scramble(peft_model)
    out = logits(peft_model)
    assert out.shape != plain.shape or distance(out, plain) > 1e-3
    with peft_model.disable_adapter():
        assert_same(logits(peft_model), plain)
    peft_model(IDS, labels=IDS).loss.backward()
    for key, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.any() or "lm_head" in key, key
        else:
            assert parameter.grad is None, key
    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(quantized(kind, name), tmp_path)
    assert_close(logits(again), out, 1e-6)
    assert_same(logits(peft_model.unload()), plain)


@pytest.mark.parametrize("name", ["nf4, double", "int8"])
def test_copies_of_quantized_modules_are_refused(name):
    model = quantized("gpt2", name)
    before = snapshot(model)
    for modules in (["mlp"], ["c_fc"]):
        with pytest.raises(ValueError, match="are quantized, and modules_to_save trains a copy of them"):
            get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=modules))
        assert snapshot(model) == before
    assert get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["lm_head"]))


def test_the_start_of_dora_is_the_norm_of_the_dequantized_weights():
    model = quantized("gpt2")
    expected = np.linalg.norm(model.get_submodule("transformer.h.0.attn.c_attn").weight.values(), axis=1)
    peft_model = get_peft_model(model, LoraConfig(r=2, use_dora=True))
    magnitude = dict(peft_model.named_parameters())["base_model.model.transformer.h.0.attn.c_attn."
                                                    "lora_magnitude_vector.default.weight"]
    assert_close(magnitude, expected, 1e-12)


TOUCHING = [case for case in MERGEABLE if case[1] not in (*REFUSED, "ln", "bitfit", "bitfit_norms", "lora_head")]


@pytest.mark.parametrize(("kind", "method"), TOUCHING)
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_merging_into_few_bits_is_dequantize_add_requantize_and_says_what_it_loses(kind, method, name):
    peft_model = scramble(get_peft_model(quantized(kind, name), config_of(method)))
    out, before = logits(peft_model), snapshot(peft_model)
    carrying = [layer for layer in peft_model.layers() if any(p.quantized for p in layer.base_layer.parameters())]
    wanted = {layer.path: layer.merged_values(["default"])["weight"] for layer in carrying}
    old = {layer.path: layer.base_layer.weight.values() for layer in carrying}
    with pytest.warns(UserWarning, match=r"in \d+ layers the error is \d+% to \d+% of what the adapter changes"):
        peft_model.merge_adapter()
    status = {entry.name: entry.merge_loss for entry in peft_model.get_layer_status()}
    for layer in carrying:
        weight = layer.base_layer.weight
        if name == "nf4":
            packed, state = quantize_4bit(wanted[layer.path])
            assert_same(weight.data, packed)
            assert_same(weight.scales.absmax, state.absmax)
        else:
            codes, scales, _ = int8_vectorwise_quant(wanted[layer.path].astype(np.float16))
            assert_same(weight.data, codes)
            assert_same(weight.scales, scales)
        lost = np.linalg.norm(weight.values() - wanted[layer.path]) / np.linalg.norm(wanted[layer.path] - old[layer.path])
        assert_close(layer.merge_loss, lost, 1e-9)
        assert status[layer.path] == layer.merge_loss > 0
    assert distance(logits(peft_model), out) > 1e-3
    peft_model.unmerge_adapter()
    assert snapshot(peft_model) == before
    assert_same(logits(peft_model), out)
    assert {entry.merge_loss for entry in peft_model.get_layer_status()} == {0.0}


def test_small_changes_are_lost_when_merged_into_four_bits():
    peft_model = scramble(get_peft_model(quantized(), LoraConfig(r=2)), size=0.02)
    with pytest.warns(UserWarning, match="merging rounds the quantized weights again") as caught:
        peft_model.merge_adapter()
    assert caught[0].filename == __file__  # not the library's own line
    assert min(entry.merge_loss for entry in peft_model.get_layer_status()) > 0.8


@pytest.mark.parametrize(("kind", "method"), TOUCHING)
def test_a_dequantized_model_merges_without_loss(kind, method):
    peft_model = scramble(get_peft_model(quantized(kind, "nf4, double"), config_of(method)))
    out = logits(peft_model)
    peft_model.dequantize()
    assert not quantized_layers(peft_model)
    assert_close(logits(peft_model), out, 1e-10)
    merged = peft_model.merge_and_unload()
    assert_close(logits(merged), out, 1e-10)


def test_what_was_merged_is_unmerged_before_it_is_dequantized():
    peft_model = scramble(get_peft_model(quantized(), LoraConfig(r=2)))
    out = logits(peft_model)
    with pytest.warns(UserWarning, match="merging rounds"):
        peft_model.merge_adapter()
    peft_model.dequantize()
    assert_close(logits(peft_model), out, 1e-12)


def test_a_merged_quantized_model_is_stored_as_it_is(tmp_path):
    peft_model = scramble(get_peft_model(quantized(dtype="float32"), LoraConfig(r=2)))
    with pytest.warns(UserWarning, match="merging rounds"):
        merged = peft_model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert_same(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(merged))
    merged.dequantize().save_pretrained(tmp_path)
    assert "quantization_config" not in read_json(tmp_path / "config.json")
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not quantized_layers(again)
    assert_same(logits(again), logits(merged))


def test_a_merge_that_is_not_finite_changes_nothing():
    peft_model = get_peft_model(quantized(), LoraConfig(r=2))
    scramble(peft_model)
    next(p for p in peft_model.parameters() if p.requires_grad).data[0, 0] = np.inf
    before = snapshot(peft_model)
    for safe in (True, False):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"not finite|nan, an infinity"):
            peft_model.merge_adapter(safe_merge=safe)
        assert snapshot(peft_model) == before


def test_copies_share_nothing_that_changes():
    peft_model = scramble(get_peft_model(quantized(), LoraConfig(r=2)))
    out = logits(peft_model)
    twin = copy.deepcopy(peft_model)
    with pytest.warns(UserWarning, match="merging rounds"):
        twin.merge_adapter()
    assert_same(logits(peft_model), out)
    assert distance(logits(twin), out) > 1e-3


# ---- training -------------------------------------------------------------------------------------------------------


def rows(count: int = 12, seed: int = 0) -> list[dict[str, list[int]]]:
    random = np.random.default_rng(seed)
    made = [random.integers(0, 97, 8).tolist() for _ in range(count)]
    return [{"input_ids": ids, "labels": ids} for ids in made]


def arguments(folder: Path | None = None, **changes: Any) -> TrainingArguments:
    return TrainingArguments(**{"output_dir": folder, "max_steps": 30, "per_device_train_batch_size": 4, "learning_rate": 0.02,
                                "disable_tqdm": True, **changes})


@pytest.mark.parametrize("name", ["nf4, double", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_steps_of_lora_on_quantized_weights_lower_the_loss(kind, name):
    peft_model = get_peft_model(prepare_model_for_kbit_training(quantized(kind, name, "float32")),
                                LoraConfig(r=4, target_modules="all-linear"))
    frozen = {key: p.data.copy() for key, p in peft_model.named_parameters() if not p.requires_grad}
    history = train(peft_model, rows(), arguments(), pad_token_id=0)
    assert np.mean(history.losses[-5:]) < 0.7 * np.mean(history.losses[:5])
    now = dict(peft_model.named_parameters())
    for key, values in frozen.items():
        assert_same(now[key].data, values)


@pytest.mark.parametrize("name", ["nf4, double", "int8"])
def test_training_on_quantized_weights_goes_on_exactly(name, tmp_path):
    def fresh() -> PeftModel:
        return get_peft_model(quantized("llama", name, "float32"), LoraConfig(r=2, lora_dropout=0.1))

    whole, parts = fresh(), fresh()
    history = train(whole, rows(), arguments(max_steps=6, lr_scheduler_type="constant"), pad_token_id=0)
    train(parts, rows(), arguments(tmp_path, max_steps=3, save_steps=3, lr_scheduler_type="constant"), pad_token_id=0)
    resumed = fresh()
    again = train(resumed, rows(), arguments(tmp_path, max_steps=6, lr_scheduler_type="constant"), pad_token_id=0,
                  resume_from_checkpoint=True)
    assert again.losses == history.losses
    for (_, a), (_, b) in zip(resumed.named_parameters(), whole.named_parameters(), strict=True):
        assert_same(a.data, b.data)
    other = get_peft_model(quantized("llama", "fp4", "float32"), LoraConfig(r=2, lora_dropout=0.1))
    with pytest.raises(ValueError, match="other model"):
        train(other, rows(), arguments(tmp_path, max_steps=6, lr_scheduler_type="constant"), pad_token_id=0,
              resume_from_checkpoint=True)


@pytest.mark.parametrize("name", ["nf4", "nf4, double", "int8"])
def test_a_run_is_another_if_only_the_scales_differ(name):
    def described(change: bool) -> str:
        peft_model = get_peft_model(quantized("llama", name, "float32"), LoraConfig(r=2))
        weight = quantized_layers(peft_model.get_base_model())["model.layers.0.mlp.up_proj"].weight
        if change and "int8" in name:
            weight.scales = weight.scales * np.float32(2)
        elif change and "double" in name:
            weight.scales.offset = weight.scales.offset * np.float32(2)
        elif change:
            weight.scales.absmax = weight.scales.absmax * np.float32(2)
        optimizer = AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=0.1)
        return describe_run(peft_model, rows(), optimizer, {})["model"]

    assert described(False) == described(False)
    assert described(True) != described(False)


def test_a_gpt2_of_other_widths_is_quantized_too():
    """96 is no multiple of 64: blocks run on across rows."""
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=13, n_positions=8, n_embd=24, n_layer=1, n_head=2,
                                                        n_inner=7))
    plain = copy.deepcopy(model)
    replace_with_bnb_linear(model, config("nf4"))
    for path, module in quantized_layers(model).items():
        original = plain.get_submodule(path).weight.data.T
        packed, state = quantize_4bit(np.ascontiguousarray(original))
        assert_same(module.weight.data, packed)
        assert_same(module.weight.values(), dequantize_4bit(packed, state))
    ids = np.arange(8)[None] % 13
    assert_close(logits(model, ids), logits(copy.deepcopy(model).dequantize(), ids), 1e-6)


@pytest.mark.parametrize("adapter", [BitFitConfig(), LoraConfig(r=2, bias="all")], ids=["bitfit", "all biases"])
def test_biases_are_restored_after_dequantizing(adapter):
    peft_model = scramble(get_peft_model(quantized(), adapter))
    with peft_model.disable_adapter():
        plain = logits(peft_model)
    out = logits(peft_model)
    peft_model.dequantize()
    assert_close(logits(peft_model), out, 1e-12)
    with peft_model.disable_adapter():
        assert_close(logits(peft_model), plain, 1e-12)
    assert_close(logits(peft_model.unload()), plain, 1e-12)


@EVERY
def test_a_state_dict_goes_back_where_it_came_from(kind, name):
    model, other = quantized(kind, name, "float32"), quantized(kind, name, "float32")
    state = {key: array.copy() for key, array in model.state_dict().items()}
    expected = logits(model)
    for parameter in other.parameters():
        if parameter.quantized:
            parameter.quantize(parameter.values() + 1)
    assert distance(logits(other), expected) > 0.1
    other.load_state_dict(state)
    assert_same(logits(other), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_an_adapter_that_changes_nothing_loses_nothing(kind):
    peft_model = get_peft_model(quantized(kind, "nf4, double"), LoraConfig(r=2))
    peft_model.merge_adapter()  # and does not warn
    assert {status.merge_loss for status in peft_model.get_layer_status()} == {0.0}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_8bit_layer_passes_on_what_is_not_finite(broken):
    """As any layer does, so that training stops with its own error."""
    quant, _ = layer(24, 10, "int8, no outliers")
    x = np.ones((1, 2, 24), np.float32)
    x[0, 1, 0] = broken
    assert np.isnan(quant(Tensor(x)).data[0, 1]).all()
    assert_same(quant(Tensor(x)).data[0, 0], quant(Tensor(np.ones((1, 1, 24), np.float32))).data[0, 0])


def test_an_8bit_layer_takes_inputs_beyond_float16():
    quant, plain = layer(24, 10, "int8")
    x = np.ones((3, 24), np.float32)
    x[1, 5] = 1e6
    assert_close(quant(Tensor(x)), plain(Tensor(x)).data, 0.02)


# ---- what a model is left with --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["nf4, double", "int8"])
def test_initial_weights_are_quantized(kind, name):
    model, plain = quantized(kind, name, "float32"), base(kind, "float32")
    model.init_weights(3, 0.1)
    replace_with_bnb_linear(plain.init_weights(3, 0.1), config(name))
    assert_same(logits(model), logits(plain))


def test_models_of_one_config_object_do_not_share_what_they_are_stored_in(tmp_path):
    shape = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                        max_position_embeddings=16)
    first, second, third = (AutoModelForCausalLM.from_config(shape, seed=seed) for seed in range(3))
    replace_with_bnb_linear(first, config("nf4"))
    replace_with_bnb_linear(third, config("nf4")).dequantize()
    for model, count in ((first, 7), (second, 0), (third, 0)):
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert len(quantized_layers(again)) == count
        assert_same(logits(again), logits(model))
    first.save_pretrained(tmp_path)
    assert "quantization_config" not in AutoModelForCausalLM.from_config(read_json(tmp_path / "config.json")).config.extra


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_broken_weight_leaves_the_model_as_it_was(name):
    model = base("llama", "float32")
    weight = model.get_submodule("model.layers.1.mlp.up_proj").weight
    kept, weight.data[3, 5] = weight.data[3, 5], np.nan
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj: cannot quantize"):
        replace_with_bnb_linear(model, config(name))
    assert snapshot(model) == before
    assert not quantized_layers(model)
    weight.data[3, 5] = kept
    assert len(quantized_layers(replace_with_bnb_linear(model, config(name)))) == 14


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_broken_weight_of_a_file_is_named(tmp_path, name):
    base("llama", "float32").save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = np.inf
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: cannot quantize"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config(name))


def test_an_adapter_that_is_broken_is_not_merged():
    peft_model = scramble(get_peft_model(quantized(), LoraConfig(r=2)))
    next(p for p in peft_model.parameters() if p.requires_grad).data[0, 0] = np.nan
    before = snapshot(peft_model)
    with pytest.raises(ValueError, match="not finite: the adapter is broken"):
        peft_model.merge_adapter()
    assert snapshot(peft_model) == before


def test_a_model_without_values_stays_so_when_it_is_prepared():
    model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=1), device="meta", dtype="float16")
    prepare_model_for_kbit_training(replace_with_bnb_linear(model, config("nf4")))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"uint8", "float32"}


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_quantized_numbers_have_the_models_dtype(name, tmp_path):
    plain = base("llama", "float64")
    model = AutoModelForCausalLM.from_config(plain.config, device="meta", dtype="float64")
    replace_with_bnb_linear(model, config(name)).load_state_dict(plain.state_dict())
    assert {str(layer.weight.values().dtype) for layer in quantized_layers(model).values()} == {"float64"}
    model.to("float16").dequantize()
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"float16"}


def test_only_a_peft_model_dequantizes_a_base_with_adapters():
    peft_model = scramble(get_peft_model(quantized(), LoraConfig(r=2)))
    with pytest.raises(ValueError, match="call dequantize\\(\\) of its PeftModel"):
        peft_model.get_base_model().dequantize()
    assert peft_model.dequantize() is peft_model
    assert not quantized_layers(peft_model)


def test_preparing_a_float_model_does_not_switch_checkpointing_on():
    assert not prepare_model_for_kbit_training(base()).is_gradient_checkpointing
    assert prepare_model_for_kbit_training(quantized()).is_gradient_checkpointing
    assert not prepare_model_for_kbit_training(quantized(), use_gradient_checkpointing=False).is_gradient_checkpointing


@pytest.mark.parametrize(("name", "key", "values", "message"), [
    ("int8", "weight_format", np.array(2, np.uint8), "not stored row after row"),
    ("int8", "weight", np.zeros((32, 32), np.float32), "not int8"),
    ("int8", "SCB", np.full(32, np.nan, np.float32), "not finite"),
    ("nf4", "weight", np.zeros((512, 1), np.float32), "not uint8"),
    ("nf4", "weight.absmax", np.full(16, np.nan, np.float32), "its maxima are not finite"),
])
def test_quantized_files_are_looked_at(tmp_path, name, key, values, message):
    quantized("llama", name, "float32").save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    name = f"model.layers.0.self_attn.q_proj.{key}"
    assert tensors[name].shape == values.shape
    write_safetensors(tmp_path / "model.safetensors", tensors | {name: values})
    with pytest.raises(ValueError, match=rf"model\.layers\.0\.self_attn\.q_proj\.weight: .*{message}"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
