"""How well a model predicts texts that it was not trained on."""

import math
from collections.abc import Sequence
from typing import Any

from tinypeft.autograd import no_grad
from tinypeft.nn import Module
from tinypeft.training.data import Row, check_rows, collate, count_predictions, encode_rows


def evaluate(model: Module, rows: Sequence[Row], *, pad_token_id: int, batch_size: int = 8) -> float:
    """Mean loss, in nats, over all predicted tokens of `rows`, whatever the batches they fall into.

    Runs in eval mode, without recording, and leaves the model in the mode that it was in.

    Raises:
        ValueError: rows that do not fit the model, or in which no token is predicted.
    """
    check_rows(rows, model, "rows")
    by_length = sorted(rows, key=lambda row: len(row["input_ids"]))  # rows of one length need no padding
    losses, counts = [], []
    with model.mode_restored(), no_grad():
        model.eval()
        for start in range(0, len(rows), batch_size):
            batch = collate(by_length[start:start + batch_size], pad_token_id)
            if count := count_predictions(batch["labels"]):
                losses.append(model(**batch).loss.item() * count)
                counts.append(count)
    if not counts:
        raise ValueError("no token of these rows is predicted: their labels are -100, or they have a single token")
    return sum(losses) / sum(counts)


def bits_per_character(model: Module, texts: Sequence[str], tokenizer: Any, batch_size: int = 256) -> float:
    """Bits that the model needs for each character of `texts`, the end of a text counting as one more character.

    The sum of -log2 p over all tokens of `bos text eos` but bos, divided by the sum of len(text) + 1: comparable
    between tokenizers. A model that knows nothing but an alphabet needs log2 of its size.

    Raises:
        ValueError: no texts, characters that the tokenizer does not know, or a tokenizer without bos and eos.
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError("bits per character need a tokenizer with bos and eos: what starts a text, and what ends it")
    rows = encode_rows([{"text": text} for text in texts], tokenizer)
    tokens = sum(count_predictions(row["labels"]) for row in rows)
    nats = evaluate(model, rows, pad_token_id=tokenizer.eos_token_id, batch_size=batch_size) * tokens
    return nats / math.log(2) / sum(len(text) + 1 for text in texts)
