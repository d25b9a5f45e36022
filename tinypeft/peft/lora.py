"""LoRA: low-rank adaptation (Hu et al. 2021, 2106.09685).

The weight W0 stays frozen; beside it two thin matrices learn its change:

    W = W0 + (alpha / r) B A        A (r, in), B (out, r), r << min(in, out)

A starts random and B at zero, so the first output is the base model's, and the first step moves B only (dA = B^T ... = 0).
(The paper draws A from a Gaussian; its authors' code and peft from U(-1/sqrt(in), 1/sqrt(in)), and so do we.)
rsLoRA (Kalajdzievski 2023, 2312.03732) scales by alpha / sqrt(r) instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import Array
from tinypeft.nn import Conv1D, Dropout, Linear, Module
from tinypeft.nn.module import generator
from tinypeft.peft.config import TargetedConfig, layer_of
from tinypeft.peft.layer import AdapterLayer
from tinypeft.peft.targets import pattern_value


@dataclass
class LoraConfig(TargetedConfig):
    """Arguments, names and defaults of peft's LoraConfig; those that name modules are TargetedConfig's.

    Args:
        r: the rank, at least 1.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: dropout on the input of A (the frozen path sees the input whole).
        fan_in_fan_out: whether the weights are stored (in, out), as Conv1D does; set from the modules.
        use_rslora: scale by lora_alpha / sqrt(r).
        bias, init_lora_weights, modules_to_save, use_dora: accepted at their defaults only, so far.
        rank_pattern, alpha_pattern: other ranks and alphas for modules whose names end in a pattern.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True
    modules_to_save: list[str] | None = None
    use_dora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    peft_type: ClassVar[str] = "LORA"
    default_targets: ClassVar[dict[str, list[str]]] = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
    unsupported: ClassVar[dict[str, Any]] = {
        "alora_invocation_tokens": None, "arrow_config": None, "bias": "none", "corda_config": None,
        "ensure_weight_tying": False, "eva_config": None, "init_lora_weights": True, "kasa_config": None,
        "layer_replication": None, "loftq_config": {}, "lora_bias": False, "lora_ga_config": None, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "monteclora_config": None, "qalora_group_size": 16,
        "target_parameters": None, "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
        "use_qalora": False, "velora_config": None,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, r in {"r": self.r, **self.rank_pattern}.items():
            if not isinstance(r, int) or isinstance(r, bool) or r < 1:
                raise ValueError(f"LoraConfig: the rank must be an integer of at least 1, got {name}={r!r}")
        for name, alpha in {"lora_alpha": self.lora_alpha, **self.alpha_pattern}.items():
            if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
                raise ValueError(f"LoraConfig: lora_alpha must be a positive number, got {name}={alpha!r}")
        if not isinstance(self.lora_dropout, int | float) or not 0 <= self.lora_dropout < 1:
            raise ValueError(f"LoraConfig: lora_dropout must lie in [0, 1), got {self.lora_dropout!r}")


@layer_of(LoraConfig)
class LoraLayer(AdapterLayer):
    """y = W0 x + b + (alpha / r) B A dropout(x), summed over the active adapters."""

    prefix = "lora_"
    wraps = (Linear, Conv1D)

    def __init__(self, base_layer: Module):
        super().__init__(base_layer)
        self.lora_A: dict[str, Linear] = {}
        self.lora_B: dict[str, Linear] = {}
        self.lora_dropout: dict[str, Dropout] = {}
        self.lora_scaling: dict[str, float] = {}  # peft's `scaling`; the prefix is how `remove` finds it

    def add(self, adapter_name: str, config: LoraConfig, path: str, seed: int) -> None:
        """A ~ U(-1/sqrt(in), 1/sqrt(in)), drawn from (seed, adapter name, parameter name); B = 0."""
        base = self.base_layer
        r = pattern_value(path, config.rank_pattern, config.r)
        alpha = pattern_value(path, config.alpha_pattern, config.lora_alpha)
        if r > min(base.in_features, base.out_features):
            raise ValueError(f"rank r={r} for {path}, a matrix of {base.out_features} x {base.in_features}: above "
                             f"{min(base.in_features, base.out_features)} it is no longer a low-rank update")
        A, B = Linear(base.in_features, r, bias=False), Linear(r, base.out_features, bias=False)
        if not base.weight.is_meta:
            dtype = base.weight.dtype if base.weight.dtype == np.float64 else np.dtype(np.float32)
            bound = base.in_features**-0.5
            random = generator(seed, adapter_name, f"{path}.lora_A")
            A.weight.data = random.uniform(-bound, bound, A.weight.shape).astype(dtype)
            B.weight.data = np.zeros(B.weight.shape, dtype)
        config.fan_in_fan_out = isinstance(base, Conv1D)
        self.lora_A[adapter_name], self.lora_B[adapter_name] = A, B
        self.lora_dropout[adapter_name] = Dropout(config.lora_dropout)
        self.lora_scaling[adapter_name] = alpha / (r**0.5 if config.use_rslora else r)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)  # (..., in) -> (..., out)
        for name in self.working:
            u = self.lora_A[name](self.lora_dropout[name](x))  # (..., in) @ (in, r) -> (..., r)
            y = y + self.lora_B[name](u * self.lora_scaling[name])  # scaled where it is narrow; (..., r) -> (..., out)
        return y

    def delta_weight(self, adapter_name: str) -> Array:
        """(alpha / r) B A, (out, in), or transposed for a Conv1D, which stores (in, out)."""
        A, B = self.lora_A[adapter_name].weight.data, self.lora_B[adapter_name].weight.data
        delta = self.lora_scaling[adapter_name] * (B @ A)
        return delta.T if isinstance(self.base_layer, Conv1D) else delta
