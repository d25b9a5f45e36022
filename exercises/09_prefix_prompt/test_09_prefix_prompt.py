"""The grader of exercise 09: what is asked of prefix_prompt.py, what is right, and what typical mistakes give."""

from __future__ import annotations

import numpy as np

from tinypeft.grading.submission import Misconception as M

# ---- what is right --------------------------------------------------------------------------------------------------


def softmax(scores, axis=-1):
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def repeated(k, h):
    return np.repeat(k, h // k.shape[2], axis=2)


def scores_of(q, k, prefix_k, scale=None, heads=repeated):
    """(B, h, T, p + T)."""
    keys = with_prefix(prefix_k, k)
    return np.einsum("bthd,bshd->bhts", q, heads(keys, q.shape[2])) / (q.shape[3] ** 0.5 if scale is None else scale)


def with_prefix(prefix, k):
    """(B, p + T, h_kv, d)."""
    return np.concatenate([np.broadcast_to(prefix, (len(k), *prefix.shape)), k], axis=1)


def seen(T, p, shift=None):
    return np.tril(np.ones((T, p + T), dtype=bool), p if shift is None else shift)


def attention(q, k, v, prefix_k, prefix_v, scale=None, heads=repeated, mask=seen, hidden=-np.inf):
    visible = mask(q.shape[1], len(prefix_k))
    weights = softmax(np.where(visible, scores_of(q, k, prefix_k, scale, heads), hidden))
    return mixed(weights, v, prefix_v, heads)


def mixed(weights, v, prefix_v, heads=repeated):
    return np.einsum("bhts,bshd->bthd", weights, heads(with_prefix(prefix_v, v), weights.shape[1]))


def share_scores(q, k, prefix_k):
    """(h, p + T)."""
    return np.einsum("hd,shd->hs", q, np.concatenate([prefix_k, k])) / q.shape[-1] ** 0.5


def weights_of(q, k, prefix_k):
    """Of the prefix's keys, (h, p)."""
    return softmax(share_scores(q, k, prefix_k))[:, :len(prefix_k)]


def share(*args):
    return weights_of(*args).sum(axis=1)


def interpolated(without, prefix_only, share):
    return (1 - share[:, None]) * without + share[:, None] * prefix_only


def beside(tokens, filler, p):
    """(B, T) -> (B, p + T)."""
    return np.concatenate([np.full((len(tokens), p), filler, dtype=np.int64), tokens], axis=1)


def prepended(prompt, embeds, labels, attention_mask):
    p, T = len(prompt), embeds.shape[1]
    rows = np.broadcast_to(prompt, (len(embeds), *prompt.shape))
    return {"embeds": np.concatenate([rows, embeds], axis=1), "labels": beside(labels, -100, p),
            "attention_mask": beside(attention_mask, 1, p), "position_ids": np.arange(p + T, dtype=np.int64)[None]}


def inserted(prompt, embeds, places):
    return np.stack([np.concatenate([row[:n], prompt, row[n:]]) for row, n in zip(embeds, places, strict=True)])


# ---- what is drawn --------------------------------------------------------------------------------------------------

PLAIN = [(2, 3, 2, 2, 3, 2), (1, 1, 1, 1, 5, 1), (3, 4, 3, 3, 2, 4), (1, 5, 2, 2, 1, 3)]  # B, T, h, h_kv, d, p
GROUPED = [(2, 3, 4, 2, 3, 2), (1, 4, 6, 2, 2, 3), (1, 1, 3, 1, 4, 1), (2, 2, 6, 3, 1, 5)]
HUGE, GAP = 1e6, 200.0  # scores whose exp is infinite, and so far apart that the largest one takes all


def layer(rng, B, T, h, h_kv, d, p):
    """q, k, v and the prefix; scores large enough to matter."""
    return (1.5 * rng.standard_normal((B, T, h, d)), *(rng.standard_normal((B, T, h_kv, d)) for _ in "kv"),
            *(rng.standard_normal((p, h_kv, d)) for _ in "kv"))


def large_layer(rng):
    """Every query has a clear winner, and one of them negative scores only."""
    while True:
        q, k, v, prefix_k, prefix_v = layer(rng, 3, 7, 4, 4, 4, 3)
        q, k[..., 0], prefix_k[..., 0] = HUGE * q, np.abs(k[..., 0]), np.abs(prefix_k[..., 0])
        q[0, 0] = [-HUGE, 0, 0, 0]
        scores = np.where(seen(7, 3), scores_of(q, k, prefix_k), -np.inf)
        if clear(scores):
            return q, k, v, prefix_k, prefix_v


def lower_layer(rng):
    """Scores below zero, and clear winners, but above what is taken for minus infinity by mistake."""
    return (np.full((1, 2, 1, 1), -1.0), rng.uniform(500, 700, (1, 2, 1, 1)), rng.standard_normal((1, 2, 1, 1)),
            rng.uniform(100, 300, (1, 1, 1)), rng.standard_normal((1, 1, 1)))


def clear(scores):
    first, second = np.sort(scores)[..., :-3:-1].reshape(-1, 2).T
    return (first - second).min() > GAP


def queries(rng):
    for h, d, T, p in ((3, 4, 5, 2), (1, 1, 3, 1), (2, 5, 1, 3), (4, 2, 6, 4), (1, 3, 2, 2)):
        yield rng.standard_normal((h, d)), rng.standard_normal((T, h, d)), rng.standard_normal((p, h, d))


def large_query(rng):
    """Some heads look at the prefix, two of them at its first token; the others look at the text."""
    while True:
        q, k, prefix_k = HUGE * rng.standard_normal((8, 3)), rng.standard_normal((4, 8, 3)), rng.standard_normal((3, 8, 3))
        first, *others = weights_of(q, k, prefix_k).sum(axis=0).round()
        if clear(share_scores(q, k, prefix_k)) and first == 2 and 1 <= sum(others) < 6:
            return q, k, prefix_k


def batches(rng):
    """Prompt, embeddings, labels and mask: with padding wherever a row has more than one token."""
    for B, T, d, p in ((2, 5, 4, 3), (1, 1, 1, 1), (3, 2, 2, 4), (1, 4, 3, 1)):
        labels = np.where(rng.random((B, T)) < 0.3, -100, rng.integers(1, 99, (B, T)))
        lengths = np.minimum(rng.integers(1, T + 1, B), max(1, T - 1))
        mask = (np.arange(T) < lengths[:, None]).astype(np.int64)
        yield rng.standard_normal((p, d)), rng.standard_normal((B, T, d)), labels, mask


def padded(rng):
    """Lengths of which no two are equal; in the last case all that there are, from 0 on."""
    for B, T, d, p in ((3, 6, 2, 2), (1, 1, 1, 1), (2, 4, 3, 1), (1, 5, 2, 3), (6, 5, 1, 2)):
        lengths = rng.choice(np.arange(int(B <= T), T + (B > 1 or T == 1)), B, replace=False)
        yield rng.standard_normal((p, d)), rng.standard_normal((B, T, d)), lengths


# ---- the tests ------------------------------------------------------------------------------------------------------


def changed(**options):
    return lambda *args: attention(*args, **options)


def masked_after(q, k, v, prefix_k, prefix_v):
    return mixed(softmax(scores_of(q, k, prefix_k)) * seen(q.shape[1], len(prefix_k)), v, prefix_v)


def over_queries(q, k, v, prefix_k, prefix_v):
    scores = np.where(seen(q.shape[1], len(prefix_k)), scores_of(q, k, prefix_k), -np.inf)
    return mixed(softmax(scores, axis=-2), v, prefix_v)


def without_prefix(q, k, v, prefix_k, prefix_v):
    return attention(q, k, v, prefix_k[:0], prefix_v[:0])


def only_prefix(q, k, v, prefix_k, prefix_v):
    return attention(q, k[:, :0], v[:, :0], prefix_k, prefix_v, mask=lambda T, p: np.ones((T, p), dtype=bool))


ATTENTION = [
    M("prefix.missing", "the prefix has no effect", without_prefix),
    M("prefix.mask_not_shifted", "the causal mask is not moved by p: the first query sees one key only, of the prefix",
      changed(mask=lambda T, p: seen(T, p, 0))),
    M("prefix.not_causal", "queries see the keys that come after them", changed(mask=lambda T, p: seen(T, p, T + p))),
    *(M("prefix.mask_off_by_one", says, changed(mask=lambda T, p, by=by: seen(T, p, p + by)))
      for by, says in ((-1, "a query does not see its own key"), (1, "a query sees one key too many"))),
    M("prefix.masked_to_zero", "hidden keys have a score of 0, which still draws attention; it has to be minus infinity",
      changed(hidden=0.0)),
    M("prefix.finite_mask", "hidden keys have a score that is low, such as -1e4, but others can be lower: it has to be minus "
      "infinity", changed(hidden=-1e4)),
    M("prefix.masked_after_softmax", "keys are hidden after the softmax, so that the weights do not add up to 1", masked_after),
    M("prefix.softmax_axis", "the softmax is taken over the queries, not over the keys", over_queries),
    M("prefix.no_scale", "scores are not divided by sqrt(d)", changed(scale=1.0)),
    M("prefix.scale_not_root", "scores are divided by d, not by its square root",
      lambda q, *rest: attention(q, *rest, scale=q.shape[3])),
    M("prefix.scale_width", "scores are divided by the root of the whole width, h d, not of a head's",
      lambda q, *rest: attention(q, *rest, scale=(q.shape[2] * q.shape[3]) ** 0.5)),
    M("prefix.heads_interleaved", "head i of the queries uses head i modulo h_kv of the keys: the heads that share one have to "
      "be neighbours", changed(heads=lambda k, h: k[:, :, np.arange(h) % k.shape[2]])),
    M("prefix.keys_for_values", "the prefix's keys stand in the place of its values",
      lambda q, k, v, pk, pv: attention(q, k, v, pk, pk)),
    M("prefix.swapped", "the prefix's keys and values are exchanged", lambda q, k, v, pk, pv: attention(q, k, v, pv, pk)),
    M("prefix.two_softmaxes", "prefix and text have a softmax each, and the results are added: they have to share one",
      lambda *args: without_prefix(*args) + only_prefix(*args)),
    M("prefix.two_softmaxes", "prefix and text have a softmax each, and the mean is taken: they have to share one",
      lambda *args: (without_prefix(*args) + only_prefix(*args)) / 2),
]


def test_attention(submission):
    submission.agrees("attention_with_prefix", [layer(submission.rng, *sizes) for sizes in PLAIN], attention, ATTENTION)


def test_grouped_queries(submission):
    submission.agrees("attention_with_prefix", [layer(submission.rng, *sizes) for sizes in GROUPED], attention, ATTENTION)


def test_attention_large_scores(submission):
    rng = submission.rng
    _large(submission, "attention_with_prefix", [large_layer(rng), lower_layer(rng)], attention, ATTENTION)


def _large(submission, function, cases, oracle, misconceptions):
    received = [getattr(submission, function)(*case) for case in cases]
    finite = all(not isinstance(one, np.ndarray) or np.isfinite(one).all() for one in received)
    submission.require(finite, function, "the result holds nan or infinity where scores are large: take the largest score away "
                       "from all before exp, which changes nothing else", "prefix.overflow")
    submission.agrees(function, cases, oracle, misconceptions)


def test_count(submission):
    cases = [tuple(int(n) for n in submission.rng.integers(3, (100, 80, 64, 256))) for _ in range(4)]
    cases.append((*cases[0][:2], 1, cases[0][3]))
    submission.agrees("prefix_parameters", cases, lambda p, layers, heads, dim: 2 * p * layers * heads * dim, [
        M("prefix.keys_only", "keys are counted, and values are not", lambda p, layers, heads, dim: p * layers * heads * dim),
        M("prefix.one_layer", "one layer is counted", lambda p, layers, heads, dim: 2 * p * heads * dim),
        M("prefix.one_head", "one head is counted", lambda p, layers, heads, dim: 2 * p * layers * dim),
        M("prefix.one_token", "one virtual token is counted", lambda p, layers, heads, dim: 2 * layers * heads * dim),
    ])


def odds(q, k, prefix_k):
    found = share(q, k, prefix_k)
    with np.errstate(divide="raise"):  # where there is no such number, nothing has come from this mistake
        return found / (1 - found)


def of_all_heads(q, k, prefix_k):
    scores = share_scores(q, k, prefix_k)
    return softmax(scores.ravel()).reshape(scores.shape)[:, :len(prefix_k)].sum(axis=1)


SHARE = [
    M("prefix.share_of_text", "it is the text's share, which is 1 minus the prefix's", lambda *args: 1 - share(*args)),
    M("prefix.no_scale", "scores are not divided by sqrt(d)", lambda q, *rest: share(q * q.shape[1] ** 0.5, *rest)),
    M("prefix.scale_not_root", "scores are divided by d, not by its square root",
      lambda q, *rest: share(q / q.shape[1] ** 0.5, *rest)),
    M("prefix.odds", "the prefix's weight is divided by the text's, not by all of it", odds),
    M("prefix.share_mean", "the mean over the virtual tokens is taken, not the sum",
      lambda *args: weights_of(*args).mean(axis=1)),
    M("prefix.share_largest", "only the virtual token with the largest weight counts",
      lambda *args: weights_of(*args).max(axis=1)),
    M("prefix.share_first", "only the first virtual token counts", lambda *args: weights_of(*args)[:, 0]),
    M("prefix.share_counted", "it is p / (p + T), as if all keys drew the same attention",
      lambda q, k, prefix_k: np.full(len(q), len(prefix_k) / (len(prefix_k) + len(k)))),
    M("prefix.share_of_all_heads", "the softmax runs over all heads together; each head has one of its own", of_all_heads),
]


def test_share(submission):
    submission.agrees("prefix_share", queries(submission.rng), share, SHARE)


def test_share_large_scores(submission):
    _large(submission, "prefix_share", [large_query(submission.rng)], share, SHARE)


def test_interpolate(submission):
    rng = submission.rng
    shares = (rng.random(3), 4), (rng.random(1), 5), (np.array([0.0, 1.0]), 1), (rng.random(4), 4), (rng.random(1), 1)
    cases = [(rng.standard_normal((len(s), d)), rng.standard_normal((len(s), d)), s) for s, d in shares]
    submission.agrees("interpolate", cases, interpolated, [
        M("prefix.weights_swapped", "the share is the weight of the text, and should be the prefix's",
          lambda a, b, s: interpolated(b, a, s)),
        M("prefix.not_weighted", "both are added without weights", lambda a, b, s: a + b),
        M("prefix.not_weighted", "the mean of both is taken", lambda a, b, s: (a + b) / 2),
        M("prefix.text_not_weighted", "attention without the prefix is not multiplied by 1 - share",
          lambda a, b, s: a + s[:, None] * b),
        M("prefix.missing", "the prefix has no effect", lambda a, b, s: a),
        M("prefix.missing", "the prefix's part is missing", lambda a, b, s: (1 - s[:, None]) * a),
    ])


def _prepend(submission, part, misconceptions):
    submission.agrees("prepend", batches(submission.rng), lambda *args: prepended(*args)[part], misconceptions, part=part)


def test_prepend_embeds(submission):
    _prepend(submission, "embeds", [
        M("prompt.at_the_end", "the prompt stands after the tokens",
          lambda prompt, embeds, *_: inserted(prompt, embeds, [embeds.shape[1]] * len(embeds))),
        M("prompt.replaces_tokens", "the prompt takes the place of the first tokens",
          lambda prompt, embeds, *_: np.stack([np.concatenate([prompt, row[len(prompt):]]) for row in embeds])),
        M("prompt.backwards", "the prompt stands backwards",
          lambda prompt, embeds, *_: inserted(prompt[::-1], embeds, [0] * len(embeds))),
        M("prompt.not_extended", "there is no prompt", lambda prompt, embeds, *_: embeds),
    ])


def test_prepend_labels(submission):
    def moved(prompt, labels):
        return np.concatenate([beside(labels, -100, len(prompt))[:, 1:], np.full((len(labels), 1), -100)], axis=1)

    def of(change):
        return lambda prompt, embeds, labels, mask: change(prompt, labels)

    _prepend(submission, "labels", [
        M("prompt.learned", "the prompt has labels of 0, so the model is taught to say token 0 there",
          of(lambda prompt, labels: beside(labels, 0, len(prompt)))),
        M("prompt.learned", "the prompt has labels of -1, which is not what says that nothing is learned",
          of(lambda prompt, labels: beside(labels, -1, len(prompt)))),
        M("prompt.at_the_end", "the prompt's -100 stand after the labels",
          of(lambda prompt, labels: np.concatenate([labels, np.full((len(labels), len(prompt)), -100)], axis=1))),
        M("prompt.labels_moved", "the labels are moved by one, which the model does itself", of(moved)),
        M("prompt.not_extended", "the labels are not moved by the prompt's length", of(lambda prompt, labels: labels)),
    ])


def test_prepend_mask(submission):
    def of(change):
        return lambda prompt, embeds, labels, mask: change(mask, len(prompt))

    _prepend(submission, "attention_mask", [
        M("prompt.masked", "the prompt is hidden: its mask is 0", of(lambda mask, p: beside(mask, 0, p))),
        M("prompt.at_the_end", "the prompt's mask stands after the tokens'",
          of(lambda mask, p: np.concatenate([mask, np.ones((len(mask), p), dtype=np.int64)], axis=1))),
        M("prompt.padding_seen", "padding is not hidden any more", of(lambda mask, p: np.ones_like(beside(mask, 1, p)))),
        M("prompt.not_extended", "the prompt is not in the mask", of(lambda mask, p: mask)),
    ])


def test_prepend_positions(submission):
    def of(change):
        return lambda prompt, embeds, *_: change(np.arange(len(prompt)), np.arange(embeds.shape[1]), len(embeds))

    _prepend(submission, "position_ids", [
        M("prompt.positions_restart", "the tokens' positions start at 0 again: they have to go on after the prompt's",
          of(lambda p, t, B: np.concatenate([p, t])[None])),
        M("prompt.positions_restart", "the prompt's positions are all 0", of(lambda p, t, B: np.concatenate([0 * p, t])[None])),
        M("prompt.positions_from_one", "positions start at 1", of(lambda p, t, B: np.arange(1, len(p) + len(t) + 1)[None])),
        M("prompt.positions_shape", "they have no first axis: expected is one row of them",
          of(lambda p, t, B: np.arange(len(p) + len(t)))),
        M("prompt.positions_shape", "there is a row of them for each of the batch: expected is one for all",
          of(lambda p, t, B: np.tile(np.arange(len(p) + len(t)), (B, 1)))),
        M("prompt.not_extended", "the prompt has no positions", of(lambda p, t, B: t[None])),
        M("prompt.not_extended", "the prompt has no positions", of(lambda p, t, B: t[None] + len(p))),
    ])


def test_append(submission):
    def at(places):
        return lambda prompt, embeds, lengths: inserted(prompt, embeds, places(lengths, embeds.shape[1]))

    def padding_zero(prompt, embeds, lengths):
        out = inserted(prompt, embeds, lengths)
        return out * (np.arange(out.shape[1]) < lengths[:, None] + len(prompt))[..., None]

    def overwritten(prompt, embeds, lengths):
        out = np.concatenate([embeds, np.zeros((len(embeds), *prompt.shape))], axis=1)
        for row, n in zip(out, lengths, strict=True):
            row[n:n + len(prompt)] = prompt
        return out

    submission.agrees("append", padded(submission.rng), inserted, [
        M("prompt.after_padding", "the prompt stands after the padding", at(lambda n, T: 0 * n + T)),
        M("prompt.before_text", "the prompt stands before the text", at(lambda n, T: 0 * n)),
        M("prompt.off_by_one", "the prompt stands before the last token", at(lambda n, T: n - 1)),
        M("prompt.off_by_one", "the prompt stands one place too late", at(lambda n, T: np.minimum(n + 1, T))),
        *(M("prompt.same_place", "the prompt stands at the same place in all rows", at(lambda n, T, f=f: 0 * n + f(n)))
          for f in (np.max, np.min, lambda n: n[0], lambda n: n[-1])),
        M("prompt.backwards", "the prompt stands backwards", lambda prompt, *rest: inserted(prompt[::-1], *rest)),
        M("prompt.padding_lost", "the padding's numbers are gone", padding_zero),
        M("prompt.padding_lost", "the prompt is written over the padding, which should move to the right", overwritten),
    ])
