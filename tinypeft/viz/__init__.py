"""Pictures: matplotlib figures of plain data. matplotlib is imported only when something is drawn."""

from tinypeft.viz.lessons import Picture, Predictions, broken, self_check, show
from tinypeft.viz.matrices import plot_curves, plot_matrices
from tinypeft.viz.plots import PALETTE, plot_history
from tinypeft.viz.questions import Card, QuestionBox
from tinypeft.viz.quiz import plot_attention, plot_by_dimension, plot_levels
from tinypeft.viz.tour import plot_adaptation

__all__ = ["PALETTE", "Card", "Picture", "Predictions", "QuestionBox", "broken", "plot_adaptation", "plot_attention",
           "plot_by_dimension", "plot_curves", "plot_history", "plot_levels", "plot_matrices", "self_check", "show"]
