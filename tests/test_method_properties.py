"""What holds for every method: identity at the start, gradients, merging, switching off, files, seeds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import assert_close
from peft_cases import (
    CASES,
    IDS,
    MERGEABLE,
    adapted,
    assert_same,
    base,
    config_of,
    distance,
    logits,
    scramble,
    snapshot,
    trainable,
)

from tinypeft import PeftModel, PrefixTuningConfig, ULoraConfig, get_peft_model
from tinypeft.training import AdamW

TO_ROUNDING = ("dora", "pissa", "olora")
NO_IDENTITY = ("houlsby", "pfeiffer", "prefix", "prefix_projected", "prompt", "prompt_appended")


@pytest.mark.parametrize(("kind", "method"), [case for case in CASES if case[1] not in NO_IDENTITY])
def test_a_new_adapter_changes_nothing(kind, method):
    """To the bit, but where the weight itself is taken apart."""
    expected = logits(base(kind))
    peft_model = get_peft_model(base(kind), config_of(method))
    for training in (False, True):
        assert_close(logits(peft_model.train(training, seed=0)), expected, 1e-12 if method in TO_ROUNDING else 0)


@pytest.mark.parametrize("vector", ["rank", "input"])
def test_a_later_task_of_ulora_changes_nothing_at_first(vector):
    peft_model = scramble(get_peft_model(base(), ULoraConfig(r=3, vector=vector)))
    assert distance(logits(peft_model), logits(base())) > 0.01
    peft_model.add_adapter("second", ULoraConfig(r=3, vector=vector))
    peft_model.set_adapter("second")
    assert_same(logits(peft_model), logits(base()))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_which_methods_do_change_the_first_output_and_how_much(kind):
    plain = logits(base(kind))
    zero = PrefixTuningConfig(num_virtual_tokens=3, init_weights="zero")
    assert not any(p.data.any() for p in get_peft_model(base(kind), zero).parameters_of("default").values())
    configs = {"zero": zero} | {method: config_of(method) for method in NO_IDENTITY if method != "prompt_appended"}
    moved = {name: distance(logits(get_peft_model(base(kind), c))[:, -plain.shape[1]:], plain) for name, c in configs.items()}
    assert 1e-6 < moved.pop("houlsby") < 0.1
    assert 1e-6 < moved.pop("pfeiffer") < 0.1
    assert moved.keys() == {"zero", "prefix", "prefix_projected", "prompt"}
    assert all(0.3 < shift < 30 for shift in moved.values()), moved


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_what_is_declared_and_nothing_else_gets_gradients(kind, method):
    peft_model = adapted(method, kind)
    labels = IDS.copy()
    labels[:, :2] = -100
    peft_model(IDS, labels=labels).loss.backward()
    declared = {id(p) for p in peft_model.parameters_of("default").values()}
    for name, parameter in peft_model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (id(parameter) in declared), name
        if parameter.requires_grad:
            assert np.abs(parameter.grad).max() > 0, name
            assert (parameter.grad.shape, parameter.grad.dtype) == (parameter.shape, parameter.dtype), name


@pytest.mark.parametrize(("kind", "method"), [case for case in CASES if case[1] != "dora"])
def test_gradients_are_slopes_of_the_loss(kind, method):
    """Along one random direction of all that is trained. (DoRA's are not, by design: the goldens judge those.)"""
    peft_model = adapted(method, kind)
    labels = IDS.copy()
    labels[:, :3] = -100
    peft_model(IDS, labels=labels).loss.backward()
    random, eps = np.random.default_rng(4), 1e-5
    trained = [p for p in peft_model.parameters() if p.requires_grad]
    size = sum(p.size for p in trained) ** -0.5
    along = [(p, p.data, size * random.standard_normal(p.shape)) for p in trained]
    slope = sum((p.grad * direction).sum() for p, _, direction in along)
    sides = []
    for sign in (1, -1):
        for parameter, start, direction in along:
            parameter.data = start + sign * eps * direction
        sides.append(peft_model(IDS, labels=labels).loss.item())
    assert abs(slope - (sides[0] - sides[1]) / (2 * eps)) <= 1e-6 * max(1, abs(slope))
    assert abs(slope) > 1e-5


@pytest.mark.parametrize(("kind", "method"), MERGEABLE)
def test_merging_changes_no_output_and_unmerging_restores_every_bit(kind, method):
    peft_model = adapted(method, kind)
    before, expected = snapshot(peft_model), logits(peft_model)
    assert distance(expected, logits(base(kind))) > 1e-3
    peft_model.merge_adapter()
    assert_close(logits(peft_model), expected, 1e-10)
    with peft_model.disable_adapter():
        assert_same(logits(peft_model), logits(base(kind)))
    peft_model.unmerge_adapter()
    assert snapshot(peft_model) == before
    assert_same(logits(peft_model), expected)
    merged = peft_model.merge_and_unload()
    assert type(merged) is type(base(kind))
    assert [name for name, _ in merged.named_parameters() if name != "lm_head.weight"] == [
        name for name, _ in base(kind).named_parameters() if name != "lm_head.weight"]
    assert_close(logits(merged), expected, 1e-10)


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_switched_off_and_unloaded_the_base_is_what_it_was(kind, method):
    model = base(kind)
    model.lm_head.weight.requires_grad = False
    before, plain = snapshot(model), logits(model)
    peft_model = scramble(get_peft_model(model, config_of(method)))
    changed = logits(peft_model)
    with peft_model.disable_adapter():
        assert_same(logits(peft_model), plain)
    assert_same(logits(peft_model), changed)
    assert_same(logits(peft_model.unload()), plain)
    assert snapshot(model) == before


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_what_is_saved_comes_back_and_training_goes_on(kind, method, tmp_path):
    peft_model = adapted(method, kind, "float32")
    peft_model.save_pretrained(tmp_path)
    frozen = PeftModel.from_pretrained(base(kind, "float32"), tmp_path)
    assert_same(logits(frozen), logits(peft_model))
    assert not trainable(frozen)
    again = PeftModel.from_pretrained(base(kind, "float32"), tmp_path, is_trainable=True)
    assert_same(logits(again), logits(peft_model))
    ours, theirs = trainable(again), trainable(peft_model)
    if method == "prefix_projected":  # the network is not in the file: what goes on is trained without
        assert [*ours] == ["prompt_encoder.default.embedding.weight"]
    else:
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            assert_same(values, theirs[name])
    optimizer = AdamW([p for p in again.parameters() if p.requires_grad], lr=1e-3)
    labels = IDS.copy()
    labels[:, :2] = -100
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = again(IDS, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    again.save_pretrained(tmp_path / "later")
    assert_same(logits(PeftModel.from_pretrained(base(kind, "float32"), tmp_path / "later")), logits(again))


TAKEN = ("pissa", "olora", "vera", "ia3", "ln", "bitfit", "bitfit_norms", "subspace")  # values from the base, or constants
CONSTANT = re.compile(r"ia3_l|magnitude|c_\w+(\.base_layer)?\.bias|ln_\w+\.(weight|bias)|lora_E|embedding_A|ulora_v")


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_values_follow_from_seed_and_name(kind, method):
    def values(seed: int = 0, name: str = "default") -> dict[str, np.ndarray]:
        peft_model = get_peft_model(base(kind), config_of(method), name, seed=seed)
        return {key: p.data for key, p in peft_model.parameters_of(name).items()}

    first, again = values(), values()
    assert all(array.tobytes() == again[key].tobytes() for key, array in first.items())
    random = {key for key, array in first.items() if array.std() > 0 and not CONSTANT.search(key)}
    for other in (values(seed=1), values(name="other")):
        changed = {key for key, array in first.items() if not np.array_equal(array, other[key])}
        assert changed == (set() if method in TAKEN else random)
    assert (method in TAKEN) or random
