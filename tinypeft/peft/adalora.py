"""AdaLoRA: a budget of ranks, given to the layers where they matter (Zhang et al. 2023, 2303.10512).

The update has the form of a singular value decomposition, and starts at zero because E does:

    W = W0 + (alpha / r) B diag(E) A        A (r, in), E (r, 1), B (out, r)

A penalty keeps A and B nearly orthogonal, orth_reg_weight * mean ||A A^T - I||_F (and B^T B), added to the loss in training.
While training goes on, singular values are set to zero until target_r are left for each matrix on average. For which, says
the importance of each triplet (a row of A, a number of E, a column of B), from s = |weight * gradient| of its weights,

    I <- beta1 I + (1 - beta1) s        U <- beta2 U + (1 - beta2) |s - I|        importance of a weight: I U

summed up as that of E plus the means of those in A and B. The budget stays at init_r for `tinit` steps, falls with the
cube of the time that is left, and stays at target_r for the last `tfinal` steps. tinypeft's `train` sees to it; in a loop of
your own call `peft_model.update_and_allocate(step)` after each update, counted from 1, while gradients are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinypeft.autograd import Tensor, functional as F
from tinypeft.backend import Array, asarray
from tinypeft.nn import CausalLM, Dropout, Module, Parameter, generator, new_parameter
from tinypeft.peft.config import layer_of
from tinypeft.peft.layer import DeltaLayer
from tinypeft.peft.lora import LoraConfig


@dataclass
class AdaLoraConfig(LoraConfig):
    """Arguments, names and defaults of peft's AdaLoraConfig; `r` is not used, other arguments are LoraConfig's.

    Args:
        target_r, init_r: the mean rank of a matrix at the end, and at the start.
        tinit, tfinal: steps before the budget begins to fall, and after it has fallen.
        deltaT: steps between two allocations.
        beta1, beta2: how slowly the running means move, in (0, 1).
        orth_reg_weight: the weight of the penalty.
        total_step: how many steps training takes; must be given.
        rank_pattern: which triplets are left, by layer; the outcome, not an argument.
    """

    target_r: int = 8
    init_r: int = 12
    tinit: int = 0
    tfinal: int = 0
    deltaT: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orth_reg_weight: float = 0.5
    total_step: int = 0
    rank_pattern: Any = None

    peft_type: ClassVar[str] = "ADALORA"
    unsupported: ClassVar[dict[str, Any]] = {**LoraConfig.unsupported, "use_dora": False, "use_rslora": False,
                                             "alpha_pattern": {}}

    def __post_init__(self) -> None:
        pattern, self.rank_pattern = self.rank_pattern, {}
        super().__post_init__()
        self.rank_pattern = pattern
        self.check_counts("target_r", "init_r", "deltaT", "total_step")
        self.check_choice("init_lora_weights", True, False)
        self.check("target_r", self.target_r <= self.init_r, f"be at most init_r={self.init_r}, as the budget only falls")
        self.check("beta1", 0 < self.beta1 < 1, "lie in (0, 1)")
        self.check("beta2", 0 < self.beta2 < 1, "lie in (0, 1)")
        self.check("orth_reg_weight", self.orth_reg_weight >= 0, "be at least 0")
        if not 0 <= self.tinit < self.total_step - self.tfinal <= self.total_step or self.total_step - self.tfinal < 2:
            raise ValueError(f"AdaLoraConfig: tinit={self.tinit} and tfinal={self.tfinal} leave no steps of total_step="
                             f"{self.total_step} for the budget to fall in")

    def prepare(self, model: CausalLM, modules: dict[str, Module], seed: int) -> None:
        self.triplets: dict[str, tuple[Parameter, Parameter, Parameter]] = {}  # path -> A, E, B
        self.importance: dict[tuple[str, int], tuple[Array, Array]] = {}  # path, which of the three -> I, U

    def penalty(self) -> Tensor:
        """orth_reg_weight times the mean of all ||A A^T - I||, ||B^T B - I||. (1e-30, since the root has no slope at 0.)"""
        products = [M for A, _, B in self.triplets.values() if len(A.data) for M in (A @ A.T, B.T @ B)]
        distances = [(((M - asarray(np.eye(len(M.data), dtype=M.dtype), like=M.data)) ** 2).sum() + 1e-30) ** 0.5
                     for M in products]
        return sum(distances[1:], distances[0]) * (self.orth_reg_weight / len(distances))

    def budget(self, matrices: int, step: int) -> int:
        """How many triplets so many matrices may have together after a step.

        >>> [AdaLoraConfig(init_r=4, target_r=1, tinit=1, tfinal=2, total_step=6).budget(10, step) for step in range(7)]
        [40, 40, 18, 11, 10, 10, 10]
        """
        first, last, end = self.init_r * matrices, self.target_r * matrices, self.total_step - self.tfinal
        left = min(max(1 - (step - self.tinit) / (end - self.tinit), 0), 1)  # of the time in which it falls
        return int((first - last) * left**3 + last)

    def update_and_allocate(self, step: int) -> None:
        """Look at the gradients of this step, and set the least important singular values to zero. (A loaded adapter has its
        ranks, and keeps them.)

        Raises:
            RuntimeError: there are no gradients.
        """
        if self.loading:
            return
        end = self.total_step - self.tfinal
        allocates = step == end or (self.tinit < step < end and step % self.deltaT == 0)
        if step < end:
            self._look_at_gradients()
        if allocates:
            self.rank_pattern = self._most_important(self.budget(len(self.triplets), step))
        for path, (_, E, _) in self.triplets.items() if self.rank_pattern and (allocates or step > end) else ():
            E.data[~asarray(np.array(self.rank_pattern[f"{path}.lora_E"]), like=E.data)] = 0

    def training_state(self) -> dict[str, Array]:
        """The importance of every weight, and which triplets are left."""
        importance = {f"{path}.{i}.{j}": array for (path, i), both in self.importance.items() for j, array in enumerate(both)}
        return importance | {key: np.array(mask) for key, mask in (self.rank_pattern or {}).items()}

    def load_training_state(self, state: dict[str, Array]) -> None:
        self.importance = {(path, i): (state[f"{path}.{i}.0"], state[f"{path}.{i}.1"]) for path in self.triplets
                           for i in range(3) if f"{path}.{i}.0" in state}
        self.rank_pattern = {key: mask.tolist() for key, mask in state.items() if key.endswith(".lora_E")} or None

    def _look_at_gradients(self) -> None:
        for key, parameter in (((path, i), p) for path, triplet in self.triplets.items() for i, p in enumerate(triplet)):
            if parameter.grad is None:
                raise RuntimeError("update_and_allocate needs the gradients: call it after backward() and before zero_grad(), "
                                   "while the adapter is active")
            s, zero = np.abs(parameter.data * parameter.grad), np.zeros_like(parameter.data)
            mean, spread = self.importance.get(key, (zero, zero))
            mean = self.beta1 * mean + (1 - self.beta1) * s
            self.importance[key] = mean, self.beta2 * spread + (1 - self.beta2) * np.abs(s - mean)

    def _most_important(self, budget: int) -> dict[str, list[bool]]:
        """Which triplets are left: more important than the (all - budget)-th from below."""
        scores = {}
        for path in self.triplets:
            a, e, b = (mean * spread for mean, spread in (self.importance[path, i] for i in range(3)))
            scores[path] = e[:, 0] + a.mean(axis=1) + b.mean(axis=0)  # (r,)
        everything = np.sort(np.concatenate(list(scores.values())))
        threshold = everything[len(everything) - budget - 1] if budget < len(everything) else -1.0
        return {f"{path}.lora_E": (score > threshold).tolist() for path, score in scores.items()}

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """Only the triplets that are left."""
        def left(key: str, array: Array) -> Array:
            path, _, name = key.removeprefix("base_model.model.").rpartition(".")
            mask = np.array((self.rank_pattern or {}).get(f"{path}.lora_E", []), dtype=bool)
            axis = int(name == "lora_B")
            return array.compress(mask, axis=axis) if len(mask) and len(mask) == array.shape[axis] else array

        return {key: left(key, array) if ".lora_" in key else array for key, array in tensors.items()}


@layer_of(AdaLoraConfig)
class AdaLoraLayer(DeltaLayer):
    """y = W0 x + b + (alpha / r) B diag(E) A dropout(x), summed over the active adapters; r is init_r throughout."""

    prefix = "lora_"

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.lora_A: dict[str, Parameter] = {}
        self.lora_E: dict[str, Parameter] = {}
        self.lora_B: dict[str, Parameter] = {}
        self.lora_dropout: dict[str, Dropout] = {}
        self.lora_scaling: dict[str, float] = {}

    def add(self, adapter_name: str, config: AdaLoraConfig, seed: int) -> None:
        """A and B ~ N(0, 0.02^2), E = 0. A saved adapter has fewer triplets, as its rank_pattern says."""
        base, r = self.base_layer, config.init_r
        self.check_rank(r)
        if config.loading and config.rank_pattern:
            r = sum(config.rank_pattern.get(f"{self.path}.lora_E", [True] * r))

        def drawn(name: str, shape: tuple[int, ...], std: float) -> Parameter:
            random = generator(seed, adapter_name, f"{self.path}.{name}")
            return new_parameter(shape, base.weight, lambda: random.standard_normal(shape) * std)

        std = 0.02 if config.init_lora_weights else 1.0
        self.lora_A[adapter_name] = A = drawn("lora_A", (r, base.in_features), std)
        self.lora_E[adapter_name] = E = drawn("lora_E", (r, 1), 0.0 if config.init_lora_weights else 1.0)
        self.lora_B[adapter_name] = B = drawn("lora_B", (base.out_features, r), std)
        self.lora_dropout[adapter_name] = Dropout(config.lora_dropout)
        self.lora_scaling[adapter_name] = config.lora_alpha / (config.init_r + 1e-5)  # peft's guard against a rank of 0
        config.triplets[self.path] = A, E, B

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)  # (..., in) -> (..., out)
        for name in (name for name in self.working if self.lora_E[name].size):  # a layer may have no triplet left
            u = F.linear(self.lora_dropout[name](x), self.lora_A[name]) * self.lora_E[name].reshape(-1)  # -> (..., r)
            y = y + F.linear(u * self.lora_scaling[name], self.lora_B[name])  # (..., r) -> (..., out)
        return y

    def delta_weight(self, adapter_name: str) -> Array:
        """(alpha / r) B diag(E) A."""
        A, E, B = (factors[adapter_name].data for factors in (self.lora_A, self.lora_E, self.lora_B))
        return self.lora_scaling[adapter_name] * (B @ (E * A))
