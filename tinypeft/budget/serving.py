"""What adapters cost once they are trained: files, switching from task to task, and work for each token.

Work is counted, not measured: a product with a matrix of n numbers takes 2 n floating-point operations (FLOPs) a token.

    LoRA beside W0      2 r (in + out) a token          merged into it: none, and 2 r in out + in out once
    p virtual tokens    4 p h head_dim a layer and token, for attending to p more keys and values
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tinypeft.budget.breakdown import Breakdown
from tinypeft.budget.catalog import Counts
from tinypeft.budget.memory import memory, merge_memory
from tinypeft.budget.weights import adapter_parameters, bare_model, dtype_bytes, weight_bytes
from tinypeft.nn import CausalLM, Conv1D, Linear
from tinypeft.peft import PeftConfig, PeftModel, get_peft_model
from tinypeft.peft.adalora import AdaLoraLayer
from tinypeft.peft.bottleneck import BottleneckLayer
from tinypeft.peft.ia3 import IA3Layer
from tinypeft.peft.layer import AdapterLayer, CopyLayer
from tinypeft.peft.lora import LoraLayer
from tinypeft.peft.mixed_batch import BASE, mixed_batch
from tinypeft.peft.prompt import PromptTuningConfig
from tinypeft.peft.ulora import ULoraLayer
from tinypeft.peft.vera import VeraLayer


@dataclass
class Work:
    """What a method adds to a forward pass, and what merging it takes; sums over layers.

    Attributes:
        token: FLOPs for each token.
        forward: FLOPs for each forward pass, however many tokens it has.
        products: matrix products.
        depth: those of them that come after what they adapt, and so make the network deeper; the others run beside it.
        merge: FLOPs of merging once.
        rewritten: numbers of the base that merging reads and writes.
    """

    token: float = 0
    forward: float = 0
    products: int = 0
    depth: int = 0
    merge: float = 0
    rewritten: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(**{key: value + getattr(other, key) for key, value in asdict(self).items()})


@dataclass(frozen=True)
class Serving:
    """What running a model for several tasks costs.

    Attributes:
        counts: parameters.
        tasks: how many.
        task_bytes: stored for each task: an adapter, or the whole model after full fine-tuning.
        shared_bytes: stored once for all tasks, beside the base.
        mergeable: whether the base's weights can take it up, so that running costs nothing more.
        mixable: whether rows of one batch can have different tasks.
        work: added to each forward pass while it is not merged.
        base_flops: of the base, for each token, in its matrices.
        positions: virtual tokens, which take as many positions of the context.
        cache_bytes: keys and values of these, for each sequence.
        sequence_flops: FLOPs once for each sequence, to compute those.
        merged_bytes: weights of a merged model, in the dtype of the base.
        merge_bytes: memory needed to merge; 0 where it is not mergeable.
    """

    counts: Counts
    tasks: int
    task_bytes: float
    shared_bytes: float
    mergeable: bool
    mixable: bool
    work: Work
    base_flops: float
    positions: int
    cache_bytes: float
    sequence_flops: float
    merged_bytes: float
    merge_bytes: float

    @property
    def all_bytes(self) -> float:
        """Stored for all tasks."""
        return self.shared_bytes + self.tasks * self.task_bytes

    @property
    def overhead(self) -> float:
        """Added FLOPs of a token, as a share of the base's."""
        return self.work.token / self.base_flops

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; sizes in bytes."""
        return asdict(self) | {"all_bytes": self.all_bytes, "overhead": self.overhead}


def serving(model: str | CausalLM, method: PeftConfig | None, *, tasks: int = 1, dtype: str = "bfloat16",
            adapter_dtype: str = "float32") -> Serving:
    """Count what a method costs once it is trained.

    Args:
        method: the adapter's config; None for full fine-tuning.
        dtype, adapter_dtype: in which the base and the adapter are stored and run.

    >>> from tinypeft.peft import PrefixTuningConfig
    >>> found = serving("llama-2-7b", PrefixTuningConfig(num_virtual_tokens=20))
    >>> found.cache_bytes, found.work.token, found.mergeable
    (10485760, 10485760, False)
    """
    base = bare_model(model)
    size, merged = dtype_bytes(dtype), float(weight_bytes(base, dtype_bytes(dtype)))
    flops = 2.0 * sum(module.weight.size for module in base.modules() if isinstance(module, Linear | Conv1D))
    if method is None:
        count = sum(parameter.size for parameter in base.parameters())
        return Serving(Counts(count, count), tasks, merged, 0.0, True, False, Work(), flops, 0, 0.0, 0.0, merged, merged)
    adapted = get_peft_model(bare_model(model), method)
    work = sum((_work(layer, "default") for layer in adapted.layers()), Work())
    p, c = adapted.num_virtual_tokens, base.config
    work.token += 4 * p * c.num_attention_heads * c.head_dim * c.num_hidden_layers
    stored, shared = (count * dtype_bytes(adapter_dtype, "adapter_dtype") for count in (
        sum(parameter.size for parameter in adapter_parameters(adapted)), _shared_numbers(adapted)))
    can = mergeable(adapted)
    return Serving(
        Counts(*adapted.get_nb_trainable_parameters()), tasks, stored - shared, shared, can, not why_unmixable(adapted),
        work, flops, p,
        2 * p * c.num_key_value_heads * c.head_dim * c.num_hidden_layers * size,
        p * flops if isinstance(method, PromptTuningConfig) else 0.0, merged,
        merge_memory(base, method, dtype=dtype, adapter_dtype=adapter_dtype).total if can else 0.0)


def mergeable(model: PeftModel) -> bool:
    """Whether the active adapters are a change of the base's weights: what `merge_adapter` asks, too."""
    return not model.prompt_encoder and all(layer.mergeable for layer in model.layers())


