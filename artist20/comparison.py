"""All models that have been run on one data set, side by side.

python -m artist20.comparison --results-dir results --assets-dir assets
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from artist20 import UserError, artifacts, cli, dataset, evaluation
from artist20.artifacts import Predictions

ENSEMBLE = "python -m artist20.ensemble"


def find_runs(results_dir: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Find what has been trained, and say what has not.

    Yields
    ------
    folder : Path
        Where the models are.
    script : str
        What trains them.
    metrics : dict
        The folder's ``metrics.json``.
    """
    for folder, script, _ in artifacts.model_folders(results_dir):
        path = folder / "metrics.json"
        if not path.is_file():
            print(f"left out: {folder.relative_to(results_dir)} ({script} has not been run)")
            continue
        metrics = artifacts.read_metrics(path, script)
        if "models" in metrics:
            artifacts.check_features(metrics, results_dir, script)
        yield folder, script, metrics


def names_of(metrics: dict[str, Any]) -> dict[str, str]:
    """Name a run's models: as tables and options have them -> as the run's own files do."""
    own = metrics["models"] if "models" in metrics else [metrics["model"]]
    suffix = "_of_segments" if _of_segments(metrics) else ""
    return {f"{name}{suffix}": name for name in own}


def title(name: str, metrics: dict[str, Any]) -> str:
    """Name a model for people; ``name`` is its run's own name for it."""
    result = artifacts.TITLES[name]
    if _of_segments(metrics):
        result += f", {metrics['config']['seconds']:g} s segments"
    untrained = name.startswith("panns") and not metrics["pretrained"]
    if untrained or metrics.get("untrained_backbone"):
        result += ", untrained backbone"
    return result


def _of_segments(metrics: dict[str, Any]) -> bool:
    return metrics.get("config", {}).get("level") == "segment"


def has_folds_by_album(metrics: dict[str, Any]) -> bool:
    """Say whether a run's cross-validation held whole albums out; networks' always does."""
    return metrics.get("config", {}).get("cv", "album") == "album"


