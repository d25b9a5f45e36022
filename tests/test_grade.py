"""`tinypeft grade`: every student gets a report, whatever the others handed in, and whatever happened before.

Most of these tests grade with a stand-in that knows points by heart, and in threads; the last ones with everything as it is.
"""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from tinypeft.commands import grade as command
from tinypeft.commands.course_report import FAILURES
from tinypeft.commands.grade import run_grade
from tinypeft.commands.grade_report import KINDS, class_report, fenced, headline, plain, student_report
from tinypeft.grading import batch, run
from tinypeft.grading.batch import Grading, class_seed, grade_one, unfit
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.marks import as_csv, marks_table, summary, worst_mistake
from tinypeft.grading.run import NOT_RUN, Report, grade_file
from tinypeft.viz.marks import plot_marks, point_ranges

EXERCISE = find_exercise("04")
REFERENCE = Path(__file__).parent / "exercises" / "04_lora" / "reference.py"
HALF = REFERENCE.parents[1] / "forgeries" / "base.py"

no_sandbox = pytest.mark.skipif(can_confine() is not None, reason=f"no sandbox: {can_confine()}")


def report(failed: dict[str, tuple[str, str]] | None = None, **changes: Any) -> Report:
    """A report in which these tests failed: test -> mistake and message."""
    failed = failed or {}
    tests = tuple(run.TestResult(name, 0 if name in failed else points, points, name not in failed,
                             *reversed(failed.get(name, (None, ""))), 0.1) for name, points in EXERCISE.points.items())
    values = {"exercise": EXERCISE.slug, "title": EXERCISE.title, "seed": 1, "confined": True,
              "score": sum(test.points for test in tests), "max": 100, "tests": tests, "version": "0.1.0"}
    return Report(**(values | changes))


def entry(student: str = "anna", failed: dict[str, tuple[str, str]] | None = None, trouble: str = "", **changes: Any) -> Any:
    found = json.loads(json.dumps(report(failed, **changes).to_dict()))
    if trouble:
        found |= {"score": None, "tests": []}
    return found | {"student": student, "source": f"{student}.py", "sha256": "0", "trouble": trouble}


@dataclass
class Stand:
    """A stand-in for the grader: content of a file -> a report, or an error that is raised."""

    known: dict[str, Any] = field(default_factory=dict)
    graded: list[str] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, exercise: Any, file: Path, *, seed: int, confined: bool, holdout: Path | None) -> Report:
        self.graded.append(file.stem)
        self.options.append({"seed": seed, "confined": confined, "holdout": holdout})
        found = self.known.get(file.read_text("utf-8"), report())
        if isinstance(found, BaseException):
            raise found
        return found


class Drawn:
    alt = "A picture."

    def png(self) -> bytes:
        return b"a picture"


@contextmanager
def threads(workers: int):
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def stand(monkeypatch):
    """No sandbox, no processes, no picture."""
    one = Stand()
    monkeypatch.setattr(batch, "grade_file", one)
    monkeypatch.setattr("tinypeft.viz.marks.plot_marks", lambda *_: Drawn())
    monkeypatch.setattr(batch, "_processes", threads)
    monkeypatch.setattr(command, "can_confine", lambda: None)
    return one


