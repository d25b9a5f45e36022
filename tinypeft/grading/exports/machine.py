"""Grading on a machine that somebody else provides, where a student's files lie in a folder: one report, whatever they are."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.grading.archive import read_file, unreadable
from tinypeft.grading.capstone import FILES
from tinypeft.grading.collect import MOST_BYTES, NoSuchFile, in_folder
from tinypeft.grading.confine import as_nobody, can_confine
from tinypeft.grading.exercise import Exercise, find_exercise
from tinypeft.grading.exports.wheel import write_zip
from tinypeft.grading.marks import warning
from tinypeft.grading.run import Report, grade_file, zero_report


def grade_folder(exercise: Exercise, folder: Path) -> Report:
    """Grade the exercise's file in a folder, confined where that is possible, with inputs that were never drawn before.

    Raises:
        RuntimeError: tinypeft is installed where no submission could run.
    """
    if as_nobody() and can_confine() is not None and (closed := _closed()):
        raise RuntimeError(f"every user has to be able to enter {closed}, or submissions could not import NumPy: install "
                           "Python and tinypeft elsewhere, such as in /opt")
    try:
        content = _handed_in(folder, exercise)
    except (ValueError, OSError) as error:
        return zero_report(exercise, "no-submission", unreadable(error), confined=can_confine() is None)
    return grade_content(exercise, content, seed=secrets.randbits(32), confined=can_confine() is None)


def grade_content(exercise: Exercise, content: bytes, *, seed: int, confined: bool) -> Report:
    """Grade a file that was read already. One that brings the grader down gets no points, and is told why."""
    with tempfile.TemporaryDirectory(prefix="tinypeft-") as folder:
        file = Path(folder, exercise.file)
        file.write_bytes(content)
        try:
            return grade_file(exercise, file, seed=seed, confined=confined)
        except RuntimeError as error:
            return zero_report(exercise, "not-graded", str(error)[:1000], seed=seed, confined=confined)


def _closed() -> Path | None:
    """A folder on the way to Python's files or to NumPy's that not every user may enter."""
    ways = [path for file in (os.__file__, np.__file__) for path in Path(file).resolve().parents]
    return next((path for path in reversed(ways) if path.stat().st_mode & 0o1 == 0), None)


def _handed_in(folder: Path, exercise: Exercise) -> bytes:
    """The exercise's file; the capstone's zip is packed again where a system has unpacked it."""
    try:
        return in_folder(folder, exercise)[1]
    except NoSuchFile:
        if not exercise.file.endswith(".zip") or not {path.name for path in folder.iterdir()} >= FILES:
            raise
    files = {name: read_file(folder / name, MOST_BYTES) for name in FILES}
    with tempfile.TemporaryDirectory(prefix="tinypeft-") as temporary:
        write_zip(Path(temporary, "packed.zip"), files)
        return Path(temporary, "packed.zip").read_bytes()


def circumstances(report: Mapping[str, Any]) -> str:
    """How a submission was run, and what decided, for those who rely on the marks.

    Args:
        report: of run.py, as a dict.
    """
    exercise = find_exercise(report["exercise"])
    return f"{_confinement(exercise, report['confined'])} {warning(exercise, holdout=None)}".rstrip()


def _confinement(exercise: Exercise, confined: bool) -> str:
    if confined:
        return "Run in a sandbox."
    if as_nobody() and exercise.file.endswith(".zip"):  # tinypeft may be closed to all but root
        return ("Read without a sandbox, which this machine does not allow: by tinypeft, in a process of its own, as root, "
                "with limits on time and memory. An adapter is data; none of it is run.")
    if as_nobody():
        return ("Run without a sandbox, which this machine does not allow: as a user of its own, with limits on time and "
                "memory, but with the network, and with all in sight that every user may read.")
    return "Run without a sandbox, which this machine does not allow: with limits on time and memory only."


__all__ = ["circumstances", "grade_content", "grade_folder"]
