"""exercises/CONTRACT.md as data: the functions of every exercise, with their arguments and the parts of what they return."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tinypeft.grading.exercise import exercises_folder

COTANGENT = "g"  # the argument that holds the gradient of the loss with respect to the result


@dataclass(frozen=True)
class Signature:
    """One function.

    Attributes:
        arguments: their names, in order.
        parts: of what it returns: the keys of a dict, or the places in a list; empty if it returns one thing.
    """

    name: str
    arguments: tuple[str, ...]
    parts: tuple[str | int, ...]

    @property
    def is_vjp(self) -> bool:
        """Whether it turns the gradient of its result into gradients of its inputs."""
        return COTANGENT in self.arguments and any(word in self.name for word in ("vjp", "backward", "gradient"))


def read_contract(path: Path | None = None) -> dict[str, dict[str, Signature]]:
    """Slug -> name -> signature.

    >>> read_contract()["04_lora"]["lora_backward"].parts
    ('x', 'A', 'B')
    """
    found: dict[str, dict[str, Signature]] = {}
    functions: dict[str, Signature] = {}
    for line in (path or exercises_folder() / "CONTRACT.md").read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"## (\d\d \w+)", line):
            functions = found[heading[1].replace(" ", "_")] = {}
        elif row := re.fullmatch(r"\| `(\w+)\(([^)]*)\)` \|(.*)\|([^|]*(?:\\\|[^|]*)*)\|", line):
            arguments = tuple(re.findall(r"\w+", row[2]))
            functions[row[1]] = Signature(row[1], arguments, _parts(row[4].strip()))
    return found


def _parts(returned: str) -> tuple[str | int, ...]:
    if listed := re.match(r"\[([\w, ]+)\]", returned):
        return tuple(range(listed[1].count(",") + 1))
    returned = re.sub(r"\([^)]*\)", "", returned)  # the values that a part may have
    return tuple(re.findall(r'"(\w+)"', returned)) if returned.startswith("dict ") else ()


__all__ = ["Signature", "read_contract"]
