"""`tinypeft export`: an exercise for Gradescope, nbgrader or Classroom 50. What is written, and what to do with it there."""

from __future__ import annotations

import textwrap
from pathlib import Path

from tinypeft.commands.solution import solution_file
from tinypeft.commands.tables import print_text
from tinypeft.files import write_text
from tinypeft.grading.exercise import TOTAL, find_exercise

TRUSTED = textwrap.dedent("""\
    from tinypeft.grading.exports.nbgrader_preprocessor import PREPROCESSORS
    c = get_config()
    c.Autograde.autograde_preprocessors = PREPROCESSORS
    """)


def run_gradescope(name: str, out: Path | None = None) -> Path:
    """Write an autograder's zip.

    Raises:
        ValueError: an unknown exercise.
    """
    from tinypeft.grading.exports.gradescope import write_autograder

    exercise = find_exercise(name)
    path = out or Path(f"{exercise.slug}.zip")
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; expected a name for the zip, such as {path / (exercise.slug + '.zip')}")
    write_autograder(exercise, path)
    print_text(f"{path}: upload it as the autograder of a programming assignment worth {TOTAL} points, with a container of 1.5 "
               f"GB of memory or more. Students hand in {exercise.file}.", markdown=False)
    return path


def run_nbgrader(name: str, out: Path | None = None) -> Path:
    """Write the instructor's notebook of an assignment.

    Raises:
        ValueError: an unknown exercise, or one that is not solved in a file of functions.
        FileExistsError: there is a notebook already.
    """
    from tinypeft.grading.exports.nbgrader import notebook

    exercise = find_exercise(name)
    reference = solution_file(exercise)
    if reference is None or not exercise.file.endswith(".py"):
        raise ValueError(f"{exercise.slug} is handed in as {exercise.file}, which no cell of a notebook can hold: grade it "
                         "with `tinypeft grade`, or export it to Gradescope or Classroom 50")
    short = exercise.slug.partition("_")[2]
    path = (out or Path("source", short)) / f"{short}.ipynb"
    _refuse_to_overwrite(path)
    write_text(path, notebook(exercise, reference.read_text("utf-8")))
    print_text(f"{path}: the instructor's version, with our solution. `nbgrader generate_assignment {path.parent.name}` makes "
               "the students' from it. For marks that their code cannot reach, add this to nbgrader_config.py:", markdown=False)
    print(textwrap.indent(TRUSTED, "    "))
    print_text(f"With it, `nbgrader autograde {path.parent.name}` grades the solution cell in a sandbox, and runs nothing else "
               "of the notebook. Without it, what is in the notebook can give itself any points. Notebooks of other "
               "assignments are run as ever, and can write to the gradebook: keep those in another course.", markdown=False)
    return path


def run_classroom50(name: str, out: Path | None = None) -> Path:
    """Write the folder of an autograder.

    Raises:
        ValueError: an unknown exercise.
        FileExistsError: there is an autograder already.
    """
    from tinypeft.grading.exports.classroom50 import write_bundle

    exercise = find_exercise(name)
    folder = out or Path("autograders", exercise.slug.partition("_")[2])
    _refuse_to_overwrite(folder / "autograder.py")
    write_bundle(exercise, folder)
    print_text(f"{folder}: put it into your classroom50 repository as CLASSROOM/autograders/ASSIGNMENT. Students hand in "
               f"{exercise.file}.", markdown=False)
    return folder


def _refuse_to_overwrite(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} exists already, perhaps with changes of yours: name another folder with --out, or move "
                              "it away")


__all__ = ["run_classroom50", "run_gradescope", "run_nbgrader"]
