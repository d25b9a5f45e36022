"""An assignment for nbgrader: a notebook whose solution cell writes the exercise's file, and a locked cell for each test.

    tinypeft export nbgrader 04 --out source/lora      then `nbgrader generate_assignment lora`, as with any other assignment

A test cell runs the packaged grader in a process of its own, and ends in the points, which nbgrader takes from there. That is
for the students. nbgrader runs all cells of a notebook in one process, where a cell of the student's can do what it likes with
those that follow. For marks, either let nbgrader grade without running notebooks (nbgrader_preprocessor.py), or use
`tinypeft grade`, which reads them too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinypeft.grading.exercise import Exercise, find_exercise
from tinypeft.grading.exports.machine import spoken
from tinypeft.grading.run import Report, TestResult, grade_file

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
SOLUTION = "solution"  # the id of its cell
CALL = 'points("{slug}", "{file}", "{test}")'
CALLS = re.compile(CALL.format(slug=r"(\w+)", file=r"([\w.]+)", test=r"(\w+)").replace("(\"", r"\(\"").replace("\")", r"\"\)"))
