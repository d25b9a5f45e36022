"""What the tests against transformers and peft share (extra `parity`): equal models in both libraries, and a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinypeft import AutoModelForCausalLM
from tinypeft.nn import CausalLM

torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
peft = pytest.importorskip("peft", reason="needs the extra `parity`")

GPT2: dict[str, Any] = {
    "vocab_size": 37, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "bos_token_id": None, "eos_token_id": None}
LLAMA: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "rms_norm_eps": 1e-5, "bos_token_id": None,
    "eos_token_id": None, "tie_word_embeddings": False}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def make(family: str, changes: dict[str, Any] | None = None, seed: int = 0) -> Any:
    """A transformers model in float32 and eval mode, every parameter random."""
    config = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}[family](
        **{**{"gpt2": GPT2, "llama": LLAMA}[family], **(changes or {})}, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(center + 0.2 * random.standard_normal(tuple(parameter.shape))))
    return model.eval()


def both(family: str, changes: dict[str, Any] | None, tmp_path: Path, seed: int = 0) -> tuple[Any, CausalLM]:
    """The same model in transformers and here, through a folder that transformers wrote."""
    theirs = make(family, changes, seed)
    theirs.save_pretrained(tmp_path / "base")
    return theirs, AutoModelForCausalLM.from_pretrained(tmp_path / "base")


def batch(seed: int = 1, vocabulary: int = 37) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, labels with ignored places, a mask with left padding."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, (3, 20))
    labels, mask = ids.copy(), np.ones_like(ids)
    labels[0, :7], labels[2, -3:], mask[1, :6] = -100, -100, 0
    return ids, labels, mask


def logits(model: Any, ids: np.ndarray, **options: Any) -> np.ndarray:
    """The logits of either library's model."""
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            return model(torch.from_numpy(ids), **{k: torch.from_numpy(v) for k, v in options.items()}).logits.numpy()
    return model(ids, **options).logits.data


def randomise(model: Any, seed: int = 5) -> None:
    """Random values for the trainable parameters of either library's model (new adapters do nothing: B is 0)."""
    random = np.random.default_rng(seed)
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            values = 0.15 * random.standard_normal(tuple(parameter.shape)).astype(np.float32)
            parameter.data = torch.from_numpy(values) if isinstance(parameter, torch.Tensor) else values


def stir(model: Any, random: np.random.Generator) -> None:
    """Move every trained parameter of either library's model at random from where it starts."""
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = (0.15 * random.standard_normal(tuple(parameter.shape))).astype(np.float32)
            parameter.data = parameter.data + (torch.from_numpy(noise) if isinstance(parameter, torch.Tensor) else noise)
