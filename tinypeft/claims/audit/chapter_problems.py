"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", practice problems 1, 2, 4 and 5. (Problem 3 has its own file.)"""

from __future__ import annotations

import functools

import numpy as np

from tinypeft.budget import adapter_bytes, base_parameters, build, format_bytes
from tinypeft.claims.claim import Range, claim
from tinypeft.claims.experiments import SOMETHING, counts, lora_counts
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.settings import PREFIX20, WIDTH_64, lora
from tinypeft.claims.small_models import as_if_trained, base_values, largest, logits, small_llama, token_ids
from tinypeft.nn import Linear, LlamaConfig, LlamaForCausalLM
from tinypeft.peft import BottleneckConfig, LoraLayer, PeftConfig, PeftModel, get_peft_model

P1, P2, P4, P5 = (f"Problem {number}" for number in (1, 2, 4, 5))


# ---- Problem 1: one matrix ------------------------------------------------------------------------------------------

def adapter_of_one_matrix() -> tuple[int, int]:
    """How many parameters r = 16 has on a matrix of 1024 x 4096, and the matrix itself."""
    layer = LoraLayer(Linear(4096, 1024, bias=False), "matrix")
    layer.add("default", lora(16), seed=0)
    return sum(p.size for p in layer.parameters_of("default").values()), layer.base_layer.weight.size


@claim("d-p1-count", P1, "parameter-count", "r = 16 on a matrix of 1024 x 4096", stated="81,920",
       why="16 · 4096 for A, which meets the input, and 1024 · 16 for B.")
def _() -> Computed:
    return computed(adapter_of_one_matrix()[0])


@claim("d-p1-ratio", P1, "parameter-count", "the matrix has 51.2 times as many", stated="51.2x",
       why="{full:,} divided by {count:,}.")
def _() -> Computed:
    count, full = adapter_of_one_matrix()
    return computed(full / count, full=full, count=count)


# ---- Problem 2: the start -------------------------------------------------------------------------------------------

@claim("d-p2-proof", P2, "formula", "at B = 0 the output is the pretrained model's, whatever A is", stated="identical",
       expects=0.0,
       why="The largest difference in the logits, over ten draws of A, with dropout on the path of LoRA: 0 · (A x) is 0. (A "
           "has to be finite.)")
def _() -> Computed:
    base = logits(small_llama())
    tried = [get_peft_model(small_llama(), lora(4, lora_dropout=0.3), seed=seed).train(seed=seed) for seed in range(10)]
    return under({"largest difference": max(largest(logits(peft_model) - base) for peft_model in tried)})


@claim("d-p2-step0", P2, "statement", "full fine-tuning, unlike LoRA, may have forgotten at step 0",
       stated="Unlike full fine-tuning", expects=SOMETHING,
       why="Before its first step full fine-tuning is the pretrained model too: the logits differ by nothing, as with LoRA. "
           "What can start elsewhere is a module put in at random: LoRA with a random B is off by {random:.2g}.",
       correct="At step 0 both are the pretrained model; what may differ is the way from there.")
def _() -> Computed:
    base, model = logits(small_llama()), small_llama().requires_grad_().train(seed=0)
    random = get_peft_model(small_llama(), lora(4, init_lora_weights=False))
    return under({"full fine-tuning at step 0": largest(logits(model) - base)}, random=largest(logits(random) - base))


# ---- Problem 4: adapters or LoRA? -----------------------------------------------------------------------------------

def two_tasks(config: PeftConfig) -> PeftModel:
    """A small model with adapters for two tasks, "default" and "other"."""
    peft_model = as_if_trained(get_peft_model(small_llama(), config))
    peft_model.add_adapter("other", config)
    peft_model.set_adapter("other")
    as_if_trained(peft_model, seed=1)
    peft_model.set_adapter("default")
    return peft_model


def touched(config: PeftConfig, merge: bool = False) -> float:
    """The share of the base's numbers that are others than before while the second task is served."""
    peft_model = two_tasks(config)
    before = base_values(peft_model)
    peft_model.set_adapter("other")
    if merge:
        peft_model.merge_adapter()
    return float((base_values(peft_model) != before).mean())


def mixed_batch_error(config: PeftConfig) -> float:
    """How far two requests for two tasks, answered in one batch, are from being answered one by one."""
    peft_model = two_tasks(config)
    first = logits(peft_model)
    peft_model.set_adapter("other")
    one_by_one = np.concatenate([first, logits(peft_model)])
    both = logits(peft_model, np.repeat(token_ids(), 2, axis=0), adapter_names=["default", "other"])
    return largest(both - one_by_one)


