"""How time and memory grow with the number of songs, stage by stage.

Demo songs of some seconds are made in three sizes, and every stage that walks over songs is run on
each, from nothing, with one epoch. Memory is the largest sum of all its processes' proportional
set sizes; files that the operating system keeps in memory by itself are in it.

    python benchmarks/growth.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

from measure import run

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from artist20 import cli, runtime

TINY = ["--epochs", "1", "--crop-seconds", "1"]
PANNS = [*TINY, "--encoder-weights", "untrained", "--views", "1", "--windows", "1"]
STAGES = {
    "task1_preprocessing": [],
    "task2_train": PANNS,
    "task2_inference": [],
    "task2_train_wo_pretrain": TINY,
    "task2_inference_wo_pretrain": [],
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--songs", type=int, nargs="+", default=[2, 8, 32], help="songs per album, one per size"
    )
    parser.add_argument("--song-seconds", type=float, default=5, help="length of the songs")
    return parser.parse_args()


def main() -> None:
    """Run all stages on all sizes, and print the table."""
    args = parse_args()
    rows: dict[str, list[str]] = {name: [] for name in ("artist20.demo", *STAGES)}
    sizes = []
    for n_songs in args.songs:
        with tempfile.TemporaryDirectory() as folder:
            where = ["--data-dir", f"{folder}/data", "--results-dir", f"{folder}/results"]
            demo = [f"{folder}/data", "--songs", str(n_songs), "--seconds", str(args.song_seconds)]
            python = sys.executable
            measured = {"artist20.demo": run([python, "-m", "artist20.demo", *demo])}
            for name, options in STAGES.items():
                script = str(REPOSITORY / f"{name}.py")
                measured[name] = run([python, script, *where, *options])
            for name, (seconds, _, megabytes) in measured.items():
                rows[name].append(f"{seconds:6.0f} s {megabytes:6.0f} MB")
            sizes.append(len(list(Path(folder, "data").rglob("*.mp3"))))
    print(f"{'songs of ' + format(args.song_seconds, 'g') + ' s':30}", end="")
    print("".join(f"{size:>20}" for size in sizes))
    for name, cells in rows.items():
        print(f"{name:30}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    runtime.run(main)
