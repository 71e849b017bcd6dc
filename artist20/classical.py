"""Task 1's models: how each is made, folds by album, grid search, song scores, ablation.

Two levels: at ``song``, a row of features is a song, as in the homework; at ``segment``, a row is a
few seconds, models learn from rows, and a song's score is the mean over its rows. Whatever is
chosen is chosen by cross-validation on the training songs, scored by song.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from artist20 import Note, UserError, dataset, evaluation, features, runtime
from artist20.evaluation import mean_per_song
from artist20.results import N_FOLDS

N_FEATURES = 100  # that the homework's models are given
N_COMPONENTS = 100  # that the SVM and k-NN see of a segment
MIN_FIT_ROWS = 3  # the fewest neighbours of the k-NN's grid, and the PCA needs two
UNKNOWN = 1e-6  # how far an artist whom a fold's training songs lack is below all others
FLOOR = 1e-3  # added to probabilities before their logarithm: k-NN's and forests' may be zero
SVM_STEPS = 1_000_000  # of a pair of artists; more than a hundred times what is needed mostly
MAX_PAIR_SCORES = 2**26  # of an SVM at a time, 512 MB
TOO_FEW = "too few training songs, albums or artists to cross-validate: preprocess more songs"

# What scikit-learn says of numbers that overflowed.
OVERFLOWS = ("not finite", "contains NaN", "contains infinity", "getting zero weights")

Grid = list[dict[str, list[Any]]]

# At the level of songs: the homework's own, and a linear model beside them.
GRIDS: dict[str, dict[str, Grid]] = {
    "song": {
        "svm": [
            {
                "kernel": ["rbf"],
                "C": [0.1, 1.0, 10.0, 100.0],
                "gamma": ["scale", 0.001, 0.01, 0.1],
            },
            {"kernel": ["linear"], "C": [0.01, 0.1, 1.0, 10.0]},
            {"kernel": ["poly"], "C": [0.1, 1.0, 10.0], "gamma": ["scale", 0.01], "degree": [2, 3]},
        ],
        "random_forest": [
            {
                "n_estimators": [100, 200, 300],
                "max_depth": [None, 10, 20],
                "min_samples_leaf": [1, 2],
            }
        ],
        "knn": [
            {
                "n_neighbors": [3, 5, 7, 9, 11, 13, 15],
                "weights": ["uniform", "distance"],
                "metric": ["euclidean", "manhattan"],
            }
        ],
        "logistic_regression": [{"C": [0.003, 0.01, 0.03, 0.1, 0.3]}],
    },
    "segment": {
        "svm": [{"C": [1.0, 10.0, 100.0], "gamma": ["scale", 0.001]}],
        "random_forest": [{"n_estimators": [100, 300], "min_samples_leaf": [1, 4]}],
        "knn": [{"n_neighbors": [5, 15, 45], "weights": ["uniform", "distance"]}],
        "logistic_regression": [{"C": [0.003, 0.01, 0.03, 0.1]}],
    },
}

# What is chosen first at the level of segments, with the model that is fastest to fit.
SEGMENT_SECONDS = (5.0, 10.0, 20.0)
COVARIANCE = (False, True)
CHOOSER, CHOOSER_C = "logistic_regression", 0.01


class OutOfScaleError(UserError):
    """Features so large that a model's numbers overflow: it is to be left out."""

    def __init__(self) -> None:
        super().__init__(
            "its numbers overflow: features are far out of scale, as of songs a million times "
            "louder than others; bring their levels closer"
        )


@dataclass(frozen=True)
class Rows:
    """What models are fitted on: one row per song, or one per segment of a song.

    Attributes
    ----------
    X : np.ndarray
        (n_rows, n_features) float32.
    song : np.ndarray
        (n_rows,) which song a row is of, in order.
    y : np.ndarray
        (n_songs,) artist names.
    albums : np.ndarray
        (n_songs,) ``"artist/album"``: the groups of cross-validation.
    names : list of str
        The columns of X.
    """

    X: np.ndarray
    song: np.ndarray
    y: np.ndarray
    albums: np.ndarray
    names: list[str]

    def of_songs(self, songs: np.ndarray) -> "Rows":
        """Keep some songs' rows; songs are numbered anew, in the order given by their number."""
        songs = np.sort(songs)
        kept = np.isin(self.song, songs)
        return replace(
            self,
            X=self.X[kept],
            song=np.searchsorted(songs, self.song[kept]),
            y=self.y[songs],
            albums=self.albums[songs],
        )

    @property
    def families(self) -> np.ndarray:
        """(n_features,) the family that each column belongs to."""
        return np.array([family_of(name) for name in self.names])

    def without(self, columns: np.ndarray) -> "Rows":
        """Leave out columns: (n_features,) bool."""
        names = [name for name, left_out in zip(self.names, columns, strict=True) if not left_out]
        return replace(self, X=self.X[:, ~columns], names=names)


