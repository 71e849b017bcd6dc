"""All models that have been run on one data set, side by side.

python -m artist20.comparison --results-dir results --assets-dir assets
"""

import argparse
from pathlib import Path
from typing import Any

from artist20 import UserError, artifacts, cli, dataset


def collect(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Read what every model that has been run reached.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.

    Returns
    -------
    dict of str to dict
        By model, in the order of the stages: ``title``, ``top1``, ``top3``, ``seconds``, and
        ``dataset``; for networks also ``last``, the last epoch's figures, and ``pretrained``. Of
        Task 1's models of segments, which need not have been run, it is the one that was best in
        cross-validation.

    Raises
    ------
    UserError
        If no model has been run, or if models were run on different songs: their figures must not
        stand side by side.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder, script in (
        (artifacts.task1_dir(results_dir), "task1_train.py"),
        (artifacts.task1_dir(results_dir, "segment"), "task1_train.py --level segment"),
        (artifacts.panns_dir(results_dir), "task2_train.py"),
        (artifacts.resnet_dir(results_dir), "task2_train_wo_pretrain.py"),
    ):
        path = folder / "metrics.json"
        if not path.is_file():
            print(f"{path} is not there ({script} has not been run): left out of the comparison")
            continue
        metrics = artifacts.read_metrics(path, script)
        models = metrics["models"] if "models" in metrics else {metrics["model"]: metrics}
        of_segments = metrics.get("config", {}).get("level") == "segment"
        if "models" in metrics:
            artifacts.check_features(metrics, results_dir, script)
        if of_segments:
            models = {name: models[name] for name in [metrics["best_in_cv"]]}
        for name, row in models.items():
            title = artifacts.TITLES[name]
            if of_segments:
                title += f", {metrics['config']['seconds']:g} s segments"
            elif name == "panns" and not row["pretrained"]:
                title += ", untrained backbone"
            key = f"{name}_of_segments" if of_segments else name
            found[key] = {**row, "title": title, "dataset": metrics["dataset"]}
    if not found:
        raise UserError(f"{results_dir} holds no metrics: run a training script first")
    if len({row["dataset"]["fingerprint"] for row in found.values()}) > 1:
        sizes = ", ".join(
            f"{name}: {dataset.label(row['dataset'])}, {row['dataset']['train']} + "
            f"{row['dataset']['val']} songs"
            for name, row in found.items()
        )
        raise UserError(
            f"the models in {results_dir} are of different songs ({sizes}): "
            "train them on the same --data-dir and --limit"
        )
    return found


def print_table(models: dict[str, dict[str, Any]]) -> None:
    """Print model, top-1, top-3 and seconds to train."""
    data = next(iter(models.values()))["dataset"]
    print(
        f"{dataset.label(data)}: {data['artists']} artists, {data['train']} training songs, "
        f"{data['val']} validation songs"
    )
    print(f"{'model':34}{'top-1':>8}{'top-3':>8}{'seconds':>9}")
    for row in models.values():
        seconds = row.get("epochs_seconds", row["seconds"])
        print(f"{row['title']:34}{row['top1']:8.1%}{row['top3']:8.1%}{seconds:9.0f}")
        if "last" in row:
            print(f"{'  at its last epoch':34}{row['last']['top1']:8.1%}{row['last']['top3']:8.1%}")
    print(
        "Seconds: grid search and fit (Task 1), all epochs (networks); decoding, features and "
        "embeddings are not in them.\nThe networks' epochs are chosen on these songs."
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    return parser.parse_args()


def main() -> None:
    """Print the table, then where figures and predictions lie."""
    args = parse_args()
    print_table(collect(args.results_dir))
    files = [*args.assets_dir.glob("*.png"), *args.results_dir.glob("**/*_predictions.json")]
    for file in sorted(files):
        print(file)


if __name__ == "__main__":
    cli.run(main)
