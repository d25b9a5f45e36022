"""LoRA and the verbs of PeftModel: equal to peft's recorded values, reversible, and safe against wrong input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from hypothesis import given, strategies as st

from tinypeft import (
    AutoModelForCausalLM,
    GPT2Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    Tensor,
    get_peft_model,
)
from tinypeft.files import read_json, read_safetensors, write_json, write_safetensors
from tinypeft.nn import CausalLM
from tinypeft.peft.targets import find_targets

IDS = np.array([[3, 14, 15, 92, 65, 35], [8, 97 - 1, 9, 79, 32, 38]])


def base(kind: str, dtype: str = "float64") -> CausalLM:
    return AutoModelForCausalLM.from_pretrained(GOLDEN / f"{kind}_base", dtype=dtype)


def adapted(kind: str = "llama", dtype: str = "float64", **options: Any) -> PeftModel:
    """A base with a LoRA whose B is not zero."""
    peft_model = get_peft_model(base(kind, dtype), LoraConfig(**({"r": 3} | options)))
    scramble(peft_model)
    return peft_model


def scramble(peft_model: PeftModel, seed: int = 1) -> None:
    random = np.random.default_rng(seed)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = (0.2 * random.standard_normal(parameter.shape)).astype(parameter.dtype)


def logits(model: Any) -> np.ndarray:
    return model(IDS).logits.data


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_new_adapter_changes_nothing_and_its_first_gradient_moves_B_only(kind):
    model = base(kind)
    before = logits(model)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    np.testing.assert_array_equal(logits(peft_model), before)
    peft_model(IDS, labels=IDS).loss.backward()
    for name, parameter in peft_model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == ("lora_" in name)
        if "lora_A" in name:
            assert not parameter.grad.any()
            bound = parameter.shape[1] ** -0.5
            assert 0.8 * bound < np.abs(parameter.data).max() <= bound
        if "lora_B" in name:
            assert parameter.grad.any()
            assert not parameter.data.any()


def test_initial_values_depend_on_seed_and_names_alone():
    def values(targets, seed=0, name="default"):
        peft_model = get_peft_model(base("llama"), LoraConfig(r=2, target_modules=targets), name, seed=seed)
        return {n.replace(f".{name}.", "."): p.data for n, p in peft_model.named_parameters() if "lora_A" in n}

    few, many = values(["v_proj"]), values("all-linear")
    assert all(np.array_equal(few[key], many[key]) for key in few)
    assert len({array.tobytes() for array in many.values()}) == len(many)
    for other in (values(["v_proj"], seed=1), values(["v_proj"], name="other")):
        assert not any(np.array_equal(few[key], other[key]) for key in few)


@given(st.sampled_from(["gpt2", "llama"]), st.integers(1, 16), st.floats(0.1, 64), st.booleans(), st.integers(0, 99))
def test_merging_changes_no_output_and_unmerging_restores_every_bit(kind, r, alpha, rslora, seed):
    peft_model = adapted(kind, r=r, lora_alpha=alpha, use_rslora=rslora, target_modules="all-linear")
    scramble(peft_model, seed)
    before = {name: p.data.copy() for name, p in peft_model.named_parameters()}
    expected = logits(peft_model)
    peft_model.merge_adapter()
    peft_model.merge_adapter()  # a second time does nothing
    assert_close(logits(peft_model), expected, 1e-10)
    peft_model.unmerge_adapter()
    for name, parameter in peft_model.named_parameters():
        np.testing.assert_array_equal(parameter.data, before[name])


def test_unloading_gives_the_base_back_and_merging_gives_a_plain_model():
    model = base("gpt2")
    names, before = [n for n, _ in model.named_parameters()], logits(model)
    peft_model = get_peft_model(model, LoraConfig(r=2))
    scramble(peft_model)
    changed = logits(peft_model)
    assert np.abs(changed - before).max() > 0.01
    peft_model.merge_adapter()
    with peft_model.disable_adapter():
        np.testing.assert_array_equal(logits(peft_model), before)
    assert_close(logits(peft_model), changed, 1e-10)  # merged again
    np.testing.assert_array_equal(logits(peft_model.unload()), before)
    assert [n for n, _ in model.named_parameters()] == names

    merged = adapted("gpt2").merge_and_unload()
    assert [n for n, _ in merged.named_parameters()] == names


def test_safe_merge_refuses_what_is_not_finite_and_merges_nothing():
    peft_model = adapted("llama")
    last = [p for n, p in peft_model.named_parameters() if "lora_B" in n][-1]
    last.data[0, 0] = np.inf
    before = {n: p.data.copy() for n, p in peft_model.named_parameters() if "base_layer" in n}
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="not finite"):
        peft_model.merge_adapter(safe_merge=True)
    for name, parameter in peft_model.named_parameters():
        if name in before:
            np.testing.assert_array_equal(parameter.data, before[name])
    with np.errstate(invalid="ignore"):
        peft_model.merge_adapter()  # not asked to be safe, as in peft
        assert not all(np.isfinite(p.data).all() for n, p in peft_model.named_parameters() if n in before)


def test_dropout_touches_the_lora_branch_only():
    """With B = 0 nothing is random; with B != 0 the frozen path stays whole, so the mean over masks is the plain output."""
    peft_model = get_peft_model(base("llama"), LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"]))
    layer = peft_model.get_base_model().model.layers[0].self_attn.q_proj
    x = Tensor(np.random.default_rng(0).standard_normal((1, 1, 32)))
    plain = layer.base_layer(x).data
    peft_model.train(seed=3)
    np.testing.assert_array_equal(layer(x).data, plain)
    scramble(peft_model)
    peft_model.eval()
    whole = layer(x).data
    peft_model.train(seed=3)
    draws = [layer(x).data for _ in range(4000)]
    assert np.abs(draws[0] - draws[1]).max() > 0.1 * np.abs(whole - plain).max()
    assert np.abs(np.mean(draws, axis=0) - whole).max() < 0.05 * np.abs(whole - plain).max()
    peft_model.train(seed=3)
    np.testing.assert_array_equal(layer(x).data, draws[0])


def test_an_adapter_is_in_the_mode_of_its_model():
    for training in (False, True):
        peft_model = get_peft_model(base("llama").train(training, seed=1), LoraConfig(r=2, lora_dropout=0.5))
        peft_model.add_adapter("second", LoraConfig(r=2, lora_dropout=0.5))
        assert {module.training for module in peft_model.modules()} == {training}


def test_several_adapters_add_up_and_switch():
    peft_model = adapted("llama", target_modules=["q_proj"])
    first = logits(peft_model)
    peft_model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "q_proj"]), seed=5)
    np.testing.assert_array_equal(logits(peft_model), first)  # there, but not active
    peft_model.set_adapter("second")
    assert peft_model.active_adapters == ["second"]
    assert all(p.requires_grad == (".second." in n) for n, p in peft_model.named_parameters())
    scramble(peft_model, seed=2)
    second = logits(peft_model)
    peft_model.set_adapter(["default", "second"])
    both = logits(peft_model)
    merged = peft_model.merge_and_unload()
    assert_close(logits(merged), both, 1e-10)
    assert len({x.tobytes() for x in (first, second, both)}) == 3


def test_adapters_come_back_from_files(tmp_path):
    peft_model = adapted("gpt2", dtype="float32", r=4, lora_alpha=16, target_modules=["c_attn", "mlp.c_proj"])
    peft_model.add_adapter("other", LoraConfig(r=2, target_modules=["c_fc"]), seed=9)
    peft_model.save_pretrained(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == [
        "adapter_config.json", "adapter_model.safetensors", "other/adapter_config.json", "other/adapter_model.safetensors"]
    again = PeftModel.from_pretrained(base("gpt2", "float32"), tmp_path)
    np.testing.assert_array_equal(logits(again), logits(peft_model))
    assert not any(p.requires_grad for p in again.parameters())  # as in peft: frozen unless is_trainable
    again.load_adapter(tmp_path / "other", "other")
    again.set_adapter("other")
    peft_model.set_adapter("other")
    np.testing.assert_array_equal(logits(again), logits(peft_model))
    assert isinstance(PeftConfig.from_pretrained(tmp_path), LoraConfig)


TARGETS = [  # target_modules, options, the number of modules it names in the two-layer models
    ("llama", None, {}, 4), ("gpt2", None, {}, 2), ("llama", "all-linear", {}, 14), ("gpt2", "all-linear", {}, 8),
    ("gpt2", ["c_proj"], {}, 4), ("gpt2", ["mlp.c_proj"], {}, 2), ("gpt2", ["h.1.attn.c_attn"], {}, 1),
    ("llama", r".*\.(q|k)_proj", {}, 4), ("llama", "all-linear", {"exclude_modules": ["gate_proj", "up_proj"]}, 10),
    ("llama", "all-linear", {"exclude_modules": r".*mlp.*"}, 8), ("llama", ["q_proj"], {"layers_to_transform": 1}, 1),
    ("gpt2", ["c_attn"], {"layers_to_transform": [0], "layers_pattern": "h"}, 1), ("llama", ["lm_head"], {}, 1),
]


@pytest.mark.parametrize(("kind", "target_modules", "options", "count"), TARGETS)
def test_target_modules_follow_the_rules_of_peft(kind, target_modules, options, count):
    config = LoraConfig(target_modules=target_modules, **options)
    assert len(find_targets(base(kind), config)) == count


BAD_CONFIGS = [
    ({"r": 0}, "rank must be an integer of at least 1, got r=0"), ({"r": 2.5}, "got r=2.5"), ({"r": True}, "got r=True"),
    ({"lora_alpha": 0}, "positive number, got lora_alpha=0"), ({"lora_alpha": float("nan")}, "got lora_alpha=nan"),
    ({"lora_dropout": 1.0}, r"in \[0, 1\), got 1.0"), ({"lora_dropout": -0.1}, "got -0.1"),
    ({"rank_pattern": {"q_proj": 0}}, "got q_proj=0"), ({"task_type": "SEQ_CLS"}, "only CAUSAL_LM"),
    ({"target_modules": 7}, "list of names or a string, got 7"), ({"bias": "some"}, "'all', 'lora_only', got 'some'"),
    ({"init_lora_weights": "eva"}, "init_lora_weights must be one of True, False, 'gaussian', 'pissa', 'olora', got 'eva'"),
    ({"layers_pattern": "h"}, "layers_pattern must come with layers_to_transform"),
]


@pytest.mark.parametrize(("values", "message"), BAD_CONFIGS)
def test_config_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**values)


def test_the_task_type_may_be_given_either_way():
    assert LoraConfig(task_type=TaskType.CAUSAL_LM).to_dict()["task_type"] == LoraConfig(task_type="CAUSAL_LM").task_type


BAD_TARGETS = [
    ({"target_modules": ["q_prj"]}, r"\['q_prj'\] match no module .* Near: q_proj"),
    ({"target_modules": ["q_proj", "c_attn"]}, r"\['c_attn'\] match no module of this LlamaForCausalLM"),
    ({"target_modules": ".*nothing"}, "match no module"),
    ({"target_modules": ".*q_pro"}, "match no module"),  # a regular expression is for the whole name
    ({"target_modules": ["proj"]}, r"\['proj'\] match no module"),  # an ending begins after a dot
    ({"target_modules": ["self_attn"]}, r"of type LlamaAttention; only Embedding, Linear can be adapted"),
    ({"target_modules": ["q_proj"], "layers_to_transform": 7}, "but exclude_modules=None, layers_to_transform=7 .* leave none"),
    ({"target_modules": "q_proj"}, "a string is a regular expression for the whole name; give names as a list"),
    ({"target_modules": "*proj"}, r"'\*proj' is not a regular expression \(nothing to repeat"),
    ({"target_modules": ["q_proj"], "rank_pattern": {"qproj": 2}}, r"rank_pattern \['qproj'\] match none of the target"),
    ({"target_modules": ["q_proj", "k_proj"], "r": 17}, "rank r=17 for model.layers.0.self_attn.k_proj, a matrix of 16 x 32"),
]


@pytest.mark.parametrize(("values", "message"), BAD_TARGETS)
def test_a_config_that_does_not_fit_leaves_the_model_as_it_was(values, message):
    model = base("llama")
    before = [(n, p.requires_grad) for n, p in model.named_parameters()]
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, LoraConfig(**values))
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == before
    peft_model = get_peft_model(model, LoraConfig(r=2))
    expected = logits(peft_model), [n for n, _ in peft_model.named_parameters()]
    with pytest.raises(ValueError, match=message):
        peft_model.add_adapter("second", LoraConfig(**values))
    assert [n for n, _ in peft_model.named_parameters()] == expected[1]
    np.testing.assert_array_equal(logits(peft_model), expected[0])


def test_keys_of_peft_are_accepted_at_their_defaults_and_as_sets(tmp_path):
    config = LoraConfig(r=2, bias="none", init_lora_weights=True, modules_to_save=None, use_dora=False,
                        target_modules={"q_proj"}, exclude_modules={"v_proj"}, layers_to_transform=range(1))
    peft_model = get_peft_model(base("llama"), config)
    peft_model.save_pretrained(tmp_path)
    assert read_json(tmp_path / "adapter_config.json")["layers_to_transform"] == [0]
    assert config.base_model_name_or_path is None  # the caller's config may serve another model


def test_a_second_adapter_wraps_the_same_layers_not_the_first_adapter():
    peft_model = get_peft_model(base("llama"), LoraConfig(r=2, target_modules="all-linear"))
    peft_model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear"))
    names = [name for name, _ in peft_model.named_parameters() if "lora" in name]
    assert all(name.count("lora_") == 1 for name in names)
    assert len(names) == 14 * 2 * 2
    peft_model.set_adapter(["second", "second"])
    assert peft_model.active_adapters == ["second"]


def test_merging_into_a_tied_head_leaves_the_token_table_alone(tmp_path):
    peft_model = adapted("gpt2", target_modules=["lm_head"])
    expected, table = logits(peft_model), peft_model.get_base_model().transformer.wte.weight.data.copy()
    peft_model.merge_adapter()
    assert_close(logits(peft_model), expected, 1e-10)
    peft_model.unmerge_adapter()
    assert_close(logits(peft_model), expected, 0)
    merged = peft_model.merge_and_unload()
    np.testing.assert_array_equal(merged.transformer.wte.weight.data, table)
    merged.save_pretrained(tmp_path)
    assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float64")), expected, 1e-10)


def test_switching_off_may_be_nested():
    peft_model = adapted()
    plain, changed = logits(base("llama")), logits(peft_model)
    with peft_model.disable_adapter():
        with peft_model.disable_adapter():
            pass
        np.testing.assert_array_equal(logits(peft_model), plain)
        for verb in (peft_model.merge_adapter, peft_model.unmerge_adapter, peft_model.merge_and_unload,
                     lambda: peft_model.set_adapter("default")):
            with pytest.raises(RuntimeError, match="switched off here: leave disable_adapter"):
                verb()
        np.testing.assert_array_equal(logits(peft_model), plain)
    np.testing.assert_array_equal(logits(peft_model), changed)


def test_what_is_loaded_stays_frozen_unless_it_is_to_be_trained():
    peft_model = PeftModel.from_pretrained(base("llama"), GOLDEN / "adapters/llama_lora")
    peft_model.load_adapter(GOLDEN / "adapters/llama_lora_alllinear", "second", is_trainable=True)
    assert peft_model.get_nb_trainable_parameters()[0] == 0
    peft_model.set_adapter("second")
    assert {".second." in name for name, p in peft_model.named_parameters() if p.requires_grad} == {True}


def test_unloading_thaws_what_was_trained_before():
    model = base("llama")
    model.lm_head.weight.requires_grad = False
    get_peft_model(model, LoraConfig(r=2)).unload()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["lm_head.weight"]


def test_a_failed_addition_leaves_the_merged_weights():
    peft_model = adapted(target_modules=["q_proj", "k_proj"])
    peft_model.merge_adapter()
    merged = logits(peft_model)
    with pytest.raises(ValueError, match="rank r=17"):
        peft_model.add_adapter("second", LoraConfig(r=17, target_modules=["q_proj", "k_proj"]))
    assert all(layer.merged for layer in peft_model.layers())
    np.testing.assert_array_equal(logits(peft_model), merged)


def test_a_base_with_adapters_in_it_is_not_saved_as_a_model(tmp_path):
    with pytest.raises(ValueError, match="carries adapters"):
        adapted().get_base_model().save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_and_second_wrappings_are_checked():
    peft_model = adapted()
    for name, message in (("default", "is an adapter 'default' already"), ("a.b", "may not be empty"), ("", "may not be")):
        with pytest.raises(ValueError, match=message):
            peft_model.add_adapter(name, LoraConfig(r=2))
    with pytest.raises(ValueError, match="no adapter 'polish'; there are: default"):
        peft_model.set_adapter("polish")
    with pytest.raises(ValueError, match="carries adapters already"):
        get_peft_model(peft_model.get_base_model(), LoraConfig())


def spoiled(folder: Path, change: Any) -> Path:
    """A copy of a saved adapter with its tensors changed."""
    state = read_safetensors(GOLDEN / "adapters/llama_lora/adapter_model.safetensors")
    change(state)
    write_safetensors(folder / "adapter_model.safetensors", state)
    write_json(folder / "adapter_config.json", read_json(GOLDEN / "adapters/llama_lora/adapter_config.json"))
    return folder


FIRST = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
SPOILED = [
    (lambda s: s.pop(FIRST), r"1 missing: .*k_proj.lora_A.weight.*made for the base"),
    (lambda s: s.update(extra=np.zeros(2, np.float32)), "1 unknown: extra"),
    (lambda s: s.update({FIRST: np.zeros((4, 31), np.float32)}), r"1 of another shape: .*\(4, 31\) instead of \(4, 32\)"),
]


@pytest.mark.parametrize(("change", "message"), SPOILED)
def test_a_broken_adapter_loads_nothing(change, message, tmp_path):
    model = base("llama", "float32")
    before, names = logits(model), [n for n, _ in model.named_parameters()]
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(model, spoiled(tmp_path, change))
    assert [n for n, _ in model.named_parameters()] == names
    np.testing.assert_array_equal(logits(model), before)
    peft_model = get_peft_model(model, LoraConfig(r=2))
    with pytest.raises(ValueError, match=message):
        peft_model.load_adapter(tmp_path, "broken")
    assert list(peft_model.peft_config) == ["default"]
    np.testing.assert_array_equal(logits(peft_model), before)


def test_other_kinds_of_broken_files_are_named(tmp_path):
    model = base("llama", "float32")
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        PeftModel.from_pretrained(model, tmp_path)
    folder = spoiled(tmp_path, lambda s: None)
    config = read_json(folder / "adapter_config.json")
    for change, message in (({"peft_type": "LOHA"}, "peft_type 'LOHA' is not implemented; known: .*LORA"),
                            ({"use_qalora": True}, "not implemented here: use_qalora=True"), ({"r": -1}, "got r=-1")):
        write_json(folder / "adapter_config.json", config | change)
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(model, folder)
    write_json(folder / "adapter_config.json", config | {"lora_alhpa": 3})
    with pytest.warns(UserWarning, match=r"unknown key 'lora_alhpa' is ignored \(near: lora_alpha\)"):
        PeftModel.from_pretrained(model, folder).unload()
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": "someone/else"})
    with pytest.warns(UserWarning, match="made for 'someone/else', this model is"):
        PeftModel.from_pretrained(model, folder).unload()
    write_json(folder / "adapter_config.json", config)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors"):
        PeftModel.from_pretrained(model, folder)
    with pytest.raises(ValueError, match="target_modules"):  # an adapter for the other model family
        PeftModel.from_pretrained(model, GOLDEN / "adapters/gpt2_lora")
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_meta_models_are_counted_but_not_merged_saved_or_run(tmp_path):
    peft_model = get_peft_model(AutoModelForCausalLM.from_config(GPT2Config(), device="meta"), LoraConfig())
    assert all(p.is_meta for p in peft_model.parameters())
    for work in (peft_model.merge_adapter, lambda: peft_model.save_pretrained(tmp_path), lambda: peft_model(IDS)):
        with pytest.raises(RuntimeError, match="meta"):
            work()
    assert not list(tmp_path.iterdir())
