"""The report scripts on toy results: which figures, of which models, and what is missing."""

import functools
import importlib
import re
import shutil
import sys

import msgspec
import numpy as np
import pytest
from conftest import TOY_ARTISTS, put_network, put_task1, toy_model, toy_rendition, toy_settings

from artist20 import UserError, checkpoints, models, results
from artist20.checkpoints import EpochRow
from artist20.encoders import panns
from artist20.naming import TITLES
from artist20.report import maps, network_plots, plots, style
from artist20.results import (
    Ablation,
    NetworkMetrics,
    Predictions,
    Task1Metrics,
    read_record,
    write_record,
)

RESNET = "task2_gen_report_wo_pretrain"
NETWORKS = {
    "panns": toy_settings("panns", crop_seconds=1, hidden=(8,)),
    "panns_strong": toy_settings("panns_strong", crop_seconds=1),
    "resnet": toy_settings("resnet", width=2),
    "resnet_strong": toy_settings(
        "resnet_strong", width=2, keep_frequency=True, bins_per_band=4, lda_share=2 / 3
    ),
}
OF_ALL = {
    *("task2_all_models_comparison", "task2_top_k", "task2_per_artist_f1", "task2_reliability"),
    "task2_confused_pairs",
}
OF_RESNET = {
    *("task2_architecture_diagram_resnet", "task2_confusion_matrix_resnet"),
    *("task2_training_resnet", "task2_map_resnet"),
}
OF_PANNS = {
    *("task2_architecture_diagram", "task2_confusion_matrix_panns"),
    *("task2_training_panns", "task2_map_panns"),
}
OF_TASK1 = {"model_comparison", "confusion_matrix", "reliability", "album_effect", "ablation"}


def make_results(results_dir):
    """Write what stages of both tasks and both recipes leave, without features."""
    for level in results.TASK1_LEVELS:
        put_task1(results_dir, {"svm": 0.8, "knn": 0.3}, seed=1, level=level)
    for name, settings in NETWORKS.items():
        put_trained(results_dir, name, settings)
    return results_dir


def put_trained(results_dir, name, settings):
    """Write all that training leaves of a network."""
    rng = np.random.default_rng(len(name))
    folder = put_network(results_dir, name, len(name) / 8, seed=len(name), settings=settings)
    n_train, n_val = 80, 48
    songs = read_record(folder / "cv_predictions.json", Predictions, "x").songs
    embeddings = [rng.normal(size=(n, 6)) for n in (n_train, n_val)]
    change(
        folder / "metrics.json", embeddings=checkpoints.write_embeddings(folder, *embeddings, songs)
    )
    shares = {"val_top1": 0.5, "val_top3": 0.75, "seconds": 1}
    rows = [EpochRow(epoch=i, lr=0.1, train_loss=3, val_loss=2, **shares) for i in range(1, 5)]
    checkpoints.write_history(folder / "history.csv", rows)
    recipe = settings.recipe
    model = (
        models.EmbeddingMLP(len(TOY_ARTISTS), recipe, panns.SIZE * (2 if recipe.pooled else 1))
        if settings.encoders
        else models.ArtistResNet(len(TOY_ARTISTS), recipe)
    )
    checkpoint = toy_model(settings, model.state_dict(), TOY_ARTISTS)
    checkpoints.save_model(folder / "best.pt", checkpoint)


def change(path, **fields):
    """Replace fields of a record; of nested ones, those that are given."""
    kind = Task1Metrics if path.parent.name in ("task1", "segment") else NetworkMetrics
    kind = Ablation if path.name == "ablation.json" else kind
    record = read_record(path, kind, "x")
    write_record(path, msgspec.structs.replace(record, **fields))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("made") / "results")


@pytest.fixture
def toy_results(made, tmp_path):
    return shutil.copytree(made, tmp_path / "results")


