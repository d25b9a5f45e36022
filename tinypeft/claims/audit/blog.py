"""Claims of "Parameter Efficient Fine Tuning (PEFT) – Adapting Large Models at Scale": the definition of PEFT, adapters, LoRA.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, functional as F
from tinypeft.budget import adapted, base_parameters, format_bytes, memory
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import counts, share
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.measures import (
    degrees_of_freedom,
    depth,
    forward_work,
    out_of_reach_of_bitfit,
    out_of_reach_of_lora,
    rank,
    relative,
)
from tinypeft.claims.settings import LATENCY, LINEAR, PREFIX20, PROMPT20, QKVO, WIDTH_64, lora, slowdown
from tinypeft.claims.small_models import (
    adapter_layer,
    as_if_trained,
    base_values,
    first_layer,
    inputs,
    largest,
    logits,
    small_gpt2,
    small_llama,
    token_ids,
    toy_llama,
    toy_lora,
)
from tinypeft.nn import CausalLM, generator
from tinypeft.peft import (
    BitFitConfig,
    BottleneckConfig,
    PeftConfig,
    PrefixTuningConfig,
    get_peft_model,
)
from tinypeft.training import AdamW

LIMITS = "Limitations of Full Fine Tuning"
DEFINITION = "Formal Definition of PEFT"
FORMULA = "Adapters, Mathematical Formulation"
TRAITS = "Adapters, Characteristics"
DECOMPOSITION = "LoRA, Mathematical Decomposition"
PROJECTIONS = "LoRA, Application in Transformers"
PROPERTIES = "LoRA, Practical Properties"
SMALL_ADAPTERS = BottleneckConfig(reduction_factor=4)
ONE_ROW = "1 row of 128 tokens"


def bytes_of_adam(model: CausalLM) -> int:
    """What AdamW remembers of a model after its first step."""
    model(token_ids(), labels=token_ids()).loss.backward()
    optimizer = AdamW(model.parameters())
    optimizer.step()
    return sum(array.nbytes for name, array in optimizer.state_dict().items() if not name.endswith("step"))


def changes_weights(method: PeftConfig) -> bool:
    """Whether what a method does can be written into the model's own parameters."""
    peft_model = as_if_trained(get_peft_model(small_gpt2(), method))
    try:
        peft_model.merge_adapter()
    except ValueError:
        return False
    return True


