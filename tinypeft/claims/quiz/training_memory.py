"""Objective 3, the whole: what a base takes, what full fine-tuning takes, and which part of a run is the largest."""

from __future__ import annotations

import functools
from typing import Any

from tinypeft import viz
from tinypeft.budget import base_parameters, build, format_bytes
from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.cards import SHARDED, per_card
from tinypeft.budget.memory import PARTS, memory
from tinypeft.budget.weights import dtype_bytes, optimizer_bytes
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.four_bits import INT8
from tinypeft.claims.settings import NF4, NF4_PLAIN
from tinypeft.peft import LoraConfig
from tinypeft.peft.targets import find_targets
from tinypeft.quant import BitsAndBytesConfig
from tinypeft.viz.budget import stacked_bars

LORA = LoraConfig(r=16, target_modules="all-linear")


@family("base-memory", objective=3, topic="qlora", methods=("qlora",), section="07_qlora")
def base_memory() -> Table:
    """A 70B base in four bits, in eight, and what the codes alone take."""
    def stored(config: BitsAndBytesConfig) -> float:
        return memory("llama-2-70b", training=False, quantization=config).parts["base weights"]

    model: Any = build("llama-2-70b")
    linear = sum(model.get_submodule(path).weight.size for path in find_targets(model, LORA))
    values = {"double": stored(NF4), "plain": stored(NF4_PLAIN), "codes": linear / 2, "int8": stored(INT8)}
    unlike(values)
    kept = 2.0 * (base_parameters("llama-2-70b") - linear)
    half = format_bytes(base_parameters("llama-2-70b") / 2)
    given = (f"Llama-2-70B has {base_parameters('llama-2-70b'):,} parameters, {linear:,} of them in its linear layers but the "
             "head.")
    ask = "How much memory do its weights take? (Embeddings, head and norms stay in 16 bits; blocks of 64.)"
    return Table(
        hint="Add up codes for the linear layers, constants for their blocks, and two bytes for everything that is not "
             "quantized",
        options={name: format_bytes(value) for name, value in values.items()},
        prompts=[
            asked("double",
                  f"{given} It is loaded in NF4 with double quantization. {ask}",
                  f"Half a byte a parameter would be {half}; to the codes, constants add "
                  f"{format_bytes(values['double'] - values['codes'] - kept)}, and what stays in 16 bits {format_bytes(kept)}. "
                  "It exceeds a card of 24 GB before any training.",
                  plain="double-quantization-forgotten: That is with a float32 maximum for each block: half a bit a weight "
                        "instead of an eighth.",
                  codes="half-a-byte: That is the codes alone, half a byte for each weight of the linear layers. Constants and "
                        "embeddings are missing.",
                  int8="byte-for-four-bits: That is a byte for each weight of the linear layers: LLM.int8."),
            asked("plain",
                  f"{given} It is loaded in NF4 without double quantization. {ask}",
                  "A float32 maximum for 64 weights adds an eighth to the codes, "
                  f"{format_bytes(values['plain'] - values['codes'] - kept)} here.",
                  double="double-quantization-assumed: That has the maxima in 8 bits, which saves "
                         f"{format_bytes(values['plain'] - values['double'])} but has to be switched on.",
                  codes="half-a-byte: That is the codes alone, without the maxima and without what stays in 16 bits.",
                  int8="byte-for-four-bits: That is a byte for each weight of the linear layers: LLM.int8."),
            asked("codes",
                  f"{given} It is loaded in NF4. How much memory do the four-bit codes take, without constants and without "
                  "what is not quantized?",
                  "Half a byte for each weight of a linear layer: less than half a byte for each parameter, since embeddings "
                  "and head are not quantized.",
                  double="total-for-codes: That is everything, with constants and with embeddings and head in 16 bits.",
                  plain="total-with-float-constants: That is everything, with float32 maxima.",
                  int8="byte-for-four-bits: That is with a whole byte for a code."),
            asked("int8",
                  f"{given} It is loaded with load_in_8bit=True. {ask}",
                  "A byte for each weight of the linear layers, a float32 maximum for each of their rows, and two bytes for "
                  "the rest.",
                  double="eight-bits-for-four: That is NF4 with double quantization, half as much.",
                  plain="eight-bits-for-four-plain: That is NF4 with float32 maxima: half a byte and some for each weight.",
                  codes="nibbles-for-bytes: That is half a byte for each weight: four bits."),
        ])


