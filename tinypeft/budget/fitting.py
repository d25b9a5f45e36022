"""Whether a method fits a card, with which size at most, or why not.

    largest size = max { s : memory(s) <= card, trained(s) <= limit, s means something }

Both sides grow with the size s (a rank, a number of virtual tokens, a width), so that the largest is found by search; that it
fits, and that the next larger does not, is computed with `memory`, not inferred. (8-bit optimizers keep tensors of fewer than
4,096 numbers in 32 bits, so that in tiny models memory can fall for a moment.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.cards import Cards, cards_needed, per_card
from tinypeft.budget.limits import Limits
from tinypeft.budget.memory import memory
from tinypeft.budget.methods import TOKENS, WIDTH, Method
from tinypeft.budget.serving import Serving, mergeable, merged_memory, serving
from tinypeft.budget.units import format_bytes, format_count
from tinypeft.budget.weights import bare_model, dtype_bytes, parameter_bytes, weight_bytes
from tinypeft.nn import CausalLM
from tinypeft.peft import PeftConfig, PeftModel, get_peft_model


@dataclass(frozen=True)
class Fit:
    """A method that fits.

    Attributes:
        method: which.
        size: the recommended one: the wanted or usual one, halved until it fits.
        largest: the largest that fits; None where the method has no size.
        limit: what the next larger would break.
        config: for get_peft_model; None for full fine-tuning.
        stored: how the base is stored.
        breakdown: of memory, at the recommended size.
        card_bytes: on each card, with the margin.
        serving: what it costs when it is trained.
    """

    method: Method
    size: int
    largest: int | None
    limit: str
    config: PeftConfig | None
    stored: str
    breakdown: Breakdown
    card_bytes: float
    serving: Serving

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; sizes in bytes."""
        return {"method": self.method.name, "title": self.method.title, "size_name": self.method.size_name or None,
                "size": self.size if self.method.size_name else None, "largest": self.largest,
                "one_more": {"size": self.largest + 1, "reason": self.limit} if self.largest else None,
                "usual_because": self.method.usual_why, "base": self.stored,
                "config": self.config.to_dict() if self.config else None, "trainable": self.serving.counts.trainable,
                "fraction": self.serving.counts.fraction, "card_bytes": self.card_bytes, "memory": self.breakdown.to_dict(),
                "serving": self.serving.to_dict()}


