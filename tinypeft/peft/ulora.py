"""ULoRA ("unified LoRA"): tasks share one pair of LoRA factors; each has a vector that modulates them.

One of this project's source documents, an unpublished introduction to PEFT, gives it in one line, with row vectors x:

    delta W_t = diag(v_t) A B        A (in, r), B (r, out)

As printed, v_t scales the rows of A, so its length is in_features: y = x W0 + ((x * v) A) B. This is vector="input". The
words beside it say that v_t "scales the contribution of different LoRA components", which are the r products of a column of
A and a row of B: y = x W0 + ((x A) * v) B with v of length r. This is vector="rank", the default: it is smaller, and does
what the words say. A and B are stored as in LoRA, (r, in) and (out, r); there is no alpha / r.

A and B belong to the model. The first task trains them and its v (v = 1, B = 0: the identity); from the second task on they
are frozen, and a new task trains its v alone (v = 0 at first: the identity). They are saved once, in ulora_factors.safetensors
beside the tasks, whose configs hold a hash of them: a vector means nothing with other factors than its own, and is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tinypeft.autograd import Tensor, functional as F
from tinypeft.backend import Array, asarray, to_numpy
from tinypeft.files import read_safetensors, write_safetensors
from tinypeft.nn import CausalLM, Module, Parameter, generator, new_parameter
from tinypeft.nn.module import check_state, some
from tinypeft.peft.config import LORA_TARGETS, TargetedConfig, layer_of
from tinypeft.peft.layer import DeltaLayer

FACTORS_NAME = "ulora_factors.safetensors"


@dataclass
class ULoraConfig(TargetedConfig):
    """A task's vector, and the rank of the factors. (Ours: peft has no such method.)

    Args:
        r: the rank of A and B; the same for all tasks of a model.
        vector: "rank", v of length r, or "input", v of length in_features.
        factors_sha256: of the factors that the vector was trained with; written by save_pretrained.
        trains_factors: whether this is the first task, still alone; found out.
    """

    r: int = 8
    vector: str = "rank"
    factors_sha256: str | None = None
    trains_factors: bool = False

    peft_type: ClassVar[str] = "ULORA"
    default_targets: ClassVar[dict[str, str | list[str]]] = LORA_TARGETS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("r")
        self.check_choice("vector", "rank", "input")

    def prepare(self, model: CausalLM, modules: dict[str, Module], seed: int) -> None:
        """Find the model's factors, or begin them."""
        there = {layer.path for layer in model.modules() if isinstance(layer, ULoraLayer)}
        self.first, self.model = not there, model
        self.trains_factors = self.first and (self.trains_factors or not self.loading)
        if there and there != modules.keys():
            raise ValueError(f"the model's ULoRA factors are in {some(sorted(there))}: a later task uses all of them, "
                             f"and only them; its target_modules match {some(modules)}")

    def factors(self) -> dict[str, np.ndarray]:
        """Name in the file -> A or B of each layer."""
        return {f"{layer.path}.{name}": to_numpy(p.data) for layer in self.model.modules() if isinstance(layer, ULoraLayer)
                for name, p in (("ulora_A", layer.ulora_A), ("ulora_B", layer.ulora_B))}

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """The vectors. The factors go into a file of their own."""
        factors = self.factors()
        self.factors_sha256 = _hash(factors)
        layers = [layer for layer in self.model.modules() if isinstance(layer, ULoraLayer)]
        self.trains_factors &= all(len(layer.ulora_v) == 1 for layer in layers)
        write_safetensors(folder / FACTORS_NAME, factors)
        return {key: array for key, array in tensors.items() if not key.endswith(("ulora_A", "ulora_B"))}

    def from_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """The vectors. A model without ULoRA tasks first takes over the factors that they were trained with.

        Raises:
            ValueError: these are not there, or others are.
        """
        factors, found = self.factors(), "the model has others"
        if self.first:
            files = [place / FACTORS_NAME for place in (folder, folder.parent) if (place / FACTORS_NAME).exists()]
            factors, found = {}, "they are not beside it"
            if files:
                factors, found = read_safetensors(files[0]), f"{files[0]} holds others"
        if _hash(factors) != self.factors_sha256:
            raise ValueError(f"the vectors in {folder} mean nothing without the ULoRA factors that they were trained with "
                             f"({FACTORS_NAME}, SHA-256 {self.factors_sha256}), and {found}")
        check_state(factors, {key: array.shape for key, array in self.factors().items()}, "this model's ULoRA layers")
        for layer in self.model.modules() if self.first else ():
            if isinstance(layer, ULoraLayer):
                for name in ("ulora_A", "ulora_B"):
                    own = getattr(layer, name)
                    own.data = asarray(factors[f"{layer.path}.{name}"].astype(own.dtype), like=own.data)
        return tensors | ({f"base_model.model.{key}": array for key, array in factors.items()} if self.trains_factors else {})


