"""Where in a song which artist is heard: task2_gen_report_wo_pretrain.py --song."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, SAMPLE_RATE, call, toy_model, toy_settings, write_song
from matplotlib.figure import Figure

from artist20 import audio, checkpoints, models, spectrogram
from artist20.report import song_plots
from artist20.results import Predictions, SongRecord, write_record
from artist20.spectrogram import FrontEnd
from artist20.trained import TrainedResNet

CLASSES = sorted(ARTISTS)
ARTIST = CLASSES[1]


def loudness(x):
    """Hear the first artist in loud windows, else the second: (batch, n_classes)."""
    loud = 1 / (1 + np.exp(-x.float().mean(dim=(1, 2)).numpy() - 20))
    return np.stack([0.8 * loud, 0.8 - 0.8 * loud, np.full(len(loud), 0.2)], axis=1)


def network(window_seconds=150.0, predict=loudness, classes=CLASSES):
    n_frames = spectrogram.to_frames(window_seconds)

    def of_songs(songs):
        return {"": spectrogram.per_song(predict, songs, n_frames)}

    about = (FrontEnd(), torch.device("cpu"))
    return TrainedResNet(classes, n_frames, *about, predict, of_songs)


@pytest.fixture
def drawn(monkeypatch):
    """Keep what is to be drawn, and draw nothing, which is quick."""
    kept = []

    def keep(*args, **options):
        kept.append((*args, options))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(song_plots, "timeline", keep)
    return kept


# --- what is drawn -----------------------------------------------------------------------------


def test_curves_and_labels_are_the_networks_answers(tmp_path, drawn):
    song = tmp_path / f"train_val/{ARTIST}/Album/01-Song_$5.wav"
    write_song(song, ARTIST, seed=1, seconds=3.3)
    hears = network(1.5)
    ((name, _, caption),) = song_plots.draw(song, "x", hears, tmp_path / "resnet", "ResNet")
    ((log_mel, duration, seconds, curves, labels, options),) = drawn
    expected = spectrogram.log_mel(audio.open_song(song), FrontEnd())
    assert np.array_equal(log_mel, expected)
    assert duration == pytest.approx(3.3)
    middles, probabilities, _ = hears.curve(expected)
    np.testing.assert_allclose(seconds, middles)
    whole = hears.score_song(expected)[""]
    order = [1, *(i for i in np.argsort(-whole) if i != 1)]
    np.testing.assert_allclose(curves, probabilities[:, order])
    assert np.ptp(curves[:, 0]) > 0.01
    names = [CLASSES[i].replace("_", " ") for i in order]
    shares = [f"{whole[i]:.1%}" for i in order]
    assert labels[0] == f"{names[0]}, the true artist: {shares[0]}"
    assert labels[1:] == [f"{n}: {s}" for n, s in zip(names[1:], shares[1:], strict=True)]
    assert options == {
        "has_true": True,
        "title": "01-Song $5, as heard by ResNet",
    }
    assert name == "x"
    assert caption.startswith("Log-mel spectrogram of 01-Song_$5.wav, and the probability of 3 art")
    assert "in windows of 1.0 s" in caption


@pytest.mark.parametrize(
    ("album", "split", "words"),
    [
        ("Seen", "train", "one of the training songs"),
        ("New", "val", "one of the validation songs"),
        ("Other", "neither", "none of the songs"),
        ("Other", "unknown", "is not known"),
    ],
)
def test_whether_the_network_learnt_from_the_song_is_said(tmp_path, drawn, album, split, words):
    folder = tmp_path / "resnet"
    path = f"./train_val/{ARTIST}/{album}/song.wav"
    record = SongRecord(path=path, artist=ARTIST, album=album)
    other = SongRecord(path=f"./train_val/{ARTIST}/x/song.wav", artist=ARTIST, album="x")
    train, val = ([other, record] if split == of else [other] for of in ("train", "val"))
    if split != "unknown":
        write_record(folder / "songs_train.json", train)
        predictions = Predictions(classes=CLASSES, songs=val, scores={})
        write_record(folder / "val_predictions.json", predictions)
    song = tmp_path / "data" / path
    write_song(song, ARTIST, seed=1, seconds=1)
    ((_, _, caption),) = song_plots.draw(song, "x", network(), folder, "ResNet")
    assert song_plots.split_of(song, folder) == split
    assert drawn[0][-1]["title"].endswith(", this song among them") == (split == "train")
    assert words in caption


@pytest.mark.parametrize("waveform", [np.zeros(1), np.full(40_000, 0.5)])
def test_a_single_sample_and_a_constant_by_nobody_known(tmp_path, waveform):
    soundfile.write(tmp_path / "song.wav", waveform, SAMPLE_RATE)
    ((_, figure, _),) = song_plots.draw(
        tmp_path / "song.wav", "x", network(), tmp_path / "resnet", "ResNet"
    )
    figure.draw_without_rendering()
    spectrum, below = figure.axes
    assert np.isfinite(spectrum.images[0].get_array()).all()
    assert len(below.lines) == 3
    assert not any("true artist" in line.get_label() for line in below.lines)
    assert (below.lines[0].get_marker() == "o") == (len(waveform) == 1)


@pytest.mark.parametrize(("n_windows", "duration"), [(1, 100.0), (9, 130.0)])
def test_a_timeline_has_the_curves_in_percent_in_looks_of_their_own(n_windows, duration):
    log_mel = np.random.default_rng(0).normal(-40, 10, (700, 64))
    curves = np.random.default_rng(1).dirichlet(np.ones(4), n_windows)
    figure = song_plots.timeline(
        log_mel,
        duration,
        np.linspace(1, 29, n_windows),
        curves,
        ["a, the true artist: 12.3%", "b: 1.0%", "c: 2%", "d: 3%"],
        has_true=True,
        title="t",
    )
    spectrum, below = figure.axes
    np.testing.assert_allclose([line.get_ydata() for line in below.lines], 100 * curves.T)
    assert len({(line.get_color(), line.get_linestyle()) for line in below.lines}) == 4
    assert figure.legends[0].get_texts()[0].get_text() == "a, the true artist: 12.3%"
    assert below.get_xlabel() == ("Time (min:s)" if duration > 100 else "Time (s)")
    formatter = below.xaxis.get_major_formatter()
    assert duration == 100 or formatter(125, 0) == "2:05"
    image = spectrum.images[0].get_array()
    assert image.shape == (64, song_plots.MAX_COLUMNS)
    np.testing.assert_allclose(image[:, 0], log_mel[:2].mean(axis=0), rtol=1e-5)
    bins = dict(
        zip([t.get_text() for t in spectrum.get_yticklabels()], spectrum.get_yticks(), strict=True)
    )
    hz = np.interp(bins["1"], np.arange(64) + 0.5, spectrogram.mel_hz(64))
    assert hz == pytest.approx(1000)


# --- names -------------------------------------------------------------------------------------


def test_names_of_pictures_are_safe_and_never_alike():
    stems = ["a", "A", "a", "What's (Not) ?/", "..", "-x", "é" * 200, "é" * 199, "a\nb", "日本"]
    names = song_plots.picture_names([Path("x") / f"{stem}.mp3" for stem in stems])
    assert len({name.casefold() for name in names}) == len(stems)
    assert names[:3] == ["task2_song_a", "task2_song_A-2", "task2_song_a-3"]
    for name in names:
        assert "/" not in name
        assert name.isprintable()
        assert " " not in name
        assert len(name.encode()) < 250
    assert names[-1] == "task2_song_日本"
    assert song_plots.picture_names([Path(os.fsdecode(b"\xff\xfe.mp3"))]) == ["task2_song__"]


# --- the script --------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch, drawn):
    """Go to a folder with a checkpoint alone."""
    monkeypatch.chdir(tmp_path)
    settings = toy_settings("resnet", width=2)
    model = models.ArtistResNet(len(CLASSES), settings.recipe)
    folder = tmp_path / "results/task2/resnet"
    checkpoints.save_model(folder / "best.pt", toy_model(settings, model.state_dict(), CLASSES))
    return tmp_path


def test_odd_names_and_broken_files(here, monkeypatch, capsys):
    files = [here / "a/song.wav", here / "b/song.wav", here / "it's $5 \n?.wav"]
    write_song(files[0], ARTIST, seed=1, seconds=1)
    for file in files[1:]:
        file.parent.mkdir(exist_ok=True)
        shutil.copy(files[0], file)
    bad = here / "bad.mp3"
    bad.write_bytes(b"no music")
    options = ["--song", bad, *files, files[0], "none.mp3", "--format", "svg"]
    assert call(monkeypatch, "task2_gen_report_wo_pretrain", *options) == 1
    out, error = capsys.readouterr()
    assert error == ""
    assert {path.stem for path in (here / "assets").glob("*.svg")} == {
        "task2_song_song",
        "task2_song_song-2",
        "task2_song_it_s_5_",
    }
    of_bad, of_none = out.splitlines()[-2:]
    assert of_bad.startswith("left out: ")
    assert "bad.mp3 cannot be decoded" in of_bad
    assert "none.mp3 is no file" in of_none


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["bad.mp3"], "bad.mp3 cannot be decoded"),
        (["bad.mp3", "--recipe", "strong"], "task2/resnet_strong/best.pt is missing: run task2_tr"),
    ],
)
def test_mistakes_are_one_line(here, monkeypatch, capsys, options, message):
    Path("bad.mp3").write_bytes(b"no music")
    assert call(monkeypatch, "task2_gen_report_wo_pretrain", "--song", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
