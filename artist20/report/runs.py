"""Runs of several results folders in one table: seeds averaged, every two rows tested.

Runs that differ in their seed alone are one row. Rows are compared by the songs that their runs
have right at the last epoch, see :func:`artist20.evaluation.compare_runs`.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from artist20 import evaluation, files, results
from artist20.finished import AnyMetrics, Model
from artist20.naming import NOT_LEARNT_MARK
from artist20.report import compare, tables
from artist20.results import NetworkMetrics, Pair, Record, Task1Metrics

Runs = list[Model]  # of one model, with different seeds
COLUMNS = ("top1", "top3", "last_top1", "macro_f1", "cv_top1")  # of a row, each with its deviation
MOST_ROWS = 5  # of which every two are printed; of more, the best one and each other
NOTE = (
    "±: standard deviation over runs that differ in their seed alone. Points: top-1 at the last "
    "epoch of the first less that of the second, means over their runs. 95 %: interval by "
    "bootstrap, albums and each row's runs being drawn. p: of a sign-flip test over songs (of one "
    "run each: McNemar's), after Holm's correction over all {n_pairs} pairs; it takes songs as "
    "independent and runs as they are. Better or worse: p below {significance:g}, and the interval "
    "without 0."
)


class Row(Record, kw_only=True):
    """What a model's runs reached: means, and standard deviations (sd) where there are several."""

    model: str  # its name for people; with a folder where others have the same name
    runs: results.Count
    seeds: str  # with spaces between them, as between the folders
    folders: str
    top1: float
    top1_sd: float | None
    top3: float
    top3_sd: float | None
    last_top1: float  # of the last epoch, also where another was chosen on the validation songs
    last_top1_sd: float | None
    macro_f1: float
    macro_f1_sd: float | None
    cv_top1: float | None  # where all runs were cross-validated
    cv_top1_sd: float | None


def read_rows(folders: Sequence[Path]) -> dict[str, Runs]:
    """Read all runs of results folders, by the names of their rows.

    Print in which settings rows of one model differ, and which runs are there twice. Refuse folders
    without models, or of other songs than the first one's.
    """
    of_folders = {str(folder): compare.collect(folder, say_missing=False) for folder in folders}
    first = {folder: next(iter(models.values())) for folder, models in of_folders.items()}
    compare.check_same_songs(first, "the folders")
    rows: list[Runs] = []
    for model in (model for models in of_folders.values() for model in models.values()):
        if failure := compare.not_learnt(model.metrics):
            print(f"{model.folder} did not learn: {failure}")
        row = next((row for row in rows if _kind(row[0]) == _kind(model)), None)
        if row is None:
            rows.append([model])
        elif again := next((run for run in row if _is_again(model, run)), None):
            print(f"left out: {model.name} in {model.folder} is the run in {again.folder}")
        else:
            row.append(model)
    named: dict[str, Runs] = {}
    for row in rows:
        title, folder = row[0].title.removesuffix(NOT_LEARNT_MARK), row[0].folder
        first_of_name = next(of[0] for of in rows if of[0].name == row[0].name)
        if row[0] is not first_of_name:
            settings = (_settings(model.metrics) for model in (first_of_name, row[0]))
            found = "; ".join(results.differences(*settings)) or "other members"
            print(f"{title}, from {first_of_name.folder} to {folder}: {found}")
        unique = sum(of[0].name == row[0].name for of in rows) == 1
        named[title if unique else f"{title} ({folder})"] = row
    return named


def _kind(model: Model) -> tuple[str, Record, list[str]]:
    """Return what runs that differ in their seed alone have in common."""
    return model.name, _settings(model.metrics), sorted(getattr(model.metrics, "members", ()))


