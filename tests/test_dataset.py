"""artist20.dataset: lists and where they lead, splits, folds, what a data set is known by."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ARTISTS
from hypothesis import given
from hypothesis import strategies as st

from artist20 import UserError, dataset
from artist20.dataset import Marker, Song
from artist20.results import Rendition

FIRST, SECOND, THIRD = ARTISTS


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_list(data_dir: Path, split: str, paths: object) -> None:
    (data_dir / f"{split}.json").write_text(json.dumps(paths), encoding="utf-8")


# --- lists -------------------------------------------------------------------------------------


def test_parse_song_with_every_kind_of_name():
    path = "./train_val/guns_n'_roses/¿Qué? (Live, [Disc 1])/01-St._O'Hara\\AC.mp3"
    song = dataset.parse_song(Path("data"), path)
    artist, album = "guns_n'_roses", "¿Qué? (Live, [Disc 1])"
    assert song == Song(path, artist, album, Path("data") / path)
    assert (song.record.path, song.record.group) == (path, f"{artist}/{album}")


LEAVES, FORM = "leaves the data folder", "has not the form './train_val/<artist>/<album>/<song>'"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("../../outside.mp3", LEAVES),
        ("./train_val/a/../../outside.mp3", LEAVES),
        ("/train_val/queen/Jazz/01.mp3", LEAVES),
        ("//host/share/a/b.mp3", LEAVES),
        (".\\train_val\\a\\b\\c.mp3", FORM),
        ("./queen/Jazz/song.mp3", FORM),
        ("./train_val/queen/song.mp3", FORM),
        ("./train_val/q/Box/CD1/s.mp3", FORM),
        ("./trainval/q/Box/s.mp3", FORM),
        ("", FORM),
    ],
)
def test_an_entry_that_is_no_song_of_the_folder(tmp_path, entry, reason):
    write_list(tmp_path, "train", [entry])
    with pytest.raises(UserError) as caught:
        dataset.read_split(tmp_path, "train")
    assert str(caught.value) == f"{tmp_path / 'train.json'}: {entry!r} {reason}"


@given(st.text(alphabet="./\\ab\0é\n:~$ ", max_size=30))
def test_no_entry_leads_out_of_the_folder(tmp_path_factory, entry):
    data_dir = tmp_path_factory.getbasetemp() / "data"
    for path in (entry, f"./train_val/{entry}", f"train_val/a/{entry}/c"):
        try:
            song = dataset.parse_song(data_dir, path)
        except UserError as error:
            assert str(error).isprintable()
            continue
        assert os.path.normpath(song.file).startswith(f"{data_dir}/train_val/")
        assert {song.artist, song.album} & {"", ".", ".."} == set()


@pytest.mark.parametrize("level", ["song", "album", "artist"])
def test_links_out_of_the_folder_are_refused(tmp_path, level):
    path = "./train_val/queen/Jazz/01.mp3"
    song, outside = tmp_path / "data" / path, tmp_path / "outside"
    song.parent.mkdir(parents=True)
    song.touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")  # which is fine
    assert dataset.parse_song(tmp_path / "link", path).file == tmp_path / "link" / path
    link = {"song": song, "album": song.parent, "artist": song.parent.parent}[level]
    shutil.move(link, outside)
    link.symlink_to(outside)
    with pytest.raises(UserError, match="is a link that leaves the data folder"):
        dataset.parse_song(tmp_path / "data", path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is missing: run 'bash get_dataset.sh'"),
        ("[1, 2", "is no JSON list of paths "),
        (b'["caf\xe9"]', "is no JSON list of paths "),
        ("[]".encode("utf-16"), "is no JSON list of paths "),
        ("[" * 10**6, "is no JSON list of paths "),
        ('{"a": 1}', "is no JSON list of paths (Expected `array`, got `object`)"),
        ("[1]", "is no JSON list of paths (Expected `str`, got `int` - at `$[0]`)"),
        ('["./train_val/a/b/\\udcff.mp3"]', "is no JSON list of paths "),
        ("[]", "lists no songs"),
        (
            '["./train_val/a/b/c.mp3", "train_val/a//b/c.mp3"]',
            "lists 'train_val/a//b/c.mp3' more than once",
        ),
        (
            '["./train_val/a/b/two\\nlines", "./train_val/a/b/\\u0000"]',
            ": 2 of 2 songs are missing, the first is {folder}/train_val/a/b/two\\nlines; ",
        ),
    ],
)
def test_read_split_says_what_is_wrong(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "val.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        dataset.read_split(tmp_path, "val")
    said = str(caught.value).removeprefix(str(tmp_path / "val.json")).lstrip(" ")
    assert said.startswith(reason.format(folder=tmp_path))
    assert said.isprintable()


def test_a_data_dir_that_is_a_file_is_a_users_mistake(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"data\.zip/train.json is missing"):
        dataset.read_split(tmp_path / "data.zip", "train")


@pytest.mark.parametrize(
    ("name", "tidied", "key"),
    [
        (" Sigur Ro\u0301s ", "Sigur R\u00f3s", "sigur r\u00f3s"),
        ("Straße", "Straße", "strasse"),
        (" .. ", " .. ", " .. "),  # which without its spaces would lead out of a folder
    ],
)
def test_names_are_compared_without_case_spaces_and_unicode_form(name, tidied, key):
    assert (dataset.tidy(name), dataset.spelling_key(name)) == (tidied, key)


# --- splits ------------------------------------------------------------------------------------


def test_read_split_keeps_the_lists_order(tiny_copy):
    paths = read_json(tiny_copy / "train.json")[::-1]
    (tiny_copy / "train.json").write_text(json.dumps(paths), encoding="utf-8-sig")
    songs = dataset.read_split(tiny_copy, "train")
    assert [song.path for song in songs] == paths
    left = dataset.read_split(tiny_copy, "train", left_out={paths[0], paths[5]})
    assert left == songs[1:5] + songs[6:]


def test_another_case_is_another_song(tiny_copy):
    first, *rest = read_json(tiny_copy / "train.json")
    other = first.replace(FIRST, FIRST.upper())
    if (tiny_copy / other).exists():
        pytest.skip("this file system does not tell them apart")
    write_list(tiny_copy, "train", [other, *rest])
    with pytest.raises(UserError, match=rf"1 of 12 songs are missing.*{FIRST.upper()[:5]}"):
        dataset.read_split(tiny_copy, "train")


def keyed(songs, keys):
    """Give songs' files content keys of a letter each."""
    return {song.file: key for song, key in zip(songs, keys, strict=True)}


