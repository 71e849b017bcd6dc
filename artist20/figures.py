"""Figures for the report: arrays in, a matplotlib ``Figure`` out.

Nothing here loads a model or a file, and nothing touches pyplot's global state. Confusions are in
figures_confusion.py, what a network is made of in figures_network.py.
"""

import logging
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import seaborn as sns
from matplotlib import font_manager, rcParams, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text
from PIL import Image

from artist20 import Note, UserError
from artist20.files import DiskFullError, atomic_path

# It would tell of each font that is not there in bold.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

P = ParamSpec("P")

FONT = "DejaVu Sans"  # comes with matplotlib: the same picture on every machine
LAST_RESORT = "Last Resort High-Efficiency"  # comes with it, too: boxes for all letters there are
STYLE = {
    "font.family": FONT,
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
# Okabe and Ito's colours (2008) without the yellow, which is lost on white, and three that are no
# nearer to them in deuteranopia than they are to each other; markers for grey prints.
SERIES = (
    *(("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v")),
    *(("#D55E00", "P"), ("#000000", "X"), ("#602000", "p"), ("#2020E0", "h"), ("#882255", "*")),
)
MOST_ARTISTS = 40  # that a figure has room for
MOST_LETTERS = 40  # of a name
Drawing = tuple[str, Figure, str]  # name of its file without suffix, figure, caption
MARGIN = 0.2  # inches

_without_glyph: set[str] = set()  # letters of figures saved


def in_house_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in :data:`STYLE`, whatever the user's matplotlibrc says.

    Letters that :data:`FONT` lacks are drawn in installed fonts that have them.
    """

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _house_style():
            figure, missing = _laid_out(draw, *args, **kwargs)
            if missing and (fonts := _fonts_with(frozenset(missing))):
                rcParams["font.family"] = [FONT, *fonts]
                figure, _ = _laid_out(draw, *args, **kwargs)
        return figure

    return in_style


def _house_style() -> Any:
    return style.context(STYLE, after_reset=True)


def _laid_out(
    draw: Callable[P, Figure], *args: P.args, **kwargs: P.kwargs
) -> tuple[Figure, set[str]]:
    """Draw a figure; return it with the letters that its fonts lack."""
    with _missing_glyphs() as missing:
        figure = draw(*args, **kwargs)
        figure.draw_without_rendering()
    return figure, missing


@contextmanager
def _missing_glyphs() -> Iterator[set[str]]:
    """Collect the letters that matplotlib would warn of, one by one; other warnings are given."""
    missing: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", r"Glyph \d+ .* missing from font")
        yield missing
    for warning in caught:
        if found := re.match(r"Glyph (\d+) .* missing from font", str(warning.message)):
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


@cache
def _fonts_with(letters: frozenset[str]) -> list[str]:
    """Choose as few installed fonts as have these letters, or those of them that any has."""
    known = {entry.fname for entry in fontManager.ttflist}
    for file in sorted({*font_manager.findSystemFonts()} - known):  # newer than matplotlib's list
        with suppress(OSError, RuntimeError):  # of fonts that it cannot draw
            fontManager.addfont(file)
    of_fonts = {}
    for font in sorted({entry.name for entry in fontManager.ttflist} - {FONT, LAST_RESORT}):
        file = fontManager.findfont(FontProperties(family=font))
        of_fonts[font] = letters.intersection(map(chr, font_manager.get_font(file).get_charmap()))
    chosen: list[str] = []
    while any(of_fonts.values()):
        chosen.append(max(of_fonts, key=lambda font: len(of_fonts[font])))
        found = of_fonts[chosen[-1]]
        of_fonts = {font: letters - found for font, letters in of_fonts.items()}
    return chosen


def tell_missing_glyphs() -> None:
    """Warn of the letters in figures saved since the last call that no installed font has."""
    if _without_glyph:
        letters = sorted(_without_glyph)
        listed = " ".join(letters[:MOST_LETTERS])
        more = len(letters) - MOST_LETTERS
        _without_glyph.clear()
        warnings.warn(
            Note(
                f"no installed font has {listed}{f' and {more} more' if more > 0 else ''}: figures "
                "have boxes in their place; install a font that has them, Noto Sans CJK for "
                "Chinese, Japanese and Korean, else Noto Sans of their script, and run the same "
                "command again"
            ),
            stacklevel=2,
        )


@in_house_style
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
    figure = new_figure(max(8.0, 1.6 * len(names) + 1.5), 4.8, title, layout="constrained")
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
        for centre, value in zip(centres, percent, strict=True):
            # Below its bar: above, it would stand at the whisker's end and seem to be that.
            axes.annotate(
                f"{value:.1f}",
                (centre, 0),
                xytext=(0, -4),
                textcoords="offset points",
                ha="center",
                va="top",
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
    axes.tick_params(axis="x", pad=20)
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
        wrap_text(footnote, note)
    return figure


@in_house_style
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
    figure = new_figure(max(8.0, 1.7 * len(names) + 1.5), 4.8, title, layout="constrained")
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
    return figure


@in_house_style
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
    figure = new_figure(max(8.0, 3.1 * len(names) + 0.6), 4.1, title, layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name, (confidence, accuracy, n_songs), note in zip(
        panels, names, bins, notes, strict=True
    ):
        axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.2, linestyle="--")
        area = 900 * n_songs / n_songs.sum()
        axes.scatter(100 * confidence, 100 * accuracy, area, color=TOP1_COLOUR, edgecolor=INK)
        axes.set_title(f"{wrapped(name, 28)}\n{note}", fontsize=12, loc="left")
        axes.set(xlim=(0, 100), ylim=(-4, 104), xticks=range(0, 101, 25), aspect="equal")
        axes.set_yticks(range(0, 101, 25))
        axes.grid()
    panels[0].set_ylabel("Right (% of a bin's songs)")
    figure.supxlabel("Probability of the best guess (%)", fontsize=12)
    return figure


@in_house_style
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
    figure = new_figure(11.5, 0.36 * len(families) + 1.3, title, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    y = np.arange(len(families))
    values = (
        ("alone: top-1 in CV (%)", 100 * np.asarray(alone), None),
        ("left out: points lost in CV", 100 * (whole - np.asarray(without)), None),
        (
            "shuffled: points lost in validation\n(with standard deviation)",
            100 * np.asarray(lost),
            100 * np.asarray(lost_std),
        ),
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
    return figure


@in_house_style
def top_k(names: Sequence[str], accuracy: np.ndarray, *, title: str, n_classes: int) -> Figure:
    """Draw how often an artist is among a model's k best guesses.

    Parameters
    ----------
    names : sequence of str
        The models; the legend has them by their top-1.
    accuracy : ndarray of float, shape (n_models, most)
        Fractions for k = 1, 2, ..., most.
    title : str
        Wrapped to the figure's width.
    n_classes : int
        Number of artists; draws the accuracy of guessing, k / n_classes.

    Returns
    -------
    Figure
    """
    figure = new_figure(11.5, 5.2, title, layout="constrained")
    axes = figure.add_subplot()
    k = np.arange(1, accuracy.shape[1] + 1)
    for row in np.argsort(-accuracy[:, 0], kind="stable"):
        colour, marker = SERIES[row % len(SERIES)]
        axes.plot(
            *(k, 100 * accuracy[row]),
            color=colour,
            marker=marker,
            markersize=7,
            markeredgecolor=INK,
            linewidth=1.8,
            label=wrapped(f"{names[row]}: {accuracy[row, 0]:.1%}", 30),
        )
    axes.plot(k, 100 * k / n_classes, color=INK, linestyle="--", linewidth=1.2, label="by chance")
    axes.set_xticks(k)
    axes.set_ylim(0, 104)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel("k: guesses that count")
    axes.set_ylabel("Artist among the k best (% of songs)")
    axes.grid()
    axes.legend(
        title="Models, by top-1",
        title_fontsize=11,
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1, 1),
        borderaxespad=0,
    )
    return figure


@in_house_style
def f1_by_artist(
    names: Sequence[str],
    f1: np.ndarray,
    artists: Sequence[str],
    n_songs: np.ndarray,
    *,
    title: str,
) -> Figure:
    """Draw how well each model knows each artist.

    Parameters
    ----------
    names : sequence of str
        The models, left to right.
    f1 : ndarray of float, shape (n_models, n_artists)
        NaN for an artist without songs, who is not drawn.
    artists : sequence of str
        In the order of the columns; drawn from the highest to the lowest mean over the models. Of
        more than :data:`MOST_ARTISTS` the highest and the lowest are drawn, and the title says so.
    n_songs : ndarray of int, shape (n_artists,)
        Songs of each.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
        Its last row is the mean over all artists, macro-F1.
    """
    heard = np.flatnonzero(n_songs)
    order = heard[np.argsort(-f1[:, heard].mean(axis=0), kind="stable")]
    if len(order) > MOST_ARTISTS:
        half = MOST_ARTISTS // 2
        title += f"; the {half} best and {half} worst known of {len(order):,} artists"
        mean = f1[:, order].mean(axis=0)
        as_good, as_bad = (
            int(np.isclose(mean[half:-half], mean[i]).sum()) for i in (half - 1, -half)
        )
        if as_good or as_bad:
            title += f", without {as_good:,} as good and {as_bad:,} as bad as the last of these"
        order = np.concatenate([order[:half], order[-half:]])
    macro = f1[:, heard].mean(axis=1)
    percent = 100 * np.column_stack([f1[:, order], macro]).T
    labels = [f"{readable(artists[i])} ({n_songs[i]})" for i in order] + ["mean of all: macro-F1"]
    title += cut_note(artists[i] for i in order)

    measure = new_figure(1, 1, "")
    left = MARGIN + 0.1 + max(text_width(measure, label, fontsize=11) for label in labels)
    columns = [wrapped(name, 13) for name in names]
    below = 0.1 + 0.19 * max(column.count("\n") + 1 for column in columns)
    side, cell, gap = 1.2 * len(names), 0.3, 0.1
    figure = new_figure(max(left + side + 1.2, 8.0), below + cell * len(labels) + gap + 0.1, title)
    width, height = figure.get_size_inches()
    bar = figure.add_axes(
        (
            (left + side + 0.2) / width,
            below / height,
            0.2 / width,
            (cell * len(labels) + gap) / height,
        )
    )
    for rows, bottom in ((slice(0, -1), cell + gap), (slice(-1, None), 0.0)):
        n_rows = len(labels[rows])
        axes = figure.add_axes(
            (left / width, (below + bottom) / height, side / width, cell * n_rows / height)
        )
        heatmap(percent[rows], np.char.mod("%.0f", percent[rows]), axes, bar, "F1 (%)", 11)
        axes.set_yticks(np.arange(n_rows) + 0.5, labels[rows])
        axes.set_xticks(np.arange(len(names)) + 0.5, columns if not bottom else [])
        axes.tick_params(length=0, labelsize=11)
    return figure


def heatmap(
    percent: np.ndarray,
    texts: np.ndarray,
    axes: Axes,
    bar: Axes,
    label: str,
    font_size: float,
) -> None:
    """Draw a table of percentages in colour.

    Parameters
    ----------
    percent : ndarray of float, shape (n_rows, n_columns)
        From 0, white, to 100, dark.
    texts : ndarray of str, of the same shape
        What the cells say.
    axes, bar : Axes
        Where the table and its colour bar go.
    label : str
        Of the colour bar.
    font_size : float
        Of the cells, in points.
    """
    sns.heatmap(
        percent,
        ax=axes,
        vmin=0,
        vmax=100,
        cmap="Blues",
        annot=texts,
        fmt="",
        annot_kws={"fontsize": font_size},
        linewidths=0.5,
        linecolor="#E8E8E8",
        xticklabels=False,
        yticklabels=False,
        cbar_ax=bar,
        cbar_kws={"label": label},
    )
    for text, share in zip(axes.texts, percent.flat, strict=True):
        text.set_color("white" if share > 60 else INK)


def readable(name: str) -> str:
    """Write an artist's or a song's name for people; a very long one loses its middle."""
    name = name.replace("_", " ")
    if len(name) <= MOST_LETTERS:
        return name
    return f"{name[: MOST_LETTERS // 2]}…{name[-(MOST_LETTERS // 2 - 1) :]}"


def cut_note(names: Iterable[str]) -> str:
    """Say at a title's end that :func:`readable` cuts names, if it does."""
    is_cut = any(len(name) > MOST_LETTERS for name in names)
    return f"; names of more than {MOST_LETTERS} letters lack their middle" if is_cut else ""


# What would name the program and the time: the same figure is the same bytes.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Creator": None, "Date": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def save(figure: Figure, path: Path, caption: str) -> None:
    """Write a figure and its caption, each atomically; the same figure gives the same bytes.

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
    with atomic_path(path) as picture:
        with _house_style(), _missing_glyphs() as missing:
            figure.savefig(picture, dpi=150, metadata=METADATA[path.suffix])
        _without_glyph.update(filter(str.isprintable, missing))  # control characters have none
        if path.suffix == ".png":
            _reduce_colours(picture)
    with atomic_path(path.with_suffix(".txt")) as text:
        text.write_text(f"{caption}\n", encoding="utf-8")


def save_all(
    parts: Iterable[Callable[[], Iterable[Drawing]]], folder: Path, file_format: str
) -> int:
    """Draw and write what there are results for, and say which are missing.

    Parameters
    ----------
    parts : iterable of callable
        Each returns or yields figures with their files' names, without suffix, and captions. One
        that raises a UserError is left out, with what it would have yielded next.
    folder : Path
        Where figures go.
    file_format : {"png", "svg", "pdf"}
        Which they are written in.

    Returns
    -------
    int
        The script's exit status: 1 if something was left out, otherwise 0.

    Raises
    ------
    UserError
        The first part's, if there are no results for any figure; or if the disk is full.
    """
    n_written, missing = 0, []
    for part in parts:
        try:
            for name, figure, caption in part():
                path = folder / f"{name}.{file_format}"
                save(figure, path, caption)
                print(f"wrote {path}")
                n_written += 1
        except DiskFullError:  # what comes next has no space, either
            raise
        except UserError as error:
            missing.append(error)
    tell_missing_glyphs()
    if missing and not n_written:
        raise missing[0]
    for error in dict.fromkeys(map(str, missing)):
        print(f"left out: {error}")
    return 1 if missing else 0


def _reduce_colours(picture: Path) -> None:
    """Give a PNG a palette, which makes it a third as large and is not seen."""
    with Image.open(picture) as image:
        reduced = image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
        reduced.save(picture, dpi=image.info["dpi"], optimize=True)


def _percent_of_models(axes: Axes, names: Sequence[str], label: str) -> None:
    """Set up the axes of a bar chart: models from left to right, percent upwards."""
    axes.set_xticks(range(len(names)), [wrapped(name, 14) for name in names])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, 108)  # a label above a bar of 100 % needs the rest
    axes.set_yticks(range(0, 101, 20))
    axes.spines["left"].set_bounds(0, 100)
    axes.set_ylabel(label)
    axes.grid(axis="y")


def new_figure(width: float, height: float, title: str, layout: str = "none") -> Figure:
    """Make a figure of that many inches, and as much higher as the wrapped title needs."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    if title:
        heading = figure.suptitle("", x=MARGIN / width, ha="left", va="top")
        wrap_text(heading, title)
        title_height = heading.get_window_extent().height / figure.dpi
        figure.set_figheight(height + title_height + MARGIN)
        heading.set_y(1 - MARGIN / 2 / figure.get_figheight())
    return figure


def wrap_text(text: Text, words: str) -> None:
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


def wrapped(name: str, characters: int) -> str:
    """Break a model's name into lines, but not between a number and its unit."""
    return textwrap.fill(re.sub(r"(\d) s\b", "\\1\N{NO-BREAK SPACE}s", name), characters)


def text_width(figure: Figure, words: str, **font: Any) -> float:
    """Width of a line of text in inches."""
    text = figure.text(0, 0, words, **font)
    width = text.get_window_extent().width / figure.dpi
    text.remove()
    return width
