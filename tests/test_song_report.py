"""Where in a song which artist is heard: task2_gen_report_wo_pretrain.py --song."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, SAMPLE_RATE, resnet_config, trained, write_song
from matplotlib.figure import Figure
from PIL import Image

import task2_gen_report_wo_pretrain as report
import task2_inference_wo_pretrain as inference
from artist20 import audio, figures_songs, resnet, runtime, song_report, spectrogram
from artist20.files import write_checkpoint, write_json
from artist20.models import ArtistResNet
from artist20.results import Predictions, resnet_dir, write_predictions
from artist20.spectrogram import FrontEnd

CLASSES = sorted(ARTISTS)
ARTIST = CLASSES[1]


def put_network(folder, width=8, window_seconds=150.0, **more):
    """Write a checkpoint of a network with random weights; return the network."""
    torch.manual_seed(0)
    model = ArtistResNet(len(CLASSES), width=width).eval()
    model.standardize.mean.fill_(-40)
    model.standardize.std.fill_(2)  # so that windows differ
    checkpoint = {
        "kind": "resnet",
        "classes": CLASSES,
        "config": {
            **resnet_config(width=width),
            "dataset": "tiny, 2 + 1 songs, 0123",
        },
        "window_frames": spectrogram.to_frames(window_seconds),
        **trained(len(CLASSES)),
        "epoch": 1,
        "model": model.state_dict(),
        **more,
    }
    write_checkpoint(folder / "best.pt", checkpoint)
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Go to a folder with a checkpoint alone; return the network's results folder."""
    monkeypatch.chdir(tmp_path)
    put_network(tmp_path / "results/task2/resnet")
    return tmp_path / "results/task2/resnet"


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a script within this process; return exit status, out, err."""

    def run(script, *options):
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, options)])
        status = runtime._status(script.main, "")
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def drawn(monkeypatch):
    """Keep what is to be drawn, and draw nothing, which is quick."""
    kept = []

    def note(*args, **options):
        kept.append((args, options))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(figures_songs, "song_timeline", note)
    return kept


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("n_fft", (-1, 0, 1025, 2**40)),
        ("n_mels", (0, -1, 10**9)),
        ("width", (0, -1, 10**7)),
        ("bins_per_band", (0, -1, 5, 65)),
        ("dropout", (-0.1, 1.0, 5.0)),
        ("window_frames", (0, -1, 2**62)),
    ],
)
def test_a_checkpoint_of_no_possible_network_is_a_line(folder, call, name, values):
    for value in values:
        if name == "window_frames":
            put_network(folder, window_frames=value)
        else:
            put_network(folder, config=resnet_config(**{"width": 8, name: value}))
        status, _, error = call(report, "--song", "song.wav")
        assert (status, error.count("\n")) == (2, 1), value
        assert "best.pt is not of this version of task2_train_wo_pretrain.py: run that" in error


# --- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("song_seconds", "trained_seconds", "window_seconds", "n_windows"),
    [
        (30, 150, 5, 21),  # a sixth of the song
        (240, 150, 40, 21),
        (45, 5, 5, 33),  # as in training
        (4, 150, 1, 15),  # a second at least
        (0.5, 150, 0.5, 1),
        (0.02, 5, 0.032, 1),
    ],
)
def test_windows_cover_the_song_and_overlap(
    song_seconds, trained_seconds, window_seconds, n_windows
):
    n_frames = max(1, spectrogram.to_frames(song_seconds))
    log_mel = np.arange(n_frames, dtype=np.float16)[:, None] * np.ones(64, np.float16)
    lengths = set()

    def predict(x):
        lengths.add(x.shape[1])
        return x[:, :, 0].mean(axis=1, keepdim=True).numpy()

    network = resnet.TrainedResNet(
        ["a"], spectrogram.to_frames(trained_seconds), "", FrontEnd(), predict
    )
    seconds, probabilities, found = network.curve(log_mel)
    assert found == pytest.approx(window_seconds, abs=0.04)
    assert lengths == {round(found / 0.032)}
    assert abs(len(seconds) - n_windows) <= 1
    assert len(probabilities) == len(seconds)
    # The middle of a window is where its frames are, here their values: from end to end.
    np.testing.assert_allclose(seconds, (probabilities[:, 0] + 0.5) * 0.032, rtol=2e-3, atol=1e-6)
    assert seconds[0] - found / 2 == pytest.approx(0, abs=1e-9)
    assert seconds[-1] + found / 2 == pytest.approx(n_frames * 0.032)
    if len(seconds) > 1:
        assert np.diff(seconds).max() <= found / 4 + 0.033


# --- what is drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["homework", "strong"])
def test_probabilities_are_those_of_inference_and_of_the_windows(
    tmp_path, monkeypatch, call, drawn, recipe
):
    monkeypatch.chdir(tmp_path)
    results = resnet_dir(tmp_path / "results", recipe)
    model = put_network(results, window_seconds=1.5 if recipe == "strong" else 150)
    song = tmp_path / f"train_val/{ARTIST}/Album/01-Song.wav"
    write_song(song, ARTIST, seed=1, seconds=3.3)
    status, out, error = call(report, "--song", song, "--recipe", recipe)
    assert status == 0, error
    assert "wrote assets/task2_song_01-Song.png" in out
    ((log_mel, _, duration, seconds, curves, labels), options) = drawn[0]
    assert options["has_true"]
    assert duration == pytest.approx(3.3)
    assert labels[0].startswith(f"{ARTIST.replace('_', ' ')}, the true artist: ")

    status, out, _ = call(inference, "--audio", song, "--recipe", recipe)
    assert status == 0
    lines = [line.split("%") for line in out.splitlines() if line.startswith("  ")]
    named = {name.strip().replace("_", " "): f"{share.strip()}%" for share, name in lines}
    found = [label.replace(", the true artist", "").split(": ") for label in labels]
    assert dict(found) == named  # of three artists all are named
    rivals = [float(share[:-1]) for _, share in found[1:]]
    assert rivals == sorted(rivals, reverse=True)

    x = torch.from_numpy(spectrogram.log_mel(audio.load(song), FrontEnd())).float()
    assert np.array_equal(log_mel, x.half())
    n = spectrogram.to_frames(1)
    starts = np.round(seconds / 0.032 - n / 2).astype(int)
    with torch.inference_mode():
        expected = torch.cat([model(x[s : s + n][None]).softmax(dim=1) for s in starts]).numpy()
    shown = {name.replace("_", " "): i for i, name in enumerate(CLASSES)}
    order = [shown[label.split(": ")[0].removesuffix(", the true artist")] for label in labels]
    np.testing.assert_allclose(curves, expected[:, order], atol=1e-5)
    assert np.ptp(curves, axis=0).max() > 0.01  # a network that hears no difference shows nothing


def test_a_song_of_nobody_known_shows_the_best(folder, call, drawn, tmp_path):
    song = tmp_path / "somebody/album/song.flac"
    write_song(song, ARTIST, seed=1, seconds=2)
    assert call(report, "--song", song)[0] == 0
    (*_, labels), options = drawn[0]
    assert not options["has_true"]
    assert len(labels) == 3
    assert "true artist" not in "".join(labels)
    assert options["title"] == "song, as heard by ResNet, trained on tiny (synthesised songs)"
    caption = (tmp_path / "assets/task2_song_song.txt").read_text()
    assert "song.flac" in caption
    assert "is not known" in caption


def test_a_checkpoint_and_a_file_alone_are_read(folder, call, tmp_path):
    song = tmp_path / "song.wav"
    write_song(song, ARTIST, seed=1, seconds=2)
    assert call(report, "--song", song, "--assets-dir", "out", "--format", "svg")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "task2_song_song.svg",
        "task2_song_song.txt",
    }
    assert [path.name for path in folder.rglob("*")] == ["best.pt"]


@pytest.mark.parametrize(
    ("album", "split", "words"),
    [
        ("Seen", "train", "training songs"),
        ("New", "val", "validation"),
        ("Other", "neither", "none"),
    ],
)
def test_whether_the_network_learnt_from_the_song_is_said(
    folder, call, drawn, tmp_path, album, split, words
):
    path = f"./train_val/{ARTIST}/{album}/song.wav"
    record = {"path": path, "artist": ARTIST, "album": album}
    other = {"path": f"./train_val/{ARTIST}/x/song.wav", "artist": ARTIST, "album": "x"}
    write_json(folder / "songs_train.json", [other, record] if split == "train" else [other])
    val = [record] if split == "val" else [other]
    scores = {"resnet": np.full((1, len(CLASSES)), 1 / 3)}
    predictions = Predictions(CLASSES, val, scores)
    write_predictions(folder / "val_predictions.json", predictions)
    song = tmp_path / "data" / path
    write_song(song, ARTIST, seed=1, seconds=1)
    assert song_report.split_of(song.resolve(), folder) == split
    assert call(report, "--song", song)[0] == 0
    assert drawn[0][1]["title"].endswith("this song among them") == (split == "train")
    assert words in (tmp_path / "assets/task2_song_song.txt").read_text()


@pytest.mark.parametrize("waveform", [np.zeros(1), np.full(40_000, 0.5)])
def test_a_single_sample_and_a_constant(folder, call, tmp_path, waveform):
    soundfile.write(tmp_path / "song.wav", waveform, SAMPLE_RATE)
    status, _, error = call(report, "--song", tmp_path / "song.wav")
    assert status == 0, error
    with Image.open(tmp_path / "assets/task2_song_song.png") as image:
        assert min(image.size) > 400


# --- names -------------------------------------------------------------------------------------


def test_names_of_pictures_are_safe_and_never_alike():
    stems = ["a", "A", "a", "What's (Not) ?/", "..", "-x", "é" * 200, "é" * 199, "a\nb", "日本"]
    names = song_report.picture_names([Path("x") / f"{stem}.mp3" for stem in stems])
    assert len({name.casefold() for name in names}) == len(stems)
    assert names[:3] == ["task2_song_a", "task2_song_A-2", "task2_song_a-3"]
    for name in names:
        assert "/" not in name
        assert name.isprintable()
        assert " " not in name
        assert len(name.encode()) < 200
    assert names[-1] == "task2_song_日本"
    assert song_report.picture_names([Path(os.fsdecode(b"\xff\xfe.mp3"))]) == ["task2_song__"]


def test_odd_names_and_two_of_one_name_are_drawn(folder, call, drawn, tmp_path):
    odd = "it's $5 \n?.wav"
    files = [tmp_path / "a/song.wav", tmp_path / "b/song.wav", tmp_path / odd]
    write_song(files[0], ARTIST, seed=1, seconds=1)
    for file in files[1:]:
        file.parent.mkdir(exist_ok=True)
        shutil.copy(files[0], file)
    status, _, error = call(report, "--song", *files, files[0])
    assert status == 0, error
    assert {path.stem for path in (tmp_path / "assets").iterdir()} == {
        "task2_song_song",
        "task2_song_song-2",
        "task2_song_it_s_5_",
    }


# --- mistakes ----------------------------------------------------------------------------------


def test_files_that_cannot_be_read_are_one_line_and_the_others_are_drawn(
    folder, call, drawn, tmp_path
):
    song, bad = tmp_path / "song.wav", tmp_path / "bad.mp3"
    write_song(song, ARTIST, seed=1, seconds=1)
    bad.write_bytes(b"no music")
    status, out, error = call(report, "--song", bad, tmp_path / "none.mp3", song)
    assert (status, error) == (1, "")
    *_, wrote, of_bad, of_none = out.splitlines()
    assert wrote == "wrote assets/task2_song_song.png"
    assert of_bad.startswith("left out: ")
    assert "bad.mp3 cannot be decoded" in of_bad
    assert "none.mp3 is no file" in of_none
    status, _, error = call(report, "--song", bad)
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_no_checkpoint_and_a_recipe_without_songs_are_one_line(folder, call, tmp_path):
    write_song(tmp_path / "song.wav", ARTIST, seed=1, seconds=1)
    status, _, error = call(report, "--song", "song.wav", "--recipe", "strong")
    assert status == 2
    assert "task2/resnet_strong/best.pt is missing" in error
    assert "--checkpoint" not in error  # which this script has not
    write_checkpoint(folder / "best.pt", {"kind": "panns", "classes": [], "config": {}})
    status, _, error = call(report, "--song", "song.wav")
    assert status == 2
    assert "is no checkpoint of" in error
