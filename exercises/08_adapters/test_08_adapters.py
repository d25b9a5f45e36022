"""The grader of exercise 08: what is asked of adapters.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import math

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def relu(z):
    return np.maximum(z, 0.0)


def bottleneck(h, W_down, b_down, W_up, b_up, activation=relu):
    """The adapter without its inner skip."""
    return activation(h @ W_down.T + b_down) @ W_up.T + b_up


def adapter(h, *weights, activation=relu):
    return h + bottleneck(h, *weights, activation=activation)


def backward(h, W_down, b_down, W_up, b_up, g, slope=None, activation=relu):
    rows, grads = h.reshape(-1, h.shape[-1]), g.reshape(-1, g.shape[-1])  # (N, d)
    z = rows @ W_down.T + b_down  # (N, m)
    dz = grads @ W_up * (z > 0 if slope is None else slope(z))
    return {"h": (grads + dz @ W_down).reshape(h.shape), "W_down": dz.T @ rows, "b_down": dz.sum(0),
            "W_up": grads.T @ activation(z), "b_up": grads.sum(0)}


NAMES = ("W_down", "b_down", "W_up", "b_up")


def used(h, weights):
    """An adapter given as a dict."""
    return adapter(h, *(weights[name] for name in NAMES))


def added(h, weights):
    """What it adds to its input."""
    return used(h, weights) - h


def block(x, weights, adapters):
    for name in ("attention", "mlp"):
        x = x + used(x @ weights[name].T, adapters[name])
    return x


# ---- what is drawn --------------------------------------------------------------------------------------------------

SHAPES = [((2, 3), 5, 3), ((), 4, 2), ((4,), 1, 3), ((1, 1), 6, 1), ((5,), 3, 3), ((3, 1, 2), 2, 4)]  # of h's rows, d, m
KINK = 1e-3  # relu has no slope at 0: no value before it is nearer


def draw(rng, rows, d, m):
    """h and the four arrays of an adapter."""
    while True:
        h, W_down, b_down = rng.standard_normal((*rows, d)), rng.standard_normal((m, d)), rng.standard_normal(m)
        if np.abs(h @ W_down.T + b_down).min() > KINK:
            return h, W_down, b_down, rng.standard_normal((d, m)), rng.standard_normal(d)


def layers(rng):
    for shape in SHAPES:
        yield draw(rng, *shape)


def with_cotangents(rng):
    for h, *weights in layers(rng):
        yield h, *weights, rng.standard_normal(h.shape)


def blocks(rng):
    """In dicts whose keys stand in one order and in the other."""
    for (T, d, m), step in zip(((3, 4, 2), (1, 5, 1), (2, 1, 3), (4, 3, 3)), (1, -1, 1, -1), strict=True):
        order = ("attention", "mlp")[::step]
        adapters = {name: dict(list(zip(NAMES, draw(rng, (), d, m)[1:], strict=True))[::step]) for name in order}
        yield rng.standard_normal((T, d)), {name: rng.standard_normal((d, d)) for name in order}, adapters


# ---- the tests ------------------------------------------------------------------------------------------------------


def gelu(z):
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def exact_gelu(z):
    return 0.5 * z * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))


def test_forward(submission):
    others = [np.tanh, gelu, exact_gelu, lambda z: 1 / (1 + np.exp(-z)), lambda z: z / (1 + np.exp(-z)), np.abs,
              lambda z: np.minimum(z, 0.0)]
    submission.agrees("adapter", layers(submission.rng), adapter, [
        M("adapters.no_inner_skip", "the adapter's own skip, h + ..., is missing", bottleneck),
        M("adapters.skip_twice", "h is added twice", lambda h, *weights: 2 * h + bottleneck(h, *weights)),
        M("adapters.update_missing", "nothing is added to h", lambda h, *_: h),
        M("adapters.no_nonlinearity", "relu is missing, so that the two matrices are one",
          lambda *args: adapter(*args, activation=lambda z: z)),
        *(M("adapters.other_nonlinearity", "the function between the two matrices is not relu",
            lambda *args, f=f: adapter(*args, activation=f)) for f in others),
        M("adapters.relu_misplaced", "relu stands before W_down, not after it",
          lambda h, W, b, V, c: h + (relu(h) @ W.T + b) @ V.T + c),
        M("adapters.relu_misplaced", "relu stands after W_up, not before it",
          lambda h, W, b, V, c: h + relu((h @ W.T + b) @ V.T + c)),
        M("adapters.relu_misplaced", "relu is taken of the sum with h", lambda *args: relu(adapter(*args))),
        M("adapters.relu_misplaced", "b_down is added after relu", lambda h, W, b, V, c: h + (relu(h @ W.T) + b) @ V.T + c),
        M("adapters.bias_missing", "b_down is missing", lambda h, W, b, V, c: adapter(h, W, 0 * b, V, c)),
        M("adapters.bias_missing", "b_up is missing", lambda h, W, b, V, c: adapter(h, W, b, V, 0 * c)),
        M("adapters.bias_missing", "both biases are missing", lambda h, W, b, V, c: adapter(h, W, 0 * b, V, 0 * c)),
    ])


def gradients(name):
    """The misconceptions of one gradient, as functions of all arguments."""
    def rows(h):
        return max(1, h.size // h.shape[-1])

    return [
        M("adapters.sign", "the sign is wrong", lambda *args: -backward(*args)[name]),
        M("adapters.upstream_dropped", "g is not used: it is as if all of it were one",
          lambda *args: backward(*args[:-1], np.ones_like(args[-1]))[name]),
        M("adapters.mean", "the mean over the rows is taken, not the sum", lambda *args: backward(*args)[name] / rows(args[0])),
    ]


def slopes(name):
    """More of them, for what comes back through relu."""
    return [
        M("adapters.slope_missing", "relu's slope is missing: where it gave 0, nothing comes back",
          lambda *args: backward(*args, slope=np.ones_like)[name]),
        M("adapters.slope_is_value", "it is multiplied by relu's value, not by its slope",
          lambda *args: backward(*args, slope=relu)[name]),
        M("adapters.slope_missing", "relu's slope is taken for the negative side",
          lambda *args: backward(*args, slope=lambda z: z < 0)[name]),
        *gradients(name),
    ]


def transposed(name):
    return M("adapters.transposed", "it is transposed: a gradient has the shape of what it is the gradient of",
             lambda *args: backward(*args)[name].T)


def test_gradient_of_h(submission):
    _gradient(submission, "h", [
        M("adapters.skip_path_missing", "only the path through the matrices is there, and g itself, by the skip, is missing",
          lambda *args: backward(*args)["h"] - args[-1]),
        M("adapters.update_path_missing", "only g itself, by the skip, is there, and the path through the matrices is missing",
          lambda *args: args[-1]),
        *slopes("h")])


def test_gradient_of_W_down(submission):
    _gradient(submission, "W_down", [*slopes("W_down"), transposed("W_down")])


def test_gradient_of_b_down(submission):
    def unsummed(h, W, b, V, c, g):
        return g @ V * (h @ W.T + b > 0)

    _gradient(submission, "b_down", [*slopes("b_down"), _unsummed(unsummed)])


def test_gradient_of_W_up(submission):
    _gradient(submission, "W_up", [
        M("adapters.before_relu", "it is made with what goes into relu, not with what comes out",
          lambda *args: backward(*args, activation=lambda z: z)["W_up"]),
        *gradients("W_up"), transposed("W_up")])


def test_gradient_of_b_up(submission):
    _gradient(submission, "b_up", [*gradients("b_up"), _unsummed(lambda *args: args[-1])])


def _unsummed(gives):
    return M("adapters.rows_not_summed", "the sum over the rows is missing: every row has used the same bias", gives)


def _gradient(submission, name, misconceptions):
    submission.agrees("adapter_vjp", with_cotangents(submission.rng), lambda *args: backward(*args)[name], misconceptions,
                      part=name)


def sublayers(step, order=("attention", "mlp")):
    """A block whose two steps are step(x, W, adapter)."""
    def of(x, weights, adapters):
        for name in order:
            x = step(x, weights[name], adapters[name])
        return x
    return of


def without_adapter(missing):
    def of(x, weights, adapters):
        for name in ("attention", "mlp"):
            inner = x @ weights[name].T
            x = x + (inner if name in missing else used(inner, adapters[name]))
        return x
    return of


def test_block(submission):
    submission.agrees("block", blocks(submission.rng), block, [
        M("adapters.after_residual", "the adapter comes after the sum with x: adapter(x + x W^T)",
          sublayers(lambda x, W, a: used(x + x @ W.T, a))),
        M("adapters.before_sublayer", "the adapter comes before the sub-layer: x + adapter(x) W^T",
          sublayers(lambda x, W, a: x + used(x, a) @ W.T)),
        M("adapters.parallel", "the adapter stands beside the sub-layer: it is given x, not x W^T",
          sublayers(lambda x, W, a: x + x @ W.T + added(x, a))),
        M("adapters.no_inner_skip", "the adapter's own skip is missing, and with it the sub-layer's output",
          sublayers(lambda x, W, a: x + added(x @ W.T, a))),
        M("adapters.residual_missing", "the block's x + ... is missing", sublayers(lambda x, W, a: used(x @ W.T, a))),
        M("adapters.weight_transposed", "x is multiplied by W, not by W^T", sublayers(lambda x, W, a: x + used(x @ W, a))),
        M("adapters.order", "mlp comes before attention",
          sublayers(lambda x, W, a: x + used(x @ W.T, a), order=("mlp", "attention"))),
        M("adapters.dict_order", "the sub-layers come in the order of a dict's keys; attention is first, wherever it stands",
          lambda x, weights, adapters: sublayers(lambda x, W, a: x + used(x @ W.T, a), order=weights)(x, weights, adapters)),
        M("adapters.one_a_layer", "there is one adapter only, after mlp", without_adapter(("attention",))),
        M("adapters.one_a_layer", "there is one adapter only, after attention", without_adapter(("mlp",))),
        M("adapters.update_missing", "there are no adapters", without_adapter(("attention", "mlp"))),
        M("adapters.sublayers_parallel", "mlp is given the block's x, not what attention's step has made of it",
          lambda x, weights, adapters: x + sum(used(x @ weights[n].T, adapters[n]) for n in weights)),
        M("adapters.swapped", "each sub-layer has the other one's adapter", lambda x, weights, adapters: block(
            x, weights, {"attention": adapters["mlp"], "mlp": adapters["attention"]})),
        M("adapters.swapped", "both sub-layers have attention's adapter", lambda x, weights, adapters: block(
            x, weights, {"attention": adapters["attention"], "mlp": adapters["attention"]})),
        M("adapters.swapped", "both sub-layers have mlp's adapter", lambda x, weights, adapters: block(
            x, weights, {"attention": adapters["mlp"], "mlp": adapters["mlp"]})),
    ])


def test_near_identity(submission):
    sizes = ((48, 32, 0.01), (200, 9, 0.3), (1, 5, 0.02), (40, 40, 3.0))
    for (d, m, std), seed in zip(sizes, [0, *submission.rng.integers(1, 2**31, 3).tolist()], strict=True):
        given, again, other = (_drawn(submission, d, m, std, each) for each in (seed, seed, seed + 1))
        down, up = given["W_down"].astype(np.float64), given["W_up"].astype(np.float64)
        _drawn_values(submission, given, down, up)
        if down.size >= 1000:
            for name, W in (("W_down", down), ("W_up", up)):
                _normal(submission, name, W, std)
        for name in ("W_down", "W_up"):
            submission.require(np.array_equal(given[name], again[name]), "near_identity",
                               f"seed {seed} gives another {name} each time")
            submission.require(not np.array_equal(given[name], other[name]), "near_identity",
                               f"another seed gives the same {name}")


def _drawn(submission, d, m, std, seed):
    """What near_identity gives, if it has the right form."""
    check, shapes = submission.require, {"W_down": (m, d), "b_down": (m,), "W_up": (d, m), "b_up": (d,)}
    given = submission.near_identity(d, m, std, seed)
    check(isinstance(given, dict) and set(given) == set(shapes), "near_identity", f"expected a dict of {list(shapes)}", "keys")
    for name, shape in shapes.items():
        array = given[name]
        check(isinstance(array, np.ndarray), "near_identity", f"{name} is not an array", "type")
        turned = array.ndim == 2 and array.shape == shape[::-1] != shape
        check(array.shape == shape, "near_identity",
              f"{name} is {array.shape}, {'transposed: ' if turned else ''}expected {shape}",
              "adapters.transposed" if turned else "shape")
        check(array.dtype in (np.float32, np.float64), "near_identity",
              f"{name} is an array of {array.dtype}, expected float64 or float32", "dtype")
        check(bool(np.isfinite(array).all()), "near_identity", f"{name} holds numbers that are not finite")
    return given


def _drawn_values(submission, given, down, up):
    check = submission.require
    check(bool(down.any() or up.any()), "near_identity", "both matrices are zero, so neither would ever get a gradient",
          "adapters.both_zero")
    check(bool(down.any() and up.any()), "near_identity",
          f"{'W_up' if down.any() else 'W_down'} is zero; here both matrices are drawn", "adapters.one_zero")
    for name in ("b_down", "b_up"):
        check(not np.any(given[name]), "near_identity", f"{name} is not zero, so the output moves whatever the input is",
              "adapters.bias_random")
    alike = np.array_equal(down.ravel(), up.ravel()) or np.array_equal(down, up.T)
    check(down.size < 2 or not alike, "near_identity", "both matrices hold the same numbers: a generator is made once, and "
          "draws one after the other", "adapters.same_draw")


def _normal(submission, name, W, std):
    """At least 1000 numbers: the bounds are five of their standard deviations away, and more."""
    drawn, mean = W.std(), W.mean()
    submission.require(abs(drawn / std - 1) < 0.15, "near_identity",
                       f"{name} has a standard deviation of {drawn:.3g}, expected {std:.3g}", "adapters.std")
    submission.require(abs(mean) < 0.2 * std, "near_identity", f"{name} has a mean of {mean:.3g}, expected 0",
                       "adapters.not_normal")
    submission.require(2.2 * std < np.abs(W).max() < 8 * std, "near_identity",
                       f"the largest of {W.size} numbers in {name} is {np.abs(W).max() / std:.2f} standard deviations from 0: "
                       "they are not drawn from a normal distribution", "adapters.not_normal")


def test_count(submission):
    cases = [tuple(int(n) for n in submission.rng.integers(2, (4096, 256, 80))) for _ in range(4)]
    submission.agrees("count_parameters", cases, lambda d, m, layers: 2 * layers * (2 * d * m + m + d), [
        M("adapters.bias_missing", "the biases are not counted", lambda d, m, layers: 4 * layers * d * m),
        M("adapters.bias_missing", "b_down is not counted", lambda d, m, layers: 2 * layers * (2 * d * m + d)),
        M("adapters.bias_missing", "b_up is not counted", lambda d, m, layers: 2 * layers * (2 * d * m + m)),
        M("adapters.one_a_layer", "one adapter a layer is counted", lambda d, m, layers: layers * (2 * d * m + m + d)),
        M("adapters.one_matrix", "only one of the two matrices is counted",
          lambda d, m, layers: 2 * layers * (d * m + m + d)),
        M("adapters.one_layer", "one layer is counted", lambda d, m, layers: 2 * (2 * d * m + m + d)),
        M("adapters.equal_biases", "both biases are taken to be as long as the input",
          lambda d, m, layers: 2 * layers * (2 * d * m + 2 * d)),
        M("adapters.equal_biases", "both biases are taken to be as long as the bottleneck",
          lambda d, m, layers: 2 * layers * (2 * d * m + 2 * m)),
    ])
