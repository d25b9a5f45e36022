"""Claims of "Understanding PEFT": its mathematical intuition, and its three examples of adaptation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.budget import CATALOG, base_parameters, parse_quantity
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import all_choices, by_module, counts
from tinypeft.claims.judge import Computed, Verdict, searched, under
from tinypeft.claims.measures import (
    QUERY,
    adapted_surnames,
    degrees_of_freedom,
    out_of_reach_of_bitfit,
    out_of_reach_of_lora,
    relative,
    training_work,
)
from tinypeft.claims.settings import LINEAR, lora
from tinypeft.claims.small_models import WIDTH, small_llama
from tinypeft.nn import generator
from tinypeft.peft import (
    BottleneckConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SubspaceConfig,
    get_peft_model,
)

INTUITION = "Mathematical Intuition Behind PEFT"
MEDICAL = "Example 1: Medical Domain Adaptation"
LEGAL = "Example 2: Legal Document Analysis"
MULTILINGUAL = "Example 3: Multilingual Adaptation"


def out_of_reach_of_subspace() -> float:
    """By how much the updates of z1 and z2 together differ from that of z1 + z2, in a layer whose weights move by P z."""
    adapted = get_peft_model(small_llama(), SubspaceConfig(dimension=8, target_modules=["q_proj"]))
    layer: Any = adapted.get_base_model().get_submodule(QUERY)
    z1, z2, x = *generator(0, "z").standard_normal((2, 8)), Tensor(generator(0, "x").standard_normal((5, WIDTH)))

    def update(z: np.ndarray) -> Any:
        layer.subspace_z["default"].data = z
        return layer(x).data - layer.base_layer(x).data

    return relative(update(z1) + update(z2) - update(z1 + z2), update(z1 + z2))


# ---- mathematical intuition -------------------------------------------------------------------------------------------

editorial("a-intrinsic-M-N", INTUITION, "property", "the adaptation to a task lies in a subspace of M dimensions, M << N",
          Verdict.DEPENDS, stated="M << N",
          reference="Aghajanyan et al. 2020, 2012.13255: 200 trained numbers, projected at random into all weights, reach 90% "
                    "of full fine-tuning of RoBERTa on MRPC; how many are needed differs by task and model",
          why="The article gives no measurement. Those that there are hold for the task and the model that were measured, for "
              "a threshold (90% of full fine-tuning), and for random subspaces.",
          correct="For a given model, task and threshold, the smallest M that reaches it can be measured; it is often far "
                  "below N.")


@claim("a-svd", INTUITION, "formula", "most singular values of an update ΔW are close to zero: less than a hundredth "
       "of the largest", stated="many singular values close to zero", expects=Range(low=0.5), unit="%",
       why="Adapting the bundled model with LoRA of rank 8 leaves at most 8 singular values in each matrix. When all weights "
           "were trained on the same task (20 steps of AdamW), only {full:.0%} were that small: full fine-tuning may move in "
           "many directions even where few would do. In Llama-2-7B its changes have 10 to 100 times the rank that LoRA is "
           "usually given (Biderman et al. 2024, 2405.09673).",
       correct="LoRA's update has at most r singular values that are not zero. That few are enough is shown by how well "
               "it does, not by the update that full fine-tuning makes.")
def _() -> Computed:
    def small_values(deltas: dict[str, np.ndarray]) -> float:
        values = [np.linalg.svd(delta, compute_uv=False) for name, delta in deltas.items() if "_proj" in name]
        return float(np.mean(np.concatenate([s < 0.01 * s[0] for s in values])))

    full = small_values(adapted_surnames(None).deltas)
    return under({"LoRA, r=8": small_values(adapted_surnames(8).deltas), "full fine-tuning": full}, full=full)


@claim("a-subspace", INTUITION, "property", "what a method can reach is a subspace: with two updates, also their sum",
       stated="PEFT methods effectively find this lower-dimensional subspace", expects=0.0, unit="%",
       why="The share of a sum of two updates that the method cannot make (of BitFit's, what is not in the biases). Biases "
           "are a subspace, though one that nobody searched for. Two LoRA updates of rank 2 add up to rank 4: what LoRA "
           "reaches is a curved set, of {free} dimensions where A and B have {stored} numbers (32 x 32, r = 4): r(d + k - r). "
           "Prompts, prefixes and adapters do not move the N parameters at all: they add new ones.",
       correct="Each method restricts learning to a set of its own; only for some is that a subspace of the model's "
               "parameters, and none of them searches for the task's.")
def _() -> Computed:
    free, stored = degrees_of_freedom(4)
    return under({"BitFit": out_of_reach_of_bitfit(), "random subspace (Aghajanyan et al.)": out_of_reach_of_subspace(),
                  "LoRA, r=2": out_of_reach_of_lora()}, free=free, stored=stored)


# ---- example 1 --------------------------------------------------------------------------------------------------------

@claim("a-ex1-pct", MEDICAL, "parameter-count", "3M of 7B parameters are 0.04%", stated="0.04%",
       why="The division is right. Whether r=16 gives 3M is another question.")
def _() -> Computed:
    trained = parse_quantity("3M").value
    return under({"of 7B": trained / parse_quantity("7B").value, "of Llama-2-7B": trained / base_parameters("llama-2-7b")})


@claim("a-ex1-3m-r16", MEDICAL, "parameter-count", "LoRA with r=16 on a 7B model trains 3M parameters", stated="3M",
       why="Neither the model nor the matrices are named. Of {n} choices of matrices, each taken in all layers of a model "
           "that is called 7B, only those round to 3M that adapt a single narrow one: {fitting}. Usual choices train more: q "
           "and v of Llama-2-7B have {qv:,}, and the smallest choice there has {least:,}.",
       correct="r=16 trains {qv:,} parameters on q and v of Llama-2-7B, {linear:,} on all linear layers.")
def _() -> Computed:
    sizes = {title: by_module(model, 16) for title, model in {
        "Llama-2-7B": "llama-2-7b", "OPT-6.7B": "opt-6.7b", "Pythia-6.9B": "pythia-6.9b", "Qwen2-7B": "qwen2-7b"}.items()}
    sizes["Mistral-7B"] = by_module("llama-3-8b", 16)  # its layers have the same shapes (2310.06825, table 1)
    choices = {title: all_choices(modules) for title, modules in sizes.items()}
    readings = {f"{title}, {names}": count for title, counted in choices.items() for names, count in counted.items()}
    llama, fitting = choices["Llama-2-7B"], [name for name, count in readings.items() if parse_quantity("3M").rounds_to(count)]
    return searched(readings, n=len(readings), fitting="; ".join(fitting), least=min(llama.values()), qv=llama["q, v"],
                    linear=max(llama.values()))


@claim("a-ex1-time", MEDICAL, "statement", "LoRA takes 4 hours where full fine-tuning takes a week: 42 times as long",
       stated="4 hours vs. 1 week", expects="42x",
       why="LoRA leaves out the gradients of the frozen weights, one of the three products that each of them takes part in: at "
           "most 1.5 times less work, less still with gradient checkpointing. Hu et al. (2021, section 4.2) measured 43.1 and "
           "32.5 tokens a second on GPT-3. If 42 was seen, it has other causes, such as a model that did not fit the card.",
       correct="Full fine-tuning takes {plain:.2f} times LoRA's multiplications in a model of 8 layers, and {again:.2f} times "
               "with gradient checkpointing.")
def _() -> Computed:
    def ratio(checkpointing: bool) -> float:
        full, adapted = small_llama(layers=8, width=64), get_peft_model(small_llama(layers=8, width=64), lora(1, LINEAR))
        for model in (full, adapted.get_base_model()) if checkpointing else ():
            model.gradient_checkpointing_enable()
        return training_work(full.train()) / training_work(adapted.train())

    plain, again = ratio(checkpointing=False), ratio(checkpointing=True)
    return searched({"multiplications": plain, "with gradient checkpointing": again, "measured by Hu et al.": 43.1 / 32.5},
                    plain=plain, again=again)


editorial("a-ex1-acc", MEDICAL, "statement", "LoRA reaches 96% of full fine-tuning's accuracy", Verdict.NOT_REPRODUCIBLE,
          stated="96%", reference="the article names no data set, no model, no metric and no source for it",
          why="Nothing says what was trained on what, so it cannot be run again.")


# ---- example 2 --------------------------------------------------------------------------------------------------------

@claim("a-ex2-prefix-1.5m", LEGAL, "parameter-count", "a prefix of 50 tokens trains 1.5M parameters", stated="1.5M",
       why="The model is not named. None of {n} well-known decoders has such a prefix. Without grouped "
           "queries 1.5M would need a product of layers and width of {product:,.0f}, and GPT-2 small has {small:,}.",
       correct="50 tokens are {gpt2:,} parameters in GPT-2 small, {llama:,} in Llama-2-7B.")
def _() -> Computed:
    decoders = [name for name in CATALOG if name != "t5-xxl"]
    found = {CATALOG[name].title: counts(name, PrefixTuningConfig(num_virtual_tokens=50)).trainable for name in decoders}
    gpt2, each = found["GPT-2 small"], 2 * 50  # keys and values of 50 tokens, for each of a layer's d numbers
    return searched(found, n=len(decoders), gpt2=gpt2, small=gpt2 // each, llama=found["Llama-2 7B"], product=1.5e6 / each)


# ---- example 3 --------------------------------------------------------------------------------------------------------

@claim("a-ex3-adapters-2m", MULTILINGUAL, "parameter-count", "a language's adapters have 2M parameters", stated="2M",
       why="The width of the bottleneck is not given. In Llama-2-7B, with two adapters in a layer, it would have to be "
           "{width}; usual widths have more, 64 for one {usual:,}.",
       correct="Adapters of width {width} in Llama-2-7B have {found:,} parameters, those of width 64 {usual:,}.")
def _() -> Computed:
    sizes = {m: counts("llama-2-7b", BottleneckConfig(reduction_factor=4096 // m)).trainable for m in (2, 4, 8, 16, 32, 64)}
    width = min(sizes, key=lambda m: abs(sizes[m] - 2e6))
    return searched({f"width {m}": size for m, size in sizes.items()}, width=width, found=sizes[width], usual=sizes[64])


@claim("a-ex3-prompt-20k", MULTILINGUAL, "parameter-count", "the shared prompt has 20K parameters", stated="20K",
       why="Neither the number of tokens nor the model is given. In a model that is 4,096 wide it is {tokens:.1f} tokens; a "
           "prompt of 20 has {usual:,} parameters there.",
       correct="{fitting} are about 20K parameters.")
def _() -> Computed:
    sizes = {f"{p} tokens of {CATALOG[name].title}": counts(name, PromptTuningConfig(num_virtual_tokens=p)).trainable
             for name in ("gpt2", "gpt2-medium", "llama-2-7b") for p in (5, 10, 20, 50, 100)}
    usual, stated = sizes["20 tokens of Llama-2 7B"], parse_quantity("20K")
    fitting = [name for name, size in sizes.items() if stated.rounds_to(size)]
    return searched(sizes, usual=usual, tokens=stated.value * 20 / usual, fitting=" or ".join(fitting))


@claim("a-ex3-pct", MULTILINGUAL, "parameter-count", "2M and 20K parameters are 0.03% of the model", stated="0.03%",
       why="The division is right, for a 7B model and one language: each further language adds its 2M, so that ten take "
           "{ten:.2%}.")
def _() -> Computed:
    language, prompt, model = (parse_quantity(text).value for text in ("2M", "20K", "7B"))
    return under({"of 7B": (language + prompt) / model, "of Llama-2-7B": (language + prompt) / base_parameters("llama-2-7b")},
                 ten=(10 * language + prompt) / model)


editorial("a-ex3-92", MULTILINGUAL, "statement", "adapters and a prompt reach 92% of full fine-tuning's performance",
          Verdict.NOT_REPRODUCIBLE, stated="92%", reference="the article names no language, benchmark, model or source for it",
          why="Nothing says what was measured, so it cannot be measured again.")
