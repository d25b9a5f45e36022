"""Prompts and prefixes: where they stand, what they leave alone, and that generation is what full computation gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from peft_cases import assert_same, base, distance, logits, scramble

from tinypeft import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    Tensor,
    get_peft_model,
)
from tinypeft.nn import CausalLM

BOTH = pytest.mark.parametrize("kind", ["gpt2", "llama"])
P = 3
IDS = np.array([[5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24, 0, 0]])  # the second row is padded on the right
MASK = np.array([[1] * 7, [1] * 5 + [0] * 2])
LABELS = np.array([[-100] * 4 + [9, 10, 11], [-100] * 2 + [22, 23, 24, -100, -100]])
PLACES = (4, 2)  # where the labels begin


def prompted(kind: str = "gpt2", dtype: str = "float64", position: str | None = "append", p: int = P) -> PeftModel:
    return get_peft_model(base(kind, dtype), PromptTuningConfig(num_virtual_tokens=p, position=position))


def prompt_of(peft_model: PeftModel, name: str = "default") -> np.ndarray:
    return peft_model.parameters_of(name)["prompt_embeddings"].data


def table_of(model: CausalLM) -> np.ndarray:
    return model.get_input_embeddings().weight.data


# ---- appended -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_all_before_an_appended_prompt_is_computed_as_without_it(kind, dtype):
    """Bit for bit, on rows of the same length."""
    peft_model, filler = prompted(kind, dtype), np.zeros((2, P), int)
    longer = np.concatenate([IDS, filler], axis=1)
    plain = base(kind, dtype)(longer, output_hidden_states=True)
    out = peft_model(IDS, attention_mask=MASK, labels=LABELS, output_hidden_states=True)
    assert len(out.hidden_states) == 3
    for row, place in enumerate(PLACES):
        for ours, theirs in zip(out.hidden_states, plain.hidden_states, strict=True):
            assert_same(ours.data[row, :place], theirs.data[row, :place])
            assert distance(ours.data[row, place:], theirs.data[row, place:]) > 0.01
        assert_same(out.logits.data[row, :place], plain.logits.data[row, :place])


@BOTH
def test_an_appended_prompt_stands_at_each_rows_own_place(kind):
    """The same by hand: embedded rows with the prompt in the middle, labels moved, through the base."""
    peft_model, model = prompted(kind), base(kind)
    out = peft_model(IDS, attention_mask=MASK, labels=LABELS)
    rows, labels, masks = [], [], []
    for row, place in enumerate(PLACES):
        embedded = table_of(model)[IDS[row]]
        rows.append(np.concatenate([embedded[:place], prompt_of(peft_model), embedded[place:]]))
        labels.append([*LABELS[row, :place], *[-100] * P, *LABELS[row, place:]])
        masks.append([*MASK[row, :place], *[1] * P, *MASK[row, place:]])
    by_hand = model(inputs_embeds=Tensor(np.array(rows)), labels=np.array(labels), attention_mask=np.array(masks))
    assert_close(out.logits, by_hand.logits, 1e-12)
    assert_close(out.loss, by_hand.loss, 1e-12)
    out.loss.backward()
    assert np.abs(peft_model.parameters_of("default")["prompt_embeddings"].grad).min() > 0
    # Without labels the text is all given: the prompt follows its last token, before the padding at the end.
    ends = [(7, 0), (5, 1)]
    for place, row in ends:
        embedded = table_of(model)[IDS[row]]
        embeds = np.concatenate([embedded[:place], prompt_of(peft_model), embedded[place:]])[None]
        mask = np.array([[*MASK[row, :place], *[1] * P, *MASK[row, place:]]])
        alone = model(inputs_embeds=Tensor(embeds), attention_mask=mask).logits.data[0, :place + P]
        assert_close(logits(peft_model, IDS, attention_mask=MASK)[row, :place + P], alone, 1e-12)


def test_without_labels_there_is_no_place_for_an_appended_prompt():
    labels = LABELS.copy()
    labels[1] = -100
    with pytest.raises(ValueError, match="row 1 of the batch has no label .*: nothing would train there. Leave such rows out"):
        prompted()(IDS, labels=labels)


# ---- where a prompt stands in a row ---------------------------------------------------------------------------------


@BOTH
def test_a_prepended_prompt_is_text_of_other_embeddings(kind):
    peft_model, model = prompted(kind, position=None), base(kind)
    embeds = np.concatenate([np.repeat(prompt_of(peft_model)[None], 2, axis=0), table_of(model)[IDS]], axis=1)
    labels = np.concatenate([np.full((2, P), -100), LABELS], axis=1)
    mask = np.concatenate([np.ones((2, P), int), MASK], axis=1)
    by_hand = model(inputs_embeds=Tensor(embeds), labels=labels, attention_mask=mask)
    out = peft_model(IDS, attention_mask=MASK, labels=LABELS)
    assert out.logits.shape == (2, 7 + P, 97)
    assert_close(out.logits, by_hand.logits, 1e-12)
    assert_close(out.loss, by_hand.loss, 1e-12)
    given = peft_model(inputs_embeds=Tensor(table_of(model)[IDS]), attention_mask=MASK, labels=LABELS)
    assert_close(given.logits, out.logits, 1e-12)


@BOTH
def test_a_prompt_of_real_tokens_is_those_tokens(kind):
    peft_model = prompted(kind, position=None)
    words = np.array([40, 41, 42])
    peft_model.parameters_of("default")["prompt_embeddings"].data = table_of(base(kind))[words]
    ids = IDS[:1]
    assert_close(logits(peft_model, ids), logits(base(kind), np.concatenate([words[None], ids], axis=1)), 1e-12)


class Letters:
    """A tokenizer, as far as a prompt needs one."""

    name_or_path = "letters"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) - ord("a") for letter in text]


class Empty(Letters):
    """One that knows nothing."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return []


