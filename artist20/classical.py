"""Task 1's models: pipelines, grids, folds by album, search, song scores.

Two levels: at ``song``, a row of features is a song, as in the homework; at ``segment``, a row is a
few seconds, models learn from rows, and a song's score is the mean over its rows. Whatever is
chosen is chosen by cross-validation on the training songs, scored by song.
"""

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from joblib import Parallel, delayed
from msgspec.structs import asdict
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler
from sklearn.svm import SVC
from tqdm import tqdm

from artist20 import Note, UserError, dataset, evaluation, features, files, results, runtime
from artist20.linear import ShrinkageLDA
from artist20.results import Breadth, Candidate, FitSettings, Fold, Level, Params, Segments, Value

N_FEATURES = 100  # that the homework's models are given
N_COMPONENTS = 100  # that the SVM and k-NN see of a segment
MIN_FIT_ROWS = 3  # the fewest neighbours of the k-NN's grid, and the PCA needs two
UNKNOWN = 1e-6  # how far an artist whom a fold's training songs lack is below all others
FLOOR = 1e-3  # added to probabilities before their logarithm: k-NN's and forests' may be zero
SVM_STEPS = 100_000  # of a pair of artists; fits that converged took 14,000 at most
MADE_BY = "the same command with --overwrite"  # for messages of task1_train.py
TOO_FEW = "too few training songs, albums or artists to cross-validate: preprocess more songs"

# What scikit-learn says of numbers that overflowed.
OVERFLOWS = "not finite|contains NaN|contains infinity|infs or NaNs|getting zero weights"

Grid = list[dict[str, list[Value]]]

# At the level of songs: the homework's own, and a linear model beside them.
SONG_GRIDS: dict[str, Grid] = {
    "svm": [
        {"kernel": ["rbf"], "C": [0.1, 1.0, 10.0, 100.0], "gamma": ["scale", 0.001, 0.01, 0.1]},
        {"kernel": ["linear"], "C": [0.01, 0.1, 1.0, 10.0]},
        {"kernel": ["poly"], "C": [0.1, 1.0, 10.0], "gamma": ["scale", 0.01], "degree": [2, 3]},
    ],
    "random_forest": [
        {"n_estimators": [100, 200, 300], "max_depth": [None, 10, 20], "min_samples_leaf": [1, 2]}
    ],
    "knn": [
        {
            "n_neighbors": [3, 5, 7, 9, 11, 13, 15],
            "weights": ["uniform", "distance"],
            "metric": ["euclidean", "manhattan"],
        }
    ],
    "logistic_regression": [{"C": [0.003, 0.01, 0.03, 0.1, 0.3]}],
}
SEGMENT_GRIDS: dict[str, Grid] = {
    "svm": [{"C": [1.0, 10.0, 100.0], "gamma": ["scale", 0.001]}],
    "random_forest": [{"n_estimators": [100, 300], "min_samples_leaf": [1, 4]}],
    "knn": [{"n_neighbors": [5, 15, 45], "weights": ["uniform", "distance"]}],
    "logistic_regression": [{"C": [0.003, 0.01, 0.03, 0.1]}],
}
GRIDS: dict[Level, dict[str, Grid]] = {"song": SONG_GRIDS, "segment": SEGMENT_GRIDS}

# What the wide search tries before every model: how features are scaled, and how many of the
# highest F values are kept; None: all.
SCALERS = {"robust": RobustScaler, "standard": StandardScaler}
WIDE: dict[str, list[Value]] = {"scaler": list(SCALERS), "k": [100, 300, None]}
LDA: Grid = [{"shrinkage": ["auto", 0.3, 0.5, 0.7, 0.9]}]

# What is chosen first at the level of segments, with the model that is fastest to fit.
SEGMENT_SECONDS = (5.0, 10.0, 20.0)
COVARIANCE = (False, True)
CHOOSER, CHOOSER_C = "logistic_regression", 0.01


def make_grids(level: Level, search: Breadth) -> dict[str, Grid]:
    """Return the models to search, by name, and their grids; wide ones try :data:`WIDE` as well.

    A forest does not see how features are scaled. Segments are many: of them the wide search has
    the linear models alone, standardised, as forests are slow, the others work on whitened
    components, and on outliers, which robust scaling leaves, logistic regression is slow too.
    """
    if search == "homework":
        return GRIDS[level]
    grids = {**GRIDS[level], "lda": LDA}
    scalers: dict[str, list[Value]] = {"random_forest": ["robust"]}
    if level == "segment":
        grids = {name: grids[name] for name in ("logistic_regression", "lda")}
        scalers = {name: ["standard"] for name in grids}
    return {
        name: [{**part, **WIDE, "scaler": scalers.get(name, WIDE["scaler"])} for part in grid]
        for name, grid in grids.items()
    }


