"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", practice problem 3: the memory of QLoRA with r = 64 on a 70B model.

The problem's "~168 MB" of adapter are those of r = 64 on one matrix of 8192 x 8192 in each layer, q or o; so it is q here.
"""

from __future__ import annotations

import functools
from typing import Any

from tinypeft.budget import Breakdown, build, format_bytes, memory
from tinypeft.claims.audit.chapter_table import merged_in_four_bits
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import GB, GB80, adapter_cost, base_bytes, qlora_70b
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.settings import NF4
from tinypeft.nn import Linear

RUNNING, TRAINING = "Problem 3, inference only", "Problem 3, training"
BASE, ITS_BASE = "llama-2-70b", 35 * GB  # the document's own figure: 70 billion times half a byte

@functools.lru_cache(maxsize=1)
def running() -> Breakdown:
    """Generating with the 4-bit base, 2,048 tokens in the cache."""
    return memory(BASE, training=False, quantization=NF4)


@functools.lru_cache(maxsize=1)
def one_layer() -> int:
    """Bytes of one layer's matrices in 16 bits."""
    layer = build(BASE).get_submodule("model.layers.0")
    return 2 * sum(module.weight.size for module in layer.modules() if isinstance(module, Linear))


# ---- inference ------------------------------------------------------------------------------------------------------

@claim("d-p3-35", RUNNING + ", NF4 base", "memory", "70B in NF4 take 35 GB", stated="35 GB",
       why="Half a byte for each weight is not all: block constants, and 16 bits for the token table and the head. (That there "
           "are not quite 70 billion weights works the other way.)",
       correct="70B in NF4 take {double} with double quantization, {plain} without.")
def _() -> Computed:
    double, plain = base_bytes(BASE), base_bytes(BASE, "nf4, float32 constants")
    return under({"double quantization": double, "float32 constants": plain}, double=format_bytes(double),
                 plain=format_bytes(plain))


@claim("d-p3-merged0", RUNNING + ", LoRA merged", "memory", "for inference the adapter is merged into the NF4 base, and takes "
       "nothing", stated="0 GB", expects=0.0, unit="GB",
       why="These are the ways that keep the adapter: beside the 4-bit base, or merged into a 16-bit copy. Merged into 4 bits "
           "it does take nothing, but an update of 1.5 % of the weights comes out with an error of {lost:.2f} times itself: it "
           "is lost.",
       correct="The adapter takes {beside} beside the base.")
def _() -> Computed:
    beside = qlora_70b().parts["adapter weights"]
    return under({"beside the base": beside, "merged in 16 bits": base_bytes(BASE, "16 bits") - base_bytes(BASE)},
                 beside=format_bytes(beside), lost=merged_in_four_bits(0.015)[0])


@claim("d-p3-140tmp", RUNNING + ", dequantization", "memory", "dequantizing on the fly takes about 140 GB", stated="~140 GB",
       why="A matrix is dequantized when it is used, and dropped: the largest takes {matrix}, all of a layer {layer}. The text "
           "itself goes on to say that it is one layer at a time. (And compute is not measured in GB.)",
       correct="Dequantizing takes at most {matrix} at a time.")
def _() -> Computed:
    matrix = running().parts["dequantized weight"]
    return under({"largest matrix": matrix, "one layer": one_layer()}, matrix=format_bytes(matrix),
                 layer=format_bytes(one_layer()))


@claim("d-p3-3637", RUNNING + ", total", "memory", "the base and the largest layer in 16 bits take 36 to 37 GB",
       stated="36-37 GB", expects=Range(36 * GB, 37 * GB), unit="GB",
       why="From its own base with a whole layer, or the real one with a matrix at a time, as layers are computed. The cache "
           "of 2,048 tokens comes on top, and what it takes to read them: {total}.")
def _() -> Computed:
    matrix = running().parts["dequantized weight"]
    return under({"35 GB and a layer": ITS_BASE + one_layer(), "real base and a matrix": base_bytes(BASE) + matrix},
                 total=format_bytes(running().total))


# ---- training -------------------------------------------------------------------------------------------------------

def gradients(budget: Breakdown) -> float:
    """Bytes of the adapter's gradients: as many numbers as it has, and as wide. (Not all are there at the peak.)"""
    return budget.parts["adapter weights"]