@pytest.fixture
def submissions(tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    for student in ("anna", "bert", "cleo"):
        (folder / f"{student}.py").write_text(f"# {student}\n")
    return folder


@pytest.fixture
def graded(submissions, tmp_path, stand):
    def of(**options: Any) -> dict[str, Any]:
        stand.graded.clear()
        return run_grade(submissions, "04", tmp_path / "marks", **options)

    return of


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


# ---- what is written ------------------------------------------------------------------------------------------------

def test_a_class_is_written_to_a_folder(graded, stand, submissions, tmp_path, capsys):
    (submissions / "dora.py").write_bytes(b"")
    stand.known["# bert\n"] = report({"test_forward": ("lora.no_scale", "wrong"), "test_merge": ("numeric", "wrong")})
    found = graded()
    marks = tmp_path / "marks"
    assert {path.relative_to(marks).as_posix() for path in marks.rglob("*") if path.is_file()} == {
        "grading.json", "marks.csv", "summary.md", "summary.json", "histogram.png",
        *(f"students/{name}.{kind}" for name in ("anna", "bert", "cleo", "dora") for kind in ("json", "md")),
        *(f"submitted/{name}.py" for name in ("anna", "bert", "cleo"))}
    assert found == read(marks / "summary.json")
    assert (found["submissions"], found["graded"], found["full_marks"]) == (4, 3, 2)
    assert (found["mean"], found["median"]) == (90, 100)
    rows = list(csv.DictReader((marks / "marks.csv").read_text("utf-8-sig").splitlines()))
    assert [(row["student"], row["score"], row["mistake"], row["trouble"]) for row in rows] == [
        ("anna", "100", "", ""), ("bert", "70", "lora.no_scale", ""), ("cleo", "100", "", ""),
        ("dora", "", "", "the file is empty")]
    assert (rows[1]["test_forward"], rows[1]["test_init"], rows[3]["test_init"]) == ("0", "10", "")
    assert all((marks / row["report"]).is_file() for row in rows)
    assert (marks / "marks.csv").read_bytes().startswith(b"\xef\xbb\xbf"), "for Excel"
    assert (marks / "histogram.png").read_bytes() == b"a picture"
    assert "![A picture.](histogram.png)" in (marks / "summary.md").read_text("utf-8")
    said = capsys.readouterr().out
    assert "dora (dora.py) is not graded: the file is empty" in said
    assert "3 of 4 submissions graded" in said


def test_reports_hold_all_that_exporters_read_and_whose_they_are(graded, stand, submissions, tmp_path):
    graded(seed=5)
    found = read(tmp_path / "marks" / "students" / "anna.json")
    neutral = json.loads(json.dumps(report().to_dict()))
    assert {name: found[name] for name in neutral} == neutral | {"seed": 5}
    assert (found["student"], found["source"], found["trouble"], found["holdout"]) == ("anna", "anna.py", "", None)
    assert re.fullmatch("[0-9a-f]{64}", found["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", found["grader"])


def test_where_there_was_no_sandbox_every_report_says_so(graded, tmp_path):
    graded(confined=False)
    marks = tmp_path / "marks"
    assert read(marks / "students" / "anna.json")["confined"] is False
    assert "WITHOUT a sandbox" in (marks / "students" / "anna.md").read_text("utf-8")
    assert "WITHOUT a sandbox" in (marks / "summary.md").read_text("utf-8")
    assert read(marks / "summary.json")["confined"] is False


def test_the_summary_can_be_had_as_json(graded, capsys):
    found = graded(output_format="json")
    assert json.loads(capsys.readouterr().out) == found


# ---- trouble --------------------------------------------------------------------------------------------------------

def test_what_goes_wrong_with_one_stops_nobody(graded, stand, tmp_path):
    stand.known |= {"# anna\n": RuntimeError("the grader did not run:\n\x1b[2J"), "# bert\n": ZeroDivisionError("a defect")}
    found = graded()
    assert {one["student"]: one["trouble"] for one in found["trouble"]} == {
        "anna": "the grader did not run:\\n\\x1b[2J", "bert": "ZeroDivisionError: a defect"}
    assert found["graded"] == 1
    assert read(tmp_path / "marks" / "students" / "anna.json")["score"] is None


def test_what_has_no_form_in_utf8_is_told_in_another(graded, stand, tmp_path):
    stand.known |= {"# anna\n": report({"test_merge": ("odd\ud800", "two\nlines\udfff")}, printed="\ud800\x1b[2J\nend"),
                    "# bert\n": RuntimeError("\ud800")}
    found = graded()
    assert (found["graded"], found["trouble"][0]["trouble"]) == (2, "\\ud800")
    anna = read(tmp_path / "marks" / "students" / "anna.json")
    (merge,) = (test for test in anna["tests"] if not test["passed"])
    assert (merge["mistake"], merge["message"], anna["printed"]) == ("odd\\ud800", "two\nlines\\udfff", "\\ud800\\x1b[2J\nend")


def test_a_report_that_cannot_be_written_is_trouble_of_its_student(graded, stand, tmp_path):
    stand.known["# anna\n"] = report(score=float("nan"))
    found = graded()
    assert (found["graded"], [one["student"] for one in found["trouble"]]) == (2, ["anna"])
    assert "its report could not be written (ValueError" in read(tmp_path / "marks" / "students" / "anna.json")["trouble"]


def test_nobody_could_be_graded(graded, submissions, tmp_path):
    for path in submissions.iterdir():
        path.write_bytes(b"")
    found = graded()
    assert (found["graded"], found["mean"], found["median"]) == (0, None, None)
    assert not (tmp_path / "marks" / "histogram.png").exists()


def losing(monkeypatch: pytest.MonkeyPatch, *sound: int) -> list[int]:
    """Each pool loses a process after so many tasks; later ones are never done. Returns how many each was asked for."""
    asked: list[int] = []

    class Losing(ThreadPoolExecutor):
        def submit(self, *call: Any) -> Any:  # type: ignore[override]
            asked[-1] += 1
            if asked[-1] <= sound[len(asked) - 1]:
                return super().submit(*call)
            lost: Future[str] = Future()
            lost.set_exception(BrokenExecutor())
            return lost

    @contextmanager
    def pool(workers):
        asked.append(0)
        with Losing(1) as one:
            yield one

    monkeypatch.setattr(batch, "_processes", pool)
    return asked


def test_a_pool_that_loses_a_process_is_made_again_for_those_that_are_left(graded, stand, monkeypatch):
    asked = losing(monkeypatch, 1, 1, 1)
    assert graded()["graded"] == 3
    assert asked == [3, 2, 1]
    assert stand.graded == ["anna", "bert", "cleo"]


def test_a_pool_that_is_lost_again_and_again_is_told_and_what_was_graded_is_kept(graded, stand, monkeypatch, tmp_path):
    losing(monkeypatch, 1, 0, 0)
    with pytest.raises(RuntimeError, match="2 submissions are left: give the same command again"):
        graded()
    assert [path.stem for path in (tmp_path / "marks" / "students").glob("*.json")] == ["anna"]


# ---- again ----------------------------------------------------------------------------------------------------------

def test_a_report_that_is_there_is_not_made_again(graded, stand):
    first = graded()
    assert sorted(stand.graded) == ["anna", "bert", "cleo"]
    assert graded() == first
    assert stand.graded == []
    graded(again=True)
    assert sorted(stand.graded) == ["anna", "bert", "cleo"]


def test_one_that_was_interrupted_goes_on_with_the_same_seed(graded, stand, tmp_path):
    stand.known["# cleo\n"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        graded()
    seed = read(tmp_path / "marks" / "grading.json")["seed"]
    stand.known.clear()
    found = graded()
    assert stand.graded == ["cleo"]
    assert {one["seed"] for one in stand.options} == {seed}
    assert found["seed"] == seed


@pytest.mark.parametrize("change", ["file", "seed", "sandbox", "grader", "report", "half a report", "trouble"])
def test_what_would_come_out_otherwise_is_made_again(change, graded, stand, submissions, tmp_path, monkeypatch):
    stand.known["# anna\n"] = RuntimeError("once") if change == "trouble" else report()
    graded(seed=1)
    stand.known.clear()
    anna = tmp_path / "marks" / "students" / "anna.json"
    if change == "file":
        (submissions / "anna.py").write_text("# new\n")
    elif change == "grader":
        monkeypatch.setattr(batch, "grader_hash", lambda exercise: "new")
    elif change == "report":
        anna.unlink()
    elif change == "half a report":
        anna.write_text(anna.read_text()[:100])
    graded(seed=2 if change == "seed" else 1, confined=change != "sandbox")
    assert sorted(stand.graded) == (["anna", "bert", "cleo"] if change in ("seed", "sandbox", "grader") else ["anna"])


def test_a_report_depends_on_the_names_that_are_not_shipped(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("Nowak\n")
    grading, other = (Grading(EXERCISE, 1, holdout=names) for _ in range(2))
    first = grading.depends_on
    names.write_text("Kowalska\n")
    assert first["holdout"] != other.depends_on["holdout"] != Grading(EXERCISE, 1).depends_on["holdout"]


def test_a_private_seed_is_drawn_once_for_a_class(tmp_path):
    first, other = (class_seed(tmp_path / name, EXERCISE, None) for name in "ab")
    assert first != other
    assert 0 < first < 2**48
    assert class_seed(tmp_path / "a", EXERCISE, None) == first
    assert class_seed(tmp_path / "a", EXERCISE, 7) == 7
    assert class_seed(tmp_path / "a", EXERCISE, None) == 7


# ---- what is refused ------------------------------------------------------------------------------------------------

def test_options_that_cannot_be_meant_are_refused(graded, submissions, tmp_path, monkeypatch):
    names = tmp_path / "names.txt"
    names.write_text("Nowak\n")
    for options, sentence in [({"output_format": "xml"}, "--format xml"), ({"workers": 0}, "at least one"),
                              ({"workers": 2, "scheduler": "tcp://x"}, "leave one of"), ({"seed": -1}, "not negative"),
                              ({"holdout": names}, "04_lora takes none")]:
        with pytest.raises(ValueError, match=sentence):
            graded(**options)
    with pytest.raises(ValueError, match="name a folder outside of it"):
        run_grade(submissions, "04", submissions / "marks")
    with pytest.raises(ValueError, match="is in the folder of marks"):
        run_grade(submissions, "04", submissions.parent)
    with pytest.raises(ValueError, match="no exercise 'nothing'"):
        run_grade(submissions, "nothing", tmp_path / "marks")
    assert not (tmp_path / "marks").exists()


def test_marks_of_another_exercise_stay(graded, submissions, tmp_path):
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "marks").rglob("*") if path.is_file()}

    graded()
    before = content()
    (submissions / "anna.py").write_text("# of exercise 06\n")
    with pytest.raises(ValueError, match="has the marks of 04_lora: name another folder for those of 06"):
        run_grade(submissions, "06", tmp_path / "marks")
    assert content() == before
    (tmp_path / "marks" / "grading.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not what `tinypeft grade` writes there"):
        graded()


def test_without_a_sandbox_nothing_is_graded_unless_told(graded, stand, monkeypatch):
    monkeypatch.setattr(command, "can_confine", lambda: "bwrap is not installed")
    with pytest.raises(RuntimeError, match="bwrap is not installed. --unconfined grades without"):
        graded()
    assert stand.graded == []
    assert graded(confined=False)["graded"] == 3


def test_a_machine_that_would_grade_otherwise_does_not(tmp_path, monkeypatch):
    (tmp_path / "file.py").touch()
    grading, file = Grading(EXERCISE, 1), str(tmp_path / "file.py")
    there = grading.settings(elsewhere=True)
    monkeypatch.setattr(batch, "can_confine", lambda: None)
    assert unfit(there, file) == ""
    assert "in a folder that all machines share" in unfit(there, str(tmp_path / "none.py"))
    other = json.dumps(json.loads(there) | {"grader": "other"})
    assert "another version of 04_lora" in unfit(other, file)
    assert "another version" in json.loads(grade_one(file, "", 1, other))["unfit"]
    monkeypatch.setattr(batch, "can_confine", lambda: "no bwrap")
    assert unfit(there, file) == "no bwrap"
    assert unfit(Grading(EXERCISE, 1, confined=False).settings(elsewhere=True), file) == ""


def test_an_unfit_machine_stops_the_class_before_it_costs_anybody_points(graded, stand, monkeypatch):
    monkeypatch.setattr(batch, "grade_one", lambda *_: json.dumps({"unfit": "no bwrap"}))
    with pytest.raises(RuntimeError, match="a machine cannot grade here: no bwrap"):
        graded()


# ---- words of strangers ---------------------------------------------------------------------------------------------

HOSTILE = ["<script>alert(1)</script>", "![x](http://evil/x.png)", "[click](javascript:alert(1))",
           "```\n# out\n<b>bold</b>\n```", "`` ` ````` <img src=x onerror=alert(1)>", "|a|b|", "~~~~\n<i>",
           "    </code></pre><script>", "http://evil.example",
           "$\\href{javascript:alert(1)}{x}$", "- a\n# b", "&lt;script&gt;", "1. one", "<!--", "[x]: http://evil"]


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


@pytest.mark.parametrize("text", HOSTILE)
def test_words_of_strangers_are_no_markup(text):
    one = entry(" ".join(text.split()), {"test_forward": ("numeric", text)}, printed=text)
    bad = entry(" ".join(text.split()), trouble=" ".join(text.split()))
    page = rendered(student_report(one, EXERCISE))
    for html in (page, rendered(student_report(bad, EXERCISE)),
                 rendered(class_report(summary(Grading(EXERCISE, 1), [one, bad]), "A picture."))):
        assert set(re.findall(r"<(\w+)", html)) <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "pre", "code",
                                                    "strong", "ul", "li", "img"}
        assert html.count("<img") == html.count('<img src="histogram.png"')
        assert "<!--" not in html
    blocks = [unescape(block) for block in re.findall(r"<pre><code[^>]*>(.*?)</code></pre>", page, re.DOTALL)]
    assert blocks == [text + "\n"] * 2


def test_a_name_stays_readable():
    assert rendered(plain("O'Neil <x> *y* _z_ #1")) == "<p>O'Neil &lt;x&gt; *y* _z_ #1</p>\n"
    assert fenced("a ```` b")[0].startswith("`````")


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "＝1", " =1"])
def test_no_cell_of_the_marks_is_a_formula(text):
    rows = list(csv.reader(as_csv(marks_table(EXERCISE, [entry(text, trouble=text)], [""])).splitlines()))
    assert rows[1][0] == rows[1][-2] == f"'{text}"


