"""What a method is and is not: mixed in a batch, merged, unchanged at the start; and what was measured of all on one task.

The first three are tried on a small model, not looked up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from tinypeft.budget.methods import NF4
from tinypeft.budget.serving import why_unmixable
from tinypeft.claims.practice.kinds import capital, choice, kind, pick, slug, some
from tinypeft.claims.practice.recorded import BASE_KEPT, COMPARED, Measured
from tinypeft.claims.practice.shapes import ATTENTION, VOCABULARIES, all_parameters, base_bytes, draw_llama, trained
from tinypeft.claims.questions import Choice, Matching, Option, Step
from tinypeft.claims.small_models import logits, small_gpt2
from tinypeft.peft import (
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from tinypeft.peft.lora import rank_and_scaling

METHODS: dict[str, Callable[[], PeftConfig]] = {
    "LoRA": lambda: LoraConfig(r=2), "DoRA": lambda: LoraConfig(r=2, use_dora=True), "VeRA": lambda: VeraConfig(r=4),
    "(IA)3": lambda: IA3Config(), "PiSSA": lambda: LoraConfig(r=2, init_lora_weights="pissa"), "BitFit": lambda: BitFitConfig(),
    "norm tuning": lambda: LNTuningConfig(), "Houlsby adapters": lambda: BottleneckConfig(reduction_factor=8),
    "Pfeiffer adapters": lambda: BottleneckConfig(style="pfeiffer", reduction_factor=8),
    "parallel adapters": lambda: BottleneckConfig(style="parallel", reduction_factor=8),
    "prefix tuning": lambda: PrefixTuningConfig(num_virtual_tokens=3),
    "prompt tuning": lambda: PromptTuningConfig(num_virtual_tokens=3)}


@functools.cache
def adapted(method: str) -> PeftModel:
    """A small GPT-2 with the method's adapter, as it starts."""
    return get_peft_model(small_gpt2(), METHODS[method]())


@functools.cache
def mixes(method: str) -> str:
    """Why a batch cannot have rows for this adapter and rows for none; "" if it can."""
    return why_unmixable(adapted(method))


@functools.cache
def merges(method: str) -> str:
    """Why this adapter cannot be merged; "" if it can."""
    model = adapted(method)
    try:
        model.merge_adapter()
    except ValueError as error:
        return str(error)
    model.unmerge_adapter()
    return ""


@functools.cache
def first_change(method: str) -> float:
    """By how much the logits of the last token differ from the base's before any training, as a share of their size."""
    model = adapted(method)
    with model.disable_adapter():
        base = logits(model)[:, -1]
    return float(np.linalg.norm(logits(model)[:, -1] - base) / np.linalg.norm(base))


def _odd_one(rng: np.random.Generator, yes: list[str], no: list[str]) -> list[str]:
    """Three of one kind and then one of the other."""
    return [*some(rng, yes, 3), *some(rng, no, 1)]


@kind("mixed-batch", "tasks", "adapters that rows of one batch can have")
def mixed_batch(rng: np.random.Generator) -> Choice:
    can = [method for method in METHODS if not mixes(method)]
    names = _odd_one(rng, can, [method for method in METHODS if method not in can])
    rows = int(rng.integers(4, 65))
    reasons = {"prefix tuning": "its rows would be longer than the others: keys and values before the text.",
               "prompt tuning": "its rows would be longer than the others: virtual tokens before the text.",
               "BitFit": "it changes the biases themselves, which all rows share.",
               "PiSSA": "it has taken its start out of the base's weights, and all rows share what is left."}
    options = [Option(capital(name), "Tried on a small model, it works: it computes beside the base's layers, "
                      f"for its own rows ({name}).", f"{slug(name)}-mixes") for name in names[:3]]
    last = names[3]
    options.append(Option(capital(last), "Tried on a small model, it is refused: "
                                                      f"{reasons.get(last, mixes(last))}"))
    return choice(f"A batch of {rows} rows holds requests for several tasks, and each row is to go through its own task's "
                  "adapter, or through none (adapter_names in the call). With one of these methods that is not possible. "
                  "Which?", options, rng,
                  section="12_many_tasks")


