"""Rows and batches, files of examples, real surnames, evaluation."""

import json
import math
import string
import subprocess
import sys

import numpy as np
import pytest
from conftest import assert_close

from tinypeft.autograd import Tensor
from tinypeft.models.tokenizers import CharTokenizer
from tinypeft.nn import LlamaConfig, LlamaForCausalLM, Module
from tinypeft.training import (
    COUNTRIES,
    batch_rows,
    bits_per_character,
    collate,
    encode_rows,
    evaluate,
    fold,
    read_rows,
    surnames,
    tasks,
    train_validation_split,
    us_surnames,
)
from tinypeft.training.data import check_rows, count_predictions

TOKENIZER = CharTokenizer("abcdefgh")  # 0 pad, 1 bos, 2 eos, a is 3
BOS, EOS = 1, 2


def small_model(vocab_size=11, positions=12, dtype="float64", **settings):
    config = LlamaConfig(vocab_size=vocab_size, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=positions, **settings)
    return LlamaForCausalLM(config).to(dtype).init_weights(3, std=0.3).eval()


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_text_file_is_an_example_a_line(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffKowalski\r\n\n  Łącz yński \n".encode())
    assert read_rows(file) == [
        {"text": "Kowalski", "source": f"{file}, line 1"},
        {"text": "Łącz yński", "source": f"{file}, line 3"},
    ]


def test_a_jsonl_file_is_an_object_a_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": " a b", "id": 7}\n\n{"completion": "c", "prompt": ""}\n', encoding="utf-8")
    assert read_rows(str(file)) == [
        {"text": " a b", "source": f"{file}, line 1"},
        {"prompt": "", "completion": "c", "source": f"{file}, line 3"},
    ]


@pytest.mark.parametrize(
    "line",
    ["{", '"text"', "[1]", "{}", '{"txt": "a"}', '{"text": 3}', '{"text": null}', '{"text": " "}', '{"prompt": "a"}',
     '{"completion": "a"}', '{"prompt": "a", "completion": ""}', '{"text": "a", "prompt": "b", "completion": "c"}',
     '{"messages": []}'],
)
def test_an_unreadable_line_is_named(tmp_path, line):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n\n' + line + '\n{"text": "b"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: .*expected .*\{\"text\": "):
        read_rows(file)


def test_text_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes("Kowalski\nŁęcki\n".encode("latin2"))
    with pytest.raises(ValueError, match=r"names\.txt, line 2: .*expected UTF-8"):
        read_rows(file)


def test_an_empty_file_an_unknown_kind_and_a_missing_file(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(ValueError, match="no examples"):
        read_rows(empty)
    with pytest.raises(ValueError, match=r"neither \.txt"):
        read_rows(tmp_path / "rows.csv")
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        read_rows(tmp_path / "absent.txt")


# --- tokens and labels ---------------------------------------------------------------------------------------------


def test_all_of_a_text_is_learned_but_bos():
    assert encode_rows([{"text": "ab"}], TOKENIZER) == [{"input_ids": [1, 3, 4, 2], "labels": [-100, 3, 4, 2]}]


def test_only_the_completion_is_learned():
    (row,) = encode_rows([{"prompt": "ab", "completion": "c"}], TOKENIZER)
    assert row == {"input_ids": [1, 3, 4, 5, 2], "labels": [-100, -100, -100, 5, 2]}


class BareTokenizer:
    """Adds no bos of its own (as GPT-2's does not), and may lack special tokens."""

    def __init__(self, bos, eos):
        self.bos_token_id, self.eos_token_id = bos, eos

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) for letter in text]


def test_bos_stands_before_a_prompt_only_if_the_tokenizer_puts_it_there():
    rows = encode_rows([{"text": "a"}, {"prompt": "a", "completion": "b"}], BareTokenizer(1, 2))
    assert [row["input_ids"] for row in rows] == [[1, 97, 2], [97, 98, 2]]
    rows = encode_rows([{"text": "ab"}], BareTokenizer(None, None))
    assert rows == [{"input_ids": [97, 98], "labels": [97, 98]}]


def test_a_long_row_is_named_or_cut():
    rows = [{"text": "a"}, {"text": "abcdef", "source": "f.txt, line 9"}]
    with pytest.raises(ValueError, match=r"f\.txt, line 9: 8 tokens, where 5 fit"):
        encode_rows(rows, TOKENIZER, max_length=5)
    cut = encode_rows(rows, TOKENIZER, max_length=5, truncation=True)
    assert [row["input_ids"] for row in cut] == [[1, 3, 2], [1, 3, 4, 5, 6]]
    assert [row["labels"] for row in cut] == [[-100, 3, 2], [-100, 3, 4, 5, 6]]
    assert len(encode_rows(rows, TOKENIZER, max_length=8)) == 2


def test_rows_with_nothing_to_learn_are_named():
    with pytest.raises(ValueError, match="row 0: nothing to learn in its 3 tokens"):
        encode_rows([{"prompt": "abcd", "completion": "a"}], TOKENIZER, max_length=3, truncation=True)
    with pytest.raises(ValueError, match="row 0: nothing to learn in its 1 tokens"):
        encode_rows([{"text": "a"}], BareTokenizer(None, None))


def test_an_unknown_character_is_named_with_its_row():
    with pytest.raises(ValueError, match=r"f\.txt, line 2: .*'ł' \(U\+0142\)"):
        encode_rows([{"text": "ał", "source": "f.txt, line 2"}], TOKENIZER)


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="data set is empty"):
        encode_rows([], TOKENIZER)


