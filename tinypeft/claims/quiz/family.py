"""Families: questions that share their options, each of which is the right answer to one of them.

Whoever reads only options must not be able to tell the right one. Length, precision or tone cannot give it away where the same
four texts answer four prompts, and each is right once; what is wrong with an option depends on what was asked, and so each
prompt explains it anew. Such a family is a table:

    options     key -> text
    prompts     one for each key, with what to say about each of the options
"""

from __future__ import annotations

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


def family(name: str, *, objective: int, topic: str, methods: tuple[str, ...], options: Mapping[str, str],
           prompts: Sequence[Asked], hint: str, section: str = "") -> list[QuizChoice]:
    """The questions of a family.

    Args:
        hint: what all of them turn on; the first step of the worked solutions.

    Raises:
        ValueError: options that are not distinct, not each right once, or not all explained.
    """
    if len(set(options.values())) < len(options) or sorted(one.key for one in prompts) != sorted(options):
        raise ValueError(f"{name}: options must differ, and each must be right once; they are {dict(options)}, and right are "
                         f"{[one.key for one in prompts]}")
    if bad := [one.key for one in prompts if one.wrong.keys() != options.keys() - {one.key}]:
        raise ValueError(f"{name}: for {', '.join(bad)}, an explanation is missing, or is of no option")
    questions = []
    for one in prompts:
        given = {key: ("", one.why) if key == one.key else one.wrong[key] for key in options}
        questions.append(QuizChoice(
            kind=f"{name}.{one.key}", topic=topic, prompt=one.prompt, section=section, objective=objective, family=name,
            methods=one.methods or methods, draw=one.draw, steps=(Step(hint), *one.steps),
            options=tuple(Option(options[key], why, mistake) for key, (mistake, why) in given.items())))
    return questions


def unlike(values: Mapping[str, float], least: float = 1.02) -> None:
    """See to it that computed options can be told apart.

    Raises:
        ValueError: two of them are within a factor of `least` of each other.
    """
    rising = np.sort([abs(value) for value in values.values()])
    if np.any(rising[1:] < least * rising[:-1]) or len(set(rising)) < len(rising):
        raise ValueError(f"options too near to each other: {dict(values)}")
