"""Claims of the glossary entry "PEFT (Parameter-Efficient Fine-Tuning)": its definition and its table of methods.

Rows that name no model are counted for the sizes that the entry speaks of: models of 7 and 8 billion parameters, 70 billion,
and for soft prompts those of its fifth question, from below a billion to GPT-3.
"""

from __future__ import annotations

import numpy as np

from tinypeft.budget import build, format_bytes, format_value
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import ATTENTION, FITS, GB40, GB80, SOMETHING, lora_counts, lora_share, share, training
from tinypeft.claims.judge import Computed, Verdict, computed, under
from tinypeft.claims.settings import LINEAR, NF4, PREFIX20, PROMPT20, QKVO, WIDTH_64, lora
from tinypeft.claims.small_models import first_layer, inputs, largest, logits, toy_llama
from tinypeft.peft import BottleneckConfig, IA3Config, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tinypeft.quant import replace_with_bnb_linear

TABLE = "The PEFT method family, table"


@claim("b-def-0.1-1", "Definition", "parameter-count", "PEFT trains 0.1 to 1 % of all weights",
       stated="0.1%–1%", expects=Range(0.001, 0.01), unit="%",
       why="Even on one model, Llama-2-7B, methods of the document's own table lie on both sides of the range.",
       correct="PEFT trains {least} to {most} of a 7B model, by method and size.")
def _() -> Computed:
    methods: dict[str, PeftConfig] = {
        "prompt tuning, 20 tokens": PROMPT20, "(IA)3": IA3Config(), "prefix tuning, 20 tokens": PREFIX20,
        "adapters, width 64": WIDTH_64}
    found = {name: share("llama-2-7b", method) for name, method in methods.items()}
    found |= {"LoRA, r=16 on q, k, v, o": lora_share("llama-2-7b", 16),
              "LoRA, r=64 on all linear": lora_share("llama-2-7b", 64, LINEAR)}
    return under(found, **_least_and_most(found))


def _least_and_most(found: dict[str, float]) -> dict[str, str]:
    """Shares as facts."""
    return {"least": format_value(min(found.values()), "%"), "most": format_value(max(found.values()), "%")}


@claim("b-tab-lora-pct", TABLE, "table", "LoRA trains about 0.1 to 1 % of the parameters",
       stated="~0.1–1% of total", expects=Range(0.001, 0.01), unit="%",
       why="Right for the usual ranks on Llama-2-7B; the setting of the QLoRA paper, r=64 on all linear layers, is above.",
       correct="LoRA trains {least} at r=8 on q, k, v and o, up to {most} at r=64 on all linear layers of a 7B model.")
def _() -> Computed:
    found = {f"r={r} on {'all linear' if targets == LINEAR else 'q, k, v, o'}": lora_share("llama-2-7b", r, targets)
             for r, targets in ((8, ATTENTION), (16, ATTENTION), (16, LINEAR), (64, LINEAR))}
    return under(found, **_least_and_most(found))


@claim("b-tab-lora-attn", TABLE, "statement", "LoRA's matrices stand beside the attention weights",
       stated="alongside attention weights", expects="100 %",
       why="That is how the script is configured. The first practice question has LoRA on the feed-forward matrices too, and "
           "target_modules may name any linear layer: {adapted} in Llama-2-7B.",
       correct="LoRA's matrices stand beside linear layers, often those of attention only.")
def _() -> Computed:
    def in_attention(targets: str | list[str]) -> float:
        model = get_peft_model(build("llama-2-7b"), lora(8, targets))
        return float(np.mean([".self_attn." in layer.path for layer in model.layers()]))

    adapted = len(get_peft_model(build("llama-2-7b"), lora(8, LINEAR)).layers())
    return under({"adapted layers in attention, as in the script": in_attention(QKVO),
                  "as in practice question 1": in_attention(LINEAR)}, adapted=adapted)


@claim("b-tab-qlora-pct", TABLE, "table", "QLoRA (about 0.1 %) trains fewer parameters than LoRA (0.1 to 1 %)",
       stated="~0.1% (LoRA adapters only)", expects=SOMETHING,
       why="Compared for the script's model and adapter. The same r and modules give the same adapter: storing the frozen base "
           "in 4 bits takes nothing from it. About 0.1 % is r=16 on q, k, v and o of a 70B model ({r16}); QLoRA's paper trains "
           "r=64 on all linear layers: {paper70} there, and {paper7} of a 7B model.",
       correct="QLoRA trains as many parameters as LoRA with the same rank and modules.")
def _() -> Computed:
    quantized = get_peft_model(replace_with_bnb_linear(build("llama-3-8b"), NF4), lora(16))
    fewer = lora_counts("llama-3-8b", 16).trainable - quantized.get_nb_trainable_parameters()[0]
    r16, paper7, paper70 = (format_value(lora_share(*setting), "%") for setting in (
        ("llama-3-70b", 16), ("llama-2-7b", 64, LINEAR), ("llama-2-70b", 64, LINEAR)))
    return under({"parameters fewer than LoRA's": fewer}, r16=r16, paper7=paper7, paper70=paper70)


@claim("b-llama3-70b-a100", TABLE, "memory", "QLoRA fine-tunes Llama 3 70B on a single A100",
       stated="single A100", expects=FITS, unit="%",
       why="r=16 on q, k, v and o, one row of 2,048 tokens, gradient checkpointing: {total}, of which {weights} are the "
           "weights. There are A100s of 80 GB and of 40 GB.",
       correct="QLoRA fine-tunes Llama 3 70B on a single A100 of 80 GB.")
def _() -> Computed:
    need = training("llama-3-70b", 16)
    return under({"of an A100's 80 GB": need.total / GB80, "of an A100's 40 GB": need.total / GB40},
                 total=format_bytes(need.total), weights=format_bytes(need.parts["base weights"]))


