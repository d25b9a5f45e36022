"""Intrinsic dimension: train d numbers that move all D weights together (Li et al. 2018, 1804.08838).

    theta = theta_0 + P z        z (d,) trained, starting at 0; P (D, d) random, frozen, its columns of length about 1

The smallest d that reaches 90% of what training everything reaches (d90) is called the task's intrinsic dimension.
Aghajanyan et al. (2020, 2012.13255) find it small for fine-tuning, which is why LoRA can work.

P would have D * d numbers. It is the product of matrices that need no storing ("Fastfood", Le et al. 2013, 1408.3060):

    P_block = H G Pi H S / sqrt(d D)        S signs, Pi a permutation, G Gaussian, H Hadamard's matrix of +1 and -1, (d, d)

with a power of two for d (z is filled up with zeros) and as many blocks as each parameter needs. S, Pi, its inverse and G are
drawn from the seed, about 4 D numbers; a product with H takes far fewer multiplications than d^2.

Also here, what to look at a trained change of weights with: `effective_rank` and `best_low_rank`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tinypeft.autograd.tensor import Tensor, Value, op
from tinypeft.backend import Array, asarray, to_numpy
from tinypeft.nn import CausalLM, Conv1D, Embedding, LayerNorm, Linear, Module, Parameter, RMSNorm, generator, new_parameter
from tinypeft.peft.config import TargetedConfig, layer_of
from tinypeft.peft.layer import AdapterLayer, refuse_quantized


@dataclass
class SubspaceConfig(TargetedConfig):
    """How many dimensions, and of which modules' weights. (Ours: peft has no such method.)

    Args:
        dimension: d, at least 1.
        projection_seed: P is drawn from this and the parameters' names; a file holds z only.
        num_weights: D; filled in from the model.
        target_modules: the modules that are moved, all by default.
    """

    dimension: int = 64
    projection_seed: int = 0
    num_weights: int = 0

    peft_type: ClassVar[str] = "SUBSPACE"
    default_targets: ClassVar[dict[str, str | list[str]]] = {
        "gpt2": r".*\.(c_attn|c_proj|c_fc|ln_\w+|wte|wpe)|lm_head", "llama": r".*(_proj|norm|embed_tokens)|lm_head"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("dimension")

    def prepare(self, model: CausalLM, modules: dict[str, Module], seed: int) -> None:
        """One z for all layers; and one name for a parameter that two of them share (a tied head)."""
        self.paths, self.names = list(modules), dict[str, str]()  # of each parameter -> of the first that is the same
        self.draws: dict[str, tuple[Array, Array, Array, Array]] = {}  # the rows of P of each such first
        first: dict[int, tuple[str, Parameter]] = {}
        for path, module in modules.items():
            refuse_quantized(module, path, "the subspace moves all of them")
            for name, parameter in module.named_parameters():
                self.names[f"{path}.{name}"] = first.setdefault(id(parameter), (f"{path}.{name}", parameter))[0]
        D = sum(parameter.size for _, parameter in first.values())
        self.check("num_weights", self.num_weights in (0, D), f"be {D} for this model (was the adapter made for another base?)")
        self.num_weights = D
        self.z = new_parameter((self.dimension,), next(iter(first.values()))[1], lambda: 0.0)

    def to_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        """z once, not once for each layer."""
        kept = {key: array for key, array in tensors.items() if not key.endswith(".subspace_z")}
        return kept | {"subspace_z": to_numpy(self.z.data)}

    def from_file(self, tensors: dict[str, Array], folder: Path) -> dict[str, Array]:
        z = [array for key, array in tensors.items() if key == "subspace_z"]
        kept = {key: array for key, array in tensors.items() if key != "subspace_z"}
        return kept | {f"base_model.model.{path}.subspace_z": z[0] for path in self.paths if z}


@layer_of(SubspaceConfig)
class SubspaceLayer(AdapterLayer):
    """A module, computed with each of its parameters p moved to p + P_p z."""

    prefix = "subspace_"
    wraps = (Linear, Conv1D, Embedding, LayerNorm, RMSNorm)

    def __init__(self, base_layer: Module, path: str = ""):
        super().__init__(base_layer, path)
        self.subspace_z: dict[str, Parameter] = {}  # the same in all layers
        self.subspace_configs: dict[str, SubspaceConfig] = {}

    def add(self, adapter_name: str, config: SubspaceConfig, seed: int) -> None:
        """z = 0."""
        self.subspace_z[adapter_name], self.subspace_configs[adapter_name] = config.z, config

    def _move(self, name: str, parameter: Parameter, adapter_name: str, z: Tensor) -> Tensor:
        """P_p z for the module's parameter of this name, in its shape."""
        config = self.subspace_configs[adapter_name]
        name = config.names[f"{self.path}.{name}"]
        if name not in config.draws:
            config.draws[name] = draw(parameter.size, config.dimension, generator(config.projection_seed, name), like=z)
        return fastfood(z, P=config.draws[name], size=parameter.size, total=config.num_weights).reshape(parameter.shape)

    def forward(self, *inputs: Tensor | Array) -> Tensor:
        base, before = self.base_layer, {n: p for n, p in vars(self.base_layer).items() if isinstance(p, Parameter)}
        try:
            for adapter in self.working:
                for name, parameter in before.items():
                    setattr(base, name, getattr(base, name) + self._move(name, parameter, adapter, self.subspace_z[adapter]))
            return base(*inputs)
        finally:
            vars(base).update(before)

    def merged_values(self, names: list[str]) -> dict[str, Array]:
        return {name: parameter.data + sum(self._move(name, parameter, adapter, self.subspace_z[adapter].detach()).data
                                           for adapter in names)
                for name, parameter in self.base_layer.named_parameters()}


