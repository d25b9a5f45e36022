"""What a small model does, measured: work and depth as the tape sees them, what a step changes, reaches, and forgets.

    multiplications(lambda: model(ids))        in all matrix products, forward, and backward where there is one
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinypeft.autograd import no_grad
from tinypeft.autograd.tensor import Node, observe
from tinypeft.claims.settings import LINEAR, lora
from tinypeft.claims.small_models import as_if_trained, small_gpt2, small_llama, token_ids
from tinypeft.models import AutoModelForCausalLM, AutoTokenizer
from tinypeft.nn import CausalLM
from tinypeft.peft import BitFitConfig, PeftModel, best_low_rank, get_peft_model
from tinypeft.training import SGD, TrainingArguments, encode_rows, evaluate, train

Model = CausalLM | PeftModel
QUERY = "model.layers.0.self_attn.q_proj"  # a square layer of a small Llama, 32 x 32


def relative(difference: Any, to: Any) -> float:
    """The length of one array divided by that of another."""
    return float(np.linalg.norm(difference) / np.linalg.norm(to))


def rank(matrix: Any) -> int:
    """How many singular values are more than rounding."""
    return int(np.linalg.matrix_rank(matrix))


# ---- work -----------------------------------------------------------------------------------------------------------

def multiplications(run: Callable[[], Any]) -> int:
    """How many multiplications the matrix products in linear layers and attention take while `run` runs."""
    total, cotangent = 0, 0

    def count(moment: str, phase: str, name: str, arrays: tuple[Any, ...]) -> None:
        nonlocal total, cotangent
        if (moment, phase) == ("before", "backward"):
            cotangent = arrays[0].size
        elif (moment, phase, name) == ("before", "forward", "linear"):
            total += arrays[0].size * arrays[1].shape[0]  # x (N, in), W (out, in): N * in * out
        elif (moment, phase, name) == ("before", "forward", "attention"):
            total += 2 * arrays[0].size * arrays[1].shape[1]  # q (B, T, h, d), S keys: B h T S d for scores, and for values
        elif (moment, phase, name) == ("after", "backward", "linear"):  # g W and g^T x, as far as they are wanted
            total += sum(cotangent * gradient.shape[-1] for gradient in arrays[:2] if gradient is not None)
        elif (moment, phase, name) == ("after", "backward", "attention"):
            dq, dk, dv = (gradient is not None for gradient in arrays)
            keys = max(gradient.shape[1] for gradient in arrays if gradient is not None)  # for q alone: as many as queries
            total += (dq + dk + dv + (dq or dk)) * cotangent * keys

    with observe(count):
        run()
    return total


def forward_work(model: Model, ids: np.ndarray | None = None) -> int:
    """Multiplications of a forward pass."""
    with no_grad():
        return multiplications(lambda: model(token_ids() if ids is None else ids))


def training_work(model: Model) -> int:
    """Multiplications of a forward and a backward pass."""
    return multiplications(lambda: model(token_ids(), labels=token_ids()).loss.backward())


def operations(model: Model) -> int:
    """How many operations a forward pass consists of."""
    seen: list[str] = []
    with no_grad(), observe(lambda moment, phase, name, arrays: seen.append(name) if moment == "before" else None):
        model(token_ids())
    return len(seen)


def depth(model: Model) -> int:
    """How many linear layers have to wait for each other, from the embeddings to the logits: the longest chain on the tape.

    All of the model is trained afterwards, so that the tape holds all of it.
    """
    model.requires_grad_(True)
    waiting: list[Any] = [model(token_ids()).logits.node]
    found: dict[int, Node] = {}
    while waiting:
        node = waiting.pop()
        if node.born not in found:
            found[node.born] = node
            waiting += _parents(node)
    longest: dict[int, int] = {}
    for born, node in sorted(found.items()):  # the older ones first
        longest[born] = max((longest[parent.born] for parent in _parents(node)), default=0) + (node.name == "linear")
    return max(longest.values())


def _parents(node: Node) -> list[Node]:
    return [parent[0] for parent in node.parents if parent is not None and isinstance(parent[0], Node)]


# ---- what changes ---------------------------------------------------------------------------------------------------

def changes_in_a_step(adapted: PeftModel) -> dict[str, np.ndarray]:
    """Name -> how a step of gradient descent changes each parameter, of the base and of the adapter."""
    before = {name: parameter.data.copy() for name, parameter in adapted.named_parameters()}
    adapted(token_ids(), labels=token_ids()).loss.backward()
    SGD([parameter for parameter in adapted.parameters() if parameter.requires_grad], lr=0.1).step()
    return {name: parameter.data - before[name] for name, parameter in adapted.named_parameters()}


# ---- what can be reached ----------------------------------------------------------------------------------------------

def out_of_reach_of_lora(r: int = 2) -> float:
    """The share of the sum of two updates of rank r that no update of rank r can make."""
    adapted = get_peft_model(small_llama(), lora(r, ["q_proj"]))
    adapted.add_adapter("other", lora(r, ["q_proj"]))
    adapted.set_adapter(["default", "other"])
    layer: Any = as_if_trained(adapted).get_base_model().get_submodule(QUERY)
    return best_low_rank(layer.delta_weight("default") + layer.delta_weight("other"), r)[2]


def out_of_reach_of_bitfit() -> float:
    """The share of a step's change that is not in the biases."""
    changes = changes_in_a_step(get_peft_model(small_gpt2(), BitFitConfig()))
    biases = {name: change for name, change in changes.items() if name.endswith("bias")}
    others = [change.ravel() for name, change in changes.items() if name not in biases]
    return relative(np.concatenate(others), np.concatenate([change.ravel() for change in biases.values()]))


