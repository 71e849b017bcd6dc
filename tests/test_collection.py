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


def make_tree(root: Path, *paths: str) -> Path:
    """Write a short song to every path below ``root``, each one another."""
    for path in paths:
        seed = zlib.crc32(path.encode())
        write_song(root / path, list(ARTISTS)[seed % 3], seed, seconds=0.3)
    return root


def tag(file: Path, artist: str) -> None:
    """Put an ID3v1 tag behind an MP3."""
    fields = b"Title".ljust(30, b"\0") + artist.encode().ljust(30, b"\0") + bytes(65)
    file.write_bytes(file.read_bytes() + b"TAG" + fields)


# --- check -------------------------------------------------------------------------------------


def check(folder: Path, capsys) -> tuple[list[str], list[str]]:
    """Check a data folder; return the problems and the notes that are printed."""
    status = collection.main(["check", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    header, train, val = (
        next(i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        for name in ("split", "train", "val")
    )
    assert (train, val) == (header + 1, header + 2)
    first = val + 1 + lines[val + 1].startswith("test ")
    problems = lines[first:-1]
    assert lines[-1] == f"{len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''}"
    assert status == bool(problems)
    return problems, [line.removeprefix("note: ") for line in lines[:header]]


def test_check_of_a_good_folder(tiny_copy, capsys):
    (tiny_copy / "test" / "001.mp3").unlink()
    samples = np.full(8_000 * 180, 0.1, np.float32)
    soundfile.write(tiny_copy / "test" / "001.flac", samples, 8_000)
    assert collection.main(["check", str(tiny_copy)]) == 0
    *table, last = (line.split() for line in capsys.readouterr().out.splitlines())
    assert table[0] == ["split", "artists", "albums", "songs", "hours"]
    assert [row[:4] for row in table[1:]] == [
        ["train", "3", "6", "12"],
        ["val", "3", "3", "6"],
        ["test", "-", "-", "3"],
    ]
    assert table[3][4] == "0.05"
    assert last == ["no", "problems"]


FIRST = next(iter(ARTISTS))


def damage(data_dir: Path, kind: str) -> list[str]:
    """Damage a data folder, and return what must be said of it."""
    train, val = (read_json(data_dir / f"{split}.json") for split in ("train", "val"))
    song = data_dir / val[2]
    match kind:
        case "missing":
            for path in val[:2]:
                (data_dir / path).unlink()
            (data_dir / val[1]).mkdir()
            return [f"val.json: {path!r} is missing" for path in val[:2]]
        case "twice":
            write_list(data_dir, "val", [*val, val[1], val[2].removeprefix("./")])
            twice = val[1], val[2].removeprefix("./")
            return [f"val.json: {path!r} is listed twice" for path in twice]
        case "unreadable":
            song.write_text("no music at all " * 100)
            (data_dir / "test" / "002.mp3").write_bytes(b"")
            return [f"{song.relative_to(data_dir)} cannot be decoded", "test/002.mp3 is empty"]
        case "damaged":
            data = song.read_bytes()
            song.write_bytes(data[:12_000] + bytes(3_000) + data[15_000:])
            return [f"{song.relative_to(data_dir)} has "]
        case "malformed":
            write_list(data_dir, "train", [*train, "song.mp3", "./train_val/../../x/y/z.mp3"])
            leaves = "'./train_val/../../x/y/z.mp3' leaves the data folder"
            return ["train.json: 'song.mp3' has not the form", f"train.json: {leaves}"]
        case "stranger":
            write_list(data_dir, "train", [path for path in train if f"/{FIRST}/" not in path])
            return [f"val.json: train has no song of {FIRST}"]
        case "album in both":
            write_list(data_dir, "val", [*val, train[0]])
            return [f"{FIRST}/{ALBUMS[0]} is in both splits"]
        case "no test songs":
            shutil.rmtree(data_dir / "test")
            return [f"{data_dir / 'test'} is missing"]


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "twice", "unreadable", "damaged", "malformed", "stranger", "album in both"),
        "no test songs",
    ],
)
def test_check_names_every_damage(tiny_copy, capsys, kind):
    expected = damage(tiny_copy, kind)
    problems, _ = check(tiny_copy, capsys)
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


def test_check_without_lists_is_a_users_mistake(tmp_path, capsys):
    with pytest.raises(UserError, match=r"^[^\n]*train\.json is missing[^\n]*$"):
        collection.main(["check", str(tmp_path)])
    assert capsys.readouterr().out == ""


