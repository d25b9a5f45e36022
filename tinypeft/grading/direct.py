"""A grader's tests called in this process: what `grade_file` reports, without the half second that pytest needs to start.

    DirectGrader(exercise).grade(file, seeds)                  the submission in a process of its own, as always
    DirectGrader(exercise).grade(file, seeds, trusted=True)    in this one: for files that come with the course, no others
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tinypeft.grading.exercise import TOTAL, Exercise
from tinypeft.grading.process import Failure, Worker, failure_of
from tinypeft.grading.run import NOT_RUN, Report, TestResult
from tinypeft.grading.submission import Submission, message_of
from tinypeft.grading.worker import MOST_REPLY, WireError, answer, decode, encode, load, told


class TrustedWorker(Worker):
    """A worker without a process, and so without limits. Arguments and results cross the border in the same form."""

    module: Any = None

    def call(self, function: str, *arguments: Any) -> Any:
        request, path = {"function": function, "arguments": list(arguments)}, str(self.file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a worker's go to its log
            if self.module is None:
                try:
                    self.module = load(path)
                except BaseException as error:
                    raise failure_of(told(error, path), self.name, loading=True) from None
                finally:
                    sys.modules.pop("submission", None)
            reply = answer(self.module, decode(encode(request)), path)
        try:
            reply = decode(encode(reply, MOST_REPLY))
        except WireError as error:
            raise Failure("unusable", str(error)) from None
        if "result" not in reply:
            raise failure_of(reply, self.name)
        return reply["result"]


class DirectGrader:
    """The tests of one exercise.

    Attributes:
        tests: name -> test, in the order in which they stand in the grader.
    """

    def __init__(self, exercise: Exercise):
        self.exercise = exercise
        module = _import(exercise.grader)
        self.tests: dict[str, Callable[[Submission], None]] = {
            name: value for name, value in vars(module).items() if name.startswith("test_") and callable(value)}

    def grade(self, file: Path, seeds: Iterable[int], trusted: bool = False, tests: Collection[str] = ()) -> list[Report]:
        """A report for each seed.

        Args:
            trusted: run the file in this process. It could do here whatever it likes.
            tests: only these; none for all.
        """
        reports = []
        for worker, seed in _workers(file, seeds, trusted):
            found = {name: self._judge(name, worker, seed) for name in self.tests if not tests or name in tests}
            rows = tuple(found[name] if name in found else TestResult(name, 0, points, False, "not run", NOT_RUN, 0.0)
                         for name, points in self.exercise.points.items())
            reports.append(Report(self.exercise.slug, self.exercise.title, seed, False, sum(row.points for row in rows), TOTAL,
                                  rows, version("tinypeft")))
        return reports

    def rejects(self, file: Path, seeds: Iterable[int], trusted: bool = False) -> bool:
        """Whether it fails a test at every seed. Stops at the first one that it fails."""
        return all(not all(self._judge(name, worker, seed).passed for name in self.tests)
                   for worker, seed in _workers(file, seeds, trusted))

    def _judge(self, name: str, worker: Worker, seed: int) -> TestResult:
        started, points = time.monotonic(), self.exercise.points.get(name, 0)
        try:
            self.tests[name](Submission(worker, self.exercise, seed, name))
        except Exception as error:  # Wrong, or one that the grader itself ran into
            mistake, seconds = getattr(error, "mistake", "error"), round(time.monotonic() - started, 3)
            return TestResult(name, 0, points, False, message_of(error), mistake, seconds)
        return TestResult(name, points, points, True, "", None, round(time.monotonic() - started, 3))


def _workers(file: Path, seeds: Iterable[int], trusted: bool) -> Iterable[tuple[Worker, int]]:
    """A new worker for each seed, so that none answers for what another one has done."""
    for seed in seeds:
        with TrustedWorker(file) if trusted else Worker(file) as worker:
            yield worker, seed


def _import(grader: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"tinypeft_grader_{grader.stem}", grader)
    if spec is None or spec.loader is None or not grader.is_file():
        raise FileNotFoundError(f"there is no grader {grader}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["DirectGrader", "TrustedWorker"]
