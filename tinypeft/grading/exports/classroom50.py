"""An autograder for Classroom 50: a folder to put into its repository as CLASSROOM/autograders/ASSIGNMENT, and result.json.

    autograder.py      run for each submission, in the student's checkout: installs tinypeft, grades, writes ./result.json
    tinypeft-*.whl     what it installs

On GitHub's machines everybody may become root with `sudo`. So the grader becomes root, who can make a sandbox, and what a
student wrote never runs as the user who writes result.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Any

from tinypeft.files import replace_file, write_text
from tinypeft.grading.exercise import Exercise, find_exercise
from tinypeft.grading.exports.machine import circumstances, grade_folder
from tinypeft.grading.exports.wheel import make_wheel
from tinypeft.grading.run import spoken

SCHEMA = "classroom50/result/v1"
GIVEN = {"classroom": "CLASSROOM", "assignment": "ASSIGNMENT", "assignment_type": "ASSIGNMENT_TYPE", "owner": "OWNER",
         "submission": "SUBMISSION_TAG", "commit": "COMMIT_URL", "release": "RELEASE_URL", "review": "REVIEW_URL"}

AUTOGRADER = '''"""Grades exercise @SLUG@ with the tinypeft beside this file. Classroom 50 runs it in a student's checkout."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIVEN = @GIVEN@


def as_root():
    """What to put before a command for it to be run by root; nothing where that is not possible."""
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "true"], check=False).returncode:
        return []
    return [sudo, "-n", "--preserve-env=" + ",".join([*GIVEN, "TINYPEFT_AS_NOBODY"])]


def installed():
    """A Python that has tinypeft."""
    python = HERE / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(HERE / "venv", with_pip=True)
        wheel = next(HERE.glob("tinypeft-*.whl"))
        # Not in the checkout, where a student's pip.py would be taken for pip.
        subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", wheel], cwd=HERE, check=True)
    return python


def main():
    root = as_root()
    if root and not shutil.which("bwrap"):
        subprocess.run([*root, "apt-get", "install", "-qq", "-y", "bubblewrap"], check=False)
    command = [*root, installed(), "-I", "-m", "tinypeft.grading.exports.classroom50", "@SLUG@", os.getcwd()]
    done = subprocess.run(command, env={**os.environ, "TINYPEFT_AS_NOBODY": "1"}, stdout=subprocess.PIPE, check=True)
    Path("result.json").unlink(missing_ok=True)  # a link in the checkout may lead elsewhere
    Path("result.json").write_bytes(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
'''


def write_bundle(exercise: Exercise, folder: Path) -> None:
    """Write autograder.py and the wheel that it installs into a folder; other files in it stay."""
    with tempfile.TemporaryDirectory() as temporary:
        wheel = make_wheel(Path(temporary))
        content = wheel.read_bytes()
    with replace_file(folder / wheel.name) as new:
        new.write_bytes(content)
    names = repr(sorted(GIVEN.values()))
    write_text(folder / "autograder.py", AUTOGRADER.replace("@SLUG@", exercise.slug).replace("@GIVEN@", names))


def result(report: Mapping[str, Any], given: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """result.json of a report.

    Args:
        report: in the form of `Report.to_dict`; its points are integers, as they have to be here.
        given: the environment of Classroom 50's runner, which says whose submission this is.
        now: when it was graded.

    Raises:
        ValueError: the runner has not said what it has to.
    """
    known = {"ASSIGNMENT_TYPE": "individual", "OWNER": given.get("USERNAME", ""), "REVIEW_URL": given.get("COMMIT_URL", ""),
             **{name: value for name, value in given.items() if value}}
    if missing := [name for name in GIVEN.values() if not known.get(name)]:
        raise ValueError(f"Classroom 50's runner sets these environment variables, and has not: {', '.join(missing)}")
    return {
        "schema": SCHEMA, **{key: known[name] for key, name in GIVEN.items()}, "datetime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "score": report["score"], "max-score": report["max"],
        "tests": [{"test-name": spoken(test["name"]), "passed": test["passed"], "score": test["points"],
                   "max-score": test["max"], "message": test["message"], "mistake": test["mistake"],
                   "confined": report["confined"]} for test in report["tests"]],
    }


def main(slug: str, folder: str) -> None:
    """Grade what is in a checkout, and print the result."""
    report = grade_folder(find_exercise(slug), Path(folder)).to_dict()
    print(json.dumps(result(report, environ, datetime.now(UTC)), indent=2))
    print(circumstances(report), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["result", "write_bundle"]
