"""Claims of "Understanding PEFT", from its opening to its section on LoRA (Hu et al. 2021, 2106.09685).

The article writes row vectors, y = x W with W (d, k), and so A (d, r) and B (r, k): what the library stores as A (r, in) and
B (out, r), each transposed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.budget import base_parameters, build, format_bytes, format_value
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import counts, lora_counts, lora_share
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.measures import QUERY, adapted_surnames, relative
from tinypeft.claims.settings import LINEAR, PREFIX20, PROMPT20, WIDTH_64, lora
from tinypeft.claims.small_models import WIDTH, as_if_trained, largest, small_llama
from tinypeft.nn import LlamaConfig, LlamaForCausalLM, generator
from tinypeft.peft import get_peft_model

CHALLENGE = "The Fine-Tuning Challenge"
ENTER = "Enter PEFT"
SHAPES = "1. LoRA, A ∈ ℝ^(d×r), B ∈ ℝ^(r×k)"
FORWARD = "1. LoRA, the modified forward pass"
THOUSAND = "1. LoRA, example of a 1000×1000 matrix"


def trained_query(r: int, alpha: float) -> Any:
    """A square layer (d = k = 32) with LoRA in it, both factors full of numbers."""
    adapted = as_if_trained(get_peft_model(small_llama(), lora(r, ["q_proj"], lora_alpha=alpha)))
    return adapted.get_base_model().get_submodule(QUERY)


def rows() -> np.ndarray:
    """Row vectors x, (5, d)."""
    return generator(0, "rows").standard_normal((5, WIDTH))


def row_factors(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The article's A (d, r) and B (r, k)."""
    A, B = layer.factors("default")
    return A.data.T, B.data.T


def thousand() -> Any:
    """A matrix of 1000 x 1000 with LoRA of rank 8: the only one that is adapted in its model."""
    model = LlamaForCausalLM(LlamaConfig(hidden_size=1000, num_attention_heads=10, num_hidden_layers=1))
    return get_peft_model(model, lora(8, ["q_proj"]))


def thousand_layer() -> Any:
    return thousand().get_base_model().get_submodule(QUERY)


@claim("a-gpt3-size", CHALLENGE, "parameter-count", "GPT-3 has 175 billion parameters", stated="175B",
       why="Built from the shape in its paper (96 layers of width 12,288; Brown et al. 2020, table 2.1), it has {n:,}.")
def _() -> Computed:
    n = base_parameters("gpt3")
    return computed(n, n=n)


@claim("a-llama2-max", CHALLENGE, "parameter-count", "the largest Llama 2 has 70 billion parameters", stated="70B",
       about=0.02,  # a model's name is a round number
       why="It has {n:,}, {billions:.0f} billion: {off:.1%} below its name, which is a round number.",
       correct="The largest Llama 2 has {n:,} parameters.")
def _() -> Computed:
    n = base_parameters("llama-2-70b")
    return computed(n, n=n, billions=n / 1e9, off=1 - n / 70e9)


@claim("a-storage-efficiency", ENTER, "memory", "an adapter takes far less storage than a copy of the model: read as a "
       "hundredth of it or less", stated="smaller (no number)", expects=Range(high=0.01), unit="%",
       why="In 16 bits Llama-2-7B is {full}; LoRA with r=8 on q, k, v and o is {adapter}, {ratio:,.0f} times smaller.")
def _() -> Computed:
    full = base_parameters("llama-2-7b")
    sizes = {name: counts("llama-2-7b", method).trainable for name, method in {
        "LoRA, r=8 on q, k, v, o": lora(8), "prompt of 20 tokens": PROMPT20, "prefix of 20 tokens": PREFIX20,
        "adapters of width 64": WIDTH_64}.items()}
    r8 = lora_counts("llama-2-7b", 8).trainable
    return under({name: size / full for name, size in sizes.items()},
                 full=format_bytes(2 * full), adapter=format_bytes(2 * r8), ratio=full / r8)


@claim("a-forgetting-prevention", ENTER, "property", "a model adapted with PEFT has forgotten nothing: its loss on what it "
       "knew does not rise", stated="prevents", expects=Range(high=0),
       why="The bundled model of surnames was adapted with LoRA (r=8) to names spelled backwards. With the adapter its loss on "
           "names that it knew goes from {before:.2f} to {after:.2f} nats a token, as it does when all weights are trained "
           "({full:.2f}); switch it off, and nothing has changed. What is safe is the base, not the adapted model.",
       correct="The frozen base is intact, and comes back when the adapter is taken away; the adapted model can forget.")
def _() -> Computed:
    found, everything = adapted_surnames(8), adapted_surnames(None)
    before, after = found.old
    return under({"adapter switched off": found.old_without - before, "adapter in use": after - before},
                 before=before, after=after, full=everything.old[1])


