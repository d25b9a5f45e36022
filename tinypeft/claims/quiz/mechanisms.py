"""Objective 4, how methods differ: what their files hold, what attention sees of them, what a step and a token cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tinypeft import viz
from tinypeft.budget import adapted, build, count_parameters, format_bytes
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.runs import BUNDLED, bundled, first_attention, multiplications
from tinypeft.peft import (
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)

# Measured by `tinypeft compare --task surnames-pl`: bits per character of US names after learning Polish ones; README's table.
US_BITS = {"untouched base": 3.136, "prompt tuning": 3.485, "LoRA": 4.090, "full fine-tuning": 4.332}


def _shapes(config: PeftConfig) -> str:
    """The shapes of what is trained, with how many tensors there are of each."""
    shapes = Counter(p.shape for p in adapted(BUNDLED, config).parameters() if p.requires_grad)
    return ", ".join(f"{count} tensor{'s' if count > 1 else ''} of shape {shape}"
                     for shape, count in sorted(shapes.items(), key=str))


def _described() -> str:
    config: Any = build(BUNDLED).config
    return (f"A Llama has {config.num_hidden_layers} layers of width {config.hidden_size}, {config.num_attention_heads} heads "
            f"of {config.head_dim}, {config.num_key_value_heads} key-value heads, and a feed-forward part of "
            f"{config.intermediate_size}.")


@family("files", objective=4, topic="methods", methods=("prefix", "prompt", "ia3", "norms"), section="10_bitfit_norms_ia3")
def files() -> Table:
    """Which method has written a file, by the shapes of its tensors: methods without factors."""
    ask = "Which method is it?"
    configs = {"prefix": PrefixTuningConfig(num_virtual_tokens=8), "prompt": PromptTuningConfig(num_virtual_tokens=8),
               "ia3": IA3Config(), "norms": LNTuningConfig()}
    held = {name: _shapes(config) for name, config in configs.items()}
    given = f"{_described()} The file of an adapter for it holds"
    return Table(
        hint="Ask whether there is something for each layer, and what is as wide as the model, as the keys, as the "
             "feed-forward part",
        options={"prefix": "prefix tuning", "prompt": "prompt tuning", "ia3": "IA3", "norms": "norm tuning"},
        prompts=[
            asked("prefix",
                  f"{given} {held['prefix']}. {ask}",
                  "One row for each virtual token, and in it a key and a value for each layer, as wide as the key-value heads "
                  "together.",
                  prompt="row-is-an-embedding: A row of an embedding would be as wide as the model.",
                  ia3="one-vector-a-place: IA3 has several vectors in each layer, of one axis of length 1.",
                  norms="norms-in-one-tensor: The norms' scales are vectors as wide as the model, one for each norm."),
            asked("prompt",
                  f"{given} {held['prompt']}. {ask}",
                  "One row for each virtual token, as wide as the model: embeddings at the input, nothing in the layers.",
                  prefix="prefix-for-prompt: A prefix has keys and values for each layer, and so is much wider.",
                  ia3="vectors-for-rows: IA3 has vectors in each layer, not a matrix for the whole model.",
                  norms="rows-are-layers: The norms' scales are as wide, but one for each norm, in tensors of their own."),
            asked("ia3",
                  f"{given} {held['ia3']}. {ask}",
                  "Vectors that multiply keys, values and what goes into the last feed-forward matrix, in each layer.",
                  prefix="widths-of-keys: They are as wide as the keys, but there is no axis of virtual tokens.",
                  prompt="vectors-are-prompts: A prompt is as wide as the model, and stands at the input only.",
                  norms="vectors-are-norms: The norms' scales are as wide as the model, and so are none of these."),
            asked("norms",
                  f"{given} {held['norms']}. {ask}",
                  "One scale for each norm: two in each layer and one at the end, as wide as the model.",
                  prefix="layers-of-prefix: A prefix has an axis of virtual tokens, and keys' width.",
                  prompt="rows-are-tokens: A prompt is one matrix; its rows are not tensors of their own.",
                  ia3="scales-are-ia3: IA3 scales keys, values and feed-forward features, which have other widths, and nothing "
                      "after the last layer."),
        ])


@family("factor-files", objective=4, topic="methods", methods=("lora", "dora", "vera", "houlsby"), section="08_adapters")
def factor_files() -> Table:
    """The same for methods with matrices."""
    ask = "Which method is it?"
    configs = {"lora": LoraConfig(r=8), "dora": LoraConfig(r=8, use_dora=True), "vera": VeraConfig(r=32),
               "houlsby": BottleneckConfig(style="houlsby")}
    held = {name: _shapes(config) for name, config in configs.items()}
    given = f"{_described()} An adapter for it has trained"
    return Table(
        hint="Count matrices and vectors: two thin matrices make a product, a vector beside them is a bias or a magnitude",
        options={"lora": "LoRA", "dora": "DoRA", "vera": "VeRA", "houlsby": "Houlsby adapters"},
        prompts=[
            asked("lora",
                  f"{given} {held['lora']}. {ask}",
                  "Pairs of thin matrices, for queries and for values, and no vectors.",
                  dora="magnitudes-missing: Its magnitudes would be vectors besides, one for each pair.",
                  vera="trained-projections: VeRA trains vectors; its matrices are random and shared.",
                  houlsby="biases-missing: A bottleneck has biases, and both its matrices have the model's width on one side; "
                          "here one has the values'."),
            asked("dora",
                  f"{given} {held['dora']}. {ask}",
                  "LoRA's pairs, and a vector as long as each one's outputs: the magnitudes.",
                  lora="vectors-unseen: LoRA has matrices only; there is a vector beside each pair here.",
                  vera="matrices-unseen: VeRA trains no matrices: its own are random and frozen.",
                  houlsby="magnitudes-are-biases: A bottleneck's biases are as long as the bottleneck and as the model is "
                          "wide; here one is as long as the values are."),
            asked("vera",
                  f"{given} {held['vera']}. {ask}",
                  "Two vectors for each adapted matrix, one as long as the rank and one as the outputs; the random matrices "
                  "follow from a seed.",
                  lora="factors-missing: LoRA's factors are matrices, and here there are vectors only.",
                  dora="factors-missing-besides: DoRA has LoRA's factors beside its vectors.",
                  houlsby="biases-alone: A bottleneck trains its two matrices, not the biases alone."),
            asked("houlsby",
                  f"{given} {held['houlsby']}. {ask}",
                  "A matrix down and one up, each with a bias, after attention and after the feed-forward part of each layer.",
                  lora="biases-unseen: LoRA's factors have no biases.",
                  dora="biases-are-magnitudes: DoRA has a vector for each pair of factors, not one for each factor.",
                  vera="trained-projections: VeRA trains vectors; its matrices are random and shared."),
        ])


@family("attention", objective=4, topic="soft prompts", methods=("prefix", "prompt", "lora"), section="09_prefix_prompt")
def attention() -> Table:
    """What attention sees: drawn from a real forward pass."""
    p, tokens = 3, 6
    configs = {"lora": LoraConfig(init_lora_weights=False), "prefix": PrefixTuningConfig(num_virtual_tokens=p),
               "prompt": PromptTuningConfig(num_virtual_tokens=p)}

    def draw(name: str) -> viz.Picture:
        return viz.plot_attention(first_attention(configs[name], tokens),
                                  f"Attention in the first layer, for a text of {tokens} tokens")

    size = {name: first_attention(config, tokens).shape for name, config in configs.items()}
    said = {name: f"There are {rows} queries and {columns} keys." for name, (rows, columns) in size.items()}
    ask = f"A causal model reads a text of {tokens} tokens. One of its heads attends as drawn. Which adapter is active?"
    return Table(
        hint="Count queries and keys, and compare both with the tokens of the text",
        options={"lora": "LoRA on queries and values", "prefix": f"prefix tuning with {p} virtual tokens",
                 "prompt": f"prompt tuning with {p} virtual tokens"},
        prompts=[
            asked("lora",
                  ask,
                  f"{said['lora']} LoRA changes what queries and values are, not how many.",
                  prefix="prefix-is-hidden: Keys of a prefix would be columns of their own, seen by every query.",
                  prompt="prompt-is-hidden: Virtual tokens at the input would have rows and columns.",
                  draw=lambda: draw("lora")),
            asked("prefix",
                  ask,
                  f"{said['prefix']} The prefix adds keys and values that every query sees, but no queries.",
                  lora="keys-for-tokens: There are more keys than tokens: something has been put in front of them.",
                  prompt="virtual-tokens-ask: Virtual tokens at the input pass through the layer as all tokens do, and would "
                         "have queries too.",
                  draw=lambda: draw("prefix")),
            asked("prompt",
                  ask,
                  f"{said['prompt']} Virtual tokens at the input are tokens like any other from there on: with queries, keys "
                  "and values, and causal among themselves.",
                  lora="rows-for-tokens: There are more queries than tokens: the sequence itself has grown.",
                  prefix="prefix-asks: A prefix has keys and values but no queries: its tokens ask nothing.",
                  draw=lambda: draw("prompt")),
        ])


@family("passes", objective=4, topic="cost of a step", methods=("lora", "full fine-tuning"), section="03_full_finetuning")
def passes() -> Table:
    """What a training step multiplies, in units of a forward pass: counted."""
    forward = multiplications(bundled(), training=False)

    def counted(adapter: bool, checkpointing: bool) -> float:
        lora = LoraConfig(r=1, target_modules="all-linear")
        model = get_peft_model(bundled(), lora) if adapter else bundled().requires_grad_()
        return multiplications(model, training=True, checkpointing=checkpointing) / forward

    values = {"lora": counted(True, False), "full": counted(False, False), "full_again": counted(False, True), "inference": 1.0}
    unlike(values)
    share = count_parameters(BUNDLED, LoraConfig(r=1, target_modules="all-linear")).fraction
    ask = "How many forward passes of the base are as many multiplications in linear layers, about?"
    return Table(
        hint="Backward, each linear layer has a product for the gradient of its input, and another for that of its weight if "
             "it is trained",
        options={name: f"about {value:.0f}" for name, value in values.items()},
        prompts=[
            asked("full",
                  f"A training step of full fine-tuning is measured, without gradient checkpointing. {ask}",
                  "One forward, and two products of the same size backward in each layer.",
                  lora="weight-gradient-forgotten: The gradient of each weight is a product too.",
                  full_again="step-with-recomputation: That has the forward pass twice, as checkpointing needs.",
                  inference="backward-is-free: That is the forward pass alone; the backward pass has two products for each of "
                            "its own.",
                  steps=(Step("counted", value=f"{values['full']:.2f}"),)),
            asked("lora",
                  "A training step of LoRA with a very small rank on all linear layers is measured, without gradient "
                  f"checkpointing. {ask}",
                  "One forward, and backward the gradients of the inputs, which lead to the adapters below. Only the frozen "
                  f"weights' gradients are saved: {1 - values['lora'] / values['full']:.0%} of the work at most, "
                  f"{values['full'] / values['lora']:.1f} times as fast and no more.",
                  full="frozen-weights-get-gradients: Nobody wants the gradients of frozen weights, and they are not "
                       "computed.",
                  full_again="lora-costs-more: The thin factors cost little, and nothing is computed twice.",
                  inference=f"share-of-parameters-is-share-of-work: The adapters are {share:.1%} of the parameters, but the "
                            "gradient still passes through every frozen layer.",
                  steps=(Step("counted", value=f"{values['lora']:.2f}"),)),
            asked("full_again",
                  f"A training step of full fine-tuning is measured, with gradient checkpointing. {ask}",
                  "What was not kept is computed again: a second forward pass.",
                  full="checkpointing-is-free: Memory is saved by computing the forward pass once more.",
                  lora="checkpointing-saves-work: Checkpointing saves memory, and costs work.",
                  inference="backward-is-free: That is the forward pass alone; the backward pass has two products for each of "
                            "its own.",
                  steps=(Step("counted", value=f"{values['full_again']:.2f}"),)),
            asked("inference",
                  f"The model with a merged LoRA answers a prompt. {ask}",
                  "A merged LoRA is part of the weights: as many multiplications as without it.",
                  lora="merged-branch-stays: After merging there is no second branch: its product is part of the weight.",
                  full="merged-is-trained: No gradients are computed when a model answers.",
                  full_again="merged-and-recomputed: Nothing is computed again when a model answers."),
        ])


@family("overhead", objective=4, topic="inference", methods=("prefix", "prompt", "houlsby", "lora"), section="12_many_tasks")
def overhead() -> Table:
    """What each method adds when the model runs."""
    p = 20
    prefix = 2 * count_parameters("llama-2-7b", PrefixTuningConfig(num_virtual_tokens=p)).trainable
    ask = "is used to generate text with Llama-2-7B. What does it add to the base's own work?"
    return Table(
        hint="Follow one token through a layer: which products, which keys, and which further positions does it meet?",
        options={"prefix": "more keys and values in the cache of each layer, made beforehand",
                 "prompt": "more positions in the sequence, computed and cached by each layer",
                 "houlsby": "more layers in the depth, each waiting for the one before",
                 "lora": "more products beside the matrices, each in parallel with one"},
        prompts=[
            asked("prefix",
                  f"Prefix tuning with {p} virtual tokens {ask}",
                  f"Keys and values are there from the start, {format_bytes(prefix)} in 16 bits for each sequence; every token "
                  "attends to them.",
                  prompt="prefix-passes-through: A prefix is no input: its keys and values are not computed by the layers.",
                  houlsby="prefix-adds-depth: No layer is added; attention has a few more keys.",
                  lora="prefix-in-the-weights: The matrices are left alone, and nothing is computed beside them.",
                  methods=("prefix",)),
            asked("prompt",
                  f"Prompt tuning with {p} virtual tokens {ask}",
                  f"The {p} vectors go through all layers like tokens of a prompt, once, and stay in the cache and in the "
                  "context's length.",
                  prefix="prompt-has-keys: Only the vectors at the input are stored; each layer has to compute keys and values "
                         "of them.",
                  houlsby="prompt-adds-depth: The depth stays; the sequence is longer.",
                  lora="prompt-in-the-weights: The matrices are left alone; they have more inputs to multiply.",
                  methods=("prompt",)),
            asked("houlsby",
                  f"A Houlsby adapter {ask}",
                  "It works on the output of each sub-layer, which has to be there first, and is not linear: it can be neither "
                  "merged nor computed beside.",
                  prefix="adapter-in-attention: It adds no keys: attention meets what it met before, changed by adapters "
                         "below.",
                  prompt="adapter-adds-tokens: It adds no positions: the sequence is as long as the text.",
                  lora="adapters-run-beside: That would be a parallel adapter, or LoRA: Houlsby's come after the sub-layer.",
                  methods=("houlsby",)),
            asked("lora",
                  f"An unmerged LoRA on all linear layers {ask}",
                  "B (A x) needs nothing but the layer's input x, and is added to W x. Merged, even that is gone.",
                  prefix="lora-in-attention: It changes what keys and values are, not how many.",
                  prompt="lora-adds-tokens: It adds no positions: the sequence is as long as the text.",
                  houlsby="lora-adds-depth: A x and W x start from the same x: no layer has to wait for another.",
                  methods=("lora",)),
        ])


@family("forgetting", objective=4, topic="forgetting", methods=("lora", "full fine-tuning", "prompt"),
        section="04_lora/training")
def forgetting() -> Table:
    """What a model still can after it has learned something else: recorded by `tinypeft compare`."""
    values = {"unplugged": US_BITS["untouched base"], "prompt": US_BITS["prompt tuning"], "lora": US_BITS["LoRA"],
              "full": US_BITS["full fine-tuning"]}
    unlike(values, 1.04)
    given = (f"A small model of US surnames needs {values['unplugged']} bits for a character of them. It is adapted to Polish "
             "surnames, on which full fine-tuning and LoRA get almost equally good, prompt tuning much less so.")
    ask = "How many bits does it then need for a character of US surnames?"
    return Table(
        hint="A frozen weight can be had back; what the adapted model computes has changed as far as it has learned",
        options={name: f"{value:.3f} bits" for name, value in values.items()},
        prompts=[
            asked("unplugged",
                  f"{given} The method is LoRA, and the adapter is then switched off. {ask}",
                  "The weights were frozen: without the adapter it is the base, bit for bit.",
                  prompt="drift-remains: With its adapter off it is the base again; nothing has drifted.",
                  lora="adapter-still-on: So many it needs with the adapter on. Off, nothing of it is computed.",
                  full="weights-overwritten: LoRA overwrites no weights, so that nothing of it is left once it is off."),
            asked("lora",
                  f"{given} The method is LoRA, and the adapter is active. {ask}",
                  "Frozen weights do not keep the adapted function where it was: it has learned other names, and forgets about "
                  "as much as by full fine-tuning, a little less.",
                  unplugged="lora-forgets-nothing: That is the base. With the adapter on the function is another one.",
                  prompt="lora-forgets-little: So little is forgotten by a method that learns little.",
                  full="lora-forgets-as-much: That is full fine-tuning; LoRA forgets somewhat less here."),
            asked("full",
                  f"{given} The method is full fine-tuning. {ask}",
                  "It forgets most, and the base is gone unless a copy was kept.",
                  unplugged="full-starts-at-the-base: Before the first update it is the base, as with every method; then it "
                            "moves.",
                  prompt="learning-is-free: So little is forgotten by a method that learns little.",
                  lora="full-forgets-less: Every weight can move: it forgets more than an adapter does."),
            asked("prompt",
                  f"{given} The method is prompt tuning, and the prompt is active. {ask}",
                  "What learns little forgets little: the prompt steers a frozen model, and not very far.",
                  unplugged="prompt-forgets-nothing: That is the base without the prompt: with it US names are less likely.",
                  lora="prompt-as-lora: LoRA, which has learned far more Polish, has forgotten that much.",
                  full="soft-prompt-overwrites: No weights are changed, and far less is learned."),
        ])
