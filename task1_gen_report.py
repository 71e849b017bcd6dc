"""Task 1, stage 3: draw how the models compare, and what they hear.

Reads   RESULTS_DIR/task1/metrics.json, val_predictions.json, ablation.json
Writes  ASSETS_DIR/task1_model_comparison.png       top-1 and top-3
                   task1_confusion_matrix_svm.png   who is taken for whom
                   task1_reliability.png            how far probabilities can be believed
                   task1_album_effect.png           what an album gives away
                   task1_ablation.png               what families of features are worth

With --level segment, the same from RESULTS_DIR/task1/segment, to task1_segment_*.png; its
confusion matrix is that of the model that was best in cross-validation.

    python task1_gen_report.py
"""

import argparse

import numpy as np

from artist20 import UserError, artifacts, cli, dataset, evaluation, figures


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    parser.add_argument(
        "--level", choices=artifacts.TASK1_LEVELS, default="song", help="as in task1_train.py"
    )
    return parser.parse_args()


def or_nan(value: float | None) -> float:
    """Replace what could not be measured, and is not drawn."""
    return np.nan if value is None else value


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.task1_dir(args.results_dir, args.level)
    made_by = "task1_train.py" + (" --level segment" if args.level == "segment" else "")
    metrics = artifacts.read_metrics(folder / "metrics.json", made_by)
    predictions = artifacts.read_predictions(folder / "val_predictions.json", made_by)
    artifacts.check_features(metrics, args.results_dir, made_by)
    ablation = artifacts.read_record(folder / "ablation.json", made_by, artifacts.ABLATION_FORM)
    if not ablation["complete"]:
        raise UserError(f"{folder / 'ablation.json'} is not finished: run {made_by} again")
    data, models, labels = metrics["dataset"], metrics["models"], predictions.labels
    if not models.keys() <= predictions.scores.keys():
        raise UserError(
            f"{folder}: metrics.json and val_predictions.json are of other models: run {made_by}"
        )
    names = [artifacts.TITLES[name] for name in models]
    songs = dataset.label(data)
    best, what, prefix = metrics["best_in_cv"], "hand-made features", "task1"
    shown, suffix = "svm", ""
    if args.level == "segment":
        suffix = f", {metrics['config']['seconds']:g} s segments"
        what += suffix.replace(",", " of")
        prefix, shown = "task1_segment", best

    comparison = figures.model_comparison(
        names,
        [row["top1"] for row in models.values()],
        [row["top3"] for row in models.values()],
        title=f"Task 1: {what} on {songs}",
        n_songs=len(labels),
        n_classes=len(predictions.classes),
    )
    matrix = figures.confusion_matrix(
        evaluation.confusion_matrix(predictions.scores[shown], labels),
        predictions.classes,
        title=f"{artifacts.TITLES[shown]}{suffix} on {len(labels)} validation songs of {songs}: "
        f"top-1 {models[shown]['top1']:.1%}",
    )
    reliability = figures.reliability(
        names,
        [evaluation.reliability(predictions.scores[name], labels) for name in models],
        [f"calibration error {row['calibration_error']:.1%}" for row in models.values()],
        title=f"Task 1{suffix}: how far to believe a probability, {len(labels)} validation songs "
        f"of {songs}",
    )
    album_effect = figures.album_effect(
        names,
        *(
            [
                np.nan if row["cv_top1_by"][kind] is None else row["cv_top1_by"][kind]
                for row in models.values()
            ]
            for kind in ("song", "album")
        ),
        title=f"Task 1: what an album gives away, {what} on {songs}",
        n_songs=data["train"],
    )
    families = ablation["families"]
    worth = figures.ablation(
        [f"{family} ({row['n_features']})" for family, row in families.items()],
        *(
            [or_nan(row[key]) for row in families.values()]
            for key in ("without", "alone", "lost", "lost_std")
        ),
        whole=models[best]["cv_top1"],
        title=f"Task 1{suffix}: what features are worth to the {artifacts.TITLES[best]}, {songs}",
    )
    for figure, name in (
        (comparison, f"{prefix}_model_comparison.png"),
        (matrix, f"{prefix}_confusion_matrix{'_svm' if args.level == 'song' else ''}.png"),
        (reliability, f"{prefix}_reliability.png"),
        (album_effect, f"{prefix}_album_effect.png"),
        (worth, f"{prefix}_ablation.png"),
    ):
        figures.save(figure, args.assets_dir / name)
        print(f"wrote {args.assets_dir / name}")


if __name__ == "__main__":
    cli.run(main)
