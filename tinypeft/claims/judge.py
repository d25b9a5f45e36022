"""From a stated and a computed value to a verdict: the same rules for every claim.

    one value          equal                                   confirmed
                       equal at the stated digits, or within
                       a declared "about"                      confirmed-rounded
                       otherwise                               corrected
    several conditions all agree with the statement            as above
                       some do, some do not                    depends
                       none does                               corrected
    a search           over all readings that the text leaves
                       open: none agrees                       not-reproducible
                       some do                                 depends

A claim that no computation can decide never comes here: it carries an editorial verdict, which may also be "meaningless".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from tinypeft.budget.units import Quantity, format_value

SAME = 1e-10  # numbers this close, relative to those over 1, are equal: what float64 leaves of an identity


class Verdict(StrEnum):
    CONFIRMED = "confirmed"
    ROUNDED = "confirmed-rounded"
    CORRECTED = "corrected"
    DEPENDS = "depends"
    NOT_REPRODUCIBLE = "not-reproducible"
    MEANINGLESS = "meaningless"


MEANINGS = {
    Verdict.CONFIRMED: "the computed value equals the stated one",
    Verdict.ROUNDED: "it rounds to the stated digits, or is as near as the text's own \"about\" allows",
    Verdict.CORRECTED: "it is another value",
    Verdict.DEPENDS: "true under some conditions that the text leaves open, not under others",
    Verdict.NOT_REPRODUCIBLE: "no reading gives the number, or its source is missing",
    Verdict.MEANINGLESS: "nothing is stated that could be true or false",
}


@dataclass(frozen=True)
class Range:
    """A stated range: from low to high, both included, and between above and below, which are not.

    >>> Range(high=0.001).words("%"), Range(above=0).words(), Range(0.01, 0.03).words("%")
    ('at most 0.1 %', 'more than 0', 'from 1 % to 3 %')
    """

    low: float = -np.inf
    high: float = np.inf
    above: float = -np.inf
    below: float = np.inf

    def holds(self, value: float) -> bool:
        return bool(self.low <= value <= self.high and self.above < value < self.below)

    def words(self, unit: str = "") -> str:
        """The range as text."""
        if self.low > -np.inf and self.high < np.inf:
            return f"from {format_value(self.low, unit)} to {format_value(self.high, unit)}"
        ends = (("at least", self.low), ("at most", self.high), ("more than", self.above), ("less than", self.below))
        return " and ".join(f"{name} {format_value(end, unit)}" for name, end in ends if np.isfinite(end))


@dataclass(frozen=True)
class Computed:
    """What a recomputation returns: values, and never a verdict.

    Attributes:
        values: condition -> value; one without a name where there is nothing to tell apart.
        facts: further numbers, for the explanation.
        searched: the conditions are all readings that the statement leaves open.
    """

    values: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    searched: bool = False


def computed(value: Any, **facts: Any) -> Computed:
    """One value, whatever the conditions."""
    return Computed({"": value}, facts)


def under(conditions: dict[str, Any], **facts: Any) -> Computed:
    """A value for each named condition that the statement leaves open."""
    return Computed(conditions, facts)


def searched(readings: dict[str, Any], **facts: Any) -> Computed:
    """A value for every reading of a statement that leaves out how its number came about."""
    return Computed(readings, facts, searched=True)


def judge(stated: Any, found: Computed, about: float = 0.0) -> Verdict:
    """The verdict on a statement.

    Args:
        stated: a Quantity (a number with the digits it was written with), a Range, or any other value, to be equal.
        found: the recomputation.
        about: relative error within which a statement that says "about" of itself still holds.
    """
    matches = [match(stated, value, about) for value in found.values.values()]
    if found.searched:
        return Verdict.DEPENDS if any(matches) else Verdict.NOT_REPRODUCIBLE
    if not any(matches):
        return Verdict.CORRECTED
    if not all(matches):
        return Verdict.DEPENDS
    return Verdict.ROUNDED if Verdict.ROUNDED in matches else Verdict.CONFIRMED


def match(stated: Any, value: Any, about: float = 0.0) -> Verdict | None:
    """CONFIRMED for equal, ROUNDED for equal at the stated digits or about, None for neither."""
    if isinstance(stated, Range):
        return Verdict.CONFIRMED if _is_number(value) and stated.holds(value) else None
    if isinstance(stated, Quantity):
        if not _is_number(value):
            return None
        if equal(stated.value, value):
            return Verdict.CONFIRMED
        close = stated.rounds_to(value) or abs(value - stated.value) <= about * abs(stated.value)
        return Verdict.ROUNDED if close else None
    return Verdict.CONFIRMED if equal(stated, value) else None


def equal(a: Any, b: Any) -> bool:
    """Integers, text and truth values exactly; other numbers to rounding; sequences element by element."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(equal, a, b))
    if not (_is_number(a) and _is_number(b)):
        return bool(a == b)
    if float(a).is_integer() and isinstance(b, int | np.integer):
        return int(a) == int(b)
    return bool(abs(a - b) <= SAME * max(1.0, abs(b)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and not np.isnan(value)
