"""Figures of models, artists and features: records and arrays in, a matplotlib ``Figure`` out.

Nothing here reads a file or runs a model. Titles are wrapped to the figure's width. ``models`` are
by title or by name, in the order in which they are drawn; scores and probabilities are (n_songs,
n_classes), and ``labels`` the true classes, (n_songs,).
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter

from artist20 import evaluation
from artist20.report.style import (
    COLOURS,
    FAINT,
    INK,
    LETTER,
    MARKERS,
    ORANGE,
    TOP1_COLOUR,
    TOP3_COLOUR,
    Look,
    add_footnote,
    in_house_style,
    new_figure,
    readable,
    wrapped,
)
from artist20.results import Ablation, Figures, ModelResult, Predictions, Task1Model

if TYPE_CHECKING:  # maps.py imports scikit-learn, which drawing does without
    from artist20.report.maps import SongMap

MOST_ARTISTS = 40  # that a table has room for
MOST_WITH_PERCENT = 24  # artists of a confusion matrix whose cells have room for two lines
MOST_GUESSES = 10  # of the curve of top-k accuracy
FEWEST_FOR_RELIABILITY = 100  # songs: a bin of fewer than ten says little
MOST_PAIRS = 10  # of confused artists
# Of training and of validation songs on a map.
SONG_LOOKS: tuple[Look, ...] = (
    {"s": 26, "alpha": 0.45, "edgecolors": "none", "zorder": 2},
    {"s": 110, "alpha": 1, "edgecolors": INK, "zorder": 3},
)
RULE = "#E8E8E8"
GREY = "#BBBBBB"  # of what has no colour of its own
# Where a legend stands outside its axes.
ABOVE: Look = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
BESIDE: Look = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}


def _bars(
    axes: Axes, x: np.ndarray, titles: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> list[BarContainer]:
    """Draw two shares of each model side by side, in percent; None is not drawn."""
    looks = ((-0.2, TOP1_COLOUR), (0.2, TOP3_COLOUR))
    drawn = [
        axes.bar(x + shift, 100 * np.array(shares, float), 0.38, color=colour, label=label)
        for (shift, colour), (label, shares) in zip(looks, series.items(), strict=True)
    ]
    axes.set_xticks(x, [wrapped(title, 14) for title in titles])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, x[-1] + 0.6)
    axes.set(ylim=(0, 108), yticks=range(0, 101, 20))  # a label above a bar of 100 % needs room
    axes.spines["left"].set_bounds(0, 100)
    axes.grid(axis="y")
    return drawn


def _places(kinds: Sequence[str], gap: float) -> np.ndarray:
    """Return where models stand on an axis, 1 apart and a gap further between kinds."""
    changes = [before != kind for before, kind in pairwise([kinds[0], *kinds])]
    return np.arange(len(kinds)) + gap * np.cumsum(changes)


@in_house_style
def model_comparison(
    models: Mapping[str, Figures],
    *,
    n_songs: int,
    n_classes: int,
    title: str,
    kinds: list[str] | None = None,
    note: str = "",
) -> Figure:
    """Draw top-1 and top-3 accuracy of models, and those of guessing.

    Whiskers are the intervals over albums. Models of a kind stand together.
    """
    figure = new_figure(max(8.0, 1.6 * len(models) + 1.5), 5.0, title)
    axes = figure.add_subplot()
    kinds = kinds or [""] * len(models)
    x = _places(kinds, 0.5)
    reached = models.values()
    shares = {"Top-1": [of.top1 for of in reached], "Top-3": [of.top3 for of in reached]}
    drawn = _bars(axes, x, list(models), shares)
    for bars, key in zip(drawn, ("top1", "top3"), strict=True):
        low, high = 100 * np.array([getattr(of.over_albums, key) for of in reached]).T
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        half = (high - low) / 2
        axes.errorbar(middles, low + half, half, fmt="none", ecolor=INK, lw=1.4, capsize=5)
        for middle, bar in zip(middles, bars, strict=True):
            # Below its bar: above, it would stand at the whisker's end and seem to be that.
            text = axes.annotate(f"{bar.get_height():.1f}", (middle, 0), (0, -4))
            text.set(anncoords="offset points", ha="center", va="top", weight="bold")
    lines = []
    for k, line in ((1, "--"), (3, ":")):
        chance = 100 * min(1.0, k / n_classes)
        label = f"Top-{k} by chance, {chance:.3g} %"
        drawn_as: Look = {"color": ORANGE, "linestyle": line, "linewidth": 1.6, "zorder": 1.5}
        lines.append(axes.axhline(chance, label=label, **drawn_as))
    for kind in filter(None, dict.fromkeys(kinds)):
        axes.text(x[kinds.index(kind)] - 0.45, 109, kind, color=FAINT, size=11, style="italic")
    axes.set_ylabel(f"Accuracy (% of {n_songs} songs)")
    axes.tick_params(axis="x", pad=20)
    place = {**ABOVE, "bbox_to_anchor": (0, 1.07 if any(kinds) else 1)}  # above the kinds
    axes.legend(handles=[*drawn, *lines], **place, ncols=4, handlelength=1.6, columnspacing=1.4)
    add_footnote(figure, f"Whiskers: 95 % intervals, by bootstrap over albums. {note}".strip())
    return figure


@in_house_style
def dot_plot(
    models: Mapping[str, ModelResult],
    kinds: list[str],
    published: Mapping[str, tuple[float, float]],
    *,
    title: str,
) -> Figure:
    """Draw every model's top-1 and top-3 with their intervals, on validation and test songs.

    Those of a kind stand together. ``published`` has what others reached with the same model.
    """
    figure = new_figure(12.0, 0.42 * len(models) + 1.7, title)
    panels = figure.subplots(1, 2, sharey=True)
    n_classes = len(next(iter(models.values())).artists)
    y = _places(kinds, 0.35)
    with_test = any(model.test for model in models.values())
    for axes, key, k in zip(panels, ("top1", "top3"), (1, 3), strict=True):
        for at, (name, model) in zip(y, models.items(), strict=True):
            shares = [(getattr(model.val, key), getattr(model.val.over_albums, key))]
            if model.test:
                shares.append((getattr(model.test, key), getattr(model.test.over_songs, key)))
            for i, (share, interval) in enumerate(shares):
                colour, below = (TOP1_COLOUR, ORANGE)[i], at + 0.24 * i - 0.12 * with_test
                ends = 100 * np.array(interval)
                axes.plot(ends, [below] * 2, color=colour, linewidth=2.2, alpha=0.5)
                axes.plot(100 * share, below, "oD"[i], color=colour, markersize=8)
            if name in published:
                share = 100 * published[name][k == 3]
                axes.plot(share, at, "o", color=INK, markerfacecolor="none", markersize=12)
        chance = 100 * min(1.0, k / n_classes)
        axes.axvline(chance, color=INK, linewidth=1.2, linestyle="--")
        axes.set(xlim=(0, 102), xlabel=f"Top-{k} (%); dashed: by chance")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(y, [model.title for model in models.values()])
    panels[0].invert_yaxis()
    handles = [_dot("validation songs", "o", TOP1_COLOUR, edge="none")]
    if with_test:
        handles.append(_dot("test songs", "D", ORANGE, edge="none"))
    if published.keys() & models.keys():
        handles.append(_dot("published", "o", "none", size=11))
    panels[0].legend(handles=handles, **ABOVE, ncols=3, handletextpad=0.1)
    over = "albums (validation) and songs (test)" if with_test else "albums"
    add_footnote(figure, f"Lines: 95 % intervals, by bootstrap over {over}.")
    return figure


@in_house_style
def time_and_accuracy(models: Mapping[str, ModelResult], *, title: str) -> Figure:
    """Draw each model's top-1 against the seconds that its training took."""
    figure = new_figure(10.0, 5.2, title)
    axes = figure.add_subplot()
    for i, model in enumerate(models.values()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)]
        share, seconds = 100 * model.val.top1, max(model.seconds, 1.0)  # of those solved at once
        label = f"{model.title}: {share:.1f} %, {seconds:,.0f} s"
        axes.plot(seconds, share, marker, color=colour, markersize=10, label=label)
    axes.set(xscale="log", xlabel="Training (seconds, logarithmic)")
    axes.set(ylim=(0, 102), ylabel="Top-1 (% of the validation songs)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="both")
    axes.legend(**BESIDE)
    return figure


@in_house_style
def album_effect(models: Mapping[str, Task1Model], *, n_songs: int, title: str) -> Figure:
    """Draw top-1 in folds that keep albums whole and that split them, where it was measured."""
    figure = new_figure(max(8.0, 1.7 * len(models) + 1.5), 5.0, title)
    axes = figure.add_subplot()
    by = [model.cv_top1_by for model in models.values()]
    series = {
        "Albums kept whole": [of_model.get("album") for of_model in by],
        "Albums split between folds": [of_model.get("song") for of_model in by],
    }
    for bars in _bars(axes, np.arange(len(models)), list(models), series):
        axes.bar_label(bars, fmt="%.1f", weight="bold", padding=2)
    axes.set_ylabel(f"Top-1 in cross-validation\n(% of {n_songs} training songs)")
    axes.legend(**ABOVE, ncols=2)
    return figure


@in_house_style
def reliability(models: Mapping[str, np.ndarray], labels: np.ndarray, *, title: str) -> Figure:
    """Draw how often models are right against how sure they are; a dot's area is its songs."""
    figure = new_figure(max(8.0, 3.1 * len(models) + 0.6), 4.4, title)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, (name, scores) in zip(panels, models.items(), strict=True):
        confidence, accuracy, n_songs = evaluation.reliability(scores, labels)
        axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.2, linestyle="--")
        area = 900 * n_songs / n_songs.sum()
        axes.scatter(100 * confidence, 100 * accuracy, area, color=TOP1_COLOUR, edgecolor=INK)
        error = evaluation.calibration_error(scores, labels)
        axes.set_title(f"{wrapped(name, 28)}\ncalibration error {error:.1%}", size=12, loc="left")
        axes.set(xlim=(0, 100), ylim=(-4, 104), aspect="equal")
        axes.set(xticks=range(0, 101, 25), yticks=range(0, 101, 25))
        axes.grid()
    panels[0].set_ylabel("Right (% of a bin's songs)")
    figure.supxlabel("Probability of the best guess (%)", fontsize=12)
    return figure


