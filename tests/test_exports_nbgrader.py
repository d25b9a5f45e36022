"""The assignment for nbgrader, with nbgrader: what students get, and what honest, wrong and forged notebooks score."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tinypeft.commands.export import TRUSTED, run_nbgrader
from tinypeft.grading.collect import collect
from tinypeft.grading.confine import can_confine
from tinypeft.grading.exercise import find_exercise
from tinypeft.grading.run import grade_file

pytest.importorskip("nbgrader", reason="needs the extra `nbgrader`")
pytestmark = pytest.mark.slow
no_sandbox = pytest.mark.skipif(can_confine() is not None, reason=f"no sandbox: {can_confine()}")

LORA = find_exercise("04")
REFERENCE = (Path(__file__).parent / "exercises" / "04_lora" / "reference.py").read_text("utf-8")
STUB = (LORA.folder / LORA.file).read_text("utf-8")
WRONG = REFERENCE.replace("scaling * (x @ A.T)", "(x @ A.T)")

# Cells of students' that stand between their solution, which is the stub, and the test cells.
FORGERIES = {
    "points": "import tinypeft.grading.exports.nbgrader as ours\nours.points = lambda *_: None",
    "report": """
import tinypeft.grading.exports.nbgrader as ours
from dataclasses import replace
from tinypeft.grading.run import zero_report

def all_points(exercise, file):
    report = zero_report(exercise, "", "")
    return replace(report, tests=tuple(replace(test, points=test.max, passed=True) for test in report.tests))

ours.grade_file = all_points""",
    "subprocess": """
import json, subprocess

class Done(subprocess.CompletedProcess): pass

def run(command, **_):
    rows = {f"test_{name}": {"passed": True, "message": "", "mistake": None, "seconds": 0.0} for name in (
        "init", "forward", "gradient_of_B", "gradient_of_A", "gradient_of_x", "merge", "unmerge", "count", "rslora")}
    with open(command[command.index("--grading-report") + 1], "w") as file:
        json.dump({"tests": rows, "printed": ""}, file)
    return Done(command, 0, "", "")

subprocess.run = run""",
    "display": "get_ipython().display_formatter.format = lambda *_, **__: ({'text/plain': '5.0'}, {})",
    "solution": """
