"""Damaged files of every kind: a reader returns valid data or one line of error, and nothing else.

Each case takes a small whole file, changes some of it, and reads it. A few hundred cases of fixed
seeds are tried in every run of the suite. ``-m long`` tries thousands of every kind in processes of
their own, in which a case may take ten seconds and two gigabytes of memory; ARTIST20_FUZZ_SEED
picks others.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOY_ARTISTS, put_network, put_task1, toy_model, toy_settings
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from sklearn.svm import SVC

from artist20 import (
    UserError,
    audio,
    checkpoints,
    classical,
    collection,
    dataset,
    fetch,
    files,
    results,
)
from artist20.cache import Cache
from artist20.checkpoints import EpochProgress, EpochRow, TrainedModel, TrainingState

pytestmark = pytest.mark.filterwarnings("ignore::artist20.Note")

SECONDS = 10  # that a case may take
MEMORY = 2 * 2**30  # bytes of data that a process may hold
KINDS = ("mp3", "flac", "wav", "ogg", "npy", "cache", "json", "csv", "list", "pt", "skops", "zip")
RECORDS = {  # by a file's name what it is read as
    "val_predictions": results.Predictions,
    "network": results.NetworkMetrics,
    "task1": results.Task1Metrics,
    "search_svm": results.Search,
    "ablation": results.Ablation,
    "preprocessing": results.Preprocessing,
    "test_scores": results.TestScores,
    "songs_train": list[results.SongRecord],
    "answers": list[str],
}
VALUES = (None, True, -1, 0, 1.5, 1e308, 2**70, "x", [], {}, [[]], {"x": 1})


@dataclass(frozen=True)
class Kind:
    """Whole files, and what reads one."""

    seeds: dict[str, bytes]
    read: Callable[[Path], object]


# --- readers -----------------------------------------------------------------------------------


def read_audio(file: Path) -> None:
    assert np.isfinite(audio.open_song(file)[:]).all()
    collection.examine(file)


def read_cached(file: Path) -> None:
    cache = Cache(file.parent, "toy", {})
    path = cache.path("0" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.replace(path)
    array = cache.load("0" * 64)
    assert array.ndim == 2 and np.isfinite(array).all()


def read_json(file: Path) -> None:
    """Read a record; what is read can be written again."""
    record = results.read_record(file, RECORDS[file.stem], "x")
    results.write_record(file, record)
    results.read_record(file, RECORDS[file.stem], "x")


def read_list(file: Path) -> None:
    (file.parent / "data").mkdir(exist_ok=True)
    file.replace(file.parent / "data/train.json")
    dataset.read_split(file.parent / "data", "train")


def read_checkpoint(file: Path) -> None:
    kind = TrainingState if file.stem == "state" else TrainedModel
    model = checkpoints.load_model(file, kind, "x")
    assert all(isinstance(name, str) for name in model.weights)


def unpack(file: Path) -> None:
    """Unpack an archive; nothing lands outside, and nothing unfinished is left."""
    target = file.parent / "target/artist20"
    shutil.rmtree(target.parent, ignore_errors=True)
    before = set(file.parent.rglob("*"))
    try:
        fetch.unpack(file, target)
        assert (target / "train.json").is_file()
    except fetch.FetchError as error:
        assert not target.exists()
        raise UserError(str(error)) from None
    finally:
        after = {path for path in file.parent.rglob("*") if target not in path.parents}
        assert after <= before | {target.parent, target}


# --- whole files -------------------------------------------------------------------------------


@functools.cache
def whole_files(kind: str) -> Kind:
    with tempfile.TemporaryDirectory() as name:
        return _make_files(kind, Path(name))


def _make_files(kind: str, folder: Path) -> Kind:
    rng = np.random.default_rng(0)
    made: list[Path] = []

    def new(name: str) -> Path:
        made.append(folder / name)
        return made[-1]

    if kind in ("mp3", "flac", "wav", "ogg"):
        read = read_audio
        for n_samples in (800, 12_000):
            audio.write_blocks(
                new(f"{n_samples}.{kind}"), [rng.normal(0, 0.1, n_samples).astype("f4")]
            )
    elif kind in ("npy", "cache"):
        read = read_cached if kind == "cache" else lambda file: files.read_array(file, "x")
        arrays = (rng.normal(size=(4, 3)), np.array(["queen", "u2"]), np.arange(5))
        for i, array in enumerate(arrays[: 1 if kind == "cache" else 3]):
            files.write_array(new(f"{i}.npy"), array)
    elif kind == "json":
        read = read_json
        put_network(folder, "resnet", 1.0, 0).joinpath("metrics.json").replace(new("network.json"))
        of_task1 = put_task1(folder, {"svm": 1.0, "knn": 0.5}, 1)
        (of_task1 / "metrics.json").replace(new("task1.json"))
        for name in ("val_predictions", "search_svm", "ablation", "preprocessing"):
            (of_task1 / f"{name}.json").replace(new(f"{name}.json"))
        scores = results.TestScores(
            classes=list("ab"),
            songs={"001": "0"},
            checkpoints={"svm": ["1"]},
            guessed={},
            scores={"svm": np.array([[0.25, 0.75]])},
        )
        results.write_record(new("test_scores.json"), scores)
        song = results.SongRecord(path="./train_val/x/b/0.mp3", artist="x", album="b")
        results.write_record(new("songs_train.json"), [song, song])
        files.write_json(new("answers.json"), ["x", "y"])
    elif kind == "csv":
        read = lambda file: checkpoints.read_history(file, "x")  # noqa: E731
        checkpoints.write_history(new("history.csv"), [toy_epoch(i) for i in (1, 2)])
    elif kind == "list":
        read = read_list
        # Songs that are not there: they are missed only once the list itself is right.
        files.write_json(new("list.json"), [f"./train_val/{artist}/b/0.mp3" for artist in "xyz"])
    elif kind == "pt":
        read = read_checkpoint
        model = toy_model(toy_settings("resnet"), {"w": torch.ones(2, 3)}, TOY_ARTISTS)
        checkpoints.save_model(new("best.pt"), model)
        held = {name: getattr(model, name) for name in model.__struct_fields__}
        state = TrainingState(
            **{**held, "epoch": 1},
            optimizer={"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
            scheduler={"last_epoch": 1},
            progress=EpochProgress(),
            history=[toy_epoch(1)],
        )
        checkpoints.save_model(new("state.pt"), state)
        held = torch.load(made[0], weights_only=True)
        torch.save(held, new("old.pt"), _use_new_zipfile_serialization=False)
    elif kind == "skops":
        read = functools.partial(
            classical.read_sklearn, made_by="x", classes=["a", "b"], n_features=4
        )
        X, y = rng.normal(size=(12, 4)), np.array(list("ab" * 6))
        for i, classifier in enumerate((SVC(), RandomForestClassifier(2, random_state=0))):
            model = make_pipeline(RobustScaler(), SelectKBest(f_classif, k=2), classifier)
            classical.write_sklearn(new(f"{i}.skops"), model.fit(X, y))
    elif kind == "zip":
        read = unpack
        with zipfile.ZipFile(new("a.zip"), "w") as archive:
            for name in ("train.json", "val.json", "train_val/x/b/0.mp3"):
                archive.writestr(f"hw1/artist20/{name}", "[1, 2, 3]" * 10)
    return Kind({path.name: path.read_bytes() for path in made}, read)


def toy_epoch(epoch: int) -> EpochRow:
    figures = {"train_loss": 2.5, "val_loss": 2.0, "val_top1": 0.5, "val_top3": 0.75}
    return EpochRow(epoch=epoch, lr=0.1, seconds=1.5, **figures)


# --- damages -----------------------------------------------------------------------------------


def damaged(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Change a file, or of half of some kinds what is in it, so that its form stays right."""
    if rng.random() < 0.5:
        if kind in ("pt", "skops") and data.startswith(b"PK"):
            return _damage_member(data, rng)
        if kind in ("json", "list"):
            return json.dumps(_damage_value(json.loads(data), rng)).encode()
    return _damage_bytes(data, rng)


