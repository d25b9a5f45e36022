"""How many numbers LoRA and its nearest relatives train: on one matrix, in a whole model, and back from a count to the rank."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tinypeft.budget import format_value
from tinypeft.claims.practice.kinds import kind, numeric, pick
from tinypeft.claims.practice.shapes import (
    TARGETS,
    Shape,
    all_parameters,
    draw_llama,
    once,
    trained,
    trained_on_matrix,
)
from tinypeft.claims.questions import Mistake, Numeric, Step
from tinypeft.peft import LoraConfig, create_loraplus_optimizer, get_peft_model

LORA = "LoRA replaces a frozen W (out, in) by W + (alpha/r) B A, with A (r, in) and B (out, r)."
RANKS = (2, 4, 8, 16, 32, 64)
LOW_RANK, RANK = "04_lora/low-rank", "04_lora/rank"


def _sides(rng: np.random.Generator) -> tuple[int, int]:
    """(out, in) of a matrix that is not square."""
    n_out, n_in = (64 * int(rng.integers(4, 129)) for _ in range(2))
    return (n_out, n_in) if n_out != n_in else (n_out, 2 * n_in)


def named(targets: tuple[str, ...]) -> str:
    """Module names in prose: "q_proj and v_proj".

    >>> named(("q_proj", "k_proj", "v_proj"))
    'q_proj, k_proj and v_proj'
    """
    return f"{', '.join(targets[:-1])} and {targets[-1]}" if len(targets) > 1 else targets[0]


# ---- one matrix -----------------------------------------------------------------------------------------------------

@kind("lora-matrix", "lora", "parameters of LoRA on one matrix")
def lora_matrix(rng: np.random.Generator) -> Numeric:
    (n_out, n_in), r = _sides(rng), pick(rng, RANKS)
    found = trained_on_matrix(LoraConfig(r=r), n_out, n_in)
    a, b = found["lora_A.weight"], found["lora_B.weight"]
    return numeric(
        f"{LORA}\n\nW has shape ({n_out:,}, {n_in:,}) and r = {r}. How many parameters are trained?", a + b,
        [Step("A (r, in)", f"{r} x {n_in:,}", f"{a:,}"), Step("B (out, r)", f"{n_out:,} x {r}", f"{b:,}"),
         Step("together", f"{a:,} + {b:,}", f"{a + b:,}")],
        [Mistake("a-only", a, "That is A alone. B is trained too."),
         Mistake("b-only", b, "That is B alone. A is trained too."),
         Mistake("twice-in", 2 * a, f"That takes both factors as r x in. B has a row for each of the {n_out:,} outputs: W is "
                                    "not square."),
         Mistake("twice-out", 2 * b, f"That takes both factors as out x r. A has a column for each of the {n_in:,} inputs: W "
                                     "is not square."),
         Mistake("full", n_out * n_in, "That is W itself, which stays frozen."),
         Mistake("with-w", n_out * n_in + a + b, "That counts W too, which stays frozen."),
         Mistake("product", a * b, "That multiplies the sizes of A and B. They are two matrices: their sizes add up.")],
        section=LOW_RANK)


@kind("lora-compression", "lora", "how many times fewer than the matrix has")
def lora_compression(rng: np.random.Generator) -> Numeric:
    (n_out, n_in), r = _sides(rng), pick(rng, RANKS)
    found = trained_on_matrix(LoraConfig(r=r), n_out, n_in)
    a, b = found["lora_A.weight"], found["lora_B.weight"]
    full, ours = n_out * n_in, a + b
    return numeric(
        f"{LORA}\n\nW has shape ({n_out:,}, {n_in:,}) and r = {r}. How many times fewer parameters does LoRA train than there "
        "are in W? (Answer such as 51.2x.)", full / ours,
        [Step("W", f"{n_out:,} x {n_in:,}", f"{full:,}"), Step("A and B", f"{r} x {n_in:,} + {n_out:,} x {r}", f"{ours:,}"),
         Step("ratio", f"{full:,} / {ours:,}", format_value(full / ours, "x"))],
        [Mistake("a-only", full / a, "That divides by A alone. B is trained too."),
         Mistake("b-only", full / b, "That divides by B alone. A is trained too."),
         Mistake("inverse", ours / full, "That is the share which LoRA trains. Asked for is how many times fewer: the "
                                         "inverse."),
         Mistake("twice-in", full / (2 * a), "That takes both factors as r x in, but B is out x r."),
         Mistake("twice-out", full / (2 * b), "That takes both factors as out x r, but A is r x in.")],
        unit="x", section=LOW_RANK)


# ---- a model --------------------------------------------------------------------------------------------------------

def _steps(shape: Shape, targets: tuple[str, ...], r: int, total: int) -> list[Step]:
    """A worked count over a model's matrices."""
    sides = {name: shape.sides(name) for name in targets}
    steps = [Step(f"{name} (out {n_out:,}, in {n_in:,})", f"{r} x ({n_in:,} + {n_out:,})", f"{r * (n_in + n_out):,}")
             for name, (n_out, n_in) in sides.items()]
    each = sum(r * (n_in + n_out) for n_out, n_in in sides.values())
    return [*steps, Step("one layer", "the sum", f"{each:,}"), Step("all layers", f"{shape.layers} x {each:,}", f"{total:,}")]


