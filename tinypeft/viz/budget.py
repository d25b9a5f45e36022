"""Bars of memory: what each part takes, one bar stacked for each thing compared.

Colours are those of plots.py, and a hatch tells a second round of them apart. The parts stand in the legend's order; their
sizes are in the description, and for a single bar in the legend too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinypeft.viz.lessons import Picture
from tinypeft.viz.plots import PALETTE

_COLOURS = [PALETTE[name] for name in ("blue", "orange", "green", "vermillion", "sky", "purple", "yellow")]
_HATCHES = ("", "//", "..")


def stacked_bars(labels: Sequence[str], parts: Mapping[str, Sequence[float]], limit: float | None = None,
                 title: str = "") -> Picture:
    """Draw a horizontal bar for each label, made of the parts.

    Args:
        labels: names of the bars.
        parts: name -> bytes, one for each bar.
        limit: bytes at which a line is drawn: what a card has.
        title: written above.

    Raises:
        ValueError: nothing to draw, or parts of another number than labels.
    """
    import matplotlib.pyplot as plt

    if not labels or not parts:
        raise ValueError("there is nothing to draw: no labels or no parts")
    if wrong := [name for name, sizes in parts.items() if len(sizes) != len(labels)]:
        raise ValueError(f"parts {', '.join(wrong)} must have one size for each of the {len(labels)} bars")
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.5 * len(labels)), layout="constrained")
    starts = [0.0] * len(labels)
    for i, (name, sizes) in enumerate(parts.items()):
        colour, hatch = _COLOURS[i % len(_COLOURS)], _HATCHES[i // len(_COLOURS) % len(_HATCHES)]
        shown = name if len(labels) > 1 else f"{name}, {sizes[0] / 1e9:,.3g} GB"
        axes.barh(range(len(labels)), [size / 1e9 for size in sizes], left=[start / 1e9 for start in starts], label=shown,
                  color=colour, hatch=hatch, edgecolor="white", linewidth=0.8)
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    if limit is not None:
        axes.axvline(limit / 1e9, color="black", linestyle="--", linewidth=1.2, label=f"limit, {limit / 1e9:,.3g} GB")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("GB (10^9 bytes)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        axes.set_title(title)
    plt.close(figure)  # or a notebook would show it twice
    said = "; ".join(f"{label}: " + ", ".join(f"{name} {sizes[i] / 1e9:,.3g} GB" for name, sizes in parts.items() if sizes[i])
                     + f", together {starts[i] / 1e9:,.3g} GB" for i, label in enumerate(labels))
    line = f" A line marks the limit of {limit / 1e9:,.3g} GB." if limit is not None else ""
    return Picture(figure, f"Stacked bars of memory{f', {title}' if title else ''}. {said}.{line}")
