"""LoRA: low-rank adaptation (Hu et al. 2021, 2106.09685).

The weight W0 stays frozen; beside it two thin matrices learn its change:

    W = W0 + (alpha / r) B A        A (r, in), B (out, r), r << min(in, out)

A starts random and B at zero, so the first output is the base model's, and the first step moves B only: the gradient of A,
(alpha / r) B^T dL/dW, is zero.
(The paper draws A from a Gaussian; its authors' code and peft from U(-1/sqrt(in), 1/sqrt(in)), and so do we.)
rsLoRA (Kalajdzievski 2023, 2312.03732) scales by alpha / sqrt(r) instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tinypeft.autograd import Tensor, functional as F
from tinypeft.backend import Array
from tinypeft.nn import Dropout, Embedding, Linear, Module, Parameter, generator, new_parameter, refuse_meta
from tinypeft.peft.config import LORA_TARGETS, TargetedConfig, layer_of
from tinypeft.peft.layer import AdapterLayer, DeltaLayer, refuse_quantized
from tinypeft.peft.lora_init import FROM_WEIGHT, INITS, initial_A, initial_B
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
        bias: which biases of the base are trained too: "none", "all", or "lora_only", those of the target modules.
        init_lora_weights: True, or how else A and B start (see lora_init.py): "gaussian", "pissa", "olora", False.
        use_dora: train a magnitude for each output beside A and B (see dora.py).
        rank_pattern, alpha_pattern: other ranks and alphas for modules whose names end in a pattern.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True
    use_dora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    peft_type: ClassVar[str] = "LORA"
    default_targets: ClassVar[dict[str, str | list[str]]] = LORA_TARGETS
    unsupported: ClassVar[dict[str, Any]] = {
        "alora_invocation_tokens": None, "arrow_config": None, "corda_config": None, "ensure_weight_tying": False,
        "eva_config": None, "kasa_config": None, "layer_replication": None, "loftq_config": {}, "lora_bias": False,
        "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core", "monteclora_config": None,
        "qalora_group_size": 16, "target_parameters": None, "trainable_token_indices": None, "use_bdlora": None,
        "use_qalora": False, "velora_config": None,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, r in {"r": self.r, **self.rank_pattern}.items():
            if not isinstance(r, int) or isinstance(r, bool) or r < 1:
                raise ValueError(f"{type(self).__name__}: the rank must be an integer of at least 1, got {name}={r!r}")
        for name, alpha in {"lora_alpha": self.lora_alpha, **self.alpha_pattern}.items():
            if not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
                raise ValueError(f"{type(self).__name__}: lora_alpha must be a positive number, got {name}={alpha!r}")
        self.check_dropout("lora_dropout")
        self.check_choice("bias", "none", "all", "lora_only")
        self.check_choice("init_lora_weights", True, False, *INITS)

    def layer_for(self, module: Module) -> type[AdapterLayer] | None:
        fitting = [layer for layer in self.layers if isinstance(module, layer.wraps)]
        return next((layer for layer in fitting if getattr(layer, "dora", False) == self.use_dora), None)


@layer_of(LoraConfig)
class LoraLayer(DeltaLayer):
    """y = W0 x + b + (alpha / r) B A dropout(x), summed over the active adapters."""

    prefix = "lora_"

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.lora_A: dict[str, Linear] = {}
        self.lora_B: dict[str, Linear] = {}
        self.lora_dropout: dict[str, Dropout] = {}
        self.lora_scaling: dict[str, float] = {}  # peft's `scaling`; the prefix is how `remove` finds it
        self.lora_residual: dict[str, Parameter] = {}  # what PiSSA and OLoRA leave of W0

    def add(self, adapter_name: str, config: LoraConfig, seed: int) -> None:
        """A ~ U(-1/sqrt(in), 1/sqrt(in)), drawn from (seed, adapter name, parameter name); B = 0. Or as lora_init.py has it."""
        base, kind = self.base_layer, config.init_lora_weights
        r, s = rank_and_scaling(config, self.path)
        self.check_rank(r)
        A, B = Linear(base.in_features, r, bias=False), Linear(r, base.out_features, bias=False)
        random = generator(seed, adapter_name, f"{self.path}.lora_A")
        if kind in FROM_WEIGHT:
            refuse_meta([base.weight], f"init_lora_weights={kind!r} starts from the weights' values")
            refuse_quantized(base, self.path, f"init_lora_weights={kind!r} puts a residual weight in their place")
            W = self.oriented(base.weight.data)  # (out, in)
            A.weight.data, B.weight.data, left = FROM_WEIGHT[kind](W.astype(np.result_type(W.dtype, np.float32)), r, s)
            self.lora_residual[adapter_name] = residual = Parameter(base.weight.shape)
            residual.data = self.oriented(left).astype(W.dtype, copy=False)
        else:
            A.weight = new_parameter(A.weight.shape, base.weight, lambda: initial_A(kind, A.weight.shape, random))
            B.weight = new_parameter(B.weight.shape, base.weight, lambda: initial_B(kind, B.weight.shape, random))
        self.lora_A[adapter_name], self.lora_B[adapter_name] = A, B
        self.lora_dropout[adapter_name], self.lora_scaling[adapter_name] = Dropout(config.lora_dropout), s

    def replaced(self, adapter_name: str) -> dict[str, Parameter]:
        residual = self.lora_residual.pop(adapter_name, None)
        return {} if residual is None else {"weight": residual}

    def forward(self, x: Tensor) -> Tensor:
        y = base = self.base_layer(x)  # (..., in) -> (..., out)
        for name in self.working:
            y = y + self.update(name, self.lora_dropout[name](x), x, base)
        return y

    def update(self, name: str, dropped: Tensor, x: Tensor, base: Tensor) -> Tensor:
        """(alpha / r) B A dropout(x); x itself and base = W0 x + b are there for DoRA."""
        u = self.lora_A[name](dropped)  # (..., in) @ (in, r) -> (..., r)
        return self.lora_B[name](u * self.lora_scaling[name])  # scaled where it is narrow; (..., r) -> (..., out)

    def factors(self, adapter_name: str) -> tuple[Parameter, Parameter]:
        """A and B."""
        return self.lora_A[adapter_name].weight, self.lora_B[adapter_name].weight

    def delta_weight(self, adapter_name: str) -> Array:
        """(alpha / r) B A."""
        A, B = self.factors(adapter_name)
        return self.lora_scaling[adapter_name] * (B.data @ A.data)


@layer_of(LoraConfig)
class LoraEmbedding(DeltaLayer):
    """Row `id` of W0 + (alpha / r) (B A)^T, W0 (V, d), A (r, V), B (d, r). Here A starts at zero and B random."""

    prefix = "lora_"
    wraps = (Embedding,)

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.lora_embedding_A: dict[str, Parameter] = {}
        self.lora_embedding_B: dict[str, Parameter] = {}
        self.lora_scaling: dict[str, float] = {}

    def add(self, adapter_name: str, config: LoraConfig, seed: int) -> None:
        """A = 0, B ~ N(0, 1); with init_lora_weights=False A ~ N(0, 1) too."""
        kind = config.init_lora_weights
        if kind in FROM_WEIGHT:
            raise ValueError(f"init_lora_weights={kind!r} is for linear layers, {self.path} is an embedding: leave it out "
                             "of the target_modules")
        (V, d), like = self.base_layer.weight.shape, self.base_layer.weight
        r, self.lora_scaling[adapter_name] = rank_and_scaling(config, self.path)
        self.check_rank(r, V, d)
        random = generator(seed, adapter_name, f"{self.path}.lora_embedding_B")
        self.lora_embedding_A[adapter_name] = new_parameter(
            (r, V), like, lambda: random.standard_normal((r, V)) if kind is False else 0.0)
        self.lora_embedding_B[adapter_name] = new_parameter((d, r), like, lambda: random.standard_normal((d, r)))

    def forward(self, ids: Array) -> Tensor:
        y = self.base_layer(ids)  # (B, T) -> (B, T, d)
        for name in self.working:
            u = F.embedding(self.lora_embedding_A[name].T, ids) * self.lora_scaling[name]  # (B, T) -> (B, T, r)
            y = y + F.linear(u, self.lora_embedding_B[name])  # (B, T, r) @ (r, d) -> (B, T, d)
        return y

    def factors(self, adapter_name: str) -> tuple[Parameter, Parameter]:
        """A and B."""
        return self.lora_embedding_A[adapter_name], self.lora_embedding_B[adapter_name]

    def delta_weight(self, adapter_name: str) -> Array:
        """(alpha / r) (B A)^T, (V, d)."""
        A, B = self.factors(adapter_name)
        return self.lora_scaling[adapter_name] * (B.data @ A.data).T


def rank_and_scaling(config: LoraConfig, path: str) -> tuple[int, float]:
    """r, and alpha / r (rsLoRA: alpha / sqrt(r)), of the module at `path`."""
    r = pattern_value(path, config.rank_pattern, config.r)
    alpha = pattern_value(path, config.alpha_pattern, config.lora_alpha)
    return r, alpha / (r**0.5 if config.use_rslora else r)
