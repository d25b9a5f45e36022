"""`tinypeft tour`: one real fine-tune from beginning to end, in less than a minute on two cores."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tinypeft import AutoModelForCausalLM, AutoTokenizer, LoraConfig, PeftModel, get_peft_model
from tinypeft.backend import few_threads
from tinypeft.commands import program
from tinypeft.models.bundled import resolve_folder
from tinypeft.peft.lora import __file__ as lora_file
from tinypeft.training import TrainingArguments, bits_per_character, encode_rows, surnames, train, us_surnames
from tinypeft.viz.tour import plot_adaptation

BASE = "tinypeft/surnames"
LORA_RATE, FULL_RATE = 1e-2, 2e-3  # LoRA wants a larger step: B starts at zero
WIDTH = 88


@dataclass(frozen=True)
class Tour:
    """What the tour measured; bits per character on test names."""

    polish_before: float
    polish_lora: float
    polish_full: float
    us_before: float
    us_plugged: float
    us_unplugged: float
    difference_at_start: float
    difference_merged: float
    difference_reloaded: float
    seconds: float

    @property
    def closed(self) -> float:
        """The share of what full fine-tuning gains that LoRA gains too."""
        return _closed(self.polish_before, self.polish_lora, self.polish_full)


def _closed(before: float, lora: float, full: float) -> float:
    return (before - lora) / (before - full) if before != full else float("nan")


def run_tour(out: Path, *, steps: int = 300, seed: int = 0) -> Tour:
    """Adapt the bundled base to Polish surnames with LoRA, and beside it by full fine-tuning; print and save what happens."""
    if steps < 1:
        raise ValueError(f"--steps must be at least 1, got {steps}")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out} is a file: name a folder")
    base = AutoModelForCausalLM.from_pretrained(BASE)
    with few_threads(base.parameters()):
        return _tour(base, out, steps, seed)


def _tour(base: Any, out: Path, steps: int, seed: int) -> Tour:
    started = time.perf_counter()
    say = partial(Console(width=WIDTH, highlight=False).print, soft_wrap=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    us, polish = us_surnames(), surnames("polish")
    size = sum(parameter.size for parameter in base.parameters())
    total = len(us.train) + len(us.validation) + len(us.test)

    def bits(model: Any, names: Sequence[str]) -> float:
        return bits_per_character(model, names, tokenizer)

    say(f"[bold]1. A base model[/]  {BASE}: a Llama of {size:,} parameters, trained by this project to spell the\n"
        f"   surnames of the United States, from {len(us.train):,} of the {total:,} in the 1990 Census. It invents:\n")
    say(f"   {_samples(base, tokenizer, seed)}\n")
    us_before, polish_before = bits(base, us.test), bits(base, polish.test)
    say(f"   It needs {us_before:.2f} bits for a character of a US name that it has not seen, and {polish_before:.2f} for\n"
        f"   one of a Polish name. It is to learn Polish, from {len(polish.train):,} names.\n")

    say("[bold]2. LoRA[/]  Freeze the base; beside each linear layer put two thin matrices, W = W0 + (alpha/r) B A:\n")
    full = copy.deepcopy(base)
    weights = {name: array.copy() for name, array in base.state_dict().items()}
    ids = np.array([tokenizer.encode(polish.test[0])])
    before = base(ids).logits.data
    lora = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"), seed=seed)
    trainable, _ = lora.get_nb_trainable_parameters()
    print("   ", end="")
    lora.print_trainable_parameters()
    at_start = float(np.abs(lora(ids).logits.data - before).max())
    say(f"   B starts at zero, so nothing has changed yet. Largest difference of any logit: {at_start}\n")

    say(f"[bold]3. Train[/]  {steps} steps of 32 names: the adapter, then, to compare, all {size:,} weights of a copy.\n")
    rows = encode_rows([{"text": name} for name in polish.train], tokenizer)
    losses, seconds = {}, {}
    for method, model, rate in (("LoRA r=8", lora, LORA_RATE), ("full fine-tuning", full, FULL_RATE)):
        arguments = TrainingArguments(max_steps=steps, per_device_train_batch_size=32, learning_rate=rate, adam_beta2=0.99,
                                      lr_scheduler_type="cosine", warmup_steps=min(50, steps // 4), seed=seed)
        history = train(model, rows, arguments, pad_token_id=tokenizer.pad_token_id)
        losses[method], seconds[method] = history.losses, history.seconds[-1]

    us_plugged, polish_lora, polish_full = bits(lora, us.test), bits(lora, polish.test), bits(full, polish.test)
    with lora.disable_adapter():
        us_unplugged = bits(lora, us.test)
    base_kept = all(np.array_equal(weights[_base_name(name)], parameter.data) for name, parameter in lora.named_parameters()
                    if "lora_" not in name)
    say()
    table = Table("", "base", "LoRA r=8", "full fine-tuning", width=WIDTH - 3)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("trainable parameters", "", f"{trainable:,} ({trainable / (size + trainable):.1%})", f"{size:,} (100%)")
    table.add_row("bits per character, Polish", *(f"{x:.3f}" for x in (polish_before, polish_lora, polish_full)))
    table.add_row("bits per character, US", f"{us_before:.3f}", f"{us_plugged:.3f}", f"{bits(full, us.test):.3f}")
    table.add_row("  ... adapter unplugged", "", f"{us_unplugged:.3f}", "the base is gone")
    table.add_row("seconds of training", "", *(f"{s:.0f}" for s in seconds.values()))
    say(table, soft_wrap=False)
    measured = {"polish_before": polish_before, "polish_lora": polish_lora, "polish_full": polish_full, "us_before": us_before,
                "us_plugged": us_plugged, "us_unplugged": us_unplugged, "difference_at_start": at_start}
    closed = _closed(polish_before, polish_lora, polish_full)
    say(f"\n   LoRA gains {closed:.0%} of what full fine-tuning gains. US names cost {us_plugged - us_before:+.2f} bits\n"
        f"   while the adapter is plugged in, {us_unplugged - us_before:+.2f} when it is not: the base under it is\n   "
        f"{'untouched, bit for bit' if base_kept else 'CHANGED'}.\n")
    say(f"   Now it invents:\n\n   {_samples(lora, tokenizer, seed)}\n")

    say("[bold]4. Save, reload, merge[/]\n")
    adapted = lora(ids).logits.data
    lora.save_pretrained(out)
    file = out / "adapter_model.safetensors"
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), out)
    reloaded = float(np.abs(again(ids).logits.data - adapted).max())
    merged = float(np.abs(again.merge_and_unload()(ids).logits.data - adapted).max())
    plot_adaptation(losses, polish_before, {"LoRA r=8": polish_lora, "full fine-tuning": polish_full}).savefig(
        out / "tour.png", dpi=120)
    say(f"   {file}: {file.stat().st_size / 1000:.0f} kB. It loads in Hugging Face PEFT too,\n"
        f"   on the base in {resolve_folder(BASE)}\n"
        f"   Reloaded, largest difference of any logit: {reloaded}\n"
        f"   Merged into the base weights: {merged:.1e}, the rounding of float32.\n"
        f"   {out / 'tour.png'}: the two training runs, side by side.\n")
    tour = Tour(**measured, difference_merged=merged, difference_reloaded=reloaded, seconds=time.perf_counter() - started)
    say(f"[bold]Next[/]  ({tour.seconds:.0f} seconds so far)\n\n"
        f"   {program('tinypeft')} start\n      copies the lessons; lesson 04 builds this adapter by hand\n"
        f"   {program('tinypeft')} train --help\n      does the same with data of yours\n"
        f"   {lora_file}\n      the method: one short file, to be read beside its paper\n")
    return tour


def _samples(model: Any, tokenizer: Any, seed: int, count: int = 8) -> str:
    """A few names that the model draws."""
    start = np.full((count, 1), tokenizer.bos_token_id)
    ids = model.generate(start, max_new_tokens=20, do_sample=True, temperature=0.8, seed=seed)
    return "  ".join(tokenizer.decode(row.tolist()) for row in ids)


def _base_name(name: str) -> str:
    """The name that a parameter had before the adapter was put in."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
