"""Cross-validate a linear model on a log-mel spectrogram's statistics, folds by album.

    python benchmarks/mel_statistics.py --data-dir data/artist20 --n-fft 4096 --n-mels 256

It asks how much of an artist is in the spectrum as such, and in which resolution: logistic
regression on mean, deviation, maximum and minimum of every bin over windows of 5 s, whose
probabilities are averaged over the song. Prints the accuracy of all training songs for several
strengths of the penalty, each song scored by a model that did not learn from its album. What came
of it is in benchmarks/RESULTS.md.
"""

import argparse
import sys
from pathlib import Path

import librosa
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from artist20 import audio, cli, dataset, evaluation, results, runtime, spectrogram

STRENGTHS = (0.03, 0.1, 0.3)
WINDOW_SECONDS = 5.0
MAX_ITER = 200


def window_statistics(file: Path, n_fft: int, n_mels: int) -> np.ndarray:
    """Return (n_windows, 4 * n_mels) statistics of a song's log-mel in dB."""
    power = librosa.feature.melspectrogram(
        y=audio.open_song(file)[:],
        sr=audio.SAMPLE_RATE,
        n_fft=n_fft,
        hop_length=spectrogram.HOP_LENGTH,
        n_mels=n_mels,
        fmax=spectrogram.F_MAX,
    )
    log_mel = librosa.power_to_db(power, amin=spectrogram.AMIN, top_db=None).T
    n_frames = spectrogram.to_frames(WINDOW_SECONDS)
    windows = [
        log_mel[start : start + n_frames]
        for start in evaluation.window_starts(len(log_mel), n_frames)
    ]
    return np.array([np.concatenate([w.mean(0), w.std(0), w.max(0), w.min(0)]) for w in windows])


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    parser.add_argument("--n-fft", type=cli.positive_int, default=1024, help="samples")
    parser.add_argument("--n-mels", type=cli.positive_int, default=64, help="bins")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark."""
    args = parse_args()
    statistics = {
        song.path: window_statistics(song.file, args.n_fft, args.n_mels)
        for song in tqdm(dataset.read_split(args.data_dir, "train", args.limit), disable=None)
    }
    for strength in STRENGTHS:
        scores, labels = [], []
        for fold in range(1, results.N_FOLDS + 1):
            train, held_out, classes = dataset.read_to_fit(args.data_dir, fold, args.limit)
            X = np.concatenate([statistics[song.path] for song in train])
            y = dataset.class_indices(train, classes)
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITER)
            ).fit(X, np.repeat(y, [len(statistics[song.path]) for song in train]))
            scores += [model.predict_proba(statistics[song.path]).mean(0) for song in held_out]
            labels += list(dataset.class_indices(held_out, classes))
        top1, top3 = (
            evaluation.top_k_accuracy(np.array(scores), np.array(labels), k) for k in (1, 3)
        )
        print(
            f"{args.n_mels} bins of {args.n_fft} samples, C {strength:g}: "
            f"top-1 {top1:.1%}, top-3 {top3:.1%}"
        )


if __name__ == "__main__":
    runtime.run(main)
