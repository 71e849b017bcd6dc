"""What the training of a network keeps: checkpoints, history, embeddings of the songs."""

import csv
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from artist20 import UserError, files, results
from artist20.files import first_line
from artist20.results import Count, NetworkMetrics, Record, Share, SongRecord


class EpochRow(Record, kw_only=True):
    """A row of ``history.csv``; losses are means over crops and over songs, lr the epoch's own."""

    epoch: Annotated[int, Meta(ge=1)]
    lr: results.NonNegative
    train_loss: results.NonNegative
    val_loss: results.NonNegative
    val_top1: Share
    val_top3: Share
    seconds: results.Seconds


class TrainedModel(Record, eq=False, kw_only=True):
    """``best.pt``: what rebuilds a network, and what it was trained on."""

    classes: list[str]  # the artists, in the order of the scores
    settings: results.Settings  # the recipe in it says what the network is
    # length of the log-mel windows that a ResNet was trained on
    window_frames: Annotated[int, Meta(ge=1, le=112_500)] | None = None  # an hour
    trained_on: str  # the data set's name
    train_songs: list[Count]  # how many songs of each artist
    val_songs: Count  # how many were scored
    epoch: Count  # whose weights these are
    val_top1: Share | None  # top-1 then; None in the midst of an epoch
    learning: results.Learning | None = None  # of the whole run, once it is finished
    weights: dict[str, Any]  # the network's state dict, on the CPU
    version: Literal[1] = 1  # raised when the fields' meaning changes

    def __post_init__(self) -> None:
        """Check classes, songs and the network's input against one another."""
        if not results.are_classes(self.classes) or len(self.train_songs) != len(self.classes):
            raise ValueError("classes and train_songs do not belong together")
        if (self.window_frames is None) == isinstance(self.settings.recipe, results.ResNetRecipe):
            raise ValueError("window_frames and settings do not belong together")
        if bool(self.settings.encoders) == isinstance(self.settings.recipe, results.ResNetRecipe):
            raise ValueError("encoders and recipe do not belong together")


class EpochProgress(Record, kw_only=True):
    """How far an interrupted epoch is: its steps so far, and sums over them."""

    step: Count = 0
    examples: Count = 0
    loss_sum: float = 0.0
    seconds: results.Seconds = 0.0


class TrainingState(TrainedModel, eq=False, kw_only=True):
    """``last.pt``: a :class:`TrainedModel`, and what training goes on from."""

    optimizer: dict[str, Any]  # their state dicts
    scheduler: dict[str, Any]
    progress: EpochProgress  # of the epoch that was interrupted
    history: list[EpochRow]

    def __post_init__(self) -> None:
        """Check the epoch against the history."""
        super().__post_init__()
        if self.epoch != len(self.history):
            raise ValueError(f"epoch {self.epoch}, but {len(self.history)} rows of history")


# What a network's training keeps for the map of the songs.
EMBEDDING_FILES = ("train_embeddings.npy", "val_embeddings.npy", "songs_train.json")

M = TypeVar("M", bound=TrainedModel)


def save_model(path: Path, model: TrainedModel) -> None:
    """Write a :class:`TrainedModel` or :class:`TrainingState` as ``.pt``."""
    save_models({path: model})


def save_models(models: dict[Path, TrainedModel]) -> None:
    """Write several; only when all are on the disk do they take their places, in this order."""
    import torch  # which takes seconds, and whoever reads history or embeddings needs none

    with ExitStack() as stack:
        for path, model in reversed(models.items()):  # the last to be opened takes its place first
            temporary = stack.enter_context(files.atomic_path(path))
            held = msgspec.structs.asdict(model)
            plain = held.keys() - {"weights", "optimizer", "scheduler"}  # those hold tensors
            held |= {name: msgspec.to_builtins(held[name]) for name in plain}
            torch.save(held, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())


