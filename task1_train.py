"""Task 1, stage 2: fit an SVM, a random forest and k-nearest neighbours on the features.

Reads   RESULTS_DIR/task1/X_{train,val}.npy, y_{train,val}.npy, ... of task1_preprocessing.py
Writes  RESULTS_DIR/task1/{svm,random_forest,knn}.skops    fitted pipelines
                          search_{svm,...}.json            every candidate's cross-validation
                          metrics.json, val_predictions.json

Each model's settings are found by grid search with 5-fold cross-validation on the training songs;
scaling and feature selection are fitted within each fold. A model that is there already is not
searched again.

    python task1_train.py
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import RobustScaler
from sklearn.svm import SVC
from tqdm import tqdm

from artist20 import UserError, artifacts, cli, dataset, evaluation
from artist20.artifacts import FeatureSet

N_FOLDS = 5
N_FEATURES = 100

MIN_FIT_SONGS = 3  # the fewest neighbours of the k-NN's grid
TOO_FEW = "too few training songs, albums or artists to cross-validate: preprocess more songs"

GRIDS: dict[str, list[dict[str, list[Any]]]] = {
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
}

Fold = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def make_classifier(name: str, seed: int) -> ClassifierMixin:
    """Make an unfitted model of :data:`artifacts.TASK1_MODELS`."""
    if name == "svm":
        # Ties between the votes of pairs are broken by the scores that songs are ranked by.
        return SVC(decision_function_shape="ovr", break_ties=True)
    if name == "random_forest":
        return RandomForestClassifier(random_state=seed)
    # Not a tree, which could not be read back: it is no type that artifacts trusts.
    return KNeighborsClassifier(algorithm="brute")


def make_transforms(n_features: int) -> Pipeline:
    """Make what stands before every model: scaling that outliers do not move, then selection.

    Features that are constant over the training songs are dropped first: their F value, by which
    the others are selected, is undefined.
    """
    return make_pipeline(
        VarianceThreshold(), RobustScaler(), SelectKBest(f_classif, k=min(N_FEATURES, n_features))
    )


def split_folds(train: FeatureSet, cv: str, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Split the training songs, stratified by artist; with ``cv="album"``, albums stay whole."""
    # Both want an artist with a song for every fold.
    n_folds = min(N_FOLDS, int(np.unique(train.y, return_counts=True)[1].max()))
    make_splitter = StratifiedKFold
    if cv == "album":
        n_folds = min(n_folds, len(np.unique(train.albums)))
        make_splitter = StratifiedGroupKFold
    if n_folds < 2:
        raise UserError(TOO_FEW)
    splitter = make_splitter(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # An artist with fewer albums than folds is no mistake: artist20's have four.
        warnings.filterwarnings("ignore", message="The least populated class", module="sklearn")
        yield from splitter.split(train.X, train.y, train.albums if cv == "album" else None)


def transform_folds(train: FeatureSet, cv: str, seed: int) -> list[Fold]:
    """Fit scaling and selection within each fold, once for all models and candidates."""
    folds = []
    for fit, held_out in split_folds(train, cv, seed):
        if len(held_out) == 0:  # few albums of unequal size may leave a fold without any
            continue
        if len(fit) < MIN_FIT_SONGS or len(np.unique(train.y[fit])) < 2:
            raise UserError(TOO_FEW)
        transforms = make_transforms(train.X.shape[1])
        X_fit = transforms.fit_transform(train.X[fit], train.y[fit])
        X_held_out = transforms.transform(train.X[held_out])
        folds.append((X_fit, train.y[fit], X_held_out, train.y[held_out]))
    return folds


def candidates(name: str, folds: list[Fold]) -> list[dict[str, Any]]:
    """List the grid's points; k-NN cannot look at more neighbours than a fold has songs."""
    smallest = min(len(y_fit) for _, y_fit, _, _ in folds)
    return [
        point for point in ParameterGrid(GRIDS[name]) if point.get("n_neighbors", 0) <= smallest
    ]


def fold_accuracies(classifier: ClassifierMixin, n_trees: list[int], fold: Fold) -> list[float]:
    """Fit on a fold's training songs; return the accuracy on the held-out ones.

    For a random forest it is one accuracy for each number of trees: a forest's first trees are the
    smaller forest of the same seed, so that only the largest is grown.
    """
    X_fit, y_fit, X_held_out, y_held_out = fold
    classifier.fit(X_fit, y_fit)
    if not n_trees:
        return [float((classifier.predict(X_held_out) == y_held_out).mean())]
    votes = np.cumsum([tree.predict_proba(X_held_out) for tree in classifier.estimators_], axis=0)
    guesses = [classifier.classes_[votes[n - 1].argmax(axis=1)] for n in n_trees]
    return [float((guess == y_held_out).mean()) for guess in guesses]


def search(name: str, folds: list[Fold], seed: int, workers: int) -> list[dict[str, Any]]:
    """Cross-validate every candidate; return them with their accuracies, best first."""
    points = candidates(name, folds)
    n_trees = sorted({point["n_estimators"] for point in points if "n_estimators" in point})
    grown = [point for point in points if not n_trees or point["n_estimators"] == n_trees[-1]]
    tasks = [
        delayed(fold_accuracies)(make_classifier(name, seed).set_params(**point), n_trees, fold)
        for point in grown
        for fold in folds
    ]
    results = Parallel(n_jobs=workers, return_as="generator")(tasks)
    bar = tqdm(results, f"search {name}", len(tasks), disable=None, unit="fit")
    accuracies = np.array(list(bar)).reshape(len(grown), len(folds), -1)
    rows = [
        {
            "params": {**point, "n_estimators": n_trees[i]} if n_trees else point,
            "mean": float(in_folds.mean()),
            "std": float(in_folds.std()),
            "folds": in_folds.tolist(),
        }
        for point, of_point in zip(grown, accuracies, strict=True)
        for i, in_folds in enumerate(of_point.T)
    ]
    return sorted(rows, key=lambda row: -row["mean"])


def song_scores(model: Pipeline, X: np.ndarray) -> np.ndarray:
    """Score songs: (n_songs, n_classes), the SVM's decision function or probabilities."""
    if hasattr(model, "decision_function"):
        scores = model.decision_function(X)
        # With two classes scikit-learn gives the second one's score alone.
        return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    return model.predict_proba(X)


def fit_model(
    name: str,
    train: FeatureSet,
    folds: list[Fold],
    settings: dict[str, Any],
    args: argparse.Namespace,
) -> tuple[Pipeline, dict[str, Any]]:
    """Search and fit one model, or read it if it is there with the same settings.

    Returns
    -------
    model : Pipeline
        Fitted on all training songs.
    record : dict
        What ``search_<name>.json`` holds.
    """
    folder = artifacts.task1_dir(args.results_dir)
    model_file, search_file = folder / f"{name}.skops", folder / f"search_{name}.json"
    if search_file.is_file():
        record = artifacts.read_json(search_file, "task1_train.py --overwrite")
        artifacts.check_same_settings(record["settings"], settings, search_file)
        print(f"{name}: is there already, not searched again")
        return artifacts.read_sklearn(model_file), record
    started = time.monotonic()
    rows = search(name, folds, args.seed, args.workers)
    classifier = clone(make_classifier(name, args.seed)).set_params(**rows[0]["params"])
    model = make_pipeline(*make_transforms(train.X.shape[1]), classifier).fit(train.X, train.y)
    record = {
        "settings": settings,
        "seconds": round(time.monotonic() - started, 1),
        "candidates": rows,
    }
    artifacts.write_sklearn(model_file, model)
    artifacts.write_json(search_file, record)
    return model, record


def train_all(args: argparse.Namespace) -> None:
    """Read the features, check that they are whole, and fit the three models on them."""
    started = time.monotonic()
    folder = artifacts.task1_dir(args.results_dir)
    train = artifacts.read_features(folder, "train")
    val = artifacts.read_features(folder, "val")
    prepared = artifacts.read_metrics(folder / "preprocessing.json", "task1_preprocessing.py")
    arrays = artifacts.feature_hashes(folder)
    if prepared.get("arrays") != arrays:
        raise UserError(
            f"{folder}: the arrays changed since they were made: run task1_preprocessing.py again"
        )
    with artifacts.only_writer(folder):
        train_models(args, folder, train, val, prepared["dataset"], arrays["X_train.npy"], started)


def train_models(
    args: argparse.Namespace,
    folder: Path,
    train: FeatureSet,
    val: FeatureSet,
    data: dict[str, Any],
    features_hash: str,
    started: float,
) -> None:
    """Fit the three models, print their table, write predictions and metrics."""
    if args.overwrite:  # so that the same command without it goes on, should this one be stopped
        for name in ("metrics.json", "val_predictions.json"):
            (folder / name).unlink(missing_ok=True)
        for name in artifacts.TASK1_MODELS:
            (folder / f"search_{name}.json").unlink(missing_ok=True)

    classes = np.unique(train.y).tolist()
    settings = {
        "dataset": dataset.identity(data),
        "features": features_hash[:16],
        "cv": args.cv,
        "seed": args.seed,
        "selected_features": N_FEATURES,
    }
    folds = transform_folds(train, args.cv, args.seed)
    models, scores = {}, {}
    val_songs = artifacts.read_json(folder / "songs_val.json", "task1_preprocessing.py")
    labels = np.searchsorted(classes, val.y)
    print(f"{len(train.y)} training songs, {len(val.y)} validation songs, {len(classes)} artists")
    print(f"{'model':15}{'top-1':>8}{'top-3':>8}{'CV':>8}  best parameters")
    for name in artifacts.TASK1_MODELS:
        model, record = fit_model(name, train, folds, {**settings, "grid": GRIDS[name]}, args)
        scores[name] = song_scores(model, val.X)
        best = record["candidates"][0]
        models[name] = {
            "top1": evaluation.top_k_accuracy(scores[name], labels, 1),
            "top3": evaluation.top_k_accuracy(scores[name], labels, 3),
            "cv_top1": best["mean"],
            "cv_std": best["std"],
            "params": best["params"],
            "seconds": record["seconds"],
        }
        row = models[name]
        print(
            f"{name:15}{row['top1']:8.1%}{row['top3']:8.1%}{row['cv_top1']:8.1%}  {row['params']}"
        )

    artifacts.write_predictions(
        folder / "val_predictions.json", artifacts.Predictions(classes, val_songs, scores)
    )
    metrics = {
        "models": models,
        "config": {"cv": args.cv, "folds": len(folds), "selected_features": N_FEATURES},
        **cli.provenance(args, data, f"CPU, {args.workers} processes", started),
    }
    artifacts.write_json(folder / "metrics.json", metrics)
    print(f"wrote {folder} in {metrics['seconds']:.0f} s; next: python task1_gen_report.py")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_seed_option(parser)
    cli.add_workers_option(parser)
    parser.add_argument(
        "--cv",
        choices=("album", "song"),
        default="album",
        help="what stays whole in cross-validation; the homework's own folds were by song",
    )
    parser.add_argument("--overwrite", action="store_true", help="search and fit all models anew")
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    train_all(parse_args())


if __name__ == "__main__":
    cli.run(main, "the same command, without --overwrite, goes on with the next model")
