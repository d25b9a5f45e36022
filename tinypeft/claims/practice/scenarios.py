"""Which method to take, and why: a drawn situation, decided by the planner.

The models are wide and have few layers, so that a plan is made in a second; what decides is their number of parameters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from tinypeft.budget import format_bytes
from tinypeft.budget.choice import (
    BATCH,
    BILLION,
    FEW,
    MANY,
    NEVER,
    PREFERENCES,
    REQUESTS,
    RULES,
    Choice as Chosen,
    Needs,
    choose,
)
from tinypeft.budget.methods import Method, find_method
from tinypeft.budget.planner import Plan, plan
from tinypeft.claims.practice.kinds import capital, choice, kind, pick, some
from tinypeft.claims.practice.shapes import Shape
from tinypeft.claims.questions import Choice, Option, Step

SECTION = "13_planning"
OFFERED = ("full", "lora", "qlora", "ia3", "houlsby", "prompt")
TOKENS = 1024
SMALL, MIDDLE, LARGE = (Shape(*sizes, vocab=32000, positions=4096) for sizes in (
    (2048, 4, 16, 16, 5632), (8192, 2, 64, 8, 28672), (8192, 4, 64, 8, 28672)))
# Cards that are clearly large enough for a method or clearly too small.
PLACES = ((SMALL, "8GB"), (MIDDLE, "4GB"), (MIDDLE, "12GB"), (MIDDLE, "48GB"), (LARGE, "8GB"), (LARGE, "24GB"), (LARGE, "96GB"))


@functools.lru_cache(maxsize=len(PLACES))
def _plan(place: int) -> Plan:
    shape, card = PLACES[place]
    return plan(shape.build(), card, methods=OFFERED, tokens=TOKENS)


@dataclass(frozen=True)
class Situation:
    """What is to be decided.

    Attributes:
        plan: what fits of the methods that are offered.
        needs: and what else counts.
        told: the situation in words, a line for each thing.
    """

    plan: Plan
    needs: Needs
    told: tuple[str, ...]

    def decided(self) -> Chosen:
        return choose(self.plan, self.needs)

    def offered(self) -> list[Method]:
        return [fit.method for fit in self.plan.fits] + [one.method for one in self.plan.rejected]

    def words(self) -> str:
        return "\n".join(f"  - {line}" for line in self.told)


def draw_situation(rng: np.random.Generator) -> Situation:
    """A model, a card, four methods, and some of: tasks, switching, latency, examples, storage, the base's own abilities."""
    found, names = _plan(int(rng.integers(len(PLACES)))), some(rng, OFFERED, 4)
    switching = pick(rng, (NEVER, NEVER, REQUESTS, BATCH))
    tasks = 1 if switching == NEVER else int(rng.integers(3, 201))
    latency, keep = bool(rng.integers(2)), bool(rng.integers(2))
    few, some_more, many = 10 * int(rng.integers(5, 90)), 1000 * int(rng.integers(3, 60)), 1000 * int(rng.integers(150, 900))
    examples = pick(rng, (None, few, some_more, many))
    storage = None if tasks == 1 or rng.integers(2) else 1e6 * int(rng.integers(2, 400))
    fits = tuple(replace(fit, serving=replace(fit.serving, tasks=tasks)) for fit in found.fits if fit.method.name in names)
    found = replace(found, tasks=tasks, fits=fits, rejected=tuple(one for one in found.rejected if one.method.name in names))
    told = [f"a model of {found.parameters / 1e9:.2g} billion parameters, and one card of {format_bytes(found.limits.gpu, 0)} "
            f"to train on (one row of {TOKENS:,} tokens at a time)"]
    told.append({NEVER: "one task", REQUESTS: f"{tasks} tasks; each request is for one of them, and requests come one after "
                                              "another",
                 BATCH: f"{tasks} tasks; a batch mixes requests for different ones"}[switching])
    told += [f"{examples:,} examples to train with" + " for each task" * (tasks > 1)] if examples else []
    told += ["latency is critical: nothing may be added to a forward pass that can be avoided"] if latency else []
    told += ["what the base can do without the adapter must stay available"] if keep else []
    if storage:
        sizes = ", ".join(f"{fit.method.title} {format_bytes(fit.serving.task_bytes, 1)}" for fit in fits)
        told.append(f"at most {format_bytes(storage, 0)} of storage for what is learned, all tasks together; for one task it "
                    f"is: {sizes}")
    return Situation(found, Needs(switching, latency, examples, keep, storage), tuple(told))


