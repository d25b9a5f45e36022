"""Objective 3, the weights: what four bits cost, which codebook does what, what is expanded when, what a merge loses."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

from tinypeft import viz
from tinypeft.budget import base_parameters, build, format_bytes
from tinypeft.budget.memory import memory
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.runs import BUNDLED
from tinypeft.claims.settings import NF4, NF4_EXACT
from tinypeft.models import AutoModelForCausalLM
from tinypeft.peft import LoraConfig, get_peft_model
from tinypeft.peft.targets import find_targets
from tinypeft.quant import (
    BitsAndBytesConfig,
    ScaledValues,
    dequantize_4bit,
    entropy,
    equal_mass,
    get_4bit_type,
    lloyd_max,
    quantize_4bit,
    regions,
)

INT8 = BitsAndBytesConfig(load_in_8bit=True)


@family("bits", objective=3, topic="quantization", methods=("qlora",), section="06_quantization")
def bits() -> Table:
    """Bits a parameter, by block size and with or without double quantization: measured on what is stored."""
    def measured(blocksize: int, double: bool) -> float:
        return quantize_4bit(np.ones(2**18, np.float32), "nf4", blocksize, double)[1].bits_per_parameter

    values = {"plain": measured(64, False), "double": measured(64, True), "wide": measured(128, False),
              "wide_double": measured(128, True)}
    unlike(values, 1.005)
    ask = ("How many bits are stored for each parameter, constants included? (float32 maxima; where they are quantized: to 8 "
           "bits, in blocks of 256 with a float32 maximum each)")
    return Table(
        hint="A constant is shared by a block: divide its bits by the block size; double quantization adds a small one for 256 "
             "blocks",
        options={name: f"{value:.2f}" for name, value in values.items()},
        prompts=[
            asked("double",
                  f"Weights are stored in NF4 in blocks of 64, with double quantization. {ask}",
                  "8 bits for 64 weights, and 32 bits for 256 times as many: double quantization takes constants from half a "
                  "bit to an eighth.",
                  plain="double-quantization-forgotten: That has a float32 maximum for each block: 32 / 64 = half a bit.",
                  wide="constants-halved: Double quantization stores the maxima in 8 bits, a quarter of 32, not a half.",
                  wide_double="block-size: That is for blocks of 128, whose constants cost half as much.",
                  steps=(Step("codes, maxima, their maxima", "4 + 8/64 + 32/(64 x 256)", f"{values['double']:.2f}"),)),
            asked("plain",
                  f"Weights are stored in NF4 in blocks of 64, without double quantization. {ask}",
                  "A float32 maximum for 64 weights is half a bit for each: four-bit weights take an eighth more than four "
                  "bits.",
                  double="double-quantization-assumed: That stores the maxima in 8 bits. It has to be switched on.",
                  wide="block-size: That is for blocks of 128: 32 / 128 is a quarter of a bit.",
                  wide_double="cheapest-of-both: That is for blocks of 128 with double quantization.",
                  steps=(Step("codes and maxima", "4 + 32/64", f"{values['plain']:.2f}"),)),
            asked("wide",
                  f"Weights are stored in NF4 in blocks of 128, without double quantization. {ask}",
                  "Twice as many weights share a float32 maximum, so it costs a quarter of a bit; the error grows, as the "
                  "maximum of more numbers is larger.",
                  plain="block-size: That is for blocks of 64: half a bit for the maxima.",
                  double="double-quantization-for-blocks: Larger blocks save half of the constants, double quantization three "
                         "quarters; they are two ways.",
                  wide_double="double-quantization-assumed: That stores the maxima in 8 bits as well.",
                  steps=(Step("codes and maxima", "4 + 32/128", f"{values['wide']:.2f}"),)),
            asked("wide_double",
                  f"Weights are stored in NF4 in blocks of 128, with double quantization. {ask}",
                  "8 bits for 128 weights, and next to nothing for the maxima of the maxima.",
                  plain="neither-saving: That has 32 bits for 64 weights: neither the larger blocks nor the smaller maxima.",
                  double="block-size: That is for blocks of 64: 8 / 64 is an eighth of a bit.",
                  wide="double-quantization-forgotten: That has float32 maxima; quantized, they take a quarter of that.",
                  steps=(Step("codes, maxima, their maxima", "4 + 8/128 + 32/(128 x 256)", f"{values['wide_double']:.2f}"),)),
        ])


@functools.cache
def _codebooks() -> tuple[ScaledValues, dict[str, tuple[np.ndarray, np.ndarray | None]]]:
    """What a codebook sees of normal weights in blocks of 64; and codebooks with the boundaries of their regions."""
    from scipy.stats import norm

    seen = ScaledValues.of_distribution(norm, points=8000)
    return seen, {"NF4": (get_4bit_type("nf4"), None), "int4": (get_4bit_type("int4"), None),
                  "Lloyd-Max": (lloyd_max(seen), None), "quantile means": equal_mass(seen)}


def _draw_codebooks() -> viz.Picture:
    seen, books = _codebooks()
    height, edges = np.histogram(seen.values, bins=50, weights=seen.mass, density=True)
    return viz.plot_levels({name: code.tolist() for name, (code, _) in books.items()},
                           ((edges[1:] + edges[:-1])[1:-1] / 2, height[1:-1]), "Normal numbers in blocks of 64, and four "
                                                                               "codebooks")


@family("codebooks", objective=3, topic="quantization", methods=("qlora",), section="06_quantization")
def codebooks() -> Table:
    """NF4 and the codebooks that it is taken for: entropy and errors by integration."""
    seen, books = _codebooks()
    measured = {name: regions(code, seen, boundaries) for name, (code, boundaries) in books.items()}
    used = {name: entropy(mass) for name, (mass, _) in measured.items()}
    error = {name: float(e.sum()) for name, (_, e) in measured.items()}
    gap = {name: max(np.diff(np.unique(code)).max() / 2, 1 - code.max()) for name, (code, _) in books.items()}
    mass = measured["NF4"][0]
    key = {name: name.replace(" ", "_").replace("-", "_") for name in books}
    given = ("Normally distributed weights are stored in blocks of 64, each divided by its largest magnitude, in one of the "
             "four codebooks of the figure.")
    return Table(
        hint="A code that is used as often as every other carries most information; the least squared error asks for something "
             "else",
        options={key[name]: name for name in books},
        prompts=[
            asked(key[max(used, key=lambda name: used[name])],
                  f"{given} Which one uses its 16 values equally often?",
                  f"Its regions end at quantiles, so that a code carries {used['quantile means']:.2f} bits. It pays with the "
                  f"largest squared error of the four, {error['quantile means'] / error['NF4']:.1f} times NF4's.",
                  NF4="nf4-equal-mass: NF4 is often said to. Its values are quantiles of a normal distribution, but in blocks "
                      f"divided by their maximum its regions hold {mass.min():.1%} to {mass.max():.1%}.",
                  Lloyd_Max="least-error-is-equal-use: Least error and equal use are different aims: its codes carry "
                            f"{used['Lloyd-Max']:.2f} bits.",
                  int4="equal-steps-equal-use: Equal steps are used most where the numbers are dense: its codes carry "
                       f"{used['int4']:.2f} bits.",
                  draw=_draw_codebooks),
            asked(key[min(error, key=lambda name: error[name])],
                  f"{given} Which one has the least mean squared error?",
                  "Every value is the mean of its region and regions end midway: the condition for the least squared error. It "
                  f"is {1 - error['Lloyd-Max'] / error['NF4']:.0%} below NF4's.",
                  NF4="nf4-is-optimal: NF4 is close, but its values are neither means of their regions nor spaced for squared "
                      f"error: {error['NF4']:.5f} against {error['Lloyd-Max']:.5f}.",
                  quantile_means="information-is-accuracy: Equal use carries most information in a code, and spends values "
                                 f"where errors are small anyway: {error['quantile means']:.5f} against "
                                 f"{error['Lloyd-Max']:.5f}.",
                  int4=f"equal-steps-are-fair: Equal steps waste values where there are few numbers: {error['int4']:.5f} "
                       f"against {error['Lloyd-Max']:.5f}.",
                  draw=_draw_codebooks),
            asked(key[min(gap, key=lambda name: gap[name])],
                  f"{given} Which one has the smallest error in the worst case, relative to the block's maximum?",
                  "The worst error is half of the widest gap, or what lies beyond the last value, and equal steps have the "
                  f"narrowest: {gap['int4']:.3f}.",
                  NF4=f"mean-for-worst: On average it is better, but its outer values lie up to {2 * gap['NF4']:.2f} apart.",
                  Lloyd_Max="mean-for-worst-optimal: It has the least error on average; its outer gaps are wider than equal "
                            f"steps: up to {gap['Lloyd-Max']:.3f} off.",
                  quantile_means="equal-use-bounds-error: Few numbers lie far out, so few values do: up to "
                                 f"{gap['quantile means']:.3f} off.",
                  draw=_draw_codebooks),
            asked("NF4",
                  f"{given} Which one is the same for every model, has denser values near zero, and keeps both zeros and each "
                  "block's maximum exact?",
                  "Fixed quantiles of the normal distribution, divided by the largest; 0 and 1 are put among them, and -1, as "
                  "a maximum may have either sign.",
                  int4="equal-steps-dense: It keeps 0 and the maximum, but its steps are equal everywhere.",
                  Lloyd_Max="optimal-keeps-zero: It is fitted to the numbers at hand, and has no value at 0 nor at 1.",
                  quantile_means="quantiles-keep-zero: It is made of quantiles too, but of the numbers at hand, and has no "
                                 "value at 0 nor at 1.",
                  draw=_draw_codebooks),
        ])


@family("expanded", objective=3, topic="qlora", methods=("qlora",), section="07_qlora")
def expanded() -> Table:
    """What of a four-bit 70B model is there in 16 bits, and when."""
    model: Any = build("llama-2-70b")
    layer = model.model.layers[0]
    matrices = sum(p.ndim == 2 for p in layer.parameters())
    stored = memory("llama-2-70b", training=False, quantization=NF4)
    values = {"matrix": stored.parts["dequantized weight"], "layer": 2.0 * sum(p.size for p in layer.parameters()),
              "stored": stored.parts["base weights"], "copy": 2.0 * base_parameters("llama-2-70b")}
    unlike(values)
    given = "Llama-2-70B is loaded in NF4 with double quantization, to be run and adapted in bfloat16."
    return Table(
        hint="A weight in four bits is turned into 16 bits when it is multiplied with, and dropped again",
        options={name: format_bytes(value) for name, value in values.items()},
        prompts=[
            asked("matrix",
                  f"{given} How much memory do weights expanded to 16 bits take at most at one time, in a forward pass with "
                  "bitsandbytes?",
                  "Each linear layer expands its own matrix and drops it after the product: at most the largest matrix, of the "
                  "feed-forward part.",
                  copy="whole-model-expanded: The weights are never all in 16 bits at once; then four bits would have saved "
                       "nothing.",
                  layer=f"block-by-block: A decoder layer has {matrices} such matrices, and they are expanded one after "
                        "another.",
                  stored="stored-for-expanded: That is what the four-bit weights take all the time."),
            asked("layer",
                  f"{given} Suppose a program expanded all matrices of one decoder layer to 16 bits before computing with it: "
                  "how much memory would they take?",
                  "All of a layer's weights at two bytes: still little beside the stored weights.",
                  matrix=f"largest-matrix: That is the largest of its {matrices} matrices alone.",
                  copy="whole-model-expanded: That is the whole model, all its layers.",
                  stored="stored-for-expanded: That is what the four-bit weights take all the time."),
            asked("copy",
                  f"{given} A LoRA trained on it is to be merged so that nothing of the update is lost. How much memory do the "
                  "weights take that it is merged into?",
                  "It has to be merged into weights of 16 bits, and a merged model is one with all of them. Rounded to four "
                  "bits again, most of the update would be gone.",
                  stored="merge-into-four-bits: Merging into the four-bit weights means to round them again, and the update is "
                         "smaller than their steps.",
                  matrix="merge-is-local: Matrix by matrix one can compute it, but the result has to be kept in 16 bits, for "
                         "every matrix.",
                  layer="merge-by-layer: Layer by layer one can compute it, but the result has to be kept in 16 bits, for "
                        "every layer."),
            asked("stored",
                  f"{given} How much memory do the weights take while they wait, embeddings and head included?",
                  "Four bits and constants for the linear layers, 16 bits for embeddings, head and norms.",
                  matrix="expanded-for-stored: That is the largest matrix in 16 bits, while it is multiplied with.",
                  layer=f"layer-for-model: That is one of {model.config.num_hidden_layers} decoder layers, in 16 bits.",
                  copy="four-bits-in-name: That is the model in 16 bits, as it was before it was quantized."),
        ])


def _merge_loss(config: BitsAndBytesConfig, share: float, dequantized: bool = False) -> float:
    """|realised - wanted| / |wanted| of merging a LoRA, whose change has this share of the weights' norm; mean over layers."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(BUNDLED, quantization_config=config),
                           LoraConfig(r=8, init_lora_weights=False, target_modules="all-linear"))
    layers: list[Any] = list(model.layers())
    for layer in layers:
        _, B = layer.factors("default")
        B.data = B.data * np.float32(share * np.linalg.norm(layer.base_layer.weight.values())
                                     / np.linalg.norm(layer.delta_weight("default")))
    if dequantized:
        model.dequantize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that merging loses something is what is measured
        model.merge_adapter()
    return float(np.mean([layer.merge_loss for layer in layers]))