@in_house_style
def ablation(ablation: Ablation, whole: float, *, title: str) -> Figure:
    """Draw what each family of features is worth to one model, in three ways.

    ``whole`` is top-1 in cross-validation with all families. What was not measured is not drawn.
    """
    families = ablation.families
    figure = new_figure(11.5, 0.36 * len(families) + 1.5, title)
    panels = figure.subplots(1, 3, sharey=True)
    alone, without, lost, lost_std = (
        np.array([getattr(row, key) for row in families.values()], float)
        for key in ("alone", "without", "lost", "lost_std")
    )
    values = (
        ("alone: top-1 in CV (%)", alone, None),
        ("left out: points lost in CV", whole - without, None),
        ("shuffled: points lost in validation\n(with standard deviation)", lost, 100 * lost_std),
    )
    for axes, (label, shares, spread) in zip(panels, values, strict=True):
        y = np.arange(len(families))
        axes.barh(y, 100 * shares, 0.7, color=TOP1_COLOUR, xerr=spread, ecolor=INK, capsize=2)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    panels[0].axvline(100 * whole, color=INK, linestyle="--", linewidth=1.2)
    panels[0].set_title(f"dashed: all families, {whole:.1%}", size=10, loc="right")
    panels[0].set_yticks(y, [f"{name} ({row.n_features})" for name, row in families.items()])
    panels[0].invert_yaxis()
    return figure


