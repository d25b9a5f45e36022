"""Linear layers with quantized weights.

    y = x W^T + b        dx = g W        W (out, in) dequantized from its codes, for each of the two products anew

W is frozen: it has no gradient. It is in floating point only while it is used, one layer's at a time. Adapters are put on top
as on any linear layer; LoRA on 4-bit weights is QLoRA (Dettmers et al. 2023, 2305.14314).

In files they have bitsandbytes' names and layout: see `stored`, and `gather` for the way back.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.autograd.functional import column_sums
from tinypeft.autograd.tensor import Value, Vjp, op
from tinypeft.backend import Array
from tinypeft.nn import Conv1D, Linear, Parameter, refuse_meta
from tinypeft.nn.layers import check_width
from tinypeft.quant.blockwise import QuantState, dequantize_4bit, quantize_4bit
from tinypeft.quant.config import BitsAndBytesConfig
from tinypeft.quant.int8 import int8_mixed_scaled_mm, int8_vectorwise_dequant, int8_vectorwise_quant

HALF_RANGE = np.finfo(np.float16).min, np.finfo(np.float16).max


@dataclass
class Stored:
    """What a model file has for one quantized matrix: codes, and what makes numbers of them; `shape` as a float file has it."""

    data: Array
    scales: Any
    shape: tuple[int, ...]


class QuantizedParameter(Parameter):
    """A frozen matrix (out, in) in fewer bits.

        codes                  data, shape, dtype
        numbers                values(), matrix_shape, matrix_dtype, size
        numbers, in files      values_shape (transposed for GPT-2), values_dtype

    Attributes:
        config: how it is quantized.
        scales: what turns codes into numbers; None without values ("meta").
        transposed: whether float model files have it as (in, out), as GPT-2's do.
    """

    __slots__ = ("config", "matrix_dtype", "matrix_shape", "scales", "transposed")
    quantized: ClassVar[bool] = True

    def __init__(self, matrix_shape: tuple[int, int], config: BitsAndBytesConfig, transposed: bool = False):
        super().__init__(matrix_shape)
        self.requires_grad, self.config, self.transposed = False, config, transposed
        self.matrix_shape, self.matrix_dtype = matrix_shape, np.dtype(np.float32)
        self.scales: Any = None

    @property
    def size(self) -> int:
        """How many numbers it stands for, not how many codes there are."""
        return int(np.prod(self.matrix_shape))

    @property
    def values_shape(self) -> tuple[int, ...]:
        return self._as_in_files(self.matrix_shape)

    @property
    def values_dtype(self) -> np.dtype:
        return self.matrix_dtype

    def cast(self, dtype: np.dtype) -> None:
        self.matrix_dtype = dtype

    def with_values(self, values: Array) -> Self:
        new = copy.copy(self)
        new.quantize(values.astype(self.matrix_dtype, copy=False))
        return new

    def load(self, values: Array, dtype: np.dtype | None = None) -> None:
        self.cast(dtype or self.matrix_dtype)
        if isinstance(values, Stored):
            self.data, self.scales = values.data, values.scales
        elif (matrix := np.asarray(values)).dtype.kind != "f":
            raise ValueError(f"a matrix of {matrix.dtype} without the scales that make numbers of its codes")
        else:
            matrix = matrix.astype(self.matrix_dtype, copy=False)
            self.quantize(matrix.T if self.transposed else matrix)

    def _as_in_files(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1] if self.transposed else shape

    def quantize(self, matrix: Array) -> None:
        """Take over numbers (out, in)."""
        raise NotImplementedError


class Params4bit(QuantizedParameter):
    """4 bits a number, two in a byte (ceil(n / 2), 1); `scales` is a QuantState. See blockwise.py."""

    __slots__ = ()

    def __init__(self, matrix_shape: tuple[int, int], config: BitsAndBytesConfig, transposed: bool = False):
        super().__init__(matrix_shape, config, transposed)
        self.data = np.broadcast_to(np.uint8(0), ((self.size + 1) // 2, 1))

    @property
    def quant_state(self) -> QuantState:
        """bitsandbytes' name for it."""
        state: QuantState = self.scales
        return state

    def quantize(self, matrix: Array) -> None:
        self.data, self.scales = quantize_4bit(matrix, self.config.bnb_4bit_quant_type,
                                               compress_statistics=self.config.bnb_4bit_use_double_quant)

    def values(self) -> Array:
        return dequantize_4bit(self.data, self.quant_state).astype(self.matrix_dtype, copy=False)

    def stored(self, name: str) -> dict[str, Array]:
        """weight, weight.absmax, weight.quant_map, ..., and bytes of JSON with the rest."""
        parts = {} if self.is_meta else self.quant_state.as_dict(packed=True)
        return {name: self.data, **{f"{name}.{key}": array for key, array in parts.items()}}

    def gather(self, name: str, state: dict[str, Any]) -> None:
        parts = {key.removeprefix(f"{name}."): np.asarray(state.pop(key)) for key in list(state) if key.startswith(f"{name}.")}
        if not parts:  # a float matrix, to be quantized
            return
        try:
            scales = QuantState.from_dict(parts)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        codes, needed = np.asarray(state.get(name)), ((int(np.prod(scales.shape)) + 1) // 2, 1)
        if (codes.shape, codes.dtype) != (needed, np.uint8):
            raise ValueError(f"{name}: its codes are missing or not uint8 of shape {needed}, as its state says")
        state[name] = Stored(codes, scales, self._as_in_files(scales.shape))


class Int8Params(QuantizedParameter):
    """8 bits a number, int8 (out, in); `scales` are the rows' absmax, float32 (out,). See int8.py."""

    __slots__ = ()

    def __init__(self, matrix_shape: tuple[int, int], config: BitsAndBytesConfig, transposed: bool = False):
        super().__init__(matrix_shape, config, transposed)
        self.data = np.broadcast_to(np.int8(0), matrix_shape)

    def quantize(self, matrix: Array) -> None:
        """As in bitsandbytes, by way of float16."""
        self.data, self.scales, _ = int8_vectorwise_quant(matrix.astype(np.float16))

    def values(self) -> Array:
        return int8_vectorwise_dequant(self.data, self.scales).astype(self.matrix_dtype, copy=False)

    def stored(self, name: str) -> dict[str, Array]:
        """weight, SCB, and weight_format, which is 0: row after row."""
        layer, scales = name.removesuffix("weight"), {} if self.is_meta else {"SCB": self.scales}
        return {name: self.data, **{f"{layer}{key}": array for key, array in scales.items()},
                f"{layer}weight_format": np.zeros((), np.uint8)}

    def gather(self, name: str, state: dict[str, Any]) -> None:
        layer = name.removesuffix("weight")
        if np.any(state.pop(f"{layer}weight_format", 0)):
            raise ValueError(f"{name}: its codes are not stored row after row (weight_format 0), all that is known here")
        if f"{layer}SCB" in state:
            scales, codes = np.asarray(state.pop(f"{layer}SCB")), np.asarray(state.get(name))
            if codes.dtype != np.int8 or codes.shape[:1] != scales.shape or not np.isfinite(scales).all():
                raise ValueError(f"{name}: its codes are missing, not int8, or have another number of rows than {layer}SCB; or "
                                 "this is not finite")
            state[name] = Stored(codes, scales, self._as_in_files(codes.shape))


class QuantizedLinear(Linear):
    """What both kinds share.

    Args:
        config: how the weight is quantized.
        transposed: whether it takes the place of a Conv1D.
    """

    kind: ClassVar[type[QuantizedParameter]]
    weight: Any

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, config: BitsAndBytesConfig,
                 transposed: bool = False):
        super().__init__(in_features, out_features, bias)
        self.weight = self.kind((out_features, in_features), config, transposed)

    @classmethod
    def of(cls, layer: Linear | Conv1D, config: BitsAndBytesConfig) -> Self:
        """A linear layer's quantized form, with the same bias; without values if it has none."""
        new = cls(layer.in_features, layer.out_features, False, config=config, transposed=isinstance(layer, Conv1D))
        new.bias = layer.bias
        new.weight.cast(layer.weight.dtype)
        if not layer.weight.is_meta:
            new.weight.quantize(layer.weight.data.T if new.weight.transposed else layer.weight.data)
        return new

    def dequantized(self) -> Linear | Conv1D:
        """The layer in floating point, with the numbers that the codes stand for; what it was before, but for rounding."""
        refuse_meta([self.weight], "there is nothing to dequantize")
        layer: Linear | Conv1D
        if self.weight.transposed:
            layer = Conv1D(self.out_features, self.in_features)
            layer.weight.data = self.weight.values().T.copy()
        else:
            layer = Linear(self.in_features, self.out_features, bias=False)
            layer.weight.data = self.weight.values()
        layer.weight.requires_grad, layer.bias = False, self.bias
        return layer


