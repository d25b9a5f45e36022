"""The capstone: an adapter that was handed in, judged by what it holds and by how well the base spells names with it.

The zip is read here. What is in it goes, as bytes, to a process of its own (evaluator.py), and numbers come back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinypeft.files.text import existing
from tinypeft.grading import PUBLIC_SEED
from tinypeft.grading.archive import TooLarge, read_zip, unreadable
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.process import Failure, Limits, Worker
from tinypeft.grading.submission import Wrong, explained
from tinypeft.peft.config import CONFIG_NAME
from tinypeft.peft.storage import WEIGHTS_NAME
from tinypeft.training import Split, fold, surnames, us_surnames

BASE, COUNTRY = "tinypeft/surnames", "polish"
FILES = {CONFIG_NAME, WEIGHTS_NAME}
MOST_BYTES = 5_000_000
LIMITS = Limits(call=30.0, total=45.0)
OLD_EVERY = 4  # as many US names as one in so many of the validation split say whether they are still known
LEAST_NAMES = 100  # in a file of names that are not shipped: fewer say little
SHOWN = 3  # lines that are no names
CONTROL_EVERY = 8  # one in so many of the Polish names that are meant to be trained on
EVALUATOR = Path(__file__).with_name("evaluator.py")
T = TypeVar("T")


@dataclass(frozen=True)
class Bits:
    """Bits per character of some names, without the adapter and with it."""

    before: float
    after: float

    @property
    def rise(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        new: of the names that decide: those of the validation split, or others that are not shipped.
        public: of the validation split.
        meant: of the train split. An adapter knows these no worse than the validation split's, unless it was trained on those.
        old: of US surnames, which the base knows.
        base_kept: whether the base is the same once the adapter is switched off.
    """

    new: Bits
    public: Bits
    meant: Bits
    old: Bits
    base_kept: bool


