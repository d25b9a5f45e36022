"""Sequences of verbs: whatever was done and undone, the model is in the state that its verbs say."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, settings, strategies as st
from peft_cases import IDS, base, logits, scramble

from tinypeft import (
    AdaLoraConfig,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    SubspaceConfig,
    ULoraConfig,
    VeraConfig,
    create_loraplus_optimizer,
    get_peft_model,
)
from tinypeft.training import AdamW

MERGED: dict[str, list[Any]] = {  # what is merged while other adapters come and go
    "pissa": [LoraConfig(r=2, init_lora_weights="pissa")],
    "ia3 + bitfit": [IA3Config(), BitFitConfig()],
    "lora, all biases": [LoraConfig(r=2, bias="all")],
}


def merged(case: str, active: bool) -> tuple[PeftModel, np.ndarray]:
    """A model with the case's adapters merged, active or not, and its logits."""
    peft_model = get_peft_model(base("gpt2"), LoraConfig(r=2, target_modules=["c_fc"]), "other")
    names = [f"m{i}" for i in range(len(MERGED[case]))]
    for name, config in zip(names, MERGED[case], strict=True):
        peft_model.add_adapter(name, config)
    peft_model.set_adapter(names)
    scramble(peft_model)
    if not active:
        peft_model.set_adapter("other")
    peft_model.merge_adapter(names)
    return peft_model, logits(peft_model)


@pytest.mark.parametrize("active", [True, False], ids=["active", "inactive"])
@pytest.mark.parametrize("case", MERGED)
def test_what_is_merged_stays_merged_whatever_else_comes_and_goes(case, active):
    peft_model, expected = merged(case, active)
    peft_model.add_adapter("new", LoraConfig(r=1, target_modules=["c_fc"]))
    assert_close(logits(peft_model), expected, 1e-12, "added")
    peft_model.delete_adapter("new")
    assert_close(logits(peft_model), expected, 1e-12, "deleted")
    with peft_model.disable_adapter():
        assert_close(logits(peft_model), logits(base("gpt2")), 0, "disabled")
    assert_close(logits(peft_model), expected, 1e-12, "enabled again")
    with pytest.raises(ValueError, match="match no module"):
        peft_model.add_adapter("bad", LoraConfig(target_modules=["nowhere"]))
    assert_close(logits(peft_model), expected, 1e-12, "after a failure")
    with pytest.raises(FileNotFoundError):
        peft_model.load_adapter("nowhere", "bad")
    assert_close(logits(peft_model), expected, 1e-12, "after a failed load")
    if not active:
        peft_model.unmerge_adapter()
        assert np.abs(logits(peft_model) - expected).max() > 1e-3  # they were merged, not active


def test_merging_asks_who_is_active():
    peft_model = get_peft_model(base("gpt2"), LoraConfig(r=2, bias="all"), "a")
    peft_model.add_adapter("b", LoraConfig(r=2, bias="all"))
    with pytest.raises(ValueError, match="cannot be active together"):
        peft_model.merge_adapter(["b"])
    peft_model.set_adapter("b")
    scramble(peft_model)
    expected = logits(peft_model)
    peft_model.set_adapter("a")
    assert_close(logits(peft_model.merge_and_unload(adapter_names=["b"])), expected, 1e-10)  # the others are let go


def test_merge_and_unload_of_one_lets_go_of_what_was_merged_before():
    peft_model = get_peft_model(base("llama"), LoraConfig(r=2, init_lora_weights="pissa"), "a")
    scramble(peft_model)
    peft_model.merge_adapter()
    peft_model.add_adapter("b", LoraConfig(r=2))
    peft_model.set_adapter("b")
    scramble(peft_model, seed=4)
    expected = logits(peft_model)
    peft_model.set_adapter("a")
    peft_model.merge_adapter()
    assert_close(logits(peft_model.merge_and_unload(adapter_names=["b"])), expected, 1e-10)


def test_one_name_may_be_merged_as_a_string():
    peft_model = get_peft_model(base("llama"), LoraConfig(r=2))
    peft_model.merge_adapter("default")
    assert peft_model.get_layer_status()[0].merged_adapters == ["default"]


def test_a_model_that_was_taken_apart_says_so():
    peft_model = get_peft_model(base("llama"), LoraConfig(r=2))
    peft_model.unload()
    with pytest.raises(ValueError, match="get_peft_model puts new ones in"):
        peft_model.add_adapter("late", LoraConfig(r=2))


def test_the_first_ulora_task_trains_on_after_a_second_that_failed_or_left():
    peft_model = get_peft_model(base("gpt2"), ULoraConfig(r=3), "first")
    before = peft_model.get_nb_trainable_parameters()
    with pytest.raises(ValueError, match="modules_to_save"):
        peft_model.add_adapter("second", ULoraConfig(r=3, modules_to_save=["nowhere"]))
    assert peft_model.get_nb_trainable_parameters() == before
    peft_model.add_adapter("second", ULoraConfig(r=3))
    assert peft_model.get_nb_trainable_parameters()[0] < before[0]
    peft_model.delete_adapter("second")
    assert peft_model.get_nb_trainable_parameters() == before


