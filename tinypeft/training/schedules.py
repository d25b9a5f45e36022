"""Learning-rate schedules with linear warm-up, step by step those of transformers.

At each step the learning rate of every parameter group is its initial one times a factor, a function of the step number
alone. With w warm-up steps out of n, and u = (step - w) / (n - w) the share of the rest that is done:

    warm-up   step / w                        so the very first step has learning rate 0
    constant  1
    linear    1 - u
    cosine    (1 + cos(pi * u)) / 2           half a wave (Loshchilov & Hutter 2017, 1608.03983)
"""

import math

from tinypeft.training.optimizers import Optimizer

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine")


def schedule_factor(name: str, step: int, num_warmup_steps: int = 0, num_training_steps: int | None = None) -> float:
    """What the initial learning rate is multiplied by at a step.

    Args:
        name: one of SCHEDULES, transformers' `lr_scheduler_type`.
        step: how many steps have been taken before this one.
        num_warmup_steps: how many steps the rise from 0 takes. For "constant" they are an error, where transformers
            ignores them: "constant_with_warmup" has them.
        num_training_steps: all steps, warm-up included; "linear" and "cosine" need it.

    Raises:
        ValueError: an unknown name, negative warm-up or warm-up that the schedule lacks, or the length is missing.

    >>> [schedule_factor("linear", step, num_warmup_steps=2, num_training_steps=6) for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; expected one of {', '.join(SCHEDULES)}")
    if num_warmup_steps < 0 or (name == "constant" and num_warmup_steps):
        raise ValueError(f'{num_warmup_steps} warm-up steps for {name!r}; at least 0, and "constant_with_warmup" has them')
    if step < num_warmup_steps:
        return step / num_warmup_steps
    if name.startswith("constant"):
        return 1.0
    if num_training_steps is None:
        raise ValueError(f"the {name!r} schedule needs num_training_steps")
    rest = max(1, num_training_steps - num_warmup_steps)
    if name == "linear":
        return max(0.0, (num_training_steps - step) / rest)
    return 0.5 * (1.0 + math.cos(math.pi * ((step - num_warmup_steps) / rest)))


class Scheduler:
    """Sets the learning rate of every group of an optimizer, one step after the other (torch's LambdaLR); the first at once.

    Args:
        name, num_warmup_steps, num_training_steps: as for `schedule_factor`.

    Attributes:
        last_epoch: how many steps have been taken (torch's name): all that a schedule remembers.
    """

    def __init__(self, name: str, optimizer: Optimizer, num_warmup_steps: int = 0, num_training_steps: int | None = None):
        self.name, self.lengths, self.optimizer = name, (num_warmup_steps, num_training_steps), optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.go_to(0)

    def step(self) -> None:
        """Go on to the next step; to be called after `optimizer.step()`."""
        self.go_to(self.last_epoch + 1)

    def go_to(self, step: int) -> None:
        """Set the learning rates of a step, as when a run is resumed."""
        self.last_epoch = step
        factor = schedule_factor(self.name, step, *self.lengths)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group now."""
        return [group["lr"] for group in self.optimizer.param_groups]


get_scheduler = Scheduler  # transformers' name for making one
