"""Several questions in a row: for the terminal, and as a box in a notebook."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

import numpy as np

from tinypeft.claims.ask import Session, in_notebook
from tinypeft.claims.practice.kinds import Kind, draw, find_kinds
from tinypeft.claims.questions import Question
from tinypeft.viz import QuestionBox


def series(kinds: Sequence[Kind], seed: int, count: int) -> Iterator[Question]:
    """Questions of these kinds in a drawn order, each kind once before any comes again; drawn as they are asked for."""
    rng = np.random.default_rng([seed, len(kinds)])
    order = rng.permutation(len(kinds))
    for number in range(count):
        if number and number % len(kinds) == 0:
            order = rng.permutation(len(kinds))
        yield draw(kinds[int(order[number % len(kinds)])].name, int(rng.integers(2**31)))


def new_seed() -> int:
    """One that nobody has chosen, short enough to be typed."""
    return secrets.randbelow(10**6)


def practice_box(topic: str | None = None, *, kinds: Sequence[str] = (), seed: int | None = None, count: int = 5,
                 tries: int = 1) -> QuestionBox:
    """Practice questions in a notebook, with buttons; the last line of a cell shows them.

    Args:
        topic: only questions of this topic; None for all.
        kinds: only these.
        seed: equal seeds give equal questions; None draws one, and prints it.
        count: how many are asked.
        tries: wrong answers that a question may have before its solution is shown.

    Raises:
        ValueError: an unknown topic or kind, or a number that cannot be.

    >>> practice_box("lora", kinds=["lora-matrix"], seed=2, count=1).answer("hint")  # the same without buttons
    Hint: A (r, in): 32 x 7,872.
    """
    found = find_kinds(topic, kinds)
    check_numbers(seed, count, tries)
    if seed is None:
        seed = new_seed()
        print(f"Seed {seed}: seed={seed} asks the same again.")
    return in_notebook(Session(series(found, seed, count), tries=tries, total=count))


def check_numbers(seed: int | None, count: int, tries: int) -> None:
    """Raise a ValueError for a number that cannot be."""
    for name, value, least in (("count", count, 1), ("seed", seed or 0, 0), ("tries", tries, 1)):
        if value < least:
            raise ValueError(f"{name} {value}: expected {least} or more")
