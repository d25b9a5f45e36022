"""How transformers runs a GPT-2 or a Llama, and peft its adapters: which operations, in which dtype, one after the other.

`run(module, x)` finds the way by the module's kind. The modules are ours, on arrays without values; what is done with them
follows transformers 5.23, peft 0.21.2 and bitsandbytes 0.50.2 line by line, since that decides what PyTorch keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from tinypeft.autograd import Tensor, checkpoint, functional as F
from tinypeft.autograd.ops import relu, tanh
from tinypeft.budget import torch_ops as ops
from tinypeft.budget.torch_ops import SINGLE, to
from tinypeft.nn import Conv1D, Dropout, Embedding, LayerNorm, Linear, Module, RMSNorm
from tinypeft.nn.gpt2 import GPT2Block
from tinypeft.nn.layers import Add
from tinypeft.nn.llama import LlamaDecoderLayer
from tinypeft.peft.adalora import AdaLoraLayer
from tinypeft.peft.bottleneck import Bottleneck, BottleneckLayer
from tinypeft.peft.dora import DoraLayer
from tinypeft.peft.ia3 import IA3Layer
from tinypeft.peft.layer import AdapterLayer, CopyLayer
from tinypeft.peft.lora import LoraEmbedding, LoraLayer
from tinypeft.peft.ulora import ULoraLayer
from tinypeft.peft.vera import VeraLayer
from tinypeft.quant import Linear4bit, Linear8bitLt
from tinypeft.quant.linear import QuantizedLinear

HALF = np.dtype(np.float16)  # stands for bfloat16 too: of both only the two bytes matter
COMPUTE: dict[Any, np.dtype] = {"float16": HALF, "bfloat16": HALF, "float32": SINGLE, None: SINGLE,
                                "float64": np.dtype(np.float64)}


# ---- layers ---------------------------------------------------------------------------------------------------------

@singledispatch
def run(module: Any, x: Any) -> Tensor:
    """The module's output in transformers; for a method without a page of its own here, in its own operations."""
    out: Tensor = module(x)
    return out


@run.register
def _(module: Linear, x: Tensor) -> Tensor:
    return ops.linear(x, module.weight, *([module.bias] if module.bias is not None else []))


@run.register
def _(module: Conv1D, x: Tensor) -> Tensor:
    return ops.linear(x, module.weight.T, module.bias)


@run.register
def _(module: Linear4bit, x: Tensor) -> Tensor:
    compute = COMPUTE[module.weight.config.bnb_4bit_compute_dtype]
    return _biased(to(ops.linear_4bit(to(x, compute), weight=module.weight), x.dtype), module.bias)


@run.register
def _(module: Linear8bitLt, x: Tensor) -> Tensor:
    return _biased(ops.linear_8bit(x, weight=module.weight), module.bias)


def _biased(y: Tensor, bias: Tensor | None) -> Tensor:
    """A bias that is trained gets its gradient; adding it is part of the product, and allocates nothing."""
    return ops.add(y, bias) if bias is not None and bias.requires_grad else y


@run.register
def _(module: Embedding, x: Any) -> Tensor:
    return ops.embedding(module.weight, x)


@run.register
def _(module: LayerNorm, x: Tensor) -> Tensor:
    return ops.layer_norm(x, module.weight, module.bias)


@run.register
def _(module: RMSNorm, x: Tensor) -> Tensor:
    """weight * (x32 * rsqrt(mean(x32^2) + eps)).to(dtype), with x32 = x.to(float32)."""
    wide = to(x, SINGLE)
    normed = ops.multiply(wide, ops.of_output(ops.scale(ops.mean(ops.of_input(wide)))))
    return ops.multiply(module.weight, to(normed, x.dtype))


@run.register
def _(module: Dropout, x: Tensor) -> Tensor:
    return ops.dropout(x) if module.p and module.training else x


def activate(function: Any, x: Tensor) -> Tensor:
    """What transformers does for one of our activation functions."""
    if function is F.gelu:  # 0.5 x (1 + tanh(c (x + 0.044715 x^3))), operation by operation
        inner = ops.scale(ops.add(x, ops.scale(ops.of_input(x))))
        half = ops.scale(x)
        return ops.multiply(half, ops.scale(ops.of_output(inner)))
    return ops.of_output(x) if function in (relu, tanh) else ops.of_input(x)


# ---- adapters -------------------------------------------------------------------------------------------------------