def _settings(metrics: AnyMetrics) -> Record:
    """Return a model's settings without its seed, and without what follows from that."""
    if isinstance(metrics, Task1Metrics):
        return replace(metrics.settings, unseen_in_cv=0)
    settings = replace(metrics.settings, seed=0)
    if not isinstance(metrics, NetworkMetrics):
        return settings
    recipe = metrics.settings.recipe
    if isinstance(recipe, results.TransferRecipe) and metrics.settings.recipe_name == "strong":
        chosen = {"solver": "epochs", "hidden": (), "pooled": False, "temperature": 1.0}
        recipe = replace(recipe, **chosen)  # by cross-validation
    encoders = [
        each if each.pretrained else replace(each, weights="untrained")
        for each in metrics.settings.encoders
    ]
    return replace(settings, recipe=recipe, encoders=encoders)


def _is_again(one: Model, other: Model) -> bool:
    same_seed = one.metrics.provenance.seed == other.metrics.provenance.seed
    return same_seed and np.array_equal(one.scores, other.scores)


def summarise(name: str, runs: Runs) -> Row:
    """Compute means and standard deviations of the runs of a row of this name."""
    figures = [run.figures for run in runs]
    in_cv = [run.cv.top1 for run in runs if run.cv]
    reached = (
        [of.top1 for of in figures],
        [of.top3 for of in figures],
        _hits(runs).mean(axis=1),
        [of.macro_f1 for of in figures],
        in_cv if len(in_cv) == len(runs) else [],
    )
    spread: dict[str, float | None] = {}
    for column, values in zip(COLUMNS, reached, strict=True):
        spread[column] = float(np.mean(values)) if len(values) else None
        spread[f"{column}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    seeds = " ".join(str(run.metrics.provenance.seed) for run in runs)
    folders = " ".join(str(run.folder) for run in runs)
    of_row = {"model": name, "runs": len(runs), "seeds": seeds, "folders": folders}
    return msgspec.convert({**of_row, **spread}, Row)


def _hits(runs: Runs) -> np.ndarray:
    """Return which songs the runs have right at their last epoch: (n_runs, n_songs) bool."""
    return np.stack([evaluation.hits(run.unchosen(), run.val.labels, 1) for run in runs])


def compare_rows(rows: Mapping[str, Runs]) -> list[Pair]:
    """Compare every two rows."""
    albums = next(iter(rows.values()))[0].val.albums
    hits = {name: _hits(runs) for name, runs in rows.items()}
    return evaluation.compare_all(hits, albums, evaluation.compare_runs)


def print_rows(rows: Mapping[str, Runs], table: Sequence[Row], pairs: Sequence[Pair]) -> None:
    """Print the table, and how rows compare."""
    songs = next(iter(rows.values()))[0]
    print(f"{len(songs.val.songs)} validation songs of {songs.metrics.dataset.label}")
    cells = [["   model", "runs", "top-1", "top-3", "last epoch", "F1", "CV"]]
    for number, row in enumerate(table, start=1):
        shares = (_percent(getattr(row, name), getattr(row, f"{name}_sd")) for name in COLUMNS)
        cells.append([f"{number:2} {row.model}", str(row.runs), *shares])
    print(tables.aligned(cells))
    numbers = {row.model: str(number) for number, row in enumerate(table, start=1)}
    best = max(table, key=lambda row: row.last_top1).model
    cells = [["  pair", "points", "95 %", "p", "the first is"]]
    for pair in pairs:
        if len(rows) <= MOST_ROWS or best in (pair.first, pair.second):
            numbered = f"{numbers[pair.first]:>2} - {numbers[pair.second]}"
            points = tables.points(pair.difference), tables.points_between(pair.interval)
            cells.append([numbered, *points, tables.p_text(pair.p_holm), pair.verdict])
    if pairs:
        print(f"\n{tables.aligned(cells)}")
    print(textwrap.fill(NOTE.format(n_pairs=len(pairs), significance=evaluation.SIGNIFICANCE), 100))


def _percent(mean: float | None, sd: float | None) -> str:
    """Write ``48.7 ± 1.2``."""
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write a table with a column for every field, and two for an interval."""
    rows = []
    for record in records:
        row = asdict(record)
        if "interval" in row:
            row["low"], row["high"] = row.pop("interval")
        rows.append(row)
    files.write_csv(path, rows)