def test_a_later_ulora_task_never_trains_the_factors(tmp_path):
    peft_model = get_peft_model(base("gpt2"), ULoraConfig(r=3), "first")
    scramble(peft_model)
    peft_model.add_adapter("second", ULoraConfig(r=3))
    peft_model.set_adapter("second")
    peft_model.save_pretrained(tmp_path)
    peft_model.delete_adapter("first")
    assert peft_model.get_nb_trainable_parameters()[0] == 2 * 3
    alone = PeftModel.from_pretrained(base("gpt2"), tmp_path / "second", "second", is_trainable=True)
    assert alone.get_nb_trainable_parameters()[0] == 2 * 3


@pytest.mark.parametrize("other", [BitFitConfig(), LoraConfig(r=2, bias="all", target_modules=["nothing.here", "c_fc"])],
                         ids=["bitfit", "all biases"])
def test_a_subspace_knows_its_parameters_by_name(other):
    peft_model = get_peft_model(base("gpt2"), SubspaceConfig(dimension=4, target_modules=["c_attn"]))
    scramble(peft_model)
    alone = logits(peft_model)
    if isinstance(other, LoraConfig):
        other.target_modules = ["c_fc"]
    peft_model.add_adapter("other", other)
    peft_model.set_adapter(["default", "other"])
    assert_close(logits(peft_model), alone, 1e-12)  # the other one is new, and changes nothing
    assert_close(logits(copy.deepcopy(peft_model)), alone, 1e-12)


def test_adalora_remembers_after_being_copied():
    peft_model = get_peft_model(base("gpt2"), AdaLoraConfig(init_r=3, target_r=1, total_step=6)).train(seed=0)
    for step in (1, 2):
        peft_model.zero_grad()
        peft_model(IDS, labels=IDS).loss.backward()
        peft_model.update_and_allocate(step)
    twin = copy.deepcopy(peft_model)
    assert twin.training_state().keys() == peft_model.training_state().keys()
    assert any("method" in key for key in twin.training_state())


def test_the_shortest_adalora_schedules_are_refused_or_work():
    with pytest.raises(ValueError, match="leave no steps"):
        AdaLoraConfig(total_step=1)
    peft_model = get_peft_model(base("gpt2"), AdaLoraConfig(init_r=2, target_r=1, total_step=2))
    peft_model.update_and_allocate(5)  # long after the end, without ever having looked: nothing to do
    with pytest.raises(ValueError, match="use_rslora=True is not implemented"):
        AdaLoraConfig(total_step=9, use_rslora=True)


def test_numbers_of_numpy_can_be_saved(tmp_path):
    peft_model = get_peft_model(base("llama"), VeraConfig(r=np.int64(3)))
    peft_model.save_pretrained(tmp_path)
    assert PeftModel.from_pretrained(base("llama"), tmp_path).peft_config["default"].r == 3


def test_half_precision_bases_can_start_pissa_and_stay_half_when_merged():
    for config in (LoraConfig(r=2, init_lora_weights="pissa"), LoraConfig(r=2, init_lora_weights="olora"), IA3Config(),
                   SubspaceConfig(dimension=3)):
        peft_model = get_peft_model(base("llama", "float16"), config)
        assert {p.dtype for p in peft_model.parameters() if p.requires_grad} == {np.dtype(np.float32)}
        assert {p.dtype for p in peft_model.merge_and_unload().parameters()} == {np.dtype(np.float16)}


def test_a_model_is_converted_whole():
    peft_model = get_peft_model(base("gpt2", "float32"), BitFitConfig())
    scramble(peft_model)
    peft_model.to("float64")
    expected = logits(peft_model)
    with peft_model.disable_adapter():
        assert {p.dtype for p in peft_model.parameters()} == {np.dtype(np.float64)}
    assert_close(logits(peft_model), expected, 0)


def test_embeddings_start_as_they_are_told():
    peft_model = get_peft_model(base("gpt2"), LoraConfig(r=2, target_modules=["wte"], init_lora_weights=False))
    assert np.abs(logits(peft_model) - logits(base("gpt2"))).max() > 0.1
    with pytest.raises(ValueError, match="transformer.wte is an embedding"):
        get_peft_model(base("gpt2"), LoraConfig(r=2, target_modules=["wte"], init_lora_weights="pissa"))


def test_parallel_adapters_start_as_in_the_adapters_library():
    peft_model = get_peft_model(base("gpt2"), BottleneckConfig(style="parallel"))
    for name, p in peft_model.named_parameters():
        if p.requires_grad:
            assert p.data.any() == name.endswith("adapter_down.0.weight"), name


