"""What a training script works with: songs, fold, classes, keys, settings and folder.

An :class:`Experiment` is what all trainings of one command share, a :class:`TrainingRun` is one
training.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch

from artist20 import UserError, checkpoints, dataset, distributed, files, naming, results, runtime
from artist20.checkpoints import TrainedModel, TrainingState
from artist20.cli import next_stage
from artist20.dataset import Song
from artist20.evaluation import accuracy
from artist20.results import NetworkMetrics, Predictions, ResNetRecipe, Settings, TransferRecipe

BEST, LAST = "best.pt", "last.pt"
EVENTS = "tensorboard"  # the subfolder of --tensorboard
# What a run writes, and --overwrite removes; metrics.json last, without which no run is finished.
RUN_FILES = (
    *(BEST, LAST, "history.csv"),
    *("val_predictions.json", "test_predictions.json", "test_scores.json"),
    *checkpoints.EMBEDDING_FILES,
    "metrics.json",
)
SAME = "the same command with"  # for messages of the training scripts
AGAIN = f"{SAME} --overwrite"


@dataclass(frozen=True)
class Experiment:
    """What all trainings of one command share."""

    args: argparse.Namespace
    model: str  # see :func:`artist20.naming.network_name`
    device: torch.device
    precision: torch.dtype  # what products are computed in
    songs: list[Song]  # all that are read, trained on or scored: the data folder's own files
    keys: dict[Path, str]  # content keys of these files, those of --audio-root, and other versions
    left_out: dict[str, str]  # by path what is wrong with each song that cannot be decoded
    started: float  # ``time.monotonic()`` at the start

    @property
    def name(self) -> str:
        """The model's name in files and tables, see :func:`artist20.naming.network_name`."""
        tree = naming.rendition_name(self.args.audio_root)
        return naming.network_name(self.model, self.args.recipe, tree)

    @property
    def folder(self) -> Path:
        """Where the model trained on all training songs goes; folds go within."""
        args, tree = self.args, naming.rendition_name(self.args.audio_root)
        return results.network_dir(args.results_dir, self.model, args.recipe, rendition=tree)

    @property
    def heard(self) -> list[Song]:
        """The songs that can be decoded, with the files that are heard."""
        songs = [song for song in self.songs if song.path not in self.left_out]
        return dataset.as_heard(songs, self.args.audio_root)

    @property
    def train_songs(self) -> list[Song]:
        """All training songs that can be decoded, those of all folds."""
        return dataset.read_split(self.args.data_dir, "train", self.args.limit, self.left_out)

    def decoded(self, fill: Callable[[Mapping[str, Path]], dict[str, str]]) -> "Experiment":
        """Decode all songs once, before any training; name all at once that cannot be.

        ``fill`` takes files by content key; gives by key what is wrong with those it cannot decode.

        UserError if there are such and --skip-unreadable does not leave them out, or if an
        alternate version of --also-train-on is missing or cannot be decoded.
        """
        heard, skip = self.heard, self.args.skip_unreadable
        reasons = fill(dict(self.keyed(heard)))
        left_out = dataset.check_readable(heard, self.keys, reasons, skip)
        experiment = replace(self, left_out=left_out)
        if not self.args.also_train_on:
            return experiment
        others = dataset.alternate_versions(experiment.train_songs, self.args.also_train_on)
        keys = distributed.on_main(lambda: dataset.content_keys(others))
        reasons = fill({key: file for file, key in keys.items()})
        dataset.check_readable(others, keys, reasons, skip=False)
        return replace(experiment, keys=self.keys | keys)

    def open(
        self,
        recipe: TransferRecipe | ResNetRecipe,
        encoders: Sequence[results.EncoderSettings] = (),
        fold: int | None = None,
        folder: Path | None = None,
    ) -> "TrainingRun":
        """Open a training, and look at what its folder holds.

        ``fold`` holds out a fold of the training songs, which is scored in place of the validation
        songs; it goes within ``folder``, by default the model's own.

        UserError if the folder holds a run of other settings, or an unfinished one, and neither
        --resume nor --overwrite says what to do with it; if another process is writing to it, or if
        a finished run lacks a file that was written before its metrics.
        """
        args = self.args
        train, val, classes = dataset.read_to_fit(args.data_dir, fold, args.limit, self.left_out)
        others = dataset.alternate_versions(train, args.also_train_on) if args.also_train_on else []
        data = dataset.summary(
            args.data_dir, train, val, self.keys, args.limit, self.left_out, fold
        )
        heard = dataset.as_heard([*train, *val], args.audio_root)
        rendition = dataset.describe_rendition(heard, self.keys, args.audio_root)
        settings = Settings(
            recipe_name=args.recipe,
            recipe=recipe,
            encoders=list(encoders),
            precision="bfloat16" if self.precision == torch.bfloat16 else "float32",
            patience=args.patience,
            dataset=data.identity,
            rendition=rendition,
            also_train_on=dataset.fingerprint(others, self.keys) if others else None,
            fold=fold,
            seed=args.seed,
        )
        folder = (folder or self.folder) / (f"fold-{fold}" if fold else "")
        finished = distributed.on_main(lambda: _look_at_folder(folder, settings, args))
        if finished:
            print(f"{folder} holds this run already; --overwrite trains anew")
        train, val = heard[: len(train)], heard[len(train) :]
        return TrainingRun(self, folder, train, val, others, classes, data, settings, finished)

    def keyed(self, songs: Sequence[Song]) -> list[tuple[str, Path]]:
        """Return songs' content keys and files."""
        return [(self.keys[song.file], song.file) for song in songs]

    def conclude(self, run: "TrainingRun", inference: str, option: str = "") -> None:
        """Print where results are and what comes next; after a fold, pool all, once they are there.

        ``inference`` is the next stage's script, to which its ``option`` goes behind the model's.
        """
        if self.args.fold:
            self.pool_folds()
            return
        program = inference + naming.network_options(self.name, self.args.audio_root) + option
        following = next_stage(program, self.args, "data_dir", "results_dir")
        print(f"results are in {run.folder}; {following}")

    def pool_folds(self, folder: Path | None = None) -> Predictions | None:
        """Put the folds of a cross-validation together, once all are there.

        Writes ``cv_predictions.json``: every training song, scored by a network that did not learn
        from its album. Of runs whose epoch was chosen on the songs held out, the last epoch's
        scores are taken: it was not chosen. (The homework's transfer recipe still lowers its
        learning rate by their loss, as it does by the validation songs'.)

        UserError if a fold's files are broken, or of other songs than the training songs are now.
        """
        folder = folder or self.folder
        return distributed.on_main(lambda: _pool_folds(folder, self.name, self.train_songs))


