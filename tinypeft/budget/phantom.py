"""Arrays that have a shape, but no values: what runs on them shows what memory it would take.

A Phantom stands in the place of a NumPy array wherever code goes through NumPy's dispatch protocols, as all of ours does for
the sake of GPUs. Each operation on it costs nothing, and enters the bytes that NumPy would allocate in a Ledger; they are
struck off when the last reference is gone, which in Python is the moment when NumPy would free them. Views share the bytes of
what they are a view of, and a temporary result that NumPy would reuse for the next one is reused.

So the memory of a training step is not described a second time here: the step itself is run.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_WORD = np.empty(1, np.complex128)  # what the shapes below are laid over; nobody reads it
_REUSED = 256 * 1024  # bytes from which on NumPy reuses a temporary array


class Entry:
    """One allocation: its bytes, what for, and the times at which it came and went (None: it is there still)."""

    __slots__ = ("born", "died", "kind", "nbytes")

    def __init__(self, nbytes: int, kind: str, born: int):
        self.nbytes, self.kind, self.born = nbytes, kind, born
        self.died: int | None = None


class Ledger:
    """All allocations of a run, in their order.

    Attributes:
        kind: what the next ones are for.
        live: bytes that are there now.
        peak, peak_time: most bytes so far, and when that was.
    """

    def __init__(self) -> None:
        self.kind, self.live, self.peak, self.time, self.peak_time = "", 0, 0, 0, 0
        self.entries: list[Entry] = []

    def allocate(self, nbytes: int) -> Block:
        self.time += 1
        self.live += nbytes
        if self.live > self.peak:
            self.peak, self.peak_time = self.live, self.time
        entry = Entry(nbytes, self.kind, self.time)
        self.entries.append(entry)
        return Block(self, entry)

    def array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Phantom:
        """A new array."""
        return Phantom(self, shape, np.dtype(dtype))

    def forget_peak(self) -> None:
        """Look for a new peak, from now on."""
        self.peak, self.peak_time = self.live, self.time

    def at(self, time: int) -> dict[str, int]:
        """kind -> bytes at that time."""
        found: dict[str, int] = {}
        for entry in self.entries:
            if entry.born <= time and (entry.died is None or entry.died > time):
                found[entry.kind] = found.get(entry.kind, 0) + entry.nbytes
        return found

    @contextmanager
    def of_kind(self, kind: str) -> Iterator[None]:
        """A block whose allocations are for `kind`."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before


class Block:
    """Owns an allocation: when it goes, so do the bytes."""

    __slots__ = ("entry", "ledger")

    def __init__(self, ledger: Ledger, entry: Entry):
        self.ledger, self.entry = ledger, entry

    def __del__(self) -> None:
        self.ledger.time += 1
        self.ledger.live -= self.entry.nbytes
        self.entry.died = self.ledger.time


