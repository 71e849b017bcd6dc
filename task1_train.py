"""Task 1, stage 2: fit an SVM, a random forest, k-nearest neighbours and a linear model.

Reads   RESULTS_DIR/task1/X_{train,val}.npy, y_{train,val}.npy, ... of task1_preprocessing.py
Writes  RESULTS_DIR/task1/{svm,random_forest,knn,logistic_regression}.skops    fitted pipelines
                          search_{svm,...}.json           every candidate's cross-validation
                          metrics.json, val_predictions.json
                          cv_predictions.json             training songs, each scored unseen
                          ablation.json                   what families of features are worth

Each model's settings are found by grid search with 5-fold cross-validation on the training songs;
scaling and feature selection are fitted within each fold. A model that is there already is not
searched again. One whose numbers overflow is left out, which is said and recorded in metrics.json.
With --level segment, models learn from segments of some seconds (how many is chosen in
cross-validation too), a song's score is the mean over its segments, and all is written to
RESULTS_DIR/task1/segment.

    python task1_train.py
    python task1_train.py --level segment
"""

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from artist20 import (
    UserError,
    classical,
    cli,
    dataset,
    evaluation,
    features,
    files,
    results,
    runtime,
)
from artist20.classical import Rows
from artist20.results import FeatureSet


def read_rows(
    folder: Path, level: str, splits: dict[str, FeatureSet], cut: dict[str, Any]
) -> dict[str, Rows]:
    """Make the rows of both splits; ``cut`` has the segments' seconds and covariance."""
    rows = {}
    for split, songs in splits.items():
        if level == "song":
            index = np.arange(len(songs.y))
            rows[split] = Rows(songs.X, index, songs.y, songs.albums, songs.names)
        else:
            width = len(features.UNIT_NAMES)
            units, unit_songs = results.read_units(folder, split, len(songs.y), width)
            rows[split] = classical.cut_segments(units, unit_songs, songs.y, songs.albums, **cut)
    return rows


