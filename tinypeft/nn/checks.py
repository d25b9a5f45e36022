"""Checks of arguments, for the configs of models and of methods alike."""

from __future__ import annotations

from typing import Any

import numpy as np


class Checked:
    """A config that can say what is wrong with it."""

    def check(self, name: str, valid: bool, expected: str) -> None:
        """Raise a ValueError that says what an argument was, and what it should have been, unless it is valid."""
        if not valid:
            raise ValueError(f"{type(self).__name__}: {name} must {expected}, got {getattr(self, name)!r}")

    def check_counts(self, *names: str) -> None:
        """These must be whole numbers of at least 1; NumPy's become Python's, which JSON can hold."""
        for name in names:
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            self.check(name, whole and bool(value >= 1), "be a positive integer")
            setattr(self, name, int(value))

    def check_choice(self, name: str, *values: Any) -> None:
        """This must be one of the values."""
        self.check(name, getattr(self, name) in values, f"be one of {', '.join(map(repr, values))}")

    def check_dropout(self, name: str) -> None:
        """This must be a probability below 1."""
        value = getattr(self, name)
        self.check(name, isinstance(value, int | float) and 0 <= value < 1, "lie in [0, 1)")
