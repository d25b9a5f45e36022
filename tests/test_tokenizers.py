"""Tokenizers: round trips, batches, saved folders, and the same ids as transformers (parity)."""

import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tinypeft.files import read_json, write_json
from tinypeft.models import bundled
from tinypeft.models.bundled import BUNDLED, resolve_folder
from tinypeft.models.tokenizers import AutoTokenizer, CharTokenizer, HFTokenizer

# Everything that might trip a splitter: line ends, a combining accent, an emoji beyond 16 bits, regex signs, quotes.
ALPHABET = "\n\r\t abcABC'\"\\.*[]<>-łŁe\u0301\u00a0\u200d😀"
texts = st.text(ALPHABET, max_size=20)


@pytest.fixture
def tokenizer():
    return CharTokenizer("abc ")  # ids: <pad> 0, <bos> 1, <eos> 2, a 3, b 4, c 5, space 6


# --- characters ----------------------------------------------------------------------------------------------------


@given(text=texts)
def test_decode_inverts_encode(text):
    tokenizer = CharTokenizer(ALPHABET)
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 1 + len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<bos>" + text


def test_ids_are_special_tokens_then_characters_in_order(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.encode("cab a") == [1, 5, 3, 4, 6, 3]
    assert tokenizer.encode("cab", add_special_tokens=False) == [5, 3, 4]
    assert tokenizer.encode("") == [1]
    assert tokenizer.vocab_size == len(tokenizer) == 7
    assert [tokenizer.convert_tokens_to_ids(token) for token in ["<eos>", "b", "x"]] == [2, 4, None]


def test_a_special_token_written_in_the_text_is_that_token():
    tokenizer = CharTokenizer("as<>o", bos_token="<o>", eos_token="<o>s")
    assert tokenizer.encode("a<o>s<o>", add_special_tokens=False) == [3, 2, 1]  # the longer one is not cut in two


def test_unknown_characters_are_named(tokenizer):
    with pytest.raises(ValueError, match=r"does not know 'x' \(U\+0078\), 'ł' \(U\+0142\) in 'ałxxc'") as error:
        tokenizer.encode("ałxxc")
    assert "It knows 'abc '" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"characters": "abca"}, r"listed twice: 'a' \(U\+0061\)"),
        ({"characters": ""}, "at least one"),
        ({"characters": ["a", "bc"]}, "each a single character"),
        ({"characters": "abc", "eos_token": "<bos>"}, "three different ones"),
        ({"characters": "abc", "pad_token": "_"}, "not single letters"),
    ],
)
def test_a_bad_alphabet(arguments, message):
    with pytest.raises(ValueError, match=message):
        CharTokenizer(**arguments)


# --- batches -------------------------------------------------------------------------------------------------------


def test_one_text_and_many(tokenizer):
    assert tokenizer("ab") == {"input_ids": [1, 3, 4], "attention_mask": [1, 1, 1]}
    assert tokenizer(["ab", "c"]).input_ids == [[1, 3, 4], [1, 5]]
    assert tokenizer(["ab", "c"], add_special_tokens=False).input_ids == [[3, 4], [5]]
    assert tokenizer([]) == {"input_ids": [], "attention_mask": []}


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("right", [[1, 3, 4], [1, 5, 0]], [[1, 1, 1], [1, 1, 0]]),
        ("left", [[1, 3, 4], [0, 1, 5]], [[1, 1, 1], [0, 1, 1]]),
    ],
)
def test_padding(side, ids, mask, tokenizer):
    tokenizer.padding_side = side
    assert tokenizer(["ab", "c"], padding=True) == {"input_ids": ids, "attention_mask": mask}
    batch = tokenizer(["ab", "c"], padding="longest", return_tensors="np")
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    assert (batch.input_ids.tolist(), batch.attention_mask.tolist()) == (ids, mask)
    assert tokenizer.batch_decode(batch.input_ids) == ["ab", "c"]


def test_one_text_as_an_array_is_a_batch_of_one(tokenizer):
    assert tokenizer("ab", return_tensors="np").input_ids.shape == (1, 3)