def why_unmixable(model: PeftModel) -> str:
    """Why a batch cannot have rows for the active adapter and rows for none; "" if it can.

    The library is asked: it refuses before the first layer runs, so that a model without values will do.
    """
    try:
        with mixed_batch(model, [*model.active_adapters, BASE], (0, 0)):
            return ""
    except ValueError as error:
        return str(error)


def merged_memory(model: str | CausalLM, **conditions: Any) -> Breakdown:
    """Running the merged model: the base in the dtype of its numbers, whether or not it was quantized in training.

    Args:
        conditions: arguments of `memory`; those that only training has are left out.
    """
    known = ("batch", "tokens", "engine", "dtype", "attention", "margin")
    return memory(model, training=False, **{key: value for key, value in conditions.items() if key in known})


def _shared_numbers(model: PeftModel) -> int:
    """Numbers of an adapter that further tasks share with it."""
    return sum(layer.ulora_A.size + layer.ulora_B.size for layer in model.layers() if isinstance(layer, ULoraLayer))


def _work(layer: AdapterLayer, name: str) -> Work:
    """Of one adapted module."""
    if isinstance(layer, BottleneckLayer):
        matrices = sum(p.size for p in layer.adapters[name].parameters() if p.ndim == 2)
        return Work(2 * matrices, products=2, depth=0 if layer.adapters_style[name] == "parallel" else 2)
    if isinstance(layer, CopyLayer):  # other values in the same places
        return Work(rewritten=sum(parameter.size for parameter in layer.base_layer.parameters()))
    base: Any = layer.base_layer
    inputs, outputs, n = base.in_features, base.out_features, base.weight.size
    if isinstance(layer, IA3Layer):
        return Work(layer.ia3_l[name].size, merge=n, rewritten=n)
    r, scaled, per_merge = _factors(layer, name)
    work = Work(2 * r * (inputs + outputs) + scaled, 0, 2, 0, 2 * r * n + n + per_merge, n)
    if name in getattr(layer, "lora_magnitude_vector", {}):  # DoRA: ||W0 + s B A|| anew in each pass, then m / ||V|| on both
        norm = 2 * r * n + 3 * n
        work += Work(token=2 * outputs, forward=norm, merge=3 * n)
    return work


def _factors(layer: Any, name: str) -> tuple[int, int, int]:
    """Of a method with B and A: the rank, the FLOPs a token of its vectors, and theirs in a merge."""
    base = layer.base_layer
    if isinstance(layer, AdaLoraLayer):
        r = layer.lora_E[name].size
        return r, r, r * base.in_features
    if isinstance(layer, VeraLayer):
        r = layer.vera_lambda_d[name].size
        return r, r + base.out_features, r * base.in_features + base.weight.size
    if isinstance(layer, ULoraLayer):
        r, v = len(layer.ulora_A.data), layer.ulora_v[name].size
        return r, v, r * base.out_features
    assert isinstance(layer, LoraLayer)
    return layer.lora_A[name].weight.shape[0], 0, 0
