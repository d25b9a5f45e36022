"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", section 3: QLoRA, its memory table, and NF4.

Where nothing else is said, training means one row of 2,048 tokens with gradient checkpointing, an adapter in 16 bits, and
Adam's means in float32. Llama-2-70B stands for "a 70B model", and r=64 on q for the table's 0.17 GB of adapter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.budget import base_parameters, format_bytes
from tinypeft.claims.audit.chapter_why import BYTES_EACH, of_full_training
from tinypeft.claims.claim import claim
from tinypeft.claims.experiments import (
    ATTENTION,
    CHOICES,
    FITS,
    GB,
    GB24,
    all_choices,
    base_bytes,
    by_module,
    full_training,
    normal_blocks,
    qlora_70b,
    squared_error,
    training,
)
from tinypeft.claims.judge import Computed, computed, searched, under
from tinypeft.claims.settings import lora
from tinypeft.claims.small_models import first_layer, inputs, largest, toy_lora
from tinypeft.quant import dequantize_blockwise, entropy, get_4bit_type, quantize_4bit, regions
from tinypeft.quant.codebooks import NF4_OFFSET, midpoints

TABLE, NF4_TYPE, CONCLUSION = "3. QLoRA, memory table", "3. QLoRA, NF4", "3. QLoRA, conclusion"
BASE = "llama-2-70b"


@claim("d-qlora-fwd", "3. QLoRA, forward pass", "formula", "dequantize W0, compute W0 x + B A x, discard W0 again",
       stated="W₀x + BAx", expects=0.0,
       why="The largest difference between a quantized layer with LoRA and the three steps done by hand, from the bytes of "
           "codes on. The order is right; the second step leaves out the factor alpha/r, which section 2 defines.",
       correct="The steps are: dequantize W0, compute W0 x + (alpha/r) B A x, discard the dequantized W0.")
def _() -> Computed:
    def difference(alpha: float) -> float:
        layer = first_layer(toy_lora(lora(4, lora_alpha=alpha), trained=True, quantized=True), "v_proj")
        (A, B), x = layer.factors("default"), inputs(32)
        return largest(layer(x).data - x.data @ (_decoded(layer.base_layer.weight) + B.data @ A.data).T)

    return under({"alpha = r": difference(4), "alpha = 2r": difference(8)})


def _decoded(weight: Any) -> np.ndarray:
    """The numbers of a 4-bit weight, in the plainest way: the first of two codes is in the high half of a byte."""
    state: Any = weight.quant_state
    codes = np.stack([weight.data >> 4, weight.data & 15], axis=-1).reshape(-1, state.blocksize)
    largest_of_blocks = dequantize_blockwise(state.absmax, state.state2) + state.offset
    values: np.ndarray = state.code[codes] * largest_of_blocks[:, None]
    return values.reshape(weight.matrix_shape)


# ---- the memory table -----------------------------------------------------------------------------------------------

@claim("d-tab-base", TABLE + ", base model", "memory", "the 70B base in 4-bit NF4 takes 35 GB", stated="35 GB",
       why="Half a byte for each of 70 billion parameters. The blocks' constants make it {bits:.3f} bits a number with double "
           "quantization, and {kept:,} numbers, embeddings, head and norms, stay in 16 bits.",
       correct="The base takes {double} with double quantization, {plain} with float32 constants.")
def _() -> Computed:
    double, plain = base_bytes(BASE), base_bytes(BASE, "nf4, float32 constants")
    kept = round((base_bytes(BASE, prepared=True) - double) / 2)  # two bytes more for each that is not quantized
    return under({"double quantization": double, "float32 constants": plain}, kept=kept,
                 bits=8 * (double - 2 * kept) / (base_parameters(BASE) - kept), double=format_bytes(double),
                 plain=format_bytes(plain))


@claim("d-tab-opt560", TABLE + ", optimizer states", "memory", "full fine-tuning has 560 GB of optimizer states",
       stated="560 GB", why=BYTES_EACH)
def _() -> Computed:
    return of_full_training("optimizer states")


@claim("d-tab-grad140", TABLE + ", gradients", "memory", "full fine-tuning has 140 GB of gradients",
       stated="140 GB", why=BYTES_EACH)
def _() -> Computed:
    return of_full_training("gradients")