# --- batches -------------------------------------------------------------------------------------------------------

ROWS = [{"input_ids": [1, 3, 2], "labels": [-100, 3, 2]}, {"input_ids": [1, 2], "labels": [-100, 2]}]


def test_collate_pads_to_the_longest():
    batch = collate(ROWS, pad_token_id=9)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[1, 3, 2], [1, 2, 9]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, 3, 2], [-100, 2, -100]],
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}


def test_each_epoch_has_every_row_once_in_another_order():
    rows = list(range(10))
    epochs = [[batch_rows(rows, 4, step, seed=5) for step in range(3 * epoch, 3 * epoch + 3)] for epoch in range(4)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [4, 4, 2]
        assert sorted(row for batch in epoch for row in batch) == rows
    assert len({str(epoch) for epoch in epochs}) == 4
    assert batch_rows(rows, 4, 7, seed=5) == epochs[2][1], "a function of the step number alone"
    assert batch_rows(rows, 4, 7, seed=6) != epochs[2][1]


def test_predictions_are_counted_after_the_shift():
    assert count_predictions([5, 6, -100, 7]) == 2
    assert count_predictions([[5, -100], [5, 6]]) == 1
    assert count_predictions([5]) == 0


def test_a_split_is_disjoint_whole_and_repeatable():
    rows = list(range(50))
    train, validation = train_validation_split(rows, 0.2, seed=1)
    assert (len(train), len(validation)) == (40, 10)
    assert sorted(train + validation) == rows
    assert train == sorted(train)
    assert (train, validation) == train_validation_split(rows, 0.2, seed=1)
    assert validation != train_validation_split(rows, 0.2, seed=2)[1]
    assert [len(part) for part in train_validation_split(rows, 0.001)] == [49, 1]
    assert [len(part) for part in train_validation_split([1, 2], 0.9)] == [1, 1]
    for rows, fraction in (([1], 0.5), ([1, 2], 0.0), ([1, 2], 1.0)):
        with pytest.raises(ValueError, match="cannot set"):
            train_validation_split(rows, fraction)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [1, 2], "labels": [1]}, r"rows\[1\] has 2 input_ids, 1 labels"),
        ({"input_ids": [], "labels": []}, r"rows\[1\] has 0 input_ids"),
        ({"input_ids": [1] * 13, "labels": [1] * 13}, r"rows\[1\] has 13 .*; expected as many, 1 to 12"),
        ({"input_ids": [1, 11], "labels": [1, 2]}, r"rows\[1\] has ids 1 to 11, the model 11 tokens: wrong tokenizer"),
        ({"input_ids": [1, -1], "labels": [1, 2]}, r"rows\[1\] has ids -1 to 2"),
        ({"input_ids": [1, 2], "labels": [-100, 11]}, r"rows\[1\] has ids 1 to 11"),
        ({"input_ids": [1, 2], "labels": [-100, -5]}, r"rows\[1\] has ids -5 to 2"),
    ],
)
def test_rows_that_do_not_fit_the_model_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        check_rows([{"input_ids": [1] * 12, "labels": [-100] * 11 + [10]}, row], small_model(), "rows")


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="train_rows is empty"):
        check_rows([], small_model(), "train_rows")


