"""artist20.files: what is written comes back, and what is read can do no harm."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import Touch, refused, toy_model, toy_settings

from artist20 import UserError, checkpoints, classical, files

STAGE = "task0_stage.py"


# --- writing -----------------------------------------------------------------------------------


def test_atomic_path_replaces_only_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("write", "value"),
    [
        (files.write_json, {"x": float("nan")}),
        (files.write_json, {"x": float("inf")}),
        (files.write_json, {"x": object()}),
        (files.write_array, np.array([object()])),
        (
            checkpoints.save_model,
            toy_model(toy_settings("resnet"), {"x": lambda: None}, ["a", "b"]),
        ),
        (classical.write_sklearn, (i for i in range(3))),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, write, value):
    path = tmp_path / "a.npy"  # np.save would append another suffix
    path.write_text("old")
    with pytest.raises(Exception):  # noqa: B017 - each library has its own
        write(path, value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_with_or_without_a_mark(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "text").write_text("é", encoding=encoding)
        assert files.read_text(tmp_path / "text") == "é"
    (tmp_path / "text").write_text("é", encoding="latin-1")
    with pytest.raises(UserError, match="text is no UTF-8 text: save it as UTF-8"):
        files.read_text(tmp_path / "text")


def test_json_is_for_people_too(tmp_path):
    value = {"ä, [b] (c's)": [1, 0.1, None, True], "empty": {}}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n "ä, [b] (c\'s)": [\n  1,')
    assert text.endswith("}\n")
    assert json.loads(text) == value


def test_sha256_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1", float, 1.0),
        ('{"a": [1, 2]}', dict[str, list[int]], {"a": [1, 2]}),
        ('"ä"'.encode(), str, "ä"),
    ],
)
def test_json_of_the_type_is_parsed(text, kind, value):
    assert files.parse_json(text, kind) == value


def test_json_of_an_array_is_parsed():
    found = files.parse_json('{"svm": [[0, 0.5], [1e-9, 1]]}', dict[str, np.ndarray])["svm"]
    assert found.dtype == float
    assert found.tolist() == [[0, 0.5], [1e-9, 1]]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"", object),
        (b'{"a": 1', object),
        (b"\xff\xfe", object),
        ("[NaN]", object),
        ('{"a": Infinity}', object),
        ("1e999", object),
        ("[" * 100_000 + "]" * 100_000, object),
        ("true", float),
        ('"1"', float),
        ("1.5", int),
        *((row, np.ndarray) for row in ("[[1], [1, 2]]", '[["1"]]', "[[null]]", "[[true]]", "5")),
        (f"[[{'1' * 400}]]", np.ndarray),
    ],
)
def test_other_json_is_refused(text, kind):
    with pytest.raises(ValueError) as caught:
        files.parse_json(text, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["queen", "sigur_rós"]), np.zeros(0)],
)
def test_arrays_come_back(tmp_path, array):
    files.write_array(tmp_path / "a.npy", array)
    result = files.read_array(tmp_path / "a.npy", STAGE)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_an_array_with_pickle_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "a.npy", tmp_path / "marker"
    np.save(path, np.array([Touch(marker)]), allow_pickle=True)
    assert f"run {STAGE} again" in refused(files.read_array, path, STAGE)
    path.write_bytes(pickle.dumps(Touch(marker)))  # np.load would take a bare pickle, too
    refused(files.read_array, path, STAGE)
    assert not marker.exists()
    # The control, on a file made three lines above: read the unsafe way, it does run.
    np.load(path, allow_pickle=True)
    assert marker.exists()


def test_bad_arrays_are_named(tmp_path):
    path = tmp_path / "a.npy"
    files.write_array(path, np.zeros((30, 4)))
    whole = path.read_bytes()
    for size in (0, 3, 8, 40, 100, 128, 500, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert f"run {STAGE} again" in refused(files.read_array, path, STAGE)
    path.write_bytes(b"PK\x03\x04 no archive")
    refused(files.read_array, path, STAGE)
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))
    assert "is an archive, not an array" in refused(files.read_array, path, STAGE)


def test_arrays_with_any_byte_changed_are_read_or_named(tmp_path):
    path = tmp_path / "a.npy"
    files.write_array(path, np.zeros((3, 4)))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(128):  # the header
        changed = bytearray(whole)
        changed[position] = rng.integers(256)
        path.write_bytes(changed)
        try:
            files.read_array(path, STAGE)
        except UserError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("read", [files.read_bytes, files.read_array])
def test_what_is_missing_no_file_or_not_to_be_read_is_told_apart(tmp_path, monkeypatch, read):
    path = tmp_path / "a.x"
    assert refused(read, path, STAGE) == f"{path} is missing: run {STAGE} first"
    os.mkfifo(path)  # opening it would wait for ever
    no_file = f"{path} is no file: move it away, then run {STAGE} first"
    assert refused(read, path, STAGE) == no_file
    path.unlink()
    path.mkdir()
    assert refused(read, path, STAGE) == no_file
    path.rmdir()
    path.touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refused(read, path, STAGE) == f"{path} cannot be read (Permission denied): mend that"
