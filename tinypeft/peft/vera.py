"""VeRA: vector-based random matrix adaptation (Kopiczko et al. 2023, 2310.11454).

All layers share one pair of random matrices that are never trained; each layer learns two vectors:

    y = W0 x + diag(b) B diag(d) A x        A (r, in), B (out, r) random and frozen; d (r,), b (out,) trained

b starts at 0: the first output is the base model's. A and B are as large as the largest layer needs; smaller ones use the
first columns of A and the first rows of B. A seed stands for both: projection_prng_key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinypeft.autograd import Tensor, functional as F
from tinypeft.backend import Array, asarray, to_numpy
from tinypeft.nn import CausalLM, Dropout, Module, Parameter, new_parameter
from tinypeft.peft.config import LORA_TARGETS, TargetedConfig, layer_of
from tinypeft.peft.layer import DeltaLayer


@dataclass
class VeraConfig(TargetedConfig):
    """Arguments, names and defaults of peft's VeraConfig; those that name modules are TargetedConfig's.

    Args:
        r: the rank of A and B; large, since they are not trained.
        projection_prng_key: the seed of A and B.
        save_projection: write A and B beside the vectors. (They follow from the seed, here and in peft alike.)
        vera_dropout: dropout on the input of A.
        d_initial: what d starts with.
        fan_in_fan_out: whether the weights are stored (in, out), as Conv1D does; set from the modules.
        bias: which biases of the base are trained too: "none", "all", or "vera_only", those of the target modules.
    """

    r: int = 256
    projection_prng_key: int = 0
    save_projection: bool = True
    vera_dropout: float = 0.0
    d_initial: float = 0.1
    fan_in_fan_out: bool = False
    bias: str = "none"

    peft_type: ClassVar[str] = "VERA"
    default_targets: ClassVar[dict[str, str | list[str]]] = LORA_TARGETS
    unsupported: ClassVar[dict[str, Any]] = {"init_weights": True}
    beyond_peft: ClassVar[tuple[str, ...]] = ("exclude_modules",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("r")
        self.check_dropout("vera_dropout")
        self.check_choice("bias", "none", "all", "vera_only")

    def prepare(self, model: CausalLM, modules: dict[str, Module], seed: int) -> None:
        """Draw A and B, as large as the largest of the modules needs."""
        linear: list[Any] = list(modules.values())
        n_in, n_out = max(m.in_features for m in linear), max(m.out_features for m in linear)
        random = np.random.RandomState(self.projection_prng_key)
        self.A = new_parameter((self.r, n_in), linear[0].weight, lambda: _kaiming_uniform(random, (self.r, n_in))).data
        self.B = new_parameter((n_out, self.r), linear[0].weight, lambda: _kaiming_uniform(random, (n_out, self.r))).data

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        shared = {"base_model.vera_A": to_numpy(self.A), "base_model.vera_B": to_numpy(self.B)}
        return tensors | shared if self.save_projection else tensors

    def from_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        for key, own in (("base_model.vera_A", self.A), ("base_model.vera_B", self.B)):
            if key in tensors:
                if tensors[key].shape != own.shape:
                    raise ValueError(f"{key} has shape {tensors[key].shape}, for this model's modules it must be {own.shape}")
                own[...] = asarray(tensors[key], like=own)
        return {key: array for key, array in tensors.items() if not key.startswith("base_model.vera_")}


def _kaiming_uniform(random: np.random.RandomState, shape: tuple[int, int]) -> np.ndarray:
    """U(-sqrt(6 / in), sqrt(6 / in)), from 24 bits of each draw: the very numbers of torch's generator of the same seed."""
    bound = np.float32((6 / shape[1]) ** 0.5)
    share = (random.randint(0, 2**32, size=shape, dtype=np.uint32) & 0xFFFFFF) * 2.0**-24  # in [0, 1)
    return (share * np.float64(2 * bound) - np.float64(bound)).astype(np.float32)  # rounded once, as torch does


@layer_of(VeraConfig)
class VeraLayer(DeltaLayer):
    """y = W0 x + c + b * (B (d * (A dropout(x)))), summed over the active adapters."""

    prefix = "vera_"

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.vera_lambda_b: dict[str, Parameter] = {}
        self.vera_lambda_d: dict[str, Parameter] = {}
        self.vera_dropout: dict[str, Dropout] = {}
        self.vera_configs: dict[str, VeraConfig] = {}  # which hold A and B

    def add(self, adapter_name: str, config: VeraConfig, seed: int) -> None:
        """d = d_initial, b = 0."""
        base = self.base_layer
        self.vera_lambda_d[adapter_name] = new_parameter((config.r,), base.weight, lambda: config.d_initial)
        self.vera_lambda_b[adapter_name] = new_parameter((base.out_features,), base.weight, lambda: 0.0)
        self.vera_dropout[adapter_name] = Dropout(config.vera_dropout)
        self.vera_configs[adapter_name] = config

    def _projections(self, name: str) -> tuple[Array, Array]:
        """This layer's parts of A, (r, in), and B, (out, r)."""
        shared = self.vera_configs[name]
        return shared.A[:, :self.base_layer.in_features], shared.B[:self.base_layer.out_features]

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)  # (..., in) -> (..., out)
        for name in self.working:
            A, B = self._projections(name)
            u = F.linear(self.vera_dropout[name](x), A) * self.vera_lambda_d[name]  # (..., in) -> (..., r)
            y = y + F.linear(u, B) * self.vera_lambda_b[name]  # (..., r) -> (..., out)
        return y

    def delta_weight(self, adapter_name: str) -> Array:
        """diag(b) B diag(d) A."""
        A, B = self._projections(adapter_name)
        b, d = self.vera_lambda_b[adapter_name].data, self.vera_lambda_d[adapter_name].data
        return b[:, None] * (B @ (d[:, None] * A))