def test_a_pad_token_can_be_chosen(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer(["ab", "c"], padding=True).input_ids[1] == [1, 5, 2]


@pytest.mark.parametrize("pad_token", [None, "<none>"])
def test_padding_without_a_pad_token(pad_token, tokenizer):
    tokenizer.pad_token = pad_token
    with pytest.raises(ValueError, match=r"set tokenizer\.pad_token = tokenizer\.eos_token"):
        tokenizer(["ab", "c"], padding=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t(["ab", "c"], return_tensors="np"), ValueError, "pass padding=True"),
        (lambda t: t("ab", return_tensors="pt"), ValueError, "expected None for lists or \"np\""),
        (lambda t: t("ab", padding="max_length"), ValueError, "padding is 'max_length'"),
        (lambda t: t(3), TypeError, "a text is a string, not int"),
        (lambda t: t(["a", None]), TypeError, "a text is a string, not NoneType"),
        (lambda t: t.decode([3, 7, -1]), ValueError, r"token ids \[-1, 7\] are not in the vocabulary of 7 \(0 to 6\)"),
        (lambda t: t.decode([0.5]), TypeError, "token ids are integers, not float64"),
        (lambda t: t.decode([True]), TypeError, "token ids are integers, not bool"),
        (lambda t: t.decode([[1, 3]]), ValueError, r"shape \(1, 2\): use batch_decode"),
        (lambda t: t("ab").labels, AttributeError, "no 'labels' here; there are: input_ids, attention_mask"),
    ],
)
def test_bad_calls(call, error, message, tokenizer):
    with pytest.raises(error, match=message):
        call(tokenizer)


def test_a_wrong_padding_side(tokenizer):
    tokenizer.padding_side = "both"
    with pytest.raises(ValueError, match='padding_side is \'both\'; expected "left" or "right"'):
        tokenizer(["ab", "c"], padding=True)


def test_decode_takes_what_generate_and_loops_give(tokenizer):
    assert tokenizer.decode(np.array([1, 3, 4], dtype=np.int32)) == "ab"
    assert tokenizer.decode(i for i in (3, 4)) == "ab"
    assert tokenizer.decode(4) == tokenizer.decode(np.int64(4)) == "b"
    assert tokenizer.decode([]) == ""


# --- folders -------------------------------------------------------------------------------------------------------


