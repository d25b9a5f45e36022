"""Reverse-mode automatic differentiation: a Tensor, the tape it leaves behind, and `backward`.

A differentiable operation is a function of arrays that returns its value and its vector-Jacobian product, `vjp(g, needs)`.
`@op` makes it a function of Tensors: where an input wants a gradient, a Node is recorded that remembers the vjp. `backward`
walks the nodes from the newest to the oldest, since an operation is always younger than its inputs.

What is frozen costs nothing: an input that wants no gradient is never asked for one, and a computation in which nobody
wants one records nothing.
"""

from __future__ import annotations

import functools
import heapq
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np

from tinypeft.backend import Array, asarray, to_numpy

Vjp = Callable[[Array, tuple[bool, ...]], tuple[Any, ...]]
Value = tuple[Array, Vjp]  # what an operation on arrays returns


class Tensor:
    """An array, and whether a gradient with respect to it is wanted.

    Attributes:
        data: the array (NumPy, or CuPy on a GPU).
        grad: None, or the array of data's shape and dtype that `backward` has summed up.
        requires_grad: whether `backward` is to fill `grad` (for a result: whether a gradient passes through it).

    Args:
        data: an array (kept as it is, not copied), a number or nested lists (floats become float32).

    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    array([2., 4., 6.], dtype=float32)
    """

    __slots__ = ("data", "grad", "node", "requires_grad")
    __array_ufunc__ = None  # `array * tensor` asks the tensor, instead of taking it apart

    def __init__(self, data: Any, requires_grad: bool = False):
        if isinstance(data, np.generic):
            data = np.asarray(data)
        elif not hasattr(data, "dtype"):
            data = np.asarray(data)
            data = data.astype(np.float32) if data.dtype.kind == "f" else data
        if requires_grad and data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require a gradient, this one is {data.dtype}")
        self.data: Array = data
        self.grad: Array = None
        self.requires_grad = requires_grad
        self.node: Node | None = None

    def backward(self, grad: Array | None = None) -> None:
        """Add the derivatives of this tensor to the `.grad` of every leaf that it was computed from.

        Activations are freed on the way, so this works once for each forward pass.

        Args:
            grad: the cotangent, an array of this tensor's shape; may be left out for a single number.

        Raises:
            RuntimeError: nothing here requires a gradient, or the graph has been walked already.
            ValueError: `grad` is missing for a tensor of several numbers, or has another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() of a tensor that requires no gradient: all is frozen here, or under no_grad()")
        if grad is None and self.size == 1:
            grad = np.ones_like(self.data)
        elif grad is not None:
            grad = asarray(grad.data if isinstance(grad, Tensor) else grad, like=self.data).astype(self.dtype, copy=False)
        if grad is None or grad.shape != self.shape:
            raise ValueError(f"a tensor of shape {self.shape} needs a cotangent like it, got {getattr(grad, 'shape', None)}")
        if self.node is None:
            _deliver(self, self.shape, self.dtype, grad, shared=True)
        else:
            _walk(self.node, grad)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return len(self.data.shape)

    @property
    def size(self) -> int:
        return int(self.data.size)

    @property
    def T(self) -> Tensor:
        return ops.transpose(self)

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array (shared with the tensor, unless it lives on a GPU)."""
        return to_numpy(self.data)

    def item(self) -> float:
        """The value of a tensor of one number."""
        return self.data.item()

    def detach(self) -> Tensor:
        """The same values, cut off from the graph."""
        return Tensor(self.data)

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), precision=4, separator=", ", threshold=20, prefix="Tensor(")
        return f"Tensor({values}, dtype={self.dtype}{', requires_grad=True' if self.requires_grad else ''})"

    def __add__(self, other: Any) -> Tensor: return ops.add(self, other)
    def __radd__(self, other: Any) -> Tensor: return ops.add(other, self)
    def __sub__(self, other: Any) -> Tensor: return ops.subtract(self, other)
    def __rsub__(self, other: Any) -> Tensor: return ops.subtract(other, self)
    def __mul__(self, other: Any) -> Tensor: return ops.multiply(self, other)
    def __rmul__(self, other: Any) -> Tensor: return ops.multiply(other, self)
    def __truediv__(self, other: Any) -> Tensor: return ops.divide(self, other)
    def __rtruediv__(self, other: Any) -> Tensor: return ops.divide(other, self)
    def __matmul__(self, other: Any) -> Tensor: return ops.matmul(self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return ops.matmul(other, self)
    def __pow__(self, exponent: float) -> Tensor: return ops.power(self, exponent=float(exponent))
    def __neg__(self) -> Tensor: return ops.multiply(self, -1)
    def __getitem__(self, index: Any) -> Tensor: return ops.getitem(self, index=index)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape=shape)

    def transpose(self, *axes: Any) -> Tensor:
        return ops.transpose(self, axes=axes)


