"""All models that were run on one data set, side by side: the stages' records in, one record out.

``python -m artist20.comparison`` writes that record, ``results.json``, and prints it. Slides, model
card and README's table are made of it alone.
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from artist20 import UserError, evaluation, finished, inference, printable, results
from artist20.experiment import fold_differences
from artist20.files import sha256_file
from artist20.finished import AnyMetrics, Model, ScoredSplit
from artist20.naming import audio_root_option
from artist20.results import EnsembleMetrics, NetworkMetrics, Predictions, Task1Metrics, read_record

COMMAND = "python -m artist20.comparison"
KINDS = ("hand-made features", "frozen encoder", "network from scratch", "ensemble")
N_WORST = 3  # albums that are named
N_CONFUSIONS = 5  # that are kept of each model


M = TypeVar("M", Model, results.ModelResult)
T = TypeVar("T")


def kind_of(model: Model | results.ModelResult) -> str:
    """Return which of :data:`KINDS` a model is."""
    of = model.metrics if isinstance(model, Model) else model.details
    if isinstance(of, Task1Metrics | results.OfTask1):
        return KINDS[0]
    if isinstance(of, NetworkMetrics | results.OfNetwork):
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
    for stage, metrics in finished.find_runs(results_dir, say_missing).items():
        names = metrics.names
        if isinstance(metrics, NetworkMetrics):
            names = {metrics.model: metrics.model}  # and no parts of it
        elif metrics.settings.segments:
            names = {name: own for name, own in names.items() if own == metrics.best_in_cv}
        models += _read_models(stage.folder, metrics, names, stage.train, stage.score_test)
    if ensemble := _read_ensemble(results_dir, say_missing):
        folder, names = results.ensemble_dir(results_dir), {"ensemble": "ensemble"}
        command = _ensemble_command(results_dir)
        models += _read_models(folder, ensemble, names, command, command)
    if not models:
        raise UserError(f"{results_dir} holds no metrics: run a training script first")
    models.sort(key=lambda model: (model.figures.top1, model.figures.top3), reverse=True)
    named = {model.name: model for model in models}
    check_same_songs(named, f"the models in {results_dir}")
    return named


def check_same_songs(models: Mapping[str, Model], what: str) -> None:
    """Refuse models of different songs; ``what`` is said of all, their names of each."""
    data = {name: model.metrics.dataset for name, model in models.items()}
    if len({songs.fingerprint for songs in data.values()}) > 1:
        of = "; ".join(f"{name}: {songs.identity}" for name, songs in data.items())
        raise UserError(
            f"{what} are of different songs ({of}): train them on the same --data-dir and --limit"
        )
    first, *others = models.values()
    known = first.val.songs, first.val.classes
    for model in others:
        if (model.val.songs, model.val.classes) != known:
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
    val = read_record(folder / "val_predictions.json", Predictions, train)
    file = folder / "cv_predictions.json"
    by_album = not isinstance(metrics, Task1Metrics) or metrics.folds_by_album
    cv = _read_if_there(file, Predictions, train) if by_album else None
    if cv and isinstance(metrics, NetworkMetrics):
        others = fold_differences(folder, metrics, train)
        if others:
            print(
                f"left out: cross-validation of {folder.name} ({others}): run {train} --overwrite "
                "--fold 1, and 2 to 5"
            )
            cv = None
    for name, own_name in names.items():
        of_model = metrics.models[own_name] if isinstance(metrics, Task1Metrics) else metrics
        predictions: dict[ScoredSplit, Predictions] = {"val": val}
        if cv and own_name in cv.scores:
            predictions["cv"] = cv
        model = Model(name, own_name, folder, metrics, predictions, train, score_test)
        check_reached(folder, own_name, of_model, val, train)
        last = model.unchosen_name("val")
        if last not in val.scores:
            file = folder / "val_predictions.json"
            raise UserError(f"{file} has no scores of {last}: run {train} --overwrite")
        yield model


def _read_if_there(file: Path, kind: type[T], made_by: str) -> T | None:
    return read_record(file, kind, made_by) if file.is_file() else None


def _ensemble_command(results_dir: Path) -> str:
    return f"python -m artist20.ensemble{results.results_dir_option(results_dir)}"


def _read_ensemble(results_dir: Path, say_missing: bool) -> EnsembleMetrics | None:
    """Read the ensemble's metrics, unless its members have been run again since."""
    file = results.ensemble_dir(results_dir) / "metrics.json"
    command = _ensemble_command(results_dir)
    if not file.is_file():
        if say_missing:
            print(f"left out: ensemble ({command} has not been run)")
        return None
    metrics = read_record(file, EnsembleMetrics, command)
    if changed := _changed_files(results_dir, metrics.files):
        print(f"left out: ensemble (made of another {changed[0]}: run {command} again)")
        return None
    return metrics