class Linear4bit(QuantizedLinear):
    """y = x W^T + b with W in 4-bit blocks."""

    kind = Params4bit

    def forward(self, x: Tensor) -> Tensor:
        check_width(x, self)
        return linear_4bit(x, self.bias, weight=self.weight)  # (..., in) -> (..., out)


class Linear8bitLt(QuantizedLinear):
    """y = x W^T + b with W in int8, and x rounded to int8 on the way, but for its outliers: LLM.int8()."""

    kind = Int8Params

    def forward(self, x: Tensor) -> Tensor:
        check_width(x, self)
        return linear_8bit(x, self.bias, weight=self.weight)  # (..., in) -> (..., out)


@op
def linear_4bit(x: Array, bias: Array | None = None, *, weight: Params4bit) -> Value:
    """y = x W^T + b.  x (..., in), bias (out,) -> (..., out); computed in the config's dtype, returned in that of x."""
    rows = x.reshape(-1, x.shape[-1]).astype(weight.config.compute_dtype(x), copy=False)  # (N, in)
    y = rows @ weight.values().astype(rows.dtype, copy=False).T  # (N, in) @ (in, out) -> (N, out)
    return _finished(y, x, bias), _vjp(x.shape, weight)


@op
def linear_8bit(x: Array, bias: Array | None = None, *, weight: Int8Params) -> Value:
    """y = x W^T + b, with the rows of x quantized too.  x (..., in), bias (out,) -> (..., out).

    The gradient is that of the product with x as it was: rounding has none. Where there is no threshold, numbers beyond
    float16's range are cut off at its ends.
    """
    rows = x.reshape(-1, x.shape[-1])  # (N, in)
    broken = ~np.isfinite(rows).all(axis=1)
    half = np.clip(np.where(broken[:, None], 0, rows), *HALF_RANGE).astype(np.float16)
    codes, absmax, columns = int8_vectorwise_quant(half, weight.config.llm_int8_threshold)
    y = int8_mixed_scaled_mm(rows, codes, weight.data, absmax, weight.scales, columns)  # (N, out)
    y[broken] = np.nan  # as in any other layer, for the training loop to report
    return _finished(y, x, bias), _vjp(x.shape, weight)


def _finished(y: Array, x: Array, bias: Array | None) -> Array:
    """y (N, out) with the bias, in the shape and dtype that x asks for."""
    if bias is not None:
        y += bias
    return y.astype(x.dtype, copy=False).reshape(*x.shape[:-1], y.shape[-1])


def _vjp(shape: tuple[int, ...], weight: QuantizedParameter) -> Vjp:
    """dx = g W, db = sum g."""
    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        g = g.reshape(-1, g.shape[-1])  # (N, out)
        return ((g @ weight.values().astype(g.dtype, copy=False)).reshape(shape) if needs[0] else None,
                column_sums(g) if len(needs) > 1 and needs[1] else None)

    return vjp
