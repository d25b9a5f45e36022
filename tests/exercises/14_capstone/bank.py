"""Adapters for the capstone: honest ones, of three methods, and those of bank.toml, made from one that was hardly trained.

    honest(name, folder)            the zip of one of HONEST: a minute or more
    by_heart(folder)                of one that was trained on the names that it is judged by
    make(name, adapter, folder)     of one of bank.toml
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft import AutoModelForCausalLM, BottleneckConfig, LlamaConfig, LoraConfig, PeftConfig, get_peft_model
from tinypeft.files import read_json, read_safetensors, write_json, write_safetensors
from tinypeft.training import TrainingArguments

HERE = Path(__file__).parent
SCRIPT = HERE.parents[2] / "exercises" / "14_capstone" / "capstone.py"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]
SMALL = LoraConfig(r=1, lora_alpha=2, target_modules="all-linear")


def script(path: Path = SCRIPT) -> Any:
    """The learner's script, or another of its kind, as a module."""
    spec = importlib.util.spec_from_file_location(f"capstone_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(rate: float, steps: int) -> TrainingArguments:
    return TrainingArguments(max_steps=steps, per_device_train_batch_size=32, learning_rate=rate, lr_scheduler_type="cosine",
                             warmup_steps=min(50, steps // 4), adam_beta2=0.99, seed=0, disable_tqdm=True)


def trained(folder: Path, names: list[str], rate: float, steps: int, config: PeftConfig = SMALL) -> Path:
    """The folder of an adapter that was trained on these names."""
    model, _ = script().adapt(config, names, arguments(rate, steps))
    model.save_pretrained(folder)
    return folder


def packed(folder: Path, file: Path, *more: tuple[str, bytes]) -> Path:
    """The zip of an adapter's folder."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (CONFIG, WEIGHTS):
            archive.writestr(name, (folder / name).read_bytes())
        for name, content in more:
            archive.writestr(name, content)
    return file


# ---- what takes a minute to train -----------------------------------------------------------------------------------

# Method -> its config, learning rate and number of steps, and of how many US names it sees one. LoRA's are in reference.py.
HONEST: dict[str, tuple[PeftConfig, float, int, int]] = {
    "bottleneck": (BottleneckConfig(style="pfeiffer", reduction_factor=8), 2e-2, 1200, 55),
    "DoRA": (LoraConfig(r=1, lora_alpha=2, target_modules=FEED_FORWARD, use_dora=True), 1e-2, 1000, 44),
}


def honest(name: str, folder: Path) -> Path:
    """The zip of an adapter that gets all points."""
    solution = script(HERE / "reference.py")
    if name == "LoRA":
        solution.FILE = folder / "adapter.zip"
        solution.main()
        return folder / "adapter.zip"
    config, rate, steps, every = HONEST[name]
    names = solution.POLISH.train + solution.US.train[::every]
    return packed(trained(folder, names, rate, steps, config), folder / "adapter.zip")


def by_heart(folder: Path) -> Path:
    """Trained on the names of the validation split, again and again, and on many US ones."""
    solution = script()
    names = 6 * solution.POLISH.validation + solution.US.train[::44]
    return packed(trained(folder, names, 1e-2, 600), folder / "adapter.zip")


# ---- changes of an adapter's folder ---------------------------------------------------------------------------------

def says(folder: Path, **values: Any) -> None:
    """Change the config."""
    write_json(folder / CONFIG, read_json(folder / CONFIG) | values)


def holds(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Change the tensors."""
    write_safetensors(folder / WEIGHTS, change(read_safetensors(folder / WEIGHTS)))


def saved(folder: Path, config: PeftConfig, base: Any = None) -> None:
    """Another adapter, as it is before any training."""
    get_peft_model(base or AutoModelForCausalLM.from_pretrained("tinypeft/surnames"), config).save_pretrained(folder)


def padded(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rank 8, of which seven are zero."""
    return {name: np.pad(array, [(0, 7), (0, 0)] if "lora_A" in name else [(0, 0), (0, 7)]) for name, array in tensors.items()}


def one_number(value: float) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = next(iter(tensors))
        tensors[first][0, 0] = value
        return tensors

    return change


def over_budget(folder: Path) -> None:
    holds(folder, padded)
    says(folder, r=8, lora_alpha=16)


def other_shapes(folder: Path) -> None:
    base = AutoModelForCausalLM.from_config(LlamaConfig(
        vocab_size=55, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32))
    saved(folder, SMALL, base)
    says(folder, base_model_name_or_path="my-own/llama")


MAKERS: dict[str, Callable[[Path], None]] = {
    "untrained": lambda folder: saved(folder, SMALL),
    "forgets": lambda folder: None,
    "over_budget": over_budget,
    "whole_head": lambda folder: saved(folder, LoraConfig(r=1, target_modules="all-linear", modules_to_save=["lm_head"])),
    "not_finite": lambda folder: holds(folder, one_number(np.nan)),
    "overflows": lambda folder: says(folder, lora_alpha=1e300),
    "too_large": lambda folder: holds(folder, lambda tensors: tensors | {"zeros": np.zeros(1_300_000, np.float32)}),
    "other_shapes": other_shapes,
    "other_weights": lambda folder: says(folder, base_model_name_or_path="my-own/surnames"),
    "whole_numbers": lambda folder: holds(folder, lambda tensors: {name: x.astype(np.int8) for name, x in tensors.items()}),
    "of_the_base": lambda folder: holds(folder, lambda tensors: tensors | {
        "base_model.model.model.embed_tokens.weight": np.zeros((55, 96), np.float32)}),
    "unknown_method": lambda folder: says(folder, peft_type="XLORA", auto_mapping={"base_model_class": "os.system"}),
    "three_files": lambda folder: None,
    "no_config": lambda folder: write_json(folder / CONFIG, ["r", 1]) or None,
}


def make(name: str, adapter: Path, folder: Path) -> Path:
    """The zip of one of bank.toml.

    Args:
        adapter: the folder of a trained one; it is left as it is.
        folder: an empty one, for what is made.
    """
    for file in (CONFIG, WEIGHTS):
        (folder / file).write_bytes((adapter / file).read_bytes())
    MAKERS[name](folder)
    more = [("README.md", b"# My adapter")] if name == "three_files" else []
    return packed(folder, folder / "adapter.zip", *more)
