"""tinypeft.nn and tinypeft.models: equal to transformers' golden values, and true to their own promises."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, assert_close

from tinypeft import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, gradcheck
from tinypeft.autograd import Tensor, functional as F, observe, tensor as tape
from tinypeft.files import read_safetensors, write_json, write_safetensors
from tinypeft.nn import CausalLM, Dropout
from tinypeft.nn.attention import KeyValueCache

FAMILIES = ["gpt2", "llama"]
TOLERANCE = {"f64": (1e-10, 1e-10), "f32": (1e-5, 1e-4)}  # logits, gradients
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 10, 3]])

TINY: dict[str, dict[str, Any]] = {  # the content of a config.json; vocabulary 11, 16 positions, 2 layers
    "gpt2": {"model_type": "gpt2", "vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2,
             "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None},
    "llama": {"model_type": "llama", "vocab_size": 11, "max_position_embeddings": 16, "hidden_size": 8,
              "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "bos_token_id": None, "eos_token_id": None},
}


def tiny(family: str, *, dtype: str = "float64", seed: int = 0, scale: float = 0.4, **changes: Any) -> CausalLM:
    """A small model, in eval mode, whose every parameter is random: none is at 0 or 1, where errors could hide."""
    model = AutoModelForCausalLM.from_config({**TINY[family], **changes}, dtype=dtype)
    random = np.random.default_rng(seed)
    for parameter in model.parameters():
        center = 1.0 if parameter.init == "ones" else 0.0
        parameter.data = (center + scale * random.standard_normal(parameter.shape)).astype(dtype)
    return model.eval()


def load(family: str, precision: str) -> tuple[CausalLM, dict[str, np.ndarray]]:
    folder = GOLDEN / f"{family}_base"
    dtype = {"f64": "float64", "f32": "float32"}[precision]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), dict(np.load(folder / "golden.npz"))


def gradients(model: CausalLM, ids: np.ndarray = IDS, labels: Any = None) -> dict[str, np.ndarray | None]:
    model.zero_grad()
    model(ids, labels=ids if labels is None else labels).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def left_padded(ids: np.ndarray, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first `lengths[i]` ids of row i, padded on the left; with attention mask and positions."""
    width = max(lengths)
    mask = np.array([[0] * (width - n) + [1] * n for n in lengths])
    padded = np.array([[0] * (width - n) + row[:n].tolist() for row, n in zip(ids, lengths, strict=True)])
    return padded, mask, np.maximum(mask.cumsum(axis=1) - 1, 0)


# --- equal to transformers: golden files -----------------------------------------------------------------------------

