"""Task 1, stage 3: draw how the models compare, and what they hear.

Reads   RESULTS_DIR/task1/metrics.json, val_predictions.json, ablation.json, X_*.npy, songs_*.json
Writes  ASSETS_DIR/task1_model_comparison.png       top-1 and top-3
                   task1_confusion_matrix_svm.png   who is taken for whom
                   task1_reliability.png            reliability diagrams
                   task1_album_effect.png           what an album gives away
                   task1_ablation.png               what families of features are worth
                   task1_map.png                    which songs' features are alike

With --level segment or --search wide, the same from RESULTS_DIR/task1/segment, task1/wide or
task1/wide/segment, to task1_segment_*.png and so on; the confusion matrix is that of the model that
was best in cross-validation, and there is no map. With --audio-root, from RESULTS_DIR/task1@<tree>,
to task1_*@<tree>.png. Beside each picture a .txt has its caption. What there are no results for is
named, and the exit status is 1.

    python task1_gen_report.py
"""

import artist20.packages  # says which are missing

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from artist20 import UserError, cli, evaluation, finished, runtime
from artist20.features import read_features
from artist20.naming import TITLES, rendition_name, task1_options
from artist20.report import compare, maps, plots
from artist20.report.style import Drawing, save_all
from artist20.results import Ablation, Predictions, Task1Metrics, read_record, task1_dir


def figure_name(stage: str, metrics: Task1Metrics, what: str) -> str:
    """Name a figure after what it is of."""
    tree = f"@{metrics.heard}" if metrics.heard else ""
    return f"{stage.replace(tree, '').replace('/', '_')}_{what}{tree}"


def models(stage: str, metrics: Task1Metrics, predictions: Predictions) -> Iterator[Drawing]:
    """Draw what the models reached, and what an album gives away."""
    what = f"Task 1{metrics.described}"
    labels, classes, data = predictions.labels, predictions.classes, metrics.dataset
    songs = f"{len(labels)} validation songs of {data.label}"
    ranked = sorted(metrics.models.items(), key=lambda item: (-item[1].top1, -item[1].top3))
    scores = {TITLES[name]: predictions.scores[name] for name, _ in ranked}
    made = f"Made from {stage}/metrics.json and val_predictions.json."

    albums = predictions.albums
    reached = {name: evaluation.figures(of, labels, albums) for name, of in scores.items()}
    title = f"{what}: hand-made features on {songs}"
    yield Drawing(
        figure_name(stage, metrics, "model_comparison"),
        plots.model_comparison(reached, n_songs=len(labels), n_classes=len(classes), title=title),
        "Top-1 and top-3 accuracy of Task 1's models on the validation songs, with 95 % intervals "
        f"by bootstrap over albums. {made}",
    )
    name = "svm" if metrics.of_homework else metrics.best_in_cv
    if name in metrics.models:  # main() prints why, if not
        model = metrics.title(name)
        title = f"{model} on {songs}: top-1 {metrics.models[name].top1:.1%}"
        yield Drawing(
            figure_name(stage, metrics, "confusion_matrix" + "_svm" * metrics.of_homework),
            plots.confusion_matrix(predictions.scores[name], labels, classes, title=title),
            f"Who is taken for whom by the {model}: songs by true artist (rows) and best guess "
            f"(columns). {made}",
        )
    if len(labels) >= plots.FEWEST_FOR_RELIABILITY:
        title = f"{what}: reliability of the models' probabilities, {songs}"
        yield Drawing(
            figure_name(stage, metrics, "reliability"),
            plots.reliability(scores, labels, title=title),
            "How often each model's best guess is right, against the probability it gives; on the "
            "dashed line they agree, a dot's area is its share of the songs, and the error is the "
            f"expected calibration error. {made}",
        )
    title = f"{what}: what an album gives away, {data.train} training songs of {data.label}"
    by_title = {TITLES[name]: model for name, model in metrics.models.items()}
    yield Drawing(
        figure_name(stage, metrics, "album_effect"),
        plots.album_effect(by_title, n_songs=data.train, title=title),
        "Top-1 in cross-validation where albums are kept whole and where they are split between "
        f"folds. Made from {stage}/metrics.json.",
    )


def ablation(folder: Path, stage: str, metrics: Task1Metrics, made_by: str) -> Iterator[Drawing]:
    """Draw what families of features are worth."""
    path = folder / "ablation.json"
    found = read_record(path, Ablation, made_by)
    best, data = metrics.best_in_cv, metrics.dataset
    if not found.complete:
        raise UserError(f"{path} is not finished: run {made_by} again")
    if found.settings.model != best:
        raise UserError(f"{path} is of another model than {best}: run {made_by} again")
    title = f"Task 1{metrics.described}: what features are worth to {TITLES[best]}, {data.train} "
    title += f"training and {data.val} validation songs of {data.label}"
    yield Drawing(
        figure_name(stage, metrics, "ablation"),
        plots.ablation(found, metrics.models[best].cv_top1, title=title),
        f"Top-1 of {TITLES[best]} with one family of features alone (left), and what it loses when "
        "the family is left out (middle) or shuffled (right, with its standard deviation). Made "
        f"from {stage}/ablation.json and metrics.json.",
    )


def song_map(folder: Path, stage: str, metrics: Task1Metrics) -> Iterator[Drawing]:
    """Draw which songs' features are alike."""
    vectors = maps.scaled_features(*(read_features(folder, split) for split in ("train", "val")))
    found, data = maps.make_map(vectors), metrics.dataset
    print(found.caption)
    title = f"{data.train} training and {data.val} validation songs of {data.label}, by "
    title += f"{found.n_dimensions} hand-made features"
    title += f", on {metrics.heard}" if metrics.heard else ""
    yield Drawing(
        figure_name(stage, metrics, "map"),
        plots.song_map(found, title=title),
        f"{found.caption} Features are scaled by their medians and quartiles over the training "
        f"songs, and cut off at {maps.MAX_SCALED:g} interquartile ranges. Made from "
        f"{stage}/metrics.json, X_train.npy, X_val.npy, songs_train.json, songs_val.json.",
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    cli.add_task1_options(parser)
    cli.add_audio_root_option(parser)
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    rendition = rendition_name(args.audio_root)
    folder = task1_dir(args.results_dir, args.level, rendition, args.search)
    stage = folder.relative_to(args.results_dir).as_posix()
    made_by = "task1_train.py" + task1_options(args.level, args.audio_root, args.search)
    metrics = read_record(folder / "metrics.json", Task1Metrics, made_by)
    predictions = read_record(folder / "val_predictions.json", Predictions, made_by)
    finished.check_features(metrics, args.results_dir, made_by)
    for name, model in metrics.models.items():
        compare.check_reached(folder, name, model, predictions, made_by)
    parts = [
        partial(models, stage, metrics, predictions),
        partial(ablation, folder, stage, metrics, made_by),
    ]
    if metrics.of_homework:
        parts.append(partial(song_map, folder, stage, metrics))
    status = save_all(parts, args.assets_dir, args.format)
    for name, reason in metrics.left_out.items():
        print(f"left out: {TITLES[name]} ({reason})")
        status = 1
    print(cli.next_stage("-m artist20.comparison", args, "results_dir", "assets_dir"))
    return status


if __name__ == "__main__":
    runtime.run(main)
