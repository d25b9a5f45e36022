"""The inside of a PeftModel: which adapter has parameters where, and the state that all of those are in.

An adapter has parameters in up to three kinds of places: layers that wrap modules of the base (layer.py), parameters that
replace the base's own (replacements.py), and soft prompts, which change what the model is called with (soft_prompts.py).
Parameter names are peft's, `base_model.model.<path>.lora_A.<adapter>.weight`; in files the adapter's name is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from tinypeft.nn import CausalLM, Module, Parameter
from tinypeft.peft.config import PeftConfig
from tinypeft.peft.layer import AdapterLayer
from tinypeft.peft.replacements import Replacements
from tinypeft.peft.soft_prompts import SoftPrompt


class _Tuner(Module):
    """Holds the model under the name that peft's parameter names have: base_model.model."""

    def __init__(self, model: CausalLM, update_and_allocate: Callable[[int], None]):
        self.model, self.update_and_allocate = model, update_and_allocate  # where peft has that verb


class AdaptedModel(Module):
    """A language model with adapters in it.

    Attributes:
        peft_config: adapter -> its config.
        active_adapters: the adapters in use, in the order in which they were listed.
        disabled: whether all are switched off.
    """

    def __init__(self, model: CausalLM):
        self.base_model = _Tuner(model, self.update_and_allocate)
        self.prompt_encoder: dict[str, SoftPrompt] = {}
        self.peft_config: dict[str, PeftConfig] = {}
        self.active_adapters: list[str] = []
        self.replacements = Replacements()
        self.disabled = False

    @property
    def config(self) -> Any:
        return self.base_model.model.config

    def get_base_model(self) -> CausalLM:
        """The model that the adapters are in."""
        return self.base_model.model

    @property
    def num_virtual_tokens(self) -> int:
        """How many positions the active soft prompts take."""
        prompts = [] if self.disabled else [self.prompt_encoder.get(name) for name in self.active_adapters]
        return sum(prompt.num_virtual_tokens for prompt in prompts if prompt is not None)

    def parameters_of(self, adapter_name: str) -> dict[str, Parameter]:
        """Name in files -> parameter, for one adapter."""
        self.known(adapter_name)
        found = {f"base_model.model.{layer.path}.{name}": parameter
                 for layer in self.layers() for name, parameter in layer.parameters_of(adapter_name).items()}
        found |= self.replacements.parameters_of(adapter_name)
        prompt = self.prompt_encoder.get(adapter_name)
        return found if prompt is None else found | prompt.parameters_of()

    def layers(self) -> list[AdapterLayer]:
        """The layers of the base that adapters stand in."""
        return [module for module in self.base_model.model.modules() if isinstance(module, AdapterLayer)]

    def known(self, adapter_name: str) -> PeftConfig:
        """An adapter's config, or a ValueError that lists those there are."""
        if adapter_name not in self.peft_config:
            raise ValueError(f"there is no adapter {adapter_name!r}; there are: {', '.join(self.peft_config)}")
        return self.peft_config[adapter_name]

    def train_only(self, names: list[str]) -> None:
        """Freeze all adapters but these, and these too if their configs say so."""
        for name, config in self.peft_config.items():
            for parameter in self.parameters_of(name).values():
                parameter.requires_grad = name in names and not config.inference_mode

    def forget(self, adapter_name: str) -> None:
        """Take all that belongs to an adapter out of the model; a layer without adapters makes room for its base."""
        model, (merged, replaced) = self.base_model.model, self.state()
        self.restore({}, [])  # before what stands in the base is taken apart
        for layer in self.layers():
            layer.remove(adapter_name)
            if not layer.adapter_names:
                model.set_submodule(layer.path, layer.base_layer)
        self.replacements.remove(adapter_name)
        self.prompt_encoder.pop(adapter_name, None)
        self.peft_config.pop(adapter_name, None)
        self.active_adapters = [name for name in self.active_adapters if name != adapter_name]
        self.restore(merged, replaced)
        self.train_only(self.active_adapters)

    def state(self) -> tuple[dict[str, list[str]], list[str]]:
        """What `restore` brings back: path of a layer -> the adapters merged there; the adapters that replace parameters."""
        return {layer.path: layer.merged for layer in self.layers()}, self.replacements.active

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """A context in which the model is the base model, bit for bit."""
        state = self.state()
        before, self.disabled = self.disabled, True
        self.restore({}, [])
        try:
            yield
        finally:
            self.disabled = before
            self.restore(*state)

    def restore(self, merged: dict[str, list[str]], replaced: list[str], safe_merge: bool = False) -> None:
        """Bring the base into a state: put replacements into their places, then merge into what stands there."""
        for layer in self.layers():
            layer.unmerge()
            layer.disabled = self.disabled
        self.replacements.activate([] if self.disabled else replaced)
        for layer in self.layers():
            layer.merge(merged.get(layer.path, []), safe_merge)

    def update_and_allocate(self, global_step: int) -> None:
        """After each update, while gradients are there: lets methods act that train in phases. (`train` does this.)"""
        for name in self.active_adapters:
            self.peft_config[name].update_and_allocate(global_step)

    after_update = update_and_allocate

    def training_state(self) -> dict[str, Any]:
        """As a Module's, and what the methods remember."""
        return super().training_state() | {f"method.{name}.{key}": array for name, config in self.peft_config.items()
                                           for key, array in config.training_state().items()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        super().load_training_state(state)
        for name, config in self.peft_config.items():
            start = f"method.{name}."
            config.load_training_state({key.removeprefix(start): x for key, x in state.items() if key.startswith(start)})

    def to(self, dtype: Any) -> Self:
        with self.disable_adapter():  # the base's own parameters; what replaces them follows when it is put into its place
            return super().to(dtype)

    def take_out(self) -> CausalLM:
        """Put the bases back in the places of their layers."""
        model = self.base_model.model
        for layer in self.layers():
            model.set_submodule(layer.path, layer.base_layer)
        model.adapted, self.peft_config, self.active_adapters = False, {}, []
        return model
