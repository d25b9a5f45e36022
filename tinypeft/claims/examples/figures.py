"""Figures of two examples: where the adapter moves the output, and what fills the card."""

from __future__ import annotations

from collections.abc import Callable

from tinypeft.budget import parse_size
from tinypeft.claims.examples.chapter import CARD, TOKENS, adapter_part, cost, largest_rank
from tinypeft.claims.examples.engine import known_example
from tinypeft.viz import Picture
from tinypeft.viz.budget import stacked_bars
from tinypeft.viz.vectors import plot_moves


def draw_forward() -> Picture:
    """The output without the adapter, the document's, and the right one."""
    steps = known_example("lora-forward")().steps
    base, output = steps[0], steps[5]
    stated = [float(number) for number in output.follows.strip("[]").split(", ")]
    return plot_moves(base.value, {"document, scale 0.5": stated, "computed, scale 1": output.value}, "without adapter",
                      title="W0 x + (alpha / r) B A x")


def draw_budget() -> Picture:
    """The document's two sums beside ours, and the card's memory."""
    attention = largest_rank()
    ours = {f"computed, r={r}": cost(r) for r in (16, 256, attention)}
    parts = {"base": [6.5e9, 6.5e9], "adapter, gradients, optimizer": [0.3e9, 0.5e9], "activations": [0.5e9, 0.5e9]}  # stated
    for needed in ours.values():
        base, adapter = needed.parts["base weights"], adapter_part(needed)
        for name, size in zip(parts, (base, adapter, needed.total - base - adapter), strict=True):
            parts[name].append(size)
    return stacked_bars(["document, r=16", "document, r=256", *ours], parts, limit=parse_size(CARD),
                        title=f"QLoRA of Llama-2 13B, one row of {TOKENS:,} tokens")


FIGURES: dict[str, Callable[[], Picture]] = {"lora-forward": draw_forward, "qlora-budget": draw_budget}


def draw(name: str) -> Picture:
    """The figure of an example.

    Raises:
        ValueError: it has none.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure of {name!r}; those with a figure: {', '.join(FIGURES)}")
    return FIGURES[name]()
