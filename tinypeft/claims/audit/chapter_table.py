"""Claims of "20-09 — Parameter-Efficient Fine-Tuning", section 6: the methods compared in a table."""

from __future__ import annotations

import functools
import warnings

import numpy as np

from tinypeft.budget import base_parameters, format_bytes, memory
from tinypeft.claims.claim import claim
from tinypeft.claims.experiments import SOMETHING, adapters_of_7b, base_bytes, counts, full_training, share
from tinypeft.claims.judge import Computed, computed, under
from tinypeft.claims.measures import relative
from tinypeft.claims.settings import NF4, NF4_EXACT, PREFIX20, PROMPT20, WIDTH_64, lora
from tinypeft.claims.small_models import as_if_trained, largest, logits, small_gpt2, small_llama, token_ids
from tinypeft.nn import CausalLM
from tinypeft.peft import BottleneckConfig, LoraLayer, PeftConfig, PeftModel, get_peft_model
from tinypeft.quant import replace_with_bnb_linear

ROW = "Section 6, table, row "
MEMORY = "Section 6, table, column Memory"
INSIGHT = "Section 6, key insight"


def numbers_in(model: CausalLM) -> int:
    """How many parameters a model has."""
    return sum(parameter.size for parameter in model.parameters())


def lora_layer(peft_model: PeftModel) -> LoraLayer:
    """The first layer that LoRA stands in."""
    layer = peft_model.layers()[0]
    assert isinstance(layer, LoraLayer)
    return layer


# ---- what the columns say -------------------------------------------------------------------------------------------

@claim("d-tab-lora-perlayer", ROW + "LoRA", "table", "LoRA has r(d + k) parameters in a layer; r = 8, d = k = 4096",
       stated="r(d+k) per layer", expects=8 * (4096 + 4096),
       why="That is one matrix. Example 1 of the same page adapts four in a layer, q, k, v and o, and multiplies by 4: "
           "{total:,} in all, a 32nd of that in each layer.",
       correct="LoRA has r(d + k) parameters for each adapted matrix.")
