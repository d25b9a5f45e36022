"""Exercise 09 solved."""

import numpy as np


def softmax(scores):
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_with_prefix(q, k, v, prefix_k, prefix_v):
    B, T, h, d = q.shape
    p, h_kv, _ = prefix_k.shape
    k = np.concatenate([np.broadcast_to(prefix_k, (B, p, h_kv, d)), k], axis=1)  # (B, p + T, h_kv, d)
    v = np.concatenate([np.broadcast_to(prefix_v, (B, p, h_kv, d)), v], axis=1)
    k = np.repeat(k, h // h_kv, axis=2)  # (B, p + T, h, d)
    v = np.repeat(v, h // h_kv, axis=2)
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(d)
    seen = np.tril(np.ones((T, p + T), dtype=bool), p)
    weights = softmax(np.where(seen, scores, -np.inf))
    return np.einsum("bhts,bshd->bthd", weights, v)


def prefix_parameters(p, layers, kv_heads, head_dim):
    return 2 * layers * p * kv_heads * head_dim


def prefix_share(q, k, prefix_k):
    keys = np.concatenate([prefix_k, k])  # (p + T, h, d)
    weights = softmax(np.einsum("hd,shd->hs", q, keys) / np.sqrt(q.shape[-1]))
    return weights[:, :len(prefix_k)].sum(axis=-1)


def interpolate(without, prefix_only, share):
    share = share[:, None]
    return (1 - share) * without + share * prefix_only


def prepend(prompt, embeds, labels, attention_mask):
    (p, d), (B, T) = prompt.shape, labels.shape
    return {
        "embeds": np.concatenate([np.broadcast_to(prompt, (B, p, d)), embeds], axis=1),
        "labels": np.concatenate([np.full((B, p), -100), labels], axis=1),
        "attention_mask": np.concatenate([np.ones((B, p), dtype=np.int64), attention_mask], axis=1),
        "position_ids": np.arange(p + T)[None],
    }


def append(prompt, embeds, lengths):
    rows = [np.concatenate([row[:n], prompt, row[n:]]) for row, n in zip(embeds, lengths, strict=True)]
    return np.stack(rows)
