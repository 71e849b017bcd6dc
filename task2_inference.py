"""Task 2, model 1, stage 2: name the artists of the test songs with PANNs and the classifier.

Reads   RESULTS_DIR/task2/panns/best.pt, the Cnn14 weights, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task2/panns/test_predictions.json    {"001": [best, second, third], ...}
                                test_scores.json         all scores

Windows over the whole song are averaged, and so are several classifiers. A file that cannot be read
is named, the artists with the most training songs are its prediction, and the exit status is 1.
With --limit N all goes to test_predictions_first_N.json. With --recipe strong, all is in
RESULTS_DIR/task2/panns_strong.

    python task2_inference.py
    python task2_inference.py --audio song.mp3 ALBUM_FOLDER --output artists.csv
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from artist20 import UserError, audio, cli, fetch, inference, results, runtime, trained
from artist20.encoders import panns
from artist20.encoders.base import UNTRAINED, Encoder
from artist20.encoders.embeddings import cut_windows
from artist20.results import EncoderSettings, TransferRecipe


def load_encoder(
    wanted: EncoderSettings,
    seed: int,
    weights: str | None,
    device: torch.device,
    precision: torch.dtype,
) -> Encoder:
    """Load the encoder that a checkpoint's classifier was trained on.

    Raises
    ------
    UserError
        If the weights are missing or others.
    """
    if not wanted.pretrained:
        if weights is not None:
            raise UserError(
                "the checkpoint is of an untrained encoder: leave --encoder-weights out"
            )
        weights = UNTRAINED
    else:
        file = {16_000: fetch.CNN14_16K, 32_000: fetch.CNN14_32K}[wanted.sample_rate]
        weights = weights or f"data/weights/{file.name}"
        if not Path(weights).is_file():
            option = "--weights" if file is fetch.CNN14_16K else "--weights --weights-32k"
            # Not in the checkpoint: with it every epoch would write hundreds of MB, twice.
            raise UserError(
                f"{weights} is missing, the published network that the checkpoint's classifier "
                f"needs: 'bash get_dataset.sh {option}' fetches it; without a network, put "
                f"{file.url} ({file.size / 1e6:.0f} MB, SHA-256 {file.sha256}) there by hand, or "
                "say with --encoder-weights where it is"
            )
    encoder = panns.load(weights, seed, device, precision)
    if encoder.settings != wanted:
        raise UserError(
            f"{weights} are not the weights that the checkpoint was trained on "
            f"({wanted.weights}): name those with --encoder-weights"
        )
    return encoder


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/panns")
    cli.add_recipe_option(parser)
    parser.add_argument(
        "--encoder-weights",
        metavar="PATH",
        help="Cnn14's published weights (default: those in data/weights that the checkpoint needs)",
    )
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = runtime.choose_device(args.device)
    folder = results.network_dir(args.results_dir, "panns", args.recipe)
    checkpoints = inference.read_checkpoints(args, folder, TransferRecipe)
    inference.check_alike(checkpoints, "encoder", "precision")
    inference.check_alike(checkpoints, "recipe.crop_seconds", "recipe.windows")
    first = next(iter(checkpoints.values())).settings
    precision = runtime.choose_precision(args.precision, device, first.precision)
    encoder = load_encoder(first.encoder, first.seed, args.encoder_weights, device, precision)
    classifiers = [
        trained.load_classifier(path, checkpoint, encoder.size, device, precision)
        for path, checkpoint in checkpoints.items()
    ]
    rate, windows = encoder.settings.sample_rate, first.recipe.windows
    n_samples = round(first.recipe.crop_seconds * rate)

    def score_song(waveform: audio.Waveform) -> np.ndarray:
        rows = encoder.embed(cut_windows(waveform, n_samples, windows, device))
        return np.stack([classifier.score(rows).mean(axis=0) for classifier in classifiers])

    read_song = partial(audio.open_song, sample_rate=rate)
    return inference.run(args, folder, checkpoints, score_song, read_song)


if __name__ == "__main__":
    runtime.run(main)