@run.register
def _(module: LoraLayer, x: Tensor) -> Tensor:
    """result + B(A(dropout(x))) * scaling: x is converted to the adapter's dtype, and what is added converted back."""
    base = y = run(module.base_layer, x)
    for name in module.working:
        A, B = module.factors(name)
        wide = run(module.lora_dropout[name], to(x, A.dtype))
        update = ops.scale(ops.linear(ops.linear(wide, A), B))
        if isinstance(module, DoraLayer) and name in module.lora_magnitude_vector:
            update = _dora(module, name, base, update)
        y = ops.add(y, to(update, y.dtype) if isinstance(module.base_layer, QuantizedLinear) else update)
    return to(y, base.dtype)


def _dora(module: DoraLayer, name: str, base: Tensor, update: Tensor) -> Tensor:
    """(m / ||V|| - 1) W0 x + m / ||V|| B A x, with V of the weight's size for a moment."""
    norm, m = module._direction(name).copy(), module.lora_magnitude_vector[name].weight
    del norm
    ratio = ops.scale(m)
    return ops.add(ops.multiply(ratio, base), ops.multiply(ratio, update))


@run.register
def _(module: AdaLoraLayer, x: Tensor) -> Tensor:
    """result + dropout(x) (A E)^T B^T * scaling."""
    y = run(module.base_layer, x)
    for name in module.working:
        A, E, B = module.lora_A[name], module.lora_E[name], module.lora_B[name]
        wide = run(module.lora_dropout[name], to(x, A.dtype))
        update = ops.scale(ops.scale(ops.linear(ops.linear(wide, ops.multiply(A, E)), B)))
        y = to(ops.add(y, update), y.dtype)
    return y


@run.register
def _(module: VeraLayer, x: Tensor) -> Tensor:
    """result + b * F.linear(d * F.linear(x, A), B)."""
    y = run(module.base_layer, x)
    dtype = y.dtype
    for name in module.working:
        (A, B), d, b = module._projections(name), module.vera_lambda_d[name], module.vera_lambda_b[name]
        wide = run(module.vera_dropout[name], to(x, d.dtype))
        y = ops.add(y, ops.multiply(b, ops.linear(ops.multiply(d, ops.linear(wide, A)), B)))
    return to(y, dtype)


@run.register
def _(module: ULoraLayer, x: Tensor) -> Tensor:
    """As LoRA's, with v between A and B or before both. (peft has no such method.)"""
    y, A, B = run(module.base_layer, x), module.ulora_A, module.ulora_B
    for name in module.working:
        v, between, wide = module.ulora_v[name], module.ulora_between[name], to(x, A.dtype)
        u = ops.multiply(v, ops.linear(wide, A)) if between else ops.linear(ops.multiply(wide, v), A)
        y = to(ops.add(y, ops.linear(u, B)), y.dtype)
    return y


@run.register
def _(module: IA3Layer, x: Tensor) -> Tensor:
    """base(x * l), or base(x) * l: in the adapter's dtype, and back."""
    dtype = x.dtype
    for name in module.working:
        if module.ia3_at_input[name]:
            x = to(ops.multiply(to(x, module.ia3_l[name].dtype), module.ia3_l[name].reshape(-1)), dtype)
    y = run(module.base_layer, x)
    for name in module.working:
        if not module.ia3_at_input[name]:
            y = to(ops.multiply(y, module.ia3_l[name].reshape(-1)), dtype)
    return y


@run.register
def _(module: LoraEmbedding, ids: Any) -> Tensor:
    y = run(module.base_layer, ids)
    for name in module.working:
        A, B = module.factors(name)
        y = ops.add(y, ops.scale(ops.linear(ops.embedding(A.T, ids), B)))
    return y


@run.register
def _(module: CopyLayer, x: Any) -> Tensor:
    return run(module.copies[module.working[-1]] if module.working else module.base_layer, x)


def join(module: Add | AdapterLayer, x: Tensor, found: Tensor) -> Tensor:
    """x + found, the place where bottleneck adapters stand."""
    if not isinstance(module, BottleneckLayer):
        return ops.add(x, found)
    working = [(module.adapters[name], module.adapters_style[name]) for name in module.working]
    h = found
    for adapter, style in working:
        found = ops.add(found, _bottleneck(adapter, h)) if style == "houlsby" else found
    y = joined = ops.add(x, found)
    for adapter, style in working:
        y = ops.add(y, _bottleneck(adapter, joined if style == "pfeiffer" else x)) if style != "houlsby" else y
    return y