@family("full-memory", objective=3, topic="full fine-tuning", methods=("full fine-tuning",), section="03_full_finetuning")
def full_memory() -> Table:
    """Bytes a parameter in full fine-tuning: Adam or SGD, with or without master weights."""
    model = "llama-2-7b"

    def needed(optimizer: str, master: bool) -> float:
        half, single = dtype_bytes("bfloat16"), dtype_bytes("float32")
        return count * (2 * half + single * master) + optimizer_bytes({(count,): 1}, optimizer)

    count = base_parameters(model)
    values = {"adam_master": needed("adamw", True), "adam": needed("adamw", False),
              "sgd_master": needed("sgd", True), "sgd": needed("sgd", False)}
    unlike(values)
    each = {name: f"{value / count:.0f}" for name, value in values.items()}
    given = f"All {count:,} parameters of Llama-2-7B are trained, with weights and gradients in bfloat16."
    ask = "How much memory do weights, gradients and optimizer states take? (Activations are not asked for.)"

    def step(name: str, formula: str) -> tuple[Step, ...]:
        return (Step("bytes a parameter", formula, each[name]),
                Step("times the parameters", f"{each[name]} x {count:,}", format_bytes(values[name])))

    return Table(
        hint="Count the bytes of one parameter: weight, gradient, float32 copy if there is one, states of the optimizer",
        options={name: format_bytes(value, 1) for name, value in values.items()},
        prompts=[
            asked("adam_master",
                  f"{given} The optimizer is Adam with float32 states, and float32 master weights are kept, as in mixed "
                  f"precision. {ask}",
                  f"{each['adam_master']} bytes a parameter. Updates are too small for bfloat16, so a float32 copy of the "
                  "weights takes them.",
                  adam="master-weights-forgotten: The float32 copy is missing, four bytes a parameter.",
                  sgd_master="adam-without-states: Adam's two running means are missing, eight bytes a parameter.",
                  sgd="weights-and-gradients: That is weights and gradients alone: no running mean, no float32 copy.",
                  steps=step("adam_master", "2 + 2 + 4 + 4 + 4")),
            asked("adam",
                  f"{given} The optimizer is Adam with float32 states; there are no master weights. {ask}",
                  f"{each['adam']} bytes a parameter: both running means in float32 take more than weights and gradients "
                  "together.",
                  adam_master="master-weights-assumed: That has a float32 copy of the weights besides, four bytes a parameter "
                              "more.",
                  sgd_master="one-running-mean: Adam keeps two running means, of the gradient and of its square.",
                  sgd="weights-and-gradients: That is weights and gradients alone: no running mean, no float32 copy.",
                  steps=step("adam", "2 + 2 + 4 + 4")),
            asked("sgd_master",
                  f"{given} The optimizer is SGD without momentum, and float32 master weights are kept. {ask}",
                  f"{each['sgd_master']} bytes a parameter: no states at all, but the float32 copy.",
                  adam_master="adam-for-sgd: That has Adam's two running means besides, of which SGD without momentum has "
                              "none.",
                  adam="states-for-masters: Adam without master weights takes that much; SGD has no states.",
                  sgd="master-weights-forgotten: The float32 copy is missing, four bytes a parameter.",
                  steps=step("sgd_master", "2 + 2 + 4")),
            asked("sgd",
                  f"{given} The optimizer is SGD without momentum; there are no master weights. {ask}",
                  f"{each['sgd']} bytes a parameter, the least that training all of them can take.",
                  adam_master="mixed-precision-adam: That is Adam in mixed precision: 16 bytes a parameter is a habit, not a "
                              "law.",
                  adam="adam-for-sgd: That has Adam's two running means, of which SGD without momentum has none.",
                  sgd_master="master-weights-assumed: That has a float32 copy of the weights, four bytes a parameter more.",
                  steps=step("sgd", "2 + 2")),
        ])


@functools.cache
def _qlora(checkpointing: bool) -> Breakdown:
    """Llama-2-7B on 4 rows of 2,048 tokens."""
    return memory("llama-2-7b", LORA, quantization=NF4, batch=4, tokens=2048, checkpointing=checkpointing)


