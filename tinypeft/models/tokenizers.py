"""Tokenizers: text to token ids and back, with the names, arguments and files of transformers.

`CharTokenizer` is ours: one token a character, nothing to install. `HFTokenizer` puts the same face on any other
`tokenizer.json` (byte-level BPE of GPT-2 and Llama 3, ...) through the `tokenizers` library.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinypeft.files import optional, read_json
from tinypeft.models import smollm2
from tinypeft.models.bundled import resolve_folder
from tinypeft.models.tokenizer_base import Tokenizer

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token")


class AutoTokenizer:
    """Chooses the tokenizer class for a folder, as in transformers."""

    @staticmethod
    def from_pretrained(name_or_folder: str | Path, *, padding_side: str | None = None) -> Tokenizer:
        """Load the tokenizer of a model with a name or of a folder that holds `tokenizer.json`.

        Args:
            name_or_folder: such as "tinypeft/surnames", "tinypeft/smollm2-135m-instruct" or "path/to/model".
            padding_side: "right" or "left"; by default what `tokenizer_config.json` says, else "right".

        Raises:
            FileNotFoundError: no such model, or it is not installed or has no tokenizer.json.
            ValueError: tokenizer.json is not one.
            ImportError: it needs libraries of the extra `real`, which are not installed.
        """
        if str(name_or_folder) == smollm2.NAME:
            backend, config = smollm2.read_tokenizer()
            tokenizer: Tokenizer = HFTokenizer(backend, config)
        else:
            folder = resolve_folder(name_or_folder)
            if not (folder / "tokenizer.json").is_file():
                raise FileNotFoundError(f"{folder} has no tokenizer.json. A folder with an older tokenizer (vocab.json and "
                                        "merges.txt, tokenizer.model) gets one from transformers: "
                                        "AutoTokenizer.from_pretrained(f).save_pretrained(f)")
            config = _read_config(folder)
            characters = CharTokenizer._from_json(read_json(folder / "tokenizer.json"))
            tokenizer = characters or HFTokenizer.from_folder(folder, config)
        tokenizer.padding_side = padding_side or config.get("padding_side", "right")
        tokenizer.chat_template = config.get("chat_template")
        return tokenizer


class CharTokenizer(Tokenizer):
    """One token a character, after three special ones: ids 0 pad, 1 bos, 2 eos, then `characters` in their order.

    Every text starts with bos, as for Llama; eos is left to whoever trains (it belongs after a whole text only).

    >>> tokenizer = CharTokenizer("abc")
    >>> tokenizer("cab")
    {'input_ids': [1, 5, 3, 4], 'attention_mask': [1, 1, 1, 1]}
    >>> tokenizer.decode([1, 5, 3, 4, 2])
    'cab'

    Raises:
        ValueError: `characters` repeats one or has none; special tokens are equal or shorter than two characters.
    """

    def __init__(self, characters: str | Iterable[str], *, bos_token: str = "<bos>", eos_token: str = "<eos>",
                 pad_token: str = "<pad>") -> None:
        self.bos_token, self.eos_token, self.pad_token = bos_token, eos_token, pad_token
        self._specials = [pad_token, bos_token, eos_token]
        self.characters = list(characters)
        if not self.characters or any(len(character) != 1 for character in self.characters):
            raise ValueError(f"characters is {characters!r}; expected at least one, each a single character")
        if repeated := sorted({c for c in self.characters if self.characters.count(c) > 1}):
            raise ValueError(f"characters are listed twice: {_named(repeated)}")
        if len(set(self._specials)) < 3 or any(len(token) < 2 for token in self._specials):
            raise ValueError(f"special tokens are {self._specials}; expected three different ones, not single letters")
        self._tokens = self._specials + self.characters
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        # A special token written out in a text is that token, as in transformers; the longest first, so that <a> does
        # not hide <a>>.
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)

    def __len__(self) -> int:
        return len(self._tokens)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        tokens = self._pattern.findall(text)
        if unknown := sorted(set(tokens) - self._ids.keys()):
            shown = text if len(text) <= 60 else text[:60] + "..."
            raise ValueError(f"this tokenizer does not know {_named(unknown)} in {shown!r}. It knows "
                             f"{''.join(self.characters)!r}: fold or remove other characters first")
        start = [self._ids[self._specials[1]]] if add_special_tokens else []
        return start + [self._ids[token] for token in tokens]

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Id of a character or special token, None if it is not in the vocabulary."""
        return self._ids.get(token)

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        first = len(self._specials) if skip_special_tokens else 0
        return "".join(self._tokens[i] for i in ids if i >= first)

    def _to_json(self) -> dict[str, Any]:
        """The same tokenizer in the words of the `tokenizers` library: split at every character, look each up."""
        pad, bos, eos = self._specials
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        start = {"SpecialToken": {"id": bos, "type_id": 0}}
        first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate((pad, bos, eos))],
            "normalizer": None,
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
            "post_processor": {
                "type": "TemplateProcessing", "single": [start, first], "pair": [start, first, start, second],
                "special_tokens": {bos: {"id": bos, "ids": [1], "tokens": [bos]}},
            },
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": "<unk>"},
        }

    @classmethod
    def _from_json(cls, content: Any) -> "CharTokenizer | None":
        """The CharTokenizer that would write this tokenizer.json, None if none would."""
        try:
            vocab = content["model"]["vocab"]
            pad, bos, eos, *characters = sorted(vocab, key=vocab.__getitem__)
            tokenizer = cls(characters, bos_token=bos, eos_token=eos, pad_token=pad)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        # Truncation and padding are left out: transformers saves there what the last call happened to use.
        parts = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
        ours = tokenizer._to_json()
        return tokenizer if all(content.get(part) == ours[part] for part in parts) else None