def _bottleneck(adapter: Bottleneck, z: Tensor) -> Tensor:
    down = adapter.adapter_down[0]
    return to(ops.scale(run(adapter.adapter_up, activate(adapter.act, run(down, to(z, down.weight.dtype))))), z.dtype)


# ---- blocks ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Call:
    """What every block is called with.

    Attributes:
        eager: whether attention is computed operation by operation.
        prefix: (B, p, 2 layers, h_kv, head_dim), keys and values that stand before the text's; None without.
        cache: where keys and values are kept; None in training.
    """

    eager: bool = False
    prefix: Tensor | None = None
    cache: list[Tensor] | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, layer: int, call: Call, drop: Dropout, wide: bool) -> Tensor:
    """(B, T, h, d), (B, T, h_kv, d) twice -> (B, T, h * d). `wide`: whether the eager softmax is computed in float32."""
    B, T, h, d = q.shape
    if call.prefix is not None:
        p: Any = call.prefix
        k, v = (ops.concatenate(to(p[:, :, 2 * layer + i], x.dtype), x) for i, x in ((0, k), (1, v)))
    if call.cache is not None:
        k, v = ops.scale(k), ops.scale(v)  # the cache holds copies
        call.cache.extend([k, v])
    grouped = k.shape[2] != h
    eager = call.eager or (grouped and q.dtype.itemsize > 2)  # for which there is no fused kernel on a GPU
    if grouped and (eager or call.prefix is not None):
        k, v = (ops.repeat_heads(x, times=h // x.shape[2]) for x in (k, v))
    if not eager:
        # A prefix comes with a mask, of each row for itself.
        mask = None if call.prefix is None else q.data._new((B, T, k.shape[1]))
        return ops.fused_attention(q, k, v, mask=mask).reshape(B, T, h * d)
    raised = ops.scale(ops.scale(ops.scores(q, k)))  # times 1 / sqrt(d), plus the mask
    weights = to(ops.softmax(raised, dtype=SINGLE if wide else q.dtype), q.dtype)
    del raised
    return ops.weighted_values(run(drop, weights), v).reshape(B, T, h * d)


@singledispatch
def block(module: Module, x: Tensor, call: Call) -> Tensor:
    """A block of the model."""
    raise NotImplementedError


@block.register
def _(module: LlamaDecoderLayer, x: Tensor, call: Call) -> Tensor:
    B, T, _ = x.shape
    a, m = module.self_attn, module.mlp
    found = run(module.input_layernorm, x)
    q, k, v = (run(proj, found).reshape(B, T, -1, a.head_dim) for proj in (a.q_proj, a.k_proj, a.v_proj))
    found = run(a.o_proj, attend(ops.rotary(q), ops.rotary(k), v, a.layer, call, a.attn_dropout, wide=True))
    x = join(module.attention_add, x, found)
    found = run(module.post_attention_layernorm, x)
    gated = ops.multiply(activate(m.act_fn, run(m.gate_proj, found)), run(m.up_proj, found))
    return join(module.output_add, x, run(m.down_proj, gated))


@block.register
def _(module: GPT2Block, x: Tensor, call: Call) -> Tensor:
    B, T, d = x.shape
    a, m = module.attn, module.mlp
    qkv = run(a.c_attn, run(module.ln_1, x)).reshape(B, T, 3, a.heads, d // a.heads)
    found = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], a.layer, call, a.attn_dropout, wide=False)
    x = join(module.attention_add, x, run(a.resid_dropout, run(a.c_proj, found)))
    found = activate(m.act, run(m.c_fc, run(module.ln_2, x)))
    return join(module.output_add, x, run(m.dropout, run(m.c_proj, found)))


# ---- the model ------------------------------------------------------------------------------------------------------

def hidden_states(base: Any, embeds: Tensor, call: Call, checkpointing: bool) -> Tensor:
    """The stream (B, T, d) after all blocks and the last norm."""
    gpt2 = base.config.model_type == "gpt2"
    body = base.transformer if gpt2 else base.model
    x = embeds
    if gpt2:
        x = run(body.drop, ops.add(x, run(body.wpe, np.zeros((1, x.shape[1]), np.int64))))
    x = ops.boundary(x)
    for layer in body.h if gpt2 else body.layers:
        def whole(x: Tensor, layer: Module = layer) -> Tensor:
            return block(layer, x, call)

        x = ops.boundary(checkpoint(whole, x) if checkpointing else whole(x))
    return run(body.ln_f if gpt2 else body.norm, x)
