"""`tinypeft grade`: a class, from a folder of submissions to a folder of marks.

    MARKS/grading.json           exercise and seed, which stay the same when the command is given again
    MARKS/submitted/NAME.py      what was graded; NAME.zip of the capstone
    MARKS/students/NAME.json     the report; NAME.md the same to be read, and given to the student
    MARKS/marks.csv              a row for each student
    MARKS/summary.md, .json      of the class, with histogram.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinypeft.commands.grade_report import class_report, headline, mistake_rows, student_report, test_rows
from tinypeft.commands.tables import print_table, print_text
from tinypeft.files import replace_file, write_json, write_text
from tinypeft.grading.batch import Entry, Grading, class_seed, grade_class
from tinypeft.grading.collect import HandedIn, by_student, collect
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.marks import as_csv, marks_table, summary
from tinypeft.grading.run import check_holdout

FORMATS = ("table", "json")
BYTE_ORDER_MARK = "\ufeff"  # without it, Excel takes UTF-8 for something else
SHOWN = 8  # mistakes in the terminal; the summary has all


def run_grade(submissions: Path, exercise: str, out: Path, *, workers: int | None = None, scheduler: str | None = None,
              seed: int | None = None, confined: bool = True, holdout: Path | None = None, again: bool = False,
              output_format: str = "table") -> dict[str, Any]:
    """Grade a folder of submissions, write everything, and print the summary, which is returned too.

    Raises:
        ValueError: options that do not fit together, no submissions, or the marks of another exercise.
        RuntimeError: no sandbox here; or a machine of a cluster cannot grade.
    """
    chosen = find_exercise(exercise)
    _check(submissions, out, workers, scheduler, seed, output_format)
    if holdout is not None:
        check_holdout(chosen, holdout)
    if confined and scheduler is None and (missing := can_confine()):
        raise RuntimeError(f"submissions are graded in a sandbox, and there is none here: {missing}. --unconfined grades "
                           "without: a submission can then read graders and other submissions, and write and delete like you")
    by_student(submissions)  # raises, if there is nothing to grade, before anything is written
    grading = Grading(chosen, class_seed(out, chosen, seed), confined, None if holdout is None else holdout.absolute())
    every = collect(submissions, chosen, out.absolute() / "submitted")
    entries = grade_class(grading, every, out, workers=workers, scheduler=scheduler, again=again)
    found = write_marks(grading, every, entries, out)
    if output_format == "json":
        print(json.dumps(found, indent=2))
    else:
        _print(found, out)
        if gone := {path.stem for path in (out / "students").glob("*.json")} - {one.name for one in every}:
            print_text(f"No longer among the submissions, but in {out / 'students'} from before: {', '.join(sorted(gone))}.",
                       markdown=False)
    return found


def _check(submissions: Path, out: Path, workers: int | None, scheduler: str | None, seed: int | None, output_format: str
           ) -> None:
    if output_format not in FORMATS:
        raise ValueError(f"--format {output_format}; expected one of {', '.join(FORMATS)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a folder")
    if out.resolve().is_relative_to(submissions.resolve()):
        raise ValueError(f"--out {out} is in {submissions}, where all are submissions: name a folder outside of it")
    if submissions.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{submissions} is in the folder of marks, --out {out}, where files are written: name another one")
    if workers is not None and scheduler is not None:
        raise ValueError("--workers is for this machine; a cluster's workers are started with `dask worker`: leave one of "
                         "--workers and --scheduler")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: at least one is needed")
    if seed is not None and seed < 0:
        raise ValueError(f"--seed {seed}: expected a whole number that is not negative")


def write_marks(grading: Grading, every: Sequence[HandedIn], entries: Sequence[Entry], out: Path) -> dict[str, Any]:
    """All but the reports themselves, which are there already. Returns the summary."""
    from tinypeft.viz.marks import plot_marks

    for one, entry in zip(every, entries, strict=True):
        write_text(out / "students" / f"{one.name}.md", student_report(entry, grading.exercise))
    table = marks_table(grading.exercise, entries, [f"students/{one.name}.md" for one in every])
    write_text(out / "marks.csv", BYTE_ORDER_MARK + as_csv(table))
    found = summary(grading, entries)
    scores, alt = [entry["score"] for entry in entries if entry["score"] is not None], None
    if scores:
        picture = plot_marks(scores, found["max"], f"{grading.exercise.slug}: {grading.exercise.title}")
        alt = picture.alt
        with replace_file(out / "histogram.png") as temporary:
            temporary.write_bytes(picture.png())
    write_json(out / "summary.json", found)
    write_text(out / "summary.md", class_report(found, alt))
    return found


def _print(found: dict[str, Any], out: Path) -> None:
    print(f"{found['exercise']}: {found['title']}\n")
    print_table(["test", "points", "passed", "share"], test_rows(found), 0, markdown=False)
    if rows := mistake_rows(found):
        print_table(["found in failed tests", "submissions", "lesson, section"], rows[:SHOWN], (0, 2), markdown=False)
        if len(rows) > SHOWN:
            print(f"and {len(rows) - SHOWN} more, in summary.md\n")
    for one in found["trouble"]:
        print_text(f"{one['student']} ({one['source']}) is not graded: {one['trouble']}", markdown=False)
    print_text(f"{headline(found)} All is in {out}: marks.csv, summary.md, and a report for each in students.", markdown=False)
