"""What all methods' configs share: the keys of peft's adapter_config.json, and the table of methods."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from tinypeft.files import read_json, write_json
from tinypeft.nn.module import near

if TYPE_CHECKING:
    from tinypeft.peft.layer import AdapterLayer

L = TypeVar("L", bound="AdapterLayer")

CONFIG_NAME = "adapter_config.json"
PEFT_VERSION = "0.21.2"  # whose keys and defaults we read and write


class TaskType(enum.StrEnum):
    """What the model is for; here always the next token."""

    CAUSAL_LM = "CAUSAL_LM"


@dataclass
class PeftConfig:
    """The arguments that every method has.

    Args:
        task_type: "CAUSAL_LM" or None.
        base_model_name_or_path: filled in from the model.
        inference_mode: the adapter is frozen. Saved files say True, as peft's do; loading with is_trainable sets it False.

    Raises:
        ValueError: a value that cannot be, in every subclass too.
    """

    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False

    peft_type: ClassVar[str]
    unsupported: ClassVar[dict[str, Any]] = {}  # peft's keys that we lack, with the only value accepted

    def __post_init__(self) -> None:
        for key, only in self.unsupported.items():
            if getattr(self, key, only) != only:
                raise ValueError(f"{type(self).__name__}: {key}={getattr(self, key)!r} is not implemented here, only {only!r}")
        if self.task_type is not None:
            self.task_type = str(getattr(self.task_type, "value", self.task_type))
            if self.task_type not in list(TaskType):
                raise ValueError(f"task_type {self.task_type!r}: only {', '.join(TaskType)} is implemented here")

    def to_dict(self) -> dict[str, Any]:
        """The content of adapter_config.json: all of peft's keys, those that we lack at their defaults."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own["target_modules"] = sorted(t) if isinstance(t := own.get("target_modules"), list) else t
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

    layer: ClassVar[type[AdapterLayer]]  # what a target module is wrapped in: see layer_of
    default_targets: ClassVar[dict[str, list[str]]]  # model type -> target_modules

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_modules is not None and not isinstance(self.target_modules, str):
            if not isinstance(self.target_modules, list | set | tuple):
                raise ValueError(f"target_modules must be a list of names or a string, got {self.target_modules!r}")
            self.target_modules = list(self.target_modules)
        for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            if isinstance(value := getattr(self, name), set | tuple | range):
                setattr(self, name, list(value))  # what JSON can hold
        if self.layers_pattern is not None and self.layers_to_transform is None:
            raise ValueError(f"layers_pattern={self.layers_pattern!r} says how blocks are called, but layers_to_transform does "
                             "not say which of them")


METHODS: dict[str, type[PeftConfig]] = {}


def layer_of(config_class: type[TargetedConfig]) -> Callable[[type[L]], type[L]]:
    """Enter a method in the table: the decorated layer is what a config of this class puts around a module."""
    def enter(layer: type[L]) -> type[L]:
        config_class.layer = layer
        METHODS[config_class.peft_type] = config_class
        return layer

    return enter