@claim("d-tab-lora-017", TABLE + ", LoRA params", "memory", "LoRA with r=64 takes about 0.17 GB on the 70B model",
       stated="~0.17 GB (r=64)", expects="0.17 GB", unit="GB",
       why="The page does not say which modules, or how wide the numbers are. Of {subsets} choices of modules in 8, 16 or 32 "
           "bits only one square projection a layer fits, q or o, in 16 bits (or both in 8): {count:,} parameters, {q}.",
       correct="r=64 takes {q} on q alone, {qkvo} on q, k, v and o, {linear} on all linear layers, in 16 bits.")
def _() -> Computed:
    sizes = by_module(BASE, 64)
    choices = all_choices(sizes)
    readings = {f"{names}, {8 * width} bits": float(width * count) for names, count in choices.items() for width in (1, 2, 4)}
    return searched(readings, subsets=len(choices), count=sizes["q_proj"], q=format_bytes(2 * sizes["q_proj"]),
                    qkvo=format_bytes(2 * sum(sizes[name] for name in ATTENTION)), linear=format_bytes(2 * sum(sizes.values())))


@claim("d-tab-lora-opt", TABLE + ", LoRA opt states", "memory", "their optimizer states take about 0.5 GB", stated="~0.5 GB",
       why="Adam keeps two float32 means, {each:g} bytes a parameter. On q alone, which the row above is about, that is {q}; "
           "the page's own Problem 3 says 0.68 GB.",
       correct="Adam's means take {q} for r=64 on q alone.")
def _() -> Computed:
    found = {title: qlora_70b(title) for title in CHOICES}
    states = {title: need.parts["optimizer states"] for title, need in found.items()}
    return under(states, each=states["q"] / found["q"].trainable, q=format_bytes(states["q"]))


@claim("d-tab-total", TABLE + ", total", "memory", "QLoRA of the 70B model takes about 36 GB in all", stated="~36 GB",
       why="The sum leaves out the adapter's gradients, activations, and the weight that is dequantized at the moment. Its own "
           "Problem 3 says 38 to 39 GB. The base alone is {base}.",
       correct="QLoRA of the 70B model takes {q} with r=64 on q, {linear} with r=64 on all linear layers.")
def _() -> Computed:
    found = {f"r=64 on {title}": qlora_70b(title).total for title in CHOICES}
    return under(found, base=format_bytes(base_bytes(BASE)), q=format_bytes(found["r=64 on q"]),
                 linear=format_bytes(found["r=64 on all linear"]))


@claim("d-23x", CONCLUSION, "memory", "QLoRA reduces memory about 23 times", stated="~23x",
       why="With all that each training needs, {full} becomes {qlora} with r=64 on q alone; about 23 times is right for r=64 "
           "on all linear layers. The document's own totals, 840 GB and 36 GB, both leave something out; they give "
           "{table:.1f}, and with the 38.5 GB of its Problem 3 {problem:.1f}.",
       correct="QLoRA needs {least:.0f} to {most:.0f} times less memory, by the modules that are adapted.")
def _() -> Computed:
    return reduction()


def reduction() -> Computed:
    """How many times less memory QLoRA needs than full fine-tuning, and what the document's own totals give."""
    full = full_training().total
    needs = {title: qlora_70b(title).total for title in CHOICES}
    times = {f"r=64 on {title}": full / need for title, need in needs.items()}
    return under(times, full=f"{full / GB:,.0f} GB", qlora=f"{needs['q'] / GB:,.0f} GB", least=min(times.values()),
                 most=max(times.values()), table=840 / 36, problem=840 / 38.5)


@claim("d-24gb", CONCLUSION, "memory", "one consumer card with 24 GB can fine-tune a 70B model",
       stated="a single consumer GPU (RTX 3090/4090 with 24GB)", expects=FITS, unit="%",
       why="The quantized weights alone are {base}; the document's own 35 GB would not fit either. 24 GB hold the codes of at "
           "most {most:.0f} billion 4-bit weights, without constants or anything else.",
       correct="It takes one card of 48 GB or more, or {cards} of 24 GB that share the model.")
def _() -> Computed:
    base, need = base_bytes(BASE), qlora_70b().total
    return under({"the base, of 24 GB": base / GB24, "training with r=64 on q, of 24 GB": need / GB24}, base=format_bytes(base),
                 most=GB24 * 2 / 1e9, cards=int(np.ceil(need / GB24)))


@claim("d-24gb-critical", CONCLUSION, "memory", "QLoRA of a 70B model fits on a high-end consumer GPU",
       stated="it fits on a high-end consumer GPU", expects=FITS, unit="%",
       why="The same conclusion once more. Even with the smallest adapter, r=1 on q, training needs {need}.",
       correct="It does not fit on one consumer GPU.")