def _changed_files(results_dir: Path, files: Mapping[str, str]) -> list[Path]:
    """List which of the files that something was computed from are others now, or gone."""
    return [
        file
        for name, digest in files.items()
        if not (file := results_dir / name).is_file() or sha256_file(file) != digest
    ]


def check_reached(
    folder: Path, own_name: str, reached: results.Accuracy, predictions: Predictions, made_by: str
) -> None:
    """Refuse ``metrics.json`` and ``val_predictions.json`` in a folder that are not of one run.

    By the former a model ``reached`` what the latter's ``predictions`` are to give.
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
) -> results.Comparison:
    """Compute all that is said anywhere of the models of a results folder, as ``command`` asks.

    ``answers`` are the test songs' artists, see :func:`artist20.inference.read_answers`; with
    ``pooled``, :attr:`~artist20.results.ModelResult.pooled` is computed, too.

    Raises
    ------
    UserError
        As :func:`collect` does, or if there are no test scores to grade.
    """
    models = collect(results_dir)
    first = next(iter(models.values()))
    songs = first.val
    runs = {model.folder: model for model in models.values()}  # one of each folder
    of_task1 = [of.metrics for of in runs.values() if isinstance(of.metrics, Task1Metrics)]
    files = [file for folder in runs for file in _files(folder)]
    provenance = {folder: model.metrics.provenance for folder, model in runs.items()}
    for heard, audio_root in {metrics.heard: metrics.audio_root for metrics in of_task1}.items():
        made = results.task1_dir(results_dir, rendition=heard) / "preprocessing.json"
        files.append(made)
        stage = f"task1_preprocessing.py{audio_root_option(audio_root)}"
        prepared = read_record(made, results.Preprocessing, stage)
        provenance = {made: prepared.provenance, **provenance}
    ablations = {
        folder: _read_if_there(folder / "ablation.json", results.Ablation, model.train)
        for folder, model in runs.items()
    }
    graded = _grade(models, answers) if answers else {}
    files += [models[name].folder / "test_scores.json" for name in graded]
    hits = {name: evaluation.hits(row.unchosen(), songs.labels, 1) for name, row in models.items()}

    def relative(path: Path) -> str:
        return path.relative_to(results_dir).as_posix()

    return results.Comparison(
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
            relative(folder): results.AblationResult(model=of.settings.model, families=of.families)
            for folder, of in ablations.items()
            if of and of.complete
        },
        runs={
            relative(path): replace(of_run, command=without_folders(of_run.command))
            for path, of_run in provenance.items()
        },
        files={relative(file): sha256_file(file) for file in sorted({*files})},
    )


def _pool(model: Model) -> results.Figures | None:
    """Compute the figures of training and validation songs together, none seen or chosen on."""
    val, held_out = model.val, model.predictions.get("cv")
    if held_out is None:
        return None
    return evaluation.figures(
        np.concatenate([held_out.scores[model.own_name], model.unchosen()]),
        np.concatenate([held_out.labels, val.labels]),
        np.concatenate([held_out.albums, val.albums]),
    )


def _grade(models: Mapping[str, Model], path: Path) -> dict[str, results.Graded]:
    """Compute what models reached on the test songs, and print of which that is not known."""
    scores = {}
    for name, model in models.items():
        file, command = model.folder / "test_scores.json", model.score_test
        test = _read_if_there(file, results.TestScores, command)
        if test and _is_of(model, test):
            scores[name] = test
        else:
            state = "of another model than the one that is there" if test else "missing"
            print(f"no test figures of {model.title}: {file} is {state}, run {command}")
    if not scores:
        raise UserError("--answers: no model has scored the test songs")
    keys: dict[str, str] = {}
    for name, test in scores.items():
        for key, digest in test.songs.items():
            if keys.setdefault(key, digest) != digest:
                raise UserError(
                    f"--answers: {models[name].folder / 'test_scores.json'} is of other test songs "
                    f"than others, {printable(key)} among them: score all test songs anew"
                )
    classes = next(iter(models.values())).val.classes
    answers = inference.match_answers(inference.read_answers(path, keys), classes)
    number = {artist: i for i, artist in enumerate(classes)}
    graded = {}
    for name, test in scores.items():
        asked = [int(key) - 1 for key in test.songs]
        labels = np.array([number.get(answers[i], -1) for i in asked])  # -1: of nobody known
        right = np.zeros((2, len(answers)), dtype=bool)  # at first, and among three
        rows = test.scores[models[name].own_name]
        right[:, asked] = [evaluation.hits(rows, labels, k) for k in (1, 3)]
        top1, top3 = right.mean(axis=1).tolist()
        low_high1, low_high3 = map(evaluation.bootstrap_interval, right)
        graded[name] = results.Graded(
            top1=top1,
            top3=top3,
            songs=len(answers),
            over_songs=results.Intervals(top1=low_high1, top3=low_high3),
            course_score=evaluation.course_score(top1, top3),
        )
    return graded


def _is_of(model: Model, test: results.TestScores) -> bool:
    """Return whether test scores are of the model that lies beside them."""
    if isinstance(model.metrics, EnsembleMetrics):
        return True  # it writes both at once
    file = model.checkpoint
    return file.is_file() and test.checkpoints.get(model.own_name) == [sha256_file(file)]


def _files(folder: Path) -> list[Path]:
    """List the files of a folder that figures are computed from."""
    names = ("metrics.json", "val_predictions.json", "cv_predictions.json", "ablation.json")
    files = [folder / name for name in names] + sorted(folder.glob("search_*.json"))
    return [file for file in files if file.is_file()]


def without_folders(command: str) -> str:
    """Cut the absolute paths in a command line to their last names, which are the same anywhere."""
    arguments = []
    for argument in shlex.split(command):
        option, equals, value = argument.rpartition("=")
        path = Path(value)
        arguments.append(option + equals + (path.name if path.is_absolute() else value))
    return shlex.join(arguments)


def _result(
    model: Model, folder: str, pooled: bool, test: results.Graded | None
) -> results.ModelResult:
    predictions, labels = model.val, model.val.labels
    classes, albums = predictions.classes, predictions.albums
    matrix = evaluation.confusion_matrix(model.scores, labels)
    right = Counter(albums[evaluation.hits(model.scores, labels, 1)].tolist())
    of_albums = {
        album: results.AlbumResult(songs=n_songs, right=right[album])
        for album, n_songs in sorted(Counter(albums.tolist()).items())
    }
    f1 = evaluation.f1_scores(matrix)
    return results.ModelResult(
        title=model.title,
        folder=folder,
        untrained=model.metrics.untrained,
        not_learnt=not_learnt(model.metrics),
        val=model.figures,
        last=evaluation.figures(model.unchosen(), labels, albums) if model.selected else None,
        cv=model.cv,
        pooled=_pool(model) if pooled else None,
        test=test,
        seconds=model.seconds,
        artists={
            artist: results.ArtistResult(
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
            results.Confusion(artist=classes[true], guess=classes[guess], songs=n_songs)
            for true, guess, n_songs in evaluation.confusions(matrix)[:N_CONFUSIONS]
        ],
        details=_details(model),
    )


def not_learnt(metrics: AnyMetrics) -> str | None:
    """Return why a network has learnt nothing, if so."""
    return metrics.learning.failure if isinstance(metrics, NetworkMetrics) else None


def _details(model: Model) -> results.OfTask1 | results.OfNetwork | results.OfEnsemble:
    metrics = model.metrics
    if isinstance(metrics, NetworkMetrics):
        return results.OfNetwork(
            epoch=metrics.epoch,
            parameters=metrics.parameters,
            window_seconds=metrics.window_seconds,
            settings=metrics.settings,
        )
    if isinstance(metrics, EnsembleMetrics):
        return results.OfEnsemble(
            members=metrics.members,
            best_member_in_cv=metrics.best_member_in_cv,
            against_best_member=metrics.against_best_member,
        )
    file = model.folder / f"search_{model.own_name}.json"
    search = read_record(file, results.Search, model.train)
    return results.OfTask1(
        settings=metrics.settings,
        model=metrics.models[model.own_name],
        search=search.settings,
        n_candidates=len(search.candidates),
    )


def worst_albums(albums: Mapping[str, results.AlbumResult]) -> list[str]:
    """Name the albums with the smallest share of right songs; among equals, the larger ones."""
    by_share = sorted(albums, key=lambda name: (share(albums[name]), -albums[name].songs))
    return by_share[:N_WORST]


def share(result: results.AlbumResult | results.ArtistResult) -> float:
    """Return the share of an album's or artist's songs that are right."""
    return result.right / result.songs


def albums_of_all(models: Iterable[results.ModelResult]) -> dict[str, results.AlbumResult]:
    """Count each album's songs, and those that are right, over all models."""
    of_models = list(models)
    return {
        album: results.AlbumResult(
            songs=sum(of.albums[album].songs for of in of_models),
            right=sum(of.albums[album].right for of in of_models),
        )
        for album in of_models[0].albums
    }


