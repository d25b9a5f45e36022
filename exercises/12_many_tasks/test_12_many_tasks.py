"""The grader of exercise 12: what is asked of many_tasks.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.compare import describe
from tinypeft.grading.submission import Misconception as M

BASE = "__base__"

# ---- what is right --------------------------------------------------------------------------------------------------


def scale(adapter):
    return adapter["alpha"] / len(adapter["A"])


def factors(adapters, weights, of=scale):
    """w s for each adapter."""
    return [w * of(adapter) for adapter, w in zip(adapters, weights, strict=True)]


def delta(adapters, weights, of=scale):
    return sum(c * adapter["B"] @ adapter["A"] for adapter, c in zip(adapters, factors(adapters, weights, of), strict=True))


def weighted_sum(adapters, name, with_factors):
    return sum(c * adapter[name] for adapter, c in zip(adapters, with_factors, strict=True))


def root(c):
    return abs(c) ** 0.5


def signed_root(c):
    return np.sign(c) * abs(c) ** 0.5


def linear(adapters, weights, in_A=signed_root, in_B=root, of=scale):
    both = factors(adapters, weights, of)
    return {"A": weighted_sum(adapters, "A", map(in_A, both)), "B": weighted_sum(adapters, "B", map(in_B, both))}


def task_vector(base, tuned):
    return {name: tuned[name] - base[name] for name in base}


def applied(base, vectors, weights):
    return {name: value + sum(w * vector[name] for vector, w in zip(vectors, weights, strict=True))
            for name, value in base.items()}


def mixed(x, W, adapters, names, of=scale):
    rows = []
    for row, name in zip(x, names, strict=True):
        update = 0 if name == BASE else of(adapters[name]) * adapters[name]["B"] @ (adapters[name]["A"] @ row)
        rows.append(W @ row + update)
    return np.array(rows)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def adapter(rng, n_out, n_in, r):
    """alpha / r is neither 1 nor its own square, and differs from that of most others."""
    return {"A": rng.standard_normal((r, n_in)), "B": rng.standard_normal((n_out, r)), "alpha": float(rng.uniform(1.5, 4) * r)}


def signed(rng, count):
    """Weights that do not add up to 1: of both signs if there are two, and one of them 0 if there are more."""
    signs = [-1, 1, 0, 1][:count]
    return [float(w) for w in rng.permutation(signs) * rng.uniform(0.2, 0.9, count)]


def combinations(rng, equal_ranks):
    """Adapters of one layer, and weights."""
    for n_out, n_in, ranks in ((4, 5, (2, 2)), (6, 3, (1, 1, 1)), (3, 1, (2, 2)), (1, 7, (2, 2, 2, 2)), (4, 4, (3, 3)),
                               (2, 3, (2,))):
        if not equal_ranks:
            ranks = [r + i for i, r in enumerate(ranks)] if len(ranks) > 1 else ranks
        yield [adapter(rng, n_out, n_in, int(r)) for r in rng.permutation(ranks)], signed(rng, len(ranks))


def weights_of(rng, shapes):
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


MODELS = [{"wte.weight": (5, 3), "ln.weight": (3,), "wpe.weight": (5, 3)}, {"weight": (1, 1)}, {"a": (2, 1, 3), "b": (1,)}]


def models(rng, count):
    """Dicts of one model's weights, so many of them. Every other one has its names in the opposite order."""
    for shapes in MODELS:
        yield [weights_of(rng, dict(list(shapes.items())[::-1 if i % 2 else 1])) for i in range(count)]


def by_position(base, values):
    """As it is read by somebody who takes the names to be in the base's order."""
    return dict(zip(base, values.values(), strict=True))


def batches(rng):
    """x, W, adapters and names.

    Some adapters are not used, one is by several rows that are not neighbours, and the name of one begins with another's.
    The same names stand for other adapters in each case, once of layers of the same size.
    """
    for n_in, n_out, names in ((5, 4, ("a2", BASE, "a", "a2", BASE, "c")), (3, 6, ("a", "c", "a")), (1, 3, (BASE, "a2")),
                               (7, 1, ("c",)), (4, 4, (BASE,)), (4, 4, ("c", "a2", "a", BASE, "c")), (5, 4, ("c", "a2"))):
        drawn = {name: adapter(rng, n_out, n_in, r) for name, r in (("c", 2), ("a", 1), ("unused", 2), ("a2", 3))}
        yield rng.standard_normal((len(names), n_in)), rng.standard_normal((n_out, n_in)), drawn, list(names)
    yield rng.standard_normal((2, 3)), rng.standard_normal((2, 3)), {}, [BASE, BASE]