def songs_of(n_artists: int, n_albums: int, n_songs: int) -> list[Song]:
    paths = [
        f"./train_val/{'abc'[a]}/{'xyz'[b]}/{c}"
        for a in range(n_artists)
        for b in range(n_albums)
        for c in range(n_songs)
    ]
    return [dataset.parse_song(Path("data"), path) for path in paths]


def test_first_songs_spread_over_artists_then_albums():
    songs = songs_of(3, 2, 2)
    turns = ["a/x/0", "b/x/0", "c/x/0", "a/y/0", "b/y/0", "c/y/0", "a/x/1", "b/x/1"]
    for limit in range(1, 9):
        kept = dataset.first_songs(songs, limit)
        expected = sorted(turns[:limit])  # the list's order
        assert [song.path.removeprefix("./train_val/") for song in kept] == expected
    assert dataset.first_songs(songs, 100) == songs


def test_a_limit_looks_for_the_songs_it_keeps_alone(tiny_copy):
    (tiny_copy / read_json(tiny_copy / "train.json")[-1]).unlink()
    train, val = dataset.read_train_val(tiny_copy, limit=3)
    assert dataset.class_names(train) == dataset.class_names(val) == sorted(ARTISTS)
    assert (len(train), len(val)) == (3, 3)
    assert dataset.class_indices(val[::-1], ["x", *sorted(ARTISTS)]).tolist() == [3, 2, 1]
    with pytest.raises(UserError, match="1 of 12 songs are missing"):
        dataset.read_split(tiny_copy, "train")