def choose_segments(
    folder: Path,
    train: FeatureSet,
    settings: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Choose the segments' length, and whether covariances help, by cross-validation."""
    search_file = results.task1_dir(args.results_dir, "segment") / "search_segments.json"
    point = {"C": [classical.CHOOSER_C]}
    settings = {
        **settings,
        "seconds": list(classical.SEGMENT_SECONDS),
        "covariance": list(classical.COVARIANCE),
        "chooser": classical.CHOOSER,
        "point": point,
    }
    candidates = []
    if search_file.is_file():
        of_point = {"params": {"seconds": float, "covariance": bool}, "mean": float}
        record = read_record(search_file, settings, {"candidates": [of_point]})
        candidates = record["candidates"]
    for seconds, covariance in product(classical.SEGMENT_SECONDS, classical.COVARIANCE):
        cut = {"seconds": seconds, "covariance": covariance}
        if cut in [row["params"] for row in candidates]:
            continue
        rows = read_rows(folder, "segment", {"train": train}, cut)["train"]
        found, _ = classical.search(
            classical.CHOOSER,
            "segment",
            rows,
            [point],
            cv=args.cv,
            seed=args.seed,
            workers=args.workers,
            label=f"segments of {seconds:g} s" + (" + covariance" if covariance else ""),
        )
        candidates.append({**found[0], "params": cut})
        files.write_json(search_file, {"settings": settings, "candidates": candidates})
    candidates.sort(key=lambda row: -row["mean"])
    for row in candidates:
        print(f"{row['params']}: {row['mean']:.1%} in cross-validation")
    return candidates[0]["params"]


def read_record(path: Path, settings: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """Read what an earlier run of this script left, if it was a run of the same settings."""
    form = {"settings": dict, **form}
    record = results.read_record(path, "task1_train.py --overwrite", form)
    results.check_same_settings(record["settings"], settings, path)
    return record


def search_and_fit(
    name: str, train: Rows, settings: dict[str, Any], args: argparse.Namespace
) -> tuple[Any, dict[str, Any], np.ndarray]:
    """Search and fit one model, or read it if it is there with the same settings.

    Parameters
    ----------
    name : str
        Which model.
    train : Rows
        The training songs.
    settings : dict
        What the record must agree with.
    args : argparse.Namespace
        The options.

    Returns
    -------
    model : Pipeline
        Fitted on all training songs.
    record : dict
        What ``search_<name>.json`` holds.
    held_out : np.ndarray
        (n_songs, n_classes) probabilities of the training songs, each scored unseen.
    """
    folder = results.task1_dir(args.results_dir, args.level)
    model_file, search_file = folder / f"{name}.skops", folder / f"search_{name}.json"
    held_out_file = folder / f"held_out_{name}.npy"
    grid = classical.GRIDS[args.level][name]
    transforms = classical.make_transforms(args.level, name, train.X)
    steps = [str(step) for step in transforms.named_steps.values()]
    settings = {**settings, "grid": grid, "transforms": steps}
    classes = np.unique(train.y)
    if search_file.is_file():
        candidate = {"params": dict, "mean": float, "std": float, "folds": [float]}
        form = {
            "candidates": [candidate],
            "folds_by": dict.fromkeys(("album", "song"), (candidate, type(None))),
            "temperature": float,
            "seconds": float,
        }
        record = read_record(search_file, settings, form)
        held_out = files.read_array(held_out_file, "task1_train.py --overwrite")
        fit = held_out.shape == (len(train.y), len(classes)) and held_out.dtype.kind == "f"
        if not (record["candidates"] and fit and np.isfinite(held_out).all()):
            raise UserError(
                f"{search_file.name} and {held_out_file} do not fit: run task1_train.py --overwrite"
            )
        model = results.read_sklearn(model_file, classes.tolist(), train.X.shape[1])
        print(f"{name}: is there already, not searched again")
        return model, record, held_out
    started = time.monotonic()
    folds = {"seed": args.seed, "workers": args.workers}
    candidates, held_out = classical.search(
        name, args.level, train, grid, cv=args.cv, **folds, label=f"search {name}"
    )
    params = candidates[0]["params"]
    model = classical.fit_model(name, args.level, train, params, args.seed)
    seconds = time.monotonic() - started
    # The same model under folds of the other kind: what an album gives away.
    other = "song" if args.cv == "album" else "album"
    point = [{key: [value] for key, value in params.items()}]
    try:
        beside = classical.search(
            name, args.level, train, point, cv=other, **folds, label=f"{name}, folds by {other}"
        )[0][0]
    except UserError:  # too few songs or albums for folds of that kind alone
        beside = None
    logits = classical.logits(name, held_out)
    temperature = evaluation.fit_temperature(logits, np.searchsorted(classes, train.y))
    record = {
        "settings": settings,
        "seconds": round(seconds, 1),
        "candidates": candidates,
        "folds_by": {args.cv: candidates[0], other: beside},
        "temperature": temperature,
    }
    files.write_array(held_out_file, evaluation.calibrated(logits, temperature))
    files.write_sklearn(model_file, model)
    files.write_json(search_file, record)
    return model, record, evaluation.calibrated(logits, temperature)


def explain(
    name: str,
    model: Any,
    rows: dict[str, Rows],
    settings: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Write ``ablation.json``: what each family of features is worth to the best model.

    It is written anew after each family, so that a stopped run goes on with the next.
    """
    file = results.task1_dir(args.results_dir, args.level) / "ablation.json"
    params = settings["params"]
    families = {}
    if file.is_file():
        before = read_record(file, settings, results.ABLATION_FORM)
        if before["complete"]:
            print(f"{file}: is there already, not measured again")
            return
        families = before["families"]
    lost = classical.permutation_importance(
        model, rows["val"], np.unique(rows["train"].y), args.seed
    )
    folds = {"cv": args.cv, "seed": args.seed, "workers": args.workers}
    missing = [family for family in lost if family not in families]
    for family, worth in classical.ablate(
        name, args.level, rows["train"], params, missing, **folds
    ):
        families[family] = {**worth, **lost[family]}
        complete = len(families) == len(lost)
        record = {"settings": settings, "complete": complete, "families": families}
        files.write_json(file, record)


def train_all(args: argparse.Namespace) -> None:
    """Read the features, check that they are whole, and fit the models on them."""
    started = time.monotonic()
    folder = results.task1_dir(args.results_dir)
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: run task1_preprocessing.py first")
    with files.only_writer(folder):  # nor may the features be replaced meanwhile
        splits = {split: results.read_features(folder, split) for split in dataset.SPLITS}
        prepared = results.read_metrics(folder / "preprocessing.json", "task1_preprocessing.py")
        arrays = results.feature_hashes(folder)
        changed = [name for name in arrays if prepared["arrays"].get(name) != arrays[name]]
        if changed:
            raise UserError(
                f"{folder}: {', '.join(changed)} changed since the arrays were made: "
                "run task1_preprocessing.py again"
            )
        train_models(args, splits, prepared["dataset"], arrays, started)


def train_models(
    args: argparse.Namespace,
    splits: dict[str, FeatureSet],
    data: dict[str, Any],
    arrays: dict[str, str],
    started: float,
) -> None:
    """Fit the models, print their table, write predictions and metrics."""
    made = results.task1_dir(args.results_dir)  # by task1_preprocessing.py
    folder = results.task1_dir(args.results_dir, args.level)
    classes = np.unique(splits["train"].y)
    labels = np.searchsorted(classes, splits["val"].y)
    print(
        f"{len(splits['train'].y)} training songs, {len(splits['val'].y)} validation songs, "
        f"{len(classes)} artists"
    )
    if args.overwrite:  # so that the same command without it goes on, should this one be stopped
        for file in ("metrics.json", "val_predictions.json", "cv_predictions.json"):
            (folder / file).unlink(missing_ok=True)
        for file in ("test_predictions.json", "test_scores.json"):
            (folder / file).unlink(missing_ok=True)
        for file in ("segments", *classical.GRIDS[args.level]):
            (folder / f"search_{file}.json").unlink(missing_ok=True)
        (folder / "ablation.json").unlink(missing_ok=True)
    used = "X_train.npy" if args.level == "song" else "units_train.npy"
    settings = {
        "dataset": dataset.identity(data),
        "features": arrays[used],
        "cv": args.cv,
        "seed": args.seed,
    }
    cut = {}
    of_songs = read_rows(made, "song", splits, {})["train"]
    unseen = classical.count_unseen(of_songs, args.cv, args.seed)
    if unseen:
        print(
            f"{unseen} training songs count as wrong in cross-validation: when their album is "
            "held out, their artist has no other"
        )
    if args.level == "segment":
        cut = choose_segments(made, splits["train"], settings, args)
        settings |= cut
    rows = read_rows(made, args.level, splits, cut)

    fitted, models, scores, held_out, left_out = {}, {}, {}, {}, {}
    print(f"{'model':20}{'top-1':>8}{'top-3':>8}{'CV':>8}  best parameters")
    for name in classical.GRIDS[args.level]:
        try:
            fitted[name], record, held_out[name] = search_and_fit(
                name, rows["train"], settings, args
            )
            logits = classical.logits(name, classical.song_scores(fitted[name], rows["val"]))
        except classical.OutOfScaleError as error:
            held_out.pop(name, None)
            left_out[name] = str(error)
            print(f"left out: {name} ({error})")
            continue
        scores[name] = evaluation.calibrated(logits, record["temperature"])
        chosen = record["candidates"][0]
        models[name] = {
            "top1": evaluation.top_k_accuracy(scores[name], labels, 1),
            "top3": evaluation.top_k_accuracy(scores[name], labels, 3),
            "log_loss": evaluation.log_loss(scores[name], labels),
            "calibration_error": evaluation.calibration_error(scores[name], labels),
            "cv_top1": chosen["mean"],
            "cv_std": chosen["std"],
            "cv_top1_by": {kind: row and row["mean"] for kind, row in record["folds_by"].items()},
            "params": chosen["params"],
            "temperature": record["temperature"],
            "seconds": record["seconds"],
        }
        row = models[name]
        print(
            f"{name:20}{row['top1']:8.1%}{row['top3']:8.1%}{row['cv_top1']:8.1%}  {row['params']}"
        )
    if not models:
        *_, reason = left_out.values()
        raise UserError(f"every model is left out; of the last, {reason}")
    best = max(models, key=lambda name: models[name]["cv_top1"])
    for split, of_split in (("val", scores), ("cv", held_out)):
        songs = splits["val" if split == "val" else "train"].songs
        results.write_predictions(
            folder / f"{split}_predictions.json",
            results.Predictions(classes.tolist(), songs, of_split),
        )
    metrics = {
        "models": models,
        "left_out": left_out,
        "best_in_cv": best,
        "config": {
            "level": args.level,
            "cv": args.cv,
            "folds": len(record["candidates"][0]["folds"]),
            "unseen_in_cv": unseen,
            "arrays": arrays,
            **cut,
        },
        **runtime.provenance(args, data, f"CPU, {args.workers} processes", started),
    }
    files.write_json(folder / "metrics.json", metrics)
    explained = {**settings, "model": best, "params": models[best]["params"]}
    explain(best, fitted[best], rows, explained, args)
    report = "task1_gen_report.py" + (" --level segment" if args.level == "segment" else "")
    print(f"wrote {folder} in {time.monotonic() - started:.0f} s; next: python {report}")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_seed_option(parser)
    cli.add_workers_option(parser)
    parser.add_argument(
        "--level",
        choices=results.TASK1_LEVELS,
        default="song",
        help="whether a row of features is a song, as in the homework, or a few seconds of one",
    )
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
    runtime.run(main, "the same command, without --overwrite, goes on with the next model")
