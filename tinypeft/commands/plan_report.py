"""How `tinypeft plan` tells what it found: every table fits a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tinypeft.budget.choice import BATCH, RULES, Choice, Needs
from tinypeft.budget.fitting import Fit, Rejection
from tinypeft.budget.methods import NF4, relative, stored_as
from tinypeft.budget.planner import RULE, LargestModel, Plan, card_sold
from tinypeft.budget.units import format_bytes
from tinypeft.commands.tables import print_table, terminal_width


def print_relatives(names: Sequence[str], markdown: bool) -> None:
    """That a relative of LoRA was asked for, and stands in LoRA's row."""
    if titles := list(dict.fromkeys(title for name in names if (title := relative(name)))):
        costs, rows = ("costs", "its row is") if len(titles) == 1 else ("cost", "their row is")
        _say(f"{' and '.join(titles)} {costs} what LoRA costs: {rows} LoRA's."
             + " PiSSA takes its start out of the base's weights, and cannot be mixed within a batch." * ("PiSSA" in titles),
             markdown)


def print_plan(plan: Plan, needs: Needs, choice: Choice, markdown: bool) -> None:
    """What fits, what it costs, what does not fit, what to take."""
    cards = f"{plan.limits.gpus} cards of {_size(plan.limits.gpu)} each" if plan.limits.gpus > 1 else \
        f"one card of {_size(plan.limits.gpu)}"
    tasks = _counted(plan.tasks, "task")
    _say(f"{plan.model}: {plan.parameters:,} parameters, on {cards}, for {tasks}.", markdown)
    _say(_conditions(plan.conditions), markdown)
    if plan.limits.latency_critical:
        _say("Latency is critical: nothing may be added to a forward pass.", markdown)
    if plan.limits.trainable_max is not None:
        _say(f"At most {_counted(int(plan.limits.trainable_max), 'parameter')} may be trained.", markdown)
    if plan.limits.quantization:
        methods = [fit.method for fit in plan.fits] + [one.method for one in plan.rejected]
        others = [method.title for method in methods
                  if method.four_bit and stored_as(NF4) != stored_as(plan.limits.quantization)]
        _say(f"The base of every adapter is stored in {stored_as(plan.limits.quantization)}"
             + "".join(f", {title}'s in {stored_as(NF4)}, which is part of the method" for title in others) + ".", markdown)
    if plan.fits:
        _heading("What fits", markdown)
        print_table(["method", "size", "at most", "trained", "share", "memory"],
                    [_fit_row(fit, plan) for fit in plan.fits], 0, markdown, terminal_width(), (0, 1))
        if limits := [(fit.method.title, fit.limit) for fit in plan.fits if fit.limit]:
            _say(f"Size: {RULE}. One more than the largest:", markdown)
            _items(limits, markdown)
        _heading("Once trained", markdown)
        print_table(["method", "a task", tasks, "added to a token", "merges"], [_serving_row(fit) for fit in plan.fits], 0,
                    markdown, terminal_width(), (0, 3, 4))
        _say("A task: its file, which is also what a switch loads. Added: FLOPs of what is not merged, as a share of those of "
             "the base's matrices; products that have to be waited for; keys and values of virtual tokens.", markdown)
    if plan.rejected:
        _heading("What does not", markdown)
        _items(_grouped(plan.rejected), markdown)
        too_large = [one.method.name for one in plan.rejected if one.cards and one.method.make]
        if plan.limits.quantization is None and set(too_large) - {"lora", "qlora"}:
            _say("QLoRA is not the only method for a base in four bits: --quantization nf4 tries them all.", markdown)
        if any(one.cards for one in plan.rejected):
            _say("Cards, at the least: \"sharded\" divides weights, gradients and optimizer states evenly (ZeRO-3, FSDP); \"in "
                 "stages\" puts whole blocks on each card. Plain data parallelism needs all of it on every card, and never "
                 "makes a model fit.", markdown)
    if plan.fits:
        _chosen(plan, needs, choice, markdown)
    else:
        _nothing(plan, markdown)


