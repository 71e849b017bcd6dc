"""Task 2, model 2, stage 3: draw the ResNet's architecture, training, confusions, map; all models.

Reads   RESULTS_DIR/task2/resnet/best.pt, history.csv, metrics.json, val_predictions.json,
        *_embeddings.npy, songs_train.json;
        for the comparison metrics.json and val_predictions.json of all other models
Writes  ASSETS_DIR/task2_architecture_diagram_resnet.png   layers, shapes, parameters
                   task2_confusion_matrix_resnet.png       who is taken for whom
                   task2_training_resnet.png               loss, accuracy, learning rate by epoch
                   task2_map_resnet.png                    which songs are alike
        and of all models
                   task2_all_models_comparison.png         top-1 and top-3
                   task2_top_k.png                         top-k for k up to 10
                   task2_per_artist_f1.png                 who is known how well
                   task2_reliability.png                   reliability diagrams of the networks
                   task2_confused_pairs.png                who is taken for whom, and which songs

With --recipe strong, the first four from RESULTS_DIR/task2/resnet_strong, to
task2_architecture_diagram_resnet_strong.png and so on; with --audio-root, from and to @<tree>.
Beside each picture a .txt has its caption. What there are no results for is named, and the exit
status is 1.

With --song, in place of all these ASSETS_DIR/task2_song_<name>.png, which shows where in any audio
file which artist is heard: its spectrogram, and below it the probability of the true artist, known
from the folders artist/album/ above the file, and of the three likeliest others; best.pt is all
that it needs. With --html, in place of the picture a page to listen on, task2_song_<name>.html, one
file that can be sent by mail. With --confused, task2_confused_songs_resnet.html: the same of the
validation songs with the highest probability of a wrong artist, each beside that artist's most
similar training song.

    python task2_gen_report_wo_pretrain.py
    python task2_gen_report_wo_pretrain.py --song song.mp3 queen/Jazz/01-Mustapha.mp3
    python task2_gen_report_wo_pretrain.py --recipe strong --song song.mp3 --html
    python task2_gen_report_wo_pretrain.py --confused --data-dir data/artist20

Windows are as long as those of the training, but a sixth of the song at most, and each begins a
quarter of its length after the one before. Of files of one name, the later ones' pictures are
numbered.
"""

import artist20.packages  # says which are missing

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from artist20 import cli, evaluation, runtime, spectrogram
from artist20.models import ArtistResNet
from artist20.naming import network_options, rendition_name
from artist20.report import architecture, compare, listening, network_plots, plots
from artist20.report.network_plots import confusion_matrix, song_map, training
from artist20.report.style import Drawing, save_all
from artist20.results import NetworkMetrics, ResNetRecipe, network_dir
from artist20.spectrogram import FrontEnd


