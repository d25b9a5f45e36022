"""How many bytes the weights of a model take, tensor by tensor: in 16 or 32 bits, or in the codes of bitsandbytes.

    4 bits          ceil(n / 2) bytes of codes, and for each block of 64 numbers 4 bytes, its maximum
    with double quantization            one byte instead, and for each 256 blocks 4 bytes; and 4 bytes for the mean
    8 bits          n bytes of codes, and for each row 4 bytes

Which weights are quantized is not decided here: `replace_with_bnb_linear` is asked, on a model without values.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

from tinypeft.budget.catalog import build
from tinypeft.budget.units import names_known
from tinypeft.nn import CausalLM, Parameter
from tinypeft.peft import PeftConfig, PeftModel, get_peft_model
from tinypeft.quant import BitsAndBytesConfig, replace_with_bnb_linear
from tinypeft.quant.blockwise import NESTED_BLOCKSIZE
from tinypeft.quant.linear import QuantizedParameter

DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}  # bytes of a number
BLOCKSIZE = 64  # numbers that share a maximum in 4-bit layers


def dtype_bytes(dtype: str, what: str = "dtype") -> int:
    """Bytes of a number.

    Raises:
        ValueError: an unknown dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"{what} {dtype!r} is unknown; {names_known(name, DTYPES)}")
    return DTYPES[name]


def bare_model(model: str | CausalLM, quantization: BitsAndBytesConfig | None = None) -> CausalLM:
    """A model of that shape on the meta device, quantized if asked for; what was given is left alone.

    Raises:
        ValueError: an unknown name, a model that carries adapters or is quantized already, or nothing in it to quantize.
    """
    if isinstance(model, str):
        bare = build(model)
    elif not isinstance(model, CausalLM) or model.adapted:
        raise ValueError(f"expected a model's name, or a model without adapters, got {type(model).__name__}: pass the base, "
                         "and the adapter's config as `method`")
    else:
        config: Any = copy.deepcopy(model.config)
        given = config.extra.pop("quantization_config", None)
        bare = type(model)(config)  # type: ignore[call-arg]
        if given is not None and quantization is None:
            quantization = BitsAndBytesConfig.from_dict(given)
    return bare if quantization is None else replace_with_bnb_linear(bare, quantization)


def adapter_parameters(adapted: CausalLM | PeftModel) -> list[Parameter]:
    """The parameters that an adapter's file holds."""
    if not isinstance(adapted, PeftModel):
        return []
    return [parameter for name in adapted.peft_config for parameter in adapted.parameters_of(name).values()]


def adapt(bare: CausalLM, method: PeftConfig | None) -> CausalLM | PeftModel:
    """The model with the method's adapter in it; itself for None."""
    return bare if method is None else get_peft_model(bare, method)


def parameter_bytes(parameter: Parameter, itemsize: int) -> int:
    """Bytes of one tensor: its codes and their constants if it is quantized, else `itemsize` for each number."""
    if not isinstance(parameter, QuantizedParameter):
        return parameter.size * itemsize
    if parameter.config.load_in_8bit:
        return parameter.size + 4 * parameter.matrix_shape[0]
    blocks = -(-parameter.size // BLOCKSIZE)
    nested = blocks + 4 * -(-blocks // NESTED_BLOCKSIZE) + 4
    return (parameter.size + 1) // 2 + (nested if parameter.config.bnb_4bit_use_double_quant else 4 * blocks)


def weight_bytes(model: CausalLM, itemsize: int, prepared: bool = False) -> int:
    """Bytes of all weights of a model without adapters.

    Args:
        itemsize: bytes of a number that is not quantized.
        prepared: numbers of 16 bits are stored in 32, as prepare_model_for_kbit_training leaves them.
    """
    return sum(parameter_bytes(parameter, max(itemsize, 4) if prepared else itemsize) for parameter in model.parameters())


def optimizer_bytes(shapes: Mapping[tuple[int, ...], int], optimizer: str) -> int:
    """Bytes of an optimizer's states.

    Args:
        shapes: shape of a trained tensor -> how many have it.

    Raises:
        ValueError: an unknown optimizer.

    >>> optimizer_bytes({(8, 4096): 64}, "adamw")
    16777216
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer {optimizer!r} is unknown; known: {', '.join(OPTIMIZERS)}")
    return sum(OPTIMIZERS[optimizer](shape) * count for shape, count in shapes.items())


def _adamw_8bit(shape: tuple[int, ...]) -> int:
    """bitsandbytes: two bytes a number and, for each 256 of them, two float32; tensors below 4,096 numbers stay in float32."""
    n = math.prod(shape)
    return 2 * n + 8 * -(-n // 256) if n >= 4096 else 8 * n


def _adafactor(shape: tuple[int, ...]) -> int:
    """Of a matrix the mean squares of its rows and of its columns, of a vector those of its numbers; in float32."""
    return 4 * (math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))) if len(shape) > 1 else 4 * math.prod(shape)


OPTIMIZERS: dict[str, Callable[[tuple[int, ...]], int]] = {
    "adamw": lambda shape: 8 * math.prod(shape),  # two means in float32
    "adamw_8bit": _adamw_8bit,
    "paged_adamw_8bit": _adamw_8bit,  # the same, which may be moved to the CPU's memory where the GPU's is full
    "sgd": lambda shape: 0,
    "sgd_momentum": lambda shape: 4 * math.prod(shape),
    "adafactor": _adafactor,
}
BARE_OPTIMIZERS = ("adamw", "sgd", "sgd_momentum")  # those of this library