def _plain_weights() -> list[np.ndarray]:
    """The matrices of the small model's linear layers, not quantized."""
    model: Any = AutoModelForCausalLM.from_pretrained(BUNDLED)
    return [model.get_submodule(path).weight.data for path in find_targets(model, LoraConfig(target_modules="all-linear"))]


def _eight_bit_step() -> float:
    """The distance of two codes of LLM.int8, by the root mean square of the weights; mean over layers."""
    return float(np.mean([np.sqrt(np.mean(np.abs(W).max(axis=1) ** 2) / np.mean(W**2)) / 127 for W in _plain_weights()]))


def _nf4_rounding() -> float:
    """The error of rounding to NF4, by the size of the weights; mean over layers."""
    return float(np.mean([np.linalg.norm(dequantize_4bit(*quantize_4bit(W, "nf4", 64)) - W) / np.linalg.norm(W)
                          for W in _plain_weights()]))


@family("requantized", objective=3, topic="qlora", methods=("qlora",), section="07_qlora")
def requantized() -> Table:
    """What merging loses: measured on a small model."""
    values = {"float": _merge_loss(NF4_EXACT, 0.015, dequantized=True), "int8": _merge_loss(INT8, 0.015),
              "large": _merge_loss(NF4_EXACT, 0.3), "nf4": _merge_loss(NF4_EXACT, 0.015)}
    unlike(values)
    step = _eight_bit_step()
    ask = ("How large is the error of the merged weights, |change made - change wanted| / |change wanted|? (In 8 bits a step "
           f"is {step:.1%} of the weights' size here, their root mean square. A sum that lies anywhere between two codes is "
           "rounded wrong by 0.29 of their distance on average. NF4's distances differ; rounding to it is off by "
           f"{_nf4_rounding():.0%} of the weights' size.)")
    return Table(
        hint="Merged weights are rounded to the base's codes again; compare the change with the distance between two codes",
        options={name: f"about {value:.0%}" for name, value in values.items()},
        prompts=[
            asked("nf4",
                  "A LoRA whose change is 1.5% of the weights' norm is merged into an NF4 base with double quantization. "
                  f"{ask}",
                  "The change is far below the distance of two codes: rounding takes it back, and new constants add an error "
                  "of their own. What is left is worse than no change.",
                  float="merge-is-exact: W + s B A is exact in floating point. Here the sum is rounded to 16 values a block.",
                  large="some-survives: For that the change would have to be as large as the steps between codes, not a small "
                        "part of them.",
                  int8="eight-bit-steps: With 256 values a row that much is lost; NF4 has 16."),
            asked("int8",
                  f"A LoRA whose change is 1.5% of the weights' norm is merged into a base in 8 bits (LLM.int8). {ask}",
                  f"The steps, 1/127 of a row's maximum, are about as large as the change, so that the sum may lie anywhere "
                  f"between two codes: 0.29 x {step:.1%} / 1.5%, nearly {0.29 * step / 0.015:.0%}.",
                  float="eight-bits-are-exact: Eight bits are finer than four, but the change is about as small as one step of "
                        "theirs.",
                  nf4="as-in-four-bits: The steps of NF4 swallow such a change whole, those of 8 bits only in part.",
                  large="error-of-four-bits: So much NF4 loses of a change many times as large; the smaller the change, the "
                        "more of it is lost."),
            asked("large",
                  "A LoRA whose change is 30% of the weights' norm, very much for an adapter, is merged into an NF4 base with "
                  f"double quantization. {ask}",
                  f"The rounding error of NF4 is {0.3 * values['large']:.0%} of the weights' norm, whatever is merged: against "
                  f"so large a change it is {values['large']:.0%}.",
                  float="merge-is-exact: The sum is rounded to 16 values a block, however large the change.",
                  nf4="always-lost: A change of many steps is not lost: codes do change. What stays is the rounding error.",
                  int8="eight-bit-steps: With a small change in 8 bits that much is lost."),
            asked("float",
                  "A LoRA whose change is 1.5% of the weights' norm was trained on an NF4 base; the base is dequantized to "
                  f"floating point, then merged into. {ask}",
                  "Nothing is rounded to codes any more. The base keeps its quantization error, but the update is added in "
                  "full.",
                  nf4="quantized-once-quantized-forever: That is when the sum is quantized again. A dequantized base takes the "
                      "update as it is.",
                  int8="error-of-the-base: The base's own rounding error is there before and after, and is no part of the "
                       "change.",
                  large="part-is-lost: No code is chosen again, so that nothing of the update can be lost, be it small or "
                        "large."),
        ])
