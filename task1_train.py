"""Task 1, stage 2: fit an SVM, a random forest, k-nearest neighbours and a linear model.

Reads   RESULTS_DIR/task1/X_{train,val}.npy, y_{train,val}.npy, ... of task1_preprocessing.py
Writes  RESULTS_DIR/task1/{svm,random_forest,knn,logistic_regression}.skops    fitted pipelines
                          search_{svm,...}.json           every candidate's cross-validation
                          held_out_{svm,...}.npy          training songs' scores by the best one
                          metrics.json, val_predictions.json
                          cv_predictions.json             training songs, each scored unseen
                          ablation.json                   what families of features are worth

Each model's settings are found by grid search (GRIDS in artist20/classical.py) with 5-fold
cross-validation on the training songs; scaling and feature selection are fitted within each fold.
A model that is there already is not searched again. One whose numbers overflow is left out, which
is said and recorded in metrics.json.

With --search wide, into RESULTS_DIR/task1/wide, scaler and number of features are searched, too,
and shrinkage LDA is one of the models. With --level segment, into the folder segment of either,
models learn from segments of some seconds (how many is chosen in cross-validation, too, see
search_segments.json there), and a song's score is the mean over its segments.

    python task1_train.py
    python task1_train.py --level segment --search wide
    python task1_train.py --audio-root data/artist20_vocals
"""

import artist20.packages  # says which are missing

import argparse
import time
from pathlib import Path

import numpy as np
from msgspec.structs import asdict, replace

from artist20 import UserError, ablation, classical, cli, evaluation, naming, results, runtime
from artist20.classical import Fitted, OutOfScaleError, Rows
from artist20.dataset import SPLITS
from artist20.features import MADE_BY, read_features, read_prepared
from artist20.files import check_is_file, only_writer
from artist20.results import FitSettings, Predictions, Task1Model


def remove_results(folder: Path) -> None:
    """Remove what --overwrite replaces: without it, the same command then goes on if stopped."""
    predictions = [f"{split}_predictions.json" for split in ("val", "cv", "test")]
    for name in ("metrics.json", "ablation.json", "test_scores.json", *predictions):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob("search_*.json"):
        file.unlink()


def fit_models(
    rows: dict[str, Rows], folder: Path, settings: FitSettings, workers: int
) -> tuple[dict[str, Fitted], dict[str, np.ndarray], dict[str, str]]:
    """Search and fit all models, score the validation songs, and print the table.

    Returns those fitted, their (n_songs, n_classes) probabilities of the validation songs, and why
    others are left out, all by name.
    """
    train, val = rows["train"], rows["val"]
    labels = np.searchsorted(np.unique(train.y), val.y)
    fitted, scores, left_out = {}, {}, {}
    print(f"{'model':20}{'top-1':>8}{'top-3':>8}{'CV':>8}  best parameters")
    for name in classical.make_grids(train.level, settings.search):
        try:
            one = classical.search_and_fit(name, train, folder, settings, workers)
            scores[name] = classical.probabilities(name, one.model, val, one.search.temperature)
        except OutOfScaleError as error:
            left_out[name] = str(error)
            print(f"left out: {name} ({error})")
            continue
        fitted[name] = one
        top1, top3 = (evaluation.top_k_accuracy(scores[name], labels, k) for k in (1, 3))
        print(f"{name:20}{top1:8.1%}{top3:8.1%}{one.best.top1:8.1%}  {one.best.params}")
    if not fitted:
        raise UserError(f"every model is left out; of the last, {left_out[name]}")
    return fitted, scores, left_out


def describe(fitted: Fitted, scores: np.ndarray, labels: np.ndarray) -> Task1Model:
    """Compute what a model reached on the validation songs."""
    return Task1Model(
        **asdict(evaluation.quality(scores, labels)),
        calibration_error=evaluation.calibration_error(scores, labels),
        cv_top1=fitted.best.top1,
        cv_std=fitted.best.std,
        cv_top1_by={cv: best.top1 if best else None for cv, best in fitted.search.folds_by.items()},
        params=fitted.best.params,
        temperature=fitted.search.temperature,
        seconds=fitted.search.seconds,
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_audio_root_option(parser)
    cli.add_seed_option(parser)
    cli.add_workers_option(parser)
    cli.add_task1_options(parser)
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
    args = parse_args()
    started = time.monotonic()
    rendition = naming.rendition_name(args.audio_root)
    made = results.task1_dir(args.results_dir, rendition=rendition)  # by task1_preprocessing.py
    folder = results.task1_dir(args.results_dir, args.level, rendition, args.search)
    options = naming.task1_options(audio_root=args.audio_root)
    check_is_file(made / "preprocessing.json", f"{MADE_BY}{options}")
    with only_writer(made):  # nor may the features be replaced meanwhile
        prepared = read_prepared(made)
        songs = {split: read_features(made, split).songs for split in SPLITS}
        classes = sorted({song.artist for song in songs["train"]})
        n_train, n_val = len(songs["train"]), len(songs["val"])
        print(f"{n_train} training songs, {n_val} validation songs, {len(classes)} artists")
        data = prepared.dataset
        array = prepared.arrays["X_train.npy" if args.level == "song" else "units_train.npy"]
        settings = FitSettings(
            dataset=data.identity, features=array, cv=args.cv, seed=args.seed, search=args.search
        )
        unseen = classical.count_unseen(classical.read_rows(made, "train"), args.cv, args.seed)
        if unseen:
            print(
                f"{unseen} training songs count as wrong in cross-validation: when their album is "
                "held out, their artist has no other"
            )
        if args.overwrite:
            remove_results(folder)
        if args.level == "segment":
            segments = classical.choose_segments(made, folder, settings, args.workers)
            settings = replace(settings, segments=segments)
        rows = {split: classical.read_rows(made, split, settings.segments) for split in SPLITS}
        fitted, scores, left_out = fit_models(rows, folder, settings, args.workers)
        val = Predictions(classes=classes, songs=songs["val"], scores=scores)
        held_out = {name: one.held_out for name, one in fitted.items()}
        cv = Predictions(classes=classes, songs=songs["train"], scores=held_out)
        results.write_record(folder / "val_predictions.json", val)
        results.write_record(folder / "cv_predictions.json", cv)
        best = max(fitted.values(), key=lambda one: one.best.top1)
        metrics = results.Task1Metrics(
            models={name: describe(fitted[name], scores[name], val.labels) for name in fitted},
            left_out=left_out,
            best_in_cv=best.name,
            settings=results.Task1Settings(
                cv=settings.cv,
                folds=len(best.best.folds),
                unseen_in_cv=unseen,
                arrays=prepared.arrays,
                segments=settings.segments,
                search=settings.search,
            ),
            dataset=data,
            rendition=prepared.rendition,
            audio_root=args.audio_root and str(args.audio_root),
            provenance=runtime.provenance(args, f"CPU, {args.workers} processes", started),
        )
        results.write_record(folder / "metrics.json", metrics)
        ablation.explain(best, rows, folder, settings, args.workers)
    options = naming.task1_options(args.level, args.audio_root, args.search)
    next_stage = cli.next_stage(f"task1_gen_report.py{options}", args, "results_dir")
    print(f"wrote {folder} in {time.monotonic() - started:.0f} s; {next_stage}")


if __name__ == "__main__":
    runtime.run(main, "the same command, without --overwrite, goes on with the next model")
