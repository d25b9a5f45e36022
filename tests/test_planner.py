"""The planner: what it returns fits, the next larger does not, more memory takes nothing away, and choices have reasons."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from tinypeft import AutoModelForCausalLM, get_peft_model
from tinypeft.budget import count_parameters
from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.cards import SHARDED, cards_needed, per_card
from tinypeft.budget.catalog import CATALOG, COUNTED_ONLY, build
from tinypeft.budget.choice import BATCH, PREFERENCES, REQUESTS, RULES, USUAL, Needs, choose
from tinypeft.budget.fitting import Search, _largest
from tinypeft.budget.limits import limits_of
from tinypeft.budget.memory import PARTS, memory
from tinypeft.budget.methods import METHODS, NF4, RANK, TOKENS, WIDTH, find_method
from tinypeft.budget.planner import _chosen, card_sold, largest_model, largest_models, largest_size, plan
from tinypeft.budget.serving import mergeable, serving
from tinypeft.budget.shapes import ShapeModel
from tinypeft.nn import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from tinypeft.peft import LoraConfig, PrefixTuningConfig

SIZED = [name for name, method in METHODS.items() if method.size_name]


def llama(layers=2, width=64, **options):
    """A small Llama on the meta device: planned in milliseconds."""
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, hidden_size=width, intermediate_size=96,
                                        num_attention_heads=4, num_key_value_heads=2, vocab_size=300,
                                        max_position_embeddings=256, **options))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=300, n_positions=256))


def size_of(gpu):
    """Bytes as text, which may be few."""
    return f"{gpu} bytes"


def needs(model, method, size, tokens=64, batch=1, margin=0.0):
    """What `memory` says, asked without the planner."""
    method = METHODS[method]
    return memory(model, method.config(model, size), quantization=NF4 if method.four_bit else None, tokens=tokens, batch=batch,
                  margin=margin).total_with_margin


# ---- search ---------------------------------------------------------------------------------------------------------

@given(st.lists(st.floats(0, 2), min_size=1, max_size=40), st.integers(1, 40))
def test_the_search_finds_what_trying_all_sizes_finds(uses, first):
    uses = sorted(uses)
    expected = max((size for size in range(1, len(uses) + 1) if uses[size - 1] <= 1), default=0)
    assert _largest(lambda size: uses[size - 1], len(uses), min(first, len(uses))) == expected


@given(st.integers(1, 10**6), st.floats(0.01, 1e4), st.floats(0, 2))
def test_a_straight_line_takes_few_steps(most, slope, start):
    asked = []

    def use(size):
        asked.append(size)
        return start + slope * size / 1e6

    found = _largest(use, most, 1)
    assert found == 0 or use(found) <= 1
    assert found == most or use(found + 1) > 1
    assert len(set(asked)) <= 10


# ---- properties of plans --------------------------------------------------------------------------------------------

SETTINGS = st.fixed_dictionaries({"tokens": st.sampled_from([16, 64, 200]), "batch": st.integers(1, 4),
                                  "margin": st.sampled_from([0.0, 0.05, 0.3])})


@settings(max_examples=15)
@given(st.sampled_from([llama, gpt2]), st.sampled_from(SIZED), st.floats(2e5, 8e6), SETTINGS)
def test_the_largest_size_fits_and_one_more_does_not(make, name, gpu, conditions):
    model, method = make(), METHODS[name]
    size, most = largest_size(name, model, size_of(gpu), **conditions), method.most(model, conditions["tokens"])
    assert 0 <= size <= most
    if size:
        assert needs(model, name, size, **conditions) <= gpu
    if size < most:
        assert needs(model, name, size + 1, **conditions) > gpu


@settings(max_examples=10)
@given(st.sampled_from([llama, gpt2]), st.sampled_from(list(METHODS)), st.floats(3e5, 6e6), st.floats(1, 3), SETTINGS)
def test_more_memory_takes_nothing_away_and_more_tokens_add_nothing(make, name, gpu, factor, conditions):
    def largest(gpu, **conditions):
        return Search(make(), limits_of(size_of(gpu), make(), **conditions)).largest(METHODS[name])

    assume(name != "bitfit" or make is gpt2)
    found = largest(gpu, **conditions)
    assert found <= largest(gpu * factor, **conditions)
    for change in ({"tokens": conditions["tokens"] + 20}, {"batch": conditions["batch"] + 1}):
        assert largest(gpu, **(conditions | change)) <= found


@settings(max_examples=2)
@given(st.sampled_from([llama, gpt2]), st.floats(3e5, 6e6), SETTINGS)
def test_a_plan_fits(make, gpu, conditions):
    model = make()
    found = plan(model, size_of(gpu), **conditions)
    for fit in found.fits:
        assert fit.breakdown.total_with_margin == fit.card_bytes <= gpu
        assert fit.size <= (fit.largest or 1)
        if fit.config is not None:
            assert needs(model, fit.method.name, fit.size, **conditions) == fit.card_bytes
    assert {one.method.name for one in (*found.fits, *found.rejected)} == METHODS.keys()
    assert all(one.reason for one in found.rejected)


@given(st.floats(1, 1e4), st.floats(0, 1e4), st.floats(2, 1e4), st.integers(1, 90), st.sampled_from([0.0, 0.1]))
def test_as_many_cards_as_needed_and_no_more(weights, activations, gpu, layers, margin):
    breakdown = Breakdown("", {"base weights": weights, "activations": activations}, "", 0, margin, {})
    found = cards_needed(breakdown, gpu, layers)
    if found.sharded is None:
        assert activations * (1 + margin) >= gpu
        return
    assert per_card(breakdown, found.sharded) <= gpu * (1 + 1e-9)
    assert found.sharded == 1 or per_card(breakdown, found.sharded - 1) > gpu * (1 - 1e-9)
    assert (found.sharded == 1) == (breakdown.total_with_margin <= gpu * (1 + 1e-9))
    if found.stages is not None and found.sharded > 1:
        assert 2 <= found.stages <= max(layers, 2)


def test_what_is_sharded_are_parts_of_memory():
    assert set(SHARDED) < set(PARTS)


def test_cards_that_share_need_less_each():
    one, four = plan("gpt2", "2GB", methods=["full"]), plan("gpt2", "2GB", methods=["full"], gpus=4)
    assert one.rejected[0].cards.sharded == 2
    assert four.fits[0].card_bytes < one.rejected[0].needs / 1.5


# ---- anchors ---------------------------------------------------------------------------------------------------------

def test_70b_does_not_train_on_24_gb():
    found = plan("llama-2-70b", "24GB", methods=["lora", "qlora", "full"], margin=0.0)
    assert found.fits == ()
    assert "the base alone is 36.36 GB in NF4" in found.rejection("qlora").reason
    assert "the base alone is 137.95 GB in bfloat16" in found.rejection("lora").reason
    assert found.minimum.method.name == "qlora"
    assert found.minimum.size == 1
    assert 36.36e9 < found.minimum.needs < 48e9
    assert card_sold(found.minimum.needs) == 48e9
    assert found.minimum.cards.sharded == 2
    assert found.largest_fitting == "llama-2-13b"
    assert choose(found).method is None
    assert found.to_dict()["minimum"] == {
        "method": "qlora", "title": "QLoRA", "reason": found.minimum.reason, "size": 1, "needs_bytes": found.minimum.needs,
        "cards": {"sharded": 2, "stages": 2, "own_bytes": found.minimum.cards.own}, "card_sold_bytes": 48e9}


def test_8b_qlora_fits_24_gb_and_full_fine_tuning_does_not():
    found = plan("llama-3-8b", "24GB", methods=["qlora", "full", "bitfit"], tasks=20)
    fit = found.fit("qlora")
    assert (fit.size, fit.serving.counts.trainable) == (16, 41_943_040)
    assert fit.serving.all_bytes == 20 * fit.serving.task_bytes == 20 * 4 * 41_943_040
    assert "optimizer states 64.24 GB, master weights 32.12 GB" in found.rejection("full").reason
    assert "has no bias" in found.rejection("bitfit").reason


@pytest.mark.parametrize(("targets", "audit"), [(["q_proj", "k_proj", "v_proj", "o_proj"], 830), ("all-linear", 350)])
def test_largest_ranks_on_13b_are_near_the_audits_which_leaves_out_workspace(targets, audit):
    rank = largest_size("qlora", "llama-2-13b", "24GB", target_modules=targets, adapter_dtype="bfloat16", margin=0.0)
    assert 0.88 * audit < rank <= 1.01 * audit


def test_models_the_other_way_round():
    found = {one.method.name: one for one in largest_models("24GB", methods=["full", "qlora", "bitfit"])}
    assert found["qlora"].model == "llama-2-13b"
    assert found["full"].model == "gpt2-large"
    assert found["bitfit"].model == "qwen2-7b"  # OPT and Pythia have biases too, but can only be counted
    assert found["qlora"].needs <= 24e9
    targets = largest_models("24GB", methods=["lora"], target_modules=["c_attn"])
    assert targets[0].model == "gpt2-xl"  # of those that have a module of that name
    assert largest_model("full", "100MB") is None


# ---- limits ---------------------------------------------------------------------------------------------------------

def test_limits_other_than_memory():
    model = llama()
    found = plan(model, "1GB", tokens=250, methods=["lora", "adalora", "prefix", "prompt", "houlsby"])
    assert found.fit("lora").largest == 32  # 2 of 4 heads of 16
    assert found.fit("lora").limit == "r=33 would be more than 32, the smaller side of the smallest matrix"
    assert found.fit("adalora").largest == 21  # which starts with 32
    assert found.fit("prefix").largest == found.fit("prompt").largest == 6
    assert "6 positions that 250 tokens of text leave of 256" in found.fit("prompt").limit
    assert found.fit("houlsby").largest == 64
    full = plan(model, "1GB", tokens=256, methods=["prefix"])
    assert "leave none of the model's 256 positions" in full.rejection("prefix").reason


@pytest.mark.parametrize("name", [name for name in SIZED if METHODS[name].size_name == RANK and name != "vera"])
def test_the_largest_rank_that_means_something_is_the_last_that_the_method_takes(name):
    model, method = llama(), METHODS[name]
    get_peft_model(llama(), method.config(model, method.most(model, 64)))
    with pytest.raises(ValueError, match="above 32"):
        get_peft_model(llama(), method.config(model, method.most(model, 64) + 1))


def test_trained_parameters_are_limited():
    model = llama()
    parameters = sum(parameter.size for parameter in model.parameters())
    found = plan(model, "1GB", tokens=64, trainable_max="0.5%")
    most = parameters * 0.005
    assert found.limits.trainable_max == most
    for fit in found.fits:
        assert fit.serving.counts.trainable <= most
    assert {"full", "lora"} <= {one.method.name for one in found.rejected}
    assert "would train" in found.rejection("lora").reason
    assert plan(model, "1GB", tokens=64, methods=["ia3"], trainable_max=1000).limits.trainable_max == 1000
    assert found.minimum is None


def test_a_usual_size_that_does_not_fit_is_halved_and_a_given_one_is_not():
    model = llama()
    usual, one_less = needs(model, "lora", 16), needs(model, "lora", 15)
    gpu = (usual + one_less) / 2
    found = plan(model, size_of(gpu), methods=["lora"], tokens=64, margin=0.0).fits[0]
    assert (found.size, found.largest) == (8, 15)
    refused = plan(model, size_of(gpu), methods=["lora"], tokens=64, margin=0.0, rank=16).rejection("lora")
    assert refused.reason.startswith("r=16 would need")
    assert refused.reason.endswith("The largest that fits is r=15")
    assert plan(model, size_of(gpu), methods=["lora"], tokens=64, margin=0.0, rank=3).fits[0].size == 3
    assert "r=99 is more than 32" in plan(model, "1GB", methods=["lora"], tokens=64, rank=99).rejection("lora").reason


def test_the_least_keeps_to_the_other_limits_and_to_the_given_size():
    model = llama()
    few = plan(model, "200 kB", tokens=64, methods=["lora", "vera", "full"], trainable_max=1500)
    assert few.minimum.method.name == "vera"
    assert few.minimum.needs == needs(model, "vera", 1, margin=0.05)
    assert all("would train" in few.rejection(name).reason for name in ("lora", "full"))
    one_more = (needs(model, "lora", 7) + needs(model, "lora", 8)) / 2
    close = plan(model, size_of(one_more), tokens=64, methods=["lora"], rank=8, margin=0.0)
    assert (close.minimum.size, close.minimum.needs) == (8, needs(model, "lora", 8))
    assert close.minimum.cards.sharded == 2
    assert "LoRA with r=8 needs" in choose(close).reason
    assert plan(model, "200 kB", tokens=64, methods=["lora"], rank=33).minimum is None


def test_what_has_to_be_merged_needs_a_card_for_the_merged_model():
    found = plan("gpt2", "240MB", methods=["qlora"], tokens=16, latency_critical=True)
    assert found.minimum.needs > 248e6  # 124 million parameters of 16 bits
    assert plan("gpt2", size_of(found.minimum.needs), methods=["qlora"], tokens=16, latency_critical=True).fit("qlora")


def test_numbers_of_cards_and_the_least_are_of_one_size():
    found = plan("llama-2-70b", "24GB", methods=["lora", "qlora"])
    assert found.minimum is found.rejection("qlora")
    assert found.rejection("lora").size == found.rejection("qlora").size == 1


@pytest.mark.slow
def test_usual_sizes_are_halved_for_few_parameters_with_and_without_a_model():
    largest = largest_models("24GB", methods=["lora"], trainable_max=1e6)[0]
    fit = plan(largest.model, "24GB", methods=["lora"], trainable_max=1e6, tokens=largest.conditions["tokens"]).fit("lora")
    assert largest.size == fit.size == 1
    assert largest_models("24GB", methods=["lora"], trainable_max=1e6, rank=16)[0].model is None


def test_latency_leaves_what_can_be_merged():
    model = llama()
    found = plan(model, "1GB", tokens=64, latency_critical=True)
    assert {fit.method.name for fit in found.fits} == {"full", "lora", "qlora", "dora", "adalora", "vera", "ulora", "ia3",
                                                       "norms"}
    assert "4 matrix products in sequence" in found.rejection("pfeiffer").reason  # a down and an up in each of two blocks
    assert "FLOPs a token" in found.rejection("prefix").reason


def test_a_merged_model_has_to_fit_too():
    assert plan("gpt2", "240MB", methods=["qlora"], tokens=16).fit("qlora")
    found = plan("gpt2", "240MB", methods=["qlora"], tokens=16, latency_critical=True)
    assert "in bfloat16; running the merged model needs" in found.rejection("qlora").reason
    assert plan("gpt2", "480MB", methods=["qlora"], tokens=16, latency_critical=True).fit("qlora")


def test_every_base_in_four_bits():
    model, names = llama(), ["full", "qlora", "ia3", "norms", "prefix", "houlsby"]
    assert "lora" not in [one.name for one in _chosen(None, limits_of("1GB", model, quantization="nf4"))]  # that is QLoRA
    found = plan(model, "1GB", tokens=64, methods=names, quantization="nf4")
    stored = {fit.method.name: fit.stored for fit in found.fits}
    assert stored.pop("full") == "bfloat16"
    assert set(stored.values()) == {"NF4"}
    assert found.fit("ia3").card_bytes < plan(model, "1GB", tokens=64, methods=["ia3"]).fit("ia3").card_bytes
    assert plan(model, "1GB", tokens=64, methods=["ia3"], quantization="int8").fits[0].stored == "int8"


def test_preparing_widens_quantized_bases_only():
    found = [plan("gpt2", "2GB", methods=["lora", "qlora"], prepared=prepared, rank=4) for prepared in (False, True)]
    lora, qlora = ([one.fit(name).card_bytes for one in found] for name in ("lora", "qlora"))
    assert lora[0] == lora[1]
    assert qlora[0] < qlora[1]
    assert found[1].conditions["prepared"] is True


def test_this_librarys_own_engine():
    found = plan(llama(), "20MB", tokens=32, methods=["lora", "qlora", "full"], engine="tinypeft")
    assert [fit.stored for fit in found.fits] == ["float32", "float32", "NF4"]
    assert found.conditions["engine"] == "tinypeft"
    assert found.fit("lora").card_bytes > plan(llama(), "20MB", tokens=32, methods=["lora"]).fit("lora").card_bytes


def test_models_known_by_their_shapes():
    for name in COUNTED_ONLY:
        with pytest.raises(ValueError, match=r"can only be counted here.*can be planned: gpt2, .*smollm2-135m; or a folder"):
            plan(name, "24GB")
    assert {name for name in CATALOG if isinstance(build(name), ShapeModel)} == set(COUNTED_ONLY)


# ---- methods --------------------------------------------------------------------------------------------------------

@given(st.integers(1, 13000), st.data())
def test_every_bottleneck_width_is_the_one_that_was_meant(width, data):
    size = data.draw(st.integers(1, width))
    model = gpt2()
    model.config.n_embd = width
    assert int(width // METHODS["pfeiffer"].config(model, size).reduction_factor) == size


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("make", [llama, gpt2])
def test_methods_count_and_fit_small_models(name, make):
    model, method = make(), METHODS[name]
    if name in ("full",) or (name == "bitfit" and make is llama):
        return
    size = min(method.usual_size(model), method.most(model, 64))
    adapted = get_peft_model(make(), method.config(model, size))
    found = serving(model, method.config(model, size))
    assert (found.counts.trainable, found.counts.total) == adapted.get_nb_trainable_parameters()
    assert (method.size_name == TOKENS) == bool(found.cache_bytes) == bool(found.positions)
    assert (method.size_name == WIDTH) == (name in ("houlsby", "pfeiffer", "parallel"))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("full", "bitfit")])
def test_what_is_called_mergeable_merges_and_mixable_mixes_and_files_are_as_large_as_said(name, tmp_path):
    base = AutoModelForCausalLM.from_pretrained("tinypeft/surnames")
    config = METHODS[name].config(base, 4)
    found = serving("tinypeft/surnames", config)
    adapted = get_peft_model(base, config)
    assert found.mergeable == mergeable(adapted)
    if found.mergeable:
        adapted.merge_adapter()
        adapted.unmerge_adapter()
    else:
        with pytest.raises(ValueError, match="cannot be merged"):
            adapted.merge_adapter()
    rows = np.ones((2, 4), dtype=int)
    if found.mixable:
        adapted(rows, adapter_names=["default", "__base__"])
    else:
        with pytest.raises(ValueError, match="cannot be mixed within a batch"):
            adapted(rows, adapter_names=["default", "__base__"])
    adapted.save_pretrained(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    stored = found.all_bytes
    assert stored <= written <= stored + 20_000  # the headers


def test_names():
    assert find_method("rsLoRA") is find_method("LoRA+") is METHODS["lora"]
    with pytest.raises(ValueError, match=r"unknown method 'qlra'; near: qlora"):
        find_method("qlra")
    with pytest.raises(ValueError, match="rank 0 is below 1"):
        METHODS["lora"].config(llama(), 0)


# ---- serving --------------------------------------------------------------------------------------------------------

def test_work_by_hand():
    model = llama()  # two blocks; q 64x64, k and v 32x64, o 64x64, gate and up 96x64, down 64x96
    shapes = 2 * [(64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96)]
    weights = sum(a * b for a, b in shapes)
    head = 300 * 64

    def work(name, size=3, **options):
        found = serving(model, METHODS[name].config(model, size), **options)
        return found.work

    lora, found = work("lora"), serving(model, METHODS["lora"].config(model, 3))
    assert lora.token == 2 * 3 * sum(a + b for a, b in shapes) == 2 * found.counts.trainable
    assert lora.merge == 2 * 3 * weights + weights
    assert (lora.products, lora.depth, lora.rewritten, lora.forward) == (28, 0, weights, 0)
    assert found.base_flops == 2 * (weights + head)
    assert work("adalora", 2).token == work("lora", 3).token + 3 * len(shapes)  # 3 at first, scaled by E
    assert work("vera").token == lora.token + sum(3 + out for out, _ in shapes)
    assert work("ulora").token == lora.token + 3 * len(shapes)
    assert work("dora").token == lora.token + 2 * sum(out for out, _ in shapes)
    assert work("dora").forward == 2 * 3 * weights + 3 * weights
    assert work("ia3").token == 2 * (32 + 32 + 96)
    houlsby, parallel = work("houlsby"), work("parallel")
    assert (houlsby.token, houlsby.products, houlsby.depth) == (2 * 4 * 2 * 64 * 3, 8, 8)
    assert (parallel.token, parallel.products, parallel.depth) == (2 * 2 * 2 * 64 * 3, 4, 0)
    assert work("norms").token == work("norms").merge == 0
    assert work("norms").rewritten == 5 * 64
    assert work("prefix").token == 2 * 4 * 3 * 64


def test_what_tasks_share_is_stored_once():
    model = llama()
    found = serving(model, METHODS["ulora"].config(model, 3), tasks=50)
    assert found.shared_bytes == 4 * count_parameters_of(model, LoraConfig(r=3, target_modules="all-linear"))
    assert found.task_bytes == 4 * 3 * 14
    assert found.all_bytes == found.shared_bytes + 50 * found.task_bytes
    full = serving(model, None, tasks=50)
    assert full.all_bytes == 50 * 2 * sum(parameter.size for parameter in model.parameters())


def count_parameters_of(model, config):
    return get_peft_model(llama(), config).get_nb_trainable_parameters()[0]


def test_keys_and_values_of_a_prefix_are_shared_by_query_heads():
    found = serving("llama-3-8b", PrefixTuningConfig(num_virtual_tokens=20))
    assert found.cache_bytes == 2 * 1_310_720
    assert found.counts.trainable == count_parameters("llama-3-8b", PrefixTuningConfig(num_virtual_tokens=20)).trainable


def test_serving_leaves_the_model_alone():
    model = llama()
    serving(model, LoraConfig(r=2))
    plan(model, "1GB", methods=["lora"], tokens=64)
    assert not model.adapted
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---- choice ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small():
    """Everything fits."""
    return plan(gpt2(), "1GB", tokens=64, tasks=20)


@pytest.fixture(scope="module")
def single():
    return plan(gpt2(), "1GB", tokens=64)


@pytest.mark.parametrize(("needs", "method", "rule"), [
    (Needs(), "lora", "usual"),
    (Needs(switching=BATCH), "lora", "usual"),
    (Needs(examples=100), "ia3", "little-data"),
    (Needs(examples=200_000), "lora", "usual"),  # 20 tasks
    (Needs(storage=1.4e5), "vera", "storage"),
    (Needs(storage=1e4), None, "storage"),
])
def test_choices_for_many_tasks(small, needs, method, rule):
    found = choose(small, needs)
    assert (found.method, found.rule) == (method, rule), found.reason


def test_much_data_is_a_reason_for_full_fine_tuning_unless_something_speaks_against_it(single):
    assert choose(single, Needs(examples=200_000)).method == "full"
    for needs, rule in ((Needs(examples=200_000, keep_base=True), "keep-base"),
                        (Needs(examples=200_000, switching=REQUESTS), "whole-model"),
                        (Needs(examples=200_000, switching=BATCH), "mixed-batch")):
        found = choose(single, needs)
        assert (found.method, found.rule) == ("lora", rule)
        assert found.reason.startswith("full fine-tuning would come first, but ")


def test_the_limit_that_rejects_lora_is_the_reason_for_qlora():
    found = choose(plan("llama-2-13b", "24GB", methods=["lora", "qlora"]))
    assert (found.method, found.rule) == ("qlora", "fit")
    assert found.reason.startswith("LoRA would come first, but the base alone is 26.03 GB in bfloat16")


def test_rules_about_latency(small):
    merged = choose(small, Needs(latency_critical=True))
    assert "cannot be merged" in merged.against["houlsby"]
    assert "cannot be merged" in merged.against["prefix"]
    beside = choose(small, Needs(latency_critical=True, switching=REQUESTS))
    assert "8 matrix products deeper" in beside.against["houlsby"]
    assert beside.against["parallel"].startswith("it would do, but LoRA stands before it")


@given(st.sampled_from(["never", "requests", "batch"]), st.booleans(), st.sampled_from([None, 10, 10**4, 10**6]), st.booleans(),
       st.sampled_from([None, 1e3, 1e5, 1e7]))
def test_every_method_is_chosen_or_has_something_against_it(small, switching, latency, examples, keep, storage):
    found = choose(small, Needs(switching, latency, examples, keep, storage))
    assert found.against.keys() | {found.method} - {None} == METHODS.keys() | ({found.method} - {None})
    assert found.method not in found.against
    assert found.rule in {"fit", *(rule.name for rule in RULES), *(one.name for one in PREFERENCES)}
    assert all(reason and not reason.endswith(".") for reason in (found.reason, *found.against.values()))


def test_no_batch_mixes_what_changes_all_rows_or_makes_some_longer(small):
    found = choose(small, Needs(switching=BATCH, examples=10))
    for name in ("prompt", "prefix"):
        assert "virtual tokens make rows longer" in found.against[name]
    for name in ("full", "bitfit"):
        assert "the same weights" in found.against[name]
    alone = choose(plan("gpt2-xl", "80GB", methods=["prompt"], tasks=3, tokens=64), Needs(switching=BATCH))
    assert (alone.method, alone.rule) == (None, "mixed-batch")


def test_prompts_are_for_large_models(small):
    assert "steer large models only" in choose(small).against["prompt"]
    assert "stands before it" in choose(replace(small, parameters=10**9)).against["prompt"]


def test_preferences_know_all_methods():
    assert set(USUAL) == METHODS.keys()
    for preference in PREFERENCES:
        assert set(preference.order) == METHODS.keys()


# ---- input and output -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("call", "message"), [
    (lambda: plan("lama-2-7b", "24GB"), "near: llama-2-7b"),
    (lambda: plan("gpt2", "24"), "has no unit"),
    (lambda: plan("gpt2", "24 gigs"), "unknown unit 'gigs'"),
    (lambda: plan("gpt2", 24), r'fewer than 1,000,000: for gigabytes write text, "24GB"'),
    (lambda: plan("gpt2", -3), "a number of bytes above 0"),
    (lambda: plan("gpt2", float("nan")), "a number of bytes above 0"),
    (lambda: plan("gpt2", "2GB", tasks=0), "tasks=0"),
    (lambda: plan("gpt2", "2GB", gpus=0), "gpus=0 is below 1"),
    (lambda: plan("gpt2", "2GB", rank=0), "rank=0 is below 1"),
    (lambda: plan("gpt2", "2GB", margin=1.5), "margin=1.5"),
    (lambda: plan("gpt2", "2GB", methods=["lroa"]), "unknown method 'lroa'"),
    (lambda: plan("gpt2", "2GB", methods=[]), "no method is named"),
    (lambda: plan("gpt2", "2GB", tokens=5000), "1,024 positions"),
    (lambda: plan("gpt2", "2GB", optimizer="adamv"), "optimizer 'adamv' is unknown"),
    (lambda: plan("gpt2", "2GB", attention="flashy"), "attention 'flashy' is unknown"),
    (lambda: plan("gpt2", "2GB", quantization="nf5"), "quantization 'nf5' is unknown"),
    (lambda: plan("gpt2", "2GB", trainable_max="5GB"), "expected a number of parameters"),
    (lambda: plan("gpt2", "2GB", trainable_max="0.0000001%"), "leaves nothing to train"),
    (lambda: plan("gpt2", "2GB", target_modules=["q_prj"]), "match no module"),
    (lambda: largest_models("2GB", target_modules=["q_prj"], methods=["lora"]), "match no module"),
    (lambda: largest_models("2GB", tokens=10**6), "no model of the catalog has 1,000,000 positions"),
    (lambda: largest_size("ia3", "gpt2", "2GB"), "has no size to choose"),
    (lambda: largest_models("2GB", optimizer="adamv"), "optimizer 'adamv' is unknown"),
    (lambda: Needs(switching="often"), "switching 'often' is unknown"),
    (lambda: Needs(examples=0), "examples=0"),
])
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_plan_and_no_config_is_refused():
    with pytest.raises(TypeError, match="expected a plan; make one first"):
        choose("llama-3-8b")
    with pytest.raises(TypeError, match="method 'lora': expected an adapter's config"):
        memory("gpt2", method="lora")


def test_a_plan_as_text():
    model = llama()
    text = str(plan(model, "1GB", tokens=64, methods=["lora", "bitfit"]))
    fit = plan(model, "1GB", tokens=64, methods=["lora"]).fits[0]
    assert f"LoRA  r=16  {fit.serving.counts.trainable:,} trained" in text
    assert "BitFit: " in text
    assert "nothing fits" in str(plan(model, "100 kB", tokens=64, methods=["lora"]))
    assert "lambda" not in text + repr(fit)


def test_plans_are_json_and_complete():
    model = llama()
    found = plan(model, "1GB", tokens=64, tasks=3)
    again = json.loads(json.dumps(found.to_dict()))
    assert [one["method"] for one in again["fits"]] == [fit.method.name for fit in found.fits]
    lora = next(one for one in again["fits"] if one["method"] == "lora")
    assert lora["config"]["r"] == lora["size"] == 16
    assert sum(lora["memory"]["parts"].values()) == pytest.approx(lora["memory"]["total"])
    assert lora["serving"]["all_bytes"] == 3 * lora["serving"]["task_bytes"]
    assert again["conditions"]["tokens"] == 64
    assert again["margin"] == again["conditions"]["margin"] == lora["memory"]["conditions"]["margin"] == 0.05
    assert lora["one_more"] == {"size": 33, "reason": found.fit("lora").limit}
    assert plan(model, "1GB", tokens=64, methods=["ia3"], trainable_max="1.55%").to_dict()["trainable_max"] == int(
        0.0155 * sum(parameter.size for parameter in model.parameters()))
    assert {one["method"] for one in again["rejected"]} == {"bitfit"}


def test_equal_questions_have_equal_answers():
    first, second = (plan(llama(), 2e6, tokens=64, methods=["lora", "qlora"]).to_dict() for _ in range(2))
    assert first == second
