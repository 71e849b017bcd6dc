"""Figures: what is drawn equals the records, all text is inside, files are the same bytes."""

import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TOY_DATASET, TOY_LEARNING, toy_provenance, toy_settings
from matplotlib import font_manager, get_data_path, rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from artist20 import Note, UserError, files
from artist20.checkpoints import EpochRow
from artist20.report import network_plots, plots, song_plots, style
from artist20.report.architecture import Layer
from artist20.report.maps import SongMap
from artist20.report.style import Drawing
from artist20.results import (
    Ablation,
    AblationSettings,
    Accuracy,
    Family,
    Figures,
    Intervals,
    NetworkMetrics,
    Predictions,
    SongRecord,
    Task1Model,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
#         best guesses of two models
GUESSES = {"SVM": [0, 0, 0, 1, 1, 1, 0, 0, 1, 2], "ResNet": [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]}
CLASSES = ["a$ap_$occer", "creedence_clearwater_revival", "u2"]


def one_hot(guesses, n_classes=3):
    return np.eye(n_classes)[guesses] * 0.9 + 0.1 / n_classes


MODELS = {name: one_hot(guesses) for name, guesses in GUESSES.items()}


def figures_of(top1=0.5, top3=0.75, interval1=(0.25, 0.5), interval3=(0.5, 1.0)):
    intervals = Intervals(top1=interval1, top3=interval3)
    return Figures(
        top1=top1,
        top3=top3,
        over_albums=intervals,
        over_songs=Intervals(top1=(0, 1), top3=(0, 1)),
        macro_f1=0.5,
        course_score=top1 + 0.5 * top3,
    )


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def labels_of(axes):
    return tuple(
        [label.get_text() for label in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )


def title_of(figure):
    return figure._suptitle.get_text()


def percents(axes):
    return np.ma.filled(axes.collections[0].get_array().astype(float), np.nan)


# --- models --------------------------------------------------------------------------------------


def bars(models=None, **options):
    models = models or {"SVM": figures_of(0.5714, 0.7879), "k-NN": figures_of(0.3723, 0.6104)}
    return plots.model_comparison(models, n_songs=231, n_classes=2, title="t", **options)


def test_bars_whiskers_and_chance_are_the_records_in_percent():
    axes = bars().axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [57.14, 37.23, 78.79, 61.04])
    whiskers = [[s[:, 1] for s in of_k.get_segments()] for of_k in axes.collections]
    np.testing.assert_allclose(whiskers, [[[25, 50]] * 2, [[50, 100]] * 2])
    assert texts_of(axes) == ["57.1", "37.2", "78.8", "61.0"]
    assert labels_of(axes)[0] == ["SVM", "k-NN"]
    assert axes.get_ylabel() == "Accuracy (% of 231 songs)"
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(left[1] <= right[0] for left, right in pairwise(edges))
    for bar, text in zip(axes.patches, axes.texts, strict=True):
        assert text.xy == (pytest.approx(bar.get_x() + bar.get_width() / 2), 0)
        assert text.get_window_extent().y1 < bar.get_window_extent().y0
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["Top-1", "Top-3", "Top-1 by chance, 50 %", "Top-3 by chance, 100 %"]
    assert [line.get_ydata()[0] for line in axes.lines[-2:]] == [50, 100]


def test_bars_of_a_kind_stand_together_under_its_name():
    models = dict.fromkeys(["SVM", "k-NN", "ResNet"], figures_of())
    axes = bars(models, kinds=["hand-made", "hand-made", "from scratch"]).axes[0]
    places = axes.get_xticks()
    assert places[1] - places[0] == 1 < places[2] - places[1]
    names = {text.get_text(): text.get_position()[0] for text in axes.texts[-2:]}
    assert list(names) == ["hand-made", "from scratch"]
    assert names["hand-made"] < places[0] < places[1] < names["from scratch"] < places[2]


def model_results():
    """What figures of all models ask of their records."""
    test = SimpleNamespace(
        top1=0.6, top3=0.9, over_songs=Intervals(top1=(0.5, 0.7), top3=(0.8, 1.0))
    )
    artists = dict.fromkeys(CLASSES)
    return {
        "svm": SimpleNamespace(
            title="SVM", val=figures_of(0.5, 0.75), test=test, seconds=0.1, artists=artists
        ),
        "resnet": SimpleNamespace(
            title="ResNet", val=figures_of(0.25, 0.5), test=None, seconds=60, artists=artists
        ),
    }


def test_dots_are_of_validation_and_test_songs_and_published_ones_hollow():
    kinds, published = ["a", "b"], {"resnet": (0.7273, 0.8918)}
    figure = plots.dot_plot(model_results(), kinds, published, title="t")
    for axes, of_k in zip(figure.axes, ([50, 60, 25, 72.73], [75, 90, 50, 89.18]), strict=True):
        *drawn, chance = axes.lines
        dots = [line for line in drawn if len(line.get_xdata()) == 1]
        np.testing.assert_allclose([line.get_xdata()[0] for line in dots], of_k)
        assert [line.get_marker() for line in dots] == ["o", "D", "o", "o"]
        assert dots[-1].get_markerfacecolor() == "none"
        assert chance.get_xdata()[0] == pytest.approx(100 / 3 if axes is figure.axes[0] else 100)
    ends = [line.get_xdata().tolist() for line in figure.axes[0].lines if line.get_ls() == "-"]
    assert [25, 50] in ends
    assert [50, 70] in ends
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["validation songs", "test songs", "published"]


def test_time_and_accuracy_has_a_mark_per_model():
    axes = plots.time_and_accuracy(model_results(), title="t").axes[0]
    assert [tuple(line.get_xydata()[0]) for line in axes.lines] == [(1, 50), (60, 25)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["SVM: 50.0 %, 1 s", "ResNet: 25.0 %, 60 s"]


def test_album_effect_shows_both_kinds_of_folds():
    def model(album, song):
        of = {"top1": 0.5, "top3": 0.7, "log_loss": 1, "calibration_error": 0, "cv_top1": 0.5}
        cv = {"cv_std": 0, "cv_top1_by": {"album": album, "song": song}}
        return Task1Model(**of, **cv, params={}, temperature=1, seconds=1)

    models = {"SVM": model(0.57, 0.9), "k-NN": model(0.37, None)}
    axes = plots.album_effect(models, n_songs=949, title="t").axes[0]
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in axes.containers}
    np.testing.assert_allclose(heights["Albums kept whole"], [57, 37])
    np.testing.assert_allclose(heights["Albums split between folds"], [90, np.nan])
    assert texts_of(axes)[:3] == ["57.0", "37.0", "90.0"]
    assert "949" in axes.get_ylabel()


def test_reliability_has_a_dot_per_bin_as_large_as_its_songs():
    scores = np.array([[0.25, 0.75], [0.25, 0.75], [0.25, 0.75], [0.95, 0.05]])
    figure = plots.reliability({"SVM": scores}, np.array([1, 1, 0, 0]), title="t")
    (axes,) = figure.axes
    points = np.ma.filled(axes.collections[0].get_offsets().astype(float), np.nan)
    np.testing.assert_allclose(points[[7, 9]], [[75, 200 / 3], [95, 100]])
    assert np.isnan(points[:7]).all()
    sizes = axes.collections[0].get_sizes()
    assert sizes[7] == 3 * sizes[9]
    error = (3 * (0.75 - 2 / 3) + 0.05) / 4
    assert axes.get_title(loc="left") == f"SVM\ncalibration error {error:.1%}"


def test_ablation_shows_points_lost_and_leaves_out_what_was_not_measured():
    axes = ablation().axes
    alone, left_out, shuffled = ([bar.get_width() for bar in panel.patches] for panel in axes)
    np.testing.assert_allclose(alone, [40, np.nan])
    np.testing.assert_allclose(left_out, [24, -1], atol=1e-9)
    np.testing.assert_allclose(shuffled, [20, -2])
    spread = axes[2].collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(spread, [15, 25])
    assert labels_of(axes[0])[1] == ["mfcc (80)", "tempo (1)"]
    assert axes[0].yaxis_inverted()  # the first family is at the top
    assert axes[0].get_title(loc="right") == "dashed: all families, 54.0%"


def ablation(title="t"):
    fit = {"dataset": "d", "features": "0", "cv": "album", "seed": 0}
    mfcc = Family(n_features=80, without=0.3, alone=0.4, lost=0.2, lost_std=0.05)
    tempo = Family(n_features=1, without=0.55, alone=None, lost=-0.02, lost_std=0.01)
    record = Ablation(
        settings=AblationSettings(**fit, model="svm", params={}),
        complete=True,
        families={"mfcc": mfcc, "tempo": tempo},
    )
    return plots.ablation(record, 0.54, title=title)


def test_top_k_has_a_line_per_model_the_best_first_and_chance():
    axes = plots.top_k(MODELS, LABELS, title="t").axes[0]
    assert [line.get_label() for line in axes.lines] == ["ResNet: 90.0%", "SVM: 60.0%", "by chance"]
    curves = [list(line.get_ydata()) for line in axes.lines]
    np.testing.assert_allclose(curves[0], [90, 100, 100])
    np.testing.assert_allclose(curves[1], [60, 70, 100])  # of equal scores the first class wins
    np.testing.assert_allclose(curves[2], [100 / 3, 200 / 3, 100])


# --- confusions and artists ----------------------------------------------------------------------


def test_cells_of_a_confusion_matrix_hold_counts_and_percentages_of_the_row():
    figure = plots.confusion_matrix(MODELS["SVM"], LABELS, CLASSES, title="t")
    axes = figure.axes[0]
    columns, rows = labels_of(axes)
    assert columns == ["a$ap $occer", "creedence clearwater revival", "u2"]  # as in every matrix
    assert rows == ["a$ap $occer (4)", "creedence clearwater revival (2)", "u2 (4)"]
    np.testing.assert_allclose(percents(axes), [[75, 25, 0], [0, 100, 0], [50, 25, 25]])
    expected = ["3\n75%", "1\n25%", "", "", "2\n100%", "", "2\n50%", "1\n25%", "1\n25%"]
    assert texts_of(axes) == expected
    places = [text.get_position() for text in axes.texts]
    assert places == [(x + 0.5, y + 0.5) for y in range(3) for x in range(3)]
    assert axes.collections[0].get_clim() == (0, 100)
    assert axes.yaxis_inverted()
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())


