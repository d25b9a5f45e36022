"""The planner: from a model, a card and a number of tasks to a configuration, and back to the largest size or model.

    plan("llama-3-8b", "24GB", tasks=20)       which methods fit, how large, what they cost, why the others do not
    largest_size("qlora", "llama-2-13b", "24GB"), largest_model("qlora", "24GB")       and back
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.catalog import CATALOG, base_parameters
from tinypeft.budget.fitting import Fit, Rejection, Search, consider
from tinypeft.budget.limits import Limits, limits_of
from tinypeft.budget.memory import memory
from tinypeft.budget.methods import METHODS, QUANTIZATIONS, RANK, Method, find_method, stored_as
from tinypeft.budget.shapes import ShapeModel
from tinypeft.budget.units import format_bytes
from tinypeft.nn import CausalLM

CARDS_SOLD = tuple(size * 10**9 for size in (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192))
RULE = "the one asked for, else the method's usual one, halved until it fits; the largest is a limit, no advice"


@dataclass(frozen=True)
class Plan:
    """What can be done with a model on a card.

    Attributes:
        model: its name.
        parameters: how many it has.
        limits: what was to be kept to.
        tasks: how many tasks are to be served.
        fits, rejected: the methods, in the order of METHODS.
        conditions: everything that the numbers hold for.
        minimum: where nothing fits, what would need the least memory and keeps to all other limits; None if nothing does.
        search_catalog: finds `largest_fitting`, which takes some seconds.
    """

    model: str
    parameters: int
    limits: Limits
    tasks: int
    fits: tuple[Fit, ...]
    rejected: tuple[Rejection, ...]
    conditions: dict[str, Any]
    minimum: Rejection | None
    search_catalog: Callable[[], str | None] = field(compare=False, repr=False)

    @cached_property
    def largest_fitting(self) -> str | None:
        """Where nothing fits, the largest model of the catalog with which something would; None for none."""
        return None if self.fits else self.search_catalog()

    def __str__(self) -> str:
        """What fits, with which size, and why the rest does not."""
        cards = "one card" if self.limits.gpus == 1 else f"each of {self.limits.gpus} cards"
        rows = [(fit.method.title, fit.method.describe(fit.size), f"{fit.serving.counts.trainable:,} trained",
                 format_bytes(fit.card_bytes)) for fit in self.fits]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{title:<{widths[0]}}  {size:>{widths[1]}}  {trained:>{widths[2]}}  {needs:>{widths[3]}}"
                 for title, size, trained, needs in rows]
        return "\n".join([f"{self.model}: {self.parameters:,} parameters, {format_bytes(self.limits.gpu)} on {cards}", "",
                          *(lines or ["nothing fits"]), "",
                          *(f"{one.method.title}: {one.reason}" for one in self.rejected)]).rstrip()

    def fit(self, name: str) -> Fit | None:
        """A method that fits, by name."""
        return next((fit for fit in self.fits if fit.method.name == find_method(name).name), None)

    def rejection(self, name: str) -> Rejection | None:
        """A method that does not, by name."""
        return next((rejection for rejection in self.rejected if rejection.method.name == find_method(name).name), None)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; sizes in bytes."""
        limits, minimum = self.limits, self.minimum
        return {
            "model": self.model, "parameters": self.parameters, "gpu_bytes": limits.gpu, "gpus": limits.gpus,
            "tasks": self.tasks, "margin": limits.conditions["margin"],
            "trainable_max": None if limits.trainable_max is None else int(limits.trainable_max),
            "latency_critical": limits.latency_critical,
            "target_modules": limits.targets, "conditions": self.conditions | {"margin": limits.conditions["margin"]},
            "rule": RULE,
            "fits": [fit.to_dict() for fit in self.fits], "rejected": [rejection.to_dict() for rejection in self.rejected],
            "minimum": minimum and minimum.to_dict() | {"card_sold_bytes": card_sold(minimum.needs or 0.0)},
            "largest_fitting_model": self.largest_fitting}