def test_read_train_val_needs_artists_that_can_be_told_apart(tiny_copy):
    train = read_json(tiny_copy / "train.json")
    write_list(tiny_copy, "train", [path for path in train if f"/{FIRST}/" in path])
    with pytest.raises(UserError, match="one artist only"):
        dataset.read_train_val(tiny_copy)
    write_list(tiny_copy, "train", [path for path in train if f"/{THIRD}/" not in path])
    with pytest.raises(UserError, match=f"^{tiny_copy} has .*no training songs, of {THIRD}"):
        dataset.read_train_val(tiny_copy)
    with pytest.raises(UserError, match=f"^with --limit 1, {tiny_copy} has .*one artist only"):
        dataset.read_train_val(tiny_copy, limit=1)


# --- folds and other versions --------------------------------------------------------------------


def test_albums_are_shared_out_in_folds(monkeypatch):
    """Two artists with six albums each, of two songs and of one."""
    artists = np.array(["a"] * 12 + ["b"] * 6)
    albums = np.array([f"a/{i // 2}" for i in range(12)] + [f"b/{i}" for i in range(6)])
    for n_folds in (2, 3, 6):
        monkeypatch.setattr(dataset, "N_FOLDS", n_folds)
        folds = dataset.album_folds(artists, albums, seed=1)
        assert len(folds) == n_folds
        assert sorted(np.concatenate([fold for _, fold in folds]).tolist()) == list(range(18))
        for fit, fold in folds:
            assert fit.tolist() == sorted(set(range(18)) - set(fold.tolist()))
            assert fold.tolist() == sorted(fold)
            assert (artists[fold] == "a").sum() == 12 // n_folds
            assert (artists[fold] == "b").sum() == 6 // n_folds
            assert not set(albums[fold]) & set(np.delete(albums, fold))
    monkeypatch.setattr(dataset, "N_FOLDS", 3)
    expected = [[2, 3, 4, 5, 16, 17], [0, 1, 6, 7, 12, 15], [8, 9, 10, 11, 13, 14]]
    found = (
        [fold.tolist() for _, fold in dataset.album_folds(artists, albums, seed)] for seed in (1, 2)
    )
    assert [folds == expected for folds in found] == [True, False]
    # A fold that would be empty is none.
    sizes = {"0/0": 1, "0/1": 1, "1/0": 30, "1/1": 30, "2/0": 1}
    albums = np.repeat(list(sizes), list(sizes.values()))
    artists = np.array([album[0] for album in albums])
    monkeypatch.undo()
    assert len(dataset.album_folds(artists, albums, seed=0)) == 4
    # Nor are there folds of one album, or where every artist has one song.
    assert dataset.album_folds(artists, np.full(len(artists), "0"), seed=0) == []
    assert dataset.album_folds(np.arange(5), np.arange(5), seed=0) == []


def make_tree(folder: Path, n_songs: list[list[int]]) -> list[str]:
    """List training songs of artists and albums that are files with a byte in them."""
    paths = [
        f"./train_val/artist {a}/album {b}/{c}.mp3"
        for a, of_artist in enumerate(n_songs)
        for b, of_album in enumerate(of_artist)
        for c in range(of_album)
    ]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    write_list(folder, "train", paths)
    return paths


def test_a_fold_is_held_out_of_the_training_songs(tmp_path):
    make_tree(tmp_path, 3 * [5 * [2]])  # val.json is not even there
    held_out = []
    for fold in range(1, 6):
        train, held, classes = dataset.read_to_fit(tmp_path, fold)
        assert classes == ["artist 0", "artist 1", "artist 2"]
        assert [s.artist for s in held] == [name for name in classes for _ in range(2)]
        assert [s for s in dataset.read_split(tmp_path, "train") if s not in held] == train
        held_out.append("".join(song.album[-1] for song in held[::2]))
    # The same in every run: folds are run one by one, and put together.
    assert held_out == ["103", "211", "340", "432", "024"]


