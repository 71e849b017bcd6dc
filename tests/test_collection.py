"""artist20.collection: checking a data folder, making one of somebody's own music."""

import hashlib
import json
import locale
import os
import shutil
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ALBUMS, ARTISTS, make_waveform, write_song

from artist20 import UserError, collection, dataset
from artist20.files import only_writer


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


def make_tree(root: Path, *paths: str) -> Path:
    """Write a short song to every path below ``root``, each one another."""
    for path in paths:
        seed = zlib.crc32(path.encode())
        write_song(root / path, list(ARTISTS)[seed % 3], seed, seconds=0.3)
    return root


def two_artists(root: Path) -> Path:
    """Music of two artists with two albums each, to which a test adds."""
    return make_tree(root, *(f"{artist}/{album}/1.mp3" for artist in "AB" for album in "xy"))


def listed(output: Path) -> dict[str, list[str]]:
    return {split: read_json(output / f"{split}.json") for split in ("train", "val")}


def test_split_names_what_lies_where_no_song_should(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    make_tree(music, "Boxed/Album/Bonus/1.mp3", "loose.mp3")
    assert split(music, tmp_path / "mine") == 0
    printed = capsys.readouterr().out
    assert f"left out {music}/Boxed/Album/Bonus/1.mp3: it lies not in artist/album/" in printed
    assert f"left out {music}/loose.mp3: it lies not in artist/album/" in printed


def test_split_names_what_is_no_audio(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    for album in "xy":
        (music / "A" / album / "cover.jpg").write_bytes(b"JPEG")
    (music / "A" / "x" / "notes").write_text("none")
    (music / "A" / "x" / "1.mp3").rename(music / "A" / "x" / "song without a suffix")
    assert split(music, tmp_path / "mine") == 0
    printed = capsys.readouterr().out
    line = f"note: no audio, left out of {music}: 2 .jpg, 1 without suffix; the first is cover.jpg"
    assert line in printed
    assert "A/x/song without a suffix" in str(listed(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("spellings", "chosen"),
    [
        (("Sigur R\u00f3s", "Sigur Ro\u0301s"), "Sigur R\u00f3s"),  # NFC and NFD
        (("queen", "Queen"), "Queen"),
        (("Queen ", " Queen"), "Queen"),
        (("\u00c9t\u00e9", "e\u0301te\u0301"), "\u00c9t\u00e9"),
    ],
)
def test_an_artist_of_several_spellings_is_one(tmp_path, capsys, spellings, chosen):
    music = two_artists(tmp_path / "music")
    make_tree(music, *(f"{name}/{album}/{album}.mp3" for name in spellings for album in "xyz"))
    make_tree(music, f"{spellings[spellings[0] != chosen]}/w/w.mp3")
    assert split(music, tmp_path / "mine", "--test") == 0
    printed = capsys.readouterr().out
    assert "are one artist: " + repr(chosen) in printed
    classes = dataset.class_names(dataset.read_split(tmp_path / "mine", "train"))
    assert classes == sorted(["A", "B", chosen])
    assert set(read_json(tmp_path / "mine" / "answers.json")) == {chosen}
    assert collection.main(["check", str(tmp_path / "mine")]) == 0


@pytest.mark.parametrize(
    "folders",
    [
        ("Wall (Disc 1)", "Wall (Disc 2)"),
        ("Wall CD1", "Wall CD2"),
        ("Wall_Disc_1", "Wall_Disc_2"),
        ("Wall [Disk One]", "Wall [Disk Two]"),
        ("Wall (Disc 1 of 2)", "Wall (Disc 2 of 2)"),
        ("Wall - cd 1", "wall - CD 2"),
        ("Wall/CD1", "Wall/CD2"),
        ("Wall/Disc 1 - Early", "Wall/Disc 2 - Late"),
        ("Wall", "Wall (Deluxe Edition)"),
        ("Wall", "Wall [2011 Remaster]"),
        ("Wall (Remastered) (Disc 1)", "Wall (Disc 2) [Remastered]"),
    ],
)
def test_discs_and_editions_of_an_album_are_one_album(tmp_path, capsys, folders):
    music = two_artists(tmp_path / "music")
    make_tree(music, *(f"A/{folder}/{n}.mp3" for folder in folders for n in (1, 2)))
    for seed in range(8):  # which album is held out
        output = tmp_path / f"mine{seed}"
        assert split(music, output, "--seed", str(seed)) == 0
        parts = [part for part in listed(output).values() if "/A/Wall/" in str(part)]
        assert len(parts) == 1
        assert str(parts).count("/A/Wall/") == 4
    if "/" not in folders[0]:
        printed = capsys.readouterr().out
        assert "\nA: " in printed
        assert "are kept together: 'Wall'" in printed


@pytest.mark.parametrize(
    "name",
    ["Discovery", "Disc-Overy", "Abcd 2", "Remastered", "1999", "Live (1984)", "Vol. 2", "CD1"],
)
def test_an_album_of_its_own_name_keeps_it(name):
    assert collection.main_album(name) == name


def test_songs_whose_names_differ_in_case_alone_get_others(tmp_path):
    music = make_tree(two_artists(tmp_path / "music"), "A/Wall/Song.mp3", "A/wall/song.mp3")
    assert split(music, tmp_path / "mine") == 0
    names = str(listed(tmp_path / "mine"))
    assert "A/Wall/Song.mp3" in names
    assert "A/Wall/song (2).mp3" in names


def test_no_name_leads_out_of_the_data_folder(tmp_path):
    paths = (f"{artist}/{album}/1.mp3" for artist in (".. ", " .") for album in (".. ", "x"))
    music = make_tree(two_artists(tmp_path / "music"), *paths)
    make_tree(music, ".. /..(CD1)/1.mp3", ".. /..(CD2)/1.mp3")
    assert split(music, tmp_path / "mine") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "music"]
    assert {song.artist for song in dataset.read_split(tmp_path / "mine", "train")} == {
        *(".. ", " .", "A", "B")
    }


def test_artists_are_named_in_a_line(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    make_tree(music, "one\nalbum/x/1.mp3")
    make_tree(music, *(f"VA feat.\n{n}/{album}/1.mp3" for n in "1" for album in "xy"))
    assert split(music, tmp_path / "mine", "--test") == 0
    printed = capsys.readouterr().out
    assert "left out one\\nalbum: 1 album" in printed
    assert "note: VA feat.\\n1 may be several" in printed
    assert "\nVA feat.\\n1 has 2 albums" in printed


def test_a_disc_without_another_keeps_its_name(tmp_path):
    music = make_tree(two_artists(tmp_path / "music"), "A/White_Album_Disc_1/1.mp3")
    assert split(music, tmp_path / "mine") == 0
    assert "./train_val/A/White_Album_Disc_1/1.mp3" in str(listed(tmp_path / "mine"))


def test_a_recording_that_comes_twice_is_kept_once(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    (music / "A" / "z").mkdir()
    data = (music / "A" / "x" / "1.mp3").read_bytes()
    (music / "A" / "z" / "same file.mp3").write_bytes(data)
    (music / "B" / "y" / "other tags.mp3").write_bytes(data + b"TAG" + bytes(125))
    (music / "Various" / "1").mkdir(parents=True)
    (music / "Various" / "1" / "hit.mp3").write_bytes((music / "B" / "x" / "1.mp3").read_bytes())
    audio_of, _ = soundfile.read(music / "A" / "y" / "1.mp3", dtype="float32")
    for subtype in ("PCM_16", "PCM_24"):  # that differ in their last digits
        soundfile.write(music / "A" / "z" / f"{subtype}.flac", audio_of, 16_000, subtype=subtype)
    assert split(music, tmp_path / "mine") == 0
    left_out = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert left_out == [
        f"left out {music}/{copy}: the same recording as {music}/{original}"
        for copy, original in (
            ("A/z/same file.mp3", "A/x/1.mp3"),
            ("B/y/other tags.mp3", "A/x/1.mp3"),
            ("Various/1/hit.mp3", "B/x/1.mp3"),
        )
    ]


def test_songs_of_silence_are_not_the_same(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    for album in "xy":
        soundfile.write(music / "A" / album / "pause.wav", np.zeros(16_000), 16_000)
    assert split(music, tmp_path / "mine") == 0
    assert "left out" not in capsys.readouterr().out
    collection.main(["check", str(tmp_path / "mine")])
    assert "the same recording" not in capsys.readouterr().out


def test_songs_that_begin_alike_are_not_the_same(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    silence = np.zeros(11 * 16_000, np.float32)
    for n, end in enumerate((0.1, 0.2)):
        soundfile.write(music / "A" / "x" / f"{n}.flac", np.append(silence, end), 16_000)
    assert split(music, tmp_path / "mine") == 0
    assert "left out" not in capsys.readouterr().out


def test_folders_of_other_programs_are_passed_over(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    for folder in (".Trashes", "@eaDir", "#recycle", "lost+found", "__MACOSX", "A/x/@eaDir"):
        make_tree(music, f"{folder}/x/1.mp3", f"{folder}/y/1.mp3")
    make_tree(music, ".38 Special/...And Justice/1.mp3", ".38 Special/y/1.mp3", "A/x/._1.mp3")
    assert split(music, tmp_path / "mine") == 0
    assert "left out" not in capsys.readouterr().out
    classes = dataset.class_names(dataset.read_split(tmp_path / "mine", "train"))
    assert classes == [".38 Special", "A", "B"]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    music = two_artists(tmp_path / "music")
    (music / "A" / "x" / "up").symlink_to(music)
    assert len(dataset.find_files(music)) == 4
    assert split(music, tmp_path / "mine") == 0


@pytest.mark.parametrize(
    ("artist", "note"),
    [
        ("Various Artists", "may be no artist"),
        ("VA", "may be no artist"),
        ("A feat. B", "may be several artists"),
        ("Vader", None),
        ("Left Ftx", None),
        ("Kraftwerk", None),
    ],
)
def test_artists_that_may_be_none_or_several_are_noted(tmp_path, capsys, artist, note):
    music = make_tree(two_artists(tmp_path / "music"), f"{artist}/x/1.mp3", f"{artist}/y/1.mp3")
    assert split(music, tmp_path / "mine") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == bool(note)
    assert not note or notes[0].startswith(f"note: {artist} {note}")


def tag(file: Path, artist: str) -> None:
    """Put an ID3v1 tag behind an MP3."""
    fields = b"Title".ljust(30, b"\0") + artist.encode().ljust(30, b"\0") + bytes(65)
    file.write_bytes(file.read_bytes() + b"TAG" + fields)


def test_songs_without_albums_are_albums_of_their_own(tmp_path, capsys):
    music = make_tree(tmp_path / "music", *(f"{a}/{n}.mp3" for a in "AB" for n in range(5)))
    for file in music.rglob("*.mp3"):
        tag(file, f"artist {file.parent.name}")
    assert split(music, tmp_path / "mine", "--test") == 0
    printed = capsys.readouterr().out
    assert f"note: 10 songs lie in no album, the first is {music}/A/0.mp3: each is taken" in printed
    lists = listed(tmp_path / "mine")
    assert [len(lists[part]) for part in ("train", "val")] == [6, 2]
    assert collection.main(["check", str(tmp_path / "mine")]) == 0


def test_one_artists_folder_is_told_by_its_tags_or_discs(tmp_path):
    music = make_tree(tmp_path / "Queen", *(f"{a}/{n}.mp3" for a in ("Jazz", "Hot") for n in "12"))
    for file in music.rglob("*.mp3"):
        tag(file, "Queen")
    with pytest.raises(UserError, match=r"Queen holds one artist's albums: pass its parent"):
        split(music, tmp_path / "mine")
    for broken in (b"", b"no music"):  # tells no artist
        (music / "Jazz" / "3.mp3").write_bytes(broken)
        assert split(music, tmp_path / f"mine{len(broken)}") == 0
    discs = make_tree(tmp_path / "Pink", "Wall/CD1/1.mp3", "Wall/CD2/1.mp3", "Live/Disc 1/1.mp3")
    with pytest.raises(UserError, match=r"Pink holds one artist's albums: pass its parent"):
        split(discs, tmp_path / "mine")
    album = make_tree(tmp_path / "album", "1.mp3", "2.mp3")
    with pytest.raises(UserError, match="album is to hold folders of artists, with albums in them"):
        split(album, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_raw_tree_is_to_be_split_first(tmp_path):
    music = two_artists(tmp_path / "music")
    for read in (collection.check, dataset.read_train_val):
        with pytest.raises(UserError, match=r"missing, but .*music holds music: run .*split"):
            read(music)


# --- check of names and recordings ---------------------------------------------------------------


def make_data(folder: Path, train: list[str], val: list[str]) -> Path:
    """Make a data folder of these songs, each one another, and a test song."""
    make_tree(folder, *(f"train_val/{path}" for path in (*train, *val)), "test/001.mp3")
    for split, paths in (("train", train), ("val", val)):
        write_list(folder, split, [f"./train_val/{path}" for path in paths])
    return folder


def said_of(folder: Path, capsys) -> tuple[list[str], list[str]]:
    """Return the problems and the notes that the check prints."""
    collection.main(["check", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    table = next(i for i, line in enumerate(lines) if line.startswith("split"))
    return lines[table + 4 : -1], [line.removeprefix("note: ") for line in lines[:table]]


@pytest.mark.parametrize(
    ("first", "second", "problem", "note"),
    [
        ("Wall (Disc 1)", "Wall (Disc 2)", "are one album", None),
        ("Wall_CD1", "wall", "are one album", None),
        ("Wall", "Wall (Deluxe)", None, "are editions of one album"),
        ("Wall", "Hall", None, None),
    ],
)
def test_check_names_divided_albums(tmp_path, capsys, first, second, problem, note):
    data = make_data(tmp_path, [f"A/{first}/1.mp3", "B/x/1.mp3"], [f"A/{second}/1.mp3"])
    line = f"A: {first!r} in train and {second!r} in val"
    problems, notes = said_of(data, capsys)
    assert problems == ([f"{line} {problem}"] if problem else [])
    assert notes == ([f"{line} {note}"] if note else [])


def test_check_names_artists_of_two_spellings(tmp_path, capsys):
    nfc, nfd = "Sigur R\u00f3s", "Sigur Ro\u0301s"
    data = make_data(tmp_path, [f"{nfc}/x/1.mp3", f"{nfd}/y/1.mp3", "B/x/1.mp3"], ["B/y/1.mp3"])
    problems, _ = said_of(data, capsys)
    assert problems == [f"{nfd!r} and {nfc!r} are spellings of one artist: use one of them"]


def test_check_names_a_song_whose_name_has_another_unicode_form(tmp_path, capsys):
    data = make_data(tmp_path, ["A/x/\u00e9.mp3", "B/x/1.mp3"], ["B/y/1.mp3"])
    (data / "train_val/A/x/\u00e9.mp3").rename(data / "train_val/A/x/e\u0301.mp3")
    problems, _ = said_of(data, capsys)
    path = "./train_val/A/x/\u00e9.mp3"
    assert problems == [f"train.json: {path!r} is missing, but for its Unicode form: rename it"]


def test_check_names_recordings_on_two_sides(tmp_path, capsys, monkeypatch):
    data = make_data(tmp_path, ["A/x/1.mp3", "A/x/2.mp3", "B/x/1.mp3"], ["B/y/1.mp3"])
    song = (data / "train_val/A/x/1.mp3").read_bytes()
    for copy in ("train_val/A/x/2.mp3", "train_val/B/y/1.mp3", "test/001.mp3"):
        (data / copy).write_bytes(song)
        tag(data / copy, copy)
    problems, notes = said_of(data, capsys)
    one, *rest = "train_val/A/x/1.mp3", "train_val/A/x/2.mp3", "train_val/B/y/1.mp3"
    line = f"{one}, {', '.join(rest)} and test/001.mp3 are the same recording"
    assert (problems, notes) == ([f"{line}, in train and val and test"], [])
    # The published split is as it is.
    monkeypatch.setattr(collection, "describe", lambda _: {"name": "artist20"})
    assert said_of(data, capsys) == ([], [f"{line}, in train and val and test"])


def test_check_names_copies_within_a_split_in_one_line(tmp_path, capsys):
    copies = [f"A/x/{n}.mp3" for n in range(8)]
    data = make_data(tmp_path, [*copies, "B/x/1.mp3"], ["B/y/1.mp3"])
    for copy in copies[1:]:
        shutil.copyfile(data / "train_val" / copies[0], data / "train_val" / copy)
    problems, notes = said_of(data, capsys)
    listed = ", ".join(f"train_val/{copy}" for copy in copies[:5])
    assert (problems, notes) == ([], [f"{listed} and 3 more are the same recording"])
