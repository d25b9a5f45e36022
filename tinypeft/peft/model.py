"""A model with adapters: `get_peft_model`, `PeftModel` and its verbs, which are peft's.

The adapters are put into the model itself: each target module is replaced by an AdapterLayer that holds it. Parameter names
are peft's, `base_model.model.<path>.lora_A.<adapter>.weight`; in files the adapter's name is left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.files import read_safetensors, write_safetensors
from tinypeft.nn import CausalLM, Module, Parameter
from tinypeft.nn.module import check_state, refuse_meta, some
from tinypeft.peft.config import PeftConfig, TargetedConfig
from tinypeft.peft.layer import AdapterLayer
from tinypeft.peft.targets import find_targets, pattern_value

WEIGHTS_NAME = "adapter_model.safetensors"


def get_peft_model(model: CausalLM, peft_config: PeftConfig, adapter_name: str = "default", *, seed: int = 0) -> PeftModel:
    """Freeze a model and put an adapter into it (in place).

    Args:
        seed: the adapter's initial values are drawn from (seed, adapter name, parameter name).

    Raises:
        ValueError: the config names modules that do not exist, or asks for what they cannot have; the model is unchanged.

    >>> from tinypeft.nn import LlamaConfig, LlamaForCausalLM
    >>> from tinypeft.peft import LoraConfig
    >>> model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=32))  # a meta model: shapes only
    >>> get_peft_model(model, LoraConfig(r=8)).print_trainable_parameters()
    trainable params: 4,194,304 || all params: 6,742,609,920 || trainable%: 0.0622
    """
    return PeftModel(model, peft_config, adapter_name, seed=seed)


class _Tuner(Module):
    """Holds the model under the name that peft's parameter names have: base_model.model."""

    def __init__(self, model: CausalLM):
        self.model = model


