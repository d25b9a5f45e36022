"""A layer that carries adapters: it stands in the place of a base layer, and holds that layer inside."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np

from tinypeft.backend import Array
from tinypeft.nn import Module, Parameter
from tinypeft.nn.module import refuse_meta


class AdapterLayer(Module):
    """What the wrapper layers of all methods have in common; several named adapters may share one.

    A method defines `add` (make the parameters of an adapter), `forward`, and, if its effect can be folded into the base
    weight, `delta_weight`.
    """

    prefix: ClassVar[str]  # the names of its adapters' parameters begin with this
    wraps: ClassVar[tuple[type[Module], ...]]  # the kinds of base layer that it knows

    def __init__(self, base_layer: Module):
        self.base_layer: Any = base_layer
        self.active: list[str] = []
        self.merged: list[str] = []
        self.disabled = False
        self._base_weight: list[Parameter] = []  # the one set aside while merged; a list, so as not to count as ours

    def add(self, adapter_name: str, config: Any, path: str, seed: int) -> None:
        """Give this layer, found at `path`, the parameters of a new adapter, inactive."""
        raise NotImplementedError

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that this layer has parameters of."""
        return list(dict.fromkeys(adapter for attribute in self._attributes().values() for adapter in attribute))

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        """Name in files (without the adapter's name) -> parameter, for one adapter."""
        return {f"{attribute}.{name}": parameter
                for attribute, by_adapter in self._attributes().items() if isinstance(by_adapter.get(adapter_name), Module)
                for name, parameter in by_adapter[adapter_name].named_parameters()}

    def remove(self, adapter_name: str) -> None:
        """Forget an adapter."""
        if adapter_name in self.merged:
            self.unmerge()
        for attribute in self._attributes().values():
            attribute.pop(adapter_name, None)
        self.active = [name for name in self.active if name != adapter_name]

    def _attributes(self) -> dict[str, dict[str, Any]]:
        """The attributes that hold something for each adapter: attribute -> adapter -> what it holds."""
        return {name: value for name, value in vars(self).items() if name.startswith(self.prefix)}

    def delta_weight(self, adapter_name: str) -> Array:
        """What merging adds to the base weight, in its layout."""
        raise NotImplementedError(f"{type(self).__name__} cannot be merged")

    @property
    def working(self) -> list[str]:
        """The adapters that `forward` must apply: active, not switched off, not merged into the weight already."""
        return [] if self.disabled or self.merged else self.active

    def merge(self, safe_merge: bool = False) -> None:
        """Fold the active adapters into the base weight, which is kept aside so that `unmerge` restores it exactly.

        Raises:
            ValueError: with safe_merge, if the result is not finite; the weight is left as it was.
        """
        if self.merged or self.disabled or not self.active:
            return
        weight = self.base_layer.weight
        refuse_meta([weight], "there is nothing to merge")
        merged = weight.data.copy()
        for name in self.active:
            merged += self.delta_weight(name).astype(merged.dtype, copy=False)
        if safe_merge and not np.isfinite(merged).all():
            raise ValueError(f"merging {', '.join(self.active)} gives weights that are not finite: the adapter is broken")
        # A Parameter of its own: the base's may be tied to another layer, which must not see the merge.
        self.base_layer.weight, self._base_weight = copy.copy(weight), [weight]
        self.base_layer.weight.data, self.merged = merged, list(self.active)

    def unmerge(self) -> None:
        """Take the adapters out of the base weight again; it is bit for bit what it was."""
        if self.merged:
            self.base_layer.weight, self._base_weight, self.merged = self._base_weight[0], [], []
