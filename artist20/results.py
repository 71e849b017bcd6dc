"""What one stage hands another: its path, its form, how it is written and read."""

import csv
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artist20 import UserError
from artist20.files import (
    _check_is_file,
    _first_line,
    _unreadable,
    _write_rows,
    read_array,
    read_json,
    sha256_file,
    write_array,
    write_json,
)

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


TASK1_LEVELS = ("song", "segment")  # what a row of features is


RECIPES = ("homework", "strong")  # how Task 2's networks are trained


N_FOLDS = 5  # of cross-validation by album


# What a network's training keeps for the map of the songs; val_predictions.json names val's.
EMBEDDING_FILES = ("train_embeddings.npy", "val_embeddings.npy", "songs_train.json")


# Columns of history.csv, a row per epoch.
HISTORY = ("epoch", "lr", "train_loss", "val_loss", "val_top1", "val_top3", "seconds")


# Names of models for people.
TITLES = {
    "svm": "SVM",
    "random_forest": "Random forest",
    "knn": "k-NN",
    "logistic_regression": "Logistic regression",
    "panns": "PANNs + MLP",
    "resnet": "ResNet",
    "panns_strong": "PANNs, strong recipe",
    "resnet_strong": "ResNet, strong recipe",
    "ensemble": "Ensemble",
}


# What is needed of files of figures, see has_form().
DATASET_FORM = {
    "name": str,
    "synthesised": bool,
    "fingerprint": str,
    **dict.fromkeys(("artists", "train", "val"), int),
}


REACHED_FORM = {"top1": float, "top3": float}


NETWORK_FORM = {
    "dataset": DATASET_FORM,
    "model": tuple(TITLES),
    "settings": dict,
    **REACHED_FORM,
    "last": REACHED_FORM,
    "epoch": int,
    "pretrained": bool,
    "seconds": float,
}


TASK1_FORM = {
    "dataset": DATASET_FORM,
    "models": {
        str: {
            **REACHED_FORM,
            **dict.fromkeys(("cv_top1", "temperature", "calibration_error", "seconds"), float),
            "cv_top1_by": dict.fromkeys(("album", "song"), (float, type(None))),
        }
    },
    "best_in_cv": str,
    "left_out": {str: str},
    "config": (
        {"level": "song", "cv": str, "arrays": {str: str}},
        {"level": "segment", "cv": str, "arrays": {str: str}, "seconds": float, "covariance": bool},
    ),
}


ENSEMBLE_FORM = {
    "dataset": DATASET_FORM,
    "model": "ensemble",
    "members": dict,
    "files": {str: str},
    **REACHED_FORM,
    "cv": REACHED_FORM,
    "seconds": float,
}


METRICS_FORMS = {  # by a part of the command that makes them
    "task1_preprocessing": {
        "dataset": DATASET_FORM,
        "feature_version": int,
        "arrays": {str: str},
    },
    "task1_train": TASK1_FORM,
    "task2_train": NETWORK_FORM,
    "ensemble": ENSEMBLE_FORM,
}


ABLATION_FORM = {
    "settings": {"model": str},
    "complete": bool,
    "families": {
        str: {
            "n_features": int,
            **dict.fromkeys(("without", "alone"), (float, type(None))),
            **dict.fromkeys(("lost", "lost_std"), float),
        }
    },
}


PROVENANCE_FORM = {"command": str, "device": str, "seconds": float, "versions": {str: str}}


SEARCH_FORM = {"settings": {"grid": list, "transforms": [str]}, "candidates": list}


SONGS_FORM = [dict.fromkeys(("path", "artist", "album"), str)]


# What skops meets in our fitted pipelines beyond its own list. Fixed here: a file never says for
# itself what may be trusted.
TRUSTED_TYPES = [
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.tree._tree.Tree",
]


