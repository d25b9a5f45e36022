"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", the worked examples: LoRA's count, QLoRA's memory, LoRA by hand."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, no_grad
from tinypeft.budget import Breakdown, adapted, base_parameters, format_bytes
from tinypeft.budget.planner import largest_size
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import CHOICES, GB, GB24, adapter_cost, base_bytes, lora_counts, training
from tinypeft.claims.judge import Computed, computed, searched, under
from tinypeft.claims.measures import rank, relative
from tinypeft.claims.settings import lora
from tinypeft.nn import Linear
from tinypeft.peft import LoraLayer
from tinypeft.quant import quantize_4bit

EX1, EX2, EX3 = "Example 1", "Example 2", "Example 3"
MODULES = ("q, k, v, o", "all linear")
ITS_BASE, ITS_ACTIVATIONS = 6.5 * GB, 0.5 * GB  # the document's own figures for 13B

# ---- Example 1: LoRA's count ----------------------------------------------------------------------------------------


@claim("d-ex1-ab", EX1 + ", per matrix", "parameter-count", "r = 8 on a matrix of 4096 x 4096: A and B have 32,768 each",
       stated="65,536", why="A has {a:,} parameters, B {b:,}.")
def _() -> Computed:
    layer = adapted("llama-2-7b", lora(8)).layers()[0]
    assert isinstance(layer, LoraLayer)
    A, B = layer.factors("default")
    return computed(A.size + B.size, a=A.size, b=B.size)


@claim("d-ex1-total", EX1 + ", 4 x 32 x 65,536", "parameter-count", "r = 8 on q, k, v and o of 32 layers", stated="8,388,608",
       why="Counted in Llama-2-7B. With grouped queries k and v are narrower: in Llama-3-8B the same adapter has {grouped:,}.")
def _() -> Computed:
    return computed(lora_counts("llama-2-7b", 8).trainable, grouped=lora_counts("llama-3-8b", 8).trainable)


@claim("d-ex1-pct", EX1 + ", 8.4M / 7B", "parameter-count", "that is 0.12 % of the model", stated="0.12 %",
       why="Of the round 7 billion, and of the {all:,} that Llama-2-7B has.")
def _() -> Computed:
    count, base = lora_counts("llama-2-7b", 8).trainable, base_parameters("llama-2-7b")
    return under({"of 7e9": count / 7e9, "of Llama-2-7B": count / base}, all=base)


# ---- Example 2: QLoRA's memory --------------------------------------------------------------------------------------

def qlora_13b(r: int, modules: str = "q, k, v, o", **setting: Any) -> Breakdown:
    """Training QLoRA on Llama-2-13B: 2,048 tokens and checkpointing unless told otherwise, 12 bytes a parameter in all."""
    return training("llama-2-13b", r, CHOICES[modules], **setting)


def adapter_at_peak(budget: Breakdown) -> float:
    """Bytes that an adapter and its training take in the moment that needs the most: less than `adapter_cost`, which counts
    gradients wherever the peak is."""
    return sum(budget.parts[name] for name in ("adapter weights", "gradients", "optimizer states"))


@functools.lru_cache(maxsize=2)
def largest_rank(modules: str) -> int:
    """The highest rank whose training fits the card."""
    return largest_size("qlora", "llama-2-13b", GB24, target_modules=CHOICES[modules], adapter_dtype="bfloat16", margin=0.0)


@claim("d-ex2-base", EX2 + ", NF4 base model", "memory", "13B in NF4 take 6.5 GB", stated="6.5 GB",
       why="6.5 GB are 13 billion times half a byte. The block constants come on top, {bits:.3f} bits a weight in all with "
           "double quantization, and the token table and the head stay in 16 bits.",
       correct="13B in NF4 take {double} with double quantization, {plain} without.")
def _() -> Computed:
    double, plain = base_bytes("llama-2-13b"), base_bytes("llama-2-13b", "nf4, float32 constants")
    _, state = quantize_4bit(np.ones(2**18, np.float32), compress_statistics=True)
    return under({"double quantization": double, "float32 constants": plain}, bits=state.bits_per_parameter,
                 double=format_bytes(double), plain=format_bytes(plain))


@claim("d-ex2-lora03", EX2 + ", LoRA + optimizer", "memory", "adapters of r = 16 and their optimizer take about 0.3 GB",
       stated="~0.3 GB",
       why="{count:,} parameters on q, k, v and o, each with 2 bytes of weight, 2 of gradient and 8 of AdamW's means. On all "
           "linear layers it is {linear}.",
       correct="Adapter and optimizer take {qkvo} on q, k, v and o.")
def _() -> Computed:
    budget = qlora_13b(16)
    return computed(adapter_cost(budget), count=budget.trainable, qkvo=format_bytes(adapter_cost(budget)),
                    linear=format_bytes(adapter_cost(qlora_13b(16, "all linear"))))


@claim("d-ex2-act", EX2 + ", activations", "memory", "the activations of one row take about 0.5 GB", stated="~0.5 GB",
       why="The document gives no number of tokens. 0.5 GB are what a row of {enough:,} leaves between the layers, "
           "with gradient checkpointing; 2,048 tokens need {checkpointed}, without checkpointing {whole}.",
       correct="The activations take {checkpointed} for 2,048 tokens with checkpointing, {whole} without.")
