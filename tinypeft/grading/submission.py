"""What a grader holds in its hand: a submission that looks like a module, and comparisons that name the mistake.

    def test_forward(submission):
        submission.agrees("lora_forward", cases(submission.rng), lora_forward, MISTAKES)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinypeft.grading.compare import clean, compare, describe
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.process import Failure, Worker
from tinypeft.nn.module import generator

MOST_LINES = 10  # of a message
MOST_SHOWN = 80  # characters of an argument in it
NEARLY = ("It is nearly right, but float64 is compared to ten digits: was something computed in float32, by finite "
          "differences, or with a rounded number?")

Answer = tuple[Sequence[Any], Any, Any]  # arguments of a case, what was received, what was expected


@dataclass(frozen=True)
class Misconception:
    """A typical mistake.

    Attributes:
        id: stable, such as "lora.no_scale".
        says: what it is, to the learner: "alpha / r is missing".
        gives: what a solution with this mistake returns; it may raise where it could not be made at all.
    """

    id: str
    says: str
    gives: Callable[..., Any]


class Wrong(AssertionError):
    """A test that failed, with all that a report needs.

    Attributes:
        function: which was called.
        mistake: the id of the misconception, "numeric" for an unknown difference, "precision" for a small one, or the kind
            of a Failure.
        received, expected: of the case that differs; None where nothing was compared.
    """

    def __init__(self, message: str, function: str, mistake: str, received: Any = None, expected: Any = None):
        super().__init__("\n".join(map(clean, message.splitlines()[:MOST_LINES])))
        self.function, self.mistake = function, mistake
        self.received, self.expected = received, expected


def message_of(error: BaseException) -> str:
    """What a report says of an error in a test. All but Wrong happened in the grader, with what had come back."""
    if isinstance(error, Wrong):
        return str(error)
    return clean(f"what came back is nothing that the grader can work with ({type(error).__name__}: {error})", 500)


class Submission:
    """A learner's file: its functions are called as attributes, in a process of their own.

    Attributes:
        rng: random numbers for the inputs of this test, drawn from (seed, test).
    """

    def __init__(self, worker: Worker, exercise: Exercise, seed: int, test: str):
        self._worker, self._exercise = worker, exercise
        self.rng = generator(seed, exercise.slug, test)

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function.startswith("_"):
            raise AttributeError(function)
        return lambda *arguments: self._call(function, arguments)

    def agrees(self, function: str, cases: Iterable[Sequence[Any]], oracle: Callable[..., Any],
               misconceptions: Sequence[Misconception] = (), part: str | int | None = None,
               view: Callable[..., Any] | None = None) -> None:
        """Call a function for each case, and compare with the oracle.

        Args:
            part: compare only this entry of the dict or list that comes back; oracle and misconceptions give that entry.
            view: where many results are right, what of them is compared: view(received, *arguments). Oracle and misconceptions
                give that. What is received may be anything: a view has to `require` what it needs.

        Raises:
            Wrong: a case differs. The misconception named is one that gives what was received, in every case.
        """
        answered = []
        for arguments in cases:
            received = self._call(function, arguments)
            if part is not None:
                received = self._part(function, received, part)
            if view is not None:
                received = view(received, *_copies(arguments))
            answered.append((arguments, received, oracle(*_copies(arguments))))
        for arguments, received, expected in answered:
            if difference := compare(received, expected, "" if part is None else f"[{part!r}]"):
                message, mistake = self._diagnosis(f"{function}({_told(arguments)}), {difference}.", difference.kind, answered,
                                                   misconceptions)
                raise Wrong(message, function, mistake, received, expected)

    def require(self, holds: bool, function: str, message: str, mistake: str = "numeric") -> None:
        """Fail with a message of one's own, for what is not a comparison with an oracle."""
        if not holds:
            raise Wrong(explained(f"{function}: {message}", self._exercise, mistake), function, mistake)

    def real_array(self, function: str, received: Any, shape: tuple[int, ...], place: str) -> np.ndarray:
        """What was received, if it is an array of this shape, of finite float64 or float32 numbers.

        Raises:
            Wrong: it is something else.
        """
        difference = compare(received, np.zeros(shape), place)
        if difference is not None and difference.kind != "value":
            raise Wrong(f"{function}, {difference}", function, difference.kind)
        self.require(bool(np.isfinite(received).all()), function, f"{place} holds numbers that are not finite")
        return received

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _call(self, function: str, arguments: Sequence[Any]) -> Any:
        try:
            return self._worker.call(function, *arguments)
        except Failure as failure:
            where = "".join(f"\n    {line}" for line in failure.where)
            raise Wrong(f"{function}({_told(arguments)}): {failure}{where}", function, failure.kind) from None

    def _part(self, function: str, received: Any, part: str | int) -> Any:
        if isinstance(part, int):
            holds, wanted = isinstance(received, list) and part < len(received), f"a list of more than {part}"
        else:
            holds, wanted = isinstance(received, dict) and part in received, f"a dict with {part!r}"
        self.require(holds, function, f"expected {wanted}, received {describe(received)}",
                     "length" if isinstance(part, int) else "keys")
        return received[part]

    def _diagnosis(self, text: str, kind: str, answered: Sequence[Answer], misconceptions: Sequence[Misconception]
                   ) -> tuple[str, str]:
        """The message, which begins with this text, and the mistake's id."""
        if found := _explanation(answered, misconceptions):
            return explained(f"{text} It looks as if {found.says}.", self._exercise, found.id), found.id
        if kind == "value" and all(compare(_in_single(received), expected) is None for _, received, expected in answered):
            return f"{text} {NEARLY}", "precision"
        return text, "numeric" if kind == "value" else kind


