"""Name the artists of the test songs with Task 1's models.

Reads   RESULTS_DIR/task1/{svm,...}.skops, metrics.json, songs_train.json, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task1/test_predictions.json    {"001": [best, second, third], ...}
                          test_scores.json         all scores, of all models

The predictions are those of the model that was best in cross-validation, or of --model. Features
are kept in RESULTS_DIR/cache: a run that was stopped goes on where it was. A file that cannot
be read is named, the artists with the most training songs are its prediction, and the exit status
is 1. With --limit N all goes to test_predictions_first_N.json. With --level segment or --search
wide, models are those of RESULTS_DIR/task1/segment, task1/wide or task1/wide/segment; with
--audio-root, those of RESULTS_DIR/task1@<tree>.

    python -m artist20.task1_inference
    python -m artist20.task1_inference --level segment --answers data/artist20/answers.json
"""

import artist20.packages  # says which are missing

import argparse
import time
from pathlib import Path

import numpy as np

from artist20 import (
    UserError,
    classical,
    cli,
    dataset,
    features,
    finished,
    inference,
    naming,
    results,
    runtime,
)
from artist20.classical import Rows
from artist20.files import sha256_file
from artist20.results import Predictions, Segments, SongRecord, Task1Metrics


def make_rows(units: list[np.ndarray], segments: Segments | None) -> Rows:
    """Make the rows of songs whose artists are not known, of (n_units, n_columns) each."""
    unknown = np.full(len(units), "")
    if segments:
        unit_songs = np.repeat(np.arange(len(units)), [len(of_song) for of_song in units])
        return classical.cut_segments(np.concatenate(units), unit_songs, unknown, unknown, segments)
    X = np.concatenate([features.merge_units(of_song, 1) for of_song in units])
    names = features.FEATURE_NAMES
    return Rows(X[:, : len(names)], np.arange(len(units)), unknown, unknown, names)


def read_metrics(results_dir: Path, folder: Path, train: str, preprocess: str) -> Task1Metrics:
    """Read the models' metrics, and check that features mean now what they meant to the models.

    ``folder`` is the models', ``train`` and ``preprocess`` make the models and the features.
    """
    metrics = results.read_record(folder / "metrics.json", Task1Metrics, train)
    finished.check_features(metrics, results_dir, train)
    file = results.task1_dir(results_dir, rendition=metrics.heard) / "preprocessing.json"
    prepared = results.read_record(file, results.Preprocessing, preprocess)
    if prepared.feature_version != features.VERSION:
        raise UserError(
            f"{file} is of features of version {prepared.feature_version}, these are of version "
            f"{features.VERSION}: run {preprocess} --overwrite and {train} --overwrite"
        )
    return metrics


def count_train_songs(made: Path, classes: list[str], preprocess: str) -> np.ndarray:
    """Count the songs of every artist that the models were trained on: (n_classes,)."""
    file = made / "songs_train.json"
    songs = results.read_record(file, list[SongRecord], preprocess)
    known, n_songs = np.unique([song.artist for song in songs], return_counts=True)
    if known.tolist() != classes:
        raise UserError(f"{file} is of other artists than the models: run {preprocess} again")
    return n_songs


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_test_options(parser, "task1")
    cli.add_task1_options(parser)
    parser.add_argument(
        "--model",
        choices=list(classical.make_grids("song", "wide")),
        help="whose predictions to write (default: the best in cross-validation)",
    )
    return parser.parse_args()


def main() -> int:
    """Name the artists; return the exit status."""
    args = parse_args()
    started = time.monotonic()
    device = runtime.choose_device(args.device)
    rendition = naming.rendition_name(args.audio_root)
    made = results.task1_dir(args.results_dir, rendition=rendition)  # by task1_preprocessing.py
    folder = results.task1_dir(args.results_dir, args.level, rendition, args.search)
    preprocess = features.MADE_BY + naming.audio_root_option(args.audio_root)
    train = "task1_train.py" + naming.task1_options(args.level, args.audio_root, args.search)
    metrics = read_metrics(args.results_dir, folder, train, preprocess)
    chosen = args.model or metrics.best_in_cv
    if chosen not in metrics.models:
        raise UserError(f"--model {chosen}: {folder} has {', '.join(metrics.models)}")
    made_by = f"{train} --overwrite"
    classes = results.read_record(folder / "val_predictions.json", Predictions, made_by).classes
    n_train = count_train_songs(made, classes, preprocess)
    songs = inference.read_test(args, folder, classes)
    hashes = {key: dataset.content_key(file) for key, file in songs.files.items()}
    by_hash = {hashes[key]: file for key, file in songs.files.items()}
    cache = results.cache_dir(args.results_dir)
    units, unreadable = features.cached_units(cache, by_hash, device, args.workers)
    reasons = {key: unreadable[of] for key, of in hashes.items() if of in unreadable}
    inference.check_some_are_read(songs, reasons)
    read = [units.load(of) for of in hashes.values() if of not in unreadable]
    rows = make_rows(read, metrics.settings.segments)
    checkpoints, scores = {}, {}
    for name, reached in metrics.models.items():
        file = folder / f"{name}.skops"
        model = classical.read_sklearn(file, made_by, classes, rows.X.shape[1])
        scores[name] = classical.probabilities(name, model, rows, reached.temperature)
        checkpoints[name] = [sha256_file(file)]
    print(
        f"predictions are those of the {naming.TITLES[chosen]}, "
        f"{metrics.models[chosen].cv_top1:.1%} in cross-validation"
    )
    return inference.finish(args, songs, scores, checkpoints, chosen, reasons, n_train, started)


if __name__ == "__main__":
    runtime.run(main)