def _clear(situation: Situation, names: list[str]) -> bool:
    """Whether there is an answer, and at most one other method would do too, so that one can be sure."""
    decided = situation.decided()
    return decided.fit is not None and len(names) == 4 and sum(_would_do(situation, name) for name in decided.against) <= 1


def _situation(rng: np.random.Generator) -> tuple[Situation, Chosen, list[str]]:
    while True:
        situation = draw_situation(rng)
        names = [one.name for one in situation.offered()]
        if _clear(situation, names):
            return situation, situation.decided(), names


def _steps(situation: Situation, decided: Chosen) -> list[Step]:
    """What each method needs, as far as it was asked for, and what decides between them."""
    needs, tasks = situation.needs, situation.plan.tasks
    steps = [Step(f"{fit.method.title}: memory to train, with {fit.breakdown.margin:.0%} to spare", "",
                  format_bytes(fit.card_bytes)) for fit in situation.plan.fits]
    steps += [Step(one.method.title, "", f"does not fit: {one.reason}") for one in situation.plan.rejected]
    if needs.storage is not None:
        steps += [Step(f"{fit.method.title}: storage for {tasks} tasks, of {format_bytes(needs.storage, 0)} that there are", "",
                       format_bytes(tasks * fit.serving.task_bytes)) for fit in situation.plan.fits]
    if needs.examples is not None:
        steps.append(Step(f"examples (few: under {FEW:,}; many: from {MANY:,})", "", f"{needs.examples:,}"))
    steps += [Step(capital(find_method(name).title), "", reason) for name, reason in decided.against.items()
              if not _would_do(situation, name) and situation.plan.fit(name) is not None]
    return [*steps, Step(f"so {find_method(decided.method or '').title}", "", _why(situation, decided).rstrip("."))]


@kind("choose-method", "planning", "a method for a situation", 3)
def choose_method(rng: np.random.Generator) -> Choice:
    situation, decided, names = _situation(rng)
    while _preferred(situation)[0].name == decided.method and rng.integers(4):  # else the first would be right too often
        situation, decided, names = _situation(rng)
    options = []
    for name in names:
        title = capital(find_method(name).title)
        if name in decided.against:
            why = "it would do, but another one comes first." if _would_do(situation, name) else f"{decided.against[name]}."
            options.append(Option(title, f"{title}: {why}", f"not-{name}"))
        else:
            options.append(Option(title, _why(situation, decided)))
    return choice(f"The situation:\n\n{situation.words()}\n\nWhich of these methods would you take? "
                  f"{_order(situation)}", options, rng,
                  steps=_steps(situation, decided), section=SECTION)


def _preferred(situation: Situation) -> list[Method]:
    """The methods that are offered, the one to be preferred for such needs first."""
    order = next(one.order for one in PREFERENCES if one.holds(situation.needs, situation.plan))
    offered = {method.name: method for method in situation.offered()}
    return [offered[name] for name in dict.fromkeys(order) if name in offered]


def _order(situation: Situation) -> str:
    """The same in words."""
    titles = ", ".join(method.title for method in _preferred(situation))
    return f"Of several that would do, take the first in this order, which suits the task: {titles}."


def _why(situation: Situation, decided: Chosen) -> str:
    """Why the method that is taken is taken."""
    if not any(_would_do(situation, name) for name in decided.against):
        return "It is what is left: the others are ruled out."
    if decided.rule in ("usual", "small-files") or _comes_next(situation, decided):
        return "Nothing speaks against it, and of those that would do it comes first."
    return f"{capital(decided.reason)}."


