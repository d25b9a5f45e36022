"""Modules: a tree of named parameters, as in torch.

A Module's children are its attributes that are Modules, or lists or dicts of Modules, and its parameters are its attributes
that are Parameters, or dicts of Parameters: nothing is registered. The names are the paths of attributes, and so those of
Hugging Face's files.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import Array, as_dtype, asarray


class Parameter(Tensor):
    """A Tensor that belongs to a Module, and is trained unless it is frozen.

    It is born on the "meta" device: a read-only array of its shape that takes no memory, until values are assigned to
    `data`. So a model of 70 billion parameters can be built, and counted, in a second.

    Args:
        shape: its shape.
        init: how `Module.init_weights` fills it: "normal", "zeros" or "ones".
    """

    __slots__ = ("init",)

    def __init__(self, shape: tuple[int, ...], init: str = "normal"):
        super().__init__(np.broadcast_to(np.float32(0), shape), requires_grad=True)
        self.init = init

    @property
    def is_meta(self) -> bool:
        """True while it has a shape but no values."""
        return isinstance(self.data, np.ndarray) and not self.data.flags.writeable and not any(self.data.strides)

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """Values of its own; without any ("meta"), it stays so."""
        new = copy.copy(self)
        new.data, new.grad = self.data if self.is_meta else self.data.copy(), None
        return new

    # ---- a quantized parameter, whose `data` are codes, does all of this in its own way (quant/linear.py) ---------------

    quantized: ClassVar[bool] = False

    @property
    def values_shape(self) -> tuple[int, ...]:
        """The values' shape in model files."""
        return self.shape

    @property
    def values_dtype(self) -> np.dtype:
        return self.dtype

    def values(self) -> Array:
        """The values themselves."""
        return self.data

    def with_values(self, values: Array) -> Parameter:
        """A parameter like this one with other values."""
        new = copy.copy(self)
        new.data = values.astype(self.dtype, copy=False)
        return new

    def load(self, values: Array, dtype: np.dtype | None = None) -> None:
        """Take values from a model file, converted to `dtype` (None: this parameter's own)."""
        self.data = np.array(values, dtype=dtype or self.dtype)

    def cast(self, dtype: np.dtype) -> None:
        """Convert the values; without any ("meta"), it stays so."""
        self.data = np.broadcast_to(dtype.type(0), self.shape) if self.is_meta else self.data.astype(dtype, copy=False)

    def stored(self, name: str) -> dict[str, Array]:
        """Name -> array of what a model file has for the parameter of this name."""
        return {name: self.data}

    def gather(self, name: str, state: dict[str, Any]) -> None:
        """In the content of a model file, make one entry of all that `stored` has made of this parameter."""


