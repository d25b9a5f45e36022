"""Several adapters in one model: stacks and their files, mixed batches, what cannot stand together, bad input, a new method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from peft_cases import (
    EMBEDDING,
    IDS,
    METHODS,
    PROMPTS,
    adapted,
    assert_same,
    base,
    config_of,
    distance,
    logits,
    scramble,
    snapshot,
    stack,
    trainable,
)

from tinypeft import (
    BottleneckConfig,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    Tensor,
    VeraConfig,
    get_peft_model,
)
from tinypeft.files import read_json, write_json

# ---- stacks and their files -----------------------------------------------------------------------------------------

STACKS = [["lora", "prompt"], ["lora", "bitfit"], ["houlsby", "prompt"], ["prompt", "lora"], ["ia3", "bitfit"],
          ["dora", "lora"], ["dora", "bitfit"], ["parallel", "lora", "prefix"], ["ln", "vera"], ["pfeiffer", "houlsby"],
          ["prefix", "prompt_appended"], ["lora", "pissa"], ["modules_to_save", "parallel"], ["lora_head", "ln"]]
MERGED_STACKS = [["ia3", "bitfit"], ["dora", "bitfit"], ["lora", "bitfit"], ["lora", "pissa"], ["ln", "lora"],
                 ["lora", "rslora"], ["modules_to_save", "rslora"]]


@pytest.mark.parametrize("methods", STACKS, ids=" + ".join)
def test_a_stack_comes_back_whole(methods, tmp_path):
    peft_model = stack(methods)
    expected = logits(peft_model)
    for method in methods:  # each does something in it
        peft_model.set_adapter([other for other in methods if other != method])
        other = logits(peft_model)[:, -6:]
        assert distance(other, expected[:, -6:]) > 1e-3
    peft_model.set_adapter(methods)
    peft_model.save_pretrained(tmp_path)
    assert read_json(tmp_path / "active.json") == {"active_adapters": methods}
    again = PeftModel.from_pretrained(base("gpt2", "float32"), tmp_path)
    assert again.active_adapters == methods
    assert_same(logits(again), expected)
    assert not trainable(again)
    again = PeftModel.from_pretrained(base("gpt2", "float32"), tmp_path, is_trainable=True)
    assert trainable(again).keys() == trainable(peft_model).keys()
    with again.disable_adapter():
        assert_same(logits(again), logits(base("gpt2", "float32")))
    alone = PeftModel.from_pretrained(base("gpt2", "float32"), tmp_path / methods[-1])
    peft_model.set_adapter(methods[-1])
    assert alone.active_adapters == ["default"]
    assert_same(logits(alone), logits(peft_model))


@pytest.mark.parametrize("methods", MERGED_STACKS, ids=" + ".join)
def test_a_stack_merges_into_what_it_was(methods):
    peft_model = stack(methods, dtype="float64")
    before, expected = snapshot(peft_model), logits(peft_model)
    peft_model.merge_adapter()
    assert_close(logits(peft_model), expected, 1e-10)
    peft_model.unmerge_adapter()
    assert snapshot(peft_model) == before
    assert_close(logits(peft_model.merge_and_unload()), expected, 1e-10)


def test_active_json_goes_when_default_alone_is_active_and_is_checked(tmp_path):
    peft_model = adapted("lora")
    peft_model.add_adapter("other", config_of("lora"))
    peft_model.set_adapter(["default", "other"])
    peft_model.save_pretrained(tmp_path)
    assert (tmp_path / "active.json").exists()
    for broken in ({}, {"active_adapters": "other"}, {"active_adapters": [1]}):
        write_json(tmp_path / "active.json", broken)
        with pytest.raises(ValueError, match=r"active\.json must hold a list of names, active_adapters"):
            PeftModel.from_pretrained(base(), tmp_path)
    write_json(tmp_path / "active.json", {"active_adapters": ["default", "gone"]})
    model = base()
    before = snapshot(model)
    with pytest.raises(FileNotFoundError, match="gone"):
        PeftModel.from_pretrained(model, tmp_path)
    assert snapshot(model) == before
    peft_model.set_adapter("default")
    peft_model.save_pretrained(tmp_path)
    assert not (tmp_path / "active.json").exists()


def test_a_language_adapter_each_and_one_prompt_for_all(tmp_path):
    """One base, a bottleneck adapter per language, and a soft prompt that all languages share."""
    languages = ["polish", "maori", "yoruba"]
    peft_model = get_peft_model(base("llama", "float32"), BottleneckConfig(style="pfeiffer", reduction_factor=4), languages[0])
    for language in languages[1:]:
        peft_model.add_adapter(language, BottleneckConfig(style="pfeiffer", reduction_factor=4))
    peft_model.add_adapter("task", PromptTuningConfig(num_virtual_tokens=4))
    for seed, language in enumerate(languages):
        peft_model.set_adapter([language, "task"])
        assert {part for name in trainable(peft_model) for part in name.split(".")} & {*languages, "task"} == {language, "task"}
        peft_model.set_adapter(language)
        scramble(peft_model, seed)
    spoken = {}
    for language in languages:
        peft_model.set_adapter([language, "task"])
        spoken[language] = logits(peft_model)
        assert spoken[language].shape == (2, 10, 97)
    assert len({x.tobytes() for x in spoken.values()}) == 3
    peft_model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["active.json", *sorted([*languages, "task"])]
    again = PeftModel.from_pretrained(base("llama", "float32"), tmp_path)  # the last language and the task
    assert_same(logits(again), spoken["yoruba"])
    for language in languages[:2]:
        again.load_adapter(tmp_path / language, language)
        again.set_adapter([language, "task"])
        assert_same(logits(again), spoken[language])
    again.delete_adapter("yoruba")
    assert [*again.peft_config] == ["task", "polish", "maori"]


def test_the_order_of_prompts_is_the_order_in_which_they_are_listed(tmp_path):
    peft_model = get_peft_model(base(dtype="float32"), PromptTuningConfig(num_virtual_tokens=2), "first")
    peft_model.add_adapter("second", PromptTuningConfig(num_virtual_tokens=3))
    vectors = [peft_model.parameters_of(name)["prompt_embeddings"].data for name in ("first", "second")]
    table = base(dtype="float32").get_input_embeddings().weight.data[IDS]
    for order, parts in ((["first", "second"], vectors), (["second", "first"], vectors[::-1])):
        peft_model.set_adapter(order)
        embeds = np.concatenate([np.repeat(np.concatenate(parts)[None], 2, axis=0), table], axis=1)
        assert_close(logits(peft_model), base(dtype="float32")(inputs_embeds=Tensor(embeds)).logits, 1e-5)
        peft_model.save_pretrained(tmp_path)
        assert_same(logits(PeftModel.from_pretrained(base(dtype="float32"), tmp_path)), logits(peft_model))


# ---- mixed batches --------------------------------------------------------------------------------------------------

ROWS = np.array([[3, 14, 15, 92], [8, 96, 9, 79], [1, 2, 3, 4], [60, 50, 40, 30], [3, 14, 15, 92]])
MIXABLE = [method for method in METHODS | EMBEDDING
           if method not in (*PROMPTS, "lora_biases", "lora_only_biases", "bitfit", "bitfit_norms", "pissa", "olora")]


@pytest.mark.parametrize("method", MIXABLE)
def test_each_row_of_a_mixed_batch_equals_that_row_alone(method):
    peft_model = adapted(method, name="a")
    peft_model.add_adapter("b", config_of(method), seed=1)
    peft_model.set_adapter("b")
    scramble(peft_model, 2)
    names = ["b", "__base__", "a", "b", "a"]
    together = logits(peft_model, ROWS, adapter_names=names)
    words = peft_model.generate(ROWS, adapter_names=names, max_new_tokens=4, eos_token_id=-1)
    assert_same(logits(peft_model, ROWS), logits(peft_model, ROWS, adapter_names=["b"] * 5))
    seen = set()
    for i, name in enumerate(names):
        if name != "__base__":
            peft_model.set_adapter(name)
        model: Any = base() if name == "__base__" else peft_model
        alone = logits(model, ROWS[i:i + 1])
        seen.add(alone.tobytes())
        assert_close(together[i:i + 1], alone, 1e-12)
        assert_same(words[i:i + 1], model.generate(ROWS[i:i + 1], max_new_tokens=4, eos_token_id=-1))
    assert len(seen) == 5


def test_a_mixed_batch_of_position_tables():
    peft_model = scramble(get_peft_model(base(), LoraConfig(r=2, target_modules=["wpe"])))
    together = logits(peft_model, ROWS[:2], adapter_names=["default", "__base__"])
    assert_close(together[0], logits(peft_model, ROWS[:1])[0], 1e-12)
    assert_close(together[1], logits(base(), ROWS[1:2])[0], 1e-12)


def test_a_mixed_batch_of_methods_and_its_gradients():
    """Rows of four methods, in one backward pass: each adapter learns from its rows only."""
    peft_model = get_peft_model(base(), LoraConfig(r=2, target_modules=["c_attn"]), "lora")
    for name, config in (("ln", LNTuningConfig()), ("adapter", BottleneckConfig(reduction_factor=4)),
                         ("vera", VeraConfig(r=4, target_modules=["c_fc"]))):
        peft_model.add_adapter(name, config)
    names = ["lora", "ln", "adapter", "vera", "__base__"]
    peft_model.set_adapter(names[:4])
    scramble(peft_model)
    out = peft_model(ROWS, labels=ROWS, adapter_names=names)
    out.loss.backward()
    together = {name: p.grad for name, p in peft_model.named_parameters() if p.grad is not None}
    for i, name in enumerate(names[:4]):
        peft_model.set_adapter(name)
        peft_model.zero_grad()
        alone = peft_model(ROWS[i:i + 1], labels=ROWS[i:i + 1])
        assert_close(out.logits.data[i], alone.logits.data[0], 1e-12)
        alone.loss.backward()
        for key, parameter in peft_model.named_parameters():
            if parameter.grad is not None:
                assert_close(together.pop(key) * 5, parameter.grad, 1e-12, key)
    assert not together


def test_rows_with_adapters_of_their_own_go_without_the_active_prompt():
    peft_model = stack(["lora", "prompt"], dtype="float64")
    names = ["lora", "__base__"]
    mixed, words = logits(peft_model, adapter_names=names), peft_model.generate(IDS, adapter_names=names, eos_token_id=-1)
    peft_model.set_adapter("lora")
    for row, model in enumerate((peft_model, base())):
        assert_close(mixed[row], logits(model, IDS[row:row + 1])[0], 1e-12)
        assert_same(words[row], model.generate(IDS[row:row + 1], eos_token_id=-1)[0])


def test_what_cannot_be_mixed_is_refused_and_nothing_stays_switched():
    peft_model = stack(["lora", "bitfit"])
    peft_model.add_adapter("prompt", config_of("prompt"))
    before, expected = snapshot(peft_model), logits(peft_model)
    for names, message in ((["lora"], "has 1 names for a batch of 2 rows"), (["lora", "x"], "no adapter 'x'; there are: lora"),
                           (["bitfit", "lora"], r"'bitfit' \(BITFIT\) cannot be mixed .*biases"),
                           (["__base__", "prompt"], r"'prompt' \(PROMPT_TUNING\) cannot be mixed .* length of its rows")):
        for call in (peft_model, peft_model.generate):
            with pytest.raises(ValueError, match=message):
                call(IDS, adapter_names=names)
    row = logits(peft_model, adapter_names=["lora", "__base__"])  # the active biases are switched off meanwhile
    assert_close(row[1], logits(base(dtype="float32"))[1], 1e-5)
    assert snapshot(peft_model) == before
    assert_same(logits(peft_model), expected)
    peft_model.merge_adapter()
    with pytest.raises(ValueError, match=r"merged into the weights: unmerge_adapter\(\) before"):
        peft_model(IDS, adapter_names=["lora", "__base__"])


# ---- verbs ----------------------------------------------------------------------------------------------------------


def test_the_status_of_layers():
    peft_model = stack(["lora", "ln"])
    peft_model.add_adapter("other", LoraConfig(r=2, target_modules=["c_attn"]))
    status = {layer.name: layer for layer in peft_model.get_layer_status()}
    assert len(status) == 8 + 5
    attention = status["transformer.h.0.attn.c_attn"]
    assert (attention.module_type, attention.enabled, attention.active_adapters, attention.merged_adapters,
            attention.available_adapters) == ("LoraLayer", True, ["lora"], [], ["lora", "other"])
    assert attention.requires_grad == {"lora": True, "other": False}
    assert (status["transformer.ln_f"].active_adapters, status["transformer.ln_f"].available_adapters) == (["ln"], ["ln"])
    peft_model.merge_adapter()
    assert peft_model.get_layer_status()[0].merged_adapters in (["ln"], ["lora"])
    with peft_model.disable_adapter():
        assert not any(layer.enabled or layer.merged_adapters for layer in peft_model.get_layer_status())
    next(iter(peft_model.parameters_of("lora").values())).requires_grad = False
    assert "irregular" in {layer.requires_grad.get("lora") for layer in peft_model.get_layer_status()}


@pytest.mark.parametrize("method", METHODS)
def test_adapters_come_and_go(method, tmp_path):
    peft_model = adapted(method, dtype="float32")
    peft_model.save_pretrained(tmp_path)
    expected, before = logits(peft_model), snapshot(peft_model)
    peft_model.add_adapter("second", config_of(method))
    assert_same(logits(peft_model), expected)
    for name in (" ", "a/b", "__base__", "default"):
        with pytest.raises(ValueError, match="may not be|already"):
            peft_model.add_adapter(name, config_of(method))
    with pytest.raises(ValueError, match="'default' is active: make another adapter active first"):
        peft_model.delete_adapter("default")
    peft_model.set_adapter("second")
    peft_model.delete_adapter("default")
    with pytest.raises(ValueError, match="no adapter 'default'; there are: second"):
        peft_model.set_adapter("default")
    if "ulora" in method:  # the second task keeps the factors: what they were is in the file
        return
    peft_model.load_adapter(tmp_path, "default", is_trainable=True)
    peft_model.set_adapter("default")
    assert_same(logits(peft_model), expected)
    peft_model.delete_adapter("second")
    if method != "prefix_projected":  # which comes back without its network
        assert sorted(snapshot(peft_model)) == sorted(before)
    assert_same(logits(peft_model.unload()), logits(base(dtype="float32")))


# ---- what cannot stand together -------------------------------------------------------------------------------------

RIVALS = [("bitfit", "bitfit", "a bias of their own in one module"),
          ("ln", "ln", r"a version of their own of transformer\.h\.0\.ln_1"),
          ("ln", "bitfit", r"a version of their own of transformer\.h\.0\.ln_1"),
          ("bitfit", "lora_biases", "a bias of their own in one module"),
          ("pissa", "olora", "a weight of their own in one module"),
          ("modules_to_save", "bitfit", r"a version of their own of transformer\.ln_f"),
          ("modules_to_save", "modules_to_save", r"a version of their own of transformer\.ln_f")]


@pytest.mark.parametrize(("one", "two", "what"), RIVALS)
def test_rivals_are_not_active_together(one, two, what):
    """Both may be there; one of them may be active."""
    peft_model = adapted(one, name="one")
    peft_model.add_adapter("two", config_of(two))
    before, expected = snapshot(peft_model), logits(peft_model)
    for names in (["one", "two"], ["two", "one"]):
        for verb in (peft_model.set_adapter, peft_model.merge_adapter):
            with pytest.raises(ValueError, match=f"'(one|two)' and '(one|two)' each have {what}: they cannot be active "
                                                 "together, since only one can stand there"):
                verb(names)
    assert (peft_model.active_adapters, snapshot(peft_model)) == (["one"], before)
    assert_same(logits(peft_model), expected)
    peft_model.set_adapter("two")
    assert_close(logits(peft_model), logits(base()), 1e-12)


@pytest.mark.parametrize(("one", "two"), [("lora", "ia3"), ("ia3", "lora"), ("vera", "lora"), ("lora", "adalora"),
                                          ("subspace", "lora"), ("lora", "subspace"), ("modules_to_save", "ln"),
                                          ("ln", "modules_to_save"), ("ulora_input", "dora")])
def test_two_methods_on_one_module_are_refused(one, two):
    peft_model = adapted(one, name="one")
    before, expected = snapshot(peft_model), logits(peft_model)
    with pytest.raises(ValueError, match="carries the adapter one.*(result would depend on their order. Give 'two' other "
                                         "target_modules|a copy of it would be trained)"):
        peft_model.add_adapter("two", config_of(two))
    assert (snapshot(peft_model), [*peft_model.peft_config]) == (before, ["one"])
    assert_same(logits(peft_model), expected)


def test_a_base_that_an_adapter_is_in_is_neither_wrapped_nor_saved(tmp_path):
    for method in ("lora", "ln", "houlsby", "bitfit"):
        model = adapted(method).get_base_model()
        with pytest.raises(ValueError, match="carries adapters already"):
            get_peft_model(model, LoraConfig())
        with pytest.raises(ValueError, match="carries adapters"):
            model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
