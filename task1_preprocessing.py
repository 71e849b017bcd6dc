"""Task 1, stage 1: compute the hand-made features of every training and validation song.

Reads   DATA_DIR/train.json, val.json and the songs they list
Writes  RESULTS_DIR/task1/X_{train,val}.npy        songs x features, float32
                          y_{train,val}.npy        artist names
                          units_{train,val}.npy    the same statistics for every five seconds
                          unit_songs_{train,val}.npy    which row of X each of them is of
                          songs_{train,val}.json, feature_names.json, preprocessing.json

Features are kept per song in RESULTS_DIR/task1/cache: a second run computes only what is new, and
a run that was stopped goes on where it was.

    python task1_preprocessing.py --data-dir data/artist20
"""

import argparse
import time
from pathlib import Path
from typing import Any

from artist20 import cli, dataset, distributed, features, results, runtime, store
from artist20.dataset import Song
from artist20.files import only_writer, write_json


def choose_songs(
    args: argparse.Namespace, folder: Path, keys: dict[Song, str], left_out: dict[str, str]
) -> tuple[dict[str, list[Song]], dict[str, Any]]:
    """Return the songs of both splits that are not left out, and what metrics say of them.

    Raises
    ------
    UserError
        If the features in the folder are of other songs, and --overwrite does not say to replace
        them.
    """
    train, val = dataset.read_train_val(args.data_dir, args.limit, left_out)
    used = [keys[song] for song in (*train, *val)]
    data = dataset.summary(args.data_dir, train, val, used, args.limit, left_out)
    made = folder / "preprocessing.json"
    if made.is_file() and not args.overwrite:
        before = results.read_metrics(made, "task1_preprocessing.py --overwrite")
        this, other = (
            {"dataset": dataset.identity(of), "feature_version": version}
            for of, version in (
                (data, features.VERSION),
                (before["dataset"], before["feature_version"]),
            )
        )
        results.check_same_settings(other, this, made)
    return {"train": train, "val": val}, data


def preprocess(args: argparse.Namespace, folder: Path) -> None:
    """Compute, or take from the cache, the features of both splits, and write them."""
    started = time.monotonic()
    device = distributed.start(runtime.choose_device(args.device))
    train, val = dataset.read_train_val(args.data_dir, args.limit)
    everything = [*train, *val]
    hashes = distributed.on_main(lambda: dataset.content_keys(everything))
    keys = dict(zip(everything, hashes, strict=True))
    if not args.skip_unreadable:
        choose_songs(args, folder, keys, {})  # refuses, if it does, before any work
    # The one pass that decodes computes, too: to look for bad songs first would take a second one.
    # They are named at its end, before anything is replaced; what was computed is kept.
    reasons: dict[str, str] = {}
    files = {key: song.file for song, key in keys.items()}
    units_of = features.cached_units(folder / "cache", files, device, args.workers, reasons)
    left_out = dataset.find_unreadable(everything, hashes, reasons, args.skip_unreadable)
    splits, data = choose_songs(args, folder, keys, left_out)
    if not distributed.is_main():
        return
    for of_song in units_of.values():
        store.check_finite(of_song, folder / "cache")
    made = folder / "preprocessing.json"
    with only_writer(folder):
        made.unlink(missing_ok=True)  # it is there again when all arrays are
        write_json(folder / "feature_names.json", features.FEATURE_NAMES)
        for split, songs in splits.items():
            units = [units_of[keys[song]] for song in songs]
            n_features = len(features.FEATURE_NAMES)
            X = (features.merge_units(of_song, 1)[0, :n_features] for of_song in units)
            records = [song.record() for song in songs]
            results.write_features(folder, split, X, units, records)
            print(f"{split}: {len(songs)} songs x {n_features} features")
        write_json(
            made,
            {
                "dataset": data,
                "arrays": results.feature_hashes(folder),
                "feature_version": features.VERSION,
                "command": runtime.command(),
                "versions": runtime.versions(),
                "device": runtime.device_name(device),
                "seconds": round(time.monotonic() - started, 1),
            },
        )
    print(f"wrote {folder} in {time.monotonic() - started:.0f} s; next: python task1_train.py")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_skip_option(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the features of other songs, if any"
    )
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = results.task1_dir(args.results_dir)
    preprocess(args, folder)


if __name__ == "__main__":
    runtime.run(main)
