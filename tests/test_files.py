"""tinypeft.files: what is written is read back, bad files are named, nothing is half-written."""

import json
import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from tinypeft.files import (
    new_folder,
    read_checkpoint,
    read_json,
    read_safetensors,
    read_safetensors_metadata,
    replace_file,
    write_json,
    write_safetensors,
    write_text,
)

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def raw_safetensors(dtype: str, shape: list[int], data: bytes) -> bytes:
    """A safetensors file with one tensor `x`, made by hand from the format's description."""
    header = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


# --- safetensors ---------------------------------------------------------------------------------------------------

any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


@given(tensors=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), any_array, max_size=4))
def test_save_load_is_the_identity(tensors, tmp_path_factory):
    tensors = {name: array for name, array in tensors.items() if name != "__metadata__"}  # the format's own key
    path = tmp_path_factory.mktemp("identity") / "t.safetensors"
    write_safetensors(path, tensors)
    loaded = read_safetensors(path)
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()  # bytes, so that NaN equals NaN and 0.0 differs from -0.0


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::2, 1:],
        lambda a: a[:, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(np.float32(3), (4, 5)),
        lambda a: a.astype(">f4"),
    ],
)
def test_any_memory_layout_is_saved_by_value(view, tmp_path):
    array = view(np.arange(24, dtype=np.float32).reshape(4, 6))
    write_safetensors(tmp_path / "t.safetensors", {"x": array})
    np.testing.assert_array_equal(read_safetensors(tmp_path / "t.safetensors")["x"], array)


def test_a_tensor_of_a_checkpoint_is_read_when_it_is_asked_for(tmp_path):
    content = {"a": np.zeros((2, 3)), "b": np.arange(3, dtype=np.uint16), "c": np.array(7, np.float16), "d": np.zeros((0, 2))}
    write_safetensors(tmp_path / "model.safetensors", content)
    tensors = read_checkpoint(tmp_path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (3,), "c": (), "d": (0, 2)}
    write_safetensors(tmp_path / "model.safetensors", content | {"a": np.ones((2, 3))})
    assert np.array_equal(tensors["a"], np.ones((2, 3)))  # and not before
    assert np.asarray(tensors["c"], np.float64).dtype == np.float64
    assert all(np.array_equal(tensors[name], content[name]) for name in "bcd")


def test_loaded_arrays_can_be_trained_in_place(tmp_path):
    write_safetensors(tmp_path / "t.safetensors", {"x": np.zeros(3)})
    array = read_safetensors(tmp_path / "t.safetensors")["x"]
    array += 1
    assert array.tolist() == [1, 1, 1]


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    # 1.0, -2.0, 3.140625 (pi in bfloat16), the smallest subnormal, infinity
    halves = [0x3F80, 0xC000, 0x4049, 0x0001, 0x7F80]
    (tmp_path / "t.safetensors").write_bytes(raw_safetensors("BF16", [5, 1], struct.pack("<5H", *halves)))
    array = read_safetensors(tmp_path / "t.safetensors")["x"]
    assert array.dtype == np.float32
    assert array.shape == (5, 1)
    assert array[:, 0].tolist() == [1.0, -2.0, 3.140625, 2.0**-133, np.inf]


def test_metadata_says_pt_unless_told_otherwise(tmp_path):
    path = tmp_path / "t.safetensors"
    write_safetensors(path, {"x": np.zeros(2)}, metadata={"step": "3"})
    assert read_safetensors_metadata(path) == {"format": "pt", "step": "3"}
    safetensors.numpy.save_file({"x": np.zeros(2)}, path)
    assert read_safetensors_metadata(path) == {}