# Scored by their decision function: an SVM has no probabilities, and LDA's are 0 or 1 mostly.
BY_DECISION = (SVC, ShrinkageLDA)


class OutOfScaleError(UserError):
    """Features so large that a model's numbers overflow: it is to be left out."""

    def __init__(self) -> None:
        super().__init__(
            "its numbers overflow: features are far out of scale, as of songs a million times "
            "louder than others; bring their levels closer"
        )


@dataclass(frozen=True)
class Rows:
    """What models are fitted on: one row per song, or one per segment of a song."""

    X: np.ndarray  # (n_rows, n_features) float32
    song: np.ndarray  # (n_rows,) which song a row is of, in order
    y: np.ndarray  # (n_songs,) artist names
    albums: np.ndarray  # (n_songs,) "artist/album": the groups of cross-validation
    names: list[str]  # the columns of X
    level: Level = "song"  # what a row is

    def of_songs(self, songs: np.ndarray) -> "Rows":
        """Keep some songs' rows; songs are numbered anew, in ascending order."""
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
        return np.array([features.family_of(name) for name in self.names])


def read_rows(folder: Path, split: str, segments: Segments | None = None) -> Rows:
    """Read a split's features from Task 1's folder: songs, or segments."""
    songs = features.read_features(folder, split)
    if segments:
        units = features.read_units(folder, split)
        return cut_segments(*units, songs.y, songs.albums, segments)
    return Rows(songs.X, np.arange(len(songs.y)), songs.y, songs.albums, songs.names)


def cut_segments(
    units: np.ndarray, unit_songs: np.ndarray, y: np.ndarray, albums: np.ndarray, segments: Segments
) -> Rows:
    """Merge every song's units of about five seconds into segments, shared out evenly.

    The (n_units,) ``unit_songs`` say which song a unit is of, in order; ``y`` and ``albums`` are
    (n_songs,) each, and ``segments`` says about how long they are, and which columns they have.
    """
    names = features.SEGMENT_NAMES
    if not segments.covariance:  # they come last
        names = names[: -len(features.COVARIANCE_NAMES)]
    bounds = np.searchsorted(unit_songs, np.arange(len(y) + 1))
    parts = []
    for first, last in pairwise(bounds):
        wanted = round((last - first) * features.UNIT_SECONDS / segments.seconds)
        n_segments = min(max(1, wanted), last - first)
        merged = features.merge_units(units[first:last], n_segments)
        parts.append(merged[:, : len(names)])
    song = np.repeat(np.arange(len(y)), [len(part) for part in parts])
    return Rows(np.concatenate(parts), song, y, albums, names, "segment")


def make_transforms(name: str, fit: Rows, point: Params | None = None) -> Pipeline:
    """Make the steps before a model, for the rows that they will be fitted on.

    Features that are constant over the training rows are dropped first: they cannot be scaled, nor
    is the F value defined by which features are selected. A point of a wide search says how the
    others are scaled and how many are kept. Otherwise the homework's models select 100, and the
    linear model takes all. Segments are many and songs' own recipe is slow on them, so that there
    the SVM and k-NN work on whitened principal components.
    """
    n_varying = int((np.ptp(fit.X, axis=0) > 0).sum())
    if point and WIDE.keys() <= point.keys():
        scaler, k = SCALERS[str(point["scaler"])], point["k"]
    elif fit.level == "song" and name != "logistic_regression":
        scaler, k = RobustScaler, N_FEATURES
    else:
        scaler, k = StandardScaler, None
    transforms = make_pipeline(VarianceThreshold(), scaler())
    if k is not None:
        n_varying = min(int(k), n_varying)
        transforms.steps.append(("selectkbest", SelectKBest(f_classif, k=n_varying)))
    if fit.level == "segment" and name in ("svm", "knn"):
        n_components = min(N_COMPONENTS, n_varying, len(fit.X) - 1)
        # The covariance of many columns takes longer than the singular values of few rows.
        solver = "covariance_eigh" if len(fit.X) > n_varying else "full"
        transforms.steps.append(("pca", PCA(n_components, whiten=True, svd_solver=solver)))
    return transforms


