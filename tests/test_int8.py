"""LLM.int8(): bit for bit what bitsandbytes recorded, its wrong constant excepted; and what holds for every matrix."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GOLDEN, assert_close
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from tinypeft.quant import (
    int8_linear_matmul,
    int8_mixed_scaled_mm,
    int8_mm_dequant,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
)

RECORDED = np.load(GOLDEN / "bnb_llm_int8.npz")
W, X = RECORDED["W"], RECORDED["X"]
THEIR_CONSTANT, CONSTANT = 6.200124e-05, 1 / 127**2  # where 6.2000124e-05 was meant


def matrix(rows: int, columns: int, seed: int, spread: int, zeros: float) -> np.ndarray:
    """Numbers of several magnitudes, and zeros."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, columns)) * np.exp2(random.integers(-spread, spread + 1, (rows, columns)))
    return np.where(random.random((rows, columns)) < zeros, 0, x).astype(np.float32)


matrices = st.builds(matrix, st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 15),
                     st.sampled_from([0.0, 0.3, 0.9]))


def assert_bits(received: np.ndarray, expected: np.ndarray) -> None:
    assert (received.dtype, received.shape, received.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


# ---- what bitsandbytes recorded -------------------------------------------------------------------------------------


def test_weights_are_those_of_bitsandbytes():
    codes, absmax, columns = int8_vectorwise_quant(W)
    assert_bits(codes, RECORDED["W_int8"])
    assert_bits(absmax, RECORDED["W_stats"])
    assert columns is None
    np.testing.assert_array_max_ulp(int8_vectorwise_dequant(codes, absmax), RECORDED["W_dequant"], maxulp=1)


@pytest.mark.parametrize("threshold", [0, 6])
def test_inputs_and_integer_products_are_those_of_bitsandbytes(threshold):
    codes, absmax, columns = int8_vectorwise_quant(X, threshold)
    assert_bits(codes, RECORDED[f"thr{threshold}/X_int8"])
    assert_bits(absmax, RECORDED[f"thr{threshold}/X_stats"])
    if threshold:
        np.testing.assert_array_equal(columns, RECORDED["thr6/outlier_cols"])
    else:
        assert columns is None
    assert_bits(int8_linear_matmul(codes, RECORDED["W_int8"]), RECORDED[f"thr{threshold}/matmul_int32"])


@pytest.mark.parametrize("threshold", [0, 6])
def test_products_are_those_of_bitsandbytes_with_the_right_constant(threshold):
    start = f"thr{threshold}/"
    recorded = RECORDED[f"{start}out_f32"].astype(np.float64)
    ours = int8_mm_dequant(RECORDED[f"{start}matmul_int32"], RECORDED[f"{start}X_stats"], RECORDED["W_stats"])
    assert ours.dtype == np.float32
    exact = RECORDED[f"{start}matmul_int32"] * np.outer(RECORDED[f"{start}X_stats"].astype(np.float64), RECORDED["W_stats"])
    np.testing.assert_allclose(ours, exact * CONSTANT, rtol=3e-7)
    np.testing.assert_allclose(recorded, exact * THEIR_CONSTANT, rtol=3e-7)
    np.testing.assert_allclose(recorded, ours * (THEIR_CONSTANT / CONSTANT), rtol=5e-7)
    assert_close(THEIR_CONSTANT / CONSTANT, 1.000018, 1e-6)
    assert (np.abs(recorded - exact * CONSTANT) > 1e-5 * np.abs(exact * CONSTANT)).all()  # a slip, not rounding


def test_products_with_outliers_are_those_of_bitsandbytes_with_the_right_constant():
    stats, codes, columns = RECORDED["thr6/X_stats"], RECORDED["thr6/X_int8"], RECORDED["thr6/outlier_cols"]
    ours = int8_mixed_scaled_mm(X, codes, RECORDED["W_int8"], stats, RECORDED["W_stats"], columns)
    inner = int8_mm_dequant(RECORDED["thr6/matmul_int32"], stats, RECORDED["W_stats"])
    corrected = RECORDED["thr6/out_mixed_f32"] - inner * np.float32(THEIR_CONSTANT / CONSTANT - 1)
    assert_close(ours, corrected, 5e-7)
    assert np.abs(ours - RECORDED["thr6/out_mixed_f32"]).max() > 5e-6


def test_outliers_in_full_precision_make_the_product_better():
    exact = X.astype(np.float64) @ W.T
    errors = []
    for threshold in (0, 6):
        codes, absmax, columns = int8_vectorwise_quant(X, threshold)
        y = int8_mixed_scaled_mm(X, codes, RECORDED["W_int8"], absmax, RECORDED["W_stats"], columns)
        errors.append(np.abs(y - exact).mean())
    assert errors[1] < 0.6 * errors[0]


# ---- properties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 64, 1023, 1024, 1025, 4096, 20000])
def test_integer_products_are_exact(k):
    random = np.random.default_rng(k)
    a, b = (random.integers(-128, 128, (rows, k), dtype=np.int8) for rows in (3, 5))
    a[0], b[0], b[1] = 127, 127, -128  # the largest sums there can be
    a[1, ::2] = b[2, ::2] = -127
    product = int8_linear_matmul(a, b)
    assert product.dtype == np.int32
    np.testing.assert_array_equal(product, a.astype(np.int64) @ b.astype(np.int64).T)


@given(st.data())
def test_integer_products_of_any_shapes_are_exact(data):
    n, m, k = (data.draw(st.integers(1, top)) for top in (5, 5, 60))
    a, b = (data.draw(arrays(np.int8, (rows, k))) for rows in (n, m))
    np.testing.assert_array_equal(int8_linear_matmul(a, b), a.astype(np.int64) @ b.astype(np.int64).T)


@given(matrices)
def test_the_error_is_half_a_step(x):
    codes, absmax, _ = int8_vectorwise_quant(x)
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= 127
    error = np.abs(int8_vectorwise_dequant(codes, absmax) - x.astype(np.float64))
    assert (error <= absmax[:, None] * (0.5 / 127 + 4e-7)).all()
    largest = np.abs(x).argmax(axis=1)
    assert (np.abs(codes[np.arange(len(x)), largest]) == np.where(absmax > 0, 127, 0)).all()


@given(matrices)
def test_what_was_quantized_once_keeps_its_codes(x):
    codes, absmax, _ = int8_vectorwise_quant(x)
    again, _, _ = int8_vectorwise_quant(int8_vectorwise_dequant(codes, absmax))
    np.testing.assert_array_equal(again, codes)


@given(matrices)
def test_signs_and_powers_of_two_do_not_matter(x):
    codes, absmax, _ = int8_vectorwise_quant(x)
    minus, same, _ = int8_vectorwise_quant(-x)
    np.testing.assert_array_equal(minus, -codes)
    np.testing.assert_array_equal(same, absmax)
    moved, larger, _ = int8_vectorwise_quant(np.ldexp(x, -13))
    np.testing.assert_array_equal(moved, codes)
    np.testing.assert_array_equal(larger, np.ldexp(absmax, -13))


@given(matrices, st.floats(0.1, 2.0**19))
def test_outlier_columns_are_those_with_a_large_number(x, threshold):
    codes, absmax, columns = int8_vectorwise_quant(x, threshold)
    large = np.abs(x) >= threshold
    np.testing.assert_array_equal(columns, np.flatnonzero(large.any(axis=0)))
    assert (codes[:, columns] == 0).all()
    np.testing.assert_array_equal(absmax, np.where(large, 0, np.abs(x)).max(axis=1))
    inner = np.delete(np.arange(x.shape[1]), columns)
    error = np.abs(int8_vectorwise_dequant(codes, absmax) - x)[:, inner]
    assert (error <= absmax[:, None] * (0.5 / 127 + 4e-7)).all()


@given(matrices, st.integers(0, 2**31))
def test_a_product_is_that_of_the_dequantized_numbers(x, seed):
    weights = np.random.default_rng(seed).standard_normal((4, x.shape[1])).astype(np.float32)
    codes_w, absmax_w, _ = int8_vectorwise_quant(weights)
    for threshold in (0.0, 6.0):
        codes, absmax, columns = int8_vectorwise_quant(x, threshold)
        y = int8_mixed_scaled_mm(x, codes, codes_w, absmax, absmax_w, columns)
        used = codes * absmax[:, None].astype(np.float64) / 127
        if columns is not None:
            used[:, columns] = x[:, columns]
        assert y.dtype == x.dtype
        assert_close(y, used @ (codes_w * absmax_w[:, None].astype(np.float64) / 127).T, 2e-6)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_rows_of_zeros_stay_zero(threshold):
    x = X.copy()
    x[[0, 5]] = 0
    with np.errstate(all="raise"):
        codes, absmax, columns = int8_vectorwise_quant(x, threshold)
        y = int8_mixed_scaled_mm(x, codes, RECORDED["W_int8"], absmax, RECORDED["W_stats"], columns)
    assert (codes[[0, 5]] == 0).all()
    assert (absmax[[0, 5]] == 0).all()
    assert (y[[0, 5]] == 0).all()
    assert y[1].any()
    assert (int8_vectorwise_dequant(*int8_vectorwise_quant(np.zeros((3, 4), np.float32))[:2]) == 0).all()


def test_a_row_that_is_all_outliers_is_computed_in_floating_point():
    x = np.vstack([np.full(64, 50.0, np.float32), X[0]])
    codes, absmax, columns = int8_vectorwise_quant(x, 6.0)
    assert len(columns) == 64
    assert absmax[0] == 0
    y = int8_mixed_scaled_mm(x, codes, RECORDED["W_int8"], absmax, RECORDED["W_stats"], columns)
    assert_close(y, x @ int8_vectorwise_dequant(RECORDED["W_int8"], RECORDED["W_stats"]).T, 1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes_are_quantized_in_float32_and_multiplied_in_their_own(dtype):
    x = X.astype(dtype)
    codes, absmax, columns = int8_vectorwise_quant(x, 6.0)
    assert absmax.dtype == np.float32
    np.testing.assert_array_equal(codes, int8_vectorwise_quant(x.astype(np.float32), 6.0)[0])
    y = int8_mixed_scaled_mm(x, codes, RECORDED["W_int8"], absmax, RECORDED["W_stats"], columns)
    assert y.dtype == dtype
    assert_close(y, X @ W.T, 0.03)


def test_inputs_are_not_changed():
    x = X.copy()
    int8_vectorwise_quant(x, 6.0)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    x = X.copy()
    x[3, 7] = value
    with pytest.raises(ValueError, match="holds nan or an infinity: its whole row would be lost"):
        int8_vectorwise_quant(x)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 4), (4, 0), ()])
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(ValueError, match="expected a matrix that is not empty, got shape"):
        int8_vectorwise_quant(np.zeros(shape, np.float32))


@pytest.mark.parametrize(("largest", "code"), [(3.439453125, 63), (2.8203125, 63), (3.8046875, 64)])
def test_halves_of_a_maximum_are_rounded_as_in_torch(largest, code):
    """127 / absmax is 1 / absmax times 127 there, rounded twice; the codes are those that torch was seen to give."""
    x = np.array([[largest, largest / 2, -largest / 2]], np.float16)
    assert int8_vectorwise_quant(x)[0].tolist() == [[127, code, -code]]


def test_a_number_of_exactly_the_threshold_is_an_outlier():
    codes, absmax, columns = int8_vectorwise_quant(np.array([[6.0, 1.0, 5.9], [0.0, -6.0, 2.0]], np.float32), 6.0)
    assert columns.tolist() == [0, 1]
    assert codes.tolist() == [[0, 0, 127], [0, 0, 127]]
    assert absmax.tolist() == [np.float32(5.9), 2.0]
