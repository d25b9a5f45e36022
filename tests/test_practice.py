"""Practice: every kind of question, drawn from 500 seeds, is well-posed, accepts its own answer and knows its mistakes.

Also: the counts are those of whole models, the proofs have exactly the orders that hold together, and what is recorded or
claimed of a method is what README says or the library does.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinypeft.autograd import Tensor
from tinypeft.budget import base_parameters, count_parameters, memory
from tinypeft.budget.choice import RULES, choose
from tinypeft.budget.methods import NF4
from tinypeft.budget.units import BYTES, parse_quantity
from tinypeft.claims.ask import full_text, worked_solution
from tinypeft.claims.practice import KINDS, TOPICS, draw, find_kinds
from tinypeft.claims.practice.flaws import FLAWS, Case
from tinypeft.claims.practice.kinds import numeric, spellings, with_clear_mistakes
from tinypeft.claims.practice.lora_updates import layer_with, written
from tinypeft.claims.practice.proof import PROOFS, right_orders
from tinypeft.claims.practice.properties import METHODS, first_change, merges, mixes
from tinypeft.claims.practice.quantized import codebooks_for, codes_changed, lost_and_said
from tinypeft.claims.practice.recorded import BASE_KEPT, BASE_TARGET, COMPARED, LEARNED_BY_DIMENSION
from tinypeft.claims.practice.scenarios import WORDS, _not_decisive, _preferred, _situation
from tinypeft.claims.practice.shapes import (
    ATTENTION,
    Shape,
    all_parameters,
    base_bytes,
    draw_gpt2,
    draw_llama,
    trained,
    trained_bytes,
    trained_on_matrix,
)
from tinypeft.claims.questions import Choice, Matching, Mistake, Numeric, Ordering
from tinypeft.peft import (
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)

ROOT = Path(__file__).parents[1]
FIRST, REST = range(10), range(10, 500)  # seeds that are tried at once, and the rest of 500, which take a minute
SIGNED = {"lora-forward", "lora-merged-weight", "linear-merge", "proof-run", "nf4-round"}  # answers that may be below zero
OUTLINE = tomllib.loads((ROOT / "lessons/outline.toml").read_text("utf-8"))["lessons"]
SECTIONS = {lesson["slug"] for lesson in OUTLINE} | {
    f"{lesson['slug']}/{section['id']}" for lesson in OUTLINE for section in lesson.get("sections", [])}


# ---- 500 seeds of every kind ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("seeds", [FIRST, pytest.param(REST, marks=pytest.mark.slow)], ids=["first", "rest"])
@pytest.mark.parametrize("name", KINDS)
def test_every_seed_gives_a_well_posed_question(name, seeds):
    texts = set()
    for seed in seeds:
        question = draw(name, seed)
        text = full_text(question)
        texts.add(text)
        assert (question.kind, question.topic) == (name, KINDS[name].topic)
        assert question.section in SECTIONS
        assert "  " not in question.prompt.replace("\n    ", "").replace("\n  - ", "") or name == "table"
        assert not re.search(r"\bnan\b|\binf\b|np\.|<function|Shape\(", text + worked_solution(question)), text
        CHECKS[type(question)](question)
        if seed % 50 == 0:
            assert draw(name, seed) == question  # equal seeds, equal questions
    assert len(texts) >= 0.9 * len(seeds)


def check_numeric(question):
    answer, unit = question.answer, question.unit
    assert math.isfinite(answer)
    assert answer > 0 or (question.kind in SIGNED and answer != 0)
    for text in typed(answer, unit, exact=question.tolerance < 0.005):
        feedback = question.check(text)
        assert feedback.right, (question.kind, text, answer)
        assert feedback.mistake is None
    assert question.check(question.solution).right
    assert len(question.mistakes) >= KINDS[question.kind].fewest_mistakes
    assert len({mistake.id for mistake in question.mistakes}) == len(question.mistakes)
    for mistake in question.mistakes:
        for text in spellings(mistake.value, unit, question.tolerance):
            feedback = question.check(text)
            assert (feedback.right, feedback.mistake, feedback.message) == (False, mistake.id, mistake.feedback)
        assert is_sentence(mistake.feedback), mistake.feedback
    assert len(question.steps) >= 2
    assert any(step.value for step in question.steps)
    for step in question.steps:
        check_arithmetic(step)


def check_arithmetic(step):
    """A formula of numbers only has the value that stands beside it."""
    if not re.fullmatch(r"[\d,.\s+\-x/()^]+", step.formula) or "rounded" in step.text or not re.match(r"-?\d", step.value):
        return
    found = eval(step.formula.replace(",", "").replace("x", "*").replace("^", "**"), {"__builtins__": {}})
    given = parse_quantity(step.value.split(",  ")[0].rstrip("."))
    assert given.value == pytest.approx(found, rel=0.005, abs=1e-9), step


def typed(value: float, unit: str, exact: bool) -> list[str]:
    """An answer as people type it, written without the library's own formatting."""
    if unit in BYTES:
        digits = f"{value / BYTES[unit]:.6g}"
        return [f"{digits} {unit}", f"{digits}{unit}", f"{value:.0f} bytes", f"{value / 2**30:.8g} GiB",
                f"{value / 1e6:,.6f} MB", *([] if exact else [f"{value / BYTES[unit]:.3g} {unit}"])]
    if unit == "%":
        percent = f"{100 * value:.6g}"
        return [percent, f"{percent}%", f"{percent} %", *([] if exact else [f"{100 * value:.3g} %"])]
    plain = f"{value:.10g}" if value == int(value) else f"{value:.8g}"
    found = [plain, f" {plain} "]
    if unit:
        return [*found, f"{plain}{unit}", f"{plain} {unit}"]
    if value == int(value) and abs(value) < 1e15:
        found += [f"{int(value):,}", f"{int(value)} parameters"]
    if abs(value) >= 1e4:
        found += [f"{value / 1e3:.6f}K", f"{value / 1e6:.9f} M"]
        found += [] if exact else [f"{value / 1e6:.3g}M", f"~{value / 1e6:.3g}M"]
    return found