def test_without_a_fold_the_validation_songs_are_scored(tiny_data):
    train, val, classes = dataset.read_to_fit(tiny_data, None)
    assert (train, val) == dataset.read_train_val(tiny_data)
    assert classes == sorted(ARTISTS)


@pytest.mark.parametrize(
    "n_songs",
    [[[5, 5], [5, 5]], [[1], [1], [1], [1], [1]], [[4, 4, 4, 4]], [[1, 1], [30, 30], [1]]],
)
def test_folds_of_too_few_albums_or_songs_are_refused(tmp_path, n_songs):
    make_tree(tmp_path, n_songs)
    with pytest.raises(UserError, match="too few training albums or songs for 5 folds"):
        dataset.read_to_fit(tmp_path, 1)


def test_alternate_versions_are_found_by_name_and_missing_ones_are_counted(tmp_path):
    paths = make_tree(tmp_path / "data", [[1, 1], [1, 1]])
    make_tree(tmp_path / "vocals", [[1, 1], [1, 1]])
    songs = dataset.read_split(tmp_path / "data", "train")
    others = dataset.alternate_versions(songs, tmp_path / "vocals")
    assert [song.file for song in others] == [tmp_path / "vocals" / path for path in paths]
    assert [song.record for song in others] == [song.record for song in songs]
    (tmp_path / "vocals" / paths[1]).unlink()
    with pytest.raises(UserError) as caught:
        dataset.alternate_versions(songs, tmp_path / "vocals", "--audio-root")
    assert str(caught.value) == (
        f"--audio-root {tmp_path / 'vocals'}: 1 of 4 songs are missing, the first is "
        f"{tmp_path / 'vocals' / paths[1]}"
    )


def test_vocals_of_songs_that_have_changed_since_are_refused(tmp_path):
    songs = [
        Song(path=f"a/b/{i}.mp3", artist="a", album="b", file=tmp_path / f"{i}.mp3")
        for i in range(3)
    ]
    keys = keyed(songs, "012")
    dataset.check_made_of(tmp_path, songs, keys)  # no vocals.json: made by other means
    made_of = {"settings": {}, "songs": {"a/b/0.mp3": "0", "a/b/1.mp3": "1"}}
    (tmp_path / "vocals.json").write_text(json.dumps(made_of))
    dataset.check_made_of(tmp_path, songs, keys)
    with pytest.raises(UserError, match=r"made of other files of 1 songs, the first is a/b/1\.mp3"):
        dataset.check_made_of(tmp_path, songs, keys | {songs[1].file: "changed"})
    (tmp_path / "vocals.json").write_text("{")
    with pytest.raises(UserError, match=r"vocals\.json is damaged"):
        dataset.check_made_of(tmp_path, songs, keys)


# --- test songs --------------------------------------------------------------------------------


def test_read_test(tiny_copy, capsys):
    test = tiny_copy / "test"
    (test / "003.mp3").rename(test / "003.MP3")
    for name in ("notes.txt", "a.jpg", "b.JPG", "list", ".DS_Store", "._001.mp3"):
        (test / name).write_text("not a song")
    for name in ("CD2", *dataset.SERVICE_FOLDERS, ".Trashes"):
        (test / name).mkdir()
    (test / "two\nlines.mp3").write_bytes(b"")
    songs = dataset.read_test(tiny_copy)
    assert capsys.readouterr().out == (
        f"note: no audio, left out of {test}: "
        "2 .jpg, 1 folder, 1 without suffix, 1 .txt; the first is CD2\n"
    )
    names = ["001.mp3", "002.mp3", "003.MP3", "two\nlines.mp3"]
    assert songs == {Path(name).stem: test / name for name in names}
    assert list(songs) == ["001", "002", "003", "two\nlines"]

    (test / os.fsdecode(b"caf\xe9.mp3")).write_bytes(b"")
    with pytest.raises(UserError, match=r"caf\\udce9\.mp3: its name is no UTF-8"):
        dataset.read_test(tiny_copy)
    shutil.copyfile(songs["001"], test / "001.flac")
    with pytest.raises(UserError, match=r"001\.flac and 001\.mp3"):
        dataset.read_test(tiny_copy)
    (test / "001.flac").rename(test / "1.flac")  # the same answer's
    with pytest.raises(UserError, match=r"001\.mp3 and 1\.flac"):
        dataset.read_test(tiny_copy)


