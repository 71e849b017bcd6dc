"""Figures for the report: arrays in, a matplotlib ``Figure`` out.

Nothing here loads a model or a file, and nothing touches pyplot's global state.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.text import Text
from PIL import Image

from artist20.artifacts import atomic_path

if TYPE_CHECKING:  # architecture.py imports torch, which Task 1's report does without
    from artist20.architecture import Layer

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "figure.constrained_layout.w_pad": 0.12,  # inches
    "figure.constrained_layout.h_pad": 0.08,
    "text.parse_math": False,  # an artist's name may hold dollar signs
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's default, Type 3
    "svg.hashsalt": "artist20",  # names of parts are drawn at random without it
}

# Each pair and each group differs in lightness too, so that a grey print keeps it apart.
TOP1_COLOUR = "#3B7FBF"
TOP3_COLOUR = "#B5D5EF"
INK = "#222222"
FAINT = "#666666"
KIND_COLOURS = {
    "input": "#FFFFFF",
    "front end": "#E4E4E4",
    "frozen": "#C9D3E3",
    "convolution": "#6FAEE0",
    "pooling": "#FFF1C4",
    "linear": "#F5B97F",
    "other": "#D9C9E8",
}
MARGIN = 0.2  # inches


@rc_context(STYLE)
def model_comparison(
    names: Sequence[str],
    top1: Sequence[float],
    top3: Sequence[float],
    *,
    title: str,
    n_songs: int,
    note: str | None = None,
    top1_interval: np.ndarray | None = None,
    top3_interval: np.ndarray | None = None,
    n_classes: int | None = None,
) -> Figure:
    """Draw top-1 and top-3 accuracy of several models side by side.

    Parameters
    ----------
    names : sequence of str
        The models, left to right.
    top1, top3 : sequence of float, length n_models
        Fractions of songs; drawn in percent.
    title : str
        Wrapped to the figure's width.
    n_songs : int
        Number of songs that the fractions are of.
    note : str, optional
        Small print under the axes, for instance what the whiskers are.
    top1_interval, top3_interval : ndarray of float, shape (n_models, 2), optional
        Low and high ends of the whiskers, as fractions.
    n_classes : int, optional
        Number of artists; draws the accuracy of guessing, 1 / n_classes and 3 / n_classes.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If an accuracy is not a fraction, or not one per model.
    """
    figure = _figure(max(8.0, 1.7 * len(names) + 1.5), 4.8, title, layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(names))
    series = (
        ("Top-1", top1, top1_interval, TOP1_COLOUR, 1),
        ("Top-3", top3, top3_interval, TOP3_COLOUR, 3),
    )
    bar_width = 0.38
    for offset, (label, fractions, interval, colour, k) in zip((-0.5, 0.5), series, strict=True):
        percent = 100 * np.asarray(fractions, dtype=float)
        if percent.shape != x.shape or not ((percent >= 0) & (percent <= 100)).all():
            raise ValueError(f"{label}: one fraction per model expected, got {list(fractions)}")
        tops = percent
        centres = x + 1.04 * bar_width * offset
        axes.bar(centres, percent, bar_width, color=colour, label=label)
        if interval is not None:
            low, high = 100 * np.asarray(interval, dtype=float).T
            axes.errorbar(
                centres,
                (low + high) / 2,
                yerr=(high - low) / 2,
                fmt="none",
                ecolor=INK,
                elinewidth=1.4,
                capsize=5,
            )
            tops = high
        for centre, value, top in zip(centres, percent, tops, strict=True):
            axes.annotate(
                f"{value:.1f}",
                (centre, top),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontweight="bold",
                color=INK,
            )
        if n_classes is not None:
            chance = 100 * min(1.0, k / n_classes)
            axes.axhline(
                chance,
                color=INK,
                linewidth=1.2,
                linestyle=("--" if k == 1 else ":"),
                zorder=0.8,  # behind the bars
                label=f"{label} by chance, {chance:.3g} %",
            )

    _percent_of_models(axes, names, f"Accuracy (% of {n_songs} songs)")
    handles, labels = axes.get_legend_handles_labels()
    bars_first = sorted(zip(handles, labels, strict=True), key=lambda pair: "chance" in pair[1])
    axes.legend(
        *zip(*bars_first, strict=True),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=1.6,
        columnspacing=1.4,
    )
    if note:
        footnote = figure.supxlabel("", fontsize=10, color=FAINT, ha="left")
        footnote.set_x(MARGIN / figure.get_figwidth())
        _wrap(footnote, note)
    figure.draw_without_rendering()
    return figure


@rc_context(STYLE)
def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Draw a confusion matrix: colour is the row's percentage, text is the count.

    Parameters
    ----------
    matrix : ndarray of int, shape (n, n)
        Songs; row = true artist, column = predicted artist. A row may be empty.
    class_names : sequence of str, length n
        Artists in the order of the rows; underscores are drawn as spaces.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
        Percentages are written below the counts while the cells have room, and no text is written
        from about 25 artists on.

    Raises
    ------
    ValueError
        If the matrix is not square with one name per row.
    """
    matrix = np.asarray(matrix)
    n = len(class_names)
    if matrix.shape != (n, n):
        raise ValueError(f"{n} class names for a matrix of shape {matrix.shape}")
    songs = matrix.sum(axis=1, keepdims=True)
    percent = np.divide(100 * matrix, songs, out=np.zeros((n, n)), where=songs > 0)
    cell = float(np.clip(7.2 / n, 0.17, 0.9))  # inches
    names = [name.replace("_", " ") for name in class_names]
    roomy = cell > 0.28
    font_size = 11.0 if roomy else 9.0

    measure = _figure(1, 1, "")
    label = max(_text_width(measure, name, fontsize=font_size) for name in names)
    label_height = 0.75 * label + 0.1 if roomy else label
    side = n * cell
    left, bottom = MARGIN + 0.35 + label, MARGIN + 0.35 + label_height
    figure = _figure(left + side + 1.3, bottom + side + 0.1, title)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    bar = ((left + side + 0.25) / width, bottom / height, 0.2 / width, side / height)
    sns.heatmap(
        percent,
        ax=axes,
        vmin=0,
        vmax=100,
        cmap="Blues",
        annot=_cell_texts(matrix, percent, cell) if roomy else None,
        fmt="",
        annot_kws={"fontsize": font_size},
        linewidths=0.5,
        linecolor="#E8E8E8",
        xticklabels=names,
        yticklabels=names,
        cbar_ax=figure.add_axes(bar),
        cbar_kws={"label": "% of the true artist's songs"},
    )
    for text, count, share in zip(axes.texts, matrix.flat, percent.flat, strict=False):
        text.set_color("white" if share > 60 else INK if count else "#C4C4C4")
    for row in np.flatnonzero(songs == 0):
        # Unlike 0 %, which has a colour: nothing is known about this artist.
        axes.axhspan(row, row + 1, facecolor="#DDDDDD", edgecolor="white")
        if roomy:
            for text in axes.texts[row * n : (row + 1) * n]:
                text.set_text("")
            axes.text(n / 2, row + 0.5, "no songs", ha="center", va="center", color=FAINT)
    axes.tick_params(length=0, labelsize=font_size)
    axes.tick_params(axis="y", rotation=0)
    if roomy:
        for tick_label in axes.get_xticklabels():
            tick_label.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
    else:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("Predicted artist")
    axes.set_ylabel("True artist")
    figure.draw_without_rendering()
    return figure


