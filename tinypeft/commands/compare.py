"""`tinypeft compare`: every method on one real task, measured in the same way; and the task's intrinsic dimension.

    for each method:  five learning rates, seed 0 -> the best on validation names -> the other seeds at that rate -> costs

What is compared is in compare_methods.py; what is printed, in compare_report.py.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tinypeft
from tinypeft import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PeftModel, get_peft_model
from tinypeft.backend import few_threads
from tinypeft.commands.compare_methods import ADAM_BETA2, FULL, UNTOUCHED, Method, choose, subspace
from tinypeft.commands.compare_report import ENOUGH, Result, print_comparison, print_dimensions, share_of_gain
from tinypeft.files import read_json, write_json
from tinypeft.training import (
    COUNTRIES,
    DivergenceError,
    TrainingArguments,
    bits_per_character,
    encode_rows,
    surnames,
    train,
    us_surnames,
)

BASE = "tinypeft/surnames"
BATCH_SIZE, MOST_WARMUP = 32, 50
NEW_TOKENS, REPEATS = 20, 15  # what takes milliseconds is done so often, and the median taken
DIMENSIONS = tuple(2**i for i in range(4, 14))  # 16 to 8192, as far as it takes
FORMATS = ("table", "markdown", "json")
# Task -> the country whose surnames the base of US surnames is adapted to; the code is that of Faker's locale.
TASKS = {f"surnames-{locales[0][-2:].lower()}": country for country, (locales, _) in COUNTRIES.items()}


@dataclass(frozen=True)
class Task:
    """Names to train on, names to choose a learning rate by, names to measure with, and names of the base's own kind."""

    train: Sequence[str]
    validation: Sequence[str]
    target: Sequence[str]
    base: Sequence[str]


@dataclass(frozen=True)
class Run:
    """A trained model, None if it diverged, and how long each of its steps took."""

    model: Any
    seconds: list[float]


@dataclass(frozen=True)
class Plan:
    """What all methods have in common: the task, how many updates a run has, and how many seeds are run."""

    task: Task
    steps: int
    seeds: int
    tokenizer: Any

    def bits(self, model: Any, names: Sequence[str]) -> float | None:
        """Bits per character; None if there is no model, or one that is broken."""
        bits = math.nan if model is None else bits_per_character(model, names, self.tokenizer)
        return bits if math.isfinite(bits) else None


