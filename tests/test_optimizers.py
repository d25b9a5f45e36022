"""Optimizers and gradient clipping: torch's numbers (frozen, and live with the extra `parity`), and bad input."""

import importlib.util

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from hypothesis import given, strategies as st

from tinypeft.autograd import Tensor
from tinypeft.nn import Parameter
from tinypeft.training import SGD, AdamW, clip_grad_norm_

TOLERANCE = {"float32": 1e-6, "float64": 1e-14}
CASES = {
    "sgd": (SGD, {"lr": 0.1}, None),
    "sgd_momentum_decay": (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, None),
    "adamw": (AdamW, {}, None),
    "adamw_settings": (AdamW, {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.1}, None),
    "adamw_clipped": (AdamW, {"lr": 0.01}, 0.5),
}


def parameters(*shapes, dtype="float64", seed=0):
    random = np.random.default_rng(seed)
    return [Tensor(np.asarray(random.normal(size=shape)).astype(dtype), requires_grad=True) for shape in shapes]


def give_gradients(params, seed):
    random = np.random.default_rng(seed)
    for p in params:
        p.grad = np.asarray(random.normal(size=p.shape)).astype(p.dtype)


# --- torch's numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_torchs(case, dtype):
    """Six steps over parameters of three shapes, one of them a single number, some without a gradient now and then."""
    file = np.load(GOLDEN / "training" / "optimizer_traces.npz")
    trace = {name: file[f"{case}/{dtype}/{name}"] for name in ("init", "grad", "param", "norm")}
    params = [Tensor(x.copy(), requires_grad=True) for x in unflatten(trace["init"])]
    arrays = [p.data for p in params]
    kind, settings, clip = CASES[case]
    optimizer = kind(params, **settings)
    for t in range(6):
        for p, grad in zip(params, unflatten(trace["grad"][t]), strict=True):
            p.grad = None if np.isnan(grad).all() else grad.copy()
        assert_close(clip_grad_norm_(params, clip or np.inf), trace["norm"][t], TOLERANCE[dtype])
        optimizer.step()
        for i, (p, expected) in enumerate(zip(params, unflatten(trace["param"][t]), strict=True)):
            assert_close(p, expected, TOLERANCE[dtype], f"step {t}, parameter {i}")
            assert p.dtype == dtype
            assert p.data is arrays[i], "updated in place"


def unflatten(values):
    """The three parameters of the frozen traces: (3, 4), (5,) and a single number."""
    return [values[:12].reshape(3, 4), values[12:17], values[17:].reshape(())]


settings_drawn = st.fixed_dictionaries({"lr": st.floats(0, 1), "weight_decay": st.sampled_from([0.0, 0.1])})
KINDS = st.sampled_from(["SGD", "SGD momentum", "AdamW", "AdamW betas"])
MORE = {"SGD": {}, "SGD momentum": {"momentum": 0.9}, "AdamW": {},
        "AdamW betas": {"betas": (0.3, 0.9), "eps": 1e-3}}
SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=3)


@pytest.mark.parity
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch (extra `parity`)")
@given(KINDS, st.lists(st.tuples(SHAPES, settings_drawn), min_size=1, max_size=3), st.integers(1, 6),
       st.sampled_from(["float32", "float64"]), st.sampled_from([None, 0.1, 100.0]), st.integers(0, 2**31))
def test_drawn_groups_and_steps_are_torchs(kind, drawn, steps, dtype, clip, seed):
    import torch

    ours, theirs = [], []
    for number, (shapes, settings) in enumerate(drawn):
        params = parameters(*shapes, dtype=dtype, seed=[seed, number])
        ours.append({"params": params, **settings})
        theirs.append({"params": [torch.nn.Parameter(torch.tensor(p.data)) for p in params], **settings})
    name, settings = kind.split()[0], MORE[kind]
    optimizers = [{"SGD": SGD, "AdamW": AdamW}[name](ours, **settings), getattr(torch.optim, name)(theirs, **settings)]
    mine = [p for group in ours for p in group["params"]]
    other = [p for group in theirs for p in group["params"]]
    random = np.random.default_rng(seed)
    for t in range(steps):
        for p, q in zip(mine, other, strict=True):
            grad = np.asarray(random.normal(size=p.shape)).astype(dtype)
            p.grad, q.grad = (None, None) if random.random() < 0.2 else (grad, torch.tensor(grad))
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(other, clip)
            assert_close(clip_grad_norm_(mine, clip), norm.numpy().astype(float), 1e-6)
        for optimizer in optimizers:
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= 0.9  # as a schedule does
        for p, q in zip(mine, other, strict=True):
            assert_close(p, q.detach().numpy(), 1e-5 if dtype == "float32" else 1e-12, f"{kind}, step {t}")


# --- behaviour -----------------------------------------------------------------------------------------------------


def test_a_parameter_without_gradient_is_left_alone():
    moved, still = parameters((2,), (2,))
    before = still.data.copy()
    optimizer = AdamW([moved, still], weight_decay=0.5)
    give_gradients([moved], 1)
    optimizer.step()
    assert (still.data == before).all()
    assert still not in optimizer.state


