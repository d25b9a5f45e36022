"""Training: optimizers, schedules, data and tasks, the loop.

    rows = encode_rows([{"text": name} for name in surnames("polish").train], tokenizer)
    history = train(model, rows, TrainingArguments(max_steps=300), pad_token_id=tokenizer.pad_token_id)
    history.plot()
"""

from tinypeft.files import read_rows
from tinypeft.training.data import batch_rows, collate, encode_rows, train_validation_split
from tinypeft.training.evaluation import bits_per_character, evaluate
from tinypeft.training.loop import DivergenceError, History, TrainingArguments, train
from tinypeft.training.optimizers import SGD, AdamW, Optimizer, clip_grad_norm_
from tinypeft.training.schedules import Scheduler, get_scheduler, schedule_factor
from tinypeft.training.tasks import COUNTRIES, Split, fold, surnames, us_surnames

__all__ = ["COUNTRIES", "SGD", "AdamW", "DivergenceError", "History", "Optimizer", "Scheduler", "Split",
           "TrainingArguments", "batch_rows", "bits_per_character", "clip_grad_norm_", "collate", "encode_rows",
           "evaluate", "fold", "get_scheduler", "read_rows", "schedule_factor", "surnames", "train",
           "train_validation_split", "us_surnames"]
