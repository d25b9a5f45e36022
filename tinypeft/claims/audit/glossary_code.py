"""Claims of the glossary entry on its QLoRA script: the comments, the printed line, and when PEFT is the right choice."""

from __future__ import annotations

import functools

import numpy as np

from tinypeft.budget import base_parameters, build, format_bytes
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import (
    FITS,
    GB24,
    SOMETHING,
    base_bytes,
    growth_of_first_change,
    lora_counts,
    squared_error,
    training,
)
from tinypeft.claims.judge import Computed, Verdict, computed, under
from tinypeft.quant import dequantize_4bit, quantize_4bit

SCRIPT = "QLoRA script"
PRINTED = "QLoRA script, printed line"
CHOICE = "When PEFT is the right choice"


@claim("b-4bit-5gb", SCRIPT, "memory", "in 4 bits the 8B model takes about 5 GB",
       stated="~5 GB", unit="GB",
       why="Only the linear layers are quantized, with {bits} bits a number for codes and constants; embeddings, head "
           "and norms, {kept:,} numbers, stay in 16 bits, and are stored in 32 by prepare_model_for_kbit_training. In GiB, "
           "which tools often print as GB, it is {gib:.2f} after loading.",
       correct="The 8B model takes {loaded} in 4 bits, and {prepared} once it is prepared for training.")
def _() -> Computed:
    loaded, prepared = base_bytes("llama-3-8b"), base_bytes("llama-3-8b", prepared=True)
    kept = round((prepared - loaded) / 2)  # two bytes more for each number that is not quantized
    bits = 8 * (loaded - 2 * kept) / (base_parameters("llama-3-8b") - kept)
    return under({"after loading": loaded, "after prepare_model_for_kbit_training": prepared}, bits=f"{bits:.3f}", kept=kept,
                 gib=loaded / 2**30, loaded=format_bytes(loaded), prepared=format_bytes(prepared))


@claim("b-16gb", SCRIPT, "memory", "in 16 bits the 8B model takes 16 GB",
       stated="16GB", why="{parameters:,} parameters of 2 bytes.")
def _() -> Computed:
    return computed(base_bytes("llama-3-8b", "16 bits"), parameters=base_parameters("llama-3-8b"))


@claim("b-8b-24gb", SCRIPT, "memory", "Llama 3 8B can be trained with QLoRA on one card of 24 GB",
       stated="24GB VRAM", expects=FITS, unit="%",
       why="The script's adapter, one row of 2,048 tokens, gradient checkpointing: {loaded}, or {prepared} with embeddings and "
           "head in 32 bits. The adapter is in bfloat16, as in QLoRA's paper; in float32, as peft makes it, the latter is "
           "{wide}.")
def _() -> Computed:
    loaded, prepared, wide = (training("llama-3-8b", 16, **setting).total for setting in (
        {}, {"prepared": True}, {"prepared": True, "adapter_dtype": "float32"}))
    return under({"of 24 GB": loaded / GB24, "of 24 GB, prepared for training": prepared / GB24},
                 loaded=format_bytes(loaded), prepared=format_bytes(prepared), wide=format_bytes(wide))


@claim("b-nf4-best", SCRIPT, "property", "NF4 has the best quality of all 4-bit types",
       stated="best quality at 4-bit", expects=Range(high=1.0), unit="%",
       why="NF4's mean squared error on normal weights in blocks of 64, {nf4:.5f} of their mean square, divided by that of "
           "others. Of the types that bitsandbytes offers it is the best; the codebook made for the least error, Lloyd-Max, "
           "has less.",
       correct="NF4 is the best 4-bit type in bitsandbytes, for weights that are about normally distributed.")
def _() -> Computed:
    nf4 = _measured_error("nf4")
    return under({"of FP4's": nf4 / _measured_error("fp4"), "of int4's": nf4 / _measured_error("int4"),
                  "of Lloyd-Max's": nf4 / squared_error("lloyd-max")}, nf4=nf4)


@functools.cache
def _measured_error(quant_type: str) -> float:
    """Relative mean squared error of many normal numbers, quantized and dequantized."""
    x = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    again = dequantize_4bit(*quantize_4bit(x, quant_type))
    return float(np.square(x - again, dtype=np.float64).mean() / np.square(x, dtype=np.float64).mean())


@claim("b-double-quant", SCRIPT, "memory", "double quantization saves memory",
       stated="extra memory savings", expects=SOMETHING, unit="bits",
       why="Bits saved for each quantized number: the block maxima take {plain:.3f} bits as float32, and {double:.3f} once "
           "they are quantized. That is {small} of Llama-3-8B and {large} of Llama-2-70B.")
def _() -> Computed:
    numbers = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)
    plain, double = (quantize_4bit(numbers, compress_statistics=nested)[1].bits_per_parameter - 4 for nested in (False, True))
    small, large = (format_bytes(base_bytes(model, "nf4, float32 constants") - base_bytes(model))
                    for model in ("llama-3-8b", "llama-2-70b"))
    return computed(plain - double, plain=plain, double=double, saved=plain - double, small=small, large=large)