def _() -> Computed:
    total = counts("llama-2-7b", lora(8)).trainable
    return computed(total // 32, total=total)


METHODS: dict[str, PeftConfig] = {"LoRA": lora(8), "QLoRA": lora(8), "Adapters": WIDTH_64, "Prefix Tuning": PREFIX20,
                                  "Prompt Tuning": PROMPT20}
ALIKE = 0.05


def ranked(amounts: dict[str, float], alike: float = ALIKE) -> str:
    """Names from most to least; "=" between those that lie within a small share of their group's largest."""
    groups: list[list[str]] = []
    for name in sorted(amounts, key=lambda name: -amounts[name]):
        if groups and amounts[name] >= (1 - alike) * amounts[groups[-1][0]]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return " > ".join(" = ".join(sorted(group, key=list(amounts).index)) for group in groups)


@claim("d-tab-memory", MEMORY, "table", "memory falls from full fine-tuning over LoRA and adapters, over QLoRA and prefix "
       "tuning, to prompt tuning", stated="Very High, Medium, Low, Medium, Low, Very Low",
       expects="Full FT > LoRA = Adapters > QLoRA = Prefix Tuning > Prompt Tuning",
       why="The frozen base takes nearly all of it. Training Llama-2-7B at 2,048 tokens with checkpointing needs {FullFT}; "
           "over a 16-bit base {Adapters} with adapters, {LoRA} with LoRA, {PrefixTuning} with a prefix, {PromptTuning} with a "
           "prompt; over a 4-bit base, QLoRA, {QLoRA}. (\"=\" is for what differs by less than {alike:.0%}.)",
       correct="Full fine-tuning needs most, QLoRA least; all methods over a 16-bit base need about the same.")
def _() -> Computed:
    totals = {"Full FT": full_training("llama-2-7b").total}
    for name, method in METHODS.items():
        quantization = NF4 if name == "QLoRA" else None
        totals[name] = memory("llama-2-7b", method, quantization=quantization, adapter_dtype="bfloat16").total
    shown = {name.replace(" ", ""): format_bytes(total, 1) for name, total in totals.items()}
    return computed(ranked(totals), alike=ALIKE, **shown)


@claim("d-tab-lora-none", ROW + "LoRA", "table", "LoRA can be merged, and then costs nothing", stated="None (merged), Yes",
       expects=(0, 0.0), why="W + (alpha/r)BA has the shape of W: the merged model has the base's layers and parameters.")
def _() -> Computed:
    base, peft_model = small_llama(), as_if_trained(get_peft_model(small_llama(), lora(4, lora_alpha=8)))
    adapted_logits = logits(peft_model)
    merged = peft_model.merge_and_unload()
    return under({"parameters beside the base's, and largest difference in the logits":
                  (numbers_in(merged) - numbers_in(base), largest(logits(merged) - adapted_logits))})


def quantized_with_change(share: float) -> PeftModel:
    """A small 4-bit model with a LoRA update of one matrix, whose root mean square is this share of the matrix's."""
    model = replace_with_bnb_linear(small_llama(1, width=128), NF4_EXACT)
    peft_model = as_if_trained(get_peft_model(model, lora(8, ["q_proj"])))
    layer = lora_layer(peft_model)
    W, change = layer.base_layer.weight.values(), layer.delta_weight("default")
    layer.lora_B["default"].weight.data *= share * np.linalg.norm(W) / np.linalg.norm(change)
    return peft_model


@functools.lru_cache(maxsize=8)
def merged_in_four_bits(share: float) -> tuple[float, float]:
    """What a merge loses of such an update, |realised - wanted| / |wanted|, and the share of the codes that it changes."""
    peft_model = quantized_with_change(share)
    layer = lora_layer(peft_model)
    before = layer.base_layer.weight.data.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that merging rounds the weights again, which is measured here
        peft_model.merge_adapter()
    after = layer.base_layer.weight.data
    changed = np.concatenate([before >> 4 != after >> 4, before & 15 != after & 15])
    return layer.merge_loss, float(changed.mean())


@functools.lru_cache(maxsize=1)
def merged_in_sixteen_bits() -> float:
    """The same, where the base is dequantized first."""
    peft_model = quantized_with_change(0.015).dequantize()
    layer = lora_layer(peft_model)
    W, change = layer.base_layer.weight.values(), layer.delta_weight("default")
    peft_model.merge_adapter()
    return relative(layer.base_layer.weight.values() - W - change, change)


@claim("d-tab-qlora-none", ROW + "QLoRA", "table", "QLoRA can be merged, keeps its low memory, and costs nothing then",
       stated="Low, None (merged), Yes", expects=(0.0, 1.0),
       why="Merged weights have to be quantized again. An update of 1.5 % of the weights changes {changed:.1%} of the codes: "
           "the error is as large as the update, which is lost. At 5 % it is {larger:.2f} of it, with {codes:.1%} of the codes "
           "changed. Into a 16-bit copy the merge is exact, but then 70B take {wide} instead of {narrow}.",
       correct="Merge into a 16-bit copy, which needs a 16-bit model's memory, or keep the adapter beside the 4-bit base.")
def _() -> Computed:
    lost, changed = merged_in_four_bits(0.015)
    larger, codes = merged_in_four_bits(0.05)
    wide, narrow = base_bytes("llama-2-70b", "16 bits"), base_bytes("llama-2-70b")
    return under({"4-bit base (error of the update, memory relative to 4 bits)": (lost, 1.0),
                  "16-bit copy": (merged_in_sixteen_bits(), wide / narrow)},
                 changed=changed, larger=larger, codes=codes, wide=format_bytes(wide), narrow=format_bytes(narrow))


def mergeable(config: PeftConfig) -> str:
    """Whether a model with such an adapter merges it."""
    try:
        get_peft_model(small_gpt2(), config).merge_adapter()
    except ValueError:
        return "not mergeable"
    return "mergeable"


@claim("d-tab-adapters-row", ROW + "Adapters", "table", "adapters have about 4drL parameters, and cannot be merged; d = 4096, "
       "r = 64, L = 32", stated="~4drL, No", expects=f"{4 * 4096 * 64 * 32:,} weights, not mergeable",
       why="Counted in Llama-2-7B, without {biases:,} biases; merging them is refused, since they are not linear.")
def _() -> Computed:
    weights, biases = adapters_of_7b()
    return computed(f"{weights:,} weights, {mergeable(BottleneckConfig(reduction_factor=4))}", biases=biases)


def prompt_positions(tokens: int = 100) -> float:
    """How many more positions a model computes with a prompt of 20 tokens, relative to those of the text."""
    prompted = get_peft_model(small_llama(1), PROMPT20)
    return float(logits(prompted, token_ids(tokens)).shape[1] / tokens - 1)


@claim("d-tab-prefix-none", ROW + "Prefix Tuning", "table", "a prefix costs nothing at inference", stated="None",
       expects="0 bytes", unit="MB",
       why="20 tokens on Llama-2-7B: its keys and values stay in the cache, in 16 bits, take 20 of the model's positions, and "
           "every token attends to them, {share:.3%} more multiplications.",
       correct="The overhead of a prefix is small, and there for every token; a prefix cannot be merged.")
def _() -> Computed:
    return under({"cache of the prefix": 2 * counts("llama-2-7b", PREFIX20).trainable}, share=share("llama-2-7b", PREFIX20))


@claim("d-tab-prompt-none", ROW + "Prompt Tuning", "table", "a prompt costs nothing at inference", stated="None", expects="0 %",
       why="Its tokens go through the whole model like those of the text, and take as many positions. Before a text of 1,000 "
           "tokens it is {long:.0%}.",
       correct="A prompt costs p positions more, in every layer.")
def _() -> Computed:
    return under({"positions, 20 before a text of 100": prompt_positions()}, long=prompt_positions(1000))


@claim("d-tab-params", ROW + "Prefix Tuning and Prompt Tuning", "table", "a prefix has 2pdL parameters, a prompt pd; p = 20, "
       "d = 4096, L = 32", stated="2pdL, pd", expects=f"{2 * 20 * 4096 * 32:,} and {20 * 4096:,}",
       why="Counted in Llama-2-7B, where every query head has a key head of its own; in Llama-3-8B the prefix has {grouped:,}.")
def _() -> Computed:
    prefix, prompt = (counts("llama-2-7b", method).trainable for method in (PREFIX20, PROMPT20))
    return computed(f"{prefix:,} and {prompt:,}", grouped=counts("llama-3-8b", PREFIX20).trainable)


# ---- below the table ------------------------------------------------------------------------------------------------

def error_of_plain_merge(r: int, alpha: float) -> float:
    """|W0 + BA - W| / |W - W0| for the weight W that LoRA is merged into."""
    peft_model = as_if_trained(get_peft_model(small_llama(1), lora(r, ["q_proj"], lora_alpha=alpha)))
    layer = lora_layer(peft_model)
    W0, BA = layer.base_layer.weight.values(), layer.lora_B["default"].weight.data @ layer.lora_A["default"].weight.data
    peft_model.merge_adapter()
    W = layer.base_layer.weight.values()
    return relative(W0 + BA - W, W - W0)


@claim("d-key-merge", INSIGHT, "formula", "the merged weight is W0 + BA", stated="W_merged = W₀ + BA", expects=0.0, unit="%",
       why="The error of W0 + BA, relative to the update. Section 2 scales the path by alpha/r, so the merge has to; only with "
           "alpha = r, where the factor is 1, may it be left out. It is missing in Summary 5 and in the Key Terms too.",
       correct="W_merged = W0 + (alpha/r) BA")
def _() -> Computed:
    return under({"alpha = r": error_of_plain_merge(2, 2), "alpha = 2r, as many scripts have it": error_of_plain_merge(2, 4),
                  "alpha = 1, r = 2, as in Example 3": error_of_plain_merge(2, 1)})


@claim("d-key-overhead", INSIGHT, "property", "adapters, prefixes and prompts always cost something", stated="always",
       expects=SOMETHING, unit="%",
       why="Right, and so the table above, which says None for prefix and prompt tuning, is not.")
def _() -> Computed:
    return under({"multiplications, adapters of width 64": adapters_of_7b()[0] / base_parameters("llama-2-7b"),
                  "multiplications, prefix of 20": share("llama-2-7b", PREFIX20),
                  "positions, prompt of 20 before a text of 100": prompt_positions()})