# ---- the tape: what an operation leaves behind ----------------------------------------------------------------------

# Called before and after each operation with (moment, phase, name, arrays): moment is "before" or "after", phase "forward" or
# "backward", arrays what goes in or what has come out. For steppers and profilers.
Observer = Callable[[str, str, str, tuple[Any, ...]], None]


def _nobody(moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
    """The observer while nobody observes."""


class Tape(threading.local):
    """What the operations of a thread must know."""

    recording = True
    probing = False  # in the first pass of a checkpoint: mark what would be recorded, but record nothing
    observer: Observer = staticmethod(_nobody)
    # What the first pass finds, by id: random generators, with the states to return to, and tensors computed before.
    generators: dict[int, Any] = {}  # noqa: RUF012
    outside: dict[int, Any] = {}  # noqa: RUF012


tape = Tape()
_clock = itertools.count()


class Node:
    """One recorded operation: its vjp, and for each input where the gradient goes (target, shape, dtype), or None."""

    __slots__ = ("born", "grad", "name", "needs", "owns_grad", "parents", "vjp")

    def __init__(self, name: str, inputs: tuple[Any, ...], needs: tuple[bool, ...], vjp: Vjp):
        self.name, self.needs = name, needs
        self.vjp: Vjp | None = vjp  # None once `backward` has passed
        self.parents = tuple([(x if x.node is None else x.node, x.data.shape, x.data.dtype) if need else None
                              for x, need in zip(inputs, needs, strict=True)])
        self.born = next(_clock)
        self.grad: Array = None
        self.owns_grad = False


class Piece(NamedTuple):
    """The gradient of a slice: zero but for `g` at `index`. The slices of one array add up in one buffer."""

    index: Any
    g: Array

    def add_to(self, buffer: Array) -> None:
        index = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(isinstance(i, slice | int | type(...) | type(None)) for i in index):
            buffer[self.index] += self.g
        else:
            np.add.at(buffer, self.index, self.g)  # an array index may name one place twice


def op(function: Callable[..., Value]) -> Callable[..., Tensor]:
    """Make a function of arrays that returns (value, vjp) a function of Tensors that returns a Tensor.

    The function's positional arguments are what it can be differentiated by (Tensors, or constants: arrays, numbers, None);
    options are keywords. `vjp(g, needs)` returns a gradient for each positional argument, None where `needs` is False;
    gradients may be left in broadcast shape, they are summed here. A returned gradient is `g` itself, a view, or a fresh
    array that the function does not keep. A function with an argument `needs` is told already in the forward pass who wants
    a gradient, so as to keep no array for a gradient that nobody wants.
    """
    name = function.__name__
    told = "needs" in inspect.signature(function).parameters

    @functools.wraps(function)
    def apply(*inputs: Any, **options: Any) -> Tensor:
        # A NumPy scalar becomes a Python number, so that `x * np.sqrt(2)` of a float32 tensor stays float32.
        arrays = tuple([x.data if isinstance(x, Tensor) else x.item() if isinstance(x, np.generic) else x for x in inputs])
        needs = tuple([isinstance(x, Tensor) and x.requires_grad for x in inputs])
        wanted = tape.recording and any(needs)
        if told:
            options["needs"] = needs if wanted else (False,) * len(needs)
        tape.observer("before", "forward", name, arrays)
        value, vjp = function(*arrays, **options)
        tape.observer("after", "forward", name, (value,))
        out = Tensor(value, requires_grad=wanted)
        if wanted and tape.probing:  # nothing in a checkpoint has a node yet: what has one comes from outside
            tape.outside.update({id(x): x for x in inputs if isinstance(x, Tensor) and x.node is not None})
        elif wanted:
            out.node = Node(name, inputs, needs, vjp)
        return out

    return apply


def _walk(root: Node, grad: Array) -> None:
    """Pull `grad` back from `root` to the leaves: always the youngest node next, each one once."""
    root.grad = grad
    waiting, ages = {root.born: root}, [-root.born]
    while ages:
        node = waiting.pop(-heapq.heappop(ages))
        if node.vjp is None:
            raise RuntimeError(f"backward() a second time through {node.name!r}, whose activations the first has freed: "
                               "run the forward pass again, or add up the losses and call backward() once")
        g, vjp, parents = node.grad, node.vjp, node.parents
        node.grad, node.vjp, node.parents = None, None, ()
        tape.observer("before", "backward", node.name, (g,))
        grads = vjp(g, node.needs)
        tape.observer("after", "backward", node.name, grads)
        for parent, gradient in zip(parents, grads, strict=False):
            if parent is not None and gradient is not None:
                target = parent[0]
                _deliver(*parent, gradient, shared=gradient is g)
                if isinstance(target, Node) and target.born not in waiting:
                    waiting[target.born] = target
                    heapq.heappush(ages, -target.born)


def _deliver(target: Node | Tensor, shape: tuple[int, ...], dtype: np.dtype, gradient: Array | Piece, shared: bool) -> None:
    """Add to the gradient of a node or leaf; in place, but never in an array that somebody else may see."""
    owned = isinstance(target, Tensor) or target.owns_grad
    if isinstance(gradient, Piece):
        if target.grad is None:
            target.grad = np.zeros_like(gradient.g, shape=shape)
        elif not owned:
            target.grad = target.grad.copy()
        gradient.add_to(target.grad)
        owned = True
    else:
        if gradient.shape != shape or isinstance(gradient, np.generic):
            gradient = unbroadcast(gradient, shape)
        if target.grad is not None and owned:
            target.grad += gradient
        elif target.grad is not None:
            target.grad, owned = target.grad + gradient, True
        else:
            owned = not shared and gradient.base is None
            target.grad = gradient.astype(dtype, copy=isinstance(target, Tensor) and not owned)
    if isinstance(target, Node):
        target.owns_grad = owned


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum `g` over the axes along which an array of `shape` was repeated: the vjp of broadcasting.

    >>> unbroadcast(np.ones((4, 2, 3)), (2, 1)).tolist()
    [[12.0], [12.0]]
    """
    extra = g.ndim - len(shape)
    repeated = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1)
    return g.sum(axis=repeated, keepdims=True).reshape(shape)


@contextmanager
def set_tape(**changes: Any) -> Iterator[None]:
    """Change what the tape knows, for the duration of a block."""
    before = {name: getattr(tape, name) for name in changes}
    vars(tape).update(changes)
    try:
        yield
    finally:
        vars(tape).update(before)


def no_grad() -> AbstractContextManager[None]:
    """A context in which nothing is recorded: for evaluation and generation."""
    return set_tape(recording=False)


def observe(observer: Observer) -> AbstractContextManager[None]:
    """A context in which `observer` is told before and after each operation, forward and backward."""
    return set_tape(observer=observer)


from tinypeft.autograd import ops  # noqa: E402  last, since ops is written in terms of the above