def _hash(factors: dict[str, np.ndarray]) -> str:
    """Of the values as float32, so that a model loaded in float64 has the same factors."""
    digest = hashlib.sha256()
    for name, array in sorted(factors.items()):
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype=np.float32).data)
    return digest.hexdigest()


@layer_of(ULoraConfig)
class ULoraLayer(DeltaLayer):
    """y = W0 x + b + B (v * (A x)), or B (A (v * x)), summed over the active tasks."""

    prefix = "ulora_"
    ulora_A: Parameter  # the model's, of all tasks
    ulora_B: Parameter

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.ulora_v: dict[str, Parameter] = {}
        self.ulora_between: dict[str, bool] = {}  # whether v stands between A and B
        self.trains_factors: str | None = None  # the first task

    def add(self, adapter_name: str, config: ULoraConfig, seed: int) -> None:
        """First task: A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0, v = 1. Later ones: A and B frozen, v = 0."""
        base, first = self.base_layer, not self.ulora_v
        self.check_rank(config.r)
        if not first and config.r != len(self.ulora_A.data):
            raise ValueError(f"r={config.r}, but the model's ULoRA factors have rank {len(self.ulora_A.data)}: later tasks "
                             "have to use that")
        if first:
            random, shape = generator(seed, adapter_name, f"{self.path}.ulora_A"), (config.r, base.in_features)
            self.ulora_A = new_parameter(shape, base.weight, lambda: random.uniform(-1, 1, shape) * base.in_features**-0.5)
            self.ulora_B = new_parameter((base.out_features, config.r), base.weight, lambda: 0.0)
            self.trains_factors = adapter_name if config.trains_factors else None
        self.ulora_A.requires_grad = self.ulora_B.requires_grad = False  # unless they are the first task's, which sets it
        self.ulora_between[adapter_name] = between = config.vector == "rank"
        size = config.r if between else base.in_features
        self.ulora_v[adapter_name] = new_parameter((size,), base.weight, lambda: float(first))

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        """v; and A and B, for the first task while it is the only one."""
        found, only = super().parameters_of(adapter_name), [*self.ulora_v] == [adapter_name] == [self.trains_factors]
        return found | {"ulora_A": self.ulora_A, "ulora_B": self.ulora_B} if only else found

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)  # (..., in) -> (..., out)
        for name in self.working:
            v, between = self.ulora_v[name], self.ulora_between[name]
            u = F.linear(x if between else x * v, self.ulora_A)  # (..., in) -> (..., r)
            y = y + F.linear(u * v if between else u, self.ulora_B)  # (..., r) -> (..., out)
        return y

    def delta_weight(self, adapter_name: str) -> Array:
        """B diag(v) A, or B A diag(v)."""
        A, B, v = self.ulora_A.data, self.ulora_B.data, self.ulora_v[adapter_name].data
        return (B * v) @ A if self.ulora_between[adapter_name] else (B @ A) * v
