"""The engine: every rule against differences and torch's values, and the promises of tape, checkpoint and observer."""

from __future__ import annotations

import gc
import math
import tracemalloc
import weakref
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from hypothesis import given, strategies as st

from tinypeft import Tensor, checkpoint, gradcheck, no_grad
from tinypeft.autograd import functional as F, observe, ops
from tinypeft.autograd.tensor import op, unbroadcast

RANDOM = np.random.default_rng(0)


def tensor(*shape: int, low: float | None = None) -> Tensor:
    """A float64 leaf: standard normal, or uniform in [low, low + 1)."""
    values = RANDOM.standard_normal(shape) if low is None else low + RANDOM.random(shape)
    return Tensor(values, requires_grad=True)


# name -> cases of (function, inputs); shapes are non-square, of size 1, and broadcast
MASK = np.array([[False, False, True, True, True], [True] * 5])
DROP = (np.random.default_rng(1).random((2, 4, 3, 5)) > 0.3) / 0.7
RULES: dict[str, list[tuple[Any, tuple[Tensor, ...]]]] = {
    "add": [(ops.add, (tensor(3, 4), tensor(4))), (ops.add, (tensor(2, 1, 3), tensor(4, 1)))],
    "subtract": [(ops.subtract, (tensor(3, 1), tensor(2, 1, 4)))],
    "multiply": [(ops.multiply, (tensor(3, 1), tensor(1, 4))), (lambda x: -(x * x * 2), (tensor(3),))],
    "divide": [(ops.divide, (tensor(3, 4), tensor(1, low=0.5))), (lambda x: 2 / x, (tensor(3, low=0.5),))],
    "power": [(lambda x: x**3, (tensor(3),)), (lambda x: x**-0.5, (tensor(3, low=0.5),))],
    "exp": [(ops.exp, (tensor(3, 2),))],
    "log": [(ops.log, (tensor(3, low=0.5),))],
    "tanh": [(ops.tanh, (tensor(5),))],
    "sigmoid": [(ops.sigmoid, (tensor(5),))],
    "relu": [(ops.relu, (tensor(4, 5),))],
    "matmul": [(ops.matmul, (tensor(3, 2), tensor(2, 4))), (ops.matmul, (tensor(5, 1, 3, 2), tensor(4, 2, 1)))],
    "sum": [(lambda x: x.sum(), (tensor(2, 3),)), (lambda x: x.sum((0, 2), keepdims=True), (tensor(2, 3, 4),)),
            (lambda x: x.sum(-1), (tensor(2, 3),))],
    "mean": [(lambda x: x.mean(), (tensor(2, 3),)), (lambda x: x.mean((0, -1)), (tensor(2, 3, 4),))],
    "reshape": [(lambda x: x.reshape(3, -1) * x.reshape((3, 4)), (tensor(2, 6),))],
    "transpose": [(lambda x: x.T, (tensor(2, 3),)), (lambda x: x.transpose(2, 0, 1), (tensor(2, 3, 4),)),
                  (lambda x: x.transpose(0, -1, 1), (tensor(2, 3, 4),))],
    "getitem": [(lambda x: x[:, 1:] * x[:, :2], (tensor(2, 3),)), (lambda x: x[1, ..., None], (tensor(2, 3),)),
                (lambda x: x[np.array([0, 2, 2])], (tensor(3, 2),)), (lambda x: x[x.data > 0], (tensor(9),))],
    "concatenate": [(lambda a, b, c: ops.concatenate([a, b, c], axis=1), (tensor(2, 1), tensor(2, 3), tensor(2, 2)))],
    "gelu": [(F.gelu, (tensor(3, 4),))],
    "gelu_exact": [(F.gelu_exact, (tensor(3, 4),))],
    "silu": [(F.silu, (tensor(3, 4),))],
    "softmax": [(F.softmax, (tensor(2, 1, 5),))],
    "log_softmax": [(F.log_softmax, (tensor(3, 5),))],
    "dropout": [(lambda x: F.dropout(x, p=0.4, generator=np.random.default_rng(3)), (tensor(4, 5),))],
    "linear": [(F.linear, (tensor(2, 3, 4), tensor(5, 4), tensor(5))), (F.linear, (tensor(3, 4), tensor(1, 4)))],
    "embedding": [(lambda w: F.embedding(w, np.array([[0, 2, 2], [1, 0, 2]])), (tensor(4, 3),))],
    "layer_norm": [(F.layer_norm, (tensor(2, 3, 5), tensor(5), tensor(5)))],
    "rms_norm": [(F.rms_norm, (tensor(2, 3, 5), tensor(5)))],
    "rotary": [(lambda x: F.rotary(x, cos=np.cos(ANGLES), sin=np.sin(ANGLES)), (tensor(2, 3, 4, 6),))],
    "attention": [(F.attention, (tensor(2, 5, 4, 3), tensor(2, 5, 4, 3), tensor(2, 5, 4, 3))),
                  (lambda q, k, v: F.attention(q, k, v, mask=MASK, drop=DROP),
                   (tensor(2, 3, 4, 6), tensor(2, 5, 2, 6), tensor(2, 5, 2, 6))),
                  (F.attention, (tensor(1, 1, 4, 2), tensor(1, 3, 1, 2), tensor(1, 3, 1, 2)))],
    "cross_entropy": [(lambda x: F.cross_entropy(x, np.array([[1, -100], [2, 0]])), (tensor(2, 2, 4),))],
}
ANGLES = RANDOM.standard_normal((1, 3, 1, 3))


