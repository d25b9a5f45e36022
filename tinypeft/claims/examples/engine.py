"""A worked example of a document, computed again step by step, and the step where the two part.

    steps.add("Scale of the update", "lora_alpha / r = 1 / 1", layer.lora_scaling["default"], stated="0.5", follows=...)

A step has up to three values: what the document states; what follows from the values that it stated before; and ours,
computed by the library. Stated and computed values are compared by the rules of the claims (`match` in judge.py). A document
can so be right in its arithmetic and wrong in its result: after a wrong step, the steps that only inherit it are told apart
from those with a mistake of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from tinypeft.budget.units import Quantity, format_value, names_known, parse_quantity
from tinypeft.claims.claim import SOURCES
from tinypeft.claims.judge import Verdict, match


class Mark(StrEnum):
    """What became of a step."""

    AGREES = "agrees"
    ROUNDED = "agrees, rounded"
    PARTS = "here they part"
    FOLLOWS = "follows from there"  # stated and computed differ, but the stated follows from what was stated before
    AGAIN = "they part again"  # another mistake, of its own
    UNSTATED = "not stated"
    OPEN = "cannot be recomputed"


@dataclass(frozen=True)
class Step:
    """One step of an example.

    Attributes:
        text: what is computed.
        formula: how, with the shapes of all arrays in it.
        stated: the value as the document has it; "" if it has none.
        follows: what follows from the values that the document stated before, where that differs from ours; "" elsewhere.
        ours: the value that the library computes, as text; "" where nothing can be computed.
        mark: what the comparison gave.
        why: why they part; "" where they do not.
        note: what else is worth knowing.
        value: ours, itself.
        unit: the one that ours is shown in.
    """

    text: str
    formula: str
    stated: str
    follows: str
    ours: str
    mark: Mark
    why: str
    note: str
    value: Any
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, all text but `agrees`, which is null where there is nothing to compare."""
        agrees = {Mark.AGREES: True, Mark.ROUNDED: True, Mark.UNSTATED: None, Mark.OPEN: None}.get(self.mark, False)
        return {"step": self.text, "formula": self.formula, "stated": self.stated, "follows": self.follows, "ours": self.ours,
                "agrees": agrees, "mark": str(self.mark), "why": self.why, "note": self.note}


class Steps(list[Step]):
    """The steps of an example, in order."""

    def add(self, text: str, formula: str, value: Any, *, stated: str = "", expects: Any = None, about: float = 0.0,
            follows: Any = None, unit: str | None = None, why: str = "", note: str = "") -> None:
        """Compute the next step and compare it with the document.

        Args:
            text: what is computed.
            formula: how, with the shapes of all arrays in it.
            value: ours; None where nothing can be computed, which `why` then explains.
            stated: the document's value, as it has it; "" if it has none.
            expects: `stated` as a value that can be compared; what it parses to, unless given.
            about: the relative error that a stated "about" covers.
            follows: the value that follows from what the document stated before; None where that is ours.
            unit: the one to show ours in; that of `stated` unless given.
            why: shown where they part; a step that differs without one inherits its difference.
            note: shown in any case.
        """
        expected = parse_quantity(stated) if stated and expects is None and value is not None else expects
        if unit is None:
            unit = expected.unit if isinstance(expected, Quantity) else ""
        mark = self._mark(stated, expected, value, about, follows, why)
        parts = mark in (Mark.PARTS, Mark.AGAIN, Mark.OPEN)
        self.append(Step(text, formula, stated, "" if follows is None else show(follows, unit),
                         "" if value is None else show(value, unit), mark, why if parts else "", note, value, unit))

    @property
    def parting(self) -> int | None:
        """The number of the step, from 1, where the document and we part; None if they never do."""
        return next((number for number, step in enumerate(self, 1) if step.mark is Mark.PARTS), None)

    def _mark(self, stated: str, expected: Any, value: Any, about: float, follows: Any, why: str) -> Mark:
        if value is None:
            return Mark.OPEN
        if not stated:
            return Mark.UNSTATED
        if found := match(expected, value, about):
            return Mark.ROUNDED if found is Verdict.ROUNDED else Mark.AGREES
        if self.parting is None:
            return Mark.PARTS
        inherited = not why and follows is not None and match(expected, follows, about)
        return Mark.FOLLOWS if inherited else Mark.AGAIN


@dataclass(frozen=True)
class Example:
    """A worked example with all its steps.

    Attributes:
        source: the document's letter, as in the ids of its claims.
        place: where in the document it stands.
        problem: what is asked, in our words.
        conclusion: what is right, in a sentence or two.
        claims: ids of the claims that it is about.
    """

    name: str
    title: str
    source: str
    place: str
    problem: str
    steps: Steps
    conclusion: str
    claims: tuple[str, ...]

    @property
    def document(self) -> str:
        """The number that the document's file name begins with."""
        return SOURCES[self.source][0][:3]

    @property
    def where(self) -> str:
        """The document's number and title, and the place in it."""
        return f"{self.document}, {SOURCES[self.source][1]}: {self.place}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"name": self.name, "title": self.title, "source": SOURCES[self.source][0], "place": self.place,
                "problem": self.problem, "steps": [step.to_dict() for step in self.steps], "parts_at": self.steps.parting,
                "conclusion": self.conclusion, "claims": list(self.claims)}


EXAMPLES: dict[str, Callable[[], Example]] = {}


def example(name: str, title: str, source: str, place: str, problem: str,
            claims: Iterable[str]) -> Callable[[Callable[[Steps], str]], Callable[[Steps], str]]:
    """Enter the decorated function, which adds the steps and returns the conclusion, under a name."""
    assert name not in EXAMPLES, f"{name} is entered twice"
    assert source in SOURCES, name

    def enter(compute: Callable[[Steps], str]) -> Callable[[Steps], str]:
        def work() -> Example:
            steps = Steps()
            conclusion = compute(steps)
            return Example(name, title, source, place, problem, steps, conclusion, tuple(claims))

        EXAMPLES[name] = work
        return compute

    return enter


def known_example(name: str) -> Callable[[], Example]:
    """What computes the example of this name.

    Raises:
        ValueError: there is none; near names are listed.
    """
    if name not in EXAMPLES:
        raise ValueError(f"unknown example {name!r}; {names_known(name, EXAMPLES, says='there are')}")
    return EXAMPLES[name]


# ---- values and shapes as text --------------------------------------------------------------------------------------

def show(value: Any, unit: str = "") -> str:
    """A value as text; arrays as lists, truth values as yes and no.

    >>> show([3.09, 7.12]), show(True), show(0.0012, "%"), show((8, 1000))
    ('[3.09, 7.12]', 'yes', '0.12 %', '8 x 1000')
    """
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{', '.join(show(item, unit) for item in value)}]"
    return format_value(value, unit)


def numbers(array: Any) -> list[Any]:
    """An array or Tensor as nested lists."""
    found: list[Any] = np.asarray(getattr(array, "data", array)).tolist()
    return found


def shaped(**arrays: Any) -> str:
    """Names and shapes.

    >>> shaped(A=np.zeros((1, 2)), x=np.zeros(2))
    'A (1, 2), x (2,)'
    """
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())


def product(name: str, matrix: Any, vector: Any, result: Any) -> str:
    """A matrix product with the shapes of what goes in and comes out.

    >>> product("A x", np.zeros((1, 2)), np.zeros(2), np.zeros(1))
    'A x: (1, 2) @ (2,) -> (1,)'
    """
    return f"{name}: {tuple(matrix.shape)} @ {tuple(vector.shape)} -> {tuple(result.shape)}"