@kind("mergeable", "merging", "what can be folded into the weights")
def mergeable(rng: np.random.Generator) -> Choice:
    can = [method for method in METHODS if not merges(method)]
    names = _odd_one(rng, can, [method for method in METHODS if method not in can])
    last = names[3]
    why = ("Its activation stands between two matrices, and no single matrix computes that." if "adapters" in last else
           "It adds positions, not a change of weights: its keys and values depend on nothing that the weights see.")
    options = [Option(capital(name), "Tried on a small model, it merges: what it does to a layer is a change of "
                      f"that layer's own parameters ({name}).", f"{slug(name)}-merges")
               for name in names[:3]]
    options.append(Option(capital(last), f"Tried on a small model, it is refused. {why}"))
    return choice("A deployment serves one task, and nothing is to be added to a forward pass. Which of these methods cannot "
                  "be merged into the base's weights?", options, rng, section="04_lora/merge",
                  steps=[Step(f"{capital(name)}, tried on a small model", "", "merged" if name != last else "refused")
                         for name in names])


@kind("first-output", "planning", "which methods start at the base model")
def first_output(rng: np.random.Generator) -> Choice:
    same = [method for method in METHODS if first_change(method) < 1e-9]
    names = _odd_one(rng, same, [method for method in METHODS if first_change(method) > 1e-2])
    last = names[3]
    options = [Option(capital(name), "Tried on a small model, its first output is the base's: what it adds starts "
                      f"at zero, what it multiplies by at one, or it starts as a copy ({name}).",
                      f"{slug(name)}-starts-at-base")
               for name in names[:3]]
    options.append(Option(capital(last), "Tried on a small model, the last token's logits differ by "
                          f"{first_change(last):.0%} of their size: even untrained, what stands before the text is attended "
                          "to."))
    return choice("Before the first training step, with which of these methods does the model already compute something else "
                  "than the base?", options, rng, section="04_lora/zero-start",
                  steps=[Step(f"{capital(name)}: change of the last token's logits, by their size", "",
                              f"{first_change(name):.0%}") for name in names])


# ---- what was measured ----------------------------------------------------------------------------------------------

MEASURED = ("`tinypeft compare` has adapted a small language model from US to Polish surnames with every method (200 steps "
            "each, learning rates chosen for each, three seeds)")


def _said(row: Measured) -> str:
    return (f"{row.trained:,} trained parameters; {row.target[0]:.3f} bits per character on Polish names, {row.kept[0]:.3f} on "
            "US names")


@kind("forgetting", "planning", "what was learned, and what forgotten, as measured", 2)
def forgetting(rng: np.random.Generator) -> Choice:
    """The best one is ahead of the others by more than seeds differ."""
    learned = bool(rng.integers(2))

    def of(row: Measured) -> tuple[float, float, float]:
        return row.target if learned else row.kept

    while True:
        rows = sorted(some(rng, COMPARED, 4), key=lambda row: of(row)[0])
        if of(rows[0])[2] < of(rows[1])[1]:
            break
    best = rows[0]
    rest = "" if best.method == "full fine-tuning" else " The adapter can be unplugged, and the base is back."
    asked = ("has learned most of the Polish names (fewest bits per character there)" if learned else
             f"has forgotten least of the US names (the base itself has {BASE_KEPT:.3f} bits per character on them)")
    options = [Option(capital(row.method), f"Measured: {_said(row)}." + (rest if row is best else
                      f" {capital(best.method)}: {of(best)[0]:.3f}."),
                      "" if row is best else f"not-{slug(row.method)}") for row in rows]
    return choice(f"{MEASURED}. Which of these {asked}?", options, rng,
                  steps=[Step(row.method, "", _said(row)) for row in rows], section="12_many_tasks")


