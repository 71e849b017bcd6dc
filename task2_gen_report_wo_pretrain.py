"""Task 2, model 2, stage 3: draw the ResNet's architecture, training, confusions, and all models.

Reads   RESULTS_DIR/task2/resnet/best.pt, history.csv, metrics.json, val_predictions.json; for the
        comparison also metrics.json and val_predictions.json of all other models that have been run
Writes  ASSETS_DIR/task2_architecture_diagram_resnet.png   layers, shapes, parameters
                   task2_confusion_matrix_resnet.png       who is taken for whom
                   task2_training_resnet.png               loss, accuracy, learning rate by epoch
        and of all models
                   task2_all_models_comparison.png         top-1 and top-3
                   task2_top_k.png                         top-k for k up to 10
                   task2_per_artist_f1.png                 who is known how well
                   task2_reliability.png                   how far networks can be believed
                   task2_confused_pairs.png                who is taken for whom, and which songs

With --recipe strong, the first three from RESULTS_DIR/task2/resnet_strong, to
task2_architecture_diagram_resnet_strong.png and so on. Beside each picture a .txt has its caption.
What there are no results for is named, and the exit status is 1.

    python task2_gen_report_wo_pretrain.py
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from artist20 import (
    UserError,
    architecture,
    artifacts,
    cli,
    comparison,
    comparison_report,
    figures,
    figures_network,
    network_report,
    spectrogram,
)
from artist20.figures import Drawing
from artist20.models import ArtistResNet


def diagram(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw the network."""
    metrics = artifacts.read_metrics(folder / "metrics.json", made_by)
    checkpoint = artifacts.read_checkpoint(folder / "best.pt", made_by)
    config, n_frames, name = checkpoint["config"], checkpoint["window_frames"], metrics["model"]
    if not {"width", "keep_frequency"} <= config.keys():
        raise UserError(f"{folder / 'best.pt'} is of an older version of {made_by}: run it again")
    network = ArtistResNet(
        len(checkpoint["classes"]),
        spectrogram.N_MELS,
        config["dropout"],
        width=config["width"],
        keep_frequency=config["keep_frequency"],
    )
    # On the meta device a forward pass has shapes and computes nothing.
    rows = architecture.describe(
        network.to("meta"),
        torch.zeros(1, n_frames, spectrogram.N_MELS, device="meta"),
        input_name=f"log-mel, {spectrogram.to_seconds(n_frames):.1f} s",
    )
    figure = figures_network.architecture(
        rows, title=f"{comparison.title(name, metrics)}: the residual CNN, trained from scratch"
    )
    yield (
        f"task2_architecture_diagram_{name}",
        figure,
        "The residual CNN, layer by layer, with shapes and parameters. "
        f"Made by running the network of task2/{folder.name}/best.pt.",
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    cli.add_recipe_option(parser)
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.resnet_dir(args.results_dir, args.recipe)
    made_by = "task2_train_wo_pretrain.py"
    made_by += "" if args.recipe == "deck" else f" --recipe {args.recipe}"
    parts = (diagram, network_report.confusion_matrix, network_report.training_curves)
    # All models come last, because they fail where they were not run on the same songs.
    return figures.save_all(
        [
            *(partial(part, folder, made_by) for part in parts),
            partial(comparison_report.draw, args.results_dir),
        ],
        args.assets_dir,
        args.format,
    )


if __name__ == "__main__":
    cli.run(main)
