"""Task 1, stage 3: draw how the models compare, and what they hear.

Reads   RESULTS_DIR/task1/metrics.json, val_predictions.json, ablation.json, X_*.npy, songs_*.json
Writes  ASSETS_DIR/task1_model_comparison.png       top-1 and top-3
                   task1_confusion_matrix_svm.png   who is taken for whom
                   task1_reliability.png            how far probabilities can be believed
                   task1_album_effect.png           what an album gives away
                   task1_ablation.png               what families of features are worth
                   task1_map.png                    which songs' features are alike

With --level segment, the same from RESULTS_DIR/task1/segment, to task1_segment_*.png; its
confusion matrix is that of the model that was best in cross-validation, and there is no map.
Beside each picture a .txt has its caption. What there are no results for is named, and the exit
status is 1.

    python task1_gen_report.py
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from artist20 import (
    UserError,
    cli,
    comparison,
    dataset,
    evaluation,
    figures,
    figures_confusion,
    map_report,
    runtime,
)
from artist20.figures import Drawing
from artist20.results import (
    ABLATION_FORM,
    TASK1_LEVELS,
    TITLES,
    Predictions,
    check_features,
    read_metrics,
    read_predictions,
    read_record,
    task1_dir,
)


@dataclass(frozen=True)
class Results:
    """What task1_train.py left, of one level.

    Attributes
    ----------
    folder : Path
        Where it is.
    stage : str
        The folder, for captions.
    made_by : str
        The command that made it.
    metrics : dict
        Its ``metrics.json``.
    predictions : Predictions
        Its ``val_predictions.json``.
    """

    folder: Path
    stage: str
    made_by: str
    metrics: dict[str, Any]
    predictions: Predictions

    @property
    def names(self) -> list[str]:
        """The models, for people."""
        return [TITLES[name] for name in self.metrics["models"]]

    @property
    def of_segments(self) -> str:
        """What the models learn from, if it is not songs: for titles, after a noun."""
        config = self.metrics["config"]
        return f", {config['seconds']:g} s segments" if config["level"] == "segment" else ""

    @property
    def data(self) -> str:
        """The data set's name."""
        return dataset.label(self.metrics["dataset"])

    @property
    def songs(self) -> str:
        """Which songs are scored."""
        return f"{len(self.predictions.songs)} validation songs of {self.data}"

    @property
    def of_val(self) -> str:
        """What figures of the validation songs are made from."""
        return f"Made from {self.stage}/metrics.json and val_predictions.json."


def model_comparison(results: Results) -> Iterator[Drawing]:
    """Draw top-1 and top-3."""
    models, predictions = results.metrics["models"], results.predictions
    intervals = [
        [
            evaluation.bootstrap_interval(
                evaluation.hits(predictions.scores[name], predictions.labels, k),
                predictions.albums,
            )
            for name in models
        ]
        for k in (1, 3)
    ]
    figure = figures.model_comparison(
        results.names,
        [row["top1"] for row in models.values()],
        [row["top3"] for row in models.values()],
        title=f"Task 1{results.of_segments}: hand-made features on {results.songs}",
        n_songs=len(predictions.songs),
        n_classes=len(predictions.classes),
        note="Whiskers: 95 % intervals, by bootstrap over albums.",
        top1_interval=np.array(intervals[0]),
        top3_interval=np.array(intervals[1]),
    )
    caption = (
        "Top-1 and top-3 accuracy of Task 1's models on the validation songs, with 95 % intervals "
        f"by bootstrap over albums. {results.of_val}"
    )
    yield "model_comparison", figure, caption


def confusion_matrix(results: Results) -> Iterator[Drawing]:
    """Draw who is taken for whom by the SVM, or by the best model of segments."""
    name = results.metrics["best_in_cv"] if results.of_segments else "svm"
    if name not in results.metrics["models"]:  # which main() says
        return
    predictions, model = results.predictions, TITLES[name]
    figure = figures_confusion.confusion_matrix(
        evaluation.confusion_matrix(predictions.scores[name], predictions.labels),
        predictions.classes,
        title=f"{model}{results.of_segments} on {results.songs}: "
        f"top-1 {results.metrics['models'][name]['top1']:.1%}",
    )
    caption = (
        f"Who is taken for whom by the {model}: songs by true artist (rows) and best guess "
        f"(columns), artists who are taken for each other side by side. {results.of_val}"
    )
    yield f"confusion_matrix{'' if results.of_segments else '_svm'}", figure, caption