class PeftModel(Module):
    """A frozen language model and its adapters. Called, it behaves like the model."""

    def __init__(self, model: CausalLM, peft_config: PeftConfig, adapter_name: str = "default", *, seed: int = 0,
                 _strict: bool = True):
        if any(isinstance(module, AdapterLayer) for module in model.modules()):
            raise ValueError("this model carries adapters already: use add_adapter on its PeftModel, or take them out with "
                             "unload() first")
        self.base_model = _Tuner(model)
        self.peft_config: dict[str, PeftConfig] = {}
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]  # to be thawed by unload
        model.requires_grad_(False)
        try:
            self.add_adapter(adapter_name, peft_config, seed=seed, _strict=_strict)
        except Exception:
            self.unload()
            raise
        self.set_adapter(adapter_name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """See `tinypeft.nn.generation.generate`."""
        return self.base_model.model.generate(*args, **kwargs)

    @property
    def config(self) -> Any:
        return self.base_model.model.config

    def get_base_model(self) -> CausalLM:
        """The model that the adapters were put into (they are still in it: see `unload`)."""
        return self.base_model.model

    # ---- adapters ---------------------------------------------------------------------------------------------------

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, *, seed: int = 0, _strict: bool = True) -> None:
        """Put another adapter beside those that are there; it does nothing until `set_adapter`.

        Raises:
            ValueError: the name is taken or unusable, or the config does not fit the model; the model is unchanged.
        """
        if adapter_name in self.peft_config:
            raise ValueError(f"there is an adapter {adapter_name!r} already: {', '.join(self.peft_config)}")
        if not re.fullmatch(r"[^./\\\s]+", adapter_name):
            raise ValueError(f"an adapter's name becomes part of parameter and folder names: {adapter_name!r} may not be "
                             "empty or hold dots, slashes or spaces")
        assert isinstance(peft_config, TargetedConfig)  # as all methods' are so far
        peft_config = replace(peft_config)  # ours, to fill in: the caller may use his for another model
        model, kind = self.base_model.model, peft_config.layer
        paths = find_targets(model, peft_config, strict=_strict)
        for option in ("rank_pattern", "alpha_pattern"):
            patterns = getattr(peft_config, option, {})
            if idle := [key for key in patterns if _strict and not any(pattern_value(p, {key: True}, False) for p in paths)]:
                raise ValueError(f"{option} {idle} match none of the target modules: {some(paths)}")
        layers = {path: layer if isinstance(layer := model.get_submodule(path), kind) else kind(layer) for path in paths}
        try:
            for path, layer in layers.items():
                layer.add(adapter_name, peft_config, path, seed)
        except Exception:
            for layer in layers.values():
                layer.remove(adapter_name)
            raise
        for path, layer in layers.items():
            model.set_submodule(path, layer)
        peft_config.base_model_name_or_path = peft_config.base_model_name_or_path or model.name_or_path
        self.peft_config[adapter_name] = peft_config
        self._train_only(self.active_adapters)
        self.train(model.training)  # the new layers too

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Make one adapter, or several whose effects add up, the active and trainable ones."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(dict.fromkeys(adapter_name))
        for name in names:
            self._known(name)
        for layer in self._layers():
            layer.unmerge()
            layer.active = [name for name in names if name in layer.adapters]
        self._train_only(names)

    @property
    def active_adapters(self) -> list[str]:
        """The names of the active adapters."""
        return list(dict.fromkeys(name for layer in self._layers() for name in layer.active))

    def load_adapter(self, folder: str | Path, adapter_name: str, is_trainable: bool = False) -> None:
        """Add an adapter that `save_pretrained`, ours or peft's, has written; `set_adapter` makes it active.

        Raises:
            FileNotFoundError, ValueError: the files are missing or broken, or were made for another base; nothing is loaded.
        """
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = not is_trainable
        state = read_safetensors(Path(folder) / WEIGHTS_NAME)
        self.add_adapter(adapter_name, config, _strict=False)
        try:
            self._load(adapter_name, state)
        except Exception:
            self.delete_adapter(adapter_name)
            raise

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter; the layers it stood in stay, ready for others."""
        self._known(adapter_name)
        for layer in self._layers():
            layer.remove(adapter_name)
        del self.peft_config[adapter_name]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """A context in which the model is the base model."""
        before = [(layer, layer.disabled, layer.merged) for layer in self._layers()]
        for layer, _, _ in before:
            layer.unmerge()
            layer.disabled = True
        try:
            yield
        finally:
            for layer, disabled, merged in before:
                layer.disabled = disabled
                if merged:
                    layer.merge()

    # ---- merging ----------------------------------------------------------------------------------------------------

    def merge_adapter(self, safe_merge: bool = False) -> None:
        """Fold the active adapters into the base weights: same output, no extra work; `unmerge_adapter` takes them out.

        Raises:
            ValueError: with safe_merge, if a merged weight is not finite; nothing is merged then.
            RuntimeError: the model is on the meta device.
        """
        try:
            for layer in self._layers():
                layer.merge(safe_merge)
        except Exception:
            self.unmerge_adapter()
            raise

    def unmerge_adapter(self) -> None:
        """Undo `merge_adapter`: the base weights are bit for bit what they were."""
        for layer in self._layers():
            layer.unmerge()

    def merge_and_unload(self, safe_merge: bool = False) -> CausalLM:
        """The plain model, with the active adapters folded into its weights, all frozen (requires_grad_() thaws them)."""
        self.merge_adapter(safe_merge)
        model = self.base_model.model
        if isinstance(model.lm_head, AdapterLayer) and model.lm_head.merged:
            model.config.tie_word_embeddings = False  # the head has left the token table behind
        return self._take_out()

    def unload(self) -> CausalLM:
        """The plain model as it was, without the adapters; what was trained before they came is trained again."""
        self.unmerge_adapter()
        for parameter in self._trained:
            parameter.requires_grad = True
        return self._take_out()

    def _take_out(self) -> CausalLM:
        model = self.base_model.model
        for path, layer in [(p, m) for p, m in model.named_modules() if isinstance(m, AdapterLayer)]:
            model.set_submodule(path, layer.base_layer)
        return model

    # ---- counting ---------------------------------------------------------------------------------------------------

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all), counted in numbers, adapters included."""
        sizes = [(parameter.size, parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Print peft's line."""
        trainable, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {100 * trainable / total:.4f}")

    # ---- files ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors: "default" into `folder`, others into subfolders."""
        for name, config in self.peft_config.items():
            target = Path(folder) if name == "default" else Path(folder) / name
            parameters = self._adapter_parameters(name)
            refuse_meta(parameters.values(), "there is nothing to save")
            target.mkdir(parents=True, exist_ok=True)
            config.save_pretrained(target)
            write_safetensors(target / WEIGHTS_NAME, {key: p.numpy() for key, p in parameters.items()})

    @classmethod
    def from_pretrained(cls, model: CausalLM, folder: str | Path, adapter_name: str = "default",
                        is_trainable: bool = False) -> PeftModel:
        """Put a saved adapter, ours or peft's, into its base model.

        Args:
            is_trainable: as in peft, a loaded adapter is frozen unless this is True.

        Raises:
            FileNotFoundError, ValueError: as `load_adapter`; the model is unchanged.
        """
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = not is_trainable
        state = read_safetensors(Path(folder) / WEIGHTS_NAME)
        peft_model = cls(model, config, adapter_name, _strict=False)
        try:
            peft_model._load(adapter_name, state)
        except Exception:
            peft_model.unload()
            raise
        return peft_model

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _layers(self) -> list[AdapterLayer]:
        return [module for module in self.base_model.model.modules() if isinstance(module, AdapterLayer)]

    def _known(self, adapter_name: str) -> PeftConfig:
        if adapter_name not in self.peft_config:
            raise ValueError(f"there is no adapter {adapter_name!r}; there are: {', '.join(self.peft_config)}")
        return self.peft_config[adapter_name]

    def _train_only(self, names: list[str]) -> None:
        for layer in self._layers():
            for name in layer.adapters:
                for parameter in layer.parameters_of(name).values():
                    parameter.requires_grad = name in names and not self.peft_config[name].inference_mode

    def _adapter_parameters(self, adapter_name: str) -> dict[str, Parameter]:
        """Name in files -> parameter, for one adapter."""
        return {f"base_model.model.{path}.{name}": parameter
                for path, layer in self.base_model.model.named_modules() if isinstance(layer, AdapterLayer)
                for name, parameter in layer.parameters_of(adapter_name).items()}

    def _load(self, adapter_name: str, state: dict[str, np.ndarray]) -> None:
        parameters = self._adapter_parameters(adapter_name)
        made_for, model = self._known(adapter_name).base_model_name_or_path, self.base_model.model
        refuse_meta(parameters.values(), "an adapter cannot be loaded into it")
        base = {f"base_model.model.{path}.{name}": value.data for path, module in model.named_modules()  # a tied one twice
                for name, value in vars(module).items() if isinstance(value, Parameter)}
        state = {key: array for key, array in state.items()  # with an adapter of the head, peft saves the head's own weight
                 if key in parameters or not (key in base and np.array_equal(array, base[key]))}
        try:
            check_state(state, {key: parameter.shape for key, parameter in parameters.items()}, "this adapter")
        except ValueError as error:
            raise ValueError(f"{error}. The adapter was made for the base {made_for!r}; this model is "
                             f"{model.name_or_path!r}, a {type(model).__name__}") from None
        if made_for and model.name_or_path and made_for != model.name_or_path:
            warnings.warn(f"the adapter was made for {made_for!r}, this model is {model.name_or_path!r}: the shapes fit, but "
                          "on other weights than its own an adapter means nothing", stacklevel=3)
        for key, parameter in parameters.items():
            parameter.data = np.array(state[key], dtype=parameter.dtype)
