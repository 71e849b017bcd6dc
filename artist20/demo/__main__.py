"""Make a synthesised data set in artist20's layout, to try every stage without the real one.

    python -m artist20.demo data/demo
    python -m artist20.demo data/tiny --artists 3 --albums 3 --songs 1 --seconds 2

Reads   nothing
Writes  DIR/train.json, DIR/val.json, DIR/train_val/<artist>/<album>/*.mp3
        DIR/test/*.mp3, DIR/answers.json    the test songs, and who made them
        DIR/dataset.json                    the settings

The same command gives the same bytes, however many processes work on them, and goes on where an
interrupted one stopped.
"""

import artist20.packages  # says which are missing

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from artist20 import cli, runtime
from artist20.demo.folder import MAX_ALBUMS, MAX_ARTISTS, Settings, build

N = TypeVar("N", int, float)


def _between(number: Callable[[str], N], low: int, high: int) -> Callable[[str], N]:
    """Return a parser of numbers from ``low`` to ``high``."""

    def parse(text: str) -> N:
        if not low <= number(text) <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}")
        return number(text)

    return parse


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder to make")
    for option, kind, default, what in (
        ("--artists", _between(int, 2, MAX_ARTISTS), 10, "number of artists"),
        ("--albums", _between(int, 3, MAX_ALBUMS), 6, "albums by each artist, at least 3"),
        ("--songs", cli.positive_int, 4, "songs on each album"),
        ("--seconds", _between(float, 1, 3600), 30.0, "length of a song"),
    ):
        parser.add_argument(option, type=kind, default=default, help=what)
    cli.add_seed_option(parser)
    cli.add_workers_option(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = vars(parse_args(argv))
    directory, workers = options.pop("directory"), options.pop("workers")
    build(directory, Settings(**options), workers)
    print(cli.first_stage(directory))


if __name__ == "__main__":
    runtime.run(main)
