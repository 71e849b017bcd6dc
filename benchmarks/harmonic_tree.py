"""Make a mirrored tree of songs' harmonic parts: a stand-in for separated vocals.

    python benchmarks/harmonic_tree.py data/artist20 data/artist20_harmonic

What sounds on, as voices do, is kept; what strikes, as drums do, is left out. It takes no trained
separator, so that --also-train-on can be measured without one. Median filters along the
spectrogram's two axes tell the parts apart (librosa.effects.harmonic with its defaults; Fitzgerald
2010, "Harmonic/Percussive Separation using Median Filtering").

Songs keep their names. A song that is there is not made again, also if its source has changed.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import librosa
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from artist20 import UserError, audio, cli, dataset, runtime
from artist20.cache import map_songs
from artist20.files import only_writer


def write_harmonic(data_dir: Path, output: Path, file: Path) -> np.ndarray:
    """Write the harmonic part of a song into the other tree, in a worker process; return it."""
    waveform = librosa.effects.harmonic(audio.open_song(file)[:])
    audio.write_blocks(output / file.relative_to(data_dir), [waveform])
    return waveform


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "data_dir", type=Path, metavar="DATA_DIR", help="folder with train.json and val.json"
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="folder to make")
    cli.add_workers_option(parser)
    return parser.parse_args()


def main() -> int:
    """Make what is missing of the tree; return the exit status."""
    args = parse_args()
    data_dir, output = args.data_dir.resolve(), args.output_dir.resolve()
    songs = [song for split in dataset.SPLITS for song in dataset.read_split(data_dir, split)]
    if output == data_dir:
        raise UserError(f"{output} holds the songs themselves: name another folder")
    with only_writer(output):
        files = [song.file for song in songs if not (output / song.path).is_file()]
        print(f"{len(songs) - len(files)} of {len(songs)} songs are in {output}")
        results = map_songs(
            files, partial(write_harmonic, data_dir, output), workers=args.workers, label="harmonic"
        )
        failures = [result for result in results if isinstance(result, audio.AudioError)]
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    runtime.run(main)