@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_every_gradient_equal_the_golden_ones(family, precision):
    model, golden = load(family, precision)
    logits_tol, grad_tol = TOLERANCE[precision]
    assert not model.training
    out = model(golden["input_ids"], labels=golden["labels"])
    assert out.logits.dtype == out.loss.dtype == golden[f"{precision}/logits"].dtype
    assert_close(out.logits, golden[f"{precision}/logits"], logits_tol, "logits")
    assert_close(out.loss, golden[f"{precision}/loss"], logits_tol, "loss")
    out.loss.backward()
    received = {name: parameter.grad for name, parameter in model.named_parameters()}
    prefix = f"{precision}/grad/"
    assert list(received) == [key.removeprefix(prefix) for key in golden if key.startswith(prefix)]  # names and order
    for name, grad in received.items():
        assert grad.dtype == model.get_submodule(name.rpartition(".")[0]).weight.dtype
        assert_close(grad, golden[prefix + name], grad_tol, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_the_golden_ones(family):
    model, golden = load(family, "f64")
    states = model(golden["input_ids"], output_hidden_states=True).hidden_states
    assert len(states) == 1 + sum(key.startswith("f64/hidden/") for key in golden) - 1
    for i, state in enumerate(states):
        assert_close(state, golden[f"f64/hidden/{i}"], 1e-10, f"hidden state {i}")
    assert model(golden["input_ids"]).hidden_states is None


@pytest.mark.parametrize("positions", ["default", "cumsum"])
@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_logits_equal_the_golden_ones(family, positions):
    model, golden = load(family, "f64")
    mask = golden["attention_mask_leftpad"]
    position_ids = np.maximum(mask.cumsum(axis=1) - 1, 0) if positions == "cumsum" else None
    for given in (mask, mask.astype(bool), mask.tolist()):
        out = model(golden["input_ids"], attention_mask=given, position_ids=position_ids)
        assert_close(out.logits, golden[f"f64/logits_leftpad_{positions}_pos"], 1e-10)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continuation_equals_the_golden_one(family, precision, use_cache):
    model, golden = load(family, precision)
    ids = model.generate(golden["input_ids"][:1, :4], max_new_tokens=8, use_cache=use_cache, eos_token_id=-1)
    assert ids.dtype == np.int64
    assert ids.tolist() == golden["greedy_8_from_first_4"].tolist()


# --- loss, labels, tied heads ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_over_the_next_tokens_that_are_not_ignored(family):
    model = tiny(family)
    labels = IDS.copy()
    labels[0, :3], labels[1, -2:] = -100, -100
    out = model(IDS, labels=labels)
    logits = out.logits.data
    terms = [np.log(np.exp(logits[b, t]).sum()) - logits[b, t, labels[b, t + 1]]
             for b in range(2) for t in range(7) if labels[b, t + 1] != -100]
    assert len(terms) == 10
    assert_close(out.loss, np.mean(terms), 1e-12)
    # what comes after the last label that counts changes neither the loss nor a gradient
    grads = gradients(model, IDS, labels)
    other = IDS.copy()
    other[1, -2:] = [0, 1]
    for name, grad in gradients(model, other, labels).items():
        if "wte" not in name and "embed_tokens" not in name:
            assert_close(grad, grads[name], 1e-12, name)
    assert np.isnan(model(IDS, labels=np.full_like(IDS, -100)).loss.item())  # as in torch


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint16", "list"])
def test_ids_and_labels_may_be_any_integers(dtype):
    model = tiny("llama")
    ids = IDS.tolist() if dtype == "list" else IDS.astype(dtype)
    assert model(ids, labels=ids).loss.item() == model(IDS, labels=IDS).loss.item()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_head_is_one_parameter_with_the_sum_of_both_gradients(family):
    tied, untied = tiny(family, tie_word_embeddings=True), tiny(family, tie_word_embeddings=False)
    names = dict(tied.named_parameters())
    table = next(name for name in names if "wte" in name or "embed_tokens" in name)
    assert tied.lm_head.weight is names[table]
    assert untied.lm_head.weight is not dict(untied.named_parameters())[table]
    assert "lm_head.weight" not in names
    assert dict(untied.named_parameters()).keys() - names.keys() == {"lm_head.weight"}

    untied.load_state_dict({**tied.state_dict(), "lm_head.weight": tied.lm_head.weight.data})
    expected = gradients(untied)
    head = expected.pop("lm_head.weight")
    assert np.abs(head).max() > 0.01
    assert np.abs(expected[table]).max() > 0.01
    expected[table] = expected[table] + head
    for name, grad in gradients(tied).items():
        assert_close(grad, expected[name], 1e-12, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_float16_runs_and_stays_float16(family):
    model, reference = tiny(family, dtype="float16"), tiny(family)
    out = model(IDS, labels=IDS)
    assert out.logits.dtype == np.float16
    assert_close(out.logits, reference(IDS).logits, 0.02)
    assert all(grad.dtype == np.float16 and np.isfinite(grad).all() for grad in gradients(model).values())


# --- dropout ---------------------------------------------------------------------------------------------------------

PDROP = {"gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}, "llama": {"attention_dropout": 0.3}}


def dropouts(model: CausalLM) -> dict[str, Dropout]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Dropout)}


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_works_in_training_only_and_repeats_with_its_seed(family):
    model = tiny(family, **PDROP[family])
    plain = tiny(family)(IDS).logits.data
    assert np.array_equal(model(IDS).logits.data, plain)
    first, second = (model.train(seed=1)(IDS).logits.data for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first - plain).max() > 1e-3
    assert not np.array_equal(model(IDS).logits.data, first)  # the streams go on
    assert not np.array_equal(model.train(seed=2)(IDS).logits.data, first)
    assert np.array_equal(model.eval()(IDS).logits.data, plain)


@pytest.mark.parametrize("seed", [None, 5])
def test_every_dropout_draws_masks_of_its_own(seed):
    model = tiny("gpt2", **PDROP["gpt2"]).train(seed=seed)
    ones = Tensor(np.ones((40, 40)))
    masks = {name: module(ones).data.tobytes() for name, module in dropouts(model).items()}
    assert len(masks) == 1 + 2 * 3  # embeddings; attention weights, its output and the MLP's, in two layers
    assert len(set(masks.values())) == len(masks)


def test_a_new_model_drops_nothing_until_train_is_called():
    model = AutoModelForCausalLM.from_config({**TINY["gpt2"], **PDROP["gpt2"]})
    assert not model.training
    assert np.array_equal(model(IDS).logits.data, model(IDS).logits.data)
    assert not np.array_equal(model.train()(IDS).logits.data, model(IDS).logits.data)


def test_saved_dropout_states_continue_the_streams():
    model = tiny("gpt2", **PDROP["gpt2"]).train(seed=3)
    model(IDS)
    state = json.loads(json.dumps(model.dropout_state()))
    expected = [model(IDS).logits.data for _ in range(2)]
    model.train(seed=9).set_dropout_state(state)
    assert all(np.array_equal(model(IDS).logits.data, logits) for logits in expected)
    with pytest.raises(ValueError, match="dropout states are for the modules"):
        tiny("llama").set_dropout_state(state)


def test_dropout_keeps_the_expectation_also_of_attention():
    p, random = 0.25, np.random.default_rng(0)
    dropout = Dropout(p).train(seed=0)
    drop = dropout.mask((5000, 2, 3, 4), like=Tensor(np.zeros(1)))
    assert set(np.unique(drop)) == {0.0, 1 / (1 - p)}
    assert abs(drop.mean() - 1) < 0.01
    assert dropout.eval().mask((1,), like=Tensor(np.zeros(1))) is None
    shapes = [(3, 2, 4), (4, 1, 4), (4, 1, 4)]
    q, k, v = (np.broadcast_to(random.standard_normal(shape), (5000, *shape)) for shape in shapes)
    one = F.attention(q[:1], k[:1], v[:1]).data[0]
    many = F.attention(q, k, v, drop=drop).data
    assert np.abs(many[0] - one).max() > 0.05
    assert_close(many.mean(axis=0), one, 0.05)


@pytest.mark.parametrize(("family", "path"), [
    ("gpt2", "transformer.h.0.attn.c_attn"), ("gpt2", "transformer.wte"), ("llama", "model.layers.0.self_attn.k_proj")])
def test_gradients_through_fixed_dropout_masks_are_right(family, path):
    model = tiny(family, tie_word_embeddings=False, **PDROP[family]).train(seed=4)
    module, state = model.get_submodule(path), model.dropout_state()

    def loss(weight: Tensor) -> Tensor:
        model.set_dropout_state(state)  # the same masks each time
        module.weight = weight
        return model(IDS[:, :5], labels=IDS[:, :5]).loss

    assert gradcheck(loss, Tensor(module.weight.data, requires_grad=True))


# --- padding and cache -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_a_left_padded_row_equals_the_row_alone(family):
    model, lengths = tiny(family), [8, 3]
    ids, mask, positions = left_padded(IDS, lengths)
    out = model(ids, attention_mask=mask, position_ids=positions, output_hidden_states=True)
    for row, n in enumerate(lengths):
        alone = model(IDS[row:row + 1, :n], output_hidden_states=True)
        assert_close(out.logits.data[row, -n:], alone.logits.data[0], 1e-12)
        for padded, state in zip(out.hidden_states, alone.hidden_states, strict=True):
            assert_close(padded.data[row, -n:], state.data[0], 1e-12)
    # what stands in the padding is never read
    ids[mask == 0] = 7
    again = model(ids, attention_mask=mask, position_ids=positions)
    assert np.array_equal(again.logits.data[mask == 1], out.logits.data[mask == 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_position_sees_a_later_one(family):
    model = tiny(family)
    changed = IDS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    difference = np.abs(model(changed).logits.data - model(IDS).logits.data).max(axis=(0, 2))
    assert (difference[:5] == 0).all()
    assert (difference[5:] > 1e-6).all()


@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 1, 5], [1, 11], [11, 1], [4, 8]], ids=str)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(family, padded, chunks):
    """Buffers double when full: twelve single tokens grow them three times."""
    model = tiny(family)
    ids = np.random.default_rng(1).integers(0, 11, (2, 12))
    mask = positions = None
    if padded:
        ids, mask, positions = left_padded(ids, [12, 7])
    real = np.ones_like(ids, dtype=bool) if mask is None else mask == 1
    whole = model(ids, attention_mask=mask, position_ids=positions).logits.data
    cache, pieces, start = KeyValueCache(), [], 0
    for n in chunks:
        end = start + n
        out = model(ids[:, start:end], attention_mask=None if mask is None else mask[:, :end],
                    position_ids=None if positions is None else positions[:, start:end], cache=cache)
        pieces.append(out.logits.data)
        assert cache.length == end
        start = end
    assert_close(np.concatenate(pieces, axis=1)[real], whole[real], 1e-10)


