"""`tinypeft qlora`: QLoRA (Dettmers et al. 2023, 2305.14314) of a real language model, on one core of a CPU.

    SmolLM2-135M-Instruct in NF4, frozen  +  LoRA beside every linear layer  ->  answers in a form that the base never gives

The task is in qlora_task.py, what is measured beside it in qlora_costs.py, what is printed in qlora_report.py.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import tinypeft
from tinypeft import AutoTokenizer
from tinypeft.autograd import no_grad
from tinypeft.commands.qlora_costs import Memory, Precision, add_lora, load_base, measure_memory, measure_precisions
from tinypeft.commands.qlora_report import print_report, save_report
from tinypeft.commands.qlora_task import EXAMPLES, Function, functions, parameters, parse
from tinypeft.files import replace_file, write_json
from tinypeft.models import smollm2
from tinypeft.training import TrainingArguments, encode_rows, train

BATCH_SIZE, WARMUP = 4, 3
ANSWER_BATCH = 50  # prompts answered together: a weight is dequantized once for all of them
MEMORY_BATCH = 8


@dataclass(frozen=True)
class Score:
    """How many of the answers have the form, and what is right in these.

    Attributes:
        name: how many name the module and the function as asked.
        parameters: how many list all parameters and no others, be it in the wrong list.
        right: how many are right in everything: which parameters have a default, and the summary, too.
        first: the first answer, to be shown.
    """

    answers: int
    form: int
    name: int
    parameters: int
    right: int
    first: str


@dataclass(frozen=True)
class Run:
    """One seed's training: each step's loss in nats per token of the answers, CPU seconds of a step, seconds of all."""

    losses: list[float]
    step_seconds: float
    seconds: float
    trained: int
    base_restored: bool
    adapted: Score


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    settings: dict[str, Any]
    question: str
    answer: str
    base: dict[str, Score]
    runs: dict[int, Run]
    precisions: dict[str, Precision]
    memory: dict[str, Memory]


def run_qlora(out: Path, *, seeds: int = 2, steps: int = 30, learning_rate: float = 2e-3, prompts: int = 100,
              costs: bool = True) -> Result:
    """Do what the command's help says.

    Raises:
        ValueError, OSError, ImportError: bad input, or the model or a library is not installed; nothing was written.
        RuntimeError: training diverged.
    """
    train_functions, held_out = functions()
    for name, value, most in (("--seeds", seeds, None), ("--steps", steps, None), ("--prompts", prompts, len(held_out))):
        if value < 1 or (most is not None and value > most):
            raise ValueError(f"{name} must be at least 1{f' and at most {most}' if most else ''}, got {value}")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out} is a file: name a folder")
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2.NAME, padding_side="left")
    asked = held_out[:prompts]
    settings = {"tinypeft": tinypeft.__version__, "model": smollm2.NAME, "functions": len(train_functions), "prompts": prompts,
                "steps": steps, "batch_size": BATCH_SIZE, "learning_rate": learning_rate, "memory_batch": MEMORY_BATCH}
    rows = encode_rows([{"prompt": chat(f, tokenizer), "completion": json.dumps(f.card)} for f in train_functions], tokenizer)
    with threadpool_limits(1, user_api="blas"):  # sums are rounded in one order: equal seeds give equal results
        base = load_base()
        print(f"The untouched base answers {prompts} held-out prompts, asked in three ways ...", flush=True)
        before = {"as in training": score(base, asked, tokenizer),
                  "form spelled out": score(base, asked, tokenizer, spelled_out=True),
                  f"form spelled out, {len(EXAMPLES)} examples": score(base, asked, tokenizer, spelled_out=True, examples=True)}
        del base
        runs = {}
        for seed in range(seeds):
            print(f"Seed {seed}: {steps} steps of {BATCH_SIZE} functions, then the same prompts ...", flush=True)
            arguments = TrainingArguments(max_steps=steps, per_device_train_batch_size=BATCH_SIZE, learning_rate=learning_rate,
                                          lr_scheduler_type="cosine", warmup_steps=min(WARMUP, steps - 1), seed=seed)
            runs[seed] = run_seed(rows, asked, tokenizer, arguments, out / f"seed-{seed}")
        precisions = measure_precisions(tokenizer) if costs else {}
    memory = measure_memory(rows[:MEMORY_BATCH], tokenizer.pad_token_id) if costs else {}
    result = Result(settings, asked[0].question(), json.dumps(asked[0].card), before, runs, precisions, memory)
    write_json(out / "result.json", asdict(result))
    save_report(result, out / "report.md")
    print_report(result, markdown=False)
    print(f"Written to {out}: result.json, report.md, and of each seed the adapter and its loss.png.")
    return result


def run_seed(rows: Sequence[Any], asked: Sequence[Function], tokenizer: Any, arguments: TrainingArguments, out: Path) -> Run:
    """Train an adapter, save it with its loss curve, ask it, and take it off again."""
    base = load_base()
    probe = tokenizer([chat(function, tokenizer) for function in asked[:4]], padding=True, return_tensors="np")
    with no_grad():
        before = base(**probe).logits.data
    model, clock = add_lora(base, arguments.seed), [time.process_time()]
    history = train(model, rows, arguments, pad_token_id=tokenizer.pad_token_id,
                    on_step_end=lambda *_: clock.append(time.process_time()))
    with no_grad(), model.disable_adapter():
        restored = np.array_equal(model(**probe).logits.data, before)
    model.save_pretrained(out)
    with replace_file(out / "loss.png") as picture:
        history.plot(f"QLoRA of {smollm2.HUB_NAME}, seed {arguments.seed}").savefig(picture, format="png", dpi=120)
    return Run(history.losses, statistics.median(np.diff(clock).tolist()), history.seconds[-1],
               model.get_nb_trainable_parameters()[0], bool(restored), score(model, asked, tokenizer))


def score(model: Any, asked: Sequence[Function], tokenizer: Any, *, spelled_out: bool = False, examples: bool = False) -> Score:
    """Let a model answer, always with its most likely token, and check the answers."""
    prompts = [chat(function, tokenizer, spelled_out=spelled_out, examples=examples) for function in asked]
    most = 2 + max(len(tokenizer.encode(json.dumps(function.card))) for function in asked)  # room for the end, and one more
    answers: list[str] = []
    for start in range(0, len(prompts), ANSWER_BATCH):
        batch = tokenizer(prompts[start:start + ANSWER_BATCH], padding=True, return_tensors="np")
        ids = model.generate(**batch, max_new_tokens=most, eos_token_id=tokenizer.eos_token_id)
        answers += tokenizer.batch_decode(ids[:, batch.input_ids.shape[1]:])
    pairs = [(card, function.card) for answer, function in zip(answers, asked, strict=True) if (card := parse(answer))]
    return Score(len(answers), len(pairs), name=sum(card["name"] == right["name"] for card, right in pairs),
                 parameters=sum(parameters(card) == parameters(right) for card, right in pairs),
                 right=sum(card == right for card, right in pairs), first=answers[0])


def chat(function: Function, tokenizer: Any, *, spelled_out: bool = False, examples: bool = False) -> str:
    """A question in the model's chat template, up to where the answer begins.

    Args:
        spelled_out: whether the first message says what form answers are to have.
        examples: whether other questions, with their answers, come first.
    """
    asked, messages = [*(EXAMPLES if examples else ()), function], []
    for i, one in enumerate(asked):
        messages += [{"role": "user", "content": one.question(spelled_out=spelled_out and i == 0)},
                     {"role": "assistant", "content": json.dumps(one.card)}]
    text: str = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    return text