def plan(model: str | CausalLM, gpu: str | float, *, methods: Iterable[str] | None = None, tasks: int = 1,
         **options: Any) -> Plan:
    """Find out which methods fit, with which size, and why the others do not.

    Args:
        model: a name of the catalog, a folder with a config.json, or a model.
        gpu: memory of one card, "24GB" (24e9 bytes), "24GiB", or a number of bytes.
        methods: names; all for None.
        tasks: how many tasks are to be served, each with an adapter of its own.
        options: see `limits_of`.

    Raises:
        ValueError: an unknown model, method, unit or condition, or a number below what it can be.

    >>> found = plan("llama-2-70b", "24GB", methods=["lora", "qlora"])
    >>> found.fits, found.minimum.method.title
    ((), 'QLoRA')
    """
    if tasks < 1:
        raise ValueError(f"tasks={tasks}: there is at least 1")
    limits = limits_of(gpu, model, **options)
    search, chosen = Search(model, limits), _chosen(methods, limits)
    _refuse_without_effect(chosen, limits)
    base = memory(model, training=False, **limits.conditions)  # refuses conditions that cannot be, before any search
    for method in [one for one in chosen if one.size_name == RANK][:1]:
        search.most(method)  # refuses target_modules that are not there
    found = [consider(search, method, tasks) for method in chosen]
    fits = tuple(one for one in found if isinstance(one, Fit))
    rejected = tuple(one for one in found if isinstance(one, Rejection))
    return Plan(model if isinstance(model, str) else type(model).__name__, _parameters(search.model), limits, tasks, fits,
                rejected, _conditions(search, base), None if fits else _minimum(rejected),
                lambda: _largest_fitting(gpu, chosen, options))


def _conditions(search: Search, base: Breakdown) -> dict[str, Any]:
    """What holds for all that was computed; of what only some methods have (an adapter, a quantized base), what holds there."""
    found: dict[str, Any] = {}
    for breakdown in (*search.found.values(), base):
        found = dict(breakdown.conditions) | found
    margin = found.pop("margin")
    return found | {"prepared": search.limits.prepared, "margin": margin}


def _largest_fitting(gpu: str | float, methods: list[Method], options: dict[str, Any]) -> str | None:
    """The largest model of the catalog with which one of these methods fits."""
    try:
        found = largest_models(gpu, methods=[method.name for method in methods], **options)
    except ValueError:  # what fits this model, such as its target_modules, need not fit any in the catalog
        return None
    return max(found, key=lambda one: one.parameters).model


def largest_size(method: str, model: str | CausalLM, gpu: str | float, **options: Any) -> int:
    """The largest rank, number of virtual tokens or bottleneck width that fits: it does, and the next larger does not.

    Args:
        options: see `limits_of`.

    Returns:
        The size; 0 if not even 1 fits.

    Raises:
        ValueError: as `plan`; or the method has no size, or the model cannot be trained this way.

    >>> largest_size("prefix", "gpt2", "8GB", tokens=1000)
    24
    """
    found = find_method(method)
    if not found.size_name:
        sized = ", ".join(name for name, one in METHODS.items() if one.size_name)
        raise ValueError(f"{found.title} has no size to choose; these have: {sized}")
    search = Search(model, limits_of(gpu, model, **options))
    search.adapted(found)
    return search.largest(found)


