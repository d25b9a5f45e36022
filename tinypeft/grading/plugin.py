"""The pytest plugin: the fixtures `submission` and `adapter`, and a report. What grades is imported when a test asks for one.

    pytest exercises/04_lora                       advisory: what you edit, in your own pytest; where there is no grader
                                                   beside it, as in a learner's folder, with the packaged one
    tinypeft test 04, tinypeft grade               the same tests in an interpreter of our own (run.py)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinypeft.grading import PUBLIC_SEED

PRINTED = pytest.StashKey[str]()
TOLD = "tinypeft"  # a property of a test: what it says if it passes
EXERCISE = re.compile(r"\d\d_[a-z0-9_]+")  # the name of an exercise's folder
LEARNERS = pytest.StashKey[Path]()  # of a grader that was collected elsewhere: the file that it grades
FIXTURES = {"submission", "adapter"}
ADVISORY = ("Advisory: this was your own pytest, with your settings and plugins, and with code of yours in reach of it. "
            "`tinypeft test` grades in an interpreter of its own.")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tinypeft")
    group.addoption("--submission", help="the file to grade; default: the one beside the grader")
    group.addoption("--grading-seed", type=int, default=PUBLIC_SEED, help="the inputs are drawn from it")
    group.addoption("--holdout", help="FILE with names, one a line, that are not shipped: the capstone is graded with them")
    group.addoption("--confined", action="store_true", help="run the submission in a sandbox")
    group.addoption("--grading-report", help="FILE.json to write to")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """In a learner's folder, where no grader is, the packaged one takes the place of the file that it grades."""
    if not EXERCISE.fullmatch(file_path.parent.name):
        return None
    from tinypeft.grading.exercise import exercises_folder, read_exercise

    packaged = exercises_folder() / file_path.parent.name
    if not (packaged / "exercise.toml").is_file():
        return None
    exercise = read_exercise(packaged)
    if file_path.name != exercise.file or file_path.with_name(exercise.grader.name).exists():
        return None
    grader: pytest.Module = pytest.Module.from_parent(parent, path=exercise.grader, name=file_path.name,
                                                      nodeid=f"{parent.nodeid}/{file_path.name}")
    grader.stash[LEARNERS] = file_path
    return grader


def _graded_file(request: pytest.FixtureRequest, name: str) -> Path:
    """What --submission says; or the learner's file, for which the grader was collected; or the one beside the grader."""
    module = request.node.getparent(pytest.Module)
    return Path(request.config.getoption("--submission") or module.stash.get(LEARNERS, request.path.with_name(name)))


@pytest.fixture(scope="session")
def _workers(pytestconfig: pytest.Config) -> Iterator[dict[Path, Any]]:
    """One worker for each file, for the whole run."""
    found: dict[Path, Any] = {}
    yield found
    pytestconfig.stash[PRINTED] = "\n".join(worker.printed() for worker in found.values())
    for worker in found.values():
        worker.close()


@pytest.fixture
def submission(request: pytest.FixtureRequest, _workers: dict[Path, Any]) -> Any:
    """The learner's file: its functions look like attributes, and run in a process of their own."""
    from tinypeft.grading.exercise import read_exercise
    from tinypeft.grading.process import Worker
    from tinypeft.grading.submission import Submission

    exercise, option = read_exercise(request.path.parent), request.config.getoption
    file = _graded_file(request, exercise.file)
    if file not in _workers:
        _workers[file] = Worker(file, confined=option("--confined"))
    return Submission(_workers[file], exercise, option("--grading-seed"), request.node.name)


@pytest.fixture
def adapter(request: pytest.FixtureRequest, _workers: dict[Path, Any]) -> Any:
    """The learner's adapter.zip, looked at in a process of its own."""
    from tinypeft.grading.capstone import Adapter, OpenedAdapter, read_holdout
    from tinypeft.grading.exercise import read_exercise

    exercise, option = read_exercise(request.path.parent), request.config.getoption
    file = _graded_file(request, exercise.file)
    if file not in _workers:
        holdout = option("--holdout")
        _workers[file] = OpenedAdapter(file, option("--confined"), read_holdout(Path(holdout)) if holdout else None,
                                       option("--grading-seed"))
    return Adapter(_workers[file], exercise, lambda text: request.node.user_properties.append((TOLD, text)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    outcome: Any = yield
    report, error = outcome.get_result(), call.excinfo.value if call.excinfo else None
    report.told = None
    asked = not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
    if error is not None and report.failed and asked:
        from tinypeft.grading.submission import Wrong, message_of

        report.told = message_of(error)
        if isinstance(error, Wrong):
            report.longrepr = report.told  # the message is all: no lines of ours
    report.mistake = getattr(error, "mistake", None) or ("skipped" if report.skipped else "error" if error else None)
    report.graded = asked and item.path.with_name("exercise.toml").exists()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what such a run is worth."""
    reports = (report for several in terminalreporter.stats.values() for report in several)
    if not config.getoption("--grading-report") and any(getattr(report, "graded", False) for report in reports):
        terminalreporter.write_line(ADVISORY)


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("--grading-report"):
        config.pluginmanager.register(_Report(Path(path), config), "tinypeft-report")


class _Report:
    """Collects a row for each test, and writes them at the end, with what the submission printed."""

    def __init__(self, path: Path, config: pytest.Config):
        self.path, self.config = path, config
        self.rows: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        row = self.rows.setdefault(report.location[2], {"passed": False, "message": "", "mistake": None, "seconds": 0.0})
        row["seconds"] += report.duration
        row["passed"] = report.when == "call" and report.passed
        row["message"] = " ".join(text for name, text in report.user_properties if name == TOLD)
        if not report.passed:
            row |= {"message": report.told or str(report.longrepr), "mistake": report.mistake or "error"}

    def pytest_sessionfinish(self) -> None:
        content = {"tests": self.rows, "printed": self.config.stash.get(PRINTED, "")}
        self.path.write_text(json.dumps(content), encoding="utf-8")
