"""Task 2, model 1, stage 3: draw the PANNs model's architecture, its confusion matrix, its map.

Reads   RESULTS_DIR/task2/panns/best.pt, metrics.json, val_predictions.json, *_embeddings.npy; for
        the map also RESULTS_DIR/task1/X_*.npy, if they are of the same songs
Writes  ASSETS_DIR/task2_architecture_diagram.png, task2_confusion_matrix_panns.png,
        task2_map_panns.png, and task2_map_panns_strong.png if that recipe has been run

    python task2_gen_report.py
"""

import argparse

import torch

from artist20 import (
    UserError,
    architecture,
    artifacts,
    cli,
    dataset,
    evaluation,
    figures,
    map_report,
    panns,
)
from artist20.models import EmbeddingMLP


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.panns_dir(args.results_dir)
    metrics = artifacts.read_metrics(folder / "metrics.json", "task2_train.py")
    predictions = artifacts.read_predictions(folder / "val_predictions.json", "task2_train.py")
    config = artifacts.read_checkpoint(folder / "best.pt", "task2_train.py")["config"]
    if not artifacts.has_form(config, {"crop_seconds": float, "sample_rate": (16_000, 32_000)}):
        raise UserError(f"{folder / 'best.pt'} is no checkpoint of task2_train.py: run it again")
    if "panns" not in predictions.scores:
        raise UserError(f"{folder / 'val_predictions.json'} has no scores of panns: run it again")
    backbone = "" if metrics["pretrained"] else ", UNTRAINED backbone"

    # On the meta device a forward pass has shapes and computes nothing.
    seconds, sample_rate = config["crop_seconds"], config["sample_rate"]
    network = panns.empty_cnn14(sample_rate).to("meta")
    rows = architecture.describe(
        network,
        torch.zeros(1, round(seconds * sample_rate), device="meta"),
        input_name=f"waveform, {seconds:g} s at {sample_rate / 1000:g} kHz",
        unused=("fc_audioset",),
    )
    rows += architecture.describe(
        EmbeddingMLP(len(predictions.classes)).to("meta"),
        torch.zeros(1, panns.EMBEDDING_SIZE, device="meta"),
        input_name="embedding",
    )
    diagram = figures.architecture(
        rows, title=f"Frozen Cnn14 (PANNs) and the classifier trained on it{backbone}"
    )
    matrix = figures.confusion_matrix(
        evaluation.confusion_matrix(predictions.scores["panns"], predictions.labels),
        predictions.classes,
        title=f"PANNs + MLP{backbone} on {len(predictions.songs)} validation songs of "
        f"{dataset.label(metrics['dataset'])}: top-1 {metrics['top1']:.1%} "
        "(epoch chosen on these songs)",
    )
    stage = folder.relative_to(args.results_dir)
    for name, figure, caption in (
        (
            "task2_architecture_diagram",
            diagram,
            "The frozen Cnn14 and the classifier trained on its embedding, layer by layer, with "
            f"shapes and parameters. Made by running the network of {stage}/best.pt.",
        ),
        (
            "task2_confusion_matrix_panns",
            matrix,
            "Who is taken for whom by PANNs: songs by true artist (rows) and best guess (columns). "
            f"Made from {stage}/metrics.json and val_predictions.json.",
        ),
    ):
        path = args.assets_dir / f"{name}.{args.format}"
        figures.save(figure, path, caption)
        print(f"wrote {path}")
    for name, figure, caption in map_report.of_networks(
        args.results_dir, "panns", "task2_train.py"
    ):
        path = args.assets_dir / f"{name}.{args.format}"
        figures.save(figure, path, caption)
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
