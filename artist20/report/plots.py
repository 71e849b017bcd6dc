"""Figures of models, artists and features: records and arrays in, a matplotlib ``Figure`` out.

Nothing here reads a file or runs a model. Titles are wrapped to the figure's width.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullFormatter

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
# Where a legend stands outside its axes.
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}


def _bars(
    axes: Axes, x: np.ndarray, titles: Sequence[str], series: Mapping[str, Sequence[float]]
) -> list[BarContainer]:
    """Draw two shares of each model side by side, in percent."""
    drawn = [
        axes.bar(
            x + shift,
            100 * np.asarray(shares),
            0.38,
            color=colour,
            label=label,
        )
        for shift, colour, (label, shares) in zip(
            (-0.2, 0.2), (TOP1_COLOUR, TOP3_COLOUR), series.items(), strict=True
        )
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
    """Draw top-1 and top-3 accuracy of models side by side, and those of guessing.

    Parameters
    ----------
    models : mapping of str to Figures
        By title, left to right. Whiskers are the intervals over albums.
    kinds : list of str, optional
        What kind each model is of; those of a kind stand together.
    n_songs, n_classes : int
        Number of songs that the shares are of, and of artists.
    title : str
    note : str
        What else is to be said, after what the whiskers are.
    """
    figure = new_figure(max(8.0, 1.6 * len(models) + 1.5), 5.0, title)
    axes = figure.add_subplot()
    kinds = kinds or [""] * len(models)
    x = _places(kinds, 0.5)
    shares = {
        "Top-1": [model.top1 for model in models.values()],
        "Top-3": [model.top3 for model in models.values()],
    }
    intervals = (
        [model.over_albums.top1 for model in models.values()],
        [model.over_albums.top3 for model in models.values()],
    )
    for bars, interval in zip(_bars(axes, x, list(models), shares), intervals, strict=True):
        low, high = 100 * np.array(interval).T
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        half = (high - low) / 2
        axes.errorbar(middles, low + half, half, fmt="none", ecolor=INK, lw=1.4, capsize=5)
        for middle, bar in zip(middles, bars, strict=True):
            # Below its bar: above, it would stand at the whisker's end and seem to be that.
            axes.annotate(
                f"{bar.get_height():.1f}",
                (middle, 0),
                (0, -4),
                textcoords="offset points",
                ha="center",
                va="top",
                weight="bold",
            )
    for k, line in ((1, "--"), (3, ":")):
        chance = 100 * min(1.0, k / n_classes)
        label = f"Top-{k} by chance, {chance:.3g} %"
        axes.axhline(chance, color=ORANGE, linewidth=1.6, linestyle=line, zorder=1.5, label=label)
    for kind in filter(None, dict.fromkeys(kinds)):
        axes.text(x[kinds.index(kind)] - 0.45, 109, kind, color=FAINT, size=11, style="italic")
    axes.set_ylabel(f"Accuracy (% of {n_songs} songs)")
    axes.tick_params(axis="x", pad=20)
    handles, labels = axes.get_legend_handles_labels()
    order = np.argsort(["chance" in label for label in labels], kind="stable")
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="lower left",
        bbox_to_anchor=(0, 1.07 if any(kinds) else 1),  # above the kinds
        borderaxespad=0.2,
        ncols=4,
        handlelength=1.6,
        columnspacing=1.4,
    )
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

    Parameters
    ----------
    models : mapping of str to ModelResult
        By name, top to bottom.
    kinds : list of str
        What kind each model is of; those of a kind stand together.
    published : mapping of str to (float, float)
        By name, top-1 and top-3 that others reached with the same model.
    title : str
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
    """Draw each model's top-1 against the seconds that its training took.

    Parameters
    ----------
    models : mapping of str to ModelResult
        By name.
    title : str
    """
    figure = new_figure(10.0, 5.2, title)
    axes = figure.add_subplot()
    for i, model in enumerate(models.values()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)]
        share, seconds = 100 * model.val.top1, max(model.seconds, 1.0)  # of those solved at once
        label = f"{model.title}: {share:.1f} %, {seconds:,.0f} s"
        axes.plot(seconds, share, marker, color=colour, markersize=10, label=label)
    axes.set(xscale="log", ylim=(0, 102), xlabel="Training (seconds, logarithmic)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("Top-1 (% of the validation songs)")
    axes.grid(which="both")
    axes.legend(**BESIDE)
    return figure


@in_house_style
def album_effect(models: Mapping[str, Task1Model], *, n_songs: int, title: str) -> Figure:
    """Draw each model's top-1 in folds that keep albums whole and in folds that split them.

    Parameters
    ----------
    models : mapping of str to Task1Model
        By title, left to right. What was not measured is not drawn.
    n_songs : int
        Number of songs cross-validated.
    title : str
    """
    figure = new_figure(max(8.0, 1.7 * len(models) + 1.5), 5.0, title)
    axes = figure.add_subplot()
    by = [model.cv_top1_by for model in models.values()]
    series = {
        "Albums kept whole": [_or_nan(of_model.get("album")) for of_model in by],
        "Albums split between folds": [_or_nan(of_model.get("song")) for of_model in by],
    }
    for bars in _bars(axes, np.arange(len(models)), list(models), series):
        axes.bar_label(bars, fmt="%.1f", weight="bold", padding=2)
    axes.set_ylabel(f"Top-1 in cross-validation\n(% of {n_songs} training songs)")
    axes.legend(**ABOVE, ncols=2)
    return figure


def _or_nan(value: float | None) -> float:
    """Replace what could not be measured, and is not drawn."""
    return np.nan if value is None else value


@in_house_style
def reliability(models: Mapping[str, np.ndarray], labels: np.ndarray, *, title: str) -> Figure:
    """Draw reliability diagrams: how often models are right against how sure they are.

    Parameters
    ----------
    models : mapping of str to np.ndarray
        By title, (n_songs, n_classes) probabilities.
    labels : np.ndarray
        (n_songs,) index of the true class.
    title : str

    Returns
    -------
    Figure
        A panel per model; the area of a dot is in proportion to its bin's songs.
    """
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

    Parameters
    ----------
    ablation : Ablation
        Its families are drawn top to bottom; what was not measured is not drawn.
    whole : float
        Top-1 in cross-validation with all families.
    title : str
    """
    families = ablation.families
    figure = new_figure(11.5, 0.36 * len(families) + 1.5, title)
    panels = figure.subplots(1, 3, sharey=True)
    rows = families.values()
    alone = np.array([_or_nan(row.alone) for row in rows])
    without = np.array([_or_nan(row.without) for row in rows])
    lost, lost_std = (np.array([getattr(row, key) for row in rows]) for key in ("lost", "lost_std"))
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
    """Draw how often an artist is among a model's k best guesses.

    Parameters
    ----------
    models : mapping of str to np.ndarray
        By title, (n_songs, n_classes) scores; the legend has them by their top-1.
    labels : np.ndarray
        (n_songs,) index of the true class.
    title : str
    """
    figure = new_figure(11.5, 5.2, title)
    axes = figure.add_subplot()
    n_classes = next(iter(models.values())).shape[1]
    k = np.arange(1, min(MOST_GUESSES, n_classes) + 1)
    curves = {
        name: (i, [evaluation.top_k_accuracy(scores, labels, most) for most in k])
        for i, (name, scores) in enumerate(models.items())
    }
    for name, (i, shares) in sorted(curves.items(), key=lambda item: -item[1][1][0]):
        axes.plot(
            k,
            100 * np.array(shares),
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=7,
            markeredgecolor=INK,
            linewidth=1.8,
            label=wrapped(f"{name}: {shares[0]:.1%}", 30),
        )
    axes.plot(k, 100 * k / n_classes, color=INK, linestyle="--", linewidth=1.2, label="by chance")
    axes.set(xticks=k, ylim=(0, 104), yticks=range(0, 101, 20))
    axes.set(xlabel="k: guesses that count", ylabel="Artist among the k best (% of songs)")
    axes.grid()
    axes.legend(**BESIDE, title="Models, by top-1", alignment="left")
    return figure


