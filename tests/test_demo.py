"""The synthesised data set: its layout, its repeatability, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from artist20 import UserError, demo
from artist20.files import LOCK, only_writer

SIZES = {"artists": 3, "albums": 3, "songs": 1, "seconds": 2.0}
OPTIONS = ["--artists", "3", "--albums", "3", "--songs", "1", "--seconds", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set made by one process."""
    directory = tmp_path_factory.mktemp("demo") / "data"
    demo.build(directory, **SIZES, seed=0, workers=1)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def read(directory: Path, name: str):
    return json.loads((directory / name).read_text(encoding="utf-8"))


def test_layout(made):
    train, val = read(made, "train.json"), read(made, "val.json")
    assert len(train) == len(val) == len(read(made, "answers.json")) == 3
    listed = {path.removeprefix("./") for path in train + val}
    tests = {"test/001.mp3", "test/002.mp3", "test/003.mp3"}
    lists = {"train.json", "val.json", "answers.json", "dataset.json"}
    assert set(contents(made)) == listed | tests | lists
    for path in train + val:
        dot, top, _artist, _album, song = path.split("/")
        assert (dot, top) == (".", "train_val")
        assert song.startswith("01-")
        assert song.endswith(".mp3")
    marker = read(made, "dataset.json")
    assert (marker["name"], marker["synthesised"], marker["complete"]) == ("demo", True, True)
    assert {name: marker["settings"][name] for name in SIZES} == SIZES


@pytest.mark.parametrize(("albums", "held_out"), [(3, 1), (4, 1), (6, 1), (12, 2)])
def test_splits_by_album(albums, held_out):
    splits = demo.plan(artists=4, albums=albums, songs=3, seed=5)
    of = {
        name: {(track.artist, track.album) for track in tracks} for name, tracks in splits.items()
    }
    assert len(of["val"]) == len(of["test"]) == 4 * held_out
    assert len(of["train"]) == 4 * (albums - 2 * held_out)
    assert not of["train"] & of["val"]
    assert not of["train"] & of["test"]
    assert not of["val"] & of["test"]
    assert {artist for artist, _ in of["val"]} == {artist for artist, _ in of["train"]}
    folders = {
        name: {Path(track.path).parent for track in splits[name]} for name in ("train", "val")
    }
    assert not folders["train"] & folders["val"]
    assert len(folders["train"] | folders["val"]) == len(of["train"] | of["val"])


def test_names_as_varied_as_artist20s():
    splits = demo.plan(artists=100, albums=6, songs=2, seed=0)
    paths = [track.path for split in splits.values() for track in split]
    assert len(set(paths)) == len(paths) == 1200
    assert len({path.split("/")[1] for path in paths if path.startswith("train_val")}) == 100
    assert set(",'.()[]-_") <= set("".join(paths))
    assert not set(' ?:*"<>|\\') & set("".join(paths))


def test_answers_name_who_made_the_songs(made, tmp_path):
    # Made again from an artist's number alone: the order of the test songs has no part in it.
    makers = {}
    for artist in range(3):
        track = demo.Track("song.mp3", artist, album=2, song=0)
        demo.write_song(tmp_path, 0, track, SIZES["seconds"])
        makers[(tmp_path / "song.mp3").read_bytes()] = demo.artist_name(0, artist)
    answers = read(made, "answers.json")
    assert len(set(answers)) == 3
    for key in ("001", "002", "003"):
        assert answers[int(key) - 1] == makers[(made / f"test/{key}.mp3").read_bytes()]


def test_test_order_is_shuffled():
    artists = [t.artist for t in demo.plan(artists=20, albums=3, songs=1, seed=0)["test"]]
    assert sorted(artists) == list(range(20))
    assert artists != list(range(20))


def test_files_are_what_artist20s_are(made):
    for path in made.rglob("*.mp3"):
        info = soundfile.info(path)
        assert (info.format, info.samplerate, info.channels) == ("MP3", 16_000, 1)
        # An MP3 holds whole frames of 576 samples, and the encoder's delay.
        assert 2.0 <= info.duration < 2.15
        assert path.stat().st_size * 8 / info.duration == pytest.approx(32_000, rel=0.02)


def test_same_bytes_from_two_workers(made, tmp_path):
    demo.build(tmp_path / "data", **SIZES, seed=0, workers=2)
    assert contents(tmp_path / "data") == contents(made)


def test_another_seed_makes_other_songs(made):
    track = demo.Track("", artist=0, album=0, song=0)
    assert not np.allclose(demo.render_song(0, track, 2.0), demo.render_song(1, track, 2.0))
    assert demo.plan(artists=3, albums=3, songs=1, seed=1) != demo.plan(
        artists=3, albums=3, songs=1, seed=0
    )