@dataclass(frozen=True)
class TrainingRun:
    """One training: what it learns from, what is scored, everything that its result depends on."""

    experiment: Experiment
    folder: Path  # where checkpoints, history, metrics and predictions go
    train: list[Song]  # the songs to learn from, with the files that are heard
    val: list[Song]  # those to score
    others: list[Song]  # alternate versions of the training songs, in their order, or none
    classes: list[str]  # the artists, in the order of the scores
    dataset: results.Dataset  # what metrics say of the songs
    settings: Settings  # everything that the result depends on
    finished: NetworkMetrics | None  # if the folder holds this very run, finished

    @property
    def goes_on(self) -> bool:
        """Whether there is a ``last.pt`` to resume from; never with --overwrite."""
        return not self.experiment.args.overwrite and (self.folder / LAST).is_file()

    @property
    def replaces(self) -> bool:
        """Whether the folder has a former run, whose place this one takes."""
        files_of = (BEST, LAST, "metrics.json")
        return not self.goes_on and any((self.folder / name).is_file() for name in files_of)

    @cached_property
    def labels(self) -> np.ndarray:
        """(n_train,) classes of the training songs."""
        return dataset.class_indices(self.train, self.classes)

    @cached_property
    def val_labels(self) -> np.ndarray:
        """(n_val,) classes of the songs that are scored."""
        return dataset.class_indices(self.val, self.classes)

    def describe(self, window_frames: int | None) -> TrainedModel:
        """Describe the network to be trained, without its weights: what checkpoints begin with."""
        return TrainedModel(
            classes=self.classes,
            settings=self.settings,
            window_frames=window_frames,
            trained_on=self.dataset.label,
            train_songs=np.bincount(self.labels, minlength=len(self.classes)).tolist(),
            val_songs=len(self.val),
            epoch=0,
            val_top1=None,
            weights={},
        )

    def report(self, metrics: NetworkMetrics) -> None:
        """Print what a run reached, and whether that means anything."""
        if metrics.untrained:
            print("untrained encoder: these figures say nothing about the published one")
        if metrics.learning.failure:
            print(
                f"warning: this network has learnt nothing: {metrics.learning.failure}; try "
                "another --lr, or more --epochs, with --overwrite"
            )
        which, last = ", the last", metrics.last
        if metrics.selected:
            which = f", chosen on these songs; last epoch: {last.top1:.1%}, {last.top3:.1%}"
        print(f"top-1 {metrics.top1:.1%}, top-3 {metrics.top3:.1%} in epoch {metrics.epoch}{which}")
        if alone := metrics.parts.get(naming.CONVOLUTIONS):
            print(f"without LDA, its convolutions alone: {alone.top1:.1%}, {alone.top3:.1%}")