@family("largest-part", objective=3, topic="memory", methods=("qlora",), also=("full fine-tuning",), section="07_qlora")
def largest_part() -> Table:
    """Which part of a run takes most."""
    runs: dict[str, tuple[str, Breakdown]] = {
        "qlora": ("Llama-2-7B, QLoRA with r=16 on all linear layers, 4 rows of 2,048 tokens, gradient checkpointing",
                  _qlora(True)),
        "kept": ("Llama-2-7B, QLoRA with r=16 on all linear layers, 4 rows of 2,048 tokens, no gradient checkpointing",
                 _qlora(False)),
        "full": ("Llama-2-7B, full fine-tuning with Adam, 1 row of 2,048 tokens, gradient checkpointing", memory("llama-2-7b")),
        "vocabulary": (f"Llama-3-8B with its vocabulary of {build('llama-3-8b').config.vocab_size:,}, QLoRA with r=16 on all "
                       "linear layers, 8 rows of 2,048 tokens, gradient checkpointing",
                       memory("llama-3-8b", LORA, quantization=NF4, batch=8)),
    }
    options = {"base_weights": "weights of the base, as they are stored",
               "activations": "activations kept for the backward pass", "optimizer_states": "states kept by the optimizer",
               "logits_and_loss": "logits and what the loss makes of them"}

    def largest(name: str) -> str:
        return max(runs[name][1].table(), key=lambda row: row[1])[0].replace(" ", "_")

    def said(name: str) -> str:
        rows = sorted(runs[name][1].table(), key=lambda row: -row[1])[:4]
        return "The largest parts: " + ", ".join(f"{part} {format_bytes(size)}" for part, size, _ in rows) + "."

    vocabulary, tokens = build("llama-2-7b").config.vocab_size, 2048
    rows, logits = f"{tokens:,} x {vocabulary:,}", format_bytes(4.0 * tokens * vocabulary)
    wide = build("llama-3-8b").config.vocab_size / build("llama-3-8b").config.hidden_size
    ask = "Which part of the memory is the largest?"
    return Table(
        options=options,
        hint="Weights and states grow with the parameters, activations with tokens x width x layers, logits with tokens x "
             "vocabulary",
        prompts=[
            asked(largest("qlora"),
                  f"{runs['qlora'][0]}. {ask}",
                  f"{said('qlora')} What is trained is small, and so is what is kept of each token.",
                  activations="activations-rule: Without checkpointing they might; with it only the input of each layer is "
                              "kept.",
                  optimizer_states="adam-rules: Adam keeps states for what is trained, here a small share.",
                  logits_and_loss="small-vocabulary: For each token 32,000 logits, their float32 copy and their gradient: less "
                                  f"than the base even for four rows ({rows} logits in float32 take {logits})."),
            asked(largest("kept"),
                  f"{runs['kept'][0]}. {ask}",
                  f"{said('kept')} Four bits shrink the weights, not what each layer keeps of each token.",
                  base_weights="four-bits-shrink-all: With so many tokens the weights, in four bits, are a small part.",
                  optimizer_states="adam-rules: Adam keeps states for what is trained, here a small share.",
                  logits_and_loss="logits-rule: They are kept once, at the end; what a layer keeps, every layer keeps."),
            asked(largest("full"),
                  f"{runs['full'][0]}. {ask}",
                  f"{said('full')} Two float32 numbers for each parameter are four times its weight in 16 bits.",
                  base_weights="weights-rule: Each parameter has two bytes of weight and eight bytes of states.",
                  activations="activations-rule: One row with checkpointing keeps little beside what every parameter needs.",
                  logits_and_loss=f"logits-rule: {rows} logits of the row in float32 take {logits}.",
                  methods=("full fine-tuning",)),
            asked(largest("vocabulary"),
                  f"{runs['vocabulary'][0]}. {ask}",
                  f"{said('vocabulary')} Each token has a logit for each word of the vocabulary, in 16 bits, again in float32, "
                  "and a gradient.",
                  base_weights="weights-rule: In four bits they are a few gigabytes, whatever the batch; the logits grow with "
                               "it.",
                  activations=f"activations-rule: Checkpointing leaves them small, and the vocabulary is {wide:.0f} times as "
                              "wide as the model.",
                  optimizer_states="adam-rules: Adam keeps states for what is trained, here a small share."),
        ])