def print_largest(found: Sequence[LargestModel], gpu: float, options: Mapping[str, Any], markdown: bool) -> None:
    """For each method the largest model of the catalog; `options` as they were given."""
    gpus = options.get("gpus", 1)
    cards = f"{gpus} cards of {_size(gpu)} each" if gpus > 1 else f"a card of {_size(gpu)}"
    _say(f"The largest model of the catalog that can be trained on {cards}, with each method's usual size or the one given:",
         markdown)
    if conditions := next((one.conditions for one in found if one.model), None):
        fewer = "" if len({one.conditions["tokens"] for one in found if one.model}) == 1 else \
            " (Fewer tokens where the model has fewer positions.)"
        _say(_conditions(conditions | {"tokens": max(one.conditions.get("tokens", 0) for one in found)}) + fewer, markdown)
    if (most := options.get("trainable_max")) is not None:
        of = f"{most} of each model's" if str(most).strip().endswith("%") else f"{most}"
        _say(f"At most {of} parameters may be trained; usual sizes are halved for that.", markdown)
    if options.get("latency_critical"):
        _say("Latency is looked at only where a model is named.", markdown)
    rows = [[one.method.title, one.method.describe(one.size) if one.model else "", one.model or "none",
             f"{one.parameters:,}" if one.model else "", format_bytes(one.needs) if one.model else ""] for one in found]
    print_table(["method", "size", "model", "parameters", "memory"], rows, 0, markdown, terminal_width(), (0, 1, 2))


# ---- parts ----------------------------------------------------------------------------------------------------------

def _fit_row(fit: Fit, plan: Plan) -> list[str]:
    others = plan.limits.dtype if plan.limits.quantization is None else stored_as(plan.limits.quantization)
    base = f" ({fit.stored})" if fit.method.four_bit and fit.stored != others else ""
    counts = fit.serving.counts
    return [fit.method.title + base, fit.method.describe(fit.size), f"{fit.largest:,}" if fit.largest else "",
            f"{counts.trainable:,}", f"{counts.fraction:.3%}", format_bytes(fit.card_bytes)]


def _serving_row(fit: Fit) -> list[str]:
    serving, work = fit.serving, fit.serving.work
    added = [f"{serving.overhead * 100:.2g}%"] if work.token else ["none"]
    if work.depth:
        added.append(f"{work.depth} in sequence")
    if serving.cache_bytes:
        added.append(format_bytes(serving.cache_bytes))
    return [fit.method.title, format_bytes(serving.task_bytes), format_bytes(serving.all_bytes), ", ".join(added),
            "itself" if fit.config is None else "yes" if serving.mergeable else "no"]


def _grouped(rejected: Sequence[Rejection]) -> list[tuple[str, str]]:
    """(methods, reason), those with the same reason together."""
    groups: dict[str, list[str]] = {}
    for one in rejected:
        reason = one.reason + "."
        if one.cards:
            size = f", with {one.method.describe(one.size)}" if one.method.size_name else ""
            reason += f" Cards{size}: {one.cards.sharded or 'no number of them'} sharded" + (
                f", {one.cards.stages} in stages." if one.cards.stages else "; not one block fits a card.")
        groups.setdefault(reason, []).append(one.method.title)
    return [(", ".join(titles), reason) for reason, titles in groups.items()]


def _nothing(plan: Plan, markdown: bool) -> None:
    """The least that there is, and what would fit instead."""
    _heading("What it would take", markdown)
    least = plan.minimum
    if least is not None and least.needs is not None:
        sold, cards = card_sold(least.needs), least.cards
        larger = f"a card of {_size(sold)}" if sold else "more than any single card has"
        several = f", or {cards.sharded} cards of {_size(plan.limits.gpu)} among which it is sharded" \
            if cards and cards.sharded else ""
        _say(f"The least that keeps to all that was asked for is {least.named}: {format_bytes(least.needs)}. That is "
             f"{larger}{several}.", markdown)
    else:
        _say("No card would do, however large: what stands above is not about memory. Ask for less, or for other methods.",
             markdown)
    _say(f"The largest model of the catalog that can be trained on this card, with all else as asked for: "
         f"{plan.largest_fitting}." if plan.largest_fitting else
         "With all else as asked for, no model of the catalog can be trained on this card.", markdown)


