"""Split lists that lie, and where their songs are looked for: never outside the data folder."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import ALBUMS, ARTISTS
from hypothesis import given
from hypothesis import strategies as st

from artist20 import UserError, collection, dataset

FIRST = next(iter(ARTISTS))


def read_list(data_dir: Path) -> list[str]:
    return json.loads((data_dir / "train.json").read_text(encoding="utf-8"))


def refusal(data_dir: Path, paths: list[str], encoding: str = "utf-8") -> str:
    """Write train.json, and return the one line that reading it ends in."""
    (data_dir / "train.json").write_text(json.dumps(paths), encoding=encoding)
    with pytest.raises(UserError) as caught:
        dataset.read_split(data_dir, "train")
    message = str(caught.value)
    assert "train.json" in message
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("../../outside.mp3", "leaves the data folder"),
        ("./train_val/../../outside.mp3", "leaves the data folder"),
        ("/etc/passwd", "leaves the data folder"),
        ("//host/share/a/b.mp3", "leaves the data folder"),
        ("C:/music/a/b.mp3", "has not the form"),
        (".\\train_val\\a\\b\\c.mp3", "has a backslash in it"),
        ("./train_val/a/b/two\nlines.mp3", "1 of 13 songs are missing"),
        ("./train_val/a/b/nul\0.mp3", "1 of 13 songs are missing"),
        ("./train_val/a/b/\udcff.mp3", "is no UTF-8"),
        (f"./train_val/{FIRST}/{ALBUMS[0]}/" + "x" * 300, "File name too long"),
    ],
)
def test_an_entry_that_is_no_song_of_the_folder(tiny_copy, entry, reason):
    assert reason in refusal(tiny_copy, [*read_list(tiny_copy), entry])
    assert collection.main(["check", str(tiny_copy)]) == 1


def test_duplicates_in_every_spelling(tiny_copy):
    paths = read_list(tiny_copy)
    for spelling in (paths[0], paths[0].removeprefix("./"), paths[0].replace("/", "//", 2)):
        assert "more than once" in refusal(tiny_copy, [*paths, spelling])


def test_another_case_is_another_song(tiny_copy):
    first, *rest = read_list(tiny_copy)
    other = first.replace(FIRST, FIRST.upper())
    if (tiny_copy / other).exists():
        pytest.skip("this file system does not tell them apart")
    message = refusal(tiny_copy, [other, *rest])
    assert "1 of 12 songs are missing" in message
    assert FIRST.upper() in message


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_lists_in_other_encodings_are_told(tiny_copy, encoding):
    text = json.dumps(read_list(tiny_copy), ensure_ascii=False)
    (tiny_copy / "train.json").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"train\.json is no valid JSON"):
        dataset.read_split(tiny_copy, "train")


def test_a_list_with_a_byte_order_mark_is_read(tiny_copy):
    paths = read_list(tiny_copy)
    (tiny_copy / "train.json").write_text(json.dumps(paths), encoding="utf-8-sig")
    assert [song.path for song in dataset.read_split(tiny_copy, "train")] == paths


def test_a_list_of_great_depth_is_told(tiny_copy):
    (tiny_copy / "train.json").write_text("[" * 10**6)
    with pytest.raises(UserError, match=r"train\.json is no valid JSON"):
        dataset.read_split(tiny_copy, "train")


@pytest.mark.parametrize("level", ["song", "album", "artist"])
def test_links_out_of_the_folder_are_refused(tiny_copy, tmp_path, level):
    paths = read_list(tiny_copy)
    song = tiny_copy / paths[0]
    link = {"song": song, "album": song.parent, "artist": song.parent.parent}[level]
    outside = tmp_path / "outside"
    shutil.move(link, outside)
    link.symlink_to(outside)
    assert "is a link that leaves the data folder" in refusal(tiny_copy, paths)


@given(st.text(alphabet="./\\ab\0é\n\udcff:~$ ", max_size=30))
def test_no_entry_leads_out_of_the_folder(tmp_path_factory, entry):
    data_dir = tmp_path_factory.getbasetemp() / "data"
    for path in (entry, f"./train_val/{entry}", f"train_val/a/{entry}/c"):
        try:
            song = dataset.parse_song(data_dir, path)
        except UserError as error:
            assert str(error).isprintable()
            continue
        inside = os.path.normpath(song.file)
        assert inside.startswith(f"{data_dir}/train_val/")
        assert {song.artist, song.album} & {"", ".", ".."} == set()
