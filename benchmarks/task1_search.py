"""How long Task 1's grid search takes at artist20's size, against the straightforward way.

949 songs x 901 features of 20 artists with 4 albums each are drawn at random. The straightforward
way is scikit-learn's GridSearchCV over a pipeline for each of the homework's three models, with
the same grids and folds on the same number of processes.

    python benchmarks/task1_search.py
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from artist20 import classical, cli, runtime
from artist20.classical import Rows
from artist20.results import FitSettings

N_SONGS, N_FEATURES, N_ARTISTS, N_ALBUMS = 949, 901, 20, 4


def draw_songs(seed: int) -> Rows:
    """Draw songs whose features lie around their artist's and their album's."""
    rng = np.random.default_rng(seed)
    artist = np.arange(N_SONGS) % N_ARTISTS
    album = rng.integers(N_ALBUMS, size=N_SONGS)
    centres = rng.normal(0, 0.2, (N_ARTISTS, 1, N_FEATURES))
    centres = centres + rng.normal(0, 0.3, (N_ARTISTS, N_ALBUMS, N_FEATURES))
    X = (centres[artist, album] + rng.normal(size=(N_SONGS, N_FEATURES))).astype(np.float32)
    albums = np.array([f"{a}/{b}" for a, b in zip(artist, album, strict=True)])
    names = [f"mel_{i:03d}" for i in range(N_FEATURES)]
    return Rows(X, np.arange(N_SONGS), artist.astype(str), albums, names)


def straightforward(name: str, train: Rows, args: argparse.Namespace) -> float:
    """Search as one would with scikit-learn alone; return the best mean accuracy."""
    model = classical.make_classifier(name, args.seed)
    pipeline = make_pipeline(*classical.make_transforms(name, train), model)
    step = pipeline.steps[-1][0]
    grid = [
        {f"{step}__{key}": values for key, values in part.items()}
        for part in classical.GRIDS["song"][name]
    ]
    folds = classical.split_folds(train, "album", args.seed)
    search = GridSearchCV(pipeline, grid, scoring="accuracy", cv=folds, n_jobs=args.workers)
    return float(search.fit(train.X, train.y).best_score_)


def ours(name: str, train: Rows, args: argparse.Namespace) -> float:
    """Search as task1_train.py does; return the best mean accuracy."""
    settings = FitSettings(dataset="drawn", features="drawn", cv="album", seed=args.seed)
    grid = classical.GRIDS["song"][name]
    found, _ = classical.search(name, train, grid, settings, args.workers, name)
    return found[0].mean


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_seed_option(parser)
    cli.add_workers_option(parser)
    return parser.parse_args()


def main() -> None:
    """Run both ways and print their ratio."""
    args = parse_args()
    train = draw_songs(args.seed)
    print(f"{N_SONGS} songs x {N_FEATURES} features, {args.workers} processes")
    print(f"{'':20}{'GridSearchCV':>14}{'artist20':>10}{'ratio':>7}{'accuracy':>19}")
    totals = np.zeros(2)
    for name in classical.GRIDS["song"]:
        seconds, accuracies = [], []
        ways = (straightforward, ours) if name != "logistic_regression" else (ours,)
        for way in ways:
            started = time.perf_counter()
            accuracies.append(way(name, train, args))
            seconds.append(time.perf_counter() - started)
        both = " / ".join(f"{accuracy:.1%}" for accuracy in accuracies)
        if len(seconds) == 1:  # our own fourth model
            print(f"{name:20}{'':14}{seconds[0]:10.1f}{'':7}{both:>19}")
            continue
        totals += seconds
        print(f"{name:20}{seconds[0]:14.1f}{seconds[1]:10.1f}", end="")
        print(f"{seconds[0] / seconds[1]:7.1f}{both:>19}")
    print(f"{'the three':20}{totals[0]:14.1f}{totals[1]:10.1f}{totals[0] / totals[1]:7.1f}")


if __name__ == "__main__":
    runtime.run(main)
