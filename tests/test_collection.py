"""artist20.collection: checking a data folder, making one of somebody's own music."""

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

from artist20 import UserError, collection, dataset
from artist20.artifacts import only_writer


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_list(data_dir: Path, split: str, paths: object) -> None:
    (data_dir / f"{split}.json").write_text(json.dumps(paths), encoding="utf-8")


# --- check -------------------------------------------------------------------------------------


def test_check_of_a_good_folder(tiny_data, capsys):
    assert collection.main(["check", str(tiny_data)]) == 0
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
    assert collection.main(["check", str(tiny_copy)]) == 0
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
        return f"{song.relative_to(data_dir)} cannot be decoded"
    if kind == "empty":
        song.write_bytes(b"")
        return f"{song.relative_to(data_dir)} is empty"
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
        return "test/002.mp3 is empty"
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
    assert collection.main(["check", str(tiny_copy)]) == 1
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
    assert collection.main(["check", str(tiny_copy)]) == 1
    out = capsys.readouterr().out
    assert all(Path(path).name in out for path in paths[:4])
    assert out.endswith("4 problems\n")


def test_check_without_lists_is_a_users_mistake(tmp_path, capsys):
    with pytest.raises(UserError, match=r"^[^\n]*train\.json is missing[^\n]*$"):
        collection.main(["check", str(tmp_path)])
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
    return collection.main(["split", str(music), "--output", str(output), *options])


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

    assert collection.main(["check", str(output)]) == 0
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
    assert "02. Empty.m4a: is empty" in out
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
    assert collection.main(["check", str(tmp_path / "mine")]) == 0


def test_an_interrupted_split_leaves_no_data_set_and_the_next_one_works(
    music, tmp_path, monkeypatch
):
    links = iter(range(20))
    link = collection._link

    def interrupted(source: Path, target: Path) -> None:
        if next(links, None) is None:
            raise KeyboardInterrupt
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(collection, "_link", interrupted)
        with pytest.raises(KeyboardInterrupt):
            split(music, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    leftover = tmp_path / ".mine.partial" / "train_val" / "Old" / "Album" / "1.mp3"
    write_song(leftover, next(iter(ARTISTS)), 0, 0.5)
    assert split(music, tmp_path / "mine", "--test") == 0
    assert not (tmp_path / "mine" / "train_val" / "Old").exists()
    assert not (tmp_path / ".mine.partial").exists()
    assert collection.main(["check", str(tmp_path / "mine")]) == 0


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
    assert collection.main(["check", str(tmp_path / "mine")]) == 0


def test_lists_are_utf_8_whatever_the_locale(music, tmp_path):
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        assert split(music, tmp_path / "mine", "--test") == 0
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert "Sígur Rós" in (tmp_path / "mine" / "val.json").read_text(encoding="utf-8")


def test_split_names_what_lies_too_deep_or_too_high(tiny_data, tmp_path, capsys):
    music = tmp_path / "music"
    shutil.copytree(tiny_data / "train_val", music)
    song = next(music.rglob("*.mp3"))
    for place in ("Boxed/Album/CD1", "Loose"):
        (music / place).mkdir(parents=True)
        shutil.copyfile(song, music / place / "song.mp3")
    collection.split(music, tmp_path / "data", seed=0, with_test=False)
    printed = capsys.readouterr().out
    assert "Boxed/Album/CD1/song.mp3: it lies not in artist/album/" in printed
    assert "Loose/song.mp3: it lies not in artist/album/" in printed