def attention_by_head(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """softmax(Q K^T / sqrt(d_k)) V for each query head, a token seeing what stands before it.

    Args:
        q: (T, heads, d_k).
        k, v: (T, key heads, d_k).
    """
    T, heads, d_k = q.shape
    results = []
    for head in range(heads):
        key_head = head * k.shape[1] // heads
        scores = np.where(np.tri(T) == 1, q[:, head] @ k[:, key_head].T / np.sqrt(d_k), -np.inf)
        weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        results.append(weights @ v[:, key_head])
    return np.stack(results, axis=1)


@claim("c-opt-memory", LIMITS, "memory", "the optimizer's memory is proportional to the model's size: twice the parameters "
       "take twice as much", stated="proportional to model size", expects=1.0,
       why="AdamW keeps two numbers for each parameter: {each:.0f} bytes in float32, counted after a real step of two models. "
           "For Llama-2-7B that is {llama}. (The value is the ratio of their states by that of their parameters.)")
def _() -> Computed:
    small, large = (small_llama(width=width).to("float32") for width in (32, 64))
    sizes = [sum(parameter.size for parameter in model.parameters()) for model in (small, large)]
    states = [bytes_of_adam(model) for model in (small, large)]
    return computed(states[1] / states[0] / (sizes[1] / sizes[0]), each=states[0] / sizes[0],
                    llama=format_bytes(memory("llama-2-7b").parts["optimizer states"], 1))


@claim("c-theta-union", DEFINITION, "formula", "what is trained is a part of the model's own parameters: no new ones",
       stated="θ = θ_frozen ∪ θ_adapt", expects=0,
       why="How many parameters there are beyond the model's. Only methods that select some, such as BitFit, divide θ. LoRA, "
           "adapters, prompts and prefixes add to it.",
       correct="θ' = θ ∪ φ, with θ frozen and φ new; or, for methods that select, a division of θ")
def _() -> Computed:
    methods: dict[str, PeftConfig] = {"biases": BitFitConfig(), "LoRA, r=8": lora(8, LINEAR), "adapters": BottleneckConfig(),
                                      "prefix of 20": PREFIX20, "prompt of 20": PROMPT20}
    return under({f"{name}, GPT-2 small": counts("gpt2", method).total - base_parameters("gpt2")
                  for name, method in methods.items()})


@claim("c-objective", DEFINITION, "formula", "the loss is minimised over θ_adapt, and θ_frozen does not change",
       stated="min over θ_adapt of L", expects=0.0,
       why="The largest change of a frozen number in ten steps of AdamW with LoRA, in which the loss falls from {first:.2f} to "
           "{last:.2f}.")
def _() -> Computed:
    peft_model = get_peft_model(small_llama(), lora(4))
    before, losses = base_values(peft_model), []
    optimizer = AdamW([parameter for parameter in peft_model.parameters() if parameter.requires_grad], lr=0.01)
    for _step in range(10):
        loss = peft_model(token_ids(), labels=token_ids()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return computed(largest(base_values(peft_model) - before), first=losses[0], last=losses[-1])


@claim("c-subspace", DEFINITION, "property", "each of the post's four methods learns in a subspace of the parameters",
       stated="restricts learning to a low-dimensional subspace of the full parameter space",
       expects="Adapters, LoRA, Prefix Tuning, Bias Only",
       why="Those for which it is so are shown. Adapters and prefixes do not change the parameters: they cannot be merged into "
           "them. LoRA does, but of the sum of two of its updates {lost:.0%} is out of its reach, and a subspace holds its "
           "sums: it moves on a curved set, of {free} dimensions for a layer of 32 x 32 with r = 4.",
       correct="Only methods that select parameters learn in a subspace; LoRA in a curved set of r(d + k - r) dimensions for "
               "each matrix; the others in parameters of their own.")
def _() -> Computed:
    missed = {"LoRA": out_of_reach_of_lora(), "Bias Only": out_of_reach_of_bitfit()}
    methods: dict[str, PeftConfig] = {"Adapters": SMALL_ADAPTERS, "LoRA": lora(2, LINEAR),
                                      "Prefix Tuning": PrefixTuningConfig(num_virtual_tokens=2), "Bias Only": BitFitConfig()}
    found = [name for name, method in methods.items() if changes_weights(method) and missed[name] < 1e-9]
    return computed(", ".join(found), lost=missed["LoRA"], free=degrees_of_freedom(4)[0])


@claim("c-adapter-formula", FORMULA, "formula", "an adapter computes h + W_up σ(W_down h)",
       stated="h_adapter = h + W_up σ(W_down h)", expects=0.0,
       why="Largest difference, in float64, from the real layer, whose biases are zero here; and of a Llama's logits with W_up "
           "= 0 from those without adapters.")
def _() -> Computed:
    layer, x, h = adapter_layer(non_linearity="relu"), inputs(32), inputs(32, seed=2)
    adapter: Any = layer.adapters["default"]
    down, up = adapter.adapter_down[0], adapter.adapter_up
    down.bias.data[:] = up.bias.data[:] = 0
    formula = h.data + np.maximum(h.data @ down.weight.data.T, 0) @ up.weight.data.T
    silent = get_peft_model(small_llama(), BottleneckConfig(reduction_factor=4, init_weights="mam_adapter"))
    return under({"layer": largest(layer(x, h).data - x.data - formula),
                  "logits at W_up = 0": largest(logits(silent) - logits(small_llama()))})


@claim("c-adapter-shapes", FORMULA, "shape", "W_down is r × d and W_up d × r; for r = 64, d = 4096", stated="r x d, d x r",
       expects=((64, 4096), (4096, 64)), why="As in Llama-2-7B. Together they have 2dr = {n:,} numbers.")
def _() -> Computed:
    layer: Any = adapted("llama-2-7b", WIDTH_64).layers()[0]
    adapter = layer.adapters["default"]
    down, up = adapter.adapter_down[0].weight, adapter.adapter_up.weight
    return computed((down.shape, up.shape), n=down.size + up.size)


@claim("c-adapter-depth", TRAITS, "property", "the network is not deeper than before: no further linear layer to wait for",
       stated="Preserves the original network depth", expects=0,
       why="A layer of Llama has {before} linear layers that wait for each other; two adapters put in {added} more. Two lines "
           "on, the post itself speaks of latency \"due to additional layers\".",
       correct="Each layer gets {added} linear layers more that have to be computed one after the other.")
def _() -> Computed:
    base, deep = small_llama(), get_peft_model(small_llama(), SMALL_ADAPTERS)
    layers, before = base.config.num_hidden_layers, depth(base)
    added = depth(deep) - before
    return under({"more in each layer": added // layers}, before=(before - 1) // layers, added=added // layers)


@claim("c-adapter-latency", TRAITS, "property", "adapters make inference only a little slower: read as at most 5%",
       stated="minor", expects=Range(high=0.05), unit="%",
       why="In multiplications they are small. In time they are not where the batch is: they are computed after the layer, and "
           "have to be waited for. Hu et al. (2021, table 1) measured {merged} and {adapters} ms for one row of 128 tokens in "
           "GPT-2 medium.",
       correct="Adapters add few multiplications ({work:.1%} at width 64 in a 7B model), but much latency in small batches.")
def _() -> Computed:
    work, (merged, _, adapters) = share("llama-2-7b", WIDTH_64), LATENCY[ONE_ROW]
    chain = depth(get_peft_model(small_llama(), SMALL_ADAPTERS)) / depth(small_llama()) - 1
    return under({"multiplications, width 64 in Llama-2-7B": work, "linear layers to wait for": chain,
                  f"time, {ONE_ROW}": slowdown(ONE_ROW, adapters=2)}, work=work, merged=merged, adapters=adapters)


@claim("c-lora-shapes", DECOMPOSITION, "shape", "A is r × d, B is d × r, and BA has W's shape; for d = 576, r = 8",
       stated="A r x d, B d x r", expects=((8, 576), (576, 8), (576, 576)),
       why="As on q_proj of SmolLM2-135M. That holds for square matrices: on its k_proj, where query heads share key heads, B "
           "is {rows} x {columns}.")
def _() -> Computed:
    layers: Any = adapted("smollm2-135m", lora(8, ["q_proj", "k_proj"])).layers()
    (A, B), (rows, columns) = layers[0].factors("default"), layers[1].factors("default")[1].shape
    return computed((A.shape, B.shape, layers[0].delta_weight("default").shape), rows=rows, columns=columns)


@claim("c-lora-q", PROJECTIONS, "formula", "X W_Q + X B_Q A_Q is the adapted query", stated="Q = X W_Q + X B_Q A_Q",
       expects=0.0,
       why="Largest difference from the real layer, alpha = r. With row vectors the d × r factor meets the input first, and "
           "here it is called B: the letters of Hu et al., where A comes first, have changed places. With theirs the same "
           "formula is off by {swapped:.0%}.")
def _() -> Computed:
    layer, X = first_layer(toy_lora(lora(4), trained=True), "q_proj"), inputs(32).data
    A, B = (factor.data for factor in layer.factors("default"))  # as Hu et al. name them
    W_Q, B_Q, A_Q = layer.base_layer.weight.data.T, A.T, B.T
    Q = layer(Tensor(X)).data
    return computed(largest(Q - (X @ W_Q + X @ B_Q @ A_Q)), swapped=relative(Q - (X @ W_Q + X @ B @ A), Q))


@claim("c-lora-targets", PROJECTIONS, "statement", "keys and values are not adapted", stated="K = X W_K, V = X W_V",
       expects=0.0,
       why="The largest change of a key or value in a small Llama, in the first layer. Which matrices LoRA adapts is a choice. "
           "Hu et al. (2021) take q and v, and so does PEFT by default for a Llama; QLoRA's paper takes all linear layers.",
       correct="LoRA is applied to the modules that are chosen as targets.")
def _() -> Computed:
    def change(targets: Any) -> float:
        peft_model, x = toy_lora(lora(4, targets), trained=True), inputs(32)
        names = [f"model.layers.0.self_attn.{name}" for name in ("k_proj", "v_proj")]
        return max(largest(peft_model.get_base_model().get_submodule(name)(x).data - toy_llama().get_submodule(name)(x).data)
                   for name in names)

    return under({"q (this post)": change(["q_proj"]), "q, v (Hu et al., PEFT's default)": change(None),
                  "q, k, v, o": change(QKVO), "all linear layers (QLoRA)": change(LINEAR)})


@claim("c-attention", PROJECTIONS, "formula", "attention is softmax(QKᵀ/√d_k) V", stated="softmax(QKᵀ/√d_k) V", expects=0.0,
       why="Largest difference, head by head, from what the models compute with. What the formula leaves out: heads (here four "
           "on two key heads), and the mask that hides later tokens.")
def _() -> Computed:
    draw = generator(0, "attention").standard_normal
    q, k, v = draw((7, 4, 8)), draw((7, 2, 8)), draw((7, 2, 8))
    return computed(largest(F.attention(*(Tensor(x[None]) for x in (q, k, v))).data[0] - attention_by_head(q, k, v)))


@claim("c-merge-none", PROPERTIES, "property", "merged LoRA costs nothing in inference, and changes nothing",
       stated="No inference overhead after merging weights", expects=0,
       why="In float64. In float16 the merged weight is rounded to the base's grid: of a change of {size:.1%} of the weight, "
           "{lost:.1%} is lost.")
def _() -> Computed:
    base, peft_model = small_llama(), as_if_trained(get_peft_model(small_llama(), lora(4, lora_alpha=8)))
    before = logits(peft_model)
    merged = peft_model.merge_and_unload()
    size, lost = rounding_of_a_merge()
    return under({"parameters more": sum(p.size for p in merged.parameters()) - sum(p.size for p in base.parameters()),
                  "multiplications more": forward_work(merged) - forward_work(base),
                  "largest difference of a logit": largest(logits(merged) - before)}, size=size, lost=lost)


def rounding_of_a_merge() -> tuple[float, float]:
    """How large a change is beside a float16 weight, and what share of it is lost when it is merged."""
    half = small_llama().to("float16")
    peft_model = as_if_trained(get_peft_model(half, lora(4, ["q_proj"])), std=0.05)
    layer = first_layer(peft_model, "q_proj")
    before, delta = layer.base_layer.weight.data.astype(np.float64), layer.delta_weight("default")
    peft_model.merge_adapter()
    return relative(delta, before), relative(layer.base_layer.weight.data - before - delta, delta)


@claim("c-multi-lora", PROPERTIES, "property", "several LoRA adapters share one base: each row of a batch goes through its own",
       stated="Multiple LoRA adapters can coexist on a single backbone", expects=0.0,
       why="Largest difference between a batch of three rows (two adapters, and the bare base) and each row alone. They are "
           "not merged then, and cost some time; merging chooses one, or adds them up (rank 2 and rank 2 to rank {merged}).")
def _() -> Computed:
    peft_model = toy_lora(lora(2, LINEAR), trained=True)
    peft_model.add_adapter("other", lora(2, LINEAR))
    peft_model.set_adapter("other")
    as_if_trained(peft_model)
    ids = generator(0, "rows").integers(0, 16, (3, 6))
    names = ["default", "other", "__base__"]
    mixed = logits(peft_model, ids, adapter_names=names)
    alone = []
    for row, name in zip(ids, names, strict=True):
        if name == "__base__":
            alone.append(logits(toy_llama(), row[None]))
        else:
            peft_model.set_adapter(name)
            alone.append(logits(peft_model, row[None]))
    layer = first_layer(peft_model, "q_proj")
    both = layer.delta_weight("default") + layer.delta_weight("other")
    return computed(largest(mixed - np.concatenate(alone)), merged=rank(both))


@claim("c-mixed-precision", PROPERTIES, "property", "LoRA trains in mixed precision: with a float16 base its gradients differ "
       "from those in float32 by little, read as at most 2%", stated="Compatible with mixed-precision training",
       expects=Range(high=0.02), unit="%",
       why="The base in float16, the factors and their gradients in float32.")
def _() -> Computed:
    def gradients(dtype: str) -> np.ndarray:
        peft_model = as_if_trained(get_peft_model(small_llama().to(dtype), lora(4)), std=0.05)
        peft_model(token_ids(), labels=token_ids()).loss.backward()
        return np.concatenate([p.grad.ravel() for p in peft_model.parameters() if p.requires_grad]).astype(np.float64)

    exact = gradients("float32")
    return computed(relative(gradients("float16") - exact, exact))
