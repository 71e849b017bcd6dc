"""artist20.dataset: reading a data folder, checking it, making one of somebody's own music."""

import hashlib
import json
import locale
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ALBUMS, ARTISTS, make_waveform, write_song

from artist20 import UserError, dataset
from artist20.artifacts import only_writer


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


def test_read_test(tiny_copy):
    (tiny_copy / "test" / "notes.txt").write_text("not a song")
    (tiny_copy / "test" / "._001.mp3").write_text("macOS's notes on a song")
    (tiny_copy / "test" / "003.mp3").rename(tiny_copy / "test" / "003.MP3")
    songs = dataset.read_test(tiny_copy)
    assert list(songs) == ["001", "002", "003"]
    assert songs["001"] == tiny_copy / "test" / "001.mp3"
    assert list(dataset.read_test(tiny_copy, limit=2)) == ["001", "002"]
    shutil.copyfile(songs["001"], tiny_copy / "test" / "001.flac")
    with pytest.raises(UserError, match=r"001\.flac and 001\.mp3"):
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


# --- check -------------------------------------------------------------------------------------


def test_check_of_a_good_folder(tiny_data, capsys):
    assert dataset.main(["check", str(tiny_data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["split", "artists", "albums", "songs", "hours"]
    assert lines[1].split()[:4] == ["train", "3", "6", "12"]
    assert lines[2].split()[:4] == ["val", "3", "3", "6"]
    assert lines[3].split()[:4] == ["test", "-", "-", "3"]
    assert 12 * 2 / 3600 - 0.005 <= float(lines[1].split()[4]) <= 12 * 4 / 3600 + 0.005
    assert lines[4:] == ["no problems"]


def test_check_counts_hours(tiny_copy, capsys):
    samples = np.full(8_000 * 180, 0.1, np.float32)
    (tiny_copy / "test" / "001.mp3").unlink()
    soundfile.write(tiny_copy / "test" / "001.flac", samples, 8_000)
    assert dataset.main(["check", str(tiny_copy)]) == 0
    assert capsys.readouterr().out.splitlines()[3].split() == ["test", "-", "-", "3", "0.05"]


def damage(data_dir: Path, kind: str) -> str:
    """Damage a data folder, and return what must be said of it."""
    train, val = (read_json(data_dir / f"{split}.json") for split in ("train", "val"))
    song = data_dir / val[2]
    if kind == "missing":
        song.unlink()
        return f"{val[2]!r} is missing"
    if kind == "folder":
        song.unlink()
        song.mkdir()
        return f"{val[2]!r} is missing"
    if kind == "twice":
        write_list(data_dir, "val", [*val, val[1]])
        return f"{val[1]!r} is listed twice"
    if kind == "twice, spelled otherwise":
        write_list(data_dir, "val", [*val, val[1].removeprefix("./")])
        return f"{val[1].removeprefix('./')!r} is listed twice"
    if kind == "unreadable":
        song.write_text("no music at all " * 100)
        return f"{song.relative_to(data_dir)}: cannot be decoded"
    if kind == "empty":
        song.write_bytes(b"")
        return f"{song.relative_to(data_dir)}: empty"
    if kind == "leaving":
        write_list(data_dir, "val", [*val, "./train_val/../../x/y/z.mp3"])
        return "'./train_val/../../x/y/z.mp3' leaves the data folder"
    if kind == "malformed":
        write_list(data_dir, "train", [*train, "song.mp3"])
        return "train.json: 'song.mp3' has not the form"
    if kind == "stranger":
        first = next(iter(ARTISTS))
        write_list(data_dir, "train", [path for path in train if f"/{first}/" not in path])
        return f"train has no song of {first}"
    if kind == "album in both":
        moved = train[0]
        write_list(data_dir, "train", train[1:])
        write_list(data_dir, "val", [*val, moved])
        return f"{next(iter(ARTISTS))}/{ALBUMS[0]} is in both splits"
    if kind == "song in both":
        write_list(data_dir, "val", [*val, train[3]])
        return f"{train[3].removeprefix('./')} is in both splits"
    if kind == "test unreadable":
        (data_dir / "test" / "002.mp3").write_bytes(b"")
        return "test/002.mp3: empty"
    if kind == "test missing":
        shutil.rmtree(data_dir / "test")
        return "test is missing"
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "folder",
        "twice",
        "twice, spelled otherwise",
        "unreadable",
        "empty",
        "leaving",
        "malformed",
        "stranger",
        "album in both",
        "song in both",
        "test unreadable",
        "test missing",
    ],
)
def test_check_names_the_damage(tiny_copy, capsys, kind):
    expected = damage(tiny_copy, kind)
    assert dataset.main(["check", str(tiny_copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = lines[3 if kind == "test missing" else 4 : -1]
    assert any(expected in problem for problem in problems), problems
    assert lines[-1] == f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    assert len(problems) == (2 if kind == "song in both" else 1)  # its album is, too


def test_check_names_every_damage_at_once(tiny_copy, capsys):
    paths = read_json(tiny_copy / "train.json")
    for path in paths[:3]:
        (tiny_copy / path).unlink()
    (tiny_copy / paths[3]).write_bytes(b"")
    assert dataset.main(["check", str(tiny_copy)]) == 1
    out = capsys.readouterr().out
    assert all(Path(path).name in out for path in paths[:4])
    assert out.endswith("4 problems\n")


def test_check_without_lists_is_a_users_mistake(tmp_path, capsys):
    with pytest.raises(UserError, match=r"^[^\n]*train\.json is missing[^\n]*$"):
        dataset.main(["check", str(tmp_path)])
    assert capsys.readouterr().out == ""


# --- split -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Somebody's music: artists with 1, 2, 3, 9 and 14 albums of 2 songs, in several formats."""
    root = tmp_path_factory.mktemp("music")
    voices = list(ARTISTS)
    for i, (artist, n_albums) in enumerate(
        {
            "One, Only": 1,
            "Two's Company": 2,
            "Three [3]": 3,
            "Sígur Rós": 9,
            "Fourteen": 14,
        }.items()
    ):
        for album in range(n_albums):
            for song in range(2):
                extension = ("mp3", "flac", "ogg", "wav")[(album + song) % 4]
                file = root / artist / f"Album {album} [Disc, 1]" / f"0{song}. It's.{extension}"
                file.parent.mkdir(parents=True, exist_ok=True)
                waveform = make_waveform(voices[i % 3], 100 * i + 10 * album + song, 0.6)
                soundfile.write(file, waveform, 16_000)
        (root / artist / "Album 0 [Disc, 1]" / "cover.jpg").write_bytes(b"JPEG")
    return root


def albums_of(paths: list[str]) -> dict[str, set[str]]:
    albums = defaultdict(set)
    for path in paths:
        _, artist, album, _ = Path(path).parts
        albums[artist].add(album)
    return albums


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def split(music: Path, output: Path, *options: str) -> int:
    return dataset.main(["split", str(music), "--output", str(output), *options])


def test_split_is_by_album_about_4_1_1(music, tmp_path, capsys):
    before = digests(music)
    output = tmp_path / "new" / "mine"
    assert split(music, output, "--test") == 0
    out = capsys.readouterr().out
    assert "left out One, Only: 1 album" in out
    assert "Two's Company has 2 albums: none is set aside for the test" in out
    assert digests(music) == before

    train, val = (albums_of(read_json(output / f"{part}.json")) for part in ("train", "val"))
    answers = read_json(output / "answers.json")
    assert {artist: len(albums) for artist, albums in train.items()} == {
        "Two's Company": 1,
        "Three [3]": 1,
        "Sígur Rós": 5,
        "Fourteen": 10,
    }
    assert {artist: len(albums) for artist, albums in val.items()} == {
        "Two's Company": 1,
        "Three [3]": 1,
        "Sígur Rós": 2,
        "Fourteen": 2,
    }
    assert Counter(answers) == {"Three [3]": 2, "Sígur Rós": 4, "Fourteen": 4}
    assert all(not train[artist] & val[artist] for artist in train)

    # Nothing is in two places, and the answers are true: known by content.
    owners = {digest: Path(name).parts[:2] for name, digest in before.items()}
    test_files = list(dataset.read_test(output).values())
    assert [file.stem for file in test_files] == [f"{i:03}" for i in range(1, 11)]
    for file, answer in zip(test_files, answers, strict=True):
        artist, album = owners[hashlib.sha256(file.read_bytes()).hexdigest()]
        assert artist == answer
        assert album not in train[artist] | val[artist]
    for songs in dataset.read_train_val(output):
        for song in songs:
            digest = hashlib.sha256(song.file.read_bytes()).hexdigest()
            assert owners[digest] == (song.artist, song.album)
    assert sum(len(dataset.read_split(output, part)) for part in ("train", "val")) + 10 == 28 * 2

    assert dataset.main(["check", str(output)]) == 0
    assert not list(output.parent.glob(".*"))


def test_split_without_a_test_folder(music, tmp_path):
    assert split(music, tmp_path / "mine") == 0
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {
        "train.json",
        "val.json",
        "train_val",
    }
    n_songs = sum(len(dataset.read_split(tmp_path / "mine", part)) for part in ("train", "val"))
    assert n_songs == 28 * 2


def test_split_follows_its_seed(music, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert split(music, tmp_path / name, "--seed", seed, "--test") == 0
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert read_json(tmp_path / "a" / "val.json") != read_json(tmp_path / "c" / "val.json")
    assert digests(tmp_path / "a" / "test") != digests(tmp_path / "c" / "test")


def test_an_artists_albums_do_not_depend_on_the_other_artists(music, tmp_path):
    fewer = tmp_path / "fewer"
    for artist in ("Sígur Rós", "Three [3]"):
        shutil.copytree(music / artist, fewer / artist)
    assert split(music, tmp_path / "a") == 0
    assert split(fewer, tmp_path / "b") == 0
    a, b = (albums_of(read_json(tmp_path / name / "val.json")) for name in "ab")
    assert all(a[artist] == b[artist] for artist in b)


def test_split_refuses(music, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists"):
        split(music, tmp_path / "there")
    with pytest.raises(UserError, match="nowhere is no folder"):
        split(tmp_path / "nowhere", tmp_path / "mine")
    shutil.copytree(music / "Sígur Rós", tmp_path / "lonely" / "Sígur Rós")
    with pytest.raises(UserError, match="holds 1 artist"):
        split(tmp_path / "lonely", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_split_names_what_cannot_be_read(music, tmp_path, capsys):
    copy = Path(shutil.copytree(music, tmp_path / "music"))
    text = copy / "Sígur Rós" / "Album 1 [Disc, 1]" / "02. Text.mp3"
    text.write_text("no music")
    (copy / "Sígur Rós" / "Album 2 [Disc, 1]" / "02. Empty.m4a").touch()
    for file in (copy / "Two's Company" / "Album 0 [Disc, 1]").iterdir():
        file.write_bytes(b"")  # with it goes the artist's second album
    assert split(copy, tmp_path / "mine") == 0
    out = capsys.readouterr().out
    assert f"left out {text}: cannot be decoded" in out
    assert "02. Empty.m4a: cannot be decoded" in out
    assert "left out Two's Company: 1 album" in out
    assert "cover.jpg" not in out
    assert not list((tmp_path / "mine").rglob("02. *"))


@pytest.mark.parametrize(
    ("name", "shown"), [(b"AC\\DC", "AC\\DC"), (b"Beyonc\xe9", "Beyonc\\udce9")]
)
def test_split_leaves_out_what_no_list_can_hold(music, tmp_path, capsys, name, shown):
    copy = Path(shutil.copytree(music, tmp_path / "music"))
    try:
        (copy / "Fourteen").rename(copy / os.fsdecode(name))
    except OSError:
        pytest.skip("this file system has no such names")
    assert split(copy, tmp_path / "mine", "--test") == 0
    assert shown in capsys.readouterr().out
    assert dataset.class_names(dataset.read_split(tmp_path / "mine", "train")) == [
        "Sígur Rós",
        "Three [3]",
        "Two's Company",
    ]
    assert dataset.main(["check", str(tmp_path / "mine")]) == 0


def test_an_interrupted_split_leaves_no_data_set_and_the_next_one_works(
    music, tmp_path, monkeypatch
):
    links = iter(range(20))
    link = dataset._link

    def interrupted(source: Path, target: Path) -> None:
        if next(links, None) is None:
            raise KeyboardInterrupt
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_link", interrupted)
        with pytest.raises(KeyboardInterrupt):
            split(music, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    leftover = tmp_path / ".mine.partial" / "train_val" / "Old" / "Album" / "1.mp3"
    write_song(leftover, next(iter(ARTISTS)), 0, 0.5)
    assert split(music, tmp_path / "mine", "--test") == 0
    assert not (tmp_path / "mine" / "train_val" / "Old").exists()
    assert not (tmp_path / ".mine.partial").exists()
    assert dataset.main(["check", str(tmp_path / "mine")]) == 0


def test_split_is_made_by_one_run_at_a_time(music, tmp_path):
    with only_writer(tmp_path / ".mine.partial"):
        half = tmp_path / ".mine.partial" / "train.json"
        half.write_text("another's")
        with pytest.raises(UserError, match="another run is writing to"):
            split(music, tmp_path / "mine")
        assert half.read_text() == "another's"
    assert split(music, tmp_path / "mine") == 0


def test_split_links_where_it_can_and_copies_where_not(music, tmp_path, monkeypatch):
    assert split(music, tmp_path / "linked") == 0

    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert split(music, tmp_path / "copied") == 0
    assert digests(tmp_path / "linked") == digests(tmp_path / "copied")
    path = read_json(tmp_path / "linked" / "train.json")[0]
    source = music / Path(path).relative_to("train_val")
    assert (tmp_path / "linked" / path).samefile(source)
    assert not (tmp_path / "copied" / path).samefile(source)


def test_split_follows_links_to_the_music_itself(music, tmp_path):
    linked = tmp_path / "links"
    linked.mkdir()
    for artist in ("Sígur Rós", "Fourteen"):
        (linked / artist).symlink_to(music / artist)
    assert split(linked, tmp_path / "mine", "--test") == 0
    assert not any(file.is_symlink() for file in (tmp_path / "mine").rglob("*"))
    assert dataset.main(["check", str(tmp_path / "mine")]) == 0


def test_lists_are_utf_8_whatever_the_locale(music, tmp_path):
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        assert split(music, tmp_path / "mine", "--test") == 0
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert "Sígur Rós" in (tmp_path / "mine" / "val.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", ["./train_val/queen/song.mp3", "./queen/Jazz/song.mp3", "./train_val/q/Box/CD1/s.mp3"]
)
def test_a_path_of_another_depth_is_no_song(tmp_path, path):
    with pytest.raises(UserError, match="has not the form"):
        dataset.parse_song(tmp_path, path)


def test_split_names_what_lies_too_deep_or_too_high(tiny_data, tmp_path, capsys):
    music = tmp_path / "music"
    shutil.copytree(tiny_data / "train_val", music)
    song = next(music.rglob("*.mp3"))
    for place in ("Boxed/Album/CD1", "Loose"):
        (music / place).mkdir(parents=True)
        shutil.copyfile(song, music / place / "song.mp3")
    dataset.split(music, tmp_path / "data", seed=0, with_test=False)
    printed = capsys.readouterr().out
    assert "Boxed/Album/CD1/song.mp3: it lies not in artist/album/" in printed
    assert "Loose/song.mp3: it lies not in artist/album/" in printed


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
