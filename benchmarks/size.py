"""How time and memory grow with lists of up to 100,000 songs, of which hardly anything is heard.

All songs are noise of 50 ms, each another, so that what is left is nearly all bookkeeping: finding,
checking, hashing, writing. The cache and the predictions are of songs that differ in their numbers
alone. Every row is a process of its own; time is that of the CPUs, of all its processes, and memory
the largest sum of their proportional set sizes.

    python benchmarks/size.py
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io.wavfile
from measure import run

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from artist20 import audio, cli, files, results, runtime
from artist20.results import Predictions, SongRecord

N_ARTISTS, SONGS_PER_ALBUM = 20, 10
SAMPLES = audio.SAMPLE_RATE // 20


def make_music(folder: Path, n_songs: int) -> None:
    """Make an ``artist/album/song`` tree of songs of 50 ms."""
    rng = np.random.default_rng(0)
    for i in range(n_songs):
        album = folder / "music" / f"artist {i % N_ARTISTS:02}"
        album /= f"album {i // N_ARTISTS // SONGS_PER_ALBUM:04}"
        album.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-3000, 3000, SAMPLES, dtype=np.int16)
        scipy.io.wavfile.write(album / f"{i:06}.wav", audio.SAMPLE_RATE, noise)


def fill_cache(folder: Path, n_songs: int) -> None:
    """Put arrays of so many songs into a cache, and read them again."""
    from artist20.cache import Cache

    cache = Cache(folder, "size", {})
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n_songs)]
    for i, key in enumerate(keys):
        files.write_array(cache.path(key), np.full((1, 100), i, np.float32))
    assert all(cache.load(key)[0, 0] == i for i, key in enumerate(keys))


def write_predictions(folder: Path, n_songs: int) -> None:
    """Write scores of so many songs of 20 artists, and read them again."""
    classes = [f"artist {i:02}" for i in range(N_ARTISTS)]
    songs = [
        SongRecord(path=f"./train_val/{i}.mp3", artist=classes[i % N_ARTISTS], album=str(i // 200))
        for i in range(n_songs)
    ]
    scores = np.random.default_rng(0).dirichlet(np.ones(N_ARTISTS), n_songs)
    path = folder / "val_predictions.json"
    written = Predictions(classes=classes, songs=songs, scores={"model": scores})
    results.write_record(path, written)
    assert len(results.read_record(path, Predictions, "this benchmark").labels) == n_songs


STEPS: dict[str, Callable[[Path, int], None]] = {
    "music, made": make_music,
    "cache, written and read": fill_cache,
    "predictions, written and read": write_predictions,
}


def rows(folder: Path) -> dict[str, list[str]]:
    """Name the commands that are run on a folder, in their order."""
    data, python = str(folder / "data"), sys.executable
    step = [python, __file__, "--folder", str(folder), "--step"]
    music, *others = STEPS
    split = ["split", str(folder / "music"), "--output", data, "--test"]
    script = str(REPOSITORY / "task1_preprocessing.py")
    where = ["--data-dir", data, "--results-dir", str(folder / "results"), "--device", "cpu"]
    return {
        music: [*step, music],
        "collection split": [python, "-m", "artist20.collection", *split],
        "collection check": [python, "-m", "artist20.collection", "check", data],
        "task1_preprocessing, anew": [python, script, *where],
        "task1_preprocessing, again": [python, script, *where],
        **{name: [*step, name] for name in others},
    }


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "--songs", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes of the list"
    )
    parser.add_argument("--step", choices=list(STEPS), help="run this one alone, in --folder")
    parser.add_argument("--folder", type=Path, help="see --step")
    return parser.parse_args()


def main() -> None:
    """Run everything on all sizes, and print the table."""
    args = parse_args()
    if args.step:
        STEPS[args.step](args.folder, args.songs[0])
        return
    table: dict[str, list[str]] = {}
    for n_songs in args.songs:
        with tempfile.TemporaryDirectory() as folder:
            for name, command in rows(Path(folder)).items():
                own = ["--songs", str(n_songs)] if "--step" in command else []
                seconds, cpu_seconds, megabytes = run([*command, *own], REPOSITORY)
                cell = f"{cpu_seconds:7.1f} s {megabytes:5.0f} MB"
                table.setdefault(name, []).append(cell)
                print(
                    f"{n_songs:7} songs, {name:30}{cell}, {seconds:.0f} s by the clock",
                    file=sys.stderr,
                )
    print(f"{'songs':30}" + "".join(f"{size:>19}" for size in args.songs))
    for name, cells in table.items():
        print(f"{name:30}" + "".join(f"{cell:>19}" for cell in cells))


if __name__ == "__main__":
    runtime.run(main)
