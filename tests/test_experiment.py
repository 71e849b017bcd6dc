"""Opening, finding finished or unfinished, discarding and pooling runs of training."""

import dataclasses
import re
from argparse import Namespace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from conftest import (
    TOY_ARTISTS,
    TOY_DATASET,
    TOY_LEARNING,
    TOY_SONGS,
    toy_model,
    toy_predictions,
    toy_settings,
)

from artist20 import UserError, checkpoints, dataset, experiment, files, results
from artist20.checkpoints import EMBEDDING_FILES, EpochProgress, EpochRow, TrainingState
from artist20.results import NetworkMetrics, Predictions

SETTINGS = toy_settings("resnet", epochs=5, lr=0.1)
ROW = EpochRow(
    epoch=1, lr=0.1, train_loss=1, val_loss=1, val_top1=0.5, val_top3=0.5, seconds=1
)  # fmt: skip


def put_unfinished(folder, settings=SETTINGS):
    model = toy_model(settings, {}, TOY_ARTISTS)
    described = {**msgspec.structs.asdict(model), "epoch": 2}
    state = TrainingState(
        **described, optimizer={}, scheduler={}, progress=EpochProgress(), history=[ROW, ROW]
    )
    checkpoints.save_model(folder / "last.pt", state)


def put_finished(folder, settings=SETTINGS):
    put_unfinished(folder, settings)
    best = msgspec.structs.replace(toy_model(settings, {}, TOY_ARTISTS), epoch=1)
    checkpoints.save_model(folder / "best.pt", best)
    checkpoints.write_history(folder / "history.csv", [ROW])
    results.write_record(folder / "val_predictions.json", toy_predictions("val", {"resnet": 1}, 0))
    vectors = (np.eye(len(TOY_SONGS[split]))[:, :3] for split in ("train", "val"))
    reached = results.Accuracy(top1=0.5, top3=0.5)
    metrics = NetworkMetrics(
        model="resnet",
        top1=0.5,
        top3=0.5,
        epoch=1,
        last=reached,
        learning=TOY_LEARNING,
        parameters=1,
        epochs_seconds=1,
        settings=settings,
        dataset=TOY_DATASET,
        embeddings=checkpoints.write_embeddings(folder, *vectors, TOY_SONGS["train"]),
        provenance=results.Provenance(command="x", device="CPU", seconds=1, versions={}),
    )
    results.write_record(folder / "metrics.json", metrics)


def make_experiment(resume=False, overwrite=False, results_dir=Path("results"), **options):
    args = Namespace(
        resume=resume,
        overwrite=overwrite,
        recipe="homework",
        results_dir=results_dir,
        **{"audio_root": None, **options},
    )
    cpu = torch.device("cpu")
    return experiment.Experiment(args, "resnet", cpu, torch.float32, [], {}, {}, 0.0)


def look(folder, settings=SETTINGS, **options):
    return experiment._look_at_folder(folder, settings, make_experiment(**options).args)


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_folder_is_free_and_a_finished_run_is_used_again(tmp_path, resume):
    assert look(tmp_path / "none", resume=resume) is None
    put_finished(tmp_path)
    assert look(tmp_path, resume=resume).top1 == 0.5


