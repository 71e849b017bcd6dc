"""All models that were run on one data set, side by side: the stages' records in, one record out.

``python -m artist20.comparison`` writes that record, ``results.json``, and prints it. Slides, model
card and README's table are made of it alone.
"""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from artist20 import UserError, evaluation, inference, printable
from artist20.experiment import fold_differences
from artist20.files import sha256_file
from artist20.naming import audio_root_option
from artist20.results import (
    Ablation,
    AblationResult,
    Accuracy,
    AlbumResult,
    ArtistResult,
    Comparison,
    Confusion,
    EnsembleMetrics,
    Figures,
    Graded,
    Intervals,
    ModelResult,
    NetworkMetrics,
    OfEnsemble,
    OfNetwork,
    OfTask1,
    Pair,
    Predictions,
    Preprocessing,
    Provenance,
    Search,
    Task1Metrics,
    TestScores,
    Verdict,
    ensemble_dir,
    find_runs,
    read_record,
    stages,
    task1_dir,
)

AnyMetrics = Task1Metrics | NetworkMetrics | EnsembleMetrics

COMMAND = "python -m artist20.comparison"
ENSEMBLE = "python -m artist20.ensemble"
KINDS = ("hand-made features", "frozen encoder", "network from scratch", "ensemble")
N_WORST = 3  # albums that are named
N_CONFUSIONS = 5  # that are kept of each model


@dataclass(frozen=True)
class Model:
    """A model that was run, and what its files hold.

    Attributes
    ----------
    name, own_name : str
        What tables and options call it, and what its own files call it.
    title : str
        Its name for people.
    folder : Path
        Where its files are.
    metrics : Task1Metrics, NetworkMetrics or EnsembleMetrics
        The folder's ``metrics.json``.
    predictions : Predictions
        The folder's file of the validation songs.
    scores, unchosen : np.ndarray
        (n_songs, n_classes) probabilities; the second of the last epoch, where another was chosen
        on these very songs.
    figures : Figures
        Of ``scores``.
    held_out : Predictions or None
        All training songs, each scored by a model that did not learn from its album.
    train, score_test : str
        The commands that train it, and that score the test songs.
    seconds : float
        Of training.
    """

    name: str
    own_name: str
    title: str
    folder: Path
    metrics: AnyMetrics
    predictions: Predictions
    scores: np.ndarray
    unchosen: np.ndarray
    figures: Figures
    held_out: Predictions | None
    train: str
    score_test: str
    seconds: float

    @property
    def cv(self) -> Accuracy | None:
        """Top-1 and top-3 of ``held_out``."""
        held_out = self.held_out
        if held_out is None:
            return None
        return evaluation.accuracy(held_out.scores[self.own_name], held_out.labels)

    @property
    def selected(self) -> bool:
        """Whether the epoch was chosen on the validation songs, which flatters it."""
        return isinstance(self.metrics, NetworkMetrics) and self.metrics.selected


M = TypeVar("M", Model, ModelResult)


def kind_of(model: Model | ModelResult) -> str:
    """Return which of :data:`KINDS` a model is."""
    of = model.metrics if isinstance(model, Model) else model.details
    if isinstance(of, Task1Metrics | OfTask1):
        return KINDS[0]
    if isinstance(of, NetworkMetrics | OfNetwork):
        return KINDS[1 if of.settings.encoders else 2]
    return KINDS[3]


# --- reading -----------------------------------------------------------------------------------


def collect(results_dir: Path, say_missing: bool = True) -> dict[str, Model]:
    """Read every model that has been run, the best first.

    With ``say_missing``, print which were not. Of Task 1's models of segments, only the one that
    was best in cross-validation is taken.

    Raises
    ------
    UserError
        If no model has been run, or if models were run on different songs: their figures must not
        stand side by side.
    """
    models: list[Model] = []
    for run in find_runs(results_dir, say_missing):
        metrics, names = run.metrics, run.metrics.names
        if isinstance(metrics, Task1Metrics) and metrics.level == "segment":
            names = {name: own for name, own in names.items() if own == metrics.best_in_cv}
        commands = run.stage.train, run.stage.score_test
        models += _read_models(run.stage.folder, metrics, names, *commands)
    ensemble = _read_ensemble(results_dir, say_missing)
    if ensemble:
        names = {"ensemble": "ensemble"}
        models += _read_models(ensemble_dir(results_dir), ensemble, names, ENSEMBLE, ENSEMBLE)
    if not models:
        raise UserError(f"{results_dir} holds no metrics: run a training script first")
    models.sort(key=lambda model: (model.figures.top1, model.figures.top3), reverse=True)
    named = {model.name: model for model in models}
    check_same_songs(named, f"the models in {results_dir}")
    return named


