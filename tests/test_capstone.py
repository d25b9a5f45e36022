"""The capstone: honest adapters of three methods get all points, others fail exactly where they are wrong, and a zip that was made
to do harm does none.

Most of it uses one adapter that is trained for a moment; what needs trained ones, and so minutes, is marked slow.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinypeft.commands.course import run_start, run_test
from tinypeft.grading import capstone, evaluator
from tinypeft.grading.bank import BANKS
from tinypeft.grading.capstone import Adapter, HandedIn, read_holdout
from tinypeft.grading.confine import can_confine
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.process import Failure, Limits
from tinypeft.grading.run import grade_file
from tinypeft.grading.submission import Wrong
from tinypeft.training import surnames, us_surnames

EXERCISE = find_exercise("14")
FOLDER = BANKS / EXERCISE.slug
GRADER = DirectGrader(EXERCISE)
EXPECTED = tomllib.loads((FOLDER / "bank.toml").read_text("utf-8"))
POLISH = surnames("polish")


@cache
def bank() -> Any:
    spec = importlib.util.spec_from_file_location("capstone_bank", FOLDER / "bank.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Here:
    """Evaluates in this process, which is quicker: for adapters that we made ourselves."""

    def call(self, function: str, *arguments: Any) -> Any:
        try:
            return getattr(evaluator, function)(*arguments)
        except Exception as error:
            raise Failure("error", f"{type(error).__name__}: {error}") from error


def judged(file: Path, holdout: list[str] | None = None, *, here: bool = True, confined: bool = False
           ) -> dict[str, tuple[bool, str, str | None]]:
    """Test -> whether it passes, what it says, and which mistake it names."""
    found = {}
    handed_in = HandedIn(file, confined, holdout)
    worker = handed_in._worker
    if here:
        handed_in._worker = Here()
    try:
        for name, test in GRADER.tests.items():
            said: list[str] = []
            try:
                test(Adapter(handed_in, EXERCISE, said.append))
                found[name] = True, " ".join(said), None
            except Wrong as wrong:
                found[name] = False, str(wrong), wrong.mistake
    finally:
        worker.close()
    return found


def failed(found: dict[str, tuple[bool, str, str | None]]) -> list[str]:
    return [name for name, (passed, _, _) in found.items() if not passed]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of an adapter that has seen Polish names for a moment: it has learned a little, and forgotten a little."""
    return bank().trained(tmp_path_factory.mktemp("trained"), POLISH.train, 2e-2, 100)


@pytest.fixture
def made(trained, tmp_path):
    return lambda name: bank().make(name, trained, tmp_path)


# ---- the bank -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_wrong_fails_where_it_is_wrong(name, made):
    found = judged(made(name))
    assert failed(found) == EXPECTED[name]["fails"], found
    assert EXPECTED[name]["mistake"] in [mistake for _, _, mistake in found.values()], found


def test_the_bank_is_whole():
    assert set(EXPECTED) == set(bank().MAKERS)
    assert {one["mistake"] for one in EXPECTED.values()} >= {f"capstone.{kind}" for kind in (
        "untrained", "forgets", "over_budget", "not_finite", "too_large", "wrong_base", "unfit", "files")}


def test_points_hints_and_sections_fit_together():
    assert set(EXERCISE.points) == set(GRADER.tests)
    assert len(EXERCISE.hints) == 3
    assert all(EXERCISE.hints)
    ids = set(re.findall(r'"(capstone\.\w+)"', EXERCISE.grader.read_text("utf-8")))
    ids |= {f"capstone.{kind}" for kind in re.findall(r'_wrong\(.*?"(\w+)"\)', Path(capstone.__file__).read_text("utf-8"), re.S)}
    assert ids == set(EXERCISE.mistakes)
    lessons = tomllib.loads((EXERCISE.folder.parents[1] / "lessons" / "outline.toml").read_text("utf-8"))["lessons"]
    sections = {f"{lesson['slug']}/{section['id']}" for lesson in lessons for section in lesson.get("sections", [])}
    assert set(EXERCISE.mistakes.values()) <= sections
    assert {"slug": "14_capstone", "exercise_only": True}.items() <= lessons[-1].items()