# --- real names ----------------------------------------------------------------------------------------------------


def test_names_are_folded_to_plain_letters():
    pairs = {"ŁĄCZYŃSKI": "Laczynski", "Weiß": "Weiss", "Ødegård": "Odegard", "Ægir": "Aegir", "Þórðar": "Thordar",
             "Yıldız": "Yildiz", "İnan": "Inan", "mcDonald": "Mcdonald", "Đurić": "Duric", "Šimek": "Simek", "Ng": "Ng",
             "O'Brien": None, "De Vries": None, "Kowalska-Nowak": None, "X": None, "A" * 21: None,
             "Иванов": None, "": None}
    assert {name: fold(name) for name in pairs} == pairs


def test_us_surnames_are_split_by_hash():
    split = us_surnames()
    assert 79_000 < len(split.train) < 82_000
    assert 3_800 < len(split.validation) < 4_400
    assert 3_800 < len(split.test) < 4_400
    assert "Smith" in split.train + split.validation + split.test


@pytest.mark.parametrize("country", COUNTRIES)
def test_surnames_are_new_plain_and_split_once(country):
    split, us = surnames(country), us_surnames()
    parts = [split.train, split.validation, split.test]
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names)) >= 300
    assert all(part == sorted(part) for part in parts)
    assert set(names).isdisjoint(us.train + us.validation + us.test)
    assert all(name.isascii() and name.isalpha() and name == name.capitalize() for name in names)
    assert {len(name) for name in names} <= set(range(2, 21))
    assert 0.74 < len(split.train) / len(names) < 0.86
    assert split == surnames(country)


def test_polish_leaves_enough_to_train_on():
    split = surnames("polish")
    assert len(split.train) >= 2_400
    assert min(len(split.validation), len(split.test)) >= 280
    assert [part[:2] for part in (split.train, split.validation, split.test)] == [
        ["Abramczuk", "Achtelik"], ["Adamaszek", "Andrzejuk"], ["Aleksa", "Armata"]]


def test_a_name_keeps_its_part_when_the_list_grows():
    small = tasks._split({"Nowak", "Kowalski", "Wolak"}, 0.8, 0.1)
    large = tasks._split({"Nowak", "Kowalski", "Wolak", *(f"Name{i}" for i in range(500))}, 0.8, 0.1)
    for part in ("train", "validation", "test"):
        assert set(getattr(small, part)) <= set(getattr(large, part))
    assert 30 < len(large.test) < 75


def test_unknown_countries_and_changed_lists_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="no surnames for 'klingon'; expected one of polish, slovak"):
        surnames("klingon")
    monkeypatch.setitem(COUNTRIES, "polish", (("pl_PL",), 5_000))
    with pytest.raises(ImportError, match="3048 polish surnames in Faker, where about 5000 .*pip install .* faker=="):
        surnames("polish")


