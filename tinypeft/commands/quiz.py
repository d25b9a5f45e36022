"""`tinypeft quiz`: questions over five learning objectives, an explanation after each answer, a score for each objective."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tinypeft.claims.ask import Session, converse, say
from tinypeft.claims.quiz import FAMILIES, OBJECTIVES, QuizChoice, draw, find_families
from tinypeft.viz import Picture


def run_quiz(*, topic: str | None, seed: int | None, count: int, figures: Path | None, listing: bool = False) -> Session | None:
    """Ask, in a terminal or of lines from a pipe, and say how it went.

    Args:
        topic: a topic, a method, an objective ("1" to "5") or a family; None for all.
        seed: None for a new one, which is printed.
        count: questions.
        figures: folder to write figures to, as PNG files; without one they are described in words.
        listing: print what there is instead.

    Returns:
        The session when it is over; None for a list.

    Raises:
        ValueError: an unknown topic, a count below 1, or a negative seed.
    """
    if listing:
        print_families(topic)
        return None
    if seed is not None and seed < 0:
        raise ValueError(f"--seed {seed}: expected at least 0")
    if seed is None:
        seed = secrets.randbelow(10_000)
        print(f"Seed {seed}: --seed {seed} asks the same again.")
    session = Session(with_figures(draw(topic, count=count, seed=seed), figures))
    converse(session)
    for line in score(session):
        print(line)
    return session


def with_figures(questions: Iterator[QuizChoice], folder: Path | None) -> Iterator[QuizChoice]:
    """The questions, whose figures are written to a folder when they are drawn, and said to be there."""
    for question in questions:
        make = question.draw
        yield question if folder is None or make is None else replace(question, draw=partial(_saved, question, make, folder))


def _saved(question: QuizChoice, make: Callable[[], Picture], folder: Path) -> Picture:
    picture = make()
    folder.mkdir(parents=True, exist_ok=True)
    number = [sibling.kind for sibling in FAMILIES[question.family].questions].index(question.kind) + 1
    path = folder / f"{question.family}-{number}.png"
    path.write_bytes(picture.png())
    return replace(picture, alt=f"Figure: {path}\n{picture.alt}")


def score(session: Session) -> list[str]:
    """A line for each objective that was asked about."""
    results: dict[int, list[bool]] = {}
    for result in session.results:
        question: Any = result.question
        results.setdefault(question.objective, []).append(result.right)
    if not results:
        return []
    return ["By objective:", *(f"  {objective}. {OBJECTIVES[objective]}: {sum(right)} of {len(right)}"
                               for objective, right in sorted(results.items()))]


def print_families(topic: str | None) -> None:
    """What can be asked, by objective."""
    families = find_families(topic)
    for objective, title in OBJECTIVES.items():
        if found := [family for family in families if family.objective == objective]:
            say(f"{objective}. {title}")
            for family in found:
                tags = dict.fromkeys((family.topic, *family.methods, *family.also))
                say(f"  {family.name} ({', '.join(tags)}): {family.about}")
            print()
    say(f"{len(families)} of {len(FAMILIES)} families of questions. `tinypeft quiz NAME` takes a family, one of the words "
        "beside it, or the number of an objective.")
