"""What an adapter that was handed in consists of, and how well it spells names: runs in a process of its own (see capstone.py).

Two files come in, as bytes, and lists of names; plain numbers and text go out. What is wrong with the files is under "refused".
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.files import read_safetensors
from tinypeft.models import AutoModelForCausalLM, AutoTokenizer
from tinypeft.peft import PeftModel
from tinypeft.peft.config import CONFIG_NAME, METHODS
from tinypeft.peft.storage import WEIGHTS_NAME
from tinypeft.training.evaluation import bits_per_character

MOST_TOLD = 200  # characters of a text that was handed in


def describe(config: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """What the files say, without a model.

    Args:
        config, weights: the bytes of the two files, uint8.

    Returns:
        "method" (peft's name of it, or None), "base" (text or None), "parameters" (all numbers in all tensors), and names of
        tensors: "not_float" and "not_finite" (in float32, in which the base computes); or "refused".
    """
    with _written(config, weights) as folder:
        try:
            values = json.loads(config.tobytes().decode("utf-8"))
            tensors = read_safetensors(folder / WEIGHTS_NAME)
        except (ValueError, RecursionError) as error:
            return {"refused": _told(error, folder)}
    if not isinstance(values, dict):
        return {"refused": f"{CONFIG_NAME} holds no dict"}
    method, base = values.get("peft_type"), values.get("base_model_name_or_path")
    with np.errstate(over="ignore"):
        broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor.astype(np.float32)).all()]
    return {"method": method if isinstance(method, str) and method in METHODS else None,
            "base": None if base is None else str(base)[:MOST_TOLD],
            "parameters": sum(tensor.size for tensor in tensors.values()),
            "not_float": _some(name for name, tensor in tensors.items() if tensor.dtype.kind != "f"),
            "not_finite": _some(broken)}


def measure(config: np.ndarray, weights: np.ndarray, base: str, names: dict[str, list[str]]) -> dict[str, Any]:
    """Bits per character with the adapter and without it.

    Args:
        base: a bundled model's name. What the adapter says of its base is not followed.
        names: label -> names.

    Returns:
        "before" and "after", dicts label -> bits per character; "base_kept", whether the base is the same as before once the
        adapter is taken out; or "refused".
    """
    untouched, model = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(base)
    with _written(config, weights) as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of another base: `describe` has said it
        try:
            adapted = PeftModel.from_pretrained(model, folder)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # a config may hold anything
            return {"refused": _told(error, folder)}
        before, after = ({label: bits_per_character(one, some, tokenizer) for label, some in names.items()}
                         for one in (untouched, adapted))
    adapted.unload()
    left, whole = model.state_dict(), untouched.state_dict()
    return {"before": before, "after": after,
            "base_kept": left.keys() == whole.keys() and all(np.array_equal(left[name], whole[name]) for name in whole)}


@contextmanager
def _written(config: np.ndarray, weights: np.ndarray) -> Iterator[Path]:
    """A folder with the two files, as `save_pretrained` makes it. The folder above it is empty, as some methods look there."""
    with tempfile.TemporaryDirectory(prefix="tinypeft-") as above:
        folder = Path(above) / "adapter"
        folder.mkdir()
        (folder / CONFIG_NAME).write_bytes(config.tobytes())
        (folder / WEIGHTS_NAME).write_bytes(weights.tobytes())
        yield folder


def _some(names: Iterable[str]) -> list[str]:
    return [name[:MOST_TOLD] for name, _ in zip(names, range(3), strict=False)]


def _told(error: Exception, folder: Path) -> str:
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    return text.replace(f"{folder}/", "").replace(str(folder), "the zip")[:1000]