@claim("d-p3-grad", TRAINING + ", LoRA gradients", "memory", "the adapter's gradients take 0.17 GB in 16 bits",
       stated="0.17 GB", why="{count:,} parameters of 2 bytes: r = 64 on q in 80 layers. On q, k, v and o it is {qkvo}.")
def _() -> Computed:
    return computed(gradients(qlora_70b()), count=qlora_70b().trainable, qkvo=format_bytes(gradients(qlora_70b("q, k, v, o"))))


# It is computed from a rounded 0.17, which may be off by 0.005, 3 %; and so may the product.
@claim("d-p3-opt", TRAINING + ", LoRA optimizer", "memory", "AdamW's two means take 0.17 x 2 x 2 = 0.68 GB in 32 bits",
       stated="0.68 GB", about=0.03,
       why="{exact:.3f} GB for {count:,} parameters of 8 bytes; the document multiplies a number that it has rounded. peft "
           "keeps adapters in 32 bits unless told otherwise: {wide} for weights, gradients and means together.",
       correct="AdamW's two means take {exact:.2f} GB.")
def _() -> Computed:
    budget = qlora_70b()
    wide = adapter_cost(qlora_70b(adapter_dtype="float32"))
    return computed(budget.parts["optimizer states"], exact=budget.parts["optimizer states"] / GB,
                    count=budget.trainable, wide=format_bytes(wide))


@claim("d-p3-act", TRAINING + ", activations", "memory", "the activations of a row of 2,048 tokens take 2 to 3 GB",
       stated="~2-3 GB", expects=Range(2 * GB, 3 * GB), unit="GB",
       why="What enters each of the 80 layers takes that much, and with gradient checkpointing nothing else is kept, but for "
           "the layer that is computed again. The document does not mention checkpointing.",
       correct="The activations take {checkpointed} with gradient checkpointing, {all} without.")
def _() -> Computed:
    settings: dict[str, dict[str, Any]] = {"checkpointing": {}, "all kept": {"checkpointing": False},
                                           "all kept, attention scores too": {"checkpointing": False, "attention": "eager"}}
    kept = {name: qlora_70b(**setting).parts["activations"] for name, setting in settings.items()}
    return under(kept, checkpointed=format_bytes(kept["checkpointing"]), all=format_bytes(kept["all kept"], 0))


def its_total() -> float:
    """The document's base, with the adapter and the kept activations as computed."""
    return ITS_BASE + adapter_cost(qlora_70b()) + qlora_70b().parts["activations"]


@claim("d-p3-total", TRAINING + ", total", "memory", "the parts sum to 38 to 39 GB", stated="~38-39 GB",
       expects=Range(38 * GB, 39 * GB), unit="GB",
       why="Its 35 GB of base with adapter and activations as computed. With the real base and all that is there at the peak "
           "it is {real}.")
def _() -> Computed:
    return computed(its_total(), real=format_bytes(qlora_70b().total))


@claim("d-p3-fits80", TRAINING + ", card", "memory", "this fits a single A100 or H100 of 80 GB",
       stated="Fits on a single A100 80GB", expects=Range(high=GB80), unit="GB",
       why="One row of 2,048 tokens with checkpointing; on q alone, as the problem has it, and on all linear layers, as "
           "QLoRA's paper recommends.")
def _() -> Computed:
    return under({modules: qlora_70b(modules).total for modules in ("q", "all linear")})


@claim("d-p3-vs-table", TRAINING + ", against the table of section 3", "memory", "QLoRA with r = 64 on 70B takes about 36 GB "
       "in the table, and 38 to 39 GB here", stated="~36 GB",
       why="The table leaves out gradients ({gradients}) and activations ({activations}), and has 0.5 GB of optimizer states "
           "instead of {means}.",
       correct="It takes {real} at 2,048 tokens with checkpointing.")
def _() -> Computed:
    budget = qlora_70b()
    return under({"the problem's parts": its_total(), "the real model": budget.total},
                 gradients=format_bytes(gradients(budget)), activations=format_bytes(budget.parts["activations"]),
                 means=format_bytes(budget.parts["optimizer states"]), real=format_bytes(budget.total))
