"""The synthesised data set: its layout, its repeatability, and what it refuses."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from artist20 import UserError, dataset
from artist20.demo import __main__ as command
from artist20.demo import folder
from artist20.demo.composition import render_song
from artist20.demo.folder import Settings, Track, plan
from artist20.files import LOCK, only_writer

SMALL = Settings(artists=3, albums=3, songs=1, seconds=2.0)
OPTIONS = ["--artists", "3", "--albums", "3", "--songs", "1", "--seconds", "2", "--workers", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set made by one process."""
    directory = tmp_path_factory.mktemp("demo") / "data"
    folder.build(directory, SMALL, workers=1)
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


def read(directory: Path, name: str):
    return json.loads((directory / name).read_text(encoding="utf-8"))


# --- layout ------------------------------------------------------------------------------------


def test_layout(made):
    train, val = read(made, "train.json"), read(made, "val.json")
    assert len(train) == len(val) == len(read(made, "answers.json")) == 3
    listed = {path.removeprefix("./") for path in train + val}
    tests = {"test/001.mp3", "test/002.mp3", "test/003.mp3"}
    lists = {"train.json", "val.json", "answers.json", "dataset.json"}
    assert set(contents(made)) == listed | tests | lists
    assert [len(songs) for songs in dataset.read_train_val(made)] == [3, 3]
    marker = read(made, "dataset.json")
    assert (marker["name"], marker["synthesised"], marker["complete"]) == ("demo", True, True)
    sizes = {"artists": 3, "albums": 3, "songs": 1, "seconds": 2.0, "seed": 0, "format": 1}
    assert marker["settings"] == sizes


@pytest.mark.parametrize(("albums", "held_out"), [(3, 1), (4, 1), (6, 1), (12, 2)])
def test_splits_by_album(albums, held_out):
    splits = plan(Settings(artists=4, albums=albums, songs=3, seed=5))
    of = {name: {(track.artist, track.album) for track in splits[name]} for name in splits}
    assert len(of["val"]) == len(of["test"]) == 4 * held_out
    assert len(of["train"]) == 4 * (albums - 2 * held_out)
    assert len(of["train"] | of["val"] | of["test"]) == 4 * albums
    folders = {Path(track.path).parent for name in ("train", "val") for track in splits[name]}
    assert len(folders) == 4 * (albums - held_out)


def test_names_are_as_varied_as_artist20s():
    splits = plan(Settings(artists=100, albums=6, songs=2))
    paths = [track.path for split in splits.values() for track in split]
    assert len(set(paths)) == len(paths) == 1200
    assert len({path.split("/")[1] for path in paths if path.startswith("train_val")}) == 100
    assert set(",'.()[]-_") <= set("".join(paths))
    assert not set(' ?:*"<>|\\') & set("".join(paths))


def test_answers_name_who_made_the_songs(made, tmp_path):
    # Made again from an artist's number alone: the order of the test songs has no part in it.
    makers = {}
    for artist in range(3):
        folder.write_song(tmp_path, SMALL, Track("song.mp3", artist, album=2, song=0))
        makers[(tmp_path / "song.mp3").read_bytes()] = folder.artist_name(0, artist)
    answers = read(made, "answers.json")
    assert len(set(answers)) == 3
    for key in ("001", "002", "003"):
        assert answers[int(key) - 1] == makers[(made / f"test/{key}.mp3").read_bytes()]


def test_test_songs_are_shuffled():
    artists = [track.artist for track in plan(Settings(artists=20, albums=3, songs=1))["test"]]
    assert sorted(artists) == list(range(20)) != artists


def test_files_are_what_artist20s_are(made):
    for path in made.rglob("*.mp3"):
        info = soundfile.info(path)
        assert (info.format, info.samplerate, info.channels) == ("MP3", 16_000, 1)
        # An MP3 holds whole frames of 576 samples, and the encoder's delay.
        assert 2.0 <= info.duration < 2.15
        assert path.stat().st_size * 8 / info.duration == pytest.approx(32_000, rel=0.02)


# --- sound -------------------------------------------------------------------------------------