def _() -> Computed:
    def activations(tokens: int, checkpointing: bool = True) -> float:
        return qlora_13b(16, tokens=tokens, checkpointing=checkpointing).parts["activations"]

    enough = round(ITS_ACTIVATIONS / activations(2048) * 2048)  # they are in proportion to the tokens
    checkpointed = {tokens: activations(tokens) for tokens in (512, 1024, enough, 2048, 4096)}
    whole = {tokens: activations(tokens, checkpointing=False) for tokens in (512, 2048)}
    return searched({f"{tokens:,} tokens, {how}": size for how, sizes in (("checkpointing", checkpointed), ("all kept", whole))
                     for tokens, size in sizes.items()},
                    enough=enough, checkpointed=format_bytes(checkpointed[2048]), whole=format_bytes(whole[2048], 1))


@claim("d-ex2-total", EX2 + ", total", "memory", "base, adapters and activations sum to 7.3 GB, which leaves 16.7 of 24 GB",
       stated="7.3 GB",
       why="Its own base and activations with the adapters as counted, which leaves {left}. With the real base and 2,048 "
           "tokens the total is {real}, without the {gradients} of gradients, which are not there yet at the peak, {peak}: it "
           "fits, as stated.")
def _() -> Computed:
    budget = qlora_13b(16)
    total = ITS_BASE + adapter_cost(budget) + ITS_ACTIVATIONS
    return computed(total, left=format_bytes(GB24 - total, 1), real=format_bytes(budget.total), peak=budget.peak,
                    gradients=format_bytes(adapter_cost(budget) - adapter_at_peak(budget)))


@claim("d-ex2-few-hundred", EX2 + ", larger rank", "memory", "r = 256 instead of 16 adds a few hundred MB",
       stated="a few hundred MB", expects=Range(0.2 * GB, 0.5 * GB), unit="GB",
       why="The weights alone grow by {weights}, and each of them is trained: gradients and AdamW's means take five times as "
           "much again. Not all at once: gradients come while activations go, so that the peak of training, {peak}, grows by "
           "{at_peak} alone.",
       correct="r = 256 adds {all} that a step needs at one time or another, of which {weights} are weights, and {at_peak} to "
               "the peak.")
def _() -> Computed:
    small, large = qlora_13b(16), qlora_13b(256)
    more, weights = (get(large) - get(small) for get in (adapter_cost, lambda budget: budget.parts["adapter weights"]))
    return computed(more, all=format_bytes(more), weights=format_bytes(weights), peak=large.peak,
                    at_peak=format_bytes(large.total - small.total))


@claim("d-ex2-268m", EX2 + ", 8.4M x (256/8)", "parameter-count", "r = 256 has 268M parameters in the 13B model", stated="268M",
       why="8.4M is the count for 7B, from Example 1; times 32 it is {seven:,}. 13B has 40 layers of width 5120.",
       correct="r = 256 has {qkvo:,} parameters on q, k, v and o of the 13B model.")
def _() -> Computed:
    qkvo = qlora_13b(256).trainable
    return under({"q, k, v, o": qkvo, "all linear": qlora_13b(256, "all linear").trainable}, qkvo=qkvo,
                 seven=lora_counts("llama-2-7b", 256).trainable)


@claim("d-ex2-05gb", EX2 + ", 268M params", "memory", "adapters of r = 256 take 0.5 GB", stated="0.5 GB",
       why="0.5 GB are 268M parameters in 16 bits. The 13B model's adapter has {count:,}, and they are trained.",
       correct="Adapters of r = 256 take {weights} of weights, {all} with gradients and AdamW's means.")
def _() -> Computed:
    budget = qlora_13b(256)
    weights, trained = budget.parts["adapter weights"], adapter_cost(budget)
    return under({"weights in 16 bits": weights, "with gradients and AdamW": trained}, count=budget.trainable,
                 weights=format_bytes(weights), all=format_bytes(trained))


@claim("d-ex2-under8", EX2 + ", total at r = 256", "memory", "the total at r = 256 is under 8 GB", stated="< 8 GB",
       expects=Range(high=8 * GB), unit="GB",
       why="Gradients and optimizer states of the adapter were left out: with them it takes {all} instead of 0.5 GB. The real "
           "total contains {at_peak} of that, since at its peak, {peak}, the gradients, {gradients}, are not there yet.",
       correct="The total at r = 256 is {real} at 2,048 tokens.")
def _() -> Computed:
    budget = qlora_13b(256)
    return under({"its own base and activations": ITS_BASE + adapter_cost(budget) + ITS_ACTIVATIONS,
                  "the real base, 2,048 tokens": budget.total},
                 all=format_bytes(adapter_cost(budget)), real=format_bytes(budget.total), peak=budget.peak,
                 at_peak=format_bytes(adapter_at_peak(budget)),
                 gradients=format_bytes(adapter_cost(budget) - adapter_at_peak(budget)))