def load_model(path: Path, kind: type[M], made_by: str, or_else: str = "") -> M:
    """Read what :func:`save_model` wrote, tensors on the CPU; refuse what is missing or broken.

    The file of a :class:`TrainingState` can be read as a :class:`TrainedModel`, too. The message
    says to run ``made_by``, or what ``or_else`` says.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path} is missing: run {made_by} first{or_else}")
    again = f"run {made_by} again{or_else}"
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle: it is refused
            held = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise files.unreadable(path, error) from None
    except Exception:  # torch lets errors of pickle, zipfile and its own through
        raise UserError(f"{path} is damaged, or no checkpoint: {again}") from None
    try:
        return msgspec.convert(held, kind)
    except msgspec.ValidationError as error:
        reason = f"is no checkpoint of this version ({first_line(error)})"
        raise UserError(f"{path} {reason}: {again}") from None


@dataclass(frozen=True)
class SongVectors:
    """One vector for every song of both splits: features, or what a network makes of a song."""

    train: np.ndarray  # (n_songs, d)
    val: np.ndarray
    train_songs: list[SongRecord]  # the rows
    val_songs: list[SongRecord]


def write_embeddings(
    folder: Path, train: np.ndarray, val: np.ndarray, train_songs: Sequence[SongRecord]
) -> dict[str, str]:
    """Write a network's embeddings of the songs, (n_songs, d), to :data:`EMBEDDING_FILES`.

    ``train_songs`` are the rows of ``train``; those of ``val`` are in ``val_predictions.json``.
    Returned is the SHA-256 of each file: :attr:`NetworkMetrics.embeddings`.
    """
    of_train, of_val, songs = (folder / name for name in EMBEDDING_FILES)
    files.write_array(of_train, train.astype(np.float32))
    files.write_array(of_val, val.astype(np.float32))
    results.write_record(songs, train_songs)
    return {name: files.sha256_file(folder / name) for name in EMBEDDING_FILES}


def read_embeddings(
    folder: Path, metrics: NetworkMetrics, val_songs: list[SongRecord], made_by: str
) -> SongVectors:
    """Read what :func:`write_embeddings` wrote; refuse what is of another run, or other songs."""
    check_embeddings(folder, metrics, made_by)
    of_train, of_val, songs_file = (folder / name for name in EMBEDDING_FILES)
    train, val = files.read_array(of_train, made_by), files.read_array(of_val, made_by)
    if len(val) != len(val_songs):
        raise UserError(
            f"{of_val} is of {len(val)} songs, val_predictions.json of {len(val_songs)}: run "
            f"{made_by} --overwrite"
        )
    songs = results.read_record(songs_file, list[SongRecord], made_by)
    return SongVectors(train, val, songs, val_songs)


def check_embeddings(folder: Path, metrics: NetworkMetrics, made_by: str) -> None:
    """Refuse embeddings that are missing, or not of the run that ``metrics.json`` is of."""
    made = metrics.embeddings or {}
    for path in (folder / name for name in EMBEDDING_FILES):
        if not path.is_file() or files.sha256_file(path) != made.get(path.name):
            raise UserError(
                f"{path} is missing, or not of the run that metrics.json is of: run {made_by} "
                "--overwrite"
            )


def write_history(path: Path, history: Sequence[EpochRow]) -> None:
    """Write ``history.csv``, a row per epoch."""
    files.write_csv(path, list(map(msgspec.structs.asdict, history)))


def read_history(path: Path, made_by: str) -> list[EpochRow]:
    """Read a network's ``history.csv``; refuse a missing or broken one."""
    try:
        rows = list(csv.DictReader(files.read_bytes(path, made_by).decode().splitlines()))
        return msgspec.convert(rows, Annotated[list[EpochRow], Meta(min_length=1)], strict=False)
    except (ValueError, csv.Error) as error:  # msgspec's and the decoder's are of ValueError
        raise UserError(f"{path} is broken ({first_line(error)}): run {made_by} again") from None