@rc_context(STYLE)
def album_effect(
    names: Sequence[str],
    by_song: Sequence[float],
    by_album: Sequence[float],
    *,
    title: str,
    n_songs: int,
) -> Figure:
    """Draw each model's top-1 accuracy under folds by song and under folds by album.

    Parameters
    ----------
    names : sequence of str
        The models, left to right.
    by_song, by_album : sequence of float, length n_models
        Top-1 in cross-validation, as fractions: other songs of an album are among the training
        songs, or none is.
    title : str
        Wrapped to the figure's width.
    n_songs : int
        Number of songs cross-validated.

    Returns
    -------
    Figure
    """
    figure = _figure(max(8.0, 1.7 * len(names) + 1.5), 4.8, title, layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(names))
    for offset, label, fractions, colour in (
        (-0.2, "Albums split between folds", by_song, TOP3_COLOUR),
        (0.2, "Albums kept whole", by_album, TOP1_COLOUR),
    ):
        bars = axes.bar(x + offset, 100 * np.asarray(fractions), 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontweight="bold", color=INK, padding=2)
    label = f"Top-1 (%), mean over the folds\nof {n_songs} training songs"
    _percent_of_models(axes, names, label)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    figure.draw_without_rendering()
    return figure


@rc_context(STYLE)
def reliability(
    names: Sequence[str],
    bins: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    notes: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Draw how often models are right against how sure they are.

    Parameters
    ----------
    names : sequence of str
        One panel per model.
    bins : sequence of (confidence, accuracy, n_songs)
        What ``evaluation.reliability`` returned for each.
    notes : sequence of str
        A line under each panel's heading.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
        The area of a dot is in proportion to its bin's songs.
    """
    figure = _figure(3.1 * len(names) + 0.6, 3.9, title, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name, (confidence, accuracy, n_songs), note in zip(
        panels, names, bins, notes, strict=True
    ):
        axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.2, linestyle="--")
        area = 900 * n_songs / n_songs.sum()
        axes.scatter(100 * confidence, 100 * accuracy, area, color=TOP1_COLOUR, edgecolor=INK)
        axes.set_title(f"{name}\n{note}", fontsize=12, loc="left")
        axes.set(xlim=(0, 100), ylim=(-4, 104), xticks=range(0, 101, 25), aspect="equal")
        axes.set_yticks(range(0, 101, 25))
        axes.grid()
    panels[0].set_ylabel("Right (% of a bin's songs)")
    figure.supxlabel("Probability of the best guess (%)", fontsize=12)
    figure.draw_without_rendering()
    return figure


@rc_context(STYLE)
def ablation(
    families: Sequence[str],
    without: Sequence[float],
    alone: Sequence[float],
    lost: Sequence[float],
    lost_std: Sequence[float],
    *,
    whole: float,
    title: str,
) -> Figure:
    """Draw what each family of features is worth to one model, in three ways.

    Parameters
    ----------
    families : sequence of str
        Names with sizes, top to bottom.
    without, alone : sequence of float
        Top-1 in cross-validation without a family and with it alone, as fractions.
    lost, lost_std : sequence of float
        Top-1 lost on the validation songs when a family is shuffled: mean and standard deviation.
    whole : float
        Top-1 in cross-validation with all families.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
    """
    figure = _figure(11.5, 0.36 * len(families) + 1.3, title, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    y = np.arange(len(families))
    values = (
        ("alone: top-1 in CV (%)", 100 * np.asarray(alone), None),
        ("left out: points lost in CV", 100 * (whole - np.asarray(without)), None),
        ("shuffled: points lost in validation", 100 * np.asarray(lost), 100 * np.asarray(lost_std)),
    )
    for axes, (label, points, spread) in zip(panels, values, strict=True):
        axes.barh(y, points, 0.7, color=TOP1_COLOUR, xerr=spread, ecolor=INK, capsize=2)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel(label)
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    panels[0].axvline(100 * whole, color=INK, linestyle="--", linewidth=1.2)
    panels[0].annotate(
        "all families",
        (100 * whole, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=10,
    )
    panels[0].set_yticks(y, families)
    panels[0].invert_yaxis()
    figure.draw_without_rendering()
    return figure


@rc_context(STYLE)
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
    measure = _figure(1, 1, "")
    widths = [
        max(
            _text_width(measure, text, fontsize=13, fontweight=weight)
            for text in (heading, *column)
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
    figure = _figure(width, below + flow + above, title)
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
        if index:
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
    _wrap(figure.text(MARGIN / width, 0.45 / figure.get_figheight(), "", va="top"), _totals(rows))
    return figure


# What would name the program and the time: the same figure is the same bytes.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Creator": None, "Date": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def save(figure: Figure, path: Path, caption: str) -> None:
    """Write a figure and its caption, atomically; the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
    path : Path
        Its suffix is the format, ``.png``, ``.svg`` or ``.pdf``; its folder is made if need be.
    caption : str
        One or two sentences: what is seen, and which files of the results folder it was made
        from. Goes to ``path`` with the suffix ``.txt``.

    Raises
    ------
    ValueError
        If the suffix is another.
    """
    if path.suffix not in METADATA:
        raise ValueError(f"{path}: figures are written as {', '.join(METADATA)}")
    with atomic_path(path) as picture, atomic_path(path.with_suffix(".txt")) as text:
        text.write_text(f"{caption}\n", encoding="utf-8")
        with rc_context(STYLE):
            figure.savefig(picture, dpi=150, metadata=METADATA[path.suffix])
        if path.suffix == ".png":
            _reduce_colours(picture)


def _reduce_colours(picture: Path) -> None:
    """Give a PNG a palette, which makes it a third as large and is not seen."""
    with Image.open(picture) as image:
        reduced = image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
        reduced.save(picture, dpi=image.info["dpi"], optimize=True)


def _percent_of_models(axes: Axes, names: Sequence[str], label: str) -> None:
    """Set up the axes of a bar chart: models from left to right, percent upwards."""
    axes.set_xticks(range(len(names)), [textwrap.fill(name, 14) for name in names])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 108)  # a label above a bar of 100 % needs the rest
    axes.set_yticks(range(0, 101, 20))
    axes.spines["left"].set_bounds(0, 100)
    axes.set_ylabel(label)
    axes.grid(axis="y")


def _figure(width: float, height: float, title: str, layout: str = "none") -> Figure:
    """Make a figure of that many inches, and as much higher as the wrapped title needs."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    if title:
        heading = figure.suptitle("", x=MARGIN / width, ha="left", va="top")
        _wrap(heading, title)
        title_height = heading.get_window_extent().height / figure.dpi
        figure.set_figheight(height + title_height + MARGIN)
        heading.set_y(1 - MARGIN / 2 / figure.get_figheight())
    return figure


def _wrap(text: Text, words: str) -> None:
    """Fill in ``words``, in as many lines as the width of the figure makes necessary.

    Matplotlib's own wrapping leaves a word that is wider than the figure as it is.
    """
    figure = text.get_figure()
    room = (figure.get_figwidth() - 2 * MARGIN) * figure.dpi
    text.set_text(words)
    share = room / text.get_window_extent().width
    # Lines differ in how wide their letters are, by less than a half.
    most = min(len(words), int(1.5 * share * len(words)))
    for characters in range(most, 0, -1):
        text.set_text(textwrap.fill(words, characters))
        if text.get_window_extent().width <= room:
            return


def _text_width(figure: Figure, words: str, **font: Any) -> float:
    """Width of a line of text in inches."""
    text = figure.text(0, 0, words, **font)
    width = text.get_window_extent().width / figure.dpi
    text.remove()
    return width


def _cell_texts(matrix: np.ndarray, percent: np.ndarray, cell: float) -> np.ndarray:
    if cell < 0.6:
        return matrix.astype(str)
    pairs = zip(matrix.flat, percent.flat, strict=True)
    texts = [f"{count}\n{share:.0f} %" if count else "0" for count, share in pairs]
    return np.array(texts).reshape(matrix.shape)


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
