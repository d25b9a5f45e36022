"""Figures of the quiz: what happens by dimension, where a codebook's values lie, and who attends to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinypeft.viz.lessons import Picture, say_number
from tinypeft.viz.plots import PALETTE


def plot_by_dimension(dimensions: Sequence[int], values: Sequence[float], ylabel: str, title: str, levels: Mapping[str, float]
                      ) -> Picture:
    """Draw a value over dimensions that grow by factors.

    Args:
        levels: label -> height of a line to compare with.

    Raises:
        ValueError: not as many values as dimensions, or none.
    """
    from matplotlib.figure import Figure

    if len(dimensions) != len(values) or not len(values):
        raise ValueError(f"{len(dimensions)} dimensions and {len(values)} values; expected as many of both, at least 1")
    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(dimensions, values, "o-", color=PALETTE["blue"], linewidth=1.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(dimensions), [f"{d:,}" for d in dimensions])
    for (label, height), style in zip(levels.items(), ("--", ":", "-."), strict=False):
        axes.axhline(height, color="0.35", linewidth=1.2, linestyle=style)
        axes.annotate(f"{label}: {height:.4g}", (1, height), xycoords=("axes fraction", "data"), xytext=(-4, 3),
                      textcoords="offset points", ha="right", fontsize="small", color="0.25")
    axes.margins(y=0.15)
    axes.set_xlabel("dimensions d (logarithmic)")
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    told = ", ".join(f"{say_number(value)} at {d:,}" for d, value in zip(dimensions, values, strict=True))
    lines = "; ".join(f"{label}: a level line at {say_number(height)}" for label, height in levels.items())
    return Picture(figure, f"{title}. {ylabel}, over dimensions: {told}. {lines}.")


def plot_levels(codebooks: Mapping[str, Sequence[float]], density: tuple[Any, Any], title: str) -> Picture:
    """Draw the values of codebooks as rows of ticks, below the density of the numbers that they stand for.

    Args:
        codebooks: label -> values in [-1, 1].
        density: x in [-1, 1] and its height.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[1, 1.3])
    above.fill_between(*density, color=PALETTE["sky"], alpha=0.5, linewidth=0)
    above.plot(*density, color=PALETTE["blue"], linewidth=1.5)
    above.set_ylabel("density")
    above.set_yticks([])
    above.set_title(title)
    told = []
    for row, (label, values) in enumerate(codebooks.items()):
        rising = np.unique(values)
        below.vlines(rising, row - 0.3, row + 0.3, color="0.15", linewidth=1.6)
        inner = np.diff(rising)
        told.append(f"{label}: {len(rising)} values from {rising[0]:.2f} to {rising[-1]:.2f}, the nearest two "
                    f"{inner.min():.3f} apart, the farthest {inner.max():.3f}")
    below.set_yticks(range(len(codebooks)), list(codebooks))
    below.invert_yaxis()
    below.set_xlabel("number divided by the largest magnitude of its block")
    for axes in (above, below):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    return Picture(figure, f"{title}. The density is highest at zero. {'; '.join(told)}.")


def plot_attention(weights: Any, title: str) -> Picture:
    """Draw who attends to whom: a row for each query, a column for each key, darker for more weight.

    Args:
        weights: (queries, keys), rows summing to 1.
        title: written above.

    Raises:
        ValueError: not two axes.
    """
    from matplotlib.figure import Figure

    array = np.asarray(weights)
    if array.ndim != 2:
        raise ValueError(f"expected (queries, keys), got shape {array.shape}")
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(array, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(range(array.shape[1]), [str(i + 1) for i in range(array.shape[1])])
    axes.set_yticks(range(array.shape[0]), [str(i + 1) for i in range(array.shape[0])])
    axes.set_xlabel("key, counted from 1")
    axes.set_ylabel("query, counted from 1")
    axes.set_title(title)
    seen = array > 1e-6
    for row, column in zip(*np.nonzero(~seen), strict=True):  # masked: no weight at all, which pale blue does not say
        axes.plot(column, row, "x", color="0.6", markersize=4)
    figure.colorbar(image, label="attention weight (cross: none)")
    per_row = seen.sum(axis=1)
    return Picture(figure, f"{title}. {array.shape[0]} queries, {array.shape[1]} keys. The first query attends to {per_row[0]} "
                           f"of the keys, each further one to one more, the last to {per_row[-1]}.")
