"""`tinypeft course-check`: the graders, graded. A row for each exercise, and what is to be mended below."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from tinypeft.commands.tables import print_table, print_text
from tinypeft.grading.bank import BANKS
from tinypeft.grading.course import CAPSTONE, Findings, examine
from tinypeft.grading.exercise import TOTAL, all_exercises, find_exercise

FORMATS = ("table", "markdown", "json")
HEADER = ["exercise", "correct", "their scores", "stub", "wrong, rejected", "diagnosed", "mutants killed", "else"]


def run_course_check(names: Sequence[str], *, seeds: int, mutants: bool, output_format: str) -> list[Findings]:
    """Examine and print.

    Args:
        names: of exercises; none for all, but for the capstone, whose solutions are adapters.
        seeds: 0, 1, ..., so many.

    Raises:
        ValueError: an unknown exercise or format, the capstone, or no seed.
        FileNotFoundError: not in a clone, or an exercise has no bank.
    """
    from tqdm import tqdm

    if output_format not in FORMATS:
        raise ValueError(f"unknown format {output_format!r}; there are: {', '.join(FORMATS)}")
    if seeds < 1:
        raise ValueError(f"--seeds {seeds}: at least one is needed")
    if not BANKS.is_dir():
        raise FileNotFoundError("course-check needs the solutions that graders are tested with, which are not installed with "
                                f"tinypeft. Run it in a clone of its repository (looked for {BANKS})")
    chosen = [find_exercise(name) for name in names] or [one for slug, one in all_exercises().items() if slug != CAPSTONE]
    if any(exercise.slug == CAPSTONE for exercise in chosen):
        raise ValueError(f"{CAPSTONE} has no functions, but adapters: `pytest -m slow tests/test_capstone.py` trains some, and "
                         "grades its grader with them")
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of graders that ask what a mutant's mistake would give
        for exercise in tqdm(chosen, unit="exercise", leave=False, disable=len(chosen) == 1):
            found.append(examine(exercise, range(seeds), mutants))
    if output_format == "json":
        print(json.dumps([asdict(one) | {"holds": one.holds} for one in found], indent=2))
        return found
    markdown = output_format == "markdown"
    print_table(HEADER, [_row(one) for one in found], 0, markdown)
    for one in found:
        for text in _to_be_mended(one):
            print_text(f"{one.exercise}: {text}", markdown)
    print_text(f"Correct solutions: at {seeds} seeds; wrong ones at the first three. They are rejected if they fail exactly "
               "the tests that their bank names, and diagnosed if the right mistake is named. Equivalent mutants are left out.",
               markdown)
    return found


def _row(one: Findings) -> list[str]:
    scores = sorted({score for scores in one.scores.values() for score in scores})
    killed = "-" if one.mutants is None else f"{one.mutants - len(one.survivors)}/{one.mutants}"
    return [one.exercise, str(len(one.scores)), ", ".join(map(str, scores)), str(one.stub), f"{one.rejected}/{len(one.wrong)}",
            f"{one.diagnosed - len(one.undiagnosed)}/{one.diagnosed}", killed, "see below" if one.complaints else "fits"]


def _to_be_mended(one: Findings) -> Iterator[str]:
    for file, scores in one.scores.items():
        if missed := [seed for seed, score in enumerate(scores) if score != TOTAL]:
            where = "every seed" if len(missed) == len(scores) else f"seed {', '.join(map(str, missed))}"
            yield f"the correct solution {file} gets only {min(scores)} points at {where}"
    if one.stub:
        yield f"the stub gets {one.stub} points"
    yield from (f"the wrong solution {name} {unlike}" for name, unlike in one.wrong.items() if unlike)
    yield from (f"the wrong solution {name} does not get its diagnosis" for name in one.undiagnosed)
    yield from (f"a mutant survives: {name}" for name in one.survivors)
    yield from one.complaints