def _model_mistakes(shape: Shape, targets: tuple[str, ...], r: int, total: int) -> list[Mistake]:
    sides = [shape.sides(name) for name in targets]
    a, b = (shape.layers * r * sum(pair[i] for pair in sides) for i in (1, 0))
    square = shape.layers * r * 2 * shape.width * len(targets)
    return [
        Mistake("one-layer", total / shape.layers, f"That is one layer; there are {shape.layers}."),
        Mistake("one-matrix", total / len(targets), f"That is {len(targets)} times too little: each of the {len(targets)} "
                                                    "modules of a layer has an A and a B of its own."),
        Mistake("a-only", a, "That counts the A's alone. Each has a B beside it."),
        Mistake("b-only", b, "That counts the B's alone. Each has an A beside it."),
        Mistake("all-square", square, "That takes all matrices as d x d. " + (
            f"Keys and values have only {shape.kv_heads} heads of {shape.head_dim} features, so that k_proj and v_proj have "
            f"{shape.kv_width:,} outputs." if shape.kv_heads < shape.heads else "The feed-forward part is wider than d.")),
        Mistake("full", shape.layers * sum(n_out * n_in for n_out, n_in in sides), "These are the weights of the matrices "
                                                                                   "themselves, which stay frozen.")]


@kind("lora-model", "lora", "parameters of LoRA in a whole model", 2)
def lora_model(rng: np.random.Generator) -> Numeric:
    shape, targets, r = draw_llama(rng), pick(rng, TARGETS), pick(rng, (4, 8, 16, 64))
    total = trained(shape, LoraConfig(r=r, target_modules=list(targets)))
    return numeric(f"{shape.words()}.\n\nLoRA with r = {r} is put on {named(targets)} of every layer. How many parameters are "
                   "trained?", total, _steps(shape, targets, r, total), _model_mistakes(shape, targets, r, total),
                   section=LOW_RANK)


@kind("lora-share", "lora", "the share of a model that LoRA trains", 2)
def lora_share(rng: np.random.Generator) -> Numeric:
    shape, targets, r = draw_llama(rng), pick(rng, TARGETS), pick(rng, (4, 8, 16))
    ours, base = trained(shape, LoraConfig(r=r, target_modules=list(targets))), all_parameters(shape)
    share = ours / (base + ours)
    blocks = base - 2 * shape.vocab * shape.width
    return numeric(
        f"{shape.words(vocab=True)}. It has {base:,} parameters.\n\nLoRA with r = {r} is put on {named(targets)} of every "
        "layer. How much of all parameters, the adapter's included, is trained? (peft prints it like this. Answer in "
        "percent.)", share,
        [*_steps(shape, targets, r, ours), Step("share", f"{ours:,} / ({base:,} + {ours:,})", f"{100 * share:.4g} %")],
        [Mistake(mistake.id, mistake.value / (base + mistake.value), mistake.feedback)
         for mistake in _model_mistakes(shape, targets, r, ours)]
        + [Mistake("blocks-only", ours / (blocks + ours), "That leaves out the embeddings and the head, which are parameters "
                                                          "of the model too.")],
        unit="%", section=LOW_RANK)