def cut_segments(
    units: np.ndarray,
    unit_songs: np.ndarray,
    y: np.ndarray,
    albums: np.ndarray,
    seconds: float,
    covariance: bool,
) -> Rows:
    """Merge every song's units of about five seconds into segments.

    Parameters
    ----------
    units : np.ndarray
        (n_units, len(features.UNIT_NAMES)).
    unit_songs : np.ndarray
        (n_units,) which song a unit is of, in order.
    y, albums : np.ndarray
        (n_songs,) each.
    seconds : float
        About how long a segment is; each song is shared out evenly.
    covariance : bool
        Whether the covariances of MFCCs are among the columns.
    """
    names = features.FEATURE_NAMES + (features.COVARIANCE_NAMES if covariance else [])
    bounds = np.searchsorted(unit_songs, np.arange(len(y) + 1))
    segments = []
    for first, last in pairwise(bounds):
        wanted = round((last - first) * features.UNIT_SECONDS / seconds)
        n_segments = min(max(1, wanted), last - first)
        merged = features.merge_units(units[first:last], n_segments)
        segments.append(merged[:, : len(names)])
    song = np.repeat(np.arange(len(y)), [len(part) for part in segments])
    return Rows(np.concatenate(segments), song, y, albums, names)


def make_transforms(level: str, name: str, X: np.ndarray) -> Pipeline:
    """Make what stands before a model; it is fitted within each fold.

    Features that are constant over the training rows are dropped first: they cannot be scaled, nor
    is the F value defined by which the homework's models select 100 of them. The linear model
    takes all. Segments are many and songs' own recipe is slow on them, so that there the SVM and
    k-NN work on whitened principal components. ``X`` are the rows that it will be fitted on.
    """
    n_varying = int((np.ptp(X, axis=0) > 0).sum())
    if level == "song" and name != "logistic_regression":
        selection = SelectKBest(f_classif, k=min(N_FEATURES, n_varying))
        return make_pipeline(VarianceThreshold(), RobustScaler(), selection)
    transforms = make_pipeline(VarianceThreshold(), StandardScaler())
    if name in ("svm", "knn"):
        n_components = min(N_COMPONENTS, n_varying, len(X) - 1)
        pca = PCA(n_components, whiten=True, svd_solver="covariance_eigh")
        transforms.steps.append(("pca", pca))
    return transforms


def make_classifier(name: str, seed: int) -> ClassifierMixin:
    """Make an unfitted model of :data:`GRIDS`."""
    if name == "svm":
        # Ties between the votes of pairs are broken by the scores that songs are ranked by.
        # Features far out of scale can keep a linear SVM busy for hours, deaf to every stop:
        # scikit-learn warns of the models that are ended so.
        return SVC(decision_function_shape="ovr", break_ties=True, max_iter=SVM_STEPS)
    if name == "random_forest":
        return RandomForestClassifier(random_state=seed)
    if name == "knn":
        # Not a tree, which could not be read back: it is no type that is trusted.
        return KNeighborsClassifier(algorithm="brute")
    return LogisticRegression(max_iter=2000)


