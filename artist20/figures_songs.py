"""Figures of songs: where they lie among each other, and where in one an artist is heard.

As in figures.py: arrays in, a matplotlib ``Figure`` out.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from artist20 import figures
from artist20.figures import FAINT, INK, MARGIN, STYLE, in_house_style
from artist20.maps import SongMap

# Of Okabe and Ito 2008, told apart with any colour vision; the yellow is too faint on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")
MAX_ARTISTS = len(COLOURS) * len(MARKERS)
OTHERS = "#BBBBBB"
# Of a true artist, if there is one, and the rivals; told apart in grey print by their dashes.
TRUE_LINE = {"color": "#0072B2", "linewidth": 2.6, "linestyle": "-"}
RIVAL_LINES = (
    {"color": "#D55E00", "linewidth": 1.6, "linestyle": "-"},
    {"color": "#009E73", "linewidth": 1.6, "linestyle": (0, (5, 1.5))},
    {"color": "#000000", "linewidth": 1.4, "linestyle": (0, (1, 1.5))},
)
PANEL, GAP = 5.9, 0.3  # inches, of a map and between two
LINE = 0.22  # inches, of a legend
MAX_COLUMNS = 600  # of a spectrogram
DYNAMIC_RANGE = 70.0  # dB


@in_house_style
def song_maps(maps: Sequence[tuple[str, SongMap]], *, title: str) -> Figure:
    """Draw maps of the same songs side by side.

    Parameters
    ----------
    maps : sequence of (str, SongMap)
        Each with its heading. Artists have a colour and a marker; a line leads from every song to
        the middle of its album's.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
        Of more than :data:`MAX_ARTISTS` artists, those with most songs are told apart and the
        others are grey.
    """
    artists, n_songs = np.unique(maps[0][1].artists, return_counts=True)
    largest = np.sort(np.argsort(-n_songs, kind="stable")[:MAX_ARTISTS])
    looks = {
        artist: (COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS)])
        for i, artist in enumerate(artists[largest].tolist())
    }
    handles = [
        _handle(artist.replace("_", " "), marker, colour)
        for artist, (colour, marker) in looks.items()
    ]
    if len(artists) > len(looks):
        handles.append(_handle(f"{len(artists) - len(looks)} other artists", "o", OTHERS))
    keys = [
        _handle("validation song", "o", "white"),
        _handle("training song", "o", OTHERS, size=4.5, edge="none"),
        Line2D([], [], color=FAINT, linewidth=1.2, label="to the middle of the album's songs"),
    ]
    width = max(len(maps) * (PANEL + GAP) - GAP, 7.0) + 2 * MARGIN
    side = (width - 2 * MARGIN + GAP) / len(maps) - GAP
    # Two units of a map are as long in both directions; this leaves little of a panel empty.
    shapes = [np.ptp(song_map.xy, axis=0) for _, song_map in maps]
    high = side * np.clip(max(tall / wide for wide, tall in shapes), 0.6, 1)
    n_columns = _columns(width, [handle.get_label() for handle in handles])
    bottom = MARGIN + LINE * (2 + -(-len(handles) // n_columns))
    figure = figures.new_figure(width, bottom + high + 0.45, title)
    height = figure.get_figheight()
    for i, (heading, song_map) in enumerate(maps):
        left = MARGIN + i * (side + GAP)
        axes = figure.add_axes((left / width, bottom / height, side / width, high / height))
        _draw_map(axes, song_map, looks)
        measured = (
            f"nearest training song is by the same artist: {song_map.same_artist:.0%} "
            f"(by chance {song_map.by_chance:.0%})"
        )
        axes.set_title(f"{heading}\n{measured}", fontsize=11, loc="left")
    for legend, n, top in ((keys, len(keys), bottom - 0.1), (handles, n_columns, bottom - 0.4)):
        figure.legend(
            handles=legend,
            ncols=n,
            bbox_to_anchor=(MARGIN / width, top / height),
            loc="upper left",
            borderaxespad=0,
            borderpad=0,
            handletextpad=0.4,
            labelspacing=0.3,
            columnspacing=1.2,
        )
    return figure


def _draw_map(axes: Axes, song_map: SongMap, looks: dict[str, tuple[str, str]]) -> None:
    for album in np.unique(song_map.albums):
        of_album = song_map.albums == album
        xy = song_map.xy[of_album]
        colour, marker = looks.get(song_map.artists[of_album][0], (OTHERS, "o"))
        centre = xy.mean(axis=0)
        unseen = song_map.unseen[of_album][0]
        axes.add_collection(
            LineCollection(
                [(point, centre) for point in xy],
                colors=colour,
                linewidths=1.0 if unseen else 0.5,
                alpha=0.55 if unseen else 0.2,
                zorder=1,
            )
        )
        axes.scatter(
            *xy.T,
            s=52 if unseen else 13,
            c=colour,
            marker=marker,
            alpha=1 if unseen else 0.45,
            edgecolors=INK if unseen else "none",
            linewidths=0.8,
            zorder=3 if unseen else 2,
        )
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axes.margins(0.04)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#BBBBBB")


def _handle(label: str, marker: str, colour: str, size: float = 7.5, edge: str = INK) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markersize=size,
        markerfacecolor=colour,
        markeredgecolor=edge,
        markeredgewidth=0.8,
        label=label,
    )


def _columns(width: float, labels: Sequence[str]) -> int:
    """Count the columns of a legend that a figure of that many inches has room for."""
    measure = figures.new_figure(1, 1, "")
    widest = max(
        figures.text_width(measure, label, fontsize=STYLE["legend.fontsize"]) for label in labels
    )
    return max(1, int((width - 2 * MARGIN) / (widest + 0.55)))


@in_house_style
def song_timeline(
    log_mel: np.ndarray,
    mel_hz: np.ndarray,
    duration: float,
    seconds: np.ndarray,
    curves: np.ndarray,
    labels: Sequence[str],
    *,
    has_true: bool,
    title: str,
) -> Figure:
    """Draw a song's log-mel spectrogram, and below it what artists are heard in it over time.

    Parameters
    ----------
    log_mel : np.ndarray
        (n_frames, n_mels) in dB.
    mel_hz : np.ndarray
        (n_mels,) the bins' centres in Hz.
    duration : float
        Of the song, in seconds.
    seconds : np.ndarray
        (n_windows,) the middle of each window.
    curves : np.ndarray
        (n_windows, n_artists) probabilities.
    labels : sequence of str
        One per artist, for the legend: who, and how likely in the song as a whole.
    has_true : bool
        Whether the first artist is the song's own.
    title : str
        Wrapped to the figure's width.

    Returns
    -------
    Figure
    """
    figure = figures.new_figure(11, 6, title, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.15))
    parts = np.array_split(log_mel.astype(np.float32), min(MAX_COLUMNS, len(log_mel)))
    columns = np.array([part.mean(axis=0) for part in parts]).T
    above.imshow(
        columns,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, duration, 0, len(mel_hz)),
        vmin=columns.max() - DYNAMIC_RANGE,
        vmax=max(columns.max(), columns.min() + 1),
        cmap="magma",
    )
    ticks = np.array([250, 500, 1000, 2000, 4000, 8000])
    ticks = ticks[(ticks >= mel_hz[0]) & (ticks <= mel_hz[-1])]
    bins = np.interp(ticks, mel_hz, np.arange(len(mel_hz)) + 0.5)
    above.set_yticks(bins, [f"{hz / 1000:g}" for hz in ticks])
    above.set_ylabel("Frequency (kHz)")

    lines = (TRUE_LINE, *RIVAL_LINES) if has_true else RIVAL_LINES
    for curve, label, line in zip(curves.T, labels, lines, strict=False):
        alone = {"marker": "o", "markersize": 7} if len(seconds) == 1 else {}
        order = 3 if line is TRUE_LINE else 2
        below.plot(seconds, 100 * curve, label=label, zorder=order, clip_on=False, **line, **alone)
    below.set(xlim=(0, duration), ylim=(0, 100), ylabel="Probability (%)")
    below.set_yticks(range(0, 101, 25))
    below.grid(axis="y")
    in_minutes = duration > 100
    if in_minutes:
        below.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value // 60:.0f}:{value % 60:02.0f}")
        )
    below.set_xlabel("Time (min:s)" if in_minutes else "Time (s)")
    n_columns = min(2, _columns(11, labels))
    figure.legend(
        title="In the song as a whole:",
        loc="outside lower left",
        alignment="left",
        ncols=n_columns,
        handlelength=2.6,
    )
    return figure
