"""A wrong array beside the right one."""

from __future__ import annotations

import numpy as np

from tinypeft.viz.lessons import Picture, say_number


def plot_difference(received: np.ndarray, expected: np.ndarray, title: str = "") -> Picture:
    """Draw what was received, what was expected, and the difference, in one scale of colours: orange below zero, purple above.

    Args:
        received, expected: numbers, of one shape. More than two axes are drawn as rows one below the other, one axis as a row.
            What is not finite stays grey.
        title: written above, and the beginning of the alt text.

    Raises:
        ValueError: other shapes, or no numbers.
    """
    from matplotlib.figure import Figure  # imported here: it takes longer than all of tinypeft

    if received.shape != expected.shape or not expected.size:
        raise ValueError(f"received {received.shape}, expected {expected.shape}: only arrays of one shape, which have numbers, "
                         "can be drawn beside each other")
    rows = (-1, expected.shape[-1] if expected.ndim else 1)
    with np.errstate(invalid="ignore", over="ignore"):
        matrices = {label: array.astype(np.float64).reshape(rows)
                    for label, array in (("received", received), ("expected", expected))}
        matrices["received - expected"] = matrices["received"] - matrices["expected"]
    largest = max(float(np.abs(matrix[np.isfinite(matrix)]).max(initial=0)) for matrix in matrices.values()) or 1.0
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(matrices))
    for axes, (label, matrix) in zip(panels, matrices.items(), strict=True):
        axes.set_facecolor("0.6")
        shown = np.ma.masked_invalid(matrix)
        image = axes.imshow(shown, cmap="PuOr", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
        axes.set_title(label)
        axes.set_xlabel("last axis")
        axes.set_ylabel("the other axes")
    figure.colorbar(image, ax=list(panels), label="value")
    figure.suptitle(title)
    return Picture(figure, f"{title or 'A result'}, drawn as colours. {_told(received, expected)}")


def _told(received: np.ndarray, expected: np.ndarray) -> str:
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(received.astype(np.float64) - expected)
    bad = int(np.count_nonzero(~np.isfinite(received)))
    largest = say_number(float(difference[np.isfinite(difference)].max(initial=0)))
    return (f"Shape {expected.shape}; {np.count_nonzero(difference)} of {expected.size} numbers differ, by at most {largest}"
            + (f"; {bad} are not finite." if bad else "."))