def make_data(folder: Path, train: list[str], val: list[str]) -> Path:
    """Make a data folder of these songs, each one another, and a test song."""
    make_tree(folder, *(f"train_val/{path}" for path in (*train, *val)), "test/001.mp3")
    for split, paths in (("train", train), ("val", val)):
        write_list(folder, split, [f"./train_val/{path}" for path in paths])
    return folder


def test_check_names_divided_albums_and_spellings(tmp_path, capsys):
    nfc, nfd = "Sigur R\u00f3s", "Sigur Ro\u0301s"
    divided = [
        ("Wall (Disc 1)", "Wall (Disc 2)", "one album"),
        ("Hall_CD1", "hall", "one album"),
        ("Ball", "Ball (Deluxe)", "editions of one album"),
        ("Call", "Fall", None),
    ]
    data = make_data(
        tmp_path,
        [*(f"A/{first}/1.mp3" for first, _, _ in divided), f"{nfc}/x/1.mp3"],
        [*(f"A/{second}/1.mp3" for _, second, _ in divided), f"{nfd}/y/1.mp3"],
    )
    lines = [f"A: {first!r} in train and {second!r} in val are" for first, second, _ in divided]
    problems, notes = check(data, capsys)
    assert problems == [
        f"val.json: train has no song of {nfd}",
        f"{nfd!r} and {nfc!r} are spellings of one artist: use one of them",
        f"{lines[1]} one album",
        f"{lines[0]} one album",
    ]
    assert notes == [f"{lines[2]} editions of one album"]


def test_check_names_recordings_on_two_sides(tmp_path, capsys, monkeypatch):
    data = make_data(tmp_path, ["A/x/1.mp3", "A/x/2.mp3", "B/x/1.mp3"], ["B/y/1.mp3"])
    song = (data / "train_val/A/x/1.mp3").read_bytes()
    for copy in ("train_val/A/x/2.mp3", "train_val/B/y/1.mp3", "test/001.mp3"):
        (data / copy).write_bytes(song)
        tag(data / copy, copy)
    line = (
        "train_val/A/x/1.mp3, train_val/A/x/2.mp3, train_val/B/y/1.mp3 and test/001.mp3 are the "
        "same recording, in train and val and test"
    )
    assert check(data, capsys) == ([line], [])
    # The published split is as it is.
    published = dataset.Marker(name="artist20", synthesised=False)
    monkeypatch.setattr(collection, "describe", lambda _: published)
    assert check(data, capsys) == ([], [line])


def test_check_names_copies_within_a_split_in_one_line(tmp_path, capsys):
    copies = [f"A/x/{n}.mp3" for n in range(8)]
    data = make_data(tmp_path, [*copies, "B/x/1.mp3"], ["A/y/1.mp3", "B/y/1.mp3"])
    for copy in copies[1:]:
        shutil.copyfile(data / "train_val" / copies[0], data / "train_val" / copy)
    for silent in ("A/y/1.mp3", "B/y/1.mp3"):  # of which there may be many
        soundfile.write(data / "train_val" / silent, np.zeros(16_000), 16_000)
    listed = ", ".join(f"train_val/{copy}" for copy in copies[:5])
    assert check(data, capsys) == (
        [],
        [
            *(f"train_val/{artist}/y/1.mp3 is silent throughout" for artist in "AB"),
            f"{listed} and 3 more are the same recording",
        ],
    )


# --- split -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    """Somebody's music: artists with 1, 2, 3, 9 and 14 albums of 2 songs, in several formats."""
    root = tmp_path_factory.mktemp("music")
    voices = list(ARTISTS)
    n_albums = {"One, Only": 1, "Two's Company": 2, "Three [3]": 3, "Sígur Rós": 9, "Fourteen": 14}
    for i, artist in enumerate(n_albums):
        for album in range(n_albums[artist]):
            for song in range(2):
                extension = ("mp3", "flac", "ogg", "wav")[(album + song) % 4]
                file = root / artist / f"Album {album} [Disc, 1]" / f"0{song}. It's.{extension}"
                file.parent.mkdir(parents=True, exist_ok=True)
                waveform = make_waveform(voices[i % 3], 100 * i + 10 * album + song, 0.3)
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