def test_an_artist_does_not_depend_on_how_many_there_are():
    few = demo.plan(artists=2, albums=3, songs=1, seed=0)["train"]
    many = demo.plan(artists=9, albums=3, songs=1, seed=0)["train"]
    assert set(few) <= set(many)


def test_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    directory = tmp_path / "data"
    undisturbed = demo.write_song
    written = []

    def interrupted(directory, seed, track, seconds):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(track.path)
        undisturbed(directory, seed, track, seconds)

    monkeypatch.setattr(demo, "write_song", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.build(directory, **SIZES, workers=1)
    assert read(directory, "dataset.json")["complete"] is False
    assert not (directory / "train.json").exists()
    orphan = (directory / written[0]).with_name(".01-Song.12345.tmp.mp3")
    orphan.write_bytes(b"half a song")
    before = {path: (directory / path).stat().st_mtime_ns for path in written}

    monkeypatch.setattr(demo, "write_song", undisturbed)
    demo.build(directory, **SIZES, workers=1)
    assert {path: (directory / path).stat().st_mtime_ns for path in written} == before
    assert "4 of them were there" in capsys.readouterr().out
    demo.build(tmp_path / "whole", **SIZES, workers=1)
    assert contents(directory) == contents(tmp_path / "whole")


def test_replaces_what_was_deleted(tmp_path):
    demo.build(tmp_path, **SIZES, workers=1)
    before = contents(tmp_path)
    (tmp_path / "test/002.mp3").unlink()
    (tmp_path / "val.json").unlink()
    demo.build(tmp_path, **SIZES, workers=1)
    assert contents(tmp_path) == before


def test_leaves_a_complete_data_set_alone(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    demo.main([str(made), *OPTIONS])
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def refusal(*argv: str) -> str:
    """Run the command line, which must fail with one line; return the line."""
    with pytest.raises(UserError) as refused:
        demo.main(list(argv))
    (line,) = str(refused.value).splitlines()
    return line


def test_refuses_a_data_set_of_other_settings(made):
    before = contents(made)
    line = refusal(str(made), *OPTIONS, "--seed", "7")
    assert str(made) in line
    assert "other settings" in line
    assert contents(made) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.tex", "years of work"),
        ("dataset.json", '{"name": "artist20"}'),
        ("dataset.json", '{"name": "demo", "settings": 3, "complete": true}'),
        ("dataset.json", "[]"),
        ("dataset.json", "{"),
    ],
)
def test_refuses_a_foreign_folder(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    line = refusal(str(tmp_path), *OPTIONS)
    assert str(tmp_path) in line
    assert "choose another folder" in line
    assert contents(tmp_path) == {name: text.encode()}


def test_refuses_a_folder_that_another_run_is_making(tmp_path):
    with only_writer(tmp_path):
        assert "another run is writing to" in refusal(str(tmp_path), *OPTIONS)
        assert contents(tmp_path) == {}


def test_goes_on_after_a_stop_at_the_very_beginning(tmp_path, made):
    (tmp_path / ".lock").touch()
    (tmp_path / ".dataset.tmp.json").write_text("{")
    demo.build(tmp_path, **SIZES, workers=1)
    assert contents(tmp_path) == contents(made)


def test_refuses_a_file(tmp_path):
    (tmp_path / "data").write_text("not a folder")
    assert "is a file" in refusal(str(tmp_path / "data"), *OPTIONS)


@pytest.mark.parametrize(
    "sizes",
    [
        {"artists": 1},
        {"artists": 10_000},
        {"albums": 2},
        {"albums": 10_000},
        {"songs": 0},
        {"seconds": 0.5},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seed": -1},
        {"workers": 0},
    ],
)
def test_refuses_senseless_sizes(tmp_path, sizes):
    ((name, value),) = sizes.items()
    with pytest.raises(UserError, match=f"--{name} {value}: "):
        demo.build(tmp_path / "data", **{**SIZES, **sizes})
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("artist", range(4))
def test_songs_are_music_and_not_silence(artist):
    seconds = 20.0
    waveform = demo.render_song(3, demo.Track("", artist, album=1, song=0), seconds)
    assert waveform.shape == (320_000,)
    assert waveform.dtype == np.float32
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() < 0.9
    rms = np.sqrt(np.mean(np.square(waveform).reshape(20, -1), axis=1))
    assert rms[:-1].min() > 0.003
    assert rms[:-1].max() > 1.3 * rms[:-1].min()  # a form, not a texture