def test_songs_in_the_data_folder_itself(tiny_copy, capsys):
    (tiny_copy / "train.json").unlink()
    for song in (tiny_copy / "test").iterdir():
        song.rename(tiny_copy / song.name)
    (tiny_copy / "test").rmdir()
    assert dataset.read_test(tiny_copy) == {
        name: tiny_copy / f"{name}.mp3" for name in ("001", "002", "003")
    }
    first, second = capsys.readouterr().out.splitlines()
    assert f"the test songs are those in {tiny_copy} itself" in first
    assert "2 .json, 1 folder" in second
    (tiny_copy / "test").mkdir()  # which comes first
    with pytest.raises(UserError, match="test holds no audio files"):
        dataset.read_test(tiny_copy)
    with pytest.raises(UserError, match="test is missing"):
        dataset.read_test(tiny_copy / "nowhere")


# --- renditions --------------------------------------------------------------------------------


def test_a_rendition_has_the_songs_names_and_the_trees_files(tmp_path):
    paths = make_tree(tmp_path / "data", [[1, 1], [1, 1]])
    tree = tmp_path / "vocals"
    make_tree(tree, [[1, 1], [1, 1]])
    songs = dataset.read_split(tmp_path / "data", "train")
    heard = dataset.as_heard(songs, tree)
    assert [song.file for song in heard] == [tree / path for path in paths]
    assert [song.record for song in heard] == [song.record for song in songs]
    found = dataset.describe_rendition(heard, keyed(heard, "klmn"), tree)
    of_songs = dataset.fingerprint(songs, keyed(songs, "klmn"))
    assert found == Rendition(name="vocals", fingerprint=of_songs)
    (tree / paths[1]).unlink()
    with pytest.raises(UserError, match=r"--audio-root .*vocals: 1 of 4 songs are missing"):
        dataset.as_heard(songs, tree)


def test_without_a_rendition_songs_are_heard_as_they_are(tmp_path):
    make_tree(tmp_path, [[1, 1], [1, 1]])
    songs = dataset.read_split(tmp_path, "train")
    assert dataset.as_heard(songs, None) == songs
    assert dataset.describe_rendition(songs, {}, None) is None
    assert dataset.heard_test_songs({"001": tmp_path}, None) == {"001": tmp_path}


def test_a_tree_that_no_model_can_be_named_after_is_refused_before_it_is_read(tmp_path):
    with pytest.raises(UserError, match="part of the model's"):
        dataset.as_heard([], tmp_path / "my vocals")


def test_test_songs_of_a_rendition_are_found_by_name_whatever_their_suffix(tmp_path):
    own = {key: tmp_path / f"{key}.mp3" for key in ("002", "001")}
    for file in own.values():
        file.touch()
    tree = tmp_path / "vocals"
    (tree / "test").mkdir(parents=True)
    for name in ("001.flac", "002.MP3", "003.mp3"):
        (tree / "test" / name).write_bytes(b"")
    heard = dataset.heard_test_songs(own, tree)
    assert heard == {"002": tree / "test/002.MP3", "001": tree / "test/001.flac"}
    assert list(heard) == ["002", "001"]
    made_of = {"settings": {}, "songs": {"./test/001.mp3": "another file's hash"}}
    (tree / "vocals.json").write_text(json.dumps(made_of))
    with pytest.raises(UserError, match=r"made of other files of 1 songs.*\./test/001\.mp3"):
        dataset.heard_test_songs(own, tree)
    (tree / "vocals.json").unlink()
    (tree / "test/002.MP3").unlink()
    with pytest.raises(UserError) as caught:
        dataset.heard_test_songs(own, tree)
    assert str(caught.value) == (
        f"--audio-root {tree}: 1 of 2 test songs are missing, the first is 002"
    )