def check_same_songs(models: Mapping[str, Model], what: str) -> None:
    """Refuse models of different songs; ``what`` is said of all, their names of each.

    Raises
    ------
    UserError
        If they are of different songs.
    """
    if len({model.metrics.dataset.fingerprint for model in models.values()}) > 1:
        of = "; ".join(
            f"{name}: {model.metrics.dataset.identity}" for name, model in models.items()
        )
        raise UserError(
            f"{what} are of different songs ({of}): train them on the same --data-dir and --limit"
        )
    first, *others = models.values()
    songs = first.predictions
    for model in others:
        of_model = model.predictions
        if of_model.songs != songs.songs or of_model.classes != songs.classes:
            raise UserError(
                f"{model.folder} and {first.folder} have other validation songs or artists: train "
                "again"
            )


def by_kind(models: Mapping[str, M]) -> dict[str, M]:
    """Put models of a kind together, in the order of :data:`KINDS`."""
    return dict(sorted(models.items(), key=lambda item: KINDS.index(kind_of(item[1]))))


def _read_models(
    folder: Path, metrics: AnyMetrics, names: dict[str, str], train: str, score_test: str
) -> Iterator[Model]:
    """Read a folder's models; ``names`` are as tables call them -> as their files do."""
    predictions = read_record(folder / "val_predictions.json", Predictions, train)
    file = folder / "cv_predictions.json"
    by_album = not isinstance(metrics, Task1Metrics) or metrics.folds_by_album
    held_out = read_record(file, Predictions, train) if by_album and file.is_file() else None
    if held_out and isinstance(metrics, NetworkMetrics):
        others = fold_differences(folder, metrics, train)
        if others:
            print(
                f"left out: cross-validation of {folder.name} ({others}): run {train} --overwrite "
                "--fold 1, and 2 to 5"
            )
            held_out = None
    for name, own_name in names.items():
        reached: Accuracy
        if isinstance(metrics, Task1Metrics):
            reached, seconds = metrics.models[own_name], metrics.models[own_name].seconds
        elif isinstance(metrics, NetworkMetrics):
            reached, seconds = metrics, metrics.epochs_seconds
        else:
            reached, seconds = metrics, metrics.provenance.seconds
        check_reached(folder, own_name, reached, predictions, train)
        scores = predictions.scores[own_name]
        yield Model(
            name=name,
            own_name=own_name,
            title=metrics.title(own_name),
            folder=folder,
            metrics=metrics,
            predictions=predictions,
            scores=scores,
            unchosen=predictions.scores.get(f"{own_name}_last", scores),
            figures=evaluation.figures(scores, predictions.labels, predictions.albums),
            held_out=held_out if held_out and own_name in held_out.scores else None,
            train=train,
            score_test=score_test,
            seconds=seconds,
        )


def _read_ensemble(results_dir: Path, say_missing: bool) -> EnsembleMetrics | None:
    """Read the ensemble's metrics, unless its members have been run again since."""
    file = ensemble_dir(results_dir) / "metrics.json"
    if not file.is_file():
        if say_missing:
            print(f"left out: ensemble ({ENSEMBLE} has not been run)")
        return None
    metrics = read_record(file, EnsembleMetrics, ENSEMBLE)
    changed = _changed_files(results_dir, metrics.files)
    if changed:
        print(f"left out: ensemble (made of another {changed[0]}: run {ENSEMBLE} again)")
        return None
    return metrics


def _changed_files(results_dir: Path, files: Mapping[str, str]) -> list[Path]:
    """List which of the files that something was computed from are others now, or gone."""
    found = {results_dir / name: digest for name, digest in files.items()}
    return [
        file for file, digest in found.items() if not file.is_file() or sha256_file(file) != digest
    ]


