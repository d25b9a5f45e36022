"""An autograder for Gradescope: a zip to upload, and what it does there. https://gradescope-autograders.readthedocs.io

    setup.sh           run once, as root, when the image is built: installs bubblewrap, Python, and tinypeft from the zip
    run_autograder     run as root for each submission: grades /autograder/submission, writes /autograder/results/results.json

The results are written when the submission's process has ended, by root, into a folder that no other user may enter.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinypeft.files import replace_file, write_json
from tinypeft.grading.exercise import Exercise, find_exercise
from tinypeft.grading.exports.machine import circumstances, grade_folder
from tinypeft.grading.exports.wheel import make_wheel, write_zip
from tinypeft.grading.run import spoken

ROOT, HOME = "/autograder", "/opt/tinypeft"  # Gradescope's folder, and where tinypeft is installed

SETUP = """#!/usr/bin/env bash
# Installs what grading needs. Run once, as root, when the image is built.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y python3 python3-venv
apt-get install -y bubblewrap || echo "no bubblewrap: submissions will run without a sandbox, and their reports say so"
python=python3
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then  # as in Ubuntu 22.04
    apt-get install -y python3.11 python3.11-venv
    python=python3.11
fi
"$python" -m venv @HOME@
@HOME@/bin/pip install --no-cache-dir "$(dirname "$0")"/tinypeft-*.whl
chmod -R go-rwx @HOME@/lib/python3*/site-packages/tinypeft  # graders and solutions are no business of a submission
"""

RUN = """#!/usr/bin/env bash
# Grades the submission of exercise @SLUG@. Run as root, each time that something is handed in.
set -euo pipefail
mkdir -p @ROOT@/results
chmod 700 @ROOT@/source @ROOT@/results
export TINYPEFT_AS_NOBODY=1  # where no sandbox can be made
exec @HOME@/bin/python -I -m tinypeft.grading.exports.gradescope @SLUG@ @ROOT@
"""


def write_autograder(exercise: Exercise, path: Path, root: str = ROOT, home: str = HOME) -> None:
    """Write the zip that is uploaded to Gradescope.

    Args:
        root, home: other folders than those of Gradescope's machines, to try it elsewhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = make_wheel(Path(folder))
        files = {wheel.name: wheel.read_bytes()}
    for name, text in (("setup.sh", SETUP), ("run_autograder", RUN)):
        files[name] = text.replace("@ROOT@", root).replace("@HOME@", home).replace("@SLUG@", exercise.slug).encode()
    with replace_file(path) as temporary:
        write_zip(temporary, files, executable=frozenset({"setup.sh", "run_autograder"}))


def results(report: Mapping[str, Any]) -> dict[str, Any]:
    """results.json of a report, in the form of `Report.to_dict`. All text is marked as plain: some of it is the student's."""
    output = [f"{report['title']}: {report['score']} of {report['max']} points.", circumstances(report)]
    if report["printed"].strip():
        output += ["", "Your code printed:", report["printed"]]
    return {
        "score": report["score"],
        "execution_time": round(sum(test["seconds"] for test in report["tests"])),
        "output": "\n".join(output),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": [{"name": spoken(test["name"]), "score": test["points"],
                   "max_score": test["max"], "status": "passed" if test["passed"] else "failed", "output": test["message"],
                   "tags": [test["mistake"]] if test["mistake"] else []} for test in report["tests"]],
        "extra_data": {name: report[name] for name in ("exercise", "seed", "confined", "version")},
    }


def main(slug: str, root: str) -> None:
    """Grade what was handed in, and write the results."""
    report = grade_folder(find_exercise(slug), Path(root, "submission"))
    write_json(Path(root, "results", "results.json"), results(report.to_dict()))
    print(f"{slug}: {report.score} of {report.max}. {circumstances(report.to_dict())}")


if __name__ == "__main__":
    main(*sys.argv[1:])

__all__ = ["results", "write_autograder"]