@claim("d-p4-swap", P4 + ", scenario 1", "statement", "for each request LoRA has to be merged and unmerged, so adapters are "
       "faster to swap", stated="faster than merging/unmerging LoRA weights", expects=SOMETHING, unit="%",
       why="LoRA does not have to be merged: beside the base it is swapped like an adapter, and not a number of the base "
           "changes. Requests for two tasks even go through in one batch, with a difference of {error:.1g} to one by one. To "
           "load, r = 8 on q, k, v and o of a 7B model is {lora}, an adapter of width 64 {adapter}.",
       correct="Both are swapped without touching the base; merging LoRA is a choice, for when one task stays.")
def _() -> Computed:
    return under({"base numbers changed by a swap of LoRA": touched(lora(4))}, error=mixed_batch_error(lora(4)),
                 lora=format_bytes(adapter_bytes("llama-2-7b", lora(8), "bfloat16"), 1),
                 adapter=format_bytes(adapter_bytes("llama-2-7b", WIDTH_64, "bfloat16"), 1))


@claim("d-p4-continual", P4 + ", scenario 2", "statement", "for each task LoRA needs a full checkpoint, merged",
       stated="full merged checkpoints per task", expects="100 %",
       why="A task is stored as A and B alone: {adapter} for r = 8 on q, k, v and o of Llama-2-7B, against {full} for a merged "
           "copy.",
       correct="A task takes r(d + k) numbers for each adapted matrix, beside one base for all tasks.")
def _() -> Computed:
    adapter, full = adapter_bytes("llama-2-7b", lora(8), "bfloat16"), 2 * base_parameters("llama-2-7b")
    return under({"stored for a task": adapter / full}, adapter=format_bytes(adapter, 1), full=format_bytes(full))


@claim("d-p4-immutable", P4 + ", scenario 3", "statement", "adapters, and not LoRA, leave the base untouched",
       stated="without touching the base weights", expects=0.0, unit="%",
       why="The share of the base's numbers that change. LoRA changes them only where it is merged, as the document concedes: "
           "an immutable base is no reason for one or the other.",
       correct="Adapters always leave the base untouched, LoRA unless it is merged.")
def _() -> Computed:
    return under({"adapters": touched(BottleneckConfig(reduction_factor=4)), "LoRA beside the base": touched(lora(4)),
                  "LoRA, merged": touched(lora(4), merge=True)})


# ---- Problem 5: a prefix --------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=1)
def the_problems_model() -> tuple[int, int]:
    """Of a Llama with 40 layers of width 4096, as the problem has it: parameters, and those of a prefix of 20 tokens."""
    peft_model = get_peft_model(LlamaForCausalLM(LlamaConfig(num_hidden_layers=40)), PREFIX20)
    trainable, total = peft_model.get_nb_trainable_parameters()
    return total - trainable, trainable


@claim("d-p5-count", P5, "parameter-count", "a prefix of 20 tokens in 40 layers of width 4096", stated="6,553,600",
       why="Counted in a Llama of that shape: 2 · 20 · 4096 in each layer.")
def _() -> Computed:
    return computed(the_problems_model()[1])


@claim("d-p5-pct", P5, "parameter-count", "that is 0.05 % of 13 billion", stated="0.05 %",
       why="Of the round 13 billion. A Llama of that shape has {size:,} parameters, of which it is {share:.3%}.")
def _() -> Computed:
    size, prefix = the_problems_model()
    return computed(prefix / 13e9, size=size, share=prefix / size)


@claim("d-p5-13b", P5, "shape", "40 layers of width 4096 are a 13B model", stated="13B",
       why="With Llama's feed-forward width for 4096 there are {size:,} parameters. Llama-2-13B has {layers} layers of width "
           "{width}; a prefix of 20 tokens has {prefix:,} there, {share:.3%}.",
       correct="A 13B model such as Llama-2-13B has {layers} layers of width {width}.")
def _() -> Computed:
    config, prefix = build("llama-2-13b").config, counts("llama-2-13b", PREFIX20).trainable
    return computed(the_problems_model()[0], size=the_problems_model()[0], layers=config.num_hidden_layers,
                    width=config.hidden_size, prefix=prefix, share=prefix / base_parameters("llama-2-13b"))


@claim("d-p5-less", P5, "parameter-count", "a prefix trains less than LoRA", stated="Even less than LoRA (~0.1%)",
       expects=Range(below=1), unit="x",
       why="A prefix of 20 tokens on Llama-2-13B, relative to LoRA on q, k, v and o. 2pdL and 8rdL are equal at p = 4r: r = 4 "
           "has {r4:,} parameters there, the prefix {prefix:,}. About 0.1 % is r = 8, {share:.3%}.",
       correct="A prefix has fewer parameters than LoRA on q, k, v and o where p is below 4r, with as many key heads as query "
               "heads.")
def _() -> Computed:
    prefix = counts("llama-2-13b", PREFIX20).trainable
    sizes = {r: lora_counts("llama-2-13b", r).trainable for r in (4, 8, 16)}
    return under({f"r={r}": prefix / size for r, size in sizes.items()}, prefix=prefix, r4=sizes[4],
                 share=sizes[8] / base_parameters("llama-2-13b"))
