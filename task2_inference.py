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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artist20 import UserError, audio, cli, fetch, inference, panns, results, runtime, training
from artist20.models import EmbeddingMLP
from artist20.panns import Backbone, Embeddings

CHECKPOINT_FORM = {
    "kind": "panns",
    "config": {
        "backbone_weights": str,
        "sample_rate": (16_000, 32_000),
        "crop_seconds": float,
        "windows": (int, type(None)),
        "precision": str,
        "seed": int,
        "hidden": [int],
        "pooled": bool,
    },
    "model": dict,
}


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
            # Not in the checkpoint: with it every epoch would write hundreds of MB, twice.
            raise UserError(
                f"{weights} is missing, the published network that the checkpoint's classifier "
                f"needs: 'bash get_dataset.sh {option}' fetches it; without a network, put "
                f"{file.url} ({file.size / 1e6:.0f} MB, SHA-256 {file.sha256}) there by hand, or "
                "say with --backbone-weights where it is"
            )
    backbone = panns.load_backbone(weights, config["seed"], device, precision)
    if backbone.weights != config["backbone_weights"]:
        raise UserError(
            f"{weights} are not the weights that the checkpoint was trained on "
            f"({config['backbone_weights']}): name those with --backbone-weights"
        )
    return backbone


def load_scorer(
    path: Path, checkpoint: dict[str, Any], device: torch.device, precision: torch.dtype
) -> Callable[[Embeddings], np.ndarray]:
    """Rebuild a classifier; what comes back scores a song's windows: (n_rows, n_classes)."""
    config = checkpoint["config"]
    n_inputs = panns.EMBEDDING_SIZE * (2 if config["pooled"] else 1)
    model = EmbeddingMLP(len(checkpoint["classes"]), 0.0, n_inputs, config["hidden"])
    training.load_weights(model, checkpoint, path, "task2_train.py --overwrite")
    model.to(device)

    def score(windows: Embeddings) -> np.ndarray:
        rows = windows.pooled().rows if config["pooled"] else windows.rows
        return training.predict(model, torch.from_numpy(rows), precision)

    return score


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/panns")
    cli.add_recipe_option(parser)
    parser.add_argument(
        "--backbone-weights",
        metavar="PATH",
        help="Cnn14's published weights (default: those in data/panns that the checkpoint needs)",
    )
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = runtime.choose_device(args.device)
    folder = results.panns_dir(args.results_dir, args.recipe)
    is_possible = partial(results.has_form, form=CHECKPOINT_FORM)
    checkpoints = inference.read_checkpoints(args, folder, "panns", is_possible)
    first, config = next((path, of_first["config"]) for path, of_first in checkpoints.items())
    for path, checkpoint in checkpoints.items():
        for shared in ("backbone_weights", "crop_seconds", "windows", "precision"):
            if checkpoint["config"][shared] != config[shared]:
                raise UserError(f"{path} and {first} differ in {shared}")
    precision = runtime.choose_precision(args.precision, device, config["precision"])
    backbone = load_backbone(config, args.backbone_weights, device, precision)
    scorers = [
        load_scorer(path, checkpoint, device, precision) for path, checkpoint in checkpoints.items()
    ]
    n_samples = round(config["crop_seconds"] * backbone.sample_rate)

    def score_song(waveform: audio.Waveform) -> np.ndarray:
        cut = panns.cut_windows(waveform, n_samples, config["windows"], device)
        rows = panns.embed(backbone, cut)
        windows = Embeddings(rows, np.zeros(len(rows), dtype=int))
        return np.stack([score(windows).mean(axis=0) for score in scorers])

    read_song = partial(audio.open_song, sample_rate=backbone.sample_rate)
    return inference.run(args, folder, checkpoints, score_song, read_song)


if __name__ == "__main__":
    runtime.run(main)
