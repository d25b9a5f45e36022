"""Grading one submission: the packaged grader in an interpreter of our own, and a neutral report of what it found.

Nothing of the learner's is in that interpreter: not their folder, their conftest.py, their PYTHONPATH or their PYTEST_ADDOPTS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinypeft.grading import PUBLIC_SEED
from tinypeft.grading.confine import as_nobody
from tinypeft.grading.exercise import TOTAL, Exercise

NOT_RUN = "not-run"  # the mistake of a test that was left out
PATIENCE = 120.0  # seconds for a whole run, whose calls have limits of their own
UNUSED = ("cacheprovider", "debugging", "doctest", "faulthandler", "junitxml", "legacypath", "pastebin", "setuponly",
          "setupplan", "stepwise", "unittest")  # parts of pytest, which take time to load


def spoken(test: str) -> str:
    """A test's name for people.

    >>> spoken("test_gradient_of_B")
    'gradient of B'
    """
    return test.removeprefix("test_").replace("_", " ")


@dataclass(frozen=True)
class TestResult:
    """One test: its points or none of them."""

    name: str
    points: int
    max: int
    passed: bool
    message: str
    mistake: str | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """What became of a submission.

    Attributes:
        printed: the end of what the submission printed, for its author.
    """

    exercise: str
    title: str
    seed: int | None
    confined: bool
    score: int
    max: int
    tests: tuple[TestResult, ...]
    version: str
    printed: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def grade_file(exercise: Exercise, file: Path, *, seed: int = PUBLIC_SEED, confined: bool = False,
               tests: Sequence[str] = (), holdout: Path | None = None) -> Report:
    """Run an exercise's grader on a file.

    Args:
        seed: inputs are drawn from it.
        confined: in a sandbox; see confine.py.
        tests: only these; none for all.
        holdout: a file of names, one a line, that are not shipped: for an exercise in which an adapter is handed in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names that cannot be used, or an exercise that has no use for them.
        RuntimeError: the grader itself did not run, or did not end.
    """
    if not file.is_file():
        how = f": {exercise.made_by}, which is beside it, makes it" if exercise.made_by else ""
        raise FileNotFoundError(f"there is no file {file} to grade{how}")
    if holdout is not None:
        check_holdout(exercise, holdout)
    with tempfile.TemporaryDirectory(prefix="tinypeft-grading-") as folder:
        if as_nobody():
            os.chmod(folder, 0o711)  # the way to the worker's folder
        report = Path(folder) / "report.json"
        names = [f"{exercise.grader}::{test}" for test in tests] or [str(exercise.grader)]
        command = [sys.executable, "-I", "-B", "-m", "pytest", "-q", "--noconftest", "-c", os.devnull, "--rootdir", folder,
                   "--confcutdir", str(exercise.grader.parent),  # or pytest looks at all that lies in the folders above
                   *(f"-pno:{name}" for name in UNUSED), "-p", "tinypeft.grading.plugin", "--import-mode=importlib",
                   "--assert=plain", "--submission", str(file.absolute()), "--grading-seed", str(seed),
                   "--grading-report", str(report), *names,
                   *(["--confined"] if confined else []), *(["--holdout", str(holdout.absolute())] if holdout else [])]
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith(("PYTEST_", "PYTHON"))}
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1",  # other plugins take seconds to load
                        "TMPDIR": folder}  # what is left over after a kill goes with it
        try:
            done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                  encoding="utf-8", errors="replace", check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the grader of {exercise.slug} had not ended after {PATIENCE:g} s") from None
        if not report.exists():
            raise RuntimeError(f"the grader of {exercise.slug} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    rows = content["tests"]
    found = tuple(_result(name, points, rows.get(name)) for name, points in exercise.points.items())
    return Report(exercise.slug, exercise.title, seed, confined, sum(test.points for test in found), TOTAL, found,
                  version("tinypeft"), content["printed"])


def check_holdout(exercise: Exercise, holdout: Path) -> None:
    """Raise a ValueError for names that cannot be used, or an exercise that has no use for them."""
    if exercise.made_by is None:
        raise ValueError(f"names that are not shipped ({holdout}) are for the capstone, whose adapters are graded with names; "
                         f"{exercise.slug} takes none")
    from tinypeft.grading.capstone import read_holdout

    read_holdout(holdout)


def zero_report(exercise: Exercise, mistake: str, message: str, *, seed: int | None = None, confined: bool = False) -> Report:
    """The report of what could not be graded: no points, the same total as always, and in each test why."""
    tests = tuple(TestResult(name, 0, points, False, message, mistake, 0.0) for name, points in exercise.points.items())
    return Report(exercise.slug, exercise.title, seed, confined, 0, TOTAL, tests, version("tinypeft"))


def _result(name: str, points: int, row: dict[str, Any] | None) -> TestResult:
    if row is None:
        return TestResult(name, 0, points, False, "not run", NOT_RUN, 0.0)
    return TestResult(name, points if row["passed"] else 0, points, row["passed"], row["message"], row["mistake"],
                      round(row["seconds"], 3))