@dataclass(frozen=True)
class LargestModel:
    """The answer of `largest_models` for one method.

    Attributes:
        method: which.
        model: its name in the catalog; None if no model fits.
        parameters: how many it has.
        size: that it fits with.
        needs: bytes on each card, with the margin.
        conditions: everything that this holds for.
    """

    method: Method
    model: str | None
    parameters: int = 0
    size: int = 1
    needs: float = 0.0
    conditions: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; sizes in bytes."""
        return {"method": self.method.name, "title": self.method.title, "model": self.model, "parameters": self.parameters,
                "size": self.size if self.method.size_name else None, "needs_bytes": self.needs, "conditions": self.conditions}


def largest_models(gpu: str | float, *, methods: Iterable[str] | None = None, **options: Any) -> tuple[LargestModel, ...]:
    """For each method the model of the catalog with the most parameters that fits.

    With the given size; or with the usual one, halved while it trains more parameters than may be trained.

    Args:
        methods: names; all for None.
        options: see `limits_of`.
    """
    limits = limits_of(gpu, "gpt2", **options)
    memory("gpt2", training=False, **{**limits.conditions, "tokens": 1})  # refuses what cannot be
    chosen = _chosen(methods, limits)
    _refuse_without_effect(chosen, limits)
    searches = [Search(name, limits_of(gpu, name, **options)) for name in sorted(CATALOG, key=base_parameters, reverse=True)]
    searches = [search for search in searches if not isinstance(search.model, ShapeModel)  # those can be counted only
                and search.limits.tokens <= search.model.config.max_position_embeddings]
    if not searches:
        raise ValueError(f"no model of the catalog has {limits.tokens:,} positions: ask for fewer tokens")
    return tuple(_largest_for(method, searches) for method in chosen)


def largest_model(method: str, gpu: str | float, **options: Any) -> str | None:
    """The same for one method: the model's name in the catalog; None if none fits.

    >>> largest_model("qlora", "24GB"), largest_model("full", "24GB")
    ('llama-2-13b', 'gpt2-large')
    """
    return largest_models(gpu, methods=[method], **options)[0].model


def _largest_for(method: Method, searches: list[Search]) -> LargestModel:
    """Of models in falling order.

    Raises:
        ValueError: none of them can have this method: target_modules name nothing in any.
    """
    for search in searches:
        if search.base_fits(method) and search.suits(method):
            size = search.halved(method)
            if size <= search.most(method) and search.use(method, size) <= 1:
                return LargestModel(method, str(search.name), _parameters(search.model), size, search.card_bytes(method, size),
                                    dict(search.breakdown(method, size).conditions))
    if not any(search.suits(method) for search in searches):
        searches[-1].adapted(method)  # says why
    return LargestModel(method, None)


def _minimum(rejected: Iterable[Rejection]) -> Rejection | None:
    """What needs the least memory of all that a larger card would make possible."""
    return min((one for one in rejected if one.needs), key=lambda one: one.needs or 0, default=None)


def card_sold(needs: float) -> int | None:
    """The smallest card sold with that much memory, in bytes; None if there is none.

    >>> card_sold(40e9), card_sold(41e9), card_sold(300e9)
    (40000000000, 48000000000, None)
    """
    return next((size for size in CARDS_SOLD if size >= needs), None)


def _chosen(names: Iterable[str] | None, limits: Limits) -> list[Method]:
    if names is not None:
        wanted = [find_method(name) for name in names]
        if not wanted:
            raise ValueError(f"no method is named; there are: {', '.join(METHODS)}")
        return [method for method in METHODS.values() if method in wanted]
    # LoRA on a base in NF4 is QLoRA, which is there already.
    in_nf4 = limits.quantization is not None and stored_as(limits.quantization) == "NF4"
    return [method for method in METHODS.values() if not (method.name == "lora" and in_nf4)]


def _refuse_without_effect(methods: list[Method], limits: Limits) -> None:
    """Raise for a wish that concerns none of the methods.

    Raises:
        ValueError: a size that none of them has; a base to prepare that none of them quantizes.
    """
    titles = ", ".join(method.title for method in methods)
    for name, size in limits.sizes.items():
        if not any(method.size_name == name for method in methods):
            have = ", ".join(one.name for one in METHODS.values() if one.size_name == name)
            raise ValueError(f"{name} {size} has no effect on {titles}: leave it out, or add a method that has one: {have}")
    if limits.prepared and not any(limits.stored(method) for method in methods):
        raise ValueError(f"prepared has no effect on {titles}: it is of a quantized base. Leave it out, add qlora, or quantize "
                         f"the base of all adapters (quantization: {', '.join(QUANTIZATIONS)})")


def _parameters(model: CausalLM) -> int:
    return sum(parameter.size for parameter in model.parameters())

