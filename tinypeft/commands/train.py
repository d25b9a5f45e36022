"""`tinypeft train`: adapt a model to a file of texts of your own, and save what Hugging Face PEFT loads too.

What can be refused is refused before the first step. While a run goes on, its folder holds checkpoints only; the result,
the tokenizer and the plot follow once it has ended well. What is printed is in train_report.py.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from tinypeft.commands import NF4
from tinypeft.commands.train_report import (
    Progress,
    Sample,
    characters_per_token,
    console,
    print_next_steps,
    print_result,
    print_samples,
    sample_of,
    samples_of,
)
from tinypeft.files import replace_file
from tinypeft.nn.module import near, some
from tinypeft.training import (
    DivergenceError,
    History,
    TrainingArguments,
    encode_rows,
    evaluate,
    read_rows,
    train,
    train_validation_split,
)
from tinypeft.training.checkpoints import checkpoint_to_resume


@dataclass(frozen=True)
class Options:
    """What was asked for; the command's help explains each. None stands for a default that depends on the others."""

    model: str
    data: Path
    out: Path
    method: str
    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: str
    num_train_epochs: float
    max_steps: int | None
    learning_rate: float | None
    batch_size: int
    gradient_accumulation_steps: int
    lr_scheduler_type: str
    warmup_steps: int | None
    weight_decay: float
    max_grad_norm: float
    dtype: str
    seed: int
    validation_fraction: float
    max_length: int | None
    truncate: bool
    eval_steps: int | None
    save_steps: int | None
    resume: bool
    prompt: str | None


@dataclass(frozen=True)
class Method:
    """A way to adapt a model.

    Attributes:
        config: the adapter that the options describe; None where the model's own weights are trained.
        learning_rate: the default for a model of width 2000; narrower ones take more.
        quantization: how the base is stored; None for in floating point.
    """

    config: Callable[[Options], PeftConfig] | None
    learning_rate: float
    quantization: BitsAndBytesConfig | None = None


def _lora(o: Options) -> PeftConfig:
    return LoraConfig(r=o.r, lora_alpha=o.lora_alpha, lora_dropout=o.lora_dropout, task_type=TaskType.CAUSAL_LM,
                      target_modules=parse_targets(o.target_modules))


METHODS = {"lora": Method(_lora, 5e-4), "qlora": Method(_lora, 5e-4, NF4), "full": Method(None, 5e-5)}


@dataclass(frozen=True)
class Job:
    """All that a run needs, checked."""

    model: Any
    tokenizer: Any
    train_rows: list[dict[str, list[int]]]
    eval_rows: list[dict[str, list[int]]]
    samples: list[Sample]
    args: TrainingArguments
    checkpoint: Path | None
    pad_token_id: int


def run_train(**options: Any) -> None:
    """Do what the command's help says.

    Raises:
        ValueError, OSError, ImportError: bad input, before any work; nothing was written.
        RuntimeError: nan or infinity on the way; checkpoints stay, and nothing else was written.
    """
    o = Options(**options)
    job = _prepare(o)
    model, tokenizer, out = job.model, job.tokenizer, o.out
    trained, total = (sum(p.size for p in model.parameters() if p.requires_grad or every) for every in (False, True))
    share = f"{trained:,} ({trained / total:.2%})"
    console.print(f"{o.method}: {share} of {total:,} parameters are trained.\n"
                  f"{len(job.train_rows):,} rows of {o.data} to learn from, {len(job.eval_rows):,} set aside for validation.\n"
                  f"{job.args.max_steps:,} steps of {o.batch_size * o.gradient_accumulation_steps} rows, learning rate "
                  f"{job.args.learning_rate:.2g} ({o.lr_scheduler_type}, {job.args.warmup_steps} steps of warm-up)."
                  + (f"\nGoing on from {job.checkpoint}." if job.checkpoint else ""))

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite, `train` reports in words
        before = evaluate(model, job.eval_rows, pad_token_id=job.pad_token_id, batch_size=o.batch_size)
        for sample in job.samples if math.isfinite(before) else ():
            sample.add("before", model, tokenizer, o.seed)
    characters = characters_per_token(job.eval_rows, tokenizer)
    history = _train(job, out, Progress(characters))

    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    with replace_file(out / "loss.png") as picture:
        history.plot(f"{o.method}, {o.data.name}").savefig(picture, format="png", dpi=120)
    for sample in job.samples:
        sample.add("after", model, tokenizer, o.seed)
    print_samples(job.samples)
    adapter = isinstance(model, PeftModel)
    print_result(share, before, history, characters, out / ("adapter_model.safetensors" if adapter else "model.safetensors"))
    print_next_steps(o.model, out, adapter, METHODS[o.method].quantization is not None)