def _chosen(plan: Plan, needs: Needs, choice: Choice, markdown: bool) -> None:
    _heading("What to take", markdown)
    fit = choice.fit
    if fit is None:
        _say(f"Nothing: {choice.reason}.", markdown)
        return
    named = f"{fit.method.title}, {fit.method.describe(fit.size)}" if fit.method.size_name else fit.method.title
    _say(f"{named}: {choice.reason}.", markdown)
    if needs.latency_critical and needs.switching != BATCH and fit.serving.mergeable and fit.serving.work.token:
        _say("Merge it, since latency is critical: merged, it adds nothing to a forward pass.", markdown)
    rows = [[name, format_bytes(size), f"{share:.1%}"] for name, size, share in fit.breakdown.table()]
    rows.append([f"together, at {fit.breakdown.peak}", format_bytes(fit.breakdown.total), ""])
    rows.append([f"with the margin of {fit.breakdown.margin:.0%}", format_bytes(fit.breakdown.total_with_margin), ""])
    if plan.limits.gpus > 1:
        rows.append([f"on each of {plan.limits.gpus} cards", format_bytes(fit.card_bytes), ""])
    print_table(["memory", "bytes", "share"], rows, 0, markdown, terminal_width(), (0,))
    if out := _ruled_out(plan, needs):
        _say("It would fit, but is not taken:", markdown)
        _items(out, markdown)
    for sentence in _switching(plan, fit):
        _say(sentence, markdown)


def _ruled_out(plan: Plan, needs: Needs) -> list[tuple[str, str]]:
    """(methods, reason) of what fits and a rule speaks against."""
    groups: dict[str, list[str]] = {}
    for fit in plan.fits:
        if reason := next(filter(None, (rule.says(fit, needs, plan) for rule in RULES)), ""):
            groups.setdefault(reason + ".", []).append(fit.method.title)
    return [(", ".join(titles), reason) for reason, titles in groups.items()]


def _switching(plan: Plan, fit: Fit) -> list[str]:
    """What it takes to go from one task to another."""
    serving, work, dtype = fit.serving, fit.serving.work, plan.limits.dtype
    if fit.config is None:
        return [f"Switching loads the whole model: {format_bytes(serving.task_bytes)}."]
    if plan.tasks == 1:
        said = [f"Not merged, {format_bytes(serving.all_bytes)} are loaded beside the base."]
    else:
        said = [f"Switching, not merged: load {format_bytes(serving.task_bytes)}, or keep all {plan.tasks:,} in memory, "
                f"{format_bytes(serving.all_bytes)}."]
    if serving.shared_bytes and plan.tasks > 1:
        said[0] += f" Of these, {format_bytes(serving.shared_bytes)} are shared by all tasks."
    if not serving.mergeable:
        return said
    merge = f"Merged, nothing is added to a token. Merging takes {work.merge / 1e12:,.3g} TFLOPs, and {work.rewritten:,} " \
            f"numbers of the base are read and written"
    if fit.stored != dtype and work.merge:
        merge += (f". A base in {fit.stored} would be rounded again, and lose most of what was learned: merge into {dtype}, "
                  f"which needs {format_bytes(serving.merge_bytes)}")
    if plan.tasks == 1:
        return [*said, f"{merge}."]
    return [*said, f"{merge}. Each task is merged anew at every switch, or has a copy: {plan.tasks:,} x "
                   f"{format_bytes(serving.merged_bytes)} = {format_bytes(plan.tasks * serving.merged_bytes)}."]


# ---- text -----------------------------------------------------------------------------------------------------------

def _size(count: float | None) -> str:
    return format_bytes(count or 0.0).replace(".00", "")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _conditions(conditions: Mapping[str, Any]) -> str:
    def value(given: Any) -> str:
        if isinstance(given, bool):
            return "on" if given else "off"
        return f"{given:,}" if isinstance(given, int) else str(given)

    return "Conditions: " + ", ".join(f"{name} {value(given)}" for name, given in conditions.items()) + "."


def _heading(text: str, markdown: bool) -> None:
    print(f"## {text}\n" if markdown else text.upper())


def _say(text: str, markdown: bool) -> None:
    print((text if markdown else textwrap.fill(text, terminal_width())) + "\n")


def _items(rows: Sequence[tuple[str, str]], markdown: bool) -> None:
    """A list of what something is about, and what is said of it."""
    for title, text in rows:
        line = f"- {title}: {text}"
        print(line if markdown else textwrap.fill(line, terminal_width(), subsequent_indent="  "))
    print()
