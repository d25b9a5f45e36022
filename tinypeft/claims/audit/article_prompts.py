"""Claims of "Understanding PEFT" on prompt tuning (Lester et al. 2021, 2104.08691) and prefix tuning (Li and Liang 2021,
2101.00190).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, no_grad
from tinypeft.budget import base_parameters, build, parse_quantity
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import counts, prefix_of_a_layer, share
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.settings import PROMPT20
from tinypeft.claims.small_models import WIDTH, as_if_trained, largest, small_gpt2, small_llama, token_ids
from tinypeft.nn import generator
from tinypeft.peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tinypeft.peft.prefix import Prefix

PROMPT = "2. Prompt Tuning, X' = [P; X] or [X; P]"
PROMPT_EXAMPLE = "2. Prompt Tuning, example"
PREFIX = "3. Prefix Tuning, K'ᵢ = [Pk,ᵢ; Kᵢ]"
PREFIX_EXAMPLE = "3. Prefix Tuning, example"
TEN = PrefixTuningConfig(num_virtual_tokens=10)


def prompted(position: str, seed: int = 0) -> PeftModel:
    """A small Llama with three virtual tokens before or after the text."""
    config = PromptTuningConfig(num_virtual_tokens=3, position=position)
    return as_if_trained(get_peft_model(small_llama(), config), seed)


def text_states(position: str, seed: int) -> np.ndarray:
    """The last hidden states of the text's tokens, (n, d), with the prompt of this seed."""
    n = token_ids().shape[1]
    with no_grad():
        states: Any = prompted(position, seed)(token_ids(), output_hidden_states=True).hidden_states
    return states[-1].data[0, 3:] if position == "prepend" else states[-1].data[0, :n]


@claim("a-prompt-shapes", PROMPT, "shape", "[P; X] stacks P (p, d) on X (n, d); for n = 6, p = 3 and d = 32 that is (9, 32)",
       stated="X n x d, P p x d", expects=((6, 32), (3, 32), (9, 32)),
       why="The shapes of the embedded text, of the trained prompt, and of what the first layer gets from both.")
def _() -> Computed:
    peft_model = prompted("prepend")
    X = peft_model.get_base_model().get_input_embeddings()(token_ids())
    with no_grad():
        states: Any = peft_model(token_ids(), output_hidden_states=True).hidden_states
    P = peft_model.prompt_encoder["default"].embedding.weight
    return computed((X.shape[1:], P.shape, states[0].shape[1:]))


@claim("a-prompt-append", PROMPT, "property", "the prompt may stand before the text or after it: either way it acts on all of "
       "the text's tokens", stated="X' = [P; X] or X' = [X; P]", expects="100%",
       why="The share of the text's tokens whose last hidden state changes with the prompt. Attention is causal: a token sees "
           "what stands before it, so an appended prompt reaches only what is generated after it.",
       correct="In a causal model a prepended prompt acts on the whole text, an appended one on the answer alone.")
def _() -> Computed:
    def share(position: str) -> float:
        moved = np.abs(text_states(position, seed=0) - text_states(position, seed=1)).max(axis=1) > 1e-9
        return float(moved.mean())

    return under({"prepended": share("prepend"), "appended": share("append")})


@claim("a-prompt-15360", PROMPT_EXAMPLE, "parameter-count", "20 virtual tokens of width 768 are 15,360 parameters",
       stated="15,360", why="Counted in GPT-2 small, which has that width.")
def _() -> Computed:
    return computed(counts("gpt2", PROMPT20).trainable)


@claim("a-prompt-7b-pct", PROMPT_EXAMPLE, "parameter-count", "these 15,360 are 0.0002% of a 7B model", stated="0.0002%",
       why="15,360 of 7 billion is {arithmetic:.5%}, so the division is right, but its two numbers belong to different models: "
           "width 768 is GPT-2 small's; a 7B model is 4,096 wide, and its 20 tokens are {n:,} parameters.",
       correct="20 tokens are {n:,} parameters of Llama-2-7B, {large:.4%}, or 15,360 of GPT-2 small, {small:.4%}.")
def _() -> Computed:
    small, large = share("gpt2", PROMPT20), share("llama-2-7b", PROMPT20)
    return under({"Llama-2-7B, width 4,096": large, "GPT-2 small, width 768": small}, small=small, large=large,
                 arithmetic=counts("gpt2", PROMPT20).trainable / parse_quantity("7B").value,
                 n=counts("llama-2-7b", PROMPT20).trainable)


