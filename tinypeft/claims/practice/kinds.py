"""What a kind of practice question is, and how one is drawn: fresh numbers for each seed, the answer asked of the library.

    question = draw("lora-matrix", seed=7)

A kind is a function of a random generator. What it returns is looked through before anyone sees it: mistakes whose numbers
could be taken for the answer, or for one another, are left out, and a question that is left with too few is drawn again.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from tinypeft.budget.units import BYTES, format_value
from tinypeft.claims.questions import Choice, Mistake, Numeric, Option, Question, Step, shuffled
from tinypeft.nn.module import near

T = TypeVar("T")
ATTEMPTS = 100
LEVELS = {1: "one step", 2: "several steps", 3: "several ideas"}


@dataclass(frozen=True)
class Kind:
    """A generator of questions.

    Attributes:
        name: such as "lora-matrix".
        topic: a method or a subject; several kinds share one.
        title: what it practises, in a few words.
        level: 1, 2 or 3, see LEVELS.
        make: random generator -> question.
        fewest_mistakes: recognized mistakes that a numeric question keeps at least.
    """

    name: str
    topic: str
    title: str
    level: int
    make: Callable[[np.random.Generator], Question]
    fewest_mistakes: int


KINDS: dict[str, Kind] = {}

# In the order in which they are learned.
TOPICS = {
    "lora": "LoRA", "proof": "the proof that LoRA starts at the base", "rslora": "rsLoRA", "lora+": "LoRA+", "dora": "DoRA",
    "adalora": "AdaLoRA", "vera": "VeRA", "ulora": "ULoRA", "ia3": "(IA)3", "bottleneck": "bottleneck adapters",
    "prefix": "prefix tuning", "prompt": "prompt tuning", "bitfit": "BitFit", "norms": "norm tuning",
    "subspace": "random subspaces", "quantization": "weights in four bits", "qlora": "QLoRA", "memory": "memory of training",
    "kv-cache": "the key-value cache", "merging": "merging", "tasks": "many tasks", "planning": "choosing a method"}


def kind(name: str, topic: str, title: str, level: int = 1, fewest_mistakes: int = 2
         ) -> Callable[[Callable[[np.random.Generator], Question]], Callable[[np.random.Generator], Question]]:
    """Enter a function in the table of KINDS."""
    def enter(make: Callable[[np.random.Generator], Question]) -> Callable[[np.random.Generator], Question]:
        assert name not in KINDS, name
        assert topic in TOPICS, topic
        KINDS[name] = Kind(name, topic, title, level, make, fewest_mistakes)
        return make

    return enter


def draw(name: str, seed: int) -> Question:
    """A question of a kind. Equal seeds give equal questions.

    Raises:
        ValueError: an unknown kind, or a seed below 0.

    >>> question = draw("lora-matrix", seed=1)
    >>> question.check(question.solution).right
    True
    """
    if name not in KINDS:
        raise ValueError(_unknown("kind of question", name, KINDS))
    if seed < 0:
        raise ValueError(f"seed {seed}: expected 0 or more")
    chosen = KINDS[name]
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), attempt])
        question = replace(chosen.make(rng), kind=name, topic=chosen.topic)
        if not isinstance(question, Numeric):
            return question
        question = with_clear_mistakes(question)
        if question.answer and len(question.mistakes) >= chosen.fewest_mistakes:  # a tolerance around 0 is none
            return question
    raise AssertionError(f"{name}: no well-posed question in {ATTEMPTS} draws")


def find_kinds(topic: str | None = None, names: Sequence[str] = ()) -> list[Kind]:
    """The kinds of a topic, or of these names; all if neither is given.

    Raises:
        ValueError: an unknown topic or name; near ones are listed.

    >>> [kind.name for kind in find_kinds("proof")]
    ['proof-order', 'proof-reasons', 'proof-run', 'proof-flaw']
    """
    for name in names:
        if name not in KINDS:
            raise ValueError(_unknown("kind of question", name, KINDS))
    order = {topic: place for place, topic in enumerate(TOPICS)}
    every = sorted(KINDS.values(), key=lambda kind: (order[kind.topic], kind.level))
    found = [KINDS[name] for name in names] or every
    key = (topic or "").strip().lower()
    if key and key not in TOPICS and key not in KINDS:
        raise ValueError(_unknown("topic", str(topic), TOPICS))
    chosen = [kind for kind in found if key in ("", kind.topic, kind.name)]
    if not chosen:
        raise ValueError(f"none of the kinds {', '.join(names)} belongs to the topic {topic!r}")
    return chosen


def _unknown(what: str, name: str, known: Any) -> str:
    hint = near(name.lower(), known)
    return (f"unknown {what} {name!r}; " + (f"near: {', '.join(hint)}" if hint else f"there are: {', '.join(known)}")
            + ". `tinypeft practice --list` shows all")


# ---- parts of questions ---------------------------------------------------------------------------------------------

def numeric(prompt: str, answer: float, steps: Sequence[Step], mistakes: Sequence[Mistake], *, unit: str = "",
            tolerance: float = 0.005, section: str = "") -> Numeric:
    """A question for a number; `draw` fills in kind and topic. The usual slips with a unit are added to the mistakes."""
    slips = []
    if unit in BYTES and unit[-1:] == "B" and BYTES[unit] > 1:
        binary = unit[0].upper() + "iB"
        slips.append(Mistake("gib", answer * BYTES[unit] / BYTES[binary],
                             f"That is the number of {binary}, powers of 1,024. One {unit} is {BYTES[unit]:,} bytes."))
        slips.append(Mistake("bits", answer * 8, "That is 8 times too much: a byte has 8 bits."))
    if unit == "%":
        slips.append(Mistake("fraction", answer / 100, "That is the fraction; as a percentage it is 100 times as much."))
    return Numeric(kind="", topic="", prompt=prompt, answer=float(answer), unit=unit, tolerance=tolerance, steps=tuple(steps),
                   mistakes=(*mistakes, *slips), section=section)


def choice(prompt: str, options: Sequence[Option], rng: np.random.Generator, *, steps: Sequence[Step] = (),
           section: str = "", shuffle: bool = True) -> Choice:
    """A question with options, shuffled unless they have an order of their own."""
    shown = shuffled(options, rng) if shuffle else tuple(options)
    return Choice(kind="", topic="", prompt=prompt, options=shown, steps=tuple(steps), section=section)


def capital(text: str) -> str:
    """With a capital first letter, but for names with capitals of their own.

    >>> capital("prefix tuning"), capital("rsLoRA")
    ('Prefix tuning', 'rsLoRA')
    """
    return text if text.split()[0] != text.split()[0].lower() else text[0].upper() + text[1:]


def slug(text: str) -> str:
    """A name as part of an id.

    >>> slug("(IA)3"), slug("LoRA+"), slug("Houlsby adapters")
    ('ia-3', 'lora-plus', 'houlsby-adapters')
    """
    return re.sub("[^a-z0-9]+", "-", text.lower().replace("+", " plus")).strip("-")


def unit_of(size: float) -> str:
    """The unit in which a number of bytes is not too small to be rounded.

    >>> unit_of(3e9), unit_of(1.5e9), unit_of(5e5)
    ('GB', 'MB', 'kB')
    """
    return next((unit for unit in ("GB", "MB") if size >= 2 * BYTES[unit]), "kB")


def in_words(unit: str) -> str:
    """A unit, and what it is.

    >>> in_words("GB")
    'GB (10^9 bytes)'
    """
    return f"{unit} (10^{len(str(BYTES[unit])) - 1} bytes)"


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of several, as it is (not as a NumPy scalar)."""
    return options[int(rng.integers(len(options)))]


