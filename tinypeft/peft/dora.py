"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, 2402.09353).

A weight is a direction and a magnitude for each output; LoRA moves the direction, and a vector m learns the magnitude:

    W = m V / ||V||      V = W0 + (alpha / r) B A,  ||V|| the norm of each row of V (out, in)

m starts at ||W0||, so that the first output is the base model's. The norm is treated as a constant in the backward pass
(section 4.3), so that the gradients of A and B are not exactly those of the loss; they are those of peft. (The paper says
"column norm", since it writes weights transposed.)

Chosen by LoraConfig(use_dora=True).
"""

from __future__ import annotations

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import Array
from tinypeft.nn import Module, Parameter, new_parameter
from tinypeft.peft.config import layer_of
from tinypeft.peft.lora import LoraConfig, LoraLayer


class Magnitude(Module):
    """m, (out,); a Module, since peft's name for it ends in "weight"."""

    weight: Parameter


@layer_of(LoraConfig)
class DoraLayer(LoraLayer):
    """y = m / ||V|| (W0 x + (alpha / r) B A x) + b. Adapters without a magnitude, plain LoRA's, act as they do there."""

    dora = True

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.lora_magnitude_vector: dict[str, Magnitude] = {}

    def add(self, adapter_name: str, config: LoraConfig, seed: int) -> None:
        """A and B as in LoRA; m = ||W0||."""
        super().add(adapter_name, config, seed)
        if config.use_dora:
            self.lora_magnitude_vector[adapter_name] = m = Magnitude()
            base, residual = self.base_layer, adapter_name in self.lora_residual  # which with s B A gives W0
            m.weight = new_parameter((base.out_features,), base.weight, lambda: np.linalg.norm(
                self.oriented(base.weight.values()) if residual else self._direction(adapter_name), axis=1))

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        return {name.replace("magnitude_vector.weight", "magnitude_vector"): parameter  # as peft has it in files
                for name, parameter in super().parameters_of(adapter_name).items()}

    def update(self, name: str, dropped: Tensor, x: Tensor, base: Tensor) -> Tensor:
        """What is added to W0 x + b: (m / ||V||) (W0 x + s B A x) - W0 x, with x after dropout."""
        update, layer = super().update(name, dropped, x, base), self.base_layer
        if name not in self.lora_magnitude_vector:
            return update
        plain = base if dropped is x else layer(dropped)  # W0 x may be there already
        plain = plain if layer.bias is None else plain - layer.bias
        ratio = self.lora_magnitude_vector[name].weight / np.linalg.norm(self._direction(name), axis=1)  # (out,)
        return (ratio - 1.0) * plain + ratio * update

    def delta_weight(self, adapter_name: str) -> Array:
        """m V / ||V|| - W0."""
        if adapter_name not in self.lora_magnitude_vector:
            return super().delta_weight(adapter_name)
        V, m = self._direction(adapter_name), self.lora_magnitude_vector[adapter_name].weight.data
        return (m / np.linalg.norm(V, axis=1))[:, None] * V - self.oriented(self.base_layer.weight.values())

    def _direction(self, name: str) -> Array:
        """V = W0 + (alpha / r) B A, (out, in)."""
        return self.oriented(self.base_layer.weight.values()) + super().delta_weight(name)
