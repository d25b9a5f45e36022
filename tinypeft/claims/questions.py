"""Questions that check themselves: a number, a choice, or an order. Practice and quiz are made of them.

    question.check("81.9K") -> Feedback(right, message, mistake)

What makes a wrong answer useful is the mistake behind it: a number is compared with what the typical mistakes would give, and
every wrong option has its own explanation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinypeft.budget.units import BYTES, Quantity, format_value, parse_quantity


@dataclass(frozen=True)
class Feedback:
    """What an answer is told.

    Attributes:
        right: whether it counts.
        message: to the learner, in a sentence or two.
        mistake: the id of the typical mistake it looks like; None if it is right or like none.
    """

    right: bool
    message: str
    mistake: str | None = None


@dataclass(frozen=True)
class Step:
    """A line of a worked solution: what is done, the formula with its numbers, and the value."""

    text: str
    formula: str = ""
    value: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What all kinds share.

    Attributes:
        kind: which generator or entry it comes from.
        topic: a method or a subject, such as "lora" or "memory".
        prompt: what is asked.
        steps: the worked solution, computed.
        section: where it is taught, "lesson/section".
        draw: draws a figure for it; None for no figure.
    """

    kind: str
    topic: str
    prompt: str
    steps: tuple[Step, ...] = ()
    section: str = ""
    draw: Callable[[], Any] | None = field(default=None, compare=False)

    def check(self, answer: str) -> Feedback:
        """Judge an answer as it was typed.

        Raises:
            ValueError: it cannot be read as an answer to this question.
        """
        raise NotImplementedError

    @property
    def solution(self) -> str:
        """The right answer, as text."""
        raise NotImplementedError


# ---- a number -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Mistake:
    """A number that a typical mistake leads to, and what to tell whoever gives it."""

    id: str
    value: float
    feedback: str


@dataclass(frozen=True, kw_only=True)
class Numeric(Question):
    """A number is asked for.

    Attributes:
        answer: in base units: bytes, parameters, or a fraction for "%".
        unit: the one to answer in, which may be left out; one of bytes only where the prompt names it.
        tolerance: relative error that still counts.
        mistakes: values that are wrong in a way worth explaining; none of them lies within reach of the answer.
    """

    answer: float
    unit: str = ""
    tolerance: float = 0.005
    mistakes: tuple[Mistake, ...] = ()

    @property
    def solution(self) -> str:
        return format_value(self.answer, self.unit)

    def check(self, answer: str) -> Feedback:
        given = self.read(answer)
        if not self.accepts(given, self.answer) and (grouped := self._grouped(answer)):
            raise ValueError(f"{answer.strip()!r} is a number below a thousand: the point begins its decimals. If thousands "
                             f"are meant, write {grouped}")
        if self.accepts(given, self.answer):
            return Feedback(True, f"Right: {self.solution}.")
        for mistake in self.mistakes:
            if self.accepts(given, mistake.value):
                return Feedback(False, mistake.feedback, mistake.id)
        ratio = given.value / self.answer if self.answer else 0.0
        size = "too small" if given.value < self.answer else "too large"
        times = f" by a factor of {max(ratio, 1 / ratio):.3g}" if ratio > 0 and not 0.5 < ratio < 2 else ""
        return Feedback(False, f"{answer.strip()} is {size}{times}.")

    def read(self, answer: str) -> Quantity:
        """The number that was typed, in the question's measure."""
        answer = re.sub(r"\s*param(eter)?s?\s*$", "", answer)  # "81,920 parameters" is a plain number
        answer = re.sub(r"^\s*[A-Za-z]\w*\s*=\s*", "", answer)  # "r = 6" is 6
        answer = re.sub(r"\s*times\s*$", "x" if self.unit == "x" else "", answer)
        answer = re.sub(r"(?<=\d)\s*([kmgt]i?b|bytes?)\s*$", _byte_unit, answer, flags=re.IGNORECASE)
        given = parse_quantity(answer)
        wanted = Quantity(0, self.unit, 0, 0).measure
        if not given.unit and (wanted == "%" or (wanted == "bytes" and self.says_unit)):
            return parse_quantity(f"{answer} {self.unit}")
        if wanted == "bytes" and given.measure != "bytes":
            raise ValueError(f"{answer.strip()!r} lacks a unit of memory; answer in {self.unit}, as in 12.3 {self.unit}")
        if given.unit and given.measure != wanted:
            raise ValueError(f"{answer.strip()!r}: the unit {given.unit!r} does not fit; "
                             + (f"answer in {self.unit}" if self.unit else "a plain number is asked for, such as 81,920"))
        return given

    @property
    def says_unit(self) -> bool:
        """Whether the prompt asks for this unit, and for no other: then a bare number is in it."""
        asked = re.search(rf"\b(how many|in) {self.unit}\b", self.prompt, re.IGNORECASE)
        return bool(asked) and "iB" not in self.prompt  # where GiB are spoken of, the unit is part of what is asked

    def _grouped(self, answer: str) -> str:
        """The number with separators, if what was typed has points in their place and is right with them; else ""."""
        thousands = answer.strip()
        if self.unit or not re.fullmatch(r"[1-9]\d{0,2}(\.\d{3})+", thousands):
            return ""
        grouped = thousands.replace(".", ",")
        return grouped if self.accepts(parse_quantity(grouped), self.answer) else ""

    def accepts(self, given: Quantity, value: float) -> bool:
        """Within the tolerance, or rounded to the digits that were typed, if there are at least two."""
        return abs(given.value - value) <= self.tolerance * abs(value) or (given.digits >= 2 and given.rounds_to(value))


