"""Pictures: matplotlib figures of plain data. matplotlib is imported only when something is drawn."""

from tinypeft.viz.plots import PALETTE, plot_history
from tinypeft.viz.tour import plot_adaptation

__all__ = ["PALETTE", "plot_adaptation", "plot_history"]
