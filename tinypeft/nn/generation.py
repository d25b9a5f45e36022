"""Writing text: one token after the other, the most likely one or a random one."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinypeft.autograd import no_grad
from tinypeft.backend import to_numpy
from tinypeft.nn.attention import KeyValueCache
from tinypeft.nn.layers import as_ids
from tinypeft.nn.module import generator


def generate(model: Any, input_ids: Any, attention_mask: Any = None, *, max_new_tokens: int = 20,
             do_sample: bool = False, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
             seed: int = 0, eos_token_id: int | list[int] | None = None, pad_token_id: int | None = None,
             use_cache: bool = True) -> np.ndarray:
    """Continue each row of `input_ids`.

    Args:
        model: a CausalLM, or a PeftModel around one.
        input_ids: (B, T) integers; shorter rows are padded on the left, with zeros there in `attention_mask` (B, T).
        do_sample: draw from the distribution; otherwise always take the most likely token.
        temperature: divide the logits by this before drawing (1 if not given).
        top_k: draw among the k most likely tokens only (transformers takes 50 if it is not given; here it is all).
        top_p: draw among the fewest tokens that together have at least this probability (Holtzman et al., 1904.09751).
        seed: equal seeds give equal texts.
        eos_token_id: a row ends with this token, or one of these (the config's, unless given; -1 for none), and is then
            filled with `pad_token_id`.
        use_cache: keep keys and values instead of computing them again for each token; the result is the same.

    Returns:
        (B, T + n) int64 with n <= max_new_tokens: the prompt and what follows it.

    Raises:
        ValueError: sampling options without do_sample or out of range, padding on the right, not enough positions.
    """
    _check_options(do_sample, temperature, top_k, top_p, max_new_tokens)
    config = model.config
    eos = config.eos_token_id if eos_token_id is None else eos_token_id
    ends = np.ravel(-1 if eos is None or np.size(eos) == 0 else eos)  # Llama 3 has several
    pad = next((x for x in (pad_token_id, config.pad_token_id) if x is not None), max(ends[0], 0))
    ids = to_numpy(as_ids(input_ids, next(model.parameters())))
    virtual = getattr(model, "num_virtual_tokens", 0)  # a PeftModel's soft prompts take positions too
    if ids.shape[1] + max_new_tokens + virtual > config.max_position_embeddings:
        raise ValueError(f"{ids.shape[1]} tokens of prompt and max_new_tokens={max_new_tokens}"
                         f"{f' and {virtual} virtual tokens' if virtual else ''} exceed the model's "
                         f"{config.max_position_embeddings} positions")
    mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask).astype(np.int64)
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {mask.shape}, input_ids {ids.shape}")
    if not mask[:, -1].all():
        raise ValueError("a row ends with padding: pad prompts on the left, so that the text goes on where they end")

    random = generator(seed, "generate")
    cache = KeyValueCache() if use_cache else None
    done = np.zeros(len(ids), dtype=bool)
    with model.mode_restored(), no_grad():
        model.eval()
        for _ in range(max_new_tokens):
            positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
            start = cache.length - cache.virtual if cache is not None else 0
            out = model(ids[:, start:], attention_mask=mask, position_ids=positions[:, start:], cache=cache)
            logits = to_numpy(out.logits.data[:, -1]).astype(np.float64)  # (B, V)
            if np.isnan(logits).any():
                raise FloatingPointError("the model's logits are not numbers: its weights or its adapter are broken")
            chosen = _draw(logits, temperature or 1.0, top_k, top_p, random) if do_sample else logits.argmax(axis=-1)
            ids = np.concatenate([ids, np.where(done, pad, chosen)[:, None]], axis=1)
            mask = np.concatenate([mask, np.ones((len(ids), 1), mask.dtype)], axis=1)
            done |= np.isin(chosen, ends)
            if done.all():
                break
    return ids


def _check_options(do_sample: bool, temperature: float | None, top_k: int | None, top_p: float | None, new: int) -> None:
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    if named and not do_sample:
        raise ValueError(f"{', '.join(named)} only matters when drawing at random: add do_sample=True, or leave it out")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; for the most likely token leave do_sample out")
    if top_k is not None and (not isinstance(top_k, int | np.integer) or top_k < 1):
        raise ValueError(f"top_k must be an integer of at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if new < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {new}")


def _draw(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None,
          random: np.random.Generator) -> np.ndarray:
    """One token for each row of logits (B, V)."""
    logits = logits / temperature
    order = np.argsort(-logits, axis=-1, kind="stable")  # (B, V), most likely first
    ranked = np.take_along_axis(logits, order, axis=-1)
    if top_k is not None:
        ranked[:, top_k:] = -np.inf
    p = np.exp(ranked - ranked[:, :1])
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None:
        p[p.cumsum(axis=-1) - p >= top_p] = 0  # a token goes when those before it suffice
        p /= p.sum(axis=-1, keepdims=True)
    rank = (p.cumsum(axis=-1) < random.random((len(p), 1))).sum(axis=-1)
    rank = np.minimum(rank, (p > 0).sum(axis=-1) - 1)  # rounding may leave the last sum below 1
    return np.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