def _byte_unit(found: re.Match[str]) -> str:
    """A unit of bytes in any case, as it is written: "gb" is GB (bits are not asked for in thousands)."""
    written = found[1].lower()
    return f" {next(unit for unit in BYTES if unit.lower() == written)}"


# ---- a choice -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Option:
    """One of the answers to choose from.

    Attributes:
        text: what is read.
        why: why it is right, or what is wrong with it.
        mistake: the misconception behind it; "" for the right one.
    """

    text: str
    why: str
    mistake: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice(Question):
    """One of several options is right; they stand in the order in which they are shown, lettered A, B, C, ..."""

    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        assert sum(not option.mistake for option in self.options) == 1, f"{self.kind}: exactly one option is right"

    @property
    def right(self) -> str:
        """The letter of the right option."""
        return next(letter for letter, option in zip("ABCDEFGH", self.options, strict=False) if not option.mistake)

    @property
    def solution(self) -> str:
        return f"{self.right}) {self.options[ord(self.right) - ord('A')].text}"

    def check(self, answer: str) -> Feedback:
        letters = "ABCDEFGH"[:len(self.options)]
        letter = answer.strip().rstrip(").").upper()
        if len(letter) != 1 or letter not in letters:
            raise ValueError(f"{answer.strip()!r} is none of the options; answer with one letter of {', '.join(letters)}")
        option = self.options[letters.index(letter)]
        return Feedback(not option.mistake, option.why, option.mistake or None)


# ---- an order -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Need:
    """Two lines that cannot be exchanged.

    Attributes:
        earlier, later: their numbers as shown, in the order in which they have to stand.
        why: what is wrong with the other order.
        mistake: the id of the misconception behind it.
    """

    earlier: str
    later: str
    why: str
    mistake: str


@dataclass(frozen=True, kw_only=True)
class Ordering(Question):
    """Lines, shown numbered and shuffled, are to be put in order. (Letters would be taken for the matrices A and B.)

    Attributes:
        lines: as shown, at most nine.
        orders: all right answers, each a string of digits such as "3124".
        needs: which lines cannot be exchanged: the feedback for a wrong order.
    """

    lines: tuple[str, ...]
    orders: tuple[str, ...]
    needs: tuple[Need, ...] = ()

    @property
    def solution(self) -> str:
        return " ".join(self.orders[0])

    def check(self, answer: str) -> Feedback:
        numbers = re.sub(r"[\s,>.-]", "", answer)
        expected = "123456789"[:len(self.lines)]
        if sorted(numbers) != sorted(expected):
            raise ValueError(f"{answer.strip()!r} does not name each line once; give all of {', '.join(expected)}, as in "
                             f"{' '.join(reversed(expected))}")
        if numbers in self.orders:
            return Feedback(True, f"Right: {' '.join(numbers)}.")
        for need in self.needs:
            if numbers.index(need.earlier) > numbers.index(need.later):
                return Feedback(False, f"Line {need.earlier} has to stand before line {need.later}: {need.why}", need.mistake)
        return Feedback(False, "This order does not hold together.")


# ---- pairs ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Matching(Question):
    """Lines are shown in order, and for each its reason is to be named, by the letter that the reason is shown with.

    Instead of reasons they may be something else that belongs to each line, as `called` says.

    Attributes:
        lines: as shown.
        reasons: as shown; there may be more of them than lines.
        right: a letter for each line, such as "CABD".
        remarks: for each reason, what is said to whoever gives it to a line that it does not fit.
        ids: for each reason, the id of that mistake.
        called: what a reason is called.
    """

    lines: tuple[str, ...]
    reasons: tuple[str, ...]
    right: str
    remarks: tuple[str, ...]
    ids: tuple[str, ...]
    called: str = "reason"

    @property
    def solution(self) -> str:
        return self.right

    def check(self, answer: str) -> Feedback:
        letters, known = re.sub(r"[\s,>.0-9-]", "", answer).upper(), "ABCDEFGHIJ"[:len(self.reasons)]
        if len(letters) != len(self.lines) or set(letters) - set(known):
            raise ValueError(f"{answer.strip()!r} does not name a {self.called} for each of the {len(self.lines)} lines; give "
                             f"{len(self.lines)} letters of {known}")
        for number, (given, right) in enumerate(zip(letters, self.right, strict=True), 1):
            if given != right:
                place = known.index(given)
                return Feedback(False, f"Line {number}: {self.remarks[place]}", self.ids[place])
        return Feedback(True, f"Right: {self.right}.")


def shuffled(options: Sequence[Option], rng: Any) -> tuple[Option, ...]:
    """Options in an order drawn from a numpy Generator."""
    return tuple(options[i] for i in rng.permutation(len(options)))