@pytest.mark.parametrize(
    "name", ["best.pt", "val_predictions.json", "history.csv", *EMBEDDING_FILES]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_finished_run_with_a_damaged_file_is_to_be_trained_anew(tmp_path, name, damage):
    """Later stages would say to run this one, and this one that the run is finished."""
    put_finished(tmp_path)
    path = tmp_path / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{name}.*run the same command with --overwrite") as error:
        look(tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).count("--overwrite") == 1
    assert look(tmp_path, overwrite=True) is None


def test_a_checkpoint_of_another_run_is_no_finished_run(tmp_path):
    put_finished(tmp_path)
    checkpoints.save_model(tmp_path / "best.pt", toy_model(toy_settings("resnet"), {}, TOY_ARTISTS))
    with pytest.raises(UserError, match=r"best\.pt is not of the run in .* --overwrite$"):
        look(tmp_path)


def test_a_run_that_goes_on_elsewhere_is_not_called_unfinished(tmp_path):
    put_unfinished(tmp_path)
    with files.only_writer(tmp_path), pytest.raises(UserError, match="another run is writing"):
        look(tmp_path)


@pytest.mark.parametrize("put", [put_finished, put_unfinished])
@pytest.mark.parametrize("resume", [False, True])
def test_other_settings_are_refused_by_name(tmp_path, put, resume):
    put(tmp_path)
    other = toy_settings("resnet", epochs=5, lr=0.2, precision="bfloat16")
    with pytest.raises(UserError) as error:
        look(tmp_path, other, resume=resume)
    differences = re.search(r"other settings \((.*)\): ", str(error.value))[1]
    assert differences == "precision 'float32' -> 'bfloat16'; recipe.lr 0.1 -> 0.2"
    assert "--overwrite" in str(error.value)


def test_an_unfinished_run_needs_a_word(tmp_path):
    put_unfinished(tmp_path)
    with pytest.raises(UserError, match=r"epoch 2 of 5.*--resume.*--overwrite"):
        look(tmp_path)
    assert look(tmp_path, resume=True) is None
    assert (tmp_path / "last.pt").is_file()


def test_overwrite_goes_by_the_run_which_is_then_discarded_and_nothing_else(tmp_path):
    put_finished(tmp_path)
    (tmp_path / "test_predictions.json").touch()
    (tmp_path / "mine.txt").touch()
    before = {path.name for path in tmp_path.iterdir()}
    assert look(tmp_path, toy_settings("resnet"), overwrite=True) is None
    assert {path.name for path in tmp_path.iterdir()} == {*before, files.LOCK}
    experiment.discard(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {files.LOCK, "mine.txt"}


# --- folds -------------------------------------------------------------------------------------


def put_folds(folder, monkeypatch, n_folds=results.N_FOLDS):
    """Write the folds of the toy training songs; return their scores, the last epoch's."""
    whole = toy_predictions("train", {"resnet": 1.0, "resnet_last": 2.0}, 0)
    songs = [dataset.Song(s.path, s.artist, s.album, Path(s.path)) for s in whole.songs]
    monkeypatch.setattr(dataset, "read_split", lambda *_: songs)
    for fold in range(1, n_folds + 1):
        mine = np.arange(len(songs)) % results.N_FOLDS == fold - 1
        of_fold = folder / f"fold-{fold}"
        put_finished(of_fold, toy_settings("resnet", fold=fold, dataset=f"of fold {fold}"))
        part = Predictions(
            classes=whole.classes,
            songs=[song for song, is_mine in zip(whole.songs, mine, strict=True) if is_mine],
            scores={name: scores[mine] for name, scores in whole.scores.items()},
        )
        results.write_record(of_fold / "val_predictions.json", part)
    return whole.scores["resnet_last"]


def pool(folder):
    options = {"data_dir": Path("data"), "limit": None}
    return dataclasses.replace(make_experiment(**options)).pool_folds(folder)


def test_folds_are_pooled_in_the_songs_order_at_their_last_epoch(tmp_path, monkeypatch, capsys):
    expected = put_folds(tmp_path, monkeypatch)
    pooled = pool(tmp_path)
    assert pooled.songs == TOY_SONGS["train"]
    np.testing.assert_allclose(pooled.scores["resnet"], expected, rtol=1e-5)
    written = results.read_record(tmp_path / "cv_predictions.json", Predictions, "x")
    assert [*written.scores] == ["resnet"]
    right = (expected.argmax(axis=1) == pooled.labels).mean()
    assert f"all 5 folds, 80 songs: top-1 {right:.1%}" in capsys.readouterr().out


def test_parts_of_a_network_are_pooled_too(tmp_path, monkeypatch, capsys):
    answer = put_folds(tmp_path, monkeypatch)
    alone = np.roll(answer, 1, axis=1)
    for fold in range(1, results.N_FOLDS + 1):
        of_fold = tmp_path / f"fold-{fold}"
        metrics = results.read_record(of_fold / "metrics.json", results.NetworkMetrics, "x")
        reached = results.Accuracy(top1=0, top3=0)
        metrics = msgspec.structs.replace(metrics, parts={":convolutions": reached})
        results.write_record(of_fold / "metrics.json", metrics)
        part = results.read_record(of_fold / "val_predictions.json", Predictions, "x")
        scores = part.scores | {"resnet:convolutions": alone[fold - 1 :: results.N_FOLDS]}
        part = msgspec.structs.replace(part, scores=scores)
        results.write_record(of_fold / "val_predictions.json", part)
    pooled = pool(tmp_path)
    assert [*pooled.scores] == ["resnet", "resnet:convolutions"]
    np.testing.assert_allclose(pooled.scores["resnet"], answer, rtol=1e-5)
    np.testing.assert_allclose(pooled.scores["resnet:convolutions"], alone, rtol=1e-5)
    assert "all 5 folds, its convolutions alone, 80 songs: top-1" in capsys.readouterr().out


def test_folds_of_an_earlier_version_lack_parts(tmp_path, monkeypatch):
    """They are pooled as far as all have the scores: a loop over folds goes on."""
    put_folds(tmp_path, monkeypatch)
    metrics = results.read_record(tmp_path / "fold-1/metrics.json", results.NetworkMetrics, "x")
    parts = {":convolutions": results.Accuracy(top1=0, top3=0)}
    results.write_record(
        tmp_path / "fold-1/metrics.json", msgspec.structs.replace(metrics, parts=parts)
    )
    part = results.read_record(tmp_path / "fold-1/val_predictions.json", Predictions, "x")
    scores = part.scores | {"resnet:convolutions": part.scores["resnet"]}
    part = msgspec.structs.replace(part, scores=scores)
    results.write_record(tmp_path / "fold-1/val_predictions.json", part)
    assert list(pool(tmp_path).scores) == ["resnet"]


def test_a_missing_fold_is_asked_for(tmp_path, monkeypatch, capsys):
    put_folds(tmp_path, monkeypatch, n_folds=3)
    assert pool(tmp_path) is None
    assert "run the same command with --fold 4, too" in capsys.readouterr().out
    assert not (tmp_path / "cv_predictions.json").exists()


def test_folds_of_different_runs_are_not_pooled(tmp_path, monkeypatch, capsys):
    """Nor is that an error: folds are trained anew one after the other."""
    put_folds(tmp_path, monkeypatch)
    put_finished(tmp_path / "fold-2", toy_settings("resnet", fold=2, lr=0.5))
    assert pool(tmp_path) is None
    assert not (tmp_path / "cv_predictions.json").exists()
    said = capsys.readouterr().out
    assert "fold-1 and fold-2 in" in said and "recipe.lr 0.005 -> 0.5" in said


@pytest.mark.parametrize("of", ["songs", "classes", "scores"])
def test_folds_that_do_not_belong_together_are_refused(tmp_path, monkeypatch, of):
    put_folds(tmp_path, monkeypatch)
    file = tmp_path / "fold-2/val_predictions.json"
    part = results.read_record(file, Predictions, "x")
    if of == "songs":
        scores = {name: rows[1:] for name, rows in part.scores.items()}
        results.write_record(
            file, Predictions(classes=part.classes, songs=part.songs[1:], scores=scores)
        )
    elif of == "classes":
        scores = {name: np.pad(rows, ((0, 0), (0, 1))) for name, rows in part.scores.items()}
        classes = [*part.classes, "z"]
        results.write_record(file, Predictions(classes=classes, songs=part.songs, scores=scores))
    else:
        results.write_record(
            file,
            Predictions(
                classes=part.classes, songs=part.songs, scores={"panns": part.scores["resnet"]}
            ),
        )
    with pytest.raises(UserError, match="--overwrite"):
        pool(tmp_path)


def test_a_temperature_is_fitted_on_the_folds_that_it_is_compared_with():
    settings = toy_settings("ge2e_strong")
    warmer = toy_settings("ge2e_strong", temperature=3.0, fold=2)
    assert experiment.comparable(warmer, "") == experiment.comparable(settings, "")
    colder = toy_settings("ge2e_strong", lr=1.0)
    assert experiment.comparable(colder, "") != experiment.comparable(settings, "")