def check_choice(question):
    assert len({option.text for option in question.options}) == len(question.options) >= 4
    assert question.check(question.right).right
    for letter, option in zip("ABCDEFGH", question.options, strict=False):
        feedback = question.check(letter.lower())
        assert feedback.message == option.why
        assert feedback.right is (letter == question.right)
        assert feedback.mistake == (option.mistake or None)
        assert is_sentence(option.why), option.why
    wrong = [option.why for option in question.options if option.mistake]
    if question.kind not in ("requantize", "proof-flaw"):  # where several options are wrong in the same way
        assert len(set(wrong)) == len(wrong)


def check_ordering(question):
    assert len(set(question.lines)) == len(question.lines)
    for order in question.orders[:10]:
        assert question.check(order).right
        assert question.check(", ".join(order)).right
    rng = np.random.default_rng(len(question.prompt))
    for _ in range(5):
        order = "".join(rng.permutation(list(question.orders[0])))
        feedback = question.check(order)
        assert feedback.right is (order in question.orders)
        assert feedback.right or feedback.mistake


def check_matching(question):
    assert len(question.right) == len(question.lines) < len(question.reasons)
    assert len(set(question.reasons)) == len(question.reasons)
    assert question.check(question.right).right
    assert question.check(" ".join(question.right.lower())).right
    letters = "ABCDEFGHIJ"[:len(question.reasons)]
    for place in range(len(question.lines)):
        for letter in letters.replace(question.right[place], ""):
            feedback = question.check(question.right[:place] + letter + question.right[place + 1:])
            assert not feedback.right
            assert feedback.mistake == question.ids[letters.index(letter)]
            assert feedback.message.startswith(f"Line {place + 1}: ")
            assert is_sentence(feedback.message), feedback.message