@kind("table", "planning", "a method from a table, within limits", 2)
def table(rng: np.random.Generator) -> Choice:
    """Of what keeps to the limits, the best is ahead by more than seeds differ, and something better does not keep to them."""
    adapters = [row for row in COMPARED if row.method != "full fine-tuning"]
    while True:
        rows, tasks = some(rng, adapters, 5), int(rng.integers(2, 300))
        limit, merge = pick(rng, (5, 10, 20, 30, 60, 100, 160, 240)), bool(rng.integers(2))
        left = sorted((row for row in rows if row.kilobytes <= limit and (row.merges or not merge)),
                      key=lambda row: row.target[0])
        best = min(rows, key=lambda row: row.target[0])
        if len(left) >= 2 and left[0].target[2] < left[1].target[1] and best is not left[0]:
            break
    right, total = left[0], limit * tasks
    width = max(len(row.method) for row in rows)
    lines = [f"{row.method:<{width}}  {row.target[0]:.3f} bits  {row.kilobytes:>4} kB" + ("  merges" if row.merges else "")
             for row in rows]
    shown = "\n".join(f"    {line}" for line in lines)

    def why(row: Measured) -> tuple[str, str]:
        if row is right:
            return "It has the fewest bits of those that keep to the limits.", ""
        if row.kilobytes * tasks > total:
            return f"{capital(row.method)}: {tasks} x {row.kilobytes} kB are {row.kilobytes * tasks:,} kB.", "storage"
        if merge and not row.merges:
            return f"{capital(row.method)}: it cannot be merged.", "not-mergeable"
        return (f"{capital(row.method)}: it would do, but {right.method} would do better: {right.target[0]:.3f} bits.",
                "learns-less")

    options = [Option(capital(row.method), why(row)[0], why(row)[1]) for row in rows]
    return choice(
        f"{MEASURED}. Bits per character on new names (fewer are better), and the size of a saved adapter:\n\n{shown}\n\nThere "
        f"will be {tasks} such tasks, for whose adapters there are {total:,} kB"
        + (", and a merged model for each must be possible" if merge else "")
        + ". Which method learns most within these limits?", options, rng, section="13_planning",
        steps=[Step("room for each task", f"{total:,} kB / {tasks}", f"{limit} kB"),
               Step("what keeps to the limits", "", ", ".join(f"{row.method} ({row.target[0]:.3f})" for row in left))])


# ---- relatives of LoRA ----------------------------------------------------------------------------------------------

@kind("lora-variants", "lora", "LoRA, QLoRA, LoRA+, rsLoRA, DoRA: which is which", 2)
def lora_variants(rng: np.random.Generator) -> Matching:
    shape, r = draw_llama(rng, VOCABULARIES), pick(rng, (4, 8, 16))
    alpha, ratio, targets = r * pick(rng, (1, 2, 4)), pick(rng, (4, 8, 16)), list(ATTENTION)
    plain = LoraConfig(r=r, lora_alpha=alpha, target_modules=targets)
    n, extra = trained(shape, plain), trained(shape, LoraConfig(r=r, use_dora=True, target_modules=targets))
    s, root = (rank_and_scaling(LoraConfig(r=r, lora_alpha=alpha, use_rslora=use), "")[1] for use in (False, True))
    base, four = (f"{size / 1e9:.3g} GB" for size in (base_bytes(shape), base_bytes(shape, NF4)))

    def run(weights: str = base, count: int = n, scale: float = s, rates: str = "one learning rate") -> str:
        return f"base weights {weights}; {count:,} trained; B A x times {scale:.3g}; {rates}"

    runs = {"LoRA": run(), "QLoRA": run(weights=four), "LoRA+": run(rates=f"B learns {ratio} times as fast as A"),
            "rsLoRA": run(scale=root), "DoRA": run(count=extra)}
    differs = {"LoRA": "every variant differs from it in one thing",
               "QLoRA": "its base is stored in NF4, and it trains as many parameters as LoRA",
               "LoRA+": "it gives B a higher learning rate, and changes nothing else", "rsLoRA": "its scale is alpha / sqrt(r)",
               "DoRA": "it trains a magnitude for each output besides A and B"}
    names = some(rng, list(runs), 4)
    shown = some(rng, list(runs), 5)
    letter = dict(zip(shown, "ABCDE", strict=True))
    return Matching(
        kind="", topic="", lines=tuple(names), reasons=tuple(runs[name] for name in shown),
        right="".join(letter[name] for name in names), called="run",
        remarks=tuple(f"that is {name}: {differs[name]}." for name in shown), ids=tuple(f"is-{slug(name)}" for name in shown),
        prompt=f"A Llama of {all_parameters(shape):,} parameters is adapted five times, on q_proj, k_proj, v_proj and o_proj, "
               f"with r = {r} and alpha = {alpha}. Which run is which? One is left over.", section="07_qlora",
        steps=tuple(Step(name, "", differs[name]) for name in names))
