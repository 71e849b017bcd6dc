"""Task 2, model 2, stage 3: draw the ResNet's architecture, its confusion matrix, and all models.

Reads   RESULTS_DIR/task2/resnet/best.pt, metrics.json, val_predictions.json; for the comparison
        also metrics.json and val_predictions.json of all other models that have been run
Writes  ASSETS_DIR/task2_architecture_diagram_resnet.png, task2_confusion_matrix_resnet.png,
        task2_all_models_comparison.png

    python task2_gen_report_wo_pretrain.py
"""

import argparse
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from artist20 import (
    UserError,
    architecture,
    artifacts,
    cli,
    comparison,
    dataset,
    evaluation,
    figures,
    spectrogram,
)
from artist20.models import ArtistResNet


def compare(models: dict[str, dict[str, Any]]) -> Figure:
    """Draw all models side by side."""
    data = models["resnet"]["dataset"]
    last = ", ".join(
        f"{row['title']} {row['last']['top1']:.1%} / {row['last']['top3']:.1%}"
        for row in models.values()
        if comparison.is_chosen(row)
    )
    return figures.model_comparison(
        [row["title"] for row in models.values()],
        [row["top1"] for row in models.values()],
        [row["top3"] for row in models.values()],
        title=f"All models on {dataset.label(data)}"
        + (
            ""
            if models.get("panns", {}).get("pretrained", True)
            else ", PANNs with an untrained backbone"
        ),
        n_songs=data["val"],
        n_classes=data["artists"],
        note="Whiskers: 95 % intervals, by bootstrap over albums. Some networks' epochs are chosen "
        f"on these songs. Last epoch, top-1 / top-3: {last}.",
        top1_interval=np.array([row["top1_interval"] for row in models.values()]),
        top3_interval=np.array([row["top3_interval"] for row in models.values()]),
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.resnet_dir(args.results_dir)
    made_by = "task2_train_wo_pretrain.py"
    metrics = artifacts.read_metrics(folder / "metrics.json", made_by)
    predictions = artifacts.read_predictions(folder / "val_predictions.json", made_by)
    checkpoint = artifacts.read_checkpoint(folder / "best.pt", made_by)
    if not artifacts.has_form(checkpoint, {"kind": "resnet", "window_frames": int}):
        raise UserError(f"{folder / 'best.pt'} is no checkpoint of {made_by}: run it again")
    if "resnet" not in predictions.scores:
        raise UserError(f"{folder / 'val_predictions.json'} has no scores of resnet: run it again")
    n_frames = checkpoint["window_frames"]
    data = metrics["dataset"]

    # On the meta device a forward pass has shapes and computes nothing.
    rows = architecture.describe(
        ArtistResNet(len(predictions.classes), spectrogram.N_MELS).to("meta"),
        torch.zeros(1, n_frames, spectrogram.N_MELS, device="meta"),
        input_name=f"log-mel, {spectrogram.to_seconds(n_frames):.1f} s",
    )
    diagram = figures.architecture(rows, title="The residual CNN, trained from scratch")
    matrix = figures.confusion_matrix(
        evaluation.confusion_matrix(predictions.scores["resnet"], predictions.labels),
        predictions.classes,
        title=f"ResNet on {len(predictions.songs)} validation songs of {dataset.label(data)}: "
        f"top-1 {metrics['top1']:.1%} (epoch chosen on these songs)",
    )
    for figure, name in (
        (diagram, "task2_architecture_diagram_resnet.png"),
        (matrix, "task2_confusion_matrix_resnet.png"),
    ):
        figures.save(figure, args.assets_dir / name)
        print(f"wrote {args.assets_dir / name}")
    # Last, because it fails where the other models were run on other songs.
    path = args.assets_dir / "task2_all_models_comparison.png"
    figures.save(compare(comparison.collect(args.results_dir)), path)
    print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
