"""Objective 5: choose a method, a rank, a number of cards; serve many tasks; and find out what went wrong."""

from __future__ import annotations

from typing import Any

from tinypeft.budget import adapter_bytes, base_parameters, build, count_parameters, format_bytes, memory
from tinypeft.budget.cards import cards_needed
from tinypeft.budget.weights import dtype_bytes, optimizer_bytes
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.counting import ATTENTION
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.runs import bundled
from tinypeft.claims.quiz.training_memory import LORA, why_so_many
from tinypeft.claims.settings import NF4
from tinypeft.peft import LoraConfig, PromptTuningConfig, create_loraplus_optimizer, get_peft_model
from tinypeft.training.optimizers import AdamW

CARD = 24e9


@family("ranks-that-fit", objective=5, topic="planning", methods=("qlora",), section="13_planning")
def ranks_that_fit() -> Table:
    """The largest rank for a card, by where it is put and how its numbers are stored."""
    model = "llama-2-13b"
    places: dict[str, Any] = {"few": ATTENTION, "all": "all-linear"}
    dtypes, others = {"16": "bfloat16", "32": "float32"}, 2e9
    base = memory(model, training=False, quantization=NF4).parts["base weights"]
    per_rank = {place: count_parameters(model, LoraConfig(r=1, target_modules=targets)).trainable
                for place, targets in places.items()}
    each = {dtype: 2 * dtype_bytes(dtype) + optimizer_bytes({(1,): 1}, "adamw") for dtype in dtypes.values()}
    values = {f"{place}_{bits}": int((CARD - others - base) / (each[dtype] * numbers))
              for place, numbers in per_rank.items() for bits, dtype in dtypes.items()}
    unlike({name: float(value) for name, value in values.items()})
    few, every = (f"{numbers:,}" for numbers in per_rank.values())
    given = (f"Llama-2-13B in NF4 takes {format_bytes(base)}. It is trained by QLoRA with Adam on a card of "
             f"{format_bytes(CARD, 0)}, of which {format_bytes(others, 0)} are kept for activations and all that does not "
             "depend on the rank.")
    ask = "Up to which rank does it fit?"
    left = format_bytes(CARD - others - base)

    def step(place: str, bits: str) -> tuple[Step, ...]:
        formula = f"{left} / ({each[dtypes[bits]]} bytes x {per_rank[place]:,})"
        return (Step("left, over what a rank takes, rounded down", formula, f"{values[f'{place}_{bits}']:,}"),)

    sixteen, thirty_two = (f"adapter weights and gradients in {dtype} ({each[dtype]} bytes for each trained number)"
                           for dtype in dtypes.values())
    return Table(
        hint="Divide what is left of the card by what one more rank costs: its numbers times the bytes of each",
        options={name: f"r = {value:,}" for name, value in values.items()},
        prompts=[
            asked("few_16",
                  f"{given} LoRA is on q_proj, k_proj, v_proj and o_proj, {few} numbers for each rank, with {sixteen}. {ask}",
                  "Far above any rank in use: on the attention matrices memory is not what limits it.",
                  few_32=f"float32-adapter: That is with {each['float32']} bytes a number, for weights and gradients in "
                         "float32.",
                  all_16=f"all-linear-for-attention: That is with all linear layers, {every} numbers for each rank.",
                  all_32=f"all-linear-in-float32: That is with all linear layers, and {each['float32']} bytes a number.",
                  steps=step("few", "16")),
            asked("few_32",
                  f"{given} LoRA is on q_proj, k_proj, v_proj and o_proj, {few} numbers for each rank, with {thirty_two}. "
                  f"{ask}",
                  "peft keeps adapters in float32 by default, and each number then takes 16 bytes with its gradient and "
                  "states.",
                  few_16=f"bfloat16-adapter: That is with {each['bfloat16']} bytes a number, for weights and gradients in "
                         "bfloat16.",
                  all_32=f"all-linear-for-attention: That is with all linear layers, {every} numbers for each rank.",
                  all_16=f"all-linear-in-bfloat16: That is with all linear layers, and {each['bfloat16']} bytes a number.",
                  steps=step("few", "32")),
            asked("all_16",
                  f"{given} LoRA is on all linear layers, {every} numbers for each rank, with {sixteen}. {ask}",
                  "The feed-forward matrices are the wide ones: with them a rank costs "
                  f"{per_rank['all'] / per_rank['few']:.1f} times as much.",
                  all_32=f"float32-adapter: That is with {each['float32']} bytes a number, for weights and gradients in "
                         "float32.",
                  few_16=f"attention-for-all-linear: That is with the attention matrices alone, {few} numbers for each rank.",
                  few_32=f"attention-in-float32: That is with the attention matrices alone, and {each['float32']} bytes a "
                         "number.",
                  steps=step("all", "16")),
            asked("all_32",
                  f"{given} LoRA is on all linear layers, {every} numbers for each rank, with {thirty_two}. {ask}",
                  "Both choices cost: where the ranks are, and how their numbers are stored.",
                  all_16=f"bfloat16-adapter: That is with {each['bfloat16']} bytes a number, for weights and gradients in "
                         "bfloat16.",
                  few_32=f"attention-for-all-linear: That is with the attention matrices alone, {few} numbers for each rank.",
                  few_16=f"attention-in-bfloat16: That is with the attention matrices alone, and {each['bfloat16']} bytes a "
                         "number.",
                  steps=step("all", "32")),
        ])