@pytest.mark.filterwarnings("error")
def test_an_artist_without_songs_has_a_grey_row_and_no_f1():
    labels = np.array([0, 0, 2])
    axes = plots.confusion_matrix(one_hot([0, 1, 2]), labels, CLASSES, title="t").axes[0]
    row = labels_of(axes)[1].index("creedence clearwater revival (0)")
    assert np.isnan(percents(axes)[row]).all()
    assert np.isfinite(np.delete(percents(axes), row, axis=0)).all()
    assert len(texts_of(axes)) == 6  # none in the grey row
    axes = plots.f1_by_artist({"m": one_hot([0, 1, 2])}, labels, CLASSES, title="t").axes[0]
    assert labels_of(axes)[1] == ["u2 (1)", "a$ap $occer (2)", "mean of all: macro-F1"]
    assert texts_of(axes) == ["100", "67", "83"]


def test_f1_of_each_artist_from_the_best_known_to_the_worst_and_their_mean():
    axes = plots.f1_by_artist(MODELS, LABELS, CLASSES, title="t").axes[0]
    columns, rows = labels_of(axes)
    assert columns == ["SVM", "ResNet"]
    assert [row.split(" (")[0] for row in rows] == [
        *("a$ap $occer", "creedence clearwater revival", "u2", "mean of all: macro-F1")
    ]
    # 2 x right / (songs + guesses), of 4, 2, 4 songs
    f1 = np.array([[6 / 9, 6 / 7], [4 / 6, 4 / 5], [2 / 5, 8 / 8]])
    order = np.argsort(-f1.mean(axis=1), kind="stable")
    expected = 100 * np.vstack([f1[order], f1.mean(axis=0)])
    np.testing.assert_allclose(percents(axes).reshape(4, 2), expected)
    assert texts_of(axes) == [f"{share:.0f}" for share in expected.flat]


