"""Which of the methods that fit to take: an ordered list of rules, and the one that decided.

    choose(plan, Needs(tasks=20, switching=REQUESTS))  ->  a method, the deciding reason, and what spoke against each other one

Rules rule out; of what is left, the first in an order of preference is chosen. Where a rule has ruled out what would have come
first, that rule is the deciding reason; otherwise the preference is. Numbers are the plan's. What is not a matter of counting
is a rule of thumb, and says from where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinypeft.budget.fitting import Fit
from tinypeft.budget.methods import METHODS
from tinypeft.budget.planner import Plan
from tinypeft.budget.units import format_bytes, format_count

NEVER, REQUESTS, BATCH = "never", "requests", "batch"
SWITCHING = (NEVER, REQUESTS, BATCH)
FEW, MANY = 1_000, 100_000  # examples
BILLION = 10**9


@dataclass(frozen=True)
class Needs:
    """What a model is to be adapted for.

    Attributes:
        switching: how often the task changes while the model runs: NEVER (a deployment has one), REQUESTS (between them), or
            BATCH, where the rows of one batch belong to different tasks.
        latency_critical: nothing may be added to a forward pass that can be avoided.
        examples: to train with; None for not known.
        keep_base: the base's own abilities must stay available.
        storage: bytes that all tasks together may take; None for any.
    """

    switching: str = NEVER
    latency_critical: bool = False
    examples: int | None = None
    keep_base: bool = False
    storage: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; storage in bytes."""
        return {"switching": self.switching, "latency_critical": self.latency_critical, "examples": self.examples,
                "keep_base": self.keep_base, "storage_bytes": self.storage}

    def __post_init__(self) -> None:
        if self.switching not in SWITCHING:
            raise ValueError(f"switching {self.switching!r} is unknown; known: {', '.join(SWITCHING)}")
        if self.examples is not None and self.examples < 1:
            raise ValueError(f"examples={self.examples} is below 1: without examples there is nothing to train on")


@dataclass(frozen=True)
class Rule:
    """Rules a method out.

    Attributes:
        name: short and stable.
        says: the reason why this method is out, "" if it is not.
    """

    name: str
    says: Callable[[Fit, Needs, Plan], str]


@dataclass(frozen=True)
class Preference:
    """An order of methods, for needs of some kind.

    Attributes:
        name: short and stable.
        holds: whether this is the order to use.
        order: names; the methods that are not in it come last.
        because: why it begins as it does.
    """

    name: str
    holds: Callable[[Needs, Plan], bool]
    order: tuple[str, ...]
    because: str


@dataclass(frozen=True)
class Choice:
    """What to take.

    Attributes:
        fit: the method with its size; None if nothing is left.
        rule: the name of the rule or preference that decided.
        reason: that in words.
        against: what spoke against each of the others, by name.
    """

    fit: Fit | None
    rule: str
    reason: str
    against: dict[str, str]

    @property
    def method(self) -> str | None:
        """The method's name."""
        return self.fit.method.name if self.fit else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        size = self.fit.size if self.fit and self.fit.method.size_name else None
        return {"method": self.method, "size": size, "rule": self.rule, "reason": self.reason, "against": self.against}


# ---- what rules a method out ----------------------------------------------------------------------------------------

def _overwrites(fit: Fit, needs: Needs, plan: Plan) -> str:
    if not needs.keep_base or fit.config is not None:
        return ""
    return "it overwrites the base, and what that forgets is gone; an adapter can be switched off, and the base is back"


def _unmixable(fit: Fit, needs: Needs, plan: Plan) -> str:
    if needs.switching != BATCH or fit.serving.mixable:
        return ""
    if fit.serving.positions:
        return ("its virtual tokens make rows longer, and all rows of a batch are equally long: each task would need a batch "
                "of its own")
    return "all rows of a batch run through the same weights, which it changes: each task would need a batch of its own"


def _whole_model(fit: Fit, needs: Needs, plan: Plan) -> str:
    if fit.config is not None or needs.switching == NEVER:
        return ""
    return f"to switch is to load a whole model, {format_bytes(fit.serving.task_bytes)}"


def _in_the_way(fit: Fit, needs: Needs, plan: Plan) -> str:
    work, serving = fit.serving.work, fit.serving
    if not needs.latency_critical or not work.token:
        return ""
    if needs.switching != NEVER:  # nothing can be merged
        return f"it makes the network {work.depth} matrix products deeper, and latency is critical" if work.depth else ""
    if not serving.mergeable:
        return (f"it cannot be merged, and adds {format_count(work.token)} FLOPs to each token"
                + (f", in {work.depth} matrix products that have to be waited for" if work.depth else ""))
    merged = serving.merged_bytes * (1 + fit.breakdown.margin) / plan.limits.gpus
    if fit.stored != plan.limits.dtype and merged > plan.limits.gpu:
        return f"merged without loss, the model takes {format_bytes(merged)}, and {plan.limits.card}"
    return ""


