"""Objective 4, parameters: what each method trains, counted by building the model with the adapter in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinypeft.budget import CATALOG, base_parameters, build, count_parameters
from tinypeft.claims.questions import Step
from tinypeft.claims.quiz.family import Table, asked, family, unlike
from tinypeft.claims.quiz.runs import BUNDLED, bundled
from tinypeft.peft import (
    AdaLoraConfig,
    BitFitConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ULoraConfig,
    VeraConfig,
    get_peft_model,
)

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def trained(model: str, config: PeftConfig) -> int:
    """Parameters that a method trains."""
    return count_parameters(model, config).trainable


@family("variants", objective=4, topic="parameters", methods=("lora",), also=("dora", "adalora", "vera"),
        section="04_lora/low-rank")
def variants() -> Table:
    """LoRA and three of its variants on one matrix."""
    r = 16
    one: dict[str, Any] = {"target_modules": ["k_proj"], "layers_to_transform": [0]}
    shape: Any = build("llama-3-8b").config
    n_in, out = shape.hidden_size, shape.num_key_value_heads * shape.head_dim
    configs = {"lora": LoraConfig(r=r, **one), "dora": LoraConfig(r=r, use_dora=True, **one), "vera": VeraConfig(r=r, **one),
               "adalora": AdaLoraConfig(init_r=r, target_r=r, total_step=10, **one)}
    values = {name: trained("llama-3-8b", config) for name, config in configs.items()}
    unlike({name: float(value) for name, value in values.items()}, 1.0001)
    given = f"A weight of {out} x {n_in} (out, in) is adapted with rank {r}."
    return Table(
        hint="LoRA trains A and B; DoRA adds a number for each output, AdaLoRA one for each rank; VeRA trains two vectors only",
        options={name: f"{value:,}" for name, value in values.items()},
        prompts=[
            asked("lora",
                  f"{given} How many numbers does LoRA train?",
                  "A has r rows of inputs, B has r columns of outputs, and both are trained.",
                  dora="magnitudes-counted: DoRA has that many: a magnitude for each output besides.",
                  adalora="singular-values-counted: AdaLoRA has that many: a singular value for each rank besides.",
                  vera="vectors-only: That is a number for each rank and each output, what VeRA trains.",
                  steps=(Step("r (in + out)", f"{r} x ({n_in} + {out})", f"{values['lora']:,}"),)),
            asked("dora",
                  f"{given} How many numbers does DoRA train?",
                  "LoRA's, and a magnitude for each output: the norm of a row of W0 + s B A.",
                  lora="magnitudes-frozen: The magnitudes start as norms of the weight's rows, but are trained from there.",
                  adalora="magnitude-for-each-rank: A magnitude belongs to an output, not to a rank.",
                  vera="directions-frozen: DoRA trains direction and magnitude; the direction by a whole LoRA.",
                  methods=("dora",),
                  steps=(Step("r (in + out) + out", f"{r} x ({n_in} + {out}) + {out}", f"{values['dora']:,}"),)),
            asked("adalora",
                  f"{given} How many numbers does AdaLoRA have there before it prunes?",
                  "Its change is B diag(E) A: LoRA's two factors, and a singular value for each rank.",
                  lora="singular-values-inside: E is a parameter of its own; it starts at zero, so that B need not.",
                  dora="singular-value-for-each-output: There are as many singular values as ranks.",
                  vera="singular-vectors-fixed: A and B are trained too, and kept nearly orthogonal by a penalty.",
                  methods=("adalora",),
                  steps=(Step("r (in + out) + r", f"{r} x ({n_in} + {out}) + {r}", f"{values['adalora']:,}"),)),
            asked("vera",
                  f"{given} How many numbers does VeRA train?",
                  "A vector of the rank's length and one of the outputs' length; its A and B are random, frozen, and shared by "
                  "all layers.",
                  lora="random-matrices-trained: A and B are as large as LoRA's and larger, but follow from a seed.",
                  dora="vectors-beside-factors: That counts trained factors and a vector; in VeRA only vectors are trained.",
                  adalora="vectors-beside-factors-of-rank: That counts trained factors and a vector of the rank's length.",
                  methods=("vera",), steps=(Step("r + out", f"{r} + {out}", f"{values['vera']:,}"),)),
        ])


@family("virtual-tokens", objective=4, topic="soft prompts", methods=("prefix", "prompt"), section="09_prefix_prompt")
def virtual_tokens() -> Table:
    """Prefix and prompt tuning, with and without grouped queries."""
    p = 20
    config: Any = build("llama-2-7b").config
    grouped: Any = build("llama-3-8b").config
    d, layers = config.hidden_size, config.num_hidden_layers
    heads, size = grouped.num_key_value_heads, grouped.head_dim
    prefix = PrefixTuningConfig(num_virtual_tokens=p)
    values = {"prompt": trained("llama-2-7b", PromptTuningConfig(num_virtual_tokens=p)),
              "prefix": trained("llama-2-7b", prefix), "grouped": trained("llama-3-8b", prefix)}
    values["layer"] = values["prefix"] // layers
    unlike({name: float(value) for name, value in values.items()})
    shape = f"{layers} layers, width {d}, as many key-value heads as query heads"
    return Table(
        hint="A prompt is rows of the embedding; a prefix is keys and values in each layer, as wide as those of the layer are",
        options={name: f"{value:,}" for name, value in values.items()},
        prompts=[
            asked("prefix",
                  f"Llama-2-7B ({shape}) gets prefix tuning with {p} virtual tokens. How many numbers are trained?",
                  "A key and a value for each virtual token in each layer, all as wide as the model.",
                  prompt="prefix-in-the-first-layer: That is one vector for each token at the input: prompt tuning.",
                  layer="one-layer: That is one layer's keys and values; every layer has its own.",
                  grouped=f"groups-assumed: That is for {heads} key-value heads, as Llama-3-8B has. Here every query head has "
                          "its own.",
                  methods=("prefix",), steps=(Step("2 p d L", f"2 x {p} x {d} x {layers}", f"{values['prefix']:,}"),)),
            asked("grouped",
                  f"Llama-3-8B ({layers} layers, width {d}, {grouped.num_attention_heads} query heads and {heads} key-value "
                  f"heads of {size}) gets prefix tuning with {p} virtual tokens. How many numbers are trained?",
                  f"The prefix is keys and values, and of these there are {heads} heads: {heads * size} numbers for a key, not "
                  f"{d}.",
                  prefix="grouped-queries-ignored: That is 2 p d L, which holds where keys are as wide as the model.",
                  prompt="prefix-in-the-first-layer: That is one vector for each token at the input: prompt tuning.",
                  layer="one-layer: That is one layer's keys and values, and as wide as the model.",
                  methods=("prefix",),
                  steps=(Step("2 p heads head_dim L", f"2 x {p} x {heads} x {size} x {layers}", f"{values['grouped']:,}"),)),
            asked("prompt",
                  f"Llama-2-7B ({shape}) gets prompt tuning with {p} virtual tokens. How many numbers are trained?",
                  "A vector as wide as the model for each virtual token, at the input only; each layer computes keys and "
                  "values of it.",
                  prefix="prompt-in-each-layer: Keys and values of its own in each layer: that is prefix tuning.",
                  layer="keys-and-values: One vector for each token, not a key and a value.",
                  grouped="prompt-of-keys: Key-value heads play no part: what is trained is an embedding.",
                  methods=("prompt",), steps=(Step("p d", f"{p} x {d}", f"{values['prompt']:,}"),)),
            asked("layer",
                  f"Llama-2-7B ({shape}) gets prefix tuning with {p} virtual tokens. How many of the trained numbers belong to "
                  "one layer?",
                  "A key and a value for each virtual token.",
                  prefix="all-layers: That is all layers together, and one was asked for.",
                  prompt="key-for-key-and-value: That is one vector for each token; a prefix has a key and a value.",
                  grouped=f"groups-for-layers: That is all layers of Llama-3-8B, with {heads} key-value heads.",
                  methods=("prefix",), steps=(Step("2 p d", f"2 x {p} x {d}", f"{values['layer']:,}"),)),
        ])


@family("biases", objective=4, topic="bitfit", methods=("bitfit",), section="10_bitfit_norms_ia3")
def biases() -> Table:
    """What share of a model BitFit trains."""
    shares = {name: trained(name, BitFitConfig()) / base_parameters(name) for name in ("gpt2", "opt-6.7b", "qwen2-7b")}
    found = [p.size for name, p in build("llama-2-7b").named_parameters() if name.endswith("bias")]
    shares["llama-2-7b"] = sum(found) / base_parameters("llama-2-7b")
    key = {name: name.replace("-", "_").replace(".", "_") for name in shares}
    unlike(shares)
    ask = "Which share of all parameters does BitFit train in"
    small, large = (f"a width of {build(name).config.hidden_size:,}" for name in ("gpt2", "opt-6.7b"))
    return Table(
        hint="Ask which layers have biases at all; a bias grows with the width, the weights with its square",
        options={key[name]: f"{share * 100:.2g} %" for name, share in shares.items()},
        prompts=[
            asked("llama_2_7b",
                  f"{ask} {CATALOG['llama-2-7b'].title}?",
                  "Llama's linear layers and norms have no biases: there is nothing to train.",
                  gpt2="a-tenth-of-a-percent: About that share is quoted for BERT and small GPT-2: models of another width, "
                       "with biases everywhere.",
                  opt_6_7b="seven-billion-with-biases: OPT of that size has biases everywhere; Llama has dropped them.",
                  qwen2_7b="query-key-value-biases: Qwen2 has kept biases on queries, keys and values; Llama has not."),
            asked("qwen2_7b",
                  f"{ask} {CATALOG['qwen2-7b'].title}, a Llama with biases on queries, keys and values?",
                  "Three biases a layer, two of them narrow since keys and values are grouped, are next to nothing.",
                  gpt2=f"a-tenth-of-a-percent: That is GPT-2 small, with biases everywhere and {small}.",
                  opt_6_7b="biases-everywhere: That is OPT, with biases in all linear layers and norms.",
                  llama_2_7b="no-biases: Llama has none; Qwen2 has them on queries, keys and values."),
            asked("opt_6_7b",
                  f"{ask} {CATALOG['opt-6.7b'].title}, with biases in all linear layers and norms?",
                  f"Biases grow with the width, weights with its square: at {large} the share is much smaller than in small "
                  "models.",
                  gpt2=f"share-is-constant: That is the share in GPT-2 small, which has {small}. The share falls as one over "
                       "the width.",
                  qwen2_7b="query-key-value-biases: That is a model with biases on queries, keys and values only.",
                  llama_2_7b="no-biases: Llama has none; OPT has them everywhere."),
            asked("gpt2",
                  f"{ask} {CATALOG['gpt2'].title}, with biases in all linear layers and norms?",
                  "The share of the quoted tenth of a percent: it belongs to models of this width.",
                  opt_6_7b=f"large-model-share: That is a model with {large} with biases everywhere; the share falls as one "
                           "over the width.",
                  qwen2_7b="query-key-value-biases: That is a model with biases on queries, keys and values only.",
                  llama_2_7b="no-biases: That is Llama; GPT-2 has biases everywhere."),
        ])


@family("times", objective=4, topic="parameters", methods=("lora", "qlora", "dora"), section="07_qlora")
def times() -> Table:
    """By what LoRA's count is multiplied when the configuration changes."""
    base = LoraConfig(r=16, target_modules=ATTENTION)
    changed = {"same": replace(base, lora_alpha=2 * base.lora_alpha), "double": replace(base, r=32),
               "half": replace(base, target_modules=["q_proj", "v_proj"]), "dora": replace(base, use_dora=True)}
    counts = {name: trained("llama-2-7b", config) for name, config in changed.items()}
    before = trained("llama-2-7b", base)
    values = {name: count / before for name, count in counts.items()}
    unlike(values)
    given = "Llama-2-7B has LoRA of rank 16 on q_proj, k_proj, v_proj and o_proj, all square."
    ask = "By what is the number of trained parameters multiplied?"
    return Table(
        hint="What is trained is A and B (and what the variant adds); neither alpha nor the base's storage is among it",
        options={name: f"{value:.3g}" for name, value in values.items()},
        prompts=[
            asked("same",
                  f"{given} The base is loaded in NF4 instead of 16 bits, which makes it QLoRA, and lora_alpha is doubled. "
                  f"{ask}",
                  "QLoRA trains exactly LoRA's numbers; what is smaller is the frozen base. And alpha is a factor, not a "
                  "parameter.",
                  half="packed-weights-counted: Two 4-bit codes in a byte make frozen weights look like half as many; A and B "
                       "are not packed.",
                  double="alpha-is-a-size: alpha multiplies the update and has no parameters.",
                  dora="constants-trained: Block constants belong to the frozen base, and are not trained.",
                  methods=("qlora",)),
            asked("double",
                  f"{given} The rank is raised to 32, lora_alpha stays. {ask}",
                  "r (in + out) is linear in the rank.",
                  same="alpha-fixes-the-size: alpha / r is halved, but A and B are twice as large.",
                  half="scaling-for-size: That is what becomes of alpha / r, the factor in front of B A.",
                  dora="rank-is-cheap: Each further rank costs as much as each of the first 16."),
            asked("half",
                  f"{given} Instead only q_proj and v_proj are adapted. {ask}",
                  "Two of four square matrices of equal size.",
                  same="rank-alone-counts: r (in + out) is for each adapted matrix, not for each layer.",
                  double="fewer-targets-higher-rank: The rank stays as it is unless the config says otherwise.",
                  dora="small-change: Which matrices are adapted matters as much as the rank."),
            asked("dora",
                  f"{given} use_dora=True is added. {ask}",
                  "A magnitude for each output is little beside 16 numbers for each input and each output.",
                  same="magnitudes-frozen: The magnitudes are trained, one for each output.",
                  double="dora-doubles: Direction and magnitude are two parts, but a magnitude is a single number for a whole "
                         "row.",
                  half="magnitude-replaces-a-factor: Both factors stay; the magnitudes come on top.",
                  methods=("dora",)),
        ])


