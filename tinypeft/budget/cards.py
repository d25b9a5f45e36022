"""How many cards it takes, where one is not enough.

    replicated   every card holds everything: a second card makes training faster, not possible
    sharded      weights, gradients and optimizer states are cut into as many pieces as there are cards (ZeRO stage 3,
                 Rajbhandari et al. 2019, 1910.02054; FSDP), activations are each card's own:   sharded / n + own <= card
    in stages    a card holds whole blocks (a pipeline, Huang et al. 2018, 1811.06965)

Both counts are lower bounds: a sharded layer is gathered before it runs, and stages hold activations, which is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinypeft.budget.breakdown import Breakdown

SHARDED = ("base weights", "adapter weights", "master weights", "gradients", "optimizer states")


@dataclass(frozen=True)
class Cards:
    """How many cards of one size something takes at least.

    Attributes:
        sharded: under ideal sharding; None if what no sharding divides is more than a card holds.
        stages: as a pipeline of whole blocks; None if not even one block fits.
        own: bytes that every card holds whatever their number, the margin included.
    """

    sharded: int | None
    stages: int | None
    own: float


def per_card(breakdown: Breakdown, gpus: int = 1) -> float:
    """Bytes on each of `gpus` cards under ideal sharding, the margin included; all of it for one card."""
    shared = sum(breakdown.parts.get(name, 0.0) for name in SHARDED)
    return (shared / gpus + breakdown.total - shared) * (1 + breakdown.margin)


def cards_needed(breakdown: Breakdown, gpu: float, layers: int, outside: float = 0.0) -> Cards:
    """The fewest cards.

    Args:
        gpu: bytes of a card.
        layers: blocks of the model.
        outside: share of what is sharded that lies outside the blocks (embeddings and head), in [0, 1).

    >>> parts = {"base weights": 90.0, "gradients": 10.0, "activations": 4.0}
    >>> cards_needed(Breakdown("", parts, "", 0, 0.0, {}), gpu=24, layers=8)
    Cards(sharded=5, stages=8, own=4.0)
    """
    shared = sum(breakdown.parts.get(name, 0.0) for name in SHARDED) * (1 + breakdown.margin)
    own = breakdown.total * (1 + breakdown.margin) - shared
    fewest = max(1, math.ceil(shared / (gpu - own))) if own < gpu else None
    together = int(gpu // (shared * (1 - outside) / layers)) if shared else layers  # blocks that a card holds
    stages = math.ceil(layers / min(together, layers)) if together else None
    if stages == 1 and shared + own > gpu:  # the weights would fit, what is left out here does not
        stages = 2
    return Cards(fewest, stages, own)