@family("bars", objective=3, topic="memory", methods=("lora", "qlora", "full fine-tuning"), section="07_qlora")
def bars() -> Table:
    """Whose bar is it? Four runs, drawn."""
    run: dict[str, Any] = {"batch": 4, "tokens": 2048}
    found = {"full": memory("llama-2-7b", **run), "lora": memory("llama-2-7b", LORA, **run),
             "qlora": _qlora(True), "kept": _qlora(False)}

    def parts(name: str) -> dict[str, list[float]]:
        size = found[name].parts
        groups = {"weights": ("base weights", "adapter weights", "master weights"),
                  "gradients and states": ("gradients", "optimizer states"), "activations kept": ("activations",)}
        groups["work in progress"] = tuple(part for part in PARTS if not any(part in names for names in groups.values()))
        return {group: [sum(size[part] for part in names)] for group, names in groups.items()}

    shrunk = parts("lora")["weights"][0] / parts("qlora")["weights"][0]

    def draw(name: str) -> viz.Picture:
        return stacked_bars(["a run"], parts(name), title="Llama-2-7B, 4 rows of 2,048 tokens")

    def told(name: str) -> str:
        return ", ".join(f"{group} {format_bytes(size)}" for group, (size,) in parts(name).items())

    ask = ("Llama-2-7B is trained on 4 rows of 2,048 tokens, with Adam. Which run does the bar show? (LoRA: r=16 on all linear "
           "layers.)")
    return Table(
        hint="Look at the weights first, two bytes or half a byte a parameter or more; then at what grows with the tokens",
        options={"full": "full fine-tuning, with gradient checkpointing", "lora": "LoRA on a 16-bit base, with gradient "
                                                                                  "checkpointing",
                 "qlora": "QLoRA, with gradient checkpointing", "kept": "QLoRA, without gradient checkpointing"},
        prompts=[
            asked("full",
                  ask,
                  f"Gradients and states for every parameter, and a float32 copy among the weights: {told('full')}.",
                  lora="frozen-needs-states: A frozen base needs no gradients and no states; those of the adapter would hardly "
                       "be seen.",
                  qlora="weights-in-four-bits: The weights are far more than half a byte a parameter.",
                  kept="states-for-activations: Without checkpointing it is the activations that would be long.",
                  draw=lambda: draw("full")),
            asked("lora",
                  ask,
                  f"Two bytes a parameter of weights, and little else: {told('lora')}.",
                  full="no-states-seen: Then gradients and states would be the longest part.",
                  qlora=f"weights-in-four-bits: In NF4 the weights would be shorter, by a factor of {shrunk:.1f}.",
                  kept="checkpoints-unseen: Without checkpointing the activations would be the longest part.",
                  draw=lambda: draw("lora")),
            asked("qlora",
                  ask,
                  f"Little more than half a byte a parameter of weights, so that tokens show beside them: {told('qlora')}.",
                  full="no-states-seen: Then gradients and states would be the longest part.",
                  lora=f"weights-in-sixteen-bits: In 16 bits the weights would be {shrunk:.1f} times as long.",
                  kept="checkpoints-unseen: Without checkpointing the activations would be the longest part.",
                  draw=lambda: draw("qlora")),
            asked("kept",
                  ask,
                  f"Four bits make the weights small, and do nothing for what each layer keeps: {told('kept')}.",
                  full="activations-for-states: Full fine-tuning has its longest part in gradients and states.",
                  lora=f"weights-in-sixteen-bits: In 16 bits the weights would be {shrunk:.1f} times as long, and with "
                       "checkpointing the activations short.",
                  qlora="four-bits-shrink-all: With checkpointing only the input of each layer is kept, and the activations "
                        "are short.",
                  draw=lambda: draw("kept")),
        ])


def why_so_many(breakdown: Breakdown, card: float, count: int) -> str:
    """Why it takes so many cards: what each of them holds, and what each would hold if there were one less."""
    shared = sum(breakdown.parts[name] for name in SHARDED)
    text = (f"{format_bytes(shared)} can be spread, {format_bytes(breakdown.parts['base weights'])} of them the base's "
            f"weights; {format_bytes(breakdown.total - shared)} is each card's own. ")
    if count == 1:
        return text + f"Together that is {format_bytes(breakdown.total)}, less than {format_bytes(card, 0)}."
    fewer = f"{count - 1} card{'s' * (count > 2)} would have to hold {format_bytes(per_card(breakdown, count - 1))}"
    return text + (f"{fewer}{' each' * (count > 2)}, more than {format_bytes(card, 0)}; of {count} each holds "
                   f"{format_bytes(per_card(breakdown, count))}.")
