"""The grader of exercise 01: what is asked of gradients.py, what is right, and what typical mistakes give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tinypeft.grading.submission import Misconception as M, Wrong

# ---- what is right --------------------------------------------------------------------------------------------------


def unbroadcast(g, shape, leading=True, ones=True, keep=True, reduce=np.sum):
    """A gradient summed to the shape of an input that was broadcast."""
    ahead = g.ndim - len(shape)
    if ones:
        axes = tuple(ahead + i for i, n in enumerate(shape) if n == 1)
        g = reduce(g, axis=axes, keepdims=keep)
    return reduce(g, axis=tuple(range(ahead))) if leading else g


def add(a, b, g, **how):
    return [unbroadcast(g, a.shape, **how), unbroadcast(g, b.shape, **how)]


def transposed(a):
    return np.swapaxes(a, -1, -2)


def matmul(a, b, g):
    return [g @ transposed(b), transposed(a) @ g]


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def softmax_back(x, g, axis=-1):
    s = softmax(x, axis)
    return s * (g - (s * g).sum(axis=axis, keepdims=True))


def mean(x, axis=-1):
    return x.mean(axis=axis, keepdims=True)


def normalized(x, eps):
    """x with mean 0 and variance 1, and what it was divided by."""
    deviation = np.sqrt(mean((x - mean(x)) ** 2) + eps)
    return (x - mean(x)) / deviation, deviation


def layer_norm(x, weight, bias, eps, g):
    n, deviation = normalized(x, eps)
    h, rows = g * weight, tuple(range(x.ndim - 1))
    return [(h - mean(h) - n * mean(h * n)) / deviation, (g * n).sum(axis=rows), g.sum(axis=rows)]


def inputs(edges, node):
    return [b for a, b in edges if a == node]


def reached(edges, output):
    found, new = {output}, [output]
    while new:
        new = [b for b in {b for a, b in edges if a in new} if b not in found]
        found |= set(new)
    return found


def order(edges, output):
    """The nodes that the output depends on: each when all its results have been listed."""
    left, listed = reached(edges, output), []
    while left:
        ready = [node for node in left if not any(a in left and b == node for a, b in edges)]
        listed += ready
        left -= set(ready)
    return listed


def derivatives(edges, slopes, output):
    found = dict.fromkeys(order(edges, output), 0.0) | {output: 1.0}
    for node in found:
        for (a, b), slope in zip(edges, slopes, strict=True):
            if a == node:
                found[b] += found[node] * slope
    return named(found)


def named(found):
    return {str(node): value for node, value in found.items()}


# ---- what is drawn --------------------------------------------------------------------------------------------------


def sums(rng, shapes):
    for left, right in shapes:
        yield rng.standard_normal(left), rng.standard_normal(right), rng.standard_normal(np.broadcast_shapes(left, right))


def products(rng):
    for leading, n, k, m in (((), 2, 3, 4), ((2,), 3, 4, 2), ((2, 3), 1, 3, 2), ((1,), 4, 1, 3), ((), 3, 3, 3), ((), 1, 2, 1)):
        yield tuple(rng.standard_normal((*leading, *last)) for last in ((n, k), (k, m), (n, m)))


def rows(rng):
    for shape in ((5,), (3, 4), (2, 1, 6), (4, 2, 3), (3, 1)):
        yield rng.standard_normal(shape), rng.standard_normal(shape)


def large_rows(rng):
    """Rows near 10,000 or -10,000, and rows with both, of integers: exact in float32 too."""
    for x, g in rows(rng):
        far = rng.choice([-10_000, 10_000], (*x.shape[:-1], 1))
        yield (far + rng.integers(-3, 4, x.shape)).astype(float), g
    yield np.array([[10_000.0, -10_000.0, 9_999.0], [-9_999.0, 10_000.0, 0.0]]), rng.standard_normal((2, 3))


def norms(rng, shapes=((3, 4), (5,), (2, 3, 6), (1, 1, 3), (4, 1, 2, 5))):
    for shape in shapes:
        d = shape[-1]
        yield (rng.standard_normal(shape) + 0.5, rng.uniform(0.5, 2.0, d) * rng.choice([-1.0, 1.0], d), rng.standard_normal(d),
               round(float(rng.uniform(0.1, 0.5)), 3), rng.standard_normal(shape))


GRAPHS = [  # edges of result and input; the output is 0
    [(0, 1), (1, 2), (2, 3)],  # a chain
    [(0, 1), (1, 2), (2, 3), (0, 3)],  # a long way and a short one to 3
    [(0, 3), (0, 1), (1, 2), (2, 3)],
    [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 4), (1, 4)],  # two ways, and x * x
    [(5, 0), (5, 6), (0, 1), (0, 2), (7, 1), (1, 2), (8, 9)],  # 5, 6, 7, 8 and 9 play no part in it
    [(0, 1), (1, 4), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5), (2, 5), (6, 0)],
    [(6, 0), (2, 5), (0, 5), (4, 5), (3, 4), (2, 3), (1, 2), (1, 4), (0, 1)],
    [(1, 0), (1, 2)],  # an input
]


def graphs(rng):
    """Edges and output, with numbers in no order."""
    for graph in GRAPHS:
        numbers = rng.permutation(100).tolist()
        yield [[numbers[a], numbers[b]] for a, b in graph], numbers[0]


def chains(rng):
    """Edges, slopes and output. There is one possible order of the nodes, 0, 1, 2 ..., so that every mistake has one result."""
    for length, turn in ((2, 0), (3, 0), (4, 0), (5, 1), (4, -1)):
        numbers = rng.permutation(100).tolist()
        pairs = [(i, i + 1) for i in range(length)] + [(i, j) for i in range(length) for j in range(i + 2, length + 1)]
        pairs += [(length - 1, length), (length + 1, 0), (length + 1, length)]  # x * x, and a node that 0 does not depend on
        pairs = pairs[::turn] if turn else [pairs[i] for i in rng.permutation(len(pairs))]
        slopes = rng.uniform(0.5, 2.0, len(pairs)) * rng.choice([-1.0, 1.0], len(pairs))
        yield [[numbers[a], numbers[b]] for a, b in pairs], slopes.tolist(), numbers[0]


# ---- the tests: sums and products -----------------------------------------------------------------------------------

SIGN = "the sign is wrong"
UPSTREAM = "g is not used: it is as if all of it were one"


def test_add_same_shape(submission):
    cases = sums(submission.rng, [((3, 4), (3, 4)), ((2,), (2,)), ((), ()), ((1, 1, 2), (1, 1, 2))])
    submission.agrees("add_vjp", cases, add, [
        M("autograd.sign", SIGN, lambda a, b, g: [-g, -g]),
        M("autograd.sign", "the sign of db is wrong, as if b were subtracted", lambda a, b, g: [g, -g]),
        M("autograd.upstream_dropped", UPSTREAM, lambda a, b, g: [np.ones_like(a), np.ones_like(b)]),
        M("autograd.product_rule", "a and b were multiplied, and not added", lambda a, b, g: [g * b, g * a]),
    ])


def test_add_broadcast(submission):
    cases = sums(submission.rng, [((3, 4), (4,)), ((3, 1), (1, 4)), ((2, 1, 3), (4, 1)), ((), (3,)), ((2, 2), ()),
                                  ((1,), (5, 2)), ((2, 3), (1,)), ((1, 1), (2, 3, 4)), ((2, 3), (2, 3)), ((1, 2), (1, 2)),
                                  ((1, 4), (3, 1, 4))])
    submission.agrees("add_vjp", cases, add, [
        M("autograd.not_summed", "g is handed on as it is, and not summed over the axes that were broadcast",
          lambda a, b, g: [g, g]),
        M("autograd.not_summed", "db is not summed over the axes along which b was broadcast",
          lambda a, b, g: [unbroadcast(g, a.shape), g]),
        M("autograd.not_summed", "da is not summed over the axes along which a was broadcast",
          lambda a, b, g: [g, unbroadcast(g, b.shape)]),
        M("autograd.leading_axes_only", "it is summed over the axes that were put in front, but not over those of length 1",
          lambda *args: add(*args, ones=False)),
        M("autograd.length_one_only", "it is summed over axes of length 1, but not over those that were put in front",
          lambda *args: add(*args, leading=False)),
        M("autograd.axes_dropped", "axes of length 1 are summed away; they have to stay, with length 1",
          lambda *args: add(*args, keep=False)),
        M("autograd.mean_for_sum", "the mean is taken over the axes that were broadcast, and not the sum",
          lambda *args: add(*args, reduce=np.mean)),
        M("autograd.sign", SIGN, lambda a, b, g: add(a, b, -g)),
        M("autograd.sign", "the sign of db is wrong, as if b were subtracted",
          lambda a, b, g: [add(a, b, g)[0], add(a, b, -g)[1]]),
        M("autograd.upstream_dropped", UPSTREAM, lambda a, b, g: add(a, b, np.ones_like(g))),
        M("autograd.upstream_dropped", UPSTREAM, lambda a, b, g: [np.ones_like(a), np.ones_like(b)]),
        M("autograd.swapped", "da and db are in each other's place", lambda a, b, g: add(b, a, g)),
    ])


def product(submission, part):
    def of(change):
        return lambda a, b, g: change(a, b, g, matmul(a, b, g)[part])

    submission.agrees("matmul_vjp", products(submission.rng), lambda *args: matmul(*args)[part], [
        M("autograd.sign", SIGN, of(lambda a, b, g, right: -right)),
        M("autograd.upstream_dropped", UPSTREAM, lambda a, b, g: matmul(a, b, np.ones_like(g))[part]),
        M("autograd.transposed", "it is transposed", of(lambda a, b, g, right: transposed(right))),
        M("autograd.swapped", "da and db are in each other's place", lambda *args: matmul(*args)[1 - part]),
        M("autograd.batch_summed", "it is summed over the leading axes, each of which has matrices of its own",
          of(lambda a, b, g, right: right.sum(axis=tuple(range(right.ndim - 2))))),
        M("autograd.mean_for_sum", "it is divided by the number of rows of a",
          of(lambda a, b, g, right: right / a.shape[-2])),
    ], part=part)


def test_matmul_a(submission):
    product(submission, 0)


def test_matmul_b(submission):
    product(submission, 1)


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_softmax(submission):
    submission.agrees("softmax_vjp", rows(submission.rng), softmax_back, [
        M("autograd.diagonal", "every output depended on its own input alone: s (1 - s) g",
          lambda x, g: softmax(x) * (1 - softmax(x)) * g),
        M("autograd.sum_missing", "what comes through the denominator is missing: s g", lambda x, g: softmax(x) * g),
        M("autograd.sum_unweighted", "the sum is of g, and not of s g",
          lambda x, g: softmax(x) * (g - g.sum(axis=-1, keepdims=True))),
        M("autograd.sum_unweighted", "the mean of g is taken, and not the sum of s g", lambda x, g: softmax(x) * (g - mean(g))),
        M("autograd.mean_for_sum", "the mean of s g is taken, and not the sum",
          lambda x, g: softmax(x) * (g - mean(softmax(x) * g))),
        M("autograd.log_softmax", "it is the gradient of log softmax: g - s sum(g)",
          lambda x, g: g - softmax(x) * g.sum(axis=-1, keepdims=True)),
        M("autograd.wrong_axis", "the softmax is over all numbers together, and not over the last axis",
          lambda x, g: softmax_back(x, g, axis=None)),
        M("autograd.wrong_axis", "the softmax is over the first axis, and not over the last",
          lambda x, g: softmax_back(x, g, axis=0)),
        M("autograd.sign", SIGN, lambda x, g: softmax_back(x, -g)),
        M("autograd.upstream_dropped", UPSTREAM, lambda x, g: np.zeros_like(x)),
        M("autograd.upstream_dropped", "the result's own derivative s (1 - s) is given, without g",
          lambda x, g: softmax(x) * (1 - softmax(x))),
    ])


def test_softmax_of_large_numbers(submission):
    for x, g in large_rows(submission.rng):
        given = submission.softmax_vjp(x, g)
        submission.require(not isinstance(given, np.ndarray) or bool(np.isfinite(given).all()), "softmax_vjp",
                           f"of numbers near {x.flat[0]:.0f} it is not finite: exponentials overflow, or all of a row "
                           "vanish. The softmax stays the same if the largest number of each row is subtracted first",
                           "autograd.overflow")
        submission.agrees("softmax_vjp", [(x, g)], softmax_back)


def norm(submission, part, misconceptions):
    def right(*args):
        return layer_norm(*args)[part]

    submission.agrees("layer_norm_vjp", norms(submission.rng), right, [
        M("autograd.sign", SIGN, lambda *args: -right(*args)),
        M("autograd.upstream_dropped", UPSTREAM, lambda x, w, b, eps, g: right(x, w, b, eps, np.ones_like(g))),
        *misconceptions,
    ], part=part)
    alike = [(np.full_like(x, 2.0), *rest) for x, *rest in norms(submission.rng, ((2, 4), (3,)))]  # the variance is 0
    submission.agrees("layer_norm_vjp", [*norms(submission.rng, ((3, 1), (1,), (2, 2, 1))), *alike], right, part=part)


def test_layer_norm_x(submission):
    def of(change, deviation=None):
        """With h = g weight, n and its deviation, from a change of the formula or of the deviation."""
        def gives(x, w, b, eps, g):
            d = normalized(x, eps)[1] if deviation is None else deviation(x, eps)
            return change(g * w, (x - mean(x)) / d) / d
        return gives

    def right(h, n):
        return h - mean(h) - n * mean(h * n)

    def corrected(h, n):
        return h - mean(h) - n * (h * n).sum(axis=-1, keepdims=True) / (h.shape[-1] - 1)

    def unbiased(x, eps):
        return np.sqrt(x.var(axis=-1, ddof=1, keepdims=True) + eps)

    norm(submission, 0, [
        M("autograd.mean_constant", "the mean did not depend on x", of(lambda h, n: h - n * mean(h * n))),
        M("autograd.variance_constant", "the variance did not depend on x", of(lambda h, n: h - mean(h))),
        M("autograd.statistics_constant", "neither mean nor variance depended on x", of(lambda h, n: h)),
        M("autograd.weight_missing", "the weight is missing",
          lambda x, w, b, eps, g: layer_norm(x, np.ones_like(w), b, eps, g)[0]),
        M("autograd.unbiased_variance", "the variance is divided by d - 1, and not by d", of(right, unbiased)),
        M("autograd.unbiased_variance", "the variance is divided by d - 1, and not by d", of(corrected, unbiased)),
        M("autograd.epsilon_missing", "eps is missing", of(right, lambda x, eps: x.std(axis=-1, keepdims=True))),
        M("autograd.epsilon_outside", "eps is added to the root, and not under it",
          of(right, lambda x, eps: x.std(axis=-1, keepdims=True) + eps)),
        M("autograd.mean_for_sum", "the sums of h and h n are taken, and not their means",
          of(lambda h, n: h - h.sum(axis=-1, keepdims=True) - n * (h * n).sum(axis=-1, keepdims=True))),
    ])


def test_layer_norm_weight(submission):
    norm(submission, 1, [
        M("autograd.not_summed", "it is not summed over the rows", lambda x, w, b, eps, g: g * normalized(x, eps)[0]),
        M("autograd.mean_for_sum", "the mean over the rows is taken, and not the sum",
          lambda *args: layer_norm(*args)[1] * args[0].shape[-1] / args[0].size),
        M("autograd.not_normalized", "it is the sum of g x; weight is multiplied with the normalized x",
          lambda x, w, b, eps, g: (g * x).reshape(-1, len(w)).sum(axis=0)),
        M("autograd.not_normalized", "x is centred, but not divided by its deviation",
          lambda x, w, b, eps, g: (g * (x - mean(x))).reshape(-1, len(w)).sum(axis=0)),
        M("autograd.weight_extra", "it is multiplied by the weight", lambda *args: layer_norm(*args)[1] * args[1]),
        M("autograd.epsilon_missing", "eps is missing",
          lambda x, w, b, eps, g: layer_norm(x, w, b, 0.0, g)[1]),
        M("autograd.swapped", "dweight and dbias are in each other's place", lambda *args: layer_norm(*args)[2]),
    ])


def test_layer_norm_bias(submission):
    norm(submission, 2, [
        M("autograd.not_summed", "it is not summed over the rows", lambda x, w, b, eps, g: g),
        M("autograd.mean_for_sum", "the mean over the rows is taken, and not the sum",
          lambda x, w, b, eps, g: g.reshape(-1, len(b)).mean(axis=0)),
        M("autograd.weight_extra", "it is multiplied by the weight", lambda *args: layer_norm(*args)[2] * args[1]),
        M("autograd.swapped", "dweight and dbias are in each other's place", lambda *args: layer_norm(*args)[1]),
    ])


# ---- graphs ---------------------------------------------------------------------------------------------------------


def depth_first(edges, output, turn=1):
    """Nodes as they are first met, going down at once."""
    found, stack = [], [output]
    while stack:
        node = stack.pop()
        if node not in found:
            found.append(node)
            stack += inputs(edges, node)[::turn]
    return found


def breadth_first(edges, output):
    found = [output]
    for node in found:
        found += [b for b in dict.fromkeys(inputs(edges, node)) if b not in found]
    return found


def complaint(edges, output, given):
    """What is wrong with this order, or None."""
    wanted = reached(edges, output)
    if missing := wanted - set(given):
        return f"{min(missing)} is missing, on which the output {output} depends"
    if extra := set(given) - wanted:
        return f"{min(extra)} is listed, on which the output {output} does not depend"
    if len(given) > len(wanted):
        return f"{next(node for node in given if given.count(node) > 1)} is listed more than once"
    place = {node: i for i, node in enumerate(given)}
    return next((f"{b} comes before {a}, whose input it is" for a, b in edges if a in place and place[b] < place[a]), None)


def nodes(edges, output):
    return {node for edge in edges for node in edge} | {output}


ORDERS = [  # mistakes of an order: id, what it is, and whether an order of these edges and this output shows it
    ("autograd.inputs_first", "every node comes after its inputs, so the whole is the wrong way round",
     lambda edges, output, given: complaint(edges, output, given[::-1]) is None),
    ("autograd.by_number", "the nodes are sorted by their numbers, which say nothing of the order",
     lambda edges, output, given: given == sorted(reached(edges, output), reverse=True)),
    ("autograd.by_number", "the nodes are sorted by their numbers, which say nothing of the order",
     lambda edges, output, given: given == sorted(reached(edges, output))),
    ("autograd.depth_first", "a node is listed when it is first met, going down at once",
     lambda edges, output, given: given == depth_first(edges, output)),
    ("autograd.depth_first", "a node is listed when it is first met, going down at once",
     lambda edges, output, given: given == depth_first(edges, output, -1)),
    ("autograd.breadth_first", "a node is listed when it is first met, level by level",
     lambda edges, output, given: given == breadth_first(edges, output)),
    ("autograd.all_nodes", "all nodes are listed, and not only those that the output depends on",
     lambda edges, output, given: set(given) == nodes(edges, output)),
    ("autograd.visited_twice", "a node is listed once for each way that leads to it",
     lambda edges, output, given: set(given) == reached(edges, output) and given[:1] == [output]
     and (len(given) > len(set(given))) == any(len(inputs([(b, a) for a, b in edges if a in given], n)) > 1 for n in given)),
]


def ordered(submission, edges, output):
    given = submission.topological_order(edges, output)
    submission.require(isinstance(given, list) and all(type(node) is int for node in given), "topological_order",
                       f"expected a list of int, received {given!r}"[:200], "type")
    return given


def test_topological_order(submission):
    answered = [(edges, output, ordered(submission, edges, output)) for edges, output in graphs(submission.rng)]
    for edges, output, given in answered:
        if wrong := complaint(edges, output, given):
            shown = ((id, f". It looks as if {says}") for id, says, shows in ORDERS if all(shows(*one) for one in answered))
            mistake, says = next(shown, ("numeric", ""))
            submission.require(False, "topological_order", f"of {edges} and {output} received {given}: {wrong}{says}.",
                               mistake)


def propagated(edges, slopes, output, put):
    """Derivatives by another rule than adding: put(known, passed on, slope), with None for nothing known yet."""
    found = dict.fromkeys(order(edges, output)) | {output: 1.0}
    for node in found:
        for (a, b), slope in zip(edges, slopes, strict=True):
            if a == node:
                found[b] = put(found[b], found[node], slope)
    return named(found)


def at_once(edges, slopes, output):
    """Passed on whenever something arrives, all of what has arrived so far."""
    found = dict.fromkeys(reached(edges, output), 0.0) | {output: 1.0}

    def down(node):
        for (a, b), slope in zip(edges, slopes, strict=True):
            if a == node:
                found[b] += found[node] * slope
                down(b)

    down(output)
    return named(found)


def as_met(edges, slopes, output, met):
    """Passed on once, in an order that does not wait for all that arrives."""
    found = dict.fromkeys(reached(edges, output), 0.0) | {output: 1.0}
    for node in met(edges, output):
        for (a, b), slope in zip(edges, slopes, strict=True):
            if a == node:
                found[b] += found[node] * slope
    return named(found)


def pairs_once(edges, slopes, output, turn=1):
    once = {tuple(edge): slope for edge, slope in list(zip(edges, slopes, strict=True))[::turn]}
    return derivatives([list(edge) for edge in once], list(once.values()), output)


def test_accumulate(submission):
    submission.agrees("accumulate", chains(submission.rng), derivatives, [
        M("autograd.overwritten", "what arrives last replaces what was there, and is not added to it",
          lambda *args: propagated(*args, lambda known, passed, slope: passed * slope)),
        M("autograd.first_use_only", "only what arrives first is kept",
          lambda *args: propagated(*args, lambda known, passed, slope: passed * slope if known is None else known)),
        M("autograd.slopes_added", "slopes along a way are added, and not multiplied",
          lambda *args: propagated(*args, lambda known, passed, slope: (known or 0.0) + passed + slope)),
        M("autograd.slopes_ignored", "every slope were one",
          lambda edges, slopes, out: derivatives(edges, [1.0] * len(edges), out)),
        M("autograd.pair_once", "a pair that comes twice is counted once", pairs_once),
        M("autograd.pair_once", "a pair that comes twice is counted once", lambda *args: pairs_once(*args, turn=-1)),
        M("autograd.passed_on_early", "a node passes on all that it has whenever something arrives, and so some of it twice",
          at_once),
        *[M("autograd.passed_on_early", "a node passes on what it has before all of it has arrived",
            lambda *args, met=met: as_met(*args, met)) for met in
          (breadth_first, depth_first, lambda edges, output: depth_first(edges, output, -1))],
        M("autograd.all_nodes", "nodes are in it that the output does not depend on",
          lambda edges, slopes, out: dict.fromkeys(map(str, nodes(edges, out)), 0.0) | derivatives(edges, slopes, out)),
        M("autograd.output_missing", "the output's derivative with respect to itself is missing, which is 1",
          lambda edges, slopes, out: {key: value for key, value in derivatives(edges, slopes, out).items() if key != str(out)}),
        M("autograd.output_missing", "the output's derivative with respect to itself is 0, and not 1",
          lambda edges, slopes, out: dict.fromkeys(derivatives(edges, slopes, out), 0.0)),
        M("autograd.sign", SIGN, lambda *args: {key: -value for key, value in derivatives(*args).items()}),
    ])
    submission.agrees("accumulate", [([], [], 3), ([[1, 3], [2, 1]], [0.5, 2.0], 3), ([[3, 1], [1, 2]], [0.0, 2.0], 3)],
                      derivatives)


def test_topological_order_of_a_deep_graph(submission):
    numbers = submission.rng.permutation(2000).tolist()
    edges = [list(pair) for pair in pairwise(numbers)]
    edges += [list(pair) for pair in pairwise(numbers[::5])]
    edges = [edges[i] for i in submission.rng.permutation(len(edges))]
    try:
        given = ordered(submission, edges, numbers[0])
    except Wrong as wrong:
        deep = "RecursionError" in str(wrong)
        submission.require(not deep, "topological_order", f"a path of {len(numbers)} nodes is too deep for a function that "
                           "calls itself; keep a list of what is to be done", "autograd.recursion")
        raise
    submission.require(given == numbers, "topological_order", f"of a path of {len(numbers)} nodes, with some shorter ways, the "
                       "order is wrong")
