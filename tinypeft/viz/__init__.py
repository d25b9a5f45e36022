"""Pictures: matplotlib figures of plain data. matplotlib is imported only when something is drawn."""

from tinypeft.viz.plots import PALETTE, plot_history

__all__ = ["PALETTE", "plot_history"]