def is_sentence(text: str) -> bool:
    begins = text[0] == text[0].upper() or text.startswith("rsLoRA")
    return begins and text.endswith((".", ".”")) and ".." not in text and "  " not in text


CHECKS = {Numeric: check_numeric, Choice: check_choice, Ordering: check_ordering, Matching: check_matching}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_typical_mistake_is_told_apart_for_some_seeds(name):
    offered, kept = set(), set()
    for seed in range(150):
        question = KINDS[name].make(np.random.default_rng(seed))
        if isinstance(question, Numeric):
            offered |= {mistake.id for mistake in question.mistakes}
            kept |= {mistake.id for mistake in with_clear_mistakes(question).mistakes}
    assert offered == kept


# ---- drawing --------------------------------------------------------------------------------------------------------

def test_there_are_kinds_for_every_method_and_all_topics():
    assert len(KINDS) >= 30
    assert {kind.topic for kind in KINDS.values()} == TOPICS.keys()
    assert {"lora", "rslora", "dora", "adalora", "vera", "ulora", "ia3", "bottleneck", "prefix", "prompt", "bitfit", "norms",
            "subspace", "quantization", "qlora", "lora+"} <= TOPICS.keys()
    assert {kind.level for kind in KINDS.values()} == {1, 2, 3}


