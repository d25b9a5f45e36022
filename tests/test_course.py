"""The graders are graded: correct solutions in every style get all points, wrong ones fail exactly where they are wrong.

Every exercise that there is is tested, against its bank in tests/exercises; the last one, the capstone, has a bank of another
kind. How a solution is graded in a process of its own, and that this gives the same reports, is tested in test_grading.py.
"""

from __future__ import annotations

from functools import cache

import pytest

from tinypeft.grading.bank import BANKS, Bank, read_bank
from tinypeft.grading.contract import read_contract
from tinypeft.grading.course import CAPSTONE, RIGHT, complaints, mutation, right_scores, wrong_solutions
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import all_exercises

EXERCISES = {slug: exercise for slug, exercise in all_exercises().items() if slug != CAPSTONE}
CONTRACT = read_contract()
QUICK, MANY = range(3), range(3, 20)  # seeds

every_exercise = pytest.mark.parametrize("slug", EXERCISES)


@cache
def bank_of(slug: str) -> Bank:
    return read_bank(EXERCISES[slug])


@cache
def grader_of(slug: str) -> DirectGrader:
    return DirectGrader(EXERCISES[slug])


def scores(slug: str, seeds: range) -> dict[str, list[int]]:
    return {file.name: right_scores(grader_of(slug), file, seeds) for file in bank_of(slug).right}


def check_wrong_solutions(slug: str, seeds: range) -> None:
    found, undiagnosed = wrong_solutions(bank_of(slug), grader_of(slug), seeds)
    assert {name: unlike for name, unlike in found.items() if unlike} == {}
    assert undiagnosed == []


def test_there_are_exercises():
    assert "04_lora" in EXERCISES
    assert set(EXERCISES) <= set(CONTRACT)
    assert {path.name for path in BANKS.iterdir() if (path / "bank.toml").exists()} - {CAPSTONE} == set(EXERCISES)


@every_exercise
def test_correct_solutions_get_all_points(slug):
    found = scores(slug, QUICK)
    assert found == {file: [100] * len(QUICK) for file in found}
    assert len(found) >= RIGHT


@every_exercise
def test_the_stub_gets_none(slug):
    exercise = EXERCISES[slug]
    (report,) = grader_of(slug).grade(exercise.folder / exercise.file, [0], trusted=True)
    assert report.score == 0
    assert {test.mistake for test in report.tests} == {"not-implemented"}


@every_exercise
def test_wrong_solutions_fail_exactly_their_tests_and_get_their_diagnosis(slug):
    check_wrong_solutions(slug, range(1))


@every_exercise
def test_points_hints_sections_and_functions_fit_together(slug):
    assert complaints(EXERCISES[slug], bank_of(slug), grader_of(slug), CONTRACT[slug]) == []


@pytest.mark.slow
@every_exercise
def test_at_many_seeds(slug):
    found = scores(slug, MANY)
    assert found == {file: [100] * len(MANY) for file in found}
    check_wrong_solutions(slug, MANY[:4])


@pytest.mark.slow
@every_exercise
def test_mutants_are_killed_or_equivalent(slug):
    killed, survivors, stale = mutation(bank_of(slug), grader_of(slug), CONTRACT[slug])
    assert survivors == []
    assert stale == []
    assert killed > 0
