"""A tiny data set in artist20's layout, for all tests."""

import os

# Before NumPy and torch are imported, for them and for every script that a test starts: on arrays
# this small a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings
from scipy.special import softmax

from artist20 import evaluation, files, results, runtime
from artist20.results import FeatureSet, Predictions
from artist20.spectrogram import FrontEnd

# The same few examples in every run: the suite is quick, and fails for its code alone.
settings.register_profile(
    "suite",
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


def forbid_network(event: str, args: tuple) -> None:
    """Let no test reach beyond this machine, nor anything that it runs within this process."""
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = args[1] if event == "socket.connect" else args
        if isinstance(address, tuple) and address[0] not in (None, "localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"{event} {address}: there must be no need of a network")


sys.addaudithook(forbid_network)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the group that one process runs by itself: the other has all the rest."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


SAMPLE_RATE = 16_000

# Lowest fundamental in Hz, and how fast the harmonics fall off. The names have what artist20's
# and other people's have.
ARTISTS = {
    "alpha_(uk)": (110.0, 0.5),
    "guns_n'_roses": (220.0, 1.0),
    "sigur_rós,_jr.": (440.0, 2.0),
}
ALBUMS = ("Album One [Disc 1]", "B. Sides, Vol. 2", "¿Qué? - Don't")  # the last one is val's
SONGS = ("01-First_Song.mp3", "02-It's_(Not)_Über.mp3")


def make_waveform(artist: str, seed: int, seconds: float | None = None) -> np.ndarray:
    """Notes of an artist's own register and timbre, over noise: (n_samples,) float32."""
    rng = np.random.default_rng([list(ARTISTS).index(artist), seed])
    lowest, rolloff = ARTISTS[artist]
    n_samples = int((seconds or rng.uniform(2, 4)) * SAMPLE_RATE)
    time = np.arange(n_samples) / SAMPLE_RATE
    steps = rng.choice([0, 2, 4, 7, 9], size=n_samples // 4000 + 1)
    frequency = lowest * 2 ** (np.repeat(steps, 4000)[:n_samples] / 12)
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    tone = sum(np.sin(k * phase) / k**rolloff for k in range(1, 9))
    attack = np.exp(-3 * (time % 0.25))
    waveform = 0.1 * tone * attack + rng.normal(0, 0.01, n_samples)
    return np.clip(waveform, -1, 1).astype(np.float32)


def write_song(path: Path, artist: str, seed: int, seconds: float | None = None) -> None:
    """Write a song as 16 kHz mono, in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_waveform(artist, seed, seconds), SAMPLE_RATE)


def encode(file: Path, codec: str, waveform: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write a file with one of FFmpeg's encoders, from mono (n_samples,) float32."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        kind = stream.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(kind, "mono", rate, stream.codec_context.frame_size or None)
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            container.mux(stream.encode(part))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of 3 artists x 3 albums x 2 songs of 2 to 4 s (12 train, 6 val) and 3 test songs.

    Shared by all tests: one that changes it takes ``tiny_copy``.
    """
    data_dir = tmp_path_factory.mktemp("data") / "tiny"
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for artist in ARTISTS:
        for i, album in enumerate(ALBUMS):
            for j, song in enumerate(SONGS):
                path = f"./train_val/{artist}/{album}/{song}"
                write_song(data_dir / path, artist, seed=10 * i + j)
                lists["val" if i == len(ALBUMS) - 1 else "train"].append(path)
    for split, paths in lists.items():
        (data_dir / f"{split}.json").write_text(json.dumps(paths), encoding="utf-8")
    answers = list(reversed(ARTISTS))
    for number, artist in enumerate(answers, start=1):
        write_song(data_dir / "test" / f"{number:03}.mp3", artist, seed=100 + number)
    (data_dir / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    return data_dir


@pytest.fixture
def tiny_copy(tiny_data: Path, tmp_path: Path) -> Path:
    """Copy of ``tiny_data`` that a test may change."""
    return Path(shutil.copytree(tiny_data, tmp_path / "tiny"))


# Grids with a few points of each kind, for tests that search.
SMALL_GRIDS = {
    "svm": [
        {"kernel": ["rbf"], "C": [0.1, 10.0], "gamma": ["scale", 0.01]},
        {"kernel": ["linear"], "C": [0.01]},
    ],
    "random_forest": [{"n_estimators": [3, 10]}],
    "knn": [{"n_neighbors": [1, 3, 5], "weights": ["uniform", "distance"]}],
    "logistic_regression": [{"C": [0.001, 0.1]}],
}


def make_songs(
    n_artists: int = 3, n_albums: int = 4, n_songs: int = 4, n_features: int = 150, seed: int = 0
) -> FeatureSet:
    """Draw features in which artists differ, and albums as well; the last one is constant."""
    rng = np.random.default_rng(seed)
    rows, y, songs = [], [], []
    # Artists are one random set for every seed, so that another seed gives songs to test on.
    artists = np.random.default_rng(1).normal(0, 0.35, (n_artists, n_features))
    for artist in range(n_artists):
        for album in range(n_albums):
            centre = artists[artist] + rng.normal(0, 0.7, n_features)
            for song in range(n_songs):
                rows.append(centre + rng.normal(0, 1.5, n_features))
                y.append(f"artist {artist}")
                names = {"artist": f"artist {artist}", "album": f"album {album}"}
                path = "./train_val/" + "/".join([*names.values(), f"{seed}-{song}.mp3"])
                songs.append({"path": path, **names})
    order = rng.permutation(len(y))
    X = np.array(rows, dtype=np.float32)
    X[:, -1] = 3
    songs = [songs[i] for i in order]
    albums = np.array([f"{song['artist']}/{song['album']}" for song in songs])
    columns = [f"{'mfcc' if i % 2 else 'mel'}_{i:03d}_mean" for i in range(n_features)]
    return FeatureSet(X[order], np.array(y)[order], albums, songs, columns)


# --- models that were never trained, as their files have them ------------------------------------

TOY_ARTISTS = [f"artist {i}" for i in range(4)]
TOY_SONGS = {
    split: [
        {
            "path": f"./train_val/{artist}/{split} {album}/{song}.mp3",
            "artist": artist,
            "album": f"{split} {album}",
        }
        for artist in TOY_ARTISTS
        for album in range(n_albums)
        for song in range(4)
    ]
    for split, n_albums in (("train", 5), ("val", 3))
}
TOY_DATASET = {
    "name": "toy",
    "synthesised": True,
    "fingerprint": "0123456789abcdef",
    "artists": len(TOY_ARTISTS),
    **{split: len(songs) for split, songs in TOY_SONGS.items()},
    "limit": None,
}


TOY_PROVENANCE = {
    "seed": 0,
    "device": "CPU, 1 threads",
    "seconds": 10,
    "versions": {"artist20": "0.1.0", "python": "3.11.7", "torch": "2.11.0"},
}


def toy_scores(labels: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Draw probabilities; the product of independent models is best with strengths as weights."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), len(TOY_ARTISTS)))
    logits[np.arange(len(labels)), labels] += strength
    return softmax(logits, axis=1)


def toy_predictions(split: str, strengths: dict[str, float], seed: int) -> Predictions:
    """Draw the scores of models of a split's songs."""
    labels = Predictions(TOY_ARTISTS, TOY_SONGS[split], {}).labels
    scores = {
        name: toy_scores(labels, strength, seed + i)
        for i, (name, strength) in enumerate(strengths.items())
    }
    return Predictions(TOY_ARTISTS, TOY_SONGS[split], scores)


def _reached(predictions: Predictions, name: str) -> dict[str, float]:
    scores, labels = predictions.scores[name], predictions.labels
    return {f"top{k}": evaluation.top_k_accuracy(scores, labels, k) for k in (1, 3)}


def trained(n_classes: int) -> dict[str, Any]:
    """What a checkpoint says of its training."""
    said = {"trained_on": "tiny (synthesised songs)", "train_songs": [4] * n_classes}
    return {**said, "val_songs": 6, "val_top1": 0.5}


def resnet_config(**settings: Any) -> dict[str, Any]:
    """What a ResNet's checkpoint says of the network, as the homework has it but for ``settings``.

    The front end is of their n_fft and n_mels.
    """
    config = {
        "n_fft": 1024,
        "n_mels": 64,
        "dropout": 0.3,
        "width": 64,
        "keep_frequency": False,
        "bins_per_band": 1,
        "statistics": False,
        "precision": "float32",
        "select": True,
    } | settings
    return config | {"front_end": FrontEnd(config["n_fft"], config["n_mels"]).settings()}


def put_network(results_dir: Path, name: str, strength: float, seed: int, **metrics: Any) -> Path:
    """Write what a training script leaves of a network; the homework's epochs are chosen."""
    folder = results_dir / "task2" / name
    chosen = not name.endswith("_strong")
    strengths = {name: strength} | ({f"{name}_last": strength} if chosen else {})
    val = toy_predictions("val", strengths, seed + 100)
    results.write_predictions(folder / "val_predictions.json", val)
    held_out = toy_predictions("train", {name: strength}, seed)
    results.write_predictions(folder / "cv_predictions.json", held_out)
    for checkpoint in ("best.pt", "last.pt"):
        (folder / checkpoint).write_text(f"{checkpoint} of {name}, {seed}")
    metrics = {
        "model": name,
        **_reached(val, name),
        "last": _reached(val, list(strengths)[-1]),
        "epoch": 3,
        "selected_on": "validation songs" if chosen else "nothing",
        "settings": {"lr": 0.1, "fold": None, "dataset": "all"},
        "pretrained": False,
        "dataset": TOY_DATASET,
        "command": f"python train_{name}.py --data-dir /somewhere/toy",
        **TOY_PROVENANCE,
        **metrics,
    }
    files.write_json(folder / "metrics.json", metrics)
    return folder


def put_task1(
    results_dir: Path,
    strengths: dict[str, float],
    seed: int,
    level: str = "song",
    cv: str = "album",
) -> Path:
    """Write what task1_train.py leaves of its models."""
    folder = results.task1_dir(results_dir, level)
    val = toy_predictions("val", strengths, seed + 100)
    results.write_predictions(folder / "val_predictions.json", val)
    held_out = toy_predictions("train", strengths, seed)
    results.write_predictions(folder / "cv_predictions.json", held_out)
    for name in strengths:
        (folder / f"{name}.skops").write_text(f"{name}, {seed}")
    cv_top1 = {name: _reached(held_out, name)["top1"] for name in strengths}
    config = {"level": level, "cv": cv, "arrays": {"X_train.npy": "0"}}
    metrics = {
        "models": {
            name: {
                **_reached(val, name),
                "cv_top1": top1,
                "cv_top1_by": {"album": top1, "song": None},
                "temperature": 1.0,
                "calibration_error": 0.1,
                "seconds": 2,
            }
            for name, top1 in cv_top1.items()
        },
        "best_in_cv": max(cv_top1, key=lambda name: cv_top1[name]),
        "left_out": {},
        "config": config | ({"seconds": 5.0, "covariance": False} if level == "segment" else {}),
        "dataset": TOY_DATASET,
        "command": f"python task1_train.py --level {level}",
        **TOY_PROVENANCE,
    }
    files.write_json(folder / "metrics.json", metrics)
    prepared = {"dataset": TOY_DATASET, "feature_version": 1, "arrays": config["arrays"]}
    files.write_json(
        results.task1_dir(results_dir) / "preprocessing.json",
        {**prepared, "command": "python task1_preprocessing.py", **TOY_PROVENANCE},
    )
    return folder


# --- scripts -------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, script: str, *options: object) -> int:
    """Run a script within this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, options)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            runtime.run(importlib.import_module(script).main)
    finally:
        signal.signal(signal.SIGTERM, handler)
    return end.value.code or 0


def assert_one_line(error: str) -> None:
    """Check what a script printed to stderr."""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
