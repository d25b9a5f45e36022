"""What `get_layer_status` tells: the fields are those of peft's."""

from __future__ import annotations

from dataclasses import dataclass

from tinypeft.peft.layer import AdapterLayer


@dataclass
class LayerStatus:
    """One layer with adapters.

    Attributes:
        name: where in the base model it stands.
        module_type: the class that wraps the base module.
        enabled: False inside `disable_adapter`.
        active_adapters, merged_adapters, available_adapters: names.
        merge_loss: what share of a merged change the layer's quantized weight cannot hold, |realised - wanted| / |wanted|.
        requires_grad: adapter -> whether it is trained; "irregular" if only in parts.
    """

    name: str
    module_type: str
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, bool | str]
    available_adapters: list[str]
    merge_loss: float


def layer_status(layer: AdapterLayer) -> LayerStatus:
    """The state of one layer."""
    trained: dict[str, bool | str] = {}
    for name in layer.adapter_names:
        flags = {parameter.requires_grad for parameter in layer.parameters_of(name).values()}
        trained[name] = flags.pop() if len(flags) == 1 else "irregular"
    return LayerStatus(layer.path, type(layer).__name__, not layer.disabled, list(layer.active), list(layer.merged), trained,
                       layer.adapter_names, layer.merge_loss)
