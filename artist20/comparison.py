"""All models that have been run on one data set, side by side.

Reads   every model's metrics.json, val_predictions.json, cv_predictions.json; of Task 1 also
        search_*.json, ablation.json
Writes  ASSETS_DIR/results.json    all that is computed and said of them, and the files it is from

    python -m artist20.comparison --results-dir results --assets-dir assets
"""

import argparse
import math
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from artist20 import UserError, cli, dataset, evaluation, runtime
from artist20.files import sha256_file, write_json
from artist20.results import (
    ABLATION_FORM,
    PROVENANCE_FORM,
    SEARCH_FORM,
    TITLES,
    Predictions,
    check_features,
    ensemble_dir,
    has_form,
    model_folders,
    read_metrics,
    read_predictions,
    read_record,
    results_file,
    task1_dir,
)

ENSEMBLE = "python -m artist20.ensemble"
COMMAND = "python -m artist20.comparison"
N_WORST = 3  # albums that are named
N_CONFUSIONS = 5  # that are kept of each model


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
    for folder, script, _ in model_folders(results_dir):
        path = folder / "metrics.json"
        if not path.is_file():
            print(f"left out: {folder.relative_to(results_dir)} ({script} has not been run)")
            continue
        metrics = read_metrics(path, script)
        if "models" in metrics:
            check_features(metrics, results_dir, script)
            for name, reason in metrics["left_out"].items():
                print(f"left out: {folder.relative_to(results_dir)}/{name} ({reason})")
        yield folder, script, metrics


def names_of(metrics: dict[str, Any]) -> dict[str, str]:
    """Name a run's models: as tables and options have them -> as the run's own files do."""
    own = metrics["models"] if "models" in metrics else [metrics["model"]]
    suffix = "_of_segments" if _of_segments(metrics) else ""
    return {f"{name}{suffix}": name for name in own}


def title(name: str, metrics: dict[str, Any]) -> str:
    """Name a model for people; ``name`` is its run's own name for it."""
    result = TITLES[name]
    if _of_segments(metrics):
        result += f", {metrics['config']['seconds']:g} s segments"
    if has_untrained_backbone(name, metrics):
        result += ", untrained backbone"
    return result


def has_untrained_backbone(name: str, metrics: dict[str, Any]) -> bool:
    """Say whether a model hears through a Cnn14 with random weights; its figures mean nothing."""
    untrained = name.startswith("panns") and not metrics["pretrained"]
    return untrained or metrics.get("untrained_backbone", False)


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
        ``pretrained``. Beside these ``own_name``, which its files have; ``folder``; ``metrics``,
        that file; ``predictions``, its file of the validation songs; ``scores``, those of the
        model; ``figures``, what :func:`artist20.evaluation.figures` says of them, whose intervals
        over albums are also ``top1_interval`` and ``top3_interval``; ``unchosen``, the scores of
        the last epoch if another was chosen on these songs, else of the model; ``cv``, top-1 and
        top-3 of the training songs, each scored by a model that did not learn from its album, or
        None. Of Task 1's models of segments, which need not have been run, it is the one
        that was best in cross-validation.

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
    ensemble = ensemble_dir(results_dir) / "metrics.json"
    if ensemble.is_file():
        metrics = read_metrics(ensemble, ENSEMBLE)
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
    first = next(iter(found.values()))
    songs = first["predictions"]
    for row in found.values():
        if (row["predictions"].songs, row["predictions"].classes) != (songs.songs, songs.classes):
            raise UserError(
                f"{row['folder']} and {first['folder']} have other validation songs or artists: "
                "train again"
            )
    return found


def changed_files(results_dir: Path, ensemble: dict[str, Any]) -> list[Path]:
    """List the files that an ensemble's metrics were computed from, and that are others now."""
    files = {results_dir / name: digest for name, digest in ensemble["files"].items()}
    return [
        file for file, digest in files.items() if not file.is_file() or sha256_file(file) != digest
    ]


def _held_out(folder: Path, script: str) -> Predictions | None:
    file = folder / "cv_predictions.json"
    return read_predictions(file, script) if file.is_file() else None


