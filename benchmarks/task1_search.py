"""How long Task 1's grid search takes at artist20's size, against the straightforward way.

949 songs x 901 features of 20 artists with 4 albums each are drawn at random. The straightforward
way is scikit-learn's GridSearchCV over a pipeline for each of the homework's three models, with
the same grids and folds on the same number of processes. The last columns are of the same songs
by task1_train.py --search wide.

    python benchmarks/task1_search.py
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from artist20 import classical, cli, runtime
from artist20.classical import Rows
from artist20.results import Breadth, FitSettings

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
    model = classical.make_classifier(name, train, args.seed)
    pipeline = make_pipeline(*classical.make_transforms(name, train), model)
    step = pipeline.steps[-1][0]
    grid = [
        {f"{step}__{key}": values for key, values in part.items()}
        for part in classical.GRIDS["song"][name]
    ]
    folds = classical.split_folds(train, "album", args.seed)
    search = GridSearchCV(pipeline, grid, scoring="accuracy", cv=folds, n_jobs=args.workers)
    return float(search.fit(train.X, train.y).best_score_)


def ours(name: str, train: Rows, args: argparse.Namespace, search: Breadth = "homework") -> float:
    """Search as task1_train.py does; return the best mean accuracy."""
    settings = FitSettings(dataset="drawn", features="drawn", cv="album", seed=args.seed)
    grid = classical.make_grids("song", search)[name]
    found, _ = classical.search(name, train, grid, settings, args.workers, name)
    return found[0].mean


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_seed_option(parser)
    cli.add_workers_option(parser)
    return parser.parse_args()


def main() -> None:
    """Time all ways, and print how they compare."""
    args = parse_args()
    train = draw_songs(args.seed)
    print(f"{N_SONGS} songs x {N_FEATURES} features, {args.workers} processes")
    ways = {"GridSearchCV": straightforward, "artist20": ours, "wide": partial(ours, search="wide")}
    print(f"{'':20}", *(f"{way:>24}" for way in ways))
    totals = dict.fromkeys(ways, 0.0)
    for name in classical.make_grids("song", "wide"):
        cells = []
        for way, search in ways.items():
            known = classical.make_grids("song", "wide" if way == "wide" else "homework")
            if name not in known or (way == "GridSearchCV" and name == "logistic_regression"):
                cells.append(f"{'':24}")  # our own fourth model and fifth
                continue
            started = time.perf_counter()
            accuracy = search(name, train, args)
            seconds = time.perf_counter() - started
            totals[way] += seconds
            cells.append(f"{seconds:14.1f} s{accuracy:8.1%}")
        print(f"{name:20}", *cells, flush=True)
    print(f"{'together':20}", *(f"{total:14.1f} s{'':8}" for total in totals.values()))


if __name__ == "__main__":
    runtime.run(main)
