"""Whether what came back is what was expected, and where it first is not. Runs in the grader's process, on decoded values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

DOUBLE, SINGLE = 1e-10, 1e-5  # relative to the largest expected number, at least 1
TOLD = 40  # characters of a value in a message


@dataclass(frozen=True)
class Difference:
    """The first difference between a received tree and the expected one.

    Attributes:
        place: where in the result, such as ["A"][0, 2]; "" for the whole.
        received, expected: as text.
        kind: "type", "shape", "dtype", "keys", "length" or "value".
    """

    place: str
    received: str
    expected: str
    kind: str

    def __str__(self) -> str:
        where = f"at {self.place}: " if self.place else ""
        return f"{where}received {self.received}, expected {self.expected}"


def compare(received: Any, expected: Any, place: str = "") -> Difference | None:
    """None if `received` is right.

    Args:
        expected: None, bool, int, str, float, list, dict, or array. Integers, and arrays of them, have to be exact, with the
            exact dtype; floats, and arrays of them, are compared to DOUBLE, or to SINGLE if they came as float32.
    """
    if isinstance(expected, dict):
        return _compare_dicts(received, expected, place)
    if isinstance(expected, list | tuple):
        return _compare_lists(received, expected, place)
    if isinstance(expected, np.ndarray) and expected.ndim:
        return _compare_arrays(received, expected, place)
    if isinstance(received, np.ndarray) and received.ndim == 0 and received.dtype != np.float32:
        received = received.item()
    if isinstance(expected, np.integer | np.bool_):
        expected = expected.item()
    if isinstance(expected, float | np.floating | np.ndarray):
        if isinstance(received, bool) or not isinstance(received, int | float | np.ndarray) or np.ndim(received):
            return Difference(place, describe(received), f"a number, {float(expected):.10g}", "type")
        tolerance = SINGLE if isinstance(received, np.ndarray) else DOUBLE
        number = _as_float(received)
        close = abs(number - float(expected)) <= tolerance * max(1.0, abs(float(expected))) and math.isfinite(float(expected))
        return None if close else Difference(place, f"{number:.10g}", f"{float(expected):.10g}", "value")
    if type(received) is not type(expected):
        return Difference(place, describe(received), describe(expected), "type")
    return None if received == expected else Difference(place, _short(received), _short(expected), "value")


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf") if number > 0 else float("-inf")


def _compare_dicts(received: Any, expected: dict[str, Any], place: str) -> Difference | None:
    if not isinstance(received, dict) or set(received) != set(expected):
        given = _keys(received) if isinstance(received, dict) else describe(received)
        return Difference(place, given, f"a dict of {sorted(expected)}", "keys")
    return next((found for key in expected if (found := compare(received[key], expected[key], f"{place}[{key!r}]"))), None)


def _compare_lists(received: Any, expected: Any, place: str) -> Difference | None:
    if not isinstance(received, list) or len(received) != len(expected):
        given = f"a list of {len(received)}" if isinstance(received, list) else describe(received)
        return Difference(place, given, f"a list of {len(expected)}", "length")
    pairs = enumerate(zip(received, expected, strict=True))
    return next((found for i, (a, b) in pairs if (found := compare(a, b, f"{place}[{i}]"))), None)


def _compare_arrays(received: Any, expected: np.ndarray, place: str) -> Difference | None:
    if not isinstance(received, np.ndarray):
        return Difference(place, describe(received), describe(expected), "type")
    if received.shape != expected.shape:
        return Difference(place, f"shape {received.shape}", f"shape {expected.shape}", "shape")
    exact = expected.dtype.kind != "f"
    if received.dtype != expected.dtype if exact else received.dtype not in (np.float32, np.float64):
        wanted = str(expected.dtype) if exact else "float64 or float32"
        return Difference(place, f"an array of {received.dtype}", f"an array of {wanted}", "dtype")
    if exact:
        wrong = received != expected
    else:
        tolerance = SINGLE if received.dtype == np.float32 else DOUBLE
        most = tolerance * max(1.0, float(np.abs(expected).max(initial=0)))
        with np.errstate(invalid="ignore"):
            near = np.abs(received.astype(np.float64) - expected) <= most
            near &= np.isfinite(received) & np.isfinite(expected)  # or an infinite expectation would let everything pass
        wrong = ~near  # nan is not near anything
    if not wrong.any():
        return None
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Difference(f"{place}[{', '.join(map(str, index))}]", f"{received[index]:.10g}", f"{expected[index]:.10g}", "value")


def describe(value: Any) -> str:
    """What kind of thing it is, for a message: short, however large the thing is.

    >>> describe([[1, 2], 3])
    'a list of 2'
    """
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return _keys(value)
    return "None" if value is None else f"the {type(value).__name__} {_short(value)}"


def clean(text: str, most: int = 2000) -> str:
    r"""A line for a report, from text that somebody else wrote: nothing that moves a cursor, ends the line or hides.

    >>> clean("one" + chr(10) + "two" + chr(27) + "[2J")
    'one\\ntwo\\x1b[2J'
    """
    short = text if len(text) <= most else text[:most - 3] + "..."
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in short)


def _keys(value: dict[str, Any]) -> str:
    names = [_short(key) for key in sorted(value)[:6]]
    return f"a dict of [{', '.join(names)}{', ...' if len(value) > len(names) else ''}]"


def _short(value: Any) -> str:
    text = repr(value[:TOLD] if isinstance(value, str) else value)
    return clean(text if len(text) <= TOLD else text[:TOLD - 3] + "...")