def _() -> Computed:
    need = training(BASE, 1, CHOICES["q"]).total
    return under({"RTX 4090, of 24 GB": need / GB24, "RTX 5090, of 32 GB": need / 32e9}, need=format_bytes(need))


# ---- NF4 ------------------------------------------------------------------------------------------------------------

@claim("d-nf4-16", NF4_TYPE, "parameter-count", "4 bits give 16 values", stated="2⁴ = 16 bins", expects=16,
       why="Different codes among many quantized normal numbers. {below} of the values are below zero, {above} above, and "
           "one is zero.")
def _() -> Computed:
    packed, state = quantize_4bit(np.random.default_rng(0).standard_normal(1 << 16).astype(np.float32))
    codes = np.unique(np.concatenate([packed >> 4, packed & 15]))
    values = state.code[codes]
    return computed(len(np.unique(values)), below=int((values < 0).sum()), above=int((values > 0).sum()))


@claim("d-nf4-mass", NF4_TYPE, "property", "each of the 16 bins has the same probability under a Gaussian",
       stated="equal probability mass", expects="6.25 %",
       why="How often the values are used, for normal numbers in blocks of 64 that are divided by their largest: {ratio:.2f} "
           "times as often one as the other, and {bits:.3f} of 4 bits of information. Levels near zero lie close together, but "
           "not as close as equal use would need.",
       correct="The bins have between {least} and {most} each, in blocks of 64.")
def _() -> Computed:
    mass, _ = regions(get_4bit_type("nf4"), normal_blocks())
    return under({"the least used": float(mass.min()), "the most used": float(mass.max())}, ratio=mass.max() / mass.min(),
                 bits=entropy(mass), least=f"{mass.min():.2%}", most=f"{mass.max():.2%}")


@claim("d-nf4-boundaries", NF4_TYPE, "property", "NF4's boundaries are quantiles", stated="quantile-based boundaries",
       expects="0 %", unit="%",
       why="The largest distance of a boundary from the 16-quantile that it would have to be, in probability. Quantiles are "
           "the levels: equal steps of {above:.2%} above zero and {below:.2%} below. Boundaries lie midway between levels.",
       correct="NF4's levels are quantiles; its boundaries are midway between them.")
def _() -> Computed:
    from scipy.special import ndtr, ndtri

    levels = get_4bit_type("nf4").astype(np.float64) * ndtri(NF4_OFFSET)  # on the scale on which they were designed
    off = np.abs(ndtr(midpoints(levels)) - np.arange(1, 16) / 16).max()
    above, below = np.diff(ndtr(levels[levels >= 0])), np.diff(ndtr(levels[levels <= 0]))
    return computed(float(off), above=above.mean(), below=below.mean())


@claim("d-nf4-min-error", NF4_TYPE, "property", "bins of equal mass minimize the quantization error",
       stated="minimizing quantization error", expects=1.0, unit="x",
       why="Mean squared error on normal weights in blocks of 64, divided by the least possible (Lloyd-Max, {least:.5f} of "
           "their mean square). Equal use of all codes maximizes the information in them; it does not minimize the error.",
       correct="NF4 comes within {near:.0%} of the least error; equal mass would make it {far:.1f} times as large.")
def _() -> Computed:
    least = squared_error("lloyd-max")
    near, far = squared_error("nf4") / least, squared_error("equal mass") / least
    return under({"NF4": near, "bins of equal mass": far}, least=least, near=near - 1, far=far)


@claim("d-nf4-enterprise", CONCLUSION, "statement",
       "without QLoRA, a 70B model takes enterprise hardware; with it, a consumer GPU",
       stated="Without QLoRA, … enterprise-grade hardware", expects=True,
       why="Whether training fits with QLoRA ({qlora}) and does not without ({lora}, LoRA on a 16-bit base), on cards of 24 GB "
           "that share everything evenly. On one neither fits; two are within a workstation; eight, a server, hold both.",
       correct="QLoRA brings a 70B model from {many} cards of 24 GB to {few}, not to one.")
def _() -> Computed:
    qlora, plain = qlora_70b().total, qlora_70b(base="16 bits").total
    return under({f"{cards} x 24 GB": bool(qlora <= cards * GB24 < plain) for cards in (1, 2, 8)}, qlora=format_bytes(qlora),
                 lora=format_bytes(plain), many=int(np.ceil(plain / GB24)), few=int(np.ceil(qlora / GB24)))