def test_groups_have_their_own_settings():
    slow, fast = parameters((2,), (2,))
    before = [slow.data.copy(), fast.data.copy()]
    optimizer = SGD([{"params": [slow]}, {"params": [fast], "lr": 1.0}], lr=0.0)
    give_gradients([slow, fast], 1)
    optimizer.step()
    assert (slow.data == before[0]).all()
    assert (fast.data == before[1] - fast.grad).all()


def test_gradients_are_not_changed_by_a_step():
    """SGD's momentum buffer begins as the gradient, and must not be the same array."""
    for make in (lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: SGD(p, 0.1, momentum=0.9), AdamW):
        (p,) = parameters((3,))
        give_gradients([p], 1)
        kept, grad = p.grad.copy(), p.grad
        optimizer = make([p])
        optimizer.step()
        optimizer.step()
        assert p.grad is grad
        assert (grad == kept).all()


def test_zero_grad_forgets():
    params = parameters((2,), ())
    give_gradients(params, 0)
    SGD(params).zero_grad()
    assert [p.grad for p in params] == [None, None]


@pytest.mark.parametrize("make", [AdamW, lambda p: SGD(p, 0.1, momentum=0.9)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_state_goes_on_to_the_bit(make, dtype):
    def steps(optimizer, params, numbers):
        for t in numbers:
            give_gradients(params, t)
            params[1].grad = None if t < 6 else params[1].grad  # so that some parameter has no state yet
            optimizer.step()

    whole = parameters((3, 2), (4,), (), dtype=dtype)
    optimizer = make(whole)
    steps(optimizer, whole, range(8))

    params = parameters((3, 2), (4,), (), dtype=dtype)
    first = make(params)
    steps(first, params, range(5))
    saved = first.state_dict()
    assert {key.split(".")[0] for key in saved} == {"0", "2"}
    copies = [Tensor(p.data.copy(), requires_grad=True) for p in params]
    second = make(copies)
    second.load_state_dict(saved)
    steps(first, params, range(5, 7))  # must not reach into what the second has loaded
    steps(second, copies, range(5, 8))
    assert all((p.data == q.data).all() for p, q in zip(whole, copies, strict=True))
    assert all(p.dtype == dtype for p in copies)


@pytest.mark.parametrize("other", [[(2,)], [(2,), (4,)], [(3,), (2,)]])
def test_a_state_of_other_parameters_is_refused_and_changes_nothing(other):
    params = parameters((2,), (3,))
    optimizer = AdamW(params)
    give_gradients(params, 0)
    optimizer.step()
    second = AdamW(parameters(*other))
    with pytest.raises(ValueError, match=r"the saved optimizer's \d.\w+, of shape \(.*\), is of no parameter here"):
        second.load_state_dict(optimizer.state_dict())
    assert second.state == {}


# --- clipping ------------------------------------------------------------------------------------------------------


def test_the_norm_is_of_all_gradients_together():
    a, b, c = parameters((2,), (2, 2), (3,))
    a.grad, b.grad = np.array([3.0, 0.0]), np.array([[0.0, 4.0], [0.0, 0.0]])
    assert clip_grad_norm_([a, b, c], max_norm=10) == 5
    assert a.grad.tolist() == [3.0, 0.0], "below max_norm nothing changes"
    assert clip_grad_norm_([a, b, c], max_norm=1) == 5
    assert_close(a.grad, np.array([3.0, 0.0]) / (5 + 1e-6), 1e-15)
    assert c.grad is None


def test_no_gradients_have_norm_zero():
    assert clip_grad_norm_(parameters((2,)), 1.0) == 0.0


def test_float16_gradients_do_not_overflow_in_the_norm():
    (p,) = parameters((2,), dtype="float16")
    p.grad = np.array([300.0, 400.0], dtype=np.float16)  # the squares are beyond float16
    assert clip_grad_norm_([p], np.inf) == 500


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_bad_max_norm_is_refused(bad):
    with pytest.raises(ValueError, match="max_norm"):
        clip_grad_norm_(parameters((2,)), bad)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD([], 0.1), "no parameters to optimize"),
        (lambda p: SGD([{"params": []}], 0.1), "no parameters to optimize"),
        (lambda p: SGD([*p, p[0]], 0.1), "twice"),
        (lambda p: SGD([{"params": p}, {"params": [p[0]]}], 0.1), "twice"),
        (lambda p: SGD(p, lr=-0.1), "lr is -0.1"),
        (lambda p: SGD(p, lr=float("nan")), "lr is nan"),
        (lambda p: SGD(p, 0.1, momentum=-1), "momentum is -1"),
        (lambda p: SGD(p, 0.1, weight_decay=-1), "weight_decay is -1"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), "betas are"),
        (lambda p: AdamW(p, eps=-1e-8), "eps is"),
        (lambda p: AdamW([{"params": p, "lr": -2}]), "lr is -2"),
        (lambda p: AdamW([{"params": p, "learning_rate": 1}]), "AdamW has no learning_rate; it has"),
        (lambda p: AdamW([Parameter((3, 4))]), r"\(3, 4\).*no values to train"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(parameters((2,), (3,)))


def test_a_single_tensor_is_refused():
    with pytest.raises(TypeError, match="one Tensor"):
        SGD(parameters((2,))[0], 0.1)