def check_reached(
    folder: Path, own_name: str, reached: Accuracy, predictions: Predictions, made_by: str
) -> None:
    """Refuse ``metrics.json`` and ``val_predictions.json`` that are not of one run.

    Parameters
    ----------
    folder : Path
        Where both are.
    own_name : str
        A model, as they call it.
    reached : Accuracy
        What it reached by the metrics.
    predictions : Predictions
        What the other file holds.
    made_by : str
        The command that makes both.

    Raises
    ------
    UserError
        If there are no scores of the model, or if they give other figures.
    """
    if own_name not in predictions.scores:
        file = folder / "val_predictions.json"
        raise UserError(f"{file} has no scores of {own_name}: run {made_by} --overwrite")
    found = evaluation.accuracy(predictions.scores[own_name], predictions.labels)
    for of_file, of_scores in ((reached.top1, found.top1), (reached.top3, found.top3)):
        if not math.isclose(of_file, of_scores, abs_tol=1e-6):
            raise UserError(
                f"{folder}: val_predictions.json is not of the run in metrics.json: run {made_by} "
                "--overwrite"
            )


# --- results.json ------------------------------------------------------------------------------


def gather(
    results_dir: Path, command: str, answers: Path | None = None, pooled: bool = False
) -> Comparison:
    """Compute all that is said anywhere of the models of a results folder.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.
    command : str
        The command line that asks for it.
    answers : Path, optional
        The test songs' artists, see :func:`artist20.inference.read_answers`.
    pooled : bool
        Whether to compute :attr:`~artist20.results.ModelResult.pooled`, too.

    Raises
    ------
    UserError
        As :func:`collect` does, or if there are no test scores to grade.
    """
    models = collect(results_dir)
    first = next(iter(models.values()))
    songs = first.predictions
    runs = {model.folder: model.metrics for model in models.values()}
    commands = {model.folder: model.train for model in models.values()}
    of_task1 = [metrics for metrics in runs.values() if isinstance(metrics, Task1Metrics)]
    files = [file for folder in runs for file in _files(folder)]
    provenance = {folder: metrics.provenance for folder, metrics in runs.items()}
    for heard, audio_root in {metrics.heard: metrics.audio_root for metrics in of_task1}.items():
        made = task1_dir(results_dir, rendition=heard) / "preprocessing.json"
        files.append(made)
        stage = f"task1_preprocessing.py{audio_root_option(audio_root)}"
        prepared = read_record(made, Preprocessing, stage)
        provenance = {made: prepared.provenance, **provenance}
    graded = _grade(models, answers) if answers else {}
    files += [models[name].folder / "test_scores.json" for name in graded]
    hits = {name: evaluation.hits(row.unchosen, songs.labels, 1) for name, row in models.items()}

    def relative(path: Path) -> str:
        return path.relative_to(results_dir).as_posix()

    return Comparison(
        command=without_folders(command),
        dataset=first.metrics.dataset,
        val_albums=len(np.unique(songs.albums)),
        resamples=evaluation.N_RESAMPLES,
        confidence=evaluation.CONFIDENCE,
        significance=evaluation.SIGNIFICANCE,
        models={
            name: _result(row, relative(row.folder), pooled, graded.get(name))
            for name, row in models.items()
        },
        left_out={
            metrics.title(name): reason
            for metrics in of_task1
            for name, reason in metrics.left_out.items()
        },
        pairs=evaluation.compare_all(hits, songs.albums),
        ablation={
            relative(folder): AblationResult(
                model=ablation.settings.model, families=ablation.families
            )
            for folder in runs
            if (ablation := _ablation(folder, commands[folder]))
        },
        runs={relative(path): _anywhere(of_run) for path, of_run in provenance.items()},
        files={relative(file): sha256_file(file) for file in sorted({*files})},
    )


def _pool(model: Model) -> Figures | None:
    """Compute the figures of training and validation songs together, none seen or chosen on."""
    held_out, val = model.held_out, model.predictions
    if held_out is None:
        return None
    return evaluation.figures(
        np.concatenate([held_out.scores[model.own_name], model.unchosen]),
        np.concatenate([held_out.labels, val.labels]),
        np.concatenate([held_out.albums, val.albums]),
    )


