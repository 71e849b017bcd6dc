"""Models that have been run: where they lie, what their files hold."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from artist20 import UserError, evaluation, naming, results
from artist20.results import (
    EnsembleMetrics,
    NetworkMetrics,
    Predictions,
    Preprocessing,
    Task1Metrics,
    read_record,
    results_dir_option,
    task1_dir,
)

Metrics = Task1Metrics | NetworkMetrics
AnyMetrics = Metrics | EnsembleMetrics
ScoredSplit = Literal["val", "cv"]  # the validation songs, the training songs in cross-validation


@dataclass(frozen=True)
class Stage:
    """A folder of models."""

    folder: Path
    train: str  # the command that trains them, without ``python``
    score_test: str  # the command that scores the test songs with them
    metrics: type[Metrics]  # what the folder's metrics.json is


@dataclass(frozen=True)
class Model:
    """A model that was run, and what its files hold."""

    name: str  # what tables and options call it
    own_name: str  # what its own files call it
    folder: Path  # where these are
    metrics: AnyMetrics  # the folder's ``metrics.json``
    # the validation songs' scores, and, where there are such, those of all training songs, each by
    # a model that did not learn from its album
    predictions: dict[ScoredSplit, Predictions]
    train: str  # the commands of its :class:`Stage`
    score_test: str

    @property
    def checkpoint(self) -> Path:
        """The file that test songs are scored with, unless told otherwise."""
        is_network = isinstance(self.metrics, NetworkMetrics)
        return self.folder / ("best.pt" if is_network else f"{self.own_name}.skops")

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.metrics.title(self.own_name)

    @property
    def val(self) -> Predictions:
        """Predictions of the validation songs."""
        return self.predictions["val"]

    @property
    def scores(self) -> np.ndarray:
        """(n_songs, n_classes) probabilities of the validation songs."""
        return self.val.scores[self.own_name]

    @property
    def selected(self) -> bool:
        """Whether the epoch was chosen on the validation songs, which flatters it."""
        return isinstance(self.metrics, NetworkMetrics) and self.metrics.selected

    def unchosen_name(self, split: ScoredSplit) -> str:
        """Return what files call the scores of an epoch that was not chosen on these very songs."""
        return f"{self.own_name}_last" if self.selected and split == "val" else self.own_name

    def unchosen(self, split: ScoredSplit = "val") -> np.ndarray:
        """Return these scores: (n_songs, n_classes) probabilities."""
        return self.predictions[split].scores[self.unchosen_name(split)]

    @cached_property
    def figures(self) -> results.Figures:
        """Of ``scores``."""
        return evaluation.figures(self.scores, self.val.labels, self.val.albums)

    @property
    def cv(self) -> results.Accuracy | None:
        """Top-1 and top-3 of the training songs."""
        of = self.predictions.get("cv")
        return evaluation.accuracy(of.scores[self.own_name], of.labels) if of else None

    @property
    def seconds(self) -> float:
        """Of training."""
        if isinstance(self.metrics, Task1Metrics):
            return self.metrics.models[self.own_name].seconds
        if isinstance(self.metrics, NetworkMetrics):
            return self.metrics.epochs_seconds
        return self.metrics.provenance.seconds


def stages(results_dir: Path) -> list[Stage]:
    """List where models may be, in the order in which the stages make them.

    Those of the homework's models and their strong recipes are listed in any case; those of other
    encoders, of renditions and of the wide search where there is a ``metrics.json``. A broken one
    of a rendition is refused.
    """
    found = []

    def add(stage: Stage, options: str, heard: str | None) -> None:
        if heard:
            made_by = f"{stage.train} --audio-root {heard}"
            metrics = read_record(stage.folder / "metrics.json", stage.metrics, made_by)
            options += naming.audio_root_option(metrics.audio_root)
        options += results_dir_option(results_dir)
        train, score_test = stage.train + options, f"python {stage.score_test}{options}"
        found.append(replace(stage, train=train, score_test=score_test))

    trees = {path.name.removeprefix("task1@") for path in results_dir.glob("task1@*")}
    renditions = (None, *sorted(filter(naming.RENDITION.fullmatch, trees)))
    of_task1 = "task1_train.py", "-m artist20.task1_inference"
    for heard, search, level in product(renditions, results.TASK1_SEARCHES, results.TASK1_LEVELS):
        folder = task1_dir(results_dir, level, heard, search)
        always = heard is None and search == "homework"
        if always or (folder / "metrics.json").is_file():
            options = naming.task1_options(level, search=search)
            add(Stage(folder, *of_task1, Task1Metrics), options, heard)
    homework = ("panns", "resnet")
    names = [naming.network_name(model, of) for model in homework for of in results.RECIPES]
    others = {file.parent.name for file in (results_dir / "task2").glob("*/metrics.json")}
    for name in (*names, *sorted(others.difference(names))):
        try:
            named = naming.parse_network_name(name)
        except ValueError:
            continue
        suffix = "_wo_pretrain.py" if named.model == "resnet" else ".py"
        scripts = f"task2_train{suffix}", f"task2_inference{suffix}"
        stage = Stage(results_dir / "task2" / name, *scripts, NetworkMetrics)
        add(stage, naming.network_options(name), named.rendition)
    return found


def find_runs(results_dir: Path, say_missing: bool = True) -> dict[Stage, Metrics]:
    """Read the ``metrics.json`` of all models that have been trained; print which have not."""
    runs = {}
    for stage in stages(results_dir):
        path = stage.folder / "metrics.json"
        name = stage.folder.relative_to(results_dir)
        if not path.is_file():
            if say_missing:
                print(f"left out: {name} ({stage.train} has not been run)")
            continue
        metrics = read_record(path, stage.metrics, stage.train)
        if isinstance(metrics, NetworkMetrics) and metrics.model != stage.folder.name:
            raise UserError(f"{path} is of {metrics.model}: rename its folder, or move it away")
        if isinstance(metrics, Task1Metrics):
            check_features(metrics, results_dir, stage.train)
            for model, reason in metrics.left_out.items():
                print(f"left out: {name}/{model} ({reason})")
        runs[stage] = metrics
    return runs


def check_features(metrics: Task1Metrics, results_dir: Path, made_by: str) -> None:
    """Refuse metrics of Task 1's models whose features are not those that are there now."""
    folder = task1_dir(results_dir, rendition=metrics.heard)
    options = naming.audio_root_option(metrics.audio_root) + results_dir_option(results_dir)
    stage = f"task1_preprocessing.py{options}"
    made = read_record(folder / "preprocessing.json", Preprocessing, stage)
    if made.arrays != metrics.settings.arrays:
        raise UserError(
            f"the models of {made_by} are of other features than {folder} holds now: run {made_by} "
            "--overwrite"
        )
