"""Task 2, model 1, stage 3: draw the PANNs model's architecture, training, confusions and map.

Reads   RESULTS_DIR/task2/panns/best.pt, history.csv, metrics.json, val_predictions.json,
        *_embeddings.npy; for the map also RESULTS_DIR/task1/X_*.npy, if they are of the same songs
Writes  ASSETS_DIR/task2_architecture_diagram.png     layers, shapes, parameters
                   task2_confusion_matrix_panns.png   who is taken for whom
                   task2_training_panns.png           loss, accuracy, learning rate by epoch
                   task2_map_panns.png                which songs are alike

With --recipe strong, the same from RESULTS_DIR/task2/panns_strong, to
task2_architecture_diagram_panns_strong.png and so on. Beside each picture a .txt has its caption.
What there are no results for is named, and the exit status is 1.

    python task2_gen_report.py
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from artist20 import (
    UserError,
    architecture,
    cli,
    comparison,
    dataset,
    figures,
    figures_network,
    map_report,
    network_report,
    panns,
    results,
    runtime,
)
from artist20.figures import Drawing
from artist20.models import EmbeddingMLP


def diagram(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw the backbone and the classifier."""
    metrics = results.read_metrics(folder / "metrics.json", made_by)
    checkpoint = results.read_checkpoint(folder / "best.pt", made_by)
    form = {
        "kind": "panns",
        "config": {
            "crop_seconds": float,
            "sample_rate": (16_000, 32_000),
            "dropout": float,
            "hidden": [int],
            "pooled": bool,
        },
    }
    if not results.has_form(checkpoint, form):
        raise UserError(f"{folder / 'best.pt'} is no checkpoint of {made_by}: run it again")
    results.check_same_run(folder, checkpoint, metrics, made_by)
    config, name = checkpoint["config"], metrics["model"]
    # On the meta device a forward pass has shapes and computes nothing.
    seconds, sample_rate = config["crop_seconds"], config["sample_rate"]
    network = panns.empty_cnn14(sample_rate).to("meta")
    rows = architecture.describe(
        network,
        torch.zeros(1, round(seconds * sample_rate), device="meta"),
        input_name=f"waveform, {seconds:g} s at {sample_rate / 1000:g} kHz",
        unused=("fc_audioset",),
    )
    n_inputs = len(checkpoint["model"]["standardize.mean"])
    n_classes = len(checkpoint["classes"])
    classifier = EmbeddingMLP(n_classes, config["dropout"], n_inputs, config["hidden"])
    rows += architecture.describe(
        classifier.to("meta"),
        torch.zeros(1, n_inputs, device="meta"),
        input_name="windows' mean and deviation" if config["pooled"] else "embedding",
    )
    figure = figures_network.architecture(
        rows,
        title=f"{comparison.title(name, metrics)}: frozen Cnn14 and the classifier trained on "
        f"{metrics['dataset']['train']} songs of {dataset.label(metrics['dataset'])}",
    )
    yield (
        f"task2_architecture_diagram{'' if name == 'panns' else f'_{name}'}",
        figure,
        "The frozen Cnn14 and the classifier trained on its embedding, layer by layer, with "
        f"shapes and parameters. Made by running the network of task2/{folder.name}/best.pt.",
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
    folder = results.panns_dir(args.results_dir, args.recipe)
    made_by = "task2_train.py" + ("" if args.recipe == "homework" else f" --recipe {args.recipe}")
    parts = (
        diagram,
        network_report.confusion_matrix,
        network_report.training_curves,
        partial(map_report.of_network, args.results_dir),
    )
    return figures.save_all(
        [partial(part, folder, made_by) for part in parts], args.assets_dir, args.format
    )


if __name__ == "__main__":
    runtime.run(main)