def run_compare(*, task: str, methods: str | None, steps: int, seeds: int, out: Path | None, output_format: str,
                intrinsic: bool) -> None:
    """Do what the command's help says.

    Raises:
        ValueError, OSError, ImportError: bad input, or a file of another comparison; nothing was measured.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are: {', '.join(TASKS)}")
    if output_format not in FORMATS:
        raise ValueError(f"unknown format {output_format!r}; there are: {', '.join(FORMATS)}")
    for name, value in (("--steps", steps), ("--seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if intrinsic and methods is not None:
        raise ValueError("--intrinsic compares subspaces with full fine-tuning: leave --methods out")
    chosen = dimensions() if intrinsic else choose(methods)
    settings = {"tinypeft": tinypeft.__version__, "compares": "dimensions" if intrinsic else "methods", "task": task,
                "steps": steps, "seeds": seeds}
    target = surnames(TASKS[task])
    plan = Plan(Task(target.train, target.validation, target.test, us_surnames().test), steps, seeds,
                AutoTokenizer.from_pretrained(BASE))
    measuring = measure_all(chosen, plan, Records(out, settings, chosen))
    results = dict(until_enough(measuring) if intrinsic else measuring)
    if output_format == "json":
        print(json.dumps(document(settings, results), indent=2))
    elif intrinsic:
        print_dimensions(results, settings, markdown=output_format == "markdown")
    else:
        print_comparison(results, settings, markdown=output_format == "markdown")


def dimensions() -> dict[str, Method]:
    """What d90 is found with: the two ends of the scale, then subspaces, each twice as large as the one before."""
    return {**choose(f"{UNTOUCHED},{FULL}"), **{f"subspace {d}": subspace(d) for d in DIMENSIONS}}


def until_enough(results: Iterable[tuple[str, Result]]) -> Iterator[tuple[str, Result]]:
    """Results of `dimensions`, up to the first subspace that gains enough."""
    seen: dict[str, Result] = {}
    for name, result in results:
        seen[name] = result
        yield name, result
        if name not in (UNTOUCHED, FULL) and share_of_gain(seen, name) >= ENOUGH:
            return


# ---- what was measured before ---------------------------------------------------------------------------------------


class Records:
    """The results there are, and the file, if any, that holds them: written anew, whole, after each method.

    Args:
        path: the file. One that exists is gone on with.
        settings: what the results depend on.
        methods: those that are to be measured.

    Raises:
        ValueError: the file is not one of this command, or its results were made with other settings or learning rates.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], methods: dict[str, Method]):
        self.path, self.settings = path, settings
        self.results: dict[str, Result] = {}
        if path is None:
            return
        if path.is_dir():
            raise IsADirectoryError(f"--out {path} is a folder: name a file")
        if path.exists():
            self._read(path, methods)
        else:
            self._write()  # a place that cannot be written to is found out now

    def add(self, name: str, result: Result) -> None:
        """Keep a method's result."""
        self.results[name] = result
        self._write()

    def _read(self, path: Path, methods: dict[str, Method]) -> None:
        content = read_json(path)
        if not isinstance(content, dict) or not {"settings", "results"} <= content.keys():
            raise ValueError(f"--out {path} was not written by this command: name another file")
        theirs = content["settings"]
        if different := [f"{key} {theirs.get(key)!r}, not {value!r}" for key, value in self.settings.items()
                         if theirs.get(key) != value]:
            raise ValueError(f"--out {path} holds results of other settings ({'; '.join(different)}): name another file")
        self.results = {name: Result(**values) for name, values in content["results"].items()}
        if different := [name for name, method in methods.items()
                         if name in self.results and self.results[name].rates != list(method.rates)]:
            raise ValueError(f"--out {path} holds results of other learning rates ({', '.join(different)}): name another file")

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, document(self.settings, self.results))


def document(settings: dict[str, Any], results: dict[str, Result]) -> dict[str, Any]:
    """What the file holds, and what --format json prints."""
    return {"settings": settings, "results": {name: asdict(result) for name, result in results.items()}}


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure_all(methods: dict[str, Method], plan: Plan, records: Records) -> Iterator[tuple[str, Result]]:
    """Each method's result, measured unless it is in the records."""
    from tqdm import tqdm

    new = [method for name, method in methods.items() if name not in records.results]
    runs = sum(len(method.rates) + plan.seeds - 1 for method in new if method.rates)
    with tqdm(total=runs, unit="run", disable=None) as bar:
        for name, method in methods.items():
            if name not in records.results:
                bar.set_description(name)
                records.add(name, measure(method, plan, bar.update))
            yield name, records.results[name]


def measure(method: Method, plan: Plan, on_run_end: Callable[[], Any] = lambda: None) -> Result:
    """Choose the method's learning rate, run all seeds with it, and measure what they learned and what that costs.

    Args:
        on_run_end: called after each training run.
    """
    base = AutoModelForCausalLM.from_pretrained(BASE)
    with few_threads(base.parameters()), np.errstate(all="ignore"):  # what is not finite is reported as diverged
        if not method.rates:
            return Result([], target=[plan.bits(base, plan.task.target)], unplugged=[plan.bits(base, plan.task.base)],
                          token_seconds=token_seconds(base, plan.tokenizer))
        result, tried = Result(list(method.rates)), []
        for rate in method.rates:
            tried.append(fit(method, rate, 0, plan))
            result.validation.append(plan.bits(tried[-1].model, plan.task.validation))
            on_run_end()
        finite = {bits: i for i, bits in enumerate(result.validation) if bits is not None}
        if not finite:
            return result
        best = finite[min(finite)]
        result.rate, runs = method.rates[best], [tried[best]]
        for seed in range(1, plan.seeds):
            runs.append(fit(method, result.rate, seed, plan))
            on_run_end()
        for run in runs:
            add_bits(result, run.model, plan)
        result.step_seconds = statistics.median(itertools.chain(*(run.seconds for run in runs)))
        add_costs(result, runs[0].model, method, plan)
    return result


