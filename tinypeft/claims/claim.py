"""A claim of a document, and the function that recomputes it.

    @claim("d-ex1-total", "Example 1", "parameter-count", "r=8 on q, k, v, o in 32 layers", stated="8,388,608")
    def _() -> Computed:
        return computed(count_parameters("llama-2-7b", lora(8)).trainable)

The function calls the library (builds, counts, quantizes, runs) and returns values; the verdict is `judge`'s. What no
computation can decide is entered with `editorial`, with a verdict of ours and its reference, and counted apart.
"""

from __future__ import annotations

import inspect
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinypeft.budget.units import Quantity, format_value, parse_quantity
from tinypeft.claims.judge import Computed, Range, Verdict, judge
from tinypeft.nn.module import near

MOST_SHOWN = 6  # readings of a search
KINDS = ("parameter-count", "memory", "property", "shape", "formula", "statement", "table", "code-output", "quiz")

# The documents, by the first letter of their claims' ids.
SOURCES = {
    "a": ("000_d119f866ba5182a8.txt", "Understanding PEFT: Parameter-Efficient Fine-Tuning for Large Language Models"),
    "b": ("001_a5cfad807afcb91f.txt", "PEFT (Parameter-Efficient Fine-Tuning), a glossary"),
    "c": ("002_7837c64d15503e76.txt", "Parameter Efficient Fine Tuning (PEFT) – Adapting Large Models at Scale"),
    "d": ("003_dcfd638a009a6af2.txt", "20-09 — Parameter-Efficient Fine-Tuning (PEFT)"),
}


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: such as "d-ex1-total"; its first letter is that of the source.
        place: where in the document.
        kind: one of KINDS.
        says: what is claimed, in our words.
        stated: the value, as the document has it.
        expects: `stated` as a value that can be compared; what it parses to, unless given.
        compute: recomputes it; None for an editorial one.
        why: how the computed value comes about, or what the document missed; may name facts of the computation, as in {r8}.
        correct: the statement as it would be right; "" where it is.
        about: the relative error that a stated "about" covers.
        unit: the one to show computed values in; that of `stated` unless given.
        slow: takes seconds, and is left to `tinypeft check --slow`.
        verdict: an editorial one's.
        reference: what an editorial verdict rests on.
    """

    id: str
    place: str
    kind: str
    says: str
    stated: str
    expects: Any
    compute: Callable[[], Computed] | None
    why: str
    correct: str
    about: float = 0.0
    unit: str = ""
    slow: bool = False
    verdict: Verdict | None = None
    reference: str = ""

    @property
    def source(self) -> str:
        """The document's file name."""
        return SOURCES[self.id[0]][0]

    @property
    def holds_if(self) -> str:
        """What a computed value has to be for the statement to hold; "" if that is the stated number, to its digits."""
        if self.compute is None or self.expects == self.stated:
            return ""
        if isinstance(self.expects, Range):
            return self.expects.words(self.unit)
        shown = format_value(self.expects.value, self.expects.unit) if isinstance(self.expects, Quantity) else _said(
            self.expects, self.unit)
        items = self.expects if isinstance(self.expects, tuple) else (self.expects,)
        if any(isinstance(item, float) for item in items):
            shown += ", but for rounding"
        if self.about:
            return f"within {format_value(self.about, '%')} of {shown}"
        return "" if _is_written(self.stated) and parse_quantity(self.stated) == self.expects else shown

    @property
    def how(self) -> str:
        """The code that recomputes it; what the verdict rests on, for an editorial one."""
        if self.compute is None:
            return self.reference
        return textwrap.dedent(inspect.getsource(self.compute).partition("def _() -> Computed:\n")[2]).rstrip()


CLAIMS: dict[str, Claim] = {}


def claim(id: str, place: str, kind: str, says: str, *, stated: str, expects: Any = None, why: str = "", correct: str = "",
          about: float = 0.0, unit: str | None = None, slow: bool = False) -> Callable[[Callable[[], Computed]], Any]:
    """Enter the decorated function as the recomputation of a claim; see Claim for the arguments."""
    expected = parse_quantity(stated) if expects is None else parse_quantity(expects) if _is_written(expects) else expects
    shown = (expected.unit if isinstance(expected, Quantity) else "") if unit is None else unit

    def enter(compute: Callable[[], Computed]) -> None:
        _enter(Claim(id, place, kind, says, stated, expected, compute, why, correct, about, shown, slow))

    return enter


