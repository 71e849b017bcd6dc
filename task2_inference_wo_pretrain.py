"""Task 2, model 2, stage 2: name the artists of the test songs with the trained residual CNN.

Reads   RESULTS_DIR/task2/resnet/best.pt, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task2/resnet/test_predictions.json    {"001": [best, second, third], ...}
                                 test_scores.json         all scores

Windows over the whole song are averaged, and so are several networks. A file that cannot be read
is named and left out, and the exit status is 1. With --recipe strong, all is in
RESULTS_DIR/task2/resnet_strong.

    python task2_inference_wo_pretrain.py
    python task2_inference_wo_pretrain.py --audio song.mp3 another.flac
    python task2_inference_wo_pretrain.py --recipe strong --checkpoint seed-0/best.pt seed-1/best.pt
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from artist20 import UserError, artifacts, cli, inference, spectrogram, training
from artist20.models import ArtistResNet
from artist20.spectrogram import LogMels

BATCH_SECONDS = 2400.0  # audio scored at a time


def load_scorer(
    path: Path, device: torch.device, precision_option: str
) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
    """Load a checkpoint; return its classes, and what scores (n_frames, n_mels) log-mels.

    The scores are (n_windows, n_classes) probabilities.
    """
    checkpoint = artifacts.read_checkpoint(path, "task2_train_wo_pretrain.py")
    config = checkpoint["config"]
    form = {
        "kind": "resnet",
        "window_frames": int,
        "config": {
            "width": int,
            "keep_frequency": bool,
            "precision": str,
            "front_end": spectrogram.FRONT_END,
        },
    }
    if not artifacts.has_form(checkpoint, form) or not checkpoint["window_frames"] > 0:
        raise UserError(
            f"{path} is not of this version of task2_train_wo_pretrain.py: run that again, or name "
            "another with --checkpoint"
        )
    precision = cli.choose_precision(precision_option, device, config["precision"])
    model = ArtistResNet(
        len(checkpoint["classes"]),
        spectrogram.N_MELS,
        width=config["width"],
        keep_frequency=config["keep_frequency"],
    )
    training.load_weights(model, checkpoint, path, "task2_train_wo_pretrain.py --overwrite")
    model.to(device)
    n_frames = checkpoint["window_frames"]
    batch_size = max(1, int(BATCH_SECONDS / spectrogram.to_seconds(n_frames)))

    def score(log_mel: np.ndarray) -> np.ndarray:
        song = LogMels(log_mel, [(0, len(log_mel))])
        return spectrogram.score_windows(
            lambda x: training.predict(model, x, precision), song, n_frames, batch_size
        )[0]

    return checkpoint["classes"], score


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/resnet")
    cli.add_recipe_option(parser)
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = cli.choose_device(args.device)
    folder = artifacts.resnet_dir(args.results_dir, args.recipe)
    paths = args.checkpoint or [folder / "best.pt"]
    networks = [load_scorer(path, device, args.precision) for path in paths]
    classes = networks[0][0]
    for path, (others, _) in zip(paths, networks, strict=True):
        if others != classes:
            raise UserError(f"{path} and {paths[0]} know different artists")

    def score_song(waveform: np.ndarray) -> np.ndarray:
        log_mel = spectrogram.log_mel(waveform)
        return np.stack([score(log_mel).mean(axis=0) for _, score in networks])

    return inference.run(args, folder, paths, classes, score_song)


if __name__ == "__main__":
    cli.run(main)
