"""Adapters on disk, in peft's layout: adapter_config.json and adapter_model.safetensors in a folder for each.

"default" stands in the folder itself, others in subfolders. Where other adapters than "default" alone are active,
active.json lists them in their order, so that the whole stack comes back at once.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinypeft.backend import asarray
from tinypeft.files import read_json, read_safetensors, write_json, write_safetensors
from tinypeft.nn import CausalLM, Parameter, refuse_meta
from tinypeft.nn.module import check_state
from tinypeft.peft.config import PeftConfig

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel

WEIGHTS_NAME, ACTIVE_NAME = "adapter_model.safetensors", "active.json"


def save(peft_model: PeftModel, folder: Path) -> None:
    """Write every adapter of a model, and which are active.

    Raises:
        RuntimeError: the model is on the meta device; nothing is written.
    """
    parameters = {name: peft_model.parameters_of(name) for name in peft_model.peft_config}
    for of_one in parameters.values():
        refuse_meta(of_one.values(), "there is nothing to save")
    for name, config in peft_model.peft_config.items():
        target = folder if name == "default" else folder / name
        target.mkdir(parents=True, exist_ok=True)
        tensors = config.to_file({key: p.numpy() for key, p in parameters[name].items()}, folder)
        config.save_pretrained(target)
        write_safetensors(target / WEIGHTS_NAME, tensors)
    if peft_model.active_adapters == ["default"]:
        (folder / ACTIVE_NAME).unlink(missing_ok=True)
    else:
        write_json(folder / ACTIVE_NAME, {"active_adapters": peft_model.active_adapters})


def saved_stack(folder: Path) -> dict[str, Path]:
    """Name -> folder of the adapters that were active when `save` wrote into this one; empty for a single adapter's folder.

    Raises:
        ValueError: active.json is not what `save` writes.
    """
    if not (folder / ACTIVE_NAME).exists():
        return {}
    names = read_json(folder / ACTIVE_NAME).get("active_adapters")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{folder / ACTIVE_NAME} must hold a list of names, active_adapters; got {names!r}")
    return {name: folder if name == "default" else folder / name for name in names}


def read(folder: str | Path, is_trainable: bool) -> tuple[PeftConfig, dict[str, np.ndarray]]:
    """The config and the tensors of one adapter."""
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = not is_trainable
    return config, read_safetensors(Path(folder) / WEIGHTS_NAME)


def put_in(peft_model: PeftModel, adapter_name: str, tensors: dict[str, np.ndarray], folder: Path,
           stacklevel: int = 3) -> None:
    """Give an adapter, new in the model, the values of a file.

    Raises:
        ValueError: they do not fit; the caller takes the adapter out.
    """
    parameters, config = peft_model.parameters_of(adapter_name), peft_model.peft_config[adapter_name]
    made_for, model = config.base_model_name_or_path, peft_model.base_model.model
    refuse_meta(parameters.values(), "an adapter cannot be loaded into it")
    with peft_model.disable_adapter():
        base = {f"base_model.model.{path}.{name}": value.data for path, module in model.named_modules()  # a tied one twice
                for name, value in vars(module).items() if isinstance(value, Parameter)}
    try:
        tensors = config.from_file(tensors, folder)
        tensors = {key: array for key, array in tensors.items()  # with an adapter of the head, peft saves the head's weight
                   if key in parameters or (not (key in base and np.array_equal(array, base[key]))
                   and key.replace(".modules_to_save.", ".") not in parameters)}  # a copied bias, under bias="all" once more
        check_state(tensors, {key: parameter.shape for key, parameter in parameters.items()}, "this adapter")
    except ValueError as error:
        raise ValueError(f"{error}. The adapter was made for the base {made_for or 'of an unknown name'}; this model is "
                         f"{model.name_or_path or 'without a name'}, a {type(model).__name__}") from None
    if made_for and model.name_or_path and made_for not in (model.name_or_path, model.hub_name):
        warnings.warn(f"the adapter was made for {made_for!r}, this model is {model.name_or_path!r}: the shapes fit, but "
                      "on other weights than its own an adapter means nothing", stacklevel=stacklevel)
    for key, parameter in parameters.items():
        parameter.data = asarray(np.array(tensors[key], dtype=parameter.dtype), like=parameter.data)


def load(kind: type[PeftModel], model: CausalLM, folder: Path, adapter_name: str, is_trainable: bool) -> PeftModel:
    """See PeftModel.from_pretrained."""
    stack = saved_stack(folder) if adapter_name == "default" else {}
    stack = stack or {adapter_name: folder}
    first = next(iter(stack))
    config, tensors = read(stack[first], is_trainable)
    peft_model = kind(model, config, first, _loading=True)
    try:
        put_in(peft_model, first, tensors, stack[first], stacklevel=4)
        for name in list(stack)[1:]:
            peft_model.load_adapter(stack[name], name, is_trainable)
        peft_model.set_adapter(list(stack))
    except Exception:
        peft_model.unload()
        raise
    return peft_model
