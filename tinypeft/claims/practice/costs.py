"""What fine-tuning needs in memory and on disk, part by part: full, with LoRA, on four-bit weights, for many tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinypeft.budget import format_bytes, memory
from tinypeft.budget.methods import NF4
from tinypeft.budget.weights import bare_model
from tinypeft.claims.practice.kinds import in_words, kind, numeric, pick, unit_of
from tinypeft.claims.practice.lora_counts import named
from tinypeft.claims.practice.shapes import (
    ATTENTION,
    MLP,
    VOCABULARIES,
    Shape,
    all_parameters,
    base_bytes,
    draw_llama,
    once,
    trained,
    trained_bytes,
)
from tinypeft.claims.questions import Mistake, Numeric, Step
from tinypeft.peft import LoraConfig
from tinypeft.quant import quantize_4bit

GB = 10**9
ALL_LINEAR = (*ATTENTION, *MLP)


def _large_llama(rng: np.random.Generator, vocabularies: Sequence[int] = VOCABULARIES) -> Shape:
    """Of a billion parameters, or nearly."""
    while True:
        shape = draw_llama(rng, vocabularies)
        if shape.width >= 2048:
            return shape


# ---- full fine-tuning -----------------------------------------------------------------------------------------------

def _full_parts(shape: Shape, master: bool) -> dict[str, int]:
    """Bytes by part; a master copy has four for each parameter."""
    return trained_bytes(shape) | {"master weights": 4 * all_parameters(shape) * master}


@kind("full-memory", "memory", "memory of full fine-tuning, without activations")
def full_memory(rng: np.random.Generator) -> Numeric:
    shape, master = _large_llama(rng), bool(rng.integers(2))
    n, parts = all_parameters(shape), _full_parts(shape, master)
    total = sum(parts.values())
    copy = ("a float32 copy of the weights, which the optimizer updates (mixed precision)" if master else
            "no further copy of the weights")
    return numeric(
        f"A model of {n:,} parameters is fine-tuned whole, with AdamW: weights and gradients in 16 bits, Adam's two moments in "
        f"float32, and {copy}. How many GB (10^9 bytes) is that, activations apart?", total,
        [Step("weights, 2 bytes each", "", format_bytes(parts["weights"])), Step("gradients, 2 bytes", "",
                                                                                     format_bytes(parts["gradients"])),
         Step("two moments, 4 bytes each", "", format_bytes(parts["optimizer states"])),
         *([Step("float32 copy, 4 bytes", "", format_bytes(parts["master weights"]))] if master else []),
         Step("together", f"{total // n} bytes x {n:,}", format_bytes(total))],
        [Mistake("no-master-copy" if master else "master-copy", 12 * n if master else 16 * n,
                 "That leaves out the float32 copy of the weights, 4 bytes each." if master else
                 "That adds a float32 copy of the weights, which this recipe does not keep."),
         Mistake("one-moment", total - 4 * n, "That is 4 bytes a parameter too little: one of Adam's two moments is missing, "
                                              "or both are in 16 bits."),
         Mistake("weights-only", 2 * n, "That is the weights alone."),
         Mistake("no-gradients", total - 2 * n, "That leaves out the gradients, as large as the weights."),
         Mistake("no-optimizer", total - 8 * n, "That leaves out Adam's two moments, 8 bytes a parameter."),
         Mistake("one-byte", total / 2, "That is half: 16 bits are 2 bytes, 32 are 4.")],
        unit="GB", section="03_full_finetuning")


@kind("full-cards", "memory", "how many cards full fine-tuning takes", 2, fewest_mistakes=1)
def full_cards(rng: np.random.Generator) -> Numeric:
    shape, card = _large_llama(rng), pick(rng, (24, 40, 48, 80))
    n, parts = all_parameters(shape), _full_parts(shape, True)
    total, activations = sum(parts.values()), int(rng.integers(5, 60)) * GB
    needed = total + activations
    cards = math.ceil(needed / (card * GB))

    def for_bytes(size: float, of: float = card * GB) -> int:
        return math.ceil((size + activations) / of)

    return numeric(
        f"A model of {n:,} parameters is fine-tuned whole, in mixed precision with AdamW: 16-bit weights and gradients, a "
        f"float32 copy of the weights, two moments in float32. All this is shared out evenly among cards of {card} GB, and so "
        f"are activations of {activations // GB} GB in all. How many cards does it take at least?", cards,
        [Step("bytes a parameter: weight, gradient, copy, moments", "2 + 2 + 4 + 8", str(total // n)),
         Step("these", f"{total // n} x {n:,}", format_bytes(total)),
         Step("with activations", f"{format_bytes(total)} + {activations // GB} GB", format_bytes(needed)),
         Step("cards, rounded up", f"{needed / GB:,.2f} / {card}", str(cards))],
        [Mistake("no-master-copy", for_bytes(total - 4 * n), "That leaves out the float32 copy of the weights, 4 bytes each."),
         Mistake("no-activations", math.ceil(total / (card * GB)), "That leaves out the activations."),
         Mistake("rounded-down", cards - 1, "That many have too little: what is left over needs a card as well."),
         Mistake("weights-only", for_bytes(2 * n), "That has the weights alone. Gradients and optimizer states are larger than "
                                                   "these."),
         Mistake("no-optimizer", for_bytes(total - 8 * n), "That leaves out Adam's two moments."),
         Mistake("gib-cards", for_bytes(total, card * 2**30), "That takes the cards' GB for GiB, 7% more.")],
        tolerance=0.001, section="03_full_finetuning")


# ---- adapters -------------------------------------------------------------------------------------------------------

@kind("adapter-training", "memory", "what training an adapter takes beside the base", 2)
def adapter_training(rng: np.random.Generator) -> Numeric:
    shape, targets, r = draw_llama(rng), pick(rng, (ATTENTION, ALL_LINEAR)), pick(rng, (8, 64))
    half = bool(rng.integers(2))
    count = trained(shape, LoraConfig(r=r, target_modules=list(targets)))
    breakdown = trained_bytes(shape, LoraConfig(r=r, target_modules=list(targets)),
                              adapter_dtype="bfloat16" if half else "float32")
    total, size = sum(breakdown.values()), 2 if half else 4
    unit = unit_of(total)
    return numeric(
        f"LoRA with r = {r} on {named(targets)} of a model of {shape.layers} layers (d = {shape.width:,}) trains {count:,} "
        f"parameters. Weights and gradients of the adapter are in {'bfloat16' if half else 'float32'}, AdamW keeps two moments "
        f"in float32. How many {in_words(unit)} does the adapter take while it is trained?", total,
        [Step(f"weights, {size} bytes each", "", format_bytes(breakdown["weights"])),
         Step(f"gradients, {size} bytes", "", format_bytes(breakdown["gradients"])),
         Step("two moments, 4 bytes each", "", format_bytes(breakdown["optimizer states"])),
         Step("together", f"{total // count} bytes x {count:,}", format_bytes(total))],
        [Mistake("weights-only", size * count, "That is what the file takes. Training needs gradients and Adam's moments as "
                                               "well."),
         Mistake("no-gradients", total - size * count, "That leaves out the gradients."),
         Mistake("one-moment", total - 4 * count, "That has one of Adam's two moments."),
         Mistake("no-optimizer", 2 * size * count, "That leaves out Adam's two moments, 8 bytes a parameter."),
         Mistake("other-dtype", total + (4 if half else -4) * count, "That takes the adapter in "
                                                                     f"{'float32' if half else '16 bits'}."),
         Mistake("four-bit", count / 2, "That takes the adapter in 4 bits. QLoRA stores the base so; what is trained never "
                                        "is.")],
        unit=unit, section="07_qlora")


@kind("rank-that-fits", "memory", "the largest rank that a card has room for", 3)
def rank_that_fits(rng: np.random.Generator) -> Numeric:
    shape, targets = draw_llama(rng), pick(rng, (("q_proj", "v_proj"), ATTENTION, ALL_LINEAR))
    each = trained(shape, LoraConfig(r=1, target_modules=list(targets)))
    bytes_each = sum(trained_bytes(shape, LoraConfig(r=1, target_modules=list(targets))).values())
    card = pick(rng, (12, 16, 24, 40, 48, 80))
    room = min(float(rng.uniform(0.2, 0.9)) * min(shape.sides("k_proj")) * bytes_each / GB, 0.7 * card)
    used = round(card - room, 1)
    answer = int((card - used) * GB / bytes_each)
    return numeric(
        f"On a card of {card} GB, a base model, activations and all else take {used:g} GB. The rest is for LoRA on "
        f"{named(targets)} of every layer: {each:,} parameters for each unit of the rank. Adapter and gradients are in "
        "float32, and AdamW keeps two moments in float32. What is the largest rank that fits? (A whole number; within 1% is "
        "near enough.)", answer,
        [Step("bytes a parameter: weight, gradient, two moments", "4 + 4 + 4 + 4", str(bytes_each // each)),
         Step("bytes for each unit of r", f"{bytes_each // each} x {each:,}", f"{bytes_each:,}"),
         Step("room", f"{card} GB - {used:g} GB", f"{card - used:.1f} GB"),
         Step("r, rounded down", f"{card - used:.1f} GB / {bytes_each:,}", f"{answer:,}")],
        [Mistake("weights-only", (card - used) * GB / (4 * each), "That counts the adapter's weights only. While it is "
                                                                  "trained, each parameter has a gradient and two moments as "
                                                                  "well."),
         Mistake("half-weights-only", (card - used) * GB / (2 * each), "That counts 16-bit weights only: no gradients, no "
                                                                       "moments, and not float32."),
         Mistake("twelve-bytes", (card - used) * GB / (12 * each), "That takes 12 bytes a parameter, as if adapter and "
                                                                   "gradients were in 16 bits, or something were left out. "
                                                                   "Weight, gradient and two moments in float32 are 16."),
         Mistake("whole-card", card * GB / bytes_each, "That gives the whole card to the adapter."),
         Mistake("one-layer", answer * shape.layers, f"That takes the parameters of one layer; the number given is of all "
                                                     f"{shape.layers}.")],
        tolerance=0.01, section="13_planning")


@kind("many-tasks", "tasks", "adapters, or merged copies, for many tasks", 2)
def many_tasks(rng: np.random.Generator) -> Numeric:
    shape, targets, r = _large_llama(rng), pick(rng, (("q_proj", "v_proj"), ATTENTION, ALL_LINEAR)), pick(rng, (8, 16, 64))
    tasks, merged = int(rng.integers(3, 61)), bool(rng.integers(2))
    n, count = all_parameters(shape), trained(shape, LoraConfig(r=r, target_modules=list(targets)))
    base, each = base_bytes(shape), 2 * count
    apart, copies = base + tasks * each, tasks * base
    answer = copies if merged else apart
    unit = unit_of(answer)
    ask = (f"Each adapter is merged into a copy of its own, of which there are then {tasks}. How many {in_words(unit)} are "
           "these together?" if merged else
           f"The base is stored once, and the adapters beside it. How many {in_words(unit)} is that together?")
    return numeric(
        f"A model of {n:,} parameters serves {tasks} tasks. For each a LoRA adapter was trained, of {count:,} parameters. All "
        f"is stored in 16 bits a number. {ask}", answer,
        [Step("the base", f"2 x {n:,}", format_bytes(base)), Step("an adapter", f"2 x {count:,}", format_bytes(each)),
         Step("merged copies are as large as the base", f"{tasks} x {format_bytes(base)}", format_bytes(copies)) if merged else
         Step("together", f"{format_bytes(base)} + {tasks} x {format_bytes(each)}", format_bytes(apart)),
         Step("the other way it would be", "", format_bytes(apart if merged else copies))],
        [Mistake("adapters-for-copies" if merged else "copies-for-adapters", apart if merged else copies,
                 "That is one base with its adapters beside it. Once merged, each task has a whole model." if merged else
                 "That is a merged copy for each task. Adapters that are kept apart share one base."),
         Mistake("adapters-only", tasks * each, "That is the adapters alone. " + ("A merged copy has all of the base's "
                                                                                  "weights." if merged else
                                                                                "They need the base, once.")),
         Mistake("one-adapter", base + each, "That has one adapter; there are as many as tasks."),
         Mistake("copies-and-adapters", tasks * (base + each), "That stores base and adapter for each task." + (
             " The merged weights take the adapter up: they are no more than before." if merged else " The base is needed "
                                                                                                     "once.")),
         Mistake("one-byte", answer / 2, "That takes a byte for a number; 16 bits are 2."),
         Mistake("float32", answer * 2, "That takes 4 bytes for a number; 16 bits are 2.")],
        unit=unit, section="12_many_tasks")


# ---- four bits ------------------------------------------------------------------------------------------------------

@kind("qlora-weights", "qlora", "weights of a model in NF4", 2)
def qlora_weights(rng: np.random.Generator) -> Numeric:
    shape, double = _large_llama(rng), bool(rng.integers(2))
    n, total = all_parameters(shape), base_bytes(shape, replace(NF4, bnb_4bit_use_double_quant=double))
    bits = once((double, "bits"), lambda: quantize_4bit(np.ones(1 << 20, np.float32), compress_statistics=double)[1]
                .bits_per_parameter)
    outside = 2 * shape.vocab * shape.width
    inside, unit = n - outside, unit_of(total)
    constants = f"{bits - 4:.3g} bits a weight more"
    maxima = (f"quantized to 8 bits, and 32 more bits for every 256 of these (double quantization; {constants})" if double else
              f"in float32 ({constants})")
    return numeric(
        f"A Llama of {n:,} parameters is loaded in NF4, as for QLoRA: 4-bit codes, and for each block of 64 weights a maximum, "
        f"{maxima}. The embeddings and the head, {shape.vocab:,} x {shape.width:,} each, stay in 16 bits. (The norms are "
        "too small to matter.) " + f"How many {in_words(unit)} do the weights take?", total,
        [Step("embeddings and head", f"2 x {shape.vocab:,} x {shape.width:,} x 2 bytes", format_bytes(2 * outside)),
         Step("weights in NF4", f"{n:,} - {outside:,}", f"{inside:,}"),
         Step("bits of each", "", f"{bits:.4g}"),
         Step("their bytes", f"{inside:,} x {bits:.4g} / 8", format_bytes(inside * bits / 8)),
         Step("together", "", format_bytes(total))],
        [Mistake("all-in-four-bits", n / 2, "That is 4 bits for every parameter: without the blocks' maxima, and with "
                                            "embeddings and head in 4 bits, which they are not."),
         Mistake("no-constants", inside / 2 + 2 * outside, "That leaves out the blocks' maxima."),
         Mistake("embeddings-quantized", n * bits / 8, "That has the embeddings and the head in NF4. They stay in 16 bits."),
         Mistake("embeddings-left-out", inside * bits / 8, "That leaves out the embeddings and the head."),
         Mistake("16-bit", 2 * n, "That is the model in 16 bits."),
         Mistake("one-byte", n, "That is a byte for each weight. Two codes of 4 bits share one.")],
        unit=unit, tolerance=0.004, section="07_qlora")


@kind("qlora-training", "qlora", "training with QLoRA, activations apart", 3)
def qlora_training(rng: np.random.Generator) -> Numeric:
    shape, targets, r = _large_llama(rng), pick(rng, (ATTENTION, ALL_LINEAR)), pick(rng, (16, 64))
    method = LoraConfig(r=r, target_modules=list(targets))
    count, weights = trained(shape, method), base_bytes(shape, NF4)
    parts = trained_bytes(shape, method)
    total, n = weights + sum(parts.values()), all_parameters(shape)
    unit = unit_of(total)
    return numeric(
        f"A base of {n:,} parameters in NF4, constants and 16-bit embeddings included, takes {format_bytes(weights)}. QLoRA "
        f"with r = {r} on {named(targets)} trains {count:,} parameters, in float32, with AdamW (two moments in float32). How "
        f"many {in_words(unit)} does training need, activations and the one matrix that is dequantized at a time apart?", total,
        [Step("base, frozen: no gradients, no moments", "", format_bytes(weights)),
         Step("adapter", f"4 x {count:,}", format_bytes(parts["weights"])),
         Step("its gradients", f"4 x {count:,}", format_bytes(parts["gradients"])),
         Step("its moments", f"8 x {count:,}", format_bytes(parts["optimizer states"])),
         Step("together", "", format_bytes(total))],
        [Mistake("weights-only", weights + 4 * count, "That has the adapter's weights, but neither its gradients nor its "
                                                      "moments."),
         Mistake("base-only", weights, "That is the base alone."),
         Mistake("full-optimizer", weights + 10 * n, "That has gradients and moments for the base too. It is frozen and has "
                                                     "none: that is what makes QLoRA small."),
         Mistake("dequantized-base", weights + 2 * n + 16 * count, "That dequantizes the whole base at once. Only one matrix "
                                                                   "at a time is in 16 bits."),
         Mistake("16-bit-base", 2 * n + 16 * count, "That is LoRA on a 16-bit base."),
         Mistake("no-optimizer", weights + 8 * count, "That leaves out Adam's moments."),
         Mistake("no-gradients", weights + 12 * count, "That leaves out the adapter's gradients.")],
        unit=unit, tolerance=0.004, section="07_qlora")


@kind("dequantized", "qlora", "what is in 16 bits while a QLoRA model computes")
def dequantized(rng: np.random.Generator) -> Numeric:
    shape = _large_llama(rng, range(8000, 160000, 1000))
    small = replace(shape, layers=1, vocab=64)
    answer = 2 * once((small, "largest matrix"), lambda: max(
        parameter.size for parameter in bare_model(small.build(), NF4).parameters() if parameter.quantized))
    sides = {name: shape.sides(name) for name in ALL_LINEAR}
    layer, n = 2 * sum(a * b for a, b in sides.values()), all_parameters(shape)
    largest = max(sides, key=lambda name: sides[name][0] * sides[name][1])
    return numeric(
        f"{shape.words()}, and {n:,} parameters. Its linear layers are in NF4. Each weight matrix is dequantized to 16 bits "
        "just before it is used, and thrown away after that. How many MB (10^6 bytes) do dequantized weights take at most at "
        "any time?", answer,
        [Step("the largest matrix", f"{largest}: {sides[largest][0]:,} x {sides[largest][1]:,}", f"{answer // 2:,}"),
         Step("in 16 bits", f"2 x {answer // 2:,}", format_bytes(answer))],
        [Mistake("whole-model", 2 * n, "That is the whole model in 16 bits. It never is, which is the point of doing one "
                                       "matrix at a time."),
         Mistake("layer", layer, "That is all matrices of a layer. They are dequantized one after the other."),
         Mistake("attention-matrix", 2 * shape.width**2, "That is d x d. The feed-forward matrices are larger."),
         Mistake("one-byte", answer / 2, "That takes a byte for a number; 16 bits are 2."),
         Mistake("float32", answer * 2, "That takes 4 bytes for a number; 16 bits are 2."),
         Mistake("codes", answer / 4, "That is the matrix in 4 bits, as it is stored.")],
        unit="MB", section="07_qlora")


@kind("activations", "memory", "activations kept with gradient checkpointing")
def activations(rng: np.random.Generator) -> Numeric:
    shape, batch, tokens = draw_llama(rng), pick(rng, (1, 4, 16)), pick(rng, (512, 1024))
    small = replace(shape, layers=1, vocab=64)
    one = once((small, batch, tokens, "activations"), lambda: int(memory(
        small.build(), LoraConfig(r=8), batch=batch, tokens=tokens, adapter_dtype="bfloat16").parts["activations"]))
    answer = shape.layers * one
    unit = unit_of(answer)
    return numeric(
        f"A model of {shape.layers} layers and hidden size d = {shape.width:,} is trained with gradient checkpointing: of each "
        f"layer only its input is kept, in 16 bits, and all else is computed again in the backward pass. A batch has {batch} "
        f"row{'s' * (batch > 1)} of {tokens:,} tokens. How many {in_words(unit)} do the kept inputs take?", answer,
        [Step("numbers in a layer's input", f"{batch} x {tokens:,} x {shape.width:,}", f"{batch * tokens * shape.width:,}"),
         Step("all layers, 2 bytes each", f"{shape.layers} x 2 x {batch * tokens * shape.width:,}", format_bytes(answer))],
        [Mistake("one-layer", one, f"That is one layer; there are {shape.layers}."),
         Mistake("one-row", answer / batch, f"That is one row; a batch has {batch}."),
         Mistake("float32", 2 * answer, "That takes 4 bytes for a number; 16 bits are 2."),
         Mistake("one-byte", answer / 2, "That takes a byte for a number; 16 bits are 2."),
         Mistake("one-token", answer / tokens, "That is one token of each row."),
         Mistake("keys-and-values", answer * 2 * shape.kv_width / shape.width, "That is keys and values, which generation "
                                                                               "keeps. What is kept here is what enters a "
                                                                               "layer.")],
        unit=unit, section="07_qlora")
