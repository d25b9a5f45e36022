"""What `tinypeft qlora` found, as tables for a terminal or in Markdown."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from tinypeft.commands.tables import print_table, print_text
from tinypeft.files import write_text

if TYPE_CHECKING:
    from tinypeft.commands.qlora import Result, Score


def save_report(result: Result, path: Path) -> None:
    """Write what `print_report` prints, in Markdown."""
    text = io.StringIO()
    with redirect_stdout(text):
        print_report(result, markdown=True)
    write_text(path, text.getvalue())


def print_report(result: Result, *, markdown: bool) -> None:
    """An example, what the model answers before and after, what training took, and what was measured beside it."""
    settings, base, runs = result.settings, result.base, result.runs
    shown = {"Asked": result.question, "The base answers": next(iter(base.values())).first,
             **{f"Adapted, seed {seed}": run.adapted.first for seed, run in runs.items()}, "Right would be": result.answer}
    for label, text in shown.items():
        print_text(f"{label}:\n\n" + "\n".join(f"    {line}" for line in text.splitlines()[:6]), markdown)
    print_table(["", "form kept", "name right", "parameters right", "all right"],
                [*([f"base, {how}", *_shares(one)] for how, one in base.items()),
                 *([f"adapted, seed {seed}", *_shares(run.adapted)] for seed, run in runs.items())], 0, markdown)
    print_text(f"Of {settings['prompts']} held-out functions. Form kept: the answer is one JSON object with exactly the four "
               "keys and types, and no text around it; only then can anything be right. Parameters: all of them and no others, "
               "be it in the wrong list. All: which of them have a default, and the summary, too. Base: the quantized one. The "
               "adapted model is asked as in training, by a question that does not tell the form.", markdown)
    steps = settings["steps"]
    shown_steps = sorted({1, steps, *(round(steps * part / 6) for part in (1, 2, 4))} - {0})
    rows = {"numbers trained": [f"{run.trained:,}" for run in runs.values()],
            "CPU seconds a step": [f"{run.step_seconds:.1f}" for run in runs.values()],
            "seconds of training": [f"{run.seconds:.0f}" for run in runs.values()],
            **{f"loss of step {step}": [f"{run.losses[step - 1]:.3f}" for run in runs.values()] for step in shown_steps},
            "base restored": ["bit for bit" if run.base_restored else "NO" for run in runs.values()]}
    print_table(["", *(f"seed {seed}" for seed in runs)], [[name, *cells] for name, cells in rows.items()], 0, markdown)
    print_text(f"{steps} steps of {settings['batch_size']} functions out of {settings['functions']}, learning rate "
               f"{settings['learning_rate']:g}, one BLAS thread. Loss: nats per token of the answers of that step's few "
               "functions, before the update. Base restored: with the adapter unplugged, the base's logits.", markdown)
    if result.precisions:
        _print_costs(result, markdown)


def _print_costs(result: Result, markdown: bool) -> None:
    """What rounding costs, and the memory of a step."""
    print_table(["linear layers in", "bits a weight", "relative error", "nats a token", "bits a byte"],
                [[name, f"{one.bits:.3f}", f"{one.error:.2%}", f"{one.nats_per_token:.3f}", f"{one.bits_per_byte:.3f}"]
                 for name, one in result.precisions.items()], 0, markdown)
    print_text("The model's file holds weights that were rounded to 4 bits before (llama.cpp's Q4_1: 5 bits with the scales of "
               "its blocks), so NF4 rounds again what was rounded. The error is relative to the file's weights, not to the "
               "original's. Nats and bits: of texts of Python's own documentation.", markdown)
    if not result.memory:
        print_text("Memory was not measured: that takes Linux's /proc.", markdown)
        return
    print_table(["", "loaded, MiB", "peak, MiB", "predicted, MiB", "CPU s a step"],
                [[name, f"{one.loaded:,.0f}", f"{one.peak:,.0f}", f"{one.predicted:,.0f}", f"{one.step_seconds:.1f}"]
                 for name, one in result.memory.items()], 0, markdown)
    print_text(f"Two steps of AdamW over the same {result.settings['memory_batch']} functions, each way in a process of its "
               "own. Loaded: Python, its libraries' data and the model. Peak: the most that the process had in memory during "
               "the steps, gradients, optimizer and activations included. Mapped files are left out of both. Predicted, by "
               "tinypeft.budget: of a step over as many rows, all as long as the longest and all their tokens in the loss, "
               "without Python's own memory.", markdown)


def _shares(score: Score) -> list[str]:
    return [f"{count / score.answers:.0%}" for count in (score.form, score.name, score.parameters, score.right)]