@claim("b-r-more", SCRIPT, "property", "a higher rank means more parameters",
       stated="higher = more parameters", expects=SOMETHING,
       why="What one rank more adds to the script's adapter. It is the same everywhere: the count is r times the sum of the "
           "adapted matrices' sides.")
def _() -> Computed:
    def added(r: int) -> int:
        return lora_counts("llama-3-8b", r + 1).trainable - lora_counts("llama-3-8b", r).trainable

    return under({f"from r={r} to {r + 1}": added(r) for r in (15, 16, 64)})


@claim("b-alpha-r", SCRIPT, "property", "lora_alpha / r scales the effective learning rate, here by 2",
       stated="lora_alpha/r = effective learning rate scaling", expects="2x",
       why="How much larger the first change of a weight is with alpha = 2r than with alpha = r. The factor stands in the "
           "output and in B's gradient. Adam divides by the gradient's size; plain gradient descent has the factor twice.",
       correct="alpha / r multiplies the first change of a weight under Adam; under SGD its square does.")
def _() -> Computed:
    return under({name: growth_of_first_change(name) for name in ("Adam", "SGD")})


@claim("b-print-trainable", PRINTED, "code-output", "r=16 on q, k, v and o of Llama-3-8B trains 6,815,744 parameters",
       stated="6,815,744",
       why="With r=8 it is {r8:,}, and {qv:,} with r=16 on q and v alone. k and v are narrow in this model, since each of its "
           "{kv} key heads serves a group of query heads.",
       correct="The script prints trainable params: {r16:,}.")
def _() -> Computed:
    r16 = lora_counts("llama-3-8b", 16).trainable
    return computed(r16, r16=r16, r8=lora_counts("llama-3-8b", 8).trainable,
                    qv=lora_counts("llama-3-8b", 16, ("q_proj", "v_proj")).trainable,
                    kv=build("llama-3-8b").config.num_key_value_heads)


@claim("b-print-all", PRINTED, "code-output", "with the adapter the model has 8,037,224,448 parameters",
       stated="8,037,224,448",
       why="The base has {base:,}. Less the trained parameters that are printed beside it, the printed total leaves {left:,}: "
           "{astray:,} too many, so that it belongs to no rank. (With r=8 the total is {r8:,}.)",
       correct="The script prints all params: {total:,}.")
def _() -> Computed:
    base, total = base_parameters("llama-3-8b"), lora_counts("llama-3-8b", 16).total
    left = 8_037_224_448 - 6_815_744  # both as printed
    return computed(total, total=total, base=base, left=left, astray=left - base,
                    r8=lora_counts("llama-3-8b", 8).total)


@claim("b-print-pct", PRINTED, "code-output", "0.0848 % of the parameters are trained",
       stated="0.0848",
       why="The quotient belongs to r=8, for which it would be {r8:.4f}; the script sets r=16.",
       correct="The script prints trainable%: {r16:.4f}.")
def _() -> Computed:
    r16, r8 = (100 * lora_counts("llama-3-8b", r).fraction for r in (16, 8))
    return computed(r16, r16=r16, r8=r8)


@claim("b-7b13b-consumer", CHOICE, "memory", "QLoRA fine-tunes models of 7 to 13 billion parameters on one consumer card",
       stated="single consumer GPU", expects=FITS, unit="%",
       why="r=16 on q, k, v and o, one row of 2,048 tokens, gradient checkpointing, and a card of 24 GB: {small} and {large}.")
def _() -> Computed:
    small, large = training("llama-2-7b", 16).total, training("llama-2-13b", 16).total
    return under({"Llama-2-7B, of 24 GB": small / GB24, "Llama-2-13B, of 24 GB": large / GB24},
                 small=format_bytes(small), large=format_bytes(large))


editorial("b-500-1000", CHOICE, "statement", "with fewer than 500 to 1,000 examples the risk of overfitting is high",
          Verdict.NOT_REPRODUCIBLE, stated="~500–1000 examples",
          reference="the document gives no source, task, model or method; its own table recommends two methods for few-shot "
                    "tasks",
          why="A threshold without a task or a model cannot be tested. Training fewer parameters lowers the risk of "
              "overfitting, it does not raise it.",
          correct="The fewer the examples, the fewer parameters should be trained; where it stops working depends on the task.")
editorial("b-no-new-facts", CHOICE, "statement", "fine-tuning does not reliably add new factual knowledge",
          Verdict.NOT_REPRODUCIBLE, stated="doesn't reliably add new factual knowledge — use RAG instead",
          reference="the document gives no data and no source; compare Ovadia et al. 2023 (2312.05934) and Gekhman et al. "
                    "2024 (2405.05904)",
          why="An observation about large models that takes experiments of its own; nothing in the document lets a reader "
              "repeat one.",
          correct="Reported by others: retrieval often does better than fine-tuning where a model lacks facts.")
