import os
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib import font_manager, get_data_path
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image
from torch import nn

from artist20 import Note, UserError, evaluation, figures, figures_confusion, figures_network, files
from artist20.architecture import Layer, describe
from artist20.models import ArtistResNet, BasicBlock, EmbeddingMLP

NAMES = ["SVM", "random forest", "k-NN"]
TOP1 = [0.5714, 0.4632, 0.3723]
TOP3 = [0.7879, 0.7273, 0.6104]
LONG_TITLE = "Task 1 on demo (synthesised songs): " + "an untrained backbone, " * 7 + "W" * 60

LOG_MEL = torch.zeros(2, 130, 64)


def comparison(**options):
    return figures.model_comparison(NAMES, TOP1, TOP3, title="t", n_songs=231, **options)


def confusion(matrix, names, title="t"):
    return figures_confusion.confusion_matrix(np.array(matrix), names, title=title)


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def labels_of(axes):
    return tuple(
        [label.get_text() for label in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )


def total(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def cnn14():
    # The package's own config downloads a label file when it is imported.
    config = ModuleType("panns_inference.config")
    config.labels, config.classes_num = [], 527
    sys.modules.setdefault("panns_inference.config", config)
    from panns_inference import models

    with pytest.MonkeyPatch.context() as patch:
        # 80 million random numbers that nothing here looks at.
        patch.setattr(models, "init_layer", lambda layer: None)
        patch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **options: tensor)
        model = models.Cnn14(
            sample_rate=16000,
            window_size=512,
            hop_size=160,
            mel_bins=64,
            fmin=50,
            fmax=8000,
            classes_num=527,
        )
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def cnn14_rows(cnn14):
    return describe(cnn14, torch.zeros(1, 16000), unused=("fc_audioset",))


# ---- Task 1's own


def album_effect(title="t"):
    return figures.album_effect(NAMES, [0.9, 0.8, 0.7], TOP1, title=title, n_songs=949)


def reliability(title="t"):
    bins = np.array([0.25, np.nan, 0.9]), np.array([0.5, np.nan, 1.0]), np.array([3, 0, 1])
    return figures.reliability(NAMES, [bins] * 3, ["error 1 %"] * 3, title=title)


def ablation(title="t"):
    families = ["mfcc (80)", "zero_crossing_rate (4)", "tempo (1)"]
    return figures.ablation(
        families,
        [0.3, 0.5, 0.55],
        [0.4, 0.2, np.nan],
        [0.2, 0.01, -0.02],
        [0.05, 0.02, 0.01],
        whole=0.54,
        title=title,
    )


def test_album_effect_shows_both_kinds_of_folds():
    axes = album_effect().axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(heights, [[90, 80, 70], np.multiply(100, TOP1)])
    assert texts_of(axes) == ["90.0", "80.0", "70.0", "57.1", "46.3", "37.2"]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["Albums split between folds", "Albums kept whole"]
    assert "949" in axes.get_ylabel()


def test_reliability_has_a_dot_per_bin_as_large_as_its_songs():
    panels = reliability().axes
    assert [panel.get_title(loc="left").split("\n")[0] for panel in panels] == NAMES
    dots = panels[0].collections[0]
    points = np.asarray(dots.get_offsets())
    np.testing.assert_allclose(points[[0, 2]], [[25, 50], [90, 100]])
    sizes = dots.get_sizes()
    assert sizes[0] == 3 * sizes[2]


def test_ablation_shows_points_lost_and_leaves_out_what_was_not_measured():
    figure = ablation()
    alone, left_out, shuffled = ([bar.get_width() for bar in axes.patches] for axes in figure.axes)
    np.testing.assert_allclose(alone, [40, 20, np.nan])
    np.testing.assert_allclose(left_out, [24, 4, -1], atol=1e-9)
    np.testing.assert_allclose(shuffled, [20, 1, -2])
    assert figure.axes[0].get_yticklabels()[0].get_text() == "mfcc (80)"
    assert figure.axes[0].yaxis_inverted()  # the first family is at the top


# ---- model comparison


def test_bars_and_labels_are_the_given_values_in_percent():
    axes = comparison().axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    np.testing.assert_allclose(heights, [np.multiply(100, TOP1), np.multiply(100, TOP3)])
    assert texts_of(axes) == ["57.1", "46.3", "37.2", "78.8", "72.7", "61.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert "231" in axes.get_ylabel()


def test_bars_stand_beside_each_other():
    axes = comparison().axes[0]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert all(left[1] <= right[0] for left, right in pairwise(edges))


def test_whiskers_span_the_interval_and_values_stand_below_the_bars():
    # The first ends where its bar does, but for rounding.
    interval = np.array([[0.50, 0.5714 - 1e-15], [0.40, 0.53], [0.31, 0.44]])
    axes = comparison(top1_interval=interval).axes[0]
    segments = axes.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in segments], 100 * interval)
    for bar, text in zip(axes.patches, axes.texts, strict=True):
        assert text.xy == (pytest.approx(bar.get_x() + bar.get_width() / 2), 0)
        assert text.get_window_extent().y1 < bar.get_window_extent().y0


