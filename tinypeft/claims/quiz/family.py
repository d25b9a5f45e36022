"""Families: questions that share their options, each of which is the right answer to one of them.

Whoever reads only options must not be able to tell the right one. Length, precision or tone cannot give it away where the same
four texts answer four prompts, and each is right once; what is wrong with an option depends on what was asked, and so each
prompt explains it anew. A family is a function that computes such a table:

    hint        what all of its questions turn on
    options     key -> text
    prompts     one for each key, with what to say about each of the options
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinypeft.claims.questions import Choice, Option, Step, shuffled
from tinypeft.nn import generator

OBJECTIVES = {
    1: "Derive the LoRA update, and what holds at initialization",
    2: "Why few dimensions are enough: intrinsic dimension and low rank",
    3: "Compute the memory of QLoRA and of full fine-tuning",
    4: "Compare methods by parameters, memory and overhead",
    5: "Design a configuration for a model, a card and a set of tasks",
}  # those of the source document whose quiz this one replaces


@dataclass(frozen=True, kw_only=True)
class QuizChoice(Choice):
    """A question of the quiz.

    Attributes:
        objective: the learning objective it belongs to, a key of OBJECTIVES.
        family: the name of the questions that share its options.
        methods: the methods it is about.
    """

    objective: int
    family: str
    methods: tuple[str, ...]

    def shuffle(self, seed: int) -> QuizChoice:
        """The same with its options in an order that follows from the seed."""
        return replace(self, options=shuffled(self.options, generator(seed, "quiz", self.kind)))


# ---- the table ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Asked:
    """One prompt of a family.

    Attributes:
        key: the option that answers it.
        prompt: what is asked.
        why: why that is right, with the numbers.
        wrong: each other option -> the misconception that leads to it, and what is wrong with it here.
        steps: the computation, for the worked solution; after the family's hint.
        draw: draws a figure.
        methods: instead of the family's.
    """

    key: str
    prompt: str
    why: str
    wrong: Mapping[str, tuple[str, str]]
    steps: Sequence[Step] = ()
    draw: Callable[[], Any] | None = field(default=None, compare=False)
    methods: tuple[str, ...] = ()


def asked(key: str, prompt: str, why: str, /, *, steps: Sequence[Step] = (), draw: Callable[[], Any] | None = None,
          methods: tuple[str, ...] = (), **wrong: str) -> Asked:
    """A prompt as the tables write it; `wrong` is option = "misconception: what is wrong with it here"."""
    def split(text: str) -> tuple[str, str]:
        mistake, _, said = text.partition(": ")
        return mistake, said

    return Asked(key, prompt, why, {option: split(text) for option, text in wrong.items()}, steps, draw, methods)


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a family computes; see the top of this file."""

    hint: str
    options: Mapping[str, str]
    prompts: Sequence[Asked]


# ---- families -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Family:
    """A table, computed when it is first needed, and what is known of it before.

    Attributes:
        methods: of the questions that do not name others.
        also: methods that only some of them are about.
        about: in a sentence.
    """

    name: str
    objective: int
    topic: str
    methods: tuple[str, ...]
    also: tuple[str, ...]
    section: str
    about: str
    table: Callable[[], Table]

    @functools.cached_property
    def questions(self) -> tuple[QuizChoice, ...]:
        """One for each prompt.

        Raises:
            ValueError: options that are not distinct, not each right once, or not all explained.
        """
        table = self.table()
        options, right = table.options, [one.key for one in table.prompts]
        if len(set(options.values())) < len(options) or sorted(right) != sorted(options):
            raise ValueError(f"{self.name}: options must differ, and each must be right once; they are {dict(options)}, and "
                             f"right are {right}")
        if bad := [one.key for one in table.prompts if one.wrong.keys() != options.keys() - {one.key}]:
            raise ValueError(f"{self.name}: for {', '.join(bad)}, an explanation is missing, or is of no option")
        return tuple(self._question(one, table) for one in table.prompts)

    def _question(self, one: Asked, table: Table) -> QuizChoice:
        given = {key: ("", one.why) if key == one.key else one.wrong[key] for key in table.options}
        return QuizChoice(
            kind=f"{self.name}.{one.key}", topic=self.topic, prompt=one.prompt, section=self.section, objective=self.objective,
            family=self.name, methods=one.methods or self.methods, draw=one.draw,
            steps=(Step("What it turns on", table.hint), *one.steps),
            options=tuple(Option(table.options[key], why, mistake) for key, (mistake, why) in given.items()))


FAMILIES: dict[str, Family] = {}


def family(name: str, *, objective: int, topic: str, methods: tuple[str, ...], section: str, also: tuple[str, ...] = ()
           ) -> Callable[[Callable[[], Table]], Family]:
    """Enter a table in the quiz; the first line of its docstring says what it is about."""
    def enter(table: Callable[[], Table]) -> Family:
        about = (table.__doc__ or "").partition("\n")[0]
        FAMILIES[name] = Family(name, objective, topic, methods, also, section, about, table)
        return FAMILIES[name]

    return enter


def unlike(values: Mapping[str, float], least: float = 1.02) -> None:
    """See to it that computed options can be told apart.

    Raises:
        ValueError: two of them are within a factor of `least` of each other.
    """
    rising = np.sort([abs(value) for value in values.values()])
    if np.any(rising[1:] < least * rising[:-1]) or len(set(rising)) < len(rising):
        raise ValueError(f"options too near to each other: {dict(values)}")