@pytest.mark.parametrize("text", ["x;=1+1;y", 'x"; =1+1;"y', "x\t=1+1", "\t=1", ";\t=1", "x\n=1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_is_a_formula_where_another_character_separates(text, separator):
    table = as_csv(marks_table(EXERCISE, [entry(text, trouble=text)], [""]))
    cells = [cell for row in csv.reader(table.splitlines(), delimiter=separator) for cell in row]
    assert not any(cell.lstrip().startswith("=") for cell in cells)


def test_cells_with_commas_and_quotes_come_back():
    rows = [["a,b", 'say "x"', "two\nlines"]]
    assert list(csv.reader(as_csv(rows).splitlines(keepends=True))) == rows


@pytest.mark.parametrize(("number", "holdout", "said"), [("14", None, True), ("14", "names.txt", False), ("04", None, False)])
def test_where_no_holdout_decided_it_is_said(number, holdout, said, tmp_path):
    """Who has trained on the names that are shipped has all points then."""
    if holdout is not None:
        (tmp_path / holdout).write_text("Nowak")
    grading = Grading(find_exercise(number), 1, holdout=tmp_path / holdout if holdout else None)
    one = entry() | grading.depends_on
    found = summary(grading, [one])
    for text in (found["warning"], headline(found), class_report(found, None), student_report(one, grading.exercise)):
        assert ("No holdout: the Polish names that decided come with tinypeft" in text) == said


def test_who_is_gone_from_the_class_is_named(graded, submissions, capsys):
    graded()
    (submissions / "bert.py").unlink()
    capsys.readouterr()
    graded()
    assert "from before: bert." in capsys.readouterr().out


def test_many_mistakes_are_cut_and_it_is_said(stand, graded, capsys):
    stand.known["# bert\n"] = report({test: (f"lora.kind_{i}", "wrong") for i, test in enumerate(EXERCISE.points)})
    graded()
    assert "and 1 more, in summary.md" in capsys.readouterr().out


def test_a_file_is_no_folder_for_marks_and_a_holdout_has_to_exist(submissions, tmp_path):
    (tmp_path / "marks").write_text("")
    with pytest.raises(ValueError, match=r"marks is a file: name a folder"):
        run_grade(submissions, "04", tmp_path / "marks")
    with pytest.raises(FileNotFoundError, match=r"^no file .*nosuch$"):
        run_grade(submissions, "14", tmp_path / "other", holdout=tmp_path / "nosuch")


def test_what_compares_belongs_to_the_grader(tmp_path, monkeypatch):
    before = batch.grader_hash(EXERCISE)
    for file in Path(batch.__file__).parent.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(batch, "__file__", str(tmp_path / "batch.py"))
    assert batch.grader_hash(EXERCISE) == before
    with (tmp_path / "compare.py").open("a") as file:
        file.write("# another\n")
    assert batch.grader_hash(EXERCISE) != before


@pytest.mark.parametrize("there", [True, False])
def test_where_there_is_nothing_to_grade_nothing_is_written(there, tmp_path):
    """Or the next call, with the right exercise, would find the marks of another."""
    folder = tmp_path / "class"
    if there:
        folder.mkdir()
    with pytest.raises(ValueError, match="no submission in" if there else "is no folder of submissions"):
        run_grade(folder, "05", tmp_path / "marks", confined=False)
    assert not (tmp_path / "marks").exists()


def test_a_student_is_told_what_was_wrong_and_where_to_read_and_not_the_seed():
    failed = {"test_forward": ("lora.no_scale", "lora_forward(...), at [0]")}
    text = student_report(entry("anna", failed, seed=987654321), EXERCISE)
    assert "**80 of 100 points**" in text
    assert "| forward | 0 | 20 | lora.no_scale | 04_lora/scaling |" in text
    assert "| init | 10 | 10 |  |  |" in text
    assert "## forward\n\n```text\nlora_forward(...), at [0]\n```\n" in text
    broken = {"test_init": ("load", "lora_init(64): SyntaxError: no"), "test_merge": ("load", "merge((4, 5)): SyntaxError: no")}
    assert "## init, merge\n\n```text\nthe file cannot be loaded: SyntaxError: no\n```\n" in student_report(
        entry("anna", broken), EXERCISE)
    assert "987654321" not in text


@pytest.mark.parametrize("kind", sorted(KINDS.keys() | {*FAILURES, NOT_RUN}))
def test_what_has_no_name_is_said_in_words(kind):
    one = entry("anna", {"test_forward": (kind, "at [0]")})
    texts = student_report(one, EXERCISE), class_report(summary(Grading(EXERCISE, 1), [one]), None)
    assert all(f"| {KINDS[kind]} |" in text for text in texts)


# ---- the numbers ----------------------------------------------------------------------------------------------------

def test_the_worst_mistake_is_the_one_that_costs_most():
    assert worst_mistake(entry()) == ""
    assert worst_mistake(entry(failed={"test_forward": ("numeric", ""), "test_init": ("lora.bound", "")})) == "numeric"
    assert worst_mistake(entry(failed={"test_init": ("numeric", ""), "test_merge": ("lora.no_scale", "")})) == "lora.no_scale"
    split = {"test_gradient_of_A": ("lora.sign", ""), "test_gradient_of_B": ("lora.sign", ""), "test_forward": ("shape", "")}
    assert worst_mistake(entry(failed=split)) == "lora.sign"


def test_the_summary_counts_students():
    two = {"test_forward": ("lora.no_scale", ""), "test_merge": ("lora.no_scale", "")}
    found = summary(Grading(EXERCISE, 1), [entry("a", two), entry("b", {"test_merge": ("numeric", "")}), entry("c", two),
                                           entry("d", trouble="empty")])
    assert found["mistakes"] == [{"mistake": "lora.no_scale", "students": 2, "section": "04_lora/scaling"},
                                 {"mistake": "numeric", "students": 1, "section": None}]
    passed = {test["name"]: (test["passed"], test["share"]) for test in found["tests"]}
    assert passed["test_merge"] == (0, 0)
    assert passed["test_forward"] == (1, 0.3333)
    assert passed["test_init"] == (3, 1)
    assert (found["mean"], found["median"]) == (76.67, 70)


def test_the_picture_says_what_it_shows():
    picture = plot_marks([0, 55, 59, 100, 100], 100, "04")
    for part in ("1 with 0–9", "2 with 50–59", "2 with 100", "Median 59", "mean 62.8", "5 students"):
        assert part in picture.alt
    (axes,) = picture.figure.axes
    assert [bar.get_height() for bar in axes.patches] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2]
    assert [first for first, _ in point_ranges(7)] == sorted(first for first, _ in point_ranges(7))
    for scores in ([], [-1], [101]):
        with pytest.raises(ValueError, match="expected points from 0 to 100"):
            plot_marks(scores, 100)


# ---- everything as it is --------------------------------------------------------------------------------------------

def tinypeft(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "tinypeft.cli", *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **options)


@no_sandbox
def test_a_class_is_graded_as_each_alone(tmp_path):
    folder, marks = tmp_path / "class", tmp_path / "marks"
    folder.mkdir()
    secret = tmp_path / "secret.py"
    secret.write_bytes(REFERENCE.read_bytes())
    (folder / "honest.py").write_bytes(REFERENCE.read_bytes())
    (folder / "half.py").write_bytes(HALF.read_bytes())
    (folder / "exits.py").write_text("import os\nos._exit(0)\n")
    (folder / "link.py").symlink_to(secret)
    (folder / "book.ipynb").write_text(json.dumps({"cells": [
        {"cell_type": "code", "source": "%%writefile lora.py\n" + REFERENCE.read_text("utf-8")}]}))
    process = tinypeft("grade", folder, "--exercise", "04", "--out", marks, "--seed", "11", "--workers", "3")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "5/5" in errors  # the progress bar
    assert "4 of 5 submissions graded, in a sandbox; seed 11." in said
    assert (marks / "histogram.png").read_bytes().startswith(b"\x89PNG")
    reports = {path.stem: read(path) for path in (marks / "students").glob("*.json")}
    assert {name: one["score"] for name, one in reports.items()} == {
        "honest": 100, "half": 40, "exits": 0, "link": None, "book": 100}
    alone = grade_file(EXERCISE, folder / "half.py", seed=11, confined=True).to_dict()
    for test, expected in zip(reports["half"]["tests"], json.loads(json.dumps(alone["tests"])), strict=True):
        assert test | {"seconds": 0} == expected | {"seconds": 0}


def test_a_process_of_the_pool_ends_with_the_one_that_asks_it(tmp_path):
    script = tmp_path / "asks.py"
    script.write_text("import os, time\nfrom tinypeft.grading.batch import _processes\n\n"
                      "if __name__ == '__main__':\n    with _processes(1) as pool:\n"
                      "        print(pool.submit(os.getpid).result(), flush=True)\n        time.sleep(600)\n")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        os.kill(child, 0)
        process.kill()
        process.wait()
    end = time.monotonic() + 60
    while time.monotonic() < end and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@no_sandbox
@pytest.mark.skipif(os.name != "posix", reason="no such signals here")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_class_goes_on_after_a_kill_and_after_ctrl_c(tmp_path, stop):
    folder, marks = tmp_path / "class", tmp_path / "marks"
    folder.mkdir()
    for i in range(8):
        (folder / f"s{i}.py").write_bytes(HALF.read_bytes())
    arguments = ("grade", folder, "--exercise", "04", "--out", marks, "--workers", "2")
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where these tests run in the background, it is not
    process = tinypeft(*arguments, start_new_session=True, preexec_fn=heard)
    while process.poll() is None and len(list(marks.glob("students/*.json"))) < 3:
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, stop)
    _, errors = process.communicate()
    assert ("The same command goes on from there." in errors) == (stop == signal.SIGINT)
    assert "Traceback" not in errors
    before = {path.name: (read(path), path.stat().st_mtime_ns, path.stat().st_ino) for path in marks.glob("students/*.json")}
    assert 3 <= len(before) < 8
    again = tinypeft(*arguments)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    after = {path.name: (read(path), path.stat().st_mtime_ns, path.stat().st_ino) for path in marks.glob("students/*.json")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 8
    assert len({one["seed"] for one, _, _ in after.values()}) == 1
    assert {one["score"] for one, _, _ in after.values()} == {40}