cached_cnn14 = functools.cache(panns.make_cnn14)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Run a report script; return its status, and what it draws by name: title, data, caption."""
    drawn, functions = {}, {}

    def instead(name):
        def keep(*data, title, **more):
            functions["last"] = (title, {**dict(enumerate(data)), **more})

        return keep

    for module, names in {
        plots: ("model_comparison", "album_effect", "reliability", "ablation", "top_k"),
        network_plots: ("architecture", "training_curves"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, instead(name))
    for name in ("f1_by_artist", "confusion_matrix", "confused_pairs", "song_map"):
        monkeypatch.setattr(plots, name, instead(name))
    monkeypatch.setattr(maps, "lay_out", lambda x: x[:, :2])
    monkeypatch.setattr(plots, "FEWEST_FOR_RELIABILITY", 48)  # as many as there are
    monkeypatch.setattr(panns, "make_cnn14", cached_cnn14)
    monkeypatch.setattr(style, "_letters_beyond_font", lambda figure: frozenset())

    def save(figure, path, caption):
        drawn[path.stem] = (*functions["last"], caption)

    monkeypatch.setattr(style, "save", save)

    def run(script, *options):
        drawn.clear()
        options = ["--results-dir", str(tmp_path / "results"), *options]
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *options])
        return importlib.import_module(script).main(), dict(drawn)

    return run


# --- what is drawn -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options", "names"),
    [
        (
            "task1_gen_report",
            ["--level", "segment"],
            {f"task1_segment_{name}" for name in OF_TASK1},
        ),
        (
            "task1_gen_report",
            ["--search", "wide", "--level", "segment"],
            {f"task1_wide_segment_{name}" for name in OF_TASK1},
        ),
        ("task2_gen_report", [], OF_PANNS),
        (
            "task2_gen_report",
            ["--recipe", "strong"],
            {f"{name.removesuffix('_panns')}_panns_strong" for name in OF_PANNS},
        ),
        (RESNET, [], OF_RESNET | OF_ALL),
        (RESNET, ["--recipe", "strong"], {f"{name}_strong" for name in OF_RESNET} | OF_ALL),
    ],
)
def test_all_that_there_are_results_for_is_drawn(toy_results, draw, script, options, names):
    if "wide" in options:
        put_task1(toy_results, {"svm": 0.8, "lda": 1}, seed=1, level="segment", search="wide")
    status, drawn = draw(script, *options)
    assert (status, drawn.keys()) == (0, names)
    for name, (title, _, caption) in drawn.items():
        assert "toy (synthesised songs)" in title, name
        if "architecture" not in name:
            n_songs = 80 if "album_effect" in name else 48  # training songs, validation songs
            assert re.search(rf"\b{n_songs}\b", title), name
        assert "5 s segments" in title or "segment" not in name
        assert "untrained encoder" in title or "panns" not in name
        assert ("epoch chosen" in title) == (
            "matrix" in name and "task2" in name and "strong" not in name
        )
        assert caption.endswith(".")
        named = re.findall(r"[\w./]+\.(?:json|csv|pt|npy)\b", caption)
        stage = named[0].rpartition("/")[0] or "task2/resnet"
        for file in named:
            found = (toy_results / file, toy_results / stage / file)
            assert any(path.is_file() for path in found), (name, file)


@pytest.mark.parametrize(
    ("script", "options", "folder", "names"),
    [
        ("task1_gen_report", ["--level", "segment"], "task1", OF_TASK1),
        (RESNET, ["--recipe", "strong"], "task2/resnet_strong", OF_RESNET),
    ],
)
def test_figures_of_a_rendition_are_named_after_it(
    toy_results, draw, script, options, folder, names
):
    """What the folder's own name says is all that differs: the files are those of another."""
    if folder == "task1":
        put_task1(toy_results, {"svm": 0.9}, seed=5, level="segment", rendition="vocals")
        names = {f"task1_segment_{name}@vocals" for name in names}
    else:
        settings = msgspec.structs.replace(
            NETWORKS["resnet_strong"], rendition=toy_rendition("vocals")
        )
        put_trained(toy_results, "resnet_strong@vocals", settings)
        names = {f"{name}_strong@vocals" for name in names} | OF_ALL
    status, drawn = draw(script, *options, "--audio-root", "/nowhere/vocals")
    assert (status, drawn.keys()) == (0, names)
    for name in names - OF_ALL:
        title, _, caption = drawn[name]
        assert "on vocals" in title, name
        assert f"{folder}@vocals/" in caption, name
    if folder != "task1":
        bars = drawn["task2_all_models_comparison"][1][0]
        assert "ResNet, strong recipe, on vocals" in bars


