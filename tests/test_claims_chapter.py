"""What the claims of the fourth document measure with: rankings, merges into 4 bits, what a swap touches."""

from __future__ import annotations

import numpy as np
import pytest

from tinypeft.autograd import Tensor
from tinypeft.claims.audit.chapter_adapters import unexplained
from tinypeft.claims.audit.chapter_prefix import FirstLayerOnly, Recorder
from tinypeft.claims.audit.chapter_problems import touched
from tinypeft.claims.audit.chapter_table import merged_in_four_bits, merged_in_sixteen_bits, ranked
from tinypeft.claims.settings import lora
from tinypeft.claims.small_models import WIDTH, as_if_trained, base_values, largest, logits, small_gpt2, small_llama
from tinypeft.nn import generator
from tinypeft.peft import BottleneckConfig, get_peft_model
from tinypeft.peft.bottleneck import Bottleneck


def test_ranking_joins_what_is_alike_and_keeps_the_given_order_within_a_group():
    assert ranked({"b": 1.0, "a": 1.02, "c": 30.0, "d": 0.5}) == "c > b = a > d"
    assert ranked({"b": 1.0, "a": 1.2}) == "a > b"


def test_ranking_measures_a_group_from_its_largest():
    """So that many small steps do not join the first with the last."""
    assert ranked({"a": 100.0, "b": 96.0, "c": 92.0}) == "a = b > c"


def test_merging_into_four_bits_loses_small_updates_and_keeps_large_ones():
    lost, changed = zip(*(merged_in_four_bits(share) for share in (0.015, 0.05, 0.5, 2.0)), strict=True)
    assert lost[0] > 0.9  # all of it
    assert lost[3] < 0.2
    assert list(changed) == sorted(changed)
    assert changed[0] < 0.01 < 0.5 < changed[3]


def test_merging_into_sixteen_bits_loses_nothing():
    assert merged_in_sixteen_bits() < 1e-12


@pytest.mark.parametrize("make", [small_gpt2, small_llama])
def test_the_base_is_all_numbers_of_a_model_whatever_adapters_are_in_it(make):
    plain = np.concatenate([p.data.reshape(-1) for p in make().parameters()])
    peft_model = as_if_trained(get_peft_model(make(), BottleneckConfig(reduction_factor=4)))
    peft_model.add_adapter("other", BottleneckConfig(reduction_factor=8))
    np.testing.assert_array_equal(np.sort(base_values(peft_model)), np.sort(plain))


def test_a_swap_touches_the_base_only_if_merged():
    assert touched(lora(4)) == 0
    assert touched(lora(4), merge=True) > 0.1


def test_what_a_matrix_cannot_do_is_nothing_for_a_linear_adapter():
    adapter = Bottleneck(BottleneckConfig(), WIDTH, 8)
    for name, parameter in adapter.named_parameters():
        parameter.data = generator(0, name).standard_normal(parameter.shape)
    assert unexplained(adapter) > 0.1
    adapter.act = lambda z: z
    assert unexplained(adapter) < 1e-12


def test_a_prefix_in_the_first_layer_only_is_the_whole_prefix_of_a_model_of_one_layer():
    one, two = small_llama(1), small_llama(2)
    slots = Tensor(generator(0, "slots").standard_normal((1, 3, 4, 4, WIDTH // 4)))
    assert largest(logits(one, cache=FirstLayerOnly(slots, None)) - logits(one)) > 1e-3
    assert FirstLayerOnly(slots, None).append(1, slots, slots) == (slots, slots)
    assert largest(logits(two, cache=FirstLayerOnly(slots, None)) - logits(two)) > 1e-3


def test_the_recorder_sees_keys_and_values_of_every_layer():
    recorder = Recorder()
    logits(small_llama(2), cache=recorder)
    assert [array.shape for array in recorder.seen] == [(1, 6, 4, WIDTH // 4)] * 4
