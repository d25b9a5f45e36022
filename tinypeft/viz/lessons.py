"""What the lessons' notebooks use: guesses that are kept, pictures with a description, checks that are meant to fail.

Everything works the same outside a notebook, where pictures are told instead of shown.
"""

from __future__ import annotations

import base64
import html
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ---- pictures -------------------------------------------------------------------------------------------------------


@dataclass
class Picture:
    """A figure and its alt text: what it shows, in words, for who cannot see it."""

    figure: Figure
    alt: str

    def png(self) -> bytes:
        """The figure as the bytes of a PNG file, at twice the resolution of its size in a notebook."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=2 * self.figure.dpi)
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook asks for. HTML, since Jupyter gives a plain image no alt text; PNG for other exports."""
        png = base64.b64encode(self.png()).decode("ascii")
        width = round(self.figure.get_figwidth() * self.figure.dpi)
        image = f'<img src="data:image/png;base64,{png}" alt="{html.escape(self.alt)}" width="{width}">'
        return {"text/html": image, "image/png": png, "text/plain": self.alt}


def show(picture: Picture) -> None:
    """Display a picture in a notebook; elsewhere print its description."""
    shell = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        shell.display.display(picture)
    else:
        print(picture.alt)


# ---- predict and reveal ---------------------------------------------------------------------------------------------


@dataclass
class _Prediction:
    question: str
    choices: tuple[str, ...]
    guess: float | str | None
    measured: float | str | None = None


class Predictions:
    """The guesses of a learner, each compared later with what was measured.

    A guess may be changed until its answer is revealed; after that the first one stands, until the kernel is restarted.

    >>> notes = Predictions()
    >>> notes.predict("legs", "How many legs has a spider?", 6)
    How many legs has a spider?
    Your guess: 6.
    >>> notes.reveal("legs", 8)
    You guessed 6, too low: it is 8.
    """

    def __init__(self) -> None:
        self._made: dict[str, _Prediction] = {}

    def predict(self, id: str, question: str, guess: float | str | None, choices: Sequence[str] = ()) -> None:
        """Keep a guess, and print the question with it.

        Args:
            id: what `reveal` calls it.
            question: printed.
            guess: a number, or one of `choices`; None for no guess yet, which stops nothing.
            choices: the possible answers, where it is not a number.

        Raises:
            ValueError: a guess that is neither a number nor one of the choices.
        """
        made = _Prediction(question, tuple(choices), _read_guess(guess, choices))
        old = self._made.get(id)
        print(question + (f" ({', '.join(choices)})" if choices else ""))
        if old is not None and old.measured is not None and made.guess != old.guess:
            print(f"The answer has been shown already, so your first guess stands: {_say(old.guess)}.")
            return
        if old is None or old.measured is None:
            self._made[id] = made
        print("No guess yet: type one in place of None and run this cell again." if made.guess is None
              else f"Your guess: {_say(made.guess)}.")

    def reveal(self, id: str, measured: float | str) -> None:
        """Print what was measured beside the guess.

        Raises:
            ValueError: nothing of this id was asked.
        """
        if id not in self._made:
            raise ValueError(f"no prediction {id!r}; there are: {', '.join(self._made) or 'none'}. "
                             "Run the cell that asks for it first")
        made = self._made[id]
        if made.choices and measured not in made.choices:
            raise ValueError(f"the answer {measured!r} is none of the choices, {', '.join(made.choices)}")
        made.measured = measured
        print(_compare(made))

    def __str__(self) -> str:
        """All questions, guesses and answers."""
        lines = [f"{made.question}\n    {_compare(made)}" for made in self._made.values()]
        return "\n".join(lines) or "no predictions yet"


def _read_guess(guess: Any, choices: Sequence[str]) -> float | str | None:
    if guess is None:
        return None
    if choices:
        found = [choice for choice in choices if choice.lower() == str(guess).strip().lower()]
        if not found:
            raise ValueError(f"the guess {guess!r} is none of the choices: type one of {list(choices)}, or None")
        return found[0]
    try:
        number = float(guess)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(guess, bool) or not np.isfinite(number):
        raise ValueError(f"the guess {guess!r} is not a number: type one, such as 12 or 0.5, or None")
    return number


