"""How a model is to be quantized, with transformers' names and defaults."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from tinypeft.backend import Array, as_dtype
from tinypeft.nn.checks import Checked


@dataclass
class BitsAndBytesConfig(Checked):
    """For `AutoModelForCausalLM.from_pretrained(..., quantization_config=)`. The head, and what is not a linear layer, stay as
    they are.

    Args:
        load_in_4bit, load_in_8bit: one of the two: blocks of 4-bit codes (Linear4bit), or LLM.int8() (Linear8bitLt).
        bnb_4bit_quant_type: "fp4" or "nf4"; and "int4", for comparison: no other library reads such a folder.
        bnb_4bit_use_double_quant: quantize the block maxima too.
        bnb_4bit_compute_dtype: what the product is computed in; None for float32, or float64 where the input is.
        llm_int8_threshold: input columns with a number of this magnitude are computed in floating point; 0 for none.
        llm_int8_skip_modules: modules that stay as they are, instead of ["lm_head"]: beginnings of names, up to a dot or the
            end, or any endings; regular expressions.

    Raises:
        ValueError: not one of the two, an unknown type or dtype, or a key of transformers that is not implemented here.
    """

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    llm_int8_threshold: float = 6.0
    llm_int8_skip_modules: list[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool = False
    llm_int8_has_fp16_weight: bool = False
    bnb_4bit_compute_dtype: Any = None
    bnb_4bit_quant_type: str = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: Any = None

    METHOD: ClassVar[str] = "bitsandbytes"

    def __post_init__(self) -> None:
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError(f"BitsAndBytesConfig: load_in_4bit and load_in_8bit are both {self.load_in_4bit}; set one of them")
        self.check_choice("bnb_4bit_quant_type", "fp4", "nf4", "int4")
        threshold: Any = self.llm_int8_threshold
        skip: Any = self.llm_int8_skip_modules
        self.check("llm_int8_threshold", isinstance(threshold, int | float) and threshold >= 0, "be a number, at least 0")
        names = skip is None or (isinstance(skip, list | tuple) and all(isinstance(name, str) for name in skip))
        self.check("llm_int8_skip_modules", names, "be a list of names")
        self.llm_int8_skip_modules = None if skip is None else list(skip)
        self.bnb_4bit_compute_dtype = _dtype_name(self.bnb_4bit_compute_dtype)
        self.bnb_4bit_quant_storage = _dtype_name(self.bnb_4bit_quant_storage) or "uint8"
        self.check_choice("bnb_4bit_compute_dtype", None, "float16", "bfloat16", "float32", "float64")
        for name, only in (("llm_int8_enable_fp32_cpu_offload", False), ("llm_int8_has_fp16_weight", False),
                           ("bnb_4bit_quant_storage", "uint8")):
            self.check(name, getattr(self, name) == only, f"be {only!r}, all that is implemented here")

    def compute_dtype(self, x: Array) -> np.dtype:
        """What the product with an input is computed in. (bfloat16 means float32 here, which is said once.)"""
        given = self.bnb_4bit_compute_dtype
        return np.result_type(x.dtype, np.float32) if given is None else as_dtype(given)

    def skips(self, path: str) -> bool:
        """Whether the module of this name stays as it is: transformers' rule."""
        patterns = ["lm_head"] if self.llm_int8_skip_modules is None else self.llm_int8_skip_modules
        return any(re.match(rf"(?:{key})(?:(?<=\.)|(?=\.|$))", path) or path.endswith(key) for key in patterns)

    def run_as(self, given: BitsAndBytesConfig | None) -> BitsAndBytesConfig:
        """This config, a stored model's, with what another says about computing.

        Raises:
            ValueError: the other asks for other codes than the stored ones.
        """
        if given is None:
            return self
        own, other = self.to_dict(), given.to_dict()
        free = {"bnb_4bit_compute_dtype", "llm_int8_threshold", "llm_int8_skip_modules"}
        if different := [f"{key}={own[key]!r}, not {other[key]!r}" for key in own.keys() - free if own[key] != other[key]]:
            raise ValueError(f"the folder holds a quantized model already, with {', '.join(sorted(different))}")
        return replace(self, bnb_4bit_compute_dtype=given.bnb_4bit_compute_dtype, llm_int8_threshold=given.llm_int8_threshold)

    def to_dict(self) -> dict[str, Any]:
        """What config.json of a quantized model says."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**own, "quant_method": self.METHOD, "_load_in_4bit": self.load_in_4bit, "_load_in_8bit": self.load_in_8bit}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From what a config.json says; absent keys take their defaults, unknown ones give a warning.

        Raises:
            ValueError: it is of another method of quantization.
        """
        if (method := values.get("quant_method", cls.METHOD)) != cls.METHOD:
            raise ValueError(f"the model is quantized by {method!r}; only {cls.METHOD!r} is implemented here")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known - {"quant_method", "_load_in_4bit", "_load_in_8bit"}):
            warnings.warn(f"quantization_config: unknown keys {', '.join(unknown)} are ignored", stacklevel=2)
        return cls(**{key: value for key, value in values.items() if key in known})


def _dtype_name(dtype: Any) -> Any:
    """"float16" for np.float16, np.dtype("float16") and torch.float16; what is no dtype stays as it is."""
    if isinstance(dtype, type | np.dtype):
        return np.dtype(dtype).name
    return dtype if dtype is None or isinstance(dtype, bool) else str(dtype).removeprefix("torch.")