def test_kinds_are_listed_by_topic_and_then_by_level():
    found = find_kinds()
    order = list(TOPICS)
    assert len(found) == len(KINDS)
    assert found == sorted(found, key=lambda kind: (order.index(kind.topic), kind.level))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: draw("lora-matrx", 0), "unknown kind of question 'lora-matrx'; near: lora-matrix"),
    (lambda: draw("lora-matrix", -1), "seed -1: expected 0 or more"),
    (lambda: find_kinds("lroa"), "unknown topic 'lroa'; near: lora"),
    (lambda: find_kinds("xyz"), "unknown topic 'xyz'; there are: lora, proof"),
    (lambda: find_kinds(None, ["kv-cash"]), "unknown kind of question 'kv-cash'; near: kv-cache"),
    (lambda: find_kinds("memory", ["kv-cache"]), "none of the kinds kv-cache belongs to the topic 'memory'"),
])
def test_what_is_unknown_is_answered_with_what_is_near(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_topic_is_found_in_any_case_and_by_a_kind():
    assert [kind.name for kind in find_kinds("DoRA")] == ["dora-extra"]
    assert [kind.name for kind in find_kinds("kv-cache")] == ["prefix-cache", "kv-cache"]
    assert [kind.name for kind in find_kinds("nf4-bits")] == ["nf4-bits"]


@given(st.floats(1e3, 1e12), st.lists(st.floats(1e3, 1e12), max_size=8), st.sampled_from(["", "%", "GB", "x"]),
       st.sampled_from([0.0005, 0.005, 0.01]))
def test_mistakes_that_could_be_taken_for_others_are_left_out(answer, values, unit, tolerance):
    all_values = [*values, answer, 1.001 * answer, (1 + 3 * tolerance) * answer, 2 * answer, math.inf, math.nan, 0.0]
    mistakes = [Mistake(f"m{i}", value, "No.") for i, value in enumerate(all_values)] + [Mistake("m0", answer / 3, "No.")]
    question = with_clear_mistakes(numeric("?", answer, [], mistakes, unit=unit, tolerance=tolerance))
    assert question.check(question.solution).right
    assert len({mistake.id for mistake in question.mistakes}) == len(question.mistakes)
    for mistake in question.mistakes:
        assert abs(mistake.value - answer) > 4 * tolerance * answer
        assert [question.check(text).mistake for text in spellings(mistake.value, unit, tolerance)] == [mistake.id] * (
            1 if tolerance < 0.005 else 2)


# ---- counts ---------------------------------------------------------------------------------------------------------

LLAMA_2_7B = Shape(4096, 32, 32, 32, 11008, 32000)
LLAMA_3_8B = Shape(4096, 32, 32, 8, 14336, 128256)


def test_counts_of_the_documents_and_of_their_errata():
    assert sum(trained_on_matrix(LoraConfig(r=16), 1024, 4096).values()) == 81_920  # 003, problem 1
    assert sum(trained_on_matrix(LoraConfig(r=16), 4096, 4096).values()) == 131_072  # 001, question 1
    assert trained(LLAMA_2_7B, LoraConfig(r=8, target_modules=list(ATTENTION))) == 8_388_608  # 003, example 1
    assert trained(LLAMA_3_8B, LoraConfig(r=16, target_modules=list(ATTENTION))) == 13_631_488  # not 6,815,744, as 001 prints
    assert trained(Shape(4096, 40, 32, 32, 11008), PrefixTuningConfig(num_virtual_tokens=20)) == 6_553_600  # 003, problem 5
    assert trained(LLAMA_3_8B, PrefixTuningConfig(num_virtual_tokens=20)) == 1_310_720  # not 2 p d L
    assert all_parameters(LLAMA_2_7B) == base_parameters("llama-2-7b") == 6_738_415_616
    assert all_parameters(LLAMA_3_8B) + 13_631_488 == count_parameters(
        "llama-3-8b", LoraConfig(r=16, target_modules=list(ATTENTION))).total
    assert base_bytes(Shape(8192, 80, 64, 8, 28672, 32000), NF4) == pytest.approx(36.36e9, rel=1e-3)  # not 35 GB


METHODS_COUNTED = (
    LoraConfig(r=4, target_modules="all-linear"), LoraConfig(r=4, use_dora=True, target_modules=["k_proj", "down_proj"]),
    VeraConfig(r=16), ULoraConfig(r=4), ULoraConfig(r=4, vector="input"), IA3Config(), BottleneckConfig(reduction_factor=8),
    BottleneckConfig(style="pfeiffer", reduction_factor=8), PrefixTuningConfig(num_virtual_tokens=7), LNTuningConfig(),
    PromptTuningConfig(num_virtual_tokens=7))


@pytest.mark.parametrize("method", METHODS_COUNTED, ids=lambda method: f"{method.peft_type}")
@pytest.mark.parametrize("layers", [1, 2, 7])
def test_what_two_blocks_say_is_what_the_whole_model_has(method, layers):
    shape = Shape(128, layers, 4, 2, 352, 96)
    assert trained(shape, method) == get_peft_model(shape.build(), method).get_nb_trainable_parameters()[0]
    assert all_parameters(shape) == sum(parameter.size for parameter in shape.build().parameters())


@pytest.mark.parametrize("method", [BitFitConfig(), LNTuningConfig()], ids=lambda method: method.peft_type)
def test_the_same_for_a_gpt2(method):
    shape = Shape(128, 5, 2, 2, 384, 96, "gpt2")
    assert trained(shape, method) == get_peft_model(shape.build(), method).get_nb_trainable_parameters()[0]
    assert all_parameters(shape) == sum(parameter.size for parameter in shape.build().parameters())


@pytest.mark.parametrize("quantization", [None, NF4], ids=["16 bits", "NF4"])
def test_bytes_are_those_of_the_memory_of_a_step(quantization):
    shape, method = Shape(128, 5, 4, 2, 352, 96), LoraConfig(r=4, target_modules="all-linear")
    whole, found = memory(shape.build(), method, quantization=quantization, tokens=1), trained_bytes(shape, method)
    assert base_bytes(shape, quantization) == whole.parts["base weights"]
    assert found["weights"] == found["gradients"] == whole.parts["adapter weights"]
    assert found["optimizer states"] == whole.parts["optimizer states"]
    assert sum(trained_bytes(shape, method, "bfloat16").values()) == 12 * trained(shape, method)


def test_full_fine_tuning_keeps_twelve_bytes_a_parameter_beside_its_master_copy():
    shape = Shape(128, 5, 4, 2, 352, 96)
    whole, found = memory(shape.build(), tokens=1), trained_bytes(shape)
    assert sum(found.values()) == 12 * all_parameters(shape)
    assert found["optimizer states"] == whole.parts["optimizer states"]
    assert found["weights"] == whole.parts["base weights"]
    assert whole.parts["master weights"] == 4 * all_parameters(shape)


def test_parts_that_memory_finds_in_one_layer_are_what_the_question_says():
    """The kept inputs of all layers, and the largest matrix in 16 bits."""
    for seed in range(10):
        question = draw("activations", seed)
        layers, d, rows, tokens = (int(text.replace(",", "")) for text in re.search(
            r"of (\d+) layers and hidden size d = ([\d,]+).* has (\d+) rows? of ([\d,]+) tokens", question.prompt).groups())
        assert question.answer == 2 * layers * d * rows * tokens
        question = draw("dequantized", seed)
        d, inner = (int(re.search(rf"{name} ([\d,]+)", question.prompt)[1].replace(",", "")) for name in ("d =", "width"))
        assert question.answer == 2 * d * inner


@given(st.integers(0, 10**6))
def test_drawn_shapes_can_be_built(seed):
    for make in (draw_llama, draw_gpt2):
        shape = make(np.random.default_rng(seed))
        assert shape.heads % shape.kv_heads == 0
        assert shape.width % shape.heads == 0
        assert f"{shape.width:,}" in shape.words()
        assert f"{shape.vocab:,}" in shape.words(vocab=True)


def test_a_rank_that_fits_does_and_one_more_does_not():
    for seed in range(20):
        question = draw("rank-that-fits", seed)
        card, used = (float(text) for text in re.search(r"card of (\d+) GB.* take ([\d.]+) GB", question.prompt).groups())
        each = int(re.search(r"([\d,]+) parameters for each", question.prompt)[1].replace(",", ""))
        assert question.answer * 16 * each <= (card - used) * 1e9 * (1 + 1e-9) < (question.answer + 1) * 16 * each * (1 + 1e-9)


# ---- LoRA by hand ---------------------------------------------------------------------------------------------------

def test_the_documents_forward_pass_has_rank_one():
    layer = layer_with(np.array([[1, 2], [3, 4]]), {"default": (np.array([[0.1, 0.2]]), np.array([[0.3], [0.4]]), 1)})
    assert layer.lora_scaling["default"] == 1  # one row in A: r = 1, not 2 as 003 has it
    np.testing.assert_allclose(layer(Tensor(np.ones((1, 2)))).data[0], [3.09, 7.12])


def test_matrices_are_written_as_they_are_typed():
    assert written(np.array([1.5, -2])) == "[1.5, -2]"
    assert written(np.array([[0.1, 0.25]])) == "[[0.1, 0.25]]"


def test_alpha_acts_squared_under_sgd_and_once_under_adam():
    for seed in range(20):
        question = draw("alpha-step", seed)
        small, large = (int(text) for text in re.findall(r"with alpha = (\d+)", question.prompt))
        power = 2 if "SGD" in question.prompt else 1
        assert question.answer == pytest.approx((large / small) ** power, rel=1e-3)


# ---- the proof ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_a_proof_has_exactly_the_orders_in_which_every_line_comes_after_what_it_needs(proof):
    ids = [line.id for line in proof.lines]
    holds = [order for order in permutations(range(len(ids)))
             if all(order.index(ids.index(need)) < order.index(i) for i, line in enumerate(proof.lines) for need in line.after)]
    assert sorted(holds) == sorted(right_orders(proof))
    assert right_orders(proof)[0] == tuple(range(len(ids)))
    assert len({line.reason for line in proof.lines}) == len(ids)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_a_proof_ends_with_its_conclusion_which_builds_upon_everything(proof):
    needed = {line.id: set(line.after) for line in proof.lines}
    for line in proof.lines:
        needed[line.id] |= {far for near in line.after for far in needed[near]}
    assert needed["end"] == needed.keys() - {"end"}


def test_a_wrong_order_is_told_what_builds_upon_what():
    question = draw("proof-order", 0)
    feedback = question.check(question.orders[0][::-1])
    assert not feedback.right
    assert "builds upon" in feedback.message
    assert re.fullmatch(r"[a-z-]+-before-[a-z-]+", feedback.mistake)


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.name)
def test_no_line_uses_letters_before_they_are_introduced(proof):
    opening = [proof.lines[order[0]] for order in right_orders(proof)]
    assert {line.id for line in opening} == {proof.lines[0].id}  # which says what A, B, x or r are


