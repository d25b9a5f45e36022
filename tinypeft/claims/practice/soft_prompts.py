"""Prefix tuning and prompt tuning: how many numbers, what share of a model, and what they cost while the model runs."""

from __future__ import annotations

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.budget import CATALOG, base_parameters, build
from tinypeft.claims.practice.kinds import in_words, kind, numeric, pick, unit_of
from tinypeft.claims.practice.shapes import Shape, all_parameters, draw_llama, once, trained
from tinypeft.claims.questions import Mistake, Numeric, Step
from tinypeft.nn.attention import KeyValueCache
from tinypeft.peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

SECTION = "09_prefix_prompt"
NAMED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b",
         "llama-3-70b", "opt-6.7b", "pythia-6.9b", "qwen2-7b", "smollm2-135m")
PREFIX = "Prefix tuning puts p learned keys and p learned values before those of the text, in every layer."


def _prefix_mistakes(shape: Shape, p: int, total: int) -> list[Mistake]:
    return [
        Mistake("all-heads", total * shape.heads / shape.kv_heads, "That is 2 p d in each layer, which holds where every "
                f"query head has keys of its own. Here {shape.heads} query heads share {shape.kv_heads} key-value heads, and a "
                f"prefix has as many features as the keys: {shape.kv_width:,}."),
        Mistake("keys-only", total / 2, "That counts the keys. There are as many values."),
        Mistake("one-layer", total / shape.layers, f"That is one layer; each of the {shape.layers} has a prefix of its own."),
        Mistake("prompt", p * shape.width, "That is prompt tuning: p vectors of length d before the first layer."),
        Mistake("three", total * 1.5, "That has learned queries too. The queries are the text's own."),
        Mistake("one-head", total / shape.kv_heads, f"That is one head; there are {shape.kv_heads} key-value heads.")]


@kind("prefix-model", "prefix", "parameters of a prefix", 2)
def prefix_model(rng: np.random.Generator) -> Numeric:
    shape, p = draw_llama(rng), 5 * int(rng.integers(1, 21))
    total = trained(shape, PrefixTuningConfig(num_virtual_tokens=p))
    return numeric(
        f"{shape.words()}.\n\n{PREFIX} With p = {p}, how many parameters are trained?", total,
        [Step("features of all keys of a layer", f"{shape.kv_heads} heads x {shape.head_dim}", f"{shape.kv_width:,}"),
         Step("a layer: keys and values", f"2 x {p} x {shape.kv_width:,}", f"{2 * p * shape.kv_width:,}"),
         Step("all layers", f"{shape.layers} x {2 * p * shape.kv_width:,}", f"{total:,}")],
        _prefix_mistakes(shape, p, total), section=SECTION)


@kind("prefix-share", "prefix", "the share of a model that a prefix is", 2)
def prefix_share(rng: np.random.Generator) -> Numeric:
    shape, p = draw_llama(rng), pick(rng, (5, 10, 20, 30, 50, 100))
    total, base = trained(shape, PrefixTuningConfig(num_virtual_tokens=p)), all_parameters(shape)
    return numeric(
        f"{shape.words()}, and {base:,} parameters.\n\n{PREFIX} With p = {p}, how many parameters are trained, in percent of "
        "the model's own?", total / base,
        [Step("a layer: keys and values", f"2 x {p} x {shape.kv_width:,}", f"{2 * p * shape.kv_width:,}"),
         Step("all layers", f"{shape.layers} x {2 * p * shape.kv_width:,}", f"{total:,}"),
         Step("share", f"{total:,} / {base:,}", f"{100 * total / base:.4g} %")],
        [Mistake(mistake.id, mistake.value / base, mistake.feedback) for mistake in _prefix_mistakes(shape, p, total)],
        unit="%", section=SECTION)


@kind("prefix-cache", "kv-cache", "what a prefix takes in the key-value cache", 2)
def prefix_cache(rng: np.random.Generator) -> Numeric:
    shape, p, batch = draw_llama(rng), pick(rng, (10, 20, 50, 100)), int(rng.integers(2, 65))
    numbers = cached_numbers(shape, batch, p)
    answer, values = 2 * numbers, f"{batch} x {p} x {shape.layers} x 2 x {shape.kv_width:,}"
    unit = unit_of(answer)
    return numeric(
        f"{shape.words()}.\n\nA prefix of p = {p} learned keys and values in each layer is used to generate text for {batch} "
        f"requests at once; every request's cache holds the prefix too. How many {in_words(unit)} "
        "of the key-value cache do the prefixes take, in 16 bits a number?", answer,
        [Step("features of a layer's keys", f"{shape.kv_heads} x {shape.head_dim}", f"{shape.kv_width:,}"),
         Step("numbers: requests x p x layers x keys and values x features", values, f"{numbers:,}"),
         Step("bytes", f"2 x {numbers:,}", f"{answer:,}")],
        _cache_mistakes(shape, batch, answer), unit=unit, section=SECTION)


