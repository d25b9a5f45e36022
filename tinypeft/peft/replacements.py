"""Parameters of the base in whose place an adapter has its own: trained biases (BitFit, bias="all"), PiSSA's residual weights.

They stand in the base while the adapter is active, and only then: switched off, the base is bit for bit what it was. (peft
trains the base's own biases, so that its `disable_adapter` cannot restore them.)
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from tinypeft.nn import Module, Parameter
from tinypeft.peft.layer import AdapterLayer, CopyLayer


@dataclass
class Replacement:
    """One parameter: where it belongs, the base's, the adapter's, and its name in files (None: it is not saved)."""

    module: Module
    attribute: str
    original: Parameter
    own: Parameter
    key: str | None


class Replacements:
    """The replacements of all adapters of a model."""

    def __init__(self) -> None:
        self._of: dict[str, list[Replacement]] = {}
        self.active: list[str] = []

    def add(self, adapter_name: str, module: Module, attribute: str, key: str | None, own: Parameter | None = None) -> None:
        """Give an adapter its own version of a parameter: a copy to be trained, or `own`, which is frozen."""
        original = getattr(module, attribute)
        if own is None:
            own = copy.deepcopy(original)
        else:
            own.requires_grad = False
        self._of.setdefault(adapter_name, []).append(Replacement(module, attribute, original, own, key))

    def remove(self, adapter_name: str) -> None:
        """Forget an adapter."""
        self.activate([name for name in self.active if name != adapter_name])
        self._of.pop(adapter_name, None)

    def follow(self, new: Mapping[int, Module]) -> None:
        """Modules were replaced: id of the old one -> the new one, which has its parameters."""
        for r in (r for of_one in self._of.values() for r in of_one):
            r.module = new.get(id(r.module), r.module)

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        """Name in files -> parameter, for one adapter."""
        return {r.key: r.own for r in self._of.get(adapter_name, []) if r.key is not None}

    def activate(self, names: list[str]) -> None:
        """Put the originals back, then the parameters of these adapters in their places."""
        for r in (r for name in self.active for r in self._of[name]):
            setattr(r.module, r.attribute, r.original)
        self.active = [name for name in names if name in self._of]
        for r in (r for name in self.active for r in self._of[name]):
            r.own.data = r.own.data.astype(r.original.dtype, copy=False) if not r.own.is_meta else r.own.data
            setattr(r.module, r.attribute, r.own)

    def owners(self, names: list[str]) -> dict[tuple[int, str], list[str]]:
        """(module's id, attribute) -> which of these adapters replace it."""
        found: dict[tuple[int, str], list[str]] = {}
        for name in names:
            for r in self._of.get(name, []):
                found.setdefault((id(r.module), r.attribute), []).append(name)
        return found


def replace_biases(replacements: Replacements, modules: dict[str, Module], adapter_name: str, wrapped: Container[str] = ()
                   ) -> int:
    """Give an adapter its own version of the bias of each of these modules that has one; return their number.

    Args:
        modules: path -> module.
        wrapped: the paths of those that the adapter's own layers wrap, which shows in peft's names of them.
    """
    biased = [path for path, module in modules.items() if isinstance(getattr(module, "bias", None), Parameter)]
    for path in biased:
        inner = ".base_layer" if path in wrapped else ""
        replacements.add(adapter_name, modules[path], "bias", f"base_model.model.{path}{inner}.bias")
    return len(biased)


def check_together(names: list[str], replacements: Replacements, layers: Iterable[AdapterLayer]) -> None:
    """Raise a ValueError if two of these adapters have each a version of its own of one parameter of the base."""
    owners = replacements.owners(names)
    rivals = [(f"a {attribute} of their own in one module", of) for (_, attribute), of in owners.items()]
    for layer in (layer for layer in layers if isinstance(layer, CopyLayer)):
        copied = [name for name in names if name in layer.adapter_names]
        inside = {id(module) for module in layer.base_layer.modules()}
        of = copied + [name for (module, _), some in owners.items() if copied and module in inside for name in some]
        rivals.append((f"a version of their own of {layer.path}", list(dict.fromkeys(of))))
    for what, of in rivals:
        if len(of) > 1:
            raise ValueError(f"{' and '.join(map(repr, of))} each have {what}: they cannot be active together, since only one "
                             "can stand there")