def test_the_flaws_are_flaws():
    """What each flawed line claims is false of a drawn layer, and what the other lines say is true where it can be tried."""
    case = Case(24, 40, 3, 12)
    tried = {flaw.name: flaw.tried(case).value for flaw in FLAWS}
    assert float(tried["small-is-zero"]) > 0  # not W x
    assert tried["both-zero"] == "0 and 0"  # nothing moves
    gradients = [float(value) for value in tried["b-has-no-gradient"].split(" and ")]
    assert gradients[0] == 0 < gradients[1]
    assert float(tried["merge-unscaled"]) > 0
    assert tried["sum-of-ranks"] == "3, 3 and 6"
    assert tried["alpha-does-nothing"] == "4x"
    assert float(tried["never-forgets"]) > 0
    assert "no product" in tried["swapped"]
    assert all(0 < flaw.flaw + 1 <= len(flaw.lines) for flaw in FLAWS)


def test_a_drawn_case_of_the_proof_gives_w_x():
    seen = 0
    for seed in range(40):
        question = draw("proof-run", seed)
        if "What is the" in question.prompt:
            W = np.array(json.loads(re.search(r"W = (\[\[.*?\]\])", question.prompt)[1]))
            x = np.array(json.loads(re.search(r"x = (\[[^\[]*?\])", question.prompt)[1]))
            assert question.answer == (W @ x)[0 if "the first number" in question.prompt else 1]
            seen += 1
    assert seen > 10


