"""What every tokenizer shares: calling it on a batch, padding, decoding. The vocabulary is left to the subclass."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinypeft.files import write_json
from tinypeft.models.chat import Message, render_chat


class BatchEncoding(dict[str, Any]):
    """What a tokenizer returns: a dict whose entries are also attributes, `encoding.input_ids`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there are: {', '.join(self)}") from None


class Tokenizer(ABC):
    """What both kinds share. `bos_token` ... `chat_template` may be set: `tokenizer.pad_token = tokenizer.eos_token`."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    padding_side = "right"
    chat_template: str | None = None  # in Jinja, of models that were taught to converse
    _saved_config: Mapping[str, Any] | None = None  # what else tokenizer_config.json held

    @property
    def vocab_size(self) -> int:
        """Number of tokens, those added to the vocabulary later left out."""
        return len(self)

    @abstractmethod
    def __len__(self) -> int:
        """Number of tokens in all: ids run from 0 to `len(tokenizer) - 1`."""

    @abstractmethod
    def _encode(self, text: str, add_special_tokens: bool) -> list[int]: ...

    @abstractmethod
    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Id of one token, None if it is not in the vocabulary."""

    @abstractmethod
    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str: ...

    @abstractmethod
    def _to_json(self) -> dict[str, Any]:
        """The content of tokenizer.json."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of one text, with the special tokens that the model expects around it unless told otherwise.

        Raises:
            TypeError: `text` is not a string.
            ValueError: the alphabet of a character tokenizer lacks some of it; the message lists the characters.
        """
        if not isinstance(text, str):
            raise TypeError(f"a text is a string, not {type(text).__name__}; several go in a list: tokenizer([...])")
        return self._encode(text, add_special_tokens)

    def __call__(self, text: str | list[str], *, padding: bool | str = False, add_special_tokens: bool = True,
                 return_tensors: str | None = None) -> BatchEncoding:
        """Encode one text or a batch of them.

        Args:
            text: one string, or a list of B strings.
            padding: True (or "longest") fills every row with `pad_token` on `padding_side` to the longest row's T.
            add_special_tokens: as in `encode`.
            return_tensors: None for lists, "np" for int64 arrays.

        Returns:
            "input_ids" and "attention_mask" (1 for a token, 0 for padding): a list for one string, a list of lists for
            several; with "np" arrays (B, T), where one string is a batch of 1.

        Raises:
            ValueError: unknown characters; padding without a pad token; unequal lengths with "np" and no padding.
        """
        texts = text if isinstance(text, list) else [text]
        rows = [self.encode(one, add_special_tokens) for one in texts]
        masks = [[1] * len(row) for row in rows]
        if padding not in (False, True, "longest"):
            raise ValueError(f'padding is {padding!r}; expected True or "longest" (to the longest text), or False')
        if padding:
            if self.pad_token_id is None:
                raise ValueError(f"padding needs a pad token in the vocabulary, and pad_token is {self.pad_token!r}: set "
                                 "tokenizer.pad_token = tokenizer.eos_token")
            rows, masks = self._pad(rows, self.pad_token_id), self._pad(masks, 0)

        if return_tensors is None:
            single = isinstance(text, str)
            return BatchEncoding(input_ids=rows[0] if single else rows, attention_mask=masks[0] if single else masks)
        if return_tensors != "np":
            raise ValueError(f'return_tensors is {return_tensors!r}; expected None for lists or "np" for NumPy arrays')
        if len({len(row) for row in rows}) > 1:
            raise ValueError("texts of unequal length do not make an array: pass padding=True")
        return BatchEncoding(input_ids=np.array(rows, dtype=np.int64), attention_mask=np.array(masks, dtype=np.int64))

    def apply_chat_template(self, conversation: list[Message], *, tokenize: bool = True, add_generation_prompt: bool = False,
                            return_tensors: str | None = None, return_dict: bool = True) -> Any:
        """A conversation in the form that the model was taught, special tokens included.

        Args:
            conversation: messages such as {"role": "user", "content": "Hello"}.
            tokenize: False for the text itself instead of its ids.
            add_generation_prompt: end where the model's answer is to begin.
            return_tensors: as in `__call__`.
            return_dict: False for the `input_ids` alone.

        Returns:
            What `__call__` returns for the text; or the ids, or the text.

        Raises:
            TypeError, ValueError: it is no list of messages, the tokenizer has no template, or that refuses them.
            ImportError: the library `jinja2` is not installed.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer has no chat template, so its model was not taught to converse: set "
                             "tokenizer.chat_template to one, or encode plain text")
        text = render_chat(self.chat_template, conversation, add_generation_prompt=add_generation_prompt,
                           **self._special_tokens())
        if not tokenize:
            return text
        encoding = self(text, add_special_tokens=False, return_tensors=return_tensors)
        return encoding if return_dict else encoding.input_ids

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids: an int, a list or a 1-D integer array.

        Raises:
            TypeError: not integers.
            ValueError: an id is not in 0 .. len(self) - 1, or there is more than one row (see `batch_decode`).
        """
        array = np.atleast_1d(np.asarray(ids if isinstance(ids, (int, np.integer, np.ndarray)) else list(ids)))
        if array.size and array.dtype.kind not in "iu":
            raise TypeError(f"token ids are integers, not {array.dtype}")
        if array.ndim > 1:
            raise ValueError(f"decode takes one row of ids, this has shape {array.shape}: use batch_decode")
        unknown = sorted({int(i) for i in array if not 0 <= i < len(self)})
        if unknown:
            raise ValueError(f"token ids {unknown} are not in the vocabulary of {len(self)} (0 to {len(self) - 1})")
        return self._decode([int(i) for i in array], skip_special_tokens)

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """`decode` for every row of a list of lists or a (B, T) array."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    @property
    def bos_token_id(self) -> int | None:
        """Id of `bos_token`, which starts a text; None if there is none."""
        return self._special_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """Id of `eos_token`, which ends a text; None if there is none."""
        return self._special_id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """Id of `pad_token`, which fills short rows; None if there is none."""
        return self._special_id(self.pad_token)

    def _special_id(self, token: str | None) -> int | None:
        return None if token is None else self.convert_tokens_to_ids(token)

    def _pad(self, rows: list[list[int]], filler: int) -> list[list[int]]:
        if self.padding_side not in ("left", "right"):
            raise ValueError(f'padding_side is {self.padding_side!r}; expected "left" or "right"')
        longest = max(map(len, rows), default=0)
        fill = [[filler] * (longest - len(row)) for row in rows]
        return [f + row if self.padding_side == "left" else row + f for row, f in zip(rows, fill, strict=True)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers reads too."""
        folder = Path(folder)
        write_json(folder / "tokenizer.json", self._to_json())
        config = {"tokenizer_class": "PreTrainedTokenizerFast",
                  "clean_up_tokenization_spaces": False,  # with which older transformers print "a ." as "a."
                  **(self._saved_config or {}), **self._special_tokens(),
                  "padding_side": self.padding_side, "chat_template": self.chat_template}
        write_json(folder / "tokenizer_config.json", config)
        (folder / "chat_template.jinja").unlink(missing_ok=True)  # of an earlier save: it would outweigh the one just written

    def _special_tokens(self) -> dict[str, str | None]:
        return {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
