"""The picture of `tinypeft tour`: two ways to adapt one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinypeft.viz.plots import PALETTE, running_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_adaptation(losses: Mapping[str, Sequence[float]], before: float, after: Mapping[str, float]) -> Figure:
    """Training loss of several methods, and what each needs for a character of unseen text.

    Args:
        losses: method -> loss of each step, in nats per character.
        before: bits per character of the model before.
        after: method -> bits per character after.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    colours = dict(zip(losses, (PALETTE["blue"], PALETTE["vermillion"]), strict=False))
    for (method, values), style in zip(losses.items(), ("-", "--"), strict=False):
        left.plot(running_mean(np.asarray(values) / np.log(2), 20), style, color=colours[method], label=method)
    left.set_xlabel("training step")
    left.set_ylabel("loss, bits per character (mean of 20 steps)")
    left.legend(frameon=False)
    bars = {"before": before, **after}
    right.bar(list(bars), list(bars.values()), color=["0.7", *(colours[method] for method in after)], width=0.6)
    for place, value in enumerate(bars.values()):
        right.text(place, value + 0.05, f"{value:.2f}", ha="center")
    right.set_ylabel("bits per character, Polish test names")
    right.set_ylim(0, max(bars.values()) + 0.35)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