@family("task-vectors", objective=4, topic="many tasks", methods=("ulora",), section="12_many_tasks")
def task_vectors() -> Table:
    """ULoRA: factors that tasks share, and a vector for each."""
    def counted(vector: str) -> tuple[int, int]:
        config = ULoraConfig(r=r, vector=vector, target_modules=["v_proj"], layers_to_transform=[0])
        model = get_peft_model(bundled(), config, "first")
        first = model.get_nb_trainable_parameters()[0]
        model.add_adapter("second", config)
        model.set_adapter("second")
        return first, model.get_nb_trainable_parameters()[0]

    r = 8
    shape: Any = build(BUNDLED).config
    n_in, out = shape.hidden_size, shape.num_key_value_heads * shape.head_dim
    (first_rank, next_rank), (first_input, next_input) = counted("rank"), counted("input")
    values = {"first_rank": first_rank, "next_rank": next_rank, "first_input": first_input, "next_input": next_input}
    unlike({name: float(value) for name, value in values.items()})
    given = (f"ULoRA of rank {r} adapts a matrix of {out} x {n_in} (out, in). Its factors A and B belong to all tasks and are "
             "frozen after the first; each task has a vector v that scales")
    ask = "How many numbers does"
    return Table(
        hint="The first task trains A, B and its vector, a later one its vector alone; ask what the vector has an entry for",
        options={name: f"{value:,}" for name, value in values.items()},
        prompts=[
            asked("first_rank",
                  f"{given} the {r} components of A x. {ask} the first task train?",
                  "Both factors, and a vector with an entry for each component.",
                  next_rank="factors-given: The factors have to come from somewhere: the first task trains them.",
                  first_input="vector-on-the-input: That is with a vector that has an entry for each input.",
                  next_input="vector-on-the-input-alone: That is a vector with an entry for each input, without the factors.",
                  steps=(Step("r (in + out) + r", f"{r} x ({n_in} + {out}) + {r}", f"{first_rank:,}"),)),
            asked("next_rank",
                  f"{given} the {r} components of A x. {ask} the second task train?",
                  "Its vector alone, as long as the rank: the factors stay as the first task left them.",
                  first_rank="factors-trained-again: If the second task moved the factors, it would change the first one's "
                             "answers.",
                  next_input="vector-on-the-input: That is with an entry for each input; here it is the rank's components that "
                             "are scaled.",
                  first_input="vector-on-the-input-and-factors: That is with the factors, and an entry for each input."),
            asked("first_input",
                  f"{given} the {n_in} inputs before A, as diag(v) A B is printed for row vectors. {ask} the first task "
                  "train?",
                  "Both factors, and a vector with an entry for each input: printed that way, v is as long as a row of x.",
                  first_rank="vector-on-the-rank: The words beside the formula mean that, components of the rank; the formula "
                             "does not.",
                  next_input="factors-given: The first task trains the factors too.",
                  next_rank="vector-on-the-rank-alone: That is a vector with an entry for each component, without the "
                            "factors.",
                  steps=(Step("r (in + out) + in", f"{r} x ({n_in} + {out}) + {n_in}", f"{first_input:,}"),)),
            asked("next_input",
                  f"{given} the {n_in} inputs before A, as diag(v) A B is printed for row vectors. {ask} the second task "
                  "train?",
                  "Its vector alone, as long as the input.",
                  next_rank="vector-on-the-rank: That is with an entry for each component of the rank.",
                  first_input="factors-trained-again: The factors are frozen after the first task.",
                  first_rank="vector-on-the-rank-and-factors: That is with the factors, and an entry for each component."),
        ])