def editorial(id: str, place: str, kind: str, says: str, verdict: Verdict, *, stated: str, reference: str, why: str,
              correct: str = "") -> None:
    """Enter a claim that no computation can decide: bibliography, a result without its data, an empty statement.

    Args:
        verdict: ours.
        reference: what it rests on: a paper, the document itself.
    """
    _enter(Claim(id, place, kind, says, stated, None, None, why, correct, verdict=verdict, reference=reference))


def _enter(entry: Claim) -> None:
    assert entry.id not in CLAIMS, f"{entry.id} is entered twice"
    assert entry.id[0] in SOURCES, entry.id
    assert entry.kind in KINDS, f"{entry.id}: unknown kind {entry.kind!r}"
    CLAIMS[entry.id] = entry


def _said(value: Any, unit: str) -> str:
    """A value as text; a truth value as an answer."""
    return ("yes" if value else "no") if isinstance(value, bool) else format_value(value, unit)


def _is_written(expects: Any) -> bool:
    """Whether it is text that reads as a number, and so says how exact it is."""
    try:
        return isinstance(expects, str) and bool(parse_quantity(expects))
    except ValueError:
        return False


# ---- checking -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Checked:
    """A claim with what was found.

    Attributes:
        computed: the values, as text.
        why, correct: the claim's, with the facts of the computation filled in.
        fresh: whether it was computed now; else it is the recorded result (or an editorial one, which is always as it was).
        seconds: the computation's time.
        within: the relative error that made it "confirmed-rounded", where the stated digits alone would not have.
    """

    claim: Claim
    computed: str
    verdict: Verdict
    why: str
    correct: str
    fresh: bool
    seconds: float = 0.0
    within: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        entry = self.claim
        return {"id": entry.id, "source": entry.source, "place": entry.place, "kind": entry.kind, "claim": entry.says,
                "stated": entry.stated, "holds_if": entry.holds_if, "computed": self.computed, "verdict": str(self.verdict),
                "why": self.why, "correct": self.correct, "how": entry.how,
                "basis": "computed" if entry.compute else "editorial", "fresh": self.fresh}


def check(entry: Claim) -> Checked:
    """Recompute a claim and judge it; an editorial one is only put into form."""
    if entry.compute is None:
        assert entry.verdict is not None
        return Checked(entry, "", entry.verdict, entry.why, entry.correct, fresh=False)
    start = time.perf_counter()
    found = entry.compute()
    seconds = time.perf_counter() - start
    verdict = judge(entry.expects, found, entry.about)
    about = entry.about if verdict is Verdict.ROUNDED and judge(entry.expects, found) is not Verdict.ROUNDED else 0.0
    return Checked(entry, show_values(found, entry.unit, entry.expects), verdict, entry.why.format(**found.facts),
                   entry.correct.format(**found.facts), fresh=True, seconds=seconds, within=about)


def show_values(found: Computed, unit: str, expects: Any = None) -> str:
    """The values as text, each with its condition; of a long search those that come nearest to what is expected."""
    shown, rest = found.values, ""
    if found.searched and len(shown) > MOST_SHOWN and isinstance(expects, Quantity):
        nearest = sorted(shown, key=lambda name: abs(shown[name] - expects.value))[:MOST_SHOWN]
        shown, rest = {name: shown[name] for name in nearest}, f" (the nearest of {len(shown)} readings)"
    assert not any("; " in name for name in shown), "a condition's name would read as two"
    return "; ".join(f"{name}: {_said(value, unit)}" if name else _said(value, unit)
                     for name, value in shown.items()) + rest


def known(id: str) -> Claim:
    """The claim of this id.

    Raises:
        ValueError: there is none; near ids are named.
    """
    if id not in CLAIMS:
        hint = near(id, CLAIMS)
        raise ValueError(f"unknown claim {id!r}; " + (f"near: {', '.join(hint)}. " if hint else "")
                         + f"There are {len(CLAIMS)}, from {next(iter(CLAIMS))} to {next(reversed(CLAIMS))}: `tinypeft check` "
                           "lists them")
    return CLAIMS[id]


__all__ = ["CLAIMS", "KINDS", "SOURCES", "Checked", "Claim", "Range", "check", "claim", "editorial", "known", "show_values"]
