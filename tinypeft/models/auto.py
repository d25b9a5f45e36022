"""Models by name: Hugging Face folders of GPT-2 or Llama, the bundled base, and SmolLM2."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinypeft.backend import as_dtype
from tinypeft.files import read_checkpoint, read_json
from tinypeft.models import smollm2
from tinypeft.models.bundled import resolve_folder
from tinypeft.nn import CausalLM, Config, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from tinypeft.quant import BitsAndBytesConfig, replace_with_bnb_linear

# model_type in config.json -> its config and model
FAMILIES: dict[str, tuple[type[Config], type[CausalLM]]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


class AutoModelForCausalLM:
    """Makes the model that a config.json describes."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path, *, dtype: Any = "float32", device_map: Any = None,
                        quantization_config: BitsAndBytesConfig | None = None) -> CausalLM:
        """Load a model, in eval mode.

        Args:
            name_or_path: "tinypeft/surnames", which comes with the library; "tinypeft/smollm2-135m-instruct", which
                `tinypeft get smollm2` installs; or a folder in Hugging Face's format: config.json and model.safetensors, or
                shards with model.safetensors.index.json.
            dtype: compute and store in float16, float32 or float64; bfloat16 means float32 here. BF16 files are widened.
            device_map: accepted, since scripts say "auto"; there is one device.
            quantization_config: store the linear layers in 4 or 8 bits; they are quantized one at a time. A folder that holds
                a quantized model, ours or transformers', needs none; one that is given then says what it computes in.

        Raises:
            FileNotFoundError: there is no such folder or file, or the model is not installed.
            ImportError: SmolLM2 needs the extra `real`.
            ValueError: another kind of model, or tensors that are missing, unknown, misshapen or corrupt.

        >>> model = AutoModelForCausalLM.from_pretrained("tinypeft/surnames")
        >>> type(model).__name__, model.config.num_hidden_layers
        ('LlamaForCausalLM', 4)
        """
        dtype = as_dtype(dtype)
        config = AutoConfig.from_pretrained(name_or_path)
        model = AutoModelForCausalLM.from_config(config, device="meta")
        state = _rename(_read_state(name_or_path), model)
        try:
            if stored := config.extra.get("quantization_config"):
                quantization_config = BitsAndBytesConfig.from_dict(stored).run_as(quantization_config)
            if quantization_config is not None:
                replace_with_bnb_linear(model, quantization_config)
            model.load_state_dict(state, dtype=dtype)
        except ValueError as error:
            raise ValueError(f"{name_or_path}: {error}") from None
        model.name_or_path = str(name_or_path)
        model.hub_name = smollm2.HUB_NAME if model.name_or_path == smollm2.NAME else None
        return model.eval()

    @staticmethod
    def from_config(config: Config | dict[str, Any], *, device: str = "cpu", dtype: Any = "float32", seed: int = 0) -> CausalLM:
        """A new model, untrained, in eval mode until `train()` is called.

        Args:
            config: a GPT2Config or LlamaConfig, or the content of a config.json.
            device: "cpu", or "meta" for shapes without values: counts 70 billion parameters in a second.
            seed: the initial values are drawn from (seed, parameter name): N(0, initializer_range^2), zeros for biases.

        >>> meta = AutoModelForCausalLM.from_config(GPT2Config(), device="meta")
        >>> sum(parameter.size for parameter in meta.parameters())
        124439808
        """
        if device not in ("cpu", "meta"):
            raise ValueError(f'device must be "cpu" or "meta", got {device!r}')
        if isinstance(config, dict):
            config = AutoConfig.from_dict(config)
        config = copy.deepcopy(config)  # the caller's may serve other models
        config.extra.pop("quantization_config", None)
        model = FAMILIES[config.model_type][1](config)  # type: ignore[call-arg]
        model.to(dtype)
        return model if device == "meta" else model.init_weights(seed, config.initializer_range)


class AutoConfig:
    """Makes the config that a config.json describes."""

    @staticmethod
    def from_pretrained(name_or_path: str | Path) -> Config:
        """Read config.json of a folder or of a model with a name; raises as for the model."""
        if str(name_or_path) == smollm2.NAME:
            return AutoConfig.from_dict(smollm2.read_config())
        path = resolve_folder(name_or_path) / "config.json"
        try:
            return AutoConfig.from_dict(read_json(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Config:
        """From the content of a config.json; its model_type says which family."""
        if not isinstance(values, dict):
            raise ValueError(f"a config is a JSON object, got a {type(values).__name__}")
        kind = values.get("model_type")
        if kind not in FAMILIES:
            raise ValueError(f"model_type {kind!r} is not implemented; known: {', '.join(FAMILIES)}")
        return FAMILIES[kind][0].from_dict(values)


def _read_state(name_or_path: str | Path) -> Mapping[str, Any]:
    """Name -> array or StoredArray of a model's checkpoint."""
    if str(name_or_path) == smollm2.NAME:
        return smollm2.read_state()
    return read_checkpoint(resolve_folder(name_or_path))


def _rename(state: Mapping[str, Any], model: CausalLM) -> dict[str, Any]:
    """Our names for a checkpoint's tensors: some were saved from the body alone, or with what can be recomputed."""
    prefix = f"{model.body_name}."
    recomputed = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    state = {name: array for name, array in state.items() if not name.endswith(recomputed)}
    if not any(name.startswith(prefix) for name in state):
        state = {name if name.startswith("lm_head.") else prefix + name: array for name, array in state.items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state