@family("cards", objective=5, topic="planning", methods=("qlora", "lora", "full fine-tuning"), section="13_planning")
def cards() -> Table:
    """How many cards for 70B."""
    model = "llama-2-70b"
    qlora = memory(model, LORA, quantization=NF4)
    needs = {"roomy": (qlora, 48e9), "small": (qlora, 24e9), "sixteen": (memory(model, LORA), 24e9),
             "full": (memory(model), 80e9)}
    layers = build(model).config.num_hidden_layers
    count = {name: cards_needed(breakdown, size, layers).sharded or 0 for name, (breakdown, size) in needs.items()}
    unlike({name: float(value) for name, value in count.items()})
    said = {name: why_so_many(breakdown, size, count[name]) for name, (breakdown, size) in needs.items()}
    larger = f"{needs['sixteen'][0].parts['base weights'] / qlora.parts['base weights']:.1f}"
    given = "Llama-2-70B is trained on 1 row of 2,048 tokens, gradient checkpointing, Adam."
    ask = ("How many cards does it take at least, if weights, gradients and optimizer states are spread evenly? (Activations "
           "are each card's own.)")
    return Table(
        hint="Compare the base alone with the card first: half a byte a parameter and some, two bytes, or sixteen with all "
             "that training adds",
        options={name: str(value) for name, value in count.items()},
        prompts=[
            asked("small",
                  f"{given} QLoRA with r=16 on all linear layers, on cards of 24 GB. {ask}",
                  f"{said['small']} Four bits do not bring 70B onto one consumer card, as is often said.",
                  roomy=f"seventy-on-twenty-four: Half a byte for each of {base_parameters(model) / 1e9:.0f} billion "
                        "parameters is more than 24 GB already.",
                  sixteen=f"four-bits-forgotten: So many hold a base in 16 bits, {larger} times as large.",
                  full="full-for-adapter: So many larger cards full fine-tuning takes, with gradients and states for every "
                       "weight."),
            asked("roomy",
                  f"{given} QLoRA with r=16 on all linear layers, on cards of 48 GB. {ask}",
                  f"{said['roomy']} {format_bytes(48e9 - qlora.total)} are left for longer rows, or a larger rank.",
                  small="twenty-four-for-forty-eight: That is on cards of half the size.",
                  sixteen="four-bits-forgotten-on-small-cards: That is a base in 16 bits on cards of half the size.",
                  full="full-for-adapter: So many larger cards full fine-tuning takes, with gradients and states for every "
                       "weight."),
            asked("sixteen",
                  f"{given} LoRA with r=16 on all linear layers of a base in bfloat16, on cards of 24 GB. {ask}",
                  f"{said['sixteen']} LoRA saves states and gradients; the frozen base still has to be there.",
                  roomy="adapter-alone-counted: The adapter alone would fit; the frozen base has two bytes for each "
                        "parameter.",
                  small=f"four-bits-assumed: So many hold a base in NF4; in 16 bits it is {larger} times as large.",
                  full="full-for-adapter: So many larger cards full fine-tuning takes, with gradients and states for every "
                       "weight.",
                  methods=("lora",)),
            asked("full",
                  f"{given} Full fine-tuning in mixed precision with master weights, on cards of 80 GB. {ask}",
                  f"{said['full']} {needs['full'][0].total / base_parameters(model):.0f} bytes a parameter, activations being "
                  "the least of it.",
                  roomy="checkpointing-is-enough: Checkpointing shrinks activations, and they are the small part here.",
                  small=f"weights-alone: {count['small']} of them hold the weights in 16 bits, but no gradients, states and "
                        "master weights.",
                  sixteen="weights-and-gradients: With so few there are not even the optimizer's states.",
                  methods=("full fine-tuning",)),
        ])


