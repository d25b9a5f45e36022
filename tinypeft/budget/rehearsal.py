"""A training step of this library, run on arrays without values: what it would take in memory, and when.

All that is said here is which allocation is for what. How many there are, and how long they live, comes from the code of the
layers, the tape, the methods and the optimizers itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import no_grad
from tinypeft.autograd.tensor import observe
from tinypeft.budget.phantom import Ledger, Phantom
from tinypeft.budget.weights import BLOCKSIZE, adapter_parameters, parameter_bytes
from tinypeft.nn import CausalLM
from tinypeft.nn.attention import KeyValueCache
from tinypeft.peft import PeftModel, SubspaceConfig
from tinypeft.peft.layer import CopyLayer
from tinypeft.quant.linear import Params4bit, QuantizedLinear, QuantizedParameter
from tinypeft.training.optimizers import SGD, AdamW, Optimizer, clip_grad_norm_

OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "sgd": SGD, "sgd_momentum": lambda params: SGD(params, momentum=0.9)}
MOST_TOKENS = 16384


Phase = tuple[str, dict[str, int]]  # its name, and kind -> bytes at its peak


def rehearse_training(model: CausalLM | PeftModel, batch: int, tokens: int, optimizer: str, dtype: np.dtype) -> list[Phase]:
    """The phases of a training step: of the second, which all later ones are like.

    Args:
        model: on the meta device, with gradient checkpointing switched on or not; it is given up to this.
        optimizer: one of OPTIMIZERS.
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
    mask = _causal_mask(ledger, model, tokens, dtype)
    ids, peaks = np.zeros((batch, tokens), np.int64), []

    def end() -> None:
        peaks.append(ledger.peak_time)
        ledger.forget_peak()

    for step in (1, 2):
        ledger.forget_peak()
        with observe(_Watch(ledger, base)):
            train_step(model, steps, ids, step, end)
        end()
        for parameter in trained:
            if parameter.grad is not None:
                parameter.grad.block.entry.kind = "gradients"
            for array in steps.state.get(parameter, {}).values():
                if isinstance(array, Phantom):
                    array.block.entry.kind = "optimizer states"
    del mask
    names = ("the loss", "the backward pass", "the optimizer's step")
    return [(name, ledger.at(time)) for name, time in zip(names, peaks[-3:], strict=True)]


def rehearse_generation(model: CausalLM | PeftModel, batch: int, tokens: int, dtype: np.dtype) -> list[Phase]:
    """Reading a prompt of all the tokens into the cache."""
    ledger, base = Ledger(), model.get_base_model() if isinstance(model, PeftModel) else model
    give_phantoms(model, ledger, dtype)
    model.eval()
    mask = _causal_mask(ledger, model, tokens, dtype)
    cache, ids = KeyValueCache(), np.zeros((batch, tokens), np.int64)
    with no_grad(), observe(_Watch(ledger, base, "workspace")):
        out = model(input_ids=ids, cache=cache)
    for buffers in cache._buffers.values():
        for buffer in buffers:
            buffer.block.entry.kind = "key-value cache"
    del mask, out
    return [("generation", ledger.at(ledger.peak_time))]


def _causal_mask(ledger: Ledger, model: Any, tokens: int, dtype: np.dtype) -> Phantom:
    """The mask of the scores, made once for all layers. It has values, and so is not in the ledger by itself.

    Raises:
        ValueError: so many tokens that the mask itself would fill memory here.
    """
    places = tokens + getattr(model, "num_virtual_tokens", 0)
    if places > MOST_TOKENS:
        raise ValueError(f"engine 'tinypeft' keeps the scores of all pairs of tokens; {places:,} are too many for it, ask for "
                         f"at most {MOST_TOKENS:,}")
    ledger.kind = "workspace"
    return ledger.array((places, places), dtype)


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


# ---- arrays for a model ---------------------------------------------------------------------------------------------