def begin(args: argparse.Namespace, model: str) -> Experiment:
    """Join the other processes, if any, choose device and precision, read and hash the songs.

    UserError if the split lists, the songs or --audio-root are not what they should be, or if
    --patience is given with --fold or --recipe strong: there the scored songs must not decide when
    training stops.
    """
    started = time.monotonic()
    if args.patience and (args.fold or args.recipe != "homework"):
        where = "--fold" if args.fold else f"--recipe {args.recipe}"
        raise UserError(f"--patience cannot go with {where}: there the scored songs do not decide")
    device = distributed.start(runtime.choose_device(args.device))
    precision = runtime.choose_precision(args.precision, device)
    if args.fold:
        songs = dataset.read_split(args.data_dir, "train", args.limit)
    else:
        train, val = dataset.read_train_val(args.data_dir, args.limit)
        songs = [*train, *val]
    everything = [*songs, *dataset.as_heard(songs, args.audio_root)]
    keys = distributed.on_main(lambda: dataset.content_keys(everything))
    for tree in filter(None, (args.audio_root, args.also_train_on)):
        dataset.check_made_of(tree, songs, keys)
    return Experiment(args, model, device, precision, songs, keys, {}, started)


def discard(folder: Path, keep: Sequence[str] = (), events: bool = True) -> None:
    """Remove a run's files, but those to ``keep``; with ``events``, those of --tensorboard, too."""
    for name in RUN_FILES:
        if name not in keep:
            (folder / name).unlink(missing_ok=True)
    if events:
        shutil.rmtree(folder / EVENTS, ignore_errors=True)


def _look_at_folder(
    folder: Path, settings: Settings, args: argparse.Namespace
) -> NetworkMetrics | None:
    """Look at what a folder holds before a run begins; see :meth:`Experiment.open`."""
    if args.overwrite:
        _check_nobody_writes(folder)
    elif (folder / "metrics.json").is_file():
        metrics = results.read_record(folder / "metrics.json", NetworkMetrics, AGAIN)
        results.check_same_settings(metrics.settings, settings, folder / "metrics.json")
        # All that later stages read: they would say to run this one.
        read_best(folder, metrics, AGAIN)
        results.read_record(folder / "val_predictions.json", Predictions, AGAIN)
        checkpoints.read_history(folder / "history.csv", AGAIN)
        if metrics.embeddings:
            checkpoints.check_embeddings(folder, metrics, SAME)
        return metrics
    elif (folder / LAST).is_file():
        _check_nobody_writes(folder)  # or it is no unfinished run, but one that goes on
        last = checkpoints.load_model(folder / LAST, TrainingState, AGAIN)
        results.check_same_settings(last.settings, settings, folder / LAST)
        if not args.resume:
            raise UserError(
                f"{folder / LAST} is of an unfinished run (epoch {last.epoch} of "
                f"{settings.recipe.epochs}): --resume continues it, --overwrite starts again"
            )
    return None


def _check_nobody_writes(folder: Path) -> None:
    if folder.is_dir():
        with files.only_writer(folder):
            pass


def read_best(folder: Path, metrics: NetworkMetrics, made_by: str) -> TrainedModel:
    """Read ``best.pt``; one of another run than ``metrics.json`` beside it is refused."""
    best = checkpoints.load_model(folder / BEST, TrainedModel, made_by)
    if (best.settings, best.epoch) != (metrics.settings, metrics.epoch):
        raise UserError(f"{folder}: best.pt is not of the run in metrics.json: run {made_by}")
    return best


