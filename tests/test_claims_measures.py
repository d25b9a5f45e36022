"""What the claims measure on small models: work, depth, changes, and what can be reached."""

import numpy as np
import pytest

from tinypeft.autograd import Tensor, functional as F
from tinypeft.claims.measures import (
    adapted_surnames,
    changes_in_a_step,
    degrees_of_freedom,
    depth,
    forward_work,
    multiplications,
    operations,
    out_of_reach_of_lora,
    rank,
    relative,
    training_work,
)
from tinypeft.claims.small_models import small_gpt2, small_llama
from tinypeft.peft import BottleneckConfig, LoraConfig, PrefixTuningConfig, get_peft_model


def array(*shape: int, trained: bool = True) -> Tensor:
    return Tensor(np.ones(shape), requires_grad=trained)


def test_a_relative_length_and_a_rank():
    assert relative([3.0, 4.0], [0.0, 10.0]) == 0.5
    assert rank(np.outer([1, 2, 3], [1, 1])) == 1


# ---- multiplications ------------------------------------------------------------------------------------------------

def test_a_product_takes_rows_times_in_times_out():
    assert multiplications(lambda: F.linear(array(2, 3, 4), array(5, 4))) == 2 * 3 * 4 * 5


@pytest.mark.parametrize(("x", "W", "products"), [(True, True, 3), (True, False, 2), (False, True, 2)])
def test_a_backward_pass_takes_a_product_for_each_gradient_that_is_wanted(x, W, products):
    def run() -> None:
        F.linear(array(6, 4, trained=x), array(5, 4, trained=W), array(5)).sum().backward()  # a bias takes none

    assert multiplications(run) == products * 6 * 4 * 5


@pytest.mark.parametrize(("q", "k", "v", "products"), [
    (False, False, False, 2),  # scores, and what they weigh
    (True, True, True, 6),  # and the gradients of v, of the scores, of q and of k
    (False, False, True, 3), (False, True, False, 4), (True, False, True, 5)])
def test_attention_takes_products_of_all_queries_and_keys(q, k, v, products):
    def run() -> None:
        y = F.attention(array(2, 3, 4, 8, trained=q), array(2, 5, 2, 8, trained=k), array(2, 5, 2, 8, trained=v)).sum()
        if q or k or v:
            y.backward()

    assert multiplications(run) == products * 2 * 4 * 3 * 5 * 8


def test_training_takes_three_forward_passes():
    assert training_work(small_llama()) == 3 * forward_work(small_llama())


def test_checkpointing_takes_the_blocks_a_second_time():
    def work(checkpointing: bool) -> int:
        model = small_llama()
        if checkpointing:
            model.gradient_checkpointing_enable()
        return training_work(model.train())

    head = 6 * 32 * 64  # tokens, width, vocabulary
    assert work(True) - work(False) == forward_work(small_llama()) - head


def test_a_frozen_model_of_many_layers_saves_almost_a_third():
    full, lora = training_work(small_llama(layers=8)), LoraConfig(r=1, target_modules="all-linear")
    assert 1.2 < full / training_work(get_peft_model(small_llama(layers=8), lora)) < 1.5


# ---- depth and operations -------------------------------------------------------------------------------------------

def test_depth_is_the_longest_chain_of_linear_layers():
    assert depth(small_gpt2(layers=3)) == 3 * 4 + 1  # c_attn, c_proj, c_fc, c_proj; and the head
    assert depth(small_llama(layers=3)) == 3 * 4 + 1  # q, o, gate, down: k and up are beside them
    assert depth(get_peft_model(small_gpt2(layers=3), BottleneckConfig(reduction_factor=4))) == 3 * 8 + 1
    assert depth(get_peft_model(small_gpt2(layers=1), LoraConfig(r=2, target_modules=["c_attn"]))) == 1 * 4 + 1 + 1  # A and B


def test_operations_are_those_of_the_forward_pass():
    one, two, three = (operations(small_gpt2(layers)) for layers in (1, 2, 3))
    assert 0 < two - one == three - two
    assert operations(get_peft_model(small_gpt2(1), PrefixTuningConfig(num_virtual_tokens=2))) > one


# ---- what changes ---------------------------------------------------------------------------------------------------

def test_a_step_changes_what_is_trained():
    changes = changes_in_a_step(get_peft_model(small_gpt2(), LoraConfig(r=2)))
    moved = {name.split(".default")[0].rpartition(".")[2] for name, change in changes.items() if change.any()}
    assert moved == {"lora_B"}  # at B = 0 the gradient of A is zero
    assert len(changes) > 20


def test_the_adapted_model_learns_and_forgets_and_its_base_does_not():
    found = adapted_surnames(8)
    assert found.new[1] < found.new[0] - 0.5
    assert found.old[1] > found.old[0] + 0.3
    assert found.old_without == found.old[0]
    assert max(rank(delta) for delta in found.deltas.values()) <= 8


def test_full_fine_tuning_has_nothing_to_switch_off():
    found = adapted_surnames(None)
    assert found.old_without == found.old[1]
    assert len(found.deltas) == 1 + 4 * 7  # the tokens' table, which is also the head, and seven matrices a layer


# ---- what can be reached ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("r", [1, 4, 8])
def test_lora_moves_in_fewer_directions_than_it_has_numbers(r):
    assert degrees_of_freedom(r) == (r * (32 + 32 - r), r * (32 + 32))


def test_a_sum_of_two_updates_is_out_of_reach_until_the_rank_is_full():
    assert 0.2 < out_of_reach_of_lora(2) < 0.8
    assert out_of_reach_of_lora(32) < 1e-10
