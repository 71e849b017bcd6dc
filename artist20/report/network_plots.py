"""Figures of a network: what it is made of, how it was trained, whom it confuses, what it hears."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from artist20 import UserError
from artist20.checkpoints import (
    EMBEDDING_FILES,
    EpochRow,
    TrainedModel,
    read_embeddings,
    read_history,
)
from artist20.experiment import BEST, read_best
from artist20.report import compare, maps, plots
from artist20.report.architecture import Layer
from artist20.report.style import (
    FAINT,
    INK,
    MARGIN,
    ORANGE,
    TOP1_COLOUR,
    Drawing,
    Look,
    add_footnote,
    in_house_style,
    new_figure,
    text_width,
)
from artist20.results import NetworkMetrics, Predictions, ResNetRecipe, TransferRecipe, read_record

R = TypeVar("R", TransferRecipe, ResNetRecipe)

KIND_COLOURS = {
    "input": "#FFFFFF",
    "front end": "#E4E4E4",
    "frozen": "#C9D3E3",
    "convolution": "#6FAEE0",
    "pooling": "#FFF1C4",
    "linear": "#F5B97F",
    "other": "#D9C9E8",
}
KIND_LABELS = {"frozen": "not trained (dashed edge)", "front end": "front end, scaling"}


# --- from files to figures ---------------------------------------------------------------------


# Each takes a run's folder and, for messages, the command that trains it.


def read_model(folder: Path, kind: type[R], made_by: str) -> tuple[NetworkMetrics, TrainedModel, R]:
    """Read a run's ``metrics.json`` and ``best.pt``; return its recipe, too, which is of a kind."""
    metrics = read_record(folder / "metrics.json", NetworkMetrics, made_by)
    model = read_best(folder, metrics, f"{made_by} --overwrite")
    recipe = model.settings.recipe
    if not isinstance(recipe, kind):
        raise UserError(f"{folder / BEST} is of another kind of network: run {made_by} --overwrite")
    return metrics, model, recipe