def test_chance_follows_the_number_of_artists_and_never_exceeds_one():
    def lines(n_classes):
        axes = comparison(n_classes=n_classes).axes[0]
        return [line.get_ydata()[0] for line in axes.lines]

    assert lines(20) == [5.0, 15.0]
    assert lines(2) == [50.0, 100.0]
    assert lines(None) == []


@pytest.mark.parametrize("top1", [[57.1, 46.3, 37.2], [0.5, 0.4], [0.5, 0.4, float("nan")]])
def test_accuracies_that_are_not_one_fraction_per_model_are_refused(top1):
    with pytest.raises(ValueError, match="Top-1"):
        figures.model_comparison(NAMES, top1, TOP3, title="t", n_songs=3)


# ---- confusion matrix


def test_cells_hold_counts_and_percentages_of_the_row():
    axes = confusion([[3, 1, 0], [0, 10, 0], [2, 2, 4]], ["a", "b", "c"]).axes[0]
    assert labels_of(axes) == (["a", "b", "c"], ["a (4)", "b (10)", "c (8)"])
    expected = ["3\n75%", "1\n25%", "", "", "10\n100%", "", "2\n25%", "2\n25%", "4\n50%"]
    assert texts_of(axes) == expected


@pytest.mark.parametrize("n", [20, 30])
def test_every_count_stands_in_the_cell_of_its_artists(n):
    rng = np.random.default_rng(n)
    matrix = rng.integers(0, 5, (n, n))
    axes = confusion(matrix, [f"artist_{i}" for i in range(n)]).axes[0]
    columns, rows = labels_of(axes)
    order = [int(name.split()[1]) for name in columns]
    assert sorted(order) == list(range(n))
    assert rows == [f"artist {i} ({matrix[i].sum()})" for i in order]
    texts = iter(axes.texts)
    for y, true in enumerate(order):
        for x, guessed in enumerate(order):
            count, text = matrix[true, guessed], next(texts)
            assert text.get_position() == (x + 0.5, y + 0.5)
            share = f"\n{100 * count / matrix[true].sum():.0f}%" if n == 20 else ""
            assert text.get_text() == (f"{count}{share}" if count else "")


def test_colour_is_the_percentage_of_the_row():
    axes = confusion([[1, 3], [50, 50]], ["a", "b"]).axes[0]
    np.testing.assert_allclose(np.ravel(axes.collections[0].get_array()), [25, 75, 50, 50])
    assert axes.collections[0].get_clim() == (0, 100)


def test_artists_who_are_taken_for_each_other_stand_side_by_side():
    matrix = 6 * np.eye(6, dtype=int)
    matrix[0, 4] = matrix[4, 0] = 3
    matrix[2, 5] = matrix[5, 2] = matrix[5, 4] = 2
    columns, _ = labels_of(confusion(matrix, list("abcdef")).axes[0])
    assert columns == ["a", "e", "f", "c", "b", "d"]  # b and d are never confused


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [3, 30])
def test_a_row_without_songs_is_marked_and_nothing_is_divided_by_zero(n):
    matrix = 4 * np.eye(n, dtype=int)
    matrix[1] = 0
    axes = confusion(matrix, [f"a{i}" for i in range(n)]).axes[0]
    bands = [p for p in axes.patches if p.get_facecolor()[3] > 0]
    assert [(p.get_y(), p.get_height(), p.get_width()) for p in bands] == [(1, 1, 1)]
    assert np.isfinite(axes.collections[0].get_array()).all()
    assert texts_of(axes)[-1] == "no songs"
    assert texts_of(axes)[n : 2 * n] == [""] * n


