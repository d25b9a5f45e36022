"""A learner's course: a folder with lessons and exercises of their own, and one JSON file that remembers how far they are.

    DIR/lessons/04_lora.ipynb
    DIR/exercises/04_lora/lora.py           what is edited
    DIR/tinypeft-progress.json              runs, points and hints of each exercise; nothing of their code
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tinypeft.files import read_json, write_json
from tinypeft.grading.exercise import TOTAL, Exercise, all_exercises, exercises_folder

FILE = "tinypeft-progress.json"
FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """What is remembered of one exercise.

    Attributes:
        runs: how often it was graded.
        last, best: points of the last run and of the best one.
        hints: how many hints were shown.
        solution: whether the solution was shown.
    """

    runs: int = 0
    last: int = 0
    best: int = 0
    hints: int = 0
    solution: bool = False

    @property
    def passed(self) -> bool:
        return self.best == TOTAL

    def after(self, score: int) -> Progress:
        """This, and one more run.

        >>> Progress(runs=1, last=45, best=45).after(30)
        Progress(runs=2, last=30, best=45, hints=0, solution=False)
        """
        return replace(self, runs=self.runs + 1, last=score, best=max(self.best, score))


@dataclass(frozen=True)
class Course:
    """A learner's folder."""

    root: Path

    @property
    def record(self) -> Path:
        return self.root / FILE

    def file(self, exercise: Exercise) -> Path:
        """What the learner edits."""
        return self.root / "exercises" / exercise.slug / exercise.file

    def progress(self) -> dict[str, Progress]:
        """What is remembered of each exercise that was begun.

        Raises:
            ValueError: the file cannot be read as what `remember` writes. It is left as it is.
        """
        if not self.record.exists():
            return {}
        try:
            content = read_json(self.record)
        except ValueError as error:
            raise ValueError(_unreadable(self.record, str(error))) from error
        form = content.get("format") if isinstance(content, dict) else None
        if isinstance(form, int) and form > FORMAT:
            raise ValueError(f"{self.record} was written by a newer tinypeft (format {form}; this one knows {FORMAT}): "
                             "install the newer one again")
        if form != FORMAT or not isinstance(content.get("exercises"), dict):
            raise ValueError(_unreadable(self.record, f'expected "format": {FORMAT} and a dict "exercises"'))
        return {slug: _read(self.record, slug, values) for slug, values in content["exercises"].items()}

    def of(self, exercise: Exercise) -> Progress:
        return self.progress().get(exercise.slug, Progress())

    def remember(self, exercise: Exercise, progress: Progress) -> None:
        """Write what is known of one exercise, and keep all else. The file is whole at every moment, whatever happens.

        Raises:
            ValueError: what is there cannot be read; nothing is written.
        """
        self.write({**self.progress(), exercise.slug: progress})

    def write(self, progress: Mapping[str, Progress]) -> None:
        write_json(self.record, {"format": FORMAT, "exercises": {slug: asdict(one) for slug, one in progress.items()}})

    def contains(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())


def find_course(place: Path) -> Course | None:
    """The course that `place` is in: the nearest folder above it with a record, or with exercises that are no packaged ones."""
    for folder in (place.resolve(), *place.resolve().parents):
        if is_course(folder):
            return Course(folder)
    return None


def is_course(folder: Path) -> bool:
    """Whether it has a record; or exercises without one, since a learner may have deleted it to begin a new one."""
    if (folder / FILE).exists():
        return True
    exercises = folder / "exercises"
    if not exercises.is_dir() or exercises.resolve() == exercises_folder().resolve():
        return False
    return any((exercises / slug / exercise.file).is_file() for slug, exercise in all_exercises().items())


def _read(record: Path, slug: str, values: Any) -> Progress:
    known = {name: type(value) for name, value in asdict(Progress()).items()}
    if not isinstance(values, dict) or set(values) - set(known):
        raise ValueError(_unreadable(record, f"{slug} is to be a dict with some of {', '.join(known)}"))
    for name, value in values.items():
        if type(value) is not known[name] or value < 0:
            raise ValueError(_unreadable(record, f"{slug}: {name} is {value!r}, expected {known[name].__name__}"
                                         + (", at least 0" if known[name] is int else "")))
    return Progress(**values)


def _unreadable(record: Path, why: str) -> str:
    return (f"{record} cannot be read: {why}. Nothing was changed. Mend it, or delete it to begin a new record: points and "
            "hints so far are then forgotten, your exercises stay")


__all__ = ["FILE", "Course", "Progress", "find_course", "is_course"]