@in_house_style
def top_k(models: Mapping[str, np.ndarray], labels: np.ndarray, *, title: str) -> Figure:
    """Draw how often an artist is among a model's k best guesses."""
    figure = new_figure(11.5, 5.2, title)
    axes = figure.add_subplot()
    n_classes = next(iter(models.values())).shape[1]
    k = np.arange(1, min(MOST_GUESSES, n_classes) + 1)
    curves = [
        ([evaluation.top_k_accuracy(scores, labels, most) for most in k], name, _look(i))
        for i, (name, scores) in enumerate(models.items())
    ]
    for shares, name, (colour, marker) in sorted(curves, key=lambda curve: -curve[0][0]):
        look: Look = {"markersize": 7, "markeredgecolor": INK, "linewidth": 1.8}
        label = wrapped(f"{name}: {shares[0]:.1%}", 30)
        axes.plot(k, 100 * np.array(shares), color=colour, marker=marker, label=label, **look)
    axes.plot(k, 100 * k / n_classes, color=INK, linestyle="--", linewidth=1.2, label="by chance")
    axes.set(xticks=k, ylim=(0, 104), yticks=range(0, 101, 20))
    axes.set(xlabel="k: guesses that count", ylabel="Artist among the k best (% of songs)")
    axes.grid()
    axes.legend(**BESIDE, title="Models, by top-1", alignment="left")
    return figure


