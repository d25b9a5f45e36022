"""A layer that carries adapters: it stands in the place of a base module, and holds that module inside."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import numpy as np

from tinypeft.autograd import ops
from tinypeft.backend import Array
from tinypeft.nn import Conv1D, Linear, Module, Parameter, refuse_meta


class AdapterLayer(Module):
    """What the wrapper layers of all methods have in common; several named adapters may share one.

    A method defines `add` (make the parameters of an adapter), `forward` (which applies the adapters in `working`), and
    `merged_values`, or mergeable = False if its effect cannot be folded into the base's parameters.

    Attributes:
        base_layer: the module in whose place this one stands.
        path: where in the model that is.
        active: the adapters in use.
        merged: those folded into the base's parameters.
        disabled: whether all are switched off.
        merge_loss: what share of a merged change the quantized weight cannot hold, |realised - wanted| / |wanted|.
        rows: for a batch with an adapter of its own for each row, their names.
    """

    prefix: ClassVar[str]  # the attributes that hold something for each adapter begin with this
    wraps: ClassVar[tuple[type[Module], ...]]  # the kinds of base module that it knows
    mergeable: ClassVar[bool] = True

    def __init__(self, base_layer: Module, path: str = ""):
        self.base_layer: Any = base_layer
        self.path = path
        self.active: list[str] = []
        self.merged: list[str] = []
        self.disabled = False
        self.rows: list[str] | None = None
        self._only: list[str] | None = None  # the adapter of the rows that are being computed
        self.merge_loss = 0.0
        self._unmerged: list[tuple[Module, str, Parameter]] = []  # set aside while merged

    @classmethod
    def around(cls, module: Module, path: str) -> Self:
        """The layer for a module: itself, if it is one already; a more general one takes the adapters of a simpler over."""
        if isinstance(module, cls):
            return module
        layer = cls(module.base_layer if isinstance(module, AdapterLayer) else module, path)
        if isinstance(module, AdapterLayer):
            vars(layer).update(vars(module))
        return layer

    # ---- adapters ---------------------------------------------------------------------------------------------------

    def add(self, adapter_name: str, config: Any, seed: int) -> None:
        """Give this layer the parameters of a new adapter, inactive."""
        raise NotImplementedError

    def remove(self, adapter_name: str) -> None:
        """Forget an adapter."""
        if adapter_name in self.merged:
            self.unmerge()
        for attribute in self._attributes().values():
            attribute.pop(adapter_name, None)
        self.active = [name for name in self.active if name != adapter_name]

    @property
    def adapter_names(self) -> list[str]:
        """The names of the adapters that this layer has something of."""
        return list(dict.fromkeys(adapter for attribute in self._attributes().values() for adapter in attribute))

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        """Name in files (without the adapter's name) -> parameter, for one adapter."""
        found: dict[str, Parameter] = {}
        for attribute, by_adapter in self._attributes().items():
            value = by_adapter.get(adapter_name)
            if isinstance(value, Module):
                found |= {f"{attribute}.{name}": parameter for name, parameter in value.named_parameters()}
            elif isinstance(value, Parameter):
                found[attribute] = value
        return found

    def replaced(self, adapter_name: str) -> dict[str, Parameter]:
        """Parameters of the base that the adapter replaces with (frozen) ones of its own while it is active."""
        return {}

    def _attributes(self) -> dict[str, dict[str, Any]]:
        """The attributes that hold something for each adapter: attribute -> adapter -> what it holds."""
        return {name: value for name, value in vars(self).items()
                if name.startswith(self.prefix) and isinstance(value, dict)}

    # ---- running ----------------------------------------------------------------------------------------------------

    @property
    def working(self) -> list[str]:
        """The adapters that `forward` must apply: active, not switched off, not merged into the base already."""
        names = self.active if self._only is None else self._only
        return [] if self.disabled else [name for name in names if name not in self.merged]

    def __call__(self, *inputs: Any) -> Any:
        """`forward`; for a batch with an adapter for each row, once for each adapter, on its rows."""
        if self.rows is None:
            return self.forward(*inputs)
        order: list[int] = []
        outputs = []
        try:
            for wanted in dict.fromkeys(self.rows):
                rows = [i for i, name in enumerate(self.rows) if name == wanted]
                self._only = [wanted] if wanted in self.adapter_names else []
                outputs.append(self.forward(*(_rows_of(x, rows, len(self.rows)) for x in inputs)))
                order += rows
        finally:
            self._only = None
        return ops.concatenate(outputs)[np.argsort(order)]

    # ---- merging ----------------------------------------------------------------------------------------------------

    def merged_values(self, names: list[str]) -> dict[str, Array]:
        """The base's parameters with these adapters folded in: name -> values."""
        raise NotImplementedError

    def merge(self, names: list[str], safe_merge: bool = False) -> None:
        """Fold adapters into the base's parameters, which are kept aside so that `unmerge` restores them exactly.

        Raises:
            ValueError: with safe_merge, or where it is to be quantized, the result is not finite; nothing is changed.
        """
        names = [name for name in names if name in self.adapter_names]
        if self.merged or self.disabled or not names:
            return
        refuse_meta(self.base_layer.parameters(), "there is nothing to merge")
        values = self.merged_values(names)
        checked = safe_merge or any(parameter.quantized for parameter in self.base_layer.parameters())
        if checked and not all(np.isfinite(array).all() for array in values.values()):
            raise ValueError(f"merging {', '.join(names)} into {self.path} gives weights that are not finite: the adapter is "
                             "broken")
        for name, array in values.items():
            path, _, attribute = name.rpartition(".")
            owner = self.base_layer.get_submodule(path)
            parameter = getattr(owner, attribute)
            self._unmerged.append((owner, attribute, parameter))
            # A Parameter of its own: the base's may be tied to another layer, which must not see the merge.
            setattr(owner, attribute, merged := parameter.with_values(array))
            if parameter.quantized:
                wanted = float(np.linalg.norm(array - parameter.values()))
                self.merge_loss = float(np.linalg.norm(merged.values() - array)) / wanted if wanted else 0.0
        self.merged = names

    def unmerge(self) -> None:
        """Take the adapters out of the base's parameters again; these are bit for bit what they were."""
        for owner, attribute, parameter in self._unmerged:
            setattr(owner, attribute, parameter)
        self._unmerged, self.merged, self.merge_loss = [], [], 0.0


def refuse_quantized(module: Module, path: str, why: str) -> None:
    """Raise a ValueError if a module has quantized weights, which can neither be trained nor moved."""
    if any(parameter.quantized for parameter in module.parameters()):
        raise ValueError(f"the weights of {path} are quantized, and {why}: load the model without quantization_config, or use "
                         "a method that leaves them as they are, such as LoRA")


def _rows_of(x: Any, rows: list[int], size: int) -> Any:
    """Some rows of one input of a layer, for a batch of `size`; what is the same for all (GPT-2's positions) has one row."""
    if x is None:
        return None
    if not hasattr(x, "shape"):
        raise ValueError(f"a layer that is called with a {type(x).__name__} cannot be mixed within a batch")
    return x[rows if x.shape[0] == size else [0] * len(rows)]


class DeltaLayer(AdapterLayer):
    """Around a linear layer: a method that adds something to W, and says in `delta_weight` what that is."""

    wraps: ClassVar[tuple[type[Module], ...]] = (Linear, Conv1D)

    def delta_weight(self, adapter_name: str) -> Array:
        """The change of W that an adapter makes, (out, in)."""
        raise NotImplementedError

    def merged_values(self, names: list[str]) -> dict[str, Array]:
        weight = self.base_layer.weight.values()
        for name in names:
            weight = weight + self.oriented(self.delta_weight(name))
        return {"weight": weight}

    def oriented(self, matrix: Array) -> Array:
        """A matrix (out, in) as the base stores it, (in, out) in a Conv1D; or back."""
        return matrix.T if isinstance(self.base_layer, Conv1D) else matrix

    def check_rank(self, r: int, n_out: int | None = None, n_in: int | None = None) -> None:
        """Raise a ValueError for a rank above that of the base's matrix."""
        n_out, n_in = n_out or self.base_layer.out_features, n_in or self.base_layer.in_features
        if r > min(n_out, n_in):
            raise ValueError(f"rank r={r} for {self.path}, a matrix of {n_out} x {n_in}: above {min(n_out, n_in)} it is no "
                             f"longer a low-rank update. Choose at most {min(n_out, n_in)}, or other target_modules")


class CopyLayer(AdapterLayer):
    """A module of which each adapter trains a whole copy; to merge is to put the copy in its place."""

    wraps: ClassVar[tuple[type[Module], ...]] = (Module,)

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        setattr(self, self.prefix, {})

    @property
    def copies(self) -> dict[str, Module]:
        """Adapter -> its copy; the attribute itself has the name that peft gives it."""
        return getattr(self, self.prefix)

    def add(self, adapter_name: str, config: Any, seed: int) -> None:
        """A copy of the module as it is."""
        self.copies[adapter_name] = copy.deepcopy(self.base_layer)

    def forward(self, *inputs: Any) -> Any:
        return (self.copies[self.working[-1]] if self.working else self.base_layer)(*inputs)

    def merged_values(self, names: list[str]) -> dict[str, Array]:
        return {name: parameter.data for name, parameter in self.copies[names[-1]].named_parameters()}


class ModulesToSaveLayer(CopyLayer):
    """What `modules_to_save` of any config wraps a module in; in files its copy has the module's own name."""

    prefix = "modules_to_save"
    original_module: Module

    @property
    def base_layer(self) -> Any:
        return self.original_module  # peft's name for it

    @base_layer.setter
    def base_layer(self, module: Module) -> None:
        self.original_module = module

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        return {name.removeprefix(f"{self.prefix}."): parameter
                for name, parameter in super().parameters_of(adapter_name).items()}
