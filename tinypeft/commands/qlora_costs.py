"""What `tinypeft qlora` measures beside its task: what rounding to NF4 costs, and what a training step needs in memory.

    relative error  |W_nf4 - W| / |W|  over all quantized weights, in the Frobenius norm
    memory          of a process of its own for each way to train: before two steps, and at most while they are taken

Memory is what belongs to the process alone: mapped files, such as libraries and the model's own file, are left out.
"""

from __future__ import annotations

import ctypes
import gc
import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tinypeft import AutoModelForCausalLM, LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tinypeft.budget import memory
from tinypeft.commands import NF4
from tinypeft.models import smollm2
from tinypeft.training import TrainingArguments, evaluate, train

PRECISIONS = {"float32, as in the file": None, "NF4": replace(NF4, bnb_4bit_use_double_quant=False),
              "NF4, double quantization": NF4}
LORA = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
PROSE_TOKENS, PROSE_EVERY = 128, 3  # the beginning of every third topic: about 3,000 tokens


# ---- rounding to NF4 ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Precision:
    """One way to store the linear layers: bits of a weight, relative error, and how well held-out prose is predicted."""

    bits: float
    error: float
    nats_per_token: float
    bits_per_byte: float


def measure_precisions(tokenizer: Any) -> dict[str, Precision]:
    """The model in float32 and rounded to NF4, on texts of Python's own documentation (pydoc_data.topics)."""
    from pydoc_data.topics import topics

    rows = [tokenizer.encode(topics[name])[:PROSE_TOKENS] for name in sorted(topics)[::PROSE_EVERY]]
    tokens, octets = sum(len(ids) - 1 for ids in rows), sum(len(tokenizer.decode(ids[1:]).encode()) for ids in rows)
    exact = AutoModelForCausalLM.from_pretrained(smollm2.NAME)
    weights, found = dict(exact.named_parameters()), {}
    for name, config in PRECISIONS.items():
        model = AutoModelForCausalLM.from_pretrained(smollm2.NAME, quantization_config=config) if config else exact
        quantized: dict[str, Any] = {key: p for key, p in model.named_parameters() if p.quantized}
        stored = sum(p.quant_state.bits_per_parameter * p.size for p in quantized.values())
        lost = [(_square(p.values() - weights[key].data), _square(weights[key].data)) for key, p in quantized.items()]
        error, norm = map(sum, zip(*lost, strict=True)) if lost else (0.0, 1.0)
        nats = evaluate(model, [{"input_ids": ids, "labels": ids} for ids in rows], pad_token_id=tokenizer.pad_token_id)
        found[name] = Precision(stored / sum(p.size for p in quantized.values()) if quantized else 32.0,
                                math.sqrt(error / norm), nats, nats * tokens / math.log(2) / octets)
    return found


def _square(x: np.ndarray) -> float:
    return float(np.vdot(x, x))


# ---- memory ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Way:
    """A way to train: with LoRA or all weights, on a base in NF4 or float32, keeping activations or computing them again."""

    lora: bool
    quantized: bool
    checkpointing: bool


WAYS = {
    "full fine-tuning, float32": Way(lora=False, quantized=False, checkpointing=False),
    "LoRA, float32 base": Way(lora=True, quantized=False, checkpointing=False),
    "QLoRA": Way(lora=True, quantized=True, checkpointing=False),
    "QLoRA, gradient checkpointing": Way(lora=True, quantized=True, checkpointing=True),
}


@dataclass(frozen=True)
class Memory:
    """MiB of a process with the model in it, and at most during training steps; the CPU seconds of a step; and the MiB that
    tinypeft.budget predicts for a step, Python and its libraries apart."""

    loaded: float
    peak: float
    step_seconds: float
    predicted: float


def measure_memory(rows: Sequence[Any], pad_token_id: int) -> dict[str, Memory]:
    """Two training steps over the same batch in each of the WAYS; nothing where Linux's /proc does not tell.

    The second step is what every later one is like: AdamW's state is there.
    """
    if not Path("/proc/self/clear_refs").exists():
        return {}
    found = {}
    for name, way in WAYS.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # a fresh one: nothing is left over
            measured = process.submit(_measure_way, way, rows, pad_token_id).result()
        found[name] = Memory(*measured, predict(way, len(rows), max(len(row["input_ids"]) for row in rows)))
    return found


def predict(way: Way, batch: int, tokens: int) -> float:
    """MiB that a step needs by our own reckoning, with the loss over all tokens."""
    return memory("smollm2-135m", LORA if way.lora else None, quantization=NF4 if way.quantized else None, batch=batch,
                  tokens=tokens, engine="tinypeft", dtype="float32", checkpointing=way.checkpointing).total / 2**20


def _measure_way(way: Way, rows: Sequence[Any], pad_token_id: int) -> tuple[float, float, float]:
    model: Any = load_base() if way.quantized else AutoModelForCausalLM.from_pretrained(smollm2.NAME)
    if way.lora:
        model = add_lora(model, seed=0, checkpointing=way.checkpointing)
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of glibc
        trim(0)  # what loading left over would hide what a step needs
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: loading is not part of a step
    loaded, files, clock = _status("VmRSS"), _status("RssFile"), [time.process_time()]
    with threadpool_limits(1, user_api="blas"):
        train(model, rows, TrainingArguments(max_steps=2, per_device_train_batch_size=len(rows), disable_tqdm=True),
              pad_token_id=pad_token_id, on_step_end=lambda *_: clock.append(time.process_time()))
    return loaded - files, _status("VmHWM") - files, clock[2] - clock[1]


def _status(key: str) -> float:
    """A line of this process's status, in MiB: VmRSS is what it has in memory now, RssFile of that mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


# ---- the model ------------------------------------------------------------------------------------------------------

def load_base() -> Any:
    """SmolLM2 in NF4 with double quantization."""
    return AutoModelForCausalLM.from_pretrained(smollm2.NAME, quantization_config=NF4)


def add_lora(base: Any, seed: int, checkpointing: bool = False) -> Any:
    """LoRA beside every linear layer of a model, which is frozen."""
    return get_peft_model(prepare_model_for_kbit_training(base, use_gradient_checkpointing=checkpointing), LORA, seed=seed)