def _table(axes: Axes, percent: np.ndarray, texts: Sequence[str], size: float, label: str) -> None:
    """Draw percentages in colour, (n_rows, n_columns), with a text each; NaN is grey."""
    axes.set_facecolor("#DDDDDD")
    seaborn.heatmap(
        percent,
        ax=axes,
        cmap="Blues",
        vmin=0,
        vmax=100,
        annot=np.reshape(texts, percent.shape),
        fmt="",
        annot_kws={"size": size},
        linewidths=0.5,
        linecolor="#E8E8E8",
        cbar_kws={"label": label, "fraction": 0.05, "pad": 0.02},
        xticklabels=False,
        yticklabels=False,
    )
    axes.tick_params(length=0)


@in_house_style
def confusion_matrix(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], *, title: str
) -> Figure:
    """Draw a confusion matrix: colour is the row's percentage, text is the count.

    Parameters
    ----------
    scores : np.ndarray
        (n_songs, n_classes).
    labels : np.ndarray
        (n_songs,) index of the true class.
    classes : sequence of str
        The artists, drawn in this order, which is that of all the matrices of a data set. Of more
        than :data:`MOST_ARTISTS`, those of the largest confusions are drawn, and the title says so.
    title : str

    Returns
    -------
    Figure
        Percentages are of all songs of the true artist, those included that are taken for an
        artist who is not drawn. The row of an artist without songs is grey.
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
    axes.set_xticks(np.arange(n) + 0.5, names, rotation=45 if both else 90)
    axes.set_yticks(
        np.arange(n) + 0.5, [f"{name} ({k})" for name, k in zip(names, n_songs, strict=True)]
    )
    axes.tick_params(labelsize=11 if both else 9.5)
    if both:
        for label in axes.get_xticklabels():
            label.set(ha="right", va="top", rotation_mode="anchor")
    axes.set(xlabel="Predicted artist", ylabel="True artist (songs)")
    return figure


@in_house_style
def f1_by_artist(
    models: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], *, title: str
) -> Figure:
    """Draw F1 of each artist by each model, and its mean over all artists, macro-F1.

    Parameters
    ----------
    models : mapping of str to np.ndarray
        By title, left to right, (n_songs, n_classes) scores.
    labels : np.ndarray
        (n_songs,) index of the true class.
    classes : sequence of str
        The artists, drawn from the highest to the lowest mean over the models. Those without songs
        are left out; of more than :data:`MOST_ARTISTS` the highest and the lowest are drawn, and
        the title says so.
    title : str
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
    """Draw who is taken for whom most often by all models together, with the songs.

    Parameters
    ----------
    models : mapping of str to np.ndarray
        By title, (n_songs, n_classes) scores of the songs in ``predictions``.
    predictions : Predictions
        The songs, their artists and the classes.
    title : str
    """
    labels, classes = predictions.labels, predictions.classes
    guesses = np.array([evaluation.top_k(scores, 1)[:, 0] for scores in models.values()])
    pairs = Counter(
        (int(true), int(guess))
        for of_model in guesses
        for true, guess in zip(labels, of_model, strict=True)
        if true != guess
    ).most_common(MOST_PAIRS)
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
        songs = ", ".join(
            f"{readable(stems[i])}\N{NO-BREAK SPACE}({times[i]})"
            for i in np.argsort(-times, kind="stable")
            if times[i]
        )
        text = textwrap.fill(songs, 78, max_lines=2, placeholder=" …")
        right.text(0, row, text, va="center", size=10.5)
    bars.invert_yaxis()
    for axes in (bars, right):
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for edge in y - 0.5:
            axes.axhline(edge, color="#E8E8E8", linewidth=1)
    right.tick_params(labelleft=False)
    bars.margins(x=0.5)
    return figure


