"""One query at a time."""

import math

import numpy as np


def weights(query, keys):
    scores = [sum(float(a) * float(b) for a, b in zip(query, key, strict=True)) / math.sqrt(len(query)) for key in keys]
    most = max(scores)
    exps = [math.exp(score - most) for score in scores]
    return [e / sum(exps) for e in exps]


def attention_with_prefix(q, k, v, prefix_k, prefix_v):
    out = np.zeros(q.shape)
    shared = q.shape[2] // k.shape[2]
    for b, t, head in np.ndindex(*q.shape[:3]):
        group = head // shared
        keys = [*prefix_k[:, group], *k[b, :t + 1, group]]
        values = [*prefix_v[:, group], *v[b, :t + 1, group]]
        for weight, value in zip(weights(q[b, t, head], keys), values, strict=True):
            out[b, t, head] += weight * value
    return out


def prefix_parameters(p, layers, kv_heads, head_dim):
    total = 0
    for _ in range(layers):
        total += p * kv_heads * head_dim  # keys
        total += p * kv_heads * head_dim  # values
    return total


def prefix_share(q, k, prefix_k):
    p = len(prefix_k)
    return np.array([sum(weights(q[head], [*prefix_k[:, head], *k[:, head]])[:p]) for head in range(len(q))])


def interpolate(without, prefix_only, share):
    out = without.copy()
    for head, s in enumerate(share):
        out[head] += s * (prefix_only[head] - without[head])
    return out


def prepend(prompt, embeds, labels, attention_mask):
    p, T = len(prompt), embeds.shape[1]
    return {"embeds": np.array([[*prompt, *row] for row in embeds]),
            "labels": np.array([[-100] * p + list(row) for row in labels]),
            "attention_mask": np.array([[1] * p + list(row) for row in attention_mask]),
            "position_ids": np.array([list(range(p + T))])}


def append(prompt, embeds, lengths):
    B, T, d = embeds.shape
    p = len(prompt)
    out = np.empty((B, T + p, d))
    for b in range(B):
        for t in range(T):
            out[b, t if t < lengths[b] else t + p] = embeds[b, t]
        for i in range(p):
            out[b, lengths[b] + i] = prompt[i]
    return out