def test_of_very_many_artists_the_title_says_who_is_drawn():
    n = 60
    classes, labels = [f"a_{i:02}" for i in range(n)], np.arange(n)
    guesses = np.where(labels < 41, labels, (labels + 1) % n)  # the last 19 are taken for the next
    scores = one_hot(guesses, n)
    figure = plots.confusion_matrix(scores, labels, classes, title="t")
    columns, rows = labels_of(figure.axes[0])
    assert len(columns) == plots.MOST_ARTISTS
    assert {"a 41", "a 59", "a 00"} <= set(columns)
    assert rows == [f"{name} (1)" for name in columns]
    assert title_of(figure) == "t; 40 of 60 artists, those of the largest confusions"
    assert set(texts_of(figure.axes[0])) == {"", "1"}  # no percentages: cells are small
    figure = plots.f1_by_artist({"m": scores}, labels, classes, title="t")
    rows = labels_of(figure.axes[0])[1]
    assert (rows[0], rows[39], len(rows)) == ("a 01 (1)", "a 59 (1)", 41)
    assert title_of(figure) == "t; the 20 best and 20 worst known of 60 artists"
    assert texts_of(figure.axes[0])[-1] == f"{100 * (40 + 2 / 3) / 60:.0f}"  # of all of them


def predictions(classes=CLASSES, labels=LABELS):
    songs = [
        SongRecord(path=f"./train_val/{classes[i]}/x/{n:02}_Song.mp3", artist=classes[i], album="x")
        for n, i in enumerate(labels)
    ]
    return Predictions(classes=classes, songs=songs, scores={})


