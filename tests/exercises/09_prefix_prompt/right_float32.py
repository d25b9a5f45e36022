"""In single precision, with hidden scores of -1e9."""

import numpy as np

f = np.float32


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention_with_prefix(q, k, v, prefix_k, prefix_v):
    T, h, d = q.shape[1:]
    out = np.zeros(q.shape, f)
    for b in range(len(q)):
        for i in range(h):
            j = i * k.shape[2] // h
            keys = np.vstack([prefix_k[:, j], k[b, :, j]]).astype(f)
            values = np.vstack([prefix_v[:, j], v[b, :, j]]).astype(f)
            scores = q[b, :, i].astype(f) @ keys.T / f(d**0.5)
            scores[np.triu_indices(T, len(prefix_k) + 1, len(keys))] = -1e9
            out[b, :, i] = softmax(scores) @ values
    return out


def prefix_parameters(p, layers, kv_heads, head_dim):
    return layers * p * kv_heads * head_dim * 2


def prefix_share(q, k, prefix_k):
    keys = np.concatenate([k, prefix_k]).astype(f)
    return softmax((q.astype(f) * keys).sum(-1).T / f(q.shape[1] ** 0.5))[:, len(k):].sum(1)


def interpolate(without, prefix_only, share):
    a, b, s = (x.astype(f) for x in (without, prefix_only, share))
    return (a.T * (1 - s) + b.T * s).T


def prepend(prompt, embeds, labels, attention_mask):
    B, T = labels.shape
    p = len(prompt)
    rows = np.stack([np.vstack([prompt, row]) for row in embeds])
    return {"embeds": rows.astype(f), "labels": np.hstack([np.full((B, p), -100, dtype=labels.dtype), labels]),
            "attention_mask": np.hstack([np.ones_like(labels, shape=(B, p)), attention_mask]),
            "position_ids": np.arange(p + T, dtype=np.int64)[np.newaxis, :]}


def append(prompt, embeds, lengths):
    return np.array([np.insert(row, [n] * len(prompt), prompt, axis=0) for row, n in zip(embeds, lengths, strict=True)], f)
