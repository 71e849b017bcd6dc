"""Task 2, model 1, stage 3: draw the transfer model's architecture, training, confusions, map.

Reads   RESULTS_DIR/task2/panns/best.pt, history.csv, metrics.json, val_predictions.json,
        *_embeddings.npy, songs_train.json
Writes  ASSETS_DIR/task2_architecture_diagram.png     layers, shapes, parameters
                   task2_confusion_matrix_panns.png   who is taken for whom
                   task2_training_panns.png           loss, accuracy, learning rate by epoch
                   task2_map_panns.png                which songs are alike

With --recipe strong, the same from RESULTS_DIR/task2/panns_strong, to
task2_architecture_diagram_panns_strong.png and so on; with --encoder, from and to that encoder's
name; with --audio-root, from and to @<tree>. Beside each picture a .txt has its caption. What there
are no results for is named, and the exit status is 1. --song, --html and --confused make pictures
and pages of single songs instead, as task2_gen_report_wo_pretrain.py does.

    python task2_gen_report.py
    python task2_gen_report.py --song song.mp3 --html
"""

import artist20.packages  # says which are missing

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import nn

from artist20 import cli, runtime
from artist20.encoders import ENCODERS, panns
from artist20.models import EmbeddingMLP
from artist20.naming import ENCODER_TITLES, network_options, rendition_name
from artist20.report import architecture, listening, network_plots
from artist20.report.architecture import Layer
from artist20.report.network_plots import confusion_matrix, song_map, training
from artist20.report.style import Drawing, save_all
from artist20.results import TransferRecipe, network_dir


def diagram(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw the encoder and the classifier; of an encoder other than Cnn14, not what is in it."""
    metrics, model, recipe = network_plots.read_model(folder, TransferRecipe, made_by)
    names = [encoder.name for encoder in model.settings.encoders]
    title = " + ".join(ENCODER_TITLES[name] for name in names)
    size = sum(ENCODERS[name].size for name in names)
    of_panns = len(names) == 1 and names[0].startswith("panns")
    rows = cnn14(names[0], recipe) if of_panns else as_one(names, title, size)
    n, given = (2 * size, "windows' mean and deviation") if recipe.pooled else (size, "embedding")
    classifier = EmbeddingMLP(len(model.classes), recipe, n)
    rows += architecture.describe(classifier, (n,), given)
    of_figure = f"{metrics.title(metrics.model)}: frozen encoder and the classifier trained on "
    of_figure += f"{metrics.dataset.train} songs of {metrics.dataset.label}"
    suffix = "" if metrics.model == "panns" else f"_{metrics.model}"
    yield Drawing(
        f"task2_architecture_diagram{suffix}",
        network_plots.architecture(rows, title=of_figure),
        f"The frozen encoder, {title}, and the classifier trained on its embedding, layer by layer,"
        f" with shapes and parameters. Made by running the network of task2/{folder.name}/best.pt.",
    )


def cnn14(name: str, recipe: TransferRecipe) -> list[Layer]:
    """Describe Cnn14 layer by layer."""
    rate = ENCODERS[name].sample_rate
    network = panns.make_cnn14(rate)
    network.fc_audioset = nn.Identity()  # AudioSet's classes: the embedding before them is used
    seconds = recipe.crop_seconds or ENCODERS[name].window_seconds
    given = f"waveform, {seconds:g} s at {rate / 1000:g} kHz"
    n_samples = round(seconds * rate)
    return architecture.describe(network, (n_samples,), given, architecture.CNN14_FUNCTIONS)


def as_one(names: list[str], title: str, size: int) -> list[Layer]:
    """Describe encoders side by side as one row."""
    networks = [ENCODERS[name].make() for name in names]
    n_parameters = sum(each.numel() for network in networks for each in network.parameters())
    windows = " and ".join(f"{ENCODERS[name].window_seconds:g} s" for name in names)
    waveform = Layer("waveform", "input", f"windows of {windows}", ())
    return [waveform, Layer(title, "other", "pretrained", (size,), n_parameters)]


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    cli.add_song_options(parser)
    cli.add_recipe_option(parser)
    cli.add_encoder_option(parser, ENCODERS)
    cli.add_encoder_weights_option(parser)
    cli.add_audio_root_option(parser)
    return cli.with_encoder_recipe(parser.parse_args())


def main() -> int:
    """Run the stage."""
    args = parse_args()
    model, rendition = "+".join(args.encoder), rendition_name(args.audio_root)
    folder = network_dir(args.results_dir, model, args.recipe, rendition=rendition)
    made_by = f"task2_train.py{network_options(folder.name, args.audio_root)}"
    if args.song or args.confused or args.html:
        parts = listening.parts(args, folder, made_by)
    else:
        figures = (diagram, confusion_matrix, training, song_map)
        parts = [partial(figure, folder, made_by) for figure in figures]
    status = save_all(parts, args.assets_dir, args.format)
    print(cli.next_stage("-m artist20.comparison", args, "results_dir", "assets_dir"))
    return status


if __name__ == "__main__":
    runtime.run(main)
