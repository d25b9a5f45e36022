"""BitFit: train the bias terms, nothing else (Ben Zaken et al. 2021, 2106.10199).

    y = W x + b        trained: b

A thousandth of the parameters and less; but a model must have biases. GPT-2 has them; Llama has none, unless its config
says attention_bias=True or mlp_bias=True.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tinypeft.nn import LayerNorm, RMSNorm
from tinypeft.peft.config import PeftConfig, register
from tinypeft.peft.replacements import replace_biases
from tinypeft.peft.targets import matches, plain_modules

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel


@register
@dataclass
class BitFitConfig(PeftConfig):
    """Which biases are trained. (Ours: peft has LoraConfig(bias="all"), which is BitFit and LoRA together.)

    Args:
        target_modules: of these modules only (names or a regular expression, as everywhere); None for all.
        train_norms: the scales of the norms too, so that biases and norms are trained together.
    """

    target_modules: str | list[str] | None = None
    train_norms: bool = False

    peft_type: ClassVar[str] = "BITFIT"

    def inject(self, peft_model: PeftModel, adapter_name: str, seed: int) -> None:
        """Give the adapter a copy of each bias, which stands in the bias's place while the adapter is active.

        Raises:
            ValueError: there is no bias to train.
        """
        model, wanted = peft_model.get_base_model(), self.target_modules
        modules = {path: module for path, module in plain_modules(model, self.modules_to_save).items()
                   if wanted is None or matches(path, wanted)}
        count = replace_biases(peft_model.replacements, modules, adapter_name)
        norms = {path: module for path, module in modules.items() if isinstance(module, LayerNorm | RMSNorm)}
        for path, norm in norms.items() if self.train_norms else ():
            peft_model.replacements.add(adapter_name, norm, "weight", f"base_model.model.{path}.weight")
        if not count and not (self.train_norms and norms):
            where = "" if wanted is None else f" in the modules that {wanted!r} names"
            raise ValueError(f"nothing to train: this {type(model).__name__} has no bias{where}. A Llama has biases, zero at "
                             "first, if its LlamaConfig says attention_bias=True or mlp_bias=True; or train the norms instead "
                             "(train_norms=True, or LNTuningConfig)")
