"""The grader of exercise 00: what is asked of why_peft.py, what is right, and what typical mistakes give."""

from __future__ import annotations

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------

STATES = {"sgd": 0, "momentum": 1, "adamw": 2}
PARTS = ("weights", "gradients", "optimizer", "master")


def states(parameters, optimizer):
    return 4 * STATES[optimizer] * parameters


def step(parameters, trainable, optimizer, weight_bytes, master_weights):
    parts = {"weights": weight_bytes * parameters, "gradients": weight_bytes * trainable,
             "optimizer": states(trainable, optimizer), "master": 4 * trainable if master_weights else 0}
    return parts | {"total": sum(parts.values())}


def cards(total_bytes, card_bytes):
    return -(-total_bytes // card_bytes)


def storage(parameters, adapter, tasks, weight_bytes):
    return {"full": tasks * parameters * weight_bytes, "adapters": (parameters + tasks * adapter) * weight_bytes}


# ---- what is drawn --------------------------------------------------------------------------------------------------


def number(rng, least, most):
    return int(rng.integers(least, most))


def steps(rng):
    """Every optimizer in both precisions, with and without master copies; all parameters trained, a few, or one."""
    for optimizer in STATES:
        for weight_bytes in (2, 4):
            for master_weights in (True, False):
                parameters = number(rng, 10**6, 10**11)
                yield parameters, parameters // number(rng, 3, 1000), optimizer, weight_bytes, master_weights
    parameters = number(rng, 10**6, 10**9)
    yield parameters, parameters, "adamw", 2, True
    yield parameters, 1, "momentum", 2, True


def tasks(rng):
    return [(number(rng, 10**6, 10**10), number(rng, 10**3, 10**6), count, weight_bytes)
            for count, weight_bytes in ((1, 2), (2, 4), (number(rng, 3, 10), 2), (number(rng, 10, 1000), 4))]


# ---- the tests ------------------------------------------------------------------------------------------------------


def test_optimizer_states(submission):
    rng = submission.rng
    cases = [(number(rng, 2, 10**10), optimizer) for optimizer in (*STATES, *STATES)]
    submission.agrees("optimizer_state_bytes", cases, states, [
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes", lambda n, name: n * STATES[name]),
        M("memory.states_in_half", "a state had 2 bytes; it is a float32", lambda n, name: 2 * n * STATES[name]),
        M("memory.one_state", "AdamW kept one number; it keeps two: the mean of the gradients, and that of their squares",
          lambda n, name: 4 * n * min(1, STATES[name])),
        M("memory.momentum_as_adamw", "momentum kept two numbers; it keeps one, the running mean of the gradients",
          lambda n, name: 4 * n * {"sgd": 0, "momentum": 2, "adamw": 2}[name]),
        M("memory.gradient_as_state", "the gradient were one of the states; it is counted apart",
          lambda n, name: 4 * n * (1 + STATES[name])),
        M("memory.gradient_as_state", "SGD kept a number for each parameter; it uses the gradient and remembers nothing",
          lambda n, name: 4 * n * max(1, STATES[name])),
    ])


def part(submission, name, misconceptions):
    submission.agrees("training_bytes", steps(submission.rng), lambda *args: step(*args)[name], misconceptions, part=name)


def test_weights(submission):
    part(submission, "weights", [
        M("memory.only_trained", "only the trained weights are in memory; the frozen ones are needed too",
          lambda n, k, name, size, master: size * k),
        M("memory.weights_in_float32", "a weight always had 4 bytes", lambda n, k, name, size, master: 4 * n),
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes", lambda n, k, name, size, master: n),
    ])


def test_gradients(submission):
    part(submission, "gradients", [
        M("memory.all_trained", "frozen weights had gradients too", lambda n, k, name, size, master: size * n),
        M("memory.gradients_in_float32", "a gradient always had 4 bytes; it has as many as its weight",
          lambda n, k, name, size, master: 4 * k),
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes", lambda n, k, name, size, master: k),
    ])


def test_optimizer_of_a_step(submission):
    part(submission, "optimizer", [
        M("memory.all_trained", "the optimizer kept states of frozen weights too",
          lambda n, k, name, size, master: states(n, name)),
        M("memory.states_in_half", "a state had as many bytes as a weight; it is a float32",
          lambda n, k, name, size, master: size * STATES[name] * k),
        M("memory.one_state", "AdamW kept one number; it keeps two",
          lambda n, k, name, size, master: 4 * k * min(1, STATES[name])),
        M("memory.momentum_as_adamw", "momentum kept two numbers; it keeps one",
          lambda n, k, name, size, master: 4 * k * (2 * (name != "sgd"))),
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes",
          lambda n, k, name, size, master: k * STATES[name]),
    ])