def task1_dir(results_dir: Path, level: str = "song") -> Path:
    """Folder of Task 1's features, models and metrics; of models of segments, one within it."""
    return results_dir / "task1" / ("segment" if level == "segment" else "")


def panns_dir(results_dir: Path, recipe: str = "homework", fold: int | None = None) -> Path:
    """Folder of Task 2's first model: embedding cache, checkpoints, metrics, predictions.

    The cache of the homework's recipe serves all recipes and folds; see :func:`resnet_dir`.
    """
    return _task2_dir(results_dir, "panns", recipe, fold)


def resnet_dir(results_dir: Path, recipe: str = "homework", fold: int | None = None) -> Path:
    """Folder of Task 2's second model: spectrogram cache, checkpoints, metrics, predictions.

    Another recipe than the homework's has a folder beside it, a fold of cross-validation one
    within.
    """
    return _task2_dir(results_dir, "resnet", recipe, fold)


def network_name(model: str, recipe: str) -> str:
    """Name ``panns`` or ``resnet`` of a recipe, in files and tables: a key of :data:`TITLES`."""
    return model if recipe == "homework" else f"{model}_{recipe}"


def _task2_dir(results_dir: Path, model: str, recipe: str, fold: int | None) -> Path:
    folder = results_dir / "task2" / network_name(model, recipe)
    return folder / f"fold-{fold}" if fold else folder


def ensemble_dir(results_dir: Path) -> Path:
    """Folder of the models' combination: weights, metrics, predictions."""
    return results_dir / "ensemble"


def model_folders(results_dir: Path) -> list[tuple[Path, str, str]]:
    """List where models are, in the order of the stages.

    Returns
    -------
    list of (Path, str, str)
        The folder, the command that trains its models, and the one that scores the test songs.
    """
    folders = []
    for level in TASK1_LEVELS:
        option = "" if level == "song" else f" --level {level}"
        scores = f"python -m artist20.task1_inference{option}"
        folders.append((task1_dir(results_dir, level), f"task1_train.py{option}", scores))
    for folder_of, suffix in ((panns_dir, ""), (resnet_dir, "_wo_pretrain")):
        for recipe in RECIPES:
            option = "" if recipe == "homework" else f" --recipe {recipe}"
            train = f"task2_train{suffix}.py{option}"
            scores = f"python task2_inference{suffix}.py{option}"
            folders.append((folder_of(results_dir, recipe), train, scores))
    return folders


def has_form(value: Any, form: Any) -> bool:
    """Tell whether a value from a JSON file has a form.

    Parameters
    ----------
    value : object
        As :func:`read_json` returned it.
    form : object
        A type, or the value itself; a dict of forms by key, all of which must be there, or with the
        one key ``str`` the form of all values; a set of keys; a list with the form of all elements;
        a tuple of forms, one of which must fit. A float may be an integer, and must be finite.
    """
    if isinstance(form, tuple):
        return any(has_form(value, each) for each in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(each, form[0]) for each in value)
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return False
        if str in form:
            return all(has_form(each, form[str]) for each in value.values())
        return all(key in value and has_form(value[key], of) for key, of in form.items())
    if isinstance(form, set):
        return isinstance(value, dict) and form <= value.keys()
    if form is float:
        # Not isfinite(), which fails on integers that no float can hold.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is form if isinstance(form, type) else value == form


def check_same_settings(made: dict[str, Any], wanted: dict[str, Any], where: Path) -> None:
    """Refuse to go on from, or to replace, what other settings made.

    Raises
    ------
    UserError
        If the settings differ: names each difference and both ways out.
    """
    differences = [
        f"{name} {made.get(name)!r} -> {wanted.get(name)!r}"
        for name in sorted(made.keys() | wanted.keys())
        if made.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"{where} is of a run with other settings ({'; '.join(differences)}): "
            "--overwrite replaces it, another --results-dir keeps it"
        )


