"""What `memory` answers with: how many bytes each part takes at the moment when most are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinypeft.budget.units import format_bytes

if TYPE_CHECKING:
    from tinypeft.viz.lessons import Picture


@dataclass(frozen=True)
class Breakdown:
    """Bytes by part, at the peak.

    Attributes:
        title: what it is of, in words.
        parts: name -> bytes, in a fixed order, those that are 0 included; they add up to `total`.
        peak: the moment that needs the most: "the loss", "the backward pass", "the optimizer step", "generation".
        trainable: parameters that are trained.
        margin: the share that is to be kept free on top, 0.1 for a tenth.
        conditions: everything that the numbers hold for.
    """

    title: str
    parts: Mapping[str, float]
    peak: str
    trainable: int
    margin: float
    conditions: Mapping[str, Any]

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.parts.values())

    @property
    def total_with_margin(self) -> float:
        """The same and the margin."""
        return self.total * (1 + self.margin)

    def table(self) -> list[tuple[str, float, float]]:
        """(part, bytes, share of the total) of each part that takes a millionth or more."""
        total = self.total
        return [(name, size, size / total) for name, size in self.parts.items() if size and size >= total * 1e-6]

    def print_table(self) -> None:
        """Print what `str` gives."""
        print(self)

    def __str__(self) -> str:
        rows = [(name, format_bytes(size), f"{share:.1%}") for name, size, share in self.table()]
        rows.append((f"total, at {self.peak}", format_bytes(self.total), ""))
        if self.margin:
            rows.append((f"with a margin of {self.margin:.0%}", format_bytes(self.total_with_margin), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{name:<{widths[0]}}  {size:>{widths[1]}}  {share:>{widths[2]}}".rstrip() for name, size, share in rows]
        said = ", ".join(f"{key} {_say(value)}" for key, value in self.conditions.items())
        return "\n".join([self.title, "", *lines, "", f"trained: {self.trainable:,} parameters", said])

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; sizes in bytes."""
        return {"title": self.title, "parts": dict(self.parts), "total": self.total, "margin": self.margin,
                "total_with_margin": self.total_with_margin, "peak": self.peak, "trainable": self.trainable,
                "conditions": dict(self.conditions) | {"margin": self.margin}}

    def draw(self) -> Picture:
        """The parts as one stacked bar, with its description."""
        from tinypeft.viz.budget import stacked_bars

        return stacked_bars(["at the peak"], {name: [size] for name, size, _ in self.table()}, title=self.title)


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,}" if isinstance(value, int) else str(value)