def test_a_missing_rendition_is_asked_for_by_its_path(toy_results, draw):
    with pytest.raises(UserError, match=r"run task1_train\.py --audio-root /nowhere/vocals first"):
        draw("task1_gen_report", "--audio-root", "/nowhere/vocals")


def test_figures_are_of_the_models_that_their_names_say(toy_results, draw):
    _, drawn = draw(RESNET)
    folders = {
        "SVM": ("task1", "svm"),
        "k-NN": ("task1", "knn"),
        "SVM, 5 s segments": ("task1/segment", "svm"),
        "PANNs + MLP, untrained encoder": ("task2/panns", "panns"),
        "PANNs, strong recipe, untrained encoder": ("task2/panns_strong", "panns_strong"),
        "ResNet": ("task2/resnet", "resnet"),
        "ResNet, strong recipe": ("task2/resnet_strong", "resnet_strong"),
    }
    _, bars, _ = drawn["task2_all_models_comparison"]
    _, lines, _ = drawn["task2_top_k"]
    assert list(bars[0]) == list(lines[0])
    assert bars[0].keys() == folders.keys()
    kinds = ["hand-made features"] * 3 + ["frozen encoder"] * 2 + ["network from scratch"] * 2
    assert bars["kinds"] == kinds
    for i, j in ((0, 3), (3, 5), (5, 7)):  # of a kind, the best first
        top1 = [bars[0][title].top1 for title in list(bars[0])[i:j]]
        assert top1 == sorted(top1, reverse=True)
    for title, (folder, name) in folders.items():
        file = toy_results / folder / "val_predictions.json"
        predictions = read_record(file, Predictions, "x")
        scores = predictions.scores[name]
        np.testing.assert_array_equal(lines[0][title], scores)
        right = scores.argmax(axis=1) == predictions.labels
        assert bars[0][title].top1 == right.mean()
    assert bars["n_songs"] == 48
    assert bars["n_classes"] == 4
    assert re.fullmatch(
        r"Some networks' epochs are chosen on these songs. At the last epoch: PANNs \+ MLP, "
        r"untrained encoder \d+\.\d% / \d+\.\d%, ResNet \d+\.\d% / \d+\.\d%\.",
        bars["note"],
    )
    networks = {title for title in folders if not title.startswith(("SVM", "k-NN"))}
    assert drawn["task2_reliability"][1][0].keys() == networks
    title, matrix, _ = drawn["task2_confusion_matrix_resnet"]
    assert f"top-1 {bars[0]['ResNet'].top1:.1%} (epoch" in title
    np.testing.assert_array_equal(matrix[0], lines[0]["ResNet"])


@pytest.mark.parametrize(("name", "script"), [("panns", "task2_gen_report"), ("resnet", RESNET)])
@pytest.mark.parametrize("recipe", results.RECIPES)
def test_diagrams_are_of_the_network_that_was_trained(toy_results, draw, name, script, recipe):
    _, drawn = draw(script, "--recipe", recipe)
    diagram = next(drawn[name] for name in drawn if "architecture" in name)
    rows = diagram[1][0]
    folder = results.network_dir(toy_results, name, recipe)
    weights = checkpoints.load_model(folder / "best.pt", checkpoints.TrainedModel, "x").weights
    buffers = ("mean", "std", "running_mean", "running_var", "num_batches_tracked")
    n_trained = sum(
        weight.numel()
        for key, weight in weights.items()
        if key.split(".")[-1] not in buffers and not key.startswith("statistics.")
    )
    assert sum(row.n_trainable for row in rows) == n_trained
    assert rows[-1].output_shape == (4,)
    frozen = sum(row.n_parameters for row in rows) - n_trained
    assert (frozen > 70e6) == (name == "panns")
    inputs = [row.name for row in rows if row.kind == "input"]
    assert inputs == {
        ("panns", "homework"): ["waveform, 1 s at 16 kHz", "embedding"],
        ("panns", "strong"): ["waveform, 1 s at 16 kHz", "windows' mean and deviation"],
    }.get((name, recipe), ["log-mel, 1.0 s"])


