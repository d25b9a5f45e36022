"""What all methods' configs share: the keys of peft's adapter_config.json, and the table of methods."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from tinypeft.autograd import Tensor
from tinypeft.backend import Array
from tinypeft.files import read_json, write_json
from tinypeft.nn import CausalLM, Module
from tinypeft.nn.checks import Checked
from tinypeft.nn.module import near

if TYPE_CHECKING:
    from tinypeft.peft.layer import AdapterLayer
    from tinypeft.peft.model import PeftModel

C = TypeVar("C", bound="type[PeftConfig]")
L = TypeVar("L", bound="type[AdapterLayer]")

CONFIG_NAME = "adapter_config.json"
PEFT_VERSION = "0.21.2"  # whose keys and defaults we read and write
# Model type -> the default target_modules of LoRA and its kin.
LORA_TARGETS: dict[str, str | list[str]] = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}


class TaskType(enum.StrEnum):
    """What the model is for; here always the next token."""

    CAUSAL_LM = "CAUSAL_LM"


@dataclass
class PeftConfig(Checked):
    """The arguments that every method has.

    Args:
        task_type: "CAUSAL_LM" or None.
        base_model_name_or_path: filled in from the model.
        inference_mode: the adapter is frozen. Saved files say True, as peft's do; loading with is_trainable sets it False.
        modules_to_save: names of modules that are trained whole, in a copy, and saved with the adapter; they match as
            target_modules do (in peft any name with that ending, "norm" also "input_layernorm").

    Raises:
        ValueError: a value that cannot be, in every subclass too.
    """

    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False
    modules_to_save: list[str] | None = None

    peft_type: ClassVar[str]
    loading = False  # whether the values of the parameters will come from a file
    unsupported: ClassVar[dict[str, Any]] = {}  # peft's keys that we lack, with the only value accepted
    beyond_peft: ClassVar[tuple[str, ...]] = ()  # ours that peft lacks; in files only where they are set

    def __post_init__(self) -> None:
        for key, only in self.unsupported.items():
            if getattr(self, key, only) != only:
                raise ValueError(f"{type(self).__name__}: {key}={getattr(self, key)!r} is not implemented here, only {only!r}")
        if self.task_type is not None:
            self.task_type = str(getattr(self.task_type, "value", self.task_type))
            if self.task_type not in list(TaskType):
                raise ValueError(f"task_type {self.task_type!r}: only {', '.join(TaskType)} is implemented here")
        self.check("modules_to_save", not isinstance(self.modules_to_save, str), "be a list of names")
        self.modules_to_save = sorted(self.modules_to_save) if self.modules_to_save else None

    # ---- what a method may define -----------------------------------------------------------------------------------

    def inject(self, peft_model: PeftModel, adapter_name: str, seed: int) -> None:
        """Put what is not an AdapterLayer into the model: parameters of a new adapter, inactive."""

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """What to write into adapter_model.safetensors, from the adapter's parameters by their names in files."""
        return tensors

    def from_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """The adapter's parameters by their names in files, from what adapter_model.safetensors holds."""
        return tensors

    def penalty(self) -> Tensor | None:
        """A term that is added to the loss in training."""
        return None

    def update_and_allocate(self, step: int) -> None:
        """What is to be done after each update, counted from 1, while gradients are there."""

    def training_state(self) -> dict[str, Array]:
        """What that depends on, for a checkpoint."""
        return {}

    def load_training_state(self, state: dict[str, Array]) -> None:
        """Go back to a `training_state`."""

    # ---- files ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The content of adapter_config.json: all of peft's keys, those that we lack at their defaults."""
        own = {field.name: value for field in fields(self)
               if (value := getattr(self, field.name)) is not None or field.name not in self.beyond_peft}
        for key in {"target_modules", "feedforward_modules"} & own.keys():  # sets to peft: their order means nothing
            own[key] = sorted(own[key]) if isinstance(own[key], list) else own[key]
        return dict(sorted({"auto_mapping": None, "peft_version": PEFT_VERSION, **self.unsupported, **own,
                            "peft_type": self.peft_type}.items()))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From the content of adapter_config.json; absent keys take their defaults.

        Raises:
            ValueError: a key that we lack has another value than its default. Unknown keys give a warning.
        """
        lacking = {key: value for key, value in values.items() if key in cls.unsupported and value != cls.unsupported[key]}
        if lacking:
            raise ValueError(f"{CONFIG_NAME} asks for what is not implemented here: "
                             + ", ".join(f"{key}={value!r}" for key, value in lacking.items()))
        known = {field.name for field in fields(cls)}
        ignored = {"auto_mapping", "peft_version", "peft_type", *cls.unsupported}
        for key in values.keys() - known - ignored:
            hint = near(key, known)
            warnings.warn(f"{CONFIG_NAME}: unknown key {key!r} is ignored" + (f" (near: {hint[0]})" if hint else ""),
                          stacklevel=2)
        return cls(**{key: value for key, value in values.items() if key in known})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter_config.json, marked as frozen."""
        write_json(Path(folder) / CONFIG_NAME, {**self.to_dict(), "inference_mode": True})

    @staticmethod
    def from_pretrained(folder: str | Path) -> PeftConfig:
        """Read adapter_config.json; the class follows from its peft_type.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a peft_type that is not implemented, or values that cannot be.
        """
        values = read_json(Path(folder) / CONFIG_NAME)
        kind = values.get("peft_type")
        if kind not in METHODS:
            raise ValueError(f"{Path(folder) / CONFIG_NAME}: peft_type {kind!r} is not implemented; known: "
                             f"{', '.join(METHODS)}")
        return METHODS[kind].from_dict(values)