def confusion_matrix(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw who is taken for whom by a network."""
    metrics = read_record(folder / "metrics.json", NetworkMetrics, made_by)
    predictions = read_record(folder / "val_predictions.json", Predictions, made_by)
    name, title = metrics.model, metrics.title(metrics.model)
    compare.check_reached(folder, name, metrics, predictions, made_by)
    songs = f"{len(predictions.songs)} validation songs of {metrics.dataset.label}"
    chosen = " (epoch chosen on these songs)" * metrics.selected
    yield Drawing(
        f"task2_confusion_matrix_{name}",
        plots.confusion_matrix(
            predictions.scores[name],
            predictions.labels,
            predictions.classes,
            title=f"{title} on {songs}: top-1 {metrics.top1:.1%}{chosen}",
        ),
        f"Who is taken for whom by {title}: songs by true artist (rows) and best guess (columns). "
        f"Made from task2/{folder.name}/metrics.json and val_predictions.json.",
    )


def training(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw how a network was trained."""
    metrics = read_record(folder / "metrics.json", NetworkMetrics, made_by)
    history = read_history(folder / "history.csv", made_by)
    if len(history) < metrics.epoch:
        file = folder / "history.csv"
        raise UserError(f"{file} has no epoch {metrics.epoch}: run {made_by} again")
    title, data = metrics.title(metrics.model), metrics.dataset
    what = f"training on {data.train} songs of {data.label}, validated on {data.val}"
    yield Drawing(
        f"task2_training_{metrics.model}",
        training_curves(history, metrics, title=f"{title}: {what}"),
        f"Loss, accuracy on the validation songs and learning rate of {title}, epoch by epoch; the "
        "dotted line marks the epoch whose weights were taken. The training loss is of crops as "
        "they were augmented, the other of whole songs. "
        f"Made from task2/{folder.name}/history.csv and metrics.json.",
    )


def song_map(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw a network's map of the songs."""
    metrics = read_record(folder / "metrics.json", NetworkMetrics, made_by)
    val_songs = read_record(folder / "val_predictions.json", Predictions, made_by).songs
    song_map = maps.make_map(read_embeddings(folder, metrics, val_songs, made_by))
    title, data = metrics.title(metrics.model), metrics.dataset
    files = ", ".join(["metrics.json", "val_predictions.json", *EMBEDDING_FILES])
    songs = f"{data.train} training and {data.val} validation songs of {data.label}"
    print(song_map.caption)
    yield Drawing(
        f"task2_map_{metrics.model}",
        plots.song_map(song_map, title=f"{songs}, as heard by {title}"),
        f"{song_map.caption} The numbers are {title}'s embeddings; from the training songs the "
        f"network has learnt, which sets these apart. Made from task2/{folder.name}/{files}.",
    )


# --- figures -----------------------------------------------------------------------------------


@in_house_style
def architecture(rows: Sequence[Layer], *, title: str) -> Figure:
    """Draw a network as a flow of blocks, top to bottom.

    ``rows`` are what :func:`artist20.report.architecture.describe` returned. Those of networks that
    follow one another can be joined: an input that is the output above it is not drawn again.
    """
    drawn: list[Layer] = []
    for row in rows:
        if not (row.kind == "input" and drawn and drawn[-1].output_shape == row.output_shape):
            drawn.append(row)
    headings = ("Layer", "Operation", "Output shape", "Parameters")
    weights, aligns = ("bold", *["normal"] * 3), ("left", "left", "right", "right")
    cells = [
        (
            row.name,
            row.detail,
            " × ".join(f"{n:,}" if n >= 10_000 else str(n) for n in row.output_shape),
            f"{row.n_parameters:,}" if row.n_parameters else "–",
        )
        for row in drawn
    ]
    widths = [
        max(text_width(text, 13, weight) for text in (heading, *column) if text)
        for heading, weight, *column in zip(headings, weights, *cells, strict=True)
    ]
    gap, height, pitch = 0.35, 0.3, 0.41  # inches, as all data units
    edges = 0.15 + np.cumsum([0, *(width + gap for width in widths)])
    columns = list(zip((edges[0], edges[1], edges[3] - gap, edges[4] - gap), aligns, strict=True))
    width, flow = edges[-1] - gap + 0.15, pitch * len(drawn)
    figure = new_figure(width + 2 * MARGIN, flow + 1.2, title)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(-0.01, width + 0.01), ylim=(0, flow + 0.25))
    for (x, align), heading in zip(columns, headings, strict=True):
        axes.text(x, flow + 0.12, heading, ha=align, va="center", color=FAINT, fontsize=11)
    for index, (row, texts) in enumerate(zip(drawn, cells, strict=True)):
        bottom = flow - (index + 1) * pitch + (pitch - height) / 2
        shape = "round,pad=0,rounding_size=0.06"
        box = FancyBboxPatch((0, bottom), width, height, boxstyle=shape, edgecolor=INK)
        box.set(facecolor=KIND_COLOURS[_group(row)], ls="--" if row.frozen else "-", lw=1.2)
        axes.add_patch(box)
        for (x, align), text, weight in zip(columns, texts, weights, strict=True):
            y = bottom + height / 2
            axes.text(x, y, text, ha=align, va="center_baseline", fontsize=13, fontweight=weight)
        if index and not row.shortcut:
            arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
            start, end = (width / 2, bottom + pitch), (width / 2, bottom + height)
            axes.annotate("", end, start, arrowprops=arrow)
    total, trained = sum(row.n_parameters for row in rows), sum(row.n_trainable for row in rows)
    split = f": {trained:,} trainable, {total - trained:,} not trained"
    kinds = ", all trainable" if trained == total else split
    add_footnote(figure, f"{total:,} parameters{kinds}")
    patches = [
        Patch(
            facecolor=colour,
            edgecolor=INK,
            linestyle="--" if group == "frozen" else "-",
            label=KIND_LABELS.get(group, group),
        )
        for group, colour in KIND_COLOURS.items()
        if group != "input" and group in map(_group, drawn)
    ]
    place: Look = {"loc": "upper left", "bbox_to_anchor": (0, 0), "borderaxespad": 0}
    axes.legend(handles=patches, **place, ncols=len(patches), columnspacing=1.5)
    return figure


def _group(row: Layer) -> str:
    return "frozen" if row.frozen and row.kind != "front end" else row.kind


@in_house_style
def training_curves(history: Sequence[EpochRow], metrics: NetworkMetrics, *, title: str) -> Figure:
    """Draw how a network was trained, from the first epoch on, and whose weights were taken."""
    figure = new_figure(13.0, 4.4, title)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [row.epoch for row in history]
    look: Look = {"marker": "o" if len(history) < 30 else "", "markersize": 4, "linewidth": 1.8}

    def plot(axes: Axes, column: str, label: str, colour: str, line: str, factor: int = 1) -> None:
        y = [factor * getattr(row, column) for row in history]
        axes.plot(epochs, y, color=colour, linestyle=line, label=label, **look)

    recipe = metrics.settings.recipe
    beside_lda = isinstance(recipe, ResNetRecipe) and recipe.lda_share > 0
    trained_on = "training, without LDA" if beside_lda else "training songs"
    plot(loss, "train_loss", trained_on, ORANGE, "--")
    plot(loss, "val_loss", "validation songs", TOP1_COLOUR, "-")
    plot(accuracy, "val_top3", "top-3", ORANGE, "--", 100)
    plot(accuracy, "val_top1", "top-1", TOP1_COLOUR, "-", 100)
    plot(rate, "lr", "", TOP1_COLOUR, "-")
    taken = history[metrics.epoch - 1]
    for share in (taken.val_top1, taken.val_top3):
        accuracy.plot(taken.epoch, 100 * share, "o", color="white", mec=INK, markersize=8)
    losses = [value for row in history for value in (row.train_loss, row.val_loss)]
    # The first epochs' can be ten times the last's, and would flatten all others.
    logarithmic = min(losses) > 0 and max(losses) > 5 * min(losses)
    of_loss = f"Loss (cross-entropy{', log scale' if logarithmic else ''})"
    headings = (of_loss, "Accuracy (% of validation songs)", "Learning rate")
    for axes, heading in zip((loss, accuracy, rate), headings, strict=True):
        axes.axvline(taken.epoch, color=INK, linestyle=":", linewidth=1.4, zorder=0.9)
        axes.set_title(heading, fontsize=12, loc="left")
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid()
    if logarithmic:
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_formatter(NullFormatter())
    accuracy.set_ylim(0, 104)
    rate.set_ylim(bottom=0)
    for axes in (loss, accuracy):
        # A frame without an edge: the dotted line may run behind the legend.
        axes.legend(loc="best", frameon=True, edgecolor="none", framealpha=0.9)
    why = "chosen on the validation songs" if metrics.selected else "the last one, not chosen"
    reached = f"{taken.val_top1:.1%} / {taken.val_top3:.1%}"
    add_footnote(figure, f"Dotted: epoch {taken.epoch}, {why}; top-1 / top-3 {reached}.")
    return figure
