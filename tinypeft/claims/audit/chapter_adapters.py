"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", section 4: bottleneck adapters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, no_grad
from tinypeft.budget import base_parameters
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import adapters_of_7b, share
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.measures import relative
from tinypeft.claims.settings import LATENCY, WIDTH_64, slowdown
from tinypeft.claims.small_models import WIDTH, adapter_layer, as_if_trained, largest, logits, small_gpt2
from tinypeft.nn import generator
from tinypeft.peft import BottleneckConfig, get_peft_model
from tinypeft.peft.bottleneck import Bottleneck

BLOCK = "Section 4, standard transformer block"
FORMULA = "Section 4, Adapter(x) = W_up · σ(W_down · x)"
COUNT = "Section 4, parameter count"
TRADEOFF = "Section 4, tradeoff"


def stream_and_sublayer() -> tuple[Tensor, Tensor]:
    """x and h: the stream, and what a sub-layer has found in it."""
    draw = generator(0, "stream").standard_normal
    return Tensor(draw((1, 5, WIDTH))), Tensor(draw((1, 5, WIDTH)))


@claim("d-std-block", BLOCK, "formula", "a block adds what attention makes of x to x", stated="x + Attention(x)", expects=0.0,
       why="GPT-2 and Llama are pre-norm: attention reads the normed stream. The arrow in front of the formula has the "
           "LayerNorm, the formula has lost it. With it the difference is {with_norm:.1g}.",
       correct="A block computes x + Attention(LayerNorm(x)), and with the FFN the same after it.")
def _() -> Computed:
    model, (x, _) = small_gpt2(), stream_and_sublayer()
    block = model.transformer.h[0]
    block.mlp.c_proj.weight.data[:] = 0  # so that the block's output is that of its first half
    with no_grad():
        out = block(x, None, None)
        stated, with_norm = (x + block.attn(z, None, None) for z in (x, block.ln_1(x)))
    return under({"largest difference from the block's output": largest((out - stated).data)},
                 with_norm=largest((out - with_norm).data))


@claim("d-adapter-noskip", FORMULA, "formula", "an adapter is the two layers alone, without a way around them",
       stated="Adapter(x) = W_up · σ(W_down · x)", expects=0.0,
       why="Houlsby et al. (2019) add the adapter's input to its output. Without that, W_up = 0 takes the sub-layer's result "
           "h out of the stream: the block's output is off by {removed:.2g}, all of h, and the pretrained model is gone. "
           "With it the model starts unchanged: {kept:.1g} difference in the logits.",
       correct="Adapter(h) = h + W_up · σ(W_down · h)")
def _() -> Computed:
    x, h = stream_and_sublayer()
    layer = adapter_layer()
    base, silent = small_gpt2(), get_peft_model(small_gpt2(), BottleneckConfig(reduction_factor=4, init_weights="mam_adapter"))
    with no_grad():
        difference = largest((layer(x, h) - (x + layer.adapters["default"](h))).data)
        up: Any = layer.adapters["default"].get_submodule("adapter_up")
        up.weight.data[:] = up.bias.data[:] = 0
        removed = x + h - (x + layer.adapters["default"](h))
        return under({"largest difference from the adapter's layer": difference},
                     removed=largest(removed.data), kept=largest(logits(silent) - logits(base)))


@claim("d-adapter-map", FORMULA, "shape", "W_down maps R^d to R^r, W_up maps R^r to R^d; d = 4096, r = 64",
       stated="r x d and d x r", expects=((64, 4096), (4096, 64)),
       why="Stored (out, in): W_down x has r numbers, W_up makes d.")
def _() -> Computed:
    adapter = Bottleneck(WIDTH_64, 4096, 64)
    return computed((adapter.adapter_down[0].weight.shape, adapter.adapter_up.weight.shape))


@claim("d-adapter-2dr", COUNT, "formula", "one adapter has 2dr + r + d parameters", stated="2dr + r + d",
       expects=2 * 4096 * 64 + 64 + 4096,
       why="At d = 4096 and r = 64: the two matrices have {matrices:,} numbers, the two biases r and d.")
def _() -> Computed:
    sizes = [(p.size, p.ndim) for p in Bottleneck(WIDTH_64, 4096, 64).parameters()]
    return computed(sum(size for size, _ in sizes), matrices=sum(size for size, ndim in sizes if ndim == 2))


@claim("d-adapter-4drl", COUNT, "formula", "two adapters in each of L layers have about 4drL, without the biases",
       stated="4drL", expects=4 * 4096 * 64 * 32,
       why="Counted in Llama-2-7B with r = 64. The biases would add {biases:,}, 2L(r + d).")
def _() -> Computed:
    weights, biases = adapters_of_7b()
    return computed(weights, biases=biases)


@claim("d-adapter-33m", COUNT, "parameter-count", "d = 4096, r = 64, L = 32 gives about 33M", stated="~33M", about=0.02,
       why="{weights:,}, which rounds to {rounded:.0f}M; with the biases {both:,}. Of Llama-2-7B that is {share:.2%}.",
       correct="The weights are {weights:,}, with the biases {both:,}.")
def _() -> Computed:
    weights, biases = adapters_of_7b()
    return computed(weights, weights=weights, rounded=weights / 1e6, both=weights + biases, share=share("llama-2-7b", WIDTH_64))


@claim("d-adapter-latency", TRADEOFF, "property", "adapters make inference 1 to 3 % slower", stated="~1-3%",
       expects=Range(0.01, 0.03), unit="%",
       why="Adapters of width 64 add {flops:.1%} of multiplications to a 7B model. What takes the time is that they are "
           "computed after the layer, not beside it: LoRA's paper (Hu et al. 2021, table 1) times GPT-2 medium. A large batch "
           "hides the small layers, a single short row does not.",
       correct="Adapters cost from {least:.0%} in large batches to {most:.0%} for a single short row, as measured there.")
def _() -> Computed:
    times = {f"{case}, {adapters} a layer": slowdown(case, adapters) for case in LATENCY for adapters in (1, 2)}
    return under(times, flops=adapters_of_7b()[0] / base_parameters("llama-2-7b"), least=min(times.values()),
                 most=max(times.values()))


@claim("d-adapter-nomerge", TRADEOFF, "property", "an adapter cannot be merged into a weight matrix", stated="can't be merged",
       expects=Range(low=0.01), unit="%",
       why="The best affine map leaves this much of an adapter's output unexplained: a matrix cannot do what the nonlinearity "
           "does. Being sequential is not the reason. Without the nonlinearity the rest is {linear:.1g}, and the two matrices "
           "could be multiplied into the one before them.")
def _() -> Computed:
    peft_model = as_if_trained(get_peft_model(small_gpt2(), BottleneckConfig(reduction_factor=4)))
    adapter = peft_model.layers()[0].get_submodule("adapters.default")
    assert isinstance(adapter, Bottleneck)
    curved = unexplained(adapter)
    adapter.act = lambda z: z
    return under({"unexplained": curved}, linear=unexplained(adapter))


def unexplained(adapter: Bottleneck) -> float:
    """The share of an adapter's output that no affine map of its input gives."""
    z = generator(0, "inputs").standard_normal((2000, WIDTH))
    with no_grad():
        y = adapter(Tensor(z)).data
    columns = np.hstack([z, np.ones((len(z), 1))])
    rest = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    return relative(rest, y - y.mean(axis=0))