def test_confused_pairs_are_counted_over_models_and_songs():
    figure = plots.confused_pairs(MODELS, predictions(), title="t")
    counts, songs = figure.axes
    artists = ["a$ap $occer\n→ creedence clearwater revival", "u2\n→ a$ap $occer"]
    assert labels_of(counts)[1] == [*artists, "u2\n→ creedence clearwater revival"]
    assert [bar.get_width() for bar in counts.patches] == [2, 2, 1]
    assert texts_of(counts) == ["2 of 8, 25%", "2 of 8, 25%", "1 of 8, 12%"]
    written = [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts_of(songs)]
    assert written == ["03 Song (2)", "06 Song (1), 07 Song (1)", "08 Song (1)"]
    assert counts.yaxis_inverted()


def test_without_confusions_it_says_so():
    figure = plots.confused_pairs({"m": one_hot(LABELS)}, predictions(), title="t")
    assert figure.texts[-1].get_text() == "No song is taken for another artist's."


# --- networks ------------------------------------------------------------------------------------

ROWS = [
    Layer("waveform, 3 s", "input", "", (48_000,)),
    Layer("conv1", "convolution", "3×3 conv, 1 → 64", (64, 50, 32), 1_000_000, 0),
    Layer("pooling", "pooling", "global mean", (64,)),
    Layer("embedding", "input", "", (64,)),
    Layer("output", "linear", "linear 64 → 20", (20,), 1300, 1300),
    Layer("statistics", "linear", "shortcut", (20,), 5, 5, shortcut=True),
]


