"""Task 1, stage 1: compute the hand-made features of every training and validation song.

Reads   DATA_DIR/train.json, val.json and the songs they list, or those of --audio-root
Writes  RESULTS_DIR/task1/X_{train,val}.npy        songs x features, float32
                          y_{train,val}.npy        artist names
                          units_{train,val}.npy    the same statistics for every five seconds
                          unit_songs_{train,val}.npy    which row of X each of them is of
                          songs_{train,val}.json, feature_names.json, preprocessing.json

Features are kept per song in RESULTS_DIR/cache: a second run computes only what is new, and a run
that was stopped goes on where it was. With --audio-root, all goes to RESULTS_DIR/task1@<tree>.

    python task1_preprocessing.py --data-dir data/artist20
    python task1_preprocessing.py --audio-root data/artist20_vocals
"""

import artist20.packages  # says which are missing

import argparse
import time
from pathlib import Path

from artist20 import cli, dataset, distributed, features, naming, results, runtime
from artist20.dataset import Song
from artist20.files import only_writer
from artist20.results import Dataset, Preprocessing, Record, Rendition


class Made(Record, frozen=True):
    """What the features in a folder depend on."""

    dataset: str  # :attr:`artist20.results.Dataset.identity`
    feature_version: int
    rendition: Rendition | None


def choose_songs(
    args: argparse.Namespace, made: Path, keys: dict[Path, str], left_out: dict[str, str]
) -> tuple[dict[str, list[Song]], Dataset, Rendition | None]:
    """Return the songs of both splits that are not left out, as heard, and what is said of them.

    Refuses if ``made`` is of other songs, and --overwrite does not say to replace their features.
    """
    train, val = dataset.read_train_val(args.data_dir, args.limit, left_out)
    data = dataset.summary(args.data_dir, train, val, keys, args.limit, left_out)
    heard = dataset.as_heard([*train, *val], args.audio_root)
    rendition = dataset.describe_rendition(heard, keys, args.audio_root)
    if made.is_file() and not args.overwrite:
        before = results.read_record(made, Preprocessing, "task1_preprocessing.py --overwrite")
        was = Made(before.dataset.identity, before.feature_version, before.rendition)
        results.check_same_settings(was, Made(data.identity, features.VERSION, rendition), made)
    return {"train": heard[: len(train)], "val": heard[len(train) :]}, data, rendition


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_audio_root_option(parser)
    cli.add_compute_options(parser)
    cli.add_skip_option(parser)
    what = "replace the features of other songs, if any"
    parser.add_argument("--overwrite", action="store_true", help=what)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    started = time.monotonic()
    device = distributed.start(runtime.choose_device(args.device))
    tree = naming.rendition_name(args.audio_root)
    folder = results.task1_dir(args.results_dir, rendition=tree)
    made = folder / "preprocessing.json"
    train, val = dataset.read_train_val(args.data_dir, args.limit)
    own = train + val
    heard = dataset.as_heard(own, args.audio_root)
    keys = distributed.on_main(lambda: dataset.content_keys(own + heard))
    if args.audio_root:
        dataset.check_made_of(args.audio_root, own, keys)
    if not args.skip_unreadable:
        choose_songs(args, made, keys, {})  # refuses, if it does, before any work
    # The one pass that decodes computes, too: to look for bad songs first would take a second one.
    # They are named at its end, before anything is replaced; what was computed is kept.
    files = {keys[song.file]: song.file for song in heard}
    cache = results.cache_dir(args.results_dir)
    units, reasons = features.cached_units(cache, files, device, args.workers)
    left_out = dataset.check_readable(heard, keys, reasons, args.skip_unreadable)
    splits, data, rendition = choose_songs(args, made, keys, left_out)
    if not distributed.is_main():
        return
    with only_writer(folder):
        made.unlink(missing_ok=True)  # it is there again when all arrays are
        for split, songs in splits.items():
            of_songs = (units.load(keys[song.file]) for song in songs)
            features.write_features(folder, split, [song.record for song in songs], of_songs)
            print(f"{split}: {len(songs)} songs x {len(features.FEATURE_NAMES)} features")
        record = Preprocessing(
            dataset=data,
            arrays=features.feature_hashes(folder),
            feature_version=features.VERSION,
            rendition=rendition,
            provenance=runtime.provenance(args, runtime.device_name(device), started),
        )
        results.write_record(made, record)
    train_script = f"task1_train.py{naming.task1_options(audio_root=args.audio_root)}"
    next_stage = cli.next_stage(train_script, args, "results_dir")
    print(f"wrote {folder} in {time.monotonic() - started:.0f} s; {next_stage}")


if __name__ == "__main__":
    runtime.run(main)