def test_a_call_with_a_cache_records_nothing():
    """Cached keys and values are constants: gradients through them would be silently incomplete."""
    assert not tiny("llama")(IDS, labels=IDS, cache=KeyValueCache()).loss.requires_grad


def test_a_failed_call_leaves_the_cache_as_it_was():
    model, cache = tiny("llama"), KeyValueCache()
    model(IDS[:, :4], cache=cache)
    for bad in ({"labels": IDS[:, :2]}, {"attention_mask": np.ones((2, 1))}, {"position_ids": [[99]]}):
        with pytest.raises(ValueError, match="."):
            model(IDS[:, 4:5], cache=cache, **bad)
    assert_close(model(IDS[:, 4:5], cache=cache).logits.data[:, 0], model(IDS).logits.data[:, 4], 1e-12)


# --- generation ------------------------------------------------------------------------------------------------------

SAMPLING = {
    "greedy": {},
    "plain": {"do_sample": True},
    "temperature": {"do_sample": True, "temperature": 0.7},
    "top_k": {"do_sample": True, "top_k": 3},
    "top_p": {"do_sample": True, "top_p": 0.8},
    "all": {"do_sample": True, "temperature": 1.5, "top_k": 6, "top_p": 0.9},
}


@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_repeats_with_its_seed_and_does_not_depend_on_the_cache(family, options):
    model = tiny(family)
    ids, mask, _ = left_padded(IDS, [5, 3])
    first = model.generate(ids, attention_mask=mask, max_new_tokens=10, seed=3, **options)
    assert first.shape == (2, 15)
    assert np.array_equal(first[:, :5], ids)
    for change in ({"seed": 3}, {"seed": 3, "use_cache": False}):
        assert np.array_equal(model.generate(ids, attention_mask=mask, max_new_tokens=10, **change, **options), first)
    other = model.generate(ids, attention_mask=mask, max_new_tokens=10, seed=4, **options)
    assert np.array_equal(other, first) == (not options)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_generation_takes_the_best_of_the_uncached_forward(family):
    model = tiny(family)
    ids = IDS[:, :4]
    for _ in range(8):
        ids = np.concatenate([ids, model(ids).logits.data[:, -1:].argmax(axis=-1)], axis=1)
    assert np.array_equal(model.generate(IDS[:, :4], max_new_tokens=8), ids)
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}):
        assert np.array_equal(model.generate(IDS[:, :4], max_new_tokens=8, do_sample=True, **options), ids)