# --- what a data set is known by -----------------------------------------------------------------


def test_artist20_is_known_by_its_lists(tiny_copy, monkeypatch):
    assert dataset.describe(tiny_copy) == Marker(name="tiny", synthesised=False)
    paths = sorted(read_json(tiny_copy / "train.json") + read_json(tiny_copy / "val.json"))
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    monkeypatch.setattr(dataset, "ARTIST20_LISTS", digest)
    assert dataset.describe(tiny_copy) == Marker(name="artist20", synthesised=False)
    write_list(tiny_copy, "train", read_json(tiny_copy / "train.json")[:-1])
    assert dataset.describe(tiny_copy).name == "tiny"
    tiny_copy.rename(tiny_copy.with_name("artist20"))
    assert dataset.describe(tiny_copy.with_name("artist20")).name == "artist20, other lists"


def test_a_data_folder_may_say_what_it_is(tmp_path):
    marker = tmp_path / "dataset.json"
    marker.write_text('{"name": "demo", "synthesised": true}')
    assert dataset.describe(tmp_path) == Marker(name="demo", synthesised=True)
    for text in ("{}", "[]", "no JSON"):
        marker.write_text(text)
        with pytest.raises(UserError, match=r"dataset\.json does not say"):
            dataset.describe(tmp_path)


def test_the_fingerprint_is_of_paths_and_contents(tmp_path):
    songs = songs_of(2, 1, 1)
    before = dataset.fingerprint(songs, keyed(songs, "kl"))
    lines = "./train_val/a/x/0\tk\n./train_val/b/x/0\tl"
    assert before == hashlib.sha256(lines.encode()).hexdigest()
    assert dataset.fingerprint(songs[::-1], keyed(songs, "kl")) == before
    assert dataset.fingerprint(songs, keyed(songs, "lk")) != before


def test_summary(tiny_data):
    train, val = dataset.read_train_val(tiny_data)
    keys = dataset.content_keys([*train, *val])
    assert list(keys) == [song.file for song in (*train, *val)]
    assert keys[train[0].file] == hashlib.sha256(train[0].file.read_bytes()).hexdigest()
    summary = dataset.summary(tiny_data, train, val[:1], keys, 7, {"x": "is empty"})
    assert summary.fingerprint == dataset.fingerprint([*train, val[0]], keys)
    assert (summary.artists, summary.train, summary.val, summary.limit) == (3, 12, 1, 7)
    assert summary.unreadable == {"x": "is empty"}
    assert (summary.label, summary.is_artist20) == ("tiny", False)


def test_songs_that_cannot_be_read_are_named_or_left_out(capsys):
    songs = songs_of(3, 1, 1)
    reasons = {"l": "is empty", "m": "is no file", "other": "is of another run"}
    with pytest.raises(UserError) as caught:
        dataset.check_readable(songs, keyed(songs, "klm"), reasons, skip=False)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("2 of 3 songs cannot be read; ")
    assert lines == ["data/train_val/b/x/0 is empty", "data/train_val/c/x/0 is no file"]
    assert capsys.readouterr().out == ""
    left_out = dataset.check_readable(songs, keyed(songs, "klm"), reasons, skip=True)
    assert left_out == {songs[1].path: "is empty", songs[2].path: "is no file"}
    assert capsys.readouterr().out.splitlines() == [
        *(f"left out: {line}" for line in lines),
        "2 of 3 songs are left out: they cannot be read",
    ]
    assert dataset.check_readable(songs, keyed(songs, "klm"), {}, skip=False) == {}
