"""Batches in which each row goes through an adapter of its own: many tasks served at once, by one base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinypeft.autograd import Tensor

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel

BASE = "__base__"  # the name for rows without an adapter


@contextmanager
def mixed_batch(peft_model: PeftModel, adapter_names: Sequence[str] | None, inputs: Any) -> Iterator[None]:
    """A context in which row i of `inputs` goes through adapter_names[i]; None changes nothing.

    Raises:
        ValueError: not one known name for each row, merged adapters, or an adapter that cannot be mixed within a batch.
    """
    if adapter_names is None:
        yield
        return
    if inputs is None:
        raise ValueError("give input_ids or inputs_embeds, one of the two")
    names, size = list(adapter_names), len(inputs.data if isinstance(inputs, Tensor) else inputs)
    if len(names) != size:
        raise ValueError(f"adapter_names has {len(names)} names for a batch of {size} rows")
    for name in dict.fromkeys(names):
        if name == BASE:
            continue
        kind = peft_model.known(name).peft_type
        if name in peft_model.prompt_encoder or peft_model.replacements.owners([name]):
            raise ValueError(f"the adapter {name!r} ({kind}) cannot be mixed within a batch: it changes parameters of the base "
                             "for all rows (biases, residual weights), or the length of its rows (soft prompts)")
    layers = peft_model.layers()
    if any(layer.merged for layer in layers):
        raise ValueError("adapters are merged into the weights: unmerge_adapter() before mixing them within a batch")
    replaced, model = peft_model.replacements.active, peft_model.get_base_model()
    checkpointing = model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()  # a block that backward() computes again would know nothing of the rows
    peft_model.replacements.activate([])
    for layer in layers:
        layer.rows = names
    try:
        yield
    finally:
        for layer in layers:
            layer.rows = None
        if checkpointing:
            model.gradient_checkpointing_enable()
        peft_model.replacements.activate(replaced)