def check_same_run(
    folder: Path, checkpoint: dict[str, Any], metrics: dict[str, Any], made_by: str
) -> None:
    """Refuse a ``best.pt`` of other settings than ``metrics.json`` has beside it."""
    if checkpoint["config"] != metrics["settings"]:
        raise UserError(
            f"{folder}: best.pt is not of the run in metrics.json: run {made_by} --overwrite"
        )


def read_metrics(path: Path, made_by: str) -> dict[str, Any]:
    """Read a ``metrics.json`` or ``preprocessing.json`` and check that it says what it must.

    What that is, ``made_by`` tells: the command that makes it, one of :data:`METRICS_FORMS`.

    Raises
    ------
    UserError
        If it is missing, broken, or lacks what every such file has.
    """
    form = next(form for stage, form in METRICS_FORMS.items() if stage in made_by)
    metrics = read_record(path, made_by, form)
    if "models" in form:
        names, left_out = metrics["models"].keys(), metrics["left_out"].keys()
        known = names | left_out <= TITLES.keys()
        if not known or names & left_out or metrics["best_in_cv"] not in names:
            raise UserError(f"{path} names models that are not in it: run {made_by} again")
    return metrics


def read_record(path: Path, made_by: str, form: Any) -> dict[str, Any]:
    """Read a JSON object that must have a form, see :func:`has_form`, or is named in an error."""
    record = read_json(path, made_by)
    if not isinstance(record, dict) or not has_form(record, form):
        raise UserError(f"{path} is not what {made_by} writes: run it again")
    return record


def results_file(assets_dir: Path) -> Path:
    """Path of all that is said of the models; see :func:`artist20.comparison.gather`."""
    return assets_dir / "results.json"


def read_results(path: Path, made_by: str) -> dict[str, Any]:
    """Read a ``results.json`` and check that it says what it must.

    Raises
    ------
    UserError
        If it is missing, broken, or not of this version.
    """
    whole = {"command", "dataset", "bootstrap", "significance", "models", "pairs", "ablation"}
    results = read_record(path, made_by, whole | {"left_out", "runs", "files"})
    of_model = {"title", "folder", "untrained_backbone", "top1", "top3", "intervals", "macro_f1"}
    of_model |= {"course_score", "selected_on", "last", "gap", "cv", "seconds", "artists"}
    of_model |= {"albums", "worst_albums", "confusions"}
    of_pair = {"first", "second", "difference", "interval", "p", "p_holm", "verdict"}
    of_data = {"name", "synthesised", "fingerprint", "artists", "train", "val", "limit"}
    models, pairs, data = results["models"], results["pairs"], results["dataset"]
    fit = (
        isinstance(models, dict)
        and bool(models)
        and all(isinstance(row, dict) and of_model <= row.keys() for row in models.values())
        and isinstance(pairs, list)
        and all(isinstance(pair, dict) and of_pair <= pair.keys() for pair in pairs)
        and isinstance(data, dict)
        and of_data | {"val_albums"} <= data.keys()
        and all(isinstance(results[key], dict) for key in ("runs", "files", "ablation"))
        and has_form(results["left_out"], {str: str})
    )
    if not fit:
        raise UserError(f"{path} is not what {made_by} writes: run it again")
    return results


@dataclass(frozen=True)
class FeatureSet:
    """Task 1's features of one split.

    Attributes
    ----------
    X : np.ndarray
        (n_songs, n_features) float32.
    y : np.ndarray
        (n_songs,) artist names.
    albums : np.ndarray
        (n_songs,) ``"artist/album"``: the groups of cross-validation.
    songs : list of dict
        ``path``, ``artist`` and ``album`` of each.
    names : list of str
        The features, columns of X.
    """

    X: np.ndarray
    y: np.ndarray
    albums: np.ndarray
    songs: list[dict[str, str]]
    names: list[str]


