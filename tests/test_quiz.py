"""The quiz: that every question is well-formed and right, and that its options alone do not tell the answer."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tinypeft import viz
from tinypeft.budget.units import parse_quantity
from tinypeft.claims.quiz import FAMILIES, OBJECTIVES, QuizChoice, all_questions, draw, find_families, low_rank, mechanisms
from tinypeft.claims.quiz.family import Family, Table, asked, unlike

ROOT = Path(__file__).parents[1]
METHODS = {"lora", "rslora", "lora+", "pissa", "dora", "adalora", "vera", "ulora", "ia3", "houlsby", "prefix", "prompt",
           "bitfit", "norms", "subspace", "qlora", "full fine-tuning", "weighted merging"}

every = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))  # computed when they are first tested


def key_of(question: QuizChoice) -> int:
    return next(i for i, option in enumerate(question.options) if not option.mistake)


def by_kind(kind: str) -> QuizChoice:
    return next(question for question in FAMILIES[kind.partition(".")[0]].questions if question.kind == kind)


def answer(kind: str) -> str:
    question = by_kind(kind)
    return question.options[key_of(question)].text


def chances() -> list[float]:
    """Of guessing each question."""
    return [1 / len(question.options) for question in all_questions()]


# ---- each question --------------------------------------------------------------------------------------------------


@every
def test_a_question_is_well_formed(family):
    for question in family.questions:
        options = question.options
        assert len(options) in (3, 4)
        assert sum(not option.mistake for option in options) == 1
        assert len({option.text for option in options}) == len(options)
        assert len({option.mistake for option in options}) == len(options)
        assert all(re.fullmatch(r"[A-Za-z0-9-]*", option.mistake) for option in options)
        whys = [option.why for option in options]
        assert len(set(whys)) == len(whys)
        assert all(len(why) > 20 and why.rstrip(")")[-1] == "." for why in whys)
        assert question.prompt.rstrip()[-1] in "?.)"
        assert question.steps[0].formula
        assert not re.search(r"\{|\}|None|\b(nan|inf)\b", question.prompt.replace('{"v_proj": 64}', "") + "".join(whys))


@every
def test_answers_are_judged_with_their_own_explanations(family):
    for question in family.questions:
        for letter, option in zip("ABCD", question.options, strict=False):
            feedback = question.check(letter)
            assert feedback.right == (not option.mistake)
            assert feedback.message == option.why
            assert feedback.mistake == (option.mistake or None)


@every
def test_a_question_points_to_a_lesson(family):
    for question in family.questions:
        outline = tomllib.loads((ROOT / "lessons" / "outline.toml").read_text("utf-8"))["lessons"]
        slug, _, section = question.section.partition("/")
        lesson = next(lesson for lesson in outline if lesson["slug"] == slug)
        assert not section or section in {one["id"] for one in lesson["sections"]}


def test_no_two_questions_ask_the_same():
    shown = [(question.prompt, question.draw and question.draw().alt, *sorted(option.text for option in question.options))
             for question in all_questions()]
    assert len(set(shown)) == len(shown)
    assert len({question.kind for question in all_questions()}) == len(all_questions()) >= 44
    assert sum(question.draw is not None for question in all_questions()) >= 6


def test_all_objectives_and_methods_are_asked_about():
    assert {question.objective for question in all_questions()} == set(OBJECTIVES)
    assert {method for question in all_questions() for method in question.methods} == METHODS
    assert min(Counter(question.objective for question in all_questions()).values()) >= 8


def test_wrong_tables_are_refused():
    def make(options, prompts):
        return Family("f", 1, "t", (), (), "04_lora", "", lambda: Table(hint="h", options=options, prompts=prompts))

    right = [asked("a", "p", "w", b="m: said"), asked("b", "p", "w", a="n: said")]
    questions = make({"a": "1", "b": "2"}, right).questions
    assert [question.solution for question in questions] == ["A) 1", "B) 2"]
    assert questions[0].options[1].mistake == "m"
    with pytest.raises(ValueError, match="each must be right once"):
        _ = make({"a": "1", "b": "2"}, [right[0], right[0]]).questions
    with pytest.raises(ValueError, match="options must differ"):
        _ = make({"a": "1", "b": "1"}, right).questions
    with pytest.raises(ValueError, match="for b, an explanation is missing"):
        _ = make({"a": "1", "b": "2"}, [right[0], asked("b", "p", "w")]).questions
    with pytest.raises(ValueError, match="too near to each other"):
        unlike({"a": 100.0, "b": 101.0})


# ---- figures --------------------------------------------------------------------------------------------------------

def figures(family: Family) -> list[tuple[QuizChoice, viz.Picture]]:
    return [(question, question.draw()) for question in family.questions if question.draw]


@every
def test_a_figure_is_described_and_does_not_say_the_answer(family):
    for question, picture in figures(family):
        said = [text.get_text() for axes in picture.figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
        assert len(picture.alt) > 80
        named = [option.text for option in question.options if option.text in picture.alt + " ".join(said)]
        assert len(named) in (0, len(question.options))  # as labels of all, or not at all


def test_a_figure_is_a_picture():
    assert by_kind("spectrum.half").draw().png()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("name", "queries", "keys", "first"), [("lora", 6, 6, 1), ("prefix", 6, 9, 4), ("prompt", 9, 9, 1)])
def test_attention_is_drawn_as_it_is(name, queries, keys, first):
    picture = by_kind(f"attention.{name}").draw()
    weights = picture.figure.axes[0].images[0].get_array()
    assert weights.shape == (queries, keys)
    assert np.allclose(weights.sum(axis=1), 1)
    assert [int((row > 0).sum()) for row in weights] == [first + i for i in range(queries)]
    assert f"{queries} queries, {keys} keys. The first query attends to {first} of the keys" in picture.alt


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"expected \(queries, keys\), got shape \(3,\)"):
        viz.plot_attention(np.ones(3), "title")
    with pytest.raises(ValueError, match="2 dimensions and 1 values"):
        viz.plot_by_dimension([1, 2], [1.0], "loss", "title", {})


# ---- options alone --------------------------------------------------------------------------------------------------

HEDGES = {"about", "may", "can", "usually", "often", "mostly", "some", "nearly", "up", "least", "most", "roughly", "only"}
TECHNICAL = {"gradient", "gradients", "rank", "bits", "base", "adapter", "activations", "checkpointing", "logits",
             "loss", "states", "optimizer", "cache", "weights", "layer", "positions", "virtual", "tokens", "quantile",
             "products"}
EXTREME = {"always", "never", "all", "none", "every", "only", "impossible", "any"}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z-]+|\d[\d,.]*", text.lower())


def number(text: str) -> float:
    found = re.search(r"\d[\d,]*(\.\d+)?(e-?\d+)?", text)
    scale = 1e-3 if "MB" in text else 1.0
    return float(found[0].replace(",", "")) * scale if found else math.nan


def overlap(texts: list[str]) -> list[float]:
    """How many of an option's words others have too."""
    said = [set(words(text)) for text in texts]
    return [sum(len(own & other) for other in said if other is not own) / max(len(own), 1) for own in said]