@family("storage", objective=5, topic="serving", methods=("lora", "qlora"), section="12_many_tasks")
def storage() -> Table:
    """Twenty tasks: what is stored, apart and merged."""
    model, tasks, lora = "llama-2-7b", 20, LoraConfig(r=8, target_modules=ATTENTION)
    base, one = 2.0 * base_parameters(model), float(adapter_bytes(model, lora, "bfloat16"))
    four_bit = memory(model, training=False, quantization=NF4).parts["base weights"]
    values = {"apart": base + tasks * one, "four_bits": four_bit + tasks * one, "merged": tasks * base, "adapters": tasks * one}
    unlike(values)
    given = (f"{tasks} tasks have each a LoRA of r=8 on q_proj, k_proj, v_proj and o_proj of Llama-2-7B; an adapter in "
             f"bfloat16 is {format_bytes(one)}.")
    return Table(
        hint="Ask how many bases there are, in how many bits, and whether an adapter is part of one or stands beside it",
        options={name: format_bytes(value) for name, value in values.items()},
        prompts=[
            asked("apart",
                  f"{given} All tasks are kept ready beside a base in bfloat16. How much memory do the weights take?",
                  "One base for all, and small adapters: a further task costs next to nothing, and rows of one batch may "
                  "belong to different tasks.",
                  four_bits="base-in-four-bits: That is with the base in NF4; here it has two bytes for each parameter.",
                  merged="copy-for-each-task: That is a base for each task. Unmerged adapters share one.",
                  adapters="base-forgotten: That is the adapters alone; without the base they compute nothing."),
            asked("four_bits",
                  f"{given} All tasks are kept ready beside a base in NF4 with double quantization. How much memory do the "
                  "weights take?",
                  "The base in four bits, shared, and the adapters in 16: they are not quantized.",
                  apart="base-in-sixteen-bits: That is with the base in bfloat16, two bytes for each parameter.",
                  merged="copy-for-each-task: That is a base for each task. Unmerged adapters share one.",
                  adapters="base-forgotten: That is the adapters alone; without the base they compute nothing."),
            asked("merged",
                  f"{given} Each adapter is merged into a base in bfloat16, and all of the models are stored. How much space "
                  "do they take?",
                  "A merged model is a whole model: no work is added when it runs, but each task has its own.",
                  apart="merged-share-a-base: Merged into it, an adapter changes the base, which others cannot use any more.",
                  four_bits="merged-in-four-bits: That is one base in NF4 with unmerged adapters.",
                  adapters="merged-is-small: That is the adapters before they were merged."),
            asked("adapters",
                  f"{given} Only what was trained is stored, to be used with a base that everyone has. How much space does it "
                  "take?",
                  f"The adapters alone: {values['adapters'] / four_bit:.0%} of a single base in four bits.",
                  apart="base-stored-along: That has the base in it, which everyone has.",
                  four_bits="base-stored-in-four-bits: That has the base in it, in NF4, which everyone can make for "
                            "themselves.",
                  merged="tasks-are-models: That is a whole model for each task, as after merging."),
        ])