@kind("kv-cache", "kv-cache", "the size of a key-value cache", 2)
def kv_cache(rng: np.random.Generator) -> Numeric:
    shape, tokens, batch = draw_llama(rng), 256 * int(rng.integers(2, 65)), int(rng.integers(1, 17))
    numbers = cached_numbers(shape, batch, tokens)
    answer = 2 * numbers
    unit = unit_of(answer)
    return numeric(
        f"{shape.words()}.\n\nIt generates text for {batch} request{'s' * (batch > 1)} at once, each {tokens:,} tokens long by "
        f"now. How many {in_words(unit)} do the cached keys and values take, in 16 bits a number?", answer,
        [Step("features of a layer's keys", f"{shape.kv_heads} x {shape.head_dim}", f"{shape.kv_width:,}"),
         Step("numbers of one token: layers x keys and values x features", f"{shape.layers} x 2 x {shape.kv_width:,}",
              f"{shape.layers * 2 * shape.kv_width:,}"),
         Step("all tokens", f"{batch} x {tokens:,} x {shape.layers * 2 * shape.kv_width:,}", f"{numbers:,}"),
         Step("bytes", f"2 x {numbers:,}", f"{answer:,}")],
        _cache_mistakes(shape, batch, answer), unit=unit, section=SECTION)


def _cache_mistakes(shape: Shape, batch: int, answer: float) -> list[Mistake]:
    """What goes wrong with the bytes of cached keys and values."""
    return [
        Mistake("all-heads", answer * shape.heads / shape.kv_heads, f"That takes keys as wide as d. {shape.heads} query heads "
                                                                    f"share {shape.kv_heads} key-value heads here."),
        Mistake("keys-only", answer / 2, "That is half: either the values are missing, or a number is taken to be one byte."),
        Mistake("float32", answer * 2, "That takes 4 bytes for a number; 16 bits are 2."),
        Mistake("one-request", answer / batch, f"That is one request; there are {batch}."),
        Mistake("one-layer", answer / shape.layers, f"That is one layer; there are {shape.layers}."),
    ]


def cached_numbers(shape: Shape, batch: int, tokens: int) -> int:
    """How many numbers a key-value cache holds: what one token's keys and values are in a real cache, times rows and tokens."""
    cache, one = KeyValueCache(), Tensor(np.zeros((1, 1, shape.kv_heads, shape.head_dim), np.float16))
    kept = [cache.append(layer, one, one) for layer in range(shape.layers)]
    return batch * tokens * sum(k.data.size + v.data.size for k, v in kept)


@kind("prompt-share", "prompt", "the share of a well-known model that a soft prompt is")
def prompt_share(rng: np.random.Generator) -> Numeric:
    name, p = pick(rng, NAMED), int(rng.integers(5, 255))
    base, d = base_parameters(name), once((name, "width"), lambda: build(name).config.hidden_size)
    layers = once((name, "layers"), lambda: build(name).config.num_hidden_layers)
    ours = p * once((name, "prompt"), lambda: get_peft_model(
        build(name), PromptTuningConfig(num_virtual_tokens=1)).get_nb_trainable_parameters()[0])
    total = base + ours
    return numeric(
        f"{CATALOG[name].title} has hidden size d = {d:,}, {layers} layers and {base:,} parameters. Prompt tuning learns p = "
        f"{p} vectors that stand before the embedded text. What share of all parameters, the prompt's included, is trained? "
        "(In percent.)",
        ours / total,
        [Step("the prompt", f"{p} x {d:,}", f"{ours:,}"), Step("share", f"{ours:,} / ({base:,} + {ours:,})",
                                                               f"{100 * ours / total:.4g} %")],
        [Mistake("every-layer", ours * layers / total, "That has a prompt in each layer. Prompt tuning changes the input of "
                                                       "the first layer only."),
         Mistake("prefix", 2 * ours * layers / total, "That is prefix tuning, keys and values in each layer."),
         Mistake("gpt2-width", p * 768 / total, "That takes d = 768, GPT-2 small's width. The vectors are as long as this "
                                                f"model's embeddings: {d:,}."),
         Mistake("tokens", p / total, "That counts tokens. Each is a vector of d numbers."),
         Mistake("twice", 2 * ours / total, "There is one vector for a virtual token, not two: keys and values are computed "
                                            "from it by the frozen layers.")],
        unit="%", section=SECTION)


@kind("prompt-places", "prompt", "what a soft prompt costs while the model runs")
def prompt_places(rng: np.random.Generator) -> Numeric:
    p, n, context = int(rng.integers(5, 121)), int(rng.integers(40, 801)), 1024 * pick(rng, (1, 2, 4, 8))
    more = once((p, "virtual tokens"), lambda: get_peft_model(
        Shape(64, 1, 1, 1, 64).build(), PromptTuningConfig(num_virtual_tokens=p)).num_virtual_tokens) / n
    return numeric(
        f"A soft prompt of p = {p} virtual tokens stands before a text of {n} tokens, in a model for {context:,} positions. "
        "The work of the linear layers grows with the number of positions. By how many percent does the prompt increase it, "
        "when the text is read?",
        more,
        [Step("positions without and with the prompt", "", f"{n} and {n + p}"), Step("more", f"{p} / {n}", f"{100 * more:.4g} "
                                                                                                           "%")],
        [Mistake("share", p / (n + p), "That is the prompt's share of the work. Asked is by how much the work grows over that "
                                       "of the text alone."),
         Mistake("context", p / context, "That compares with the positions that the model has. The work is that of the "
                                         "positions that are used."),
         Mistake("total", (n + p) / n, "That is all the work, compared with before; the increase is what is above 100%."),
         Mistake("inverse", n / p, "That is upside down.")],
        unit="%", section=SECTION)
