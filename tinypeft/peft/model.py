"""A model with adapters: `get_peft_model`, `PeftModel` and its verbs, which are peft's. (What is inside is in adapted.py.)"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tinypeft.nn import CausalLM, CausalLMOutput
from tinypeft.nn.generation import generate
from tinypeft.peft import storage
from tinypeft.peft.adapted import AdaptedModel
from tinypeft.peft.combine import weighted_adapter
from tinypeft.peft.config import PeftConfig, TargetedConfig
from tinypeft.peft.mixed_batch import BASE, mixed_batch
from tinypeft.peft.replacements import check_together
from tinypeft.peft.soft_prompts import with_prompts
from tinypeft.peft.status import LayerStatus, layer_status
from tinypeft.peft.targets import inject


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


class PeftModel(AdaptedModel):
    """A frozen language model and its adapters. Called, it behaves like the model; for attributes see AdaptedModel."""

    def __init__(self, model: CausalLM, peft_config: PeftConfig, adapter_name: str = "default", *, seed: int = 0,
                 _loading: bool = False):
        if model.adapted:
            raise ValueError("this model carries adapters already: use add_adapter on its PeftModel, or take them out with "
                             "unload() first")
        super().__init__(model)
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]  # to be thawed by unload
        model.requires_grad_(False)
        model.adapted = True
        try:
            self.add_adapter(adapter_name, peft_config, seed=seed, _loading=_loading)
        except Exception:
            self.unload()
            raise
        self.set_adapter(adapter_name)

    # ---- running ----------------------------------------------------------------------------------------------------

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, position_ids: Any = None, *,
                adapter_names: Sequence[str] | None = None, cache: Any = None, inputs_embeds: Any = None,
                output_hidden_states: bool = False) -> CausalLMOutput:
        """As the base model's; with soft prompts, logits and labels have a row for each virtual token too.

        Args:
            adapter_names: for each row of the batch the adapter that it goes through, "__base__" for none.
            position_ids: those of the text's tokens; virtual tokens come on top.

        Raises:
            ValueError: as the base model; or an adapter that cannot be mixed within a batch.
        """
        call = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "position_ids": position_ids,
                "cache": cache, "inputs_embeds": inputs_embeds}
        if self.num_virtual_tokens and adapter_names is None:
            call = vars(with_prompts(self, **call))
        with mixed_batch(self, adapter_names, input_ids if inputs_embeds is None else inputs_embeds):
            out: CausalLMOutput = self.base_model.model(**call, output_hidden_states=output_hidden_states)
        penalized = self.active_adapters if self.training and not self.disabled and adapter_names is None else []
        for penalty in [self.peft_config[name].penalty() for name in penalized]:
            out.loss = out.loss if out.loss is None or penalty is None else out.loss + penalty
        return out

    def generate(self, input_ids: Any, attention_mask: Any = None, *, adapter_names: Sequence[str] | None = None,
                 **options: Any) -> np.ndarray:
        """See `tinypeft.nn.generation.generate`; adapter_names as in `forward`."""
        if not options.get("use_cache", True) and any(getattr(self.prompt_encoder.get(name), "append", False)
                                                      for name in self.active_adapters):
            raise ValueError("an appended prompt stands where the given text ends, which only the cache remembers: leave out "
                             "use_cache=False")
        if adapter_names is None:
            return generate(self, input_ids, attention_mask, **options)
        with mixed_batch(self, adapter_names, input_ids):
            return self.base_model.model.generate(input_ids, attention_mask, **options)

    # ---- adapters ---------------------------------------------------------------------------------------------------

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, *, seed: int = 0, _loading: bool = False) -> None:
        """Put another adapter, of the same or another method, beside those there; it does nothing until `set_adapter`.

        Raises:
            ValueError: the name is taken or unusable, or the config does not fit the model; the model is unchanged.
        """
        if adapter_name in self.peft_config:
            raise ValueError(f"there is an adapter {adapter_name!r} already: {', '.join(self.peft_config)}. Choose another "
                             "name, or delete_adapter it first")
        if adapter_name == BASE or not re.fullmatch(r"[^./\\\s]+", adapter_name):
            raise ValueError(f"an adapter's name becomes part of parameter and folder names: {adapter_name!r} may not be "
                             f"empty or {BASE}, or hold dots, slashes or spaces")
        config, model = replace(peft_config), self.base_model.model  # ours, to fill in: the caller's may serve other models
        if not model.adapted:
            raise ValueError("the adapters were taken out of this model: get_peft_model puts new ones in")
        if isinstance(config, TargetedConfig):
            config = config.resolved(model.config.model_type)
        config.loading = _loading
        self.peft_config[adapter_name] = config
        with self.disable_adapter():  # so that a method that looks at the base's weights sees the base's
            try:
                inject(model, self.replacements, config, adapter_name, seed)
                config.inject(self, adapter_name, seed)
            except Exception:
                self.forget(adapter_name)
                raise
        config.base_model_name_or_path = config.base_model_name_or_path or model.hub_name or model.name_or_path
        self.train_only(self.active_adapters)
        self.train(model.training)  # the new layers too

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Make one adapter, or several whose effects add up, the active and trainable ones.

        Order matters only for soft prompts: their tokens stand in the order in which they are listed. What was merged is
        unmerged.

        Raises:
            ValueError: an unknown name, or two adapters that cannot be active together; nothing is changed.
            RuntimeError: inside disable_adapter().
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(dict.fromkeys(adapter_name))
        for name in names:
            self.known(name)
        self._require_enabled()
        if not names:
            raise ValueError("name at least one adapter; disable_adapter() is the context in which none is active")
        check_together(names, self.replacements, self.layers())
        self.restore({}, names)
        for layer in self.layers():
            layer.active = [name for name in names if name in layer.adapter_names]
        self.active_adapters = names
        self.train_only(names)

    def _require_enabled(self) -> None:
        if self.disabled:
            raise RuntimeError("the adapters are switched off here: leave disable_adapter() first")

    def load_adapter(self, folder: str | Path, adapter_name: str, is_trainable: bool = False) -> None:
        """Add an adapter that `save_pretrained`, ours or peft's, has written; `set_adapter` makes it active.

        Raises:
            FileNotFoundError, ValueError: the files are missing or broken, or were made for another base; nothing is loaded.
        """
        config, tensors = storage.read(folder, is_trainable)
        self.add_adapter(adapter_name, config, _loading=True)
        try:
            storage.put_in(self, adapter_name, tensors, Path(folder))
        except Exception:
            self.forget(adapter_name)
            raise

    def delete_adapter(self, adapter_name: str) -> None:
        """Forget an adapter.

        Raises:
            ValueError: it is unknown, or active: what should be active instead is for the caller to say.
        """
        self.known(adapter_name)
        if adapter_name in self.active_adapters:
            raise ValueError(f"{adapter_name!r} is active: make another adapter active first (set_adapter; there are: "
                             f"{', '.join(self.peft_config)}), or take all out with unload()")
        self.forget(adapter_name)

    def add_weighted_adapter(self, adapters: list[str], weights: list[float], adapter_name: str,
                             combination_type: str = "svd", svd_rank: int | None = None) -> None:
        """Make a new LoRA adapter of several, by "svd", "cat" or "linear": see combine.py, also for what it refuses."""
        weighted_adapter(self, adapters, weights, adapter_name, combination_type, svd_rank)

    # ---- merging ----------------------------------------------------------------------------------------------------

    def merge_adapter(self, adapter_names: str | list[str] | None = None, safe_merge: bool = False) -> None:
        """Fold adapters (the active ones) into the base weights: same output, no extra work; `unmerge_adapter` undoes it.

        Quantized weights are dequantized, changed and quantized again, which loses most of a small change: a warning says how
        much.

        Raises:
            ValueError: an adapter that is not a change of weights; or with safe_merge, a merged weight that is not finite.
                Nothing is merged then.
            RuntimeError: the model is on the meta device; or inside disable_adapter().
        """
        self._merge(adapter_names, safe_merge)

    def _merge(self, adapter_names: str | list[str] | None, safe_merge: bool) -> None:
        self._require_enabled()
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names or self.active_adapters
        for name in names:
            kind, wraps = self.known(name).peft_type, [layer for layer in self.layers() if name in layer.adapter_names]
            if name in self.prompt_encoder or not all(layer.mergeable for layer in wraps):
                raise ValueError(f"{name!r} ({kind}) cannot be merged: it is not a change of the base's weights. Pass "
                                 "adapter_names without it, or keep the adapter beside the model")
        check_together(list(dict.fromkeys([*self.active_adapters, *names])), self.replacements, self.layers())
        before = self.state()
        merged = {path: list(dict.fromkeys([*those, *names])) for path, those in before[0].items()}
        try:
            self.restore(merged, list(dict.fromkeys([*before[1], *names])), safe_merge)
        except Exception:
            self.restore(*before)
            raise
        if losses := [layer.merge_loss for layer in self.layers() if layer.merge_loss]:
            warnings.warn(f"merging rounds the quantized weights again: in {len(losses)} layers the error is {min(losses):.0%} "
                          f"to {max(losses):.0%} of what the adapter changes (get_layer_status() lists them while they are "
                          "merged). Call dequantize() first, and nothing is lost", stacklevel=3)

    def unmerge_adapter(self) -> None:
        """Undo `merge_adapter`: the base weights are bit for bit what they were."""
        self._require_enabled()
        self.restore({}, self.active_adapters)

    def merge_and_unload(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> CausalLM:
        """The plain model, with adapters (the active ones) in its weights, all frozen (requires_grad_() thaws them).

        Raises:
            ValueError, RuntimeError: as `merge_adapter`; nothing is changed.
        """
        before, state = self.active_adapters, self.state()
        if adapter_names is not None:
            self.set_adapter(adapter_names)
        try:
            self._merge(None, safe_merge)
        except Exception:
            self.set_adapter(before)
            self.restore(*state)
            raise
        model = self.take_out()
        if model.lm_head.weight is not model.get_input_embeddings().weight:
            model.config.tie_word_embeddings = False  # the head has left the token table behind
        model.requires_grad_(False)
        return model

    def dequantize(self) -> Self:
        """Give a quantized base float weights, in place: the numbers that its codes stand for. Adapters stay, unmerged, and can
        then be merged without loss.
        """
        self._require_enabled()
        self.unmerge_adapter()
        model = self.base_model.model
        before = dict(model.named_modules())
        model.replace_quantized()
        self.replacements.follow({id(module): model.get_submodule(path) for path, module in before.items()})
        return self

    def unload(self) -> CausalLM:
        """The plain model as it was, without the adapters; what was trained before they came is trained again."""
        self.restore({}, [])
        for parameter in self._trained:
            parameter.requires_grad = True
        return self.take_out()

    # ---- looking ----------------------------------------------------------------------------------------------------

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all), counted in numbers, adapters included."""
        sizes = [(parameter.size, parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Print peft's line."""
        trainable, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {100 * trainable / total:.4f}")

    def get_layer_status(self) -> list[LayerStatus]:
        """What each layer with adapters carries, and in what state."""
        return [layer_status(layer) for layer in self.layers()]

    # ---- files ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors: "default" into `folder`, others into subfolders."""
        storage.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, model: CausalLM, folder: str | Path, adapter_name: str = "default",
                        is_trainable: bool = False) -> PeftModel:
        """Put a saved adapter, or a saved set of active ones, ours or peft's, into its base model.

        Args:
            is_trainable: as in peft, a loaded adapter is frozen unless this is True.

        Raises:
            FileNotFoundError, ValueError: as `load_adapter`; the model is unchanged.
        """
        return storage.load(cls, model, Path(folder), adapter_name, is_trainable)
