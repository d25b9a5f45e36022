"""A reverse-mode autograd engine: Tensor and tape, the tables of operations, checkpointing, and a gradient checker."""

from tinypeft.autograd import functional, ops
from tinypeft.autograd.checkpoint import checkpoint
from tinypeft.autograd.gradcheck import gradcheck
from tinypeft.autograd.tensor import Observer, Tensor, no_grad, observe

__all__ = ["Observer", "Tensor", "checkpoint", "functional", "gradcheck", "no_grad", "observe", "ops"]