def _look(i: int) -> tuple[str, str]:
    """Return the colour and the marker of a model or an artist."""
    return COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]


def _table(axes: Axes, percent: np.ndarray, texts: Sequence[str], size: float, label: str) -> None:
    """Draw percentages in colour, (n_rows, n_columns), with a text each; NaN is grey."""
    axes.set_facecolor("#DDDDDD")
    look: Look = {"vmin": 0, "vmax": 100, "cmap": "Blues", "linewidths": 0.5, "linecolor": RULE}
    look |= {"annot": np.reshape(texts, percent.shape), "fmt": "", "annot_kws": {"size": size}}
    look |= {"cbar_kws": {"label": label, "fraction": 0.05, "pad": 0.02}}
    seaborn.heatmap(percent, ax=axes, xticklabels=False, yticklabels=False, **look)
    axes.tick_params(length=0)


@in_house_style
def confusion_matrix(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, title: str
) -> Figure:
    """Draw a confusion matrix: colour is the row's percentage, text is the count.

    Artists are drawn in the order of ``classes``, as in all the matrices of a data set; of more
    than :data:`MOST_ARTISTS`, those of the largest confusions, and the title says so. Percentages
    are of all songs of the true artist, those included that are taken for an artist who is not
    drawn. The row of an artist without songs is grey.
    """
    matrix = evaluation.confusion_matrix(scores, labels)
    drawn = np.arange(len(matrix))
    if len(matrix) > MOST_ARTISTS:
        drawn = evaluation.most_confused(matrix, MOST_ARTISTS)
        title += f"; {MOST_ARTISTS} of {len(matrix):,} artists, those of the largest confusions"
    n_songs, matrix, n = matrix.sum(axis=1)[drawn], matrix[np.ix_(drawn, drawn)], len(drawn)
    with np.errstate(invalid="ignore"):
        percent = 100 * matrix / n_songs[:, None]
    both = n <= MOST_WITH_PERCENT
    texts = [
        "" if not count else f"{count}\n{share:.0f}%" if both else f"{count}"
        for count, share in zip(matrix.flat, percent.flat, strict=True)
    ]
    names = [readable(classes[i]) for i in drawn.tolist()]
    side = max(3.0, n * float(np.clip(7.6 / n, 0.46 if both else 0.27, 0.9)))  # inches
    longest = LETTER * max(map(len, names))
    figure = new_figure(max(side + longest + 2.2, 8.0), side + 0.8 * longest + 0.6, title)
    axes = figure.add_subplot()
    _table(axes, percent, texts, 9.5 if both else 8.5, "% of the true artist's songs")
    for i in range(n):
        axes.add_patch(Rectangle((i, i), 1, 1, fill=False, edgecolor=INK, linewidth=1.2, zorder=3))
    aslant: Look = {"rotation": 45, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    axes.set_xticks(np.arange(n) + 0.5, names, **(aslant if both else {"rotation": 90}))
    rows = [f"{name} ({k})" for name, k in zip(names, n_songs, strict=True)]
    axes.set_yticks(np.arange(n) + 0.5, rows)
    axes.tick_params(labelsize=11 if both else 9.5)
    axes.set(xlabel="Predicted artist", ylabel="True artist (songs)")
    return figure


@in_house_style
def f1_by_artist(
    models: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], *, title: str
) -> Figure:
    """Draw F1 of each artist by each model, and its mean over all artists, macro-F1.

    Artists are drawn from the highest to the lowest mean over the models, without those who have no
    songs; of more than :data:`MOST_ARTISTS` the highest and the lowest, and the title says so.
    """
    f1 = np.array(
        [evaluation.f1_scores(evaluation.confusion_matrix(s, labels)) for s in models.values()]
    )
    n_songs = np.bincount(labels, minlength=len(classes))
    heard = np.flatnonzero(n_songs)
    order = heard[np.argsort(-f1[:, heard].mean(axis=0), kind="stable")]
    if len(order) > MOST_ARTISTS:
        half = MOST_ARTISTS // 2
        title += f"; the {half} best and {half} worst known of {len(order):,} artists"
        order = np.concatenate([order[:half], order[-half:]])
    percent = 100 * np.column_stack([f1[:, order], f1[:, heard].mean(axis=1)]).T
    rows = [f"{readable(classes[i])} ({n_songs[i]})" for i in order] + ["mean of all: macro-F1"]
    longest = LETTER * max(map(len, rows))
    figure = new_figure(max(1.2 * len(models) + longest + 1.6, 8.0), 0.3 * len(rows) + 1.1, title)
    axes = figure.add_subplot()
    _table(axes, percent, [f"{share:.0f}" for share in percent.flat], 11, "F1 (%)")
    axes.axhline(len(order), color="white", linewidth=5)
    axes.set_xticks(np.arange(len(models)) + 0.5, [wrapped(name, 13) for name in models])
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(labelsize=11)
    return figure