# ---- the tests: adapters added up -----------------------------------------------------------------------------------


def alpha_of(adapter):
    return adapter["alpha"]


def unscaled(_):
    return 1.0


def sums(gives):
    """Misconceptions of a weighted sum; `gives` computes the result with other weights or other scales."""
    def weighted(change):
        return lambda adapters, weights: gives(adapters, change(np.array(weights)))

    return [
        M("merging.no_scale", "alpha / r is missing: each adapter has its own", lambda *case: gives(*case, of=unscaled)),
        M("merging.scale_alpha_only", "it is multiplied by alpha, not by alpha / r", lambda *case: gives(*case, of=alpha_of)),
        M("merging.scale_of_first", "the first adapter's alpha / r is used for all",
          lambda adapters, weights: gives(adapters, weights, of=lambda _: scale(adapters[0]))),
        M("merging.no_weights", "the weights are missing", weighted(np.ones_like)),
        M("merging.mean", "it is divided by the number of adapters", weighted(lambda w: w / len(w))),
        M("merging.normalized", "the weights are made to add up to 1", weighted(lambda w: w / w.sum())),
        M("merging.sign", "the signs of the weights are lost", weighted(abs)),
        M("merging.last_only", "only the last adapter is there",
          weighted(lambda w: np.where(np.arange(len(w)) == len(w) - 1, w, 0.0))),
    ]


def test_weighted_delta(submission):
    def product(change):
        return lambda *case: (lambda both: both["B"] @ both["A"])(change(*case))

    submission.agrees("weighted_delta", combinations(submission.rng, equal_ranks=True), delta, [
        *sums(delta),
        M("merging.cross_terms", "it is the product of a sum of B's and a sum of A's: products of one's B with another's A "
          "come on top", product(linear)),
        M("merging.cross_terms", "it is the product of the sum of B's and the weighted sum of A's: products of one's B with "
          "another's A come on top", product(lambda *case: linear(*case, in_A=float, in_B=unscaled))),
    ])


def test_weighted_delta_of_unequal_ranks(submission):
    submission.agrees("weighted_delta", combinations(submission.rng, equal_ranks=False), delta, sums(delta))


def _linear(submission, name, misconceptions):
    def of(**change):
        return lambda *case: linear(*case, **change)[name]

    submission.agrees("linear_combination", combinations(submission.rng, equal_ranks=True), of(), [
        *misconceptions,
        M("merging.no_root", "w s is there, not its root",
          of(in_A=lambda c: c, in_B=lambda c: abs(c))),
        M("merging.no_root", "w s is there, not its root", of(in_A=abs, in_B=lambda c: c)),
        M("merging.one_side", "w s is wholly in the other factor; peft's \"linear\" has a root of it in each",
          of(in_A=unscaled, in_B=unscaled)),
        *sums(lambda adapters, weights, of=scale: linear(adapters, weights, of=of)[name]),
    ], part=name)


def test_linear_A(submission):
    def root_of_weight(adapters, weights):
        return weighted_sum(adapters, "A", [signed_root(w) * scale(one) for one, w in zip(adapters, weights, strict=True)])

    _linear(submission, "A", [
        M("merging.sign_in_B", "the sign of w is missing here: it belongs to A",
          lambda *case: linear(*case, in_A=root)["A"]),
        M("merging.root_of_weight", "the root is taken of w alone, and not of w s", root_of_weight),
    ])


def test_linear_B(submission):
    def root_of_weight(adapters, weights):
        return weighted_sum(adapters, "B", [root(w) * scale(one) for one, w in zip(adapters, weights, strict=True)])

    _linear(submission, "B", [
        M("merging.sign_in_B", "the sign of w is here; it belongs to A, and in both it would be lost",
          lambda *case: linear(*case, in_B=signed_root)["B"]),
        M("merging.root_of_weight", "the root is taken of w alone, and not of w s", root_of_weight),
    ])