class Module:
    """The base of all layers and models: subclasses set attributes in `__init__` and define `forward`."""

    training = False  # a model is used more often than trained; `train` also gives dropout its random streams

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | dict):
                for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{key}", item

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module under the name `prefix`, then all modules below it, depth first."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of all parameters; one that stands in two places (a tied head) comes once, first name first."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in module._own_parameters():
                if id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def _own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters among the attributes, and in dicts among the attributes."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", item) for key, item in value.items() if isinstance(item, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def get_submodule(self, path: str) -> Module:
        """The module at a dotted path, such as "transformer.h.0.attn"."""
        found: Any = self
        try:
            for key in path.split(".") if path else ():
                found = _step(found, key)
        except (AttributeError, KeyError, IndexError, ValueError):
            found = None
        if not isinstance(found, Module):
            raise AttributeError(f"{type(self).__name__} has no submodule {path!r}")
        return found

    def set_submodule(self, path: str, module: Module) -> None:
        """Put `module` in the place of the one at `path`."""
        parent: Any = self
        *above, last = path.split(".")
        for key in above:
            parent = _step(parent, key)
        if isinstance(parent, list):
            parent[int(last)] = module
        elif isinstance(parent, dict):
            parent[last] = module
        else:
            setattr(parent, last, module)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train (True) or freeze (False) every parameter; quantized ones stay frozen."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad and not parameter.quantized
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True, *, seed: int | None = None) -> Self:
        """Switch dropout on (or off).

        Args:
            seed: each dropout starts a new random stream, drawn from (seed, its name). Without one, streams go on where
                they were, and those that have not begun are those of seed 0.
        """
        for module in self.modules():
            module.training = mode
        for name, dropout in self._dropouts():
            if seed is not None or (mode and dropout.generator is None):
                dropout.generator = generator(seed or 0, "dropout", name)
        return self

    def eval(self) -> Self:
        return self.train(False)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """In training, keep only what enters each block, and compute the rest again in the backward pass (1604.06174).

        Gradients are the same, whatever is frozen; activations take far less memory, and a step about a third more time.

        Args:
            gradient_checkpointing_kwargs: accepted, since scripts pass {"use_reentrant": False}; there is one way here.
        """
        self._set_gradient_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations again."""
        self._set_gradient_checkpointing(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def _set_gradient_checkpointing(self, on: bool) -> None:
        for module in (module for module in self.modules() if hasattr(module, "gradient_checkpointing")):
            module.gradient_checkpointing = on

    @contextmanager
    def mode_restored(self) -> Iterator[None]:
        """A block after which every module is in the mode, training or evaluation, that it was in."""
        modes = [(module, module.training) for module in self.modules()]
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode

    def dropout_state(self) -> dict[str, Any]:
        """The states of the random streams that dropout draws from, as JSON values."""
        return {name: dropout.generator.bit_generator.state for name, dropout in self._dropouts() if dropout.generator}

    def set_dropout_state(self, state: Mapping[str, Any]) -> None:
        """Continue the random streams from where `dropout_state` found them."""
        found = {name: dropout for name, dropout in self._dropouts() if dropout.generator}
        if found.keys() != state.keys():
            raise ValueError(f"dropout states are for the modules {sorted(state)}, this model has {sorted(found)}")
        for name, dropout in found.items():
            dropout.generator.bit_generator.state = state[name]

    def _dropouts(self) -> Iterator[tuple[str, Any]]:
        return ((name, module) for name, module in self.named_modules() if hasattr(module, "generator"))

    def after_update(self, global_step: int) -> None:
        """Called by `train` after each update, counted from 1, while gradients are there; for methods that act then."""

    def training_state(self) -> dict[str, Array]:
        """What training has changed, for a checkpoint: the parameters that are not frozen, as "parameter.<name>"."""
        return {f"parameter.{name}": p.data for name, p in self.named_parameters() if p.requires_grad}

    def load_training_state(self, state: Mapping[str, Array]) -> None:
        """Go back to a `training_state` of this module; other entries do not matter."""
        for key, array in Module.training_state(self).items():
            array[...] = asarray(state[key], like=array)

    def to(self, dtype: Any) -> Self:
        """Convert every parameter's values to float16, float32 or float64. (Quantized ones are dequantized to it.)"""
        dtype = as_dtype(dtype)
        for parameter in self.parameters():
            parameter.cast(dtype)
        return self

    def init_weights(self, seed: int = 0, std: float = 0.02) -> Self:
        """Give every parameter its initial values; "normal" ones are N(0, std^2), each drawn from (seed, its name)."""
        for name, parameter in self.named_parameters():
            if parameter.init == "normal":
                values = generator(seed, name).standard_normal(parameter.values_shape, dtype=np.float32)
                parameter.load(values * np.float32(self.init_std(name, std)), parameter.values_dtype)
            else:
                parameter.load(np.full(parameter.shape, float(parameter.init == "ones")))
        return self

    def init_std(self, name: str, std: float) -> float:
        """The standard deviation that parameter `name` starts with; models with a rule of their own override this."""
        return std

    def state_dict(self) -> dict[str, Array]:
        """name -> array for every parameter (the arrays themselves, not copies)."""
        return {key: array for name, p in self.named_parameters() for key, array in p.stored(name).items()}

    def load_state_dict(self, state: Mapping[str, Array], dtype: Any = None) -> Self:
        """Take the values of every parameter from `state`.

        Args:
            state: name -> array, exactly the names and shapes of `named_parameters`.
            dtype: convert to this; None keeps the parameters' own dtypes.

        Raises:
            ValueError: tensors are missing, unknown or of another shape. All are listed and nothing is changed. Or one that is
                to be quantized is not finite, which shows when its turn comes: the model is partly loaded then.
        """
        parameters, state = dict(self.named_parameters()), dict(state)
        dtype = None if dtype is None else as_dtype(dtype)
        for name, parameter in parameters.items():
            parameter.gather(name, state)
        check_state(state, {name: parameter.values_shape for name, parameter in parameters.items()}, type(self).__name__)
        for name, parameter in parameters.items():
            try:
                parameter.load(state[name], dtype)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return self


def new_parameter(shape: tuple[int, ...], like: Parameter, values: Callable[[], Any]) -> Parameter:
    """A parameter with values() (broadcast to its shape), where `like` lives: without values on the meta device.

    It is float64 if `like` is, else float32, whatever a frozen weight beside it is stored in.
    """
    parameter = Parameter(shape)
    if not like.is_meta:
        dtype = like.values_dtype if like.values_dtype == np.float64 else np.dtype(np.float32)
        parameter.data = asarray(np.broadcast_to(values(), shape).astype(dtype), like=like.data)
    return parameter


def check_state(state: Mapping[str, Array], expected: Mapping[str, tuple[int, ...]], owner: str) -> None:
    """Raise a ValueError that lists missing, unknown and misshapen tensors, if there are any."""
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    misshapen = [f"{name}: {tuple(state[name].shape)} instead of {shape}" for name, shape in expected.items()
                 if name in state and tuple(state[name].shape) != tuple(shape)]
    problems = [f"{len(names)} {kind}: {some(names)}" for kind, names in
                (("missing", missing), ("unknown", unknown), ("of another shape", misshapen)) if names]
    if problems:
        raise ValueError(f"the tensors do not fit {owner}; nothing was loaded. " + "; ".join(problems))


def refuse_meta(parameters: Iterable[Parameter], what: str) -> None:
    """Raise a RuntimeError that says `what` cannot be done, if any of the parameters has no values."""
    if any(parameter.is_meta for parameter in parameters):
        raise RuntimeError(f"this model has shapes but no values (device='meta'): {what}")


def some(names: Iterable[str], limit: int = 6) -> str:
    """The first few of many names, for a message."""
    names = list(names)
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")


def near(name: str, names: Iterable[str], limit: int = 4) -> list[str]:
    """The names most like `name`, for a message."""
    return difflib.get_close_matches(name, list(dict.fromkeys(names)), n=limit, cutoff=0.5)


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator that depends on the seed and the names alone, not on what was drawn elsewhere before."""
    digest = hashlib.sha256("\0".join([str(int(seed)), *names]).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _step(parent: Any, key: str) -> Any:
    if isinstance(parent, list):
        return parent[int(key)]
    return parent[key] if isinstance(parent, dict) else getattr(parent, key)