@claim("a-prefix-concat", PREFIX, "formula", "each layer attends to its own keys and values with p trained ones before them",
       stated="K' = [Pk; K], V' = [Pv; V]", expects=0.0,
       why="Largest difference, in float64, between the layer's output and the formula written out, head by head. Keys and "
           "values have {rows} rows for {n} tokens, the output still has {n}.")
def _() -> Computed:
    peft_model = as_if_trained(get_peft_model(small_gpt2(layers=1), PrefixTuningConfig(num_virtual_tokens=3)))
    attention = peft_model.get_base_model().get_submodule("transformer.h.0.attn")
    encoder: Any = peft_model.prompt_encoder["default"]
    x = Tensor(generator(0, "x").standard_normal((1, 5, WIDTH)))
    slots = encoder.prefix().reshape(1, 3, 2, 4, WIDTH // 4)  # one row, p, keys and values, heads, width of a head
    out = attention(x, None, Prefix(slots, None))
    formula, rows = attention_by_hand(attention, x.data[0], slots.data[0])
    return computed(largest(out.data[0] - formula), rows=rows, n=out.shape[1])


def attention_by_hand(attention: Any, x: np.ndarray, prefix: np.ndarray) -> tuple[np.ndarray, int]:
    """softmax(Q [Pk; K]^T / sqrt(d_k)) [Pv; V] of GPT-2's attention, and the number of keys.

    Args:
        x: (n, d).
        prefix: (p, 2, heads, d_k), keys and values.
    """
    n, (p, _, heads, d_k) = len(x), prefix.shape
    qkv = (x @ attention.c_attn.weight.data + attention.c_attn.bias.data).reshape(n, 3, heads, d_k)
    hidden = np.tri(n, p + n, p) == 0  # a token sees the whole prefix, and the text up to itself
    results = []
    for head in range(heads):
        Q = qkv[:, 0, head]
        K, V = (np.concatenate([prefix[:, i, head], qkv[:, 1 + i, head]]) for i in (0, 1))  # (p + n, d_k)
        weights = np.exp(np.where(hidden, -np.inf, Q @ K.T / np.sqrt(d_k)))
        results.append(weights / weights.sum(axis=1, keepdims=True) @ V)
    return np.concatenate(results, axis=1) @ attention.c_proj.weight.data + attention.c_proj.bias.data, p + n


@claim("a-prefix-shape", PREFIX, "shape", "a layer's prefix keys are (p, d): (20, 4096) for a model of width 4,096",
       stated="p x d", expects=(20, 4096),
       why="They are as wide as keys: key heads × width of a head. That is d in Llama-2-7B. Where groups of query heads share "
           "a key head it is less: {narrow:,} in Llama-3-8B, and {seventy:,} in Llama-2-70B, whose d is {width:,}.",
       correct="Pk,ᵢ and Pv,ᵢ are p × (key heads × width of a head), which is p × d without grouped queries.")
def _() -> Computed:
    own, grouped, seventy = map(prefix_of_a_layer, ("llama-2-7b", "llama-3-8b", "llama-2-70b"))
    return under({"Llama-2-7B": own, "Llama-3-8B (grouped queries)": grouped}, narrow=grouped[1], seventy=seventy[1],
                 width=build("llama-2-70b").config.hidden_size)


@claim("a-prefix-184320", PREFIX_EXAMPLE, "parameter-count", "12 layers × 2 × 10 tokens × 768", stated="184,320",
       why="Counted in GPT-2 small, which has 12 layers of that width.")
def _() -> Computed:
    return computed(counts("gpt2", TEN).trainable)


@claim("a-prefix-tiny", PREFIX_EXAMPLE, "parameter-count", "this is a tiny fraction of the model: read as at most 1%",
       stated="tiny fraction (no number)", expects=Range(high=0.01), unit="%",
       why="Of GPT-2 small's {base:,} parameters. A layer has 2pd prefix numbers beside about 12d² weights, so that the "
           "fraction, p/(6d) without the embeddings, falls as models grow wider.")
def _() -> Computed:
    base = base_parameters("gpt2")
    return computed(share("gpt2", TEN), base=base)
