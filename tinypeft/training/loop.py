"""The training loop.

    for each step:  rows -> micro-batches -> forward, backward of each -> clip -> optimizer -> schedule

One step over k micro-batches is one step over their union: each counts by the number of tokens that it predicts, since
the loss of the union is a mean over all its tokens and not a mean of means.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import few_threads
from tinypeft.nn import Module
from tinypeft.training.checkpoints import checkpoint_to_resume, describe_run, load_checkpoint, save_checkpoint
from tinypeft.training.data import Row, batch_rows, check_rows, collate, count_predictions
from tinypeft.training.evaluation import evaluate
from tinypeft.training.optimizers import SGD, AdamW, Optimizer, clip_grad_norm_
from tinypeft.training.schedules import get_scheduler, schedule_factor

# transformers leaves biases and normalization weights out of weight decay, by these patterns in their names; "ln_" is
# GPT-2's name for a norm, which it recognises by class.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|(?:^|\.)ln_")
# What may differ between a run and its resumption, since no update depends on it.
FREE = ["output_dir", "disable_tqdm", "save_steps", "eval_steps", "per_device_eval_batch_size", "num_train_epochs", "max_steps",
        "gradient_checkpointing"]
AT_LEAST = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 1, "seed": 0,
            "save_steps": 1, "eval_steps": 1, "max_steps": -1, "warmup_steps": 0, "num_train_epochs": 0.0, "max_grad_norm": 0.0}


@dataclass
class TrainingArguments:
    """The settings of `train`. Names, meanings and, but for save_steps, defaults are transformers'.

    Attributes:
        output_dir: where checkpoints go; None keeps nothing on disk.
        num_train_epochs: how often every row is seen, where max_steps does not say when to stop.
        max_steps: number of updates; -1 goes by num_train_epochs.
        per_device_train_batch_size: rows in one forward pass.
        gradient_accumulation_steps: forward passes in one update. k passes over n rows are one step over k * n rows.
        per_device_eval_batch_size: rows in one forward pass of evaluation.
        learning_rate: the highest of the schedule.
        lr_scheduler_type: "linear", "cosine", "constant" or "constant_with_warmup".
        warmup_steps: updates over which the learning rate rises from 0.
        gradient_checkpointing: forget activations and compute them again, which takes less memory and more time.
        optim: "adamw" (or "adamw_torch", transformers' name for it) or "sgd".
        weight_decay, adam_beta1, adam_beta2, adam_epsilon: of the optimizer; biases and norms do not decay.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them as they are.
        eval_steps: evaluate after every so many updates; None only at the end.
        save_steps: write a checkpoint after every so many updates; None only at the end.
        seed: of the order of rows and of dropout.
        disable_tqdm: no progress bar.

    Raises:
        ValueError: a value that makes no sense.
    """

    output_dir: str | Path | None = None
    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    per_device_eval_batch_size: int = 8
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    warmup_steps: int = 0
    gradient_checkpointing: bool = False
    optim: str = "adamw"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    eval_steps: int | None = None
    save_steps: int | None = None
    seed: int = 42
    disable_tqdm: bool = False

    def __post_init__(self) -> None:
        for name, least in AT_LEAST.items():
            value, unset = getattr(self, name), name in ("eval_steps", "save_steps") and getattr(self, name) is None
            if not unset and not (isinstance(value, int | type(least)) and least <= value < math.inf):
                raise ValueError(f"{name} is {value!r}; expected {type(least).__name__}, at least {least}")
        if self.save_steps is not None and self.output_dir is None:
            raise ValueError(f"save_steps is {self.save_steps}, but output_dir does not say where to save")
        schedule_factor(self.lr_scheduler_type, 0, self.warmup_steps, 0)  # both raise for what they cannot do
        self.create_optimizer([("weight", Tensor([0.0]))])

    def create_optimizer(self, named_parameters: Iterable[tuple[str, Tensor]]) -> Optimizer:
        """The optimizer that these arguments describe, in which biases and norms do not decay."""
        groups: list[dict[str, Any]] = [{"params": [], "weight_decay": decay} for decay in (self.weight_decay, 0.0)]
        for name, p in named_parameters:
            groups[bool(_NO_DECAY.search(name))]["params"].append(p)
        if self.optim == "sgd":
            return SGD(groups, self.learning_rate)
        if self.optim not in ("adamw", "adamw_torch"):
            raise ValueError(f'optim is {self.optim!r}; expected "adamw" or "sgd"')
        return AdamW(groups, self.learning_rate, (self.adam_beta1, self.adam_beta2), self.adam_epsilon)


@dataclass
class History:
    """What happened at each step.

    Attributes:
        steps: 1, 2, ...: how many updates had been made.
        losses: mean loss of the step's rows before the update, in nats per predicted token.
        learning_rates: of the first parameter group.
        grad_norms: 2-norm of all gradients before clipping.
        seconds: since the start of training, time before an interruption included.
        eval_steps, eval_losses: after how many updates the evaluation rows were looked at, and their mean loss.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    eval_steps: list[int] = field(default_factory=list)
    eval_losses: list[float] = field(default_factory=list)

    def plot(self, title: str = "") -> Any:
        """The curves of loss and learning rate, a matplotlib Figure."""
        from tinypeft.viz import plot_history

        return plot_history(self, title)


class DivergenceError(RuntimeError):
    """A loss or gradient is nan or infinite. Training stopped before the update that it would have led to.

    Attributes:
        step: the update that was to be made, counted from 1.
        causes: likely ones, by what was observed.
        history: the steps until then.
    """

    def __init__(self, what: str, step: int, causes: list[str], history: History):
        super().__init__(f"step {step}: {what}; training stopped before this update. Likely: {'; or '.join(causes)}")
        self.step, self.causes, self.history = step, causes, history


StepCallback = Callable[[int, History], None]


def train(model: Module, train_rows: Sequence[Row], args: TrainingArguments, *, pad_token_id: int,
          eval_rows: Sequence[Row] | None = None, optimizer: Optimizer | None = None,
          resume_from_checkpoint: bool | str | Path | None = None, on_step_end: StepCallback | None = None) -> History:
    """Train, in place, the parameters of a language model that are not frozen.

    Runs with dropout, seeded by `args.seed`, and leaves the model in the mode that it was in. A resumed run ends in the
    same bits as one that was never interrupted.

    Args:
        model: called as `model(input_ids=, attention_mask=, labels=)`, returns an object with `.loss`.
        train_rows: {"input_ids", "labels"} dicts, as from `encode_rows`.
        args: how long, how fast, where to.
        pad_token_id: fills short rows; which one it is changes nothing.
        eval_rows: looked at after every `args.eval_steps` updates, and at the end.
        optimizer: replaces the one that `args` describe; the schedule scales the learning rate of each of its groups.
        resume_from_checkpoint: a checkpoint folder, or True for the latest in `args.output_dir`.
        on_step_end: called with the number of updates and the history after each, while gradients are still there.

    Raises:
        DivergenceError: a loss or gradient is not finite.
        ValueError: nothing to train (no rows, all frozen, no values), bad rows, or a checkpoint of another run.
        FileNotFoundError: no checkpoint to resume from.
        FileExistsError: a new run into a folder that has checkpoints.
    """
    from tqdm import tqdm  # here, so that `import tinypeft` stays quick

    check_rows(train_rows, model, "train_rows")
    check_rows(train_rows if eval_rows is None else eval_rows, model, "eval_rows")
    if optimizer is None:
        optimizer = args.create_optimizer((name, p) for name, p in model.named_parameters() if p.requires_grad)
    batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    epoch = math.ceil(len(train_rows) / batch_size)
    max_steps = math.ceil(args.num_train_epochs * epoch) if args.max_steps == -1 else args.max_steps
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, args.warmup_steps, max_steps)
    checkpoint = checkpoint_to_resume(args.output_dir, resume_from_checkpoint)
    run: dict[str, Any] = {}
    if args.output_dir is not None or checkpoint is not None:
        settings = {name: value for name, value in asdict(args).items() if name not in FREE}
        if not args.lr_scheduler_type.startswith("constant"):
            settings["max_steps"] = max_steps  # the whole schedule depends on its end
        run = describe_run(model, train_rows, optimizer, settings)

    history = History()
    bar = tqdm(total=max_steps, disable=args.disable_tqdm, unit="step")
    # A number that is not finite is this loop's to report, in words, rather than NumPy's to warn about.
    with model.mode_restored(), few_threads(model.parameters()), bar, np.errstate(all="ignore"):
        model.train(seed=args.seed)
        if checkpoint is not None:
            history = History(**load_checkpoint(checkpoint, model, optimizer, run))
        done = len(history.steps)
        scheduler.go_to(done)
        bar.initial = bar.n = done
        started = time.perf_counter() - sum(history.seconds[-1:])
        for step in range(done + 1, max_steps + 1):
            optimizer.zero_grad()
            rows = batch_rows(train_rows, batch_size, step - 1, args.seed)
            loss = _forward_backward(model, rows, args.per_device_train_batch_size, pad_token_id, step, history)
            norm = clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
            _require_finite(norm, "the norm of the gradients", model, step, history)
            optimizer.step()
            model.after_update(step)

            history.steps.append(step)
            history.losses.append(loss)
            history.learning_rates.append(scheduler.get_last_lr()[0])
            history.grad_norms.append(norm)
            history.seconds.append(time.perf_counter() - started)
            scheduler.step()
            if eval_rows is not None and _due(step, args.eval_steps, max_steps):
                size = args.per_device_eval_batch_size
                history.eval_losses.append(evaluate(model, eval_rows, pad_token_id=pad_token_id, batch_size=size))
                history.eval_steps.append(step)
                _require_finite(history.eval_losses[-1], "the evaluation loss", model, step + 1, history)
            if args.output_dir is not None and _due(step, args.save_steps, max_steps):
                save_checkpoint(args.output_dir, step, model, optimizer, run, asdict(history))
            if on_step_end is not None:
                on_step_end(step, history)
            bar.set_postfix(loss=f"{np.mean(history.losses[-20:]):.4f}", lr=f"{history.learning_rates[-1]:.2e}", refresh=False)
            bar.update()
    return history