def test_names_are_written_in_full_with_spaces():
    names = ["creedence_clearwater_revival", "a$ap_$occer", "u2"]
    axes = confusion(np.eye(3, dtype=int), names).axes[0]
    columns, rows = labels_of(axes)
    assert columns == ["creedence clearwater revival", "a$ap $occer", "u2"]
    assert rows == [f"{name} (1)" for name in columns]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert not any(label.get_parse_math() for label in labels)


def test_of_very_many_artists_those_of_the_largest_confusions_are_drawn():
    n, rng = 2000, np.random.default_rng(0)
    matrix = np.diag(rng.integers(1, 9, n))
    pairs = rng.permutation(n)[:40].reshape(20, 2)
    matrix[tuple(pairs.T)] = 30
    matrix[np.arange(n), rng.permutation(n)] += 1  # small ones, which are not drawn
    figure = confusion(matrix, [f"a_{i}" for i in range(n)])
    columns, rows = labels_of(figure.axes[0])
    assert {int(name.split()[1]) for name in columns} == set(pairs.ravel())
    for true, guessed in pairs:
        assert abs(columns.index(f"a {true}") - columns.index(f"a {guessed}")) == 1
    assert [int(row.split("(")[1][:-1]) for row in rows] == [
        matrix[int(name.split()[1])].sum() for name in columns
    ]
    title = figure._suptitle.get_text().replace("\n", " ")
    expected = "t; the 40 of 2,000 artists with the largest confusions, of equal ones the first"
    assert title == expected


def test_a_name_too_few_is_refused():
    with pytest.raises(ValueError, match="2 class names"):
        confusion(np.eye(3, dtype=int), ["a", "b"])


# ---- confused pairs


def pairs_figure(n_songs=3, title="t"):
    songs = [(f"a song of some length {i}", 9 - i) for i in range(n_songs)]
    pair = figures_confusion.Confusion("guns_n'_roses", "u2", 12, 40, songs)
    return figures_confusion.confused_pairs([pair, pair], title=title)


def test_confused_pairs_name_artists_counts_and_songs():
    figure = pairs_figure()
    texts = texts_of(figure.axes[0])
    assert "guns n' roses" in texts
    assert "→ u2" in texts
    assert "12 of 40, 30%" in texts
    songs = texts[-1].replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
    assert songs == "a song of some length 0 (9), a song of some length 1 (8), " + (
        "a song of some length 2 (7)"
    )


def test_songs_that_do_not_fit_are_counted():
    text = texts_of(pairs_figure(n_songs=9).axes[0])[-1]
    assert text.count("\n") == 1
    shown = text.count("(")
    assert 1 < shown < 9
    assert text.endswith(f"and {9 - shown} more")


def test_without_confusions_it_says_so():
    figure = figures_confusion.confused_pairs([], title="t")
    assert "No song is taken for another artist's." in texts_of(figure.axes[0])


# ---- describe


def test_rows_of_the_resnet_hold_every_parameter_and_the_real_shapes():
    model = ArtistResNet(n_classes=20)
    rows = describe(model, LOG_MEL)
    assert sum(row.n_parameters for row in rows) == total(model)
    assert all(row.n_trainable == row.n_parameters for row in rows)

    model.eval()
    with torch.no_grad():
        x = model.stem[:3](model.standardize(LOG_MEL).transpose(1, 2).unsqueeze(1))
        shapes = {"stem.0": x.shape}
        shapes["stem.3"] = (x := model.stem[3](x)).shape
        for stage in ("stage1", "stage2", "stage3"):
            for index, block in enumerate(getattr(model, stage)):
                shapes[f"{stage}.{index}"] = (x := block(x)).shape
        shapes["output"] = model(LOG_MEL).shape
    found = {row.name: row.output_shape for row in rows}
    assert {name: found[name] for name in shapes} == {n: tuple(s[1:]) for n, s in shapes.items()}
    assert [row.name for row in rows] == [
        *("input", "standardize", "stem.0", "stem.3", "stage1.0", "stage1.1", "stage2.0"),
        *("stage2.1", "stage3.0", "stage3.1", "pooling", "hidden.0", "output"),
    ]


def test_details_are_read_from_the_modules():
    rows = {row.name: row for row in describe(ArtistResNet(n_classes=7), LOG_MEL)}
    assert rows["stem.0"].detail == "7×7 conv, 1 → 64, stride 2, batch norm, ReLU"
    assert rows["stem.3"].detail == "3×3 max pool, stride 2"
    assert rows["stage1.0"].detail.endswith("64 → 64; shortcut: identity")
    assert rows["stage2.0"].detail.endswith("64 → 128, stride 2; shortcut: 1×1 conv")
    assert rows["pooling"].detail == "global mean and max, concatenated"
    assert (rows["pooling"].kind, rows["pooling"].output_shape) == ("pooling", (512,))
    assert rows["hidden.0"].detail == "linear 512 → 256, ReLU, dropout 0.3"
    assert rows["output"].detail == "linear 256 → 7"


