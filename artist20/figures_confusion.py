"""Figures of who is taken for whom.

As in figures.py: arrays in, a matplotlib ``Figure`` out.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from artist20 import evaluation
from artist20.figures import (
    FAINT,
    INK,
    MARGIN,
    MOST_ARTISTS,
    TOP1_COLOUR,
    cut_note,
    heatmap,
    in_house_style,
    new_figure,
    readable,
    text_width,
)


@in_house_style
def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Draw a confusion matrix: colour is the row's percentage, text is the count.

    Parameters
    ----------
    matrix : ndarray of int, shape (n, n)
        Songs; row = true artist, column = predicted artist. A row may be empty.
    class_names : sequence of str, length n
        Artists in the order of the rows. They are drawn in that of
        :func:`artist20.evaluation.confusion_order`. Of more than :data:`MOST_ARTISTS`, those of
        the largest confusions are drawn, and the title says so.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
        Percentages are of all songs of the true artist, those included that are taken for an
        artist who is not drawn. They are written below the counts up to 24 artists.

    Raises
    ------
    ValueError
        If the matrix is not square with one name per row.
    """
    matrix = np.asarray(matrix)
    n_all = len(class_names)
    if matrix.shape != (n_all, n_all):
        raise ValueError(f"{n_all} class names for a matrix of shape {matrix.shape}")
    drawn = np.arange(n_all)
    if n_all > MOST_ARTISTS:
        drawn = evaluation.most_confused(matrix, MOST_ARTISTS)
        title += (
            f"; the {MOST_ARTISTS} of {n_all:,} artists with the largest confusions, of equal ones "
            "the first"
        )
    drawn = drawn[evaluation.confusion_order(matrix[np.ix_(drawn, drawn)])]
    songs = matrix.sum(axis=1)[drawn]
    matrix = matrix[np.ix_(drawn, drawn)]
    n = len(drawn)
    percent = np.divide(
        100 * matrix, songs[:, None], out=np.zeros((n, n)), where=songs[:, None] > 0
    )
    both = n <= 24
    cell = float(np.clip(7.6 / n, 0.46 if both else 0.27, max(0.9, 2.4 / n)))  # inches
    font_size = (11.0 if cell > 0.6 else 9.5) if both else 8.5
    names = [readable(class_names[i]) for i in drawn]
    title += cut_note(class_names[i] for i in drawn)
    rows = [f"{name} ({count})" for name, count in zip(names, songs, strict=True)]

    measure = new_figure(1, 1, "")
    label_size = 11.0 if both else 9.5
    label, below = (
        max(text_width(measure, text, fontsize=label_size) for text in texts)
        for texts in (rows, names)
    )
    label_height = 0.72 * below + 0.15 if both else below
    side = n * cell
    left, bottom = MARGIN + 0.35 + label, MARGIN + 0.35 + label_height
    figure = new_figure(max(left + side + 1.3, 8.0), bottom + side + 0.1, title)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    place = ((left + side + 0.25) / width, bottom / height, 0.2 / width, side / height)
    bar, texts = figure.add_axes(place), _cell_texts(matrix, percent, both)
    heatmap(percent, texts, axes, bar, "% of the true artist's songs", font_size)
    for i in range(n):
        axes.add_patch(
            Rectangle((i, i), 1, 1, fill=False, edgecolor=INK, linewidth=1.2, clip_on=False)
        )
    for row in np.flatnonzero(songs == 0):
        # Unlike 0 %, which has a colour: nothing is known about this artist.
        axes.axhspan(row, row + 1, facecolor="#DDDDDD", edgecolor="white")
        axes.text(
            *(n / 2, row + 0.5, "no songs"),
            ha="center",
            va="center",
            color=FAINT,
            fontsize=font_size,
        )
    axes.set_xticks(np.arange(n) + 0.5, names)
    axes.set_yticks(np.arange(n) + 0.5, rows)
    axes.tick_params(length=0, labelsize=label_size)
    if both:
        for tick_label in axes.get_xticklabels():
            tick_label.set(rotation=45, ha="right", va="top", rotation_mode="anchor")
    else:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlabel("Predicted artist")
    axes.set_ylabel("True artist (songs)")
    return figure