def middle(texts: list[str]) -> list[float]:
    """Numbers: how near the middle of the four."""
    numbers = [number(text) for text in texts]
    if any(map(math.isnan, numbers)):
        return [0.0] * len(texts)
    ranks = np.argsort(np.argsort(numbers))
    return [-abs(rank - (len(texts) - 1) / 2) for rank in ranks]


HEURISTICS = {
    "longest": lambda texts: [len(text) for text in texts],
    "shortest": lambda texts: [-len(text) for text in texts],
    "most words": lambda texts: [len(words(text)) for text in texts],
    "most digits": lambda texts: [sum(letter.isdigit() for letter in text) for text in texts],
    "fewest digits": lambda texts: [-sum(letter.isdigit() for letter in text) for text in texts],
    "largest number": lambda texts: [number(text) for text in texts],
    "smallest number": lambda texts: [-number(text) for text in texts],
    "middle number": middle,
    "roundest number": lambda texts: [len(text) - len(text.rstrip("0")) for text in texts],
    "most hedges": lambda texts: [sum(word in HEDGES for word in words(text)) for text in texts],
    "fewest hedges": lambda texts: [-sum(word in HEDGES for word in words(text)) for text in texts],
    "most technical": lambda texts: [sum(word in TECHNICAL for word in words(text)) for text in texts],
    "least technical": lambda texts: [-sum(word in TECHNICAL for word in words(text)) for text in texts],
    "like the others": overlap,
    "unlike the others": lambda texts: [-value for value in overlap(texts)],
    "least extreme": lambda texts: [-sum(word in EXTREME for word in words(text)) for text in texts],
    "most punctuation": lambda texts: [sum(not letter.isalnum() for letter in text) for text in texts],
    "first in the alphabet": lambda texts: [-order for order in np.argsort(np.argsort(texts))],
}