def test_pooling_over_time_alone_is_not_called_global():
    rows = {row.name: row for row in describe(ArtistResNet(7, keep_frequency=True), LOG_MEL)}
    assert rows["pooling"].detail == "mean and max over the last axis, concatenated"
    assert rows["pooling"].output_shape == (2 * 256 * 4,)


def test_a_shortcut_is_a_row_without_an_arrow_into_it():
    model = ArtistResNet(7, 64, width=8, bins_per_band=4, statistics=True)
    rows = describe(model, LOG_MEL)
    assert sum(row.n_parameters for row in rows) == total(model)
    assert [row.name for row in rows if row.shortcut] == ["statistics"]
    by_name = {row.name: row for row in rows}
    assert by_name["bands"].detail == "average of 4 neighbouring bins"
    assert by_name["bands"].output_shape == (by_name["standardize"].output_shape[0], 16)
    assert by_name["statistics"].output_shape == by_name["output"].output_shape == (7,)
    assert by_name["statistics"].detail.endswith("linear 256 → 7")
    axes = figures_network.architecture(rows, title="t").axes[0]
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == len(rows) - 2  # none into the first row either


def test_another_model_gives_other_rows_and_another_picture():
    wider = ArtistResNet(n_classes=20)
    wider.stage3.append(BasicBlock(256, 256, 1))
    models = {"base": ArtistResNet(20), "classes": ArtistResNet(21), "block": wider}
    rows = {name: describe(model, LOG_MEL) for name, model in models.items()}
    assert rows["classes"][-1].output_shape == (21,)
    assert rows["classes"][:-1] == rows["base"][:-1]
    assert len(rows["block"]) == len(rows["base"]) + 1
    pictures = set()
    for layers in rows.values():
        pictures.add(tuple(texts_of(figures_network.architecture(layers, title="t").axes[0])))
    assert len(pictures) == 3