def diagram(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw the network."""
    metrics, model, recipe = network_plots.read_model(folder, ResNetRecipe, made_by)
    n_frames = model.window_frames
    assert n_frames is not None  # as TrainedModel checks
    pooled = "mean and max over time" if recipe.keep_frequency else "global mean and max"
    rows = architecture.describe(
        ArtistResNet(len(model.classes), recipe),
        (n_frames, FrontEnd.of(recipe).n_columns),
        f"log-mel, {spectrogram.to_seconds(n_frames):.1f} s",
        {"pooling": f"{pooled}, concatenated"},
    )
    of_convolutions = (1 - recipe.lda_share) * (1 - recipe.long_lda_share)
    share = f"Of its answer {1 - of_convolutions:.0%} is LDA's of the statistics, the rest the "
    of_lda = f"{share}convolutions'. " if of_convolutions < 1 else ""
    title = f"{metrics.title(metrics.model)}: the residual CNN, trained from scratch on "
    title += f"{metrics.dataset.train} songs of {metrics.dataset.label}"
    yield Drawing(
        f"task2_architecture_diagram_{metrics.model}",
        network_plots.architecture(rows, title=title),
        "The residual CNN, layer by layer, with shapes and parameters. "
        f"{of_lda}Made by running the network of task2/{folder.name}/best.pt.",
    )


def all_models(results_dir: Path) -> Iterator[Drawing]:
    """Draw what all models that have been run reached, on one data set."""
    models = list(compare.by_kind(compare.collect(results_dir)).values())
    predictions, data = models[0].val, models[0].metrics.dataset
    labels, classes = predictions.labels, predictions.classes
    songs = f"{len(labels)} validation songs of {data.label}"
    scores = {model.title: model.scores for model in models}
    made = "Made from every model's val_predictions.json and metrics.json."
    note = flattered = ""
    if selected := [model for model in models if model.selected]:
        last = {model.title: evaluation.accuracy(model.unchosen(), labels) for model in selected}
        reached = ", ".join(f"{name} {at.top1:.1%} / {at.top3:.1%}" for name, at in last.items())
        note = f"Some networks' epochs are chosen on these songs. At the last epoch: {reached}."
        names = " and ".join(last)
        flattered = f" Epochs of {names} are chosen on these songs, which flatters them."

    yield Drawing(
        "task2_all_models_comparison",
        plots.model_comparison(
            {model.title: model.figures for model in models},
            n_songs=len(labels),
            n_classes=len(classes),
            title=f"All models on {songs}",
            kinds=[compare.kind_of(model) for model in models],
            note=note,
        ),
        "Top-1 and top-3 accuracy of all models on the validation songs, with 95 % intervals by "
        f"bootstrap over albums.{flattered} {made}",
    )
    yield Drawing(
        "task2_top_k",
        plots.top_k(scores, labels, title=f"How many guesses it takes: all models on {songs}"),
        "Share of the validation songs whose artist is among a model's k best guesses, for each k."
        f"{flattered} {made}",
    )
    title = f"F1 of each artist, all models on {songs}"
    yield Drawing(
        "task2_per_artist_f1",
        plots.f1_by_artist(scores, labels, classes, title=title),
        "F1, the harmonic mean of precision and recall, of each artist (rows; songs in brackets) "
        f"by each model (columns), the best known artists at the top.{flattered} {made}",
    )
    networks = {m.title: m.scores for m in models if isinstance(m.metrics, NetworkMetrics)}
    if networks and len(labels) >= plots.FEWEST_FOR_RELIABILITY:
        title = f"Reliability of the networks' probabilities, {songs}"
        yield Drawing(
            "task2_reliability",
            plots.reliability(networks, labels, title=title),
            "How often each network's best guess is right, against the probability it gives; on "
            "the dashed line they agree, a dot's area is its share of the songs, and the error is "
            f"the expected calibration error.{flattered} {made}",
        )
    title = f"Who is taken for whom most often: best guesses of {len(models)} "
    title += f"{'models' if len(models) > 1 else 'model'}, one for each of {songs}"
    yield Drawing(
        "task2_confused_pairs",
        plots.confused_pairs(scores, predictions, title=title),
        f"The most frequent confusions among the best guesses of {', '.join(scores)}, with the "
        f"songs that are confused.{flattered} {made}",
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    cli.add_song_options(parser)
    cli.add_recipe_option(parser)
    cli.add_audio_root_option(parser)
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    rendition = rendition_name(args.audio_root)
    folder = network_dir(args.results_dir, "resnet", args.recipe, rendition=rendition)
    made_by = f"task2_train_wo_pretrain.py{network_options(folder.name, args.audio_root)}"
    if args.song or args.confused or args.html:
        parts = listening.parts(args, folder, made_by)
    else:
        figures = (diagram, confusion_matrix, training, song_map)
        parts = [partial(figure, folder, made_by) for figure in figures]
        # All models come last, because they fail where they were not run on the same songs.
        parts.append(partial(all_models, args.results_dir))
    status = save_all(parts, args.assets_dir, args.format)
    if not args.song:
        print(cli.next_stage("-m artist20.comparison", args, "results_dir", "assets_dir"))
    return status


if __name__ == "__main__":
    runtime.run(main)
