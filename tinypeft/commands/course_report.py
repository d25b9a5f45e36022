"""What `tinypeft test` and `list` say, as text."""

from __future__ import annotations

import textwrap

from tinypeft.commands.tables import terminal_width
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.progress import Progress
from tinypeft.grading.run import Report, TestResult, spoken

PRINTED = 20  # lines of it that are shown
FAILURES = ("error", "load", "timeout", "crash", "unusable", "changed")  # of a call: nothing came back


def report_text(report: Report, exercise: Exercise, file: str, before: Progress | None, program: str) -> str:
    """A line for each test, with what was wrong, and the points.

    Args:
        before: what was known of the exercise before; None outside a course.
        program: what to type for `tinypeft`.
    """
    width = max(len(spoken(test.name)) for test in report.tests)
    lines, told = [f"{report.exercise}: {report.title} ({file})", ""], set[str]()
    for test in report.tests:
        head = f"    {spoken(test.name):<{width}}  {test.points:>3} of {test.max:>2}  "
        lines += _beside(head, _said(test, told))
    last = f"{report.score} of {report.max} points"
    if before is not None and before.runs:
        last += f" (before: {before.last}, best: {max(before.best, report.score)})"
    number = exercise.slug.partition("_")[0]
    seen = 0 if before is None else before.hints
    if report.score == report.max:
        last += f". All of them. {program} solution {number} shows our solution, and the library's own code."
    elif seen < len(exercise.hints):
        last += f". {program} hint {number} gives hint {seen + 1} of {len(exercise.hints)}."
    else:
        last += "."
    head, printed = last_lines(report.printed)
    if printed:
        lines += ["", f"    {head}:", *(f"        {line}" for line in printed)]
    return "\n".join([*lines, "", last, ""])


def _said(test: TestResult, told: set[str]) -> str:
    """Why a test failed. What stopped a call in several tests is told once.

    Args:
        told: reasons told so far, and functions that were named; these are added.
    """
    text, reason = why(test.message, test.mistake)
    call, again = text.partition("(")[0], test.mistake in FAILURES and reason in told
    same = "the same" if call in told else f"{call}: the same"
    told |= {reason, call}
    return same if again else text


def why(message: str, mistake: str | None) -> tuple[str, str]:
    """What to say of a failed test, and its reason, which is the same for all that one thing has stopped."""
    call, _, reason = message.partition("): ")
    function = call.partition("(")[0]
    if mistake == "not-implemented":
        return f"{function}: not written yet", function
    if mistake == "missing":
        return f"{function}: not there", function
    if mistake not in FAILURES or not reason:
        return message, message
    return (f"the file cannot be loaded: {reason}" if mistake == "load" else message), reason


def last_lines(printed: str) -> tuple[str, list[str]]:
    """Of what was printed: a heading, which says whether that is all, and lines."""
    lines = printed.rstrip().splitlines()
    head = f"The last {PRINTED} lines that your code printed" if len(lines) > PRINTED else "Your code printed"
    return head, lines[-PRINTED:]


def _beside(head: str, text: str) -> list[str]:
    """Text to the right of a head, broken into lines that keep its column; lines of code stay as they are."""
    first, *code = text.split("\n")
    column = " " * len(head)
    wrapped = textwrap.wrap(first, terminal_width() - len(head), break_long_words=False, break_on_hyphens=False) or [""]
    return [(head + wrapped[0]).rstrip(), *(column + line for line in wrapped[1:]), *(column + line for line in code)]


def listing(exercise: Exercise, progress: Progress, begun: bool) -> list[str]:
    """A row of `tinypeft list`."""
    state = "passed" if progress.passed else "begun" if begun or progress.runs else "not begun"
    points = f"{progress.best} of {sum(exercise.points.values())}" if progress.runs else ""
    return [f"{exercise.slug}: {exercise.title}", points, f"{progress.hints} of {len(exercise.hints)}", str(progress.runs),
            state]


def not_enforced(platform: str) -> str:
    """What a file that is graded without a sandbox is not kept from, on this system.

    Args:
        platform: as in sys.platform.

    >>> print(not_enforced("linux"))
    Not enforced here: your code ran as a program of yours, with limits on time and memory only.
    """
    limits = {"linux": "with limits on time and memory only", "darwin": "with limits on time only, none on memory",
              "win32": "with limits on time only, none on memory or on programs that it starts"}
    known = limits.get(platform, "with a limit on time, and perhaps none on memory")
    return f"Not enforced here: your code ran as a program of yours, {known}."