@pytest.mark.parametrize("name", RULES)
def test_each_rule_agrees_with_central_differences(name):
    for function, inputs in RULES[name]:
        assert gradcheck(function, *inputs)


def test_every_operation_has_a_case():
    both = {**vars(ops), **vars(F)}
    operations = {name for name, value in both.items() if isinstance(value, FunctionType) and hasattr(value, "__wrapped__")}
    assert {name.lstrip("_") for name in operations} == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_is_computed_only_where_it_is_needed(name):
    """Freezing any of the inputs leaves the gradients of the others, bit for bit, and gives it none."""
    for function, inputs in RULES[name]:
        together = [Tensor(x.data, requires_grad=True) for x in inputs]
        out = function(*together)
        cotangent = np.random.default_rng(5).standard_normal(out.shape)
        out.backward(cotangent)
        for i in range(len(inputs)):
            alone = [Tensor(x.data, requires_grad=j == i) for j, x in enumerate(inputs)]
            function(*alone).backward(cotangent)
            np.testing.assert_array_equal(alone[i].grad, together[i].grad)
            assert all(x.grad is None for j, x in enumerate(alone) if j != i)


UNARY = {"gelu_exact": F.gelu_exact, "gelu_tanh": F.gelu, "silu": F.silu, "relu": ops.relu, "tanh": ops.tanh,
         "sigmoid": ops.sigmoid, "softmax": F.softmax, "log_softmax": F.log_softmax,
         "layer_norm": lambda x: F.layer_norm(x, np.ones(7, x.dtype), np.zeros(7, x.dtype), eps=1e-5),
         "rms_norm": lambda x: F.rms_norm(x, np.ones(7, x.dtype), eps=1e-5)}


@pytest.mark.parametrize("name", UNARY)
def test_values_and_gradients_are_those_of_torch(name):
    expected = np.load(GOLDEN / "autograd_unary.npz")
    for dtype, tol in (("float64", 1e-12), ("float32", 1e-5)):
        x = Tensor(expected["x"].astype(dtype), requires_grad=True)
        y = UNARY[name](x)
        y.backward(expected["upstream"].astype(dtype))
        assert y.dtype == x.grad.dtype == dtype
        assert_close(y, expected[f"{name}/y"], tol)
        assert_close(x.grad, expected[f"{name}/dx"], tol)