@claim("a-lora-shapes", SHAPES, "shape", "A is d × r and B is r × k, so that ΔW = A·B is d × k; for d = 768, k = 3072, r = 8",
       stated="A d x r, B r x k", expects=((768, 8), (8, 3072), (768, 3072)),
       why="GPT-2's c_fc stores its weight (d, k) as the article writes it; its LoRA has these shapes, transposed.")
def _() -> Computed:
    model = get_peft_model(build("gpt2"), lora(8, ["c_fc"])).get_base_model()
    layer: Any = model.get_submodule("transformer.h.0.mlp.c_fc")
    A, B = row_factors(layer)
    return computed((A.shape, B.shape, layer.oriented(layer.delta_weight("default")).shape))


@claim("a-lora-forward", FORWARD, "formula", "x·(W + ΔW) and x·W + x·A·B are the same", stated="y = xW + xAB", expects=0.0,
       why="Largest difference, in float64, between a LoRA layer with alpha = r and both sides of the formula: "
           "multiplication distributes over the sum.")
def _() -> Computed:
    layer, x = trained_query(4, alpha=4), rows()
    W, (A, B) = layer.base_layer.weight.data.T, row_factors(layer)
    y = layer(Tensor(x)).data
    return under({"layer and x(W + AB)": largest(y - x @ (W + A @ B)), "layer and xW + xAB": largest(y - (x @ W + x @ A @ B))})


@claim("a-lora-no-scale", FORWARD, "formula", "the update is A·B itself: factor 1", stated="dW = AB", expects=1.0,
       why="LoRA adds (alpha/r) A·B. The factor is 1 only if alpha = r; the usual alpha = 2r makes it {usual:.0f}.",
       correct="ΔW = (alpha/r) A·B")
def _() -> Computed:
    def factor(alpha: float) -> float:
        layer = trained_query(4, alpha)
        A, B = row_factors(layer)
        return relative(layer.delta_weight("default"), A @ B)

    usual = factor(8)
    return under({"alpha = r": factor(4), "alpha = 2r": usual}, usual=usual)


@claim("a-lora-letter-convention", SHAPES, "shape", "A is the factor of shape (d, r), B the one of (r, k); for d = 768, "
       "k = 3072, r = 8", stated="A d x r, B r x k", expects=((768, 8), (8, 3072)),
       why="Here as in Hu et al. (2021) A meets the input first, and B, zero at first, comes last; but row vectors make it "
           "x A B, and column vectors B A x, with both shapes turned over. The blog post of this collection has X B A for row "
           "vectors: there B comes first, and the letters have changed places.",
       correct="Say whether vectors are rows or columns before quoting shapes, or saying which factor starts at zero.")
def _() -> Computed:
    layer: Any = get_peft_model(build("gpt2"), lora(8, ["c_fc"])).get_base_model().get_submodule("transformer.h.0.mlp.c_fc")
    first, second = (factor.shape for factor in layer.factors("default"))  # as stored, for column vectors
    return under({"rows, x A B (this article)": (first[::-1], second[::-1]),
                  "columns, B A x (Hu et al., PEFT)": (first, second),
                  "rows, X B A (the blog post)": (second[::-1], first[::-1])})


@claim("a-lora-1000-full", THOUSAND, "parameter-count", "the matrix has 1M parameters", stated="1M")
def _() -> Computed:
    return computed(thousand_layer().base_layer.weight.size)


@claim("a-lora-1000-factors", THOUSAND, "parameter-count", "A and B have 8K parameters each at r=8", stated="8K and 8K",
       expects="8K")
def _() -> Computed:
    A, B = thousand_layer().factors("default")
    return under({"A": A.size, "B": B.size})


@claim("a-lora-1000-total", THOUSAND, "parameter-count", "together they have 16K, 1.6% of the matrix", stated="16K; 1.6%",
       expects="16,000 and 1.6 %", why="r(d + k) = {trained:,} beside d·k = {full:,}: {share:.1%}.")
def _() -> Computed:
    trained, full = thousand().get_nb_trainable_parameters()[0], thousand_layer().base_layer.weight.size
    return computed(f"{trained:,} and {format_value(trained / full, '%')}", trained=trained, full=full, share=trained / full)


@claim("a-lora-0.1-1pct", "1. LoRA, works exceptionally well", "parameter-count", "LoRA trains 0.1 to 1% of the parameters",
       stated="0.1-1%", expects=Range(0.001, 0.01), unit="%",
       why="It depends on the rank and on which matrices are adapted: on Llama-2-7B from {low:.2%} to {high:.2%} here. (How "
           "close that comes to full fine-tuning is a question of the task, which the article does not name.)",
       correct="Of a 7B model r=8 on the attention's matrices is {low:.2%}, r=64 on all linear layers {high:.2%}.")
def _() -> Computed:
    shares = {"r=8 on q, k, v, o": lora_share("llama-2-7b", 8)}
    shares |= {f"r={r} on all linear layers": lora_share("llama-2-7b", r, LINEAR) for r in (16, 64)}
    return under(shares, low=min(shares.values()), high=max(shares.values()))
