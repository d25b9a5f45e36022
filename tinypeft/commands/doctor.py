"""`tinypeft doctor`: whether this installation has all that the course needs, and how to mend what is missing."""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from tinypeft.commands import program
from tinypeft.commands.course import course_files
from tinypeft.commands.tables import terminal_width
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import all_exercises
from tinypeft.grading.process import Failure, Worker
from tinypeft.grading.progress import find_course
from tinypeft.grading.run import grade_file
from tinypeft.models.bundled import resolve_folder

PYTHON = (3, 11)
REINSTALL = "install tinypeft again: pip install --force-reinstall --no-deps . in its folder"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in a word or two.
        well: whether it is as it should be.
        found: what there is.
        mend: what to do, if it is not well.
        needed: False for what only instructors need.
    """

    what: str
    well: bool
    found: str
    mend: str = ""
    needed: bool = True


def run_doctor(place: Path | None = None) -> list[Finding]:
    """Look at everything, and print a line for each; those that are not well say how to mend them."""
    findings = list(examine(place or Path.cwd()))
    for one in findings:
        print(f"{'well' if one.well else 'BAD ' if one.needed else 'none'}  {one.what}: {one.found}")
        if not one.well:
            only = "" if one.needed else " (only `tinypeft grade` needs it)"
            print(textwrap.fill(one.mend + only, terminal_width(), initial_indent=" " * 6, subsequent_indent=" " * 6))
    bad = sum(not one.well and one.needed for one in findings)
    print("\nAll is well." if not bad else f"\n{bad} of {len(findings)} to mend.")
    return findings


def examine(place: Path) -> Iterator[Finding]:
    """What `doctor` looks at, in an order in which later ones need earlier ones."""
    yield _python(sys.version_info[:3])
    yield from (_library(line) for line in requires("tinypeft") or () if "extra ==" not in line)
    yield _tried("Jupyter", _jupyter, "pip install jupyter")
    yield _tried("lessons and exercises", _course, REINSTALL)
    yield _tried("bundled model", _model, REINSTALL)
    yield _tried("graders", _grader, f"what stands above, if that is bad; else {REINSTALL}")
    yield _tried(f"folder {place}", lambda: _writable(place), "change to a folder of yours, and `tinypeft start DIR` there")
    temporary = Path(tempfile.gettempdir())
    yield _tried(f"temporary folder {temporary}", lambda: _writable(temporary), "set TMPDIR to a folder of yours")
    if find_course(place) is not None:
        yield _tried("progress", lambda: _progress(place), "as it says")
    yield _tried("sandbox", _sandbox, "install it, or see what it says: a container may have to allow user namespaces",
                 needed=False)


def _tried(what: str, look: Callable[[], str], mend: str, needed: bool = True) -> Finding:
    """What `look` finds; an error of it is the finding, its message then says what is wrong."""
    try:
        return Finding(what, True, look(), needed=needed)
    except (OSError, ValueError, RuntimeError, ImportError, Failure) as error:
        return Finding(what, False, str(error), mend, needed)


def _python(found: tuple[int, ...]) -> Finding:
    text, least = ".".join(map(str, found)), ".".join(map(str, PYTHON))
    return Finding("Python", found >= PYTHON, f"{text}, in {sys.prefix}",
                   f"make a virtual environment with Python {least} or newer, and install tinypeft there")


def _library(requirement: str) -> Finding:
    """A library that tinypeft needs: there, and in a version that fits."""
    from packaging.requirements import Requirement  # pytest and Jupyter need it, so that it is there

    wanted = Requirement(requirement)
    mend = f'pip install "{requirement}"'
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Finding(wanted.name, False, "not installed", mend)
    return Finding(wanted.name, wanted.specifier.contains(found, prereleases=True), found, mend)


def _jupyter() -> str:
    if find_spec("jupyterlab") is None:
        raise ImportError("JupyterLab is not installed")
    return f"{program('jupyter')} lab"


def _course() -> str:
    files = course_files()
    lessons = [place for place in files if place.endswith(".ipynb")]
    exercises = all_exercises()
    if not lessons or not exercises:
        raise FileNotFoundError(f"{len(lessons)} lessons and {len(exercises)} exercises")
    if absent := [slug for slug, exercise in exercises.items() if not exercise.grader.is_file()]:
        raise FileNotFoundError(f"no grader for {', '.join(absent)}")
    return f"{len(lessons)} and {len(exercises)}"


def _model() -> str:
    folder = resolve_folder("tinypeft/surnames")
    weights = Path(folder) / "model.safetensors"
    return f"{weights.stat().st_size / 1000:,.0f} kB"


def _grader() -> str:
    """Grades a stub, which has no points, as a learner's file is graded."""
    exercise = next(one for one in all_exercises().values() if (one.folder / one.file).is_file())
    report = grade_file(exercise, exercise.folder / exercise.file)
    if report.score or any(test.mistake != "not-implemented" for test in report.tests):
        raise RuntimeError(f"the stub of {exercise.slug} has {report.score} points, and {report.tests[0].message!r}")
    return f"the stub of {exercise.slug} has {report.score} points, as it should"


def _writable(folder: Path) -> str:
    with tempfile.TemporaryFile(dir=folder):
        return "can be written to"


def _progress(place: Path) -> str:
    course = find_course(place)
    assert course is not None
    return f"{sum(one.passed for one in course.progress().values())} exercises passed, in {course.root}"


def _sandbox() -> str:
    """bubblewrap, found and tried: some systems have the program and forbid what it does."""
    if missing := can_confine():
        raise RuntimeError(missing)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tried.py"
        file.write_text("def three():\n    return 3\n")
        with Worker(file, confined=True) as worker:
            try:
                worker.call("three")
            except Failure as failure:
                said = re.sub(r"\s+", " ", worker.printed()).strip()
                raise RuntimeError(f"bwrap is installed, but does not work: {said or failure}") from None
    return "bwrap works"
