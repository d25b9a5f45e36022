"""The bank of an exercise: solutions that are known to be right, and wrong ones with what a grader has to find in them.

    tests/exercises/NN_slug/    reference.py; right_*.py, correct in other styles; bank.toml:

    [no_scale]                              a wrong solution: the reference with edits, each replacing a text wherever it occurs
    edit = [["alpha / len(A) * ", ""]]      or:  file = "wrong_x.py"
    fails = ["test_forward"]                exactly these tests fail, whatever the seed
    mistake = "lora.no_scale"               what at least one of them reports; nothing for a merely numeric difference

    [equivalent_mutants]                    see mutants.py
    "name of a mutant" = "why nobody could tell it from the reference"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinypeft.grading.exercise import Exercise

BANKS = Path(__file__).parents[2] / "tests" / "exercises"  # in a checkout only
EQUIVALENT = "equivalent_mutants"
KEYS = {"edit", "file", "fails", "mistake"}


@dataclass(frozen=True)
class WrongSolution:
    """A wrong solution.

    Attributes:
        source: the whole file.
        fails: the tests that it fails.
        mistake: what at least one of them reports; None if that does not matter.
    """

    name: str
    source: str
    fails: frozenset[str]
    mistake: str | None


@dataclass(frozen=True)
class Bank:
    """All solutions of one exercise.

    Attributes:
        right: files, the reference first.
        wrong: name -> solution.
        equivalent_mutants: name -> reason.
    """

    right: tuple[Path, ...]
    wrong: dict[str, WrongSolution]
    equivalent_mutants: dict[str, str]

    @property
    def reference(self) -> Path:
        return self.right[0]


def read_bank(exercise: Exercise, folder: Path | None = None) -> Bank:
    """The bank of an exercise.

    Args:
        folder: where it is; default: in this checkout.

    Raises:
        FileNotFoundError: there is none, as in an installed tinypeft.
        ValueError: a wrong solution is described in a way that cannot be meant.
    """
    folder = BANKS / exercise.slug if folder is None else folder
    if not (folder / "bank.toml").is_file():
        raise FileNotFoundError(f"there is no bank of solutions for {exercise.slug}: {folder / 'bank.toml'} is missing (an "
                                "installed tinypeft has none; a clone of its repository has)")
    values = tomllib.loads((folder / "bank.toml").read_text("utf-8"))
    equivalent = values.pop(EQUIVALENT, {})
    reference = (folder / "reference.py").read_text("utf-8")
    wrong = {name: _wrong(name, entry, reference, exercise, folder) for name, entry in values.items()}
    return Bank((folder / "reference.py", *sorted(folder.glob("right_*.py"))), wrong, equivalent)


def _wrong(name: str, entry: Any, reference: str, exercise: Exercise, folder: Path) -> WrongSolution:
    where = f"{folder / 'bank.toml'}, [{name}]"
    if not isinstance(entry, dict) or not set(entry) <= KEYS or ("edit" in entry) == ("file" in entry):
        raise ValueError(f"{where}: expected either edit or file, then fails, perhaps mistake; found {entry}")
    fails = frozenset(entry.get("fails", ()))
    if not fails or (unknown := fails - set(exercise.points)):
        raise ValueError(f"{where}: fails names {sorted(unknown) if fails else 'no test'}; the tests of {exercise.slug} are "
                         f"{', '.join(exercise.points)}")
    if "file" in entry:
        return WrongSolution(name, (folder / entry["file"]).read_text("utf-8"), fails, entry.get("mistake"))
    source = reference
    for old, new in entry["edit"]:
        if old not in source:
            raise ValueError(f"{where}: there is no {old!r} in reference.py, or an edit before this one has removed it")
        source = source.replace(old, new)
    if source == reference:
        raise ValueError(f"{where}: its edits leave reference.py as it is")
    return WrongSolution(name, source, fails, entry.get("mistake"))


__all__ = ["Bank", "WrongSolution", "read_bank"]
