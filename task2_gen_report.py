"""Task 2, model 1, stage 3: draw the PANNs model's architecture, training, confusions and map.

Reads   RESULTS_DIR/task2/panns/best.pt, history.csv, metrics.json, val_predictions.json,
        *_embeddings.npy, songs_train.json
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

from torch import nn

from artist20 import cli, runtime, trained
from artist20.encoders import panns
from artist20.report import architecture, network_plots
from artist20.report.style import Drawing, save_all
from artist20.results import TransferRecipe, network_dir


def diagram(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw the encoder and the classifier."""
    metrics = network_plots.read_metrics(folder, made_by)
    model, recipe = network_plots.read_model(folder, metrics, TransferRecipe, made_by)
    assert model.settings.encoder is not None  # as TrainedModel checks
    sample_rate = model.settings.encoder.sample_rate
    cnn14 = panns.make_cnn14(sample_rate)
    cnn14.fc_audioset = nn.Identity()  # AudioSet's classes: the embedding before them is used
    classifier = trained.make_classifier(len(model.classes), recipe, panns.SIZE)
    rows = architecture.describe(
        cnn14,
        (round(recipe.crop_seconds * sample_rate),),
        f"waveform, {recipe.crop_seconds:g} s at {sample_rate / 1000:g} kHz",
        architecture.CNN14_FUNCTIONS,
    ) + architecture.describe(
        classifier,
        (panns.SIZE * (2 if recipe.pooled else 1),),
        "windows' mean and deviation" if recipe.pooled else "embedding",
    )
    data = metrics.dataset
    figure = network_plots.architecture(
        rows,
        title=f"{metrics.title(metrics.model)}: frozen Cnn14 and the classifier trained on "
        f"{data.train} songs of {data.label}",
    )
    yield Drawing(
        f"task2_architecture_diagram{'' if metrics.model == 'panns' else f'_{metrics.model}'}",
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
    folder = network_dir(args.results_dir, "panns", args.recipe)
    made_by = "task2_train.py" + ("" if args.recipe == "homework" else f" --recipe {args.recipe}")
    figures = (
        diagram,
        network_plots.confusion_matrix,
        network_plots.training,
        network_plots.song_map,
    )
    parts = [partial(figure, folder, made_by) for figure in figures]
    return save_all(parts, args.assets_dir, args.format)


if __name__ == "__main__":
    runtime.run(main)
