"""How long the main process is busy with a song that a worker hands over: mapped, or by a pipe.

    python benchmarks/handing_over.py

The song is copied once, as for a GPU: by one thread, and by as many as torch would take, which then
spin in wait of the next one. Workers must be forks, as they are on Linux before Python 3.14.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from artist20 import audio, cache, cli, runtime

N_SONGS, FIRST, SECONDS = 100, 20, 170  # the first ones are handed over while workers start


def make_song(_file: Path) -> np.ndarray:
    """Return what a decoded song is."""
    return np.zeros(SECONDS * audio.SAMPLE_RATE, np.float32)


def milliseconds(mapped_bytes: float, threads: int) -> float:
    """Measure the main process's CPU time for a song."""
    cache.MAPPED_BYTES = mapped_bytes  # type: ignore[assignment]  # the workers are forks
    files = [Path(str(i)) for i in range(FIRST + N_SONGS)]
    started = 0.0
    for i, song in enumerate(cache.map_songs(files, make_song, workers=2, label="songs")):
        torch.set_num_threads(threads)  # workers begin with one
        started = time.process_time() if i == FIRST else started
        torch.from_numpy(song).clone()
    return 1000 * (time.process_time() - started) / (N_SONGS - 1)


def main() -> None:
    """Measure all three, twice, and print them."""
    cli.make_parser(__doc__).parse_args()
    n_threads = torch.get_num_threads()
    for _ in range(2):
        pipe, mapped = milliseconds(float("inf"), 1), milliseconds(2**20, 1)
        spinning = milliseconds(2**20, n_threads)
        print(
            f"ms a song: by a pipe {pipe:.1f}, mapped {mapped:.1f}, and with {n_threads} threads "
            f"{spinning:.1f}; ratios {pipe / mapped:.1f}, {spinning / mapped:.1f}"
        )


if __name__ == "__main__":
    runtime.run(main)
