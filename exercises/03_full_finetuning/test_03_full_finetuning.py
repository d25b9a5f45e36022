"""The grader of exercise 03: what is asked of finetuning.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import math

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def moments(g, m, v, beta1, beta2):
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def adamw(p, g, m, v, t, lr, beta1, beta2, eps, decay):
    m, v = moments(g, m, v, beta1, beta2)
    step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return [p - lr * decay * p - lr * step, m, v]


def norm(gradients):
    return math.sqrt(sum(float((g**2).sum()) for g in gradients))


def clipped(gradients, max_norm):
    factor = max_norm / norm(gradients) if norm(gradients) > max_norm else 1.0
    return {"gradients": [g * factor for g in gradients], "norm": norm(gradients)}


def bits(nats, tokens, characters):
    return nats * tokens / characters / math.log(2)


def forgotten(before, after):
    return {task: max(0.0, after[task] - before[task]) for task in before}


# ---- what is drawn --------------------------------------------------------------------------------------------------


def steps(rng, decays=True, times=(2, 3, 10, 120)):
    """Arguments of a step. lr and eps are large, so that their place shows; some gradients are zero."""
    for shape, t in zip(((3, 4), (5,), (2, 1, 3), ()), times, strict=True):
        p, g, m = (np.asarray(rng.standard_normal(shape)) for _ in range(3))
        g.flat[:-1:3] = 0.0
        limits = ((0.05, 0.3), (0.6, 0.8), (0.9, 0.97), (0.05, 0.3), (0.1, 0.5))
        lr, beta1, beta2, eps, decay = (round(float(rng.uniform(*pair)), 3) for pair in limits)
        yield p, g, m, np.asarray(rng.uniform(0.2, 1.5, shape)), t, lr, beta1, beta2, eps, decay if decays else 0.0


SHAPES = [((3, 4), (5,), ()), ((2, 1, 3), (4,)), ((6,),), ((1, 1), (2, 3), (2,), (5, 1))]  # of the gradients of a case


def gradients(rng, sizes):
    """Lists of arrays whose common norm is `size` times max_norm, and max_norm. Norms are above 1 and below."""
    for shapes, size, scale in zip(SHAPES, sizes, (1.0, 0.05, 1.0, 0.05), strict=True):
        drawn = [np.asarray(rng.standard_normal(shape) * scale) for shape in shapes]
        yield drawn, norm(drawn) / size


def larger(rng):
    return gradients(rng, (1.5, 3.0, 1.01, 20.0))


def smaller(rng):
    return gradients(rng, (0.5, 0.99, 0.1, 1e-3))


# ---- the tests: AdamW -----------------------------------------------------------------------------------------------


def stepped(submission, part, misconceptions, decays=True):
    """One of p, m and v; then the first step, and one from states of zero, where some mistakes divide by zero."""
    def right(*args):
        return adamw(*args)[part]

    submission.agrees("adamw_step", steps(submission.rng, decays), right, misconceptions, part=part)
    first = [(p, g, np.zeros_like(m), np.zeros_like(v), *rest)
             for p, g, m, v, *rest in steps(submission.rng, decays, (1, 1, 2, 1))]
    still = [(p, np.zeros_like(g), *rest) for p, g, *rest in first]
    submission.agrees("adamw_step", first + still, right, part=part)


def test_first_moment(submission):
    def of(change):
        return lambda p, g, m, v, t, lr, b1, b2, eps, decay: change(g, m, b1, b2)

    stepped(submission, 1, [
        M("finetuning.moment_not_updated", "m is what it was before", of(lambda g, m, b1, b2: m)),
        M("finetuning.moment_unscaled", "g is added whole, and not 1 - beta1 of it", of(lambda g, m, b1, b2: b1 * m + g)),
        M("finetuning.beta_swapped", "beta1 and 1 - beta1 are swapped", of(lambda g, m, b1, b2: (1 - b1) * m + b1 * g)),
        M("finetuning.other_beta", "beta2 is used, which is that of v", of(lambda g, m, b1, b2: b2 * m + (1 - b2) * g)),
        M("finetuning.sign", "g is taken away", of(lambda g, m, b1, b2: b1 * m - (1 - b1) * g)),
        M("finetuning.correction_kept", "m is kept with its correction, which is for the step only",
          lambda *args: adamw(*args)[1] / (1 - args[6] ** args[4])),
        M("finetuning.decay_in_gradient", "weight decay is in the gradient; AdamW lets it act on p alone",
          lambda p, g, m, v, t, lr, b1, b2, eps, decay: b1 * m + (1 - b1) * (g + decay * p)),
    ])


def test_second_moment(submission):
    def of(change):
        return lambda p, g, m, v, t, lr, b1, b2, eps, decay: change(g, v, b1, b2)

    stepped(submission, 2, [
        M("finetuning.moment_not_updated", "v is what it was before", of(lambda g, v, b1, b2: v)),
        M("finetuning.moment_unscaled", "g^2 is added whole, and not 1 - beta2 of it", of(lambda g, v, b1, b2: b2 * v + g**2)),
        M("finetuning.beta_swapped", "beta2 and 1 - beta2 are swapped", of(lambda g, v, b1, b2: (1 - b2) * v + b2 * g**2)),
        M("finetuning.other_beta", "beta1 is used, which is that of m", of(lambda g, v, b1, b2: b1 * v + (1 - b1) * g**2)),
        M("finetuning.square_missing", "g is not squared", of(lambda g, v, b1, b2: b2 * v + (1 - b2) * g)),
        M("finetuning.square_missing", "g is not squared, only made positive",
          of(lambda g, v, b1, b2: b2 * v + (1 - b2) * abs(g))),
        M("finetuning.correction_kept", "v is kept with its correction, which is for the step only",
          lambda *args: adamw(*args)[2] / (1 - args[7] ** args[4])),
        M("finetuning.decay_in_gradient", "weight decay is in the gradient; AdamW lets it act on p alone",
          lambda p, g, m, v, t, lr, b1, b2, eps, decay: b2 * v + (1 - b2) * (g + decay * p) ** 2),
    ])


def test_step_without_decay(submission):
    def of(change):
        """p with another step: change(m, v, c1, c2, eps), with c the corrections 1 - beta^t."""
        def gives(p, g, m, v, t, lr, b1, b2, eps, decay):
            return p - lr * change(*moments(g, m, v, b1, b2), 1 - b1**t, 1 - b2**t, eps)
        return gives

    stepped(submission, 0, [
        M("finetuning.correction_missing", "m and v are not corrected for their start at zero",
          of(lambda m, v, c1, c2, eps: m / (np.sqrt(v) + eps))),
        M("finetuning.correction_missing", "v is not corrected for its start at zero",
          of(lambda m, v, c1, c2, eps: m / c1 / (np.sqrt(v) + eps))),
        M("finetuning.correction_missing", "m is not corrected for its start at zero",
          of(lambda m, v, c1, c2, eps: m / (np.sqrt(v / c2) + eps))),
        M("finetuning.correction_missing", "the corrections are 1 - beta, as in the first step, whatever t is",
          lambda p, g, m, v, t, *rest: adamw(p, g, m, v, 1, *rest)[0]),
        M("finetuning.step_from_zero", "t counted from 0: beta^(t - 1)",
          lambda p, g, m, v, t, *rest: adamw(p, g, m, v, t - 1, *rest)[0]),
        M("finetuning.step_from_zero", "t counted from 0: beta^(t + 1)",
          lambda p, g, m, v, t, *rest: adamw(p, g, m, v, t + 1, *rest)[0]),
        M("finetuning.epsilon_under_root", "eps is under the root",
          of(lambda m, v, c1, c2, eps: m / c1 / np.sqrt(v / c2 + eps))),
        M("finetuning.epsilon_before_correction", "eps is added before v is corrected",
          of(lambda m, v, c1, c2, eps: m / c1 / ((np.sqrt(v) + eps) / np.sqrt(c2)))),
        M("finetuning.epsilon_missing", "eps is missing", of(lambda m, v, c1, c2, eps: m / c1 / np.sqrt(v / c2))),
        M("finetuning.root_missing", "the root of v is missing", of(lambda m, v, c1, c2, eps: m / c1 / (v / c2 + eps))),
        M("finetuning.sign", "p goes up the gradient", of(lambda m, v, c1, c2, eps: -m / c1 / (np.sqrt(v / c2) + eps))),
        M("finetuning.rate_missing", "lr is missing",
          lambda p, g, m, v, t, lr, *rest: adamw(p, g, m, v, t, 1.0, *rest)[0]),
        M("finetuning.old_moments", "the step is taken with m and v from before their update",
          lambda p, g, m, v, t, lr, b1, b2, eps, decay: p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)),
        M("finetuning.momentum_missing", "the step goes along g, and not along m",
          lambda p, g, m, v, t, lr, b1, b2, eps, decay:
          p - lr * g / (np.sqrt(moments(g, m, v, b1, b2)[1] / (1 - b2**t)) + eps)),
        M("finetuning.still_without_gradient", "p stays where g is 0; m moves it there too",
          lambda p, g, *rest: np.where(g == 0, p, adamw(p, g, *rest)[0])),
    ], decays=False)


def test_weight_decay(submission):
    def of(change):
        """p from p, the p that a step without decay gives, lr and decay."""
        return lambda *args: change(args[0], adamw(*args[:-1], 0.0)[0], args[5], args[-1])

    stepped(submission, 0, [
        M("finetuning.decay_missing", "there is no weight decay: it is Adam", of(lambda p, new, lr, decay: new)),
        M("finetuning.decay_in_gradient", "weight decay is added to the gradient, like an L2 penalty; it should act on p alone",
          lambda p, g, *rest: adamw(p, g + rest[-1] * p, *rest[:-1], 0.0)[0]),
        M("finetuning.decay_without_rate", "weight decay is not multiplied by lr",
          of(lambda p, new, lr, decay: new - decay * p)),
        M("finetuning.decay_of_new", "p has decayed after the step, and not before",
          of(lambda p, new, lr, decay: new * (1 - lr * decay))),
        M("finetuning.decay_sign", "weight decay lets p grow", of(lambda p, new, lr, decay: new + lr * decay * p)),
    ])


# ---- clipping -------------------------------------------------------------------------------------------------------


def test_norm(submission):
    cases = [*larger(submission.rng), *smaller(submission.rng)]
    submission.agrees("clip_gradients", cases, lambda grads, most: norm(grads), [
        M("finetuning.sum_of_norms", "the norms of the arrays are added up; all numbers are one long vector",
          lambda grads, most: sum(norm([g]) for g in grads)),
        M("finetuning.norm_squared", "the root is missing", lambda grads, most: norm(grads) ** 2),
        M("finetuning.norm_absolute", "absolute values are added up, and not squares",
          lambda grads, most: float(sum(abs(g).sum() for g in grads))),
        M("finetuning.norm_largest", "it is the largest norm among the arrays",
          lambda grads, most: max(norm([g]) for g in grads)),
        M("finetuning.norm_largest", "it is the largest number", lambda grads, most: float(max(abs(g).max() for g in grads))),
        M("finetuning.norm_after", "it is the norm after clipping", lambda grads, most: min(norm(grads), most)),
        M("finetuning.epsilon_in_norm", "1e-6 is added to the norm", lambda grads, most: norm(grads) + 1e-6),
    ], part="norm")


def scaled(factor):
    return lambda grads, most: [g * factor(norm(grads), most) for g in grads]


def test_clipped(submission):
    submission.agrees("clip_gradients", larger(submission.rng), lambda *args: clipped(*args)["gradients"], [
        M("finetuning.clipped_apart", "each array is clipped by its own norm",
          lambda grads, most: [clipped([g], most)["gradients"][0] for g in grads]),
        M("finetuning.values_clipped", "numbers are cut off at ±max_norm; the direction changes by that",
          lambda grads, most: [np.clip(g, -most, most) for g in grads]),
        M("finetuning.unit_norm", "they are scaled to the norm 1, and not to max_norm", scaled(lambda size, most: 1 / size)),
        M("finetuning.unit_norm", "they are clipped only where the norm is above 1 too",
          scaled(lambda size, most: most / size if size > 1 else 1.0)),
        M("finetuning.epsilon_in_norm", "1e-6 is added to the norm, as PyTorch does; here nothing is",
          scaled(lambda size, most: most / (size + 1e-6))),
        M("finetuning.never_clipped", "they are as they were", scaled(lambda size, most: 1.0)),
        M("finetuning.sum_of_norms", "they are divided by the sum of the arrays' norms",
          lambda grads, most: [g * min(1.0, most / sum(norm([g]) for g in grads)) for g in grads]),
        M("finetuning.norm_squared", "they are divided by the square of the norm", scaled(lambda size, most: most / size**2)),
        M("finetuning.norm_squared", "they are divided by the square of the norm, if that is above max_norm",
          scaled(lambda size, most: min(1.0, most / size**2))),
    ], part="gradients")


def test_not_clipped(submission):
    submission.agrees("clip_gradients", smaller(submission.rng), lambda grads, most: grads, [
        M("finetuning.always_scaled", "small gradients are made larger, up to max_norm",
          scaled(lambda size, most: most / size)),
        M("finetuning.unit_norm", "they are scaled to the norm 1", scaled(lambda size, most: 1 / size)),
        M("finetuning.sum_of_norms", "the sum of the arrays' norms is compared with max_norm, and not their common norm",
          lambda grads, most: [g * min(1.0, most / sum(norm([g]) for g in grads)) for g in grads]),
        M("finetuning.epsilon_in_norm", "1e-6 is added to the norm, and they are made larger",
          scaled(lambda size, most: most / (size + 1e-6))),
    ], part="gradients")
    nothing = [np.zeros((2, 3)), np.zeros(1)]
    submission.agrees("clip_gradients", [(nothing, 0.5)], lambda grads, most: grads, part="gradients")


# ---- measures -------------------------------------------------------------------------------------------------------


def test_bits_per_character(submission):
    rng = submission.rng
    cases = [(float(rng.uniform(0.5, 4)), tokens, int(tokens * rng.uniform(1.5, 5)))
             for tokens in (int(rng.integers(10, 10**6)) for _ in range(3))]
    cases += [(float(rng.uniform(0.5, 4)), 30, 30), (0.0, 5, 12), (1.25, 9, 8)]  # as many; certain; one for the end of the text
    submission.agrees("bits_per_character", cases, bits, [
        M("finetuning.nats", "it is in nats; a bit has ln 2 of them", lambda nats, tokens, n: nats * tokens / n),
        M("finetuning.base_inverted", "it is multiplied by ln 2, and not divided",
          lambda nats, tokens, n: nats * tokens / n * math.log(2)),
        M("finetuning.base_inverted", "it is divided by ln 10, and not by ln 2",
          lambda nats, tokens, n: nats * tokens / n / math.log(10)),
        M("finetuning.ratio_inverted", "characters are divided by tokens, and not the other way round",
          lambda nats, tokens, n: nats * n / tokens / math.log(2)),
        M("finetuning.bits_per_token", "it is per token, and not per character", lambda nats, tokens, n: nats / math.log(2)),
        M("finetuning.tokens_missing", "nats were of the whole text; they are the mean of a token",
          lambda nats, tokens, n: nats / n / math.log(2)),
    ])


def test_forgetting(submission):
    rng, cases = submission.rng, []
    for tasks in (("a", "b", "c"), ("names", "sums"), ("one", "two", "three", "four")):
        before = {task: float(rng.uniform(1, 3)) for task in tasks}
        changes = rng.permutation([0.7, -0.5, 4e-4, -0.1][:len(tasks)]) * rng.uniform(0.9, 1.1)  # some rise, some fall
        after = {task: before[task] + float(change) for task, change in zip(tasks, changes, strict=True)}
        cases.append((before, {task: after[task] for task in reversed(tasks)}))
    cases.append(({"same": 1.5}, {"same": 1.5}))
    submission.agrees("forgetting", cases, forgotten, [
        M("finetuning.forgetting_sign", "it is how much the loss fell",
          lambda before, after: {task: max(0.0, before[task] - after[task]) for task in before}),
        M("finetuning.forgetting_not_cut", "it is negative where the loss fell; it should be 0 there",
          lambda before, after: {task: after[task] - before[task] for task in before}),
        M("finetuning.forgetting_not_cut", "it is before minus after, without a cut at 0",
          lambda before, after: {task: before[task] - after[task] for task in before}),
        M("finetuning.forgetting_absolute", "it is the change in either direction",
          lambda before, after: {task: abs(after[task] - before[task]) for task in before}),
        M("finetuning.forgetting_relative", "it is a share of the loss before",
          lambda before, after: {task: max(0.0, after[task] / before[task] - 1) for task in before}),
        M("finetuning.forgetting_by_place", "tasks were compared by their place in the two dicts, and not by name",
          lambda before, after: {task: max(0.0, new - old) for (task, old), new in
                                 zip(before.items(), after.values(), strict=True)}),
        M("finetuning.forgetting_by_place", "tasks were compared by their place in the two dicts, and not by name",
          lambda before, after: {task: max(0.0, new - old) for old, (task, new) in
                                 zip(before.values(), after.items(), strict=True)}),
        M("finetuning.forgetting_is_loss", "it is the loss afterwards where it rose, and not by how much",
          lambda before, after: {task: after[task] if after[task] > before[task] else 0.0 for task in before}),
    ])
