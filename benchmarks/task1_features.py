"""How fast Task 1's features are, against the straightforward way: librosa, song after song.

Both ways decode the same files and compute the same 901 numbers per song; the straightforward way
decodes with librosa.load and calls librosa's functions one by one.

    make demo && python benchmarks/task1_features.py --data-dir data/demo --limit 40
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import librosa
import numpy as np
import torch
from tqdm import tqdm

from artist20 import audio, cli, dataset, features, runtime
from artist20.cache import map_songs


def straightforward(file: Path) -> np.ndarray:
    """Compute a song's feature vector with librosa alone, as one would write it in a notebook."""
    y, sr = librosa.load(file, sr=audio.SAMPLE_RATE)
    mel_power = librosa.feature.melspectrogram(y=y, sr=sr)
    mfcc = librosa.feature.mfcc(y=y, sr=sr, n_mfcc=features.N_MFCC)
    frames = np.concatenate(
        [
            mfcc,
            librosa.feature.delta(mfcc),
            librosa.feature.delta(mfcc, order=2),
            librosa.power_to_db(mel_power),
            librosa.feature.chroma_stft(y=y, sr=sr, tuning=0.0),
            librosa.feature.spectral_contrast(y=y, sr=sr),
            mel_power[: features.N_LOW_MEL],
            librosa.feature.spectral_centroid(y=y, sr=sr),
            librosa.feature.spectral_bandwidth(y=y, sr=sr),
            librosa.feature.spectral_rolloff(y=y, sr=sr),
            mel_power.sum(axis=0, keepdims=True),
            librosa.feature.rms(y=y),
            librosa.feature.zero_crossing_rate(y),
        ]
    )
    statistics = [frames.mean(axis=1), frames.std(axis=1), frames.max(axis=1), frames.min(axis=1)]
    tempo = librosa.feature.tempo(y=y, sr=sr)
    return np.append(np.stack(statistics, axis=1).ravel(), tempo)


def extract(file: Path) -> np.ndarray:
    """Compute a song's feature vector as task1_preprocessing.py does."""
    units = features.song_units(map(torch.from_numpy, audio.read_blocks(file)))
    return features.merge_units(units, 1)[0, : len(features.FEATURE_NAMES)]


def print_distances(theirs: np.ndarray, ours: np.ndarray) -> None:
    """Print how far the two ways are apart, by family: (n_songs, n_features) each."""
    print(f"{'family':20}{'largest distance':>18}{'in units of std':>18}")
    families = np.array([features.family_of(name) for name in features.FEATURE_NAMES])
    spread = np.maximum(theirs.std(axis=0), 1e-12)
    for family in dict.fromkeys(families):
        distance = np.abs(ours - theirs)[:, families == family]
        relative = (distance / spread[families == family]).max()
        print(f"{family:20}{distance.max():18.2g}{relative:18.2g}")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_workers_option(parser)
    return parser.parse_args()


def main() -> None:
    """Run both ways and print their ratio."""
    args = parse_args()
    files = [song.file for song in dataset.read_split(args.data_dir, "train", args.limit)]
    seconds_of_audio = sum(len(audio.open_song(file)) for file in files) / audio.SAMPLE_RATE
    straightforward(files[0])  # librosa compiles some functions at their first call
    extract(files[0])

    started = time.perf_counter()
    theirs = np.stack([straightforward(file) for file in tqdm(files, "librosa", disable=None)])
    librosa_seconds = time.perf_counter() - started
    started = time.perf_counter()
    ours = np.stack(list(map_songs(files, extract, workers=args.workers, label="artist20")))
    our_seconds = time.perf_counter() - started

    print_distances(theirs, ours)
    print(
        f"{len(files)} songs, {seconds_of_audio / 60:.1f} minutes of audio, {args.workers} "
        f"workers, {len(features.FEATURE_NAMES)} features"
    )
    print(f"{'':10}{'seconds':>10}{'x real time':>13}{'ratio':>8}")
    for name, seconds in (("librosa", librosa_seconds), ("artist20", our_seconds)):
        rate, ratio = seconds_of_audio / seconds, librosa_seconds / seconds
        print(f"{name:10}{seconds:10.2f}{rate:13.0f}{ratio:8.1f}")


if __name__ == "__main__":
    runtime.run(main)