def test_concatenate(submission):
    """Which of A and B has the weights, and in which order the adapters stand, is left open: B A is compared."""
    def product(received, adapters, weights):
        (n_out, _), (_, n_in) = adapters[0]["B"].shape, adapters[0]["A"].shape
        ranks = [len(one["A"]) for one in adapters]
        submission.require(isinstance(received, dict) and set(received) == {"A", "B"}, "concatenate",
                           f'expected a dict of "A" and "B", received {describe(received)}', "keys")
        A = submission.real_array("concatenate", received["A"], (sum(ranks), n_in), f"A of the ranks {ranks}")
        B = submission.real_array("concatenate", received["B"], (n_out, sum(ranks)), f"B of the ranks {ranks}")
        with np.errstate(all="ignore"):
            return {"B @ A": B @ A}

    def stacked(adapters, weights, of=scale, in_A=float, in_B=unscaled, turn=1):
        both = factors(adapters, weights, of)
        A = [in_A(c) * one["A"] for one, c in zip(adapters, both, strict=True)]
        B = [in_B(c) * one["B"] for one, c in zip(adapters, both, strict=True)]
        return {"B @ A": np.concatenate(B[::turn], axis=1) @ np.concatenate(A)}

    cases = [*combinations(submission.rng, equal_ranks=True), *combinations(submission.rng, equal_ranks=False)]
    submission.agrees("concatenate", cases, lambda *case: {"B @ A": delta(*case)}, [
        M("merging.twice", "w s is in both A and B; it may be in one of them, or its root in each",
          lambda *case: stacked(*case, in_B=float)),
        M("merging.sign", "the roots of |w s| are in A and B, and the sign of w in neither, or in both",
          lambda *case: stacked(*case, in_A=root, in_B=root)),
        M("merging.crossed", "the A's and the B's stand in different orders, so that one's B meets another's A",
          lambda *case: stacked(*case, turn=-1)),
        M("merging.root_of_weight", "the root of w is there, once; it should be w",
          lambda adapters, weights: stacked(adapters, [float(signed_root(w)) for w in weights])),
        M("merging.no_weights", "weights and alpha / r are missing", lambda *case: stacked(*case, in_A=unscaled)),
        *sums(stacked),
    ], view=product)


# ---- task vectors ---------------------------------------------------------------------------------------------------


BY_POSITION = "arrays are paired by their places in the dicts; the same name is what belongs together"


def test_task_vector(submission):
    def of(change):
        return lambda base, tuned: {name: change(base[name], tuned[name]) for name in base}

    cases = list(models(submission.rng, 2))
    for base, tuned in cases:  # an array that was frozen is in a task vector too
        if "ln.weight" in base:
            tuned["ln.weight"] = base["ln.weight"].copy()
    submission.agrees("task_vector", cases, task_vector, [
        M("tasks.reversed", "it is base - tuned", of(lambda base, tuned: base - tuned)),
        M("tasks.tuned", "it is the tuned model itself; its change is asked for", of(lambda base, tuned: tuned)),
        M("tasks.tuned", "base and tuned are added", of(lambda base, tuned: base + tuned)),
        M("tasks.relative", "the change is divided by the base", of(lambda base, tuned: (tuned - base) / base)),
        M("tasks.by_position", BY_POSITION, lambda base, tuned: task_vector(base, by_position(base, tuned))),
    ])