def test_a_diagram_writes_every_row_and_draws_no_input_twice():
    figure = network_plots.architecture(ROWS, title="t")
    axes = figure.axes[0]
    written = texts_of(axes)
    for row in ROWS:
        assert (row.name in written) == (row.name != "embedding")
        assert not row.detail or row.detail in written
        assert not row.n_parameters or f"{row.n_parameters:,}" in written
    assert {"48,000", "64 × 50 × 32", "–"} <= set(written)
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == 3  # none into the first row, nor into a shortcut
    footer = figure._supxlabel.get_text()
    assert footer == "1,001,305 parameters: 1,305 trainable, 1,000,000 not trained"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["not trained (dashed edge)", "pooling", "linear"]
    figure = network_plots.architecture(ROWS[3:], title="t")
    assert figure._supxlabel.get_text() == "1,305 parameters, all trainable"


def network_metrics(name="resnet", epoch=4, **of_dataset):
    return NetworkMetrics(
        model=name,
        top1=0.4,
        top3=0.6,
        epoch=epoch,
        last=Accuracy(top1=0.5, top3=0.6),
        learning=TOY_LEARNING,
        parameters=1,
        epochs_seconds=1,
        settings=toy_settings(name),
        dataset=TOY_DATASET,
        provenance=toy_provenance("x"),
    )


def history(n_epochs=5, **columns):
    return [
        EpochRow(
            **{
                "epoch": i,
                "lr": 0.01 / i,
                "train_loss": 30 / i,
                "val_loss": 4 / i,
                "val_top1": i / 10,
                "val_top3": i / 6,
                "seconds": 1,
                **columns,
            }
        )
        for i in range(1, n_epochs + 1)
    ]


def test_training_curves_are_the_historys_and_the_epoch_is_marked():
    rows = history()
    figure = network_plots.training_curves(rows, network_metrics(), title="t")
    loss, accuracy, rate = figure.axes
    curves = {line.get_label(): line.get_ydata() for line in (*loss.lines, *accuracy.lines)}
    np.testing.assert_allclose(curves["training songs"], [row.train_loss for row in rows])
    np.testing.assert_allclose(curves["validation songs"], [row.val_loss for row in rows])
    np.testing.assert_allclose(curves["top-1"], [100 * row.val_top1 for row in rows])
    np.testing.assert_allclose(curves["top-3"], [100 * row.val_top3 for row in rows])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [row.lr for row in rows])
    for axes in figure.axes:
        assert list(axes.lines[-1].get_xdata()) == [4, 4]
    assert figure._supxlabel.get_text() == (
        "Dotted: epoch 4, chosen on the validation songs; top-1 / top-3 40.0% / 66.7%."
    )
    strong = network_plots.training_curves(rows, network_metrics("resnet_strong"), title="t")
    assert "epoch 4, the last one, not chosen" in strong._supxlabel.get_text()


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ({}, "log"),
        ({"train_loss": 2.0, "val_loss": 10.0}, "linear"),  # five times is no reason yet
        ({"train_loss": 0.0, "val_loss": 10.0}, "linear"),
    ],
)
def test_losses_far_from_each_other_have_a_log_scale(losses, scale):
    figure = network_plots.training_curves(history(**losses), network_metrics(), title="t")
    assert figure.axes[0].get_yscale() == scale
    assert ("log scale" in figure.axes[0].get_title(loc="left")) == (scale == "log")


# --- all text is inside --------------------------------------------------------------------------

LONG = [f"the_artist_of_a_name_without_any_end_and_more_{i:02}" for i in range(20)]
TITLE = "PANNs, strong recipe, untrained encoder on 231 validation songs of artist20: " * 3
MANY = [f"PANNs, strong recipe, untrained encoder {i}" for i in range(8)]


def long_scores():
    labels = np.repeat(np.arange(20), 3)
    rng = np.random.default_rng(0)
    return {name: rng.dirichlet(np.ones(20), len(labels)) for name in MANY}, labels