@dataclass(frozen=True)
class Rejection:
    """A method that does not fit.

    Attributes:
        method: which.
        reason: why, with the number.
        size: the one that was looked at: the given one, else the smallest.
        needs: bytes that this takes on each card, with the margin; None where a larger card would not help.
        cards: how many it would take; None where more would not help.
    """

    method: Method
    reason: str
    size: int = 1
    needs: float | None = None
    cards: Cards | None = None

    @property
    def named(self) -> str:
        """The method, with the size that was looked at."""
        return f"{self.method.title} with {self.method.describe(self.size)}" if self.method.size_name else self.method.title

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; sizes in bytes."""
        cards = self.cards and {"sharded": self.cards.sharded, "stages": self.cards.stages, "own_bytes": self.cards.own}
        return {"method": self.method.name, "title": self.method.title, "reason": self.reason,
                "size": self.size if self.method.size_name else None, "needs_bytes": self.needs, "cards": cards}


class Search:
    """One model's memory under some limits; what was computed once is kept."""

    def __init__(self, model: str | CausalLM, limits: Limits):
        self.name, self.limits, self.found = model, limits, dict[tuple[str, int], Breakdown]()
        self.model, self._bases = bare_model(model), dict[str, float]()
        self._most = dict[str, int]()

    def config(self, method: Method, size: int) -> PeftConfig | None:
        return method.config(self.model, size, self.limits.targets)

    def adapted(self, method: Method) -> PeftModel | None:
        """The model with the smallest adapter in it; None for full fine-tuning.

        Raises:
            ValueError: the model cannot have it.
        """
        config = self.config(method, 1)
        return None if config is None else get_peft_model(bare_model(self.name, self.limits.stored(method)), config)

    def suits(self, method: Method) -> bool:
        """Whether the model can have this method at all."""
        try:
            self.adapted(method)
        except ValueError:
            return False
        return True

    def breakdown(self, method: Method, size: int) -> Breakdown:
        """Memory of a training step."""
        key = method.name, size
        if key not in self.found:
            stored = self.limits.stored(method)
            conditions = self.limits.conditions | {"prepared": self.limits.prepared and stored is not None}
            self.found[key] = memory(self.name, self.config(method, size), quantization=stored, **conditions)
        return self.found[key]

    def card_bytes(self, method: Method, size: int) -> float:
        """On each card."""
        return per_card(self.breakdown(method, size), self.limits.gpus)

    def base_bytes(self, method: Method) -> float:
        """Of the base's weights."""
        key = self.limits.stored_as(method)
        if key not in self._bases:
            base = bare_model(self.name, self.limits.stored(method))
            self._bases[key] = weight_bytes(base, dtype_bytes(self.limits.dtype))
        return self._bases[key]

    def base_fits(self, method: Method) -> bool:
        """Whether the base's weights alone have room: if not, nothing else needs to be computed."""
        return self.base_bytes(method) / self.limits.gpus * (1 + self.limits.conditions["margin"]) <= self.limits.gpu

    def cards(self, method: Method, size: int, needs: Breakdown | None = None) -> Cards:
        """How many cards it takes to train, or for what else it needs."""
        return cards_needed(needs or self.breakdown(method, size), self.limits.gpu, self.model.config.num_hidden_layers,
                            _outside(self, method))

    def use(self, method: Method, size: int) -> float:
        """The share of the tightest limit that a size takes: up to 1 it fits."""
        most = self.limits.trainable_max
        trained = 0.0 if most is None else self.breakdown(method, size).trainable / most
        return max(self.card_bytes(method, size) / self.limits.gpu, trained)

    def most(self, method: Method) -> int:
        """The largest size that means something."""
        if method.name not in self._most:
            self._most[method.name] = method.most(self.model, self.limits.tokens, self.limits.targets)
        return self._most[method.name]

    def largest(self, method: Method) -> int:
        """The largest size that fits, 0 for none."""
        most = self.most(method)
        if not self.base_fits(method):
            return 0
        return _largest(lambda size: self.use(method, size), most, min(self.wanted(method), max(1, most)))

    def given(self, method: Method) -> int | None:
        """The size that was asked for."""
        return self.limits.sizes.get(method.size_name)

    def wanted(self, method: Method) -> int:
        """The size to take if it fits: the given one, or the usual one."""
        return self.given(method) or min(method.usual_size(self.model), max(1, self.most(method)))

    def trains_too_many(self, method: Method, size: int) -> bool:
        """Whether a size trains more parameters than may be trained, whatever the card."""
        most = self.limits.trainable_max
        return most is not None and self.breakdown(method, size).trainable > most

    def halved(self, method: Method) -> int:
        """The wanted size; if it is the usual one, halved while it trains too many parameters."""
        size = self.wanted(method)
        while size > 1 and not self.given(method) and self.trains_too_many(method, size):
            size //= 2
        return size

    def serving(self, method: Method, size: int, tasks: int = 1) -> Serving:
        """What it costs once it is trained."""
        return serving(self.name, self.config(method, size), tasks=tasks, dtype=self.limits.dtype,
                       adapter_dtype=self.limits.conditions.get("adapter_dtype", "float32"))


