"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), named as in Hugging Face.

A block reads the stream x twice: x + attention(layer_norm(x)), then x + mlp(layer_norm(x)). Positions are learned vectors,
linear layers are Conv1D (weight stored (in, out)), and the head is the token table again ("tied").
B batch, T time, d = n_embd, h heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tinypeft.autograd import Tensor, functional as F
from tinypeft.backend import Array, asarray
from tinypeft.nn.attention import KeyValueCache
from tinypeft.nn.causal_lm import CausalLM, Config, Decoder
from tinypeft.nn.layers import Add, Conv1D, Dropout, Embedding, LayerNorm, Linear, activation
from tinypeft.nn.module import Module


@dataclass
class GPT2Config(Config):
    """GPT-2's shape; the defaults are those of the smallest GPT-2 (124M parameters)."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # 4 n_embd
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256

    model_type: ClassVar[str] = "gpt2"
    architecture: ClassVar[str] = "GPT2LMHeadModel"
    unsupported: ClassVar[dict[str, Any]] = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
                                             "add_cross_attention": False}

    def __post_init__(self) -> None:
        self.check_counts("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        if self.n_inner is not None:
            self.check_counts("n_inner")
        self.check_multiple("n_embd", of="n_head")

    # The names that other models' configs have for the same.
    max_position_embeddings = property(lambda self: self.n_positions)
    hidden_size = property(lambda self: self.n_embd)
    num_hidden_layers = property(lambda self: self.n_layer)
    num_attention_heads = num_key_value_heads = property(lambda self: self.n_head)
    head_dim = property(lambda self: self.n_embd // self.n_head)


class GPT2Attention(Module):
    """Queries, keys and values from one matrix, c_attn; the heads' results are mixed by c_proj."""

    def __init__(self, config: GPT2Config, layer: int):
        self.layer, self.heads = layer, config.n_head
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = Dropout(config.attn_pdrop)
        self.resid_dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, mask: Array | None, cache: KeyValueCache | None) -> Tensor:
        B, T, d = x.shape
        qkv = self.c_attn(x).reshape(B, T, 3, self.heads, d // self.heads)  # (B, T, d) -> (B, T, 3, h, d/h)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # each (B, T, h, d/h)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        drop = self.attn_dropout.mask((B, self.heads, T, k.shape[1]), like=q)
        out = F.attention(q, k, v, mask=mask, drop=drop).reshape(B, T, d)  # (B, T, h, d/h) -> (B, T, d)
        return self.resid_dropout(self.c_proj(out))


class GPT2MLP(Module):
    """d -> n_inner (4d unless the config says otherwise) -> d, with GELU between."""

    def __init__(self, config: GPT2Config):
        inner = 4 * config.n_embd if config.n_inner is None else config.n_inner
        self.c_fc = Conv1D(inner, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, inner)
        self.act = activation(config.activation_function)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class GPT2Block(Module):
    """Reads the stream twice, and adds to it what it found."""

    def __init__(self, config: GPT2Config, layer: int):
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer)
        self.attention_add = Add()
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)
        self.output_add = Add()

    def forward(self, x: Tensor, mask: Array | None, cache: KeyValueCache | None) -> Tensor:
        x = self.attention_add(x, self.attn(self.ln_1(x), mask, cache))
        return self.output_add(x, self.mlp(self.ln_2(x)))


class GPT2Model(Decoder):
    """Embedded tokens get their positions, and go through blocks and a final norm.

    Returns the stream after the embeddings and after each block, n_layer + 1 Tensors (B, T, d), the last one normed.
    """

    def __init__(self, config: GPT2Config):
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.embd_pdrop)
        self.h = [GPT2Block(config, layer) for layer in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, embeds: Tensor, mask: Array | None, positions: Array, cache: KeyValueCache | None) -> list[Tensor]:
        x = self.drop(embeds + self.wpe(asarray(positions, like=embeds.data)))  # (B, T, d)
        states = [x]
        for block in self.h:
            states.append(self.run(block, states[-1], mask, cache))
        return [*states[:-1], self.ln_f(states[-1])]


class GPT2LMHeadModel(CausalLM):
    """GPT-2 with its language-model head."""

    body_name = "transformer"
    embedding_name = "wte"

    def __init__(self, config: GPT2Config):
        self.config = config
        self.transformer = GPT2Model(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def init_std(self, name: str, std: float) -> float:
        """The 2 n_layer matrices that write to the stream start smaller, so that their sum does not grow with depth."""
        return std / (2 * len(self.transformer.h)) ** 0.5 if name.endswith("c_proj.weight") else std
