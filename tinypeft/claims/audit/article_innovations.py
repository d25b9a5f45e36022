"""Claims of "Understanding PEFT" on recent innovations: QLoRA (Dettmers et al. 2023, 2305.14314), and what it calls ULoRA.

ULoRA's formula is that of tinypeft/peft/ulora.py, for row vectors: ΔW = diag(v) A B with A (d, r), B (r, k).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.budget import base_parameters, format_bytes, parse_quantity
from tinypeft.budget.weights import dtype_bytes
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import adapter_cost, all_choices, base_bytes, by_module, training
from tinypeft.claims.judge import Computed, Verdict, computed, searched, under
from tinypeft.claims.measures import QUERY, relative
from tinypeft.claims.settings import NF4, lora
from tinypeft.claims.small_models import as_if_trained, first_layer, inputs, small_llama, toy_llama, toy_lora
from tinypeft.peft import ULoraConfig, best_low_rank, get_peft_model
from tinypeft.quant import quantize_4bit, replace_with_bnb_linear

QLORA = "QLoRA (Quantized LoRA)"
EXAMPLE = "QLoRA, example of a 70B model"
ULORA = "ULoRA (Unified LoRA), ΔW_t = diag(v_t)·A·B"


def factor_bits() -> int:
    """Of each number of LoRA's A, on a base of 4-bit codes that had 16 bits before."""
    model = replace_with_bnb_linear(toy_llama().to("float16"), NF4)
    A, _ = first_layer(get_peft_model(model, lora(4)), "q_proj").factors("default")
    return 8 * int(A.dtype.itemsize)


def training_bytes(adapter_dtype: str) -> float:
    """For each trained parameter: the weight, its gradient, and Adam's two means."""
    needed = training("llama-2-7b", 16, adapter_dtype=adapter_dtype)
    return adapter_cost(needed) / needed.trainable