def test_songs_are_the_ones_that_all_published_figures_are_of():
    # Not to the last digit: another machine's sine may differ in it.
    rendered = render_song(0, 1, 2, 3, seconds=4.0)
    assert rendered.shape == (64_000,) and rendered.dtype == np.float32
    assert rms(rendered, 8) == pytest.approx(
        [0.1269, 0.1593, 0.1599, 0.1841, 0.208, 0.2144, 0.2363, 0.1276], abs=1e-4
    )
    names = "\n".join(track.path for split in plan(Settings()).values() for track in split)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "9ff7ab95bab8790e"


def rms(waveform: np.ndarray, n_parts: int) -> np.ndarray:
    return np.sqrt(np.square(waveform).reshape(n_parts, -1).mean(axis=1))


def test_songs_have_a_form_and_are_not_silence():
    for artist in range(3):
        waveform = render_song(3, artist, 1, 0, seconds=20.0)
        assert 0.1 < np.abs(waveform).max() < 0.9
        levels = rms(waveform, 20)[:-1]
        assert levels.min() > 0.003
        assert levels.max() > 1.3 * levels.min()


def test_an_artist_does_not_depend_on_how_many_there_are():
    few, many = (plan(Settings(artists=n, albums=3, songs=1))["train"] for n in (2, 9))
    assert set(few) <= set(many)


# --- building ----------------------------------------------------------------------------------


def test_same_bytes_from_two_workers(made, tmp_path):
    # What a run leaves that was stopped at its very beginning.
    (tmp_path / ".lock").touch()
    (tmp_path / ".dataset.tmp.json").write_text("{")
    folder.build(tmp_path, SMALL, workers=2)
    assert contents(tmp_path) == contents(made)


def test_goes_on_after_an_interruption(made, tmp_path, monkeypatch, capsys):
    written = []

    def interrupted(directory, settings, track):
        if len(written) == 4:
            raise KeyboardInterrupt
        undisturbed(directory, settings, track)
        written.append(directory / track.path)

    undisturbed = folder.write_song
    monkeypatch.setattr(folder, "write_song", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.build(tmp_path, SMALL, workers=1)
    assert read(tmp_path, "dataset.json")["complete"] is False
    assert not (tmp_path / "train.json").exists()
    before = {path: path.stat().st_mtime_ns for path in written}

    monkeypatch.setattr(folder, "write_song", undisturbed)
    folder.build(tmp_path, SMALL, workers=1)
    assert {path: path.stat().st_mtime_ns for path in written} == before
    assert "4 of them were there" in capsys.readouterr().out
    assert contents(tmp_path) == contents(made)

    (tmp_path / "test/002.mp3").unlink()
    (tmp_path / "val.json").unlink()
    folder.build(tmp_path, SMALL, workers=1)
    assert contents(tmp_path) == contents(made)


def test_leaves_a_complete_data_set_alone(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    command.main([str(made), *OPTIONS])
    assert "complete already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


# --- refusals ----------------------------------------------------------------------------------


FOREIGN = [
    ("thesis.tex", "years of work"),
    ("dataset.json", '{"name": "x", "synthesised": true, "complete": true, "settings": {}}'),
    ("dataset.json", '{"name": "demo", "settings": 3, "complete": true}'),
]


def test_refuses_folders_of_something_else(made, tmp_path):
    before = contents(made)
    refused = [(made, "other settings (seed 0 -> 7): choose another")]
    for i, (name, text) in enumerate(FOREIGN):
        path = tmp_path / str(i) / name
        path.parent.mkdir()
        path.write_text(text)
        refused += [(path.parent, "something else than a demo data set"), (path, "is a file")]
    for where, reason in refused:
        with pytest.raises(UserError) as error:
            command.main([str(where), *OPTIONS, "--seed", "7"])
        assert str(where) in str(error.value) and reason in str(error.value)
    assert contents(made) == before
    assert [*contents(tmp_path).values()] == [text.encode() for _, text in FOREIGN]
    with only_writer(tmp_path / "new"), pytest.raises(UserError, match="another run is writing"):
        command.main([str(tmp_path / "new"), *OPTIONS])


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--artists", [1, 257]),
        ("--albums", [2, 257]),
        ("--songs", [0]),
        ("--seconds", [0.5, 3601, "nan"]),
    ],
)
def test_refuses_senseless_sizes(option, values, tmp_path, capsys):
    for value in values:
        with pytest.raises(SystemExit, match="2"):
            command.main([str(tmp_path / "data"), option, str(value)])
        assert f"argument {option}: must be" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