@pytest.mark.parametrize("read", [read_safetensors, read_safetensors_metadata])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(raw_safetensors("F32", [2], b"12345678")[:-1], id="truncated-data"),
        pytest.param(raw_safetensors("F32", [2], b"12345678")[:20], id="truncated-header"),
        pytest.param(raw_safetensors("F32", [2], b"12345678") + b"x", id="trailing"),
        pytest.param(raw_safetensors("F32", [3], b"12345678"), id="shape-and-bytes-disagree"),
        pytest.param(b"\x80\x04\x95pickle" * 100, id="pickle"),
    ],
)
def test_a_corrupt_file_is_named(content, read, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.safetensors \({len(content)} bytes\).*download it again"):
        read(path)


def test_a_dtype_that_numpy_lacks_is_named(tmp_path):
    (tmp_path / "f8.safetensors").write_bytes(raw_safetensors("F8_E4M3", [2], b"12"))
    with pytest.raises(ValueError, match=r"f8\.safetensors: tensor 'x' has dtype F8_E4M3; expected one of F64, F32"):
        read_safetensors(tmp_path / "f8.safetensors")


@pytest.mark.parametrize("read", [read_safetensors, read_safetensors_metadata, read_json])
def test_a_missing_file_is_named(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere$"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"no file {re.escape(str(tmp_path))}$"):
        read(tmp_path)  # a folder


@pytest.mark.parametrize(
    ("value", "found"),
    [(np.zeros(2, "c16"), "complex128"), (np.array(["a"]), "<U1"), (np.array([None]), "object"), ([1.0], "a list")],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(value, found, tmp_path):
    with pytest.raises(TypeError, match=rf"cannot write 'bad' to .*{found}"):
        write_safetensors(tmp_path / "t.safetensors", {"good": np.zeros(2), "bad": value})
    assert list(tmp_path.iterdir()) == []


# --- checkpoints ---------------------------------------------------------------------------------------------------

A, B, C = np.float32([1]), np.float32([2, 2]), np.float32([3])


@pytest.fixture
def sharded(tmp_path):
    write_safetensors(tmp_path / "model-1.safetensors", {"a": A, "b": B})
    write_safetensors(tmp_path / "model-2.safetensors", {"c": C})
    weight_map = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return tmp_path


def test_a_sharded_checkpoint_reads_like_a_single_file(sharded, tmp_path_factory):
    single = tmp_path_factory.mktemp("single")
    write_safetensors(single / "model.safetensors", {"a": A, "b": B, "c": C})
    one, many = read_checkpoint(single), read_checkpoint(sharded)
    assert one.keys() == many.keys() == {"a", "b", "c"}
    assert all(np.array_equal(one[name], many[name]) for name in one)


def test_a_missing_shard(sharded):
    (sharded / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists shards that are not in its folder: model-2\.safetensors$"):
        read_checkpoint(sharded)


def test_a_listed_tensor_that_no_shard_holds(sharded):
    write_safetensors(sharded / "model-1.safetensors", {"a": A})
    with pytest.raises(ValueError, match=r"model-1\.safetensors lacks tensors that .* lists there: b$"):
        read_checkpoint(sharded)


@pytest.mark.parametrize("extra", ["d", "a"], ids=["unlisted", "duplicate"])
def test_a_tensor_in_a_shard_where_the_index_does_not_list_it(extra, sharded):
    write_safetensors(sharded / "model-2.safetensors", {"c": C, extra: A})
    with pytest.raises(ValueError, match=rf"model-2\.safetensors holds tensors that .* not at all: {extra}$"):
        read_checkpoint(sharded)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], 'no "weight_map"'),
        ({"weight_map": {}}, 'no "weight_map"'),
        ({"weight_map": {"a": "../model-1.safetensors"}}, "expected the name of a file beside it"),
        ({"weight_map": {"a": 3}}, "expected the name of a file beside it"),
    ],
)
def test_a_bad_index(index, message, sharded):
    write_json(sharded / "model.safetensors.index.json", index)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(sharded)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json$"):
        read_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle, which is never opened"):
        read_checkpoint(tmp_path)


# --- JSON ----------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcł\n", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(value=json_values)
def test_json_round_trip(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_json_is_made_for_reading(tmp_path):
    write_json(tmp_path / "config.json", {"r": 8, "name": "Łucja"})
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == '{\n  "r": 8,\n  "name": "Łucja"\n}\n'


def test_invalid_json_is_located(tmp_path):
    (tmp_path / "bad.json").write_text('{\n  "r": 8,\n  "alpha" 16\n}')
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON: line 3, column 11: Expecting ':'"):
        read_json(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_bytes(b'{"r\xff": 8}')
    with pytest.raises(ValueError, match=r"bad\.json is not UTF-8 text \(byte 3\)"):
        read_json(tmp_path / "bad.json")


@pytest.mark.parametrize(("value", "error"), [({1, 2}, TypeError), (float("nan"), ValueError), ("\ud800", ValueError)])
def test_what_json_cannot_say_leaves_the_old_file(value, error, tmp_path):
    write_json(tmp_path / "a.json", {"r": 8})
    with pytest.raises(error):
        write_json(tmp_path / "a.json", {"r": value})
    assert read_json(tmp_path / "a.json") == {"r": 8}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


# --- atomic writes -------------------------------------------------------------------------------------------------


def test_a_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replace_file(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with replace_file(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "t.safetensors", {"x": np.zeros(2)})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_safetensors(tmp_path / "t.safetensors", {"x": np.ones(2)})
    assert read_safetensors(tmp_path / "t.safetensors")["x"].tolist() == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    for function in ("fsync", "replace"):
        original = getattr(os, function)
        monkeypatch.setattr(os, function, lambda *a, f=function, o=original: (calls.append(f), o(*a)))
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize("write", [lambda p: write_text(p, "x"), lambda p: write_safetensors(p, {})])
def test_written_files_have_ordinary_permissions(write, tmp_path):
    (tmp_path / "ordinary").touch()
    write(tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def files_below(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_appears_only_when_complete(tmp_path):
    path = tmp_path / "runs" / "step-10"
    with new_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert files_below(tmp_path) == {re.sub("/", os.sep, "runs/step-10/a"): "1"}


def test_a_folder_is_replaced_whole(tmp_path):
    for content in "12":
        with new_folder(tmp_path / "step") as temporary:
            (temporary / content).write_text(content)
    assert files_below(tmp_path) == {os.path.join("step", "2"): "2"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_folder_leaves_the_old_one(error, tmp_path):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "a").write_text("old")

    def fail() -> None:
        with new_folder(tmp_path / "step") as temporary:
            (temporary / "a").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert files_below(tmp_path) == {os.path.join("step", "a"): "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_folder_rename_puts_the_old_one_back(tmp_path, monkeypatch):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "a").write_text("old")
    rename = Path.rename

    def rename_but_not_the_new_folder(self, target):
        if self.suffix == ".tmp":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_but_not_the_new_folder)
    with pytest.raises(OSError, match="no"), new_folder(tmp_path / "step") as temporary:
        (temporary / "a").write_text("new")
    assert files_below(tmp_path) == {os.path.join("step", "a"): "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_not_written_over_a_file(tmp_path):
    (tmp_path / "step").write_text("mine")
    with pytest.raises(FileExistsError, match="step is a file"), new_folder(tmp_path / "step"):
        pass
    assert files_below(tmp_path) == {"step": "mine"}