@pytest.mark.parametrize("options", [
    {}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 4}, {"top_p": 0.7}, {"top_p": 1.0}, {"top_k": 99},
    {"top_k": 5, "top_p": 0.6}, {"temperature": 2.0, "top_k": 7, "top_p": 0.9}], ids=str)
def test_sampling_draws_from_the_allowed_tokens_with_their_probabilities(options):
    model, n = tiny("gpt2", scale=0.6), 8000
    logits = model(IDS[:1]).logits.data[0, -1] / options.get("temperature", 1.0)
    # the same rule, written as in the papers: the k best; then the fewest best that together reach p
    p = dict(enumerate(np.exp(logits - logits.max())))
    best = sorted(p, key=p.get, reverse=True)[:options.get("top_k", 11)]
    total, kept = sum(p[token] for token in best), []
    while best and sum(p[token] for token in kept) / total < options.get("top_p", 1.0) - 1e-12:
        kept.append(best.pop(0))
    assert 2 <= len(kept) <= (11 if options.get("top_k", 99) == 99 and options.get("top_p", 1.0) == 1 else 8)
    expected = np.array([p[token] * (token in kept) for token in range(11)])
    expected /= expected.sum()

    rows = np.repeat(IDS[:1], n, axis=0)  # one draw each
    drawn = model.generate(rows, max_new_tokens=1, do_sample=True, seed=1, **options)[:, -1]
    share = np.bincount(drawn, minlength=11) / n
    assert (share[expected == 0] == 0).all()
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / n) + 1e-12).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_with_left_padding_continues_as_each_row_alone(family):
    model, lengths = tiny(family), [6, 2]
    ids, mask, _ = left_padded(IDS, lengths)
    together = model.generate(ids, attention_mask=mask, max_new_tokens=8)
    for row, n in enumerate(lengths):
        alone = model.generate(IDS[row:row + 1, :n], max_new_tokens=8)
        assert np.array_equal(together[row, -8 - n:], alone[0])


def test_a_row_ends_with_eos_and_is_filled_with_padding():
    model, options = tiny("gpt2"), {"max_new_tokens": 10, "do_sample": True, "temperature": 3.0, "seed": 3}
    free = model.generate(IDS[:, :4], **options)[:, 4:].tolist()
    eos = free[0][3]
    assert eos not in free[0][:3]
    assert eos not in free[1][:5]

    def until_eos(tokens: list[int], pad: int) -> list[int]:
        end = tokens.index(eos) + 1 if eos in tokens else len(tokens)
        return tokens[:end] + [pad] * (len(tokens) - end)

    def new(**changes: Any) -> list[list[int]]:
        return model.generate(IDS[:, :4], **options, **changes)[:, 4:].tolist()

    for pad, changes in [(6, {"pad_token_id": 6}), (7, {"pad_token_id": 7}), (eos, {})]:  # else eos fills
        out = new(eos_token_id=eos, **changes)
        assert out == [until_eos(row, pad)[:8] for row in free]  # both rows have ended after eight
    first = model.generate(IDS[:1, :4], max_new_tokens=1)  # stops as soon as every row has ended
    assert np.array_equal(model.generate(IDS[:1, :4], max_new_tokens=10, eos_token_id=first[0, 4]), first)

    model.config.eos_token_id = eos
    assert new() == out
    assert new(eos_token_id=-1) == free
    model.config.eos_token_id = [10**6, eos]  # Llama 3's config.json lists several
    assert new(pad_token_id=eos) == out
    model.config.eos_token_id = [eos, 10**6]
    assert new() == out
    model.config.eos_token_id, model.config.pad_token_id = eos, 9
    assert new() == new(pad_token_id=9)


def test_generation_records_nothing_and_leaves_the_mode(monkeypatch):
    model = tiny("gpt2", **PDROP["gpt2"])
    expected = model.generate(IDS, max_new_tokens=4)
    monkeypatch.setattr(tape, "Node", None)
    model.train(seed=0)
    assert np.array_equal(model.generate(IDS, max_new_tokens=4), expected)  # without dropout
    assert model.training
    assert model.transformer.drop.training


# --- meta models, files ----------------------------------------------------------------------------------------------

SEVENTY_B = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
             "num_attention_heads": 64, "num_key_value_heads": 8}


def test_a_meta_model_of_70_billion_parameters_takes_no_memory():
    tracemalloc.start()
    model = AutoModelForCausalLM.from_config(SEVENTY_B, device="meta")
    count = sum(parameter.size for parameter in model.parameters())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 68_976_648_192  # Llama 2 70B
    assert peak < 20e6
    assert all(parameter.is_meta for parameter in model.parameters())
    wide = AutoModelForCausalLM.from_config(TINY["gpt2"], device="meta", dtype="float64")
    assert {(parameter.dtype, parameter.is_meta) for parameter in wide.parameters()} == {(np.dtype("float64"), True)}
    assert not any(parameter.is_meta for parameter in tiny("gpt2").parameters())


def test_a_meta_model_says_that_it_has_no_values(tmp_path):
    model = AutoModelForCausalLM.from_config(TINY["llama"], device="meta")
    for act in (lambda: model(IDS), lambda: model.generate(IDS, max_new_tokens=2),
                lambda: model.save_pretrained(tmp_path / "x")):
        with pytest.raises(RuntimeError, match="shapes but no values"):
            act()
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match='must be "cpu" or "meta", got \'cuda\''):
        AutoModelForCausalLM.from_config(TINY["llama"], device="cuda")


