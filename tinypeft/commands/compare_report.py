"""What `tinypeft compare` found, as tables: what each method learns, what it costs; or how far each subspace gets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinypeft.commands.compare_methods import FULL, UNTOUCHED
from tinypeft.commands.tables import print_table, print_text

ENOUGH = 0.9  # of full fine-tuning's gain: the 90 of d90
RULE = ("Rank: methods stand in the order of their ranges on the target, least to most bits over the seeds. Where ranges "
        "overlap or touch, be it by way of others between them, the methods share a rank: their difference lies inside the "
        "range. A rank is one more than the number of methods with a better one. What diverged has none.")


@dataclass
class Result:
    """What was measured of one method. Bits are per character, one number for each seed; None where a run diverged.

    Attributes:
        rates: the learning rates that were tried.
        validation: bits on validation names with each of them, seed 0.
        rate: the one with the fewest; None if nothing is trained or all diverged.
        target, plugged, unplugged: bits on the target's names, and on the base's with the method at work and without it.
        trainable: how many numbers are trained.
        step_seconds, token_seconds: medians, of a training step and of a generated token.
        file_bytes: all files of the adapter, or of the model.
        swap_seconds: from one adapter to another of its kind; where there is none, to load another model.
        merge_seconds, unmerge_seconds: None where there is nothing to merge.
        mergeable: None where there is no adapter.
    """

    rates: list[float]
    validation: list[float | None] = field(default_factory=list)
    rate: float | None = None
    target: list[float | None] = field(default_factory=list)
    plugged: list[float | None] = field(default_factory=list)
    unplugged: list[float | None] = field(default_factory=list)
    trainable: int = 0
    step_seconds: float | None = None
    token_seconds: float | None = None
    file_bytes: int | None = None
    swap_seconds: float | None = None
    merge_seconds: float | None = None
    unmerge_seconds: float | None = None
    mergeable: bool | None = None

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the first or the last: a better one may lie beyond."""
        return self.rate is not None and self.rate in (self.rates[0], self.rates[-1])


def ranks(bits: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Rank of each method by what its seeds measured, 1 for the fewest bits, by the RULE that is printed.

    >>> ranks({"a": [1.0, 1.2], "b": [1.1, 1.4], "c": [1.3, 1.5], "d": [1.6, 1.7]})
    {'a': 1, 'b': 1, 'c': 1, 'd': 4}
    """
    rank, found, reach = 1, {}, -math.inf
    for place, name in enumerate(sorted(bits, key=lambda name: (min(bits[name]), max(bits[name]))), start=1):
        if min(bits[name]) > reach:  # all before it are better in every seed
            rank = place
        found[name], reach = rank, max(reach, *bits[name])
    return found


def share_of_gain(results: Mapping[str, Result], name: str) -> float:
    """How much of full fine-tuning's mean gain over the base, on the target, a method reaches; nan if there is none."""
    base, full, ours = (mean(results[key].target) for key in (UNTOUCHED, FULL, name))
    return (base - ours) / (base - full) if base > full else math.nan


def mean(bits: Sequence[float | None]) -> float:
    """The mean of all seeds, infinite if one diverged."""
    return statistics.fmean(math.inf if x is None else x for x in bits) if bits else math.inf


# ---- tables ---------------------------------------------------------------------------------------------------------


def print_comparison(results: Mapping[str, Result], settings: Mapping[str, Any], *, markdown: bool) -> None:
    """What each method learns and what it costs, the best first."""
    places = ranks({name: [x for x in result.target if x is not None] for name, result in results.items()
                    if math.isfinite(mean(result.target))})
    ordered = sorted(results.items(), key=lambda item: mean(item[1].target))
    learned = [[str(places.get(name, "")), name, _rate(result), f"{result.trainable:,}" if result.trainable else "",
                _bits(result.target, result), _bits(result.plugged, result), _bits(result.unplugged, result)]
               for name, result in ordered]
    costs = [[name, _number(result.step_seconds, 1e3, ".1f"), _number(result.token_seconds, 1e3, ".2f"),
              _number(result.file_bytes, 1e-3, ",.1f"), _number(result.swap_seconds, 1e3, ".3f"),
              _number(result.merge_seconds, 1e3, ".3f"), _number(result.unmerge_seconds, 1e3, ".3f"),
              "" if result.mergeable is None else "yes" if result.mergeable else "no"] for name, result in ordered]
    print_table(["rank", "method", "rate", "trainable", "target", "base", "unplugged"], learned, 1, markdown)
    print_text(f"{_caption(settings)} Rate: the best of five on validation names; * at the edge of the five. Base: the names "
                "that the base was trained for, with the adapter and, unplugged, without it.", markdown)
    print_text(RULE, markdown)
    print_table(["method", "ms a step", "ms a token", "file, kB", "swap, ms", "merge, ms", "unmerge, ms", "mergeable"], costs,
                 0, markdown)
    print_text("Medians. A token: of short texts, one at a time, with cached keys and values. File: all that the adapter, or "
                "the model, is saved in. Swap: from one adapter to another of its kind; for models, to load another.", markdown)


def print_dimensions(results: Mapping[str, Result], settings: Mapping[str, Any], *, markdown: bool) -> None:
    """How much of full fine-tuning's gain each subspace reaches, and d90."""
    rows = [[name, _rate(result), f"{result.trainable:,}" if result.trainable else "", _bits(result.target, result),
             format(share, ".1%") if math.isfinite(share) else "", _number(result.step_seconds, 1e3, ".1f")]
            for name, result in results.items() for share in [share_of_gain(results, name)]]
    print_table(["", "rate", "trainable", "target", "share of the gain", "ms a step"], rows, 0, markdown)
    print_text(f"{_caption(settings)} Rate: the best of five on validation names, for each dimension anew; * at the edge of "
                "the five. Gain: bits of the untouched base less those after training, as a share of full fine-tuning's.",
                markdown)
    enough = [result for name, result in results.items()
              if name not in (UNTOUCHED, FULL) and share_of_gain(results, name) >= ENOUGH]
    print_text(f"d90 = {enough[0].trainable}: the first of these dimensions whose mean gain is at least {ENOUGH:.0%}."
                if enough else "d90 was not reached: it is above these dimensions.", markdown)


def _caption(settings: Mapping[str, Any]) -> str:
    return (f"{settings['task']}: bits per character, mean (least to most) of {settings['seeds']} seeds, "
            f"{settings['steps']} steps each.")


def _rate(result: Result) -> str:
    return "" if result.rate is None else f"{result.rate:g}{'*' * result.at_edge}"


def _bits(bits: Sequence[float | None], result: Result) -> str:
    """Mean and range; one number where all seeds agree."""
    numbers = [x for x in bits if x is not None]
    if len(numbers) < len(bits) or (result.rates and result.rate is None):
        return "diverged"
    if not numbers or min(numbers) == max(numbers):
        return "".join(f"{x:.3f}" for x in numbers[:1])
    return f"{statistics.fmean(numbers):.3f} ({min(numbers):.3f}–{max(numbers):.3f})"


def _number(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(value * scale, form)