def _compare(made: _Prediction) -> str:
    guess, measured = made.guess, made.measured
    if measured is None:
        return f"You guessed {_say(guess)}; not revealed yet." if guess is not None else "Not revealed yet."
    if guess is None:
        return f"No guess was made. It is {_say(measured)}."
    if isinstance(guess, str) or isinstance(measured, str):
        return f"You guessed {guess}, and so it is." if guess == measured else f"You guessed {guess}. It is {measured}."
    if abs(guess - measured) <= 0.1 * abs(measured):
        return f"You guessed {_say(guess)}, and it is {_say(measured)}: close."
    return f"You guessed {_say(guess)}, too {'high' if guess > measured else 'low'}: it is {_say(measured)}."


def _say(guess: float | str | None) -> str:
    return guess or "none" if guess is None or isinstance(guess, str) else say_number(guess)


def say_number(value: float) -> str:
    """A number as one says it: 0.781, 12 or 9,216."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


# ---- break it -------------------------------------------------------------------------------------------------------


@contextmanager
def broken(change: str) -> Iterator[None]:
    """A block in which something is broken on purpose, and a check is meant to notice.

    Args:
        change: what was broken, in words.

    Raises:
        AssertionError: no check failed.

    >>> with broken("two and two is five"):
    ...     assert 2 + 2 == 5, "counted on the fingers, it is 4"
    Broken on purpose: two and two is five.
    The check that fails: counted on the fingers, it is 4
    """
    print(f"Broken on purpose: {change}.")
    try:
        yield
    except AssertionError as failure:
        print(f"The check that fails: {failure}")
        return
    raise AssertionError(f"{change}: this was meant to fail a check, but all checks passed")


# ---- make -----------------------------------------------------------------------------------------------------------


def self_check(function: Callable[..., Any], reference: Callable[..., Any], cases: Sequence[Mapping[str, Any]],
               mistakes: Mapping[str, Callable[..., Any]]) -> str:
    """Compare a learner's function with one that is right, and say in words how it goes.

    Args:
        function: the learner's. One that raises NotImplementedError is not done yet, which is no failure.
        reference: gives the right answers, arrays.
        cases: for each case the arguments by name.
        mistakes: name of a likely mistake -> a function that makes it. If the learner's answers are those of a mistake
            in every case, it is named.

    Returns:
        One or two sentences: not done yet, right, or what is wrong.
    """
    name = function.__name__
    right = [_call(reference, case) for case in cases]
    received = [_call(function, case) for case in cases]
    if any(isinstance(answer, NotImplementedError) for answer in received):
        return f"{name}: not done yet. Write it, run its cell again, then this one."
    wrong = [i for i in range(len(cases)) if not _same(received[i], right[i])]
    if not wrong:
        return f"{name}: right, in all {len(cases)} cases."
    first = wrong[0]
    shapes = ", ".join(f"{key} {np.shape(value)}" if np.ndim(value) else f"{key} = {value}"
                       for key, value in cases[first].items())
    text = f"{name}: not yet. With {shapes}: {_difference(received[first], right[first])}"
    for mistake, wrong_function in mistakes.items():
        answers = [_call(wrong_function, case) for case in cases]
        if all(map(_same, received, answers)) and not all(isinstance(answer, Exception) for answer in answers):
            return f"{text}\nThese are the answers that one gets if {mistake}."
    return text


def _call(function: Callable[..., Any], case: Mapping[str, Any]) -> Any:
    """The answer, an array; or the exception that it raised; or, if it changed an argument, a ValueError saying so."""
    given = {key: np.array(value) if np.ndim(value) else value for key, value in case.items()}
    try:
        answer = np.asarray(function(**given), dtype=np.float64)
    except Exception as error:
        return error
    changed = [key for key, value in case.items() if not np.array_equal(given[key], value)]
    return ValueError(f"it changes its argument {changed[0]}: make a new array instead") if changed else answer


def _same(received: Any, expected: Any) -> bool:
    if isinstance(received, Exception) or isinstance(expected, Exception):
        return isinstance(received, Exception) and type(received) is type(expected)
    return received.shape == expected.shape and bool(np.allclose(received, expected, rtol=1e-6, atol=1e-9))


def _difference(received: Any, expected: Any) -> str:
    if isinstance(received, Exception):
        return f"expected an array of shape {expected.shape}, got {type(received).__name__}: {received}"
    if received.shape != expected.shape:
        return f"expected an array of shape {expected.shape}, got shape {received.shape}."
    place = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(received - expected)), expected.shape))
    return f"at {list(place)} expected {expected[place]:.6g}, got {received[place]:.6g}."