def collect(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Read what every model that has been run reached.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.

    Returns
    -------
    dict of str to dict
        By model, in the order of the stages, what its metrics say: ``title``, ``top1``, ``top3``,
        ``seconds``, ``dataset``, ...; for networks also ``last``, the last epoch's figures, and
        ``pretrained``. Beside these ``folder``; ``predictions``, its file of the validation songs;
        ``scores``, the model's own of these; ``top1_interval``, ``top3_interval``, of 95 %, by
        bootstrap over albums; ``unchosen``, the scores of the last epoch if another was chosen on
        these songs, else of the model; ``cv``, top-1 and top-3 of the training songs, each scored
        by a model that did not learn from its album, or None. Of Task 1's models of segments,
        which need not have been run, it is the one that was best in cross-validation.

    Raises
    ------
    UserError
        If no model has been run, or if models were run on different songs: their figures must not
        stand side by side.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder, script, metrics in find_runs(results_dir):
        names = names_of(metrics)
        if _of_segments(metrics):
            names = {key: name for key, name in names.items() if name == metrics["best_in_cv"]}
        cv = _held_out(folder, script) if has_folds_by_album(metrics) else None
        for key, name in names.items():
            row = metrics["models"][name] if "models" in metrics else metrics
            found[key] = _row(folder, script, name, metrics, row, cv)
    ensemble = artifacts.ensemble_dir(results_dir) / "metrics.json"
    if ensemble.is_file():
        metrics = artifacts.read_metrics(ensemble, ENSEMBLE)
        stale = changed_files(results_dir, metrics)
        if stale:
            print(f"left out: {ensemble.parent} (made of another {stale[0]}: run {ENSEMBLE} again)")
        else:
            cv = _held_out(ensemble.parent, ENSEMBLE)
            found["ensemble"] = _row(ensemble.parent, ENSEMBLE, "ensemble", metrics, metrics, cv)
    else:
        print(f"left out: ensemble ({ENSEMBLE} has not been run)")
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


def changed_files(results_dir: Path, ensemble: dict[str, Any]) -> list[Path]:
    """List the files that an ensemble's metrics were computed from, and that are others now."""
    files = {results_dir / name: digest for name, digest in ensemble["files"].items()}
    return [
        file
        for file, digest in files.items()
        if not file.is_file() or artifacts.sha256_file(file) != digest
    ]


def _held_out(folder: Path, script: str) -> Predictions | None:
    file = folder / "cv_predictions.json"
    return artifacts.read_predictions(file, script) if file.is_file() else None


def _row(
    folder: Path,
    script: str,
    name: str,
    metrics: dict[str, Any],
    row: dict[str, Any],
    cv: Predictions | None,
) -> dict[str, Any]:
    predictions = artifacts.read_predictions(folder / "val_predictions.json", script)
    if name not in predictions.scores:
        file = folder / "val_predictions.json"
        raise UserError(f"{file} has no scores of {name}: run {script} --overwrite")
    scores = predictions.scores[name]
    intervals = {
        f"top{k}_interval": evaluation.bootstrap_interval(
            evaluation.hits(scores, predictions.labels, k), predictions.albums
        )
        for k in (1, 3)
    }
    of_cv = None
    if cv and name in cv.scores:
        of_cv = [evaluation.top_k_accuracy(cv.scores[name], cv.labels, k) for k in (1, 3)]
    return {
        **row,
        "title": title(name, metrics),
        "dataset": metrics["dataset"],
        "folder": folder,
        "predictions": predictions,
        "scores": scores,
        "unchosen": predictions.scores.get(f"{name}_last", scores),
        **intervals,
        "cv": of_cv,
    }


def is_chosen(row: dict[str, Any]) -> bool:
    """Say whether a row's epoch was chosen on the validation songs, which flatters it."""
    return row.get("selected_on") == "validation songs"


def print_table(models: dict[str, dict[str, Any]]) -> None:
    """Print each model's top-1 and top-3 with their intervals, top-1 in CV, and seconds."""
    data = next(iter(models.values()))["dataset"]
    n_albums = len(np.unique(next(iter(models.values()))["predictions"].albums))
    print(
        f"{dataset.label(data)}: {data['artists']} artists, {data['train']} training songs, "
        f"{data['val']} validation songs of {n_albums} albums"
    )
    width = max(len(row["title"]) for row in models.values())
    headings = f"{'top-1':>8}{'95 %':>12}{'top-3':>8}{'95 %':>12}{'CV':>8}{'seconds':>9}"
    print(f"{'model':{width}}{headings}")
    for row in models.values():
        seconds = row.get("epochs_seconds", row["seconds"])
        figures = "".join(
            f"{row[k]:8.1%}{_percents(row[f'{k}_interval']):>12}" for k in ("top1", "top3")
        )
        cv = f"{row['cv'][0]:.1%}" if row["cv"] else "-"
        print(f"{row['title']:{width}}{figures}{cv:>8}{seconds:9.0f}")
        if is_chosen(row):
            last = row["last"]
            print(f"{'  at its last epoch':{width}}{last['top1']:8.1%}{last['top3']:20.1%}")
    print(
        "95 %: interval by bootstrap over albums. CV: top-1 of all training songs, each scored by "
        "a model\nthat did not learn from its album. Seconds: grid search and fit (Task 1), all "
        "epochs (networks);\ndecoding, features and embeddings are not in them."
    )
    chosen = [row["title"] for row in models.values() if is_chosen(row)]
    if chosen:
        print(f"Epochs are chosen on these songs for {' and '.join(chosen)}.")


def print_paired(models: dict[str, dict[str, Any]]) -> None:
    """Print how the ensemble, or else the best model in CV, compares with each other model.

    Networks whose epoch was chosen on these songs are compared as they were after the last one.
    """
    in_cv = {name: row["cv"] for name, row in models.items() if row["cv"]}
    if len(models) < 2 or not in_cv:
        print("\nNo paired comparison: it takes two models, one of them cross-validated by album.")
        return
    best = "ensemble" if "ensemble" in models else max(in_cv, key=lambda name: in_cv[name])
    first = models[best]
    labels, albums = first["predictions"].labels, first["predictions"].albums
    others = {name: row for name, row in models.items() if name != best}
    results = {}
    for name, row in others.items():
        if row["predictions"].songs != first["predictions"].songs:
            raise UserError(
                f"{row['folder']} and {first['folder']} have other validation songs: train again"
            )
        hits = (evaluation.hits(pair["unchosen"], labels, 1) for pair in (first, row))
        results[name] = evaluation.compare(*hits, albums)
    corrected = evaluation.holm(np.array([result["p"] for result in results.values()]))
    what = "" if best == "ensemble" else ", the best in CV,"
    print(f"\n{first['title']}{what} on these songs, against")
    width = max(len(row["title"]) for row in others.values())
    print(f"{'':{width}}{'points':>7}{'95 %':>17}{'alone right':>12}{'p':>8}  it is")
    for (name, result), p in zip(results.items(), corrected, strict=True):
        low, high = (100 * end for end in result["interval"])
        interval = f"{low:+.1f} to {high:+.1f}"
        alone = f"{result['only_first']} : {result['only_second']}"
        print(
            f"{others[name]['title']:{width}}{100 * result['difference']:+7.1f}{interval:>17}"
            f"{alone:>12}{p_text(p):>8}  {evaluation.verdict(p, result['interval'])}"
        )
    print(
        "Points of top-1, their interval by bootstrap over albums; songs that one of the two alone "
        "has\nright; p of McNemar's exact test after Holm's correction. Better or worse: p below "
        f"{evaluation.SIGNIFICANCE:g}, and\nthe interval without 0."
    )
    if any(is_chosen(row) for row in models.values()):
        print("Networks whose epoch is chosen on these songs are compared at their last epoch.")


def p_text(p: float) -> str:
    """Write a p value to three digits, without calling any zero."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _percents(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:.1f}-{100 * high:.1f}"


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    return parser.parse_args()


def main() -> None:
    """Print both tables, then where figures and predictions lie."""
    args = parse_args()
    models = collect(args.results_dir)
    print_table(models)
    print_paired(models)
    print()
    folders = {row["folder"] for row in models.values()}
    predictions = (file for folder in folders for file in folder.glob("*_predictions.json"))
    for file in sorted([*args.assets_dir.glob(f"*.{args.format}"), *predictions]):
        print(file)


if __name__ == "__main__":
    cli.run(main)