# ---- methods, tried -------------------------------------------------------------------------------------------------

def test_what_mixes_merges_and_starts_at_the_base():
    assert {method for method in METHODS if mixes(method)} == {"prefix tuning", "prompt tuning", "BitFit", "PiSSA"}
    adapters = {"Houlsby adapters", "Pfeiffer adapters", "parallel adapters"}
    assert {method for method in METHODS if merges(method)} == {"prefix tuning", "prompt tuning", *adapters}
    assert {method for method in METHODS if first_change(method) > 1e-9} == {
        "prefix tuning", "prompt tuning", "Houlsby adapters", "Pfeiffer adapters"}  # the last two: nearly the base's


def test_the_recorded_table_is_the_one_in_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    names = {"Houlsby adapters": "Houlsby", "Pfeiffer adapters": "Pfeiffer"}
    for row in COMPARED:
        cells = [cell.strip() for cell in re.search(rf"\| \d+ \| {re.escape(names.get(row.method, row.method))} \|(.*)\|",
                                                    readme)[1].split("|")]
        mean = [f"{mean:.3f} ({least:.3f}–{most:.3f})" for mean, least, most in (row.target, row.kept)]
        assert cells[:4] == [f"{row.trained:,}", *mean, f"{row.kilobytes:,}"]
        assert row.merges is (cells[-1] in ("yes", ""))  # the cell of full fine-tuning is empty: there is nothing to merge
    assert f"| untouched base |  | {BASE_TARGET} | {BASE_KEPT} |" in readme
    for d, share in LEARNED_BY_DIMENSION.items():
        assert re.search(rf"{d:,}\b.{{0,45}} {100 * share:.3g}(\.0)?%", readme.replace("\n", " ")), d