def _too_many_bytes(fit: Fit, needs: Needs, plan: Plan) -> str:
    if needs.storage is None or fit.serving.all_bytes <= needs.storage:
        return ""
    tasks = "1 task takes" if plan.tasks == 1 else f"{format_count(plan.tasks)} tasks take"
    return (f"{tasks} {format_bytes(fit.serving.all_bytes)}, and {format_bytes(needs.storage)} "
            "may be used")


def _too_small_a_model(fit: Fit, needs: Needs, plan: Plan) -> str:
    if fit.method.name != "prompt" or plan.parameters >= BILLION:
        return ""
    return (f"prompts steer large models only: with {format_count(plan.parameters)} parameters it stays far behind what trains "
            "weights (Lester et al. 2021, 2104.08691, figure 1)")


RULES = (Rule("keep-base", _overwrites), Rule("mixed-batch", _unmixable), Rule("whole-model", _whole_model),
         Rule("latency", _in_the_way), Rule("storage", _too_many_bytes), Rule("model-size", _too_small_a_model))

# ---- what comes first -----------------------------------------------------------------------------------------------

USUAL = ("lora", "qlora", "dora", "adalora", "vera", "ulora", "parallel", "houlsby", "pfeiffer", "ia3", "prefix", "bitfit",
         "norms", "prompt", "full")
PREFERENCES = (
    Preference("much-data", lambda needs, plan: (needs.examples or 0) >= MANY and plan.tasks == 1, ("full", *USUAL),
               "with much data for one task all weights are worth training: LoRA learns less, and forgets less (Biderman et "
               "al. 2024, 2405.09673)"),
    Preference("little-data", lambda needs, plan: needs.examples is not None and needs.examples < FEW, ("ia3", *USUAL),
               "with few examples few numbers should be trained; (IA)3 was made for that (Liu et al. 2022, 2205.05638)"),
    Preference("small-files", lambda needs, plan: needs.storage is not None,
               ("lora", "qlora", "vera", "ia3", "prompt", "ulora", *USUAL),
               "LoRA's files are small enough, and it learns more than methods with smaller ones"),
    Preference("usual", lambda needs, plan: True, USUAL,
               "nothing speaks against LoRA: it learns nearly what full fine-tuning does, and can be merged, swapped, and "
               "mixed within a batch"),
)


def choose(plan: Plan, needs: Needs | None = None) -> Choice:
    """Choose among the methods of a plan.

    Args:
        plan: what fits; its number of tasks counts too.
        needs: None for nothing in particular.

    Raises:
        TypeError: what is given is no plan.

    >>> from tinypeft.budget.planner import plan
    >>> found = plan("gpt2", "8GB", tokens=512, methods=["lora", "pfeiffer", "full"])
    >>> choose(found).method, choose(found, Needs(examples=200_000)).method
    ('lora', 'full')
    >>> choose(found, Needs(examples=200_000, keep_base=True)).rule
    'keep-base'
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"choose({plan!r}): expected a plan; make one first, such as plan(\"llama-3-8b\", \"24GB\")")
    needs = needs or Needs(latency_critical=plan.limits.latency_critical)
    preference = next(one for one in PREFERENCES if one.holds(needs, plan))
    order = [*dict.fromkeys(preference.order)]
    against = {one.method.name: ("fit", one.reason) for one in plan.rejected}
    for fit in plan.fits:
        found = next(((rule.name, reason) for rule in RULES if (reason := rule.says(fit, needs, plan))), None)
        if found:
            against[fit.method.name] = found
    left = sorted((fit for fit in plan.fits if fit.method.name not in against), key=lambda fit: order.index(fit.method.name))
    if not left:
        rule, reason = _nothing_left(plan, against)
        return Choice(None, rule, reason, {name: why for name, (_, why) in against.items()})
    chosen = left[0]
    before = [name for name in order[:order.index(chosen.method.name)] if name in against]
    rule, reason = preference.name, preference.because
    if before:  # the most preferred of those that are out
        rule, why = against[before[0]]
        reason = f"{METHODS[before[0]].title} would come first, but {why}"
    elif chosen.method.name not in (order[0], "qlora"):  # which is LoRA
        reason = f"of the methods that were asked for, {chosen.method.title} is the most usual one"
    later = {fit.method.name: f"it would do, but {chosen.method.title} stands before it in the order of preference, "
                              f"{preference.name!r}" for fit in left[1:]}
    return Choice(chosen, rule, reason, {name: why for name, (_, why) in against.items()} | later)


def _nothing_left(plan: Plan, against: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """The rule and the reason why no method is left."""
    if plan.minimum is not None:
        least = plan.minimum
        return "fit", f"nothing fits: {least.named} needs {format_bytes(least.needs or 0)}, and {plan.limits.card}"
    if not plan.fits:
        return "fit", "nothing fits"
    out = {fit.method.title: against[fit.method.name] for fit in plan.fits}
    reasons = "; ".join(f"{title}: {why}" for title, (_, why) in out.items())
    return next(iter(out.values()))[0], f"everything that fits is ruled out: {reasons}"