def test_few_songs_have_no_reliability_diagram(toy_results, draw, monkeypatch):
    monkeypatch.setattr(plots, "FEWEST_FOR_RELIABILITY", 49)
    assert "task2_reliability" not in draw(RESNET)[1]
    assert "task1_reliability" not in draw("task1_gen_report")[1]


# --- what is missing ---------------------------------------------------------------------------


def test_with_task1_alone_the_models_are_compared_and_the_rest_named(tmp_path, draw, capsys):
    put_task1(tmp_path / "results", {"svm": 0.8, "knn": 0.3}, seed=1)
    status, drawn = draw(RESNET)
    assert (status, drawn.keys()) == (1, OF_ALL - {"task2_reliability"})
    out = capsys.readouterr().out
    missing = "task2/resnet/metrics.json is missing: run task2_train_wo_pretrain.py first\n"
    assert out.count(missing) == 1
    with pytest.raises(UserError, match=r"run task2_train\.py --recipe strong first"):
        draw("task2_gen_report", "--recipe", "strong")


MADE_BY = "run task2_train_wo_pretrain.py"


@pytest.mark.parametrize(
    ("file", "content", "missing", "message"),
    [
        ("best.pt", None, "diagram", f"best.pt is missing: {MADE_BY} --overwrite first"),
        ("history.csv", None, "training", f"history.csv is missing: {MADE_BY} first"),
        ("history.csv", "epoch,lr\n1,0.1\n", "training", "history.csv is broken"),
        ("songs_train.json", None, "map", "songs_train.json is missing"),
        ("val_predictions.json", "{}", "confusion map", "predictions.json is broken"),
        ("metrics.json", {"epoch": 9}, "diagram training", f"has no epoch 9: {MADE_BY} again"),
        (
            "metrics.json",
            {"settings": toy_settings("resnet", width=4)},
            "diagram",
            f"best.pt is not of the run in metrics.json: {MADE_BY} --overwrite",
        ),
        ("metrics.json", {"top1": 0.01}, "confusion", "is not of the run in metrics.json"),
        ("metrics.json", {"embeddings": None}, "map", "is missing, or not of the run"),
    ],
)
def test_a_file_that_is_missing_broken_or_of_another_run_leaves_its_figures_out(
    toy_results, draw, capsys, file, content, missing, message
):
    path = toy_results / "task2/resnet" / file
    if isinstance(content, dict):
        change(path, **content)
    else:
        path.unlink() if content is None else path.write_text(content)
    status, drawn = draw(RESNET)
    assert status == 1
    expected = {name for name in OF_RESNET if any(word in name for word in missing.split())}
    assert OF_RESNET - drawn.keys() == expected
    out = capsys.readouterr().out
    assert message in out
    if file not in ("val_predictions.json", "metrics.json"):
        assert out.count("left out: /") == 1
        assert drawn.keys() >= OF_ALL


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"complete": False}, "ablation.json is not finished: run task1_train.py again"),
        ({"settings": None}, "ablation.json is of another model than"),
    ],
)
def test_an_ablation_that_is_not_this_models_is_left_out(
    toy_results, draw, capsys, fields, message
):
    path = toy_results / "task1/ablation.json"
    if "settings" in fields:
        settings = read_record(path, Ablation, "x").settings
        fields = {"settings": msgspec.structs.replace(settings, model="another")}
    change(path, **fields)
    status, drawn = draw("task1_gen_report")
    expected = {f"task1_{name}" for name in OF_TASK1 - {"ablation", "confusion_matrix"}}
    assert (status, drawn.keys()) == (1, expected | {"task1_confusion_matrix_svm"})
    out = capsys.readouterr().out
    assert message in out
    assert "X_train.npy is missing: run task1_preprocessing.py first" in out  # no map, either


def test_a_model_that_was_left_out_is_named(toy_results, draw, capsys):
    path = toy_results / "task1/metrics.json"
    models = read_record(path, Task1Metrics, "x").models
    del models["svm"]
    change(path, models=models, best_in_cv="knn", left_out={"svm": "it takes about 9 GB"})
    status, drawn = draw("task1_gen_report")
    assert (status, "task1_confusion_matrix_svm" in drawn) == (1, False)
    assert list(drawn["task1_model_comparison"][1][0]) == [TITLES["knn"]]
    assert "left out: SVM (it takes about 9 GB)" in capsys.readouterr().out
