"""Where an adapter moves an output: points in a plane, and the ways to them from the base's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinypeft.viz.lessons import Picture
from tinypeft.viz.plots import PALETTE


def plot_moves(start: Sequence[float], ends: Mapping[str, Sequence[float]], start_label: str, title: str = "") -> Picture:
    """Draw a point, and others to which it is moved.

    Args:
        start: two numbers.
        ends: label -> two numbers; a few, each with a marker of its own.
        start_label: what the first point is.
        title: written above.

    Raises:
        ValueError: a point that has not two numbers, or nothing to move to.
    """
    import matplotlib.pyplot as plt

    points = {start_label: start, **ends}
    if not ends or any(len(point) != 2 for point in points.values()):
        raise ValueError(f"a plane shows points of two numbers each, and at least one move: got {points}")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    colours = [PALETTE[name] for name in ("black", "vermillion", "blue", "green")]
    for i, (label, (x, y)) in enumerate(points.items()):
        said = f"{label}  [{x:.4g}, {y:.4g}]"
        axes.plot([start[0], x], [start[1], y], color=colours[i % 4], linewidth=1.2, linestyle=("-", "--", "-", ":")[i % 4],
                  marker="osD^"[i % 4], markersize=8, markevery=[1], label=said, zorder=5 - i)
    axes.set_xlabel("first number")
    axes.set_ylabel("second number")
    axes.ticklabel_format(useOffset=False)
    axes.margins(0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    if title:
        axes.set_title(title)
    plt.close(figure)  # or a notebook would show it twice
    said = ", ".join(f"{label} at [{x:.4g}, {y:.4g}]" for label, (x, y) in points.items())
    return Picture(figure, f"Points in a plane{f', {title}' if title else ''}: {said}.")
