"""What the scripts do with broken files of earlier stages: one line, and nothing in them is run."""

import argparse
import functools
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import skops.io
import torch
from conftest import (
    SMALL_GRIDS,
    TOY_ARTISTS,
    TOY_SONGS,
    Touch,
    assert_one_line,
    call,
    make_songs,
    put_network,
    put_task1,
    toy_model,
    toy_predictions,
    toy_settings,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from test_task1_train import put_features

import task1_gen_report
from artist20 import UserError, classical, evaluation, experiment, inference, models, trained
from artist20.checkpoints import (
    EpochProgress,
    EpochRow,
    TrainingState,
    save_model,
    write_embeddings,
    write_history,
)
from artist20.encoders import panns
from artist20.report import architecture, maps, network_plots, plots, style
from artist20.results import Predictions, write_record

ROW = EpochRow(epoch=1, lr=0.1, train_loss=1, val_loss=1, val_top1=0.5, val_top3=0.5, seconds=1)

# --- a whole results folder, and what reads it ---------------------------------------------------


def put_run(folder: Path, name: str, seed: int, model: torch.nn.Module) -> None:
    """Write all files of a network that was never trained."""
    run = folder / "task2" / name
    vectors = (np.eye(len(TOY_SONGS[split]))[:, :3] for split in ("train", "val"))
    hashes = write_embeddings(run, *vectors, TOY_SONGS["train"])
    settings = toy_settings(name, width=4) if name.startswith("resnet") else toy_settings(name)
    put_network(folder, name, 2.0, seed, embeddings=hashes, settings=settings)
    best = toy_model(settings, dict(model.state_dict()), TOY_ARTISTS)
    save_model(run / "best.pt", best)
    described = {**msgspec.structs.asdict(best), "epoch": 3}
    more = {"optimizer": {}, "scheduler": {}, "progress": EpochProgress(), "history": [ROW] * 3}
    save_model(run / "last.pt", TrainingState(**described, **more))
    write_history(run / "history.csv", [ROW] * 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Make what all stages leave: networks never trained, models of drawn features."""
    folder = tmp_path_factory.mktemp("whole")
    results = folder / "results"
    put_task1(results, {"svm": 3, "knn": 1}, seed=1)
    put_task1(results, {"svm": 3, "logistic_regression": 2}, seed=20, level="segment")
    resnet, panns = toy_settings("resnet", width=4).recipe, toy_settings("panns").recipe
    put_run(results, "panns", 4, models.EmbeddingMLP(4, panns, 2048))
    put_run(results, "resnet", 5, models.ArtistResNet(4, resnet))
    put_network(results, "resnet_strong", 2.0, seed=6)
    for fold in range(1, 6):
        name = f"resnet_strong/fold-{fold}"
        settings = toy_settings("resnet_strong", fold=fold)
        put_network(results, name, 2.0, fold, model="resnet_strong", settings=settings)
        drawn = toy_predictions("train", {"resnet_strong": 2.0}, fold)
        mine = np.arange(len(drawn.songs)) % 5 == fold - 1
        part = Predictions(
            classes=drawn.classes,
            songs=[song for song, is_mine in zip(drawn.songs, mine, strict=True) if is_mine],
            scores={"resnet_strong": drawn.scores["resnet_strong"][mine]},
        )
        write_record(results / f"task2/{name}/val_predictions.json", part)
    choice = {"chosen": ".", "candidates": {}}
    write_record(results / "task2/resnet_strong/candidates.json", choice)
    # Features and a model of them, beside the others: their songs are not the toy ones.
    put_features(
        folder / "drawn/task1", make_songs(n_features=20), make_songs(seed=5, n_features=20)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        quicken(patch)
        assert [read(patch) for read in (train_drawn, pool_folds, combine, compare)] == [0] * 4
    return folder


@pytest.fixture
def here(whole, tmp_path, monkeypatch) -> Path:
    """Go to a copy of the whole folder, where drawing and computing take no time."""
    shutil.copytree(whole, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    quicken(monkeypatch)
    return tmp_path / "here"


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Let what is computed and drawn of files that were read take no time."""
    for room, *names in (
        (plots, "model_comparison", "reliability", "album_effect", "ablation", "confusion_matrix"),
        (plots, "top_k", "f1_by_artist", "confused_pairs", "song_map"),
        (plots, "dot_plot", "time_and_accuracy"),
        (network_plots, "architecture", "training_curves"),
        (style, "save"),
    ):
        for name in names:
            patch.setattr(room, name, lambda *_, **__: None)
    patch.setattr(style, "_letters_beyond_font", lambda _: frozenset())
    patch.setattr(maps, "make_map", lambda _: argparse.Namespace(n_dimensions=3, caption=""))
    # Of Task 1's features there are none of the toy songs.
    patch.setattr(maps, "scaled_features", lambda *_: None)
    patch.setattr(task1_gen_report, "read_features", lambda *_: None)
    patch.setattr(architecture, "describe", lambda *_, **__: [])
    patch.setattr(panns, "make_cnn14", lambda _: torch.nn.Linear(1, 1))
    encoder = argparse.Namespace(definition=argparse.Namespace(size=2048, sample_rate=16_000))
    patch.setattr(trained, "load_encoders", lambda *_: [encoder])
    patch.setattr(inference, "run", lambda *_: 0)
    patch.setattr(evaluation, "bootstrap_interval", lambda *_: (0.0, 1.0))
    patch.setattr(classical, "GRIDS", {"song": {"knn": SMALL_GRIDS["knn"]}, "segment": {}})


def main(script: str, *options: str) -> Callable[[pytest.MonkeyPatch], int]:
    return lambda patch: call(patch, script, *options)


def pool_folds(_: pytest.MonkeyPatch) -> int:
    """Pool a network's folds; end as a script does."""
    songs = [argparse.Namespace(path=song.path, record=song) for song in TOY_SONGS["train"]]
    folder = Path("results/task2/resnet_strong")
    try:
        experiment._pool_folds(folder, "resnet_strong", songs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


train_drawn = main("task1_train", "--results-dir", "drawn", "--workers", "1")
compare, combine = main("artist20.comparison"), main("artist20.ensemble")
report_task1, report_panns = main("task1_gen_report"), main("task2_gen_report")
report_resnet = main("task2_gen_report_wo_pretrain")
RESNET, PANNS = "results/task2/resnet", "results/task2/panns"
READERS: dict[str, list[Callable[[pytest.MonkeyPatch], int]]] = {
    "drawn/task1/X_train.npy": [train_drawn],
    "drawn/task1/unit_songs_val.npy": [train_drawn],
    "drawn/task1/songs_train.json": [train_drawn],
    "drawn/task1/feature_names.json": [train_drawn],
    "drawn/task1/preprocessing.json": [train_drawn],
    "drawn/task1/search_knn.json": [train_drawn],
    "drawn/task1/held_out_knn.npy": [train_drawn],
    "drawn/task1/knn.skops": [train_drawn],
    "drawn/task1/ablation.json": [train_drawn],
    "results/task1/metrics.json": [report_task1, compare, combine],
    "results/task1/val_predictions.json": [report_task1, compare, combine],
    "results/task1/cv_predictions.json": [compare, combine],
    "results/task1/preprocessing.json": [report_task1, compare, combine],
    "results/task1/ablation.json": [report_task1, compare],
    "results/task1/segment/metrics.json": [compare, combine],
    f"{PANNS}/metrics.json": [report_panns, compare, combine],
    f"{PANNS}/val_predictions.json": [report_panns, compare, combine],
    f"{PANNS}/train_embeddings.npy": [report_panns],
    f"{PANNS}/songs_train.json": [report_panns],
    f"{PANNS}/history.csv": [report_panns],
    f"{PANNS}/best.pt": [report_panns, main("task2_inference")],
    f"{RESNET}/best.pt": [report_resnet, main("task2_inference_wo_pretrain")],
    f"{RESNET}_strong/fold-2/metrics.json": [pool_folds, combine],
    f"{RESNET}_strong/fold-2/val_predictions.json": [pool_folds],
    f"{RESNET}_strong/candidates.json": [combine],
    "results/ensemble/metrics.json": [compare],
    "results/ensemble/val_predictions.json": [compare],
    "assets/results.json": [main("artist20.slides")],
}


def test_every_file_is_read_when_it_is_whole(here, monkeypatch, capsys):
    assert not [file for file in READERS if not (here / file).is_file()]
    readers = dict.fromkeys(read for readers in READERS.values() for read in readers)
    for read in reversed(readers):  # slides first: another ensemble is of another second
        assert read(monkeypatch) == 0, capsys.readouterr()


def check_refused(
    here: Path,
    file: str,
    read: Callable[[pytest.MonkeyPatch], int],
    patch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> str:
    """Check that a reader ends in a line that names the file and says what to do."""
    damaged = (here / file).read_bytes()
    capsys.readouterr()
    status, said = read(patch), capsys.readouterr()
    error = said.err
    if status == 1:  # a report that drew the rest
        (line,) = re.findall(f"left out: (.*{Path(file).name}.*\n)", said.out)
        status, error = 2, f"error: {line}"
    assert status == 2, said
    assert_one_line(error)
    assert Path(file).name in error and error.count("--overwrite") <= 1
    ours = r"the same command with (--fold 2 )?--overwrite|(python -m )?(task|artist20|comparison)"
    assert re.search(f": run ({ours})", error)
    assert (here / file).read_bytes() == damaged
    return error


@pytest.mark.parametrize(
    ("file", "damage"),
    [(file, "half") for file in READERS]
    + [(file, "pickle") for file in READERS if file.endswith((".npy", ".pt", ".skops"))],
)
def test_a_damaged_file_is_one_line_and_runs_nothing(here, monkeypatch, capsys, file, damage):
    path, marker = here / file, here / "marker"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "half" else pickle.dumps(Touch(marker)))
    for read in READERS[file]:
        check_refused(here, file, read, monkeypatch, capsys)
    assert not marker.exists()


# --- files that are whole, but do not belong to the others ---------------------------------------


def change_checkpoint(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it["classes"].reverse(), "classes"),
        (lambda it: next(iter(it["weights"].values())).fill_(torch.nan), "NaN or infinite"),
        (lambda it: it["weights"].popitem(), "does not fit the network"),
        (lambda it: it["weights"].update(x=5), "does not fit the network"),
        (lambda it: it.update(version=0), "of this version"),
        (lambda it: it["settings"]["recipe"].update(kind="x"), "kind"),
    ],
)
@pytest.mark.parametrize("script", ["task2_inference", "task2_inference_wo_pretrain"])
def test_another_checkpoint_is_refused(here, monkeypatch, capsys, script, change, message):
    file = f"{PANNS if script == 'task2_inference' else RESNET}/best.pt"
    change_checkpoint(here / file, change)
    assert message in check_refused(here, file, main(script), monkeypatch, capsys)


def test_checkpoints_of_the_other_network_are_refused(here, monkeypatch, capsys):
    shutil.copy(here / PANNS / "best.pt", here / RESNET / "best.pt")
    assert call(monkeypatch, "task2_inference_wo_pretrain") == 2
    error = capsys.readouterr().err
    assert error.endswith("a checkpoint of task2_train.py: use task2_inference.py\n")


@pytest.mark.parametrize("of", ["other artists", "other features", "an untrusted type"])
def test_another_model_of_task1_is_refused(here, monkeypatch, capsys, of):
    """That of an untrusted type would make a folder when it is applied."""
    X, y = np.eye(6, 20), np.array([f"artist {i % 3}" for i in range(6)])
    model = make_pipeline(KNeighborsClassifier(1, algorithm="brute"))
    if of == "other artists":
        model.fit(X, np.array(list("abcabc")))
    elif of == "other features":
        model.fit(X[:, :5], y)
    else:
        make_folder = functools.partial(os.mkdir, str(here / "marker"))
        model = make_pipeline(FunctionTransformer(make_folder), *model.fit(X, y))
    file = "drawn/task1/knn.skops"
    skops.io.dump(model, here / file)
    check_refused(here, file, train_drawn, monkeypatch, capsys)
    assert not (here / "marker").exists()