def write_features(
    folder: Path,
    split: str,
    X: Iterable[np.ndarray],
    units: Sequence[np.ndarray],
    songs: Sequence[dict[str, str]],
) -> None:
    """Write a split's features, song by song: together they may be larger than memory.

    Parameters
    ----------
    folder : Path
        Task 1's.
    split : str
        Part of all names.
    X : iterable of np.ndarray
        (n_features,) per song, to ``X_<split>.npy``.
    units : sequence of np.ndarray
        (n_units, n_columns) per song, one below another to ``units_<split>.npy``.
    songs : sequence of dict
        ``path``, ``artist`` and ``album`` of each, to ``y_<split>.npy`` and ``songs_<split>.json``.
    """
    _write_rows(folder / f"X_{split}.npy", X, len(songs))
    write_array(folder / f"y_{split}.npy", np.array([song["artist"] for song in songs]))
    n_units = [len(of_song) for of_song in units]
    _write_rows(folder / f"units_{split}.npy", units, sum(n_units))
    unit_songs = np.repeat(np.arange(len(units), dtype=np.int32), n_units)
    write_array(folder / f"unit_songs_{split}.npy", unit_songs)
    write_json(folder / f"songs_{split}.json", songs)


def feature_hashes(folder: Path) -> dict[str, str]:
    """Hash (SHA-256) the arrays of both splits, by file name."""
    arrays = ("X", "y", "units", "unit_songs")
    names = [f"{array}_{split}.npy" for split in ("train", "val") for array in arrays]
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: run task1_preprocessing.py first")
    return {name: sha256_file(folder / name) for name in names}


def read_features(folder: Path, split: str) -> FeatureSet:
    """Read what :func:`write_features` wrote, and check that the three files belong together."""
    made_by = "task1_preprocessing.py"
    X = read_array(folder / f"X_{split}.npy", made_by)
    y = read_array(folder / f"y_{split}.npy", made_by)
    songs = read_json(folder / f"songs_{split}.json", made_by)
    names = read_json(folder / "feature_names.json", made_by)
    fit = has_form(songs, SONGS_FORM) and has_form(names, [str])
    if not (
        fit
        and X.shape == (len(songs), len(names))
        and y.tolist() == [song["artist"] for song in songs]
    ):
        raise UserError(
            f"{folder}: X_{split}.npy {X.shape}, y_{split}.npy {y.shape}, songs_{split}.json and "
            f"feature_names.json do not belong together: run {made_by} again"
        )
    if X.dtype.kind != "f" or not np.isfinite(X).all():
        raise UserError(f"{folder}/X_{split}.npy holds what is no number: run {made_by} again")
    albums = np.array([f"{song['artist']}/{song['album']}" for song in songs])
    return FeatureSet(X, y, albums, songs, names)


def check_features(metrics: dict[str, Any], results_dir: Path, made_by: str) -> None:
    """Refuse figures of Task 1's models that are of other features than those that are there.

    Raises
    ------
    UserError
        If they are.
    """
    made = read_metrics(task1_dir(results_dir) / "preprocessing.json", "task1_preprocessing.py")
    if made.get("arrays") != metrics["config"].get("arrays"):
        raise UserError(
            f"the models of {made_by} are of other features than {task1_dir(results_dir)} holds "
            f"now: run {made_by} --overwrite"
        )