def _would_do(situation: Situation, name: str) -> bool:
    """Whether a method fits and no rule is against it."""
    fit = situation.plan.fit(name)
    return fit is not None and not any(rule.says(fit, situation.needs, situation.plan) for rule in RULES)


def _comes_next(situation: Situation, decided: Chosen) -> bool:
    """Whether what decides is only that the method which such needs call for is not offered."""
    order = next(one.order for one in PREFERENCES if one.holds(situation.needs, situation.plan))
    return decided.rule in [one.name for one in PREFERENCES] and decided.method != order[0]


WORDS = {
    "fit": "the memory of the card", "keep-base": "that the base's own abilities must stay available",
    "mixed-batch": "that one batch holds rows of different tasks",
    "whole-model": "that another task means other weights to load",
    "latency": "the latency", "storage": "the storage for all tasks", "model-size": "that the model is small",
    "much-data": "the many examples", "little-data": "the few examples"}


@kind("deciding-reason", "planning", "what decides for a method", 3)
def deciding_reason(rng: np.random.Generator) -> Choice:
    while True:
        situation, decided, _ = _situation(rng)
        wrong = _not_decisive(situation, decided)
        if decided.rule in WORDS and decided.fit is not None and len(wrong) >= 3 and not _comes_next(situation, decided):
            break
    title, because = decided.fit.method.title, f"What decides: {decided.reason}."
    options = [Option(WORDS[decided.rule], f"{capital(decided.reason)}.")]
    options += [Option(WORDS[rule], f"{why} {because}", f"not-{rule}") for rule, why in list(wrong.items())[:3]]
    offered = ", ".join(one.title for one in situation.offered())
    return choice(f"The situation:\n\n{situation.words()}\n\nOf {offered}, the one to take is {title}. {_order(situation)} "
                  "What decides here: what rules out the method that would have come first, or what puts this one "
                  "first?", options, rng, steps=_steps(situation, decided), section=SECTION)


def _not_decisive(situation: Situation, decided: Chosen) -> dict[str, str]:
    """Rules that do not decide, and why, those that the situation speaks of first; without any that would rule the same out."""
    needs, found = situation.needs, situation.plan
    said = {"keep-base": needs.keep_base, "mixed-batch": needs.switching == BATCH,
            "whole-model": needs.switching != NEVER, "latency": needs.latency_critical,
            "storage": needs.storage is not None, "model-size": found.parameters < BILLION,
            "much-data": (needs.examples or 0) >= MANY, "little-data": needs.examples is not None and needs.examples < FEW,
            "fit": True}
    first = _preferred(situation)[0].name
    fit = found.fit(first)
    # Of what does not fit there is no telling what else would rule it out, but for full fine-tuning's own rules.
    doubtful = {"latency", "storage", *({"keep-base", "whole-model", "mixed-batch"} if first == "full" else ())}
    also = {rule.name for rule in RULES if rule.says(fit, needs, found)} if fit else {name for name in doubtful if said[name]}
    wrong = [rule for rule in WORDS if rule != decided.rule and rule not in also and not (rule == "fit" and fit is None)]
    looked_at = "is to be looked at, but rules nothing out that would have come first."
    return {rule: f"{capital(WORDS[rule])} {looked_at}" if said[rule] else _ABSENT[rule]
            for rule in sorted(wrong, key=lambda rule: not said[rule])}


_ABSENT = {
    "keep-base": "Nobody asks for the base's own abilities here.", "mixed-batch": "No batch here mixes tasks.",
    "whole-model": "There is one task, so that nothing is switched.", "latency": "Nothing is said of latency.",
    "storage": "No limit of storage is given.", "model-size": f"The model is not small: it has {BILLION:,} parameters or more.",
    "much-data": f"There are fewer than {MANY:,} examples, or it is not said how many.",
    "little-data": f"There are {FEW:,} examples or more, or it is not said how many."}