def every_figure(title):
    """Draw 20 artists of long names, and many models of long titles."""
    models, labels = long_scores()
    rng = np.random.default_rng(0)
    artists = np.repeat(LONG, 3)
    song_map = SongMap(
        rng.normal(size=(60, 2)),
        artists,
        np.arange(60) > 30,
        same_artist=0.5,
        by_chance=0.05,
        same_album=None,
        n_dimensions=256,
        n_songs=60,
    )
    of_models = dict.fromkeys(MANY, figures_of(1.0, 1.0, (0, 1), (0, 1)))
    rows = history()
    log_mel, seconds = rng.normal(-40, 10, (200, 64)), np.linspace(1, 3999, 9)
    curves, names = rng.dirichlet(np.ones(4), 9), [f"{style.readable(name)}: 1%" for name in LONG]
    return {
        "comparison": lambda: bars(of_models, note="small print " * 30),
        "kinds": lambda: bars(of_models, kinds=["hand-made features"] * (len(MANY) - 1) + ["b"]),
        "dots": lambda: plots.dot_plot(model_results(), ["a", "b"], {}, title=title),
        "time": lambda: plots.time_and_accuracy(model_results(), title=title),
        "reliability": lambda: plots.reliability(dict([*models.items()][:4]), labels, title=title),
        "ablation": lambda: ablation(title),
        "top-k": lambda: plots.top_k(models, labels, title=title),
        "confusion": lambda: plots.confusion_matrix(models[MANY[0]], labels, LONG, title=title),
        "f1": lambda: plots.f1_by_artist(models, labels, LONG, title=title),
        "pairs": lambda: plots.confused_pairs(models, predictions(LONG, labels), title=title),
        "map": lambda: plots.song_map(song_map, title=title),
        "architecture": lambda: network_plots.architecture(ROWS, title=title),
        "training": lambda: network_plots.training_curves(rows, network_metrics(), title=title),
        "timeline": lambda: song_plots.timeline(
            log_mel, 4000, seconds, curves, names[:4], has_true=True, title=title
        ),
    }  # fmt: skip