def read_units(folder: Path, split: str, n_songs: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a split's ``units_<split>.npy``, memory-mapped, and ``unit_songs_<split>.npy``.

    Raises
    ------
    UserError
        If one is missing or broken, or they do not fit the split.
    """
    made_by = "task1_preprocessing.py"
    units = read_array(folder / f"units_{split}.npy", made_by, mmap_mode="r")
    unit_songs = read_array(folder / f"unit_songs_{split}.npy", made_by)
    fit = units.dtype == np.float32 and unit_songs.dtype.kind == "i" and unit_songs.ndim == 1
    if (
        not (fit and units.shape == (len(unit_songs), width) and np.isfinite(units).all())
        or np.unique(unit_songs).tolist() != list(range(n_songs))
        or (np.diff(unit_songs) < 0).any()
    ):
        raise UserError(
            f"{folder}: units_{split}.npy {units.shape} and unit_songs_{split}.npy do not belong "
            f"to {n_songs} songs: run {made_by} again"
        )
    return units, unit_songs


def read_sklearn(
    path: Path, classes: list[str] | None = None, n_features: int | None = None
) -> "Pipeline":
    """Read a fitted pipeline; a type outside :data:`TRUSTED_TYPES` is refused.

    Parameters
    ----------
    path : Path
        The file.
    classes : list of str, optional
        The artists that it must know.
    n_features : int, optional
        How many features it must take; given with ``classes``.

    Raises
    ------
    UserError
        If it is missing, broken, of another type, or knows others.
    """
    import skops.io
    from sklearn.pipeline import Pipeline

    made_by = "task1_train.py --overwrite"
    _check_is_file(path, "task1_train.py")
    try:
        model = skops.io.load(path, trusted=TRUSTED_TYPES)
    except PermissionError as error:
        raise _unreadable(path, error) from None
    except Exception as error:  # skops lets errors of zipfile, json and its own through
        raise UserError(f"{path} cannot be read ({_first_line(error)}): run {made_by}") from None
    if not isinstance(model, Pipeline):
        raise UserError(f"{path} is no model of task1_train.py: run {made_by}")
    if classes is not None:
        known = getattr(model, "classes_", np.empty(0)).tolist()
        if known != classes or getattr(model, "n_features_in_", None) != n_features:
            raise UserError(f"{path} is of other artists or features: run {made_by}")
    return model


def read_checkpoint(path: Path, made_by: str, or_else: str = "") -> dict[str, Any]:
    """Read a ``.pt`` written by :func:`write_checkpoint`, tensors on the CPU.

    Parameters
    ----------
    path : Path
        The file.
    made_by : str
        The command that makes it, for the message when it is missing or broken.
    or_else : str
        What else helps then, for its end.

    Raises
    ------
    UserError
        If it is missing, broken, or lacks what every checkpoint has.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path} is missing: run {made_by} first{or_else}")
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle: it is refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise _unreadable(path, error) from None
    except Exception:  # torch lets errors of pickle, zipfile and its own through
        raise UserError(
            f"{path} is damaged, or no checkpoint: run {made_by} again{or_else}"
        ) from None
    form = {"kind": str, "classes": [str], "config": dict}
    if not has_form(checkpoint, form) or not _are_classes(checkpoint["classes"]):
        raise UserError(f"{path} is no checkpoint of {made_by}: run it again{or_else}")
    return checkpoint


def _are_classes(names: list[str]) -> bool:
    """Tell whether names are in the one order that all files have them in."""
    return len(names) > 1 and names == sorted(set(names))


