"""nbgrader's autograde without running what students wrote. With these lines in nbgrader_config.py,

    from tinypeft.grading.exports.nbgrader_preprocessor import PREPROCESSORS
    c = get_config()
    c.Autograde.autograde_preprocessors = PREPROCESSORS

the file in a solution cell is graded as `tinypeft grade` does it, in a sandbox and with private inputs, and each test cell gets
its points and its message as if it had been run. Whether it is one of our assignments is asked of the gradebook, not of what is
handed in, from which any cell may have been deleted. Notebooks of other assignments are run, as ever, and what is run can write
to the gradebook: keep those in a course of their own. Needs the extra `nbgrader`.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute, OverwriteCells
from nbgrader.utils import is_grade
from traitlets import Bool, Integer

from tinypeft.grading.collect import only_cell
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.exports.machine import grade_content
from tinypeft.grading.exports.nbgrader import verdict
from tinypeft.grading.run import Report, zero_report

CALL = re.compile(r'points\("(\w+)", "[\w.]+", "(\w+)"\)\s*$')  # the last line of a test cell
SEED = secrets.randbits(32)  # one for all students of a run


class GradeSubmission(Execute):
    """Takes the place of Execute in the assignments that `tinypeft export nbgrader` makes."""

    unconfined = Bool(False, help="Grade without a sandbox, where none can be made.").tag(config=True)
    seed = Integer(SEED, help="Inputs are drawn from it.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Any = None, km: Any = None) -> tuple[NotebookNode, Any]:
        """Put points and messages into the test cells, and put back those that were deleted.

        Raises:
            RuntimeError: there is no sandbox, and `unconfined` was not set.
        """
        given = _test_cells(resources["nbgrader"])
        if not given:
            return super().preprocess(nb, resources, km)
        there = {cell.metadata.nbgrader.grade_id for cell in nb.cells if is_grade(cell)}
        nb.cells += [cell for name, cell in given.items() if name not in there]
        called = {name: match for name, cell in given.items() if (match := CALL.search(cell.source))}
        report = self._report(nb, next(iter(called.values()))[1])
        found = {test.name: test for test in report.tests}
        for cell in nb.cells:
            if cell.cell_type != "code":
                continue
            cell.outputs, cell.execution_count = [], None
            if is_grade(cell) and (match := called.get(cell.metadata.nbgrader.grade_id)):
                result = found[match[2]]
                cell.outputs = [new_output("stream", name="stdout", text=verdict(result) + "\n"),
                                new_output("execute_result", data={"text/plain": str(float(result.points))})]
            elif is_grade(cell):  # else it would get all its points, as a cell without output does
                cell.outputs = [new_output("error", ename="NotRun", evalue="", traceback=["Only tinypeft's cells are graded."])]
        return nb, resources

    def _report(self, nb: NotebookNode, slug: str) -> Report:
        missing = can_confine()
        if missing and not self.unconfined:
            raise RuntimeError(f"submissions are graded in a sandbox, and there is none here: {missing}. To grade without one, "
                               "set c.GradeSubmission.unconfined = True")
        exercise, confined = find_exercise(slug), missing is None
        try:
            content = only_cell(json.dumps(nb).encode(), exercise.file)
        except ValueError as error:
            return zero_report(exercise, "no-submission", str(error), seed=self.seed, confined=confined)
        return grade_content(exercise, content, seed=self.seed, confined=confined)


def _test_cells(of: Mapping[str, str]) -> dict[str, NotebookNode]:
    """The test cells of ours that a notebook had when it was given out, by their ids; none in other assignments.

    Args:
        of: which notebook it is, and where the gradebook is, as nbgrader tells each preprocessor.
    """
    with Gradebook(of["db_url"]) as book:
        notebook = book.find_notebook(of["notebook"], of["assignment"])
        worth = {cell.name: cell.max_score for cell in notebook.grade_cells}
        cells = [OverwriteCells().missing_cell_transform(cell, worth[cell.name]) for cell in notebook.source_cells
                 if cell.name in worth and cell.cell_type == "code" and CALL.search(cell.source)]
    return {cell.metadata["nbgrader"]["grade_id"]: new_code_cell(cell.source, metadata=cell.metadata) for cell in cells}


PREPROCESSORS = [GradeSubmission if one is Execute else one for one in Autograde.autograde_preprocessors.default_args[0]]

__all__ = ["PREPROCESSORS", "GradeSubmission"]