def _largest(use: Callable[[int], float], most: int, first: int) -> int:
    """The largest size of 1 to `most` with use(size) <= 1, 0 for none; `use` never falls. `first` is tried first."""
    if most < 1 or (use(first) > 1 and use(1) > 1):
        return 0
    if use(most) <= 1:
        return most
    low, high = (first, most) if use(first) <= 1 else (1, first)  # the one fits, the other does not
    while high - low > 1:
        # Memory is nearly a straight line in the size: where the chord crosses 1, or next to it, the search mostly ends.
        crossing = low + int((1 - use(low)) / (use(high) - use(low)) * (high - low))
        for size in (crossing, crossing + 1, (low + high) // 2):
            if low < size < high:
                low, high = (size, high) if use(size) <= 1 else (low, size)
    return low


# ---- one method -----------------------------------------------------------------------------------------------------

def consider(search: Search, method: Method, tasks: int = 1) -> Fit | Rejection:
    """Whether a method fits, with which size, or why not."""
    try:
        return _consider(search, method, tasks)
    except ValueError as error:  # of what was asked for, the rest is sound: this model cannot have this method
        return Rejection(method, str(error).partition(". ")[0])


def _consider(search: Search, method: Method, tasks: int) -> Fit | Rejection:
    limits = search.limits
    wanted, most = search.wanted(method), search.most(method)
    if method.size_name == TOKENS and not most:
        return Rejection(method, f"{limits.tokens:,} tokens of text leave none of the model's "
                                 f"{search.model.config.max_position_embeddings:,} positions for virtual tokens")
    if wanted > most:
        return Rejection(method, f"{method.describe(wanted)} is more than {_why_most(search, method)}")
    if limits.latency_critical and (slows := _slows(search, method)):
        return slows
    largest = search.largest(method)
    if not largest:
        return _too_large(search, method)
    if search.given(method) and wanted > largest:
        reason = (f"{method.describe(wanted)} {_excess(search, method, wanted)}. The largest that fits is "
                  f"{method.describe(largest)}")
        if search.trains_too_many(method, wanted):
            return Rejection(method, reason, wanted)
        return Rejection(method, reason, wanted, search.card_bytes(method, wanted), search.cards(method, wanted))
    size = wanted
    while size > largest:
        size //= 2
    breakdown = search.breakdown(method, size)
    return Fit(method, size, largest if method.size_name else None, _limit(search, method, largest),
               search.config(method, size), limits.stored_as(method), breakdown, per_card(breakdown, limits.gpus),
               search.serving(method, size, tasks))


def _why_most(search: Search, method: Method) -> str:
    """What the largest size that means something is."""
    most = search.most(method)
    if method.size_name == TOKENS:
        return (f"the {most:,} positions that {search.limits.tokens:,} tokens of text leave of "
                f"{search.model.config.max_position_embeddings:,}")
    what = "the model's width" if method.size_name == WIDTH else "the smaller side of the smallest matrix"
    return f"{most:,}, {what}" + (", where AdaLoRA has half as much again at first" if method.name == "adalora" else "")


def _excess(search: Search, method: Method, size: int) -> str:
    """Which limit a size breaks: first the one that no larger card would change."""
    limits, most = search.limits, search.limits.trainable_max
    if most is not None and search.trains_too_many(method, size):
        trained = format_count(search.breakdown(method, size).trainable)
        return f"would train {trained} parameters; at most {format_count(int(most))} may be trained"
    needs = search.card_bytes(method, size)
    digits = next(n for n in range(2, 12) if n == 11 or format_bytes(needs, n) != format_bytes(limits.gpu, n))
    return f"would need {format_bytes(needs, digits)}; {limits.card}"


def _limit(search: Search, method: Method, largest: int) -> str:
    """Why there is no larger size than the largest."""
    if not method.size_name:
        return ""
    if largest == search.most(method):
        return f"{method.describe(largest + 1)} would be more than {_why_most(search, method)}"
    return f"{method.describe(largest + 1)} {_excess(search, method, largest + 1)}"


def _slows(search: Search, method: Method) -> Rejection | None:
    """Where latency is critical: a method that adds to a forward pass and cannot, or not on this card, be merged."""
    limits, adapted = search.limits, search.adapted(method)
    if adapted is None:
        return None
    work = search.serving(method, search.wanted(method)).work
    if not work.token:
        return None
    if not mergeable(adapted):
        adds = f"{work.depth} matrix products in sequence" if work.depth else f"{format_count(work.token)} FLOPs a token"
        return Rejection(method, "it is no change of the base's weights and cannot be merged: it adds "
                                 f"{adds}, and latency is critical")
    merged, size = merged_memory(search.name, **limits.conditions), search.given(method) or 1
    if limits.stored(method) is None or per_card(merged, limits.gpus) <= limits.gpu:
        return None
    reason = (f"latency is critical, so it has to be merged, which loses nothing only in {limits.dtype}; running the merged "
              f"model needs {format_bytes(per_card(merged, limits.gpus))}, and {limits.card}")
    if search.trains_too_many(method, size):
        return Rejection(method, reason, size)
    most = max(merged, search.breakdown(method, size), key=lambda one: per_card(one, limits.gpus))  # to train it, or to run it
    return Rejection(method, reason, size, per_card(most, limits.gpus), search.cards(method, size, most))


def _too_large(search: Search, method: Method) -> Rejection:
    """The given size does not fit; if none is given, not even the smallest."""
    limits, given = search.limits, search.given(method)
    size = given or 1
    named = f"{'' if given else 'even '}{method.describe(size)} " if method.size_name else ""
    if search.trains_too_many(method, size):
        return Rejection(method, named + _excess(search, method, size), size)
    breakdown = search.breakdown(method, size)
    needs = per_card(breakdown, limits.gpus)
    if search.base_fits(method) or not method.make:
        parts = ", ".join(f"{name} {format_bytes(taken)}" for name, taken, _ in
                          sorted(breakdown.table(), key=lambda row: -row[1])[:4])
        each, whole = (" a card", "in all ") if limits.gpus > 1 else ("", "")
        reason = f"{named}needs {format_bytes(needs)}{each} ({whole}{parts}); {limits.card}"
    else:
        base = search.base_bytes(method)
        each = f", {format_bytes(base / limits.gpus)} a card" if limits.gpus > 1 else ""
        reason = f"the base alone is {format_bytes(base)} in {limits.stored_as(method)}{each}; {limits.card}"
    return Rejection(method, reason, size, needs, search.cards(method, size))


def _outside(search: Search, method: Method) -> float:
    """The share of the base's bytes that lies outside the blocks, in embeddings and head."""
    base, itemsize = bare_model(search.name, search.limits.stored(method)), dtype_bytes(search.limits.dtype)
    inside = [p for name, p in base.named_parameters() if any(part.isdecimal() for part in name.split("."))]
    return 1 - sum(parameter_bytes(parameter, itemsize) for parameter in inside) / search.base_bytes(method)