@in_house_style
def confused_pairs(
    models: Mapping[str, np.ndarray], predictions: Predictions, *, title: str
) -> Figure:
    """Draw who is taken for whom most often by all models together, with the songs."""
    labels, classes = predictions.labels, predictions.classes
    guesses = np.array([evaluation.top_k(scores, 1)[:, 0] for scores in models.values()])
    wrong = guesses != labels
    true_ones = np.broadcast_to(labels, guesses.shape)[wrong]
    taken = zip(true_ones.tolist(), guesses[wrong].tolist(), strict=True)
    pairs = Counter(taken).most_common(MOST_PAIRS)
    figure = new_figure(13.0, 0.62 * max(len(pairs), 1) + 0.8, title)
    if not pairs:
        figure.text(0.5, 0.3, "No song is taken for another artist's.", ha="center")
        return figure
    bars, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.7))
    y = np.arange(len(pairs))
    drawn = bars.barh(y, [n for _, n in pairs], 0.5, color=TOP1_COLOUR)
    names = [readable(name) for name in classes]
    bars.set_yticks(y, [f"{names[true]}\n→ {names[guess]}" for (true, guess), _ in pairs])
    n_guesses = [len(models) * int((labels == true).sum()) for (true, _), _ in pairs]
    shares = [f"{n} of {of}, {n / of:.0%}" for (_, n), of in zip(pairs, n_guesses, strict=True)]
    bars.bar_label(drawn, shares, padding=4)
    bars.set_title("Wrong guesses, of all for the artist", size=11, color=FAINT, loc="left")
    right.set_title("Songs, and how many models guess so", size=11, color=FAINT, loc="left")
    stems = [PurePosixPath(song.path).stem for song in predictions.songs]
    for row, ((true, guess), _) in enumerate(pairs):
        times = ((guesses == guess) & (labels == true)).sum(axis=0)
        order = np.argsort(-times, kind="stable")[: np.count_nonzero(times)]
        songs = ", ".join(f"{readable(stems[i])}\N{NO-BREAK SPACE}({times[i]})" for i in order)
        text = textwrap.fill(songs, 78, max_lines=2, placeholder=" …")
        right.text(0, row, text, va="center", size=10.5)
    bars.invert_yaxis()
    for axes in (bars, right):
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for edge in y - 0.5:
            axes.axhline(edge, color=RULE, linewidth=1)
    right.tick_params(labelleft=False)
    bars.margins(x=0.5)
    return figure