@in_house_style
def song_map(song_map: "SongMap", *, title: str) -> Figure:
    """Draw songs in the plane, and artists' names where most of their songs are.

    Parameters
    ----------
    song_map : SongMap
        Artists have a colour and a marker. Of very many artists, those with most songs are drawn so
        and named, and the others are grey.
    title : str
    """
    artists, n_songs = np.unique(song_map.artists, return_counts=True)
    most = len(COLOURS) * len(MARKERS)
    largest = sorted(artists[np.argsort(-n_songs, kind="stable")[:most]].tolist())
    figure = new_figure(12.0, 8.4, title)
    axes = figure.add_subplot()
    for artist in artists:
        if artist in largest:
            i = largest.index(artist)
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        else:
            colour, marker = "#BBBBBB", "o"
        for unseen in (False, True):
            xy = song_map.xy[(song_map.artists == artist) & (song_map.unseen == unseen)]
            axes.scatter(
                xy[:, 0],
                xy[:, 1],
                s=110 if unseen else 26,
                c=colour,
                marker=marker,
                alpha=1 if unseen else 0.45,
                edgecolors=INK if unseen else "none",
                linewidths=1.0,
                zorder=3 if unseen else 2,
            )
    axes.set(xticks=[], yticks=[])
    axes.margins(0.06)
    axes.spines[:].set(visible=True, color="#BBBBBB")
    axes.set_title(
        f"nearest training song is by the same artist: {song_map.same_artist:.0%} "
        f"(by chance {song_map.by_chance:.0%})",
        size=12,
        loc="left",
    )
    handles = [
        _dot("training song", "o", "#BBBBBB", size=4.5, edge="none"),
        _dot("validation song", "o", "white", size=9),
    ]
    if len(artists) > most:
        handles.append(_dot(f"{len(artists) - most:,} other artists", "o", "#BBBBBB"))
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
        label.set_color(COLOURS[i % len(COLOURS)])
        label.set_path_effects([withStroke(linewidth=3.5, foreground="white")])


def _dot(label: str, marker: str, colour: str, size: float = 7.5, edge: str = INK) -> Line2D:
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
