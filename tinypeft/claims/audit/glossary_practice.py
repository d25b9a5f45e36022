"""Claims of the glossary entry's five practice questions: LoRA's count, its relatives, adapters, forgetting, soft prompts."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.budget import adapted, adapter_bytes, base_parameters, build, format_bytes, format_value
from tinypeft.claims.claim import Range, claim, editorial
from tinypeft.claims.experiments import FITS, GB80, base_bytes, counts, lora_counts, share, training
from tinypeft.claims.judge import Computed, Verdict, computed, under
from tinypeft.claims.measures import rank, relative
from tinypeft.claims.settings import LINEAR, PREFIX20, WIDTH_64, lora
from tinypeft.claims.small_models import first_layer, inputs, toy_llama, toy_lora
from tinypeft.nn import Linear
from tinypeft.peft import (
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    create_loraplus_optimizer,
    get_peft_model,
)
from tinypeft.training import AdamW

ONE_MATRIX = lora(16, ["q_proj"], layers_to_transform=[0])  # of Llama-2-7B: 4096 x 4096


# ---- question 1 -----------------------------------------------------------------------------------------------------

@claim("b-p1-formula", "Practice 1", "formula", "A (r x k) and B (d x r) make a B A of W0's shape; d = 1024, k = 4096",
       stated="A: r×k, B: d×r", expects=((1024, 16), (16, 4096), (1024, 4096)),
       why="Shapes of B, A and B A in Llama-3-8B, whose v_proj has d = {d:,} and k = {k:,}, so that the two cannot be mixed "
           "up. (The formula beside them, W = W0 + B A, leaves out the factor alpha / r, which is {scaling:g} in the "
           "document's own script.)",
       correct="W = W0 + (alpha / r) B A, with these shapes.")
def _() -> Computed:
    script = adapted("llama-3-8b", lora(16, lora_alpha=32, layers_to_transform=[0]))
    layer = first_layer(script, "v_proj")
    (A, B), base = layer.factors("default"), layer.base_layer
    return computed((B.shape, A.shape, (B.data @ A.data).shape), d=base.out_features, k=base.in_features,
                    scaling=layer.lora_scaling["default"])


@claim("b-p1-ab", "Practice 1", "parameter-count", "on a 4096 x 4096 matrix, r=16 adds 65,536 parameters twice",
       stated="65,536 + 65,536 = 131,072", expects="65,536 + 65,536 = 131,072",
       why="A, B and both, counted in a Llama-2-7B that is adapted in one matrix.")
def _() -> Computed:
    model = adapted("llama-2-7b", ONE_MATRIX)
    A, B = model.layers()[0].factors("default")  # type: ignore[attr-defined]
    return computed(f"{A.size:,} + {B.size:,} = {model.get_nb_trainable_parameters()[0]:,}")


@claim("b-p1-full", "Practice 1", "parameter-count", "the matrix itself has 16,777,216 parameters",
       stated="16,777,216", why="The weight of q_proj in Llama-2-7B.")
def _() -> Computed:
    return computed(_query_weight().size)


@claim("b-p1-pct", "Practice 1", "parameter-count", "LoRA adds 0.78 % of the layer's parameters",
       stated="0.78%", why="2r / d for a square matrix, here 1/{part:g}.")
def _() -> Computed:
    found = counts("llama-2-7b", ONE_MATRIX).trainable / _query_weight().size
    return computed(found, part=1 / found)


def _query_weight() -> Any:
    layer: Any = build("llama-2-7b").get_submodule("model.layers.0.self_attn.q_proj")
    return layer.weight


@claim("b-p1-40m", "Practice 1", "parameter-count", "r=16 on all attention and MLP matrices of a 7B model is about 40M",
       stated="~40M", why="Counted in Llama-2-7B.")
def _() -> Computed:
    count = lora_counts("llama-2-7b", 16, LINEAR).trainable
    return computed(count, count=count)


@claim("b-p1-057", "Practice 1", "parameter-count", "those 40M are 0.57 % of 7B",
       stated="0.57%",
       why="Of 7 billion, the round number that the document divides by. Llama-2-7B has {base:,} parameters, of which they are "
           "{real}.",
       correct="They are 0.57 % of 7 billion, and {real} of Llama-2-7B.")
def _() -> Computed:
    count, base = lora_counts("llama-2-7b", 16, LINEAR).trainable, base_parameters("llama-2-7b")
    return computed(count / 7e9, base=base, real=format_value(count / base, "%"))


# ---- question 2 -----------------------------------------------------------------------------------------------------

editorial("b-p2-bf16", "Practice 2", "statement", "QLoRA trains its adapters in BF16", Verdict.CONFIRMED,
          stated="LoRA adapters trained in BF16",
          reference="Dettmers et al. 2023 (2305.14314), equation 5: both factors are BF16",
          why="The paper's definition. Another of the four documents says full precision, and peft stores adapters in float32 "
              "unless told otherwise; products are then computed in BF16.")
editorial("b-p2-same-quality", "Practice 2", "statement", "QLoRA has the same quality as LoRA", Verdict.DEPENDS,
          stated="Same quality as LoRA",
          reference="Dettmers et al. 2023 (2305.14314), sections 4 and 5: NF4 with adapters on all linear layers matches "
                    "16-bit fine-tuning; adapters on queries and values alone do not",
          why="A result of experiments, for the models and tasks of one paper and for one choice of modules. It does not "
              "follow from the method: the base's weights are rounded, and the adapter has to make up for that.",
          correct="In its paper's experiments QLoRA has LoRA's quality, with adapters on all linear layers.")


@claim("b-p2-2x", "Practice 2", "memory", "QLoRA needs half the memory of LoRA",
       stated="2× less VRAM", expects="2x",
       why="Training with r=16 on q, k, v and o, one row of 2,048 tokens, gradient checkpointing. The weights alone shrink by "
           "a factor of {w8:.2f} (8B) to {w65:.2f} (65B); adapters, activations and logits stay as they are, and embeddings, "
           "which stay in 16 bits, weigh most in small models with large vocabularies.",
       correct="QLoRA needs between a half and less than a third of LoRA's memory, by model and length.")
def _() -> Computed:
    models = {"Llama-3-8B": "llama-3-8b", "Llama-2-7B": "llama-2-7b", "Llama-1 65B": "llama-65b"}
    return under({title: training(model, 16, base="16 bits").total / training(model, 16).total
                  for title, model in models.items()},
                 w8=base_bytes("llama-3-8b", "16 bits") / base_bytes("llama-3-8b"),
                 w65=base_bytes("llama-65b", "16 bits") / base_bytes("llama-65b"))


@claim("b-p2-65b-a100", "Practice 2", "memory", "QLoRA makes 65B fine-tuning possible on one A100 of 80 GB",
       stated="65B fine-tuning on a single A100-80GB", expects=FITS, unit="%",
       why="{small} and {large}, for one row of 2,048 tokens with gradient checkpointing. The paper says one GPU of 48 GB.")
def _() -> Computed:
    small, large = training("llama-65b", 16).total, training("llama-65b", 64, LINEAR).total
    return under({"r=16 on q, k, v, o, of 80 GB": small / GB80, "r=64 on all linear, of 80 GB": large / GB80},
                 small=format_bytes(small), large=format_bytes(large))


@claim("b-p2-loraplus", "Practice 2", "property", "LoRA+ has a small learning rate for A and a large one for B",
       stated="A (small LR) and B (large LR)", expects=Range(above=1), unit="x",
       why="How much further a step of LoRA+ may move a number of B than one of A, with the ratio of 16 that its paper "
           "recommends; measured on a toy model whose B is no longer zero, as A has no gradient before.")
def _() -> Computed:
    model = toy_lora(lora(2), trained=True)
    optimizer = create_loraplus_optimizer(model, AdamW, lr=1e-3, loraplus_lr_ratio=16, eps=1e-30)
    A, B = first_layer(model, "v_proj").factors("default")
    before = [A.data.copy(), B.data.copy()]
    model(np.arange(12)[None], labels=np.arange(12)[None]).loss.backward()
    optimizer.step()
    moved_A, moved_B = (np.abs(after.data - start).max() for after, start in zip((A, B), before, strict=True))
    return computed(float(moved_B / moved_A))


@claim("b-p2-subspace", "Practice 2", "property", "A determines the subspace, and B only scales it",
       stated="A matrix determines the subspace, B scales it", expects=1,
       why="How many independent changes of W one fixed A allows, for B of {out} x {r}: if B only scaled there would be one. A "
           "fixes which {r} directions of the input are read; B is a whole linear map from these to the output.",
       correct="A determines which directions of the input count, B what each of them does to the output.")
def _() -> Computed:
    layer = first_layer(toy_lora(lora(2)), "v_proj")
    B, random, changes = layer.factors("default")[1], np.random.default_rng(0), []
    for _ in range(B.size + 5):
        B.data = random.standard_normal(B.shape)
        changes.append(layer.delta_weight("default").ravel())
    return computed(rank(np.stack(changes)), out=B.shape[0], r=B.shape[1])


# ---- questions 3 and 4 ----------------------------------------------------------------------------------------------

@claim("b-p3-merge", "Practice 3", "property", "adapters cost time in the forward pass unless they are merged",
       stated="unless merged", expects="0 %", unit="%",
       why="What the best matrix in an adapter's place would get wrong, relative to the adapter's output on random inputs. "
           "None fits, since the activation makes the adapter nonlinear. The library refuses: \"{refusal}\"",
       correct="Adapters cost time in the forward pass, and cannot be merged.")
def _() -> Computed:
    found = {}
    for style in ("houlsby", "pfeiffer"):
        model = get_peft_model(toy_llama(), BottleneckConfig(style=style, reduction_factor=4))
        adapter, x = first_layer(model, "output_add").adapters["default"], inputs(32, rows=2000)
        y = adapter(x).data - adapter(x * 0.0).data
        best = x.data @ np.linalg.lstsq(x.data, y, rcond=None)[0]
        activation = BottleneckConfig(style=style).non_linearity
        found[f"{style} adapter, {activation}"] = relative(best - y, y)
    return under(found, refusal=_refusal(model))


def _refusal(model: PeftModel) -> str:
    """The first sentence of what is said when an adapter cannot be merged; "" if it can."""
    try:
        model.merge_adapter()
    except ValueError as error:
        return str(error).partition(". ")[0] + "."
    return ""


editorial("b-p3-expressive", "Practice 3", "statement", "adapters are more expressive per parameter than LoRA",
          Verdict.NOT_REPRODUCIBLE, stated="More expressive per-parameter than LoRA",
          reference="the document names no measure of expressiveness, no task and no source",
          why="Without a measure there is nothing to compute. An adapter is nonlinear, and LoRA reaches weights inside a "
              "sublayer: each does what the other cannot.",
          correct="Adapters and LoRA change a model in different ways; which does more with a parameter depends on the task.")


@claim("b-p4-forgetting", "Practice 4", "statement", "LoRA forgets less because most weights are frozen",
       stated="most weights are frozen", expects="0 %", unit="%",
       why="The share of the adapted matrices' numbers that differ from the pretrained ones. Beside the base, the adapter "
           "leaves them alone and can be taken out again; merged, it changes every one. What then limits forgetting is the "
           "change's rank, {r}, and its size. (How much is forgotten is measured for a-forgetting-prevention.)",
       correct="LoRA's change has a low rank, and until it is merged the base can be restored; how much the adapted model "
               "forgets depends on its training.")
def _() -> Computed:
    model = toy_lora(lora(2), trained=True)
    layers: list[Any] = [layer for layer in model.layers() if isinstance(layer.base_layer, Linear)]
    before = [layer.base_layer.weight.data.copy() for layer in layers]
    ids = np.arange(12)[None]

    def changed() -> float:
        return float(np.mean(np.concatenate([(layer.base_layer.weight.data != weight).ravel()
                                             for layer, weight in zip(layers, before, strict=True)])))

    model(ids, labels=ids).loss.backward()
    AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    beside, r = changed(), rank(layers[0].delta_weight("default"))
    model.merge_adapter()
    return under({"adapter beside the base": beside, "adapter merged": changed()}, r=r)


# ---- question 5 -----------------------------------------------------------------------------------------------------

@claim("b-p5-001", "Practice 5", "parameter-count", "100 soft tokens are 0.01 % of a model",
       stated="0.01% of model", expects="0.01%",
       why="For the two models that the answer names, and a 7B. With Llama-2-7B's width, {tokens} tokens are 0.01 %.",
       correct="100 soft tokens are {small} of a 7B model, and less of larger ones.")
def _() -> Computed:
    models = {"Llama-2-7B": "llama-2-7b", "T5-XXL": "t5-xxl", "GPT-3": "gpt3"}
    one = share("llama-2-7b", PromptTuningConfig(num_virtual_tokens=1))
    found = {title: share(model, PromptTuningConfig(num_virtual_tokens=100)) for title, model in models.items()}
    return under(found, tokens=round(1e-4 / one), small=format_value(found["Llama-2-7B"], "%"))


editorial("b-p5-1b", "Practice 5", "statement", "prompt tuning fails for models below a billion parameters", Verdict.DEPENDS,
          stated="Fails for smaller models (<1B)",
          reference="Lester et al. 2021 (2104.08691), figure 1: the gap to full tuning narrows steadily, and closes at about "
                    "10 billion parameters",
          why="An observation on T5 and one benchmark, and a slope rather than a threshold. Another of the four documents says "
              "that it works best above 10 billion; between 1 and 10 billion the two leave a gap.",
          correct="The smaller the model, the further prompt tuning stays behind full fine-tuning.")


@claim("b-p5-storage", "Practice 5", "memory", "prompt tuning is for when storage has to be least",
       stated="minimum storage cost", expects=Range(high=1.0), unit="%",
       why="The size of 100 tokens for Llama-2-7B, {prompt} in 16 bits, divided by that of an adapter of each other method in "
           "the document's table. (Methods that it leaves out can be smaller: the norms' scales are {norms}.)")
def _() -> Computed:
    others: dict[str, PeftConfig] = {
        "(IA)3": IA3Config(), "LoRA and QLoRA, r=8 on q, k, v, o": lora(8), "prefix, 20 tokens": PREFIX20,
        "adapters, width 64": WIDTH_64}

    def size(method: PeftConfig) -> int:
        return adapter_bytes("llama-2-7b", method, "bfloat16")

    prompt = size(PromptTuningConfig(num_virtual_tokens=100))
    return under({f"of {title}": prompt / size(method) for title, method in others.items()}, prompt=format_bytes(prompt),
                 norms=format_bytes(size(LNTuningConfig(target_modules=r".*norm"))))
