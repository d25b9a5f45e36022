"""Checkpoints from which an interrupted run goes on as if nothing had happened.

    output_dir/checkpoint-200/
        training.safetensors    trainable parameters, and what the method and the optimizer remember of them
        trainer_state.json      history, dropout's random states, and what the run was
        checksums.json          SHA-256 of both

What is frozen is not saved, only its fingerprint: a checkpoint of an adapter is as small as the adapter, and is refused
on another base. Nor is the place in the data: the rows of a step follow from its number.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.backend import to_numpy
from tinypeft.files import new_folder, read_json, read_safetensors, write_json, write_safetensors
from tinypeft.nn import Module
from tinypeft.training.optimizers import Optimizer

TENSORS_NAME, STATE_NAME = "training.safetensors", "trainer_state.json"


def describe_run(model: Module, rows: Sequence[Any], optimizer: Optimizer, settings: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to go on exactly: settings and, as SHA-256, data and frozen weights."""
    configs = [c.to_dict() | {"base_model_name_or_path": ""} for c in getattr(model, "peft_config", {}).values()]
    data = hashlib.sha256(str([(list(row["input_ids"]), list(row["labels"])) for row in rows]).encode())
    weights = hashlib.sha256(f"{getattr(model, 'config', None)} {configs}".encode())
    for name, p in model.named_parameters():
        weights.update(f"{name} {p.dtype} {p.shape} {p.requires_grad}".encode())
        if not p.requires_grad:
            for array in p.stored(name).values():
                weights.update(np.ascontiguousarray(to_numpy(array)).data)
    groups = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
    return {**settings, "optimizer": str(groups), "training rows": data.hexdigest(), "model": weights.hexdigest()}


def save_checkpoint(output_dir: str | Path, step: int, model: Module, optimizer: Optimizer, run: dict[str, Any],
                    history: dict[str, Any]) -> None:
    """Write output_dir/checkpoint-`step`, whole or not at all."""
    tensors = {key: to_numpy(x) for key, x in model.training_state().items()}
    tensors |= {f"optimizer.{key}": x for key, x in optimizer.state_dict().items()}
    with new_folder(Path(output_dir) / f"checkpoint-{step}") as folder:
        write_safetensors(folder / TENSORS_NAME, tensors)
        write_json(folder / STATE_NAME, {"run": run, "history": history, "dropout": model.dropout_state()})
        write_json(folder / "checksums.json", _checksums(folder))


def load_checkpoint(folder: Path, model: Module, optimizer: Optimizer, run: dict[str, Any]) -> dict[str, Any]:
    """Put a checkpoint into the model and the optimizer; return the history up to it.

    Raises:
        FileNotFoundError: there is no such checkpoint, or a file of it is missing.
        ValueError: it is damaged, or of a run with other settings, data or frozen weights. Nothing was changed.
    """
    if read_json(folder / "checksums.json") != _checksums(folder):
        raise ValueError(f"the checkpoint {folder} is damaged: its files have other checksums; use an earlier one")
    content = read_json(folder / STATE_NAME)
    if different := [key for key in run if content["run"].get(key) != run[key]]:
        raise ValueError(f"{folder} is of another run and cannot be gone on with exactly: other {', '.join(different)}")
    tensors = read_safetensors(folder / TENSORS_NAME)
    model.set_dropout_state(content["dropout"])
    optimizer.load_state_dict({key[10:]: x for key, x in tensors.items() if key.startswith("optimizer.")})
    model.load_training_state(tensors)
    return dict(content["history"])


def checkpoint_to_resume(output_dir: str | Path | None, resume: bool | str | Path | None) -> Path | None:
    """The checkpoint that a run starts from: none, the latest (True), or a given folder.

    Raises:
        FileNotFoundError: the latest is asked for, and there is none.
        FileExistsError: a new run into a folder with checkpoints, which a later resume would mistake for its own.
    """
    found = Path(output_dir).glob("checkpoint-*") if output_dir is not None else ()
    latest = max((p for p in found if p.name[11:].isdecimal()), key=lambda p: int(p.name[11:]), default=None)
    if resume is True and latest is None:
        raise FileNotFoundError(f"there is no checkpoint to resume from in output_dir={output_dir}")
    if not resume and latest is not None:
        raise FileExistsError(f"{latest} is of an earlier run: pass resume_from_checkpoint=True, or another output_dir")
    return Path(resume) if isinstance(resume, str | Path) else latest


def _checksums(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (TENSORS_NAME, STATE_NAME)}