def test_split_is_by_album_about_4_1_1(music, tmp_path, capsys, monkeypatch):
    before = digests(music)
    linked = tmp_path / "links"  # which are followed
    linked.mkdir()
    for folder in music.iterdir():
        (linked / folder.name).symlink_to(folder)
    output = tmp_path / "new" / "mine"
    locale_before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        assert split(linked, output, "--test") == 0
    finally:
        locale.setlocale(locale.LC_CTYPE, locale_before)
    out = capsys.readouterr().out
    assert f"note: no audio, left out of {linked}: 5 .jpg; the first is cover.jpg" in out
    assert "left out One, Only: 1 album" in out
    assert "Two's Company has 2 albums: none is set aside for the test" in out
    assert digests(music) == before

    train, val = (albums_of(read_json(output / f"{part}.json")) for part in ("train", "val"))
    answers = read_json(output / "answers.json")
    kept = ("Two's Company", "Three [3]", "Sígur Rós", "Fourteen")
    assert [len(train[artist]) for artist in kept] == [1, 1, 5, 10]
    assert [len(val[artist]) for artist in kept] == [1, 1, 2, 2]
    assert Counter(answers) == {"Three [3]": 2, "Sígur Rós": 4, "Fourteen": 4}
    assert all(not train[artist] & val[artist] for artist in train)
    assert "Sígur Rós" in (output / "val.json").read_text(encoding="utf-8")

    # Nothing is in two places, and the answers are true: known by content.
    owners = {digest: Path(name).parts[:2] for name, digest in before.items()}
    test_files = list(dataset.read_test(output).values())
    assert [file.stem for file in test_files] == [f"{i:03}" for i in range(1, 11)]
    for file, answer in zip(test_files, answers, strict=True):
        artist, album = owners[hashlib.sha256(file.read_bytes()).hexdigest()]
        assert artist == answer
        assert album not in train[artist] | val[artist]
    songs = [song for part in dataset.read_train_val(output) for song in part]
    for song in songs:
        digest = hashlib.sha256(song.file.read_bytes()).hexdigest()
        assert owners[digest] == (song.artist, song.album)
        assert not song.file.is_symlink()
    assert len(songs) + 10 == 28 * 2
    assert collection.main(["check", str(output)]) == 0
    assert not list(output.parent.glob(".*"))


