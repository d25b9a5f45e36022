"""The three worked examples of "20-09 — Parameter-Efficient Fine-Tuning (PEFT)": a count, a budget, a forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.budget import Breakdown, base_parameters, count_parameters, format_bytes, memory, parse_size
from tinypeft.budget.catalog import adapted
from tinypeft.budget.planner import largest_size
from tinypeft.budget.weights import dtype_bytes
from tinypeft.claims.examples.engine import Steps, example, numbers, product, shaped, show
from tinypeft.claims.examples.weights import holds_for, lora_factors, stored_parts
from tinypeft.claims.judge import Range
from tinypeft.claims.settings import LINEAR, NF4, QKVO, lora
from tinypeft.nn import Linear
from tinypeft.peft import LoraConfig, LoraLayer

# ---- Example 1 ------------------------------------------------------------------------------------------------------


@example("lora-count", "Parameters of LoRA in a 7B model", "d", "Worked Examples, Example 1",
         "LoRA with r=8 is applied to the query, key, value and output projections of a model of 7 billion parameters, each of "
         "them 4096 x 4096. How many parameters are trained, and which share of the model is that?",
         ["d-ex1-ab", "d-ex1-total", "d-ex1-pct"])
def _(steps: Steps) -> str:
    model = adapted("llama-2-7b", lora(8))
    factors = lora_factors(model)
    A, B = factors[0]
    steps.add("A of one projection", f"{shaped(A=A)}: {show(tuple(A.shape))}", A.size, stated="32,768")
    steps.add("B of one projection", f"{shaped(B=B)}: {show(tuple(B.shape))}", B.size, stated="32,768")
    steps.add("Both", f"{A.size:,} + {B.size:,}", A.size + B.size, stated="65,536")
    each, depth = len(QKVO), model.config.num_hidden_layers
    steps.add("Projections", f"{each} in a layer x {depth} layers of Llama-2 7B, found by walking over it", len(factors),
              stated="4 × 32", expects=4 * 32)
    total, base = count_parameters("llama-2-7b", lora(8)).trainable, base_parameters("llama-2-7b")
    steps.add("All that is trained", f"{len(factors)} x {A.size + B.size:,}", total, stated="8,388,608")
    steps.add("The model", "all its parameters, by building it", base, stated="7B")
    steps.add("Share", f"{total:,} / {base:,}", total / base, stated="0.12%")
    return (f"r=8 on q, k, v and o of Llama-2 7B trains {total:,} of {base:,} parameters, {total / base:.4%}. "
            f"(print_trainable_parameters divides by both together, {total + base:,}, and prints "
            f"{100 * total / (total + base):.4f}.)")


# ---- Example 2 ------------------------------------------------------------------------------------------------------

MODEL, CARD, TOKENS = "llama-2-13b", "24 GB", 2048


def cost(r: int, targets: Any = QKVO, adapter_dtype: str = "bfloat16") -> Breakdown:
    """QLoRA of the 13B model, as in the QLoRA paper: NF4 with double quantization, adapters in 16 bits, AdamW."""
    return memory(MODEL, lora(r, targets), quantization=NF4, tokens=TOKENS, adapter_dtype=adapter_dtype)


def adapter_part(needed: Breakdown) -> float:
    """Bytes that the adapter takes at the peak; they grow with the rank."""
    return sum(needed.parts[name] for name in ("adapter weights", "gradients", "optimizer states"))


def largest_rank(targets: Any = QKVO, adapter_dtype: str = "bfloat16") -> int:
    """The largest rank with which training fits on the card."""
    return largest_size("qlora", MODEL, CARD, target_modules=targets, adapter_dtype=adapter_dtype, tokens=TOKENS, margin=0.0)


@example("qlora-budget", "QLoRA of a 13B model in 24 GB", "d", "Worked Examples, Example 2",
         "Llama-2 13B is to be fine-tuned with QLoRA, r=16, on a card with 24 GB. Does it fit, and what is the largest rank "
         "that fits?",
         ["d-ex2-base", "d-ex2-lora03", "d-ex2-act", "d-ex2-total", "d-ex2-268m", "d-ex2-05gb", "d-ex2-few-hundred",
          "d-ex2-under8", "d-ex2-r256-fits", "d-ex2-maxrank", "d-ex2-notbottleneck"])
def _(steps: Steps) -> str:
    card, small, large = parse_size(CARD), cost(16), cost(256)
    base, codes, constants, kept = stored_parts(MODEL)
    steps.add("The base in NF4", "codes of 4 bits + constants of the blocks + what stays in 16 bits", base, stated="6.5 GB",
              why=f"6.5 GB is 13 billion times half a byte. The codes alone are {format_bytes(codes)}, the constants of their "
                  f"blocks {format_bytes(constants)}, embeddings and head, which stay in 16 bits, {format_bytes(kept)}.")
    each = adapter_part(small) / small.trainable  # bytes of a parameter
    steps.add("LoRA, r=16, and its optimizer", f"{small.trainable:,} x {each:.0f} bytes", adapter_part(small), stated="~0.3 GB",
              note=f"On q, k, v and o: 2 bytes of a weight, and two numbers of 4 bytes that Adam keeps. Gradients come while "
                   f"activations go, and take {format_bytes(small.parts['gradients'])} at the peak, {small.peak}.")
    kept_inputs, tokens_part = small.parts["activations"], small.total - base - adapter_part(small)
    steps.add("Activations, one row", f"{TOKENS:,} tokens, checkpointing, in {small.peak}", tokens_part, stated="~0.5 GB",
              why=f"The document names no number of tokens. At {TOKENS:,} the inputs of the blocks take "
                  f"{format_bytes(kept_inputs)}, though all else is computed again, and what is computed again "
                  f"{format_bytes(tokens_part - kept_inputs)}; half a gigabyte is the inputs for "
                  f"{0.5e9 / kept_inputs * TOKENS:,.0f} tokens.")
    steps.add("Total", "the sum of these", small.total, stated="7.3 GB", follows=6.5e9 + 0.3e9 + 0.5e9, note=holds_for(small))
    steps.add(f"Left on a card of {CARD}", f"{CARD} - total", card - small.total, stated="16.7 GB", follows=card - 7.3e9)
    steps.add(f"Does r=16 fit in {CARD}?", f"total <= {CARD}", small.total <= card, stated="yes", expects=True)
    grown = adapter_part(large) - large.parts["adapter weights"]
    factors = lora_factors(adapted(MODEL, lora(256)))
    A, B = factors[0]
    seven = count_parameters("llama-2-7b", lora(8)).trainable
    steps.add("Parameters at r=256", f"{len(factors)} x ({shaped(A=A, B=B)})", large.trainable, stated="268M",
              follows=seven * (256 // 8),
              why=f"The document multiplies 8.4M, the count of the 7B model at r=8, by 256/8. In the 13B model the matrices "
                  f"are wider and the layers more: {count_parameters(MODEL, lora(8)).trainable:,} at r=8.")
    steps.add("Their weights", f"{large.trainable:,} x 2 bytes", large.parts["adapter weights"], stated="0.5 GB",
              follows=2 * 268e6)
    with_gradients = adapter_part(large) + large.trainable * dtype_bytes("bfloat16")
    steps.add("With the optimizer", f"{large.trainable:,} x {each:.0f} bytes", adapter_part(large), unit="GB",
              note="The document counts these at r=16 and leaves them out at r=256. With gradients it would be "
                   f"{format_bytes(with_gradients)}, but these are not there at the peak.")
    steps.add("Total at r=256", "base + adapter + activations", large.total, stated="under 8 GB", expects=Range(high=8e9),
              follows=6.5e9 + 0.5e9 + 0.5e9, unit="GB",
              why=f"Only the adapter's weights were added. What Adam keeps takes "
                  f"{grown / large.parts['adapter weights']:.0f} times as much: {format_bytes(grown)}.",
              note=f"{format_bytes(large.total - small.total)} more than at r=16. That is the peak, {large.peak}: gradients "
                   "come when activations have gone.")
    steps.add(f"Does r=256 fit in {CARD}?", f"total <= {CARD}", large.total <= card, stated="yes", expects=True)
    attention, linear = largest_rank(), largest_rank(LINEAR)
    peak = cost(attention).peak
    steps.add("The largest rank, on q, k, v and o", f"r fits, r + 1 does not; the peak is then {peak}", attention,
              note=f"The document asks for it, and answers that r=256 fits. With adapters in 32 bits, peft's default, it is "
                   f"{largest_rank(adapter_dtype='float32')}.")
    steps.add("The largest rank, on all linear layers", "the same", linear,
              note="So memory does limit the rank, if all linear layers are adapted, as the QLoRA paper recommends.")
    return (f"r=16 needs {format_bytes(small.total)} and r=256 {format_bytes(large.total)}: both fit in {CARD}, the second not "
            f"in 8 GB. The largest rank is {attention} on q, k, v and o, and {linear} on all linear layers.")


# ---- Example 3 ------------------------------------------------------------------------------------------------------


def lora_layer(W0: np.ndarray, A: np.ndarray, B: np.ndarray, alpha: float) -> LoraLayer:
    """A linear layer with these values in its adapter; the rank is the number of A's rows."""
    base = Linear(W0.shape[1], W0.shape[0], bias=False)
    base.weight.data = W0
    layer = LoraLayer(base)
    layer.add("default", LoraConfig(r=len(A), lora_alpha=alpha), seed=0)
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = A, B
    layer.active = ["default"]
    return layer


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Length of the change, relative to that of the vector."""
    return float(np.linalg.norm(after - before) / np.linalg.norm(before))


@example("lora-forward", "A forward pass through LoRA", "d", "Worked Examples, Example 3",
         "W0 = [[1, 2], [3, 4]], A = [[0.1, 0.2]], B = [[0.3], [0.4]], alpha = 1, r = 2 and x = [1, 1]. What comes out, and "
         "how far is it from the output without the adapter?",
         ["d-ex3-arith", "d-ex3-rank", "d-ex3-out", "d-ex3-pct"])
def _(steps: Steps) -> str:
    W0, x = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 1.0])
    A, B = np.array([[0.1, 0.2]]), np.array([[0.3], [0.4]])
    layer, halved = lora_layer(W0, A, B, alpha=1), lora_layer(W0, A, B, alpha=0.5)  # what the document computes is `halved`
    base = layer.base_layer(Tensor(x)).data
    u = layer.lora_A["default"](Tensor(x))
    v = layer.lora_B["default"](u).data
    steps.add("The base's output", product("W0 x", W0, x, base), numbers(base), stated="[3, 7]", expects=[3, 7])
    steps.add("A, applied to the input", product("A x", A, x, u), numbers(u), stated="0.3", expects=[0.3])
    steps.add("B, applied to that", product("B (A x)", B, u, v), numbers(v), stated="[0.09, 0.12]", expects=[0.09, 0.12])
    wide = LoraLayer(Linear(2, 2, bias=False))
    wide.add("default", LoraConfig(r=2), seed=0)
    A2, B2 = wide.factors("default")
    rank = int(np.linalg.matrix_rank(layer.delta_weight("default")))
    steps.add("The rank r", f"rows of A, columns of B: {shaped(A=A, B=B)}", rank, stated="2",
              why=f"A has one row and B one column, so r = {len(A)}. For r = 2 they would be {shaped(A=A2, B=B2)}, "
                  f"{A2.size + B2.size} numbers beside the {W0.size} of W0.")
    steps.add("The scale", f"alpha / r = 1 / {len(A)}", layer.lora_scaling["default"], stated="0.5",
              follows=halved.lora_scaling["default"])
    out, other = layer(Tensor(x)).data, halved(Tensor(x)).data
    steps.add("The output", f"W0 x + (alpha / r) B A x: {tuple(base.shape)} + {tuple(v.shape)} -> {tuple(out.shape)}",
              numbers(out), stated="[3.045, 7.06]", expects=[3.045, 7.06], follows=numbers(other))
    first, second = (other - base) / base
    steps.add("The change", "|y - W0 x| / |W0 x|, lengths of vectors (2,)", change(base, out), stated="~1.5%",
              follows=change(base, other),
              why=f"1.5% is the change of the first number in the document's output, {first:.2%}; its second changes by "
                  f"{second:.2%}, and the vector by {change(base, other):.2%}.")
    return (f"With these A and B the rank is {len(A)}, the scale {show(layer.lora_scaling['default'])} and the output "
            f"{show(numbers(out))}, {change(base, out):.2%} from {show(numbers(base))}. The printed {show(numbers(other))} is "
            "what lora_alpha = 0.5 gives.")
