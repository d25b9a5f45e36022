"""What a class has reached, from its entries (see batch.py): a table of marks, and a summary."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from tinypeft.grading.batch import Entry, Grading
from tinypeft.grading.exercise import TOTAL, Exercise

FORMULA = re.compile(r"(^|[;|\t\r\n])(?=\s*[=+\-@＝＋－＠])")  # a cell that begins so is one; some programs take ; for a comma


def worst_mistake(entry: Entry) -> str:
    """The mistake that costs most points; of equals, one that has a name, then the first. "" if there is none."""
    lost = Counter[str]()
    for test in entry["tests"]:
        if not test["passed"]:
            lost[test["mistake"]] += test["max"]
    return max(lost, key=lambda mistake: (lost[mistake], "." in mistake), default="")


def marks_table(exercise: Exercise, entries: Sequence[Entry], reports: Sequence[str]) -> list[list[str]]:
    """A header, and a row for each student. Who could not be graded has no points, not 0.

    Args:
        reports: where each one's report is.
    """
    rows = [["student", "score", "max", *exercise.points, "mistake", "trouble", "report"]]
    for entry, report in zip(entries, reports, strict=True):
        points = {test["name"]: str(test["points"]) for test in entry["tests"]}
        score = "" if entry["score"] is None else str(entry["score"])
        rows.append([entry["student"], score, str(entry["max"]), *(points.get(test, "") for test in exercise.points),
                     worst_mistake(entry), entry["trouble"], report])
    return rows


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    r"""Rows as CSV that a spreadsheet opens without computing anything: what would be a formula begins with an apostrophe.

    >>> as_csv([["=1+1", "a;b;=1"]])
    '"\'=1+1","a;b;\'=1"\n'
    """
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([FORMULA.sub(r"\1'", cell) for cell in row] for row in rows)
    return stream.getvalue()


def warning(exercise: Exercise, holdout: str | None) -> str:
    """What to know of a grading's points before they count, or "".

    Args:
        holdout: as in Grading.depends_on; None if there was none.
    """
    if exercise.made_by is None or holdout is not None:
        return ""
    return "No holdout: the Polish names that decided come with tinypeft, and who trains on them has their points."


def summary(grading: Grading, entries: Sequence[Entry]) -> dict[str, Any]:
    """What an instructor wants to know first, as JSON. Means are of those who were graded, None if nobody was.

    Its "tests" count who passed; its "mistakes" in how many submissions each was found, the most frequent first.
    """
    graded = [entry for entry in entries if entry["score"] is not None]
    scores = [entry["score"] for entry in graded]
    found = Counter(mistake for entry in graded
                    for mistake in {test["mistake"] for test in entry["tests"] if not test["passed"]})
    passed = Counter(test["name"] for entry in graded for test in entry["tests"] if test["passed"])
    return {
        "title": grading.exercise.title, **grading.depends_on,
        "warning": warning(grading.exercise, grading.depends_on["holdout"]), "submissions": len(entries), "graded": len(graded),
        "max": TOTAL, "mean": round(mean(scores), 2) if scores else None, "median": median(scores) if scores else None,
        "full_marks": sum(score == TOTAL for score in scores),
        "tests": [{"name": name, "points": points, "passed": passed[name],
                   "share": round(passed[name] / len(graded), 4) if graded else None}
                  for name, points in grading.exercise.points.items()],
        "mistakes": [{"mistake": mistake, "students": count, "section": grading.exercise.section(mistake) or None}
                     for mistake, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))],
        "trouble": [{"student": entry["student"], "source": entry["source"], "trouble": entry["trouble"]}
                    for entry in entries if entry["trouble"]],
    }


__all__ = ["as_csv", "marks_table", "summary", "warning", "worst_mistake"]
