"""An assignment for nbgrader: a notebook whose solution cell writes the exercise's file, and a locked cell for each test.

    tinypeft export nbgrader 04 --out source/lora      then `nbgrader generate_assignment lora`, as with any other assignment

A test cell has the packaged grader run, in a process of its own, and ends in the points, which nbgrader takes from there. That
is for students. nbgrader runs all cells of a notebook in one process, in which a student's cell can do what it likes with those
that follow. For marks, let nbgrader grade without running notebooks (nbgrader_preprocessor.py), or use `tinypeft grade`.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinypeft.grading.exercise import TOTAL, Exercise, find_exercise
from tinypeft.grading.run import Report, TestResult, grade_file, spoken

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
INTRODUCTION, SOLUTION = "introduction", "solution"  # ids of cells; those of tests are their names


# ---- in the notebook ------------------------------------------------------------------------------------------------

def points(slug: str, file: str, test: str) -> float:
    """The points that a test gives to a file. Prints why, if it does not give all."""
    if not Path(file).is_file():
        print(f"There is no {file}: run the cell that begins with %%writefile {file}.")
        return 0.0
    result = next(one for one in _graded(slug, file, Path(file).read_bytes()).tests if one.name == test)
    print(verdict(result))
    return float(result.points)


@lru_cache(maxsize=1)
def _graded(slug: str, file: str, content: bytes) -> Report:
    """All tests at once; `content` is there to grade a file again when it has changed."""
    return grade_file(find_exercise(slug), Path(file))


def verdict(result: TestResult) -> str:
    """What a test cell prints."""
    return f"{spoken(result.name)}: {result.points} of {result.max}" + (f". {result.message}" if result.message else "")


# ---- the notebook ---------------------------------------------------------------------------------------------------

def notebook(exercise: Exercise, reference: str) -> str:
    """The instructor's version of the assignment, as the text of an .ipynb; nbgrader makes the students' from it.

    Args:
        reference: a correct solution.
    """
    import nbformat
    from nbformat import v4

    stub = (exercise.folder / exercise.file).read_text("utf-8")
    cells = [_cell(INTRODUCTION, _introduction(exercise), kind="markdown", locked=True),
             _cell(SOLUTION, f"%%writefile {exercise.file}\n{with_solution(stub, reference)}", solution=True),
             *(_cell(test, _test(exercise, test, worth), grade=True, locked=True, points=worth)
               for test, worth in exercise.points.items())]
    made = v4.new_notebook(cells=cells, metadata={"kernelspec": {"display_name": "Python 3", "language": "python",
                                                                 "name": "python3"}})
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def _cell(grade_id: str, source: str, kind: str = "code", grade: bool = False, solution: bool = False, locked: bool = False,
          points: int | None = None) -> Any:
    from nbformat import v4

    settings = {"schema_version": 3, "grade_id": grade_id, "grade": grade, "solution": solution, "locked": locked,
                "task": False}
    if points is not None:
        settings["points"] = points
    new = v4.new_markdown_cell if kind == "markdown" else v4.new_code_cell
    return new(source.rstrip(), id=grade_id.replace("_", "-")[:64], metadata={"nbgrader": settings})


def _introduction(exercise: Exercise) -> str:
    return (f"# {exercise.title}\n\nThe next cell writes the file `{exercise.file}`. Write its functions: what each gets and "
            "has to return is said there. Run the cell after each change; those below then say how many of the "
            f"{TOTAL} points it has, and what is wrong. Only that cell is graded.")


def _test(exercise: Exercise, test: str, worth: int) -> str:
    return (f"# {spoken(test)}: {worth} points\nfrom tinypeft.grading.exports.nbgrader import points\n\n"
            f'points("{exercise.slug}", "{exercise.file}", "{test}")')


def with_solution(stub: str, reference: str) -> str:
    """The stub with each function's body from the reference, between the marks of what nbgrader takes out for students.

    What the reference has beside these functions stands behind the first of them, between the same marks: nbgrader leaves an
    error where each pair was, which inside a function does not keep the file from being loaded.
    """
    functions = {node.name: node for node in ast.parse(reference).body if isinstance(node, ast.FunctionDef)}
    theirs = [node for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
    lines, solved = stub.splitlines(), reference.splitlines()
    for node in reversed(theirs):  # from the end, so that line numbers before it stay
        last, body = node.body[-1], _without_docstring(functions[node.name])
        assert isinstance(last, ast.Raise)
        code = solved[body[0].lineno - 1:body[-1].end_lineno]
        if node is theirs[0]:
            code += _beside(reference, stub)
        lines[last.lineno - 1:last.end_lineno] = [f"    {BEGIN}", *code, f"    {END}"]
    return "\n".join(lines)


def _without_docstring(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def _beside(reference: str, stub: str) -> list[str]:
    """The lines of the reference that are neither in the stub nor bodies of its functions: imports, constants, helpers."""
    known = {node.name if isinstance(node, ast.FunctionDef) else ast.dump(node) for node in ast.parse(stub).body}
    lines: list[str] = []
    for node in ast.parse(reference).body[1:]:  # the docstring is the first
        if (node.name if isinstance(node, ast.FunctionDef) else ast.dump(node)) not in known:
            lines += ["", *reference.splitlines()[node.lineno - 1:node.end_lineno]]
    return lines


__all__ = ["notebook", "points", "verdict", "with_solution"]