@kind("lora-rank", "lora", "from a printed count back to the rank", 3)
def lora_rank(rng: np.random.Generator) -> Numeric:
    shape, targets, r = draw_llama(rng), pick(rng, TARGETS[:4]), pick(rng, (6, 8, 12, 24, 48))
    total = trained(shape, LoraConfig(r=r, target_modules=list(targets)))
    each = total // r
    sides = [shape.sides(name) for name in targets]
    halves = [shape.layers * sum(pair[i] for pair in sides) for i in (0, 1)]
    square = shape.layers * 2 * shape.width * len(targets)
    return numeric(
        f"{shape.words()}.\n\nA report says that LoRA on {named(targets)} of every layer trains {total:,} parameters. Which "
        "rank r was used?", r,
        [Step("parameters for each unit of r in one layer: the sum of in + out",
              " + ".join(f"({n_in:,} + {n_out:,})" for n_out, n_in in sides), f"{each // shape.layers:,}"),
         Step("in all layers", f"{shape.layers} x {each // shape.layers:,}", f"{each:,}"),
         Step("r", f"{total:,} / {each:,}", f"{r}")],
        [Mistake("one-factor", total / halves[0], "That divides by the outputs only, as if B were all there is. A has r x in "
                                                  "parameters on top."),
         Mistake("one-factor", total / halves[1], "That divides by the inputs only, as if A were all there is. B has out x r "
                                                  "parameters on top."),
         Mistake("one-layer", total / (each // shape.layers), f"That divides by one layer's share; there are {shape.layers} "
                                                              "layers."),
         Mistake("one-matrix", r * len(targets), f"That divides by one module's share; there are {len(targets)} in a layer."),
         Mistake("all-square", total / square, "That takes all matrices as d x d, but k_proj and v_proj have "
                                               f"{shape.kv_width:,} outputs.")],
        tolerance=0.001, section=RANK)


# ---- relatives ------------------------------------------------------------------------------------------------------

@kind("dora-extra", "dora", "what DoRA trains besides LoRA", 2)
def dora_extra(rng: np.random.Generator) -> Numeric:
    shape, targets, r = draw_llama(rng), pick(rng, TARGETS), pick(rng, (4, 16))
    dora, lora = (trained(shape, LoraConfig(r=r, use_dora=use, target_modules=list(targets))) for use in (True, False))
    extra, sides = dora - lora, [shape.sides(name) for name in targets]
    outputs, inputs = (sum(pair[i] for pair in sides) for i in (0, 1))
    return numeric(
        f"{shape.words()}.\n\nDoRA with r = {r} on {named(targets)} of every layer is LoRA, A (r, in) and B (out, r), with one "
        "magnitude for each output of each matrix. How many more parameters does it train than LoRA?", extra,
        [*(Step(f"{name}: magnitudes", "", f"{n_out:,}") for name, (n_out, _) in zip(targets, sides, strict=True)),
         Step("all layers", f"{shape.layers} x {outputs:,}", f"{extra:,}"),
         Step("little beside A and B, which have", "", f"{lora:,}")],
        [Mistake("inputs", shape.layers * inputs, "That has a magnitude for each input. They belong to the outputs: one for "
                                                  "each row of W (out, in)."),
         Mistake("one-a-matrix", shape.layers * len(targets), "That is one magnitude for each matrix. There is one for each of "
                                                              "its outputs."),
         Mistake("times-rank", r * extra, f"That has r = {r} numbers for each output. B has; the magnitude is one number."),
         Mistake("total", dora, "That is all that DoRA trains, A and B included."),
         Mistake("one-layer", extra / shape.layers, f"That is one layer; there are {shape.layers}."),
         Mistake("one-matrix", shape.layers * shape.width, f"That takes one matrix of d outputs. {named(targets)} have "
                                                           f"{outputs:,} outputs in a layer.")],
        section=LOW_RANK)


@kind("lora-plus", "lora+", "what LoRA+ trains at the higher learning rate", 2)
def lora_plus(rng: np.random.Generator) -> Numeric:
    shape, targets = draw_llama(rng), pick(rng, (*TARGETS[1:3], ("up_proj", "down_proj"), TARGETS[4]))
    r, lr, ratio = pick(rng, (8, 16, 64)), pick(rng, (1e-4, 2e-4, 5e-5)), pick(rng, (4, 8, 16))
    method = LoraConfig(r=r, target_modules=list(targets))
    total = trained(shape, method)
    small = replace(shape, layers=1, vocab=64)
    b = shape.layers * once((small, repr(method), "LoRA+"), lambda: _at_higher_rate(small, method))
    outputs = [shape.sides(name)[0] for name in targets]
    return numeric(
        f"{shape.words()}.\n\nLoRA with r = {r} is put on {named(targets)} of every layer, and trained as LoRA+ does: A with "
        f"learning rate {lr:g}, B with {ratio} times as much. How many parameters are trained at {lr * ratio:g}?", b,
        [Step("which ones", "", "the B's, each (out, r)"),
         *(Step(f"{name}: B", f"{n:,} x {r}", f"{n * r:,}") for name, n in zip(targets, outputs, strict=True)),
         Step("all layers", f"{shape.layers} x {sum(outputs) * r:,}", f"{b:,}")],
        [Mistake("a", total - b, "Those are the A's. The B's have the higher rate: B starts at zero, and a rate that is small "
                                 "enough for A moves it too slowly in a wide model."),
         Mistake("both", total, "That is A and B together. The A's keep the lower rate."),
         Mistake("half", total / 2, "That takes A and B to be equally large. They are only where a matrix is square."),
         Mistake("one-layer", b / shape.layers, f"That is one layer; there are {shape.layers}."),
         Mistake("ratio", b / ratio, f"The ratio of {ratio} is between learning rates; it changes no count.")],
        section="11_optimization")



def _at_higher_rate(shape: Shape, method: LoraConfig) -> int:
    """Parameters in the groups that get more than A's learning rate."""
    groups: list[dict[str, Any]] = create_loraplus_optimizer(get_peft_model(shape.build(), method), lambda groups, **_: groups,
                                                             lr=1.0, loraplus_lr_ratio=2.0)
    return sum(parameter.size for group in groups if group["lr"] > 1 for parameter in group["params"])
