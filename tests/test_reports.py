"""The report scripts on toy results: what is drawn equals the files, what is missing is said."""

import csv
import functools
import importlib
import json
import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TOY_ARTISTS, put_network, put_task1, resnet_config
from sklearn.metrics import confusion_matrix, f1_score

from artist20 import (
    UserError,
    comparison_report,
    evaluation,
    figures,
    figures_confusion,
    figures_network,
    files,
    map_report,
    panns,
    resnet,
)
from artist20.results import RECIPES, TASK1_LEVELS, read_checkpoint, read_metrics

NETWORKS = {"panns": 0.7, "resnet": 0.9, "panns_strong": 1.3, "resnet_strong": 2.0}
OF_ALL = {
    *("task2_all_models_comparison", "task2_top_k", "task2_per_artist_f1", "task2_reliability"),
    "task2_confused_pairs",
}
OF_TASK1 = {"model_comparison", "reliability", "album_effect", "ablation"}
OF_RESNET = {
    *("task2_architecture_diagram_resnet", "task2_confusion_matrix_resnet"),
    "task2_training_resnet",
}
HISTORY = [
    {"epoch": 1, "lr": 0.01, "train_loss": 30.5, "val_loss": 9, "val_top1": 0.25, "val_top3": 0.5},
    {"epoch": 2, "lr": 0.005, "train_loss": 2.5, "val_loss": 3, "val_top1": 0.5, "val_top3": 0.75},
    {"epoch": 3, "lr": 0.001, "train_loss": 1.5, "val_loss": 2, "val_top1": 0.75, "val_top3": 1.0},
    {"epoch": 4, "lr": 0.0, "train_loss": 1.25, "val_loss": 2, "val_top1": 0.5, "val_top3": 1.0},
]
CONFIGS = {
    "panns": {"crop_seconds": 1, "sample_rate": 16000, "hidden": [8], "pooled": False},
    "panns_strong": {"crop_seconds": 1, "sample_rate": 16000, "hidden": [], "pooled": True},
    "resnet": resnet_config(),
    "resnet_strong": resnet_config(
        n_fft=4096, n_mels=256, width=32, keep_frequency=True, bins_per_band=4, statistics=True
    ),
}


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add_task1(results_dir, level="song"):
    """Write what Task 1 leaves, with what its report needs."""
    folder = put_task1(results_dir, {"svm": 0.8, "knn": 0.3}, seed=1, level=level)
    metrics = read_metrics(folder / "metrics.json", "task1_train.py")
    for i, row in enumerate(metrics["models"].values()):
        row |= {"calibration_error": 0.1 + i, "cv_top1": 0.4}
        row["cv_top1_by"] = {"album": 0.4, "song": None if i else 0.5}
    files.write_json(folder / "metrics.json", metrics)
    family = {"n_features": 8, "without": 0.3, "alone": None, "lost": 0.1, "lost_std": 0.01}
    ablation = {
        "settings": {"model": "svm"},
        "complete": True,
        "families": {"mfcc": family, "mel": {**family, "alone": 0.2}},
    }
    files.write_json(folder / "ablation.json", ablation)


def add_network(results_dir, name):
    """Write what a network's training leaves, with what its report needs."""
    config = {"dropout": 0.3, **CONFIGS[name]}
    folder = put_network(results_dir, name, NETWORKS[name], seed=len(name), settings=config)
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*HISTORY[0], "seconds"])
        writer.writeheader()
        writer.writerows({**row, "seconds": 1.5} for row in HISTORY)
    n_inputs = 2 * panns.EMBEDDING_SIZE if name == "panns_strong" else panns.EMBEDDING_SIZE
    checkpoint = {
        "kind": name.removesuffix("_strong"),
        "classes": TOY_ARTISTS,
        "config": config,
        "window_frames": 130,
        "trained_on": "toy",
        "model": {"standardize.mean": torch.zeros(n_inputs)},
    }
    files.write_checkpoint(folder / "best.pt", checkpoint)


def make_results(results_dir):
    """Write results of both tasks and both recipes."""
    for level in TASK1_LEVELS:
        add_task1(results_dir, level)
    for name in NETWORKS:
        add_network(results_dir, name)
    return results_dir


