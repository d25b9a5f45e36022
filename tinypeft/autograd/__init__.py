"""A reverse-mode autograd engine: Tensor and tape, the table of operations, and a gradient checker."""

from tinypeft.autograd import ops
from tinypeft.autograd.gradcheck import gradcheck
from tinypeft.autograd.tensor import Observer, Tensor, checkpoint, no_grad, observe

__all__ = ["Observer", "Tensor", "checkpoint", "gradcheck", "no_grad", "observe", "ops"]
