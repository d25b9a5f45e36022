"""A training step of this library, run on arrays without values: what it would take in memory, and when.

All that is said here is which allocation is for what. How many there are, and how long they live, comes from the code of the
layers, the tape, the methods and the optimizers itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinypeft.autograd.tensor import observe
from tinypeft.budget.phantom import Ledger, Phantom
from tinypeft.budget.weights import parameter_bytes
from tinypeft.nn import CausalLM, Parameter
from tinypeft.peft import PeftModel
from tinypeft.quant.linear import Params4bit, QuantizedLinear, QuantizedParameter
from tinypeft.training.optimizers import SGD, AdamW, Optimizer, clip_grad_norm_

OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "sgd": SGD, "sgd_momentum": lambda params: SGD(params, momentum=0.9)}


@dataclass(frozen=True)
class Rehearsal:
    """Bytes at the peak of the second step, which all later ones are like, by what they are for; and when that was."""

    kinds: dict[str, int]
    peak: str


def rehearse_training(model: CausalLM | PeftModel, batch: int, tokens: int, optimizer: str, dtype: np.dtype) -> Rehearsal:
    """Two steps of a model on the meta device, which is given up to it.

    Args:
        model: in training mode or not; with gradient checkpointing switched on or not.
        dtype: of the base's numbers that are not quantized.
    """
    ledger, base = Ledger(), model.get_base_model() if isinstance(model, PeftModel) else model
    give_phantoms(model, ledger, dtype)
    model.train(seed=0)
    for module in model.modules():
        if getattr(module, "generator", None) is not None:
            module.generator = _Generator(ledger)  # type: ignore[attr-defined]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steps: Optimizer = OPTIMIZERS[optimizer](trained)
    # The tokens are numbers; and the mask of the scores, which has values, is made once for all layers.
    ids = np.zeros((batch, tokens), np.int64)
    ledger.kind = "activations"
    mask = ledger.array((model_tokens(model, tokens),) * 2, dtype)  # noqa: F841  lives as long as this function
    times = []
    for step in (1, 2):
        ledger.forget_peak()
        with observe(_Watch(ledger, base)):
            train_step(model, steps, ids, step, lambda: times.append(ledger.time))
        for parameter in trained:
            parameter.grad.block.entry.kind = "gradients"
            for array in steps.state[parameter].values():
                if isinstance(array, Phantom):
                    array.block.entry.kind = "optimizer states"
    forward, backward = times[-2:]
    moment = "the loss" if ledger.peak_time <= forward else "the backward pass" if ledger.peak_time <= backward else (
        "the optimizer's step")
    return Rehearsal(ledger.at_peak(), moment)


def train_step(model: Any, optimizer: Optimizer, ids: np.ndarray, step: int, passed: Any = lambda: None) -> None:
    """One step, as `train` takes it; `passed` is called after the forward pass and after the backward pass."""
    optimizer.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    passed()
    loss.backward()
    passed()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    model.after_update(step)


def model_tokens(model: Any, tokens: int) -> int:
    """Places of a row, with the virtual ones that a prompt adds."""
    return tokens + getattr(model, "num_virtual_tokens", 0)


# ---- arrays for a model ---------------------------------------------------------------------------------------------

def give_phantoms(model: CausalLM | PeftModel, ledger: Ledger, dtype: np.dtype) -> None:
    """Put an array without values into every parameter, entered by its bytes."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear) and isinstance(module.weight, Params4bit):
            module.weight = _Codes(module.weight, ledger)
    adapters: set[int] = set()
    if isinstance(model, PeftModel):
        adapters = {id(p) for name in model.peft_config for p in model.parameters_of(name).values()}
    for parameter in model.parameters():
        ledger.kind = "adapter weights" if id(parameter) in adapters else "base weights"
        if isinstance(parameter, QuantizedParameter):
            parameter.cast(dtype)
            parameter.data = ledger.array(parameter.data.shape, parameter.data.dtype)
            parameter.scales = _scales(parameter, ledger)
        else:
            parameter.data = ledger.array(parameter.shape, np.float32 if id(parameter) in adapters else dtype)


def _scales(parameter: QuantizedParameter, ledger: Ledger) -> Phantom:
    rest = parameter_bytes(parameter, 0) - parameter.data.nbytes
    return ledger.array((rest // 4,))


class _Codes(Params4bit):
    """4-bit codes without values: while they are read, their constants are there in float32."""

    __slots__ = ("ledger",)

    def __init__(self, given: Params4bit, ledger: Ledger):
        super().__init__(given.matrix_shape, given.config, given.transposed)
        self.ledger = ledger

    def values(self) -> Phantom:
        with self.ledger.of_kind("dequantized weight"):
            constants = [self.ledger.array((-(-self.size // 64),)) for _ in range(1 + self.config.bnb_4bit_use_double_quant)]
            values = self.ledger.array(self.matrix_shape, self.matrix_dtype)
            del constants
            return values


class _Generator:
    """Dropout's random numbers, without values."""

    def __init__(self, ledger: Ledger):
        self.ledger, self.bit_generator = ledger, self
        self.state = 0

    def random(self, shape: tuple[int, ...], dtype: Any) -> Phantom:
        return self.ledger.array(shape, dtype)


class _Watch:
    """Tells the ledger what the operations allocate for."""

    def __init__(self, ledger: Ledger, base: CausalLM):
        self.ledger, self.head, self.recomputing = ledger, base.lm_head, False

    def __call__(self, moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
        before = moment == "before"
        if name == "checkpoint" and phase == "backward":
            self.recomputing = before
            self.ledger.kind = "recomputed block" if before else "workspace"
        elif not self.recomputing:
            loss = name == "cross_entropy" or (phase == "forward" and before and name == "linear"
                                               and arrays[1] is getattr(self.head, "weight", None))
            other = "activations" if phase == "forward" else "workspace"
            self.ledger.kind = "logits and loss" if before and loss else other
