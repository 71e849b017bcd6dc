"""How Task 1's models grow with the number of artists: one fold of one point of their grids.

Songs are drawn at random, 8 an artist on 4 albums, 901 features each. A fold's songs are fitted and
the held-out ones scored, in a process of its own. Seconds are the CPU's; memory is what comes on
top of the songs. A search has such a fold in every worker.

    python benchmarks/task1_artists.py
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from artist20 import classical, cli, runtime
from artist20.classical import Rows

N_ALBUMS, SONGS_PER_ALBUM, N_FEATURES = 4, 2, 901
POINTS = {
    "svm": {"kernel": "rbf", "C": 10.0, "gamma": "scale"},
    "random_forest": {"n_estimators": 300},
    "knn": {"n_neighbors": 15},
    "logistic_regression": {"C": 0.03},
}


def draw_songs(n_artists: int, seed: int) -> Rows:
    """Draw songs whose features lie around their artist's and their album's."""
    rng = np.random.default_rng(seed)
    albums = np.repeat(np.arange(n_artists * N_ALBUMS), SONGS_PER_ALBUM)
    artists = albums // N_ALBUMS
    X = rng.normal(size=(len(albums), N_FEATURES)).astype(np.float32)
    X += rng.normal(0, 0.3, (n_artists, N_FEATURES)).astype(np.float32)[artists]
    X += rng.normal(0, 0.3, (n_artists * N_ALBUMS, N_FEATURES)).astype(np.float32)[albums]
    y = np.array([f"artist {artist:04}" for artist in artists])
    names = [f"mel_{i:03d}" for i in range(N_FEATURES)]
    album_names = np.array([f"{y[i]}/{album}" for i, album in enumerate(albums)])
    return Rows(X, np.arange(len(y)), y, album_names, names)


def score_a_fold(name: str, n_artists: int, seed: int) -> None:
    """Fit a fold's songs, score those held out, and print seconds and MB."""
    train = draw_songs(n_artists, seed)
    fit, held_out = classical.split_folds(train, "album", seed)[0]
    fit_rows, held_out_rows = train.of_songs(fit), train.of_songs(held_out)
    peak, started = _peak_memory(), time.process_time()
    model = classical.fit_model(name, "song", fit_rows, POINTS[name], seed)
    scores = classical.song_scores(model, held_out_rows)
    assert scores.shape == (len(held_out), n_artists)
    print(time.process_time() - started, _peak_memory() - peak)


def _peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_seed_option(parser)
    parser.add_argument(
        "--artists", type=int, nargs="+", default=[20, 50, 100, 200, 500], help="how many"
    )
    parser.add_argument("--models", nargs="+", default=list(POINTS), help="which")
    parser.add_argument("--step", choices=list(POINTS), help="run this one alone")
    return parser.parse_args()


def main() -> None:
    """Run everything on all sizes, and print the table."""
    args = parse_args()
    if args.step:
        score_a_fold(args.step, args.artists[0], args.seed)
        return
    table: dict[str, list[str]] = {}
    for n_artists in args.artists:
        for name in args.models:
            step = ["--step", name, "--artists", str(n_artists), "--seed", str(args.seed)]
            done = subprocess.run(
                [sys.executable, __file__, *step], stdout=subprocess.PIPE, check=True
            )
            seconds, megabytes = map(float, done.stdout.split())
            cell = f"{seconds:7.1f} s {megabytes:6.0f} MB"
            table.setdefault(name, []).append(cell)
            print(f"{n_artists:5} artists, {name:22}{cell}", file=sys.stderr)
    print(f"{'artists':22}" + "".join(f"{size:>19}" for size in args.artists))
    for name, cells in table.items():
        print(f"{name:22}" + "".join(f"{cell:>19}" for cell in cells))


if __name__ == "__main__":
    runtime.run(main)
