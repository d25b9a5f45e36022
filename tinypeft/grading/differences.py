"""Received and expected arrays of tests that failed, to be drawn: the tests once more, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.grading.compare import compare
from tinypeft.grading.direct import DirectGrader
from tinypeft.grading.exercise import Exercise
from tinypeft.grading.process import Worker
from tinypeft.grading.submission import Submission, Wrong


def differing_arrays(exercise: Exercise, file: Path, tests: Sequence[str], seed: int
                     ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Test -> the first array received that has the expected shape and other numbers, and the one expected.

    Args:
        tests: names of tests; those where no array differs are left out.
        seed: as when the file was graded, so that the inputs are the same.
    """
    if exercise.made_by is not None:  # what is handed in has no functions that could return arrays
        return {}
    grader, found = DirectGrader(exercise), {}
    with Worker(file) as worker:
        for test in tests:
            try:
                grader.tests[test](Submission(worker, exercise, seed, test))
            except Wrong as wrong:
                pair = next(_pairs(wrong.received, wrong.expected), None)
                if pair is not None:
                    found[test] = pair
    return found


def _pairs(received: Any, expected: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The arrays of two trees that have one shape and differ."""
    if isinstance(expected, dict) and isinstance(received, dict):
        for key in expected:
            yield from _pairs(received.get(key), expected[key])
    elif isinstance(expected, list | tuple) and isinstance(received, list):
        for one, other in zip(received, expected, strict=False):
            yield from _pairs(one, other)
    elif (isinstance(expected, np.ndarray) and isinstance(received, np.ndarray) and expected.ndim
          and received.shape == expected.shape and compare(received, expected)):
        yield received, expected


__all__ = ["differing_arrays"]
