"""Drawings of plain arrays that most lessons need: curves over a common axis, and matrices as colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinypeft.viz.lessons import Picture, say_number
from tinypeft.viz.plots import PALETTE

# A curve is told by colour, marker and line style, so that no reader depends on colour.
_STYLES = [("blue", "o", "-"), ("vermillion", "s", "--"), ("green", "^", "-."), ("purple", "D", ":"),
           ("black", "v", "-")]


def plot_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str,
                title: str = "", levels: Mapping[str, float] | None = None) -> Picture:
    """Draw curves over one axis.

    Args:
        curves: label -> (x, y), equally long. Markers are drawn where there are few points.
        xlabel, ylabel: what is measured, and in which unit.
        title: written above, and the beginning of the alt text.
        levels: label -> height of a horizontal line to compare with.

    Raises:
        ValueError: no curves, more than five, or an x and y of unequal length.
    """
    from matplotlib.figure import Figure  # imported here: it takes longer than all of tinypeft

    if not 1 <= len(curves) <= len(_STYLES):
        raise ValueError(f"{len(curves)} curves; expected 1 to {len(_STYLES)}, which can be told apart")
    figure = Figure(figsize=(6.6, 3.8), layout="constrained")
    axes = figure.subplots()
    told = []
    for (label, (x, y)), (color, marker, line) in zip(curves.items(), _STYLES, strict=False):
        if len(x) != len(y) or not len(x):
            raise ValueError(f"the curve {label!r} has {len(x)} x and {len(y)} y; expected as many of both, at least 1")
        shown = marker if len(x) <= 20 else None
        axes.plot(x, y, color=PALETTE[color], linestyle=line, linewidth=1.8, marker=shown, label=label)
        some = sorted({round(i * (len(x) - 1) / 4) for i in range(5)})  # first, last, and three between
        told.append(f"{label}: " + ", ".join(f"{say_number(y[i])} at {say_number(x[i])}" for i in some))
    for label, height in (levels or {}).items():
        axes.axhline(height, color="0.45", linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(label, (1, height), xycoords=("axes fraction", "data"), xytext=(-4, -3),
                      textcoords="offset points", ha="right", va="top", fontsize="small", color="0.25")
        told.append(f"{label}: a level line at {say_number(height)}")
    axes.margins(y=0.1)  # room for a label below the lowest level
    if max(abs(limit) for limit in axes.get_ylim()) >= 1000:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return Picture(figure, f"{title or 'Curves'}. {ylabel}, over {xlabel}. {'; '.join(told)}.")


def plot_matrices(matrices: Mapping[str, Any], title: str = "", unit: str = "value") -> Picture:
    """Draw matrices side by side, their numbers as colours of one common scale: orange below zero, purple above.

    Args:
        matrices: label -> array of two axes.
        title: written above, and the beginning of the alt text.
        unit: what the colours measure.

    Raises:
        ValueError: no matrices, or an array with another number of axes.
    """
    from matplotlib.figure import Figure

    arrays = {label: np.asarray(matrix) for label, matrix in matrices.items()}
    bad = [f"{label} {array.shape}" for label, array in arrays.items() if array.ndim != 2 or not array.size]
    if bad or not arrays:
        raise ValueError(f"expected one or more arrays of two axes, got {', '.join(bad) or 'none'}")
    largest = max(float(np.abs(array).max()) for array in arrays.values()) or 1.0
    figure = Figure(figsize=(6.6, 3.4), layout="constrained")
    all_axes = figure.subplots(1, len(arrays), squeeze=False)[0]
    told = []
    for axes, (label, array) in zip(all_axes, arrays.items(), strict=True):
        image = axes.imshow(array, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
        axes.set_title(f"{label}\n{array.shape[0]} rows, {array.shape[1]} columns", fontsize="medium")
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        told.append(f"{label}, {array.shape[0]} by {array.shape[1]}: {_tell_values(array)}")
    figure.colorbar(image, ax=list(all_axes), label=unit)
    figure.suptitle(title)
    return Picture(figure, f"{title or 'Matrices'}, drawn as colours. {'; '.join(told)}.")


def _tell_values(array: np.ndarray) -> str:
    if not array.any():
        return "every number is 0"
    share = np.count_nonzero(array) / array.size
    return f"numbers from {array.min():.2g} to {array.max():.2g}, {share:.0%} of them not 0"
