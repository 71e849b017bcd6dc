"""Task 2, model 2, stage 3: draw the ResNet's architecture, training, confusions, map; all models.

Reads   RESULTS_DIR/task2/resnet/best.pt, history.csv, metrics.json, val_predictions.json,
        *_embeddings.npy; for the map also RESULTS_DIR/task1/X_*.npy, if they are of the same songs;
        for the comparison metrics.json and val_predictions.json of all other models
Writes  ASSETS_DIR/task2_architecture_diagram_resnet.png   layers, shapes, parameters
                   task2_confusion_matrix_resnet.png       who is taken for whom
                   task2_training_resnet.png               loss, accuracy, learning rate by epoch
                   task2_map_resnet.png                    which songs are alike
        and of all models
                   task2_all_models_comparison.png         top-1 and top-3
                   task2_top_k.png                         top-k for k up to 10
                   task2_per_artist_f1.png                 who is known how well
                   task2_reliability.png                   how far networks can be believed
                   task2_confused_pairs.png                who is taken for whom, and which songs

With --recipe strong, the first four from RESULTS_DIR/task2/resnet_strong, to
task2_architecture_diagram_resnet_strong.png and so on. Beside each picture a .txt has its caption.
What there are no results for is named, and the exit status is 1.

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
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from artist20 import (
    UserError,
    architecture,
    audio,
    cli,
    comparison,
    comparison_report,
    dataset,
    figures,
    figures_network,
    map_report,
    network_report,
    resnet,
    results,
    runtime,
    song_report,
    spectrogram,
)
from artist20.figures import Drawing


def diagram(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw the network."""
    metrics = results.read_metrics(folder / "metrics.json", made_by)
    checkpoint = results.read_checkpoint(folder / "best.pt", made_by)
    if not resnet.is_possible(checkpoint):
        raise UserError(f"{folder / 'best.pt'} is no checkpoint of {made_by}: run it again")
    results.check_same_run(folder, checkpoint, metrics, made_by)
    config, n_frames, name = checkpoint["config"], checkpoint["window_frames"], metrics["model"]
    network = resnet.make_network(checkpoint)
    # On the meta device a forward pass has shapes and computes nothing.
    rows = architecture.describe(
        network.to("meta"),
        torch.zeros(1, n_frames, config["n_mels"], device="meta"),
        input_name=f"log-mel, {spectrogram.to_seconds(n_frames):.1f} s",
    )
    figure = figures_network.architecture(
        rows,
        title=f"{comparison.title(name, metrics)}: the residual CNN, trained from scratch on "
        f"{metrics['dataset']['train']} songs of {dataset.label(metrics['dataset'])}",
    )
    yield (
        f"task2_architecture_diagram_{name}",
        figure,
        "The residual CNN, layer by layer, with shapes and parameters. "
        + ("The probabilities of both its answers are averaged. " if config["statistics"] else "")
        + f"Made by running the network of task2/{folder.name}/best.pt.",
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


def draw_songs(args: argparse.Namespace) -> int:
    """Draw where in songs which artist is heard; return the exit status.

    Those that cannot be read are named at the end.
    """
    folder = results.resnet_dir(args.results_dir, args.recipe)
    network = resnet.load(folder / "best.pt", runtime.choose_device("auto"), "auto")
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
    figures.tell_missing_glyphs()
    if len(problems) == len(files):
        raise UserError("; ".join(problems))
    for problem in problems:
        print(f"left out: {problem}")
    return 1 if problems else 0


def main() -> int:
    """Run the stage."""
    args = parse_args()
    if args.song:
        return draw_songs(args)
    folder = results.resnet_dir(args.results_dir, args.recipe)
    made_by = "task2_train_wo_pretrain.py"
    made_by += "" if args.recipe == "homework" else f" --recipe {args.recipe}"
    parts = (
        diagram,
        network_report.confusion_matrix,
        network_report.training_curves,
        partial(map_report.of_network, args.results_dir),
    )
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
    runtime.run(main)