@dataclass(frozen=True)
class Confusion:
    """One artist's songs that are taken for another's.

    Attributes
    ----------
    true, guessed : str
        The artists.
    n_wrong, n_guesses : int
        How often, of how many guesses for the true artist's songs.
    songs : list of (str, int)
        Which songs, and how often each.
    """

    true: str
    guessed: str
    n_wrong: int
    n_guesses: int
    songs: list[tuple[str, int]]


@in_house_style
def confused_pairs(pairs: Sequence[Confusion], *, title: str) -> Figure:
    """Draw who is taken for whom most often, with the songs.

    Parameters
    ----------
    pairs : sequence of Confusion
        Top to bottom; may be empty.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
    """
    measure = new_figure(1, 1, "")
    names = [(readable(pair.true), f"→ {readable(pair.guessed)}") for pair in pairs]
    widths = [text_width(measure, name, weight="bold") for both in names for name in both]
    pitch, below, bar_width = 0.62, 0.1, 1.8
    flow = pitch * max(len(pairs), 1)
    bar_x = MARGIN + max([2.6, *widths]) + 0.3
    songs_x = bar_x + bar_width + 1.6
    width = songs_x + 5.7
    shown = [name for pair in pairs for name in (pair.true, pair.guessed, *dict(pair.songs))]
    figure = new_figure(width, below + flow + 0.35, title + cut_note(shown))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    # Data units are inches with the origin below the flow.
    axes.set(xlim=(0, width), ylim=(-below, figure.get_figheight() - below))
    most = max((pair.n_wrong for pair in pairs), default=1)
    for x, heading in (
        (MARGIN, "Artist, and who is guessed"),
        (bar_x, "Wrong guesses, of all for the artist"),
        (songs_x, "Songs, and how many models guess so"),
    ):
        axes.text(x, flow + 0.17, heading, va="center", color=FAINT, fontsize=11)
    for index, (pair, (true, guessed)) in enumerate(zip(pairs, names, strict=True)):
        middle = flow - (index + 0.5) * pitch
        axes.plot([MARGIN, width - MARGIN], [middle + pitch / 2] * 2, color="#E8E8E8", linewidth=1)
        axes.text(MARGIN, middle + 0.12, true, va="center_baseline", weight="bold")
        axes.text(MARGIN, middle - 0.13, guessed, va="center_baseline")
        length = bar_width * pair.n_wrong / most
        axes.add_patch(Rectangle((bar_x, middle - 0.13), length, 0.26, facecolor=TOP1_COLOUR))
        share = f"{pair.n_wrong} of {pair.n_guesses}, {pair.n_wrong / pair.n_guesses:.0%}"
        axes.text(bar_x + length + 0.08, middle, share, va="center_baseline", fontsize=11)
        axes.text(songs_x, middle, _song_list(pair.songs, 5.5), va="center", fontsize=10.5)
    if not pairs:
        axes.text(MARGIN, flow / 2, "No song is taken for another artist's.", va="center")
    return figure


def _song_list(songs: Sequence[tuple[str, int]], room: float) -> str:
    """List as many songs as fit two lines of ``room`` inches, and count the others."""
    measure = new_figure(1, 1, "")
    names = [f"{readable(name)}\N{NO-BREAK SPACE}({count})" for name, count in songs]
    for shown in range(len(names), 0, -1):
        more = f", and {len(names) - shown} more" if shown < len(names) else ""
        for characters in range(70, 20, -5):
            lines = textwrap.wrap(", ".join(names[:shown]) + more, characters)
            if max(text_width(measure, line, fontsize=10.5) for line in lines) <= room:
                break
        if len(lines) <= 2:
            break
    return "\n".join(lines)


def _cell_texts(matrix: np.ndarray, percent: np.ndarray, both: bool) -> np.ndarray:
    """Write counts, and ``both`` with percentages; a 0 is left out."""
    pairs = zip(matrix.flat, percent.flat, strict=True)
    texts = [
        "" if not count else f"{count}\n{share:.0f}%" if both else str(count)
        for count, share in pairs
    ]
    return np.array(texts).reshape(matrix.shape)