@dataclass
class TargetedConfig(PeftConfig):
    """The arguments of the methods that wrap some of the model's modules (see targets.py).

    Args:
        target_modules: names, a regular expression, "all-linear", or None for the model's default.
        exclude_modules, layers_to_transform, layers_pattern: narrow target_modules down.
    """

    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None

    layers: ClassVar[list[Any]]  # what target modules are wrapped in: see layer_of
    default_targets: ClassVar[dict[str, str | list[str]]]  # model type -> target_modules

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"):
            if isinstance(value := getattr(self, name), set | tuple | range):
                setattr(self, name, sorted(value) if isinstance(value, set) else list(value))  # what JSON can hold
        self.check("target_modules", isinstance(self.target_modules, list | str | None), "be a list of names or a string")
        self.check("layers_pattern", self.layers_pattern is None or self.layers_to_transform is not None,
                   "come with layers_to_transform: it says how blocks are called, not which of them are meant")

    def resolved(self, model_type: str) -> Self:
        """The config for a model, with the defaults of its type filled in.

        Raises:
            ValueError: there are none for this type.
        """
        if self.target_modules is None and model_type not in self.default_targets:
            raise ValueError(f"there are no default target_modules for model type {model_type!r}: name some")
        wanted = self.default_targets[model_type] if self.target_modules is None else self.target_modules
        return replace(self, target_modules=wanted)

    def layer_for(self, module: Module) -> type[AdapterLayer] | None:
        """The class that wraps such a module, or None if it cannot be adapted by this method."""
        return next((layer for layer in self.layers if isinstance(module, layer.wraps)), None)

    def prepare(self, model: CausalLM, modules: dict[str, Module], seed: int) -> None:
        """Make what the layers of a new adapter share, knowing all the modules (path -> module) that it is to wrap.

        Attributes that this sets live as long as the adapter, and are not saved.
        """


METHODS: dict[str, type[PeftConfig]] = {}


def register(config_class: C) -> C:
    """Enter a method in the table by its config, so that its files are known when they are read."""
    METHODS[config_class.peft_type] = config_class
    return config_class


def layer_of(config_class: type[TargetedConfig]) -> Callable[[L], L]:
    """Enter a method by its layer: the decorated class is (one of those) that a config of this class puts around modules."""
    def enter(layer: L) -> L:
        config_class.layers = [*vars(config_class).get("layers", []), layer]
        register(config_class)
        return layer

    return enter
