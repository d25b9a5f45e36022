"""The small experiments that claims rest on: each against another way to the same number."""

import numpy as np
import pytest

from tinypeft.budget import base_parameters, count_parameters
from tinypeft.claims.claim import show_values
from tinypeft.claims.experiments import (
    OPTIMIZERS,
    adapter_cost,
    all_choices,
    before_activations,
    by_module,
    counts,
    first_change,
    full_training,
    growth_of_first_change,
    largest_stable_rate,
    lora_counts,
    lora_share,
    normal_blocks,
    of_seventy_billion,
    share,
    squared_error,
    training,
)
from tinypeft.claims.judge import Verdict, computed, judge, searched
from tinypeft.claims.settings import lora
from tinypeft.claims.small_models import first_layer, inputs, toy_lora
from tinypeft.peft import PrefixTuningConfig
from tinypeft.quant import ScaledValues, get_4bit_type, regions
from tinypeft.training import SGD


@pytest.mark.parametrize("alpha", [2, 6])
def test_gradient_descent_is_stable_just_below_the_largest_stable_rate_and_not_just_above(alpha):
    def loss_after(rate: float, steps: int = 400) -> float:
        layer = first_layer(toy_lora(lora(2, lora_alpha=alpha)), "v_proj")
        B, x = layer.factors("default")[1], inputs(32, rows=40)
        for _ in range(steps):
            B.grad = None
            loss = ((layer(x) - 1.0) ** 2).mean()
            loss.backward()
            SGD([B], lr=rate).step()
        return loss.item()

    limit, start = largest_stable_rate(alpha), loss_after(0.0, steps=1)
    assert loss_after(0.98 * limit) < start
    assert loss_after(1.02 * limit) > 10 * start


def test_the_first_change_of_adam_has_one_size_and_that_of_sgd_follows_the_gradient():
    assert growth_of_first_change("Adam") == pytest.approx(2, rel=1e-9)
    assert growth_of_first_change("SGD") == pytest.approx(4, rel=1e-9)
    assert np.linalg.matrix_rank(first_change("SGD", alpha=2)) <= 2
    assert set(OPTIMIZERS) == {"Adam", "SGD"}


def test_choices_of_modules_are_counted_as_their_configs_are():
    choices = all_choices(by_module("llama-3-8b", 16))
    assert len(choices) == 2**7 - 1
    assert choices["q, k, v, o"] == lora_counts("llama-3-8b", 16).trainable
    assert lora_counts("llama-3-8b", 16) == count_parameters("llama-3-8b", lora(16))
    assert choices["k, down"] == count_parameters("llama-3-8b", lora(16, ["k_proj", "down_proj"])).trainable
    assert choices[", ".join(name.removesuffix("_proj") for name in by_module("llama-3-8b", 16))] == max(choices.values())


def test_counts_are_remembered_for_each_config_and_not_for_another():
    first = counts("gpt2", PrefixTuningConfig(num_virtual_tokens=5))
    assert first == count_parameters("gpt2", PrefixTuningConfig(num_virtual_tokens=5))
    assert counts("gpt2", PrefixTuningConfig(num_virtual_tokens=5)) is first
    assert counts("gpt2", PrefixTuningConfig(num_virtual_tokens=6)).trainable == first.trainable * 6 / 5
    assert lora_share("gpt2", 8, ("c_attn",)) == share("gpt2", lora(8, ["c_attn"]))


def test_an_adapter_costs_12_or_16_bytes_a_parameter_to_train():
    """At whatever moment the peak is: weights and gradients in 2 or 4 bytes each, and Adam's two means in 8."""
    for dtype, bytes_each in (("bfloat16", 12), ("float32", 16)):
        budget = training("llama-2-7b", 8, adapter_dtype=dtype)
        assert adapter_cost(budget) / budget.trainable == bytes_each
    assert before_activations(full_training("llama-2-7b")) == 16 * base_parameters("llama-2-7b")


def test_normal_blocks_are_those_of_scipys_normal_distribution_and_near_drawn_ones():
    from scipy.stats import norm

    exact, ours = (regions(get_4bit_type("nf4"), scaled) for scaled in
                   (ScaledValues.of_distribution(norm, points=4000), normal_blocks()))
    drawn = regions(get_4bit_type("nf4"), ScaledValues.of_samples(np.random.default_rng(0).standard_normal(1 << 20)))
    assert np.abs(exact[0] - ours[0]).max() < 5e-4
    assert np.abs(drawn[0] - ours[0]).max() < 2e-3
    assert drawn[1].sum() == pytest.approx(squared_error("nf4"), rel=0.01)


def test_no_codebook_errs_less_than_lloyd_max():
    errors = {name: squared_error(name) for name in ("lloyd-max", "nf4", "fp4", "int4", "equal mass")}
    assert min(errors, key=lambda name: errors[name]) == "lloyd-max"


def test_a_quantized_toy_is_near_the_one_in_float():
    x = inputs(32)
    exact, rounded = (first_layer(toy_lora(lora(2), quantized=quantized), "v_proj")(x).data for quantized in (False, True))
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0.01 < error < 0.3


def test_what_training_keeps_follows_the_base():
    double, plain, half = (training("llama-2-7b", 16, base=base).parts["base weights"]
                           for base in ("nf4", "nf4, float32 constants", "16 bits"))
    assert double < plain < half / 3
    assert of_seventy_billion("base weights") == pytest.approx(140e9)
    assert of_seventy_billion("base weights", "gradients") == pytest.approx(280e9)
    assert full_training().parts["optimizer states"] > 2 * full_training().parts["base weights"]


def test_a_long_search_shows_the_readings_that_come_nearest():
    from tinypeft.budget import parse_quantity

    found = searched({f"reading {i}": float(i) for i in range(20)})
    text = show_values(found, "", parse_quantity("7"))
    assert text.startswith("reading 7: 7; ")
    assert text.endswith("(the nearest of 20 readings)")
    assert "reading 19" not in text
    assert judge(parse_quantity("7"), found) is Verdict.DEPENDS
    assert show_values(computed(7.0), "", parse_quantity("7")) == "7"
    assert "reading 19" in show_values(found, "")