def degrees_of_freedom(r: int) -> tuple[int, int]:
    """In how many directions B A can move at a point, for a layer of 32 x 32; and how many numbers A and B have."""
    layer: Any = as_if_trained(get_peft_model(small_llama(), lora(r, ["q_proj"]))).get_base_model().get_submodule(QUERY)
    A, B = (factor.data for factor in layer.factors("default"))
    by_B, by_A = np.kron(np.eye(len(B)), A.T), np.kron(B, np.eye(A.shape[1]))  # the derivatives of B A, as matrices
    return rank(np.hstack([by_B, by_A])), A.size + B.size


# ---- what is forgotten ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Adaptation:
    """The bundled model of surnames, adapted to surnames spelled backwards: something that it knows nothing of.

    Attributes:
        old, new: its loss on names of the kind it knew, and on the new ones, before and after.
        old_without: its loss on the old names with the adapter switched off; without an adapter, the same as with.
        deltas: name -> the change of each matrix, (out, in).
    """

    old: tuple[float, float]
    new: tuple[float, float]
    old_without: float
    deltas: dict[str, np.ndarray]


@functools.cache
def adapted_surnames(r: int | None) -> Adaptation:
    """20 steps of AdamW over 64 names, with LoRA of rank r on all linear layers; of all weights if r is None.

    The names are the model's own, drawn from it: what it knows best, and no list of names is needed.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained("tinypeft/surnames")
    model: Any = AutoModelForCausalLM.from_pretrained("tinypeft/surnames")
    start = np.full((64, 1), tokenizer.bos_token_id)
    names = [tokenizer.decode(ids, skip_special_tokens=True)
             for ids in model.generate(start, max_new_tokens=16, do_sample=True, seed=0)]
    old, new = (encode_rows([{"text": name} for name in texts], tokenizer)
                for texts in (names, [name[::-1].capitalize() for name in names]))
    pad, before = tokenizer.pad_token_id, {name: parameter.data.copy() for name, parameter in model.named_parameters()}

    def loss(rows: Any) -> float:
        return evaluate(trained, rows, pad_token_id=pad, batch_size=64)

    trained = model if r is None else get_peft_model(model, lora(r, LINEAR, lora_alpha=2 * r))
    first = loss(old), loss(new)
    settings = TrainingArguments(max_steps=20, learning_rate=2e-3 if r is None else 1e-2, per_device_train_batch_size=16,
                                 lr_scheduler_type="constant", disable_tqdm=True)
    train(trained, new, settings, pad_token_id=pad)
    last, without = (loss(old), loss(new)), loss(old)
    if r is None:
        deltas = {name: p.data - before[name] for name, p in model.named_parameters() if p.ndim == 2}
    else:
        with trained.disable_adapter():
            without = loss(old)
        layers: Any = trained.layers()
        deltas = {layer.path: layer.delta_weight("default") for layer in layers}
    return Adaptation((first[0], last[0]), (first[1], last[1]), without, deltas)