def drawn_texts(figure):
    """Return what is to be read, without the labels of ticks outside the axes' limits."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    texts = figure.findobj(Text)
    return [t for t in texts if t.get_visible() and t.get_text().strip() and t not in hidden]


@pytest.mark.parametrize("kind", every_figure(TITLE))
def test_no_text_is_cut_off_or_hidden_by_the_title(kind):
    figure = every_figure(TITLE)[kind]()
    figure.draw_without_rendering()
    title = figure._suptitle
    below = title.get_window_extent().y0
    for text in drawn_texts(figure):
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0, text
        assert box.y1 <= (figure.bbox.y1 if text is title else below), text
    for axes in figure.axes:  # and the picture is not squeezed away by what is written beside it
        assert axes.get_window_extent().width > 15
        assert axes.get_window_extent().height > 90


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_saved_figure_has_the_same_bytes_each_time(tmp_path, monkeypatch, suffix):
    for name, time in (("first", "1"), ("second", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)
        style.save(bars(), tmp_path / f"{name}{suffix}", "What is seen.")
    first = (tmp_path / f"first{suffix}").read_bytes()
    assert first == (tmp_path / f"second{suffix}").read_bytes()
    assert (tmp_path / "first.txt").read_text() == "What is seen.\n"
    assert len(list(tmp_path.iterdir())) == 4
    if suffix == ".pdf":
        assert b"/FontFile2" in first  # TrueType
    if suffix == ".png":
        with Image.open(tmp_path / "first.png") as image:
            assert round(image.info["dpi"][0]) == 150
            assert "Software" not in image.info
            pixels = np.asarray(image.convert("RGB"), int)
        bars().savefig(tmp_path / "whole.png", dpi=150)
        with Image.open(tmp_path / "whole.png") as image:  # of more colours, which is not seen
            difference = np.abs(pixels - np.asarray(image.convert("RGB")))
        assert (difference > 16).mean() < 1e-3
        assert len(first) < (tmp_path / "whole.png").stat().st_size


def test_a_users_matplotlibrc_changes_no_byte(tmp_path):
    style.save(bars(), tmp_path / "plain.png", "c")
    users = {"figure.dpi": 300, "savefig.bbox": "tight", "font.size": 20, "font.family": "serif"}
    with rc_context({**users, "axes.grid": True, "lines.linewidth": 5}):
        style.save(bars(), tmp_path / "users.png", "c")
    assert (tmp_path / "users.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


# --- what is missing -----------------------------------------------------------------------------


@pytest.fixture
def unsaved(monkeypatch):
    """Write no pictures, which is quick; keep their names and letters."""
    saved = []
    monkeypatch.setattr(style, "save", lambda figure, path, caption: saved.append(path.name))
    return saved


def drawing(name):
    return Drawing(name, Figure(), "c")


def test_parts_without_results_are_named_and_the_others_drawn(tmp_path, capsys, unsaved):
    def broken():
        yield drawing("second")
        raise UserError("x.json is missing: run x.py first")

    assert style.save_all([lambda: [drawing("first")]], tmp_path, "svg") == 0
    assert style.save_all([broken, lambda: [drawing("first")], broken], tmp_path, "png") == 1
    assert unsaved == ["first.svg", "second.png", "first.png", "second.png"]
    out = capsys.readouterr().out.splitlines()
    assert out.count("left out: x.json is missing: run x.py first") == 1
    assert out[0] == f"wrote {tmp_path}/first.svg"


@pytest.mark.parametrize("error", [UserError("first is missing"), files.DiskFullError("is full")])
def test_no_results_at_all_or_a_full_disk_is_an_error(tmp_path, unsaved, error):
    def missing(error):
        raise error

    parts = [lambda: missing(error), lambda: missing(UserError("second is missing"))]
    if isinstance(error, files.DiskFullError):
        parts.insert(0, lambda: [drawing("first")])
    with pytest.raises(UserError, match=str(error)):
        style.save_all(parts, tmp_path, "png")


# --- letters that DejaVu Sans lacks --------------------------------------------------------------


@pytest.fixture
def fonts(monkeypatch):
    """Only the fonts that come with DejaVu Sans; add to it what is to be installed."""
    installed = []
    always = (style.FONT, "Last Resort High-Efficiency")
    listed = [entry for entry in fontManager.ttflist if entry.name in always]
    monkeypatch.setattr(fontManager, "ttflist", listed)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: installed)
    style._fonts_with.cache_clear()
    yield installed
    style._fonts_with.cache_clear()


def named(artist):
    return plots.confusion_matrix(np.eye(2), np.array([0, 1]), [artist, "Björk"], title="Ленинград")


def test_letters_that_no_font_has_are_one_note(tmp_path, fonts):
    with warnings.catch_warnings(record=True) as caught:
        parts = [lambda: [Drawing("x", named("⎷⎱⎱"), "c"), Drawing("y", named("⎰⎷"), "c")]]
        style.save_all(parts, tmp_path, "png")
        style.save_all([lambda: [Drawing("z", named("Βαγγέλης فيروز"), "c")]], tmp_path, "png")
    (note,) = caught
    assert note.category is Note
    assert str(note.message).startswith("no installed font has ⎰ ⎱ ⎷: figures have boxes in their")


def test_an_installed_font_draws_what_dejavu_lacks(tmp_path, fonts):
    """It may be newer than the list that matplotlib keeps, and another one may be broken."""
    style.save(named("⎷"), tmp_path / "box.png", "c")
    style._fonts_with.cache_clear()
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"none")
    fonts += [str(broken), str(Path(get_data_path(), "fonts/ttf/STIXSizOneSymReg.ttf"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.save_all([lambda: [Drawing("glyph", named("⎷"), "c")]], tmp_path, "png")
    assert (tmp_path / "glyph.png").read_bytes() != (tmp_path / "box.png").read_bytes()