@dataclass(frozen=True)
class Predictions:
    """Class scores of a split's songs, by one model or several.

    Attributes
    ----------
    classes : list of str
        Artist names, the columns of the scores.
    songs : list of dict
        ``path``, ``artist`` and ``album`` of each song, the rows of the scores.
    scores : dict of str to np.ndarray
        Per model (n_songs, n_classes) probabilities.
    """

    classes: list[str]
    songs: list[dict[str, str]]
    scores: dict[str, np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        """(n_songs,) index of each song's artist in ``classes``."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[song["artist"]] for song in self.songs])

    @property
    def albums(self) -> np.ndarray:
        """(n_songs,) ``"artist/album"``: what is drawn and held out as a whole."""
        return np.array([f"{song['artist']}/{song['album']}" for song in self.songs])


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write ``val_predictions.json``, scores to six significant digits."""
    write_json(
        path,
        {
            "classes": predictions.classes,
            "songs": predictions.songs,
            "scores": _plain_scores(predictions.scores),
        },
    )


def read_predictions(path: Path, made_by: str) -> Predictions:
    """Read what :func:`write_predictions` wrote."""
    form = {"classes": [str], "songs": SONGS_FORM, "scores": {str: list}}
    value = read_record(path, made_by, form)
    classes, songs = value["classes"], value["songs"]
    known = {song["artist"] for song in songs} <= set(classes)
    if not known or not songs or not _are_classes(classes):
        raise UserError(f"{path}: artists and songs do not belong together: run {made_by} again")
    scores = _score_arrays(value["scores"], (len(songs), len(classes)), path, made_by)
    return Predictions(classes, songs, scores)


@dataclass(frozen=True)
class TestScores:
    """Class scores of the test songs, by one model or several.

    Attributes
    ----------
    classes : list of str
        Artist names, the columns of the scores.
    songs : dict of str to str
        By a song's key, such as ``"001"``, the SHA-256 of its file; the rows of the scores.
    checkpoints : dict of str to list of str
        Per model the SHA-256 of what was applied: a file, or several that were averaged.
    scores : dict of str to np.ndarray
        Per model (n_songs, n_classes) probabilities.
    guessed : dict of str to str
        By the key of a song that could not be read, what is wrong with it. Its scores are the
        artists' shares of the training songs.
    """

    __test__ = False  # for pytest, which collects by name

    classes: list[str]
    songs: dict[str, str]
    checkpoints: dict[str, list[str]]
    scores: dict[str, np.ndarray]
    guessed: dict[str, str]


def write_test_scores(path: Path, test: TestScores) -> None:
    """Write ``test_scores.json``, scores to six significant digits."""
    write_json(
        path,
        {
            "classes": test.classes,
            "songs": test.songs,
            "checkpoints": test.checkpoints,
            "guessed": test.guessed,
            "scores": _plain_scores(test.scores),
        },
    )


def read_test_scores(path: Path, made_by: str) -> TestScores:
    """Read what :func:`write_test_scores` wrote."""
    form = {
        "classes": [str],
        "songs": {str: str},
        "checkpoints": {str: [str]},
        "guessed": {str: str},
        "scores": {str: list},
    }
    value = read_record(path, made_by, form)
    whole = value["checkpoints"].keys() == value["scores"].keys()
    whole = whole and value["guessed"].keys() <= value["songs"].keys()
    if not whole or not _are_classes(value["classes"]):
        raise UserError(f"{path}: models, artists and scores do not fit: run {made_by} again")
    shape = (len(value["songs"]), len(value["classes"]))
    scores = _score_arrays(value["scores"], shape, path, made_by)
    of_model, guessed = value["checkpoints"], value["guessed"]
    return TestScores(value["classes"], value["songs"], of_model, scores, guessed)


def _plain_scores(scores: dict[str, np.ndarray]) -> dict[str, list[list[float]]]:
    return {
        model: [[float(f"{value:.6g}") for value in row] for row in of_model]
        for model, of_model in scores.items()
    }


def _score_arrays(
    scores: dict[str, list[Any]], shape: tuple[int, int], path: Path, made_by: str
) -> dict[str, np.ndarray]:
    arrays = {}
    for model, of_model in scores.items():
        try:
            arrays[model] = np.array(of_model, dtype=float)
        except (TypeError, ValueError, OverflowError):
            arrays[model] = np.empty(0)
        in_range = (arrays[model] >= 0) & (arrays[model] <= 1)  # which NaN is not
        if arrays[model].shape != shape or not in_range.all():
            raise UserError(
                f"{path}: scores of {model} are not {shape} probabilities: run {made_by} again"
            )
    return arrays


@dataclass(frozen=True)
class SongVectors:
    """One vector for every song of both splits: features, or what a network makes of a song.

    Attributes
    ----------
    train, val : np.ndarray
        (n_songs, d) each.
    train_songs, val_songs : list of dict
        ``path``, ``artist`` and ``album`` of each song, the rows.
    """

    train: np.ndarray
    val: np.ndarray
    train_songs: list[dict[str, str]]
    val_songs: list[dict[str, str]]


def write_embeddings(
    folder: Path, train: np.ndarray, val: np.ndarray, train_songs: list[dict[str, str]]
) -> dict[str, str]:
    """Write a network's embeddings of the songs; the validation songs are val_predictions.json's.

    Parameters
    ----------
    folder : Path
        The run's.
    train, val : np.ndarray
        (n_songs, d), to :data:`EMBEDDING_FILES` as float32.
    train_songs : list of dict
        Records of the rows of ``train``.

    Returns
    -------
    dict of str to str
        SHA-256 of each file, which ``metrics.json`` is to hold.
    """
    of_train, of_val, songs = (folder / name for name in EMBEDDING_FILES)
    write_array(of_train, train.astype(np.float32))
    write_array(of_val, val.astype(np.float32))
    write_json(songs, train_songs)
    return {name: sha256_file(folder / name) for name in EMBEDDING_FILES}


def read_songs(path: Path, made_by: str) -> list[dict[str, str]]:
    """Read a list of songs, each with ``path``, ``artist`` and ``album``."""
    songs = read_json(path, made_by)
    whole = isinstance(songs, list) and all(
        isinstance(song, dict)
        and all(isinstance(song.get(key), str) for key in ("path", "artist", "album"))
        for song in songs
    )
    if not whole:
        raise UserError(f"{path} is no list of songs: run {made_by} again")
    return songs


def read_embeddings(
    folder: Path, metrics: dict[str, Any], val_songs: list[dict[str, str]], made_by: str
) -> SongVectors:
    """Read what :func:`write_embeddings` wrote.

    Parameters
    ----------
    folder : Path
        The run's.
    metrics : dict
        Its ``metrics.json``, with ``embeddings``.
    val_songs : list of dict
        The songs of its ``val_predictions.json``.
    made_by : str
        The training script's name, for messages.

    Raises
    ------
    UserError
        If a file is missing or broken, is not of this run, or does not fit the songs.
    """
    of_train, of_val, songs_file = (folder / name for name in EMBEDDING_FILES)
    train, val = read_array(of_train, made_by), read_array(of_val, made_by)
    songs = read_songs(songs_file, made_by)
    made = metrics.get("embeddings")
    for name in EMBEDDING_FILES:
        if not isinstance(made, dict) or sha256_file(folder / name) != made.get(name):
            raise UserError(
                f"{folder / name} is not of the run that metrics.json is of: run {made_by} "
                "--overwrite"
            )
    width = train.shape[1:]
    for array, n_songs in ((train, len(songs)), (val, len(val_songs))):
        fit = array.dtype == np.float32 and array.shape == (n_songs, *width) and len(width) == 1
        if not fit or not np.isfinite(array).all():
            raise UserError(
                f"{folder}: {of_train.name} {train.shape} and {of_val.name} {val.shape} are no "
                f"embeddings of {len(songs)} and {len(val_songs)} songs: run {made_by} --overwrite"
            )
    return SongVectors(train, val, songs, val_songs)


def read_history(path: Path, made_by: str) -> dict[str, np.ndarray]:
    """Read a network's ``history.csv``: by column, (n_epochs,) values.

    Raises
    ------
    UserError
        If it is missing or broken.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        history = {name: np.array([float(row[name]) for row in rows]) for name in HISTORY}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run {made_by} first") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = []
    if not rows or not all(np.isfinite(column).all() for column in history.values()):
        raise UserError(f"{path} is no history of a training: run {made_by} again")
    return history


def write_test_predictions(path: Path, top3: dict[str, list[str]]) -> None:
    """Write the course's form: ``{"001": [best, second, third], ...}``."""
    write_json(path, dict(sorted(top3.items())))
