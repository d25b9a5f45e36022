"""The learner's commands: a folder that is never overwritten, a record that survives, grading, hints, solutions."""

import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from tinypeft import cli
from tinypeft.commands import course as commands, doctor
from tinypeft.commands.course import course_files, run_hint, run_list, run_reset, run_start, run_test, run_watch, tasks
from tinypeft.commands.course_report import not_enforced, report_text
from tinypeft.commands.solution import LIBRARY, library_code, run_solution, solution_file
from tinypeft.grading.differences import differing_arrays
from tinypeft.grading.exercise import all_exercises, exercises_folder, find_exercise
from tinypeft.grading.progress import FILE, Course, Progress, find_course, is_course
from tinypeft.grading.run import Report, TestResult as Result
from tinypeft.viz.grading import plot_difference

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
LORA = find_exercise("04")
NO_SCALE = "def lora_forward(x, W, A, B, alpha):\n    return x @ W.T + x @ A.T @ B.T\n"


@pytest.fixture
def course(tmp_path, monkeypatch) -> Course:
    made = run_start(tmp_path / "course")
    monkeypatch.chdir(made.root)
    return made


def report(score: int = 0, **result) -> Report:
    passed = score == 100
    row = {"name": "test_forward", "points": score, "max": 100, "passed": passed, "message": "", "mistake": None, "seconds": 0}
    return Report("04_lora", "LoRA by hand", 0, False, score, 100, (Result(**row | result),), "0.1.0")


@pytest.fixture
def scores(monkeypatch) -> list:
    """Grading gives these scores, one after the other; graded files are kept in `scores.files`."""
    class Scores(list):
        def __init__(self):
            super().__init__()
            self.files = []

    given = Scores()

    def grade(exercise, file, *, seed=0):
        given.files.append(file.read_text())
        return report(given.pop(0))

    monkeypatch.setattr(commands, "grade_file", grade)
    return given


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_learner_gets_notebooks_and_stubs_and_no_answers(course):
    files = {path.relative_to(course.root).as_posix() for path in course.root.rglob("*") if path.is_file()}
    stubs = {f"exercises/{slug}/{exercise.file}" for slug, exercise in all_exercises().items()
             if (exercise.folder / exercise.file).is_file()}
    assert stubs | {"lessons/04_lora.ipynb", "exercises/README.md", FILE} <= files
    assert [file for file in files if "test_" in file or file.endswith(".toml") or "CONTRACT" in file] == []
    assert course.file(LORA).read_bytes() == (LORA.folder / "lora.py").read_bytes()
    assert all("raise NotImplementedError" in (course.root / stub).read_text() for stub in stubs if stub.endswith(".py"))