def test_a_tokenizer_may_be_given_by_its_name():
    model = AutoModelForCausalLM.from_pretrained("tinypeft/surnames")
    table = model.get_input_embeddings().weight.data
    config = PromptTuningConfig(num_virtual_tokens=2, prompt_tuning_init="TEXT", prompt_tuning_init_text="Ko",
                                tokenizer_name_or_path="tinypeft/surnames")
    ids = AutoTokenizer.from_pretrained("tinypeft/surnames").encode("Ko", add_special_tokens=False)
    assert_same(prompt_of(get_peft_model(model, config)), table[ids])


def test_prompts_may_start_as_words():
    table = table_of(base())
    config = PromptTuningConfig(num_virtual_tokens=5, prompt_tuning_init="TEXT", prompt_tuning_init_text="cab",
                                tokenizer_name_or_path=Letters())
    peft_model = get_peft_model(base(), config)
    assert_same(prompt_of(peft_model), table[[2, 0, 1, 2, 0]])  # repeated as needed
    assert peft_model.peft_config["default"].to_dict()["tokenizer_name_or_path"] == "letters"
    sampled = get_peft_model(base(), PromptTuningConfig(num_virtual_tokens=5, prompt_tuning_init="SAMPLE_VOCAB"))
    assert all((row == table).all(axis=1).any() for row in prompt_of(sampled))
    assert prompt_of(sampled).std() < prompt_of(prompted(p=5)).std()  # N(0, 1) is much larger than what stands in the table
    for values, message in (({"prompt_tuning_init": "TEXT"}, "needs prompt_tuning_init_text and tokenizer_name_or_path"),
                            ({"prompt_tuning_init": "WORDS"}, "must be one of 'RANDOM', 'SAMPLE_VOCAB', 'TEXT'"),
                            ({"num_virtual_tokens": 0}, "positive integer, got 0"),
                            ({"position": "middle"}, "must be one of None, 'prepend', 'append', got 'middle'")):
        with pytest.raises(ValueError, match=message):
            PromptTuningConfig(**({"num_virtual_tokens": 5} | values))
    for text, tokenizer, message in (("cab", "letters", "is neither a folder nor"), ("!", Empty(), "'!' has no tokens")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            get_peft_model(base(), PromptTuningConfig(num_virtual_tokens=5, prompt_tuning_init="TEXT",
                                                      prompt_tuning_init_text=text, tokenizer_name_or_path=tokenizer))


# ---- prefixes -------------------------------------------------------------------------------------------------------


def test_a_prefix_of_real_keys_is_text_that_stands_before():
    """Keys and values that a text has as a prefix do what the text does. (In GPT-2: a Llama rotates a text's keys.)"""
    model, words = base("gpt2"), np.array([[40, 41, 42, 43]])
    peft_model = get_peft_model(base("gpt2"), PrefixTuningConfig(num_virtual_tokens=4))
    states = model(words, output_hidden_states=True).hidden_states
    keys_and_values = []
    for layer, block in enumerate(model.transformer.h):
        qkv = block.attn.c_attn(block.ln_1(states[layer])).data[0]
        keys_and_values += [qkv[:, 32:64], qkv[:, 64:]]
    next(iter(peft_model.parameters_of("default").values())).data = np.concatenate(keys_and_values, axis=1)
    text = np.concatenate([np.repeat(words, 2, axis=0), IDS], axis=1)
    assert_close(logits(peft_model, IDS), logits(model, text)[:, 4:], 1e-12)


@BOTH
def test_the_order_of_two_prefixes_does_not_matter_and_that_of_two_prompts_does(kind):
    """Keys have no positions of their own, virtual tokens do."""
    for config, same in ((PrefixTuningConfig, True), (PromptTuningConfig, False)):
        peft_model = get_peft_model(base(kind), config(num_virtual_tokens=2), "a")
        peft_model.add_adapter("b", config(num_virtual_tokens=3))
        peft_model.set_adapter(["a", "b"])
        assert peft_model.num_virtual_tokens == 5
        first = logits(peft_model)
        peft_model.set_adapter(["b", "a"])
        assert (distance(logits(peft_model), first) < 1e-12) == same


@BOTH
def test_two_prompts_are_one_long_prompt_and_two_prefixes_one_long_prefix(kind):
    for config in (PrefixTuningConfig, PromptTuningConfig):
        peft_model = get_peft_model(base(kind), config(num_virtual_tokens=2), "a")
        peft_model.add_adapter("b", config(num_virtual_tokens=3))
        peft_model.set_adapter(["a", "b"])
        scramble(peft_model)
        values = [next(iter(peft_model.parameters_of(name).values())).data for name in ("a", "b")]
        one = get_peft_model(base(kind), config(num_virtual_tokens=5))
        next(iter(one.parameters_of("default").values())).data = np.concatenate(values)
        assert_close(logits(peft_model), logits(one), 1e-12)


@BOTH
@pytest.mark.parametrize("order", [["prompt", "prefix"], ["prefix", "prompt"]])
def test_a_prefix_stands_before_a_prompt(kind, order):
    """Both orders of listing give the same: a prefix is no token of the row."""
    peft_model = get_peft_model(base(kind), PrefixTuningConfig(num_virtual_tokens=2), "prefix")
    peft_model.add_adapter("prompt", PromptTuningConfig(num_virtual_tokens=3))
    peft_model.set_adapter(order)
    out = peft_model(IDS, attention_mask=MASK, labels=LABELS)
    alone = get_peft_model(base(kind), PrefixTuningConfig(num_virtual_tokens=2), "prefix")
    embeds = np.concatenate([np.repeat(prompt_of(peft_model, "prompt")[None], 2, axis=0), table_of(base(kind))[IDS]], axis=1)
    labels = np.concatenate([np.full((2, 3), -100), LABELS], axis=1)
    mask = np.concatenate([np.ones((2, 3), int), MASK], axis=1)
    by_hand = alone(inputs_embeds=Tensor(embeds), labels=labels, attention_mask=mask)
    assert_close(out.logits, by_hand.logits, 1e-12)
    assert_close(out.loss, by_hand.loss, 1e-12)
    out.loss.backward()
    assert all(np.abs(p.grad).max() > 0 for name in order for p in peft_model.parameters_of(name).values())


# ---- generation -----------------------------------------------------------------------------------------------------

STACKS = {"prompt": [PromptTuningConfig(num_virtual_tokens=3)], "prefix": [PrefixTuningConfig(num_virtual_tokens=3)],
          "appended": [PromptTuningConfig(num_virtual_tokens=3, position="append")],
          "projected": [PrefixTuningConfig(num_virtual_tokens=2, prefix_projection=True)],
          "two prompts": [PromptTuningConfig(num_virtual_tokens=2), PromptTuningConfig(num_virtual_tokens=1)],
          "two prefixes": [PrefixTuningConfig(num_virtual_tokens=2), PrefixTuningConfig(num_virtual_tokens=1)],
          "prompt, prefix": [PromptTuningConfig(num_virtual_tokens=2), PrefixTuningConfig(num_virtual_tokens=2)],
          "prefix, prompt": [PrefixTuningConfig(num_virtual_tokens=2), PromptTuningConfig(num_virtual_tokens=2)],
          "both ends": [PromptTuningConfig(num_virtual_tokens=2), PromptTuningConfig(num_virtual_tokens=2, position="append")]}


def stacked(kind: str, configs: list[Any]) -> PeftModel:
    peft_model = get_peft_model(base(kind), configs[0], "part0")
    for i, config in enumerate(configs[1:], start=1):
        peft_model.add_adapter(f"part{i}", config)
    peft_model.set_adapter([f"part{i}" for i in range(len(configs))])
    return peft_model


@BOTH
@pytest.mark.parametrize("stack", STACKS)
def test_generation_is_what_full_computation_gives_row_by_row_and_in_padded_batches(kind, stack):
    peft_model = stacked(kind, STACKS[stack])
    short, long = np.array([[30, 31, 32]]), np.array([[50, 51, 52, 53, 54, 55]])
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": -1}
    alone = []
    for prompt in (short, long):
        generated = peft_model.generate(prompt, **options)
        alone.append(generated[0])
        ids = prompt
        for _ in range(6):  # all of it anew for each token; an appended prompt stays where the given text ended
            new = {"labels": np.where(np.arange(ids.shape[1]) < prompt.shape[1], -100, ids)} if ids is not prompt else {}
            ids = np.concatenate([ids, logits(peft_model, ids, **new)[:, -1:].argmax(axis=-1)], axis=1)
        assert_same(alone[-1], ids[0])
    appended = "appended" in stack or "both" in stack
    if appended:
        with pytest.raises(ValueError, match="leave out use_cache=False"):
            peft_model.generate(short, use_cache=False, **options)
    batch, mask = np.array([[0, 0, 0, *short[0]], long[0]]), np.array([[0] * 3 + [1] * 3, [1] * 6])
    for cache in (True,) if appended else (True, False):
        together = peft_model.generate(batch, mask, use_cache=cache, **options)
        assert_same(together[0, 3:], alone[0])
        assert_same(together[1], alone[1])
    with peft_model.disable_adapter():
        assert_same(peft_model.generate(short, **options), base(kind).generate(short, **options))


@pytest.mark.parametrize("stack", ["prompt", "prefix"])
def test_virtual_tokens_take_positions(stack):
    peft_model = stacked("gpt2", STACKS[stack])
    ids = np.ones((1, 62), int)
    with pytest.raises(ValueError, match="positions"):
        peft_model(ids)
    with pytest.raises(ValueError, match="max_new_tokens=2 and 3 virtual tokens exceed the model's 64 positions"):
        peft_model.generate(ids[:, :60], max_new_tokens=2)
    assert peft_model.generate(ids[:, :60], max_new_tokens=1).shape == (1, 61)


@BOTH
@pytest.mark.parametrize("stack", ["prompt", "prefix", "appended", "prefix, prompt", "prompt, prefix"])
def test_position_ids_are_those_of_the_text(kind, stack):
    """Given as they would be anyway, they change nothing; moved, they count."""
    peft_model = stacked(kind, STACKS[stack])
    ids, plain = IDS[:, :5], np.arange(5)[None]
    assert_close(logits(peft_model, ids, position_ids=plain), logits(peft_model, ids), 1e-12)
    assert distance(logits(peft_model, ids, position_ids=plain * 3), logits(peft_model, ids)) > 1e-3
    for name in ("attention_mask", "labels", "position_ids"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(2, 4\), expected \(2, 5\)"):
            peft_model(ids, **{name: np.ones((2, 4), int)})
