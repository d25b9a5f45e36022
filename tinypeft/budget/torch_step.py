"""A training step, or the reading of a prompt, as PyTorch takes it: the peaks of its phases, on arrays without values.

Blocks of a model are alike, so that all bytes grow by the same amount with each of them: small models of three and of four
blocks are run, and the rest is a straight line.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, no_grad
from tinypeft.autograd.tensor import observe
from tinypeft.budget import torch_ops as ops
from tinypeft.budget.phantom import Ledger
from tinypeft.budget.rehearsal import give_phantoms
from tinypeft.budget.torch_model import HALF, Call, hidden_states, run
from tinypeft.budget.weights import adapt, bare_model
from tinypeft.nn import CausalLM, GPT2LMHeadModel, LlamaForCausalLM
from tinypeft.peft import PeftConfig, PeftModel
from tinypeft.peft.prefix import PrefixEncoder, PrefixTuningConfig
from tinypeft.peft.prompt import PromptEncoder
from tinypeft.quant import BitsAndBytesConfig

Phase = tuple[str, dict[str, int]]  # its name, and kind -> bytes at its peak
WIDTHS: dict[str, np.dtype] = {"bfloat16": HALF, "float16": HALF, "float32": np.dtype(np.float32),
                               "float64": np.dtype(np.float64)}


@dataclass(frozen=True)
class Setting:
    """How a step is taken.

    Attributes:
        batch, tokens: rows, and tokens of each.
        stream: dtype of the base's float numbers.
        adapter: dtype of the adapter's.
        stored: what quantized weights are dequantized to.
        attention: "sdpa" or "eager".
        checkpointing: whether only what enters each block is kept.
    """

    batch: int
    tokens: int
    stream: np.dtype = HALF
    adapter: np.dtype = HALF
    stored: np.dtype = HALF
    attention: str = "sdpa"
    checkpointing: bool = True


def training_phases(model: CausalLM | PeftModel, setting: Setting) -> list[Phase]:
    """The phases of a step, weights included, optimizer states not: "the loss"; the backward pass up to the last block, each
    block's part of it, and the rest; and what is left for "the optimizer's step", which allocates nothing if it is fused.
    """
    ledger, base = _prepared(model, setting)
    base.train(True)
    watch = _Phases(ledger)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with observe(watch):
        call, embeds = _inputs(model, base, setting, ledger)
        states = hidden_states(base, embeds, call, setting.checkpointing)
        del embeds
        ledger.kind = "logits and loss"
        watch.fixed = True
        loss = ops.cross_entropy(run(base.lm_head, states))
        watch.fixed = False
        del states, call
        watch.end("the loss")
        loss.backward()
        del loss
        watch.end("the backward pass")
        watch.end("the optimizer's step")  # nothing is left but weights and gradients
    for parameter in trained:
        if parameter.grad is not None:
            parameter.grad.block.entry.kind = "gradients"
    return [(name, ledger.at(time)) for name, time in watch.peaks]


def kept_activations(model: CausalLM | PeftModel, setting: Setting) -> list[Phase]:
    """What a forward pass leaves for the backward pass, the loss included; weights are not counted."""
    ledger, base = _prepared(model, setting)
    base.train(True)
    before = ledger.live
    call, embeds = _inputs(model, base, setting, ledger)
    states = hidden_states(base, embeds, call, setting.checkpointing)
    del embeds
    loss = ops.cross_entropy(run(base.lm_head, states))
    del states, call
    return [(f"before {type(loss).__name__}.backward()", {"activations": ledger.live - before})]


def generation_phases(model: CausalLM | PeftModel, setting: Setting) -> list[Phase]:
    """Reading a prompt of all the tokens into the cache, one logit row for each text."""
    ledger, base = _prepared(model, setting)
    base.train(False)
    watch = _Phases(ledger, backward=False)
    with no_grad(), observe(watch):
        call, embeds = _inputs(model, base, setting, ledger)
        cache: list[Tensor] = []
        call = Call(call.eager, call.prefix, cache)
        states = hidden_states(base, embeds, call, False)
        ledger.kind = "logits and loss"
        watch.fixed = True
        logits = ops.scale(ops.to(run(base.lm_head, states[:, -1:]), ops.SINGLE))  # noqa: F841  alive, as in generate
        watch.end("generation")
    for kept in cache:
        kept.data.block.entry.kind = "key-value cache"
    return [(name, ledger.at(time)) for name, time in watch.peaks]


def _prepared(model: CausalLM | PeftModel, setting: Setting) -> tuple[Ledger, Any]:
    ledger = Ledger()
    give_phantoms(model, ledger, setting.stream, setting.adapter, setting.stored)
    ledger.kind = "activations"
    return ledger, model.get_base_model() if isinstance(model, PeftModel) else model


def _inputs(model: CausalLM | PeftModel, base: Any, setting: Setting, ledger: Ledger) -> tuple[Call, Tensor]:
    """The embedded tokens, with a soft prompt's before them."""
    ids = np.zeros((setting.batch, setting.tokens), np.int64)
    embeds, prefix = run(base.get_input_embeddings(), ids), None
    for prompt in getattr(model, "prompt_encoder", {}).values():
        rows = np.ones((setting.batch, 1, 1), np.float32)
        if isinstance(prompt, PromptEncoder):
            virtual = prompt.embedding.weight * Tensor(ledger.array(rows.shape, prompt.embedding.weight.dtype))
            embeds = ops.concatenate(ops.to(virtual, embeds.dtype), embeds)
        elif isinstance(prompt, PrefixEncoder):
            slots = prompt.prefix().reshape(prompt.num_virtual_tokens, 2 * prompt.layers, prompt.heads, -1)
            prefix = slots * Tensor(ledger.array((setting.batch, 1, 1, 1, 1), slots.dtype))
    return Call(setting.attention == "eager", prefix), embeds