def check_reached(
    folder: Path, name: str, reached: dict[str, Any], predictions: Predictions, made_by: str
) -> None:
    """Refuse ``metrics.json`` and ``val_predictions.json`` that are not of one run.

    Parameters
    ----------
    folder : Path
        Where both are.
    name : str
        A model.
    reached : dict
        Its ``top1`` and ``top3`` in the metrics.
    predictions : Predictions
        What the other file holds.
    made_by : str
        The command that makes both.

    Raises
    ------
    UserError
        If there are no scores of the model, or if they give other figures.
    """
    file = folder / "val_predictions.json"
    if name not in predictions.scores:
        raise UserError(f"{file} has no scores of {name}: run {made_by} --overwrite")
    for k in (1, 3):
        found = evaluation.top_k_accuracy(predictions.scores[name], predictions.labels, k)
        if not math.isclose(reached[f"top{k}"], found, abs_tol=1e-6):
            raise UserError(
                f"{folder}: val_predictions.json is not of the run in metrics.json: run {made_by} "
                "--overwrite"
            )


def _row(
    folder: Path,
    script: str,
    name: str,
    metrics: dict[str, Any],
    row: dict[str, Any],
    cv: Predictions | None,
) -> dict[str, Any]:
    predictions = read_predictions(folder / "val_predictions.json", script)
    check_reached(folder, name, row, predictions, script)
    scores = predictions.scores[name]
    found = evaluation.figures(scores, predictions.labels, predictions.albums)
    of_cv = None
    if cv and name in cv.scores:
        of_cv = [evaluation.top_k_accuracy(cv.scores[name], cv.labels, k) for k in (1, 3)]
    return {
        **row,
        "own_name": name,
        "title": title(name, metrics),
        "dataset": metrics["dataset"],
        "folder": folder,
        "metrics": metrics,
        "predictions": predictions,
        "scores": scores,
        "unchosen": predictions.scores.get(f"{name}_last", scores),
        "figures": found,
        "top1_interval": tuple(found["intervals"]["albums"]["top1"]),
        "top3_interval": tuple(found["intervals"]["albums"]["top3"]),
        "cv": of_cv,
    }


def is_chosen(row: dict[str, Any]) -> bool:
    """Say whether a row's epoch was chosen on the validation songs, which flatters it."""
    return row.get("selected_on") == "validation songs"


# --- results.json ------------------------------------------------------------------------------


def gather(results_dir: Path) -> dict[str, Any]:
    """Compute all that is said of the models of a results folder, anywhere.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.

    Returns
    -------
    dict
        Plain values for JSON: ``dataset``; ``models``, by name what :func:`_record` says;
        ``left_out``, by title why a model of Task 1 could not be run; ``pairs``
        of :func:`artist20.evaluation.compare_all`, networks whose epoch is chosen on these songs
        as they were after the last one; ``ablation``, of each of Task 1's folders; ``runs``, by
        folder its command, seed, device, seconds and versions; ``files``, by path in the results
        folder its SHA-256.

    Raises
    ------
    UserError
        As :func:`collect` does.
    """
    models = collect(results_dir)
    first = next(iter(models.values()))
    songs = first["predictions"]
    hits = {name: evaluation.hits(row["unchosen"], songs.labels, 1) for name, row in models.items()}
    runs = {row["folder"]: row["metrics"] for row in models.values()}
    files = [file for folder in runs for file in _files(folder)]
    ablations = {folder: _ablation(folder) for folder in runs}
    left_out = {
        title(name, metrics): reason
        for metrics in runs.values()
        for name, reason in metrics.get("left_out", {}).items()
    }
    if any("models" in metrics for metrics in runs.values()):
        made = task1_dir(results_dir) / "preprocessing.json"
        runs = {made: read_metrics(made, "task1_preprocessing.py"), **runs}
        files.append(made)
    return {
        "dataset": {**first["dataset"], "val_albums": len(np.unique(songs.albums))},
        "bootstrap": {"resamples": evaluation.N_RESAMPLES, "confidence": evaluation.CONFIDENCE},
        "significance": evaluation.SIGNIFICANCE,
        "models": {name: _record(row, results_dir) for name, row in models.items()},
        "left_out": left_out,
        "pairs": evaluation.compare_all(hits, songs.albums),
        "ablation": {
            _relative(folder, results_dir): {
                "model": ablation["settings"]["model"],
                "families": ablation["families"],
            }
            for folder, ablation in ablations.items()
            if ablation
        },
        "runs": {
            _relative(path, results_dir): _provenance(metrics, path)
            for path, metrics in runs.items()
        },
        "files": {_relative(file, results_dir): sha256_file(file) for file in sorted(files)},
    }