def explained(message: str, exercise: Exercise, mistake: str) -> str:
    """A message, and the section in which its mistake is explained, if there is one."""
    lesson, _, section = exercise.section(mistake).partition("/")
    return f"{message}{'.' * (message[-1:] != '.')} See lesson {lesson}, section {section}." if section else message


def _explanation(answered: Sequence[Answer], misconceptions: Sequence[Misconception]) -> Misconception | None:
    """The first misconception that gives what was received in every case, and not what was expected in all of them."""
    for one in misconceptions:
        try:
            given = [one.gives(*_copies(arguments)) for arguments, _, _ in answered]
        except Exception:  # it cannot be made with these shapes
            continue
        explains = all(compare(received, wrong) is None for (_, received, _), wrong in zip(answered, given, strict=True))
        if explains and any(compare(wrong, expected) for (_, _, expected), wrong in zip(answered, given, strict=True)):
            return one
    return None


def _in_single(value: Any) -> Any:
    """A result with its float64 numbers in float32."""
    if isinstance(value, dict):
        return {key: _in_single(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_single(item) for item in value]
    if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype == np.float64):
        with np.errstate(over="ignore"):
            return np.asarray(value, np.float32)
    return value


def _copies(arguments: Sequence[Any]) -> list[Any]:
    """So that an oracle or a misconception that changes its arguments changes its own."""
    def copied(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, Mapping):
            return {key: copied(item) for key, item in value.items()}
        return [copied(item) for item in value] if isinstance(value, list | tuple) else value

    return [copied(value) for value in arguments]


def _told(arguments: Sequence[Any]) -> str:
    """Arguments for a message: arrays by their shape."""
    return ", ".join(f"{value.shape}" if isinstance(value, np.ndarray) else _short(value) for value in arguments)


def _short(value: Any) -> str:
    if not isinstance(value, list) and not isinstance(value, bool | int | float | str | None):
        return describe(value)
    text = repr(value)
    if "array(" in text or (isinstance(value, list) and len(text) > MOST_SHOWN):
        return describe(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN - 3] + "..."


__all__ = ["Misconception", "Submission", "Wrong", "explained", "message_of"]