def reliability(results: Results) -> Iterator[Drawing]:
    """Draw how far probabilities can be believed."""
    models, predictions = results.metrics["models"], results.predictions
    figure = figures.reliability(
        results.names,
        [evaluation.reliability(predictions.scores[name], predictions.labels) for name in models],
        [f"calibration error {row['calibration_error']:.1%}" for row in models.values()],
        title=f"Task 1{results.of_segments}: how far to believe a probability, {results.songs}",
    )
    caption = (
        "How often each model's best guess is right, against the probability it gives; on the "
        "dashed line they agree, a dot's area is its share of the songs, and the error is the "
        f"expected calibration error. {results.of_val}"
    )
    yield "reliability", figure, caption


def album_effect(results: Results) -> Iterator[Drawing]:
    """Draw what an album gives away."""
    top1 = [row["cv_top1_by"] for row in results.metrics["models"].values()]
    n_songs = results.metrics["dataset"]["train"]
    figure = figures.album_effect(
        results.names,
        [or_nan(of_model["song"]) for of_model in top1],
        [or_nan(of_model["album"]) for of_model in top1],
        title=f"Task 1{results.of_segments}: what an album gives away, {n_songs} training songs of "
        f"{results.data}",
        n_songs=n_songs,
    )
    caption = (
        "Top-1 in cross-validation where albums are split between folds and where they are kept "
        f"whole. Made from {results.stage}/metrics.json."
    )
    yield "album_effect", figure, caption


def ablation(results: Results) -> Iterator[Drawing]:
    """Draw what families of features are worth."""
    path = results.folder / "ablation.json"
    ablation = read_record(path, results.made_by, ABLATION_FORM)
    if not ablation["complete"]:
        raise UserError(f"{path} is not finished: run {results.made_by} again")
    best, families = results.metrics["best_in_cv"], ablation["families"]
    if ablation["settings"]["model"] != best:
        raise UserError(f"{path} is of another model than {best}: run {results.made_by} again")
    model = TITLES[best]
    figure = figures.ablation(
        [f"{family} ({row['n_features']})" for family, row in families.items()],
        *(
            [or_nan(row[key]) for row in families.values()]
            for key in ("without", "alone", "lost", "lost_std")
        ),
        whole=results.metrics["models"][best]["cv_top1"],
        title=f"Task 1{results.of_segments}: what features are worth to {model}, "
        f"{results.metrics['dataset']['train']} training and {results.songs}",
    )
    caption = (
        f"Top-1 of {model} with one family of features alone (left), and what it loses when the "
        "family is left out (middle) or shuffled (right, with its standard deviation). "
        f"Made from {results.stage}/ablation.json and metrics.json."
    )
    yield "ablation", figure, caption


def or_nan(value: float | None) -> float:
    """Replace what could not be measured, and is not drawn."""
    return np.nan if value is None else value


def with_prefix(prefix: str, drawings: Iterable[Drawing]) -> Iterator[Drawing]:
    """Name the figures' files."""
    for name, figure, caption in drawings:
        yield f"{prefix}_{name}", figure, caption


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    parser.add_argument(
        "--level", choices=TASK1_LEVELS, default="song", help="as in task1_train.py"
    )
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    folder = task1_dir(args.results_dir, args.level)
    made_by = "task1_train.py" + (" --level segment" if args.level == "segment" else "")
    metrics = read_metrics(folder / "metrics.json", made_by)
    predictions = read_predictions(folder / "val_predictions.json", made_by)
    check_features(metrics, args.results_dir, made_by)
    for name, row in metrics["models"].items():
        comparison.check_reached(folder, name, row, predictions, made_by)
    stage = str(folder.relative_to(args.results_dir))
    results = Results(folder, stage, made_by, metrics, predictions)
    prefix = "task1_segment" if args.level == "segment" else "task1"
    parts = (model_comparison, confusion_matrix, reliability, album_effect, ablation)
    drawings = [part(results) for part in parts]
    if args.level == "song":
        drawings.append(map_report.of_task1(args.results_dir, metrics["dataset"]))
    status = figures.save_all(
        [partial(with_prefix, prefix, part) for part in drawings], args.assets_dir, args.format
    )
    for name, reason in metrics["left_out"].items():
        print(f"left out: {TITLES[name]} ({reason})")
        status = 1
    return status


if __name__ == "__main__":
    runtime.run(main)
