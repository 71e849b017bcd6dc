"""A tiny data set in artist20's layout, for all tests."""

import os

# Before NumPy and torch are imported, for them and for every script that a test starts: on arrays
# this small a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from artist20.artifacts import FeatureSet

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