from tinypeft.commands.solution import solution_file
from tinypeft.grading.exercise import find_exercise
with open("lora.py", "w") as file:
    file.write(solution_file(find_exercise("04")).read_text("utf-8"))""",
    "exit": "import os\nos._exit(0)",
    "float": "import builtins\nbuiltins.float = lambda _: 20.0",
}
WORTH_NOTHING = {"float", "exit"}  # where notebooks are run: the others give points there


class Class:
    """A course's folder, as nbgrader wants it."""

    def __init__(self, root: Path):
        self.root = root
        run_nbgrader("04", root / "source" / "lora")
        self.configure("")
        self.nbgrader("generate_assignment", "lora")
        self.released = root / "release" / "lora" / "lora.ipynb"
        for student, source in {"honest": REFERENCE, "wrong": WRONG, "stub": STUB}.items():
            self.hand_in(student, source)
        for name, cell in FORGERIES.items():
            self.hand_in(name, STUB, cell)

    def configure(self, lines: str) -> None:
        (self.root / "nbgrader_config.py").write_text(f"c = get_config()\nc.CourseDirectory.course_id = 'peft'\n{lines}")

    def nbgrader(self, *arguments: str, check: bool = True) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JUPYTER"))}
        environment |= {"JUPYTER_CONFIG_DIR": str(self.root / "config"),  # and its program alembic is beside this Python
                         "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
        done = subprocess.run([sys.executable, "-m", "nbgrader", *arguments], cwd=self.root, capture_output=True, text=True,
                              check=False, env=environment)
        assert not (check and done.returncode), done.stderr[-3000:]
        return done.stderr

    def hand_in(self, student: str, source: str, cell: str | None = None, change: Any = None) -> None:
        notebook = nbformat.read(self.released, as_version=4)
        notebook.cells[1].source = f"%%writefile lora.py\n{source}"
        if cell is not None:
            notebook.cells.insert(2, nbformat.v4.new_code_cell(cell))
        if change is not None:
            change(notebook)
        path = self.root / "submitted" / student / "lora" / "lora.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)

    def autograde(self) -> dict[str, dict[str, float]]:
        """Student -> test -> points."""
        from nbgrader.api import Gradebook

        shutil.rmtree(self.root / "autograded", ignore_errors=True)
        self.nbgrader("autograde", "lora", check=False)  # it ends with an error if one of the notebooks did
        with Gradebook(f"sqlite:///{self.root / 'gradebook.db'}") as book:
            return {one.student.id: {grade.name: grade.auto_score for grade in one.notebooks[0].grades}
                    for one in book.assignment_submissions("lora")}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Class:
    return Class(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def as_ever(course: Class) -> dict[str, dict[str, float]]:
    """Points if nbgrader runs the notebooks."""
    return course.autograde()


@pytest.fixture(scope="module")
def trusted(course: Class, as_ever: Any) -> dict[str, dict[str, float]]:
    """Points if it only grades the solution cells."""
    course.configure(TRUSTED)
    course.hand_in("edited", STUB, change=lambda notebook: [cell.update(source="1000.0") for cell in notebook.cells[2:]])
    course.hand_in("absent", STUB, change=lambda notebook: notebook.cells.pop(1))
    shows_that_it_ran = f"open({str(course.root / 'ran')!r}, 'w').close()"
    course.hand_in("deleted", STUB, shows_that_it_ran, lambda notebook: notebook.update(cells=notebook.cells[:3]))
    course.hand_in("bare", STUB, shows_that_it_ran, without_metadata)
    course.hand_in("bare and right", REFERENCE, shows_that_it_ran, without_metadata)
    return course.autograde()


def without_metadata(notebook: Any) -> None:
    for cell in notebook.cells:
        cell.metadata = {}


def expected(source: str, folder: Path) -> dict[str, float]:
    (folder / "lora.py").write_text(source)
    return {test.name: test.points for test in grade_file(LORA, folder / "lora.py").tests}


def test_students_get_the_stub_and_no_solution(course: Class):
    text = course.released.read_text("utf-8")
    cell = nbformat.read(course.released, as_version=4).cells[1].source
    stub = STUB.replace("raise NotImplementedError", "# YOUR CODE HERE\n    raise NotImplementedError()")
    assert cell == f"%%writefile lora.py\n{stub}".rstrip()
    solved = {line.strip() for line in REFERENCE.splitlines()} - {line.strip() for line in STUB.splitlines()}
    assert [line for line in solved if len(line) > 12 and json.dumps(line)[1:-1] in text] == []
    assert "SOLUTION" not in text


@pytest.mark.parametrize(("student", "source"), [("honest", REFERENCE), ("wrong", WRONG), ("stub", STUB)])
def test_honest_points_are_those_of_grade_file(student: str, source: str, as_ever: Any, trusted: Any, tmp_path: Path):
    assert as_ever[student] == trusted[student] == expected(source, tmp_path)


@pytest.mark.parametrize("name", FORGERIES)
def test_notebooks_that_are_run_can_give_themselves_points(name: str, as_ever: Any):
    """What `tinypeft export nbgrader` warns of. A forgery that no longer works here proves nothing below."""
    assert (sum(points or 0 for points in as_ever[name].values()) > 0) is (name not in WORTH_NOTHING)


@no_sandbox
@pytest.mark.parametrize("name", [*FORGERIES, "edited", "absent", "deleted", "bare"])
def test_notebooks_that_are_not_run_cannot(name: str, trusted: Any):
    assert trusted[name] == dict.fromkeys(LORA.points, 0.0)


@no_sandbox
def test_the_gradebook_says_whether_a_notebook_is_run(course: Class, trusted: Any):
    assert not (course.root / "ran").exists()
    assert trusted["bare and right"] == LORA.points  # for the file is all that counts


@no_sandbox
def test_messages_are_in_what_students_get_back(course: Class, trusted: Any):
    notebook = nbformat.read(course.root / "autograded" / "wrong" / "lora" / "lora.ipynb", as_version=4)
    forward = next(cell for cell in notebook.cells if cell.metadata.nbgrader.grade_id == "test_forward")
    assert "alpha / r is missing" in forward.outputs[0].text
    assert forward.outputs[1].data["text/plain"] == "0.0"


def test_tinypeft_grade_finds_the_same_files(course: Class, trusted: Any, tmp_path: Path):
    found = {one.student: one for one in collect(course.root / "submitted", LORA, tmp_path)}
    assert set(found) == set(trusted)
    assert found["honest"].file is not None
    assert found["honest"].file.read_text("utf-8").strip() == REFERENCE.strip()
    assert found["points"].file is not None
    assert "no lora.py in it" in found["absent"].trouble


@pytest.fixture
def with_another_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """A notebook with a test cell that is not ours, and where the gradebook is that knows it."""
    from nbgrader.api import Gradebook
    from nbgrader.preprocessors import SaveCells

    from tinypeft.grading.exports.nbgrader import notebook

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # for alembic
    made = nbformat.reads(notebook(LORA, REFERENCE), as_version=4)
    settings = {**made.cells[-1].metadata.nbgrader, "grade_id": "mine"}
    made.cells.append(nbformat.v4.new_code_cell("assert True", metadata={"nbgrader": settings}))
    database = f"sqlite:///{tmp_path / 'gradebook.db'}"
    with Gradebook(database) as book:
        book.add_assignment("lora")
    return SaveCells().preprocess(made, {"nbgrader": {"notebook": "lora", "assignment": "lora", "db_url": database}})


@no_sandbox
def test_a_cell_of_the_instructors_gives_no_points_unrun(with_another_test: Any):
    from tinypeft.grading.exports.nbgrader_preprocessor import GradeSubmission

    graded, _ = GradeSubmission().preprocess(*with_another_test)
    assert graded.cells[-1].outputs[0].output_type == "error"


def test_without_a_sandbox_it_refuses(with_another_test: Any, monkeypatch: pytest.MonkeyPatch):
    from tinypeft.grading.exports import nbgrader_preprocessor

    monkeypatch.setattr(nbgrader_preprocessor, "can_confine", lambda: "no bwrap")
    with pytest.raises(RuntimeError, match="there is none here: no bwrap"):
        nbgrader_preprocessor.GradeSubmission().preprocess(*with_another_test)
    graded, _ = nbgrader_preprocessor.GradeSubmission(unconfined=True).preprocess(*with_another_test)
    assert graded.cells[2].outputs[1].data["text/plain"] == "10.0"
