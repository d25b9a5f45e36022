"""The examples of "Understanding PEFT: Parameter-Efficient Fine-Tuning for Large Language Models": one for each method, three
applications, and QLoRA's 70B model."""

from __future__ import annotations

import itertools

from tinypeft.budget import CATALOG, base_parameters, build, count_parameters, memory, parse_quantity, parse_size
from tinypeft.budget.cards import cards_needed
from tinypeft.budget.catalog import adapted
from tinypeft.claims.examples.engine import Steps, example, shaped, show
from tinypeft.claims.examples.weights import holds_for, lora_factors, stored_parts
from tinypeft.claims.judge import Range
from tinypeft.claims.settings import NF4, lora
from tinypeft.nn import CausalLM, GPT2Config, GPT2LMHeadModel, Linear
from tinypeft.peft import (
    BitFitConfig,
    BottleneckConfig,
    LoraConfig,
    LoraLayer,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from tinypeft.peft.bottleneck import Bottleneck

# ---- one for each method --------------------------------------------------------------------------------------------


@example("lora-1000", "LoRA on a matrix of 1000 x 1000", "a", "1. LoRA, Example",
         "LoRA with r=8 is put on one matrix of 1000 x 1000. How many parameters does it have?",
         ["a-lora-1000-full", "a-lora-1000-factors", "a-lora-1000-total", "a-lora-shapes"])
def _(steps: Steps) -> str:
    layer = LoraLayer(Linear(1000, 1000, bias=False))
    layer.add("default", LoraConfig(r=8), seed=0)
    (A, B), W = layer.factors("default"), layer.base_layer.weight
    both = A.size + B.size
    steps.add("The matrix", shaped(W=W), W.size, stated="1M")
    steps.add("A", shaped(A=A), A.size, stated="8K",
              note="The document writes x A B, with rows, and so A as 1000 x 8; here, as in the paper, it is B A x.")
    steps.add("B", shaped(B=B), B.size, stated="8K")
    steps.add("Both", f"{A.size:,} + {B.size:,}", both, stated="16K")
    steps.add("Share of the matrix", f"{both:,} / {W.size:,}", both / W.size, stated="1.6%")
    return f"LoRA with r=8 has {both:,} parameters here, {both / W.size:.1%} of the matrix's {W.size:,}."


@example("prompt-768", "Prompt tuning with 20 tokens", "a", "2. Prompt Tuning, Example",
         "20 trained tokens stand before the input of a model whose embeddings have 768 numbers. How many parameters are that, "
         "and which share of a model of 7 billion?",
         ["a-prompt-15360", "a-prompt-7b-pct"])
def _(steps: Steps) -> str:
    prompt = PromptTuningConfig(num_virtual_tokens=20)
    small, large = adapted("gpt2", prompt), adapted("llama-2-7b", prompt)
    narrow, wide = small.prompt_encoder["default"].embedding.weight, large.prompt_encoder["default"].embedding.weight
    base, small_base = base_parameters("llama-2-7b"), base_parameters("gpt2")
    steps.add("The prompt", shaped(P=narrow), narrow.size, stated="15,360")
    steps.add("Width of a 7B model", f"Llama-2 7B, {shaped(embeddings=large.get_base_model().get_input_embeddings().weight)}",
              wide.shape[1], stated="768",
              why=f"A trained token is as wide as the model's embeddings. 768 is the width of GPT-2 small, {small_base:,} "
                  f"parameters; Llama-2 7B has {wide.shape[1]}.")
    steps.add("The prompt of a 7B model", shaped(P=wide), wide.size, stated="15,360", follows=narrow.size)
    steps.add("Share of a 7B model", f"{wide.size:,} / {base:,}", wide.size / base, stated="0.0002%", follows=narrow.size / 7e9)
    steps.add("Share of GPT-2 small", f"{narrow.size:,} / {small_base:,}", narrow.size / small_base, unit="%")
    return (f"20 tokens have {narrow.size:,} parameters in GPT-2 small, {show(narrow.size / small_base, '%')} of it, and "
            f"{wide.size:,} in Llama-2 7B, {show(wide.size / base, '%')}.")


@example("prefix-12", "Prefix tuning of a model of 12 layers", "a", "3. Prefix Tuning, Example",
         "10 trained positions stand before the keys and values of each of 12 layers, 768 wide. How many parameters are that?",
         ["a-prefix-184320", "a-prefix-tiny", "a-prefix-shape"])
def _(steps: Steps) -> str:
    method = PrefixTuningConfig(num_virtual_tokens=10)
    model = adapted("gpt2", method)
    prefix, config = model.prompt_encoder["default"].embedding.weight, model.config
    total, base = count_parameters("gpt2", method).trainable, base_parameters("gpt2")
    p, d, layers = prefix.shape[0], config.hidden_size, config.num_hidden_layers
    steps.add("Keys and values of all layers", f"{shaped(prefix=prefix)}: {layers} layers x 2 x {d} in each of {p} rows", total,
              stated="184,320")
    steps.add("Share of GPT-2 small", f"{total:,} / {base:,}", total / base, unit="%",
              note="The document calls it tiny, without a number.")
    full, grouped = (adapted(name, method).prompt_encoder["default"].embedding.weight for name in ("llama-2-7b", "llama-3-8b"))
    steps.add("The same in Llama-2 7B", shaped(prefix=full), full.size)
    steps.add("The same in Llama-3 8B", shaped(prefix=grouped), grouped.size,
              note="As wide and as deep, but its query heads share keys and values, and a prefix is made of those: the width "
                   "in the formula is that of the keys, not the model's.")
    return f"The prefix has {total:,} parameters, {show(total / base, '%')} of GPT-2 small."


def weights_alone(model: PeftModel) -> int:
    """Trained parameters without the biases."""
    return sum(p.size for p in model.parameters() if p.requires_grad and p.ndim == 2)


@example("adapter-1024", "Bottleneck adapters in a model of 12 layers", "a", "4. Adapter Modules, Example",
         "Adapters with a bottleneck of 64 are put into a model that is 1024 wide, after attention and after feed-forward in "
         "each of 12 layers. How many parameters are that?",
         ["a-adapter-131072", "a-adapter-3m", "a-adapter-orientation"])
def _(steps: Steps) -> str:
    method = BottleneckConfig(style="houlsby", reduction_factor=1024 / 64)
    base: CausalLM = GPT2LMHeadModel(GPT2Config(n_layer=12, n_embd=1024, n_head=16))
    size = sum(p.size for p in base.parameters())
    model = get_peft_model(base, method)
    adapters = [module for module in model.modules() if isinstance(module, Bottleneck)]
    down, up = adapters[0].adapter_down[0].weight, adapters[0].adapter_up.weight
    b_down, b_up = adapters[0].adapter_down[0].bias, adapters[0].adapter_up.bias
    one, whole = down.size + up.size, sum(p.size for p in adapters[0].parameters())
    steps.add("One adapter, without biases", shaped(W_down=down, W_up=up), one,
              stated="131,072", note="The document has W1 as 1024 x 64, which fits x W1; for its W1 x it is 64 x 1024.")
    steps.add("One adapter, with biases", f"{shaped(b_down=b_down, b_up=b_up)} more", whole)
    total, trained = weights_alone(model), model.get_nb_trainable_parameters()[0]
    steps.add("All adapters, without biases", f"{len(adapters)} x {one:,}", total, stated="~3M")
    steps.add("All adapters, with biases", f"{len(adapters)} x {whole:,}", trained)
    steps.add("Share of such a GPT-2", f"{trained:,} / {size:,}", trained / size, unit="%")
    medium = adapted("gpt2-medium", method)
    steps.add("All adapters in GPT-2 medium", f"{2 * medium.config.num_hidden_layers} x {one:,}, without biases",
              weights_alone(medium), note="The usual models of this width have twice the layers.")
    return f"An adapter has {one:,} weights, and the {len(adapters)} of 12 layers have {total:,}."


@example("bitfit-7b", "BitFit in a 7B model", "a", "5. BitFit, Example",
         "BitFit trains the biases and nothing else. How many are there in a model of 7 billion parameters?", ["a-bitfit-7m"])
def _(steps: Steps) -> str:
    base = base_parameters("llama-2-7b")
    steps.add("A thousandth of a 7B model", f"0.1% of {base:,}", round(base / 1000), stated="7M")
    llama = sum(p.size for path, p in build("llama-2-7b").named_parameters() if path.endswith("bias"))
    steps.add("Biases of Llama-2 7B", "all vectors b (out,) of y = W x + b", llama, stated="7M",
              why="Its linear layers have no biases, and neither have its norms: BitFit has nothing to train, and says so.")
    for name, why in (("opt-6.7b", "It has biases in all layers. But a layer's biases grow with its width, and its weights "
                                   "with the width's square: the wider the model, the smaller their share."),
                      ("qwen2-7b", "It has biases on queries, keys and values only.")):
        found = count_parameters(name, BitFitConfig())
        steps.add(f"Biases of {CATALOG[name].title}", f"{found.trainable:,} / {found.total:,}", found.fraction, stated="~0.1%",
                  why=why)
    small = count_parameters("gpt2", BitFitConfig())
    steps.add("Biases of GPT-2 small", f"{small.trainable:,} / {small.total:,}", small.fraction, stated="~0.1%",
              note="The figure is one of small models, as those of BitFit's paper.")
    opt = count_parameters("opt-6.7b", BitFitConfig())
    return (f"Llama-2 7B has {llama or 'no'} biases. OPT-6.7B has {opt.trainable:,}, {show(opt.fraction, '%')}; "
            f"{show(small.fraction, '%')} is the share in GPT-2 small.")


# ---- applications ---------------------------------------------------------------------------------------------------

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # the linear layers of a Llama's layer


def counts_by_targets(model: str, r: int) -> dict[tuple[str, ...], int]:
    """What LoRA trains, for every choice of target modules."""
    each = {name: count_parameters(model, lora(r, [name])).trainable for name in MODULES}
    choices = itertools.chain.from_iterable(itertools.combinations(MODULES, n) for n in range(1, len(MODULES) + 1))
    return {names: sum(each[name] for name in names) for names in choices}


@example("medical", "Medical questions: LoRA with r=16", "a", "Practical Applications, Example 1",
         "LoRA with r=16 adapts a model of 7 billion parameters to medical questions. How many parameters are trained, and how "
         "much faster is it than full fine-tuning?",
         ["a-ex1-3m-r16", "a-ex1-pct", "a-ex1-time", "a-ex1-acc"])
def _(steps: Steps) -> str:
    base, counts = base_parameters("llama-2-7b"), counts_by_targets("llama-2-7b", 16)
    nearest = min(counts.values(), key=lambda count: abs(count - 3e6))
    narrow = count_parameters("qwen2-7b", lora(16, ["q_proj"])).trainable
    steps.add("The model", "all parameters of Llama-2 7B, by building it", base, stated="7B")
    factors = lora_factors(adapted("llama-2-7b", lora(16, ["q_proj"])))
    A, B = factors[0]
    steps.add("Parameters at r=16", f"{shaped(A=A, B=B)} in each of {len(factors)} layers: of {len(counts)} choices of target "
              "modules the nearest", nearest, stated="3M",
              why=f"That is the fewest that r=16 can train in this model. Queries, keys, values and outputs are "
                  f"{counts['q_proj', 'k_proj', 'v_proj', 'o_proj']:,}, and all linear layers {max(counts.values()):,}. Where "
                  f"matrices are narrower, one kind alone may round to 3M: the queries of Qwen2-7B have {narrow:,}.")
    steps.add("Share of the model", f"{nearest:,} / {base:,}", nearest / base, stated="0.04%", follows=3e6 / 7e9)
    work = 6 * base / (4 * base + 6 * nearest)
    steps.add("Full fine-tuning's work, in LoRA's", f"6 N / (4 N + 6 n), N = {base:,}, n = {nearest:,}", work,
              stated="4 hours vs. 1 week", expects=parse_quantity("42x"), follows=7 * 24 / 4, unit="x",
              why="Each takes 2 N operations a token: the forward pass, the gradients of activations, and those of weights. "
                  "LoRA saves only the last. Whatever made the difference, it was not the number of trained parameters.")
    steps.add("Accuracy, of full fine-tuning's", "a measurement", None, stated="96%",
              why="Neither the data nor the model nor the runs are named.")
    return (f"r=16 trains at least {nearest:,} parameters of Llama-2 7B, {show(nearest / base, '%')}, and saves "
            f"{1 - 1 / work:.0%} of the work at most: full fine-tuning takes {work:.2f} times as much.")


@example("legal", "Contracts: a prefix of 50 tokens", "a", "Practical Applications, Example 2",
         "Prefix tuning with 50 tokens adapts a model, which is not named, to contracts. How many parameters are trained?",
         ["a-ex2-prefix-1.5m"])
def _(steps: Steps) -> str:
    prefix = PrefixTuningConfig(num_virtual_tokens=50)
    decoders = [name for name in CATALOG if name != "t5-xxl"]  # which has an encoder to be prefixed too
    shapes = {name: adapted(name, prefix).prompt_encoder["default"].embedding.weight for name in decoders}
    nearest = min(shapes, key=lambda name: abs(shapes[name].size - 1.5e6))
    steps.add("Layers x width of keys that 1.5M takes", "1.5M / (50 tokens x 2), for keys and values", 1.5e6 / (2 * 50))
    steps.add(f"The nearest of {len(shapes)} models: {CATALOG[nearest].title}", shaped(prefix=shapes[nearest]),
              shapes[nearest].size, stated="1.5M",
              why="None of them gives that number. This one comes near because its query heads share keys and values.")
    for name in ("gpt2", "gpt2-medium", "llama-3-8b", "llama-2-7b"):
        steps.add(CATALOG[name].title, shaped(prefix=shapes[name]), shapes[name].size)
    return (f"50 prefix tokens have {shapes['gpt2'].size:,} parameters in GPT-2 small and {shapes['llama-2-7b'].size:,} in "
            f"Llama-2 7B; nearest to 1.5M comes {CATALOG[nearest].title} with {shapes[nearest].size:,}.")


@example("multilingual", "Languages: adapters and a shared prompt", "a", "Practical Applications, Example 3",
         "Each language has adapters of its own, and all share a soft prompt. Of which sizes are they in a model of 7 billion "
         "parameters, and which share of it is trained?",
         ["a-ex3-adapters-2m", "a-ex3-prompt-20k", "a-ex3-pct", "a-ex3-92"])
def _(steps: Steps) -> str:
    base = base_parameters("llama-2-7b")
    model = adapted("llama-2-7b", BottleneckConfig(style="houlsby", reduction_factor=4096 / 4))
    adapters = [module for module in model.modules() if isinstance(module, Bottleneck)]
    down, up = adapters[0].adapter_down[0].weight, adapters[0].adapter_up.weight
    weights, trained = weights_alone(model), model.get_nb_trainable_parameters()[0]
    steps.add("Adapters of a language", f"{len(adapters)} of {shaped(W_down=down, W_up=up)}", weights, stated="2M",
              note=f"A bottleneck of {down.shape[0]}, the width that comes nearest to 2M. With biases: {trained:,}.")
    P = adapted("llama-2-7b", PromptTuningConfig(num_virtual_tokens=5)).prompt_encoder["default"].embedding.weight
    steps.add("The shared prompt", shaped(P=P), P.size, stated="20K", note=f"That is {P.shape[0]} tokens.")
    steps.add("Share, with one language", f"({weights:,} + {P.size:,}) / {base:,}", (weights + P.size) / base, stated="0.03%")
    steps.add("Each further language", f"{weights:,} / {base:,}", weights / base, unit="%",
              note="The document counts one language.")
    steps.add("Performance, of full fine-tuning's", "a measurement", None, stated="92%",
              why="Neither the data nor the model nor the runs are named.")
    return (f"The numbers fit a 7B model with a bottleneck of {down.shape[0]} and {P.shape[0]} prompt tokens: "
            f"{show((weights + P.size) / base, '%')} for one language, {show(weights / base, '%')} more for each further one.")


# ---- QLoRA ----------------------------------------------------------------------------------------------------------


@example("qlora-70b", "QLoRA of a 70B model on one card of 24 GB", "a", "Recent Innovations, QLoRA, Example",
         "A model of 70 billion parameters is to be fine-tuned with QLoRA, r=16, on one consumer card with 24 GB. Does it fit, "
         "and how many parameters are trained?",
         ["a-qlora-70b-24gb", "a-qlora-20m", "a-qlora-20m-pct"])
def _(steps: Steps) -> str:
    card, base = parse_size("24GB"), base_parameters("llama-2-70b")
    total, codes, constants, kept = stored_parts("llama-2-70b")
    needed = memory("llama-2-70b", lora(16), quantization=NF4, adapter_dtype="bfloat16")
    counts = counts_by_targets("llama-2-70b", 16)
    attention, nearest = counts["q_proj", "k_proj", "v_proj", "o_proj"], min(counts.values(), key=lambda n: abs(n - 20e6))
    steps.add("Codes of 4 bits", f"linear layers of Llama-2 70B, {2 * codes:,} x 4 bits", codes, stated="24GB at most",
              expects=Range(high=card), unit="GB",
              why=f"The codes alone are more than the card holds. 24 GB are the codes of {2 * card / 1e9:.0f} billion weights, "
                  "with nothing beside them.")
    steps.add("With constants and what stays in 16 bits", f"+ {show(constants, 'GB')} + {show(kept, 'GB')}", total, unit="GB")
    model = adapted("llama-2-70b", lora(16))
    factors = lora_factors(model)
    A, B = factors[0]
    tokens = needed.conditions["tokens"]
    steps.add("While training", f"r=16 on q, k, v and o, one row of {tokens:,} tokens, checkpointing, AdamW", needed.total,
              unit="GB", note=holds_for(needed))
    cards = cards_needed(needed, card, model.config.num_hidden_layers)
    steps.add("Cards of 24 GB", "(weights and optimizer) / cards + activations <= 24 GB", cards.sharded, stated="1",
              why=f"It takes {cards.sharded} of them, among which the model is split, or a larger card.")
    steps.add("Trained at r=16 on q, k, v and o", f"{len(factors)} matrices; of queries {shaped(A=A, B=B)}", attention,
              stated="20M",
              why=f"Nearest to 20M comes one projection in each layer, queries or outputs, with {nearest:,}. All linear layers "
                  f"are {max(counts.values()):,}.")
    steps.add("Share of the model", f"{attention:,} / {base:,}", attention / base, stated="0.03%", follows=20e6 / 70e9)
    return (f"Llama-2 70B takes {show(total, 'GB')} in NF4 and {show(needed.total, 'GB')} in training: {cards.sharded} cards "
            f"of 24 GB, not one. r=16 on q, k, v and o trains {attention:,} parameters, {show(attention / base, '%')}.")