def test_the_network_is_left_as_it_was():
    model = ArtistResNet(n_classes=3).train()
    model.stage1.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    describe(model, LOG_MEL)
    with pytest.raises(RuntimeError):
        describe(model, torch.zeros(2, 130, 63))
    assert [module.training for module in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_frozen_layers_are_told_from_trained_ones_and_from_those_without_parameters():
    model = EmbeddingMLP(n_classes=20)
    model.hidden[:2].requires_grad_(False)
    rows = {row.name: row for row in describe(model, torch.zeros(1, 2048))}
    assert [name for name, row in rows.items() if row.frozen] == ["hidden.0"]
    assert rows["hidden.0"].n_parameters == 2048 * 1024 + 3 * 1024
    assert rows["standardize"].n_parameters == 0
    assert sum(row.n_trainable for row in rows.values()) == total(model) - 2048 * 1024 - 3 * 1024


def test_cnn14_is_frozen_and_the_layer_beside_the_embedding_is_counted_apart(cnn14, cnn14_rows):
    rows = {row.name: row for row in cnn14_rows}
    assert sum(row.n_parameters for row in cnn14_rows) == total(cnn14)
    assert all(row.frozen for row in cnn14_rows if row.n_parameters)
    assert cnn14_rows[-1] == Layer("fc_audioset", "not drawn", "", (), 2049 * 527, 0)
    assert rows["spectrogram_extractor"].output_shape == (1, 101, 257)
    assert rows["conv_block1"].output_shape == (64, 50, 32)
    assert rows["conv_block1"].detail == "2 convs 3×3, 1 → 64, 2×2 average pool"
    assert rows["conv_block6"].detail == "2 convs 3×3, 1024 → 2048"
    assert rows["pooling"].detail == "global mean and max, added"
    assert rows["fc1"].detail == "linear 2048 → 2048, ReLU"
    front_end = [row.name for row in cnn14_rows if row.kind == "front end"]
    assert front_end == ["spectrogram_extractor", "logmel_extractor", "bn0"]


def test_what_the_forward_pass_never_reaches_is_named():
    model = EmbeddingMLP(n_classes=5)
    model.spare = nn.Linear(3, 4)
    model.scale = nn.Parameter(torch.ones(2))
    last = describe(model, torch.zeros(1, 2048))[-1]
    assert (last.kind, last.n_parameters) == ("not drawn", 18)
    assert set(last.name.split(", ")) == {"spare", "scale"}


def test_a_layer_called_twice_is_drawn_twice_and_counted_once():
    shared = nn.Linear(4, 4)
    rows = describe(nn.Sequential(shared, nn.Sequential(shared)), torch.zeros(1, 4))
    assert [row.n_parameters for row in rows] == [0, 20, 0]


def test_an_unused_layer_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no layer fc_audioset"):
        describe(EmbeddingMLP(n_classes=5), torch.zeros(1, 2048), unused=("fc_audioset",))


# ---- architecture


def test_every_row_is_written_and_the_joining_input_is_not_repeated(cnn14_rows):
    mlp = EmbeddingMLP(n_classes=20)
    rows = cnn14_rows + describe(mlp, torch.zeros(1, 2048), input_name="embedding")
    figure = figures_network.architecture(rows, title="t")
    written = texts_of(figure.axes[0])
    drawn = [row for row in rows if row.name not in ("embedding", "fc_audioset")]
    for row in drawn:
        assert row.name in written
        assert row.detail in written
        assert not row.n_parameters or f"{row.n_parameters:,}" in written
    assert "64 × 50 × 32" in written
    assert "embedding" not in written
    assert "fc_audioset" not in written
    n_frozen = sum(row.n_parameters for row in cnn14_rows)
    footer = figure.texts[-1].get_text().replace("\n", " ")
    assert footer == (
        f"{n_frozen + total(mlp):,} parameters: {total(mlp):,} trainable, {n_frozen:,} frozen; "
        "1,079,823 of them not drawn, in fc_audioset"
    )


def test_a_network_that_is_trained_whole_says_so():
    figure = figures_network.architecture(
        describe(EmbeddingMLP(20), torch.zeros(1, 2048)), title="t"
    )
    assert figure.texts[-1].get_text() == "2,763,028 parameters, all trainable"


# ---- training curves


def history(n_epochs=5, **columns):
    epoch = np.arange(1.0, n_epochs + 1)
    made = {
        "epoch": epoch,
        "lr": 0.01 / epoch,
        "train_loss": 30 / epoch,
        "val_loss": 4 / epoch,
        "val_top1": epoch / 10,
        "val_top3": epoch / 6,
    }
    return made | columns


def training(n_epochs=5, epoch=4, title="t", **columns):
    return figures_network.training_curves(
        history(n_epochs, **columns), epoch=epoch, chosen="chosen on these songs", title=title
    )


def test_training_curves_are_the_historys_and_the_epoch_is_marked():
    figure = training()
    loss, accuracy, rate = figure.axes
    curves = {line.get_label(): line.get_ydata() for line in (*loss.lines, *accuracy.lines)}
    made = history()
    np.testing.assert_allclose(curves["training songs"], made["train_loss"])
    np.testing.assert_allclose(curves["validation songs"], made["val_loss"])
    np.testing.assert_allclose(curves["top-1"], 100 * made["val_top1"])
    np.testing.assert_allclose(curves["top-3"], 100 * made["val_top3"])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), made["lr"])
    for axes in figure.axes:
        assert list(axes.lines[-1].get_xdata()) == [4, 4]
    note = figure._supxlabel.get_text()
    assert note == "Dotted: epoch 4, chosen on these songs; top-1 / top-3 40.0% / 66.7%."
    assert loss.get_yscale() == "log"
    assert "log scale" in loss.get_title(loc="left")


def test_losses_that_are_near_each_other_have_no_log_scale():
    flat = np.array([2.3, 2.2, 2.1, 2.0, 1.9])
    assert training(train_loss=flat, val_loss=flat).axes[0].get_yscale() == "linear"
    zero = np.array([9, 1, 0.1, 0, 0])
    assert training(train_loss=zero).axes[0].get_yscale() == "linear"


# ---- top-k, F1


def top_k(title="t"):
    return figures.top_k(
        NAMES, np.array([[0.1, 0.3], [0.5, 0.6], [0.2, 1.0]]), title=title, n_classes=20
    )


def f1(title="t", values=((0.2, 0.9, 0), (0.4, 0.7, 0)), songs=(3, 12, 5), artists="abc"):
    return figures.f1_by_artist(
        NAMES[: len(values)], np.array(values), artists, np.array(songs), title=title
    )


