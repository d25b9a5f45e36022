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
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinypeft.backend import Array, to_numpy

Vjp = Callable[[Array, tuple[bool, ...]], tuple[Any, ...]]


class Observer(Protocol):
    """Sees each operation; `phase` is "forward" or "backward". For steppers and profilers."""

    def before(self, phase: str, name: str, inputs: tuple[Any, ...]) -> None: ...
    def after(self, phase: str, name: str, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None: ...


class _Tape(threading.local):
    """What the operations of this thread must know."""

    recording = True
    probing = False  # inside the first pass of `checkpoint`: mark what would be recorded, record nothing
    observer: Observer | None = None
    generators: dict[int, tuple[np.random.Generator, Any]] | None = None  # random states seen inside `checkpoint`


_tape = _Tape()
_clock = itertools.count()


class Node:
    """One recorded operation: how its gradient is pulled back, and where to."""

    __slots__ = ("born", "grad", "name", "needs", "owns_grad", "parents", "vjp")

    def __init__(self, name: str, parents: tuple[tuple[Node | Tensor, tuple[int, ...], Any] | None, ...], vjp: Vjp):
        self.name, self.parents, self.vjp = name, parents, vjp
        self.needs = tuple(parent is not None for parent in parents)
        self.born = next(_clock)
        self.grad: Array = None
        self.owns_grad = False

    def receive(self, g: Array | Piece, shape: tuple[int, ...]) -> None:
        """Add `g` to the gradient that has arrived so far, in place only in a buffer that nobody else can see."""
        if isinstance(g, Piece):
            if not self.owns_grad:
                self.grad = g.zeros(shape) if self.grad is None else self.grad.copy()
                self.owns_grad = True
            g.add_to(self.grad)
        elif self.grad is None:
            self.grad = g
        elif self.owns_grad:
            self.grad += g
        else:
            self.grad, self.owns_grad = self.grad + g, True


class Piece(NamedTuple):
    """The gradient of a slice: zero but for `g` at `index`. Slices of one array add up in one buffer."""

    index: Any
    g: Array

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return np.zeros_like(self.g, shape=shape)

    def add_to(self, buffer: Array) -> None:
        if any(not isinstance(i, slice | int | type(...) | type(None)) for i in _as_tuple(self.index)):
            np.add.at(buffer, self.index, self.g)  # an array index may name one place twice
        else:
            buffer[self.index] += self.g


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
        if not hasattr(data, "dtype") or isinstance(data, np.generic):
            data = np.asarray(data)
            if data.dtype == np.float64:
                data = data.astype(np.float32)
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
            raise RuntimeError("backward() of a tensor that requires no gradient: all its inputs are frozen, or it was "
                               "computed under no_grad()")
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"backward() of a tensor of shape {self.shape} needs a cotangent of that shape; only a "
                                 "single number has the obvious one, 1.0")
            grad = np.ones_like(self.data)
        elif np.shape(grad) != self.shape:
            raise ValueError(f"the cotangent has shape {np.shape(grad)}, the tensor {self.shape}")
        if self.node is None:
            _accumulate(self, grad, grad)
        else:
            _walk(self.node, grad)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype  # type: ignore[no-any-return]

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
        return self.data.item()  # type: ignore[no-any-return]

    def detach(self) -> Tensor:
        """The same values, cut off from the graph."""
        return Tensor(self.data)

    def __len__(self) -> int:
        return len(self.data)

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
    def __pow__(self, exponent: float) -> Tensor: return ops.power(self, exponent=exponent)
    def __neg__(self) -> Tensor: return ops.negative(self)
    def __getitem__(self, index: Any) -> Tensor: return ops.getitem(self, index=index)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: return ops.sum(self, axis=axis, keepdims=keepdims)
    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: return ops.mean(self, axis=axis, keepdims=keepdims)
    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: return ops.max(self, axis=axis, keepdims=keepdims)
    def exp(self) -> Tensor: return ops.exp(self)
    def log(self) -> Tensor: return ops.log(self)
    def sqrt(self) -> Tensor: return ops.sqrt(self)
    def tanh(self) -> Tensor: return ops.tanh(self)

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> Tensor:
        return ops.transpose(self, axes=(axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes) or None)


def op(function: Callable[..., tuple[Array, Vjp]]) -> Callable[..., Tensor]:
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
        arrays = tuple([x.data if isinstance(x, Tensor) else x for x in inputs])
        needs = tuple([isinstance(x, Tensor) and x.requires_grad for x in inputs])
        wanted = _tape.recording and any(needs)
        if told:
            options["needs"] = needs if wanted else (False,) * len(needs)
        observer = _tape.observer
        if observer is not None:
            observer.before("forward", name, arrays)
        value, vjp = function(*arrays, **options)
        if observer is not None:
            observer.after("forward", name, arrays, (value,))
        out = Tensor.__new__(Tensor)
        out.data = np.asarray(value) if isinstance(value, np.generic) else value
        out.grad = out.node = None
        out.requires_grad = wanted
        if wanted and not _tape.probing:
            out.node = Node(name, tuple([(x if x.node is None else x.node, x.data.shape, x.data.dtype) if need else None
                                         for x, need in zip(inputs, needs, strict=True)]), vjp)
        return out

    return apply


