"""Practice that is never the same twice: kinds of questions, each drawn anew from a seed.

    tinypeft practice lora              in a terminal; --list shows what there is
    practice_box("lora")                in a notebook
"""

from tinypeft.claims.practice import (  # noqa: F401  (each enters its kinds in the table, in this order)
    costs,
    flaws,
    lora_counts,
    lora_updates,
    methods,
    proof,
    properties,
    quantized,
    scenarios,
    soft_prompts,
)
from tinypeft.claims.practice.kinds import KINDS, LEVELS, TOPICS, Kind, draw, find_kinds
from tinypeft.claims.practice.series import check_numbers, new_seed, practice_box, series

__all__ = ["KINDS", "LEVELS", "TOPICS", "Kind", "check_numbers", "draw", "find_kinds", "new_seed", "practice_box", "series"]
