"""What `tinypeft grade` says of a student and of a class, as Markdown.

Messages and names have words of strangers in them. In a fenced block nothing is markup, if its fence is longer than any in it;
elsewhere each character that could be markup is written in another way.
"""

from __future__ import annotations

import html
import re
from typing import Any

from tinypeft.commands.course_report import last_lines, why
from tinypeft.grading.batch import Entry
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.marks import warning
from tinypeft.grading.run import spoken

MARKUP = re.compile(r"([\\`*_{}\[\]()#+.!|~$@:/-])")
KINDS = {  # what went wrong where no misconception was recognised, in words
    "numeric": "other numbers than asked for", "precision": "too few digits", "type": "another type", "shape": "another shape",
    "dtype": "another dtype", "keys": "other keys", "length": "another length", "missing": "not there",
    "not-implemented": "not written yet", "error": "an error is raised", "changed": "arguments are changed",
    "unusable": "what is returned is no data", "timeout": "out of time", "crash": "the process ended",
    "load": "the file cannot be loaded", "skipped": "left out", "not-run": "not run",
}
SANDBOX, NO_SANDBOX = "in a sandbox", "WITHOUT a sandbox: a submission could have done here whatever a program of yours can"


def student_report(entry: Entry, exercise: Exercise) -> str:
    """What a student may be given: points, messages, and where to read. The seed, which others would use, is not in it."""
    lines = [f"# {exercise.slug}: {exercise.title}", "", f"{plain(entry['student'])} ({plain(entry['source'])})", ""]
    if entry["trouble"]:
        return "\n".join([*lines, "Not graded:", "", *fenced(entry["trouble"]), ""])
    lines += [f"**{entry['score']} of {entry['max']} points**", "", "| test | points | of | mistake | lesson, section |",
              "| :-- | --: | --: | :-- | :-- |"]
    for test in entry["tests"]:
        mistake = "" if test["passed"] else test["mistake"]
        lines.append(f"| {spoken(test['name'])} | {test['points']} | {test['max']} | {KINDS.get(mistake, mistake)} | "
                     f"{exercise.section(mistake)} |")
    lines.append("")
    reasons: dict[str, tuple[str, list[str]]] = {}
    for test in entry["tests"]:
        if not test["passed"]:
            text, reason = why(test["message"], test["mistake"])
            reasons.setdefault(reason, (text, []))[1].append(spoken(test["name"]))
    for text, tests in reasons.values():
        lines += [f"## {', '.join(tests)}", "", *fenced(text), ""]
    head, printed = last_lines(entry["printed"])
    if printed:
        lines += [f"## {head}", "", *fenced("\n".join(printed)), ""]
    where = SANDBOX if entry["confined"] else NO_SANDBOX
    warned = warning(exercise, entry.get("holdout"))
    return "\n".join([*lines, f"Graded by tinypeft {entry['version']}, {where}. {warned}".rstrip(), ""])


def class_report(found: dict[str, Any], alt: str | None) -> str:
    """The summary of a class.

    Args:
        found: what `summary` of grading/marks.py gives.
        alt: what the picture histogram.png shows; None if there is none.
    """
    lines = [f"# {found['exercise']}: {found['title']}", ""]
    lines += [headline(found), ""]
    if alt is not None:
        lines += [f"![{alt}](histogram.png)", ""]
    lines += ["| test | points | passed | share |", "| :-- | --: | --: | --: |"]
    lines += [f"| {' | '.join(row)} |" for row in test_rows(found)]
    if rows := mistake_rows(found):
        lines += ["", "| found in failed tests | submissions | lesson, section |", "| :-- | --: | :-- |"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    if found["trouble"]:
        lines += ["", "Not graded, and without points until you have looked at it:", ""]
        lines += [f"- {plain(one['student'])} ({plain(one['source'])}): {plain(one['trouble'])}" for one in found["trouble"]]
    return "\n".join([*lines, ""])


def headline(found: dict[str, Any]) -> str:
    """The class in a few words."""
    where = SANDBOX if found["confined"] else NO_SANDBOX
    graded = f"{found['graded']} of {found['submissions']} submissions graded, {where}; seed {found['seed']}."
    graded += f" {found['warning']}".rstrip()
    if not found["graded"]:
        return graded
    return (f"{graded} Of {found['max']} points: mean {found['mean']:g}, median {found['median']:g}; with all of them: "
            f"{found['full_marks']}.")


def test_rows(found: dict[str, Any]) -> list[list[str]]:
    """Test, points, who passed, and their share."""
    return [[spoken(test["name"]), str(test["points"]), str(test["passed"]),
             "" if test["share"] is None else f"{test['share']:.0%}"] for test in found["tests"]]


def mistake_rows(found: dict[str, Any]) -> list[list[str]]:
    """Mistake, in how many submissions, and where it is taught."""
    return [[KINDS.get(one["mistake"], one["mistake"]), str(one["students"]), one["section"] or ""]
            for one in found["mistakes"]]


def plain(text: str) -> str:
    r"""Text that is no markup, in Markdown or HTML.

    >>> plain("<b>*x*</b>")
    '&lt;b&gt;\\*x\\*&lt;\\/b&gt;'
    """
    return MARKUP.sub(r"\\\1", html.escape(text, quote=False))


def fenced(text: str) -> list[str]:
    """Lines of a block that shows text as it is."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [fence + "text", *text.splitlines(), fence]


__all__ = ["KINDS", "class_report", "fenced", "headline", "mistake_rows", "plain", "student_report", "test_rows"]