def split_folds(rows: Rows, cv: str, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split the training songs, stratified by artist; with ``cv="album"``, albums stay whole.

    Returns
    -------
    list of (np.ndarray, np.ndarray)
        Per fold the numbers of the songs to fit on and of those held out, ascending.
    """
    # Both want an artist with a song for every fold.
    n_folds = min(N_FOLDS, int(np.unique(rows.y, return_counts=True)[1].max()))
    if cv == "album":
        n_folds = min(n_folds, len(np.unique(rows.albums)))
    if n_folds < 2:
        raise UserError(TOO_FEW)
    if cv == "album":
        held_out = dataset.album_folds(rows.y, rows.albums, n_folds, seed)
    else:
        splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
        with _expected_warnings():
            held_out = [fold for _, fold in splitter.split(rows.y, rows.y)]
    folds = [(np.setdiff1d(np.arange(len(rows.y)), fold), fold) for fold in held_out]
    for fit, _ in folds:
        if np.isin(rows.song, fit).sum() < MIN_FIT_ROWS or len(np.unique(rows.y[fit])) < 2:
            raise UserError(TOO_FEW)
    return folds


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Keep scikit-learn from warning of what is no mistake here."""
    with warnings.catch_warnings():
        for message in (
            "The least populated class",  # fewer songs than folds
            "(divide by zero|invalid value) encountered in divide",  # F of a song per artist
        ):
            warnings.filterwarnings("ignore", message=message, module="sklearn")
        yield


@contextmanager
def _overflow_told() -> Iterator[None]:
    """Turn what comes of numbers that overflow into an OutOfScaleError."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except ValueError as error:
        if not any(sign in str(error) for sign in OVERFLOWS):
            raise
        raise OutOfScaleError from None


def count_unseen(rows: Rows, cv: str, seed: int) -> int:
    """Count the songs whose artist no training song of their fold is by.

    Raises
    ------
    UserError
        If these are all: cross-validation by album then says nothing.
    """
    folds = split_folds(rows, cv, seed)
    unseen = sum(int((~np.isin(rows.y[held], rows.y[fit])).sum()) for fit, held in folds)
    if unseen == len(rows.y):
        raise UserError(
            "every artist has one album in the training songs, so that folds by album leave none "
            "to learn from: use --cv song, or more albums"
        )
    return unseen


def row_scores(model: ClassifierMixin | Pipeline, X: np.ndarray) -> np.ndarray:
    """Score rows: (n_rows, n_classes), the SVM's decision function or probabilities."""
    classifier = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(classifier, SVC):
        return model.predict_proba(X)
    if isinstance(model, Pipeline):
        X = model[:-1].transform(X)
    n_classes = len(classifier.classes_)
    if n_classes == 2:  # scikit-learn gives the second one's score alone
        scores = classifier.decision_function(X)
        return np.stack([-scores, scores], axis=1)
    # 2,000 artists are two million pairs, and a row has a number for each.
    rows_at_a_time = max(1, MAX_PAIR_SCORES // (n_classes * (n_classes - 1) // 2))
    of_pairs = copy(classifier).set_params(decision_function_shape="ovo")
    return np.concatenate(
        [
            _sum_pairs(of_pairs.decision_function(rows), n_classes)
            for rows in np.split(X, range(rows_at_a_time, len(X), rows_at_a_time))
        ]
    )


def _sum_pairs(of_pairs: np.ndarray, n_classes: int) -> np.ndarray:
    """Sum up what an SVM says of each pair of classes: (n_rows, n_classes).

    A class's score is the number of pairs that it wins, and between -1/3 and 1/3 how clearly: to
    the last bit scikit-learn's own ``decision_function_shape="ovr"``, which goes through the pairs
    one by one and takes ten times as long as the SVM itself for some hundreds of artists.

    Parameters
    ----------
    of_pairs : np.ndarray
        (n_rows, n_classes * (n_classes - 1) / 2): above 0 for the first class of (0, 1), (0, 2),
        ..., (1, 2), ..., else for the second.
    """
    votes, sums = np.zeros((2, len(of_pairs), n_classes))
    end = 0
    for first in range(n_classes - 1):
        start, end = end, end + n_classes - 1 - first
        against = of_pairs[:, start:end]
        # One after the other, as they are added there; np.sum would round otherwise.
        sums[:, first] = np.cumsum(np.column_stack([sums[:, first], against]), axis=1)[:, -1]
        sums[:, first + 1 :] -= against
        lost = against < 0
        votes[:, first] += (~lost).sum(axis=1)
        votes[:, first + 1 :] += lost
    return votes + sums / (3 * (np.abs(sums) + 1))


def song_scores(model: Pipeline, rows: Rows) -> np.ndarray:
    """Score songs: the mean over each song's rows, (n_songs, n_classes).

    Raises
    ------
    OutOfScaleError
        If there are scores that are not finite.
    """
    with _overflow_told():
        return _finite_mean(row_scores(model, rows.X), rows)


def _finite_mean(of_rows: np.ndarray, rows: Rows) -> np.ndarray:
    of_songs = mean_per_song(of_rows, rows.song, len(rows.y))
    if not np.isfinite(of_songs).all():
        raise OutOfScaleError
    return of_songs


def logits(name: str, scores: np.ndarray) -> np.ndarray:
    """Turn song scores into what a softmax takes; the order of classes stays as it is."""
    return scores if name == "svm" else np.log(scores + FLOOR)


def fold_scores(
    classifier: ClassifierMixin,
    n_trees: Sequence[int],
    fit: Rows,
    held_out: Rows,
    classes: np.ndarray,
) -> list[np.ndarray]:
    """Fit on a fold's training songs; score the held-out ones, (n_songs, n_classes).

    For a random forest the list has scores for each number of trees: a forest's first trees are
    the smaller forest of the same seed, so that only the largest is grown. An artist of whom the
    training songs have none is ranked last.
    """
    classifier.fit(fit.X, fit.y[fit.song])
    if n_trees:
        of_rows, votes = [], 0
        for n, tree in enumerate(classifier.estimators_, start=1):
            votes = votes + tree.predict_proba(held_out.X)
            if n in n_trees:
                of_rows.append(votes / n)
    else:
        of_rows = [row_scores(classifier, held_out.X)]
    known = np.searchsorted(classes, classifier.classes_)
    results = []
    for scores in of_rows:
        of_songs = _finite_mean(scores, held_out)
        lowest = of_songs.min(axis=1, keepdims=True) - UNKNOWN
        result = np.repeat(lowest, len(classes), axis=1)
        result[:, known] = of_songs
        results.append(result)
    return results


def _fold_scores_if_any(*of_fold: Any) -> list[np.ndarray] | None:
    try:
        with _overflow_told():
            return fold_scores(*of_fold)
    except OutOfScaleError:  # which would end all workers
        return None


def search(
    name: str,
    level: str,
    train: Rows,
    grid: Grid,
    *,
    cv: str,
    seed: int,
    workers: int,
    label: str | None,
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Cross-validate every point of a grid.

    Parameters
    ----------
    name, level : str
        Which model, at which level.
    train : Rows
        The training songs.
    grid : Grid
        Points to try.
    cv : {"album", "song"}
        What stays whole.
    seed : int
        Of the folds and of the forest.
    workers : int
        Number of processes.
    label : str, optional
        What the progress bar says; None for no bar.

    Returns
    -------
    candidates : list of dict
        ``params``, ``folds`` (top-1 of each), their ``mean`` and ``std``; best first. Those whose
        numbers overflow are the last: they have zeros, and ``left_out`` says why.
    held_out_scores : np.ndarray
        (n_songs, n_classes) of the best candidate: each song scored by the model of the fold that
        had not seen its album.

    Raises
    ------
    OutOfScaleError
        If the numbers of every candidate overflow.
    """
    classes = np.unique(train.y)
    folds = split_folds(train, cv, seed)
    smallest = min(int(np.isin(train.song, fit).sum()) for fit, _ in folds)
    points = []
    for point in ParameterGrid(grid):
        if "n_neighbors" in point:  # k-NN cannot look at more neighbours than a fold has rows
            point["n_neighbors"] = min(point["n_neighbors"], smallest)
        if point not in points:
            points.append(point)
    n_trees = sorted({point["n_estimators"] for point in points if "n_estimators" in point})
    grown = [point for point in points if not n_trees or point["n_estimators"] == n_trees[-1]]

    def tasks() -> Iterator[Any]:
        # Only as fast as the workers take them, so that few folds are in memory at a time; and
        # scaling and selection are fitted once for all points.
        for fit, held_out in folds:
            fit_rows, held_out_rows = train.of_songs(fit), train.of_songs(held_out)
            transforms = make_transforms(level, name, fit_rows.X)
            with _expected_warnings():
                transforms.fit(fit_rows.X, fit_rows.y[fit_rows.song])
            fit_rows = replace(fit_rows, X=transforms.transform(fit_rows.X))
            held_out_rows = replace(held_out_rows, X=transforms.transform(held_out_rows.X))
            for point in grown:
                classifier = make_classifier(name, seed).set_params(**point)
                yield delayed(_fold_scores_if_any)(
                    classifier, n_trees, fit_rows, held_out_rows, classes
                )

    with runtime.signals_held():
        results = Parallel(n_jobs=workers, return_as="generator")(tasks())
    quiet = None if label else True  # None: where there is no terminal
    bar = tqdm(results, label, len(grown) * len(folds), disable=quiet, unit="fit")
    done = list(bar)  # in the tasks' order: folds, then points
    candidates, left_out = [], []
    for i, point in enumerate(grown):
        of_point = done[i :: len(grown)]
        if any(scores is None for scores in of_point):
            zeros = {"mean": 0.0, "std": 0.0, "folds": [0.0] * len(folds)}
            left_out.append({"params": point, **zeros, "left_out": str(OutOfScaleError())})
            continue
        for j in range(max(1, len(n_trees))):
            of_folds = [scores[j] for scores in of_point]
            accuracies = [
                evaluation.top_k_accuracy(scores, np.searchsorted(classes, train.y[held_out]), 1)
                for (_, held_out), scores in zip(folds, of_folds, strict=True)
            ]
            row = {
                "params": {**point, "n_estimators": n_trees[j]} if n_trees else point,
                "mean": float(np.mean(accuracies)),
                "std": float(np.std(accuracies)),
                "folds": accuracies,
            }
            candidates.append((row, of_folds))
    if not candidates:
        raise OutOfScaleError
    if left_out:
        listed = ", ".join(str(row["params"]) for row in left_out)
        warnings.warn(Note(f"{name}: left out {listed}: {OutOfScaleError()}"), stacklevel=2)
    candidates.sort(key=lambda candidate: -candidate[0]["mean"])
    held_out_scores = np.empty((len(train.y), len(classes)))
    for (_, held_out), scores in zip(folds, candidates[0][1], strict=True):
        held_out_scores[held_out] = scores
    return [row for row, _ in candidates] + left_out, held_out_scores


def fit_model(name: str, level: str, train: Rows, params: dict[str, Any], seed: int) -> Pipeline:
    """Fit a model on all training songs.

    Raises
    ------
    OutOfScaleError
        If its numbers overflow.
    """
    classifier = make_classifier(name, seed).set_params(**params)
    transforms = make_transforms(level, name, train.X)
    with _expected_warnings(), _overflow_told():
        return make_pipeline(*transforms, classifier).fit(train.X, train.y[train.song])


def family_of(feature_name: str) -> str:
    """Say which family a column belongs to: the longest family name that its own begins with."""
    families = [*features.FAMILIES, "tempo", "mfcc_cov"]
    return max((name for name in families if feature_name.startswith(name)), key=len)


def ablate(
    name: str,
    level: str,
    train: Rows,
    params: dict[str, Any],
    families: Sequence[str],
    *,
    cv: str,
    seed: int,
    workers: int,
) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Cross-validate a model without each of some families of features, and with each alone.

    Yields
    ------
    family : str
        Its name.
    worth : dict
        ``n_features``, and top-1 ``without`` it and with it ``alone``; None where what
        is left is the same in all training songs of a fold, or its numbers overflow, so that no
        model can be fitted.
    """
    of_columns = train.families
    grid = [{key: [value] for key, value in params.items()}]
    kept = {"cv": cv, "seed": seed, "workers": workers, "label": None}
    for family in tqdm(families, "ablation", disable=None, unit="family"):
        inside = of_columns == family
        means = {}
        for label, columns in (("without", inside), ("alone", ~inside)):
            rows = train.without(columns)
            fitted_on = (rows.of_songs(fit).X for fit, _ in split_folds(rows, cv, seed))
            means[label] = None
            if all(X.size and np.ptp(X, axis=0).any() for X in fitted_on):
                with suppress(OutOfScaleError):
                    means[label] = search(name, level, rows, grid, **kept)[0][0]["mean"]
        yield family, {"n_features": int(inside.sum()), **means}


def permutation_importance(
    model: Pipeline, rows: Rows, classes: np.ndarray, seed: int, repeats: int = 10
) -> dict[str, dict[str, float]]:
    """Measure how many points of top-1 are lost when a family of features is shuffled over rows.

    Whole families, because the statistics of one are correlated: shuffled alone, hardly any of
    901 columns would be missed (Breiman 2001, for single columns).

    Returns
    -------
    dict of str to dict
        By family: ``lost``, the mean over the repeats as a fraction of songs, and ``lost_std``.
    """
    rng = np.random.default_rng(seed)
    labels = np.searchsorted(classes, rows.y)
    families = rows.families
    whole = evaluation.top_k_accuracy(song_scores(model, rows), labels, 1)
    result = {}
    for family in dict.fromkeys(families):
        lost = []
        for _ in range(repeats):
            X = rows.X.copy()
            inside = families == family
            X[:, inside] = X[rng.permutation(len(X))][:, inside]
            shuffled = song_scores(model, replace(rows, X=X))
            lost.append(whole - evaluation.top_k_accuracy(shuffled, labels, 1))
        result[family] = {"lost": float(np.mean(lost)), "lost_std": float(np.std(lost))}
    return result