def test_the_data_packages_are_imported_only_when_asked_for():
    code = "import sys, tinypeft.training; print({'faker', 'names', 'tqdm', 'matplotlib'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --- evaluation ----------------------------------------------------------------------------------------------------


class UnigramModel(Module):
    """Predicts from a fixed distribution over the vocabulary, whatever came before; counts its forward passes."""

    def __init__(self, probabilities):
        self.log_p, self.modes, self.sizes = np.log(probabilities), [], []

    def forward(self, input_ids, attention_mask, labels):
        from types import SimpleNamespace

        self.modes.append(self.training)
        self.sizes.append(input_ids.shape)
        kept = labels[:, 1:][labels[:, 1:] != -100]
        return SimpleNamespace(loss=Tensor(np.array(-self.log_p[kept].mean())))


def test_bits_per_character_by_hand():
    probabilities = np.array([0, 0, 1 / 4, 1 / 2, 1 / 8, 1 / 8, *[0] * 5]) + 1e-300
    model = UnigramModel(probabilities).train()
    # a: 1 bit, b: 3, c: 3, end: 2.  "a" 1+2, "abca" 1+3+3+1+2, over 2 + 5 characters
    assert bits_per_character(model, ["abca", "a"], TOKENIZER) == pytest.approx((3 + 10) / 7, rel=1e-12)
    assert model.modes == [False]
    assert model.training


def test_evaluation_does_not_depend_on_the_batches():
    model = small_model()
    rows = encode_rows([{"text": text} for text in ("abc", "h", "gfedcba", "ab", "hh", "cafe", "bad")], TOKENIZER)
    rows[2]["labels"][2:5] = [-100] * 3
    losses = [evaluate(model, rows, pad_token_id=0, batch_size=size) for size in (1, 2, 3, 100)]
    total = sum(model(**collate([row], 0)).loss.item() * count_predictions(row["labels"]) for row in rows)
    for loss in losses:
        assert_close(loss, total / sum(count_predictions(row["labels"]) for row in rows), 1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_mode_even_after_an_error(training):
    model = small_model()
    model.train(training)
    evaluate(model, ROWS, pad_token_id=0)
    assert {module.training for module in model.modules()} == {training}

    def fail(**batch):
        assert not model.training
        raise KeyboardInterrupt

    model.forward = fail
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, ROWS, pad_token_id=0)
    assert model.training == training


def test_evaluation_records_nothing():
    model = small_model()
    evaluate(model, ROWS, pad_token_id=0)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    seen = []
    forward = model.forward
    model.forward = lambda **batch: seen.append(forward(**batch)) or seen[-1]
    evaluate(model, ROWS, pad_token_id=0)
    assert not seen[0].loss.requires_grad


def test_evaluation_of_nothing_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="no token of these rows is predicted"):
        evaluate(model, [{"input_ids": [1, 3], "labels": [-100, -100]}], pad_token_id=0)
    with pytest.raises(ValueError, match="rows is empty"):
        evaluate(model, [], pad_token_id=0)
    with pytest.raises(ValueError, match="data set is empty"):
        bits_per_character(model, [], TOKENIZER)
    with pytest.raises(ValueError, match="bos and eos"):
        bits_per_character(model, ["a"], BareTokenizer(None, 2))


def test_a_model_without_knowledge_needs_the_logarithm_of_its_vocabulary():
    model = small_model(vocab_size=len(TOKENIZER))
    model.lm_head.weight.data[...] = 0
    assert bits_per_character(model, ["abc", "h"], TOKENIZER) == pytest.approx(math.log2(len(TOKENIZER)), rel=1e-12)


def test_every_name_fits_the_plain_alphabet():
    tokenizer = CharTokenizer(string.ascii_letters)
    rows = encode_rows([{"text": name} for name in surnames("polish").train], tokenizer, max_length=22)
    assert json.loads(json.dumps(rows)) == rows