def _record(row: dict[str, Any], results_dir: Path) -> dict[str, Any]:
    """Say of one model what results.json does.

    Its ``title`` and ``folder``; what :func:`artist20.evaluation.figures` says of it, and in
    ``last`` of its last epoch, if another was chosen on the validation songs; ``gap``, how many
    points that brought; ``cv``; its ``artists`` and ``albums``, the ``worst_albums`` and most
    frequent ``confusions``; what it is made of.
    """
    predictions, labels = row["predictions"], row["predictions"].labels
    classes, albums = predictions.classes, predictions.albums
    matrix = evaluation.confusion_matrix(row["scores"], labels)
    of_albums = evaluation.right_per_group(evaluation.hits(row["scores"], labels, 1), albums)
    record = {
        "title": row["title"],
        "folder": _relative(row["folder"], results_dir),
        "untrained_backbone": has_untrained_backbone(row["own_name"], row["metrics"]),
        **row["figures"],
        "selected_on": row.get("selected_on", "nothing"),
        "last": None,
        "gap": None,
        "cv": row["cv"] and dict(zip(("top1", "top3"), row["cv"], strict=True)),
        "seconds": row.get("epochs_seconds", row["seconds"]),
        "artists": {
            artist: {
                "songs": int(songs),
                "right": int(right),
                "guessed": int(guessed),
                "f1": float(f1) if songs else None,
            }
            for artist, songs, right, guessed, f1 in zip(
                classes,
                matrix.sum(axis=1),
                matrix.diagonal(),
                matrix.sum(axis=0),
                evaluation.f1_scores(matrix),
                strict=True,
            )
        },
        "albums": {
            album: {"right": right, "songs": songs} for album, (right, songs) in of_albums.items()
        },
        "worst_albums": worst_albums(of_albums),
        "confusions": [
            {"artist": classes[true], "guess": classes[guess], "songs": songs}
            for true, guess, songs in evaluation.confusions(matrix)[:N_CONFUSIONS]
        ],
    }
    if is_chosen(row):
        last = evaluation.figures(row["unchosen"], labels, albums)
        record["last"] = last
        record["gap"] = {k: record[k] - last[k] for k in ("top1", "top3")}
    made_of = ("params", "cv_top1", "cv_std", "cv_top1_by", "temperature")  # Task 1
    made_of += ("epoch", "parameters", "window_seconds", "pretrained", "settings")  # networks
    made_of += ("members", "best_member_in_cv", "against_best_member")  # the ensemble
    record |= {key: row[key] for key in made_of if key in row}
    search = row["folder"] / f"search_{row['own_name']}.json"
    if "models" in row["metrics"] and search.is_file():
        value = read_record(search, "task1_train.py", SEARCH_FORM)
        record["search"] = {
            "transforms": value["settings"]["transforms"],
            "grid": value["settings"]["grid"],
            "candidates": len(value["candidates"]),
        }
    if "models" in row["metrics"]:
        config = row["metrics"]["config"]
        record["config"] = {key: value for key, value in config.items() if key != "arrays"}
    return record


def worst_albums(of_albums: dict[str, tuple[int, int]]) -> list[str]:
    """Name the albums with the smallest share of right songs; among equals, the larger ones."""

    def order(album: str) -> tuple[float, int]:
        right, songs = of_albums[album]
        return right / songs, -songs

    return sorted(of_albums, key=order)[:N_WORST]