def slow_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Attention as a sentence: each query looks at each key it may see."""
    out = np.zeros(q.shape)
    (B, T, h, d), S, group = q.shape, k.shape[1], q.shape[2] // k.shape[2]
    for b, t, i in np.ndindex(B, T, h):
        seen = [s for s in range(S) if s <= S - T + t and mask[b, s]] or list(range(S))  # padding looks at all alike
        score = np.array([q[b, t, i] @ k[b, s, i // group] / math.sqrt(d) if mask[b, s] and s <= S - T + t else 0
                          for s in seen])
        weight = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
        out[b, t, i] = sum(w * v[b, s, i // group] for w, s in zip(weight, seen, strict=True))
    return out


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_attention_equals_the_slow_loop(B, T, cached, kv_heads, group, seed):
    random = np.random.default_rng(seed)
    q = random.standard_normal((B, T, kv_heads * group, 4))
    k, v = random.standard_normal((2, B, T + cached, kv_heads, 4))
    mask = random.random((B, T + cached)) > 0.3
    assert_close(F.attention(q, k, v, mask=mask), slow_attention(q, k, v, mask), 1e-12)


@given(st.lists(st.integers(1, 3), min_size=0, max_size=3), st.data())
def test_unbroadcast_is_the_transpose_of_broadcasting(shape, data):
    """<broadcast(x), g> = <x, unbroadcast(g)> for every shape that `shape` broadcasts to."""
    target = [n if n != 1 else data.draw(st.integers(1, 3)) for n in shape]
    target = data.draw(st.lists(st.integers(1, 2), max_size=2)) + target
    x, g = RANDOM.standard_normal(shape), RANDOM.standard_normal(target)
    np.testing.assert_allclose((np.broadcast_to(x, target) * g).sum(), (x * unbroadcast(g, tuple(shape))).sum(), atol=1e-12)


def test_gradcheck_finds_wrong_rules():
    @op
    def doubled(x):
        return 2 * x, lambda g, needs: (g,)

    @op
    def deaf(x):  # ignores what comes from above: right for a cotangent of ones, and so often missed
        return 3 * x, lambda g, needs: (np.full_like(g, 3),)

    for wrong in (doubled, deaf):
        with pytest.raises(AssertionError, match=r"input 0 .*index \(\d,\): received .* central differences give"):
            gradcheck(wrong, tensor(4))
    with pytest.raises(TypeError, match="float64"):
        gradcheck(ops.exp, Tensor(np.ones(2, np.float32), requires_grad=True))
    with pytest.raises(RuntimeError, match="requires no gradient"):
        gradcheck(ops.exp, Tensor(np.ones(2)))


def test_gradients_add_up_over_paths_and_over_calls():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * x + x).sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 5])
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [6, 8])
    x.backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(x.grad, [7, 9])


def test_no_two_leaves_share_the_memory_of_a_gradient():
    """Else clipping one in place would change the other."""
    x, y, z = tensor(3), tensor(3), tensor(3)
    cotangent = np.ones(3)
    (x + y - z.reshape(3)).backward(cotangent)
    arrays = [x.grad, y.grad, z.grad, cotangent]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_what_a_slice_adds_is_not_written_into_somebody_elses_gradient():
    """h gets the cotangent itself from the sum, and then a piece from its slice."""
    x, c = tensor(3), tensor(3)
    h = x * 1
    part = h[:1]
    cotangent = np.ones(4)
    ops.concatenate([h + c, part]).backward(cotangent)
    np.testing.assert_array_equal(cotangent, np.ones(4))
    np.testing.assert_array_equal(c.grad, np.ones(3))
    np.testing.assert_array_equal(x.grad, [2, 1, 1])


def test_a_second_backward_is_refused():
    x = tensor(3)
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time .*run the forward pass again"):
        loss.backward()


def test_backward_says_what_it_needs():
    with pytest.raises(ValueError, match=r"shape \(3,\) needs a cotangent like it, got None"):
        (tensor(3) * 2).backward()
    with pytest.raises(ValueError, match=r"like it, got \(2,\)"):
        (tensor(3) * 2).backward(np.ones(2))
    with pytest.raises(RuntimeError, match="requires no gradient"):
        Tensor([1.0]).backward()
    with pytest.raises(TypeError, match="floating-point"):
        Tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError):
        np.exp(tensor(3))  # not taken apart silently


def test_a_cotangent_may_be_a_list_or_a_tensor_and_takes_the_tensors_dtype():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    for cotangent in ([1.0, 2.0], Tensor([1.0, 2.0]), np.array([1.0, 2.0])):
        x.grad = None
        x[:2].backward(cotangent)
        np.testing.assert_array_equal(x.grad, [1, 2])
        assert x.grad.dtype == np.float32


def test_large_numbers_overflow_nowhere():
    x = Tensor(np.full((1, 64), 300.0, np.float16), requires_grad=True)
    for function in (F.gelu, lambda x: F.rms_norm(x, np.ones(64, np.float16)), lambda x: x**0):
        y = function(x)
        y.backward(np.ones((1, 64)))
        assert np.isfinite(y.data).all()
        assert np.isfinite(x.grad).all()
    assert_close(F.rms_norm(x, np.ones(64, np.float16)), np.ones((1, 64)), 1e-3)


def test_a_frozen_computation_records_nothing():
    frozen = Tensor(np.ones((2, 3)))
    assert F.linear(frozen, frozen).node is None
    with no_grad():
        assert not (tensor(2) * 2).requires_grad
    assert (tensor(2) * 2).requires_grad


def test_a_frozen_weight_does_not_keep_its_input_alive():
    """What LoRA saves: of y = W x with W frozen, only W is needed for dx."""
    x, weight = tensor(50, 8), tensor(4, 8)
    for frozen in (True, False):
        weight.requires_grad = not frozen
        hidden = x * 2
        kept = weakref.ref(hidden.data)
        y = F.linear(hidden, weight)
        del hidden
        gc.collect()
        assert (kept() is None) == frozen
        y.backward(np.ones(y.shape))


def test_backward_frees_activations_as_it_goes():
    x = tensor(4)
    y = ops.exp(x)
    kept = weakref.ref(y.data)
    loss = (y * y).sum()
    del y
    assert kept() is not None
    loss.backward()
    assert kept() is None


def test_a_graph_may_be_deeper_than_python_can_recurse():
    x = y = tensor(2)
    for _ in range(5000):
        y = y + x
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [5001, 5001])


def test_numpy_scalars_and_arrays_on_either_side_keep_the_dtype():
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    y = np.float64(2) * x / np.sqrt(2) + np.ones(3, np.float32) - np.float64(1)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32


def block(w1: Tensor, w2: Tensor, generator: np.random.Generator) -> Any:
    """A layer with dropout that closes over its parameters."""
    return lambda x: F.linear(F.dropout(F.gelu(F.linear(x, w1)), p=0.5, generator=generator), w2)


@pytest.mark.parametrize("frozen_input", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_checkpoint_gives_the_same_gradients_bit_for_bit(frozen_input, depth):
    """With dropout, inside another checkpoint, and with a frozen input (where other libraries lose the gradients)."""
    results = []
    for wrapped in (False, True):
        x, w1, w2 = (Tensor(np.random.default_rng(i).standard_normal(s), requires_grad=True)
                     for i, s in enumerate([(5, 4), (6, 4), (4, 6)]))
        x.requires_grad = not frozen_input
        generator = np.random.default_rng(7)
        layer = block(w1, w2, generator)
        for _ in range(depth if wrapped else 0):
            layer = (lambda inner: lambda x: checkpoint(inner, x))(layer)
        y = layer(x)
        y = layer(y)
        y.backward(np.random.default_rng(8).standard_normal(y.shape))
        results.append((y.data, w1.grad, w2.grad, x.grad, generator.random()))
    for received, expected in zip(results[1], results[0], strict=True):
        assert (received is None and expected is None) or np.array_equal(received, expected)


def test_checkpoint_of_something_frozen_records_nothing():
    frozen = Tensor(np.ones((2, 2)))
    assert checkpoint(ops.exp, frozen).node is None
    with no_grad():
        assert checkpoint(ops.exp, tensor(2)).node is None


def test_checkpoint_saves_memory():
    def peak(wrap: Any) -> int:
        x, gc_before = tensor(1, 20_000), gc.collect()
        del gc_before
        tracemalloc.start()
        y = x
        for _ in range(8):
            y = wrap(lambda z: ops.tanh(ops.exp(ops.tanh(ops.tanh(z)))), y)
        y.sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(checkpoint) < 0.6 * peak(lambda fn, z: fn(z))


def test_an_observer_sees_each_operation_forward_and_backward():
    log: list[str] = []

    def observer(moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
        log.append(f"{moment} {phase} {name} {[np.shape(a) for a in arrays if a is not None]}")

    x = tensor(3)
    with observe(observer):
        (x * 2.0).sum().backward()
    x * 3  # no longer seen
    assert log == ["before forward multiply [(3,), ()]", "after forward multiply [(3,)]",
                   "before forward sum [(3,)]", "after forward sum [()]",
                   "before backward sum [()]", "after backward sum [(3,)]",
                   "before backward multiply [(3,)]", "after backward multiply [(3,)]"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"ids run from 1 to 7, the table has 5 rows"):
        F.embedding(tensor(5, 2), np.array([1, 7]))
    with pytest.raises(ValueError, match=r"ids run from -1 to -1"):
        F.embedding(tensor(5, 2), np.array([-1]))
    with pytest.raises(ValueError, match=r"labels must lie in 0 to 3 .* got 1 to 4"):
        F.cross_entropy(tensor(2, 4), np.array([1, 4]))
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2\), logits \(2, 3, 4\)"):
        F.cross_entropy(tensor(2, 3, 4), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"matrices, got shapes \(3,\)"):
        tensor(3) @ tensor(3, 2)
    assert math.isnan(F.cross_entropy(tensor(2, 4), np.array([-100, -100])).item())


@given(st.integers(1, 300), st.integers(2, 700), st.integers(0, 20))
def test_cross_entropy_equals_the_definition(rows, vocabulary, seed):
    random = np.random.default_rng(seed)
    logits, labels = random.standard_normal((rows, vocabulary)), random.integers(0, vocabulary, rows)
    labels[random.random(rows) < 0.3] = -100
    kept = np.flatnonzero(labels != -100)
    if not kept.size:
        return
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    x = Tensor(logits, requires_grad=True)
    loss = F.cross_entropy(x, labels)
    loss.backward()
    assert_close(loss, -np.log(p[kept, labels[kept]]).mean(), 1e-12)
    expected = np.where(labels[:, None] != -100, p - (np.arange(vocabulary) == labels[:, None]), 0) / kept.size
    assert_close(x.grad, expected, 1e-12)
