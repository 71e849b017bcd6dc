"""Cross-validate a change of a ResNet recipe on the training songs, folds by album.

    python benchmarks/resnet_recipes.py --data-dir data/artist20 --set crop_seconds=10 mixup_alpha=0
    python benchmarks/resnet_recipes.py --data-dir data/artist20 --seeds 0 1 2 --validate

Prints the accuracy of all training songs, each scored by a network that did not learn from its
album, per seed, with its mean and spread, and that of the seeds' networks averaged. --validate
learns from all training songs instead and scores the validation songs, at the last epoch: once a
choice is made. Runs are kept in RESULTS_DIR, and a run that is there is not made again: one that
was stopped goes on. What came of it is in benchmarks/RESULTS.md.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import task2_train_wo_pretrain as stage
from artist20 import cli, evaluation, experiment, results, runtime, spectrogram
from artist20.results import Predictions, ResNetRecipe
from artist20.spectrogram import FrontEnd


def parse_change(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` of a recipe."""
    name, _, value = text.partition("=")
    fields = {field.name: field.type for field in msgspec.structs.fields(ResNetRecipe)}
    if name not in fields:
        raise argparse.ArgumentTypeError(f"a recipe has {', '.join(fields)}")
    try:
        return name, msgspec.convert(msgspec.json.decode(value.lower()), fields[name])
    except msgspec.MsgspecError as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from None


def train(
    args: argparse.Namespace, recipe: ResNetRecipe, folder: Path
) -> tuple[np.ndarray, np.ndarray, float]:
    """Train; return (n_songs, n_classes) scores, (n_songs,) labels, and seconds."""
    scores, labels, seconds = [], [], 0.0
    front_end = FrontEnd.of(recipe)
    cache = spectrogram.open_cache(args.results_dir, front_end)
    folds = [None] if args.validate else range(1, results.N_FOLDS + 1)
    args.fold = folds[0]  # of which the songs are read: every fold has all training songs
    study = experiment.begin(args, "resnet")
    study = study.decoded(partial(spectrogram.fill_cache, cache, front_end, args.workers))
    for fold in folds:
        run = study.open(recipe, fold=fold, folder=folder)
        metrics = run.finished or stage.train(run, cache)
        seconds += metrics.epochs_seconds
        part = results.read_record(
            run.folder / "val_predictions.json", Predictions, experiment.AGAIN
        )
        scores.append(part.scores.get(f"{study.name}_last", part.scores[study.name]))
        labels.append(part.labels)
    return np.concatenate(scores), np.concatenate(labels), seconds


def accuracy(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return top-1, top-3 and log loss."""
    top1, top3 = (evaluation.top_k_accuracy(scores, labels, k) for k in (1, 3))
    return top1, top3, evaluation.log_loss(scores, labels)


def in_words(figures: Sequence[float]) -> str:
    """Write what :func:`accuracy` returned."""
    return f"top-1 {figures[0]:.1%}, top-3 {figures[1]:.1%}, log loss {figures[2]:.3f}"


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_recipe_option(parser)
    cli.add_precision_option(parser)
    parser.add_argument(
        "--set", type=parse_change, nargs="+", default=[], metavar="NAME=VALUE", help="changes"
    )
    parser.add_argument("--also-train-on", type=Path, metavar="DIR", help="as in the stage")
    parser.add_argument("--seeds", type=cli.seed_int, nargs="+", default=[0], help="one run each")
    parser.add_argument("--validate", action="store_true", help="score the validation songs")
    parser.set_defaults(recipe="strong", results_dir=Path("results/recipes"))
    parser.set_defaults(resume=True, overwrite=False, patience=None, compile=False)
    parser.set_defaults(tensorboard=False, skip_unreadable=False, audio_root=None)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    recipe = msgspec.structs.replace(stage.RECIPES[args.recipe], **dict(args.set))
    described = repr((str(args.data_dir), args.limit, recipe, str(args.also_train_on)))
    digest = hashlib.sha256(described.encode()).hexdigest()[:10]
    rows, scores = [], []
    for seed in args.seeds:
        args.seed = seed
        folder = args.results_dir / f"{args.recipe}-{digest}" / f"seed-{seed}"
        of_seed, labels, seconds = train(args, recipe, folder)
        scores.append(of_seed)
        rows.append(accuracy(of_seed, labels))
        print(f"seed {seed}: {in_words(rows[-1])}, {seconds:.0f} s")
    if len(rows) > 1:
        mean, std = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
        print(f"mean of {len(rows)} seeds: {in_words(mean)} (sd {std[0]:.1%}, {std[1]:.1%})")
        print(f"their networks averaged: {in_words(accuracy(np.mean(scores, axis=0), labels))}")
    print(f"{args.recipe} {dict(args.set)}")


if __name__ == "__main__":
    runtime.run(main)