def make_classifier(name: str, fit: Rows, seed: int) -> ClassifierMixin:
    """Make a model of :func:`make_grids` for the rows that it will be fitted on."""
    return {
        # Ties between the votes of pairs are broken by the scores that songs are ranked by.
        # Features far out of scale can keep a linear SVM busy for hours, deaf to every stop.
        "svm": SVC(decision_function_shape="ovr", break_ties=True, max_iter=SVM_STEPS),
        "random_forest": RandomForestClassifier(random_state=seed),
        # Not a tree, which could not be read back: it is no type that is trusted.
        "knn": KNeighborsClassifier(algorithm="brute"),
        "lda": ShrinkageLDA(rows_per_song=len(fit.X) / len(fit.y)),
        "logistic_regression": LogisticRegression(max_iter=2000),
    }[name]


def split_folds(rows: Rows, cv: Fold, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split the training songs, stratified by artist; with ``cv="album"``, albums stay whole.

    Per fold: the numbers of the songs to fit on and of those held out, ascending.
    """
    most = int(np.unique(rows.y, return_counts=True)[1].max())  # of one artist: one for every fold
    if most < 2:
        raise UserError(TOO_FEW)
    if cv == "album":
        folds = dataset.album_folds(rows.y, rows.albums, seed)
    else:
        splitter = StratifiedKFold(min(results.N_FOLDS, most), shuffle=True, random_state=seed)
        with _expected_warnings():
            folds = list(splitter.split(rows.y, rows.y))
    fewest = min((int(np.isin(rows.song, fit).sum()) for fit, _ in folds), default=0)
    if fewest < MIN_FIT_ROWS or any(len(np.unique(rows.y[fit])) < 2 for fit, _ in folds):
        raise UserError(TOO_FEW)
    return folds


@contextmanager
def _expected_warnings() -> Iterator[None]:
    """Keep scikit-learn from warning of what is no mistake here."""
    with warnings.catch_warnings():
        # Fewer songs than folds; the F value where an artist has one song.
        said = "The least populated class|(divide by zero|invalid value) encountered in divide"
        warnings.filterwarnings("ignore", said, module="sklearn")
        warnings.simplefilter("ignore", ConvergenceWarning)  # see :func:`_stopped_early`
        yield


def _stopped_early(classifier: ClassifierMixin) -> bool:
    """Whether a fit reached its largest number of steps before it converged."""
    steps = getattr(classifier, "n_iter_", 0)
    return bool(np.max(steps) >= getattr(classifier, "max_iter", np.inf))


@contextmanager
def _overflow_told() -> Iterator[None]:
    """Turn what comes of numbers that overflow into an OutOfScaleError."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except ValueError as error:
        if not re.search(OVERFLOWS, str(error)):
            raise
        raise OutOfScaleError from None


def count_unseen(rows: Rows, cv: Fold, seed: int) -> int:
    """Count the songs whose artist no training song of their fold is by; refuse if all are."""
    folds = split_folds(rows, cv, seed)
    unseen = sum(int((~np.isin(rows.y[held], rows.y[fit])).sum()) for fit, held in folds)
    if unseen == len(rows.y):
        raise UserError(
            "every artist has one album in the training songs, so that folds by album leave none "
            "to learn from: use --cv song, or more albums"
        )
    return unseen


def song_scores(model: ClassifierMixin | Pipeline, rows: Rows) -> np.ndarray:
    """Score songs: (n_songs, n_classes), the decision function of SVM and LDA or probabilities.

    A song's score is the mean over its rows. If one is not finite, that is an OutOfScaleError.
    """
    by_decision = isinstance(model[-1] if isinstance(model, Pipeline) else model, BY_DECISION)
    with _overflow_told():
        scores = (model.decision_function if by_decision else model.predict_proba)(rows.X)
        if scores.ndim == 1:  # of two classes scikit-learn gives the second one's score alone
            scores = np.stack([-scores, scores], axis=1)
        of_songs = evaluation.mean_per_song(scores, rows.song, len(rows.y))
    if not np.isfinite(of_songs).all():
        raise OutOfScaleError
    return of_songs


def logits(name: str, scores: np.ndarray) -> np.ndarray:
    """Turn song scores into what a softmax takes; the order of classes stays as it is."""
    return scores if name in ("svm", "lda") else np.log(scores + FLOOR)


def probabilities(name: str, model: Pipeline, rows: Rows, temperature: float) -> np.ndarray:
    """Score songs as :func:`song_scores` does: (n_songs, n_classes) calibrated probabilities."""
    return evaluation.calibrated(logits(name, song_scores(model, rows)), temperature)


# --- cross-validation --------------------------------------------------------------------------


def search(
    name: str, train: Rows, grid: Grid, settings: FitSettings, workers: int, label: str | None
) -> tuple[list[Candidate], np.ndarray]:
    """Cross-validate every point of a grid, with a progress bar if it has a label.

    Of the settings, ``cv`` says what stays whole in a fold, and the seed is of folds and forests.

    Returns
    -------
    candidates : list of Candidate
        Best first. Those whose numbers overflow are left out, and a note names them; if all of them
        do, that is an OutOfScaleError.
    scores : np.ndarray
        (n_songs, n_classes) of the best one: each song scored by the model of the fold that had not
        seen its album.
    """
    classes, labels = np.unique(train.y, return_inverse=True)
    folds = split_folds(train, settings.cv, settings.seed)
    groups = _points(grid, min(int(np.isin(train.song, fit).sum()) for fit, _ in folds))

    def tasks() -> Iterator[Any]:
        # Only as fast as the workers take them, so that few folds are in memory at a time; and
        # scaling and selection are fitted once for all points that share them.
        for fit, held_out in folds:
            fit_rows, held_out_rows = train.of_songs(fit), train.of_songs(held_out)
            for before, alike in groupby(groups, lambda points: _before(points[0])):
                transforms = make_transforms(name, fit_rows, before)
                with _expected_warnings():
                    transforms.fit(fit_rows.X, fit_rows.y[fit_rows.song])
                both = (fit_rows, held_out_rows)
                of_fold = [replace(rows, X=transforms.transform(rows.X)) for rows in both]
                for points in alike:
                    classifier = make_classifier(name, fit_rows, settings.seed)
                    own = [of_classifier(point) for point in points]
                    yield delayed(fold_scores)(classifier, own, *of_fold, classes)

    with runtime.signals_held():
        fits = Parallel(n_jobs=workers, return_as="generator")(tasks())
    quiet = None if label else True  # None: where there is no terminal
    # In the tasks' order: folds, then groups.
    done = list(tqdm(fits, label, len(groups) * len(folds), disable=quiet, unit="fit"))
    found, left_out = [], []
    for i, points in enumerate(groups):
        of_group = done[i :: len(groups)]
        if any(of_fold is None for of_fold in of_group):
            left_out += points
            continue
        of_points, stopped = zip(*of_group, strict=True)
        for point, *of_folds in zip(points, *of_points, strict=True):
            scores = np.empty((len(labels), len(classes)))
            for (_, held_out), of_fold in zip(folds, of_folds, strict=True):
                scores[held_out] = of_fold
            accuracies = [
                evaluation.top_k_accuracy(scores[held_out], labels[held_out], 1)
                for _, held_out in folds
            ]
            candidate = Candidate(
                params=point,
                mean=float(np.mean(accuracies)),
                std=float(np.std(accuracies)),
                folds=accuracies,
                top1=evaluation.top_k_accuracy(scores, labels, 1),
                stopped_early=sum(stopped),
            )
            found.append((candidate, scores))
    if not found:
        raise OutOfScaleError
    if left_out:
        listed = ", ".join(map(str, left_out))
        warnings.warn(Note(f"{name}: left out {listed}: {OutOfScaleError()}"), stacklevel=2)
    n_stopped = sum(candidate.stopped_early for candidate, _ in found)
    if n_stopped:
        said = f"{n_stopped} of {len(found) * len(folds)} fits stopped before they converged"
        warnings.warn(Note(f"{name}: {said}, and count as they are"), stacklevel=2)
    found.sort(key=lambda one: -one[0].mean)  # over the folds, as GridSearchCV does
    return [candidate for candidate, _ in found], found[0][1]


def one_point(params: Params) -> Grid:
    """Return the grid that has this point alone."""
    return [{key: [value] for key, value in params.items()}]


def _points(grid: Grid, n_rows: int) -> list[list[Params]]:
    """List a grid's points, in groups that differ in the number of trees alone.

    Groups that share the steps before the classifier stand together.
    """
    points: list[Params] = []
    for point in ParameterGrid(grid):
        if "n_neighbors" in point:  # k-NN cannot look at more neighbours than a fold has rows
            point["n_neighbors"] = min(point["n_neighbors"], n_rows)
        if point not in points:
            points.append(point)
    points.sort(key=lambda point: str(_before(point)))
    groups = groupby(points, lambda point: {k: v for k, v in point.items() if k != "n_estimators"})
    return [list(group) for _, group in groups]


def _before(point: Params) -> Params:
    """Keep the parameters of the steps before the classifier."""
    return {key: value for key, value in point.items() if key in WIDE}


def of_classifier(point: Params) -> Params:
    """Keep the classifier's own parameters of a point of a grid."""
    return {key: value for key, value in point.items() if key not in WIDE}


def fold_scores(
    classifier: ClassifierMixin,
    points: list[Params],
    fit: Rows,
    held_out: Rows,
    classes: np.ndarray,
) -> tuple[list[np.ndarray], bool] | None:
    """Fit on a fold's training songs, and score those held out, with some points of a grid.

    Points may differ in the number of trees alone: a forest's first trees are the smaller forest of
    the same seed, so that only the largest is grown. An artist of whom the training songs have none
    is ranked last.

    Returns (n_songs, n_classes) for each point, and whether the fit stopped before it converged;
    None if numbers overflow: an error would end all workers.
    """
    largest = max(points, key=lambda point: int(point.get("n_estimators") or 0))
    result = []
    try:
        with _expected_warnings(), _overflow_told():
            classifier.set_params(**largest).fit(fit.X, fit.y[fit.song])
        known = np.searchsorted(classes, classifier.classes_)
        for point in points:
            fitted = copy(classifier)
            if "n_estimators" in point:
                fitted.estimators_ = classifier.estimators_[: point["n_estimators"]]
            of_known = song_scores(fitted, held_out)
            last = of_known.min(axis=1, keepdims=True) - UNKNOWN
            scores = np.repeat(last, len(classes), axis=1)
            scores[:, known] = of_known
            result.append(scores)
    except OutOfScaleError:
        return None
    return result, _stopped_early(classifier)


def fit_model(name: str, train: Rows, params: Params, seed: int) -> Pipeline:
    """Fit a model on all training songs; numbers that overflow are an OutOfScaleError."""
    pipeline = make_pipeline(
        *make_transforms(name, train, params),
        make_classifier(name, train, seed).set_params(**of_classifier(params)),
    )
    with _expected_warnings(), _overflow_told():
        pipeline.fit(train.X, train.y[train.song])
    if _stopped_early(pipeline[-1]):
        said = "the fit of all training songs stopped before it converged, and is kept as it is"
        warnings.warn(Note(f"{name}: {said}"), stacklevel=2)
    return pipeline


# --- what a run keeps, so that a stopped one goes on ---------------------------------------------


def choose_segments(prepared: Path, folder: Path, settings: FitSettings, workers: int) -> Segments:
    """Choose the segments' length, and whether covariances help, by cross-validation.

    ``prepared`` is Task 1's folder of features; ``search_segments.json`` in that of the models of
    segments keeps what has been tried.
    """
    file = folder / "search_segments.json"
    wanted = results.SegmentSearchSettings(
        **asdict(settings),
        seconds=list(SEGMENT_SECONDS),
        covariance=list(COVARIANCE),
        chooser=CHOOSER,
        point={"C": CHOOSER_C},
    )
    candidates: list[Candidate] = []
    if file.is_file():
        before = results.read_record(file, results.SegmentSearch, MADE_BY)
        results.check_same_settings(before.settings, wanted, file)
        candidates = before.candidates
    for seconds, covariance in product(SEGMENT_SECONDS, COVARIANCE):
        segments = Segments(seconds=seconds, covariance=covariance)
        if asdict(segments) in [candidate.params for candidate in candidates]:
            continue
        rows = read_rows(prepared, "train", segments)
        grid = one_point({"C": CHOOSER_C})
        (found, *_), _ = search(CHOOSER, rows, grid, settings, workers, _described(segments))
        candidates.append(msgspec.structs.replace(found, params=asdict(segments)))
        results.write_record(file, results.SegmentSearch(settings=wanted, candidates=candidates))
    tried = [(msgspec.convert(one.params, Segments), one.top1) for one in candidates]
    tried.sort(key=lambda one: -one[1])
    for segments, top1 in tried:
        print(f"{_described(segments)}: {top1:.1%} in cross-validation")
    return tried[0][0]


def _described(segments: Segments) -> str:
    return f"segments of {segments.seconds:g} s{' + covariance' if segments.covariance else ''}"


class Fitted(NamedTuple):
    """A model that has been searched and fitted."""

    name: str
    model: Pipeline  # fitted on all training songs
    search: results.Search  # what was found
    held_out: np.ndarray  # (n_songs, n_classes) probabilities of training songs, each scored unseen

    @property
    def best(self) -> Candidate:
        """What was chosen."""
        return self.search.candidates[0]


def search_and_fit(
    name: str, train: Rows, folder: Path, settings: FitSettings, workers: int
) -> Fitted:
    """Search and fit one model, or read it if it is there with the same settings.

    The folder is given ``<name>.skops``, ``held_out_<name>.npy``, and, when both are there,
    ``search_<name>.json``. A model whose numbers overflow is an OutOfScaleError.
    """
    search_file, held_out_file = folder / f"search_{name}.json", folder / f"held_out_{name}.npy"
    model_file = folder / f"{name}.skops"
    classes, labels = np.unique(train.y, return_inverse=True)
    grid = make_grids(train.level, settings.search)[name]
    first = next(iter(ParameterGrid(grid)))
    classifier = make_classifier(name, train, settings.seed)
    steps = [*make_transforms(name, train, first).named_steps.values(), classifier]
    wanted = results.SearchSettings(**asdict(settings), grid=grid, steps=[*map(str, steps)])
    if search_file.is_file():
        record = results.read_record(search_file, results.Search, MADE_BY)
        results.check_same_settings(record.settings, wanted, search_file)
        held_out = files.read_array(held_out_file, MADE_BY)
        fits = held_out.shape == (len(labels), len(classes)) and held_out.dtype == float
        if not (fits and ((held_out >= 0) & (held_out <= 1)).all()):
            raise UserError(f"{held_out_file} does not fit {search_file.name}: run {MADE_BY}")
        model = read_sklearn(model_file, MADE_BY, classes.tolist(), train.X.shape[1])
        print(f"{name}: is there already, not searched again")
        return Fitted(name, model, record, held_out)
    started = time.monotonic()
    candidates, scores = search(name, train, grid, settings, workers, f"search {name}")
    best = candidates[0]
    model = fit_model(name, train, best.params, settings.seed)
    seconds = time.monotonic() - started
    temperature = evaluation.fit_temperature(logits(name, scores), labels)
    held_out = evaluation.calibrated(logits(name, scores), temperature)
    # The same model under folds of the other kind: what an album gives away.
    other: Fold = "song" if settings.cv == "album" else "album"
    by_other = msgspec.structs.replace(settings, cv=other)
    beside = None
    with suppress(UserError):  # too few songs or albums for folds of that kind alone
        point = one_point(best.params)
        (beside, *_), _ = search(name, train, point, by_other, workers, f"{name}, folds by {other}")
    record = results.Search(
        settings=wanted,
        seconds=round(seconds, 1),
        candidates=candidates,
        folds_by={settings.cv: best, other: beside},
        temperature=temperature,
    )
    files.write_array(held_out_file, held_out)
    write_sklearn(model_file, model)
    results.write_record(search_file, record)
    return Fitted(name, model, record, held_out)


# --- fitted models on disk ---------------------------------------------------------------------

# What skops meets in our fitted pipelines beyond its own list. Fixed here: a file never says for
# itself what may be trusted.
TRUSTED_TYPES = [
    "artist20.linear.ShrinkageLDA",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.tree._tree.Tree",
]


def write_sklearn(path: Path, model: object) -> None:
    """Write a fitted pipeline with skops."""
    import skops.io

    with files.atomic_path(path) as temporary:
        skops.io.dump(model, temporary)


def read_sklearn(path: Path, made_by: str, classes: list[str], n_features: int) -> Pipeline:
    """Read a fitted pipeline; a type outside :data:`TRUSTED_TYPES` is refused.

    So is one that knows other artists than ``classes``, or takes another number of features.
    """
    import skops.io

    files.check_is_file(path, made_by)
    try:
        model = skops.io.load(path, trusted=TRUSTED_TYPES)
    except PermissionError as error:
        raise files.unreadable(path, error) from None
    except Exception as error:  # skops lets errors of zipfile, json and its own through
        raise UserError(
            f"{path} cannot be read ({files.first_line(error)}): run {made_by}"
        ) from None
    if not isinstance(model, Pipeline):
        raise UserError(f"{path} is no model of task1_train.py: run {made_by}")
    known = getattr(model, "classes_", np.empty(0)).tolist()
    if known != classes or getattr(model, "n_features_in_", None) != n_features:
        raise UserError(f"{path} is of other artists or features: run {made_by}")
    return model
