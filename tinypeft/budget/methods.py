"""The methods that can be planned, each with one size: a rank, a number of virtual tokens, a width, or none.

    METHODS["qlora"].config(model, 16)        the config of that size, for a model that is there or on the meta device

rsLoRA, LoRA+, PiSSA and OLoRA differ from LoRA in a scale, in learning rates or in where they start, not in what they cost;
their names stand for LoRA's row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tinypeft.budget.units import names_known
from tinypeft.nn import CausalLM
from tinypeft.peft import (
    AdaLoraConfig,
    BitFitConfig,
    BottleneckConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ULoraConfig,
    VeraConfig,
)
from tinypeft.peft.targets import find_targets
from tinypeft.quant import BitsAndBytesConfig

Targets = str | list[str]
RANK, TOKENS, WIDTH = "rank", "virtual tokens", "bottleneck width"

# How QLoRA stores the base, and what it computes in: its paper's choices.
NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                         bnb_4bit_compute_dtype="bfloat16")

# Ways to store the base, by name.
QUANTIZATIONS = {"nf4": NF4, "fp4": replace(NF4, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=False),
                 "int8": BitsAndBytesConfig(load_in_8bit=True)}

# Where (IA)3 scales: keys, values and what goes into the last feed-forward matrix (its paper, section 3.3), for the model
# types that IA3Config has no defaults for.
_IA3_PLACES = {"opt": ["k_proj", "v_proj", "fc2"], "gpt_neox": ["query_key_value", "dense_4h_to_h"],
               "qwen2": ["k_proj", "v_proj", "down_proj"], "t5": ["k", "v", "wo"]}
_NORMS = r".*(norm|ln_[12f])"


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Attributes:
        name: what it is called on a command line.
        title: what it is called in prose.
        make: its config, from the model, the size and the modules to adapt; None for full fine-tuning.
        size_name: what its size is: RANK, TOKENS, WIDTH; "" if it has none.
        usual: the size to take if nothing is known, from the model's width.
        usual_why: where that comes from.
        four_bit: the base is stored in NF4, by the method's definition.
    """

    name: str
    title: str
    make: Callable[[CausalLM, int, Targets], PeftConfig] | None = field(repr=False)
    size_name: str = ""
    usual: Callable[[int], int] = field(default=lambda width: 1, repr=False)
    usual_why: str = ""
    four_bit: bool = False

    def config(self, model: CausalLM, size: int, targets: Targets = "all-linear") -> PeftConfig | None:
        """The config of a size; None for full fine-tuning.

        Args:
            model: for its type and width.
            size: at least 1; of no effect where the method has no size.
            targets: target_modules of the methods that have a rank; the others have places of their own.

        Raises:
            ValueError: a size below 1.

        >>> from tinypeft.budget import build
        >>> METHODS["pfeiffer"].config(build("gpt2"), 100).reduction_factor
        7.68
        """
        if size < 1:
            raise ValueError(f"{self.title}: {self.size_name or 'size'} {size} is below 1")
        return self.make(model, size, targets) if self.make else None

    def usual_size(self, model: CausalLM) -> int:
        """The size to take if nothing speaks against it."""
        return self.usual(model.config.hidden_size)

    def most(self, model: CausalLM, tokens: int, targets: Targets = "all-linear") -> int:
        """The largest size that means something, whatever it costs.

        A rank of at most the smaller side of every matrix, virtual tokens beside `tokens` tokens of text within the model's
        positions (0 if there is no room), a bottleneck no wider than the stream.
        """
        if self.size_name == TOKENS:
            return max(0, model.config.max_position_embeddings - tokens)
        if self.size_name == WIDTH:
            return model.config.hidden_size
        if self.size_name != RANK:
            return 1
        rank = smallest_side(model, self.config(model, 1, targets))
        return rank * 2 // 3 if self.name == "adalora" else rank  # which starts with half as much again

    def describe(self, size: int) -> str:
        """A size in words.

        >>> METHODS["lora"].describe(16), METHODS["prefix"].describe(20), METHODS["ia3"].describe(1)
        ('r=16', '20 tokens', '')
        """
        return {RANK: f"r={size}", TOKENS: f"{size:,} tokens", WIDTH: f"width {size}"}.get(self.size_name, "")


def stored_as(quantization: BitsAndBytesConfig) -> str:
    """How a base is stored, in a word.

    >>> stored_as(NF4), stored_as(QUANTIZATIONS["int8"])
    ('NF4', 'int8')
    """
    return "int8" if quantization.load_in_8bit else quantization.bnb_4bit_quant_type.upper()


def smallest_side(model: CausalLM, config: Any) -> int:
    """Of the matrices that a config names, the smaller side of the smallest: the highest rank that all of them can have."""
    modules: list[Any] = [model.get_submodule(path) for path in find_targets(model, config)]
    return min(min(module.in_features, module.out_features) for module in modules)


