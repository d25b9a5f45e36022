"""What several claims rest on: how much a method trains, what training needs, how good a codebook is, and first steps.

What has been computed once is remembered, since claims ask for the same again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.budget import Breakdown, Counts, adapted, base_parameters, count_parameters, memory, parse_size
from tinypeft.claims.judge import Range
from tinypeft.claims.settings import LINEAR, NF4, NF4_PLAIN, PREFIX20, QKVO, WIDTH_64, lora
from tinypeft.claims.small_models import IDS, first_layer, inputs, toy_lora
from tinypeft.peft import LoraConfig, LoraLayer, PeftConfig, PeftModel
from tinypeft.quant import ScaledValues, equal_mass, get_4bit_type, lloyd_max, regions
from tinypeft.training import SGD, AdamW

SOMETHING = Range(above=0)
FITS = Range(high=1.0)  # the share of a card's memory
GB = 1e9
GB24, GB40, GB80 = parse_size("24GB"), parse_size("40GB"), parse_size("80GB")
BASES = {"nf4": NF4, "nf4, float32 constants": NF4_PLAIN, "16 bits": None}
STORED = ("base weights", "master weights", "gradients", "optimizer states")  # what does not depend on the tokens


# ---- counts ---------------------------------------------------------------------------------------------------------

Targets = str | tuple[str, ...]
ATTENTION = tuple(QKVO)
CHOICES: dict[str, Targets] = {"q": ("q_proj",), "q, k, v, o": ATTENTION, "all linear": LINEAR}  # of modules


@dataclass(frozen=True)
class _Method:
    """A config that can be looked up: by all that it prints."""

    text: str
    config: PeftConfig = field(compare=False)


def counts(model: str, method: PeftConfig) -> Counts:
    """`count_parameters`, which builds the model each time, with a memory."""
    return _counts(model, _Method(repr(method), method))


@functools.cache
def _counts(model: str, method: _Method) -> Counts:
    return count_parameters(model, method.config)


def share(model: str, method: PeftConfig) -> float:
    """Trained parameters, divided by those of the base alone; of layers beside the base, also the multiplications they add."""
    return counts(model, method).trainable / base_parameters(model)


def lora_on(r: int, targets: Targets) -> LoraConfig:
    """LoRA on modules that are named in a tuple, as `functools.cache` wants them."""
    return lora(r, targets if isinstance(targets, str) else list(targets))


def lora_counts(model: str, r: int, targets: Targets = ATTENTION) -> Counts:
    """What LoRA trains, and all there is."""
    return counts(model, lora_on(r, targets))


def lora_share(model: str, r: int, targets: Targets = ATTENTION) -> float:
    """What LoRA trains, divided by the parameters of the base alone."""
    return share(model, lora_on(r, targets))


def matrices_and_vectors(peft_model: PeftModel) -> tuple[int, int]:
    """How many numbers the trained matrices have, and the trained vectors: weights and biases of an adapter."""
    trained = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    return sum(p.size for p in trained if p.ndim == 2), sum(p.size for p in trained if p.ndim == 1)


@functools.cache
def adapters_of_7b() -> tuple[int, int]:
    """Weights and biases of adapters of width 64 in Llama-2-7B."""
    return matrices_and_vectors(adapted("llama-2-7b", WIDTH_64))


@functools.cache
def prefix_of_a_layer(model: str) -> tuple[int, int]:
    """The shape of the keys that a prefix of 20 tokens has in each layer."""
    peft_model = adapted(model, PREFIX20)
    tokens, width = peft_model.prompt_encoder["default"].embedding.weight.shape  # keys and values of all layers, side by side
    return tokens, width // (2 * peft_model.config.num_hidden_layers)


@functools.cache
def by_module(model: str, r: int) -> Mapping[str, int]:
    """How many parameters LoRA of rank r has on each kind of linear layer, in all layers together: q_proj -> number."""
    found: dict[str, int] = {}
    for layer in adapted(model, lora(r, "all-linear")).layers():
        name = layer.path.rpartition(".")[2]
        found[name] = found.get(name, 0) + sum(parameter.size for parameter in layer.parameters_of("default").values())
    return found


def all_choices(sizes: Mapping[str, int]) -> dict[str, int]:
    """Every choice of target modules that is not empty -> parameters: 127 for the seven kinds of a Llama.

    >>> all_choices({"q_proj": 2, "k_proj": 1})
    {'q': 2, 'k': 1, 'q, k': 3}
    """
    return {", ".join(name.removesuffix("_proj") for name in chosen): sum(sizes[name] for name in chosen)
            for count in range(1, len(sizes) + 1) for chosen in itertools.combinations(sizes, count)}


# ---- memory ---------------------------------------------------------------------------------------------------------

@functools.cache
def training(model: str, r: int, targets: Targets = ATTENTION, base: str = "nf4", *, tokens: int = 2048,
             checkpointing: bool = True, attention: str = "sdpa", adapter_dtype: str = "bfloat16", prepared: bool = False
             ) -> Breakdown:
    """What a LoRA training step needs: one row of tokens, products in bfloat16, and Adam in float32.

    Args:
        base: how the base is stored, one of BASES.
        prepared: whether its 16-bit weights were then stored in 32, by prepare_model_for_kbit_training.
    """
    return memory(model, lora_on(r, targets), quantization=BASES[base], tokens=tokens, checkpointing=checkpointing,
                  attention=attention, adapter_dtype=adapter_dtype, prepared=prepared)


def qlora_70b(modules: str = "q", base: str = "nf4", **setting: Any) -> Breakdown:
    """Training Llama-2-70B with r = 64 on one of CHOICES, as in the last document, whose 0.17 GB of adapter are those of q."""
    return training("llama-2-70b", 64, CHOICES[modules], base, **setting)


def adapter_cost(budget: Breakdown) -> float:
    """Bytes that go to the adapter: weights, gradients, which are as many and as wide, and optimizer states.

    (At the peak that `memory` finds not all gradients need be there.)
    """
    return 2 * budget.parts["adapter weights"] + budget.parts["optimizer states"]


@functools.cache
def base_bytes(model: str, base: str = "nf4", prepared: bool = False) -> float:
    """Bytes of a model's weights alone."""
    return memory(model, training=False, quantization=BASES[base], prepared=prepared).parts["base weights"]


