"""Task 1, stage 3: draw the comparison of the three models and the SVM's confusion matrix.

Reads   RESULTS_DIR/task1/metrics.json, val_predictions.json
Writes  ASSETS_DIR/task1_model_comparison.png, task1_confusion_matrix_svm.png

    python task1_gen_report.py
"""

import argparse

from artist20 import artifacts, cli, dataset, evaluation, figures


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.task1_dir(args.results_dir)
    metrics = artifacts.read_metrics(folder / "metrics.json", "task1_train.py")
    predictions = artifacts.read_predictions(folder / "val_predictions.json", "task1_train.py")
    data, models = metrics["dataset"], metrics["models"]

    comparison = figures.model_comparison(
        [artifacts.TITLES[name] for name in models],
        [row["top1"] for row in models.values()],
        [row["top3"] for row in models.values()],
        title=f"Task 1: hand-made features on {dataset.label(data)}",
        n_songs=len(predictions.songs),
        n_classes=len(predictions.classes),
    )
    matrix = figures.confusion_matrix(
        evaluation.confusion_matrix(predictions.scores["svm"], predictions.labels),
        predictions.classes,
        title=f"SVM on {len(predictions.songs)} validation songs of {dataset.label(data)}: "
        f"top-1 {models['svm']['top1']:.1%}",
    )
    for figure, name in (
        (comparison, "task1_model_comparison.png"),
        (matrix, "task1_confusion_matrix_svm.png"),
    ):
        figures.save(figure, args.assets_dir / name)
        print(f"wrote {args.assets_dir / name}")


if __name__ == "__main__":
    cli.run(main)
