"""(IA)3: infused adapter by inhibiting and amplifying inner activations (Liu et al. 2022, 2205.05638).

One learned number for each feature of the keys, the values and the feed-forward layer's hidden activations, nothing else:

    y = l * (W x + b)       on keys and values, l (out, 1)
    y = W (l * x) + b       on the feed-forward layer's last matrix, l (1, in)

l starts at 1: the first output is the base model's. (GPT-2 computes queries, keys and values in one matrix, c_attn, so that
there the queries are scaled too, as in peft.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from tinypeft.autograd import Tensor
from tinypeft.backend import Array
from tinypeft.nn import Module, Parameter, generator, new_parameter
from tinypeft.peft.config import TargetedConfig, layer_of
from tinypeft.peft.layer import DeltaLayer
from tinypeft.peft.targets import matches

FEEDFORWARD = {"gpt2": ["mlp.c_proj"], "llama": ["down_proj"]}


@dataclass
class IA3Config(TargetedConfig):
    """Arguments, names and defaults of peft's IA3Config; those that name modules are TargetedConfig's.

    Args:
        feedforward_modules: those of the target modules whose input is scaled, not their output; None for the default.
        fan_in_fan_out: whether the weights are stored (in, out), as Conv1D does; set from the modules.
        init_ia3_weights: l starts at 1; False draws it at random, so that tests see an effect.
    """

    feedforward_modules: str | list[str] | None = None
    fan_in_fan_out: bool = False
    init_ia3_weights: bool = True

    peft_type: ClassVar[str] = "IA3"
    default_targets: ClassVar[dict[str, str | list[str]]] = {"gpt2": ["c_attn", "mlp.c_proj"],
                                                             "llama": ["k_proj", "v_proj", "down_proj"]}
    beyond_peft: ClassVar[tuple[str, ...]] = ("layers_to_transform", "layers_pattern")

    def __post_init__(self) -> None:
        super().__post_init__()
        targets, inner = self.target_modules, self.feedforward_modules
        if inner is not None and not isinstance(inner, str):
            self.feedforward_modules = inner = sorted(inner)
        defaults = {name for names in FEEDFORWARD.values() for name in names}  # which need not be among the targets
        if isinstance(targets, list) and isinstance(inner, list) and (astray := set(inner) - set(targets) - defaults):
            raise ValueError(f"IA3Config: feedforward_modules {sorted(astray)} are not among the target_modules {targets}: "
                             "they say which of those are scaled at the input")

    def resolved(self, model_type: str) -> Self:
        config = super().resolved(model_type)
        if config.feedforward_modules is None:
            config.feedforward_modules = FEEDFORWARD.get(model_type, [])
        return config


@layer_of(IA3Config)
class IA3Layer(DeltaLayer):
    """y = l * (W x + b), or W (l * x) + b; several active adapters multiply."""

    prefix = "ia3_"

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.ia3_l: dict[str, Parameter] = {}
        self.ia3_at_input: dict[str, bool] = {}

    def add(self, adapter_name: str, config: IA3Config, seed: int) -> None:
        """l = 1."""
        base, at_input = self.base_layer, matches(self.path, config.feedforward_modules or [])
        shape = (1, base.in_features) if at_input else (base.out_features, 1)
        random = generator(seed, adapter_name, f"{self.path}.ia3_l")
        self.ia3_l[adapter_name] = new_parameter(
            shape, base.weight, lambda: 1.0 if config.init_ia3_weights else random.standard_normal(shape))
        self.ia3_at_input[adapter_name] = at_input

    def forward(self, x: Tensor) -> Tensor:
        for name in self.working:
            if self.ia3_at_input[name]:
                x = x * self.ia3_l[name].reshape(-1)  # (..., in) * (in,)
        y = self.base_layer(x)  # (..., in) -> (..., out)
        for name in self.working:
            if not self.ia3_at_input[name]:
                y = y * self.ia3_l[name].reshape(-1)  # (..., out) * (out,)
        return y

    def merged_values(self, names: list[str]) -> dict[str, Array]:
        """W's rows, and b, times l; or W's columns."""
        values = {name: parameter.values() for name, parameter in self.base_layer.named_parameters()}
        for name in names:
            l = self.ia3_l[name].data  # noqa: E741
            values["weight"] = values["weight"] * self.oriented(l)
            if "bias" in values and not self.ia3_at_input[name]:
                values["bias"] = values["bias"] * l[:, 0]
        return values