def read_up_to_date(results_dir: Path, assets_dir: Path) -> results.Comparison:
    """Read ``results.json``; refuse one of other files than those that are there, or of fewer."""
    made_from = results.results_file(assets_dir)
    comparison = read_record(made_from, results.Comparison, COMMAND)
    folders = shlex.join(["--results-dir", str(results_dir), "--assets-dir", str(assets_dir)])
    again = f"run {COMMAND} {folders}"
    for file in _changed_files(results_dir, comparison.files):
        raise UserError(f"{made_from} was made of another {file}: {again}")
    for stage in finished.stages(results_dir):
        file = stage.folder / "metrics.json"
        if file.is_file() and file.relative_to(results_dir).as_posix() not in comparison.files:
            raise UserError(f"{made_from} lacks {file}: {again}")
    file = results.ensemble_dir(results_dir) / "metrics.json"
    if "ensemble" not in comparison.models and file.is_file():
        metrics = read_record(file, EnsembleMetrics, _ensemble_command(results_dir))
        if not _changed_files(results_dir, metrics.files):
            raise UserError(f"{made_from} lacks {file}: {again}")
    return comparison


# --- pairs -------------------------------------------------------------------------------------


def against(comparison: results.Comparison, name: str) -> dict[str, results.Pair]:
    """Return how a model compares with each other one, by the other's name; it is the first."""
    pairs = {}
    for pair in comparison.pairs:
        if pair.first == name:
            pairs[pair.second] = pair
        elif pair.second == name:
            interval = -pair.interval[1], -pair.interval[0]
            pairs[pair.first] = replace(
                pair,
                first=name,
                second=pair.first,
                difference=-pair.difference,
                interval=interval,
                only_first=pair.only_second,
                only_second=pair.only_first,
                verdict=evaluation.verdict(pair.p_holm, interval),
            )
    return pairs


def best_in_cv(models: Mapping[str, results.ModelResult]) -> str | None:
    """Name the model with the highest top-1 in cross-validation, among equals by top-3, if any."""
    in_cv = {name: (row.cv.top1, row.cv.top3) for name, row in models.items() if row.cv}
    return max(in_cv, key=lambda name: in_cv[name], default=None)


def reference(models: Mapping[str, results.ModelResult]) -> str | None:
    """Return the model that others are compared with: the ensemble, or else the best in CV."""
    best = best_in_cv(models)
    if len(models) < 2 or not best:
        return None
    return "ensemble" if "ensemble" in models else best
