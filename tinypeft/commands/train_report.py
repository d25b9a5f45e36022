"""What `tinypeft train` prints: the plan, evaluations on the way, samples, the table, what to do next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tinypeft.models import smollm2
from tinypeft.models.bundled import resolve_folder
from tinypeft.training import History

SAMPLES, NEW_TOKENS, TEMPERATURE = 3, 60, 0.8
MOST_SHOWN = 300  # characters of a prompt or a sample

# Somebody's [b] or :b: means itself, and long lines are left to the terminal, so that they can be copied.
console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@dataclass
class Sample:
    """What a model makes of a beginning.

    Attributes:
        start: token ids to go on from.
        plain: whether it is the beginning of a plain text, of which several are drawn; after a prompt, the most likely
            completion is taken.
        shown: what is printed, label -> text.
    """

    start: list[int]
    plain: bool
    shown: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, model: Any, tokenizer: Any, seed: int) -> None:
        """Let the model go on, and show that under a label."""
        new = min(NEW_TOKENS, model.config.max_position_embeddings - len(self.start))
        starts, how = [self.start], {}
        if self.plain:
            starts, how = [self.start] * SAMPLES, {"do_sample": True, "temperature": TEMPERATURE, "seed": seed}
        end = tokenizer.eos_token_id
        rows = model.generate(starts, max_new_tokens=new, eos_token_id=end, pad_token_id=end, **how).tolist()
        # The texts whole, of a completion only what is new; ids that fill a vocabulary up to a round size mean nothing.
        texts = [[i for i in row[0 if self.plain else len(self.start):] if i < len(tokenizer)] for row in rows]
        self.shown[label] = "\n".join(tokenizer.batch_decode(texts))


def samples_of(rows: Sequence[tuple[dict[str, str], dict[str, list[int]]]]) -> list[Sample]:
    """The prompts of a few (row, encoded row), to be completed; of plain texts only how they begin."""
    samples = []
    for row, encoded in rows[:SAMPLES]:
        ids, learned = encoded["input_ids"], [label != -100 for label in encoded["labels"]]
        if "text" in row:
            return [Sample(ids[:1], plain=True)]
        start = ids[:max(learned.index(True), 1)]  # an empty prompt may have no tokens
        samples.append(Sample(start, False, {"prompt": row["prompt"], "expected": row["completion"]}))
    return samples


def sample_of(prompt: str, tokenizer: Any, positions: int, plain: bool) -> Sample:
    """A prompt of the user's, begun as the rows that were trained on.

    Raises:
        ValueError: characters that the tokenizer does not know, no tokens, or too many to go on from.
    """
    try:
        start = tokenizer.encode(prompt, add_special_tokens=False)
    except ValueError as error:
        raise ValueError(f"--prompt: {error}") from error
    bos = tokenizer.bos_token_id
    if bos is not None and (plain or tokenizer.encode("")[:1] == [bos]):
        start = [bos, *start]
    if not 0 < len(start) < positions:
        raise ValueError(f"--prompt has {len(start)} tokens; "
                         f"expected 1 to {positions - 1}, as the model has {positions} positions")
    return Sample(start, plain, {"prompt": prompt})


def characters_per_token(rows: Sequence[dict[str, list[int]]], tokenizer: Any) -> float:
    """How many characters a predicted token stands for, the end of a text being one more character."""
    predicted = [[label for label in row["labels"][1:] if label != -100] for row in rows]
    count = sum(len(tokenizer.decode(ids)) + (ids[-1] == tokenizer.eos_token_id) for ids in predicted)
    return max(count, 1) / sum(map(len, predicted))


def bits(loss: float, characters: float) -> float:
    """A loss, in nats per token, as bits per character."""
    return loss / math.log(2) / characters


class Progress:
    """Prints each evaluation above the progress bar; `train` calls it after each step."""

    def __init__(self, characters: float):
        self.characters, self.printed = characters, 0

    def __call__(self, history: History) -> None:
        """Print the last evaluation, unless that was done."""
        from tqdm import tqdm

        if len(history.eval_steps) == self.printed:
            return
        self.printed = len(history.eval_steps)
        step, loss = history.eval_steps[-1], history.eval_losses[-1]
        since = history.eval_steps[-2] if self.printed > 1 else 0
        tqdm.write(f"step {step:>5}: training loss {np.mean(history.losses[since:step]):.3f}, validation loss {loss:.3f} "
                   f"({bits(loss, self.characters):.3f} bits/character)")


def print_samples(samples: Sequence[Sample]) -> None:
    """Labels, and the texts beside them."""
    console.print(f"\nWhat it writes{f', drawn at temperature {TEMPERATURE}' * samples[0].plain}:\n")
    for sample in samples:
        grid = Table.grid(padding=(0, 3, 0, 0))
        for label, text in sample.shown.items():
            grid.add_row(label, printable(text[-MOST_SHOWN:] if label == "prompt" else text[:MOST_SHOWN]))
        console.print(grid, "", soft_wrap=False)


def printable(text: str) -> str:
    """The text without characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def print_result(trained: str, before: float, history: History, characters: float, weights: Path) -> None:
    """The table, and what else is worth knowing of a run."""
    losses, after = history.eval_losses, history.eval_losses[-1]
    table = Table("", "before", "after")
    table.columns[1].justify = table.columns[2].justify = "right"
    table.add_row("validation loss, nats per token", f"{before:.3f}", f"{after:.3f}")
    table.add_row("validation, bits per character", f"{bits(before, characters):.3f}", f"{bits(after, characters):.3f}")
    table.add_row("parameters trained", "", trained)
    table.add_row("seconds of training", "", f"{history.seconds[-1]:.0f}")
    table.add_row(weights.name, "", f"{weights.stat().st_size / 1000:,.0f} kB")
    console.print(table, soft_wrap=False)
    best = int(np.argmin(losses))
    if losses[best] < 0.99 * after:
        console.print(f"The validation loss had been lower, {losses[best]:.3f}, after step {history.eval_steps[best]}: train "
                      "for fewer steps, or at a lower learning rate.")
    console.print(f"Written to {weights.parent}, with the tokenizer and the curves (loss.png).\n")


def print_next_steps(model: str, out: Path, adapter: bool, quantized: bool) -> None:
    """The lines of Python that load the result, here and with Hugging Face."""
    classes = f"import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' * quantized}"
    config = """, quantization_config=BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)""" * quantized
    ours, theirs = f"    from tinypeft {classes}", f"    from transformers {classes}"
    if adapter:
        ours, theirs = f"{ours}, PeftModel", f"{theirs}\n    from peft import PeftModel"
    elsewhere = smollm2.HUB_NAME if model == smollm2.NAME else str(resolve_folder(model))
    for library, imports, base in (("tinypeft", ours, model), ("Hugging Face", theirs, elsewhere)):
        console.print(f"To load it with {library}:\n\n{imports}\n"
                      f"    model = AutoModelForCausalLM.from_pretrained({base if adapter else str(out)!r}{config})")
        if adapter:
            console.print(f"    model = PeftModel.from_pretrained(model, {str(out)!r})")
        console.print(f"    tokenizer = AutoTokenizer.from_pretrained({str(out)!r})\n")