def test_top_k_has_a_line_per_model_the_best_first_and_chance():
    axes = top_k().axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines == {
        "random forest: 50.0%": [50, 60],
        "k-NN: 20.0%": [20, 100],
        "SVM: 10.0%": [10, 30],
        "by chance": [5, 10],
    }
    styles = {(colour, marker) for colour, marker in figures.SERIES}
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == 10


def test_f1_of_each_artist_from_the_best_known_to_the_worst_and_their_mean():
    artists, macro, _ = sorted(f1().axes, key=lambda axes: -len(axes.texts))
    assert labels_of(artists)[1] == ["b (12)", "a (3)", "c (5)"]
    assert texts_of(artists) == ["90", "70", "20", "40", "0", "0"]
    assert labels_of(macro) == (["SVM", "random forest"], ["mean of all: macro-F1"])
    assert texts_of(macro) == ["37", "37"]


@pytest.mark.filterwarnings("error")
def test_an_artist_without_songs_has_no_f1_and_is_no_part_of_the_mean():
    figure = f1(values=[[0.2, np.nan, 0.6]], songs=(3, 0, 5))
    assert labels_of(figure.axes[1])[1] == ["c (5)", "a (3)"]
    assert texts_of(figure.axes[2]) == ["40"]


def test_of_very_many_artists_the_best_and_the_worst_known_are_drawn():
    values = np.linspace(0, 1, 2000)[None]
    figure = f1(values=values, songs=np.full(2000, 4), artists=[f"a{i}" for i in range(2000)])
    rows = labels_of(figure.axes[1])[1]
    expected = [*range(1999, 1979, -1), *range(19, -1, -1)]
    assert rows == [f"a{i} (4)" for i in expected]
    assert texts_of(figure.axes[2]) == ["50"]  # of all of them
    title = " ".join(figure._suptitle.get_text().split())
    assert title.endswith("the 20 best and 20 worst known of 2,000 artists")


def test_who_is_left_out_though_equal_is_counted():
    values = np.array([[0.9] * 25 + [0.5] * 5 + [0.0] * 30])
    artists = [f"a{i}{'z' * (i // 59 * 50)}" for i in range(60)]  # one with a long name
    figure = f1(values=values, songs=np.full(60, 4), artists=artists)
    title = " ".join(figure._suptitle.get_text().split())
    assert "of 60 artists, without 5 as good and 10 as bad as the last of these; names of " in title
    assert "names of more than 40 letters lack their middle" in title


# ---- what is missing


def test_parts_without_results_are_named_and_the_others_drawn(tmp_path, capsys):
    def drawn():
        yield "first", comparison(), "c"

    def broken():
        yield "second", comparison(), "c"
        raise UserError("x.json is missing: run x.py first")

    assert figures.save_all([drawn], tmp_path, "svg") == 0
    assert figures.save_all([broken, drawn, broken], tmp_path, "svg") == 1
    assert {path.name for path in tmp_path.glob("*.svg")} == {"first.svg", "second.svg"}
    assert capsys.readouterr().out.splitlines()[-1] == (
        "left out: x.json is missing: run x.py first"
    )


def test_a_full_disk_ends_a_report(tmp_path):
    def drawn():
        yield "first", comparison(), "c"

    def full():
        raise files.DiskFullError("there is no space")

    with pytest.raises(files.DiskFullError):
        figures.save_all([drawn, full, drawn], tmp_path, "svg")


def test_no_results_at_all_is_a_mistake(tmp_path):
    def missing(what):
        raise UserError(f"{what} is missing")

    parts = [lambda: missing("first"), lambda: missing("second")]
    with pytest.raises(UserError, match="first is missing"):
        figures.save_all(parts, tmp_path, "png")
    assert not list(tmp_path.iterdir())


# ---- all figures


KINDS = (
    *("comparison", "confusion", "architecture", "album effect", "reliability", "ablation"),
    *("training", "top-k", "f1", "pairs"),
)


def every_figure(title):
    rows = describe(EmbeddingMLP(n_classes=20), torch.zeros(1, 2048))
    interval = np.array([[0.3, 1.0]] * 3)
    return {
        "comparison": figures.model_comparison(
            NAMES,
            TOP1,
            [1.0, 1.0, 1.0],
            title=title,
            n_songs=40,
            note="small print " * 30,
            top1_interval=interval,
            n_classes=20,
        ),
        "confusion": confusion(np.eye(3, dtype=int), ["creedence_clearwater_revival"] * 3, title),
        "architecture": figures_network.architecture(rows, title=title),
        "album effect": album_effect(title),
        "reliability": reliability(title),
        "ablation": ablation(title),
        "training": training(title=title),
        "top-k": top_k(title),
        "f1": f1(title),
        "pairs": pairs_figure(title=title),
    }