class Phantom:
    """An array without values.

    Attributes:
        block: its bytes, shared with its views.
        layout: a NumPy array of its shape, dtype and strides, from which one must not read.
        base: None, or (for a view) the block.
    """

    __slots__ = ("base", "block", "layout")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, ledger: Ledger, shape: tuple[int, ...], dtype: np.dtype):
        self.block = ledger.allocate(math.prod(shape) * dtype.itemsize)
        self.layout = _layout(tuple(shape), dtype)
        self.base: Block | None = None

    def _new(self, shape: tuple[int, ...], dtype: Any = None) -> Phantom:
        return Phantom(self.block.ledger, shape, self.dtype if dtype is None else np.dtype(dtype))

    def _view(self, layout: np.ndarray) -> Phantom:
        view = object.__new__(Phantom)
        view.block, view.layout, view.base = self.block, layout, self.block
        return view

    # ---- what it looks like -----------------------------------------------------------------------------------------

    shape = property(lambda self: self.layout.shape)
    dtype = property(lambda self: self.layout.dtype)
    ndim = property(lambda self: self.layout.ndim)
    size = property(lambda self: self.layout.size)
    nbytes = property(lambda self: self.layout.nbytes)
    strides = property(lambda self: self.layout.strides)
    flags = property(lambda self: self.layout.flags)
    T = property(lambda self: self._view(self.layout.T))
    real = property(lambda self: self)

    def __len__(self) -> int:
        return len(self.layout)

    def __bool__(self) -> bool:
        """Checks are passed: all is finite, say."""
        return True

    def __array_namespace__(self) -> Any:
        return _Namespace

    def __repr__(self) -> str:
        return f"Phantom{self.shape} of {self.dtype}"

    # ---- methods of arrays ------------------------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Phantom:
        """A view where NumPy gives one, else a copy."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        try:
            return self._view(np.reshape(self.layout, tuple(wanted), copy=False))
        except ValueError:
            known = math.prod(n for n in wanted if n != -1)
            return self._new(tuple(self.size // known if n == -1 else n for n in wanted))

    def transpose(self, *axes: Any) -> Phantom:
        return self._view(self.layout.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> Phantom:
        return self._view(self.layout.swapaxes(a, b))

    def copy(self) -> Phantom:
        return self._new(self.shape)

    def astype(self, dtype: Any, copy: bool = True) -> Phantom:
        return self if not copy and np.dtype(dtype) == self.dtype else self._new(self.shape, dtype)

    def item(self) -> float:
        return 0.0

    def tolist(self) -> Any:
        return np.zeros(self.shape, self.dtype).tolist()

    def _reduce(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Phantom:
        axes = range(self.ndim) if axis is None else [a % self.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
        kept = [1 if i in axes else n for i, n in enumerate(self.shape) if keepdims or i not in axes]
        return self._new(tuple(kept), dtype)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Phantom:
        return self._reduce(axis, keepdims)

    mean = max = min = sum

    def any(self, axis: Any = None) -> Phantom:
        return self._reduce(axis, dtype=bool)

    all = any

    def __getitem__(self, index: Any) -> Phantom:
        """A view for slices and integers; a copy for arrays of indices, which go first."""
        parts = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(part, np.ndarray | list) for part in parts):
            return self._view(self.layout[index])
        return self._new(np.empty(self.shape[:len(parts)], bool)[index].shape + self.shape[len(parts):])

    def __setitem__(self, index: Any, values: Any) -> None:
        """Nothing is allocated."""

    # ---- arithmetic -------------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None or method == "at":
            return None if out is None else out[0]
        if method == "reduce":
            return inputs[0]._reduce(options.get("axis", 0), options.get("keepdims", False))
        shapes = [getattr(x, "shape", ()) for x in inputs]
        dtypes = tuple([getattr(x, "dtype", None) or type(x) for x in inputs])
        shape = _matmul_shape(*shapes) if ufunc is np.matmul else np.broadcast_shapes(*shapes)
        return self._new(shape, _result_dtype(ufunc, dtypes))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in FUNCTIONS:
            raise NotImplementedError(f"np.{function.__name__} is not known for arrays without values")
        return FUNCTIONS[function](*args, **kwargs)


class _Probe:
    def __add__(self, other: Any) -> int:
        return sys.getrefcount(self)


_TEMPORARY = _Probe() + 0  # references to an array that only the expression itself holds


def _reusable(references: int, x: Phantom, other: Any) -> bool:
    """Whether NumPy computes an operation of x and another array in the place of x."""
    return (references <= _TEMPORARY and x.base is None and x.nbytes >= _REUSED
            and (other is None or (getattr(other, "shape", None) == x.shape and other.dtype == x.dtype)))


def _operators() -> None:
    """a + b and its like; the result takes the place of a, or of b where the two may change places, if that is temporary."""
    def arithmetic(ufunc: np.ufunc) -> Any:
        def operator(self: Phantom, other: Any) -> Any:
            if _reusable(sys.getrefcount(self), self, other):
                return self
            if ufunc in (np.add, np.multiply) and isinstance(other, Phantom) and _reusable(sys.getrefcount(other), other, self):
                return other
            return ufunc(self, other)
        return operator

    def negative(self: Phantom) -> Phantom:
        return self if _reusable(sys.getrefcount(self), self, None) else np.negative(self)

    def plain(ufunc: np.ufunc) -> Any:
        return lambda self, *other: ufunc(self, *other)

    def reflected(ufunc: np.ufunc) -> Any:
        return lambda self, other: ufunc(other, self)

    operators: dict[str, Any] = {"neg": negative, "invert": plain(np.invert)}
    ufuncs: dict[str, Any] = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide}
    for name, ufunc in ufuncs.items():
        operators |= {name: arithmetic(ufunc), f"r{name}": reflected(ufunc), f"i{name}": lambda self, other: self}
    others: dict[str, Any] = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
                              "ge": np.greater_equal, "and": np.bitwise_and, "pow": np.power, "matmul": np.matmul}
    operators |= {name: plain(ufunc) for name, ufunc in others.items()}
    operators["rmatmul"] = reflected(np.matmul)
    for name, operator in operators.items():
        setattr(Phantom, f"__{name}__", operator)


_operators()


@functools.lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of this shape and dtype over next to nothing."""
    steps = [math.prod(shape[i + 1:]) * dtype.itemsize for i in range(len(shape))]
    return np.lib.stride_tricks.as_strided(_WORD.view(np.uint8)[:dtype.itemsize].view(dtype), shape, steps)


