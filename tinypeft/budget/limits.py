"""What a plan has to keep to: the cards, the parameters that may be trained, latency, and how training is done."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tinypeft.budget.methods import NF4, QUANTIZATIONS, RANK, TOKENS, WIDTH, Method, Targets, stored_as
from tinypeft.budget.units import format_bytes, parse_quantity, parse_size
from tinypeft.budget.weights import bare_model
from tinypeft.nn import CausalLM
from tinypeft.quant import BitsAndBytesConfig

MARGIN = 0.05  # share to be kept free, on top of what is computed: an allocator cannot use every byte
SMALLEST = 10**6  # bytes of a card that may be given as a bare number, which else was hardly meant as bytes
TEXT = 2048  # tokens in a row, if nothing is said


@dataclass(frozen=True)
class Limits:
    """What a configuration has to keep to.

    Attributes:
        gpu: bytes of one card.
        gpus: cards, among which weights, gradients and optimizer states are sharded.
        trainable_max: parameters that may be trained; None for any number.
        latency_critical: nothing may be added to a forward pass.
        quantization: how the base of every adapter is stored; None for `dtype` (and NF4 for QLoRA).
        prepared: whether a quantized base has been through prepare_model_for_kbit_training.
        targets: target_modules of the methods that have a rank.
        sizes: RANK, TOKENS or WIDTH -> the size that is wanted.
        conditions: arguments of `memory`, the margin included.
    """

    gpu: float
    gpus: int = 1
    trainable_max: float | None = None
    latency_critical: bool = False
    quantization: BitsAndBytesConfig | None = None
    prepared: bool = False
    targets: Targets = "all-linear"
    sizes: dict[str, int] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of text, in each row."""
        return self.conditions["tokens"]

    @property
    def card(self) -> str:
        """The cards, in words."""
        size = format_bytes(self.gpu).replace(".00", "")
        return f"the card has {size}" if self.gpus == 1 else f"each of {self.gpus} cards has {size}"

    @property
    def dtype(self) -> str:
        """Of a base that is not quantized."""
        return self.conditions.get("dtype", "bfloat16")

    def stored(self, method: Method) -> BitsAndBytesConfig | None:
        """How a method's base is quantized, if it is."""
        stored = NF4 if method.four_bit else self.quantization if method.make else None
        if stored is not None and self.conditions.get("engine") == "tinypeft":  # which has no arithmetic in bfloat16
            stored = replace(stored, bnb_4bit_compute_dtype=None)
        return stored

    def stored_as(self, method: Method) -> str:
        """The same in a word: "bfloat16", "NF4", "int8"."""
        stored = self.stored(method)
        return self.dtype if stored is None else stored_as(stored)


def limits_of(gpu: str | float, model: str | CausalLM, *, gpus: int = 1, rank: int | None = None,
              virtual_tokens: int | None = None, bottleneck: int | None = None, trainable_max: str | float | None = None,
              latency_critical: bool = False, target_modules: Targets = "all-linear",
              quantization: str | BitsAndBytesConfig | None = None, prepared: bool = False, tokens: int | None = None,
              margin: float = MARGIN, **conditions: Any) -> Limits:
    """The limits that a plan keeps to.

    Args:
        gpu: as for `plan`.
        model: as for `plan`; a share in trainable_max is one of its parameters.
        gpus: cards, among which weights, gradients and optimizer states are sharded.
        rank, virtual_tokens, bottleneck: the size wanted of the methods that have it, instead of the usual one.
        trainable_max: most parameters to train: 100_000_000, "100M", or "0.5%" of the model's.
        latency_critical: nothing may be added to a forward pass.
        target_modules: of the methods that have a rank.
        quantization: how the base of every adapter is stored: "nf4", "fp4", "int8", or a config. QLoRA's is in NF4 anyway.
        prepared: a quantized base has been through prepare_model_for_kbit_training, which stores in float32 what is not
            quantized (embeddings, head, norms).
        tokens: of text, in each row; None for 2,048, or all positions of a model that has fewer.
        margin: share of memory to be kept free.
        conditions: arguments of `memory`: batch, optimizer, checkpointing, ...

    Raises:
        ValueError: what cannot be read, or cannot be.
    """
    sizes = {name: size for name, size in ((RANK, rank), (TOKENS, virtual_tokens), (WIDTH, bottleneck)) if size is not None}
    for name, value in {"gpus": gpus, **sizes}.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1")
    if not 0 <= margin < 1:
        raise ValueError(f"margin={margin!r}: a share of the memory in [0, 1), such as 0.05")
    size = parse_size(gpu, "the card's memory") if isinstance(gpu, str) else float(gpu)
    if not isinstance(gpu, str) and 0 < size < SMALLEST:
        raise ValueError(f"the card's memory {gpu!r} is a number of bytes, and fewer than {SMALLEST:,}: for gigabytes write "
                         f"text, \"{gpu:g}GB\"; if bytes are meant, \"{gpu:g} bytes\"")
    if not 0 < size < float("inf"):
        raise ValueError(f"the card's memory {gpu!r}: a number of bytes above 0, or text such as \"24GB\"")
    if conditions.get("engine") == "tinypeft" and conditions.get("dtype", "bfloat16") == "bfloat16":
        conditions["dtype"] = "float32"  # what it computes in instead
    if tokens is None:
        tokens = min(TEXT, bare_model(model).config.max_position_embeddings)
    if isinstance(quantization, str):
        if quantization.lower() not in QUANTIZATIONS:
            raise ValueError(f"quantization {quantization!r} is unknown; known: {', '.join(QUANTIZATIONS)}")
        quantization = QUANTIZATIONS[quantization.lower()]
    return Limits(size, gpus, _most_trained(trainable_max, model), latency_critical, quantization, prepared,
                  target_modules, sizes, {"tokens": tokens, **conditions, "margin": margin})


def _most_trained(given: str | float | None, model: str | CausalLM) -> float | None:
    """How many parameters may be trained, from "100M", "0.5%" or a number."""
    if given is None:
        return None
    try:
        quantity = parse_quantity(given if isinstance(given, str) else repr(given))
    except ValueError as error:
        raise ValueError(f"trainable_max {given!r}: {error}") from None
    value = quantity.value
    if quantity.measure == "%":
        value *= sum(parameter.size for parameter in bare_model(model).parameters())
    if quantity.measure not in ("", "%"):
        raise ValueError(f"trainable_max {given!r}: expected a number of parameters such as 100M, or a share such as 0.5%")
    if not 1 <= value < float("inf"):
        raise ValueError(f"trainable_max {given!r} is {value:.4g} parameters, which leaves nothing to train. Write a number "
                         "such as 100M, or a share of the model's such as 0.5%")
    return value