@claim("b-tab-prefix-pct", TABLE, "table", "prefix tuning trains less than 0.1 % of the parameters",
       stated="<0.1%", expects=Range(high=0.001), unit="%",
       why="A prefix has keys and values of every layer: its share grows with the tokens and falls with the model's width. The "
           "worked examples of two other documents are above 0.1 % too.",
       correct="Prefix tuning trains {least} to {most} of these models, by model and number of tokens.")
def _() -> Computed:
    sizes = (("Llama-3-8B", "llama-3-8b", 20), ("Llama-2-7B", "llama-2-7b", 20), ("Llama-2-7B", "llama-2-7b", 50),
             ("GPT-2 medium", "gpt2-medium", 10), ("GPT-2 small", "gpt2", 10))
    found = {f"{title}, {p} tokens": share(model, PrefixTuningConfig(num_virtual_tokens=p)) for title, model, p in sizes}
    return under(found, **_least_and_most(found))


@claim("b-tab-prompt-pct", TABLE, "table", "prompt tuning trains less than 0.01 % of the parameters",
       stated="<0.01%", expects=Range(high=0.0001), unit="%",
       why="For 100 tokens, the number in the fifth practice question. True of large models; the smaller a model, the larger "
           "the share of its 100 embeddings.",
       correct="A prompt of 100 tokens is below 0.01 % of models with several billion parameters.")
def _() -> Computed:
    models = {"GPT-2 small": "gpt2", "Llama-2-7B": "llama-2-7b", "T5-XXL": "t5-xxl", "GPT-3": "gpt3"}
    return under({title: share(model, PromptTuningConfig(num_virtual_tokens=100)) for title, model in models.items()})


@claim("b-tab-ia3-pct", TABLE, "table", "(IA)3 trains about 0.01 % of the parameters",
       stated="~0.01%",
       why="Right for 7 to 8 billion parameters. The share falls with the model's width: {large} at 70 billion, and {small} "
           "of GPT-2 small.",
       correct="(IA)3 trains about 0.01 % of models with 7 to 8 billion parameters, and less of larger ones.")
def _() -> Computed:
    models = {"Llama-2-7B": "llama-2-7b", "Llama-3-8B": "llama-3-8b", "Llama-3-70B": "llama-3-70b"}
    found = {title: share(model, IA3Config()) for title, model in models.items()}
    return under(found, large=format_value(found["Llama-3-70B"], "%"),
                 small=format_value(share("gpt2", IA3Config()), "%"))


@claim("b-tab-ia3-form", TABLE, "formula", "(IA)3 multiplies activations element by element with learned vectors",
       stated="element-wise scaling of activations", expects=0.0,
       why="Largest difference between the layer and l * (W x), or W (l * x) for the last feed-forward matrix. Folded into the "
           "weights, it costs nothing when the model runs.")
def _() -> Computed:
    model = get_peft_model(toy_llama(), IA3Config(init_ia3_weights=False))
    found = {}
    for name in ("k_proj", "v_proj", "down_proj"):
        layer = first_layer(model, name)
        x, W, l = inputs(layer.base_layer.in_features), layer.base_layer.weight.data, layer.ia3_l["default"].data.ravel()  # noqa: E741
        by_hand = (x.data * l) @ W.T if name == "down_proj" else l * (x.data @ W.T)
        found[name] = largest(layer(x).data - by_hand)
    ids = np.arange(10)[None]
    before = logits(model, ids)
    return under(found | {"folded into the weights": largest(logits(model.merge_and_unload(), ids) - before)})


@claim("b-tab-adapters-pct", TABLE, "table", "adapters train about 1 to 5 % of the parameters",
       stated="~1–5%", expects=Range(0.01, 0.05), unit="%",
       why="Two adapters a layer, as Houlsby et al. place them. The share is in proportion to their width, and smaller in "
           "wider models.",
       correct="Adapters train {least} to {most} in these cases, in proportion to their width.")
def _() -> Computed:
    sizes = {"Llama-2-7B, width 64": ("llama-2-7b", 64), "Llama-2-7B, width 256": ("llama-2-7b", 16),
             "GPT-2 medium, width 64": ("gpt2-medium", 16)}
    found = {name: share(model, BottleneckConfig(reduction_factor=factor)) for name, (model, factor) in sizes.items()}
    return under(found, **_least_and_most(found))


@claim("b-tab-adapters-place", TABLE, "statement", "adapters are inserted between transformer layers",
       stated="between transformer layers", expects="0 %",
       why="The share of adapters that stand inside a layer. Houlsby adapters follow the attention and the feed-forward "
           "sublayer, before each result joins the stream: {number} in the {layers} layers of GPT-2 small.",
       correct="Adapters are inserted inside each transformer layer, after its sublayers.")
def _() -> Computed:
    model = get_peft_model(build("gpt2"), BottleneckConfig())
    inside = [layer.path.startswith("transformer.h.") for layer in model.layers()]
    return computed(float(np.mean(inside)), number=len(inside), layers=model.config.num_hidden_layers)


editorial("b-tab-fewshot-conflict", TABLE, "statement", "prefix tuning and (IA)3 are best for few-shot tasks",
          Verdict.CORRECTED, stated="few-shot; yet not below ~500–1000 examples",
          reference="the document itself: two rows of its table against its list \"When PEFT is the right choice\"; Liu et al. "
                    "2022 (2205.05638) train (IA)3 on tens of examples a task",
          why="The same page says that PEFT is the wrong choice below 500 to 1,000 examples. A few-shot task has tens of them, "
              "so one of the two has to go.",
          correct="Prefix tuning and (IA)3 suit few-shot tasks; a small dataset is no reason against PEFT.")
