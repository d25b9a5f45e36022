"""Groups as an axis of their own, the prefix weighed against the text by log-sum-exp, rows by an index."""

import numpy as np


def log_sum_exp(scores):
    most = scores.max(-1, keepdims=True)
    return np.log(np.exp(scores - most).sum(-1, keepdims=True)) + most


def attention_with_prefix(q, k, v, prefix_k, prefix_v):
    B, T, h, d = q.shape
    grouped = q.reshape(B, T, k.shape[2], -1, d) * d**-0.5  # (B, T, h_kv, h / h_kv, d)
    text = np.einsum("btngd,bsnd->bntgs", grouped, k)
    t, s = np.ogrid[:T, :T]
    text = text + np.where(s > t, -np.inf, 0.0)[:, None, :]
    prefix = np.einsum("btngd,pnd->bntgp", grouped, prefix_k)
    total = log_sum_exp(np.concatenate([text, prefix], axis=-1))
    out = np.einsum("bntgs,bsnd->btngd", np.exp(text - total), v)
    out += np.einsum("bntgp,pnd->btngd", np.exp(prefix - total), prefix_v)
    return out.reshape(B, T, h, d)


def prefix_parameters(p, layers, kv_heads, head_dim):
    return int(np.prod([layers, 2, p, kv_heads, head_dim]))


def prefix_share(q, k, prefix_k):
    prefix = log_sum_exp(np.einsum("hd,shd->hs", q, prefix_k) * q.shape[1] ** -0.5)
    text = log_sum_exp(np.einsum("hd,shd->hs", q, k) * q.shape[1] ** -0.5)
    return np.exp(prefix - np.logaddexp(prefix, text))[:, 0]


def interpolate(without, prefix_only, share):
    return np.einsum("h,hd->hd", share, prefix_only) + np.einsum("h,hd->hd", 1 - share, without)


def prepend(prompt, embeds, labels, attention_mask):
    p, (B, T, d) = len(prompt), embeds.shape
    out = np.empty((B, p + T, d))
    out[:, :p], out[:, p:] = prompt, embeds
    wide = ((0, 0), (p, 0))
    return {"embeds": out, "labels": np.pad(labels, wide, constant_values=-100),
            "attention_mask": np.pad(attention_mask, wide, constant_values=1), "position_ids": np.arange(p + T).reshape(1, -1)}


def append(prompt, embeds, lengths):
    p, T = len(prompt), embeds.shape[1]
    both = np.concatenate([embeds, np.repeat(prompt[None], len(embeds), axis=0)], axis=1)
    slot = np.arange(T + p) - lengths[:, None]  # 0 ... p - 1 are the prompt's
    source = np.where(slot < 0, slot + lengths[:, None], np.where(slot < p, T + slot, slot - p + lengths[:, None]))
    return np.take_along_axis(both, source[..., None], axis=1)
