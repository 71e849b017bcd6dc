"""artist20.dataset: reading a data folder, checking it, making one of somebody's own music."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import ARTISTS, write_song

from artist20 import UserError, dataset


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_list(data_dir: Path, split: str, paths: object) -> None:
    (data_dir / f"{split}.json").write_text(json.dumps(paths), encoding="utf-8")


# --- read --------------------------------------------------------------------------------------


def test_parse_song_with_every_kind_of_name():
    path = "./train_val/guns_n'_roses/¿Qué? (Live, [Disc 1])/01-St._O'Hara.mp3"
    song = dataset.parse_song(Path("data"), path)
    assert song.path == path
    assert song.artist == "guns_n'_roses"
    assert song.album == "¿Qué? (Live, [Disc 1])"
    assert song.file == Path(
        "data/train_val/guns_n'_roses/¿Qué? (Live, [Disc 1])/01-St._O'Hara.mp3"
    )
    assert song.record() == {"path": path, "artist": song.artist, "album": song.album}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("./train_val/queen/../../../etc/passwd", "leaves"),
        ("/train_val/queen/Jazz/01.mp3", "leaves"),
        (".\\train_val\\queen\\Jazz\\01.mp3", "backslash"),
        ("./train_val/queen/Jazz/\udce9.mp3", "UTF-8"),
        ("queen/01.mp3", "form"),
        ("", "form"),
    ],
)
def test_parse_song_refuses(tmp_path, path, reason):
    with pytest.raises(UserError, match=reason) as caught:
        dataset.parse_song(tmp_path, path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    "path", ["./train_val/queen/song.mp3", "./queen/Jazz/song.mp3", "./train_val/q/Box/CD1/s.mp3"]
)
def test_a_path_of_another_depth_is_no_song(tmp_path, path):
    with pytest.raises(UserError, match="has not the form"):
        dataset.parse_song(tmp_path, path)


def test_parse_song_refuses_a_link_that_leaves_the_folder(tmp_path):
    write_song(tmp_path / "outside" / "01.mp3", next(iter(ARTISTS)), 0, 0.5)
    album = tmp_path / "data" / "train_val" / "queen" / "Jazz"
    album.mkdir(parents=True)
    (album / "01.mp3").symlink_to(tmp_path / "outside" / "01.mp3")
    with pytest.raises(UserError, match="link that leaves"):
        dataset.parse_song(tmp_path / "data", "./train_val/queen/Jazz/01.mp3")
    # A data folder that is a link itself is fine.
    (tmp_path / "link").symlink_to(tmp_path / "data")
    shutil.copyfile(tmp_path / "outside" / "01.mp3", album / "02.mp3")
    dataset.parse_song(tmp_path / "link", "./train_val/queen/Jazz/02.mp3")


def test_read_split_keeps_the_lists_order(tiny_data):
    songs = dataset.read_split(tiny_data, "train")
    assert [song.path for song in songs] == read_json(tiny_data / "train.json")
    assert len(songs) == 12


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is missing: run 'bash get_dataset.sh'"),
        ("[1, 2", "no valid JSON"),
        (b"\xff\xfe\x00", "no valid JSON"),
        ('{"a": 1}', "no JSON list of paths"),
        ("[1]", "no JSON list of paths"),
        ("[]", "lists no songs"),
        ('["../x/y/z.mp3"]', "'../x/y/z.mp3' leaves"),
        ('["z.mp3"]', "has not the form"),
        ('["./train_val/a/b/c.mp3", "./train_val/a/b/c.mp3"]', "'./train_val/a/b/c.mp3' more than"),
        ('["./train_val/a/b/c.mp3", "train_val/a//b/c.mp3"]', "'train_val/a//b/c.mp3' more than"),
        ('["./train_val/a/b/c.mp3"]', "1 of 1 songs are missing, the first is .*c.mp3.* check"),
    ],
)
def test_read_split_says_what_is_wrong(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "val.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=reason) as caught:
        dataset.read_split(tmp_path, "val")
    assert str(tmp_path / "val.json") in str(caught.value)


def test_a_data_dir_that_is_a_file_is_a_users_mistake(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"data\.zip"):
        dataset.read_split(tmp_path / "data.zip", "train")


def test_a_list_may_begin_with_a_byte_order_mark(tiny_copy):
    text = (tiny_copy / "train.json").read_bytes()
    (tiny_copy / "train.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert len(dataset.read_split(tiny_copy, "train")) == 12


def test_first_songs_spread_over_artists_then_albums():
    paths = [
        f"./train_val/{artist}/{album}/{song}"
        for artist in "abc"
        for album in "xyz"
        for song in "123"
    ]
    songs = [dataset.parse_song(Path("data"), path) for path in paths]
    for limit in range(1, len(songs) + 3):
        kept = dataset.first_songs(songs, limit)
        assert len(kept) == min(limit, len(songs))
        assert [song for song in songs if song in kept] == kept  # in the list's order
        per_artist = Counter(song.artist for song in kept)
        assert len(per_artist) == min(limit, 3)
        assert max(per_artist.values()) - min(per_artist.values()) <= 1
        albums = {(song.artist, song.album) for song in kept}
        assert len(albums) == min(limit, 9)


def test_read_train_val_with_a_limit(tiny_data):
    train, val = dataset.read_train_val(tiny_data, limit=3)
    assert dataset.class_names(train) == dataset.class_names(val) == sorted(ARTISTS)
    assert (len(train), len(val)) == (3, 3)


def test_a_limit_looks_for_the_songs_it_keeps_alone(tiny_copy):
    (tiny_copy / read_json(tiny_copy / "train.json")[-1]).unlink()
    assert len(dataset.read_split(tiny_copy, "train", limit=3)) == 3
    with pytest.raises(UserError, match="1 of 12 songs are missing"):
        dataset.read_split(tiny_copy, "train")


def test_read_train_val_needs_artists_that_can_be_told_apart(tiny_copy):
    train = read_json(tiny_copy / "train.json")
    first, second, third = ARTISTS
    write_list(tiny_copy, "train", [path for path in train if f"/{first}/" in path])
    with pytest.raises(UserError, match="one artist only"):
        dataset.read_train_val(tiny_copy)
    write_list(tiny_copy, "train", [path for path in train if f"/{third}/" not in path])
    with pytest.raises(UserError, match="no training songs, of " + third):
        dataset.read_train_val(tiny_copy)
    assert second in dataset.class_names(dataset.read_split(tiny_copy, "train"))


def test_read_test(tiny_copy, capsys):
    (tiny_copy / "test" / "notes.txt").write_text("not a song")
    (tiny_copy / "test" / "._001.mp3").write_text("macOS's notes on a song")
    (tiny_copy / "test" / "003.mp3").rename(tiny_copy / "test" / "003.MP3")
    songs = dataset.read_test(tiny_copy)
    line = f"note: no audio, left out of {tiny_copy / 'test'}: 1 .txt; the first is notes.txt\n"
    assert capsys.readouterr().out == line
    assert list(songs) == ["001", "002", "003"]
    assert songs["001"] == tiny_copy / "test" / "001.mp3"
    shutil.copyfile(songs["001"], tiny_copy / "test" / "001.flac")
    with pytest.raises(UserError, match=r"001\.flac and 001\.mp3"):
        dataset.read_test(tiny_copy)


def test_what_is_no_song_among_the_test_songs_is_named(tiny_copy, capsys):
    test = tiny_copy / "test"
    for name in ("notes.txt", "a.jpg", "b.JPG", "list", ".DS_Store"):
        (test / name).write_text("not a song")
    for name in ("CD2", *dataset.SERVICE_FOLDERS, ".Trashes"):
        (test / name).mkdir()
    dataset.read_test(tiny_copy)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"note: no audio, left out of {test}: "
        "2 .jpg, 1 folder, 1 without suffix, 1 .txt; the first is CD2"
    )


def test_songs_in_the_data_folder_itself(tiny_copy, capsys):
    (tiny_copy / "train.json").unlink()
    expected = [song.name for song in (tiny_copy / "test").iterdir()]
    for song in (tiny_copy / "test").iterdir():
        song.rename(tiny_copy / song.name)
    (tiny_copy / "test").rmdir()
    songs = dataset.read_test(tiny_copy)
    assert [song.name for song in songs.values()] == sorted(expected)
    assert songs["001"] == tiny_copy / "001.mp3"
    first, second = capsys.readouterr().out.splitlines()
    assert f"the test songs are those in {tiny_copy} itself" in first
    assert "2 .json, 1 folder" in second
    # A folder of that name comes first.
    (tiny_copy / "test").mkdir()
    with pytest.raises(UserError, match="test holds no audio files"):
        dataset.read_test(tiny_copy)


def test_read_test_without_songs(tmp_path):
    with pytest.raises(UserError, match="test is missing"):
        dataset.read_test(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        dataset.read_test(tmp_path)


# --- describe ----------------------------------------------------------------------------------


def test_artist20_is_known_by_its_lists(tiny_copy, monkeypatch):
    assert dataset.describe(tiny_copy) == {"name": "tiny", "synthesised": False}
    paths = sorted(read_json(tiny_copy / "train.json") + read_json(tiny_copy / "val.json"))
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    monkeypatch.setattr(dataset, "ARTIST20_LISTS", digest)
    assert dataset.describe(tiny_copy)["name"] == "artist20"
    write_list(tiny_copy, "train", read_json(tiny_copy / "train.json")[:-1])
    assert dataset.describe(tiny_copy)["name"] == "tiny"


def test_a_folder_that_is_called_artist20_need_not_be_it(tiny_copy):
    tiny_copy.rename(tiny_copy.with_name("artist20"))
    described = dataset.describe(tiny_copy.with_name("artist20"))
    assert described["name"] == "artist20, other lists"
    assert not dataset.is_artist20({**described, "limit": None})


def test_a_part_of_artist20_or_a_synthesised_one_is_not_artist20():
    whole = {"name": "artist20", "synthesised": False, "limit": None}
    assert dataset.is_artist20(whole)
    for change in ({"name": "demo"}, {"synthesised": True}, {"limit": 100}):
        assert not dataset.is_artist20(whole | change)


def test_a_data_folder_may_say_what_it_is(tiny_copy):
    marker = tiny_copy / "dataset.json"
    marker.write_text('{"name": "demo", "synthesised": true}')
    described = dataset.describe(tiny_copy)
    assert described == {"name": "demo", "synthesised": True}
    assert dataset.label(described) == "demo (synthesised songs)"
    assert dataset.label({"name": "artist20", "synthesised": False}) == "artist20"
    for text in ("{}", "[]", "no JSON"):
        marker.write_text(text)
        with pytest.raises(UserError, match=r"dataset\.json does not say"):
            dataset.describe(tiny_copy)


def test_the_fingerprint_is_of_paths_and_contents(tiny_copy, tmp_path):
    def fingerprint(data_dir: Path) -> str:
        songs = dataset.read_split(data_dir, "val")
        return dataset.fingerprint(songs, dataset.content_keys(songs))

    before = fingerprint(tiny_copy)
    moved = shutil.copytree(tiny_copy, tmp_path / "elsewhere")
    paths = read_json(tiny_copy / "val.json")
    write_list(moved, "val", paths[::-1])
    assert fingerprint(moved) == before  # neither the folder nor the order matters

    (moved / paths[0]).rename((moved / paths[0]).with_name("renamed.mp3"))
    renamed = f"{paths[0].rpartition('/')[0]}/renamed.mp3"
    write_list(moved, "val", [renamed, *paths[1:]])
    assert fingerprint(moved) != before

    content = bytearray((tiny_copy / paths[0]).read_bytes())
    content[-1] ^= 1  # of the same size
    (tiny_copy / paths[0]).write_bytes(content)
    assert fingerprint(tiny_copy) != before


def test_summary(tiny_data):
    train, val = dataset.read_train_val(tiny_data)
    keys = dataset.content_keys([*train, *val])
    assert keys[0] == hashlib.sha256(train[0].file.read_bytes()).hexdigest()
    summary = dataset.summary(tiny_data, train, val, keys, None)
    assert len(summary.pop("fingerprint")) == 64
    assert summary == {
        "name": "tiny",
        "synthesised": False,
        "artists": 3,
        "train": 12,
        "val": 6,
        "limit": None,
        "unreadable": {},
    }


# --- folds and other versions --------------------------------------------------------------------


def make_tree(folder, n_artists=3, n_albums=5, n_songs=2):
    """Training lists of songs that are files with a byte in them."""
    paths = [
        f"./train_val/artist {a}/album {b}/{c}.mp3"
        for a in range(n_artists)
        for b in range(n_albums)
        for c in range(n_songs)
    ]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    (folder / "train.json").write_text(json.dumps(paths))
    return paths


def test_folds_keep_albums_whole_and_hold_every_song_out_once(tmp_path):
    paths = make_tree(tmp_path)
    held_out = []
    for fold in range(1, 6):
        train, held, classes = dataset.read_to_fit(tmp_path, fold)
        assert classes == ["artist 0", "artist 1", "artist 2"]
        assert not {(s.artist, s.album) for s in train} & {(s.artist, s.album) for s in held}
        assert sorted(s.path for s in (*train, *held)) == sorted(paths)
        assert {s.artist for s in held} == set(classes)  # stratified
        held_out += [s.path for s in held]
    assert sorted(held_out) == sorted(paths)  # val.json is not even there


def test_folds_of_too_few_albums_are_refused(tmp_path):
    make_tree(tmp_path, n_artists=2, n_albums=2, n_songs=5)
    with pytest.raises(UserError, match="too few training albums"):
        dataset.read_to_fit(tmp_path, 1)


def test_twins_are_found_by_name_and_missing_ones_are_counted(tmp_path):
    paths = make_tree(tmp_path / "data")
    make_tree(tmp_path / "vocals")
    songs = dataset.read_split(tmp_path / "data", "train")
    twins = dataset.twins(songs, tmp_path / "vocals")
    assert [twin.file for twin in twins] == [tmp_path / "vocals" / path for path in paths]
    assert [twin.record() for twin in twins] == [song.record() for song in songs]
    (tmp_path / "vocals" / paths[3]).unlink()
    with pytest.raises(UserError, match=r"1 of 30 training songs .*artist 0/album 1/1.mp3"):
        dataset.twins(songs, tmp_path / "vocals")