def draw(size: int, dimension: int, random: np.random.Generator, like: Tensor) -> tuple[Array, Array, Array, Array]:
    """S, Pi, Pi's inverse and G of `size` rows of P: each (blocks, d), with d as a power of two."""
    width = 1 << (dimension - 1).bit_length()
    shape = -(-size // width), width
    signs, shuffle = random.integers(0, 2, shape) * 2 - 1, np.argsort(random.random(shape), axis=1)
    gauss, back = random.standard_normal(shape), np.argsort(shuffle, axis=1)
    signs, gauss = (asarray(x, like=like.data).astype(like.dtype) for x in (signs, gauss))
    return signs, asarray(shuffle, like=like.data), asarray(back, like=like.data), gauss


@op
def fastfood(z: Array, *, P: tuple[Array, Array, Array, Array], size: int, total: int) -> Value:
    """Rows of P z: z (d,) -> (size,), for the next `size` of all `total` weights; the formula is at the top of this file."""
    (signs, shuffle, back, gauss), (blocks, width) = P, P[0].shape
    scale = (width * total) ** -0.5  # a row of H G Pi H S has numbers of variance d; D rows of them make a column of length 1
    padded = np.zeros_like(z, shape=width)
    padded[:len(z)] = z
    y = hadamard(signs * padded)
    y = hadamard(gauss * np.take_along_axis(y, shuffle, axis=1)) * scale

    def vjp(g: Array, needs: tuple[bool, ...]) -> tuple[Array]:
        rows = np.zeros_like(z, shape=blocks * width)
        rows[:size] = g
        dy = gauss * hadamard(rows.reshape(blocks, width))  # H is symmetric
        dy = hadamard(np.take_along_axis(dy, back, axis=1)) * signs
        return (dy.sum(axis=0)[:len(z)] * scale,)

    return y.reshape(-1)[:size], vjp


def hadamard(x: Array) -> Array:
    """x H over the last axis, a power of two long; H of size a b is the Kronecker product of those of sizes a and b.

    So a row of a b numbers, seen as a matrix (a, b), is multiplied by two small matrices.

    >>> hadamard(np.eye(4)).astype(int).tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """
    a = 1 << (x.shape[-1].bit_length() - 1) // 2
    left, right = (asarray(_signs(size), like=x).astype(x.dtype) for size in (a, x.shape[-1] // a))
    return (left @ x.reshape(-1, a, x.shape[-1] // a) @ right).reshape(x.shape)


@functools.cache
def _signs(size: int) -> np.ndarray:
    """Hadamard's matrix: H_2n = [[H_n, H_n], [H_n, -H_n]]."""
    return np.ones((1, 1)) if size == 1 else np.kron([[1.0, 1.0], [1.0, -1.0]], _signs(size // 2))


def effective_rank(delta: Array) -> float:
    """How many directions a matrix has, those of little weight counting little: exp of the entropy of its singular values.

    The values are divided by their sum first (Roy and Vetterli 2007). 1 for a matrix of rank 1, n for a multiple of the
    identity; 0 for zero.

    >>> round(effective_rank(np.diag([1.0, 1.0, 1.0])), 6), round(effective_rank(np.diag([1.0, 1e-9, 0.0])), 6)
    (3.0, 1.0)
    """
    s = np.linalg.svd(delta, compute_uv=False)
    if not s.any():
        return 0.0
    share = s[s > 0] / s.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def best_low_rank(delta: Array, r: int) -> tuple[Array, Array, float]:
    """B (out, r) and A (r, in) whose product is nearest to a matrix (Eckart and Young 1936), and |delta - B A| / |delta|.

    Raises:
        ValueError: r is not between 1 and the smaller side.

    >>> B, A, lost = best_low_rank(np.diag([4.0, 3.0]), 1)
    >>> (B @ A).round(6).tolist(), round(lost, 6)
    ([[4.0, 0.0], [0.0, 0.0]], 0.6)
    """
    if not 1 <= r <= min(delta.shape):
        raise ValueError(f"r={r} for a matrix of {delta.shape[0]} x {delta.shape[1]}: expected 1 to {min(delta.shape)}")
    U, s, V = np.linalg.svd(delta, full_matrices=False)
    root = np.sqrt(s[:r])
    return U[:, :r] * root, root[:, None] * V[:r], float(np.sqrt((s[r:] ** 2).sum() / max((s**2).sum(), 1e-300)))
