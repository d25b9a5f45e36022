"""Practice that is never the same twice: kinds of questions, each drawn anew from a seed. `tinypeft practice --list`."""

from tinypeft.claims.practice import costs, flaws, lora_counts, lora_updates, methods, proof, quantized, soft_prompts  # noqa: F401
from tinypeft.claims.practice.kinds import KINDS, LEVELS, Kind, draw, find_kinds

__all__ = ["KINDS", "LEVELS", "Kind", "draw", "find_kinds"]
