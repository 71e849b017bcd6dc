"""A tiny data set in artist20's layout, for all tests."""

import os

# Before NumPy and torch are imported, for them and for every script that a test starts: on arrays
# this small a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import json
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings
from scipy.special import softmax

from artist20 import UserError, evaluation, naming, results, runtime
from artist20.checkpoints import TrainedModel
from artist20.features import FeatureSet
from artist20.models import ArtistResNet, EmbeddingMLP
from artist20.results import (
    Ablation,
    AblationSettings,
    Candidate,
    Dataset,
    EncoderSettings,
    Family,
    Learning,
    NetworkMetrics,
    Predictions,
    Preprocessing,
    Provenance,
    Rendition,
    ResNetRecipe,
    Search,
    SearchSettings,
    Segments,
    Settings,
    SongRecord,
    Task1Metrics,
    Task1Model,
    Task1Settings,
    TransferRecipe,
    write_record,
)

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

# Hear Ctrl-C, and let what tests start hear it, also where the suite runs in a shell's background.
signal.signal(signal.SIGINT, signal.default_int_handler)


def forbid_network(event: str, args: tuple) -> None:
    """Let no test reach beyond this machine, nor anything that it runs within this process."""
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = args[1] if event == "socket.connect" else args
        if isinstance(address, tuple) and address[0] not in (None, "localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"{event} {address}: there must be no need of a network")


sys.addaudithook(forbid_network)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: the last one must not keep a single process busy."""
    longest = ["test_scripts.py", "test_gpu_script.py"]
    items.sort(key=lambda item: (*longest, item.path.name).index(item.path.name))


def pytest_sessionfinish() -> None:
    """End workers that a failed test's traceback holds: Python would wait for them for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)  # joblib's have no kill()


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


def encode(
    file: Path, codec: str, waveform: np.ndarray, rate: int = SAMPLE_RATE, layout: str = "mono"
) -> None:
    """Write a file with one of FFmpeg's encoders, from mono (n_samples,) float32."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        kind = stream.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(kind, layout, rate, stream.codec_context.frame_size or None)
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
                songs.append(SongRecord(path=path, **names))
    order = rng.permutation(len(y))
    X = np.array(rows, dtype=np.float32)
    X[:, -1] = 3
    songs = [songs[i] for i in order]
    albums = results.groups_of(songs)
    columns = [f"{'mfcc' if i % 2 else 'mel'}_{i:03d}_mean" for i in range(n_features)]
    return FeatureSet(X[order], np.array(y)[order], albums, songs, columns)


# --- models that were never trained, as their files have them ------------------------------------

TOY_ARTISTS = [f"artist {i}" for i in range(4)]
TOY_SONGS = {
    split: [
        SongRecord(
            path=f"./train_val/{artist}/{split} {album}/{song}.mp3",
            artist=artist,
            album=f"{split} {album}",
        )
        for artist in TOY_ARTISTS
        for album in range(n_albums)
        for song in range(4)
    ]
    for split, n_albums in (("train", 5), ("val", 3))
}
TOY_DATASET = Dataset(
    name="toy",
    synthesised=True,
    fingerprint="0123456789abcdef",
    artists=len(TOY_ARTISTS),
    train=len(TOY_SONGS["train"]),
    val=len(TOY_SONGS["val"]),
)
TOY_LEARNING = Learning(
    train_loss=0.9,
    chance_loss=float(np.log(4)),
    most_guessed="artist 1",
    guessed=0.4,
    own=0.25,
    top1=0.5,
    commonest=0.25,
)
TOY_FAMILIES = {  # their sizes, top-1 without them, and of them alone
    "mfcc": (80, 0.31, 0.42),
    "mel": (512, 0.22, 0.49),
    "tempo": (1, 0.51, 0.1),
}


def toy_provenance(command: str, seed: int | None = 0) -> Provenance:
    """Describe a run on somebody's machine."""
    versions = {"artist20": "0.1.0", "python": "3.11.7", "torch": "2.11.0"}
    return Provenance(
        command=command, device="CPU, 1 threads", seconds=10, versions=versions, seed=seed
    )


def toy_scores(labels: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Draw probabilities; the product of independent models is best with strengths as weights."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), len(TOY_ARTISTS)))
    logits[np.arange(len(labels)), labels] += strength
    return softmax(logits, axis=1)


def toy_predictions(split: str, strengths: dict[str, float], seed: int) -> Predictions:
    """Draw the scores of models of a split's songs."""
    songs = TOY_SONGS[split]
    labels = Predictions(classes=TOY_ARTISTS, songs=songs, scores={}).labels
    scores = {
        name: toy_scores(labels, strength, seed + i)
        for i, (name, strength) in enumerate(strengths.items())
    }
    return Predictions(classes=TOY_ARTISTS, songs=songs, scores=scores)


def _put_predictions(folder: Path, split: str, drawn: Predictions) -> Predictions:
    """Write predictions; return them as whoever reads them has them."""
    file = folder / f"{split}_predictions.json"
    write_record(file, drawn)
    return results.read_record(file, Predictions, "x")


def toy_rendition(name: str | None) -> Rendition | None:
    """Describe a tree that was heard."""
    return Rendition(name=name, fingerprint="fedcba9876543210") if name else None


def toy_settings(name: str, **changes: Any) -> Settings:
    """Say how a network was trained; ``changes`` are of its recipe or its settings.

    All but the ResNet hear through an untrained encoder.
    """
    named = naming.parse_network_name(name)
    strong = named.recipe == "strong"
    common = {"epochs": 100, "batch_size": 8, "lr": 0.005, "crop_seconds": 3.0, "dropout": 0.3}
    common |= {"weight_decay": 0.01, "warmup_epochs": 0, "select": not strong}
    if named.model != "resnet":
        encoders = [
            EncoderSettings(name=name, weights="untrained, seed 0", sample_rate=16000)
            for name in named.model.split("+")
        ]
        kind, own = TransferRecipe, {"views": 1, "windows": None, "pooled": strong}
        own |= {"solver": "epochs", "temperature": 1.0}
        own |= {"hidden": () if strong else (1024, 512, 256), "optimizer": "Adam"}
        own |= {"schedule": "reduce on plateau", "plateau_factor": 0.5, "plateau_patience": 5}
    else:
        encoders = []
        kind, own = ResNetRecipe, {"crops_per_song": 1, "n_fft": 1024, "n_mels": 64, "width": 64}
        own |= {"keep_frequency": False, "bins_per_band": 1, "lda_share": 0}
        own |= {"other_albums": False}
        own |= {"label_smoothing": 0.1, "mixup_alpha": 0.2}
        own |= {"noise_probability": 0.5, "noise_snr_db": (15.0, 40.0)}
    fields = {key: changes.pop(key) for key in list(changes) if key in kind.__struct_fields__}
    settings = {
        "recipe_name": "strong" if strong else "homework",
        "recipe": kind(**{**common, **own, **fields}),
        "encoders": encoders,
        "precision": "float32",
        "dataset": TOY_DATASET.identity,
        "rendition": toy_rendition(named.rendition),
        "seed": 0,
    }
    return Settings(**{**settings, **changes})


def toy_network(
    name: str, n_classes: int, n_inputs: int = 2048, **changes: Any
) -> ArtistResNet | EmbeddingMLP:
    """Make a network with random weights; ``changes`` are of :func:`toy_settings`' recipe."""
    recipe = toy_settings(name, **changes).recipe
    if isinstance(recipe, ResNetRecipe):
        return ArtistResNet(n_classes, recipe)
    return EmbeddingMLP(n_classes, recipe, n_inputs)


def toy_model(settings: Settings, weights: dict[str, Any], classes: list[str]) -> TrainedModel:
    """Make what a checkpoint holds."""
    return TrainedModel(
        classes=classes,
        settings=settings,
        window_frames=None if settings.encoders else 30,
        trained_on="tiny (synthesised songs)",
        train_songs=[4] * len(classes),
        val_songs=6,
        epoch=3,
        val_top1=0.5,
        weights=weights,
    )


def put_network(
    results_dir: Path,
    name: str,
    strength: float,
    seed: int,
    of_convolutions: float | None = None,
    **metrics: Any,
) -> Path:
    """Write what a training script leaves of a network; the homework's epochs are chosen.

    The last epoch is then another than the chosen one. ``of_convolutions`` is their strength,
    without LDA. ``metrics`` replace those of the file.
    """
    folder = results_dir / "task2" / name
    settings = metrics.get("settings") or toy_settings(name)
    own_name = metrics.get("model", name)
    strengths, part = {own_name: strength}, f"{own_name}:convolutions"
    if of_convolutions is not None:
        strengths[part] = of_convolutions
    last = {f"{own_name}_last": strength} if settings.recipe.select else {}
    val = _put_predictions(folder, "val", toy_predictions("val", strengths | last, seed + 100))
    _put_predictions(folder, "cv", toy_predictions("train", strengths, seed))
    for checkpoint in ("best.pt", "last.pt"):
        (folder / checkpoint).write_text(f"{checkpoint} of {name}, {seed}")
    reached = {key: evaluation.accuracy(scores, val.labels) for key, scores in val.scores.items()}
    found = {
        "model": own_name,
        "top1": reached[own_name].top1,
        "top3": reached[own_name].top3,
        "last": reached.get(f"{own_name}_last", reached[own_name]),
        "parts": {":convolutions": reached[part]} if part in reached else {},
        "epoch": 3,
        "learning": TOY_LEARNING,
        "parameters": 1234567 + seed,
        "window_seconds": None if settings.encoders else 3.0,
        "epochs_seconds": 12.4,
        "settings": settings,
        "dataset": TOY_DATASET,
        "audio_root": settings.rendition and f"/somewhere/{settings.rendition.name}",
        "provenance": toy_provenance(f"python train_{name}.py --data-dir /somewhere/toy"),
    }
    write_record(folder / "metrics.json", NetworkMetrics(**{**found, **metrics}))
    return folder


def put_task1(
    results_dir: Path,
    strengths: dict[str, float],
    seed: int,
    level: str = "song",
    cv: str = "album",
    rendition: str | None = None,
    search: str = "homework",
) -> Path:
    """Write what task1_preprocessing.py and task1_train.py leave of models."""
    folder = results.task1_dir(results_dir, level, rendition, search)
    heard = toy_rendition(rendition)
    val = _put_predictions(folder, "val", toy_predictions("val", strengths, seed + 100))
    held_out = _put_predictions(folder, "cv", toy_predictions("train", strengths, seed))
    segments = Segments(seconds=5.0, covariance=False) if level == "segment" else None
    fit = {"dataset": TOY_DATASET.identity, "features": "0", "cv": cv, "seed": 0, "search": search}
    models = {}
    for i, name in enumerate(strengths):
        (folder / f"{name}.skops").write_text(f"{name}, {seed}")
        quality = evaluation.quality(val.scores[name], val.labels)
        cv_top1 = evaluation.accuracy(held_out.scores[name], held_out.labels).top1
        params = {"C": 0.1 * (i + 1), "kernel": "rbf"}
        params |= {"k": None, "scaler": "robust"} if search == "wide" else {}
        models[name] = Task1Model(
            top1=quality.top1,
            top3=quality.top3,
            log_loss=quality.log_loss,
            calibration_error=0.1,
            cv_top1=cv_top1,
            cv_std=0.05 + 0.01 * i,
            cv_top1_by={"album": cv_top1, "song": min(1.0, cv_top1 + 0.1 * (i + 1))},
            params=params,
            temperature=1.5,
            seconds=2,
        )
        candidate = Candidate(
            params=params,
            mean=cv_top1,
            std=0.05,
            folds=[cv_top1],
            top1=cv_top1,
            stopped_early=0,
        )
        found = Search(
            settings=SearchSettings(
                **fit,
                segments=segments,
                grid=[{"C": [0.1, 0.2]}],
                steps=["RobustScaler()", f"SelectKBest(k={90 + i})", "SVC()"],
            ),
            seconds=2,
            candidates=[candidate] * (7 + i),
            folds_by={cv: candidate},
            temperature=1.5,
        )
        write_record(folder / f"search_{name}.json", found)
    best = max(models, key=lambda name: models[name].cv_top1)
    arrays = {"X_train.npy": "0"}
    metrics = Task1Metrics(
        models=models,
        left_out={},
        best_in_cv=best,
        settings=Task1Settings(
            cv=cv, folds=5, unseen_in_cv=3, arrays=arrays, segments=segments, search=search
        ),
        dataset=TOY_DATASET,
        rendition=heard,
        audio_root=heard and f"/somewhere/{rendition}",
        provenance=toy_provenance(f"python task1_train.py --level {level}"),
    )
    write_record(folder / "metrics.json", metrics)
    ablation = Ablation(
        settings=AblationSettings(**fit, segments=segments, model=best, params=models[best].params),
        complete=True,
        families={
            name: Family(n_features=n, without=without, alone=alone, lost=0.1, lost_std=0.01)
            for name, (n, without, alone) in TOY_FAMILIES.items()
        },
    )
    write_record(folder / "ablation.json", ablation)
    prepared = Preprocessing(
        dataset=TOY_DATASET,
        arrays=arrays,
        feature_version=1,
        rendition=heard,
        provenance=toy_provenance("python task1_preprocessing.py", seed=None),
    )
    made = results.task1_dir(results_dir, rendition=rendition)
    write_record(made / "preprocessing.json", prepared)
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


class Touch:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def refused(read: Callable[..., object], path: Path, *args: object) -> str:
    """Check that reading ends in a line that names the file, and return it."""
    with pytest.raises(UserError) as caught:
        read(path, *args)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def assert_one_line(error: str) -> None:
    """Check what a script printed to stderr."""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