def test_split_follows_its_seed_and_links_where_it_can(music, tmp_path, monkeypatch):
    assert split(music, tmp_path / "linked", "--seed", "3", "--test") == 0

    def refuse(*_: object) -> None:
        raise OSError("Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert split(music, tmp_path / "copied", "--seed", "3", "--test") == 0
    assert digests(tmp_path / "linked") == digests(tmp_path / "copied")
    path = read_json(tmp_path / "linked" / "train.json")[0]
    source = music / Path(path).relative_to("train_val")
    assert (tmp_path / "linked" / path).samefile(source)
    assert not (tmp_path / "copied" / path).samefile(source)

    assert split(music, tmp_path / "other", "--seed", "4", "--test") == 0
    assert digests(tmp_path / "other" / "test") != digests(tmp_path / "linked" / "test")
    # An artist's albums do not depend on the other artists.
    fewer = tmp_path / "fewer"
    for artist in ("Sígur Rós", "Three [3]"):
        shutil.copytree(music / artist, fewer / artist)
    assert split(fewer, tmp_path / "part", "--seed", "3") == 0
    assert {file.name for file in (tmp_path / "part").iterdir()} == {
        *("train.json", "val.json", "train_val")
    }
    assert split(music, tmp_path / "whole", "--seed", "3") == 0
    part, whole = (albums_of(read_json(tmp_path / name / "val.json")) for name in ("part", "whole"))
    assert set(part) == {"Sígur Rós", "Three [3]"}
    assert all(part[artist] == whole[artist] for artist in part)


def test_split_refuses(music, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "lonely").mkdir()
    (tmp_path / "lonely" / "Sígur Rós").symlink_to(music / "Sígur Rós")
    for folder, output, message in (
        (music, "there", "there exists"),
        (tmp_path / "nowhere", "mine", "nowhere is no folder"),
        (tmp_path / "lonely", "mine", "holds 1 artist"),
        (music / "Fourteen" / "Album 1 [Disc, 1]", "mine", "is to hold folders of artists"),
    ):
        with pytest.raises(UserError, match=message):
            split(folder, tmp_path / output)
    assert not (tmp_path / "mine").exists()


def two_artists(root: Path) -> Path:
    """Music of two artists with two albums each, to which a test adds."""
    return make_tree(root, *(f"{artist}/{album}/1.mp3" for artist in "AB" for album in "xy"))


def test_split_names_what_is_left_out(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    misplaced = ("Boxed/Album/Bonus/1.mp3", "loose.mp3")
    make_tree(music, *misplaced, "C/x/1.mp3", "C/y/1.mp3", "one\nalbum/x/1.mp3")
    for folder in (".Trashes", "@eaDir", "#recycle", "lost+found", "__MACOSX", "A/x/@eaDir"):
        make_tree(music, f"{folder}/x/1.mp3")
    make_tree(music, ".38 Special/...And Justice/1.mp3", ".38 Special/y/1.mp3", "A/x/._1.mp3")
    (music / "A" / "x" / "text.mp3").write_text("no music")
    (music / "C" / "y" / "1.mp3").write_bytes(b"")  # with it goes the artist's second album
    (music / "A" / "x" / "up").symlink_to(music)  # which is followed once
    (music / "A" / "x" / "1.mp3").rename(music / "A" / "x" / "song without a suffix")
    (music / "A" / "y" / os.fsdecode(b"caf\xe9.mp3")).write_bytes(b"")
    for name in ("cover.jpg", "notes"):
        (music / "A" / "x" / name).write_text("none")
    assert split(music, tmp_path / "mine") == 0
    *lines, last, following = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(
        [
            f"note: no audio, left out of {music}: 1 .jpg, 1 without suffix; "
            "the first is cover.jpg",
            f"left out {music}/A/y/caf\\udce9.mp3: its path is no UTF-8",
            *(f"left out {music}/{path}: it lies not in artist/album/" for path in misplaced),
            f"left out {music}/A/x/text.mp3: cannot be decoded: Invalid data found when "
            "processing input",
            f"left out {music}/C/y/1.mp3: is empty",
            *(
                f"left out {artist}: 1 album, at least 2 are needed"
                for artist in ("C", "one\\nalbum")
            ),
        ]
    )
    assert last == f"{tmp_path / 'mine'}: 3 artists, 3 train, 3 val songs"
    assert following.endswith(
        f"task1_preprocessing.py --data-dir {tmp_path / 'mine'} --results-dir results/mine"
    )
    names = str(digests(tmp_path / "mine"))
    assert "A/x/song without a suffix" in names
    assert ".38 Special/...And Justice/1.mp3" in names


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
    (half,) = tmp_path.iterdir()
    left = next(half.rglob("train_val"))
    make_tree(left, "Old/Album/1.mp3")
    with only_writer(half):
        with pytest.raises(UserError, match="another run is writing to"):
            split(music, tmp_path / "mine")
        assert list(left.rglob("Old"))
    assert split(music, tmp_path / "mine", "--test") == 0
    assert not list(tmp_path.rglob("Old"))
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


SPELLINGS = [  # the first one is the commonest
    ("Sigur R\u00f3s", "Sigur Ro\u0301s"),  # NFC and NFD
    ("Queen", "queen"),
    ("Blur ", " Blur"),
    ("\u00c9t\u00e9", "e\u0301te\u0301"),
]


def test_an_artist_of_several_spellings_is_one(tmp_path, capsys):
    music = two_artists(tmp_path / "music")
    for spellings in SPELLINGS:
        make_tree(music, *(f"{name}/{album}/1{name}.mp3" for name in spellings for album in "xyz"))
        make_tree(music, f"{spellings[0]}/w/w.mp3")
    assert split(music, tmp_path / "mine", "--test") == 0
    printed = capsys.readouterr().out
    chosen = [first.strip() for first, _ in SPELLINGS]
    for artist in chosen:
        assert f"are one artist: {artist!r}" in printed
    classes = dataset.class_names(dataset.read_split(tmp_path / "mine", "train"))
    assert classes == sorted(["A", "B", *chosen])
    assert set(read_json(tmp_path / "mine" / "answers.json")) == set(chosen)
    assert collection.main(["check", str(tmp_path / "mine")]) == 0


WALLS = [
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
]


def test_discs_and_editions_of_an_album_are_one_album(tmp_path, capsys):
    music = tmp_path / "music"
    for i, folders in enumerate(WALLS):
        make_tree(music, f"{i}/other/1.mp3", f"{i}/White_Album_Disc_1/1.mp3")
        make_tree(music, *(f"{i}/{folder}/{n}.mp3" for folder in folders for n in (1, 2)))
    parts = set()
    for seed in range(3):  # which album is held out
        output = tmp_path / f"mine{seed}"
        assert split(music, output, "--seed", str(seed)) == 0
        lists = {part: read_json(output / f"{part}.json") for part in ("train", "val")}
        for i in range(len(WALLS)):
            within = [part for part in lists if f"/{i}/Wall/" in str(lists[part])]
            assert len(within) == 1
            assert str(lists[within[0]]).count(f"/{i}/Wall/") == 4
            parts.add(within[0])
        assert str(lists).count("/White_Album_Disc_1/") == len(WALLS)  # of which there is one
    assert parts == {"train", "val"}
    printed = capsys.readouterr().out
    assert "\n0: 'Wall (Disc 1)' and 'Wall (Disc 2)' are kept together: 'Wall'" in printed


@pytest.mark.parametrize(
    "name",
    ["Discovery", "Disc-Overy", "Abcd 2", "Remastered", "1999", "Live (1984)", "Vol. 2", "CD1"],
)
def test_an_album_of_its_own_name_keeps_it(name):
    assert collection.main_album(name) == name


def test_no_name_leads_out_of_the_data_folder_or_meets_another(tmp_path, capsys):
    paths = (f"{artist}/{album}/1.mp3" for artist in (".. ", " .") for album in (".. ", "x"))
    music = make_tree(two_artists(tmp_path / "music"), *paths)
    make_tree(music, ".. /..(CD1)/1.mp3", ".. /..(CD2)/1.mp3")
    make_tree(music, "A/Wall/Song.mp3", "A/wall/song.mp3")  # a folder may not tell case
    long = f"A/Hall/CD1/{'x' * 251}.mp3"
    make_tree(music, long, "A/Hall/CD1/2.mp3")
    assert split(music, tmp_path / "mine") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "music"]
    names = str(digests(tmp_path / "mine"))
    assert "A/Wall/Song.mp3" in names
    assert "A/Wall/song (2).mp3" in names
    assert "A/Hall/CD1 - 2.mp3" in names
    line = f"left out {music / long}: its name, with the disc's, is too long"
    assert line in capsys.readouterr().out.splitlines()
    assert {song.artist for song in dataset.read_split(tmp_path / "mine", "train")} == {
        *(".. ", " .", "A", "B")
    }


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
    for album in "xy":  # which sounds like nothing else
        soundfile.write(music / "A" / album / "pause.wav", np.zeros(16_000), 16_000)
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


NO_NOTE = ["Vader", "Left Ftx", "Kraftwerk"]
NOTES = {
    "A feat. B": "may be several artists",
    "VA": "may be no artist",
    "VA feat.\n1": "may be several artists",
    "Various Artists": "may be no artist",
}


def test_artists_that_may_be_none_or_several_are_noted(tmp_path, capsys):
    paths = (f"{artist}/{album}/1.mp3" for artist in (*NOTES, *NO_NOTE) for album in "xy")
    assert split(make_tree(tmp_path / "music", *paths), tmp_path / "mine") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    for line, (artist, note) in zip(notes, NOTES.items(), strict=True):
        assert line.startswith(f"note: {artist} {note}".replace("\n", "\\n"))


def test_songs_without_albums_are_albums_of_their_own(tmp_path, capsys):
    music = make_tree(tmp_path / "music", *(f"{a}/{n}.mp3" for a in "AB" for n in range(5)))
    for file in music.rglob("*.mp3"):
        tag(file, f"artist {file.parent.name}")
    assert split(music, tmp_path / "mine", "--test") == 0
    printed = capsys.readouterr().out
    assert f"note: 10 songs lie in no album, the first is {music}/A/0.mp3: each is taken" in printed
    assert [len(read_json(tmp_path / "mine" / f"{part}.json")) for part in ("train", "val")] == [
        *(6, 2)
    ]


def test_one_artists_folder_is_told_by_its_tags_or_discs(tmp_path):
    music = make_tree(tmp_path / "Queen", *(f"{a}/{n}.mp3" for a in ("Jazz", "Hot") for n in "12"))
    for file in music.rglob("*.mp3"):
        tag(file, "Queen")
    discs = make_tree(tmp_path / "Pink", "Wall/CD1/1.mp3", "Wall/CD2/1.mp3", "Live/Disc 1/1.mp3")
    for one in (music, discs):
        with pytest.raises(UserError, match=rf"{one} holds one artist's albums: pass its parent"):
            split(one, tmp_path / "mine")
    (music / "Jazz" / "3.mp3").write_bytes(b"no music")  # tells no artist
    assert split(music, tmp_path / "mine") == 0


def test_a_raw_tree_is_to_be_split_first(tmp_path):
    music = two_artists(tmp_path / "music")
    for read in (collection.check, dataset.read_train_val):
        with pytest.raises(UserError, match=r"missing, but .*music holds music: run .*split"):
            read(music)