def of_all_models(models: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Count each album's right songs over all models' records, and all of them."""
    records = list(models.values())
    return {
        album: tuple(
            sum(record["albums"][album][k] for record in records) for k in ("right", "songs")
        )
        for album in records[0]["albums"]
    }


def _files(folder: Path) -> list[Path]:
    """List the files of a folder that figures are computed from."""
    names = ("metrics.json", "val_predictions.json", "cv_predictions.json", "ablation.json")
    files = [folder / name for name in names] + sorted(folder.glob("search_*.json"))
    return [file for file in files if file.is_file()]


def _ablation(folder: Path) -> dict[str, Any] | None:
    file = folder / "ablation.json"
    if not file.is_file():
        return None
    ablation = read_record(file, "task1_train.py", ABLATION_FORM)
    return ablation if ablation["complete"] else None


def _provenance(metrics: dict[str, Any], path: Path) -> dict[str, Any]:
    form = PROVENANCE_FORM
    if not has_form(metrics, form):
        raise UserError(f"{path} does not say how it was made: run its stage again")
    of_run = {key: metrics[key] for key in form} | {"seed": metrics.get("seed")}
    return of_run | {"command": without_folders(of_run["command"])}


def without_folders(command: str) -> str:
    """Cut the absolute paths in a command line to their last names, which are the same anywhere."""
    arguments = []
    for argument in shlex.split(command):
        option, equals, value = argument.rpartition("=")
        path = Path(value)
        arguments.append(option + equals + (path.name if path.is_absolute() else value))
    return shlex.join(arguments)


def _relative(path: Path, results_dir: Path) -> str:
    return path.relative_to(results_dir).as_posix()


def check_up_to_date(results: dict[str, Any], results_dir: Path, made_from: Path) -> None:
    """Refuse a ``results.json`` that is of other files than those that are there.

    Raises
    ------
    UserError
        If a file is missing or another, or a model has been run since.
    """
    again = f"run {COMMAND} --results-dir {results_dir} --assets-dir {made_from.parent}"
    for name, digest in results["files"].items():
        file = results_dir / name
        if not file.is_file() or sha256_file(file) != digest:
            raise UserError(f"{made_from} was made of another {file}: {again}")
    for folder, *_ in model_folders(results_dir):
        name = f"{_relative(folder, results_dir)}/metrics.json"
        if (results_dir / name).is_file() and name not in results["files"]:
            raise UserError(f"{made_from} lacks {results_dir / name}: {again}")
    ensemble = ensemble_dir(results_dir) / "metrics.json"
    if ensemble.is_file() and "ensemble" not in results["models"]:
        stale = changed_files(results_dir, read_metrics(ensemble, ENSEMBLE))
        if not stale:
            raise UserError(f"{made_from} lacks {ensemble}: {again}")


# --- tables ------------------------------------------------------------------------------------


def print_table(results: dict[str, Any]) -> None:
    """Print each model's top-1 and top-3 with their intervals, macro-F1, score, and top-1 in CV."""
    data, models = results["dataset"], results["models"]
    print(
        f"{dataset.label(data)}: {data['artists']} artists, {data['train']} training songs, "
        f"{data['val']} validation songs of {data['val_albums']} albums"
    )
    width = max(len(row["title"]) for row in models.values())
    print(
        f"{'model':{width}}{'top-1':>8}{'95 %':>12}{'top-3':>8}{'95 %':>12}{'F1':>6}{'score':>7}"
        f"{'CV':>7}"
    )
    for row in models.values():
        intervals = row["intervals"]["albums"]
        figures = "".join(f"{row[k]:8.1%}{percents(intervals[k]):>12}" for k in ("top1", "top3"))
        cv = f"{row['cv']['top1']:.1%}" if row["cv"] else "-"
        print(
            f"{row['title']:{width}}{figures}{row['macro_f1']:6.2f}{row['course_score']:7.3f}{cv:>7}"
        )
        if row["last"]:
            last, gap = row["last"], row["gap"]
            lower = f"{points(gap['top1'])}, {points(gap['top3'])} points"
            print(
                f"{'  at its last epoch':{width}}{last['top1']:8.1%}{last['top3']:20.1%}"
                f"{'chosen: ' + lower:>32}"
            )
    print(
        "95 %: interval by bootstrap over albums; results.json has those over songs, too. F1: mean "
        "over\nartists. Score: top-1 + 0.5 x top-3. CV: top-1 of all training songs, each scored "
        "by a model that\ndid not learn from its album."
    )
    chosen = [row["title"] for row in models.values() if row["last"]]
    if chosen:
        print(f"Epochs are chosen on these songs for {' and '.join(chosen)}.")
    of_albums = of_all_models(models)
    print("\nAlbums that are hardest for all models together, right of all guesses:")
    for album in worst_albums(of_albums):
        right, songs = of_albums[album]
        print(f"{f'{right} of {songs}':>12}  {album}")


def reference(models: dict[str, dict[str, Any]]) -> str | None:
    """Name the model that others are compared with: the ensemble, or else the best in CV."""
    in_cv = {name: tuple(row["cv"].values()) for name, row in models.items() if row["cv"]}
    if len(models) < 2 or not in_cv:
        return None
    return "ensemble" if "ensemble" in models else max(in_cv, key=lambda name: in_cv[name])


def turned(pair: dict[str, Any], first: str) -> dict[str, Any]:
    """Return a pair of ``pairs`` as seen from one of its models."""
    if pair["first"] == first:
        return pair
    low, high = pair["interval"]
    return {
        **pair,
        "first": pair["second"],
        "second": pair["first"],
        "difference": -pair["difference"],
        "interval": [-high, -low],
        "only_first": pair["only_second"],
        "only_second": pair["only_first"],
        "verdict": {"better": "worse", "worse": "better"}.get(pair["verdict"], pair["verdict"]),
    }


def against(results: dict[str, Any], first: str) -> dict[str, dict[str, Any]]:
    """Return how a model compares with each other one, by the other's name."""
    pairs = [pair for pair in results["pairs"] if first in (pair["first"], pair["second"])]
    return {pair["second"]: pair for pair in (turned(pair, first) for pair in pairs)}


def print_paired(results: dict[str, Any]) -> None:
    """Print how the ensemble, or else the best model in CV, compares with each other model.

    Then which of all pairs are told apart. Networks whose epoch was chosen on these songs are
    compared as they were after the last one.
    """
    models = results["models"]
    best = reference(models)
    if not best:
        print("\nNo paired comparison: it takes two models, one of them cross-validated by album.")
        return
    what = "" if best == "ensemble" else ", the best in CV,"
    print(f"\n{models[best]['title']}{what} on these songs, against")
    pairs = against(results, best)
    width = max(len(models[name]["title"]) for name in pairs)
    print(f"{'':{width}}{'points':>7}{'95 %':>17}{'alone right':>12}{'p':>8}  it is")
    for name, pair in pairs.items():
        alone = f"{pair['only_first']} : {pair['only_second']}"
        print(
            f"{models[name]['title']:{width}}{points(pair['difference']):>7}"
            f"{points_between(pair['interval']):>17}{alone:>12}{p_text(pair['p_holm']):>8}  "
            f"{pair['verdict']}"
        )
    n_pairs = len(results["pairs"])
    print(
        "Points of top-1, their interval by bootstrap over albums; songs that one of the two alone "
        f"has\nright; p of McNemar's exact test after Holm's correction over all {n_pairs} pairs. "
        f"Better or worse:\np below {results['significance']:g}, and the interval without 0."
    )
    if any(row["last"] for row in models.values()):
        print("Networks whose epoch is chosen on these songs are compared at their last epoch.")
    beaten = told_apart(results)
    print(f"\nOf all {n_pairs} pairs, told apart: {sum(map(len, beaten.values()))}")
    for name, others in beaten.items():
        titles = "; ".join(models[other]["title"] for other in others)
        print(
            textwrap.fill(
                f"{models[name]['title']} is better than {titles}", 100, subsequent_indent="    "
            )
        )


def told_apart(results: dict[str, Any]) -> dict[str, list[str]]:
    """Name the models that each model is better than, of those that are better than any."""
    beaten = {
        name: [
            other for other, pair in against(results, name).items() if pair["verdict"] == "better"
        ]
        for name in results["models"]
    }
    return {name: others for name, others in beaten.items() if others}


def p_text(p: float) -> str:
    """Write a p value to three digits, without calling any zero."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def percents(interval: list[float]) -> str:
    """Write an interval of shares."""
    low, high = interval
    return f"{100 * low:.1f}-{100 * high:.1f}"


def points(difference: float) -> str:
    """Write a difference of shares, in points; nothing is ``+0.0``, never ``-0.0``."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}"


def points_between(interval: list[float]) -> str:
    """Write an interval of differences."""
    return " to ".join(map(points, interval))


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    return parser.parse_args()


def main() -> None:
    """Write results.json, print both tables, then where figures and predictions lie."""
    args = parse_args()
    results = {"command": without_folders(runtime.command()), **gather(args.results_dir)}
    path = results_file(args.assets_dir)
    write_json(path, results)
    print_table(results)
    print_paired(results)
    print(f"\n{path}")
    folders = {args.results_dir / row["folder"] for row in results["models"].values()}
    predictions = (file for folder in folders for file in folder.glob("*_predictions.json"))
    for file in sorted([*args.assets_dir.glob(f"*.{args.format}"), *predictions]):
        print(file)


if __name__ == "__main__":
    runtime.run(main)