def hits(scores: list[float], key: int) -> float:
    """The chance of picking the key among the options of the highest score."""
    values = np.nan_to_num(np.asarray(scores, float))
    best = np.flatnonzero(values == values.max())
    return float(key in best) / len(best)


def beyond_chance(rates: list[float], chances: list[float]) -> float:
    """Standard deviations from what guessing gives."""
    return (sum(rates) - sum(chances)) / math.sqrt(sum(chance * (1 - chance) for chance in chances))


@pytest.mark.parametrize("name", HEURISTICS)
def test_options_alone_do_not_tell(name):
    rates = [hits(HEURISTICS[name]([option.text for option in question.options]), key_of(question))
             for question in all_questions()]
    assert abs(beyond_chance(rates, chances())) < 2.6, name


def test_the_checks_of_wording_can_fail():
    told = [["a long and careful right answer", "no", "yes", "maybe"]] * 40
    rates = [hits(HEURISTICS["longest"](texts), 0) for texts in told]
    assert beyond_chance(rates, [0.25] * 40) > 2.6


def test_each_option_of_a_family_is_right_once():
    """So that whoever knows which of its texts sounds right is right once in four, whatever sounds right."""
    for family in FAMILIES.values():
        texts = {frozenset(option.text for option in question.options) for question in family.questions}
        assert len(texts) == 1
        assert sorted(answer(question.kind) for question in family.questions) == sorted(next(iter(texts)))


def test_words_of_the_prompt_do_not_tell():
    """An option that repeats words of the prompt is not more often the right one."""
    def echoed(question: QuizChoice) -> list[float]:
        said = set(words(question.prompt))
        return [len(said & set(words(option.text))) / len(words(option.text)) for option in question.options]

    rates = [hits(echoed(question), key_of(question)) for question in all_questions()]
    assert abs(beyond_chance(rates, chances())) < 2.6


@every
def test_options_have_one_form(family):
    for question in family.questions:
        texts = [option.text for option in question.options]
        numeric = re.compile(r"(r = |about )?\d[\d.,e-]*( ?(GB|MB|%|bits|x))?")
        assert len({bool(numeric.fullmatch(text)) for text in texts}) == 1
        assert max(map(len, texts)) <= 1.8 * min(map(len, texts)) or all(len(text) <= 16 for text in texts)
        assert not any(set(words(text)) & {"always", "never", "impossible"} or "of the above" in text for text in texts)


def test_letters_of_the_right_answers_are_spread():
    letters = Counter(question.shuffle(seed).right for question in all_questions() for seed in range(10))
    n = sum(letters.values())
    for letter in "ABC":
        assert abs(letters[letter] - n / 4) < 3 * math.sqrt(n * 3 / 16) + 30 * 0.09  # a few questions have three options


# ---- drawing --------------------------------------------------------------------------------------------------------


@every
def test_shuffling_keeps_the_options(family):
    for question in family.questions:
        again, other = question.shuffle(1), question.shuffle(2)
        assert question.shuffle(1) == again
        assert sorted(option.text for option in again.options) == sorted(option.text for option in other.options)
        assert again.options[key_of(again)].text == question.options[key_of(question)].text


def test_equal_seeds_draw_equal_questions():
    one, again, other = (list(draw(count=12, seed=seed)) for seed in (5, 5, 6))
    assert one == again
    assert [question.kind for question in one] != [question.kind for question in other]
    orders = {tuple(option.text for option in question.shuffle(seed).options) for question in one[:1] for seed in range(20)}
    assert len(orders) > 5


def test_objectives_and_families_take_turns():
    for seed in range(5):
        drawn = list(draw(count=len(FAMILIES), seed=seed))
        assert len({question.family for question in drawn}) == len(FAMILIES)
        assert {question.objective for question in drawn[:5]} == set(OBJECTIVES)
    assert len(list(draw(count=1000, seed=0))) == len(all_questions())
    assert len({question.kind for question in draw(count=1000, seed=0)}) == len(all_questions())


