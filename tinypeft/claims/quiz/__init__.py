"""The quiz: questions over five learning objectives, every number in them computed. `tinypeft quiz --list`.

    draw("qlora", count=5, seed=0)      five questions on a topic, a method, an objective or a family

Questions come in families that share their options (family.py); two of one family are drawn only when no other is left.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tinypeft.claims.quiz import (  # noqa: F401  (they enter their families)
    counting,
    design,
    four_bits,
    low_rank,
    mechanisms,
    starting,
    training_memory,
)
from tinypeft.claims.quiz.family import FAMILIES, OBJECTIVES, Family, QuizChoice
from tinypeft.nn import generator
from tinypeft.nn.module import near

__all__ = ["FAMILIES", "OBJECTIVES", "Family", "QuizChoice", "all_questions", "draw", "find_families"]


def all_questions() -> tuple[QuizChoice, ...]:
    """All of them, by objective, options in the order of their tables; computed once, in a few seconds."""
    families = sorted(FAMILIES.values(), key=lambda family: family.objective)
    return tuple(question for family in families for question in family.questions)


def find_families(topic: str | None) -> list[Family]:
    """The families on a topic.

    Args:
        topic: a topic, a method, an objective ("1" to "5"), or a family's name; None for all.

    Raises:
        ValueError: none of these; near names are listed.
    """
    def names(family: Family) -> set[str]:
        return {family.topic, *family.methods, *family.also, str(family.objective), family.name}

    found = [family for family in FAMILIES.values() if topic is None or topic.strip().lower() in names(family)]
    if not found:
        known = sorted({name for family in FAMILIES.values() for name in names(family) - {family.name}})
        hint = near(str(topic).lower(), {*known, *FAMILIES})
        raise ValueError(f"no question is on {topic!r}; " + (f"near: {', '.join(hint)}. " if hint else "")
                         + f"Topics, methods and objectives: {', '.join(known)}")
    return found


def draw(topic: str | None = None, *, count: int = 10, seed: int = 0) -> Iterator[QuizChoice]:
    """Questions in an order, and with options in an order, that follow from the seed.

    Objectives take turns, and so do families. A family is computed when a question of it is taken, so that the first is there
    at once.

    Args:
        topic: see `find_families`.
        count: how many at most.

    Raises:
        ValueError: an unknown topic, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: expected at least 1 question")
    families = find_families(topic)
    random = generator(seed, "quiz", "draw")
    families = [families[i] for i in random.permutation(len(families))]
    turn = {family.name: [f.objective for f in families[:i]].count(family.objective) for i, family in enumerate(families)}
    first = [int(objective) for objective in random.permutation(sorted(OBJECTIVES))]
    families.sort(key=lambda family: (turn[family.name], first.index(family.objective)))
    return _taken(families, topic, count, seed)


def _taken(families: list[Family], topic: str | None, count: int, seed: int) -> Iterator[QuizChoice]:
    """A question of each family, then a second of each, and so on."""
    taken = 0
    for turn in itertools.count():
        before = taken
        for family in families:
            questions = _on_topic(family, topic)
            if turn < len(questions):
                order = generator(seed, "quiz", family.name).permutation(len(questions))
                yield questions[order[turn]].shuffle(seed)
                taken += 1
            if taken == count:
                return
        if taken == before:
            return


def _on_topic(family: Family, topic: str | None) -> list[QuizChoice]:
    """A family's questions; of those of a method, what is about it."""
    name = str(topic).strip().lower()
    by_method = name in {*family.methods, *family.also} - {family.topic}
    return [question for question in family.questions if not by_method or name in question.methods]