def _walk(root: Node, grad: Array) -> None:
    """Pull `grad` back from `root` to the leaves: always the youngest node next, each one once."""
    root.grad = grad
    waiting = {root.born: root}
    ages = [-root.born]
    while ages:
        node = waiting.pop(-heapq.heappop(ages))
        if node.vjp is _freed:
            raise RuntimeError(f"backward() a second time through {node.name!r}: its activations were freed by the first. "
                               "Run the forward pass again, or add the losses up before calling backward()")
        g, vjp, parents = node.grad, node.vjp, node.parents
        node.grad, node.vjp, node.parents = None, _freed, ()
        observer = _tape.observer
        if observer is not None:
            observer.before("backward", node.name, (g,))
        grads = vjp(g, node.needs)
        if observer is not None:
            observer.after("backward", node.name, (g,), grads)
        for parent, gradient in zip(parents, grads, strict=False):
            if parent is None or gradient is None:
                continue
            target, shape, dtype = parent
            if not isinstance(gradient, Piece):
                if gradient.shape != shape:
                    gradient = unbroadcast(gradient, shape)
                if gradient.dtype != dtype:
                    gradient = gradient.astype(dtype)
            if isinstance(target, Tensor):
                _accumulate(target, gradient, g)
            else:
                target.receive(gradient, shape)
                if target.born not in waiting:
                    waiting[target.born] = target
                    heapq.heappush(ages, -target.born)


def _freed(g: Array, needs: tuple[bool, ...]) -> tuple[Any, ...]:
    """Stands for the vjp of a node that `backward` has passed."""
    raise AssertionError("never called")


def _accumulate(leaf: Tensor, gradient: Array | Piece, g: Array) -> None:
    """Add to a leaf's .grad, which is its own: copied if the array may be visible elsewhere (`g` itself, or a view)."""
    if isinstance(gradient, Piece):
        if leaf.grad is None:
            leaf.grad = np.zeros_like(leaf.data)
        gradient.add_to(leaf.grad)
    elif leaf.grad is not None:
        leaf.grad += gradient
    elif gradient is g or isinstance(gradient, np.generic) or gradient.base is not None:
        leaf.grad = np.array(gradient, like=leaf.data)
    else:
        leaf.grad = gradient


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum `g` over the axes along which an array of `shape` was repeated: the vjp of broadcasting.

    >>> unbroadcast(np.ones((4, 2, 3)), (2, 1)).tolist()
    [[12.0], [12.0]]
    """
    extra = g.ndim - len(shape)
    repeated = tuple(range(extra)) + tuple(extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1)
    return g.sum(axis=repeated, keepdims=True).reshape(shape)


def _as_tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


@contextmanager
def _set(**changes: Any) -> Iterator[None]:
    """Change what the tape knows, for the duration of a block."""
    before = {name: getattr(_tape, name) for name in changes}
    vars(_tape).update(changes)
    try:
        yield
    finally:
        vars(_tape).update(before)


def no_grad() -> Any:
    """A context in which nothing is recorded: for evaluation and generation."""
    return _set(recording=False)


def observe(observer: Observer) -> Any:
    """A context in which `observer` is told before and after each operation, forward and backward."""
    return _set(observer=observer)


def checkpoint(fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`fn(*inputs)`, keeping no activations: they are computed again in the backward pass (Chen et al. 2016, 1604.06174).

    The gradients are those of `fn(*inputs)`, of its inputs and of every tensor that `fn` uses besides, dropout included: the
    second pass sees the random numbers of the first. Inputs may be frozen while something inside `fn` is trained.

    Args:
        fn: a function of Tensors that returns one Tensor.
        inputs: Tensors, all that comes from the graph so far; parameters and constants `fn` may close over.
    """
    seen: dict[int, tuple[np.random.Generator, Any]] = {}
    with _set(probing=True, generators=seen):
        value = fn(*inputs)
    for key, state in seen.items() if _tape.generators is not None else ():  # a checkpoint inside a checkpoint
        _tape.generators.setdefault(key, state)
    out = Tensor(value.data)
    if not value.requires_grad:
        return out
    arrays, needs = [x.data for x in inputs], [x.requires_grad for x in inputs]

    def vjp(g: Array, _: tuple[bool, ...]) -> tuple[Any, ...]:
        leaves = [Tensor(array, requires_grad=need) for array, need in zip(arrays, needs, strict=True)]
        now = [(generator, generator.bit_generator.state) for generator, _ in seen.values()]
        for generator, state in seen.values():
            generator.bit_generator.state = state
        with _set(recording=True, probing=False, generators=None):
            again = fn(*leaves)
        for generator, state in now:
            generator.bit_generator.state = state
        again.backward(g)
        return tuple(leaf.grad for leaf in leaves)

    out.requires_grad = True
    if not _tape.probing:
        out.node = Node("checkpoint", tuple((x if x.node is None else x.node, x.shape, x.dtype) if x.requires_grad else None
                                            for x in inputs), vjp)
    return out


def uses_generator(generator: np.random.Generator) -> None:
    """To be called by an operation before it draws: `checkpoint` notes the state, so as to draw the same again."""
    if _tape.generators is not None and id(generator) not in _tape.generators:
        _tape.generators[id(generator)] = (generator, generator.bit_generator.state)


from tinypeft.autograd import ops  # noqa: E402  last, since ops is written in terms of the above
