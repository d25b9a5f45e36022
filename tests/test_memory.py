"""Memory: known totals, exact weights, what must grow with what, every method, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinypeft.budget import activations, adapter_bytes, build, count_parameters, memory, merge_memory
from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.memory import PARTS
from tinypeft.budget.phantom import Ledger
from tinypeft.budget.torch_step import Setting, phases_of, training_phases
from tinypeft.budget.weights import OPTIMIZERS, adapt, bare_model, optimizer_bytes, parameter_bytes
from tinypeft.nn import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
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
from tinypeft.quant import BitsAndBytesConfig, quantize_4bit, replace_with_bnb_linear

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                         bnb_4bit_compute_dtype="bfloat16")
SINGLE = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16")
INT8 = BitsAndBytesConfig(load_in_8bit=True)
METHODS: dict[str, Any] = {
    "lora": LoraConfig(r=4), "dora": LoraConfig(r=4, use_dora=True), "adalora": AdaLoraConfig(total_step=9, tinit=1, tfinal=1),
    "vera": VeraConfig(r=8), "ulora": ULoraConfig(), "ia3": IA3Config(), "houlsby": BottleneckConfig(),
    "parallel": BottleneckConfig(style="parallel"), "prefix": PrefixTuningConfig(num_virtual_tokens=3),
    "prompt": PromptTuningConfig(num_virtual_tokens=3), "bitfit": BitFitConfig(), "norms": LNTuningConfig(),
    "subspace": SubspaceConfig(), "embedding": LoraConfig(r=4, target_modules=["wte"]),
    "head too": LoraConfig(r=4, modules_to_save=["lm_head"])}


def tiny(layers: int = 2, **changes: Any) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**{"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_head": 4, **changes},
                                      n_layer=layers))


# ---- weights --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("model", "quantization", "gigabytes"), [
    ("llama-2-70b", NF4, "36.36"), ("llama-2-70b", SINGLE, "39.55"), ("llama-2-7b", NF4, "3.87"), ("llama-2-13b", NF4, "7.20"),
    ("llama-2-13b", SINGLE, "7.79"), ("llama-3-8b", NF4, "5.70"), ("llama-65b", NF4, "34.46"), ("llama-3-70b", NF4, "39.52"),
    ("llama-3-8b", None, "16.06"), ("llama-2-70b", None, "137.95")])
def test_weights_of_well_known_models(model, quantization, gigabytes):
    said = memory(model, LoraConfig(r=4), quantization=quantization)
    assert f"{said.parts['base weights'] / 1e9:.2f}" == gigabytes


def test_preparing_for_kbit_training_widens_what_is_not_quantized():
    lora = LoraConfig(r=16, target_modules=ATTENTION)
    sizes = [memory("llama-3-8b", lora, quantization=NF4, prepared=yes).parts["base weights"] for yes in (False, True)]
    assert [f"{size / 1e9:.2f}" for size in sizes] == ["5.70", "7.80"]
    assert f"{sizes[0] / 2**30:.2f}" == "5.31"


@pytest.mark.parametrize("shape", [(8, 64), (3, 5), (7, 129), (64, 1024)])
@pytest.mark.parametrize("nested", [False, True])
def test_quantized_bytes_are_those_of_really_quantized_weights(shape, nested):
    packed, state = quantize_4bit(np.ones(shape, np.float32), compress_statistics=nested)
    model = LlamaForCausalLM(LlamaConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8))
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=nested)
    weight = replace_with_bnb_linear(model, config).model.layers[0].mlp.up_proj.weight
    weight.matrix_shape = shape
    assert parameter_bytes(weight, 2) == round(state.bits_per_parameter * np.prod(shape) / 8)
    assert packed.nbytes <= parameter_bytes(weight, 2)


def test_eight_bits_are_one_byte_a_weight_and_four_a_row():
    model = tiny(1)
    linear = sum(p.size for name, p in model.named_parameters() if name.endswith("weight") and ("c_" in name))
    rows = 3 * 32 + 32 + 128 + 32
    rest = sum(p.size for p in model.parameters()) - linear
    assert memory(model, LoraConfig(r=4), quantization=INT8, tokens=8).parts["base weights"] == linear + 4 * rows + 2 * rest


# ---- training -------------------------------------------------------------------------------------------------------

def test_full_fine_tuning_takes_sixteen_bytes_a_parameter_with_master_weights_and_twelve_without():
    n = count_parameters("llama-2-70b").total
    for master, each in ((None, 16), (True, 16), (False, 12)):
        said = memory("llama-2-70b", master_weights=master)
        states = sum(said.parts[name] for name in ("base weights", "master weights", "gradients", "optimizer states"))
        assert states == pytest.approx(each * n, rel=0.01)
        assert said.total >= each * n  # the optimizer's step needs all of it
    assert f"{16 * 70e9 / 1e9:,.0f}" == "1,120"


@pytest.mark.parametrize(("dtype", "each"), [("bfloat16", 2 + 8), ("float32", 4 + 8)])
def test_an_adapter_takes_its_weights_and_states_in_its_own_dtype(dtype, each):
    lora = LoraConfig(r=256, target_modules=ATTENTION)
    said = memory("llama-2-13b", lora, quantization=NF4, adapter_dtype=dtype)
    assert said.trainable == 419_430_400
    assert said.parts["adapter weights"] + said.parts["optimizer states"] == each * said.trainable
    assert adapter_bytes("llama-2-13b", lora, "bfloat16") == 838_860_800


def test_the_loss_takes_twelve_bytes_a_logit():
    said = memory("llama-3-8b", LoraConfig(r=16, target_modules=ATTENTION), quantization=NF4)
    assert said.peak == "the backward pass"
    assert said.parts["logits and loss"] == pytest.approx(2048 * 128256 * 12, rel=1e-6)


def test_checkpoints_are_the_input_of_each_block():
    assert activations("llama-2-70b", checkpointing=True).block == 2048 * 8192 * 2
    assert activations("llama-2-13b", checkpointing=True).block == 2048 * 5120 * 2
    assert activations("llama-2-13b", checkpointing=True, prepared=True).block == 2048 * 5120 * 4


def test_eager_attention_keeps_six_bytes_a_score_in_llama():
    kept = {attention: activations("llama-2-7b", attention=attention).block for attention in ("sdpa", "eager")}
    scores = 32 * 2048**2
    assert kept["eager"] - kept["sdpa"] == pytest.approx(6 * scores, rel=0.02)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", ["torch", "tinypeft"])
@pytest.mark.parametrize("training", [True, False])
def test_every_method_has_a_breakdown_that_adds_up(name, engine, training):
    said = memory(tiny(), METHODS[name], engine=engine, tokens=16, batch=2, training=training)
    assert list(said.parts) == list(PARTS)
    assert said.total == sum(said.parts.values()) > 0
    assert min(said.parts.values()) >= 0
    assert said.trainable == (count(tiny(), METHODS[name]) if training else 0)
    assert bool(said.parts["key-value cache"]) is not training
    assert bool(said.parts["optimizer states"]) is training


def count(model: Any, method: Any) -> int:
    return get_peft_model(model, method).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "vera", "houlsby", "prompt", "norms", "head too"])
@pytest.mark.parametrize("quantization", [None, NF4, INT8])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_straight_line_through_small_models_gives_the_large_one(name, quantization, checkpointing):
    model = tiny(7)
    setting = Setting(2, 16, checkpointing=checkpointing)
    line, shapes = phases_of(model, METHODS[name], quantization, training_phases, setting)
    whole = adapt(bare_model(model, quantization), METHODS[name])
    assert sum(np.prod(shape) * count for shape, count in shapes.items()) == whole.get_nb_trainable_parameters()[0]
    real = training_phases(whole, setting)
    assert max(sum(kinds.values()) for _, kinds in line) == max(sum(kinds.values()) for _, kinds in real)
    assert line[0][1] == real[0][1]
    assert line[-1][1] == real[-1][1]


@pytest.mark.parametrize("master", [True, False])
def test_the_line_holds_for_full_fine_tuning_too(master):
    model = tiny(7)
    line, _ = phases_of(model, None, None, training_phases, Setting(2, 16))
    real = training_phases(tiny(7), Setting(2, 16))
    assert max(sum(kinds.values()) for _, kinds in line) == max(sum(kinds.values()) for _, kinds in real)
    assert memory(model, tokens=16, master_weights=master).total > 0


@given(batch=st.integers(1, 3), tokens=st.integers(1, 20), r=st.integers(1, 8), engine=st.sampled_from(["torch", "tinypeft"]),
       checkpointing=st.booleans())
def test_more_rows_tokens_and_rank_never_take_less(batch, tokens, r, engine, checkpointing):
    def total(batch: int, tokens: int, r: int) -> float:
        return memory(tiny(), LoraConfig(r=r), batch=batch, tokens=tokens, engine=engine, checkpointing=checkpointing).total

    least = total(batch, tokens, r)
    assert least <= total(batch + 1, tokens, r)
    assert least <= total(batch, tokens + 1, r)
    assert least < total(batch, tokens, r + 1)


def test_checkpointing_and_a_fused_kernel_save_memory():
    lora = LoraConfig(r=8)
    plain = memory("llama-2-7b", lora, checkpointing=False).total
    assert memory("llama-2-7b", lora).total < plain < memory("llama-2-7b", lora, checkpointing=False, attention="eager").total


def test_equal_questions_have_equal_answers():
    asked = [memory(tiny(), METHODS["lora"], tokens=16, engine=engine).to_dict() for engine in ("torch", "tinypeft") * 2]
    assert asked[0] == asked[2]
    assert asked[1] == asked[3]


def test_only_the_shape_of_a_given_model_matters_and_it_is_left_alone():
    model = tiny().init_weights()
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    assert memory(model, METHODS["lora"], tokens=16).total == memory(tiny(), METHODS["lora"], tokens=16).total
    assert not model.adapted
    assert all(np.array_equal(p.data, before[name]) for name, p in model.named_parameters())


# ---- generation, merging, optimizers ----------------------------------------------------------------------------------

def test_the_cache_holds_keys_and_values_of_grouped_heads():
    said = memory("llama-3-8b", training=False, batch=3, tokens=100)
    assert said.parts["key-value cache"] == 3 * 100 * 2 * 32 * 8 * 128 * 2
    assert (said.peak, said.trainable) == ("generation", 0)


def test_merging_needs_the_base_in_sixteen_bits():
    said = merge_memory("llama-2-70b", LoraConfig(r=16, target_modules=ATTENTION))
    assert f"{said.parts['base weights'] / 1e9:.0f}" == "138"
    assert said.parts["change of one weight"] == 8192 * 8192 * 4
    with pytest.raises(ValueError, match="cannot be merged"):
        merge_memory("gpt2", PrefixTuningConfig(num_virtual_tokens=3))


@pytest.mark.parametrize(("optimizer", "expected"), [
    ("adamw", 8 * 8192), ("adamw_8bit", 2 * 8192 + 8 * 32), ("paged_adamw_8bit", 2 * 8192 + 8 * 32), ("sgd", 0),
    ("sgd_momentum", 4 * 8192), ("adafactor", 4 * (64 + 128))])
def test_states_of_a_matrix_of_64_by_128(optimizer, expected):
    assert optimizer_bytes({(64, 128): 3}, optimizer) == 3 * expected
    assert set(OPTIMIZERS) >= {optimizer}
    assert optimizer_bytes({(100,): 1}, "adamw_8bit") == 800  # too small to be quantized


# ---- the breakdown ----------------------------------------------------------------------------------------------------

def test_the_text_states_all_conditions():
    said = memory("gpt2", LoraConfig(r=4), tokens=128, batch=2, margin=0.1, quantization=NF4)
    text = str(said)
    for part in ("base weights", "engine torch", "batch 2", "tokens 128", "margin 10%", "attention sdpa", "checkpointing on",
                 "compute dtype bfloat16", "optimizer adamw", "NF4 with double quantization"):
        assert part in text
    assert said.total_with_margin == pytest.approx(1.1 * said.total)
    assert sum(share for *_, share in said.table()) == pytest.approx(1, abs=1e-5)
    assert said.to_dict()["parts"] == dict(said.parts)


def test_a_drawing_has_a_bar_and_says_what_it_shows():
    picture = memory("gpt2", LoraConfig(r=4), tokens=128).draw()
    assert "base weights" in picture.alt
    assert "together" in picture.alt
    assert len(picture.figure.axes[0].patches) == len(memory("gpt2", LoraConfig(r=4), tokens=128).table())


def test_bars_need_equal_numbers_and_something_to_show():
    from tinypeft.viz.budget import stacked_bars

    with pytest.raises(ValueError, match="one size for each"):
        stacked_bars(["a", "b"], {"weights": [1.0]})
    with pytest.raises(ValueError, match="nothing to draw"):
        stacked_bars([], {})
    assert "limit of 24 GB" in stacked_bars(["a"], {"weights": [1e9]}, limit=24e9).alt


def test_an_empty_margin_is_not_shown():
    assert "margin of" not in str(Breakdown("x", {"base weights": 1.0}, "the loss", 0, 0.0, {}))


# ---- arrays without values --------------------------------------------------------------------------------------------

def test_a_ledger_counts_what_lives():
    ledger = Ledger()
    x = ledger.array((100, 1000))
    y = x * 2
    view = y[:10].reshape(-1)
    assert (ledger.live, ledger.peak) == (800_000, 800_000)
    del y
    assert ledger.live == 800_000  # its view holds it
    del view
    assert ledger.live == 400_000
    x += 1
    assert ledger.peak == 800_000
    _ = x.T.reshape(-1)  # not a view
    assert ledger.live == 800_000


def test_an_unknown_function_is_refused_and_not_guessed():
    with pytest.raises(NotImplementedError, match="linalg|svd"):
        np.linalg.svd(Ledger().array((3, 3)))


# ---- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "words"), [
    ({"engine": "jax"}, "torch, tinypeft"), ({"optimizer": "adamx"}, "adamw_8bit"), ({"attention": "flash"}, "sdpa, eager"),
    ({"dtype": "float16x"}, "float16"), ({"adapter_dtype": "int8"}, "adapter_dtype"), ({"batch": 0}, "at least 1"),
    ({"tokens": 0}, "at least 1"), ({"tokens": 65}, "at most 64"), ({"batch": 1.5}, "integer"),
    ({"margin": -0.1}, "at least 0"), ({"margin": float("nan")}, "at least 0"),
    ({"engine": "tinypeft", "optimizer": "adafactor"}, "sgd_momentum"),
    ({"engine": "tinypeft", "master_weights": True}, "master_weights must be False")])
def test_bad_input_says_what_there_is(options, words):
    with pytest.raises(ValueError, match=words):
        memory(tiny(), LoraConfig(r=4), **{"tokens": 16, **options})


def test_quantized_weights_cannot_be_trained():
    with pytest.raises(ValueError, match="name a method"):
        memory("gpt2", quantization=NF4)
    assert memory("gpt2", quantization=NF4, training=False, tokens=64).parts["base weights"] > 0


def test_virtual_tokens_count_among_the_positions():
    with pytest.raises(ValueError, match="at most 61"):
        memory(tiny(), PromptTuningConfig(num_virtual_tokens=3), tokens=62)


def test_near_names_and_models_without_a_forward_pass():
    with pytest.raises(ValueError, match="llama-2-70b"):
        memory("llama-2-70", LoraConfig())
    with pytest.raises(ValueError, match="can only be counted here"):
        memory("pythia-6.9b", LoraConfig(target_modules=["query_key_value"]))
    adapted = get_peft_model(build("gpt2"), LoraConfig(r=4)).get_base_model()
    with pytest.raises(ValueError, match="without adapters"):
        memory(adapted, LoraConfig(r=4))