def test_a_second_start_adds_what_is_missing_and_overwrites_nothing(course, capsys):
    course.file(LORA).write_text("# mine")
    (course.root / "lessons/04_lora.ipynb").unlink()
    course.remember(LORA, Progress(runs=1))
    run_start(course.root)
    assert course.file(LORA).read_text() == "# mine"
    assert (course.root / "lessons/04_lora.ipynb").is_file()
    assert course.of(LORA) == Progress(runs=1)
    capsys.readouterr()
    run_start(course.root)
    assert "Nothing was missing" in capsys.readouterr().out


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="may hold work of yours: name another folder"):
        run_start(tmp_path)
    with pytest.raises(FileExistsError, match="exists already"):
        run_start(tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert run_start(tmp_path / "empty").file(LORA).is_file()


def test_an_interrupted_start_is_completed_by_the_next(tmp_path, monkeypatch):
    copy, left = shutil.copyfile, [2]

    def interrupted(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_start(tmp_path / "course")
    monkeypatch.undo()
    run_start(tmp_path / "course")
    for place, source in course_files().items():
        assert (tmp_path / "course" / place).read_bytes() == source.read_bytes()
    assert not list((tmp_path / "course").rglob("*.tmp"))


def test_a_course_is_found_from_below_and_a_checkout_is_none(course, tmp_path):
    assert find_course(course.file(LORA).parent) == Course(course.root.resolve())
    assert find_course(tmp_path) is None
    course.record.unlink()
    assert is_course(course.root)
    assert not is_course(exercises_folder().parent)
    assert find_course(exercises_folder() / "04_lora") is None


# --- the record ------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 10**6)


@given(st.dictionaries(st.sampled_from([*all_exercises(), "99_later"]),
                       st.builds(Progress, runs=NUMBERS, last=NUMBERS, best=NUMBERS, hints=NUMBERS, solution=st.booleans())))
def test_what_is_written_is_read_again(tmp_path_factory, progress):
    course = Course(tmp_path_factory.getbasetemp() / "written")
    course.write(progress)
    assert course.progress() == progress


def test_one_exercise_is_remembered_beside_the_others(course):
    course.write({"99_later": Progress(best=7)})
    course.remember(LORA, Progress(hints=1))
    assert course.progress() == {"99_later": Progress(best=7), "04_lora": Progress(hints=1)}
    assert json.loads(course.record.read_text())["exercises"]["99_later"] == asdict(Progress(best=7))


def content(**values) -> str:
    return json.dumps({"format": 1, "exercises": {"04_lora": values}})


@pytest.mark.parametrize(("text", "why"), [
    ('{"format": 1, "exerc', "line 1"),
    ("", "not valid JSON"),
    ("[]", 'expected "format": 1'),
    ('{"exercises": {}}', 'expected "format": 1'),
    ('{"format": 1, "exercises": []}', 'a dict "exercises"'),
    ('{"format": 1, "exercises": {"04_lora": 100}}', "04_lora is to be a dict"),
    (content(best="100"), "best is '100', expected int, at least 0"),
    (content(best=-1), "best is -1"),
    (content(runs=True), "runs is True"),
    (content(solution=1), "solution is 1, expected bool"),
    (content(points=5), "some of runs, last, best, hints, solution"),
])
def test_a_record_that_cannot_be_read_is_an_error_and_stays(course, scores, text, why):
    course.record.write_text(text)
    for command in (lambda: run_hint("04"), lambda: run_list(), lambda: run_start(course.root), lambda: run_test("04"),
                    lambda: run_solution("04"), lambda: course.remember(LORA, Progress())):
        with pytest.raises(ValueError, match="cannot be read") as error:
            command()
        assert why in str(error.value)
        assert "delete it to begin a new record" in str(error.value)
    assert course.record.read_text() == text
    course.record.unlink()
    run_hint("04")
    assert course.of(LORA) == Progress(hints=1)


def test_a_newer_record_says_so(course):
    course.record.write_text('{"format": 2, "chapters": {}}')
    with pytest.raises(ValueError, match=r"newer tinypeft \(format 2; this one knows 1\): install the newer one again"):
        course.progress()


def test_a_crash_while_writing_keeps_the_old_record(course, monkeypatch):
    course.remember(LORA, Progress(best=45))
    before = course.record.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no power")))
    with pytest.raises(OSError, match="no power"):
        course.remember(LORA, Progress(best=100))
    assert course.record.read_bytes() == before
    assert [path.name for path in course.root.iterdir() if path.suffix == ".tmp"] == []


# --- grading ---------------------------------------------------------------------------------------------------------


def test_a_solution_has_all_points_and_opens_ours(course, capsys):
    with pytest.raises(ValueError, match="opens after 100 of 100 points, and it has not been graded yet"):
        run_solution("04")
    shutil.copyfile(solution_file(LORA), course.file(LORA))
    (found,) = run_test()
    assert (found.score, found.exercise) == (100, "04_lora")
    assert course.of(LORA) == Progress(runs=1, last=100, best=100)
    printed = capsys.readouterr().out
    assert "100 of 100 points" in printed
    assert "solution 04" in printed
    assert "Not enforced here" in printed
    run_solution("04")
    printed = capsys.readouterr().out
    assert solution_file(LORA).read_text().strip() in printed
    assert "In the library: tinypeft/peft/lora.py, LoraLayer" in printed
    assert "def delta_weight" in printed
    assert course.of(LORA).solution


def test_a_mistake_is_told_with_its_section_and_drawn(course, capsys):
    course.file(LORA).write_text(NO_SCALE + "def merge(W, A, B, alpha):\n    return W.T\n")
    (found,) = run_test("lora", plot=Path("pictures"))
    assert found.score == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "It looks as if the factor alpha / r is missing. See lesson 04_lora, section scaling." in printed
    assert "lora_backward: not there" in printed
    shown = " ".join(re.search(r"^    forward +0 of 20 .*?\n\n", README, flags=re.M | re.S)[0].split())
    assert shown in printed
    assert [path.name for path in Path("pictures").iterdir()] == ["04_lora-test_forward.png"]  # merge has another shape
    assert "24 of 24 numbers differ" in printed


def test_the_arrays_that_are_drawn_are_those_of_the_grader(tmp_path):
    file = tmp_path / "lora.py"
    file.write_text(NO_SCALE)
    (test, (received, expected)), = differing_arrays(LORA, file, ["test_init", "test_forward", "test_merge"], 0).items()
    assert test == "test_forward"
    assert received.shape == expected.shape
    assert not np.allclose(received, expected)


def test_what_the_code_prints_is_shown(course, capsys):
    course.file(LORA).write_text("def merge(W, A, B, alpha):\n    print('W is', W.shape)\n    return W\n")
    run_test("04")
    printed = capsys.readouterr().out
    assert "    Your code printed:\n        W is (4, 5)\n        W is (6, 3)\n" in printed


def test_json_is_all_that_is_printed(course, capsys):
    course.file(LORA).write_text(NO_SCALE)
    run_test("04", output_format="json", plot=course.root / "pictures")
    streams = capsys.readouterr()
    (found,) = json.loads(streams.out)
    assert found["tests"][1]["mistake"] == "lora.no_scale"
    assert "numbers differ" in streams.err
    assert course.of(LORA).runs == 1
    with pytest.raises(ValueError, match="expected one of table, json"):
        run_test("04", output_format="xml")


def test_points_are_remembered_and_the_best_ones_kept(course, scores, capsys):
    for score in (40, 70, 20):
        scores.append(score)
        run_test("04")
    assert course.of(LORA) == Progress(runs=3, last=20, best=70)
    assert "20 of 100 points (before: 70, best: 70)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="your best run so far has 70"):
        run_solution("04")


def test_points_are_remembered_before_anything_is_printed(course, scores, monkeypatch):
    monkeypatch.setattr(commands, "report_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    scores.append(30)
    with pytest.raises(KeyboardInterrupt):
        run_test("04")
    assert course.of(LORA).best == 30


def test_without_a_name_what_was_begun_is_graded(course, scores):
    with pytest.raises(ValueError, match="no exercise in .* has been begun"):
        run_test()
    course.file(LORA).write_text("# begun")
    assert [task.exercise.slug for task in tasks(None, None, course.root)] == ["04_lora"]
    other = next(one for slug, one in all_exercises().items() if slug != "04_lora")
    assert [task.exercise.slug for task in tasks(None, None, course.file(other).parent)] == [other.slug]  # its folder
    assert [task.exercise.slug for task in tasks("04", None, course.file(other).parent)] == ["04_lora"]


def test_a_file_outside_of_a_course_is_graded_and_not_remembered(course, scores, tmp_path):
    scores += [10, 20, 25, 30]
    file = tmp_path / "lora.py"
    file.write_text("# outside")
    run_test(file=file)
    run_test("04", place=tmp_path)
    shutil.copyfile(file, course.file(LORA).with_name("draft.py"))
    run_test("04", file=course.file(LORA).with_name("draft.py"))  # in the course, but not its file
    assert course.progress() == {}
    run_test("04", file=course.file(LORA))  # the course's own, under its path
    assert course.of(LORA).runs == 1
    assert scores.files[:2] == ["# outside"] * 2
    with pytest.raises(ValueError, match=r"which exercise is .*homework.py\? Name it too"):
        run_test(file=tmp_path / "homework.py")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no lora.py of exercise 04_lora in .*bare"):
        run_test("04", place=tmp_path / "bare")
    with pytest.raises(ValueError, match="no exercise 'loro'; near: 04_lora"):
        run_test("loro")


@pytest.mark.parametrize(("mistake", "message", "said"), [
    ("not-implemented", "merge((4, 5), 2.0): not written yet\n    line 3", "merge: not written yet"),
    ("missing", "merge((4, 5), 2.0): there is no function merge", "merge: not there"),
    ("load", "merge((4, 5)): SyntaxError: invalid syntax", "the file cannot be loaded: SyntaxError: invalid syntax"),
    ("error", "merge((4, 5)): KeyError: 'A'\n    line 3, in merge: A", "merge((4, 5)): KeyError: 'A'"),
    ("numeric", "merge((4, 5)), at [0]: received 1, expected 2.", "merge((4, 5)), at [0]: received 1, expected 2."),
])
def test_what_is_wrong_is_said_shortly(mistake, message, said):
    text = report_text(report(mistake=mistake, message=message), LORA, "lora.py", None, "tinypeft")
    (line,) = [line for line in text.splitlines() if line.startswith("    forward")]
    assert line.endswith(said)
    assert f"0 of 100 points. tinypeft hint 04 gives hint 1 of {len(LORA.hints)}." in text


def test_what_stops_several_tests_is_told_once():
    reason = "ZeroDivisionError: division by zero\n    line 8"
    rows = [Result(f"test_{i}", 0, 50, False, f"{function}((2,)): {reason}", "error", 0.0)
            for i, function in enumerate(("merge", "unmerge", "merge"))]
    text = report_text(Report("04_lora", "LoRA", 0, False, 0, 100, tuple(rows), "0.1.0"), LORA, "lora.py", None, "tinypeft")
    assert text.count("ZeroDivisionError") == 1
    assert "1    0 of 50  unmerge: the same\n" in text
    assert "2    0 of 50  the same\n" in text


def test_of_much_that_is_printed_the_end_is_shown_and_it_is_said():
    text = report_text(replace(report(), printed="\n".join(map(str, range(21)))), LORA, "lora.py", None, "tinypeft")
    assert "    The last 20 lines that your code printed:\n        1\n        2\n" in text


def test_long_messages_keep_their_column():
    text = report_text(report(mistake="numeric", message="word " * 60 + "end.\n    x = 1"), LORA, "lora.py", None, "tinypeft")
    lines = text.splitlines()[2:]
    column = lines[0].index("word")
    assert all(line[:column].strip() == "" for line in lines[1:lines.index("")])
    assert max(map(len, lines)) <= 116
    assert " " * column + "    x = 1" in lines


def test_what_is_not_enforced_depends_on_the_system():
    assert len({not_enforced(platform) for platform in ("linux", "darwin", "win32", "aix")}) == 4
    assert "programs that it starts" in not_enforced("win32")


# --- watching --------------------------------------------------------------------------------------------------------


class Editor:
    """Stands for the time between two looks: at each, one thing happens; after the last one, Ctrl-C."""

    def __init__(self, *happens):
        self.happens, self.time = list(happens), 0

    def __call__(self, seconds: float) -> None:
        if not self.happens:
            raise KeyboardInterrupt
        happen = self.happens.pop(0)
        if happen:
            happen()

    def save(self, file: Path, text: str):
        def saved():
            file.write_text(text)
            self.time += 1
            os.utime(file, (self.time, self.time))  # a disk's clock may be coarse

        return saved


def test_a_file_is_graded_when_it_is_saved(course, scores, capsys):
    scores += [5, 10, 20]
    file, editor = course.file(LORA), Editor()
    file.write_text("# zero")
    editor.happens = [None, None, editor.save(file, "# one"), None, None, file.unlink, None, editor.save(file, "# two"), None,
                      None]
    run_watch("04", sleep=editor)
    assert scores.files == ["# zero", "# one", "# two"]
    assert course.of(LORA) == Progress(runs=3, last=20, best=20)
    assert "No longer watching" in capsys.readouterr().out


def test_a_file_that_is_being_written_is_not_graded(course, scores):
    scores += [5]
    file, editor = course.file(LORA), Editor()
    editor.happens = [editor.save(file, "# ha"), editor.save(file, "# half"), editor.save(file, "# whole"), None, None]
    run_watch(sleep=editor)
    assert scores.files == ["# whole"]


def test_trouble_with_one_save_does_not_end_the_watch(course, scores, capsys, monkeypatch):
    scores += [5]
    grade, fails = commands.grade_file, [True]

    def troubled(*args, **options):
        if fails.pop() if fails else False:
            raise RuntimeError("the grader of 04_lora did not run")
        return grade(*args, **options)

    monkeypatch.setattr(commands, "grade_file", troubled)
    file, editor = course.file(LORA), Editor()
    editor.happens = [editor.save(file, "# one"), None, None, editor.save(file, "# two"), None, None]
    run_watch(sleep=editor)
    assert "tinypeft: the grader of 04_lora did not run" in capsys.readouterr().out
    assert scores.files == ["# two"]


# --- hints, reset, list ----------------------------------------------------------------------------------------------


def test_hints_come_one_at_a_time(course, capsys):
    run_hint("04", again=True)
    assert "None of 3 so far" in capsys.readouterr().out
    for i, hint in enumerate(LORA.hints):
        run_hint("04")
        said = " ".join(capsys.readouterr().out.split())
        assert said == f"Hint {i + 1} of 3 for 04_lora: {hint}"
        assert course.of(LORA).hints == i + 1
    run_hint("04")
    said = " ".join(capsys.readouterr().out.split())
    assert all(hint in said for hint in LORA.hints)
    assert said.endswith("There are no more.")
    assert course.of(LORA).hints == 3


def test_hints_need_a_course(tmp_path):
    for command in (run_hint, run_reset, run_solution):
        with pytest.raises(ValueError, match="is in no course folder: change to yours, or make one"):
            command("04", place=tmp_path)


def test_a_reset_keeps_what_was_there(course, capsys):
    file, stub = course.file(LORA), course.file(LORA).read_text()
    assert run_reset("04") is None
    assert "nothing to reset" in capsys.readouterr().out
    course.remember(LORA, Progress(runs=1, best=100))
    for i in (1, 2):
        file.write_text(f"# try {i}")
        kept = run_reset("04")
        assert kept.read_text() == f"# try {i}"
        assert kept.name == f"lora.py.{i}.bak"
        assert file.read_text() == stub
    assert file.with_name("lora.py.1.bak").read_text() == "# try 1"
    assert course.of(LORA).passed
    file.unlink()
    assert run_reset("04") is None
    assert file.read_text() == stub


def test_a_reset_that_is_interrupted_loses_nothing(course, monkeypatch):
    file = course.file(LORA)
    file.write_text("# mine")
    replace, calls = os.replace, []

    def interrupted(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_reset("04")
    assert file.read_text() == "# mine"


def test_the_list_says_how_far_one_is(course, capsys, tmp_path):
    course.remember(LORA, Progress(runs=2, last=10, best=100, hints=1))
    run_list()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "04_lora" in line]
    assert [part in line for part in ("100 of 100", "1 of 3", "passed")] == [True] * 3
    course.remember(LORA, Progress())
    course.file(LORA).write_text("# begun")
    run_list()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "04_lora" in line]
    assert "not begun" not in line
    assert "begun" in line
    run_list(place=tmp_path)
    assert "This is no course folder" in capsys.readouterr().out


# --- the library's code ----------------------------------------------------------------------------------------------


def test_every_exercise_shows_code_of_the_library():
    assert set(all_exercises()) <= set(LIBRARY)


@pytest.mark.parametrize("place", sorted({place for places in LIBRARY.values() for place in places}))
def test_the_library_has_what_is_shown(place):
    where, code = library_code(place)
    assert code.startswith(("def ", "class ", "@"))
    assert (exercises_folder().parent / where.partition(",")[0]).is_file()


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_all_is_well_here(course, capsys):
    findings = {one.what: one for one in doctor.run_doctor()}
    assert [one for one in findings.values() if one.needed and not one.well] == []
    assert {"Python", "numpy", "pytest", "Jupyter", "lessons and exercises", "bundled model", "graders", "progress",
            "sandbox"} <= set(findings)
    assert "All is well." in capsys.readouterr().out


def test_what_is_missing_is_found_and_can_be_mended(course, capsys, monkeypatch):
    course.record.write_text("{")
    monkeypatch.setattr(doctor, "requires", lambda _: ["numpy>=99", "no-such-library>=1", 'torch==2; extra == "parity"'])
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    monkeypatch.setattr(doctor, "can_confine", lambda: "the program bwrap is not installed (Debian, Ubuntu: apt install it)")
    monkeypatch.setattr(doctor, "grade_file", lambda *_: report(100))
    monkeypatch.setattr(doctor, "resolve_folder", lambda _: course.root)
    findings = {one.what: one for one in doctor.run_doctor()}
    bad = {what for what, one in findings.items() if not one.well}
    assert bad == {"numpy", "no-such-library", "Jupyter", "bundled model", "graders", "progress", "sandbox"}
    assert all(findings[what].mend for what in bad)
    printed = capsys.readouterr().out
    assert 'pip install "no-such-library>=1"' in printed
    assert "(only `tinypeft grade` needs it)" in " ".join(printed.split())
    assert f"6 of {len(findings)} to mend." in printed
    assert not doctor._python((3, 10, 9)).well


def test_a_folder_that_cannot_be_written_is_found(tmp_path):
    finding = doctor._tried("folder", lambda: doctor._writable(tmp_path / "absent"), "change to a folder of yours")
    assert not finding.well
    assert finding.mend == "change to a folder of yours"


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 4), (1,), (1, 1)])
def test_arrays_of_any_shape_are_drawn(shape):
    expected = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    received = expected.copy()
    received.flat[0] = np.nan if len(shape) == 3 else 2.5
    picture = plot_difference(received, expected, "shapes")
    assert picture.png().startswith(b"\x89PNG")
    assert f"1 of {expected.size} numbers differ" in picture.alt
    assert ("1 are not finite" in picture.alt) == (len(shape) == 3)


def test_other_arrays_cannot_be_drawn():
    for received in (np.zeros(3), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="only arrays of one shape"):
            plot_difference(received, np.zeros((0, 2)))


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_commands_are_in_the_menu(course, scores):
    def run(*arguments: str):
        return CliRunner().invoke(cli.app, list(arguments))

    scores += [40, 100]
    assert run("start", "another").exit_code == 0
    assert Path("another/exercises/04_lora/lora.py").is_file()
    assert "04_lora" in run("list").output
    assert run("test", "04").exit_code == 1  # as pytest
    assert run("test", "04").exit_code == 0
    assert "Hint 1 of 3" in run("hint", "4").output
    assert "nothing to reset" in run("reset", "lora").output
    assert "In the library" in run("solution", "04").output
    assert isinstance(run("hint", "99").exception, ValueError)
    assert "Course" in run("--help").output
