"""Weighted sums of LoRA adapters, as one new adapter (peft's `add_weighted_adapter`).

With deltas D_i = s_i B_i A_i and weights w_i, what is wanted is the change of weights D = sum w_i D_i:

    "svd"     the best approximation of D of rank max r_i, by its singular value decomposition
    "cat"     exact: A's above each other, B's beside each other; the rank is the sum of the r_i
    "linear"  (sum sqrt(w_i s_i) B_i) (sum sqrt(w_i s_i) A_i): cheap, but of n adapters the n^2 - n products of one's B with
              another's A come on top of D: these cross terms belong to nobody, and are often as large as D itself

A negative weight goes into A. The new adapter has scaling 1, rsLoRA or not. (peft 0.21.2 inherits use_rslora with
alpha = r, which makes such sums sqrt(r) too strong.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinypeft.backend import Array
from tinypeft.nn import refuse_meta
from tinypeft.peft.lora import LoraConfig, LoraEmbedding, LoraLayer

if TYPE_CHECKING:
    from tinypeft.peft.model import PeftModel

KINDS = ("svd", "cat", "linear")


def weighted_adapter(peft_model: PeftModel, adapters: list[str], weights: list[float], adapter_name: str, kind: str,
                     svd_rank: int | None) -> None:
    """Add to a model the weighted sum of some of its LoRA adapters, inactive.

    Args:
        adapters, weights: as many names as numbers.
        kind: "svd", "cat" or "linear", see above.
        svd_rank: the new rank, for "svd" only; the largest of the adapters' if None.

    Raises:
        ValueError: anything else; nothing is added.
    """
    if not adapters or len(adapters) != len(weights) or not all(np.isfinite(weights)):
        raise ValueError(f"expected as many finite weights as adapters, at least one; got {adapters} and {weights}")
    if svd_rank is not None and (kind != "svd" or svd_rank < 1):
        raise ValueError(f'svd_rank={svd_rank!r} for {kind!r}: it is for "svd" only, and at least 1')
    refuse_meta(peft_model.parameters(), "there is nothing to combine")
    if kind not in KINDS:
        raise ValueError(f"combination_type {kind!r} is not implemented; {', '.join(KINDS)} are")
    for name in adapters:
        config = peft_model.known(name)
        if type(config) is not LoraConfig or config.use_dora or config.bias != "none" or config.modules_to_save or \
                config.init_lora_weights in ("pissa", "olora"):
            raise ValueError(f"{name!r} is not a plain LoRA (it is {config.peft_type}, or has DoRA, biases, modules_to_save or "
                             "a residual weight): only sums of B A can be weighted")
    layers = {layer.path: layer for layer in peft_model.layers()
              if isinstance(layer, LoraLayer | LoraEmbedding) and set(adapters) & set(layer.adapter_names)}
    factors = {path: combined(layer, adapters, weights, kind, svd_rank) for path, layer in layers.items()}
    ranks = {path: len(A) for path, (A, _) in factors.items()}
    r = max(ranks.values())
    pattern: dict[str, Any] = {path: rank for path, rank in ranks.items() if rank != r}
    config = LoraConfig(r=r, lora_alpha=r, target_modules=list(layers), rank_pattern=pattern, alpha_pattern=dict(pattern),
                        task_type=peft_model.known(adapters[0]).task_type)
    peft_model.add_adapter(adapter_name, config)
    for path, layer in layers.items():
        for parameter, values in zip(layer.factors(adapter_name), factors[path], strict=True):
            parameter.data = values.astype(parameter.dtype)


def combined(layer: LoraLayer | LoraEmbedding, adapters: list[str], weights: list[float], kind: str, svd_rank: int | None
             ) -> tuple[Array, Array]:
    """A (r, in) and B (out, r) of the weighted sum in one layer, to be used with scaling 1."""
    here = [(*(p.data for p in layer.factors(name)), w * layer.lora_scaling[name])
            for name, w in zip(adapters, weights, strict=True) if name in layer.adapter_names]
    if kind == "cat":
        return np.concatenate([A * w for A, _, w in here]), np.concatenate([B for _, B, _ in here], axis=1)
    if kind == "linear":
        if len({len(A) for A, _, _ in here}) > 1:
            raise ValueError(f"\"linear\" adds the A's up, but at {layer.path} the ranks are {[len(A) for A, _, _ in here]}: "
                             'use "cat" or "svd"')
        roots = [abs(w) ** 0.5 for _, _, w in here]
        return (sum(np.sign(w) * root * A for (A, _, w), root in zip(here, roots, strict=True)),
                sum(root * B for (_, B, _), root in zip(here, roots, strict=True)))
    U, S, V = np.linalg.svd(sum(w * (B @ A) for A, B, w in here), full_matrices=False)
    r = min(max(len(A) for A, _, _ in here) if svd_rank is None else svd_rank, len(S))
    return V[:r], U[:, :r] * S[:r]