@family("choices", objective=5, topic="planning", methods=("lora", "qlora", "prompt"), section="13_planning")
def choices() -> Table:
    """Which of four ways, for which needs; the reasons are counted."""
    seven, thirteen = "llama-2-7b", "llama-2-13b"
    prompt, thinnest = (format_bytes(adapter_bytes(seven, config, "bfloat16"))
                        for config in (PromptTuningConfig(num_virtual_tokens=20), LoraConfig(r=1)))
    small = memory(thirteen, LORA, quantization=NF4)
    large = format_bytes(2.0 * base_parameters(thirteen))
    base = format_bytes(2.0 * base_parameters(seven))
    return Table(
        hint="Look for the need that rules most of them out: memory for training, bytes for a task, work for a token, tasks in "
             "one batch",
        options={"merged": "LoRA on a 16-bit base, merged after training", "apart": "LoRA on a 16-bit base, kept apart from it",
                 "qlora": "QLoRA on a 4-bit base, kept apart from it",
                 "prompt": "prompt tuning with 20 virtual tokens, kept apart"},
        prompts=[
            asked("merged",
                  "Llama-2-7B is to be adapted to a single task on a card of 80 GB, and is to run afterwards with not one "
                  "multiplication more than before. Which way?",
                  "Merged into the weights the update costs nothing, and a 16-bit base takes it up without loss.",
                  apart="unmerged-is-free: Beside the weights its two thin products are computed for each token.",
                  qlora="four-bit-merge-is-free: Beside the weights it costs products, and in a 4-bit base a merge would be "
                        "rounded away.",
                  prompt="prompts-are-free: Virtual tokens take positions, and every token attends to them."),
            asked("apart",
                  f"{20} tasks share one Llama-2-7B, whose weights in 16 bits ({base}) must stay bit for bit as they are; rows "
                  "of one batch belong to different tasks, and each task is to change the model deeply. Which way?",
                  "Unmerged adapters leave the base as it is, and each row of a batch can be given its own. Where much is to "
                  "be learned, matrices beside every layer learn more than a prompt.",
                  merged="merge-for-many: A merged model serves one task, and its weights are no longer the base's.",
                  qlora="four-bits-needless: There is no lack of memory, and a base in four bits is not bit for bit the base.",
                  prompt="prompts-learn-as-much: A prompt can be given to each row too, but learns least of all methods in "
                         "this project's comparison.",
                  methods=("lora",)),
            asked("qlora",
                  "Llama-2-13B is to be adapted on a card of 16 GB. Each task is to be kept as an adapter of r=16 on all "
                  "linear layers. Which way?",
                  f"{format_bytes(small.total)} with the base in NF4 and 1 row of 2,048 tokens; the base in 16 bits alone has "
                  f"{large}.",
                  merged=f"frozen-base-is-free: Frozen or not, the base has to be there while it is adapted, {large} in 16 "
                         "bits.",
                  apart=f"frozen-base-is-free-apart: LoRA saves gradients and states, not the base: {large} in 16 bits.",
                  prompt="prompt-saves-the-base: A prompt too needs the whole base for training, and is no adapter in the "
                         "layers.",
                  methods=("qlora",)),
            asked("prompt",
                  "Each of a million users of Llama-2-7B is to have something of their own, of at most 200 kB, and all "
                  "requests go through one base. Which way?",
                  f"{prompt} in 16 bits. LoRA at rank 1 on queries and values is {thinnest} already.",
                  merged="copy-for-each-user: A merged model is a whole model for each user.",
                  apart=f"lora-is-smallest: Even rank 1 on queries and values is {thinnest}.",
                  qlora=f"four-bits-shrink-adapters: The base is in four bits, the adapter is as large as LoRA's: {thinnest} "
                        "at rank 1 on queries and values.",
                  methods=("prompt",)),
        ])


@family("symptoms", objective=5, topic="troubleshooting", methods=("lora",), also=("qlora",), section="04_lora/merge")
def symptoms() -> Table:
    """What users of peft report, and what is behind it."""
    reloaded = count_parameters("tinypeft/surnames", LoraConfig(r=8)).trainable
    ask = "What is behind it?"
    return Table(
        hint="Ask what is frozen, what needs a gradient, what belongs to the base, and what was rounded",
        options={"frozen": "an adapter is loaded for use, which leaves it frozen",
                 "checkpoint": "checkpointing is given inputs that want no gradient",
                 "biases": "biases of the base are trained along with an adapter",
                 "rounded": "sums of weights and updates are rounded to 16 values"},
        prompts=[
            asked("frozen",
                  f"A LoRA with {reloaded:,} trained numbers was saved. After PeftModel.from_pretrained(base, folder), "
                  f"print_trainable_parameters() says 0, and training does not start. {ask}",
                  "is_trainable is False by default: what is loaded is meant to run. With is_trainable=True it can be trained "
                  "on.",
                  checkpoint="no-gradient-no-parameters: Then the parameters would be counted as trainable, and the backward "
                             "pass would fail.",
                  biases="adapter-in-biases: Then there would be more trainable parameters, not none.",
                  rounded="loading-is-merging: Nothing is merged when an adapter is loaded."),
            asked("checkpoint",
                  'A LoRA on a frozen base trains well. Once gradient_checkpointing_enable() is called, torch says "element 0 '
                  f'of tensors does not require grad". {ask}',
                  "The embeddings are frozen, so the first block's input needs no gradient, and a reentrant checkpoint takes "
                  "that for the whole block. enable_input_require_grads(), which prepare_model_for_kbit_training calls, mends "
                  "it.",
                  frozen="frozen-adapter-in-training: It trained before, so the adapter is not frozen.",
                  biases="biases-need-gradients: Trained biases would rather give the block something to learn.",
                  rounded="rounding-stops-gradients: Frozen weights in four bits pass gradients to their inputs, with or "
                          "without checkpointing."),
            asked("biases",
                  'After training with LoraConfig(bias="all") in peft, the model under disable_adapter() gives other logits '
                  f"than the base did. {ask}",
                  "peft trains them in place: switching the adapter off takes away A and B, and leaves what else has moved.",
                  frozen="disabled-is-frozen: What is frozen has not moved, and would not change the logits.",
                  checkpoint="recomputation-differs: Checkpointing computes the same numbers again.",
                  rounded="disabling-unmerges: The base is in floating point, and nothing was merged."),
            asked("rounded",
                  "A QLoRA adapter answers as it was taught. After merge_and_unload() on the NF4 model, answers are nearly "
                  f"those of the base. {ask}",
                  "Merging into NF4 quantizes again, and a small update does not move a weight to the next code. Merge into a "
                  "dequantized copy.",
                  frozen="merged-is-untrained: The adapter worked before it was merged, frozen or not.",
                  checkpoint="checkpoint-lost-the-update: Checkpointing matters in the backward pass only.",
                  biases="biases-stay-behind: The adapter had answered as taught without any biases.",
                  methods=("qlora",)),
        ])