def _prepare(o: Options) -> Job:
    """Read and check everything; raise what `run_train` says."""
    if o.method not in METHODS:
        hint = near(o.method.lower(), METHODS)
        start = f"did you mean {hint[0]!r}? There" if hint else "there"
        raise ValueError(f"unknown method {o.method!r}; {start} are: {', '.join(METHODS)}")
    if o.seed < 0:
        raise ValueError(f"seed is {o.seed}; expected at least 0")
    if not o.resume:
        _require_unused(o.out)
    checkpoint = checkpoint_to_resume(o.out, resume=o.resume)
    method = METHODS[o.method]
    adapter = method.config(o) if method.config else None
    rows = read_rows(o.data)
    tokenizer, config = AutoTokenizer.from_pretrained(o.model), AutoConfig.from_pretrained(o.model)
    positions = config.max_position_embeddings
    if o.max_length is not None and not 2 <= o.max_length <= positions:
        raise ValueError(f"max_length is {o.max_length}; expected 2 to {positions}, the model's positions")
    encoded = encode_rows(rows, tokenizer, o.max_length or positions, truncation=o.truncate)
    pairs, aside = train_validation_split(list(zip(rows, encoded, strict=True)), o.validation_fraction, o.seed)
    samples = samples_of(aside) if o.prompt is None else [sample_of(o.prompt, tokenizer, positions, "text" in rows[0])]
    args = _arguments(o, method, config, len(pairs))
    model: Any = AutoModelForCausalLM.from_pretrained(o.model, dtype=o.dtype, quantization_config=method.quantization)
    if method.quantization is not None:
        model = prepare_model_for_kbit_training(model)
    if adapter is not None:
        model = get_peft_model(model, adapter, seed=o.seed)
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    return Job(model, tokenizer, [row for _, row in pairs], [row for _, row in aside], samples, args, checkpoint, pad)


def _train(job: Job, out: Path, progress: Progress) -> History:
    """Train, with evaluations printed and the last two checkpoints kept."""

    def on_step_end(step: int, history: History) -> None:
        progress(history)
        for old in _checkpoints(out)[:-2]:
            shutil.rmtree(old)

    try:
        return train(job.model, job.train_rows, job.args, pad_token_id=job.pad_token_id, eval_rows=job.eval_rows,
                     resume_from_checkpoint=job.checkpoint, on_step_end=on_step_end)
    except DivergenceError as error:
        raise RuntimeError(f"{error} (No result was written. A run with other settings needs another --out.)") from error
    except KeyboardInterrupt:
        kept = _checkpoints(out)
        console.print("\nInterrupted.", f"The same command with --resume goes on from {kept[-1]}." if kept else
                      "There was no checkpoint yet, so nothing is kept.")
        raise


def _require_unused(out: Path) -> None:
    """Raise where `out` cannot be written to, or holds something already."""
    nearest = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OSError(f"cannot write to --out {out}: {nearest} is {'read-only' if nearest.is_dir() else 'a file'}")
    if nearest == out and (names := sorted(path.name for path in out.iterdir())):
        raise FileExistsError(f"--out {out} is not empty (it holds {some(names, 3)}): name another folder, or go on with the "
                              "run in it with --resume")


def _checkpoints(out: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    numbers = [path.name.removeprefix("checkpoint-") for path in out.glob("checkpoint-*")]
    return [out / f"checkpoint-{number}" for number in sorted(filter(str.isdecimal, numbers), key=int)]


def parse_targets(text: str) -> str | list[str]:
    """Names separated by commas; or else "all-linear" or a regular expression, as they are."""
    if text != "all-linear" and near(text, ["all-linear"]):
        raise ValueError(f'target_modules {text!r} are unknown; did you mean "all-linear"?')
    names = [name.strip() for name in text.split(",") if name.strip()]
    if text != "all-linear" and all(re.fullmatch(r"[\w.]+", name) for name in names):
        return names
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"target_modules {text!r} are neither names separated by commas nor a regular expression: "
                         f"{error}") from error
    return text


def _arguments(o: Options, method: Method, config: Any, rows: int) -> TrainingArguments:
    """The options in the words of `train`, with defaults filled in.

    The learning rate's is that of Schulman et al. 2025, "LoRA Without Regret": it falls with the model's width as the best
    rates for Llama models do, and LoRA takes ten times that of full fine-tuning.
    """
    width = config.n_embd if config.model_type == "gpt2" else config.hidden_size
    rate = method.learning_rate * (2000 / width) ** 0.781 if o.learning_rate is None else o.learning_rate
    args = TrainingArguments(
        output_dir=o.out, num_train_epochs=o.num_train_epochs, max_steps=-1 if o.max_steps is None else o.max_steps,
        per_device_train_batch_size=o.batch_size, gradient_accumulation_steps=o.gradient_accumulation_steps,
        per_device_eval_batch_size=o.batch_size, learning_rate=rate, lr_scheduler_type=o.lr_scheduler_type,
        warmup_steps=o.warmup_steps or 0, weight_decay=o.weight_decay, max_grad_norm=o.max_grad_norm,
        eval_steps=o.eval_steps, save_steps=o.save_steps, seed=o.seed, disable_tqdm=not sys.stderr.isatty())
    epoch = math.ceil(rows / (o.batch_size * o.gradient_accumulation_steps))
    steps = args.max_steps if args.max_steps != -1 else o.num_train_epochs * epoch
    if not 0 < steps < math.inf:
        raise ValueError(f"max_steps={o.max_steps} and num_train_epochs={o.num_train_epochs} make {steps} steps; expected at "
                         "least 1")
    steps = math.ceil(steps)
    warmup = 0 if o.lr_scheduler_type == "constant" or steps == 1 else math.ceil(steps / 20)
    warmup = warmup if o.warmup_steps is None else o.warmup_steps
    if warmup >= steps:
        raise ValueError(f"warmup_steps={warmup} of {steps} steps: the learning rate would never be reached")
    often = math.ceil(steps / 5)
    return replace(args, max_steps=steps, warmup_steps=warmup, eval_steps=o.eval_steps or often,
                   save_steps=o.save_steps or often)
