"""LayerNorm tuning: train the scales and shifts of the norms, nothing else (Zhao et al. 2023, 2312.11420).

    y = gamma * (x - mean) / sqrt(var + eps) + beta        trained: gamma, and beta where there is one (RMSNorm has none)

Each adapter has a copy of every norm; merging puts the copy in the norm's place. To train biases and norms together,
see BitFitConfig(train_norms=True) in bitfit.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinypeft.nn import LayerNorm, RMSNorm
from tinypeft.peft.config import TargetedConfig, layer_of
from tinypeft.peft.layer import CopyLayer


@dataclass
class LNTuningConfig(TargetedConfig):
    """Arguments, names and defaults of peft's LNTuningConfig: which norms, all of them if target_modules is None."""

    peft_type: ClassVar[str] = "LN_TUNING"
    default_targets: ClassVar[dict[str, str | list[str]]] = {
        "gpt2": ["ln_1", "ln_2", "ln_f"], "llama": ["input_layernorm", "post_attention_layernorm", "norm"]}
    beyond_peft: ClassVar[tuple[str, ...]] = ("layers_to_transform", "layers_pattern")


@layer_of(LNTuningConfig)
class LNTuningLayer(CopyLayer):
    """A norm, or an adapter's copy of it, which starts equal."""

    prefix = "ln_tuning_layers"
    wraps = (LayerNorm, RMSNorm)
