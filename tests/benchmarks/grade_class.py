"""Seconds that a class of 200 takes: 150 honest submissions of exercise 04, right and wrong ones, and 50 hostile ones, of which
15 hang until their 10 seconds are over.

    python tests/benchmarks/grade_class.py [--students 200] [--workers 4]

Prints seconds, CPU seconds, how busy the machine was before, and what became of whom: honest submissions should get the points
that the exercise's bank says, hostile ones at most those of the half-right solution that they are made from. Linux with
bubblewrap only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from tinypeft.files import read_json
from tinypeft.grading.bank import read_bank
from tinypeft.grading.batch import default_workers
from tinypeft.grading.exercise import find_exercise

FORGERIES = Path(__file__).parents[1] / "exercises" / "forgeries"
EXERCISE = find_exercise("04")
HANGING = ("infinite_loop", "sleep")
ADOPT = 36  # PR_SET_CHILD_SUBREAPER: whoever outlives its parent is ours, so that its CPU seconds are counted
HALF = 40  # points of forgeries/base.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        submissions, marks = Path(folder, "class"), Path(folder, "marks")
        submissions.mkdir()
        expected = write_class(submissions, options.students)
        load, started = os.getloadavg()[0], time.monotonic()
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
        subprocess.run([sys.executable, "-m", "tinypeft.cli", "grade", submissions, "--exercise", EXERCISE.slug, "--out", marks,
                        "--workers", str(options.workers)], check=True)
        seconds = time.monotonic() - started
        with contextlib.suppress(ChildProcessError):
            while os.wait():
                pass
        found = {student: read_json(marks / "students" / f"{student}.json")["score"] for student in expected}
    honest = {student: points for student, points in expected.items() if student.startswith("honest")}
    right = sum(found[student] == points for student, points in honest.items())
    overpaid = [student for student in expected if student not in honest and (found[student] or 0) > HALF]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(expected)} submissions, {options.workers} at a time, {os.cpu_count()} cores, load {load:.1f} before: "
          f"{seconds:.0f} s, {used.ru_utime + used.ru_stime:.0f} CPU s")
    print(f"honest: {right} of {len(honest)} have the points that they should; hostile with more than {HALF}: "
          f"{', '.join(overpaid) or 'none'}")


def write_class(folder: Path, students: int) -> dict[str, int]:
    """Student -> points: what is right for honest ones, the most that is right for others."""
    hanging = round(students * 15 / 200)
    hostile = students // 4 - hanging
    bank = read_bank(EXERCISE)
    honest = [(path.read_text("utf-8"), 100) for path in bank.right] * 5  # half of a class that has understood it
    honest += [(one.source, 100 - sum(EXERCISE.points[test] for test in one.fails)) for one in bank.wrong.values()]
    files = {f"honest-{i}": one for i, one in enumerate(islice(cycle(honest), students - hostile - hanging))}
    names = [path.stem for path in sorted(FORGERIES.glob("*.py")) if path.stem != "base" and not _hangs(path)]
    files |= {f"hostile-{i}-{name}": (forged(name, folder), HALF) for i, name in enumerate(islice(cycle(names), hostile))}
    files |= {f"hanging-{i}-{name}": (forged(name, folder), HALF) for i, name in enumerate(islice(cycle(HANGING), hanging))}
    for student, (text, _) in files.items():
        (folder / f"{student}.py").write_text(text, "utf-8")
    return {student: points for student, (_, points) in files.items()}


def _hangs(path: Path) -> bool:
    return "hangs" in path.read_text("utf-8").splitlines()[1]


def forged(name: str, folder: Path) -> str:
    text = (FORGERIES / f"{name}.py").read_text("utf-8")
    for word, meant in (("CHECKOUT", str(FORGERIES.parents[2])), ("CANARY", str(folder)), ("PORT", "9")):
        text = text.replace(word, meant)
    return (FORGERIES / "base.py").read_text("utf-8") + text


if __name__ == "__main__":
    sys.exit(main())
