"""`tinypeft plan`: a configuration for a model, a card and a number of tasks; or, without a model, the largest that fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinypeft.budget.cards import SHARDED
from tinypeft.budget.choice import NEVER, REQUESTS, Needs, choose
from tinypeft.budget.planner import Plan, largest_models, plan
from tinypeft.budget.units import format_bytes, parse_quantity, parse_size
from tinypeft.commands.plan_report import print_largest, print_plan, print_relatives
from tinypeft.commands.train import parse_targets
from tinypeft.viz.budget import stacked_bars

FORMATS = ("table", "markdown", "json")


def run_plan(*, model: str | None, gpu: str, output_format: str = "table", plot: Path | None = None,
             method: str | None = None, target_modules: str = "all-linear", tasks: int = 1, margin: str = "5%",
             switching: str | None = None, examples: int | None = None, keep_base: bool = False, storage: str | None = None,
             **options: Any) -> dict[str, Any]:
    """Plan and print.

    Args:
        method: names, separated by commas; None for all.
        margin: such as "5%" or "0.05".
        switching, examples, keep_base, storage: see `Needs`; storage as text, such as "2GB".
        options: see `limits_of`.

    Returns:
        What `--format json` prints.

    Raises:
        ValueError: what cannot be read, or cannot be.
    """
    if output_format not in FORMATS:
        raise ValueError(f"unknown format {output_format!r}; there are: {', '.join(FORMATS)}")
    if model is None and plot is not None:
        raise ValueError("--plot draws the methods that fit a model: give --model too")
    if plot is not None and plot.suffix.lower() != ".png":
        raise ValueError(f"--plot {str(plot)!r}: the picture is a PNG, so give a name that ends in .png")
    options |= {"margin": _share(margin), "target_modules": parse_targets(target_modules)}
    methods = None if method is None else [name for name in method.split(",") if name.strip()]
    markdown = output_format == "markdown"
    if output_format != "json":
        print_relatives(methods or [], markdown)
    if model is None:
        found = largest_models(gpu, methods=methods, **options)
        result: dict[str, Any] = {"gpu_bytes": parse_size(gpu), "gpus": options.get("gpus", 1),
                                  "trainable_max": options.get("trainable_max"),
                                  "largest_models": [one.to_dict() for one in found]}
        if output_format != "json":
            print_largest(found, parse_size(gpu), options, markdown)
    else:
        needs = Needs(switching or (NEVER if tasks == 1 else REQUESTS), options.get("latency_critical", False), examples,
                      keep_base, None if storage is None else parse_size(storage, "--storage"))
        made = plan(model, gpu, methods=methods, tasks=tasks, **options)
        choice = choose(made, needs)
        result = made.to_dict() | {"needs": needs.to_dict(), "choice": choice.to_dict()}
        if output_format != "json":
            print_plan(made, needs, choice, markdown)
        if plot is not None:
            _draw(made, plot)
    if output_format == "json":
        print(json.dumps(result, indent=2))
    return result


def _share(text: str) -> float:
    """0.05 from "5%" or "0.05"."""
    try:
        quantity = parse_quantity(text)
    except ValueError as error:
        raise ValueError(f"--margin {text!r}: {error}") from None
    if quantity.measure not in ("%", "") or (not quantity.unit and quantity.value >= 1):
        raise ValueError(f"--margin {text!r}: expected a share of the memory, such as 5% or 0.05")
    return quantity.value


def _draw(made: Plan, path: Path) -> None:
    """The methods that fit, against the card."""
    if not made.fits:
        raise ValueError(f"nothing fits, so there is nothing to draw in {path}; what was found stands above")
    gpus = made.limits.gpus
    rows = {" ".join([fit.method.title, fit.method.describe(fit.size)]).strip(): fit.breakdown for fit in made.fits}
    names = [name for name in next(iter(rows.values())).parts if any(one.parts[name] for one in rows.values())]
    parts = {name: [one.parts[name] / (gpus if name in SHARDED else 1) for one in rows.values()] for name in names}
    if margin := made.limits.conditions["margin"]:
        parts["margin"] = [margin * sum(column) for column in zip(*parts.values(), strict=True)]
    title = f"{made.model} on {f'each of {gpus} cards' if gpus > 1 else 'a card'} of {format_bytes(made.limits.gpu)}"
    picture = stacked_bars(list(rows), parts, made.limits.gpu, title.replace(".00", ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.png())
