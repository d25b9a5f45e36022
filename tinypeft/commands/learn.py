"""`tinypeft learn`: put the course where the learner can edit it."""

from __future__ import annotations

import shutil
from pathlib import Path

import tinypeft
from tinypeft.commands import program
from tinypeft.files import new_folder

CACHES = ("__pycache__", ".ipynb_checkpoints")
LEFT_OUT = {"lessons": ("*.py", "*.toml", *CACHES), "exercises": CACHES}  # what the notebooks are built from stays behind


def course_folder() -> Path:
    """The folder that holds lessons/ and exercises/: inside an installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: the installation is damaged.
    """
    package = Path(tinypeft.__file__).parent
    for folder in (package / "_course", package.parent):
        if (folder / "lessons").is_dir() and (folder / "exercises").is_dir():
            return folder
    raise FileNotFoundError(f"the lessons are neither in {package / '_course'} nor in {package.parent}: install tinypeft again")


def copy_course(folder: Path) -> None:
    """Copy lessons and exercises to a new folder.

    Raises:
        FileExistsError: there is something at `folder` already; a learner's work is never overwritten.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists already, and may hold work of yours: name another folder, or move it away")
    course = course_folder()
    with new_folder(folder) as target:
        for part, patterns in LEFT_OUT.items():
            shutil.copytree(course / part, target / part, ignore=shutil.ignore_patterns(*patterns))
    (first, *_) = sorted((folder / "lessons").glob("*.ipynb"))
    print(f"The course is in {folder}. Begin with:\n\n    {program('jupyter')} lab {first}\n")