@given(
    characters=st.lists(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20, unique=True),
    side=st.sampled_from(["left", "right"]),
    template=st.sampled_from([None, "{{ messages }} ł"]),
)
def test_save_load_is_the_identity(characters, side, template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    saved = CharTokenizer(characters, bos_token="[B]", eos_token="[E]", pad_token="[P]")
    saved.padding_side, saved.chat_template = side, template
    saved.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert type(loaded) is CharTokenizer
    assert vars(loaded) == vars(saved)


def test_padding_side_may_be_given(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path, padding_side="left").padding_side == "left"


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer(content, tmp_path):
    pytest.importorskip("tokenizers", reason="needs the extra `real`")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer that `tokenizers` can read"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_invalid_json_is_located(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not valid JSON: line 1, column 2"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_local_folder_needs_no_bundled_name(tmp_path):
    assert resolve_folder(tmp_path) == resolve_folder(str(tmp_path)) == tmp_path


def test_a_bundled_name_stands_for_its_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(bundled.BUNDLED, "tinypeft/here", tmp_path)
    assert resolve_folder("tinypeft/here") == tmp_path


def test_an_unknown_model_lists_the_bundled_ones():
    with pytest.raises(FileNotFoundError, match=r"is neither .* Did you mean 'tinypeft/surnames'\?") as e:
        resolve_folder("tinypeft/surname")
    assert all(name in str(e.value) for name in BUNDLED)
    with pytest.raises(FileNotFoundError, match=r"downloads nothing: .* `hf download") as e:
        resolve_folder("meta-llama/Meta-Llama-3-8B")
    assert "Did you mean" not in str(e.value)


# --- other tokenizers ----------------------------------------------------------------------------------------------


@pytest.fixture
def bpe_folder(tmp_path):
    """A byte-level BPE tokenizer like GPT-2's, trained on a line, that leaves bos, eos and pad to the other files."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra `real`")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat and the hat and the bat"], trainer)
    tokenizer.enable_truncation(2)  # what its last user had set must not matter
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_hf_tokenizer_round_trip(bpe_folder):
    write_json(bpe_folder / "tokenizer_config.json", {"eos_token": {"content": "<|end|>"}, "chat_template": "{{ }}"})
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    assert type(tokenizer) is HFTokenizer
    ids = tokenizer.encode("the cat, żółw 😀")
    assert len(ids) < len("the cat, żółw 😀".encode())
    assert tokenizer.decode(ids) == "the cat, żółw 😀"
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|end|>", 0)
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) == (None, None)
    assert tokenizer.decode([*ids, 0]) == "the cat, żółw 😀"
    assert tokenizer.decode([0], skip_special_tokens=False) == "<|end|>"

    tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(["the", "the cat!"], padding=True, return_tensors="np")
    assert tokenizer.batch_decode(batch.input_ids) == ["the", "the cat!"]
    with pytest.raises(ValueError, match=f"vocabulary of {len(tokenizer)}"):
        tokenizer.decode([len(tokenizer)])

    tokenizer.save_pretrained(bpe_folder / "again")
    again = AutoTokenizer.from_pretrained(bpe_folder / "again")
    assert again.encode("the cat, żółw") == tokenizer.encode("the cat, żółw")
    assert again.pad_token == "<|end|>"
    assert read_json(bpe_folder / "again" / "tokenizer_config.json")["chat_template"] == "{{ }}"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"bos_token": "<|end|>"}),
        ("tokenizer_config.json", {"bos_token": {"content": "<|end|>"}}),
        ("special_tokens_map.json", {"bos_token": "<|end|>"}),
        ("config.json", {"bos_token_id": 0}),
        ("config.json", {"bos_token_id": [0, 1]}),
    ],
)
def test_where_special_tokens_are_named(file, content, bpe_folder):
    write_json(bpe_folder / file, content)
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    assert (tokenizer.bos_token, tokenizer.bos_token_id, tokenizer.eos_token_id) == ("<|end|>", 0, None)


def test_an_id_in_the_models_config_makes_no_word_special(bpe_folder):
    plain = AutoTokenizer.from_pretrained(bpe_folder)
    (a,) = plain.encode("a")
    write_json(bpe_folder / "config.json", {"eos_token_id": a})
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("a", a)
    ids = tokenizer.encode("the cat and the bat")
    assert ids == plain.encode("the cat and the bat")
    assert tokenizer.decode([*ids, a]) == "the cat and the bata"
    write_json(bpe_folder / "tokenizer_config.json", {"eos_token": "<|end|>"})
    assert AutoTokenizer.from_pretrained(bpe_folder).eos_token == "<|end|>"  # a name goes before an id


def test_a_special_token_outside_the_vocabulary_is_added(bpe_folder):
    plain = AutoTokenizer.from_pretrained(bpe_folder)
    write_json(bpe_folder / "tokenizer_config.json", {"pad_token": "[PAD]"})
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    assert tokenizer.pad_token_id == len(plain) == plain.vocab_size == tokenizer.vocab_size
    assert len(tokenizer) == len(plain) + 1


def test_without_the_library_the_extra_is_named(bpe_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[real\]'"):
        AutoTokenizer.from_pretrained(bpe_folder)


def test_character_tokenizers_need_no_library(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("abc") == [1, 3, 4, 5]


@pytest.mark.parametrize("part", ["normalizer", "decoder", "added_tokens"])
def test_a_file_that_only_resembles_ours_is_left_to_the_library(part, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    content = read_json(tmp_path / "tokenizer.json")
    content[part] = {"normalizer": {"type": "Lowercase"}, "decoder": None, "added_tokens": []}[part]
    write_json(tmp_path / "tokenizer.json", content)
    pytest.importorskip("tokenizers", reason="needs the extra `real`")
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is HFTokenizer


# --- chat templates ------------------------------------------------------------------------------------------------

TEMPLATE = """{{ bos_token }}
{% for message in messages %}
  {% if message.role == "tool" %}{{ raise_exception("no tools, please") }}{% endif %}
  {% if message.role == "system" %}{% continue %}{% endif %}
{{ message.role }}: {{ message.content | tojson }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}assistant: {% endif %}"""
CHAT = [{"role": "system", "content": "x"}, {"role": "user", "content": "<ł & 'b'>"}, {"role": "assistant", "content": "c"}]


@pytest.fixture
def chatty():
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz :\n\"<>&'ł{}")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_conversation_becomes_text(chatty):
    text = chatty.apply_chat_template(CHAT, tokenize=False)
    assert text == "<bos>\nuser: \"<ł & 'b'>\"<eos>\nassistant: \"c\"<eos>\n"
    assert chatty.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == text + "assistant: "


def test_a_conversation_becomes_ids(chatty):
    ids = chatty.encode(chatty.apply_chat_template(CHAT, tokenize=False), add_special_tokens=False)
    assert ids.count(chatty.bos_token_id) == 1  # the template has it: it is not added once more
    assert chatty.apply_chat_template(CHAT) == {"input_ids": ids, "attention_mask": [1] * len(ids)}
    assert chatty.apply_chat_template(CHAT, return_dict=False) == ids
    assert chatty.apply_chat_template(CHAT, return_tensors="np").input_ids.shape == (1, len(ids))


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ("Hello", TypeError, r'a list of messages like {"role": "user", "content": "Hello"}, got \'Hello\''),
        ([["role", "user"]], TypeError, "a list of messages"),
        (None, TypeError, "a list of messages"),
        ([{"role": "tool", "content": ""}], ValueError, "does not take this conversation: no tools, please"),
        ([{"role": "user"}], ValueError, "does not take this conversation: .*Undefined"),
    ],
)
def test_what_is_no_conversation(conversation, error, message, chatty):
    with pytest.raises(error, match=message):
        chatty.apply_chat_template(conversation)


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__[1].__subclasses__ }}"])
def test_a_template_that_is_faulty_or_breaks_out_is_refused(template, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="the chat template does not take this conversation"):
        tokenizer.apply_chat_template(CHAT)


def test_without_a_template_or_jinja(tokenizer, chatty, monkeypatch):
    with pytest.raises(ValueError, match="no chat template, .* set tokenizer.chat_template"):
        tokenizer.apply_chat_template(CHAT)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"a chat template needs the library jinja2.*'\.\[real\]'"):
        chatty.apply_chat_template(CHAT)


def test_where_a_template_is_kept(bpe_folder):
    write_json(bpe_folder / "tokenizer_config.json", {"chat_template": "old"})
    (bpe_folder / "chat_template.jinja").write_text("neuł", encoding="utf-8")  # where transformers 5 puts it
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    assert tokenizer.chat_template == "neuł"
    tokenizer.chat_template = "newer"
    tokenizer.save_pretrained(bpe_folder)
    assert AutoTokenizer.from_pretrained(bpe_folder).chat_template == "newer"


# --- parity --------------------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("loader", ["AutoTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("with_model_config", [False, True])
def test_transformers_reads_our_folder(loader, with_model_config, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    ours = CharTokenizer(ALPHABET)
    ours.save_pretrained(tmp_path)
    if with_model_config:  # a Llama folder must not make it a Llama tokenizer
        write_json(tmp_path / "config.json", {"model_type": "llama", "vocab_size": len(ours)})
    theirs = getattr(transformers, loader).from_pretrained(tmp_path)
    assert len(theirs) == len(ours)
    assert theirs.vocab_size == ours.vocab_size
    for name in ("bos", "eos", "pad"):
        assert getattr(theirs, f"{name}_token_id") == getattr(ours, f"{name}_token_id")

    @given(
        batch=st.lists(texts | st.just("a<eos>b<bos>"), min_size=1, max_size=4), side=st.sampled_from(["left", "right"])
    )
    def same_ids_and_texts(batch: list[str], side: str) -> None:
        ours.padding_side = theirs.padding_side = side
        expected = theirs(batch, padding=True, return_tensors="np")
        received = ours(batch, padding=True, return_tensors="np")
        assert received.keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(received[key], array)
        assert ours(batch[0]) == dict(theirs(batch[0]))
        assert ours.encode(batch[0], add_special_tokens=False) == theirs.encode(batch[0], add_special_tokens=False)
        for skip in (True, False):
            assert ours.batch_decode(received.input_ids, skip) == theirs.batch_decode(expected["input_ids"], skip)

    same_ids_and_texts()
    with pytest.raises(Exception, match="UNK"):
        theirs("xyz")  # they too refuse what the alphabet lacks


@pytest.mark.parity
def test_we_read_what_transformers_saved_of_ours(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    tokenizer.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs(["ab", "c"], padding=True, truncation=True, max_length=2)  # transformers saves these settings with it
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert type(again) is CharTokenizer
    assert again.characters == tokenizer.characters
    assert again(["ab", "c"], padding=True) == tokenizer(["ab", "c"], padding=True)


@pytest.mark.parity
def test_chat_templates_equal_transformers(chatty, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    chatty.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for ours in (chatty, AutoTokenizer.from_pretrained(tmp_path / "theirs")):
        for prompt in (False, True):
            expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt)
            assert ours.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt) == expected
        assert ours.apply_chat_template(CHAT) == dict(theirs.apply_chat_template(CHAT))
        assert ours.apply_chat_template(CHAT, return_dict=False) == theirs.apply_chat_template(CHAT, return_dict=False)


@pytest.mark.parity
def test_hf_tokenizer_equals_transformers(bpe_folder):
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    write_json(
        bpe_folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "[PAD]"},
    )
    ours = AutoTokenizer.from_pretrained(bpe_folder)
    theirs = transformers.AutoTokenizer.from_pretrained(bpe_folder)
    batch = ["the cat<|end|> and the hat .", "", "żółw 😀\n"]
    expected = theirs(batch, padding=True, return_tensors="np")
    received = ours(batch, padding=True, return_tensors="np")
    for key in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(received[key], expected[key])
    for skip in (True, False):
        assert ours.batch_decode(received.input_ids, skip) == theirs.batch_decode(expected["input_ids"], skip)
    assert (ours.pad_token_id, len(ours), ours.vocab_size) == (theirs.pad_token_id, len(theirs), theirs.vocab_size)
    ours.save_pretrained(bpe_folder / "again")
    again = transformers.AutoTokenizer.from_pretrained(bpe_folder / "again")
    assert again(batch).input_ids == theirs(batch).input_ids
