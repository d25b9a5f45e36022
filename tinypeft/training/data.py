"""From texts to batches of token ids. (From a file to texts: read_rows, in tinypeft/files.)

    encode_rows    texts, tokenizer          -> [{"input_ids": [...], "labels": [...]}], -100 where nothing is learned
    collate        rows of unequal length    -> {"input_ids", "attention_mask", "labels"}, int64 arrays (B, T)
    batch_rows     rows, step number, seed   -> the rows of that step
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

IGNORED = -100  # the label that the loss skips, in torch as here

Row = Mapping[str, Sequence[int]]  # {"input_ids": [...], "labels": [...]}


def encode_rows(rows: Sequence[Mapping[str, str]], tokenizer: Any, max_length: int | None = None, *, truncation: bool = False
                ) -> list[dict[str, list[int]]]:
    """Turn texts into token ids and labels.

    A text becomes `bos text eos`, and all but bos is learned; a prompt and its completion become
    `bos prompt completion eos`, and only the completion and eos are learned. A special token that the tokenizer lacks
    is left out; before a prompt, bos stands only if the tokenizer itself puts it there, as it will for `generate`.

    Args:
        rows: as `read_rows` returns them ("source" may be missing).
        tokenizer: with `encode`, `bos_token_id`, `eos_token_id`.
        max_length: the most tokens in a row: the model's positions.
        truncation: cut longer rows at the end, instead of raising.

    Returns:
        For each row {"input_ids", "labels"}: two lists of equal length, -100 in the labels where nothing is learned.

    Raises:
        ValueError: no rows; a character that the tokenizer does not know, a row that is too long, or one in which
            nothing is left to learn. The message names the row.
    """
    if not rows:
        raise ValueError("the data set is empty")
    encoded = []
    for i, row in enumerate(rows):
        try:
            ids, labels = _encode(row, tokenizer)
            if max_length is not None and len(ids) > max_length and not truncation:
                raise ValueError(f"{len(ids)} tokens, where {max_length} fit; shorten it or ask for truncation")
            ids, labels = ids[:max_length], labels[:max_length]
            if not count_predictions(labels):
                raise ValueError(f"nothing to learn in its {len(ids)} tokens: neither prompts nor a first token are")
        except ValueError as error:
            raise ValueError(f"{row.get('source', f'row {i}')}: {error}") from error
        encoded.append({"input_ids": ids, "labels": labels})
    return encoded


def _encode(row: Mapping[str, str], tokenizer: Any) -> tuple[list[int], list[int]]:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    given = tokenizer.encode(row.get("prompt", ""), add_special_tokens=False)
    learned = tokenizer.encode(row["completion" if "prompt" in row else "text"], add_special_tokens=False)
    if bos is not None and ("prompt" not in row or tokenizer.encode("")[:1] == [bos]):
        given = [bos, *given]
    if eos is not None:
        learned = [*learned, eos]
    return given + learned, [IGNORED] * len(given) + learned


def count_predictions(labels: Any) -> int:
    """How many labels, (T,) or (B, T), take part in the loss: not the first of a row, nor -100."""
    return int(np.count_nonzero(np.asarray(labels)[..., 1:] != IGNORED))


def check_rows(rows: Sequence[Row], model: Any, name: str) -> None:
    """Raise ValueError, naming the first bad row, where `rows` cannot be what `model` is trained on."""
    config = getattr(model, "config", None)
    positions, vocabulary = (getattr(config, key, math.inf) for key in ("max_position_embeddings", "vocab_size"))
    if not rows:
        raise ValueError(f"{name} is empty")
    for i, row in enumerate(rows):
        ids, labels = row["input_ids"], row["labels"]
        if not 0 < len(ids) == len(labels) <= positions:
            raise ValueError(f"{name}[{i}] has {len(ids)} input_ids, {len(labels)} labels; expected as many, 1 to {positions}")
        used = {*ids, *labels} - {IGNORED}
        if min(used) < 0 or max(used) >= vocabulary:
            raise ValueError(f"{name}[{i}] has ids {min(used)} to {max(used)}, the model {vocabulary} tokens: wrong tokenizer?")


def collate(rows: Sequence[Row], pad_token_id: int) -> dict[str, np.ndarray]:
    """Stack rows of unequal length, padded on the right to the longest.

    Returns:
        int64 arrays (B, T): input_ids, attention_mask (1 token, 0 padding), labels (-100 on padding).

    >>> rows = [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7], "labels": [7]}]
    >>> collate(rows, pad_token_id=0)["input_ids"].tolist()
    [[5, 6], [7, 0]]
    """
    shape = len(rows), max(len(row["input_ids"]) for row in rows)
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORED}
    batch = {name: np.full(shape, filler, dtype=np.int64) for name, filler in fillers.items()}
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["input_ids"][i, :length] = row["input_ids"]
        batch["attention_mask"][i, :length] = 1
        batch["labels"][i, :length] = row["labels"]
    return batch


def batch_rows(rows: Sequence[Any], batch_size: int, step: int, seed: int) -> list[Any]:
    """The rows of step 0, 1, 2, ...: each epoch goes through all of them once, in an order drawn from (seed, epoch).

    The last batch of an epoch may be smaller. The answer depends on the step number alone, so that a resumed run needs
    no saved position.
    """
    epoch, place = divmod(step, math.ceil(len(rows) / batch_size))
    order = np.random.default_rng([seed, epoch]).permutation(len(rows))
    return [rows[i] for i in order[place * batch_size:(place + 1) * batch_size]]


def train_validation_split(rows: Sequence[Any], fraction: float = 0.1, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Set a random share of the rows aside, at least one; both parts keep the order of `rows`.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or there are fewer than two rows.
    """
    if not 0 < fraction < 1 or len(rows) < 2:
        raise ValueError(f"cannot set {fraction} of {len(rows)} rows aside; expected a share below 1 of at least 2")
    size = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    aside = set(np.random.default_rng(seed).permutation(len(rows))[:size].tolist())
    return [row for i, row in enumerate(rows) if i not in aside], [row for i, row in enumerate(rows) if i in aside]