def some(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """So many different ones, in a drawn order."""
    return [options[int(i)] for i in rng.permutation(len(options))[:count]]


def with_clear_mistakes(question: Numeric) -> Numeric:
    """The question without the mistakes that could be taken for the answer or for one another.

    A mistake stays if its number is recognized as that mistake in all its spellings.
    """
    kept: list[Mistake] = []
    for mistake in question.mistakes:
        rivals = [question.answer, *(other.value for other in kept)]
        if not math.isfinite(mistake.value) or mistake.value == 0 or mistake.id in [other.id for other in kept] or any(
                abs(mistake.value - rival) <= 4 * question.tolerance * abs(rival) for rival in rivals):
            continue
        trial = replace(question, mistakes=(*kept, mistake))
        if all(trial.check(text).mistake == mistake.id for text in spellings(mistake.value, question.unit, question.tolerance)):
            kept.append(mistake)
    return replace(question, mistakes=tuple(kept))


def spellings(value: float, unit: str, tolerance: float) -> list[str]:
    """A value as someone may type it: in full, and where the tolerance allows it, rounded to three digits.

    >>> spellings(81920, "", 0.005), spellings(0.0078125, "%", 0.005), spellings(36.357e9, "GB", 0.001)
    (['81,920', '81900'], ['0.7812 %', '0.781 %'], ['36.36 GB'])
    """
    if tolerance < 0.005:
        return [format_value(value, unit)]
    scale = BYTES.get(unit, 0.01 if unit == "%" else 1)
    rounded = float(f"{value / scale:.3g}")
    text = f"{rounded:.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"
    return [format_value(value, unit), f"{text} {unit}".strip()]
