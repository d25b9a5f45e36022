"""What LoRA does with its numbers: the forward pass, the scale and its effect on a step, merging, sums of two updates."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.claims.practice.kinds import kind, numeric, pick
from tinypeft.claims.practice.lora_counts import LORA
from tinypeft.claims.questions import Mistake, Numeric, Step
from tinypeft.nn import Linear
from tinypeft.peft import LoraConfig
from tinypeft.peft.combine import combined
from tinypeft.peft.lora import LoraLayer, rank_and_scaling
from tinypeft.training import SGD, AdamW

SCALING = "04_lora/scaling"
Matrix = np.ndarray


def layer_with(W: Matrix, adapters: dict[str, tuple[Matrix, Matrix, float]]) -> LoraLayer:
    """A LoRA layer of these numbers: adapter -> A, B, alpha; the first one is active."""
    linear = Linear(W.shape[1], W.shape[0], bias=False)
    linear.weight.data, linear.weight.requires_grad = W.astype(np.float64), False
    layer = LoraLayer(linear, "W")
    for name, (A, B, alpha) in adapters.items():
        layer.add(name, LoraConfig(r=len(A), lora_alpha=alpha), 0)
        layer.lora_A[name].weight.data, layer.lora_B[name].weight.data = A.astype(np.float64), B.astype(np.float64)
    layer.active = list(adapters)[:1]
    return layer


def small(rng: np.random.Generator, *shape: int) -> Matrix:
    """Whole numbers from -4 to 4 without 0, which one can reckon with by hand."""
    return rng.choice([-4, -3, -2, -1, 1, 2, 3, 4], shape)


def written(matrix: Matrix) -> str:
    """A vector or matrix as text.

    >>> written(np.array([[1, -2], [0, 0.5]]))
    '[[1, -2], [0, 0.5]]'
    """
    if matrix.ndim == 0:
        return f"{float(matrix):g}"
    return f"[{', '.join(written(row) for row in matrix)}]"


@kind("lora-forward", "lora", "the forward pass, by hand", 2)
def lora_forward(rng: np.random.Generator) -> Numeric:
    r = pick(rng, (1, 1, 2))
    W, A, B, x = small(rng, 2, 2), small(rng, r, 2) / 10, small(rng, 2, r) / 10, small(rng, 2)
    alpha, place = r * pick(rng, (2, 4, 8, 16)), int(rng.integers(2))
    layer = layer_with(W, {"default": (A, B, alpha)})
    h = layer(Tensor(x.astype(np.float64)[None])).data[0]
    base, low, s = W @ x, A @ x, alpha / r
    update = B @ low
    row = ("first", "second")[place]
    return numeric(
        f"{LORA}\n\nW = {written(W)}, A = {written(A)}, B = {written(B)}, alpha = {alpha}, and x = {written(x)}, a column. The "
        f"rank is the number of rows of A. What is the {row} number of h = W x + (alpha/r) B A x?", h[place],
        [Step("W x", "", written(base)), Step("A x", "", written(low.round(10))), Step("B A x", "", written(update.round(10))),
         Step("alpha / r", f"{alpha} / {r}", f"{s:g}"),
         Step(f"h, {row} number", f"{base[place]:g} + {s:g} x {update[place]:.4g}", f"{h[place]:.6g}")],
        [Mistake("base-only", base[place], "That is W x, what the model computes without the adapter."),
         Mistake("update-only", s * update[place], "That is the update alone. W x is added to it."),
         Mistake("no-scale", base[place] + update[place], f"That adds B A x as it is. It is multiplied by alpha/r = {s:g} "
                                                          "first."),
         Mistake("alpha-unscaled", base[place] + alpha * update[place], "That multiplies by alpha; the scale is alpha / r, "
                                                                        f"with r = {r} rows in A."),
         Mistake("rank-two", base[place] + alpha / 2 * update[place], "That takes r = 2. A has one row, so the rank is 1: its "
                                                                      "two columns are W's two inputs."),
         Mistake("inverse-scale", base[place] + update[place] / s, "That divides by alpha/r instead of multiplying."),
         Mistake("other-row", h[1 - place], f"That is the {('second', 'first')[place]} number."),
         Mistake("transposed", (W.T @ x)[place] + s * update[place], "That takes W's columns for rows: (W x)_i is row i of W "
                                                                     "times x.")],
        tolerance=0.002, section=SCALING)


@kind("lora-merged-weight", "merging", "an entry of the merged weight", 2)
def lora_merged_weight(rng: np.random.Generator) -> Numeric:
    r = pick(rng, (1, 2))
    W, A, B = small(rng, 2, 3), small(rng, r, 3) / 10, small(rng, 2, r) / 10
    alpha, i, j = r * pick(rng, (2, 4, 8, 16)), int(rng.integers(2)), int(rng.integers(3))
    layer = layer_with(W, {"default": (A, B, alpha)})
    layer.merge(["default"])
    merged, s, product = layer.base_layer.weight.data, alpha / r, B @ A
    return numeric(
        f"{LORA}\n\nW = {written(W)}, A = {written(A)}, B = {written(B)}, alpha = {alpha}. The adapter is merged. What stands "
        f"in row {i + 1}, column {j + 1} of the merged weight?", merged[i, j],
        [Step(f"row {i + 1} of B times column {j + 1} of A", f"{written(B[i])} . {written(A[:, j])}", f"{product[i, j]:.6g}"),
         Step("alpha / r", f"{alpha} / {r}", f"{s:g}"),
         Step("merged", f"{W[i, j]} + {s:g} x {product[i, j]:.4g}", f"{merged[i, j]:.6g}")],
        [Mistake("no-scale", W[i, j] + product[i, j], "That is W + B A. The update is scaled in the forward pass, and so it is "
                                                      f"when it is merged: alpha/r = {s:g}."),
         Mistake("alpha-unscaled", W[i, j] + alpha * product[i, j], "That multiplies by alpha; the scale is alpha / r."),
         Mistake("update-only", s * product[i, j], "That is the change alone, without W."),
         Mistake("minus", W[i, j] - s * product[i, j], "That takes the change off, as unmerging does."),
         Mistake("unchanged", W[i, j], "That is W before merging."),
         Mistake("one-component", W[i, j] + s * B[i, 0] * A[0, j], "That multiplies one number of B with one of A. With r = 2 "
                                                                   "two such products are summed."),
         Mistake("other-place", merged[(i + 1) % 2, j], f"That stands in row {(i + 1) % 2 + 1}.")],
        tolerance=0.002, section="04_lora/merge")


@kind("rslora-scale", "rslora", "the scale of rsLoRA")
def rslora_scale(rng: np.random.Generator) -> Numeric:
    r, alpha = pick(rng, (4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512)), int(rng.integers(8, 513))
    plain, stable = (rank_and_scaling(LoraConfig(r=r, lora_alpha=alpha, use_rslora=use), "W")[1] for use in (False, True))
    return numeric(
        f"LoRA multiplies B A x by alpha / r. rsLoRA (use_rslora=True) divides alpha by the square root of r instead, so that "
        f"updates of a high rank are not scaled down to nothing. With r = {r} and alpha = {alpha}: by what does rsLoRA "
        "multiply B A x?", stable,
        [Step("square root of r", "", f"{r**0.5:.5g}"), Step("scale", f"{alpha} / {r**0.5:.5g}", f"{stable:.5g}")],
        [Mistake("lora", plain, "That is LoRA's scale, alpha / r."),
         Mistake("ratio", stable / plain, "That is how many times larger it is than LoRA's."),
         Mistake("times-root", alpha * r**0.5, "That multiplies by the root; alpha is divided by it."),
         Mistake("root-of-all", plain**0.5, "That is the root of alpha / r. Only r is under the root."),
         Mistake("inverse", 1 / stable, "That is upside down: alpha stands above.")],
        section=SCALING)


@kind("alpha-step", "lora", "what a larger alpha does to the first step", 3)
def alpha_step(rng: np.random.Generator) -> Numeric:
    r, ratio = pick(rng, (2, 4, 8, 16)), int(rng.integers(2, 17))
    alpha, adam = int(rng.integers(4, 65)), bool(rng.integers(2))
    factor = _first_change(r, ratio * alpha, adam) / _first_change(r, alpha, adam)
    rule = "AdamW" if adam else "plain SGD"
    moved = ("Adam divides a gradient by its own size, so that B moves as far as before, whatever the scale" if adam else
             f"B's gradient carries the factor alpha/r, so that B moves {ratio} times as far")
    other = "s^2, as under SGD. Adam divides each gradient by its size, which takes one of the two factors out" if adam else \
        "s, as under Adam. Under SGD the factor comes in twice: in B's gradient, and where B A is scaled"
    return numeric(
        f"{LORA} At the start B = 0.\n\nOne step is taken with {rule}, once with alpha = {alpha} and once with alpha = "
        f"{ratio * alpha}; r = {r}, learning rate, A and data are the same, and there is no weight decay. How many times "
        "larger is the first change of the effective weight, (alpha/r) B A, with the larger alpha?", factor,
        [Step("how much larger the scale s is", f"{ratio * alpha} / {alpha}", f"{ratio}x"),
         Step("what B does", "", moved), Step("what multiplies B A", "", f"a scale {ratio} times as large"),
         Step("together", "", f"{factor:.4g}x")],
        [Mistake("sgd-for-adam" if adam else "adam-for-sgd", ratio if not adam else ratio**2, f"That is {other}."),
         Mistake("none", 1, "That says that alpha does nothing. It multiplies B A, also after the step."),
         Mistake("cube", ratio**3, "That has one factor too many: A does not move in the first step, since its gradient is "
                                   "multiplied by B = 0."),
         Mistake("root", ratio**0.5, "No root comes in here; rsLoRA's is one of r, not of alpha."),
         Mistake("inverse", 1 / ratio, "That is upside down: a larger alpha makes a larger change.")],
        unit="x", tolerance=0.01, section=SCALING)


def _first_change(r: int, alpha: float, adam: bool) -> float:
    """Size of (alpha/r) B A after one step, for a drawn layer that is always the same."""
    random = np.random.default_rng(0)
    A, x, g = random.standard_normal((r, 24)), random.standard_normal((5, 24)), random.standard_normal((5, 16))
    layer = layer_with(random.standard_normal((16, 24)), {"default": (A, np.zeros((16, r)), alpha)})
    (layer(Tensor(x)) * g).sum().backward()
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimizer: Any = AdamW(trained, lr=1e-3, weight_decay=0.0) if adam else SGD(trained, lr=1e-3)
    optimizer.step()
    return float(np.linalg.norm(layer.delta_weight("default")))


# ---- several updates ------------------------------------------------------------------------------------------------

@kind("rank-of-sum", "merging", "the rank of two updates together", 2, fewest_mistakes=2)
def rank_of_sum(rng: np.random.Generator) -> Numeric:
    first, second = (int(i) for i in rng.choice(np.arange(2, 17), 2, replace=False))
    n_out, n_in = (8 * int(rng.integers(5, 17)) for _ in range(2))
    rank = int(np.linalg.matrix_rank(_delta(rng, n_out, n_in, first) + _delta(rng, n_out, n_in, second)))
    return numeric(
        f"Two LoRA adapters for the same matrix W ({n_out}, {n_in}), of ranks {first} and {second}, trained independently, are "
        "both added to W. What rank does the change of W have then, but for a coincidence?", rank,
        [Step("columns that B1 A1 can reach", "", f"a space of {first} dimensions"),
         Step("columns that B2 A2 can reach", "", f"another one, of {second}"),
         Step("together, as long as W is larger", f"{first} + {second}", str(rank))],
        [Mistake("maximum", max(first, second), "That is the larger of the two ranks. The two updates reach different "
                                                "directions, so that together they have more than either."),
         Mistake("product", first * second, "Ranks of sums do not multiply: two spaces of columns add up to at most the sum of "
                                            "their dimensions."),
         Mistake("minimum", min(first, second), "That is the smaller rank, a bound for a product of matrices. Here two are "
                                                "added."),
         Mistake("full", min(n_out, n_in), "That is the largest rank that a matrix of this shape can have.")],
        tolerance=0.001, section="04_lora/spectrum")


def _delta(rng: np.random.Generator, n_out: int, n_in: int, r: int) -> Matrix:
    A, B = rng.standard_normal((r, n_in)), rng.standard_normal((n_out, r))
    return layer_with(np.zeros((n_out, n_in)), {"default": (A, B, r)}).delta_weight("default")


@kind("linear-merge", "merging", "a weighted sum of adapters, linear or exact", 3)
def linear_merge(rng: np.random.Generator) -> Numeric:
    A1, A2, B1, B2 = (small(rng, 1, 1) for _ in range(4))
    w1, w2 = pick(rng, [(0.25, 0.25), (0.25, 1.0), (1.0, 0.25), (1.0, 1.0), (0.64, 0.36), (0.5, 0.5), (0.16, 0.36), (2.0, 2.0)])
    linear = bool(rng.integers(2))
    layer = layer_with(np.zeros((1, 1)), {"one": (A1, B1, 1), "two": (A2, B2, 1)})

    def change(how: str) -> float:
        A, B = combined(layer, ["one", "two"], [w1, w2], how, None)
        return float((B @ A).item())

    def entry(M: Matrix) -> str:
        return str(M[0, 0])

    exact, crossed = change("cat"), change("linear")
    root1, root2 = w1**0.5, w2**0.5
    how = ('combination_type="linear", which adds up the factors, A = sqrt(w1) A1 + sqrt(w2) A2 and B = sqrt(w1) B1 + sqrt(w2) '
           'B2'
           if linear else 'combination_type="cat", which puts A1 above A2 and B1 beside B2, each with its weight')
    steps = [Step("A", f"{root1:g} x {entry(A1)} + {root2:g} x {entry(A2)}", f"{root1 * A1[0, 0] + root2 * A2[0, 0]:.4g}"),
             Step("B", f"{root1:g} x {entry(B1)} + {root2:g} x {entry(B2)}", f"{root1 * B1[0, 0] + root2 * B2[0, 0]:.4g}"),
             Step("B A", "the product", f"{crossed:.4g}"),
             Step("of this the cross terms, one's B with the other's A, are", "", f"{crossed - exact:.4g}")] if linear else [
        Step("first adapter", f"{w1:g} x {entry(B1)} x {entry(A1)}", f"{w1 * B1[0, 0] * A1[0, 0]:.4g}"),
        Step("second adapter", f"{w2:g} x {entry(B2)} x {entry(A2)}", f"{w2 * B2[0, 0] * A2[0, 0]:.4g}"),
        Step("together", "the sum, without cross terms", f"{exact:.4g}")]
    answer = crossed if linear else exact
    return numeric(
        f"Two LoRA adapters on a matrix with one input and one output, rank 1, alpha/r = 1: A1 = {entry(A1)}, B1 = "
        f"{entry(B1)}; A2 = {entry(A2)}, B2 = {entry(B2)}. add_weighted_adapter makes one of them, with weights w1 = {w1:g} "
        f"and w2 = {w2:g} and {how}. By how much does the new adapter change W?", answer, steps,
        [Mistake("exact-for-linear" if linear else "linear-for-exact", exact if linear else crossed,
                 "That is the weighted sum of the two changes. Adding up the factors gives products of one's B with the "
                 "other's A besides." if linear else "That multiplies the summed factors, as \"linear\" does, and has products "
                                           "of one's B with the other's A in it. \"cat\" has none."),
         Mistake("no-weights", (B1 @ A1 + B2 @ A2).item(), "That leaves out the weights."),
         Mistake("weights-twice", ((w1 * B1 + w2 * B2) @ (w1 * A1 + w2 * A2)).item(), "That puts the whole weight into A and "
                                                                                    "into B. A and B each get its root."),
         Mistake("unweighted-linear", ((B1 + B2) @ (A1 + A2)).item(), "That adds the factors up without their weights.")],
        tolerance=0.004, section="12_many_tasks")