def test_a_module_to_save_may_not_hold_anothers_adapter():
    peft_model = get_peft_model(base("gpt2"), LoraConfig(r=2, target_modules=["c_fc"]))
    with pytest.raises(ValueError, match="modules_to_save names transformer.h.0.mlp, in which .*c_fc carries"):
        peft_model.add_adapter("whole", LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["mlp"]))


def test_the_groups_of_lora_plus_do_not_depend_on_names_of_adapters():
    for name in ("default", "lora_B", "unbiased"):
        peft_model = get_peft_model(base("llama"), LoraConfig(r=2), name)
        optimizer = create_loraplus_optimizer(peft_model, AdamW, lr=0.1, loraplus_lr_ratio=16)
        assert [len(group["params"]) for group in optimizer.param_groups] == [4, 0, 4, 0]


def test_weighted_sums_refuse_ranks_that_mean_nothing():
    peft_model = get_peft_model(base("llama"), LoraConfig(r=2))
    for kind, rank in (("svd", 0), ("svd", -1), ("cat", 3)):
        with pytest.raises(ValueError, match=f"svd_rank={rank}"):
            peft_model.add_weighted_adapter(["default"], [1.0], "sum", kind, svd_rank=rank)


def test_an_exclusion_of_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"exclude_modules \['v_prj'\] match no module"):
        get_peft_model(base("llama"), LoraConfig(r=2, exclude_modules=["v_prj"]))


def test_a_mixed_batch_says_what_it_needs():
    peft_model = get_peft_model(base("llama"), LoraConfig(r=2, modules_to_save=["self_attn"], target_modules=["up_proj"]))
    with pytest.raises(ValueError, match="cannot be mixed within a batch"):
        peft_model(IDS, adapter_names=["default", "__base__"])
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds"):
        peft_model(adapter_names=["default", "__base__"])
    prompted = get_peft_model(base("llama"), PromptTuningConfig(num_virtual_tokens=2))
    with pytest.raises(ValueError, match="cannot be mixed within a batch"):
        prompted(IDS, adapter_names=["default", "__base__"])


POOL: dict[str, Any] = {  # adapters of many methods that may meet in one model
    "lora": LoraConfig(r=2, target_modules=["c_attn"]), "lora2": LoraConfig(r=1, target_modules=["c_attn"], bias="lora_only"),
    "pissa": LoraConfig(r=2, init_lora_weights="pissa", target_modules=["attn.c_proj"]), "bitfit": BitFitConfig(),
    "dora": LoraConfig(r=2, use_dora=True, target_modules=["c_fc"]), "ia3": IA3Config(target_modules=["mlp.c_proj"]),
    "ln": LNTuningConfig(target_modules=["ln_f"]), "prompt": PromptTuningConfig(num_virtual_tokens=2),
    "houlsby": BottleneckConfig(reduction_factor=8),
}
NAMES = st.lists(st.sampled_from([*POOL]), min_size=1, max_size=3, unique=True)
VERBS = st.one_of(st.tuples(st.sampled_from(["set", "merge"]), NAMES),
                  st.tuples(st.sampled_from(["unmerge", "off", "come and go"]), st.none()))


def full_of_adapters() -> PeftModel:
    peft_model = get_peft_model(base("gpt2"), POOL["lora"], "lora")
    for i, (name, config) in enumerate(POOL.items()):
        if name != "lora":
            peft_model.add_adapter(name, config)
        peft_model.set_adapter(name)
        scramble(peft_model, seed=i)
    peft_model.set_adapter("lora")
    return peft_model


@settings(max_examples=25)
@given(st.lists(VERBS, min_size=2, max_size=6))
def test_any_sequence_of_verbs_leaves_what_it_says(verbs):
    """Beside a model that goes through them stands a twin that is never merged: active and merged ones are just active."""
    peft_model, twin, plain = full_of_adapters(), full_of_adapters(), logits(base("gpt2"))
    active, merged = ["lora"], []
    for verb, names in verbs:
        try:
            if verb == "set":
                peft_model.set_adapter(names)
                active, merged = names, []
            elif verb == "merge":
                peft_model.merge_adapter(names)
                merged = list(dict.fromkeys([*merged, *names]))
            elif verb == "unmerge":
                peft_model.unmerge_adapter()
                merged = []
            elif verb == "off":
                with peft_model.disable_adapter():
                    assert_close(logits(peft_model), plain, 0)
            else:
                peft_model.add_adapter("guest", LoraConfig(r=1, target_modules=["lm_head"]))
                peft_model.delete_adapter("guest")
        except ValueError:
            pass  # rivals, or what cannot be merged: then nothing may have changed
        twin.set_adapter(list(dict.fromkeys([*active, *merged])))
        assert_close(logits(peft_model), logits(twin), 1e-10, f"after {verb} {names}, of {verbs}")
    assert_close(logits(peft_model.unload()), plain, 0)
