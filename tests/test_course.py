"""The graders are graded: correct solutions in every style get all points, wrong ones fail exactly where they are wrong.

Every exercise that there is is tested, against its bank in tests/exercises; the last one, the capstone, has a bank of another
kind. How a solution is graded in a process of its own, and that this gives the same reports, is tested in test_grading.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tinypeft.commands import course_check
from tinypeft.commands.course_check import run_course_check
from tinypeft.grading.bank import BANKS, Bank, read_bank
from tinypeft.grading.contract import read_contract
from tinypeft.grading.course import CAPSTONE, RIGHT, Findings, complaints, mutation, right_scores, wrong_solutions
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import all_exercises, read_exercise

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


def check_wrong_solutions(slug: str, seeds: range, quick: bool) -> None:
    found, undiagnosed = wrong_solutions(bank_of(slug), grader_of(slug), seeds, quick)
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
def test_wrong_solutions_fail_their_tests_and_get_their_diagnosis(slug):
    check_wrong_solutions(slug, range(1), quick=True)


@every_exercise
def test_points_hints_sections_and_functions_fit_together(slug):
    assert complaints(EXERCISES[slug], bank_of(slug), grader_of(slug), CONTRACT[slug]) == []


@pytest.mark.slow
@every_exercise
def test_at_many_seeds(slug):
    found = scores(slug, MANY)
    assert found == {file: [100] * len(MANY) for file in found}
    check_wrong_solutions(slug, range(8), quick=False)  # exactly their tests, and no others


@pytest.mark.slow
@every_exercise
def test_mutants_are_killed_or_equivalent(slug):
    killed, survivors, stale = mutation(bank_of(slug), grader_of(slug), CONTRACT[slug])
    assert survivors == []
    assert stale == []
    assert killed > 0


# ---- would it be noticed? -------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
NAME = "04_lora"


class Copy:
    """Exercise 04 and its bank, copied to be broken."""

    def __init__(self, folder: Path):
        self.exercise, self.bank = folder / "exercises" / NAME, folder / "bank"
        shutil.copytree(ROOT / "exercises" / NAME, self.exercise)
        shutil.copytree(BANKS / NAME, self.bank)
        (folder / "lessons").mkdir()
        shutil.copy(ROOT / "lessons" / "outline.toml", folder / "lessons")

    def edit(self, file: Path, old: str, new: str) -> None:
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new), "utf-8")

    def complaints(self) -> list[str]:
        exercise = read_exercise(self.exercise)
        return complaints(exercise, read_bank(exercise, self.bank), DirectGrader(exercise), CONTRACT[NAME])


@pytest.fixture
def copied(tmp_path) -> Copy:
    return Copy(tmp_path)


def test_a_copy_is_as_good_as_the_original(copied):
    assert copied.complaints() == []


@pytest.mark.parametrize(("place", "old", "new", "complaint"), [
    (f"test_{NAME}.py", "def test_init", "def test_start", "test_start"),
    ("exercise.toml", "test_init = 10\ntest_forward = 20", "test_init = -10\ntest_forward = 40", "positive"),
    ("exercise.toml", "hints = [", 'hints = [ "One more.",', "4 hints"),
    ("exercise.toml", "hints = [\n", 'hints = [ " ", " ", " " ]\nothers = [\n', "with text"),
    ("exercise.toml", '"04_lora/zero-start"', '"04_lora/no-such-section"', "04_lora/no-such-section, which does not exist"),
    ("exercise.toml", '"04_lora/zero-start"', '"40_lora/zero-start"', "40_lora/zero-start, which does not exist"),
    ("exercise.toml", '"04_lora/zero-start"', '"05_intrinsic_dimension/Zero start"', "which does not exist"),
    ("exercise.toml", '"lora.sign"', '"lora.signs"', "lora.signs has a section, and the grader never names it"),
    ("exercise.toml", '"lora.sign" = "04_lora/first-step"\n', "", "lora.sign is named by the grader, and has no section"),
    ("exercise.toml", "[mistakes]", "[mistakes]\n[others]", "0 misconceptions"),
    ("lora.py", "W: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:\n    \"\"\"One",
     "A: np.ndarray, W: np.ndarray, B: np.ndarray, alpha: float) -> np.ndarray:\n    \"\"\"One", "the contract"),
    ("lora.py", "import numpy as np", "import numpy as np\nfrom tinypeft.peft import lora", "lora.py imports"),
    ("reference.py", "def merge(", "def merged(", "reference.py has no function merge"),
    ("right_loops.py", "import numpy as np", "import numpy as np\nimport reference", "right_loops.py imports"),
    ("bank.toml", "mistake = ", "# mistake = ", "0 wrong solutions with a diagnosis"),
    ("bank.toml", 'mistake = "lora.product"', 'mistake = "lora.other"', "lora.other, which has no section"),
])
def test_what_does_not_fit_is_complained_of(copied, place, old, new, complaint):
    file = (copied.exercise if (copied.exercise / place).exists() else copied.bank) / place
    copied.edit(file, old, new)
    found = copied.complaints()
    assert any(complaint in text for text in found), found


def test_too_few_solutions_are_complained_of(copied):
    (copied.bank / "right_loops.py").unlink()
    (copied.bank / "right_einsum.py").unlink()
    (copied.bank / "bank.toml").write_text('[one]\nedit = [["alpha", "beta"]]\nfails = ["test_forward"]\n')
    assert [text.partition(",")[0] for text in copied.complaints()] == [
        "2 correct solutions", "1 wrong solutions", "0 wrong solutions with a diagnosis"]


def judged(copied: Copy) -> tuple[dict[str, str], list[str]]:
    exercise = read_exercise(copied.exercise)
    bank = read_bank(exercise, copied.bank)
    few = ("no_scale", "sign_of_B", "seed_ignored")
    return wrong_solutions(replace(bank, wrong={name: bank.wrong[name] for name in few}), DirectGrader(exercise), [0, 1])


def test_a_wrong_solution_that_passes_or_fails_otherwise_is_found(copied):
    assert judged(copied) == ({"no_scale": "", "sign_of_B": "", "seed_ignored": ""}, [])
    copied.edit(copied.bank / "bank.toml", 'fails = ["test_forward"]\nmistake = "lora.no_scale"',
                'fails = ["test_forward", "test_count"]\nmistake = "lora.scale_twice"')
    copied.edit(copied.bank / "bank.toml", 'fails = ["test_gradient_of_B"]', 'fails = ["test_gradient_of_A"]')
    found, undiagnosed = judged(copied)
    assert found == {"no_scale": "passes test_count at seed 0", "seed_ignored": "",
                     "sign_of_B": "passes test_gradient_of_A and fails test_gradient_of_B too at seed 0"}
    assert undiagnosed == ["no_scale"]


def test_a_hole_in_a_grader_lets_mutants_survive(copied):
    """The gradient of B is no longer looked at. Of the reference only the gradients are mutated, which is quicker."""
    copied.edit(copied.exercise / f"test_{NAME}.py", '_gradient(submission, "B"', '_gradient(submission, "A"')
    copied.edit(copied.exercise / f"test_{NAME}.py", 'gradients("B")', 'gradients("A")')
    grader = DirectGrader(read_exercise(copied.exercise))
    grader.tests = {name: test for name, test in grader.tests.items() if "gradient" in name}
    text = (copied.bank / "reference.py").read_text("utf-8")
    small = copied.bank / "small.py"
    small.write_text("import numpy as np\n\n\n" + text[text.index("def lora_backward"):text.index("def merge")])
    bank = Bank((small,), {}, {"lora_backward['B']: sign flipped": "it is excused", "lora_backward: no such": "not there",
                               "lora_backward['A']: sign flipped": "but it is killed"})
    killed, survivors, stale = mutation(bank, grader, CONTRACT[NAME])
    assert killed > 0
    assert {"lora_backward['B']: upstream gradient ignored", "lora_backward['B']: axes reversed"} <= set(survivors)
    assert all("'B'" in name or name.startswith("lora_backward: u = ") or "A.T" in name or "gradients.T" in name
               for name in survivors)
    assert "lora_backward['B']: sign flipped" not in survivors
    assert ["no such" in text for text in stale] == [True, False]
    assert "lora_backward['A']: sign flipped" in stale[1]


# ---- the command ----------------------------------------------------------------------------------------------------

def test_the_command_prints_a_row_for_each_exercise(capsys):
    (found,) = run_course_check(["04"], seeds=1, mutants=False, output_format="markdown")
    printed = capsys.readouterr().out
    wrong, told = f"{len(found.wrong)}/{len(found.wrong)}", f"{found.diagnosed}/{found.diagnosed}"
    assert found.holds
    assert f"| 04_lora | {len(found.scores)} | 100 | 0 | {wrong} | {told} | - | fits |" in printed


def test_the_command_says_what_is_to_be_mended(capsys, monkeypatch):
    bad = Findings("04_lora", {"reference.py": [100, 90], "right_loops.py": [60, 60]}, 10,
                   {"a": "passes test_x at seed 0", "b": ""}, ["b"], 2, 7, ["f: x + 1 -> x - 1"], ["2 hints"])
    monkeypatch.setattr(course_check, "examine", lambda *_: bad)
    assert run_course_check(["04"], seeds=2, mutants=True, output_format="markdown") == [bad]
    printed = capsys.readouterr().out
    assert "| 04_lora | 2 | 60, 90, 100 | 10 | 1/2 | 1/2 | 6/7 | see below |" in printed
    for text in ("reference.py gets only 90 points at seed 1", "right_loops.py gets only 60 points at every seed",
                 "the stub gets 10 points", "the wrong solution a passes test_x", "the wrong solution b does not get",
                 "a mutant survives: f: x + 1 -> x - 1", "04_lora: 2 hints"):
        assert text in printed
    run_course_check(["04"], seeds=2, mutants=True, output_format="json")
    assert json.loads(capsys.readouterr().out)[0]["holds"] is False


def test_findings_hold_only_if_all_of_them_do():
    good = Findings("x", {"reference.py": [100]}, 0, {"a": ""}, [], 1, 3, [], [])
    assert good.holds
    for change in ({"scores": {"reference.py": [100, 95]}}, {"stub": 5}, {"wrong": {"a": "passes"}}, {"undiagnosed": ["a"]},
                   {"survivors": ["m"]}, {"complaints": ["c"]}):
        assert not replace(good, **change).holds


def test_bad_arguments_are_sentences(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'xml'; there are: table"):
        run_course_check(["04"], seeds=1, mutants=False, output_format="xml")
    with pytest.raises(ValueError, match="at least one"):
        run_course_check(["04"], seeds=0, mutants=False, output_format="table")
    with pytest.raises(ValueError, match="no exercise 'nothing'"):
        run_course_check(["nothing"], seeds=1, mutants=False, output_format="table")
    monkeypatch.setattr(course_check, "BANKS", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="in a clone"):
        run_course_check(["04"], seeds=1, mutants=False, output_format="table")
