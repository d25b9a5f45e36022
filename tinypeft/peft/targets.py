"""Which modules a config names: peft's rules for target_modules and what narrows them down, and how they are wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from tinypeft.nn import CausalLM, Conv1D, Linear, Module
from tinypeft.nn.module import near, some
from tinypeft.peft.config import PeftConfig, TargetedConfig
from tinypeft.peft.layer import AdapterLayer, ModulesToSaveLayer, refuse_quantized
from tinypeft.peft.replacements import Replacements, replace_biases


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
    modules = plain_modules(model, config.modules_to_save)
    wanted = config.resolved(model.config.model_type).target_modules
    assert wanted is not None
    found: list[str]
    if wanted == "all-linear":
        found = [name for name, module in modules.items() if isinstance(module, Linear | Conv1D) and name != "lm_head"]
    else:
        found = [name for name in modules if matches(name, wanted)]
    named = found
    without = config.exclude_modules or []
    if strict and (idle := unmatched(without, modules)):
        raise ValueError(f"exclude_modules {idle} match no module of this {type(model).__name__}. "
                         f"{_suggest(idle, list(modules))}")
    found = [name for name in found if not (without and matches(name, without))]
    found = [name for name in found if _in_layers(name, config.layers_to_transform, config.layers_pattern)]

    adaptable = [name for name, module in modules.items() if config.layer_for(module)]
    entries = [wanted] if isinstance(wanted, str) else wanted
    idle = unmatched(wanted, modules)
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
        kinds = ", ".join(dict.fromkeys(type(modules[name]).__name__ for name in adaptable))
        raise ValueError(f"target_modules {entries} match {some(wrong)}, of type {type(modules[wrong[0]]).__name__}; only "
                         f"{kinds} can be adapted. {_suggest(entries, adaptable)}")
    return found


def inject(model: CausalLM, replacements: Replacements, config: PeftConfig, adapter_name: str, seed: int) -> None:
    """Put a new adapter's layers, copies and replacements into a model; what is left of a failure, the caller takes out."""
    bases: dict[str, Module] = {}
    if isinstance(config, TargetedConfig):
        bases = inject_layers(model, config, adapter_name, seed)
        kind = getattr(config, "bias", "none")  # "none", "all", or "lora_only", "vera_only": of the target modules
        biased = {"none": {}, "all": plain_modules(model, config.modules_to_save)}.get(kind, bases)
        replace_biases(replacements, biased, adapter_name, bases)
    inject_copies(model, config, adapter_name, seed)
    for path, base in bases.items():
        layer: Any = model.get_submodule(path)
        for attribute, parameter in layer.replaced(adapter_name).items():
            replacements.add(adapter_name, base, attribute, None, parameter)


def inject_layers(model: CausalLM, config: TargetedConfig, adapter_name: str, seed: int) -> dict[str, Module]:
    """Wrap the modules that a config names, and give the layers the parameters of a new adapter.

    Returns:
        path -> the wrapped base module.

    Raises:
        ValueError: as `find_targets`; or a module carries another method already.
    """
    strict = not config.loading
    found = set(find_targets(model, config, strict))
    bases = {path: module for path, module in plain_modules(model).items() if path in found}
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = getattr(config, option, None) or {}
        if idle := [key for key in patterns if strict and not any(pattern_value(p, {key: True}, False) for p in bases)]:
            raise ValueError(f"{option} {idle} match none of the target modules: {some(bases)}")
    if hasattr(config, "fan_in_fan_out"):  # said of the last, as peft does; layers look at their own base
        linear = [base for base in bases.values() if isinstance(base, Linear | Conv1D)]
        config.fan_in_fan_out = bool(linear) and isinstance(linear[-1], Conv1D)
    config.prepare(model, bases, seed)
    layers = {}
    for path, base in bases.items():
        kind, there = config.layer_for(base), model.get_submodule(path)
        assert kind is not None  # find_targets has seen to it
        if isinstance(there, AdapterLayer) and not (issubclass(kind, type(there)) or isinstance(there, kind)):
            raise ValueError(f"{path} carries the adapter {', '.join(there.adapter_names)}; of two methods on one module the "
                             f"result would depend on their order. Give {adapter_name!r} other target_modules")
        layers[path] = kind.around(there, path)
    for layer in layers.values():
        layer.add(adapter_name, config, seed)
    for path, layer in layers.items():
        model.set_submodule(path, layer)
    return bases


def inject_copies(model: CausalLM, config: PeftConfig, adapter_name: str, seed: int) -> None:
    """Wrap the modules that modules_to_save names, so that a copy of each is trained.

    Raises:
        ValueError: a name matches nothing, or a module carries adapters already.
    """
    names, modules = config.modules_to_save or [], plain_modules(model)
    paths = [path for path in modules if matches(path, names)]
    if idle := unmatched(names, modules):
        raise ValueError(f"modules_to_save {idle} match no module of this {type(model).__name__}. "
                         f"{_suggest(idle, list(modules))}")
    for path in paths:
        inner = [m for m in model.get_submodule(path).modules() if isinstance(m, AdapterLayer)]
        if inner and not isinstance(model.get_submodule(path), ModulesToSaveLayer):
            raise ValueError(f"modules_to_save names {path}, in which {inner[0].path} carries the adapter "
                             f"{', '.join(inner[0].adapter_names)}: a copy of it would be trained instead")
        refuse_quantized(modules[path], path, "modules_to_save trains a copy of them")
    for path in paths:
        layer = ModulesToSaveLayer.around(model.get_submodule(path), path)
        layer.add(adapter_name, config, seed)
        model.set_submodule(path, layer)


def plain_modules(model: CausalLM, but: list[str] | None = None) -> dict[str, Module]:
    """The modules of the base model as if no adapters were in it, path -> module, without those that `but` names."""
    modules = dict(model.named_modules())
    wrapped = tuple(f"{path}." for path, module in modules.items() if isinstance(module, AdapterLayer))
    named = tuple(f"{path}." for path in modules if matches(path, but or []))
    return {path: module.base_layer if isinstance(module, AdapterLayer) else module for path, module in modules.items()
            if path and not path.startswith(wrapped) and not f"{path}.".startswith(named)}


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


def unmatched(patterns: str | Sequence[str], names: Iterable[str]) -> list[str]:
    """Those of several endings that no name has; none for a regular expression, which is one pattern for all names."""
    endings = [] if isinstance(patterns, str) else patterns
    return [ending for ending in endings if not any(matches(name, [ending]) for name in names)]


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