@functools.cache
def full_training(model: str = "llama-2-70b", master_weights: bool = True) -> Breakdown:
    """What training all weights in 16 bits needs, with AdamW and master weights in 32, or none; one row, as for `training`."""
    return memory(model, master_weights=master_weights)


def before_activations(budget: Breakdown) -> float:
    """Weights, gradients and optimizer states."""
    return sum(budget.parts[part] for part in STORED)


def of_seventy_billion(*parts: str) -> float:
    """Bytes of these parts of full training if the model had 70 billion parameters, as the documents reckon."""
    return sum(full_training().parts[part] for part in parts) / base_parameters("llama-2-70b") * 70e9


# ---- codebooks ------------------------------------------------------------------------------------------------------

@functools.cache
def normal_blocks(blocksize: int = 64) -> ScaledValues:
    """Normally distributed weights in blocks, divided by their largest magnitude."""
    from scipy.special import ndtr, ndtri  # here, since `import tinypeft` is to be quick; scipy.stats would take seconds

    normal = SimpleNamespace(pdf=lambda x: np.exp(-x**2 / 2) / np.sqrt(2 * np.pi), cdf=ndtr, ppf=ndtri)
    return ScaledValues.of_distribution(normal, blocksize)


@functools.cache
def squared_error(codebook: str) -> float:
    """Relative mean squared error on normal weights in blocks of 64: of a 4-bit type, "lloyd-max" or "equal mass"."""
    scaled = normal_blocks()
    code, boundaries = (lloyd_max(scaled), None) if codebook == "lloyd-max" else (
        equal_mass(scaled) if codebook == "equal mass" else (get_4bit_type(codebook), None))
    return float(regions(code, scaled, boundaries)[1].sum())


# ---- first steps ----------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "Adam": lambda parameters: AdamW(parameters, lr=1e-3, eps=1e-30, weight_decay=0.0),
    "SGD": lambda parameters: SGD(parameters, lr=1e-3),
}


def first_change(optimizer: str, alpha: float, r: int = 2) -> np.ndarray:
    """The change of one weight that the first step of training makes."""
    model = toy_lora(lora(r, lora_alpha=alpha))
    model(IDS, labels=IDS).loss.backward()
    OPTIMIZERS[optimizer]([parameter for parameter in model.parameters() if parameter.requires_grad]).step()
    delta: np.ndarray = first_layer(model, "v_proj").delta_weight("default")
    return delta


def growth_of_first_change(optimizer: str) -> float:
    """How much larger the first change is if alpha is twice as large."""
    once, twice = (np.linalg.norm(first_change(optimizer, alpha)) for alpha in (2, 4))
    return float(twice / once)


def largest_stable_rate(alpha: float, r: int = 2) -> float:
    """The learning rate beyond which gradient descent on B diverges, for one layer, a squared error and a fixed A.

    The loss is quadratic in B: one step multiplies the distance to its lowest place by 1 - lr * H, which shrinks it in all
    directions while lr < 2 / (the largest eigenvalue of H). A column of H is how the gradient changes with one number of B.
    """
    layer: LoraLayer = first_layer(toy_lora(lora(r, lora_alpha=alpha)), "v_proj")
    B, x = layer.factors("default")[1], inputs(32, rows=40)

    def gradient(values: np.ndarray) -> np.ndarray:
        B.data, B.grad = values, None
        ((layer(x) - 1.0) ** 2).mean().backward()
        return np.asarray(B.grad).ravel()

    start, moves = gradient(np.zeros(B.shape)), np.eye(B.size).reshape(-1, *B.shape)
    return float(2 / np.linalg.eigvalsh(np.stack([gradient(move) - start for move in moves])).max())