def give_phantoms(model: CausalLM | PeftModel, ledger: Ledger, dtype: np.dtype, adapter: np.dtype | None = None,
                  stored: np.dtype | None = None) -> None:
    """Put an array without values into every parameter, entered by its bytes.

    Args:
        dtype: of the base's numbers that are not quantized.
        adapter: of the adapter's own numbers, which copies of the base's are not; None for what it is given here, float32
            (float64 beside float64).
        stored: what quantized weights are dequantized to; None for dtype.
    """
    adapter = adapter or np.result_type(dtype, np.float32)
    for module in model.modules():
        if isinstance(module, QuantizedLinear) and isinstance(module.weight, Params4bit):
            module.weight = _Codes(module.weight, ledger)
    adapters, copies = {id(parameter) for parameter in adapter_parameters(model)}, _copies(model)
    for parameter in model.parameters():
        ledger.kind = "adapter weights" if id(parameter) in adapters else "base weights"
        if isinstance(parameter, QuantizedParameter):
            parameter.cast(stored or dtype)
            parameter.data = ledger.array(parameter.data.shape, parameter.data.dtype)
            parameter.scales = ledger.array(((parameter_bytes(parameter, 0) - parameter.data.nbytes) // 4,))
        else:
            parameter.data = ledger.array(parameter.shape, adapter if id(parameter) in adapters - copies else dtype)
    ledger.kind = "adapter weights"
    for config in getattr(model, "peft_config", {}).values():  # VeRA's frozen matrices, which are no parameters
        for name, value in vars(config).items():
            if isinstance(value, np.ndarray):
                setattr(config, name, ledger.array(value.shape, adapter))
        if isinstance(config, SubspaceConfig):
            _draw_subspace(config, model, ledger, adapter)


def _copies(model: CausalLM | PeftModel) -> set[int]:
    """Ids of an adapter's copies of the base's parameters (norms, biases, modules_to_save), which stay in the base's dtype."""
    if not isinstance(model, PeftModel):
        return set()
    copies = [copy for layer in model.layers() if isinstance(layer, CopyLayer) for copy in layer.copies.values()]
    replaced = [p for name in model.peft_config for p in model.replacements.parameters_of(name).values()]
    return {id(p) for p in (*replaced, *(p for copy in copies for p in copy.parameters()))}


def _draw_subspace(config: Any, model: Any, ledger: Ledger, dtype: np.dtype) -> None:
    """What a subspace draws for each of the weights and keeps: two arrays of numbers and two of places."""
    width = 1 << (config.dimension - 1).bit_length()
    sizes = {name.replace(".base_layer", "").removeprefix("base_model.model."): p.size for name, p in model.named_parameters()}
    for name in set(config.names.values()):
        shape = -(-sizes[name] // width), width
        signs, shuffle, back, gauss = (ledger.array(shape, kind) for kind in (dtype, np.int64, np.int64, dtype))
        config.draws[name] = signs, shuffle, back, gauss


class _Codes(Params4bit):
    """4-bit codes without values: while they are read, their constants are there in float32."""

    __slots__ = ("ledger",)

    def __init__(self, given: Params4bit, ledger: Ledger):
        super().__init__(given.matrix_shape, given.config, given.transposed)
        self.ledger = ledger

    def values(self) -> Phantom:
        with self.ledger.of_kind("dequantized weight"):
            constants = self.ledger.array((-(-self.size // BLOCKSIZE),))
            places = self.ledger.array((min(self.size // 4, 1 << 14),), np.int64)  # of one chunk, in the table of values
            values = self.ledger.array(self.matrix_shape, self.matrix_dtype)
            del constants, places
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

    def __init__(self, ledger: Ledger, base: CausalLM, forward: str = "activations"):
        self.ledger, self.head, self.recomputing, self.forward = ledger, base.lm_head, False, forward

    def __call__(self, moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
        before = moment == "before"
        if name == "checkpoint" and phase == "backward":
            self.recomputing = before
            self.ledger.kind = "recomputed block" if before else "workspace"
        elif not self.recomputing:
            loss = name == "cross_entropy" or (phase == "forward" and before and name == "linear"
                                               and arrays[1] is getattr(self.head, "weight", None))
            other = self.forward if phase == "forward" else "workspace"
            self.ledger.kind = "logits and loss" if before and loss else other