def extreme_figures():
    """Draw few artists and models, many, and names that are long, empty, or not in Latin."""
    long = ["W" * 120, "i" * 120, "x_" * 60]
    drawn = {
        f"matrix of {artists[0][:9]}": confusion(np.eye(len(artists), dtype=int), artists)
        for artists in (["one"], long, ["Ленинград", "Βαγγέλης", "فيروز", "קורין"], ["", " ", "_"])
    }
    drawn["many artists"] = confusion(np.eye(30, dtype=int), ["a_long_artist_name"] * 30)
    drawn["no hits"] = confusion([[0, 4], [3, 0]], ["a", "b"])
    drawn["f1, one"] = f1(values=[[0.0]], songs=[1], artists=["a"])
    drawn["f1, long names"] = f1(artists=long)
    pair = figures_confusion.Confusion(long[0], long[1], 1, 1, [(name, 1) for name in long])
    drawn["pairs, long names"] = figures_confusion.confused_pairs([pair], title="t")
    names = [f"{name}, untrained backbone" for name in ("PANNs, strong recipe", "Ensemble") * 5]
    interval = np.tile([0.0, 1.0], (10, 1))
    drawn["many models"] = figures.model_comparison(
        names,
        np.zeros(10),
        np.ones(10),
        title="t",
        n_songs=3,
        n_classes=1,
        note="small print " * 30,
        top1_interval=interval,
        top3_interval=interval,
    )
    drawn["many models, one guess"] = figures.top_k(names, np.ones((10, 1)), title="t", n_classes=1)
    drawn["one panel"] = figures.reliability(
        names[:1],
        [evaluation.reliability(np.ones((1, 1)), np.zeros(1, int))],
        ["calibration error 10 %"],
        title="t",
    )
    drawn["one epoch"] = training(1, epoch=1, title="t")
    return drawn


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


def test_no_text_is_cut_off_or_hidden_by_the_title():
    assert len(LONG_TITLE) > 200
    for name, figure in {**every_figure(LONG_TITLE), **extreme_figures()}.items():
        figure.draw_without_rendering()
        title = figure._suptitle
        if name in KINDS:
            written = title.get_text().replace("\n", "").replace(" ", "")
            assert written == LONG_TITLE.replace(" ", "")
        below = title.get_window_extent().y0
        for text in drawn_texts(figure):
            box = text.get_window_extent()
            assert box.x0 >= 0, (name, text)
            assert box.x1 <= figure.bbox.x1, (name, text)
            assert box.y0 >= 0, (name, text)
            assert box.y1 <= (figure.bbox.y1 if text is title else below), (name, text)