def ulora_layer(vector: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, B and v of a trained layer of 32 x 32 with rank 4, for row vectors, and the change ΔW that they make."""
    config = ULoraConfig(r=4, vector=vector, target_modules=["q_proj"])
    layer: Any = as_if_trained(get_peft_model(small_llama(), config)).get_base_model().get_submodule(QUERY)
    return layer.ulora_A.data.T, layer.ulora_B.data.T, layer.ulora_v["default"].data, layer.delta_weight("default").T


def not_by_components(vector: str) -> float:
    """The share of ΔW that no scaling of the r components a_i b_i makes: what least squares leaves over."""
    A, B, _, delta = ulora_layer(vector)
    components = np.stack([np.outer(A[:, i], B[i]).ravel() for i in range(len(B))], axis=1)  # (d k, r)
    best = np.linalg.lstsq(components, delta.ravel(), rcond=None)[0]
    return relative(components @ best - delta.ravel(), delta)


# ---- QLoRA ------------------------------------------------------------------------------------------------------------

@claim("a-qlora-4or8", QLORA, "property", "the base's weights have 4 or 8 bits", stated="4 or 8 bits",
       expects=("4 bits", "8 bits"),
       why="QLoRA's codes choose among the {values} values of NF4: {code} bits, {stored:.3f} with all that belongs to them. "
           "Only the blocks' maxima have 8 bits, by double quantization. LoRA on an 8-bit base is LLM.int8() with LoRA, "
           "another method.",
       correct="QLoRA stores the base in 4-bit NF4 with double quantization.")
def _() -> Computed:
    weights = toy_llama().get_submodule(QUERY)
    _, state = quantize_4bit(next(weights.parameters()).data, "nf4", compress_statistics=True)
    _, large = quantize_4bit(np.ones(2**20, np.float32), "nf4", compress_statistics=True)
    code = int(np.log2(len(state.code)))
    return computed((f"{code} bits",), code=code, values=len(state.code), stored=large.bits_per_parameter)


@claim("a-qlora-fullprec", QLORA, "property", "LoRA's factors have full precision: 32 bits", stated="full precision",
       expects="32 bits",
       why="The article does not say which. PEFT puts float32 factors on a quantized base unless told otherwise, and so does "
           "this library. The paper trains them in bfloat16, which has 16 bits. With Adam's means in float32 that is "
           "{full:.0f} or {half:.0f} bytes for each parameter.",
       correct="The adapter's numbers have 16 bits (bfloat16) in QLoRA's paper, and 32 by default in PEFT.")
def _() -> Computed:
    return under({"PEFT's and this library's default": factor_bits(), "in the paper": 8 * dtype_bytes("bfloat16")},
                 full=training_bytes("float32"), half=training_bytes("bfloat16"))


@claim("a-qlora-formula", QLORA, "formula", "a layer with a quantized base gives x·Q(W) + x·A·B",
       stated="y = x·Q(W) + x·A·B", expects=0.0, unit="%",
       why="The share of a real layer's output by which the formula is off. Q(W) may mean what is stored: codes from 0 to "
           "{most}, and a maximum for each block, which cannot be multiplied by x. Or the numbers that they stand for, which "
           "the layer computes first: then the formula is right if alpha = r, and otherwise lacks the factor alpha/r. (Those "
           "numbers are not W: here they differ from it by {error:.1%}.)",
       correct="y = x·dequantize(Q(W)) + (alpha/r)·x·A·B")
def _() -> Computed:
    x, W = inputs(32), next(toy_llama().get_submodule(QUERY).parameters()).data

    def layer(alpha: float) -> Any:
        return first_layer(toy_lora(lora(4, lora_alpha=alpha), trained=True, quantized=True), "q_proj")

    def off(alpha: float, Q: np.ndarray) -> float:
        A, B = (factor.data.T for factor in layer(alpha).factors("default"))
        y = layer(alpha)(x).data
        return relative(x.data @ Q.T + x.data @ A @ B - y, y)

    weight = layer(4).base_layer.weight
    codes = np.stack([weight.data >> 4, weight.data & 15], axis=-1).reshape(weight.matrix_shape)  # two in a byte
    return under({"Q(W) as codes, alpha = r": off(4, codes), "as numbers, alpha = r": off(4, weight.values()),
                  "as numbers, alpha = 2r": off(8, weight.values())}, most=len(weight.quant_state.code) - 1,
                 error=relative(weight.values() - W, W))


@claim("a-qlora-70b-24gb", EXAMPLE, "memory", "a 70B model can be fine-tuned on one GPU with 24 GB", stated="24GB",
       expects=Range(high=24e9), unit="GB",
       why="NF4 weights of Llama-2-70B alone are {weights}; 24 GB would hold {bits:.2f} bits a parameter, and nothing else. "
           "(Training: r=16, one row of 2,048 tokens, gradient checkpointing, an adapter in 16 bits, Adam in fp32.)",
       correct="Training takes {training} on q, k, v and o: one card of 48 GB, or two of 24 GB that share the model.")
def _() -> Computed:
    weights, qkvo = base_bytes("llama-2-70b"), training("llama-2-70b", 16).total
    return under({"weights alone": weights, "training, q only": training("llama-2-70b", 16, ("q_proj",)).total,
                  "training, q, k, v, o": qkvo}, weights=format_bytes(weights), training=format_bytes(qkvo, 1),
                 bits=8 * 24e9 / base_parameters("llama-2-70b"))


@claim("a-qlora-20m", EXAMPLE, "parameter-count", "r=16 trains 20M parameters of a 70B model", stated="20M",
       about=0.05,  # a round number, whose share of 0.03% is no more exact
       why="It depends on the adapted matrices, which are not named: q alone, or o alone, of Llama-2-70B has {q:,}; q, k, v "
           "and o have {qkvo:,}, all linear layers {linear:,}.",
       correct="r=16 trains {q:,} on q alone, {qkvo:,} on q, k, v and o, {linear:,} on all linear layers.")
def _() -> Computed:
    choices = all_choices(by_module("llama-2-70b", 16))
    return searched(choices, q=choices["q"], qkvo=choices["q, k, v, o"], linear=max(choices.values()))


@claim("a-qlora-20m-pct", EXAMPLE, "parameter-count", "20M are 0.03% of the model", stated="0.03%")
def _() -> Computed:
    return under({"20M of 70B": parse_quantity("20M").value / parse_quantity("70B").value,
                  "q of Llama-2-70B, r=16": by_module("llama-2-70b", 16)["q_proj"] / base_parameters("llama-2-70b")})


# ---- ULoRA ------------------------------------------------------------------------------------------------------------

@claim("a-ulora-shape", ULORA, "shape", "diag(v)·A·B with one number in v for each of the r components: r = 4, d = 32",
       stated="v_t of unstated size", expects=4,
       why="The length that v must have for the printed formula to conform, and to give the change that the layer makes. "
           "diag(v) stands before A, which has d rows; a v of r numbers fits between A and B only.",
       correct="v_t ∈ ℝ^d for diag(v_t)·A·B; or A·diag(v_t)·B with v_t ∈ ℝ^r")
def _() -> Computed:
    layers = [ulora_layer(vector) for vector in ("rank", "input")]
    fitting = [len(v) for A, B, v, delta in layers if len(v) == len(A) and np.allclose(np.diag(v) @ A @ B, delta)]
    return computed(fitting[0] if fitting else None)


@claim("a-ulora-components", ULORA, "property", "v scales LoRA's components: ΔW is the sum of v_i a_i b_i", stated="scales the "
       "contribution of different LoRA components", expects=0.0, unit="%",
       why="The share of diag(v)·A·B that no scaling of the r components gives. v scales rows of ΔW, one for each number of "
           "the input. With v between A and B the share is {between:.1g}.",
       correct="A·diag(v)·B = Σ v_i a_i b_iᵀ scales the components.")
def _() -> Computed:
    return computed(not_by_components("input"), between=not_by_components("rank"))


@claim("a-ulora-redundant", ULORA, "property", "the vector v_t lets the update be what A·B alone could not be",
       stated="v_t is a learnable task vector that modulates LoRA matrices", expects=Range(low=0.01), unit="%",
       why="With one task v adds nothing: diag(v)·A is only another A. It matters where tasks share A and B, and each trains a "
           "v of its own: {vector} numbers in place of {factors} for a layer of 32 x 32 at r = 4.",
       correct="v_t pays where A and B are shared by several tasks and trained by the first alone.")
def _() -> Computed:
    A, B, v, one = ulora_layer("rank")
    adapted = get_peft_model(small_llama(), ULoraConfig(r=4, target_modules=["q_proj"]))
    as_if_trained(adapted).add_adapter("second", ULoraConfig(r=4, target_modules=["q_proj"]))
    adapted.set_adapter("second")
    layer: Any = as_if_trained(adapted).get_base_model().get_submodule(QUERY)
    first, second = (layer.delta_weight(task) for task in ("default", "second"))
    return under({"one task: out of plain LoRA's reach": best_low_rank(one, 4)[2],
                  "second task, A and B shared: off the first's update": relative(second - first, first)},
                 vector=len(v), factors=A.size + B.size)


editorial("a-ulora-provenance", ULORA, "statement", "there is a method called ULoRA with this formula",
          Verdict.NOT_REPRODUCIBLE, stated="ULoRA (Unified LoRA)",
          reference="we found no paper with this name and formula; the nearest are VeRA (Kopiczko et al. 2023, 2310.11454), "
                    "which trains two vectors in diag(b) B diag(d) A, and Uni-LoRA (Li et al. 2025, 2506.00799), which makes "
                    "all factors from one vector",
          why="The article cites nothing. The library has both: the printed formula, and what the words beside it describe "
              "(ULoraConfig).")