def test_master_copies(submission):
    part(submission, "master", [
        M("memory.all_trained", "frozen weights had master copies too; what is not updated needs none",
          lambda n, k, name, size, master: 4 * n * master),
        M("memory.master_in_half", "a master copy had as many bytes as a weight; it is the copy in float32",
          lambda n, k, name, size, master: size * k * master),
        M("memory.master_always", "master copies are kept although master_weights is false",
          lambda n, k, name, size, master: 4 * k),
        M("memory.master_missing", "there are no master copies", lambda n, k, name, size, master: 0),
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes",
          lambda n, k, name, size, master: k * master),
    ])


def test_total(submission):
    def without(name):
        return lambda *args: step(*args)["total"] - step(*args)[name]

    part(submission, "total", [
        M("memory.master_missing", "the master copies are missing from it", without("master")),
        M("memory.optimizer_missing", "the optimizer's states are missing from it", without("optimizer")),
        M("memory.gradients_missing", "the gradients are missing from it", without("gradients")),
        M("memory.weights_missing", "the weights are missing from it", without("weights")),
        M("memory.all_trained", "all parameters were trained", lambda n, k, *rest: step(n, n, *rest)["total"]),
        M("memory.only_trained", "the frozen weights are missing from it", lambda n, k, *rest: step(k, k, *rest)["total"]),
    ])


def test_cards(submission):
    rng = submission.rng
    cases = []
    for count in (1, 2, number(rng, 3, 50)):
        card = number(rng, 8, 200) * 10**9
        cases += [(count * card, card), (count * card + 1, card), (count * card - 1, card),
                  ((count - 1) * card + number(rng, 1, card // 2), card)]
    submission.agrees("cards_needed", cases, cards, [
        M("memory.rounded_down", "the quotient is rounded down, and what is left over has no card", lambda n, card: n // card),
        M("memory.one_card_more", "one is added even where the cards are full to the last byte",
          lambda n, card: n // card + 1),
        M("memory.rounded_to_nearest", "the quotient is rounded to the nearest number", lambda n, card: round(n / card)),
        M("memory.rounded_to_nearest", "the quotient is rounded to the nearest number, and at least 1",
          lambda n, card: max(1, round(n / card))),
        M("memory.rounded_down", "the quotient is rounded down, and at least 1", lambda n, card: max(1, n // card)),
    ])


def test_full_models(submission):
    submission.agrees("adapter_storage", tasks(submission.rng), lambda *args: storage(*args)["full"], [
        M("memory.one_model", "one model served all tasks; fully fine-tuned, each task has its own",
          lambda n, a, count, size: n * size),
        M("memory.base_and_models", "the base is stored besides; each tuned model is complete",
          lambda n, a, count, size: (count + 1) * n * size),
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes", lambda n, a, count, size: count * n),
    ], part="full")


def test_adapters(submission):
    submission.agrees("adapter_storage", tasks(submission.rng), lambda *args: storage(*args)["adapters"], [
        M("memory.base_for_each_task", "the base is stored once for each task",
          lambda n, a, count, size: count * (n + a) * size),
        M("memory.base_missing", "the base is missing; adapters do nothing without it",
          lambda n, a, count, size: count * a * size),
        M("memory.one_adapter", "there were one adapter for all tasks", lambda n, a, count, size: (n + a) * size),
        M("memory.numbers_not_bytes", "the numbers are counted, and not their bytes", lambda n, a, count, size: n + count * a),
    ], part="adapters")