def test_a_saved_figure_has_the_same_bytes_each_time_in_every_format(tmp_path, monkeypatch):
    for folder, time in (("first", "1"), ("second", "1000000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)
        for kind, figure in every_figure("Task 1").items():
            figures.save(figure, tmp_path / folder / f"{kind}.svg", f"Of {kind}.")
        for suffix in (".png", ".pdf"):
            figures.save(comparison(), tmp_path / folder / f"x{suffix}", "What is seen.")
    saved = sorted((tmp_path / "first").iterdir())
    expected = {f"{kind}{suffix}" for kind in KINDS for suffix in (".svg", ".txt")}
    assert {path.name for path in saved} == {*expected, "x.png", "x.pdf", "x.txt"}
    for first in saved:
        assert first.read_bytes() == (tmp_path / "second" / first.name).read_bytes()
    assert (tmp_path / "first/confusion.txt").read_text() == "Of confusion.\n"
    assert b"<svg" in (tmp_path / "first/training.svg").read_bytes()
    pdf = (tmp_path / "first/x.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType
    with Image.open(tmp_path / "first/x.png") as image:
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
        assert round(image.info["dpi"][0]) == 150
        assert "Software" not in image.info


def test_a_reduced_palette_is_not_seen(tmp_path):
    figure = figures_network.architecture(describe(ArtistResNet(20), LOG_MEL), title="t")
    path = tmp_path / "figure.png"
    figures.save(figure, path, "c")
    whole = tmp_path / "whole.png"
    figure.savefig(whole, dpi=150)
    with Image.open(path) as reduced, Image.open(whole) as picture:
        assert reduced.mode == "P"
        difference = np.asarray(reduced.convert("RGB")) - np.asarray(picture.convert("RGB"), int)
    assert path.stat().st_size < whole.stat().st_size / 2
    assert np.mean(difference != 0) < 0.1
    assert np.mean(np.abs(difference) > 16) < 1e-4
    assert difference[0, 0].tolist() == [0, 0, 0]  # white is white


def test_another_suffix_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match=r"\.jpg: figures are written as \.png, \.svg, \.pdf"):
        figures.save(comparison(), tmp_path / "x.jpg", "c")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_files(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    figures.save(comparison(), path, "before")
    before = path.read_bytes()
    figure = comparison()

    def fail(temporary, **options):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.save(figure, path, "after")
    assert path.read_bytes() == before
    assert path.with_suffix(".txt").read_text() == "before\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_pyplot_knows_of_no_figure():
    import matplotlib.pyplot as plt

    comparison()
    confusion(np.eye(2, dtype=int), ["a", "b"])
    assert plt.get_fignums() == []


MATPLOTLIBRC = """
backend: module://nowhere
text.usetex: True
figure.dpi: 300
savefig.bbox: tight
font.size: 20
font.family: serif
lines.linewidth: 5
axes.grid: True
axes.prop_cycle: cycler("color", ["red"])
"""


def test_a_users_matplotlibrc_and_backend_change_no_byte(tmp_path):
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC)
    code = """
from pathlib import Path
from artist20 import figures, runtime
figure = figures.top_k(["a"], figures.np.array([[0.5, 1.0]]), title="t", n_classes=2)
figures.save(figure, Path("x.png"), "c")"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(figures.__file__).parents[1]),
        "MPLBACKEND": "module://matplotlib_inline.nowhere",  # as a notebook's shell may have it
    }
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    figure = figures.top_k(["a"], np.array([[0.5, 1.0]]), title="t", n_classes=2)
    figures.save(figure, tmp_path / "here.png", "c")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "here.png").read_bytes()


# --- letters that DejaVu Sans lacks ------------------------------------------------------------


@pytest.fixture
def fonts(monkeypatch):
    """Only the fonts that every figure has; add to it what is to be installed."""
    always = (figures.FONT, figures.LAST_RESORT)
    installed = []
    listed = [entry for entry in fontManager.ttflist if entry.name in always]
    monkeypatch.setattr(fontManager, "ttflist", listed)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: installed)
    figures._fonts_with.cache_clear()
    yield installed
    figures._fonts_with.cache_clear()


def two_figures():
    for i in range(2):
        yield f"{i}", confusion([[1, 0], [0, 1]], ["⎷⎱⎱", f"Björk {'⎰' * i}"], title="⎷"), "c"


def test_letters_that_no_font_has_are_one_note(tmp_path, fonts):
    with warnings.catch_warnings(record=True) as caught:
        figures.save_all([two_figures, two_figures], tmp_path, "png")
        figures.save_all([lambda: [("x", comparison(), "c")]], tmp_path, "png")
    (note,) = caught
    assert note.category is Note
    assert str(note.message).startswith("no installed font has ⎰ ⎱ ⎷: figures have boxes in their")
    assert "Noto Sans CJK" in str(note.message)


def test_an_installed_font_draws_what_dejavu_lacks(tmp_path, fonts):
    """It may be newer than the list that matplotlib keeps, and another one may be broken."""
    figures.save(confusion([[1]], ["⎷"]), tmp_path / "box.png", "c")
    figures._without_glyph.clear()
    figures.save(comparison(), tmp_path / "before.png", "c")
    figures._fonts_with.cache_clear()
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"none")
    fonts += [str(broken), str(Path(get_data_path(), "fonts/ttf/STIXSizOneSymReg.ttf"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save_all([two_figures], tmp_path, "png")
        figures.save_all([lambda: [("glyph", confusion([[1]], ["⎷"]), "c")]], tmp_path, "png")
    assert (tmp_path / "glyph.png").read_bytes() != (tmp_path / "box.png").read_bytes()
    figures.save(comparison(), tmp_path / "after.png", "c")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()


def test_other_warnings_of_a_figure_are_not_lost():
    @figures.in_house_style
    def draw():
        warnings.warn("something else", stacklevel=1)
        return figures.new_figure(1, 1, "⎷")

    with pytest.warns(UserWarning, match="something else"):
        draw()
