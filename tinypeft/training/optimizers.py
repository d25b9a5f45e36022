"""Optimizers that take torch's steps: SGD with momentum, AdamW, and clipping of the gradient norm.

AdamW (Loshchilov & Hutter 2019, 1711.05101), step t, gradient g:

    p <- p - lr * weight_decay * p                           weight decay acts on p, not through g
    m <- m + (1 - beta1) * (g - m)                           mean of the gradients
    v <- beta2 * v + (1 - beta2) * g^2                       mean of their squares
    p <- p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

Parameters are changed in place and keep their dtype. Order of operations and bookkeeping are those of torch.optim 2.13,
so the numbers agree but for the last digit (torch fuses some multiplications with additions).
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor
from tinypeft.backend import Array, asarray, to_numpy


class Optimizer:
    """What SGD and AdamW share: parameter groups, the state of each parameter, saving and loading.

    Attributes:
        param_groups: list of dicts: "params" (list of Tensors) and the group's settings, such as "lr"; these may be
            changed between steps.
        state: parameter -> what is remembered of it: arrays of its shape and dtype, and the count "step".

    Args:
        params: Tensors, or dicts with "params" and settings of their own.
        defaults: the settings of a group that does not say otherwise.

    Raises:
        TypeError: something among `params` is no Tensor.
        ValueError: no parameters, one of them twice, one without values ("meta"), an unknown setting or a bad value.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        if isinstance(params, Tensor):
            raise TypeError("params is one Tensor; expected a list of Tensors or of groups")
        given: list[Any] = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.param_groups = [defaults | group | {"params": list(group["params"])} for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = {}
        for group in self.param_groups:
            if unknown := group.keys() - defaults.keys() - {"params"}:
                raise ValueError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}; it has {[*defaults]}")
            _check_settings(group)
        ids = [id(p) for p in self._params()]
        if not ids:
            raise ValueError("no parameters to optimize: are all frozen? (A loaded adapter is, without is_trainable=True.)")
        if len(set(ids)) < len(ids):
            raise ValueError("a parameter is given twice, and would be updated twice in each step")
        if meta := [p.shape for p in self._params() if not getattr(p.data.flags, "writeable", True)]:
            raise ValueError(f'parameters of shapes {meta[:3]}... are on the "meta" device: they have no values to train')

    def step(self) -> None:
        """Update each parameter from its `.grad`; one whose `.grad` is None is left alone, decay included."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p.data, p.grad, self.state.setdefault(p, {}), group)

    def zero_grad(self) -> None:
        """Forget the gradients: `.grad` becomes None."""
        for p in self._params():
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """What is remembered of parameter i (counted through all groups), as {"i.name": array}; not copied.

        The groups' settings are not among it: they are given anew when an optimizer is made.
        """
        return {f"{i}.{name}": np.asarray(x) if name == "step" else to_numpy(x)
                for i, p in enumerate(self._params()) for name, x in self.state.get(p, {}).items()}

    def load_state_dict(self, state_dict: dict[str, np.ndarray]) -> None:
        """Take over a copy of what the `state_dict` of the same parameters, in the same order, returned.

        Raises:
            ValueError: it is of another number or of other shapes of parameters; nothing has been changed.
        """
        params = self._params()
        state: dict[Tensor, dict[str, Any]] = {}
        for key, x in state_dict.items():
            i, name = key.split(".")
            if int(i) >= len(params) or (name != "step" and x.shape != params[int(i)].shape):
                raise ValueError(f"the saved optimizer's {key}, of shape {x.shape}, is of no parameter here")
            p = params[int(i)]
            state.setdefault(p, {})[name] = int(x) if name == "step" else asarray(np.array(x), like=p.data)
        self.state = state

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError


def _check_settings(group: dict[str, Any]) -> None:
    for name in ("lr", "weight_decay", "momentum", "eps"):
        if not group.get(name, 0) >= 0:
            raise ValueError(f"{name} is {group[name]}; expected at least 0")
    if not all(0 <= beta < 1 for beta in group.get("betas", ())):
        raise ValueError(f"betas are {group['betas']}; expected two numbers of at least 0 and less than 1")


class SGD(Optimizer):
    """Stochastic gradient descent, as torch.optim.SGD with dampening 0.

        g <- g + weight_decay * p
        b <- momentum * b + g                                    at the first step b = g
        p <- p - lr * b

    >>> p = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    >>> (p * p).sum().backward()
    >>> SGD([p], lr=0.25).step()
    >>> p.data
    array([0.5, 1. ])
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        if group["momentum"]:
            b = state.setdefault("momentum_buffer", np.zeros_like(p))
            b *= group["momentum"]
            b += g
            g = b
        p -= group["lr"] * g


class AdamW(Optimizer):
    """Adam with decoupled weight decay, as torch.optim.AdamW; the formula is at the top of this file.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: how slowly the two running means move; each in [0, 1).
        eps: keeps the quotient finite where the gradient is 0.
        weight_decay: the share of p, times lr, by which p shrinks at each step.

    >>> p = Tensor(np.array([1.0, -1.0]), requires_grad=True)
    >>> p.grad = np.array([3.0, -0.001])
    >>> AdamW([p], lr=0.1, weight_decay=0).step()  # at the first step m / sqrt(v) is the sign of the gradient
    >>> p.data.round(4)
    array([ 0.9, -0.9])
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(p), exp_avg_sq=np.zeros_like(p))
        state["step"] += 1
        t, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]
        p *= 1 - lr * group["weight_decay"]
        m += (1 - beta1) * (g - m)
        v *= beta2
        v += (1 - beta2) * (g * g)
        p -= lr / (1 - beta1**t) * m / (np.sqrt(v) / math.sqrt(1 - beta2**t) + group["eps"])


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients, in place and together, so that their common 2-norm is at most `max_norm`.

    As torch.nn.utils.clip_grad_norm_: the factor is max_norm / (norm + 1e-6), at most 1. A norm that is not finite makes
    the gradients nan, so look at the returned value before taking a step.

    Args:
        parameters: Tensors; those without a gradient do not count.
        max_norm: the norm to keep to, above 0; infinity only measures.

    Returns:
        The norm before clipping (0.0 if there are no gradients).
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; expected more than 0")
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = math.hypot(*(float(np.linalg.norm(g if g.dtype != np.float16 else g.astype(np.float32))) for g in grads))
    factor = max_norm / (norm + 1e-6)
    if not factor >= 1:  # so that nan goes through, as in torch
        for g in grads:
            g *= factor
    return norm
