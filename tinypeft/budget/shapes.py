"""Models that can be counted here but not run: the modules of OPT, GPT-NeoX and T5, with Hugging Face's names.

They are trees of the same layers as ours, on the meta device, so that adapters are put into them and counted by the same
code. Qwen2 is a Llama with biases on queries, keys and values, and needs no class of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tinypeft.nn import CausalLM, Config, Embedding, LayerNorm, Linear, LlamaConfig, LlamaForCausalLM, Module, RMSNorm


@dataclass
class ShapeConfig(Config):
    """The sizes that counting needs."""

    hidden_size: int = 0
    intermediate_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 0
    max_position_embeddings: int = 0

    model_type: ClassVar[str]
    num_key_value_heads = property(lambda self: self.num_attention_heads)
    head_dim = property(lambda self: self.hidden_size // self.num_attention_heads)


class ShapeModel(CausalLM):
    """A model without a forward pass."""

    config: ShapeConfig

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{self.config.model_type} can be counted here, not run")


class _Part(Module):
    """A module that only holds others, by name."""

    def __init__(self, **children: Module | list[Module]):
        vars(self).update(children)


# ---- OPT (Zhang et al. 2022, 2205.01068) ----------------------------------------------------------------------------

class OPTShapeConfig(ShapeConfig):
    model_type, architecture = "opt", "OPTForCausalLM"


class OPTShape(ShapeModel):
    """Pre-norm decoder with learned positions (two rows more than there are), biases everywhere, and a tied head."""

    def __init__(self, config: OPTShapeConfig):
        self.config, d = config, config.hidden_size

        def layer() -> _Part:
            attention = _Part(**{name: Linear(d, d) for name in ("k_proj", "v_proj", "q_proj", "out_proj")})
            return _Part(self_attn=attention, self_attn_layer_norm=LayerNorm(d), fc1=Linear(d, config.intermediate_size),
                         fc2=Linear(config.intermediate_size, d), final_layer_norm=LayerNorm(d))

        self.model = _Part(decoder=_Part(
            embed_tokens=Embedding(config.vocab_size, d), embed_positions=Embedding(config.max_position_embeddings + 2, d),
            final_layer_norm=LayerNorm(d), layers=[layer() for _ in range(config.num_hidden_layers)]))
        self.lm_head = Linear(d, config.vocab_size, bias=False)
        self.lm_head.weight = self.get_input_embeddings().weight

    def get_input_embeddings(self) -> Any:
        return self.get_submodule("model.decoder.embed_tokens")


# ---- GPT-NeoX, of which Pythia is (Black et al. 2022, 2204.06745; Biderman et al. 2023, 2304.01373) -------------------

class GPTNeoXShapeConfig(ShapeConfig):
    model_type, architecture = "gpt_neox", "GPTNeoXForCausalLM"


class GPTNeoXShape(ShapeModel):
    """Decoder with rotary positions, one matrix for queries, keys and values, biases in all layers, and a head of its own."""

    body_name, embedding_name = "gpt_neox", "embed_in"

    def __init__(self, config: GPTNeoXShapeConfig):
        self.config, d = config, config.hidden_size

        def layer() -> _Part:
            return _Part(input_layernorm=LayerNorm(d), post_attention_layernorm=LayerNorm(d),
                         attention=_Part(query_key_value=Linear(d, 3 * d), dense=Linear(d, d)),
                         mlp=_Part(dense_h_to_4h=Linear(d, config.intermediate_size),
                                   dense_4h_to_h=Linear(config.intermediate_size, d)))

        self.gpt_neox = _Part(embed_in=Embedding(config.vocab_size, d), final_layer_norm=LayerNorm(d),
                              layers=[layer() for _ in range(config.num_hidden_layers)])
        self.lm_head = Linear(d, config.vocab_size, bias=False)


# ---- T5 1.1 (Raffel et al. 2020, 1910.10683; Shazeer 2020, 2002.05202) -------------------------------------------------

class T5ShapeConfig(ShapeConfig):
    model_type, architecture = "t5", "T5ForConditionalGeneration"


class T5Shape(ShapeModel):
    """Encoder and decoder of num_hidden_layers blocks each, gated feed-forward parts, no biases, and a head of its own."""

    def __init__(self, config: T5ShapeConfig):
        self.config, d, buckets = config, config.hidden_size, 32  # buckets of relative positions

        def stack(cross: bool) -> _Part:
            def attention(name: str) -> _Part:
                return _Part(**{name: _Part(**{key: Linear(d, d, bias=False) for key in "qkvo"}), "layer_norm": RMSNorm(d)})

            def block() -> _Part:
                up, down = (d, config.intermediate_size), (config.intermediate_size, d)
                mlp = _Part(wi_0=Linear(*up, bias=False), wi_1=Linear(*up, bias=False), wo=Linear(*down, bias=False))
                names = ["SelfAttention", "EncDecAttention"] if cross else ["SelfAttention"]
                return _Part(layer=[*map(attention, names), _Part(DenseReluDense=mlp, layer_norm=RMSNorm(d))])

            blocks: list[Module] = [block() for _ in range(config.num_hidden_layers)]
            first: Any = blocks[0].get_submodule("layer.0.SelfAttention")
            first.relative_attention_bias = Embedding(buckets, config.num_attention_heads)
            return _Part(block=blocks, final_layer_norm=RMSNorm(d))

        self.shared = Embedding(config.vocab_size, d)
        self.encoder, self.decoder = stack(cross=False), stack(cross=True)
        self.lm_head = Linear(d, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> Any:
        return self.shared


# ---- Qwen2 (Yang et al. 2024, 2407.10671) ----------------------------------------------------------------------------

class Qwen2Config(LlamaConfig):
    model_type, architecture = "qwen2", "Qwen2ForCausalLM"


class Qwen2ForCausalLM(LlamaForCausalLM):
    """A Llama whose queries, keys and values have biases, and whose output projections have none."""

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.o_proj.bias = None