def test_initial_values_depend_on_seed_and_name_alone():
    wide = {**TINY["gpt2"], "n_embd": 64}
    first, again, other = (AutoModelForCausalLM.from_config(wide, seed=seed) for seed in (0, 0, 1))
    short = AutoModelForCausalLM.from_config({**wide, "n_positions": 4})
    name = "transformer.h.1.mlp.c_fc.weight"
    a, b, c, d = (model.state_dict()[name] for model in (first, again, other, short))
    assert np.array_equal(a, b)
    assert np.array_equal(a, d)
    assert not np.array_equal(a, c)
    assert not np.array_equal(a, first.state_dict()[name.replace("h.1", "h.0")])
    state = first.state_dict()
    assert a.std() == pytest.approx(0.02, rel=0.05)
    assert state["transformer.h.1.mlp.c_proj.weight"].std() == pytest.approx(0.02 / 4**0.5, rel=0.05)
    assert (state["transformer.ln_f.weight"] == 1).all()
    assert (state["transformer.h.0.attn.c_attn.bias"] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_is_the_identity(family, tied, dtype, tmp_path):
    model = tiny(family, dtype=dtype, tie_word_embeddings=tied, something_new={"kept": [1, 2]})
    model.save_pretrained(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=dtype)
    assert again.config == model.config
    assert again.name_or_path == str(tmp_path / "m")
    assert not again.training
    expected = model.state_dict()
    assert list(again.state_dict()) == list(expected)
    for name, array in again.state_dict().items():
        assert array.dtype == dtype
        assert np.array_equal(array, expected[name])
        assert array.flags.writeable
    stored = json.loads((tmp_path / "m/config.json").read_text())
    assert stored["something_new"] == {"kept": [1, 2]}
    assert stored["dtype"] == dtype
    assert ("lm_head.weight" in read_safetensors(tmp_path / "m/model.safetensors")) == (not tied)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small GPT-2, saved."""
    tiny("gpt2", dtype="float32").save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def rewrite(folder: Path, change: Any) -> None:
    """Apply `change` to the stored tensors."""
    path = folder / "model.safetensors"
    write_safetensors(path, change(read_safetensors(path)))


STORED = {
    "sharded": None,
    "without the prefix": lambda state: {name.removeprefix("transformer."): a for name, a in state.items()},
    "with causal masks": lambda state: {
        **state, **{f"transformer.h.{i}.attn.{name}": np.tri(16)[None, None]
                    for i in (0, 1) for name in ("bias", "masked_bias")}},
    "prefixless, with causal masks": lambda state: {**{k.removeprefix("transformer."): a for k, a in state.items()},
                                                    "h.0.attn.bias": np.tri(16)[None, None]},
    "with the tied head twice": lambda state: {**state, "lm_head.weight": state["transformer.wte.weight"]},
    "float64": lambda state: {name: a.astype(np.float64) for name, a in state.items()},
}


@pytest.mark.parametrize("change", STORED.values(), ids=STORED)
def test_checkpoints_are_read_however_they_were_stored(change, folder):
    expected = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    if change is not None:
        rewrite(folder, change)
    else:
        state = read_safetensors(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        shards = {f"model-0000{i}-of-00003.safetensors": sorted(state)[i::3] for i in range(3)}
        for shard, names in shards.items():
            write_safetensors(folder / shard, {name: state[name] for name in names})
        write_json(folder / "model.safetensors.index.json",
                   {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}})
    received = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert received.keys() == expected.keys()
    assert all(np.array_equal(received[name], expected[name]) for name in expected)
    assert all(array.dtype == np.float32 for array in received.values())


def test_bf16_files_are_widened(folder):
    path = folder / "model.safetensors"
    state = read_safetensors(path)
    halves = {name: (a.view(np.uint32) >> 16).astype(np.uint16) for name, a in state.items()}
    header, at = {}, 0
    for name, a in halves.items():
        header[name] = {"dtype": "BF16", "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in halves.values()))
    received = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, array in received.items():
        assert array.dtype == np.float32
        assert np.array_equal(array.view(np.uint32), state[name].view(np.uint32) & 0xFFFF0000)


# --- bad input -------------------------------------------------------------------------------------------------------

def test_tensors_that_do_not_fit_are_all_listed_and_nothing_is_loaded(folder):
    def break_it(state):
        state = {**state, "transformer.extra": np.zeros(2, np.float32), "lm_head.bias": np.zeros(11, np.float32)}
        del state["transformer.ln_f.bias"], state["transformer.h.1.mlp.c_fc.weight"]
        state["transformer.wpe.weight"] = state["transformer.wpe.weight"][:7]
        return state

    rewrite(folder, break_it)
    parts = ("2 missing: ", "2 unknown: ", "transformer.extra", "lm_head.bias", "transformer.ln_f.bias",
             "transformer.h.1.mlp.c_fc.weight", "1 of another shape: transformer.wpe.weight: (7, 8) instead of (16, 8)")
    model = tiny("gpt2")
    before = {name: array.copy() for name, array in model.state_dict().items()}
    for act in (lambda: AutoModelForCausalLM.from_pretrained(folder),
                lambda: model.load_state_dict(break_it(dict(before)))):
        with pytest.raises(ValueError, match="nothing was loaded") as error:
            act()
        assert not [part for part in parts if part not in str(error.value)]
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())


def corrupt_config(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return change


def replace_bytes(change: Any) -> Any:
    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
    return rewrite


BAD_FOLDERS = {
    "truncated": (replace_bytes(lambda b: b[:len(b) // 2]), ValueError, "not a complete safetensors"),
    "empty": (replace_bytes(lambda b: b""), ValueError, "not a complete safetensors"),
    "header length corrupt": (replace_bytes(lambda b: b"\xff" * 8 + b[8:]), ValueError, "not a complete safetensors"),
    "header corrupt": (replace_bytes(lambda b: b[:8] + b"[" + b[9:]), ValueError, "not a complete safetensors"),
    "longer than its header says": (replace_bytes(lambda b: b + b"\0"), ValueError, "not a complete safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "neither model.safetensors nor"),
    "no config": (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json"),
    "no folder": (shutil.rmtree, FileNotFoundError, "neither a folder nor a bundled model"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json is not valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), ValueError, "config.json"),
    "other shape": (corrupt_config(n_embd=16), ValueError, "instead of"),
    "fewer layers": (corrupt_config(n_layer=1), ValueError, "12 unknown: transformer.h.1"),
    "more layers": (corrupt_config(n_layer=3), ValueError, r"12 missing: transformer.h.2.*\(6 more\)"),
    "unknown family": (corrupt_config(model_type="mamba"), ValueError, "'mamba' is not implemented; known: gpt2"),
    "scaled by layer": (corrupt_config(scale_attn_by_inverse_layer_idx=True), ValueError, "by_inverse_layer_idx=True"),
    "not scaled": (corrupt_config(scale_attn_weights=False), ValueError, "scale_attn_weights"),
    "cross attention": (corrupt_config(add_cross_attention=True), ValueError, "add_cross_attention"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_bad_folder_is_refused_with_its_reason(change, error, message, folder):
    change(folder)
    with pytest.raises(error, match=message) as raised:
        AutoModelForCausalLM.from_pretrained(folder)
    assert str(folder) in str(raised.value)


ROPE = {"rope_theta": 10000.0}
BAD_CONFIGS = [
    ("gpt2", {"n_embd": 0}, "n_embd must be a positive integer, got 0"),
    ("gpt2", {"n_layer": 1.5}, "n_layer must be a positive integer, got 1.5"),
    ("gpt2", {"n_head": True}, "n_head must be a positive integer"),
    ("gpt2", {"n_head": 3}, "n_embd=8 must be a multiple of n_head=3"),
    ("gpt2", {"n_inner": -4}, "n_inner"),
    ("gpt2", {"activation_function": "gelu_fancy"}, "unknown activation 'gelu_fancy'; known: gelu_new"),
    ("gpt2", {"attn_pdrop": 1.0}, r"probability lies in \[0, 1\), got 1.0"),
    ("llama", {"vocab_size": "many"}, "vocab_size must be a positive integer, got 'many'"),
    ("llama", {"num_key_value_heads": 3}, "num_attention_heads=4 must be a multiple of num_key_value_heads=3"),
    ("llama", {"num_key_value_heads": 0}, "num_key_value_heads must be a positive integer"),
    ("llama", {"hidden_size": 10}, "hidden_size=10 must be a multiple of num_attention_heads=4"),
    ("llama", {"head_dim": 3}, "head_dim"),
    ("llama", {"hidden_act": "gegeglu"}, "unknown activation"),
    ("llama", {"rope_parameters": {**ROPE, "rope_type": "yarn"}}, "'yarn' is not supported; supported: default"),
    ("llama", {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
    ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear"}}, "factor"),
    ("llama", {"rope_parameters": {**ROPE, "rope_type": "llama3", "factor": 8.0}}, "low_freq_factor|original_max"),
]


@pytest.mark.parametrize(("family", "changes", "message"), BAD_CONFIGS,
                         ids=[str(case[1]) for case in BAD_CONFIGS])
def test_a_config_value_that_cannot_be_is_refused(family, changes, message):
    with pytest.raises(ValueError, match=message):
        AutoModelForCausalLM.from_config({**TINY[family], **changes}, device="meta")


def test_older_configs_of_llama_mean_the_same():
    for old, new in [
        ({"rope_theta": 5e5}, {"rope_theta": 5e5, "rope_type": "default"}),
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_theta": 5e5, "rope_type": "default"}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}},
         {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}),
        ({}, {"rope_theta": 1e4, "rope_type": "default"}),
    ]:
        config = AutoConfig.from_dict({**TINY["llama"], **old})
        assert {key: config.rope_parameters[key] for key in new} == new
    assert LlamaConfig(rope_parameters={}).rope_parameters["rope_theta"] == 1e4


def test_a_broken_model_writes_nothing():
    model = tiny("llama")
    model.lm_head.weight.data[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="logits are not numbers"):
        model.generate(IDS, max_new_tokens=2, do_sample=True)


def test_a_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"shape \(2, 7\): its last axis must be the layer's 8 features"):
        tiny("gpt2").transformer.h[0].attn.c_proj(Tensor(np.zeros((2, 7))))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_model_cannot_read_is_refused(family):
    model = tiny(family)
    long = np.zeros((1, 17), int)
    for error, message, inputs in [
        (ValueError, "17 tokens is longer than the model's 16 positions", {"input_ids": long}),
        (ValueError, "token ids run from 1 to 11.*11 rows", {"input_ids": [[1, 11]]}),
        (ValueError, "token ids run from -1 to 1.*11 rows", {"input_ids": [[1, -1]]}),
        (TypeError, "input_ids must be integers, got float64", {"input_ids": IDS.astype(float)}),
        (TypeError, "input_ids must be integers, got bool", {"input_ids": IDS > 3}),
        (ValueError, r"input_ids must have shape \(batch, time\).*\(8,\)", {"input_ids": IDS[0]}),
        (ValueError, r"neither of them 0; got \(2, 0\)", {"input_ids": IDS[:, :0]}),
        (ValueError, r"attention_mask has shape \(2, 7\), expected \(2, 8\)",
         {"input_ids": IDS, "attention_mask": IDS[:, 1:]}),
        (ValueError, r"attention_mask has shape \(8,\)", {"input_ids": IDS, "attention_mask": [1] * 8}),
        (ValueError, r"labels have shape \(2, 7\), input_ids \(2, 8\)", {"input_ids": IDS, "labels": IDS[:, 1:]}),
        (ValueError, "labels must lie in 0 to 10 or be -100", {"input_ids": IDS, "labels": IDS + 5}),
        (ValueError, "labels must lie in 0 to 10 or be -100", {"input_ids": IDS, "labels": -IDS}),
        (TypeError, "integers, got float64", {"input_ids": IDS, "labels": IDS / 2}),
        (ValueError, "position_ids.*shape", {"input_ids": IDS, "position_ids": np.arange(7)[None]}),
        (ValueError, "position_ids.*shape", {"input_ids": IDS, "position_ids": np.arange(8)}),
        (ValueError, "position.*16", {"input_ids": IDS, "position_ids": np.arange(9, 17)[None]}),
        (ValueError, "position.*-1", {"input_ids": IDS, "position_ids": np.arange(-1, 7)[None]}),
    ]:
        with pytest.raises(error, match=message):
            model(**inputs)


def test_bad_input_is_refused_before_any_work():
    for inputs in ({"labels": IDS[:, 1:]}, {"labels": IDS + 5}, {"position_ids": IDS[:, 1:]},
                   {"attention_mask": IDS[:, 1:]}):
        log = Log()
        with observe(log), pytest.raises(ValueError, match="."):
            tiny("llama")(IDS, **inputs)
        assert not log.forward, list(inputs)


def test_what_generate_cannot_do_is_refused():
    model = tiny("gpt2")
    right = np.array([[1] * 8, [1] * 6 + [0] * 2])
    for message, inputs in [
        ("temperature=0.5 only matters when drawing at random: add do_sample=True", {"temperature": 0.5}),
        ("top_k=3, top_p=0.5 only matters", {"top_k": 3, "top_p": 0.5}),
        ("temperature must be above 0, got 0", {"do_sample": True, "temperature": 0}),
        ("temperature must be above 0, got nan", {"do_sample": True, "temperature": float("nan")}),
        ("top_k must be .*at least 1, got 0", {"do_sample": True, "top_k": 0}),
        ("top_k must be .*got 2.5", {"do_sample": True, "top_k": 2.5}),
        (r"top_p must lie in \(0, 1\], got 1.5", {"do_sample": True, "top_p": 1.5}),
        (r"top_p must lie in \(0, 1\], got 0", {"do_sample": True, "top_p": 0.0}),
        ("max_new_tokens must be at least 1, got 0", {"max_new_tokens": 0}),
        ("8 tokens of prompt and max_new_tokens=9 exceed the model's 16 positions", {"max_new_tokens": 9}),
        ("pad prompts on the left", {"attention_mask": right}),
        (r"attention_mask has shape \(2, 6\)", {"attention_mask": right[:, :6]}),
    ]:
        with pytest.raises(ValueError, match=message):
            model.generate(IDS, **{"max_new_tokens": 2, **inputs})
    with pytest.raises(ValueError, match=r"\(batch, time\)"):
        model.generate(IDS[0])


# --- frozen weights cost nothing -------------------------------------------------------------------------------------

class Log:
    """Counts operations in the forward pass, and in the backward pass gradients and matrix products."""

    current: Log | None = None

    def __init__(self) -> None:
        self.forward: Counter[str] = Counter()
        self.gradients: Counter[str] = Counter()
        self.products: Counter[str] = Counter()
        self.operation = ("", "")

    def __call__(self, moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
        self.operation = (phase, name)
        Log.current = self if moment == "before" else None
        if moment == "after" and phase == "forward":
            self.forward[name] += 1
        elif moment == "after":
            self.gradients[name] += sum(g is not None for g in arrays)


class Counting(np.ndarray):
    """An array that tells the log of every product of two matrices; results are Counting too."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if ufunc is np.matmul and Log.current is not None and min(x.ndim for x in inputs) >= 2:
            phase, name = Log.current.operation
            if phase == "backward":
                Log.current.products[name] += 1
        plain = [x.view(np.ndarray) if isinstance(x, Counting) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(x.view(np.ndarray) if isinstance(x, Counting) else x for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if out is not None:
            return out[0]
        return result.view(Counting) if isinstance(result, np.ndarray) else result


# What the backward pass must do, from the architecture: gradients per operation; `products` are those in attention:
# softmax(q k^T) v takes one for dv, one for the scores' gradient (if dq or dk is wanted), and one each for dq and dk.
WORK = ("linear", "attention", "rotary", "rms_norm", "layer_norm", "multiply", "silu", "gelu", "embedding",
        "cross_entropy")
MLP = {"gpt2": Counter(linear=2, gelu=1, layer_norm=1), "llama": Counter(linear=3, multiply=2, silu=1, rms_norm=1)}
ATTENTION = {"gpt2": Counter(linear=2, attention=3, layer_norm=1, products=4),
             "llama": Counter(linear=4, attention=3, rotary=2, rms_norm=1, products=4)}
HEAD = {"gpt2": Counter(cross_entropy=1, linear=1, layer_norm=1),
        "llama": Counter(cross_entropy=1, linear=1, rms_norm=1)}
INSIDE = {  # from the stream after a block, back to one matrix of that block
    "mlp.c_proj": Counter(linear=1),
    "mlp.c_fc": Counter(linear=2, gelu=1),
    "attn.c_proj": MLP["gpt2"] + Counter(linear=1),
    "attn.c_attn": MLP["gpt2"] + Counter(linear=2, attention=3, products=4),
    "mlp.down_proj": Counter(linear=1),
    "mlp.gate_proj": Counter(linear=2, multiply=1, silu=1),
    "mlp.up_proj": Counter(linear=2, multiply=1),
    "self_attn.o_proj": MLP["llama"] + Counter(linear=1),
    "self_attn.q_proj": MLP["llama"] + Counter(linear=2, attention=1, rotary=1, products=2),
    "self_attn.k_proj": MLP["llama"] + Counter(linear=2, attention=1, rotary=1, products=2),
    "self_attn.v_proj": MLP["llama"] + Counter(linear=2, attention=1, products=1),
}


def expected_work(family: str, name: str, layers: int = 3) -> Counter[str]:
    if name == "lm_head":
        return Counter(cross_entropy=1, linear=1)
    work, parts = Counter(HEAD[family]), name.split(".")
    layer = int(parts[2]) if parts[1] in ("h", "layers") else -1
    for _ in range(layer + 1, layers):
        work += MLP[family] + ATTENTION[family]
    if layer >= 0:
        return work + INSIDE[".".join(parts[3:])]
    return work + Counter(embedding=1, linear=int(name == "transformer.wte"))  # GPT-2's head is tied


def matrices(family: str) -> list[str]:
    layers = {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
    names = [name for name, p in tiny(family, **layers).named_parameters() if p.ndim == 2]
    return [name.removesuffix(".weight") for name in names]


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in FAMILIES for name in matrices(family)])
def test_training_one_matrix_does_only_the_work_on_the_way_to_it(family, name):
    model = tiny(family, **({"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}))
    full = gradients(model)
    model.requires_grad_(False).zero_grad()
    for parameter in model.parameters():
        parameter.data = parameter.data.view(Counting)
    model.get_submodule(name).weight.requires_grad = True

    log = Log()
    with observe(log):
        model(IDS, labels=IDS).loss.backward()
    received = Counter({op: n for op, n in log.gradients.items() if op in WORK and n})
    received["products"] = log.products["attention"]
    expected = expected_work(family, name)
    assert +received == expected
    assert log.products["linear"] == expected["linear"]  # one product for each gradient of a linear layer
    for other, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (other == f"{name}.weight")
    assert_close(model.get_submodule(name).weight.grad.view(np.ndarray), full[f"{name}.weight"], 1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_everything_does_each_product_once(family):
    """The counting itself: all gradients wanted, so nothing may be left out."""
    model = tiny(family, **({"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}))
    for parameter in model.parameters():
        parameter.data = parameter.data.view(Counting)
    log = Log()
    with observe(log):
        model(IDS, labels=IDS).loss.backward()
    linears = 3 * {"gpt2": 4, "llama": 7}[family] + 1
    assert log.products["linear"] == 2 * linears
    assert log.products["attention"] == 3 * 4
    assert log.gradients["attention"] == 3 * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_model_records_nothing(family, monkeypatch):
    model = tiny(family).requires_grad_(False)
    monkeypatch.setattr(tape, "Node", None)  # recording would call it
    out = model(IDS, labels=IDS)
    assert not out.loss.requires_grad
    with pytest.raises(RuntimeError, match="requires no gradient"):
        out.loss.backward()


def test_what_lies_before_the_trained_matrix_is_not_recorded(monkeypatch):
    recorded = []

    class Spy(tape.Node):
        def __init__(self, name, *rest):
            recorded.append(name)
            super().__init__(name, *rest)

    monkeypatch.setattr(tape, "Node", Spy)
    model = tiny("llama").requires_grad_(False)
    model.model.layers[1].mlp.down_proj.weight.requires_grad = True
    model(IDS, labels=IDS)
    assert recorded == ["linear", "add", "rms_norm", "linear", "cross_entropy"]


def test_gpt2_config_counts_its_published_parameters():
    for sizes, count in [({}, 124_439_808), ({"n_embd": 1024, "n_layer": 24, "n_head": 16}, 354_823_168),
                         ({"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200)]:
        model = AutoModelForCausalLM.from_config(GPT2Config(**sizes), device="meta")
        assert sum(parameter.size for parameter in model.parameters()) == count