class OpenedAdapter:
    """A zip that was handed in, and the process in which it is looked at; each thing is found out once.

    Args:
        file: the zip.
        confined: in a sandbox; see confine.py.
        holdout: names that decide instead of the validation split's.
        seed: which US names are asked for; see us_names.
    """

    def __init__(self, file: Path, confined: bool = False, holdout: Sequence[str] | None = None, seed: int = PUBLIC_SEED):
        self.file, self.holdout, self.seed = file, holdout, seed
        self._worker = Worker(EVALUATOR, LIMITS, confined, ours=True)
        self._known: dict[str, Any] = {}

    def described(self) -> dict[str, Any]:
        """See evaluator.describe."""
        return self._once("described", lambda: self._ask("describe", *self._files()))

    def measured(self) -> Measured:
        """How well the base spells names with it, and without."""
        return self._once("measured", self._measure)

    def printed(self) -> str:
        """Nothing of the learner's ran, so that nothing of theirs was printed."""
        return ""

    def close(self) -> None:
        self._worker.close()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _once(self, what: str, find: Callable[[], T]) -> T:
        if what not in self._known:
            try:
                self._known[what] = find()
            except Wrong as wrong:
                self._known[what] = wrong
        if isinstance(found := self._known[what], Wrong):
            raise found
        return found

    def _files(self) -> list[np.ndarray]:
        """The bytes of config and weights."""
        try:
            files = read_zip(self.file, len(FILES), MOST_BYTES)
        except FileNotFoundError:
            raise _wrong("there is no adapter.zip: capstone.py writes it", "capstone.files") from None
        except TooLarge as error:
            raise _wrong(f"{error}: an adapter is small", "capstone.too_large") from None
        except (ValueError, OSError) as error:
            raise _wrong(unreadable(error), "capstone.files") from None
        if files.keys() != FILES:
            raise _wrong(f"the zip holds {', '.join(sorted(files)) or 'nothing'}; expected {' and '.join(sorted(FILES))}, as "
                         "save_pretrained writes them, in no folder", "capstone.files")
        return [np.frombuffer(files[name], np.uint8) for name in (CONFIG_NAME, WEIGHTS_NAME)]

    def _measure(self) -> Measured:
        files = self._files()
        names = {"public": _names().validation, "meant": _names().train[::CONTROL_EVERY], "old": us_names(self.seed)}
        names |= {} if self.holdout is None else {"new": list(self.holdout)}
        found = self._ask("measure", *files, BASE, names)
        bits = {label: Bits(found["before"][label], found["after"][label]) for label in names}
        return Measured(bits.get("new", bits["public"]), bits["public"], bits["meant"], bits["old"], found["base_kept"])

    def _ask(self, function: str, *arguments: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._worker.call(function, *arguments)
        except Failure as failure:
            kind = "capstone.unfit" if failure.kind == "error" else failure.kind
            raise Wrong(f"it could not be evaluated: {failure}", "adapter.zip", kind) from None
        if "refused" in found:
            raise _wrong(found["refused"], "capstone.unfit")
        return found


class Adapter:
    """What the tests of the capstone hold in their hands.

    Args:
        say: what a test has found goes there, for the report of one that passes.
    """

    def __init__(self, opened: OpenedAdapter, exercise: Exercise, say: Callable[[str], None]):
        self._opened, self._exercise, self.say = opened, exercise, say

    def described(self) -> dict[str, Any]:
        """See evaluator.describe.

        Raises:
            Wrong: there is nothing to describe.
        """
        return self._told(self._opened.described)

    def measured(self) -> Measured:
        """Bits per character.

        Raises:
            Wrong: it cannot be put into the base.
        """
        return self._told(self._opened.measured)

    @property
    def held_out(self) -> int:
        """How many names decide that are not shipped; 0 if the validation split's do."""
        return len(self._opened.holdout or ())

    def require(self, holds: bool, message: str, mistake: str = "numeric") -> None:
        """Fail with a message."""
        if not holds:
            raise Wrong(explained(message, self._exercise, mistake), "adapter.zip", mistake)

    def _told(self, find: Callable[[], T]) -> T:
        try:
            return find()
        except Wrong as wrong:
            raise Wrong(explained(str(wrong), self._exercise, wrong.mistake), "adapter.zip", wrong.mistake) from None


def read_holdout(path: Path) -> list[str]:
    """Names that are not shipped, from a text file, one a line; folded as those that are shipped, and each once.

    Names that come with tinypeft are left out: on Polish ones anybody can train, and the base was trained on US ones, among
    which are the most frequent Polish ones.

    Raises:
        FileNotFoundError: no such file.
        ValueError: lines that are no names in the base's alphabet, or too few names that are not shipped.
    """
    names: dict[str, None] = {}
    bad: list[str] = []
    for number, raw in enumerate(existing(path).read_bytes().splitlines(), start=1):
        line = raw.decode("utf-8-sig", "replace").strip()
        if name := fold(line):
            names[name] = None
        elif line:
            bad.append(f"line {number}, {line[:40]!r}")
    if bad:
        more = f", and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(f"{path}: expected a surname of 2 to 20 letters in each line, of which only accents may be outside of "
                         f"A to Z; take out {'; '.join(bad[:SHOWN])}{more}")
    left = [name for name in names if name not in _shipped()]
    if len(left) < LEAST_NAMES:
        raise ValueError(f"{path} has {len(left)} names that do not come with tinypeft ({len(names)} with those that do); at "
                         f"least {LEAST_NAMES} are needed to tell one adapter from another")
    return left


def us_names(seed: int) -> list[str]:
    """The US names that say whether they are still known: with the public seed those that a learner measures too.

    With another, as many of all that the base was not trained on, so that who trains on some of them does not know which count.
    """
    us = _us_names()
    public = us.validation[::OLD_EVERY]
    if seed == PUBLIC_SEED:
        return public
    drawn: list[str] = np.random.default_rng(seed).choice(us.validation + us.test, len(public), replace=False).tolist()
    return drawn


@cache
def _names() -> Split:
    return surnames(COUNTRY)


@cache
def _us_names() -> Split:
    return us_surnames()


@cache
def _shipped() -> frozenset[str]:
    return frozenset(name for split in (_names(), _us_names()) for part in (split.train, split.validation, split.test)
                     for name in part)


def _wrong(message: str, mistake: str) -> Wrong:
    return Wrong(message, "adapter.zip", mistake)


__all__ = ["BASE", "COUNTRY", "FILES", "MOST_BYTES", "Adapter", "Bits", "Measured", "OpenedAdapter", "read_holdout", "us_names"]