def _due(step: int, every: int | None, last: int) -> bool:
    return step == last or (every is not None and step % every == 0)


def _forward_backward(model: Module, rows: Sequence[Row], size: int, pad_token_id: int, step: int, history: History) -> float:
    """Leave the gradient of the mean loss over `rows`, taken `size` at a time, in the parameters; return that loss."""
    batches = [collate(rows[i:i + size], pad_token_id) for i in range(0, len(rows), size)]
    counts = [count_predictions(batch["labels"]) for batch in batches]
    total = 0.0 if any(counts) else math.nan
    for batch, count in zip(batches, counts, strict=True):
        if count:  # the mean over no tokens is nan, and has no part in the whole
            loss = model(**batch).loss * (count / sum(counts))
            total += loss.item()
            _require_finite(total, "the loss", model, step, history)
            loss.backward()
    _require_finite(total, "the loss", model, step, history, "all labels of the step are -100: leave such rows out")
    return total


def _require_finite(value: float, what: str, model: Module, step: int, history: History, *causes: str) -> None:
    """Unless `value` is finite, look at the model and the losses for what may be wrong, and raise DivergenceError."""
    if math.isfinite(value):
        return
    rate = f"the learning rate, {history.learning_rates[-1]:.2g} at the last update, is too high" if history.steps else ""
    broken = [(name, p.requires_grad) for name, p in model.named_parameters()
              if not all(np.isfinite(array).all() for array in p.stored(name).values())]
    if broken:
        blame = rate if rate and broken[0][1] else "corrupt weights"
        causes += (f"{blame}: {broken[0][0]} holds nan or inf",)
    elif rate and not causes:
        causes += (f"{rate}: the losses were {history.losses[-4:]}",)
    if any(p.dtype == np.float16 for p in model.parameters()):
        causes += ('float16 overflows above 65504: load the model with dtype="float32"',)
    model.zero_grad()
    causes = causes or ("weights so large that the activations overflow: is this the right checkpoint?",)
    raise DivergenceError(f"{what} is {value}", step, [*causes], history)
