"""Task 2, model 2, stage 2: name the artists of the test songs with the trained residual CNN.

Reads   RESULTS_DIR/task2/resnet/best.pt, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task2/resnet/test_predictions.json    {"001": [best, second, third], ...}

Windows over the whole song are averaged. A file that cannot be read is named and left out, and the
exit status is 1.

    python task2_inference_wo_pretrain.py
    python task2_inference_wo_pretrain.py --audio song.mp3 another.flac
"""

import argparse

import numpy as np

from artist20 import UserError, artifacts, cli, inference, spectrogram, training
from artist20.models import ArtistResNet
from artist20.spectrogram import LogMels

BATCH_SIZE = 16  # windows scored at a time


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/resnet")
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = cli.choose_device(args.device)
    folder = artifacts.resnet_dir(args.results_dir)
    path = args.checkpoint or folder / "best.pt"
    checkpoint = artifacts.read_checkpoint(path, "task2_train_wo_pretrain.py")
    if checkpoint["kind"] != "resnet" or checkpoint["config"]["front_end"] != spectrogram.FRONT_END:
        raise UserError(f"{path} is not of this version of task2_train_wo_pretrain.py")
    precision = cli.choose_precision(args.precision, device, checkpoint["config"]["precision"])
    model = ArtistResNet(len(checkpoint["classes"]), spectrogram.N_MELS)
    model.load_state_dict(checkpoint["model"])
    model.to(device)

    def score_song(waveform: np.ndarray) -> np.ndarray:
        log_mel = spectrogram.log_mel(waveform)
        song = LogMels(log_mel, [(0, len(log_mel))])
        scores, _ = spectrogram.score_windows(
            lambda x: training.predict(model, x, precision),
            song,
            checkpoint["window_frames"],
            BATCH_SIZE,
        )
        return scores

    return inference.run(args, folder, checkpoint["classes"], score_song)


if __name__ == "__main__":
    cli.run(main)
