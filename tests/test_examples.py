"""The worked examples: each parts from its document at the step that is listed here, and its values are those of independent
arithmetic."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from conftest import GOLDEN
from hypothesis import given, strategies as st

import tinypeft.budget.weights
import tinypeft.peft.lora
from tinypeft.budget import memory
from tinypeft.claims.claim import SOURCES
from tinypeft.claims.examples import EXAMPLES, Mark, known_example
from tinypeft.claims.examples.chapter import cost
from tinypeft.claims.examples.engine import Steps, product, shaped, show
from tinypeft.claims.settings import LINEAR, NF4, lora
from tinypeft.nn import LlamaConfig
from tinypeft.peft import BitFitConfig

A, R, P, F, G, U, X = (Mark.AGREES, Mark.ROUNDED, Mark.PARTS, Mark.FOLLOWS, Mark.AGAIN, Mark.UNSTATED, Mark.OPEN)

MARKS = {
    "lora-1000": [A, A, A, A, A],
    "prompt-768": [A, P, F, F, U],
    "prefix-12": [A, U, U, U],
    "adapter-1024": [A, U, R, U, U, U],
    "bitfit-7b": [R, P, G, G, R],
    "medical": [R, P, F, G, X],
    "legal": [U, P, U, U, U, U],
    "multilingual": [R, R, R, U, X],
    "qlora-70b": [P, U, U, G, G, F],
    "qlora-load": [R, U, U, U, P, U, A],
    "printed-parameters": [U, U, U, P, G, F],
    "lora-count": [A, A, A, A, A, R, R],
    "qlora-budget": [P, R, G, F, F, A, G, F, U, G, A, U, U],
    "lora-forward": [A, A, A, P, F, F, G],
}


@pytest.fixture(scope="module")
def examples():
    return {name: work() for name, work in EXAMPLES.items()}


# ---- all of them ----------------------------------------------------------------------------------------------------

def test_these_are_all():
    assert set(EXAMPLES) == set(MARKS)


@pytest.mark.parametrize("name", MARKS)
def test_they_part_where_they_should(examples, name):
    found = examples[name]
    assert [step.mark for step in found.steps] == MARKS[name]
    assert found.steps.parting == (MARKS[name].index(P) + 1 if P in MARKS[name] else None)
    assert found.to_dict()["parts_at"] == found.steps.parting


@pytest.mark.parametrize("name", MARKS)
def test_every_parting_has_its_reason_and_what_follows_is_shown(examples, name):
    for step in examples[name].steps:
        assert bool(step.why) == (step.mark in (P, G, X)), step.text
        assert step.follows or step.mark is not F, step.text
        assert bool(step.stated) == (step.mark is not U), step.text
        assert bool(step.ours) == (step.mark is not X), step.text
        for text in (step.why, step.note, examples[name].conclusion):
            assert "{" not in text
            assert not re.search(r"nan|inf\b", text)


OF_ARRAYS = {  # the steps that count or multiply arrays; the others go on with their numbers
    "lora-1000": [1, 2, 3], "prompt-768": [1, 2, 3], "prefix-12": [1, 3, 4], "adapter-1024": [1, 2], "bitfit-7b": [],
    "medical": [2], "legal": [2, 3, 4, 5, 6], "multilingual": [1, 2], "qlora-70b": [5], "qlora-load": [],
    "printed-parameters": [1, 2], "lora-count": [1, 2], "qlora-budget": [7], "lora-forward": [1, 2, 3, 4, 6, 7]}


@pytest.mark.parametrize("name", MARKS)
def test_arrays_have_shapes(examples, name):
    for number in OF_ARRAYS[name]:
        formula = examples[name].steps[number - 1].formula
        assert re.search(r"\(\d+,[\d, ]*\)", formula), formula


@pytest.mark.parametrize("name", MARKS)
def test_they_name_their_document_and_its_claims(examples, name):
    found = examples[name]
    assert found.source in SOURCES
    assert found.claims
    assert all(id.startswith(f"{found.source}-") for id in found.claims)
    assert found.where.startswith(SOURCES[found.source][0][:3])
    assert found.problem.endswith("?")


def test_every_claim_of_an_example_is_in_one(examples):
    """And where they part, the audit has found something too."""
    audit = json.loads((GOLDEN / "claims_audit.json").read_text())
    named = {id for found in examples.values() for id in found.claims}
    assert named <= set(audit)
    theirs = re.compile(r"d-ex[123]-|a-ex[123]-|a-lora-1000-|a-prompt-(15360|7b)|a-prefix-184320|a-adapter-(131072|3m)|"
                        r"a-bitfit-7m|a-qlora-(70b|20m)|b-(print-|4bit-5gb|16gb|8b-24gb)")
    assert {id for id in audit if theirs.match(id)} <= named
    for found in examples.values():
        if found.steps.parting is not None:
            assert {audit[id]["verdict"] for id in found.claims} - {"confirmed", "confirmed-rounded"}, found.name


def test_unknown_names_get_near_ones():
    with pytest.raises(ValueError, match="unknown example 'lora-fwd'; near: lora-forward.*There are: lora-1000, prompt-768"):
        known_example("lora-fwd")


# ---- values, by arithmetic of their own -----------------------------------------------------------------------------

LLAMA_7B = 6_738_415_616
GPT2 = 124_439_808


def values(examples, name):
    return [None, *(step.value for step in examples[name].steps)]  # from 1, as the steps are numbered


def test_the_forward_pass(examples):
    W0, a, b, x = np.array([[1, 2], [3, 4]]), np.array([[0.1, 0.2]]), np.array([[0.3], [0.4]]), np.array([1, 1])
    got, y, halved = values(examples, "lora-forward"), W0 @ x + b @ a @ x, W0 @ x + 0.5 * (b @ a @ x)
    assert got[1] == [3, 7]
    assert got[3] == pytest.approx(b @ a @ x, abs=1e-15)
    assert (got[4], got[5]) == (1, 1)
    assert got[6] == pytest.approx(y, abs=1e-14)
    assert got[6] == pytest.approx([3.09, 7.12], abs=1e-14)
    assert got[7] == pytest.approx(math.hypot(0.09, 0.12) / math.hypot(3, 7), rel=1e-12)
    steps = examples["lora-forward"].steps
    assert steps[5].follows == "[3.045, 7.06]" == show(halved.tolist())
    assert steps[6].follows == f"{100 * math.hypot(0.045, 0.06) / math.hypot(3, 7):.4g} %"
    assert steps[3].formula.endswith("A (1, 2), B (2, 1)")
    assert "A (2, 2), B (2, 2), 8 numbers beside the 4" in steps[3].why
    assert "the rank is 1, the scale 1 and the output [3.09, 7.12]" in examples["lora-forward"].conclusion


def test_counts_of_lora(examples):
    assert values(examples, "lora-1000")[1:] == [10**6, 8000, 8000, 16000, 0.016]
    each = 2 * 8 * 4096
    assert values(examples, "lora-count")[3:] == [each, 4 * 32, 4 * 32 * each, LLAMA_7B, 4 * 32 * each / LLAMA_7B]
    q, k = 16 * (4096 + 4096), 16 * (4096 + 1024)
    trained = 32 * 2 * (q + k)
    total = 8_030_261_248 + trained
    assert values(examples, "printed-parameters")[1:] == [q, k, 2 * (q + k), trained, total, 100 * trained / total]
    assert examples["printed-parameters"].conclusion.endswith(
        f"trainable params: {trained:,} || all params: {total:,} || trainable%: 0.1695")
    least = 32 * 16 * (4096 + 4096)
    assert values(examples, "medical")[2:4] == [least, least / LLAMA_7B]
    linear = 32 * 16 * (4 * 8192 + 3 * (4096 + 11008))
    assert f"are {4 * least:,}, and all linear layers {linear:,}" in examples["medical"].steps[1].why
    assert values(examples, "medical")[4] == pytest.approx(1.5, abs=0.002)


def test_counts_of_the_others(examples):
    assert values(examples, "prompt-768")[1:] == [20 * 768, 4096, 20 * 4096, 20 * 4096 / LLAMA_7B, 20 * 768 / GPT2]
    assert values(examples, "prefix-12")[1:] == [12 * 2 * 10 * 768, 184320 / GPT2, 32 * 2 * 10 * 4096, 32 * 2 * 10 * 8 * 128]
    one, d = 2 * 1024 * 64, 1024
    gpt2 = 12 * (12 * d * d + 13 * d) + (50257 + 1024) * d + 2 * d
    assert values(examples, "adapter-1024")[1:] == [one, one + 64 + d, 24 * one, 24 * (one + 64 + d),
                                                    24 * (one + 64 + d) / gpt2, 48 * one]
    opt = 32 * (4 * 4096 + 2 * 4096 + 16384 + 4096) + 4096
    small = 12 * (3 * 768 + 768 + 4 * 768 + 768 + 2 * 768) + 768
    got = values(examples, "bitfit-7b")
    assert got[2] == 0
    assert f"{opt:,}" in examples["bitfit-7b"].conclusion
    assert got[3] == pytest.approx(opt / 6_658_473_984, rel=1e-12)
    assert got[4] == pytest.approx(28 * (3584 + 2 * 512) / 7_615_616_512, rel=1e-12)
    assert got[5] == small / GPT2
    layers_and_widths = [(28, 4 * 128), (12, 768), (24, 1024), (32, 8 * 128), (32, 4096)]
    assert values(examples, "legal")[1:] == [15000, *(2 * 50 * layers * width for layers, width in layers_and_widths)]
    weights = 64 * 2 * 4 * 4096
    assert values(examples, "multilingual")[1:5] == [weights, 5 * 4096, (weights + 5 * 4096) / LLAMA_7B, weights / LLAMA_7B]


def nf4_bytes(linear, others):
    """Codes, constants under double quantization (matrix sizes that divide evenly; 4 bytes each for their mean), the rest."""
    blocks = sum(count * size // 64 for count, size in linear)
    groups = sum(count * math.ceil(size / 64 / 256) for count, size in linear)
    matrices = sum(count for count, _ in linear)
    return sum(count * size for count, size in linear) // 2, blocks + 4 * groups + 4 * matrices, 2 * others


def test_weights_in_four_bits(examples):
    d, ff, layers, vocabulary = 4096, 14336, 32, 128256
    linear = [(2 * layers, d * d), (2 * layers, d * 1024), (3 * layers, d * ff)]
    codes, constants, kept = nf4_bytes(linear, 2 * vocabulary * d + (2 * layers + 1) * d)
    got = values(examples, "qlora-load")
    assert got[1:6] == [2 * 8_030_261_248, codes, constants, kept, codes + constants + kept]
    assert got[6] == codes + constants + 2 * kept

    d, ff, layers = 8192, 28672, 80
    linear = [(2 * layers, d * d), (2 * layers, d * 1024), (3 * layers, d * ff)]
    codes, constants, kept = nf4_bytes(linear, 2 * 32000 * d + (2 * layers + 1) * d)
    got, attention = values(examples, "qlora-70b"), 80 * 16 * (2 * (8192 + 8192) + 2 * (8192 + 1024))
    assert got[1:3] == [codes, codes + constants + kept]
    assert 1.05 * got[2] < got[3] < 1.25 * got[2]
    assert got[3] == memory("llama-2-70b", lora(16), quantization=NF4, adapter_dtype="bfloat16").total
    assert 24e9 < got[3] < 2 * 24e9
    assert got[4:] == [2, attention, attention / 68_976_648_192]
    assert f"{80 * 16 * 2 * 8192:,}" in examples["qlora-70b"].steps[4].why


def test_the_budget(examples):
    d, ff, layers, vocabulary = 5120, 13824, 40, 32000
    codes, constants, kept = nf4_bytes([(4 * layers, d * d), (3 * layers, d * ff)], 2 * vocabulary * d + (2 * layers + 1) * d)
    base, each = codes + constants + kept, 2 * d * 4 * layers  # each: parameters for one rank
    got = values(examples, "qlora-budget")
    assert got[1] == base
    assert got[2] == 10 * 16 * each  # 2 bytes of a weight, 8 of Adam: no gradient is there yet when the most is needed
    tokens = got[3]
    assert layers * 2048 * d * 2 < tokens < 3 * layers * 2048 * d * 2  # the inputs of the blocks, and something beside them
    assert got[4:7] == [base + 10 * 16 * each + tokens, 24e9 - got[4], True]
    assert got[7:10] == [256 * each, 2 * 256 * each, 10 * 256 * each]
    assert got[10:12] == [pytest.approx(base + 10 * 256 * each + tokens, rel=1e-3), True]
    assert cost(got[12]).total <= 24e9 < cost(got[12] + 1).total
    assert 0.8 < got[12] / ((24e9 - base) / (12 * each)) < 1  # when the gradients are there, some activations are too
    assert cost(got[13], LINEAR).total <= 24e9 < cost(got[13] + 1, LINEAR).total
    assert examples["qlora-budget"].steps[6].follows == "268,435,456"


# ---- a broken library breaks them -----------------------------------------------------------------------------------

def _without_scale(monkeypatch):
    monkeypatch.setattr(tinypeft.peft.lora, "rank_and_scaling", lambda config, path: (config.r, 1.0))


def _unscaled_update(monkeypatch):
    monkeypatch.setattr(tinypeft.peft.lora.LoraLayer, "update",
                        lambda self, name, dropped, x, base: self.lora_B[name](self.lora_A[name](dropped)))


def _full_heads(monkeypatch):
    before = LlamaConfig.__post_init__

    def post_init(self):
        self.num_key_value_heads = self.num_attention_heads
        before(self)

    monkeypatch.setattr(LlamaConfig, "__post_init__", post_init)


def _norms_too(monkeypatch):
    init = BitFitConfig.__init__
    monkeypatch.setattr(init, "__defaults__", (*init.__defaults__[:-1], True))  # of train_norms


def _constants_forgotten(monkeypatch):
    monkeypatch.setattr(tinypeft.budget.weights, "parameter_bytes",
                        lambda p, itemsize: (p.size + 1) // 2 if hasattr(p, "matrix_shape") else p.size * itemsize)


@pytest.mark.parametrize(("breaks", "name"), [
    (_without_scale, "lora-forward"), (_unscaled_update, "lora-forward"), (_full_heads, "printed-parameters"),
    (_full_heads, "prefix-12"), (_norms_too, "bitfit-7b"), (_constants_forgotten, "qlora-load")])
def test_a_broken_library_shows(examples, monkeypatch, breaks, name):
    breaks(monkeypatch)
    broken = EXAMPLES[name]()
    assert [(step.mark, step.ours) for step in broken.steps] != [(step.mark, step.ours) for step in examples[name].steps]


# ---- the engine -----------------------------------------------------------------------------------------------------

def test_marks():
    steps = Steps()
    steps.add("equal", "", 5, stated="5", why="unused")
    steps.add("rounded", "", 8_388_608, stated="8.4M")
    steps.add("silent", "", 7)
    steps.add("wrong", "", 8, stated="7", why="because")
    steps.add("its consequence", "", 16, stated="14", follows=14)
    steps.add("wrong again", "", 16, stated="14", follows=14, why="another reason")
    steps.add("no consequence", "", 16, stated="14", follows=15)
    steps.add("no data", "", None, stated="96%", why="no data")
    steps.add("about", "", 104, stated="about 100", about=0.05)
    assert [step.mark for step in steps] == [A, R, U, P, F, G, G, X, R]
    assert steps.parting == 4
    assert [step.why for step in steps] == ["", "", "", "because", "", "another reason", "", "no data", ""]
    assert [step.to_dict()["agrees"] for step in steps] == [True, True, None, False, False, False, False, None, True]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_the_first_difference_is_where_they_part(drawn):
    steps = Steps()
    for ours, stated, follows in drawn:
        steps.add("", "", ours, stated=str(stated), follows=follows)
    wrong = [number for number, (ours, stated, _) in enumerate(drawn, 1) if ours != stated]
    assert steps.parting == (wrong[0] if wrong else None)
    assert [n for n, step in enumerate(steps, 1) if step.mark in (P, F, G)] == wrong
    inherited = [number for number in wrong[1:] if drawn[number - 1][1] == drawn[number - 1][2]]
    assert [n for n, step in enumerate(steps, 1) if step.mark is F] == inherited


def test_shapes_and_values_as_text():
    assert product("A x", np.zeros((3, 5)), np.zeros(5), np.zeros(3)) == "A x: (3, 5) @ (5,) -> (3,)"
    assert shaped(W=np.zeros((2, 3)), b=np.zeros(2)) == "W (2, 3), b (2,)"
    assert [show(False), show([1.0, 2.5]), show([[1], [3]]), show(7.2e9, "GB")] == ["no", "[1, 2.5]", "[[1], [3]]", "7.20 GB"]
