"""Which modules a config names: peft's rules for target_modules and what narrows them down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tinypeft.nn import CausalLM, Conv1D, Linear
from tinypeft.nn.module import near, some
from tinypeft.peft.config import TargetedConfig
from tinypeft.peft.layer import AdapterLayer


def find_targets(model: CausalLM, config: TargetedConfig, strict: bool = True) -> list[str]:
    """The dotted names of the modules to adapt, in the model's order.

    target_modules is a list of names (a module matches if its name is one of them or ends in "." and one of them), a regular
    expression for the whole name, "all-linear" (every linear layer but the head), or None (the config's default for the
    model type).

    Args:
        strict: an entry that matches nothing is an error. (peft overlooks it, and trains less than was asked for.)

    Raises:
        ValueError: nothing matches, an entry matches nothing, or a match cannot be adapted. Near names are listed.
    """
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, AdapterLayer))
    modules = {name: module for name, module in model.named_modules() if name and not name.startswith(inside)}
    linear, wraps = (Linear, Conv1D, config.layer), (*config.layer.wraps, config.layer)
    wanted = config.target_modules
    if wanted is None:
        wanted = config.default_targets.get(model.config.model_type)
        if wanted is None:
            raise ValueError(f"there are no default target_modules for model type {model.config.model_type!r}: name some")
    found: list[str]
    if wanted == "all-linear":
        found = [name for name, module in modules.items() if isinstance(module, linear) and module is not model.lm_head]
    else:
        found = [name for name in modules if matches(name, wanted)]
    named = found
    found = [name for name in found if not (config.exclude_modules and matches(name, config.exclude_modules))]
    found = [name for name in found if _in_layers(name, config.layers_to_transform, config.layers_pattern)]

    adaptable = [name for name, module in modules.items() if isinstance(module, wraps)]
    entries = [wanted] if isinstance(wanted, str) else wanted
    idle = [entry for entry in entries if isinstance(wanted, list) and not any(matches(name, [entry]) for name in modules)]
    if not named or (strict and idle):
        hint = " (a string is a regular expression for the whole name; give names as a list)" if isinstance(wanted, str) else ""
        raise ValueError(f"target_modules {idle or entries} match no module of this {type(model).__name__}{hint}. "
                         f"{_suggest(idle or entries, adaptable)}")
    if not found:
        raise ValueError(f"target_modules {entries} match {some(named)}, but exclude_modules={config.exclude_modules!r}, "
                         f"layers_to_transform={config.layers_to_transform!r} and layers_pattern={config.layers_pattern!r} "
                         "leave none of them")
    wrong = [name for name in found if name not in adaptable]
    if wrong:
        kinds = ", ".join(kind.__name__ for kind in config.layer.wraps)
        raise ValueError(f"target_modules {entries} match {some(wrong)}, of type {type(modules[wrong[0]]).__name__}; only "
                         f"{kinds} can be adapted. {_suggest(entries, adaptable)}")
    return found


def matches(name: str, patterns: str | Sequence[str]) -> bool:
    """Whether a dotted name is meant: by a regular expression for all of it, or by one of several endings.

    >>> matches("h.0.attn.c_proj", ["c_proj"]), matches("h.0.mlp.c_proj", ["attn.c_proj"]), matches("h.0.mlp", ".*mlp")
    (True, False, True)
    """
    if isinstance(patterns, str):
        try:
            return re.fullmatch(patterns, name) is not None
        except re.error as error:
            raise ValueError(f"{patterns!r} is not a regular expression ({error}); give names as a list") from None
    return any(name == pattern or name.endswith("." + pattern) for pattern in patterns)


def pattern_value(name: str, patterns: dict[str, Any], default: Any) -> Any:
    """The value in rank_pattern or alpha_pattern for a module: keys are regular expressions for the end of its name."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def _in_layers(name: str, layers: int | list[int] | None, pattern: str | list[str] | None) -> bool:
    """Whether a module lies in one of the blocks with these numbers (all, without numbers)."""
    if layers is None:
        return True
    names = "|".join([pattern] if isinstance(pattern, str) else pattern or [r"[^.]+"])
    number = re.match(rf"(?:.*?\.)?(?:{names})\.(\d+)\.", name)
    return number is not None and int(number[1]) in ([layers] if isinstance(layers, int) else layers)


def _suggest(entries: Sequence[str], adaptable: list[str]) -> str:
    """Name what could have been meant."""
    endings = list(dict.fromkeys(name.rpartition(".")[2] for name in adaptable))
    close = [n for entry in entries for n in near(entry.rpartition(".")[2], endings)]
    return (f"Near: {', '.join(dict.fromkeys(close))}. " if close else "") + f"This model has: {', '.join(endings)}"