def _lora(**options: Any) -> Callable[[CausalLM, int, Targets], PeftConfig]:
    return lambda model, size, targets: LoraConfig(r=size, lora_alpha=2 * size, target_modules=targets, **options)


def _adalora(model: CausalLM, size: int, targets: Targets) -> PeftConfig:
    """Mean rank `size` in the end, and half as much again at first, when memory is needed most."""
    return AdaLoraConfig(target_r=size, init_r=math.ceil(size * 3 / 2), total_step=1000, target_modules=targets)


def _ia3(model: CausalLM, size: int, targets: Targets) -> PeftConfig:
    places = _IA3_PLACES.get(model.config.model_type)
    return IA3Config(target_modules=places, feedforward_modules=places and places[-1:])


def _bottleneck(style: str) -> Callable[[CausalLM, int, Targets], PeftConfig]:
    def make(model: CausalLM, size: int, targets: Targets) -> PeftConfig:
        width = model.config.hidden_size
        factor: float = width // size if width % size == 0 else width / size
        if int(width // factor) != size:  # the quotient was rounded up: a hair less gives the width that is meant
            factor = math.nextafter(factor, 0)
        return BottleneckConfig(style=style, reduction_factor=factor)

    return make


METHODS: dict[str, Method] = {method.name: method for method in (
    Method("full", "full fine-tuning", None),
    Method("lora", "LoRA", _lora(), RANK, lambda d: 16, "r=16 on all linear layers: more helps little, fewer layers hurt "
           "(Dettmers et al. 2023, 2305.14314, section 4)"),
    Method("qlora", "QLoRA", _lora(), RANK, lambda d: 16, "as LoRA", four_bit=True),
    Method("dora", "DoRA", _lora(use_dora=True), RANK, lambda d: 16, "as LoRA"),
    Method("adalora", "AdaLoRA", _adalora, RANK, lambda d: 8, "peft's default, 8 of 12 at first"),
    Method("vera", "VeRA", lambda model, size, targets: VeraConfig(r=size, save_projection=False, target_modules=targets),
           RANK, lambda d: 256, "its paper's and peft's (Kopiczko et al. 2023, 2310.11454)"),
    Method("ulora", "ULoRA", lambda model, size, targets: ULoraConfig(r=size, target_modules=targets), RANK, lambda d: 16,
           "as LoRA"),
    Method("ia3", "(IA)3", _ia3),
    Method("houlsby", "Houlsby adapters", _bottleneck("houlsby"), WIDTH, lambda d: max(1, d // 16),
           "the adapters library's, a sixteenth of the model's width"),
    Method("pfeiffer", "Pfeiffer adapters", _bottleneck("pfeiffer"), WIDTH, lambda d: max(1, d // 16),
           "the adapters library's, a sixteenth of the model's width"),
    Method("parallel", "parallel adapters", _bottleneck("parallel"), WIDTH, lambda d: max(1, d // 2),
           "the adapters library's, half of the model's width"),
    Method("prefix", "prefix tuning", lambda model, size, targets: PrefixTuningConfig(num_virtual_tokens=size), TOKENS,
           lambda d: 20, "20 tokens, from the range that its paper tried (Li and Liang 2021, 2101.00190, section 7.1)"),
    Method("prompt", "prompt tuning", lambda model, size, targets: PromptTuningConfig(num_virtual_tokens=size), TOKENS,
           lambda d: 20, "20 tokens: more bring little (Lester et al. 2021, 2104.08691, section 3.2)"),
    Method("bitfit", "BitFit", lambda model, size, targets: BitFitConfig()),
    Method("norms", "norm tuning", lambda model, size, targets: LNTuningConfig(target_modules=_NORMS)),
)}
RELATIVES = {"rslora": "rsLoRA", "lora+": "LoRA+", "loraplus": "LoRA+", "pissa": "PiSSA", "olora": "OLoRA"}  # cost as LoRA
ALIASES = {**dict.fromkeys(RELATIVES, "lora"), "full fine-tuning": "full", "full-ft": "full", "adapters": "houlsby",
           "(ia)3": "ia3", "prompt tuning": "prompt", "prefix tuning": "prefix", "layernorm": "norms", "ln_tuning": "norms"}


def find_method(name: str) -> Method:
    """A method by its name, in any case, or by that of a relative that costs the same.

    Raises:
        ValueError: an unknown name; near ones are listed.

    >>> find_method("QLoRA").title, find_method("rsLoRA").title
    ('QLoRA', 'LoRA')
    """
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key in METHODS:
        return METHODS[key]
    raise ValueError(f"unknown method {name!r}; {names_known(key, METHODS, ALIASES, 'there are')}")


def relative(name: str) -> str:
    """The title of a relative of LoRA, by its name; "" for any other name.

    >>> relative("rslora"), relative("lora")
    ('rsLoRA', '')
    """
    return RELATIVES.get(name.strip().lower(), "")