def _pool_folds(folder: Path, name: str, songs: list[Song]) -> Predictions | None:
    first: Settings | None = None
    classes: list[list[str]] = []
    rows: dict[str, dict[str, np.ndarray]] = {}  # by model, and part of it, every song's scores
    for fold in range(1, results.N_FOLDS + 1):
        metrics_file = folder / f"fold-{fold}" / "metrics.json"
        of_fold = f"{SAME} --fold {fold}"
        if not metrics_file.is_file():
            print(f"{metrics_file} is not there: run {of_fold}, too, to pool the folds")
            return None
        metrics = results.read_record(metrics_file, NetworkMetrics, f"{of_fold} --overwrite")
        # Of the songs learnt from and those held out together.
        alike = comparable(metrics.settings, metrics.dataset.fingerprint[:16])
        first = first or alike
        differ = results.differences(first, alike)
        if differ:  # as when one after the other is trained anew
            print(
                f"not pooled: fold-1 and fold-{fold} in {folder} are of different settings or "
                f"songs ({'; '.join(differ)}): run {SAME} --fold N --overwrite for those of before"
            )
            return None
        file = metrics_file.with_name("val_predictions.json")
        part = results.read_record(file, Predictions, f"{of_fold} --overwrite")
        for own_name in metrics.names:
            of_last = part.scores.get(f"{own_name}_last", part.scores.get(own_name))
            if of_last is None:
                raise UserError(f"{file} has no scores of {own_name}: run {of_fold} --overwrite")
            of_songs = zip((song.path for song in part.songs), of_last, strict=True)
            rows.setdefault(own_name, {}).update(of_songs)
        classes.append(part.classes)
    same = all(each == classes[0] for each in classes)
    wanted = {song.path for song in songs}
    if not same or rows[name].keys() != wanted:
        raise UserError(
            f"the folds in {folder} are of other songs than the training songs are now: run the "
            "same command with --overwrite for each --fold"
        )
    pooled = Predictions(
        classes=classes[0],
        songs=[song.record for song in songs],
        scores={
            own_name: np.array([of[song.path] for song in songs])
            for own_name, of in rows.items()
            if of.keys() == wanted  # folds of an earlier version lack parts
        },
    )
    results.write_record(folder / "cv_predictions.json", pooled)
    for own_name, scores in pooled.scores.items():
        reached, which = accuracy(scores, pooled.labels), own_name.removeprefix(name)
        print(
            f"all {results.N_FOLDS} folds{which and ', its convolutions alone'}, {len(songs)} "
            f"songs: top-1 {reached.top1:.1%}, top-3 {reached.top3:.1%}"
        )
    return pooled


def fold_differences(folder: Path, metrics: NetworkMetrics, made_by: str) -> str | None:
    """Return how folds differ from the run on all training songs, while their folders are there.

    ``folder`` is the run's; ``made_by`` is the training script, for messages.
    """

    def alike(of: NetworkMetrics) -> Settings:
        settings = comparable(of.settings, of.dataset.train_fingerprint[:16])
        if not settings.rendition:
            return settings
        # Its hash is over all songs that are heard, validation songs among them.
        rendition = msgspec.structs.replace(settings.rendition, fingerprint="")
        return msgspec.structs.replace(settings, rendition=rendition)

    choice = folder / "candidates.json"
    if choice.is_file():  # the folds are those of the classifier that they chose
        folder /= results.read_record(choice, results.ClassifierChoice, made_by).chosen
    for file in sorted(folder.glob("fold-*/metrics.json")):
        of_fold = results.read_record(file, NetworkMetrics, made_by)
        found = results.differences(alike(metrics), alike(of_fold))
        if found:
            return f"{file.parent} is of a run with other settings or songs ({'; '.join(found)})"
    return None


def comparable(settings: Settings, songs: str) -> Settings:
    """Return what the settings of a cross-validation's folds must have in common.

    ``songs`` takes the place of the data set, of which every fold has its own part.
    """
    recipe = settings.recipe
    if isinstance(recipe, TransferRecipe):  # its temperature is fitted on the folds' scores
        recipe = msgspec.structs.replace(recipe, temperature=1.0)
    # A hash over the songs learnt from, of which every fold has its own, too.
    also_train_on = "yes" if settings.also_train_on else None
    return msgspec.structs.replace(
        settings, recipe=recipe, fold=None, dataset=songs, also_train_on=also_train_on
    )
