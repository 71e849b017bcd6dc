"""Task 2, model 1, stage 2: name the artists of the test songs with PANNs and the classifier.

Reads   RESULTS_DIR/task2/panns/best.pt, the Cnn14 weights, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task2/panns/test_predictions.json    {"001": [best, second, third], ...}

Windows over the whole song are averaged. A file that cannot be read is named and left out, and the
exit status is 1.

    python task2_inference.py
    python task2_inference.py --audio song.mp3 another.flac
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artist20 import UserError, artifacts, cli, fetch, inference, panns, training
from artist20.models import EmbeddingMLP
from artist20.panns import Backbone


def load_backbone(
    config: dict[str, Any], weights: str | None, device: torch.device, precision: torch.dtype
) -> Backbone:
    """Load the backbone that a checkpoint's classifier was trained on.

    Raises
    ------
    UserError
        If the weights are missing or others.
    """
    if config["backbone_weights"].startswith(panns.UNTRAINED):
        if weights is not None:
            raise UserError(
                "the checkpoint is of an untrained backbone: leave --backbone-weights out"
            )
        weights = panns.UNTRAINED
    else:
        file = {16_000: fetch.CNN14_16K, 32_000: fetch.CNN14_32K}[config["sample_rate"]]
        weights = weights or str(Path("data/panns") / file.name)
        if not Path(weights).is_file():
            option = "--weights" if file is fetch.CNN14_16K else "--weights --weights-32k"
            raise UserError(
                f"{weights} is missing: 'bash get_dataset.sh {option}' fetches it, or "
                "--backbone-weights says where it is"
            )
    backbone = panns.load_backbone(weights, config["seed"], device, precision)
    if backbone.weights != config["backbone_weights"]:
        raise UserError(
            f"{weights} are not the weights that the checkpoint was trained on "
            f"({config['backbone_weights']}): name those with --backbone-weights"
        )
    return backbone


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/panns")
    parser.add_argument(
        "--backbone-weights",
        metavar="PATH",
        help="Cnn14's published weights (default: those in data/panns that the checkpoint needs)",
    )
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = cli.choose_device(args.device)
    folder = artifacts.panns_dir(args.results_dir)
    path = args.checkpoint or folder / "best.pt"
    checkpoint = artifacts.read_checkpoint(path, "task2_train.py")
    if checkpoint["kind"] != "panns":
        raise UserError(f"{path} is not of task2_train.py")
    config = checkpoint["config"]
    precision = cli.choose_precision(args.precision, device, config["precision"])
    backbone = load_backbone(config, args.backbone_weights, device, precision)
    model = EmbeddingMLP(len(checkpoint["classes"]))
    model.load_state_dict(checkpoint["model"])
    model.to(device)
    n_samples = round(config["crop_seconds"] * backbone.sample_rate)

    def score_song(waveform: np.ndarray) -> np.ndarray:
        on_device = torch.from_numpy(waveform).to(device)
        windows = panns.cut_windows(on_device, n_samples, config["windows"])
        embeddings = torch.from_numpy(panns.embed(backbone, windows))
        return training.predict(model, embeddings, precision)

    return inference.run(
        args, folder, checkpoint["classes"], score_song, sample_rate=backbone.sample_rate
    )


if __name__ == "__main__":
    cli.run(main)