def fit(method: Method, rate: float, seed: int, plan: Plan) -> Run:
    """Train one model from the start. Equal seeds give equal models."""
    model: Any = (AutoModelForCausalLM.from_pretrained(BASE) if method.pretrained else
                  AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE), seed=seed))
    if method.config is not None:
        model = get_peft_model(model, method.config(plan.steps, seed), seed=seed)
    rows = encode_rows([{"text": name} for name in plan.task.train], plan.tokenizer)
    arguments = TrainingArguments(
        max_steps=plan.steps, per_device_train_batch_size=BATCH_SIZE, learning_rate=rate, adam_beta2=ADAM_BETA2,
        lr_scheduler_type="cosine", warmup_steps=min(MOST_WARMUP, plan.steps // 4), seed=seed, disable_tqdm=True)
    optimizer = None if method.optimizer is None else method.optimizer(model, rate)
    try:
        history = train(model, rows, arguments, pad_token_id=plan.tokenizer.pad_token_id, optimizer=optimizer)
    except DivergenceError:
        return Run(None, [])
    return Run(model, np.diff(history.seconds, prepend=0.0).tolist())


def add_bits(result: Result, model: Any, plan: Plan) -> None:
    """What one seed's model needs for a character: of the target, and of the base's names with the adapter and without."""
    result.target.append(plan.bits(model, plan.task.target))
    result.plugged.append(plan.bits(model, plan.task.base))
    if isinstance(model, PeftModel):
        with model.disable_adapter():
            result.unplugged.append(plan.bits(model, plan.task.base))


def add_costs(result: Result, model: Any, method: Method, plan: Plan) -> None:
    """What it takes to train, keep and use the model; an adapter gets another of its kind beside it."""
    result.trainable = sum(parameter.size for parameter in model.parameters() if parameter.requires_grad)
    result.token_seconds = token_seconds(model, plan.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        result.file_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        if method.config is None:
            result.swap_seconds = median_seconds(lambda: AutoModelForCausalLM.from_pretrained(folder))
            return
    result.mergeable = add_merging(result, model)
    model.add_adapter("other", method.config(plan.steps, 1), seed=1)
    names = itertools.cycle(["other", "default"])
    result.swap_seconds = median_seconds(lambda: model.set_adapter(next(names)))


def add_merging(result: Result, model: PeftModel) -> bool:
    """Merge and unmerge an adapter, if it can be; return whether it can."""
    merging, unmerging = [], []
    for _ in range(REPEATS):
        try:
            merging.append(seconds_of(model.merge_adapter))
        except ValueError:
            return False
        unmerging.append(seconds_of(model.unmerge_adapter))
    result.merge_seconds, result.unmerge_seconds = statistics.median(merging), statistics.median(unmerging)
    return True


def token_seconds(model: Any, tokenizer: Any) -> float:
    """What one token of a generated text takes, with cached keys and values: the median text, divided by its tokens."""

    def write() -> None:
        model.generate([[tokenizer.bos_token_id]], max_new_tokens=NEW_TOKENS, eos_token_id=-1)

    return median_seconds(write) / NEW_TOKENS


def median_seconds(action: Callable[[], Any]) -> float:
    """What an action takes, mostly."""
    return statistics.median(seconds_of(action) for _ in range(REPEATS))


def seconds_of(action: Callable[[], Any]) -> float:
    """What an action takes, once."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
