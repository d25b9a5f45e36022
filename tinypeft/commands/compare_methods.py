"""What `tinypeft compare` compares: each method's configuration for the bundled base, and the five learning rates it may use.

Methods of one family have the same budget where they have one at all: rank 8 on all linear layers, eight virtual tokens.
The rates of a row lie where that method needs them; which of the five it gets is decided on validation names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinypeft import (
    AdaLoraConfig,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SubspaceConfig,
    ULoraConfig,
    VeraConfig,
    create_loraplus_optimizer,
)
from tinypeft.nn.module import near
from tinypeft.training import AdamW, Optimizer

ADAM_BETA2 = 0.99  # of every optimizer here: runs are short
UNTOUCHED, FULL = "untouched base", "full fine-tuning"


@dataclass(frozen=True)
class Method:
    """A way to adapt a model.

    Attributes:
        rates: the learning rates to choose from, rising; none where nothing is trained.
        config: the adapter, from the number of steps and the seed; None where the model's own weights are trained.
        optimizer: made from the model and the learning rate; None for AdamW with one rate for all.
        pretrained: start from the base, or else from random weights.
    """

    rates: tuple[float, ...]
    config: Callable[[int, int], PeftConfig] | None = None
    optimizer: Callable[[Any, float], Optimizer] | None = None
    pretrained: bool = True


def _lora(**options: Any) -> Callable[[int, int], PeftConfig]:
    return lambda steps, seed: LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", **options)


def _adalora(steps: int, seed: int) -> PeftConfig:
    """Rank 12 at first, 8 in the end: a tenth of the steps before the budget falls, a quarter after."""
    return AdaLoraConfig(init_r=12, target_r=8, lora_alpha=16, tinit=steps // 10, tfinal=steps // 4, total_step=steps,
                         target_modules="all-linear")


def _lora_plus(model: Any, rate: float) -> Optimizer:
    return create_loraplus_optimizer(model, AdamW, lr=rate, loraplus_lr_ratio=16, betas=(0.9, ADAM_BETA2))


def _vera(steps: int, seed: int) -> PeftConfig:
    """Its projections follow from their seed, so that the file need not hold them."""
    return VeraConfig(r=256, projection_prng_key=seed, save_projection=False, target_modules="all-linear")


def _ulora(vector: str) -> Callable[[int, int], PeftConfig]:
    return lambda steps, seed: ULoraConfig(r=8, vector=vector, target_modules="all-linear")


def _bottleneck(style: str) -> Callable[[int, int], PeftConfig]:
    return lambda steps, seed: BottleneckConfig(style=style)


def _prefix(projection: bool) -> Callable[[int, int], PeftConfig]:
    return lambda steps, seed: PrefixTuningConfig(num_virtual_tokens=8, prefix_projection=projection)


def _prompt(steps: int, seed: int) -> PeftConfig:
    return PromptTuningConfig(num_virtual_tokens=8, prompt_tuning_init="SAMPLE_VOCAB")


def subspace(dimension: int) -> Method:
    """Training in a random subspace. The fewer its dimensions, the further each has to go: rates fall with their root."""
    rates = tuple(float(f"{rate * (1024 / dimension) ** 0.5:.2g}") for rate in (5e-2, 0.1, 0.2, 0.5, 1.0))
    return Method(rates, lambda steps, seed: SubspaceConfig(dimension=dimension, projection_seed=seed))


METHODS: dict[str, Method] = {
    UNTOUCHED: Method(()),
    FULL: Method((1e-3, 2e-3, 3e-3, 5e-3, 1e-2)),
    "from scratch": Method((1e-3, 2e-3, 3e-3, 5e-3, 1e-2), pretrained=False),
    "LoRA": Method((2e-3, 5e-3, 1e-2, 2e-2, 5e-2), _lora()),
    "rsLoRA": Method((1e-3, 2e-3, 5e-3, 1e-2, 2e-2), _lora(use_rslora=True)),
    "DoRA": Method((2e-3, 5e-3, 1e-2, 2e-2, 5e-2), _lora(use_dora=True)),
    "PiSSA": Method((1e-3, 2e-3, 5e-3, 1e-2, 2e-2), _lora(init_lora_weights="pissa")),
    "LoRA+": Method((2e-4, 5e-4, 1e-3, 2e-3, 5e-3), _lora(), _lora_plus),
    "AdaLoRA": Method((1e-2, 2e-2, 3e-2, 5e-2, 1e-1), _adalora),
    "VeRA": Method((2e-2, 5e-2, 1e-1, 2e-1, 5e-1), _vera),
    "ULoRA (rank)": Method((2e-3, 5e-3, 1e-2, 2e-2, 5e-2), _ulora("rank")),
    "ULoRA (input)": Method((2e-3, 5e-3, 1e-2, 2e-2, 5e-2), _ulora("input")),
    "IA3": Method((5e-2, 0.1, 0.2, 0.5, 1.0), lambda steps, seed: IA3Config()),
    "Houlsby": Method((5e-3, 1e-2, 2e-2, 5e-2, 0.1), _bottleneck("houlsby")),
    "Pfeiffer": Method((5e-3, 1e-2, 2e-2, 5e-2, 0.1), _bottleneck("pfeiffer")),
    "parallel adapters": Method((1e-3, 2e-3, 5e-3, 1e-2, 2e-2), _bottleneck("parallel")),
    "prefix tuning": Method((5e-2, 0.1, 0.2, 0.5, 1.0), _prefix(projection=False)),
    "projected prefix": Method((5e-3, 1e-2, 2e-2, 5e-2, 0.1), _prefix(projection=True)),
    "prompt tuning": Method((5e-2, 0.1, 0.2, 0.5, 1.0), _prompt),
    "BitFit": Method((5e-2, 0.1, 0.2, 0.5, 1.0), lambda steps, seed: BitFitConfig()),
    "norm tuning": Method((5e-2, 0.1, 0.2, 0.5, 1.0), lambda steps, seed: LNTuningConfig()),
    "subspace 1024": subspace(1024),
}


def choose(names: str | None) -> dict[str, Method]:
    """The methods with these names, separated by commas and in any case, in the table's order; all for None.

    Raises:
        ValueError: an unknown name, or none; near ones are listed.
    """
    if names is None:
        return METHODS
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    known = {name.lower(): name for name in METHODS}
    for name in wanted:
        if name not in known:
            hint = [known[key] for key in near(name, known)]
            start = f"near: {', '.join(hint)}. There" if hint else "there"
            raise ValueError(f"--methods: unknown method {name!r}; {start} are: {', '.join(METHODS)}")
    if not wanted:
        raise ValueError(f"--methods names none; there are: {', '.join(METHODS)}")
    return {name: method for name, method in METHODS.items() if name.lower() in wanted}