class HFTokenizer(Tokenizer):
    """Any tokenizer of Hugging Face, through the `tokenizers` library (extra `real`).

    Args:
        backend: a `tokenizers.Tokenizer`, which says what is added around a text.
        config: the content of tokenizer_config.json, which names bos, eos and pad; one that the vocabulary lacks is added to
            it, as in transformers.
    """

    def __init__(self, backend: Any, config: Mapping[str, Any]) -> None:
        self._backend, self._saved_config = backend, config
        backend.no_truncation()  # tokenizer.json keeps what its last user had set
        backend.no_padding()
        self.bos_token, self.eos_token, self.pad_token = (config.get(key) for key in SPECIAL_TOKENS)
        backend.add_special_tokens([token for token in self._special_tokens().values() if token is not None])

    @classmethod
    def from_folder(cls, folder: Path, config: Mapping[str, Any]) -> "HFTokenizer":
        """Read tokenizer.json; a special token that `config` leaves open is named by an id in the model's config.json."""
        library = optional("tokenizers", f"{folder / 'tokenizer.json'}, which is not one of tinypeft's character tokenizers,")
        try:
            backend = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{folder}/tokenizer.json is no tokenizer that `tokenizers` can read: {error}") from error
        tokenizer, model = cls(backend, config), _read_json_if_there(folder / "config.json")
        for key in SPECIAL_TOKENS:
            ids = model.get(f"{key}_id")
            first = ids[0] if isinstance(ids, list) and ids else ids  # Llama 3 lists several eos ids
            if getattr(tokenizer, key) is None and isinstance(first, int) and first >= 0:
                setattr(tokenizer, key, backend.id_to_token(first))  # not made special: it may be a word of the vocabulary
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of tokens, those added to the vocabulary later left out."""
        return int(self._backend.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Id of one token, None if it is not in the vocabulary."""
        return self._backend.token_to_id(token)

    def _decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def _to_json(self) -> dict[str, Any]:
        return json.loads(self._backend.to_str())


def _read_config(folder: Path) -> dict[str, Any]:
    """The content of tokenizer_config.json, with what other versions of transformers put into files of its own."""
    config, others = (_read_json_if_there(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json"))
    for key in SPECIAL_TOKENS:  # a string, or a dict that holds it
        tokens = [token.get("content") if isinstance(token, dict) else token for token in (config.get(key), others.get(key))]
        config[key] = next((token for token in tokens if isinstance(token, str)), None)
    if (folder / "chat_template.jinja").is_file():
        config["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return config


def _read_json_if_there(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def _named(characters: list[str]) -> str:
    """Characters with their code points, since many look alike: 'ł' (U+0142)."""
    return ", ".join(f"{character!r} (U+{ord(character):04X})" for character in characters)