def _grade(models: Mapping[str, Model], path: Path) -> dict[str, Graded]:
    """Compute what models reached on the test songs, and print of which that is not known.

    Raises
    ------
    UserError
        If it is known of none, or the answers are not those of the test songs.
    """
    scores = {}
    for name, model in models.items():
        file = model.folder / "test_scores.json"
        test = read_record(file, TestScores, model.score_test) if file.is_file() else None
        if test is None or not _is_of(model, test):
            state = "missing" if test is None else "of another model than the one that is there"
            print(f"no test figures of {model.title}: {file} is {state}, run {model.score_test}")
            continue
        scores[name] = test
    if not scores:
        raise UserError("--answers: no model has scored the test songs")
    keys: dict[str, str] = {}
    for name, test in scores.items():
        other = [
            key for key, digest in test.songs.items() if keys.setdefault(key, digest) != digest
        ]
        if other:
            raise UserError(
                f"--answers: {models[name].folder / 'test_scores.json'} is of other test songs "
                f"than others, {printable(other[0])} among them: score all test songs anew"
            )
    classes = next(iter(models.values())).predictions.classes
    answers = inference.match_answers(inference.read_answers(path, keys), classes)
    number = {artist: i for i, artist in enumerate(classes)}
    graded = {}
    for name, test in scores.items():
        asked = [int(key) - 1 for key in test.songs]
        labels = np.array([number.get(answers[i], -1) for i in asked])  # -1: of nobody known
        top1, top3 = np.zeros((2, len(answers)), dtype=bool)
        for right, k in ((top1, 1), (top3, 3)):
            right[asked] = evaluation.hits(test.scores[models[name].own_name], labels, k)
        graded[name] = Graded(
            top1=float(top1.mean()),
            top3=float(top3.mean()),
            songs=len(answers),
            over_songs=Intervals(
                top1=evaluation.bootstrap_interval(top1), top3=evaluation.bootstrap_interval(top3)
            ),
            course_score=evaluation.course_score(float(top1.mean()), float(top3.mean())),
        )
    return graded


def _is_of(model: Model, test: TestScores) -> bool:
    """Return whether test scores are of the model that lies beside them."""
    if isinstance(model.metrics, EnsembleMetrics):
        return True  # it writes both at once
    network = isinstance(model.metrics, NetworkMetrics)
    file = model.folder / ("best.pt" if network else f"{model.own_name}.skops")
    return file.is_file() and test.checkpoints.get(model.own_name) == [sha256_file(file)]


def _files(folder: Path) -> list[Path]:
    """List the files of a folder that figures are computed from."""
    names = ("metrics.json", "val_predictions.json", "cv_predictions.json", "ablation.json")
    files = [folder / name for name in names] + sorted(folder.glob("search_*.json"))
    return [file for file in files if file.is_file()]


def _ablation(folder: Path, made_by: str) -> Ablation | None:
    """Read a folder's ablation, if it is finished."""
    file = folder / "ablation.json"
    ablation = read_record(file, Ablation, made_by) if file.is_file() else None
    return ablation if ablation and ablation.complete else None


def _anywhere(provenance: Provenance) -> Provenance:
    """Take the machine's folders out of a command."""
    return msgspec.structs.replace(provenance, command=without_folders(provenance.command))


def without_folders(command: str) -> str:
    """Cut the absolute paths in a command line to their last names, which are the same anywhere."""
    arguments = []
    for argument in shlex.split(command):
        option, equals, value = argument.rpartition("=")
        path = Path(value)
        arguments.append(option + equals + (path.name if path.is_absolute() else value))
    return shlex.join(arguments)


def _result(model: Model, folder: str, pooled: bool, test: Graded | None) -> ModelResult:
    predictions, labels = model.predictions, model.predictions.labels
    classes, albums = predictions.classes, predictions.albums
    matrix = evaluation.confusion_matrix(model.scores, labels)
    right = evaluation.hits(model.scores, labels, 1)
    of_albums = {
        album: AlbumResult(songs=n_songs, right=n_right)
        for album, (n_right, n_songs) in evaluation.right_per_group(right, albums).items()
    }
    f1 = evaluation.f1_scores(matrix)
    return ModelResult(
        title=model.title,
        folder=folder,
        untrained=model.metrics.untrained,
        not_learnt=not_learnt(model.metrics),
        val=model.figures,
        last=evaluation.figures(model.unchosen, labels, albums) if model.selected else None,
        cv=model.cv,
        pooled=_pool(model) if pooled else None,
        test=test,
        seconds=model.seconds,
        artists={
            artist: ArtistResult(
                songs=int(matrix[i].sum()),
                right=int(matrix[i, i]),
                guessed=int(matrix[:, i].sum()),
                f1=float(f1[i]) if matrix[i].any() else None,
            )
            for i, artist in enumerate(classes)
        },
        albums=of_albums,
        worst_albums=worst_albums(of_albums),
        confusions=[
            Confusion(artist=classes[true], guess=classes[guess], songs=n_songs)
            for true, guess, n_songs in evaluation.confusions(matrix)[:N_CONFUSIONS]
        ],
        details=_details(model),
    )


