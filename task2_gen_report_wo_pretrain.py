"""Task 2, model 2, stage 3: draw the ResNet's architecture, confusion matrix, map, and all models.

Reads   RESULTS_DIR/task2/resnet/best.pt, metrics.json, val_predictions.json, *_embeddings.npy; for
        the map also RESULTS_DIR/task1/X_*.npy, if they are of the same songs; for the comparison
        metrics.json and val_predictions.json of all other models that have been run
Writes  ASSETS_DIR/task2_architecture_diagram_resnet.png, task2_confusion_matrix_resnet.png,
        task2_map_resnet.png, and task2_map_resnet_strong.png if that recipe has been run,
        task2_all_models_comparison.png

    python task2_gen_report_wo_pretrain.py

With --song, in place of all these ASSETS_DIR/task2_song_<name>.png, which shows where in a song
which artist is heard: its spectrogram, and below it the probability of the true artist, known from
the folders artist/album/ above the file, and of the three likeliest others. Any audio file will do;
best.pt is all that is needed beside it. This is the only part of a report script that runs a model.

    python task2_gen_report_wo_pretrain.py --song song.mp3 queen/Jazz/01-Mustapha.mp3
    python task2_gen_report_wo_pretrain.py --recipe strong --song song.mp3

Windows are as long as those of the training, but a sixth of the song at most, and each begins a
quarter of its length after the one before: a song of 30 s has 21 of 5 s also where training was
on 150 s. The probabilities of the song as a whole are task2_inference_wo_pretrain.py's. Of files of
one name, the later ones' pictures are numbered.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from artist20 import (
    UserError,
    architecture,
    artifacts,
    audio,
    cli,
    comparison,
    dataset,
    evaluation,
    figures,
    map_report,
    resnet,
    song_report,
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
    parser.add_argument(
        "--song",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="draw where in these audio files which artist is heard, instead of all else",
    )
    cli.add_recipe_option(parser)
    return parser.parse_args()


def draw_songs(args: argparse.Namespace) -> None:
    """Draw where in songs which artist is heard; those that cannot be read are named at the end."""
    folder = artifacts.resnet_dir(args.results_dir, args.recipe)
    network = resnet.load(folder / "best.pt", cli.choose_device("auto"), "auto")
    files = list(dict.fromkeys(path.resolve() for path in args.song))
    problems = []
    for file, name in zip(files, song_report.picture_names(files), strict=True):
        try:
            figure, caption = song_report.draw(file, network, folder)
        except audio.AudioError as error:
            problems.append(str(error))
            continue
        path = args.assets_dir / f"{name}.{args.format}"
        figures.save(figure, path, caption)
        print(f"wrote {path}")
    if problems:
        raise UserError("; ".join(problems))


def main() -> None:
    """Run the stage."""
    args = parse_args()
    if args.song:
        draw_songs(args)
        return
    if args.recipe != "deck":
        raise UserError("--recipe chooses the network for --song; maps are drawn of every recipe")
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
    stage = folder.relative_to(args.results_dir)
    for name, figure, caption in (
        (
            "task2_architecture_diagram_resnet",
            diagram,
            "The residual CNN, layer by layer, with shapes and parameters. "
            f"Made by running the network of {stage}/best.pt.",
        ),
        (
            "task2_confusion_matrix_resnet",
            matrix,
            "Who is taken for whom by the ResNet: songs by true artist (rows) and best guess "
            f"(columns). Made from {stage}/metrics.json and val_predictions.json.",
        ),
    ):
        path = args.assets_dir / f"{name}.{args.format}"
        figures.save(figure, path, caption)
        print(f"wrote {path}")
    for name, figure, caption in map_report.of_networks(args.results_dir, "resnet", made_by):
        path = args.assets_dir / f"{name}.{args.format}"
        figures.save(figure, path, caption)
        print(f"wrote {path}")
    # Last, because it fails where the other models were run on other songs.
    path = args.assets_dir / f"task2_all_models_comparison.{args.format}"
    figures.save(
        compare(comparison.collect(args.results_dir)),
        path,
        "Top-1 and top-3 accuracy of all models on the validation songs, with 95 % intervals by "
        "bootstrap over albums. Made from every model's metrics.json and val_predictions.json.",
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
