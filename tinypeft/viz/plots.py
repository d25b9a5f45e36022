"""Curves of a training run.

Colours are Okabe and Ito's (2008, "Color Universal Design"), which colour-blind readers can tell apart; what a colour
says, a marker or a line style says too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = {"blue": "#0072B2", "vermillion": "#D55E00", "green": "#009E73", "orange": "#E69F00", "sky": "#56B4E9",
           "purple": "#CC79A7", "yellow": "#F0E442", "black": "#000000"}


class Curves(Protocol):
    """What is plotted of a history: numbers at steps, for training and for evaluation."""

    steps: list[int]
    losses: list[float]
    learning_rates: list[float]
    eval_steps: list[int]
    eval_losses: list[float]


def plot_history(history: Curves, title: str = "") -> Figure:
    """Draw the loss of a training run, and its learning rate below.

    Args:
        history: what `train` returned. Losses are in nats per predicted token.
        title: written above.

    Returns:
        A figure, which a notebook shows and `figure.savefig(path)` writes.

    Raises:
        ValueError: the history has no steps.
    """
    import matplotlib.pyplot as plt  # imported here: it takes longer than all of tinypeft

    if not history.steps:
        raise ValueError("this history has no steps to plot")
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 4.8), height_ratios=[3, 1], layout="constrained")
    blue, vermillion, green = PALETTE["blue"], PALETTE["vermillion"], PALETTE["green"]
    above.plot(history.steps, history.losses, color=blue, linewidth=0.8, alpha=0.35)
    width = max(1, len(history.steps) // 20)
    label = "training" if width == 1 else f"training (mean of {width} steps; thin: every step)"
    above.plot(history.steps, running_mean(history.losses, width), color=blue, linewidth=1.8, label=label)
    if history.eval_steps:
        above.plot(history.eval_steps, history.eval_losses, "o--", color=vermillion, linewidth=1.2, label="validation")
    above.set_ylabel("loss (nats per token)")
    above.legend(frameon=False)
    below.plot(history.steps, history.learning_rates, color=green)
    below.set_ylabel("learning rate")
    below.set_ylim(bottom=0)
    below.set_xlabel("step (updates of the parameters)")
    for axes in (above, below):
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        above.set_title(title)
    plt.close(figure)  # or a notebook would show it twice: as an open figure and as the value of the cell
    return figure


def running_mean(values: Sequence[float], width: int) -> Any:
    """Mean of each value and the up to width - 1 before it."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
