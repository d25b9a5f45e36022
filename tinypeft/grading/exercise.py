"""The exercises as they are described in their folders: exercise.toml, the file to edit, the grader."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tinypeft.nn.module import near

TOTAL = 100
COURSE = Path(__file__).parents[1] / "_course" / "exercises"  # in an installed tinypeft
SOURCE = Path(__file__).parents[2] / "exercises"  # in a checkout


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        slug: its folder's name, such as "04_lora".
        title: in words.
        file: what is handed in; the learner edits it, or what makes it.
        points: test -> points; they add up to 100.
        hints: three, each saying more.
        mistakes: id of a misconception -> "lesson/section" where it is taught.
        folder: where it lies.
        made_by: the script that makes the file, where there is one to begin with.
    """

    slug: str
    title: str
    file: str
    points: dict[str, int]
    hints: tuple[str, ...]
    mistakes: dict[str, str]
    folder: Path
    made_by: str | None = None

    @property
    def edited(self) -> str:
        """What a learner begins with."""
        return self.made_by or self.file

    @property
    def grader(self) -> Path:
        return self.folder / f"test_{self.slug}.py"

    def section(self, mistake: str) -> str:
        """Where a mistake is taught, as "lesson/section"; "" if nowhere, or in a lesson that is still to come."""
        place = self.mistakes.get(mistake, "")
        return "" if place.endswith("/start") else place


def exercises_folder() -> Path:
    """Where the packaged exercises are."""
    return SOURCE if (SOURCE / "CONTRACT.md").exists() else COURSE


def read_exercise(folder: Path) -> Exercise:
    """From exercise.toml.

    Raises:
        ValueError: its points do not add up to 100.
    """
    values = tomllib.loads((folder / "exercise.toml").read_text("utf-8"))
    found = Exercise(folder.name, values["title"], values["file"], values["points"], tuple(values["hints"]),
                     values.get("mistakes", {}), folder, values.get("made_by"))
    if sum(found.points.values()) != TOTAL:
        raise ValueError(f"{folder / 'exercise.toml'}: the points add up to {sum(found.points.values())}, not {TOTAL}")
    return found


def all_exercises() -> dict[str, Exercise]:
    """Slug -> exercise, in order."""
    return {path.parent.name: read_exercise(path.parent) for path in sorted(exercises_folder().glob("*/exercise.toml"))}


def find_exercise(name: str) -> Exercise:
    """By its number ("4", "04") or its name.

    Raises:
        ValueError: there is none; near names are listed.
    """
    known = all_exercises()
    for slug, exercise in known.items():
        number = slug.partition("_")[0]
        if name in (slug, number, slug.partition("_")[2]) or (name.isdigit() and int(name) == int(number)):
            return exercise
    hint = near(name, known)
    start = f"near: {', '.join(hint)}. There" if hint else "there"
    raise ValueError(f"no exercise {name!r}; {start} are: {', '.join(known) or 'none'}")