@in_house_style
def song_map(song_map: "SongMap", *, title: str) -> Figure:
    """Draw songs in the plane, and artists' names where most of their songs are.

    Artists have a colour and a marker. Of very many artists, those with most songs are drawn so and
    named, and the others are grey.
    """
    artists, n_songs = np.unique(song_map.artists, return_counts=True)
    most = len(COLOURS) * len(MARKERS)
    largest = sorted(artists[np.argsort(-n_songs, kind="stable")[:most]].tolist())
    figure = new_figure(12.0, 8.4, title)
    axes = figure.add_subplot()
    for artist in artists:
        colour, marker = _look(largest.index(artist)) if artist in largest else (GREY, "o")
        for unseen, look in enumerate(SONG_LOOKS):
            x, y = song_map.xy[(song_map.artists == artist) & (song_map.unseen == unseen)].T
            axes.scatter(x, y, c=colour, marker=marker, linewidths=1.0, **look)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.06)
    axes.spines[:].set(visible=True, color=GREY)
    share, chance = f"{song_map.same_artist:.0%}", f"(by chance {song_map.by_chance:.0%})"
    said = f"nearest training song is by the same artist: {share} {chance}"
    axes.set_title(said, size=12, loc="left")
    training = _dot("training song", "o", GREY, size=4.5, edge="none")
    handles = [training, _dot("validation song", "o", "white", size=9)]
    if len(artists) > most:
        handles.append(_dot(f"{len(artists) - most:,} other artists", "o", GREY))
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    _name_clusters(axes, song_map, largest)
    return figure


def _name_clusters(axes: Axes, song_map: "SongMap", artists: Sequence[str]) -> None:
    """Write artists' names above the median of their songs, lower where they would overlap."""
    low, high = np.array(axes.get_xlim()), np.array(axes.get_ylim())
    letter, line = np.ptp(low) / 150, np.ptp(high) / 34  # of the panel's width and height
    placed: list[tuple[float, float, float]] = []  # x, y and half the width of a name
    at = {name: np.median(song_map.xy[song_map.artists == name], axis=0) for name in artists}
    for i, name in sorted(enumerate(artists), key=lambda item: -at[item[1]][1]):
        (x, y), half = at[name] + (0, line), letter * len(readable(name)) / 2
        x = float(np.clip(x, low[0] + half, low[1] - half))
        while any(abs(x - u) < half + w and abs(y - v) < line for u, v, w in placed):
            y -= line / 4
        placed.append((x, y, half))
        label = axes.text(x, y, readable(name), ha="center", va="center", weight="bold", zorder=5)
        halo = withStroke(linewidth=3.5, foreground="white")
        label.set(color=_look(i)[0], path_effects=[halo])


def _dot(label: str, marker: str, colour: str, size: float = 7.5, edge: str = INK) -> Line2D:
    drawn = Line2D([], [], ls="none", marker=marker, markersize=size, label=label)
    drawn.set(markerfacecolor=colour, markeredgecolor=edge, markeredgewidth=0.8)
    return drawn