def _damage_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        near_start = int(min(len(changed), rng.exponential(60)))
        place = int(rng.integers(len(changed) + 1)) if rng.random() < 0.6 else near_start
        length = int(min(rng.geometric(0.1), 2000))
        match rng.integers(7):
            case 0:
                del changed[place : place + length]
            case 1:
                changed[place:place] = rng.bytes(length)
            case 2:
                changed[place : place + length] = rng.bytes(length)
            case 3 if place < len(changed):
                changed[place] ^= 1 << int(rng.integers(8))
            case 4:
                del changed[place:]
            case 5:
                extreme = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
                changed[place : place + 4] = extreme
            case _:
                other = int(rng.integers(len(changed) + 1))
                changed[place:place] = changed[other : other + length]
    return bytes(changed)


def _damage_member(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one member of an archive, with the right checksum."""
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        old.write(data)
        with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as copy:
            names = source.namelist()
            chosen = names[int(rng.integers(len(names)))]
            for name in names:
                content = source.read(name)
                copy.writestr(name, _damage_bytes(content, rng) if name == chosen else content)
        new.seek(0)
        return new.read()


def _damage_value(value: Any, rng: np.random.Generator) -> Any:
    """Replace, remove or repeat something within a JSON value."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return VALUES[rng.integers(len(VALUES))]
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[int(rng.integers(len(keys)))]
    how = rng.random()
    if how < 0.15:
        del value[key]
    elif how < 0.3 and isinstance(value, list):
        value.append(value[key])
    elif how < 0.3:
        value[f"{key}?"] = value.pop(key)
    else:
        value[key] = _damage_value(value[key], rng)
    return value


# --- cases -------------------------------------------------------------------------------------


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_case(kind: str, case: int, seed: int, folder: Path) -> str:
    """Read one damaged file: ``"read"`` or ``"refused"``; all else goes through."""
    rng = np.random.default_rng([seed, case])
    whole = whole_files(kind)
    name, data = list(whole.seeds.items())[int(rng.integers(len(whole.seeds)))]
    file = folder / name
    file.write_bytes(damaged(data, kind, rng))
    try:
        with time_limit():
            whole.read(file)
    except UserError as error:
        assert len(str(error).splitlines()) == 1, f"{kind} {case}: {error}"
        return "refused"
    except BaseException as error:
        error.add_note(f"case {case} of {kind}, seed {seed}")
        raise
    return "read"


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(kind, tmp_path):
    for name, data in whole_files(kind).seeds.items():
        (tmp_path / name).write_bytes(data)
        if kind == "list":  # of songs that are not there
            with pytest.raises(UserError, match="3 of 3 songs are missing"):
                read_list(tmp_path / name)
        else:
            whole_files(kind).read(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    outcomes = {try_case(kind, case, 0, tmp_path) for case in range(100)}
    assert "refused" in outcomes  # else nothing was damaged


def work(kind: str, n_cases: int, seed: int, log: Path) -> None:
    """Try cases in a process of its own, and write which one it is before each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries' complaints
    with tempfile.TemporaryDirectory() as folder, log.open("w", buffering=1) as out:
        for case in range(n_cases):
            out.write(f"{case} ")
            try:
                out.write(f"{try_case(kind, case, seed, Path(folder))}\n")
            except Exception as error:
                out.write(f"FOUND {type(error).__name__}: {error}".replace("\n", " ") + "\n")


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files_are_read_or_refused(kind, tmp_path):
    log = tmp_path / "log"
    seed = int(os.environ.get("ARTIST20_FUZZ_SEED", "1"))
    context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
    process = context.Process(target=work, args=(kind, 3000, seed, log))
    process.start()
    process.join()
    lines = log.read_text().splitlines()
    assert process.exitcode == 0, f"the process ended with {process.exitcode} in: {lines[-1]}"
    assert [line for line in lines if "FOUND" in line] == []
    assert len(lines) == 3000