def test_codebooks_can_be_put_in_order_from_what_the_question_gives():
    """Reckoned again from the text alone: numbers and values as they are printed."""
    for seed in range(60):
        question = draw("codebook", seed)
        numbers = [float(n) for n in re.search(r"A block holds ([-\d., ]+) \(", question.prompt)[1].split(", ")]
        scores = {}
        for place, line in enumerate(question.lines, 1):
            values = [float(value) for value in line.split(", ")]
            nearest = [min(values, key=lambda value: abs(value - n)) for n in numbers]
            shares = [count / len(numbers) for count in Counter(nearest).values()]
            error = sum((n - value) ** 2 for n, value in zip(numbers, nearest, strict=True))
            scores[str(place)] = error if "squared errors" in question.prompt else sum(p * math.log2(p) for p in shares)
        assert question.orders == ("".join(sorted(scores, key=scores.get)),), seed


def test_the_codebook_of_least_error_loses_least_and_that_of_equal_use_says_most():
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = np.sort(rng.uniform(-1, 1, 8)).round(2)
        found = {name: lost_and_said(x, values) for name, values in codebooks_for(x).items()}
        assert found["least error"][0] <= min(error for error, _, _ in found.values()) + 1e-4  # its values are rounded
        assert found["equal use"][1] <= 2


def test_a_larger_update_changes_more_codes():
    shares = [codes_changed(size, False)[0] for size in (0.005, 0.02, 0.05, 0.1, 0.3)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[2] == pytest.approx(0.023, abs=0.005)  # the audit's figure for 5%


# ---- the planner decides --------------------------------------------------------------------------------------------

def test_the_planner_decides_and_its_reason_is_the_only_one():
    rng = np.random.default_rng(0)
    rules, methods, seen = set(), set(), set()
    for _ in range(200):
        situation, decided, names = _situation(rng)
        assert decided.method in names
        assert set(decided.against) == set(names) - {decided.method}
        rules.add(decided.rule)
        methods.add(decided.method)
        fit = situation.plan.fit(decided.method)
        for rule in RULES:  # nothing rules out what is taken
            assert not rule.says(fit, situation.needs, situation.plan)
        wrong = _not_decisive(situation, decided)
        assert decided.rule not in wrong
        assert wrong.keys() <= WORDS.keys()
        assert choose(situation.plan, situation.needs) == decided
        first = _preferred(situation)[0].name
        if fit := situation.plan.fit(first):  # nothing else rules out what would come first
            assert not {rule.name for rule in RULES if rule.says(fit, situation.needs, situation.plan)} & wrong.keys()
        elif first == "full" and situation.needs.keep_base:
            seen.add("two reasons at once")
            assert "keep-base" not in wrong
    assert seen
    assert {"lora", "qlora", "ia3", "full"} <= methods
    assert {"fit", "latency", "storage", "keep-base", "little-data", "much-data"} <= rules


@pytest.mark.parametrize("name", ["choose-method", "deciding-reason"])
def test_a_decision_shows_the_numbers_that_it_may_hang_on(name):
    for seed in range(12):
        question = draw(name, seed)
        solution = worked_solution(question, told=True)
        if "of storage for what is learned" in question.prompt:
            assert "storage for" in solution
        if "examples to train with" in question.prompt:
            assert "few: under" in solution
        assert "\n  so " in solution


@pytest.mark.parametrize("name", ["mergeable", "first-output"])
def test_what_was_tried_is_shown_when_right_too(name):
    question = draw(name, 0)
    assert len(question.steps) == len(question.options)
    assert worked_solution(question, told=True)