@pytest.mark.parametrize(("topic", "holds"), [
    ("3", lambda question: question.objective == 3),
    ("pissa", lambda question: question.methods == ("pissa",)),
    ("Prompt", lambda question: "prompt" in question.methods),
    ("planning", lambda question: question.topic == "planning"),
    ("qlora", lambda question: question.topic == "qlora" or "qlora" in question.methods),
    ("bits", lambda question: question.family == "bits"),
])
def test_a_topic_is_kept_to(topic, holds):
    drawn = list(draw(topic, count=1000))
    assert drawn
    assert all(holds(question) for question in drawn)


@pytest.mark.parametrize("topic", sorted({name for f in FAMILIES.values() for name in (f.name, f.topic, *f.methods, *f.also)}))
def test_every_topic_has_questions(topic):
    assert list(draw(topic, count=3))


def test_unknown_topics_and_counts_are_refused():
    with pytest.raises(ValueError, match=r"no question is on 'qlroa'; near: qlora"):
        find_families("qlroa")
    with pytest.raises(ValueError, match="count=0: expected at least 1"):
        draw(count=0)


# ---- are the answers right? -----------------------------------------------------------------------------------------

LLAMA_7B, LLAMA_70B = 6_738_415_616, 68_976_648_192
PER_RANK_13B = {"few": 40 * 4 * 2 * 5120, "all": 40 * (4 * 2 * 5120 + 3 * (5120 + 13824))}
LINEAR_70B = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
# By hand: from the papers' formulas and from what libraries store, without this one.
BY_HAND = {
    "gradients.A": "The gradient of A is zero, that of B is not",
    "gradients.none": "The gradients of A and of B both differ from zero",
    "scaling.q": f"{32 / 16:g}", "scaling.v": f"{32 / 64:g}", "scaling.rs_q": f"{32 / 4:g}", "scaling.rs_v": f"{32 / 8:g}",
    "first-update.adam_cut": "1x", "first-update.adam": "3x", "first-update.sgd": "9x",
    "first-update.sgd_raised": "27x",
    "first-output.lora": "0",
    "shapes.k": "(8, 4096) and (1024, 8)", "shapes.down": "(8, 14336) and (4096, 8)",
    "degrees.stored": str(3 * (12 + 10)), "degrees.set": str(3 * (12 + 10 - 3)), "degrees.span": str(12 * 10),
    "degrees.B_only": str(3 * 12),
    "ranks.both": "24", "ranks.svd": "16", "ranks.linear": "8", "ranks.dora": "96",
    **{f"spectrum.{name}": f"r = {math.ceil(math.log(lost) / math.log(0.8))}"
       for name, lost in (("half", 0.5), ("squares", 0.1**0.5), ("tenth", 0.1), ("hundredth", 0.01))},
    "intrinsic.d90": f"{3.633 - 0.9 * (3.633 - 2.719):.3f} bits", "intrinsic.near": f"{1.1 * 2.719:.3f} bits",
    "coordinates.trained": "1,024", "coordinates.directions": f"{415_232 * 1024:,}", "coordinates.lora": "55,296",
    "bits.plain": f"{4 + 32 / 64:.2f}", "bits.double": f"{4 + 8 / 64 + 32 / (64 * 256):.2f}",
    "bits.wide": f"{4 + 32 / 128:.2f}", "bits.wide_double": f"{4 + 8 / 128 + 32 / (128 * 256):.2f}",
    "codebooks.quantile_means": "quantile means", "codebooks.Lloyd_Max": "Lloyd-Max", "codebooks.int4": "int4",
    "expanded.matrix": f"{28672 * 8192 * 2 / 1e6:.2f} MB", "expanded.copy": f"{LLAMA_70B * 2 / 1e9:.2f} GB",
    "expanded.layer": f"{(LINEAR_70B / 80 + 2 * 8192) * 2 / 1e9:.2f} GB",
    "base-memory.codes": f"{LINEAR_70B / 2 / 1e9:.2f} GB", "base-memory.double": "36.36 GB",
    "base-memory.plain": f"{(LINEAR_70B * 4.5 / 8 + (LLAMA_70B - LINEAR_70B) * 2) / 1e9:.2f} GB",
    "full-memory.adam_master": f"{LLAMA_7B * 16 / 1e9:.1f} GB", "full-memory.adam": f"{LLAMA_7B * 12 / 1e9:.1f} GB",
    "full-memory.sgd": f"{LLAMA_7B * 4 / 1e9:.1f} GB",
    "variants.lora": f"{16 * 5120:,}", "variants.dora": f"{16 * 5120 + 1024:,}", "variants.adalora": f"{16 * 5120 + 16:,}",
    "variants.vera": f"{16 + 1024:,}",
    "virtual-tokens.prompt": f"{20 * 4096:,}", "virtual-tokens.prefix": f"{2 * 20 * 4096 * 32:,}",
    "virtual-tokens.grouped": f"{2 * 20 * 8 * 128 * 32:,}", "virtual-tokens.layer": f"{2 * 20 * 4096:,}",
    "biases.llama_2_7b": "0 %", "biases.qwen2_7b": f"{100 * 129_024 / 7_615_616_512:.2g} %",
    "biases.gpt2": f"{100 * 102_144 / 124_439_808:.2g} %",
    "times.same": "1", "times.double": "2", "times.half": "0.5", "times.dora": f"{1 + 1 / 32:.3g}",
    "task-vectors.first_rank": f"{8 * (96 + 48) + 8:,}", "task-vectors.next_input": "96",
    "passes.inference": "about 1", "passes.lora": "about 2", "passes.full": "about 3", "passes.full_again": "about 4",
    **{f"ranks-that-fit.{place}_{bits}": f"r = {int((24e9 - 2e9 - 7.1985e9) / (size * PER_RANK_13B[place])):,}"
       for place, (bits, size) in itertools.product(PER_RANK_13B, (("16", 12), ("32", 16)))},
    "storage.apart": f"{(LLAMA_7B * 2 + 20 * 8_388_608 * 2) / 1e9:.2f} GB", "storage.merged": f"{LLAMA_7B * 40 / 1e9:.2f} GB",
    "learning-rates.A": "0.0002", "learning-rates.B": "0.0032", "learning-rates.embedding": "1e-06",
    "learning-rates.inverse": "1.25e-05",
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_right_answer_is_right(kind):
    assert answer(kind) == BY_HAND[kind]


def test_measured_answers_are_of_the_right_size():
    lost = {name: float(answer(f"requantized.{name}").removeprefix("about ").rstrip("%"))
            for name in ("float", "int8", "large", "nf4")}
    assert lost["float"] == 0
    assert 20 < lost["large"] < 45  # NF4's own error, 9.2% of normal weights' norm, over 30%
    step, rounding = (float(re.search(pattern, by_kind("requantized.int8").prompt)[1]) for pattern in (
        r"a step is ([\d.]+)%", r"off by ([\d.]+)% of"))
    assert lost["int8"] == pytest.approx(100 * step / 12**0.5 / 1.5, abs=5)  # so it can be reckoned from the prompt
    assert lost["large"] == pytest.approx(100 * rounding / 30, abs=4)
    assert lost["nf4"] > 90  # a change of 1.5% is far below half a step of NF4
    shift = {name: float(answer(f"first-output.{name}")) for name in ("lora", "pissa", "houlsby", "prefix")}
    assert shift["lora"] == 0 < shift["pissa"] < 1e-5 < shift["houlsby"] < 0.05 < shift["prefix"]


def test_recorded_numbers_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = {cells[2]: cells for line in readme.splitlines() if line.startswith("| ") and len(cells := line.split("|")) > 9}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert {name: float(rows[name][5].split()[0]) for name in mechanisms.US_BITS} == mechanisms.US_BITS
    assert float(rows["untouched base"][4].split()[0]) == low_rank.BASE_BITS
    assert float(rows["full fine-tuning"][4].split()[0]) == low_rank.FULL_BITS
    for dimension, share in low_rank.GAINS.items():
        assert re.search(rf"{dimension:,}( dimensions brings|[^%]*?) {100 * share:.3g}(\.0)?%", readme.replace("\n", " "))


@pytest.mark.parametrize(("kind", "card"), [("cards.small", 24.0), ("cards.sixteen", 24.0), ("cards.full", 80.0)])
def test_the_number_of_cards_follows_from_what_is_said(kind, card):
    question = by_kind(kind)
    count, why = int(answer(kind)), question.options[key_of(question)].why
    shared, own, fewer, each = (parse_quantity(re.search(pattern, why)[1]).value / 1e9 for pattern in (
        r"([\d.]+ .B) can be spread", r"([\d.]+ .B) is each card's own",
        r"would have to hold ([\d.]+ .B)", r"holds ([\d.]+ .B)"))
    assert each <= card < fewer
    assert shared / count + own == pytest.approx(each, rel=0.005)
    assert shared / (count - 1) + own == pytest.approx(fewer, rel=0.005)
    assert f"of {count} each" in why
