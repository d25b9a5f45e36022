"""The points of a class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tinypeft.viz.lessons import Picture, say_number
from tinypeft.viz.plots import PALETTE

BINS = 10  # and one more, for those who have all points


def point_ranges(most: int) -> list[tuple[int, int]]:
    """The bins: first and last number of points of each.

    >>> point_ranges(100)[:2], point_ranges(100)[-1]
    ([(0, 9), (10, 19)], (100, 100))
    """
    starts = [most * i // BINS for i in range(BINS + 1)]
    return [(first, after - 1) for first, after in pairwise(starts)] + [(most, most)]


def plot_marks(scores: Sequence[int], most: int, title: str = "") -> Picture:
    """Draw how many students have how many points, with median and mean.

    Args:
        scores: whole numbers from 0 to `most`, one for each student.
        title: written above, and the beginning of the alt text.

    Raises:
        ValueError: nobody has points, or somebody more than `most`.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not scores or min(scores) < 0 or max(scores) > most:
        raise ValueError(f"expected points from 0 to {most}, of at least one student; given {list(scores)[:10]}")
    ranges = point_ranges(most)
    labels = [str(first) if first == last else f"{first}–{last}" for first, last in ranges]
    counts = [sum(first <= score <= last for score in scores) for first, last in ranges]
    mean, median = float(np.mean(scores)), float(np.median(scores))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(labels, counts, width=0.86, color=PALETTE["blue"])
    axes.bar_label(bars, labels=[str(count) if count else "" for count in counts], padding=2)
    for value, name, style, colour in ((median, "median", "-", "vermillion"), (mean, "mean", "--", "black")):
        axes.axvline(_place(value, ranges), color=PALETTE[colour], linestyle=style, linewidth=1.8,
                     label=f"{name}: {say_number(value)}")
    axes.tick_params(axis="x", labelsize="small", length=0)
    axes.set_xlabel(f"points, of {most}")
    axes.set_ylabel("students")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    axes.set_title(title, loc="left")
    told = ", ".join(f"{count} with {label}" for label, count in zip(labels, counts, strict=True) if count)
    return Picture(figure, f"{title or 'Points of a class'}. Bars: how many of {len(scores)} students have how many of {most} "
                           f"points: {told}. Median {say_number(median)}, mean {say_number(mean)}, marked by lines.")


def _place(value: float, ranges: Sequence[tuple[int, int]]) -> float:
    """Where a number of points lies on the axis, on which each bin is 1 wide."""
    most, width = ranges[-1][0], ranges[-1][0] / BINS
    return BINS if value >= most else value / width - 0.5