class _Phases:
    """Tells the ledger what is allocated for, and notes the peak of each phase."""

    def __init__(self, ledger: Ledger, backward: bool = True):
        self.ledger, self.recomputing, self.fixed, self.kept = ledger, False, False, backward
        self.peaks: list[tuple[str, int]] = []
        ledger.forget_peak()

    def end(self, name: str) -> None:
        self.peaks.append((name, self.ledger.peak_time))
        self.ledger.forget_peak()

    def __call__(self, moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
        before = moment == "before"
        if name == "boundary" and phase == "backward" and before and not self.recomputing:
            self.end("the backward pass")
        if name == "checkpoint" and phase == "backward":
            self.recomputing = before
            self.ledger.kind = "recomputed block" if before else "workspace"
        elif not self.recomputing and not self.fixed:
            loss = phase == "backward" and name == "cross_entropy" and before
            self.ledger.kind = "logits and loss" if loss else "activations" if phase == "forward" and self.kept else "workspace"


def phases_of(base: CausalLM, method: PeftConfig | None, quantization: BitsAndBytesConfig | None,
              run: Callable[[CausalLM | PeftModel, Setting], list[Phase]], setting: Setting, blocks: int | None = None
              ) -> tuple[list[Phase], dict[tuple[int, ...], int]]:
    """The phases of a whole model, and shape of a trained tensor -> how many have it.

    Args:
        base: a model on the meta device, as it is before it is quantized and adapted.
        run: `training_phases` or another function here.
        blocks: how many; None for as many as the base has.

    Raises:
        ValueError: a model of which the blocks are not known here.
    """
    if not isinstance(base, GPT2LMHeadModel | LlamaForCausalLM):
        raise ValueError(f"the activations of a {base.config.model_type} are not known here, only its parameters: choose a "
                         "GPT-2 or a Llama")

    def at(blocks: int) -> tuple[list[Phase], Counter[tuple[int, ...]]]:
        model = adapt(bare_model(with_blocks(base, blocks), quantization), method)
        shapes = Counter(parameter.shape for parameter in model.parameters() if parameter.requires_grad)
        return run(model, setting), shapes

    blocks = blocks or base.config.num_hidden_layers
    if blocks <= 4 or not _alike(method):
        return at(blocks)
    (three, shapes_3), (four, shapes_4) = at(3), at(4)
    more = blocks - 3
    if len(four) > len(three):  # one more block in the middle, like the others
        del four[-4]

    def line(a: int, b: int) -> int:
        return a + more * (b - a)

    phases = [(name, {kind: line(a.get(kind, 0), b.get(kind, 0)) for kind in a.keys() | b.keys()})
              for (name, a), (_, b) in zip(three, four, strict=True)]
    return phases, {shape: line(shapes_3[shape], shapes_4[shape]) for shape in shapes_4}


def _alike(method: PeftConfig | None) -> bool:
    """Whether every block has the same adapters, whatever the number of blocks: not if the config names blocks by number, nor
    with a prefix, where one tensor serves all.
    """
    if isinstance(method, PrefixTuningConfig):
        return False
    named = [value for key, value in vars(method).items() if key.startswith(("target", "exclude", "modules_to_save", "layers"))
             or key.endswith("_pattern")] if method is not None else []
    return not any(character.isdigit() for character in str(named)) and not getattr(method, "rank_pattern", None)


def with_blocks(model: CausalLM, blocks: int) -> CausalLM:
    """A model like this one with another number of blocks, on the meta device."""
    config: Any = copy.deepcopy(model.config)
    setattr(config, "n_layer" if hasattr(config, "n_layer") else "num_hidden_layers", blocks)
    return type(model)(config)  # type: ignore[call-arg]
