"""Llama (Touvron et al. 2023, 2302.13971 and 2307.09288; Llama 3, 2407.21783), named as in Hugging Face.

Like GPT-2 but: positions are rotations of queries and keys, norms are RMSNorm, the feed-forward part is gated (SwiGLU,
Shazeer 2020, 2002.05202), several query heads may share a key head, and linear layers have no bias unless the config gives
them some (`attention_bias`, `mlp_bias`).  B batch, T time, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tinypeft.autograd import Tensor, functional as F
from tinypeft.backend import Array
from tinypeft.nn.attention import KeyValueCache, inverse_frequencies, rotary_tables
from tinypeft.nn.causal_lm import CausalLM, Config, Decoder
from tinypeft.nn.layers import Add, Dropout, Embedding, Linear, RMSNorm, activation
from tinypeft.nn.module import Module


@dataclass
class LlamaConfig(Config):
    """Llama's shape; the defaults are those of Llama-1 7B. `rope_parameters` holds rope_theta and rope_type."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] = field(default_factory=lambda: {"rope_theta": 10000.0, "rope_type": "default"})
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    model_type: ClassVar[str] = "llama"
    architecture: ClassVar[str] = "LlamaForCausalLM"

    def __post_init__(self) -> None:
        self.check_counts("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                         "max_position_embeddings")
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.check_multiple("hidden_size", of="num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.check_counts("num_key_value_heads", "head_dim")
        if self.head_dim % 2:
            raise ValueError(f"LlamaConfig: head_dim={self.head_dim} must be even: features are rotated in pairs")
        self.check_multiple("num_attention_heads", of="num_key_value_heads")
        self.rope_parameters = {"rope_theta": 10000.0, "rope_type": "default", **self.rope_parameters}
        inverse_frequencies(self.head_dim, self.rope_parameters)  # refuses what we cannot compute

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LlamaConfig:
        """Reads rope_parameters (transformers 5) and the older pair rope_theta, rope_scaling."""
        values = dict(values)
        theta = {"rope_theta": values.pop("rope_theta")} if "rope_theta" in values else {}
        scaling = values.pop("rope_scaling", None) or {}
        if "type" in scaling:  # the oldest spelling
            scaling = {"rope_type": scaling["type"], **scaling}
        values["rope_parameters"] = {**theta, **scaling, **(values.get("rope_parameters") or {})}
        return super().from_dict(values)


class LlamaAttention(Module):
    """Grouped-query attention with rotated queries and keys."""

    def __init__(self, config: LlamaConfig, layer: int):
        assert config.head_dim is not None  # filled in by the config, as is the next
        assert config.num_key_value_heads is not None
        self.layer, self.head_dim = layer, config.head_dim
        width, kv_width = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(config.hidden_size, width, config.attention_bias)
        self.k_proj = Linear(config.hidden_size, kv_width, config.attention_bias)
        self.v_proj = Linear(config.hidden_size, kv_width, config.attention_bias)
        self.o_proj = Linear(width, config.hidden_size, config.attention_bias)
        self.attn_dropout = Dropout(config.attention_dropout)

    def forward(self, x: Tensor, mask: Array | None, rotation: tuple[Array, Array], cache: KeyValueCache | None) -> Tensor:
        B, T, _ = x.shape
        cos, sin = rotation
        q = F.rotary(self.q_proj(x).reshape(B, T, -1, self.head_dim), cos=cos, sin=sin)  # (B, T, h, head_dim)
        k = F.rotary(self.k_proj(x).reshape(B, T, -1, self.head_dim), cos=cos, sin=sin)  # (B, T, h_kv, head_dim)
        v = self.v_proj(x).reshape(B, T, -1, self.head_dim)  # (B, T, h_kv, head_dim)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        drop = self.attn_dropout.mask((B, q.shape[2], T, k.shape[1]), like=q)
        out = F.attention(q, k, v, mask=mask, drop=drop).reshape(B, T, -1)  # (B, T, h, head_dim) -> (B, T, h * head_dim)
        return self.o_proj(out)  # -> (B, T, d)


class LlamaMLP(Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig):
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)
        self.act_fn = activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # d -> intermediate_size -> d


class LlamaDecoderLayer(Module):
    """Reads the stream twice, and adds to it what it found."""

    def __init__(self, config: LlamaConfig, layer: int):
        self.self_attn = LlamaAttention(config, layer)
        self.attention_add = Add()
        self.mlp = LlamaMLP(config)
        self.output_add = Add()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, mask: Array | None, rotation: tuple[Array, Array], cache: KeyValueCache | None) -> Tensor:
        x = self.attention_add(x, self.self_attn(self.input_layernorm(x), mask, rotation, cache))
        return self.output_add(x, self.mlp(self.post_attention_layernorm(x)))


class LlamaModel(Decoder):
    """Embedded tokens go through layers and a final norm.

    Returns the stream after the embeddings and after each layer, num_hidden_layers + 1 Tensors (B, T, d), the last one normed.
    """

    def __init__(self, config: LlamaConfig):
        assert config.head_dim is not None
        self.frequencies = inverse_frequencies(config.head_dim, config.rope_parameters)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = [LlamaDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embeds: Tensor, mask: Array | None, positions: Array, cache: KeyValueCache | None) -> list[Tensor]:
        states = [embeds]  # (B, T, d)
        rotation = rotary_tables(self.frequencies, positions, like=states[0])
        for layer in self.layers:
            states.append(self.run(layer, states[-1], mask, rotation, cache))
        return [*states[:-1], self.norm(states[-1])]


class LlamaForCausalLM(CausalLM):
    """Llama with its language-model head, tied to the token table if the config says so."""

    body_name = "model"
    embedding_name = "embed_tokens"

    def __init__(self, config: LlamaConfig):
        self.config = config
        self.model = LlamaModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