def test_apply_task_vectors(submission):
    rng = submission.rng
    cases = [(base, vectors, signed(rng, len(vectors))) for count in (2, 3) for base, *vectors in models(rng, 1 + count)]

    def weighted(change):
        return lambda base, vectors, weights: applied(base, vectors, change(np.array(weights)))

    submission.agrees("apply_task_vectors", cases, applied, [
        M("tasks.base_missing", "the base is missing: it is the sum of the vectors alone",
          lambda base, *rest: task_vector(base, applied(base, *rest))),
        M("tasks.base_weighted", "the base is there once for each vector, times its weight",
          lambda base, vectors, weights: {name: sum(w * (value + v[name]) for v, w in zip(vectors, weights, strict=True))
                                          for name, value in base.items()}),
        M("tasks.base_weighted", "the vectors are taken for tuned models: their difference from the base is added",
          lambda base, vectors, weights: applied(base, [task_vector(base, v) for v in vectors], weights)),
        M("tasks.no_weights", "the weights are missing", weighted(np.ones_like)),
        M("tasks.mean", "the sum is divided by the number of vectors", weighted(lambda w: w / len(w))),
        M("tasks.normalized", "the weights are made to add up to 1", weighted(lambda w: w / w.sum())),
        M("tasks.last_only", "only the last vector is there",
          weighted(lambda w: np.where(np.arange(len(w)) == len(w) - 1, w, 0.0))),
        M("tasks.last_only", "only the first vector is there", weighted(lambda w: np.where(np.arange(len(w)) == 0, w, 0.0))),
        M("tasks.by_position", BY_POSITION, lambda base, vectors, weights: applied(
            base, [by_position(base, vector) for vector in vectors], weights)),
        M("tasks.subtracted", "the vectors are taken away", weighted(lambda w: -w)),
        M("tasks.subtracted", "the signs of the weights are lost", weighted(abs)),
    ])


# ---- a batch of many tasks ------------------------------------------------------------------------------------------


def by_name(x, W, adapters, names):
    """The rows as they come if each adapter takes its own."""
    return mixed(x, W, adapters, names)[np.argsort(np.unique(names, return_inverse=True)[1], kind="stable")]


def grouped(x, W, adapters, names):
    first_seen = list(dict.fromkeys(names))
    return mixed(x, W, adapters, names)[sorted(range(len(names)), key=lambda i: first_seen.index(names[i]))]


def empty_base_rows(x, W, adapters, names):
    return mixed(x, W, adapters, names) * np.array([[name != BASE] for name in names])


def all_adapters(x, W, adapters, names):
    return x @ (W + sum(scale(one) * one["B"] @ one["A"] for one in adapters.values())).T


def similar_names(x, W, adapters, names):
    like = [[name if row.startswith(name) else BASE for row in names] for name in adapters]
    return x @ W.T + sum(mixed(x, 0 * W, adapters, one) for one in like)


def first(adapters):
    return next(iter(adapters.values()))


def test_mixed_batch(submission):
    submission.agrees("mixed_batch", batches(submission.rng), mixed, [
        M("batch.first_for_all", "the first row's adapter is used for all",
          lambda x, W, adapters, names: mixed(x, W, adapters, [names[0]] * len(names))),
        M("batch.first_for_all", "the last row's adapter is used for all",
          lambda x, W, adapters, names: mixed(x, W, adapters, [names[-1]] * len(names))),
        M("batch.sum_of_adapters", "all adapters are used for each row", all_adapters),
        M("batch.base_only", "no adapter is used", lambda x, W, adapters, names: x @ W.T),
        M("batch.base_missing", "x W^T is missing: only what the adapters add is there",
          lambda x, W, adapters, names: mixed(x, 0 * W, adapters, names)),
        M("batch.base_missing", "x W^T is missing in rows that have an adapter",
          lambda x, W, adapters, names: mixed(x, W, adapters, names) - x @ W.T * np.array([[n != BASE] for n in names])),
        M("batch.empty_rows", "rows without an adapter stay zero; the base is theirs", empty_base_rows),
        M("batch.grouped", "the rows come back grouped by their adapters, and not in the order of x", grouped),
        M("batch.grouped", "the rows come back sorted by their adapters, and not in the order of x", by_name),
        M("batch.no_scale", "the factor alpha / r is missing", lambda *case: mixed(*case, of=unscaled)),
        M("batch.scale_alpha_only", "the update is multiplied by alpha, not by alpha / r",
          lambda *case: mixed(*case, of=alpha_of)),
        M("batch.scale_of_first", "the first adapter's alpha / r is used for all", lambda x, W, adapters, names: mixed(
            x, W, adapters, names, of=lambda _: scale(first(adapters)))),
        M("batch.scale_of_first", "alpha is divided by the r of the first adapter", lambda x, W, adapters, names: mixed(
            x, W, adapters, names, of=lambda one: one["alpha"] / len(first(adapters)["A"]))),
        M("batch.similar_names", "an adapter is used for all rows whose names begin with its own", similar_names),
    ])
