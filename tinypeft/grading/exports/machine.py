"""Grading on a machine that somebody else provides, where a student's files lie in a folder: one report, whatever they are."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tinypeft.grading.confine import as_nobody, can_confine
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.run import Report, grade_file, zero_report

MISSING = "missing-file"
UNGRADED = "not-graded"
MOST_SEARCHED = 1_000  # files in a submission that are looked at


def grade_folder(exercise: Exercise, folder: Path) -> Report:
    """Grade the exercise's file in a folder, confined where that is possible, with inputs that were never drawn before.

    A file that is not there, or that brings the grader down, gets no points, and is told why.
    """
    seed, confined = secrets.randbits(32), can_confine() is None
    try:
        return grade_file(exercise, find_file(exercise, folder), seed=seed, confined=confined)
    except FileNotFoundError as error:
        return zero_report(exercise, MISSING, str(error), seed=seed, confined=confined)
    except RuntimeError as error:
        return zero_report(exercise, UNGRADED, f"grading did not come to an end: {error}"[:1000], seed=seed, confined=confined)


def find_file(exercise: Exercise, folder: Path) -> Path:
    """The one file with the exercise's name: in the folder, or else somewhere below it.

    Raises:
        FileNotFoundError: there is none, or several below.
    """
    if os.path.lexists(folder / exercise.file):
        return folder / exercise.file
    found: list[Path] = []
    seen = 0
    for place, folders, names in os.walk(folder):  # which follows no links
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [Path(place, name) for name in names if name == exercise.file]
        seen += len(names)
        if seen > MOST_SEARCHED:
            break
    if len(found) != 1:
        raise FileNotFoundError(f"exercise {exercise.slug} asks for one file {exercise.file}; in what was handed in there are "
                                f"{len(found) or 'none'}")
    return found[0]


def circumstances(confined: bool) -> str:
    """How a submission was run, for those who rely on the marks.

    Args:
        confined: as the report says.
    """
    if confined:
        return "Run in a sandbox."
    if as_nobody():
        return ("Run without a sandbox, which this machine does not allow: as a user of its own, with limits on time and memory, "
                "but with the network, and with all in sight that every user may read.")
    return "Run without a sandbox, which this machine does not allow: with limits on time and memory only."


def spoken(test: str) -> str:
    """A test's name for people.

    >>> spoken("test_gradient_of_B")
    'gradient of B'
    """
    return test.removeprefix("test_").replace("_", " ")


__all__ = ["circumstances", "find_file", "grade_folder", "spoken"]
