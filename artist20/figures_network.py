"""Figures of a network: what it is made of, and how it was trained.

As in figures.py: arrays in, a matplotlib ``Figure`` out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from artist20.figures import (
    FAINT,
    INK,
    MARGIN,
    TOP1_COLOUR,
    in_house_style,
    new_figure,
    text_width,
    wrap_text,
)

if TYPE_CHECKING:  # architecture.py imports torch, which drawing does without
    from artist20.architecture import Layer

KIND_COLOURS = {
    "input": "#FFFFFF",
    "front end": "#E4E4E4",
    "frozen": "#C9D3E3",
    "convolution": "#6FAEE0",
    "pooling": "#FFF1C4",
    "linear": "#F5B97F",
    "other": "#D9C9E8",
}


@in_house_style
def architecture(rows: Sequence["Layer"], *, title: str) -> Figure:
    """Draw a network as a flow of blocks, top to bottom.

    Parameters
    ----------
    rows : sequence of Layer
        What ``artist20.architecture.describe`` returned. The rows of networks that follow one
        another can be joined: an input that is the output above it is not drawn again.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
    """
    drawn: list[Layer] = []
    for row in rows:
        repeated = row.kind == "input" and drawn and drawn[-1].output_shape == row.output_shape
        if row.kind != "not drawn" and not repeated:
            drawn.append(row)

    headings = ("Layer", "Operation", "Output shape", "Parameters")
    weights = ("bold", "normal", "normal", "normal")
    cells = [
        (
            row.name,
            row.detail,
            " × ".join(map(_size, row.output_shape)),
            f"{row.n_parameters:,}" if row.n_parameters else "–",
        )
        for row in drawn
    ]
    measure = new_figure(1, 1, "")
    widths = [
        max(
            text_width(measure, text, fontsize=13, fontweight=weight) for text in (heading, *column)
        )
        for heading, weight, *column in zip(headings, weights, *cells, strict=True)
    ]
    gap, height, pitch = 0.35, 0.3, 0.41
    name_x = MARGIN + 0.15
    detail_x = name_x + widths[0] + gap
    shape_x = detail_x + widths[1] + gap + widths[2]
    count_x = shape_x + gap + widths[3]
    box_width = count_x + 0.15 - MARGIN
    width, flow = box_width + 2 * MARGIN, pitch * len(drawn)

    below, above = 0.9, 0.25
    figure = new_figure(width, below + flow + above, title)
    # Data units are inches with the origin below the flow, so that text and boxes can share them.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(-below, figure.get_figheight() - below))
    columns = ((name_x, "left"), (detail_x, "left"), (shape_x, "right"), (count_x, "right"))
    for (x, align), heading in zip(columns, headings, strict=True):
        axes.text(x, flow + 0.12, heading, ha=align, va="center", color=FAINT, fontsize=11)
    for index, (row, texts) in enumerate(zip(drawn, cells, strict=True)):
        bottom = flow - (index + 1) * pitch + (pitch - height) / 2
        axes.add_patch(
            FancyBboxPatch(
                (MARGIN, bottom),
                box_width,
                height,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=KIND_COLOURS[_group(row)],
                edgecolor=INK,
                linewidth=1.2,
                linestyle="--" if row.frozen else "-",
            )
        )
        for (x, align), text, weight in zip(columns, texts, weights, strict=True):
            axes.text(
                x,
                bottom + height / 2,
                text,
                ha=align,
                va="center_baseline",
                fontsize=13,
                fontweight=weight,
            )
        if index and not row.shortcut:
            axes.annotate(
                "",
                (MARGIN + box_width / 2, bottom + height),
                xytext=(MARGIN + box_width / 2, bottom + pitch),
                arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0},
            )

    groups = [group for group in KIND_COLOURS if group in map(_group, drawn) and group != "input"]
    figure.legend(
        handles=[_legend_patch(group) for group in groups],
        loc="lower left",
        bbox_to_anchor=(MARGIN / width, 0.55 / figure.get_figheight()),
        ncols=len(groups),
        borderaxespad=0,
        borderpad=0,
        columnspacing=1.5,
    )
    totals = figure.text(MARGIN / width, 0.45 / figure.get_figheight(), "", va="top")
    wrap_text(totals, _totals(rows))
    return figure


@in_house_style
def training_curves(
    history: Mapping[str, np.ndarray], *, epoch: int, chosen: str, title: str
) -> Figure:
    """Draw how a network was trained, epoch by epoch.

    Parameters
    ----------
    history : mapping of str to ndarray of float, shape (n_epochs,)
        The columns of ``history.csv``: ``epoch``, ``train_loss``, ``val_loss``, ``val_top1``,
        ``val_top3`` and ``lr``.
    epoch : int
        The one whose weights were taken.
    chosen : str
        Why it was taken.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
    """
    figure = new_figure(13.0, 4.2, title, layout="constrained")
    panels = figure.subplots(1, 3)
    epochs = history["epoch"]
    marker = "o" if len(epochs) < 30 else ""
    losses = np.concatenate([history["train_loss"], history["val_loss"]])
    # The first epochs' can be ten times the last's, and would flatten all others.
    logarithmic = losses.min() > 0 and losses.max() > 5 * losses.min()
    series: tuple[tuple[Axes, str, float, str, str, str], ...] = (
        (panels[0], "train_loss", 1, "training songs", "#D98A29", "--"),
        (panels[0], "val_loss", 1, "validation songs", TOP1_COLOUR, "-"),
        (panels[1], "val_top3", 100, "top-3", "#D98A29", "--"),
        (panels[1], "val_top1", 100, "top-1", TOP1_COLOUR, "-"),
        (panels[2], "lr", 1, "", TOP1_COLOUR, "-"),
    )
    for axes, column, factor, label, colour, line in series:
        axes.plot(
            *(epochs, factor * history[column]),
            color=colour,
            linestyle=line,
            linewidth=1.8,
            marker=marker,
            markersize=4,
            label=label,
        )
    at = int(np.flatnonzero(epochs == epoch)[0])
    for column in ("val_top3", "val_top1"):
        value = 100 * history[column][at]
        panels[1].plot(epoch, value, "o", color="white", markeredgecolor=INK, markersize=8)
    for axes, label in zip(
        panels,
        (
            f"Loss (cross-entropy{', log scale' if logarithmic else ''})",
            "Accuracy (% of validation songs)",
            "Learning rate",
        ),
        strict=True,
    ):
        axes.axvline(epoch, color=INK, linestyle=":", linewidth=1.4, zorder=0.9)
        axes.set_title(label, fontsize=12, loc="left")
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid()
    if logarithmic:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[1].set_ylim(0, 104)
    panels[2].set_ylim(bottom=0)
    for axes in panels[:2]:
        # A frame without an edge: the dotted line may run behind the legend.
        axes.legend(loc="best", frameon=True, edgecolor="none", framealpha=0.9)
    reached = f"{history['val_top1'][at]:.1%} / {history['val_top3'][at]:.1%}"
    note = figure.supxlabel("", fontsize=11, ha="left")
    note.set_x(MARGIN / figure.get_figwidth())
    wrap_text(note, f"Dotted: epoch {epoch}, {chosen}; top-1 / top-3 {reached}.")
    return figure


def _size(number: int) -> str:
    """Write one axis of a shape; thousands are set apart where it is long, as in a waveform."""
    return f"{number:,}" if number >= 10_000 else str(number)


def _group(row: "Layer") -> str:
    if row.frozen and row.kind != "front end":
        return "frozen"
    return row.kind


def _legend_patch(group: str) -> Patch:
    labels = {"frozen": "frozen (dashed edge)", "front end": "front end, scaling"}
    return Patch(
        facecolor=KIND_COLOURS[group],
        edgecolor=INK,
        linestyle="--" if group == "frozen" else "-",
        label=labels.get(group, group),
    )


def _totals(rows: Iterable["Layer"]) -> str:
    rows = list(rows)
    total = sum(row.n_parameters for row in rows)
    trainable = sum(row.n_trainable for row in rows)
    text = f"{total:,} parameters, all trainable"
    if trainable < total:
        text = f"{total:,} parameters: {trainable:,} trainable, {total - trainable:,} frozen"
    for row in rows:
        if row.kind == "not drawn":
            text += f"; {row.n_parameters:,} of them not drawn, in {row.name}"
    return text
