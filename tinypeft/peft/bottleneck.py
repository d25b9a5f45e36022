"""Bottleneck adapters: two small layers with a nonlinearity between, at the end of a sub-layer.

With x the stream before a sub-layer (attention or feed-forward), h what the sub-layer found in it, and
f(z) = scaling * (W_up act(W_down z + b_down) + b_up), W_down (m, d), W_up (d, m), m = d / reduction_factor:

    "houlsby"   x + (h + f(h))      after attention and after feed-forward       (Houlsby et al. 2019, 1902.00751)
    "pfeiffer"  (x + h) + f(x + h)  after feed-forward only                      (Pfeiffer et al. 2020, 2005.00247)
    "parallel"  (x + h) + f(x)      beside feed-forward, W_up = 0 at first       (He et al. 2021, 2110.04366)

Placement and defaults are those of the `adapters` library (DoubleSeqBn, SeqBn and ParBn), and so are the names in files.
Such an adapter is not linear, and cannot be merged. (peft has none.)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tinypeft.autograd import Tensor
from tinypeft.backend import Array
from tinypeft.nn import CausalLM, Linear, Module, generator, new_parameter
from tinypeft.nn.layers import Add, activation
from tinypeft.peft.config import TargetedConfig, layer_of
from tinypeft.peft.layer import AdapterLayer

# The defaults of the adapters library for DoubleSeqBn, SeqBn and ParBn.
STYLES: dict[str, dict[str, Any]] = {
    "houlsby": {"target_modules": ["attention_add", "output_add"], "reduction_factor": 16, "non_linearity": "swish",
                "scaling": 1.0, "init_weights": "bert"},
    "pfeiffer": {"target_modules": ["output_add"], "reduction_factor": 16, "non_linearity": "relu", "scaling": 1.0,
                 "init_weights": "bert"},
    "parallel": {"target_modules": ["output_add"], "reduction_factor": 2, "non_linearity": "relu", "scaling": 4.0,
                 "init_weights": "mam_adapter"},
}


@dataclass
class BottleneckConfig(TargetedConfig):
    """Which adapter, and how wide; arguments are named as in the adapters library.

    Args:
        style: "houlsby", "pfeiffer" or "parallel"; the arguments below default to what it has in the adapters library.
        reduction_factor: the model's width divided by the bottleneck's.
        non_linearity: an activation's name: "relu", "swish", "gelu_new", "tanh", ...
        scaling: the adapter's output is multiplied by this.
        init_weights: "bert", N(0, 0.02^2) for both matrices: nearly the identity; or "mam_adapter", W_up = 0: the identity.
        target_modules: "attention_add" and "output_add" are the places where a sub-layer's result joins the stream.
    """

    style: str = "houlsby"
    reduction_factor: Any = None
    non_linearity: Any = None
    scaling: Any = None
    init_weights: Any = None

    peft_type: ClassVar[str] = "BOTTLENECK"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("style", *STYLES)
        for name, value in STYLES[self.style].items():
            setattr(self, name, value if getattr(self, name) is None else getattr(self, name))
        activation(self.non_linearity)  # refuses what it does not know
        self.check("scaling", isinstance(self.scaling, int | float), "be a number")
        self.check("reduction_factor", self.reduction_factor > 0, "be above 0")
        self.check_choice("init_weights", "bert", "mam_adapter")

    def prepare(self, model: CausalLM, modules: dict[str, Module], seed: int) -> None:
        self.like, self.d = next(model.parameters()), model.config.hidden_size

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """With the adapters library's names: transformer.h.0.output_adapters.adapters.default.adapter_up.weight."""
        return {re.sub(r"^base_model\.model\.(.*)_add\.adapters\.", r"\1_adapters.adapters.default.", key): array
                for key, array in tensors.items()}

    def from_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """The adapter's name in the file, "default" or another, does not matter."""
        return {re.sub(r"^(.*)_adapters\.adapters\.[^.]+\.", r"base_model.model.\1_add.adapters.", key): array
                for key, array in tensors.items()}


class Bottleneck(Module):
    """f(z) = scaling * (W_up act(W_down z + b_down) + b_up)."""

    def __init__(self, config: BottleneckConfig, d: int, m: int):
        self.adapter_down = [Linear(d, m)]  # a list of one: the adapters library's names have a 0 here
        self.adapter_up = Linear(m, d)
        self.act, self.scaling = activation(config.non_linearity), config.scaling

    def forward(self, z: Tensor) -> Tensor:
        return self.adapter_up(self.act(self.adapter_down[0](z))) * self.scaling  # (..., d) -> (..., m) -> (..., d)


@layer_of(BottleneckConfig)
class BottleneckLayer(AdapterLayer):
    """Stands where a sub-layer's result h joins the stream x; of several active adapters the effects add up."""

    prefix = "adapters"
    wraps = (Add,)
    mergeable = False

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.adapters: dict[str, Bottleneck] = {}
        self.adapters_style: dict[str, str] = {}

    def add(self, adapter_name: str, config: BottleneckConfig, seed: int) -> None:
        """W_down and W_up from N(0, 0.02^2); or W_up = 0 and W_down as torch's Linear starts. Biases are zero."""
        m = int(config.d // config.reduction_factor)
        if m < 1:
            raise ValueError(f"reduction_factor={config.reduction_factor} leaves nothing of a width of {config.d}: choose less")
        adapter = Bottleneck(config, config.d, m)
        random, bound = generator(seed, adapter_name, self.path), config.d**-0.5
        draws: dict[str, Callable[..., Any]] = {
            "bert": partial(random.normal, 0.0, 0.02), "mam_adapter": partial(random.uniform, -bound, bound)}
        for name, parameter in adapter.named_parameters():
            zero = parameter.ndim == 1 or (name == "adapter_up.weight" and config.init_weights == "mam_adapter")
            draw = partial(draws[config.init_weights], parameter.shape)
            parameter.data = new_parameter(parameter.shape, config.like, (lambda: 0.0) if zero else draw).data
        self.adapters[adapter_name], self.adapters_style[adapter_name] = adapter, config.style

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        working = [(self.adapters[name], self.adapters_style[name]) for name in self.working]
        found = h
        for adapter, style in working:
            if style == "houlsby":
                found = found + adapter(h)
        y = joined = self.base_layer(x, found)  # x + h, with what the first kind adds to h
        for adapter, style in working:
            if style != "houlsby":
                y = y + adapter(joined if style == "pfeiffer" else x)
        return y