@family("learning-rates", objective=5, topic="lora+", methods=("lora+",), section="11_optimization")
def learning_rates() -> Table:
    """What LoRA+ gives to A, to B and to an embedding's LoRA: read off the optimizer's groups."""
    rate, ratio = 2e-4, 16
    model = get_peft_model(bundled(), LoraConfig(target_modules=["embed_tokens", "q_proj"]))

    def rates(lr: float) -> dict[str, float]:
        groups = create_loraplus_optimizer(model, AdamW, lr=lr, loraplus_lr_ratio=ratio).param_groups
        names = {id(p): name for name, p in model.named_parameters()}
        return {names[id(p)].rpartition("lora_")[2].split(".")[0]: group["lr"] for group in groups for p in group["params"]}

    found = rates(rate)
    values = {"A": found["A"], "B": found["B"], "embedding": found["embedding_A"], "inverse": rate / ratio}
    unlike(values)
    given = f"create_loraplus_optimizer(model, AdamW, lr={rate:g}, loraplus_lr_ratio={ratio})"
    return Table(
        hint="lr is the rate of A, B has loraplus_lr_ratio times as much, and LoRA on embeddings has a rate of its own",
        options={name: f"{value:.3g}" for name, value in values.items()},
        prompts=[
            asked("A",
                  f"{given}: at which rate is A of a linear layer trained?",
                  "lr is A's. B moves faster, since a change of B from zero has to be large for features to change.",
                  B="lr-is-of-B: That is the rate of B, which moves loraplus_lr_ratio times as fast.",
                  inverse="ratio-divides: A has lr itself; the ratio multiplies that of B.",
                  embedding="embedding-for-linear: That is the rate of LoRA on an embedding."),
            asked("B",
                  f"{given}: at which rate is B of a linear layer trained?",
                  "loraplus_lr_ratio times lr: B starts at zero, and has farther to go.",
                  A="one-rate: That is the rate of A, which LoRA+ leaves at lr.",
                  inverse="ratio-divides: The ratio multiplies: B is the faster one.",
                  embedding="embedding-for-linear: That is the rate of LoRA on an embedding."),
            asked("embedding",
                  f"{given}, and the token embedding has a LoRA too: at which rate are its factors trained?",
                  "loraplus_lr_embedding, by default that little, whatever lr is: it is easily overlooked.",
                  A="embedding-like-A: That is the rate of A in linear layers.",
                  B="embedding-like-B: That is the rate of B in linear layers.",
                  inverse="ratio-for-embeddings: Neither lr nor the ratio has a part in it."),
            asked("inverse",
                  f"B is to be trained at the rate {rate:g}, at loraplus_lr_ratio={ratio}: which lr has to be given to "
                  "create_loraplus_optimizer?",
                  "lr is the rate of A, and B has the ratio times that.",
                  A="lr-is-of-B: Then B would be trained at the ratio times as much.",
                  B="ratio-twice: The ratio would then be applied twice.",
                  embedding="embedding-default: That is the default for embeddings, whatever lr is.",
                  steps=(Step("rate of B / ratio", f"{rate:g} / {ratio}", f"{values['inverse']:.3g}"),)),
        ])
