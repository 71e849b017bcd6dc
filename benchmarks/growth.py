"""How time and memory grow with the number of songs, stage by stage.

Demo songs of some seconds are made in three sizes, and every stage that walks over songs is run on
each, from nothing, with one epoch. Memory is the largest sum of all its processes' proportional
set sizes; files that the operating system keeps in memory by itself are in it.

    python benchmarks/growth.py
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from artist20 import cli

TINY = ["--epochs", "1", "--crop-seconds", "1"]
PANNS = [*TINY, "--backbone-weights", "untrained", "--views", "1", "--windows", "1"]
STAGES = {
    "task1_preprocessing": [],
    "task2_train": PANNS,
    "task2_inference": [],
    "task2_train_wo_pretrain": TINY,
    "task2_inference_wo_pretrain": [],
}


def descendants(pid: int) -> list[int]:
    """List a process and all that it started, directly or not."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def memory_of(pid: int) -> float:
    """Sum the proportional set sizes of a process and its descendants, in MB."""
    total = 0
    try:
        for each in descendants(pid):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])
    except (OSError, TypeError):  # one of them has just ended
        return 0.0
    return total / 1024


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB."""
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, peak


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
            for name, (seconds, megabytes) in measured.items():
                rows[name].append(f"{seconds:6.0f} s {megabytes:6.0f} MB")
            sizes.append(len(list(Path(folder, "data").rglob("*.mp3"))))
    print(f"{'songs of ' + format(args.song_seconds, 'g') + ' s':30}", end="")
    print("".join(f"{size:>20}" for size in sizes))
    for name, cells in rows.items():
        print(f"{name:30}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    cli.run(main)