@functools.lru_cache(maxsize=1024)
def _result_dtype(ufunc: np.ufunc, dtypes: tuple[Any, ...]) -> np.dtype:
    known = tuple([d if isinstance(d, np.dtype) else int if d is bool else d for d in dtypes])
    return ufunc.resolve_dtypes((*known, *[None] * ufunc.nout))[-1]


def _matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if a[-1] != b[-2]:
        raise ValueError(f"matmul of shapes {a} and {b}")
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


class _Namespace:
    """What backend.asarray finds: arrays stay what they are, since indices, masks and angles have values here too."""

    @staticmethod
    def asarray(x: Any) -> Any:
        return x if isinstance(x, Phantom) else np.asarray(x)


# ---- functions of NumPy ---------------------------------------------------------------------------------------------

def _like(x: Any, dtype: Any = None, *, shape: Any = None, fill: float = 0) -> Any:
    """A new array; one of integers, as indices are, has values."""
    shape = x.shape if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
    if dtype is not None and np.dtype(dtype) == np.int64:
        return np.full(shape, fill, np.int64)
    return x._new(shape, dtype)


def _full_like(x: Any, fill: Any, dtype: Any = None, *, shape: Any = None) -> Any:
    return _like(x, dtype, shape=shape, fill=fill)


def _first(xs: Any) -> Phantom:
    return next(x for x in xs if isinstance(x, Phantom))


def _concatenate(arrays: Any, axis: int = 0) -> Phantom:
    shape = list(arrays[0].shape)
    shape[axis] = sum(x.shape[axis] for x in arrays)
    return _first(arrays)._new(tuple(shape), np.result_type(*[x.dtype for x in arrays]))


def _split(x: Phantom, where: Any, axis: int = 0) -> list[Phantom]:
    return [x._view(part) for part in np.split(x.layout, where, axis=axis)]


def _where(condition: Any, a: Any, b: Any) -> Phantom:
    shapes = [getattr(x, "shape", ()) for x in (condition, a, b)]
    numbers = [getattr(x, "dtype", x) for x in (a, b)]
    return _first((condition, a, b))._new(np.broadcast_shapes(*shapes), np.result_type(*numbers))


def _einsum(subscripts: str, *arrays: Any) -> Phantom:
    """For the one use that there is: inner products over the last axis."""
    if subscripts not in ("...d,...d->...", "bhtd,bhtd->bht"):
        raise NotImplementedError(f"einsum {subscripts!r} is not known for arrays without values")
    return _first(arrays)._new(arrays[0].shape[:-1])


def _norm(x: Any, axis: int | None = None) -> Any:
    return 1.0 if axis is None else x.copy().sum(axis)  # of the squares


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.zeros_like: _like, np.ones_like: functools.partial(_like, fill=1), np.empty_like: _like, np.full_like: _full_like,
    np.concatenate: _concatenate, np.split: _split, np.where: _where, np.einsum: _einsum, np.linalg.norm: _norm,
    np.clip: lambda x, low, high: x.copy(), np.copyto: lambda *args, **kwargs: None,
    np.expand_dims: lambda x, axis: x._view(np.expand_dims(x.layout, axis)),
    np.broadcast_to: lambda x, shape: x._view(np.broadcast_to(x.layout, shape)),
    np.flatnonzero: lambda x: np.zeros(0, np.int64),  # no column has an outlier
    np.sort: lambda x: x.copy(), np.take_along_axis: lambda x, indices, axis: x.copy(),
}