def run(patch, results_dir, script, *options):
    """Run a report script; return its status, and its figures and captions by name."""
    drawn = {}
    # Written to files they are in test_figures.py and test_scripts.py, which takes longer.
    patch.setattr(
        figures, "save", lambda figure, path, caption: drawn.update({path.stem: (figure, caption)})
    )
    # Maps are in test_maps.py and test_scripts.py.
    patch.setattr(map_report, "of_task1", lambda *_: [])
    patch.setattr(map_report, "of_network", lambda *_: [])
    patch.setattr(sys, "argv", [f"{script}.py", "--results-dir", str(results_dir), *options])
    return importlib.import_module(script).main(), drawn


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Hold results of both tasks and both recipes, for tests that change nothing."""
    return make_results(tmp_path_factory.mktemp("reports") / "results")


@pytest.fixture(scope="module")
def report(results):
    """Return the figures and captions of a report script, drawn once for all tests."""

    @functools.cache
    def draw(script, *options):
        with pytest.MonkeyPatch.context() as patch:
            status, drawn = run(patch, results, script, *options)
        assert status == 0
        return drawn

    return draw


@pytest.fixture
def some_results(tmp_path):
    """Hold results that a test may change."""
    return make_results(tmp_path / "results")


@pytest.fixture
def names(tmp_path, monkeypatch, capsys):
    """Run a report script that draws nothing; return status, names of figures, and stdout."""
    drawing = {
        figures: ("model_comparison", "album_effect", "reliability", "ablation", "top_k"),
        figures_confusion: ("confusion_matrix", "confused_pairs"),
        figures_network: ("architecture", "training_curves"),
    }
    for module, functions in drawing.items():
        for function in functions:
            monkeypatch.setattr(module, function, lambda *arrays, **options: None)
    monkeypatch.setattr(figures, "f1_by_artist", lambda *arrays, **options: None)

    def run_here(script, *options):
        status, drawn = run(monkeypatch, tmp_path / "results", script, *options)
        return status, set(drawn), capsys.readouterr().out

    return run_here


def labels_of(axes):
    return tuple(
        [label.get_text() for label in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    )


def predictions_of(results, name):
    folder = results / ("task1" if name in ("svm", "knn") else f"task2/{name}")
    if name.endswith("_of_segments"):
        folder, name = results / "task1/segment", name.removesuffix("_of_segments")
    predictions = json.loads((folder / "val_predictions.json").read_text())
    labels = np.array([predictions["classes"].index(s["artist"]) for s in predictions["songs"]])
    return np.array(predictions["scores"][name]), labels, predictions["songs"]


# --- what is drawn -----------------------------------------------------------------------------


def test_all_that_there_are_results_for_is_drawn(results, report):
    for recipe, suffix in (("homework", ""), ("strong", "_strong")):
        drawn = report("task2_gen_report_wo_pretrain", "--recipe", recipe)
        assert drawn.keys() == {f"{name}{suffix}" for name in OF_RESNET} | OF_ALL
        of_panns = report("task2_gen_report", "--recipe", recipe)
        assert of_panns.keys() == {
            f"task2_architecture_diagram{'_panns' if suffix else ''}{suffix}",
            f"task2_confusion_matrix_panns{suffix}",
            f"task2_training_panns{suffix}",
        }
    of_task1 = report("task1_gen_report")
    assert of_task1.keys() == {f"task1_{kind}" for kind in OF_TASK1 | {"confusion_matrix_svm"}}
    for name, (figure, caption) in {**drawn, **of_panns, **of_task1}.items():
        title = figure._suptitle.get_text().replace("\n", " ")
        if "architecture" not in name:
            assert "toy (synthesised songs)" in title, name
            n_songs = 80 if name == "task1_album_effect" else 48  # training songs, validation songs
            assert re.search(rf"\b{n_songs}\b", title), name
        if "panns" in name:
            assert "untrained backbone" in title
        assert caption.endswith(".")
        named = re.findall(r"[\w./]+\.(?:json|csv|pt)\b", caption)
        assert named, name
        stage = named[0].rsplit("/", 1)[0] + "/" if "/" in named[0] else "task2/resnet/"
        for file in named:
            assert (results / file).is_file() or (results / f"{stage}{file}").is_file(), file


def test_models_of_segments_have_figures_of_their_own(report):
    drawn = report("task1_gen_report", "--level", "segment")
    assert drawn.keys() == {f"task1_segment_{kind}" for kind in OF_TASK1 | {"confusion_matrix"}}
    for figure, _ in drawn.values():
        assert "5 s segments" in figure._suptitle.get_text().replace("\n", " ")


# --- the numbers -------------------------------------------------------------------------------


def test_bars_and_whiskers_are_those_of_the_predictions(results, report):
    for name, (script, models) in {
        "task1_model_comparison": ("task1_gen_report", ["svm", "knn"]),
        "task2_all_models_comparison": (
            "task2_gen_report_wo_pretrain",
            ["svm", "knn", "svm_of_segments", "panns", "panns_strong", "resnet", "resnet_strong"],
        ),
    }.items():
        axes = report(script)[name][0].axes[0]
        n_bars = len(models)
        for k, offset, whiskers in zip((1, 3), (0, n_bars), axes.collections, strict=True):
            for i, model in enumerate(models):
                scores, labels, songs = predictions_of(results, model)
                ranked = np.argsort(-scores, axis=1)[:, :k]
                right = np.array([label in row for label, row in zip(labels, ranked, strict=True)])
                assert axes.patches[offset + i].get_height() == pytest.approx(100 * right.mean())
                assert axes.texts[offset + i].get_text() == f"{100 * right.mean():.1f}"
                albums = np.array([f"{song['artist']}/{song['album']}" for song in songs])
                low, high = evaluation.bootstrap_interval(right, albums)
                drawn = whiskers.get_segments()[i][:, 1]
                np.testing.assert_allclose(drawn, [100 * low, 100 * high])


@pytest.mark.parametrize(
    ("script", "figure", "name"),
    [
        ("task1_gen_report", "task1_confusion_matrix_svm", "svm"),
        ("task2_gen_report", "task2_confusion_matrix_panns", "panns"),
        ("task2_gen_report_wo_pretrain", "task2_confusion_matrix_resnet", "resnet"),
    ],
)
def test_confusions_are_those_of_the_predictions(results, report, script, figure, name):
    scores, labels, _ = predictions_of(results, name)
    expected = confusion_matrix(labels, scores.argmax(axis=1))
    drawn = report(script)[figure][0]
    axes = drawn.axes[0]
    order = [TOY_ARTISTS.index(artist) for artist in labels_of(axes)[0]]
    counts = [int(text.get_text().split("\n")[0] or 0) for text in axes.texts]
    np.testing.assert_array_equal(np.reshape(counts, (4, 4)), expected[np.ix_(order, order)])
    title = drawn._suptitle.get_text()
    assert f"top-1 {(scores.argmax(axis=1) == labels).mean():.1%}" in title.replace("\n", " ")
    assert ("epoch chosen" in title.replace("\n", " ")) == (name != "svm")


def test_top_k_and_f1_are_those_of_the_predictions(results, report):
    drawn = report("task2_gen_report_wo_pretrain")
    titles = {
        "svm": "SVM",
        "knn": "k-NN",
        "panns": "PANNs + MLP, untrained backbone",
        "resnet": "ResNet",
        "resnet_strong": "ResNet, strong recipe",
    }
    lines = {
        line.get_label().replace("\n", " ").rsplit(":", 1)[0]: line.get_ydata()
        for line in drawn["task2_top_k"][0].axes[0].lines
    }
    tables = {len(labels_of(axes)[1]): axes for axes in drawn["task2_per_artist_f1"][0].axes}
    artists = [row.split(" (")[0] for row in labels_of(tables[4])[1]]
    columns = [label.replace("\n", " ") for label in labels_of(tables[1])[0]]
    cells = np.reshape([text.get_text() for text in tables[4].texts], (4, len(columns)))
    for name, title in titles.items():
        scores, labels, _ = predictions_of(results, name)
        places = (scores >= scores[np.arange(len(labels)), labels][:, None]).sum(axis=1)
        np.testing.assert_allclose(lines[title], [100 * (places <= k).mean() for k in range(1, 5)])
        f1 = f1_score(labels, scores.argmax(axis=1), average=None)
        column = columns.index(title)
        for artist, cell in zip(artists, cells[:, column], strict=True):
            assert cell == f"{100 * f1[TOY_ARTISTS.index(artist)]:.0f}"
        assert tables[1].texts[column].get_text() == f"{100 * f1.mean():.0f}"


def test_reliability_is_that_of_the_networks(results, report):
    figure = report("task2_gen_report_wo_pretrain")["task2_reliability"][0]
    assert len(figure.axes) == 4
    scores, labels, _ = predictions_of(results, "resnet")
    sure, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    panel = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("ResNet\n"))
    points = np.asarray(panel.collections[0].get_offsets())
    for i in range(10):
        within = (sure >= i / 10) & (sure < (i + 1) / 10)
        if within.any():
            expected = [100 * sure[within].mean(), 100 * right[within].mean()]
            np.testing.assert_allclose(points[i], expected)
        else:
            assert np.isnan(points[i].astype(float)).all() or np.ma.is_masked(points[i])


def test_the_most_confused_pairs_are_counted_over_models_and_songs(results, report):
    axes = report("task2_gen_report_wo_pretrain")["task2_confused_pairs"][0].axes[0]
    counts, songs = Counter(), Counter()
    for name in ("svm", "knn", "svm_of_segments", *NETWORKS):
        scores, labels, records = predictions_of(results, name)
        for guess, label, record in zip(scores.argmax(axis=1), labels, records, strict=True):
            if guess != label:
                counts[label, guess] += 1
                songs[label, guess, record["path"]] += 1
    texts = [text.get_text() for text in axes.texts]
    artists = [text for text in texts if text in TOY_ARTISTS]
    guesses = [text[2:] for text in texts if text.startswith("→")]
    shares = [text for text in texts if " of 84, " in text]
    assert [int(share.split()[0]) for share in shares] == sorted(counts.values(), reverse=True)[:10]
    for true, guessed, share in zip(artists, guesses, shares, strict=True):
        n = counts[TOY_ARTISTS.index(true), TOY_ARTISTS.index(guessed)]
        assert share == f"{n} of 84, {n / 84:.0%}"
    # The songs of the first pair, most often confused first; songs of two albums share names here.
    pair = TOY_ARTISTS.index(artists[0]), TOY_ARTISTS.index(guesses[0])
    times = sorted((n for key, n in songs.items() if key[:2] == pair), reverse=True)
    text = texts[texts.index(shares[0]) + 1]
    assert [int(n) for n in re.findall(r"\((\d+)\)", text)] == times[: text.count("(")]


def test_training_curves_are_those_of_history(results, report):
    figure, caption = report("task2_gen_report_wo_pretrain")["task2_training_resnet"]
    curves = {line.get_label(): line.get_ydata() for axes in figure.axes[:2] for line in axes.lines}
    np.testing.assert_allclose(curves["training songs"], [row["train_loss"] for row in HISTORY])
    np.testing.assert_allclose(curves["top-1"], [100 * row["val_top1"] for row in HISTORY])
    assert figure._supxlabel.get_text().replace("\n", " ") == (
        "Dotted: epoch 3, chosen on the validation songs; top-1 / top-3 75.0% / 100.0%."
    )
    assert "task2/resnet/history.csv" in caption
    strong = report("task2_gen_report_wo_pretrain", "--recipe", "strong")
    note = strong["task2_training_resnet_strong"][0]._supxlabel.get_text()
    assert "not chosen" in note


def test_diagrams_are_of_the_network_that_was_trained(results, report):
    for recipe, name in zip(RECIPES, ("resnet", "resnet_strong"), strict=True):
        drawn = report("task2_gen_report_wo_pretrain", "--recipe", recipe)
        texts = drawn[f"task2_architecture_diagram_{name}"][0].texts
        network = resnet.make_network({"classes": TOY_ARTISTS, "config": CONFIGS[name]})
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        assert texts[-1].get_text() == f"{n_parameters:,} parameters, all trainable"
    drawn = report("task2_gen_report", "--recipe", "strong")
    axes = drawn["task2_architecture_diagram_panns_strong"][0].axes[0]
    written = [text.get_text() for text in axes.texts]
    assert "windows' mean and deviation" in written
    assert "linear 4096 → 4" in written


# --- what is missing ---------------------------------------------------------------------------


def test_with_task1_alone_the_models_are_compared_and_the_rest_named(some_results, names):
    for name in NETWORKS:
        (some_results / f"task2/{name}/metrics.json").unlink()
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert (status, drawn) == (1, OF_ALL - {"task2_reliability"})
    missing = (
        f"{some_results}/task2/resnet/metrics.json is missing: run task2_train_wo_pretrain.py first"
    )
    assert output.count(f"left out: {missing}\n") == 1
    assert "left out: task2_reliability (no network has been trained)\n" in output
    with pytest.raises(UserError, match=r"run task2_train\.py first"):
        names("task2_gen_report")


def test_with_one_network_alone_all_is_drawn_but_what_it_lacks(tmp_path, names):
    add_network(tmp_path / "results", "resnet")
    status, drawn, _ = names("task2_gen_report_wo_pretrain")
    assert (status, drawn) == (0, OF_RESNET | OF_ALL)
    with pytest.raises(UserError, match=r"run task1_train\.py first"):
        names("task1_gen_report")


@pytest.mark.parametrize(
    ("file", "content", "missing", "message"),
    [
        ("best.pt", None, "architecture_diagram", "best.pt is missing"),
        ("history.csv", None, "training", "history.csv is missing"),
        ("history.csv", "epoch,lr\n1,0.1\n", "training", "no history of a training"),
        ("history.csv", "", "training", "no history of a training"),
        ("val_predictions.json", "{}", "confusion_matrix", "is not what"),
    ],
)
def test_a_missing_or_broken_file_leaves_its_figures_out(
    some_results, names, file, content, missing, message
):
    path = some_results / "task2/resnet" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert status == 1
    expected = OF_RESNET | OF_ALL if file != "val_predictions.json" else set(OF_RESNET)
    assert drawn == expected - {f"task2_{missing}_resnet"}
    assert output.count("left out: /") == 1
    assert message in output


def test_history_that_is_of_another_training_is_left_out(some_results, names):
    change(some_results / "task2/resnet/metrics.json", epoch=9)
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert (status, "task2_training_resnet" in drawn) == (1, False)
    assert "history.csv has no epoch 9: run task2_train_wo_pretrain.py again" in output


def test_a_checkpoint_of_an_older_version_is_left_out(some_results, names):
    path = some_results / "task2/resnet/best.pt"
    checkpoint = read_checkpoint(path, "x")
    del checkpoint["config"]["width"]
    files.write_checkpoint(path, checkpoint)
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert (status, "task2_architecture_diagram_resnet" in drawn) == (1, False)
    assert "best.pt is no checkpoint of task2_train_wo_pretrain.py" in output


def test_a_checkpoint_of_another_run_is_left_out(some_results, names):
    change(some_results / "task2/resnet/metrics.json", settings={"dropout": 0.1})
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert (status, "task2_architecture_diagram_resnet" in drawn) == (1, False)
    assert "best.pt is not of the run in metrics.json: run task2_train_wo_pretrain.py" in output


def test_models_of_other_songs_are_not_drawn_together(some_results, names):
    path = some_results / "task2/panns/val_predictions.json"
    value = json.loads(path.read_text())
    scores = {name: rows[::-1] for name, rows in value["scores"].items()}
    change(path, songs=value["songs"][::-1], scores=scores)
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert (status, drawn) == (1, OF_RESNET)
    assert "have other validation songs or artists: train again" in output
    with pytest.raises(UserError, match="other validation songs"):
        list(comparison_report.draw(some_results))


def test_a_model_that_was_left_out_is_named(some_results, names):
    path = some_results / "task1/metrics.json"
    models = json.loads(path.read_text())["models"]
    del models["svm"]
    change(path, models=models, best_in_cv="knn", left_out={"svm": "it takes about 9 GB"})
    status, drawn, output = names("task1_gen_report")
    assert (status, "task1_confusion_matrix_svm" in drawn) == (1, False)
    assert "task1_model_comparison" in drawn
    assert "left out: SVM (it takes about 9 GB)" in output


@pytest.mark.parametrize("broken", ["missing", "unfinished"])
def test_task1_without_its_ablation_draws_the_rest(some_results, names, broken):
    path = some_results / "task1/ablation.json"
    path.unlink() if broken == "missing" else change(path, complete=False)
    status, drawn, output = names("task1_gen_report")
    assert (status, len(drawn), "task1_ablation" in drawn) == (1, 4, False)
    assert f"left out: {path} is {'missing' if broken == 'missing' else 'not finished'}" in output


def test_an_ablation_of_another_model_is_left_out(some_results, names):
    path = some_results / "task1/ablation.json"
    change(path, settings={"model": "another"})
    status, drawn, output = names("task1_gen_report")
    assert (status, "task1_ablation" in drawn) == (1, False)
    assert f"left out: {path} is of another model" in output


def test_metrics_and_predictions_of_two_runs_are_not_drawn_together(some_results, names):
    path = some_results / "task1/metrics.json"
    metrics = json.loads(path.read_text())
    metrics["models"]["svm"]["top1"] += 0.1
    files.write_json(path, metrics)
    with pytest.raises(UserError, match="is not of the run in"):
        names("task1_gen_report")
    change(some_results / "task2/resnet/metrics.json", top1=0.01)
    status, drawn, output = names("task2_gen_report_wo_pretrain")
    assert (status, "task2_confusion_matrix_resnet" in drawn) == (1, False)
    assert "is not of the run in metrics.json" in output
