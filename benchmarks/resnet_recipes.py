"""Cross-validate a change of the ResNet's strong recipe on the training songs, folds by album.

    python benchmarks/resnet_recipes.py --data-dir data/artist20 --set crop_seconds=10 mixup_alpha=0

Prints the accuracy of all training songs, each scored by a network that did not learn from its
album, per seed, with its mean and spread. Runs are kept in RESULTS_DIR, and a run that is there is
not made again: one that was stopped goes on. What came of it is in benchmarks/RESULTS.md.
"""

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import task2_train_wo_pretrain as stage
from artist20 import artifacts, cli, evaluation


def parse_change(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` of a recipe."""
    name, _, value = text.partition("=")
    kinds = {field.name: field.type for field in dataclasses.fields(stage.Recipe)}
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"a recipe has {', '.join(kinds)}")
    if kinds[name] is bool:
        if value not in ("True", "False"):
            raise argparse.ArgumentTypeError(f"{name} is True or False")
        return name, value == "True"
    return name, kinds[name](value)


def cross_validate(
    args: argparse.Namespace, recipe: stage.Recipe, folder: Path
) -> tuple[float, float, float, float]:
    """Train on all folds; return top-1, top-3 and log loss over all songs, and seconds."""
    scores, labels, seconds = [], [], 0.0
    for args.fold in range(1, artifacts.N_FOLDS + 1):
        of_fold = folder / f"fold-{args.fold}"
        metrics = stage.train(args, recipe, of_fold, args.results_dir / "cache")
        seconds += metrics["epochs_seconds"]
        part = artifacts.read_predictions(of_fold / "val_predictions.json", stage.SCRIPT)
        name = metrics["model"]
        scores.append(part.scores.get(f"{name}_last", part.scores[name]))
        labels.append(part.labels)
    of_songs, true = np.concatenate(scores), np.concatenate(labels)
    top1, top3 = (evaluation.top_k_accuracy(of_songs, true, k) for k in (1, 3))
    return top1, top3, evaluation.log_loss(of_songs, true), seconds


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
    parser.add_argument(
        "--seeds", type=cli.seed_int, nargs="+", default=[0], help="cross-validate with each"
    )
    parser.set_defaults(recipe="strong", results_dir=Path("results/recipes"))
    parser.set_defaults(resume=True, overwrite=False, patience=None, compile=False)
    parser.set_defaults(tensorboard=False)
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    recipe = dataclasses.replace(stage.RECIPES[args.recipe], **dict(args.set))
    described = repr((str(args.data_dir), args.limit, recipe, str(args.also_train_on)))
    digest = hashlib.sha256(described.encode()).hexdigest()[:10]
    rows = []
    for seed in args.seeds:
        args.seed = seed
        folder = args.results_dir / f"{args.recipe}-{digest}" / f"seed-{seed}"
        rows.append(cross_validate(args, recipe, folder))
        top1, top3, loss, seconds = rows[-1]
        print(
            f"seed {seed}: top-1 {top1:.1%}, top-3 {top3:.1%}, log loss {loss:.3f}, {seconds:.0f} s"
        )
    mean, std = np.mean(rows, axis=0), np.std(rows, axis=0)
    print(
        f"{args.recipe} {dict(args.set)}: {len(rows)} seeds, top-1 {mean[0]:.1%} "
        f"(sd {std[0]:.1%}), top-3 {mean[1]:.1%} (sd {std[1]:.1%}), log loss {mean[2]:.3f}"
    )


if __name__ == "__main__":
    cli.run(main)