@claim("d-ex2-r256-fits", EX2 + ", r = 256", "memory", "r = 256 fits 24 GB", stated="fits comfortably in 24 GB",
       expects=Range(high=GB24), unit="GB",
       why="One row of 2,048 tokens, checkpointing, AdamW. On all linear layers it fits, but not comfortably.")
def _() -> Computed:
    return under({modules: qlora_13b(256, modules).total for modules in MODULES})


@claim("d-ex2-maxrank", EX2 + ", maximum rank", "memory", "asked for the maximum rank, the answer is that r = 256 fits",
       stated="r=256", expects=256,
       why="The question is not answered. The card is full when the adapter's 12 bytes a parameter have filled what the base "
           "and one row of 2,048 tokens leave: {rate:.1f} MB for each unit of rank on q, k, v and o.",
       correct="The largest rank is {qkvo} on q, k, v and o, {linear} on all linear layers.")
def _() -> Computed:
    ranks = {modules: largest_rank(modules) for modules in MODULES}
    return under(ranks, qkvo=ranks["q, k, v, o"], linear=ranks["all linear"],
                 rate=(adapter_cost(qlora_13b(2)) - adapter_cost(qlora_13b(1))) / 1e6)


@claim("d-ex2-notbottleneck", EX2 + ", larger rank", "statement", "memory does not limit the rank", expects=Range(high=GB24),
       unit="GB", stated="Memory is NOT the bottleneck for rank",
       why="On q, k, v and o there is room up to r = {qkvo}, on all linear layers up to {linear}. The matrices themselves "
           "would allow 5120.",
       correct="At usual ranks, up to 64, memory is no limit; it is one at {linear} on all linear layers.")
def _() -> Computed:
    return under({f"r={r}, {modules}": qlora_13b(r, modules).total for r in (64, 256, 512)
                  for modules in MODULES},
                 qkvo=largest_rank("q, k, v, o"), linear=largest_rank("all linear"))


# ---- Example 3: LoRA by hand ----------------------------------------------------------------------------------------

X = Tensor(np.array([[1.0, 1.0]]))


def by_hand(alpha: float = 1.0) -> LoraLayer:
    """The example's layer: W0, A and B as printed; A has one row, so r = 1."""
    base = Linear(2, 2, bias=False)
    base.weight.data = np.array([[1.0, 2.0], [3.0, 4.0]])
    layer = LoraLayer(base, "example")
    layer.add("default", lora(1, lora_alpha=alpha), seed=0)
    A, B = layer.factors("default")
    A.data, B.data = np.array([[0.1, 0.2]]), np.array([[0.3], [0.4]])
    layer.active = ["default"]
    return layer


def output(alpha: float) -> np.ndarray:
    """What comes out for x = [1, 1]."""
    with no_grad():
        return np.asarray(by_hand(alpha)(X).data[0])


@claim("d-ex3-arith", EX3 + ", the products", "formula", "W0 x = [3, 7], A x = 0.3, B A x = [0.09, 0.12]",
       stated="[3, 7], 0.3, [0.09, 0.12]", expects=(3.0, 7.0, 0.3, 0.09, 0.12), why="As computed by a LoRA layer's parts.")
def _() -> Computed:
    layer = by_hand()
    with no_grad():
        u = layer.lora_A["default"](X)
        parts = [layer.base_layer(X), u, layer.lora_B["default"](u)]
    return computed(tuple(float(number) for part in parts for number in part.data[0]))


@claim("d-ex3-rank", EX3 + ", the matrices", "shape", "A = [[0.1, 0.2]] and B = [[0.3], [0.4]] have rank r = 2", stated="r = 2",
       expects=2,
       why="A is 1 x 2 and B 2 x 1: r is the number of A's rows, and the rank of BA. So alpha/r is 1, not 1/2.",
       correct="The rank is r = 1, and the output is [{first:.4g}, {second:.4g}].")
def _() -> Computed:
    first, second = output(1.0)
    return computed(rank(by_hand().delta_weight("default")), first=first, second=second)


@claim("d-ex3-out", EX3 + ", output", "formula", "with the factor 0.5 the output is [3.045, 7.06]", stated="[3.045, 7.06]",
       expects=(3.045, 7.06),
       why="Right for that factor. At r = 1 it belongs to alpha = 0.5; alpha = 1, as given, has [{first:.4g}, {second:.4g}].")
def _() -> Computed:
    first, second = output(1.0)
    return computed(tuple(map(float, output(0.5))), first=first, second=second)


@claim("d-ex3-pct", EX3 + ", change", "formula", "that is a change of about 1.5 %", stated="~1.5 %",
       why="1.5 % is the change of the first number, the larger of the two; the second's is {second:.3%}, and the whole output "
           "changes by {length:.2%} of its length.",
       correct="The output changes by {length:.2%} of its length, its first number by {first:.1%}.")
def _() -> Computed:
    base = np.array([3.0, 7.0])
    change = output(0.5) - base
    each = change / base
    length = relative(change, base)
    return under({"the larger of the two numbers' changes": float(each.max()), "their mean": float(each.mean()),
                  "length of the change, by that of the output": length}, first=each[0], second=each[1], length=length)
