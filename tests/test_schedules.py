"""Learning-rate schedules: transformers' factor at each step, and bad input."""

import math

import numpy as np
import pytest

from tinypeft.autograd import Tensor
from tinypeft.training import SGD, get_scheduler, schedule_factor


def optimizer(*rates):
    return SGD([{"params": [Tensor(np.ones(2), requires_grad=True)], "lr": rate} for rate in rates])


def test_values_by_hand():
    linear = [schedule_factor("linear", step, 2, 6) for step in range(8)]
    assert linear == [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]
    cosine = [schedule_factor("cosine", step, 1, 5) for step in range(6)]
    assert cosine == pytest.approx([0, 1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2, 0], abs=1e-15)
    assert [schedule_factor("constant_with_warmup", step, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [schedule_factor("constant", step) for step in range(3)] == [1, 1, 1]


@pytest.mark.parity
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 7), (3, 10), (5, 5), (9, 4), (10, 100)])
@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_the_learning_rates_are_those_of_transformers(name, warmup, steps):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    warmup = 0 if name == "constant" else warmup
    theirs = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 3.0)])
    ours = optimizer(0.1, 3.0)
    schedulers = [transformers.get_scheduler(name, theirs, warmup, steps), get_scheduler(name, ours, warmup, steps)]
    for _ in range(steps + 3):
        assert schedulers[1].get_last_lr() == schedulers[0].get_last_lr()
        theirs.step()
        for scheduler in schedulers:
            scheduler.step()


def test_a_scheduler_sets_the_rate_of_every_group():
    sgd = optimizer(1.0, 10.0)
    scheduler = get_scheduler("linear", sgd, num_warmup_steps=2, num_training_steps=4)
    seen = []
    for _ in range(5):
        seen.append([group["lr"] for group in sgd.param_groups])
        scheduler.step()
    assert seen == [[0, 0], [0.5, 5], [1, 10], [0.5, 5], [0, 0]]


def test_going_to_a_step_is_taking_all_until_it():
    stepped, gone = (get_scheduler("cosine", optimizer(0.3), 3, 20) for _ in range(2))
    for _ in range(11):
        stepped.step()
    gone.go_to(11)
    assert stepped.get_last_lr() == gone.get_last_lr()
    assert gone.last_epoch == 11


def test_a_second_schedule_starts_from_the_initial_rates():
    sgd = optimizer(1.0)
    get_scheduler("linear", sgd, 2, 4)  # sets lr to 0
    get_scheduler("constant", sgd)
    assert sgd.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("polynomial", 1, 10), "unknown schedule 'polynomial'; expected one of constant, "),
        (("linear", -1, 10), "-1 warm-up steps"),
        (("constant", 5, 10), "constant_with_warmup"),
        (("linear", 0, None), "needs num_training_steps"),
        (("cosine", 0, None), "needs num_training_steps"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_scheduler(arguments[0], optimizer(0.1), *arguments[1:])