def not_learnt(metrics: AnyMetrics) -> str | None:
    """Return why a network has learnt nothing, if so."""
    return metrics.learning.failure if isinstance(metrics, NetworkMetrics) else None


def _details(model: Model) -> OfTask1 | OfNetwork | OfEnsemble:
    metrics = model.metrics
    if isinstance(metrics, NetworkMetrics):
        return OfNetwork(
            epoch=metrics.epoch,
            parameters=metrics.parameters,
            window_seconds=metrics.window_seconds,
            settings=metrics.settings,
        )
    if isinstance(metrics, EnsembleMetrics):
        return OfEnsemble(
            members=metrics.members,
            best_member_in_cv=metrics.best_member_in_cv,
            against_best_member=metrics.against_best_member,
        )
    file = model.folder / f"search_{model.own_name}.json"
    search = read_record(file, Search, model.train)
    return OfTask1(
        level=metrics.level,
        settings=metrics.settings,
        model=metrics.models[model.own_name],
        search=search.settings,
        n_candidates=len(search.candidates),
    )


def worst_albums(albums: Mapping[str, AlbumResult]) -> list[str]:
    """Name the albums with the smallest share of right songs; among equals, the larger ones."""
    by_share = sorted(albums, key=lambda name: (share(albums[name]), -albums[name].songs))
    return by_share[:N_WORST]


def share(result: AlbumResult | ArtistResult) -> float:
    """Return the share of an album's or artist's songs that are right."""
    return result.right / result.songs


def albums_of_all(models: Iterable[ModelResult]) -> dict[str, AlbumResult]:
    """Count each album's songs, and those that are right, over all models."""
    results = list(models)
    return {
        album: AlbumResult(
            songs=sum(result.albums[album].songs for result in results),
            right=sum(result.albums[album].right for result in results),
        )
        for album in results[0].albums
    }


def check_up_to_date(comparison: Comparison, results_dir: Path, made_from: Path) -> None:
    """Refuse a ``results.json`` that is of other files than those that are there.

    Raises
    ------
    UserError
        If a file is missing or another, or a model has been run since.
    """
    again = f"run {COMMAND} --results-dir {results_dir} --assets-dir {made_from.parent}"
    for file in _changed_files(results_dir, comparison.files):
        raise UserError(f"{made_from} was made of another {file}: {again}")
    for stage in stages(results_dir):
        file = stage.folder / "metrics.json"
        if file.is_file() and file.relative_to(results_dir).as_posix() not in comparison.files:
            raise UserError(f"{made_from} lacks {file}: {again}")
    file = ensemble_dir(results_dir) / "metrics.json"
    if "ensemble" not in comparison.models and file.is_file():
        metrics = read_record(file, EnsembleMetrics, ENSEMBLE)
        if not _changed_files(results_dir, metrics.files):
            raise UserError(f"{made_from} lacks {file}: {again}")


# --- pairs -------------------------------------------------------------------------------------

OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}


def against(comparison: Comparison, name: str) -> dict[str, Pair]:
    """Return how a model compares with each other one, by the other's name; it is the first."""
    pairs = {}
    for pair in comparison.pairs:
        if pair.first == name:
            pairs[pair.second] = pair
        elif pair.second == name:
            low, high = pair.interval
            pairs[pair.first] = Pair(
                first=name,
                second=pair.first,
                difference=-pair.difference,
                interval=(-high, -low),
                only_first=pair.only_second,
                only_second=pair.only_first,
                p=pair.p,
                p_holm=pair.p_holm,
                verdict=OPPOSITE.get(pair.verdict, pair.verdict),
            )
    return pairs


def reference(models: Mapping[str, ModelResult]) -> str | None:
    """Return the model that others are compared with: the ensemble, or else the best in CV."""
    in_cv = {name: (row.cv.top1, row.cv.top3) for name, row in models.items() if row.cv}
    if len(models) < 2 or not in_cv:
        return None
    return "ensemble" if "ensemble" in models else max(in_cv, key=lambda name: in_cv[name])
