"""artist20.checkpoints: what a training keeps comes back, or is one line."""

import pickle
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from conftest import TOY_ARTISTS, TOY_SONGS, Touch, put_network, refused, toy_model, toy_settings

from artist20 import UserError, checkpoints
from artist20.checkpoints import (
    EMBEDDING_FILES,
    EpochProgress,
    EpochRow,
    TrainedModel,
    TrainingState,
)
from artist20.results import NetworkMetrics, read_record

STAGE = "task0_stage.py"


ROW = EpochRow(
    epoch=1, lr=0.1, train_loss=1.25, val_loss=1, val_top1=0.5, val_top3=0.75, seconds=2.5
)


def make_model(name: str = "resnet") -> TrainedModel:
    weights = {"weight": torch.arange(6.0).reshape(2, 3).half(), "steps": torch.tensor(3)}
    return toy_model(toy_settings(name), weights, TOY_ARTISTS)


def make_state() -> TrainingState:
    held = {**msgspec.structs.asdict(make_model()), "epoch": 1}
    optimizer = {
        "state": {0: {"step": torch.tensor(2.0)}},
        "param_groups": [{"betas": (0.9, 0.99)}],
    }
    progress = EpochProgress(step=2, examples=16, loss_sum=0.5, seconds=3)
    more = {"optimizer": optimizer, "scheduler": {"last_epoch": 1}, "history": [ROW]}
    return TrainingState(**held, **more, progress=progress)


def as_dict(model: TrainedModel) -> dict:
    """Return a checkpoint with lists in place of tensors."""
    held = msgspec.structs.asdict(model)
    weights = {name: (value.dtype, value.tolist()) for name, value in model.weights.items()}
    return {**held, "weights": weights}


@pytest.mark.parametrize("name", ["resnet", "panns_strong"])
def test_models_come_back(tmp_path, name):
    checkpoints.save_model(tmp_path / "a.pt", make_model(name))
    found = checkpoints.load_model(tmp_path / "a.pt", TrainedModel, STAGE)
    assert as_dict(found) == as_dict(make_model(name))


def test_training_states_come_back_also_as_models(tmp_path):
    path = tmp_path / "a.pt"
    checkpoints.save_model(path, make_state())
    assert as_dict(checkpoints.load_model(path, TrainingState, STAGE)) == as_dict(make_state())
    model = checkpoints.load_model(path, TrainedModel, STAGE)
    assert type(model) is TrainedModel
    assert (model.epoch, model.settings) == (1, make_state().settings)
    checkpoints.save_model(path, make_model())
    assert "missing required field" in refused(checkpoints.load_model, path, TrainingState, STAGE)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, recwarn):
    path, marker = tmp_path / "a.pt", tmp_path / "marker"
    checkpoints.save_model(path, make_model())
    held = torch.load(path, weights_only=True)
    torch.save({**held, "extra": Touch(marker)}, path)
    refused(checkpoints.load_model, path, TrainedModel, STAGE)
    for protocol in (2, 4):  # of which torch warns
        path.write_bytes(pickle.dumps(Touch(marker), protocol=protocol))
        refused(checkpoints.load_model, path, TrainedModel, STAGE)
    assert not recwarn.list
    assert not marker.exists()
    # The control, on a file made above: read the unsafe way, it does run.
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_a_damaged_checkpoint_is_told(tmp_path):
    path = tmp_path / "a.pt"
    missing = refused(checkpoints.load_model, path, TrainedModel, STAGE, ", or B")
    assert missing == f"{path} is missing: run {STAGE} first, or B"
    checkpoints.save_model(path, make_model())
    whole = path.read_bytes()
    cut = [whole[:size] for size in (0, 1, 2, 10, len(whole) // 2, len(whole) - 1)]
    for content in (*cut, b"no checkpoint", b"0", b"."):
        path.write_bytes(content)
        message = refused(checkpoints.load_model, path, TrainedModel, STAGE, ", or B")
        assert message == f"{path} is damaged, or no checkpoint: run {STAGE} again, or B"


def test_a_checkpoint_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.pt"
    path.touch()
    monkeypatch.setattr(torch, "load", refuse)
    message = refused(checkpoints.load_model, path, TrainedModel, STAGE)
    assert message == f"{path} cannot be read (Permission denied): mend that"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"classes": TOY_ARTISTS[::-1]}, "classes and train_songs"),
        ({"train_songs": [1]}, "classes and train_songs"),
        ({"train_songs": "many"}, "train_songs"),
        ({"epoch": -1}, "epoch"),
        ({"val_top1": 2.0}, "val_top1"),
        ({"window_frames": None}, "window_frames and settings"),
        ({"window_frames": 0}, "window_frames"),
        ({"weights": [1]}, "weights"),
        ({"weights": {1: 2}}, "weights"),
        ({"settings": {}}, "recipe_name"),
    ],
)
def test_what_is_no_checkpoint_of_this_version_is_refused(tmp_path, change, reason):
    path = tmp_path / "a.pt"
    checkpoints.save_model(path, make_model())
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    message = refused(checkpoints.load_model, path, TrainedModel, STAGE)
    assert message.startswith(f"{path} is no checkpoint of this version (")
    assert reason in message
    assert message.endswith(f"): run {STAGE} again")


@pytest.mark.parametrize("content", [[1, 2], {}])
def test_what_is_no_dict_of_fields_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    message = refused(checkpoints.load_model, tmp_path / "a.pt", TrainedModel, STAGE)
    assert "no checkpoint of this version" in message


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("panns", {"window_frames": 30}, "window_frames and settings"),
        ("panns", {"encoders": []}, "encoders and recipe"),
        ("resnet", {"encoders": toy_settings("panns").encoders}, "encoders and recipe"),
    ],
)
def test_settings_of_another_network_are_refused(tmp_path, name, change, reason):
    path = tmp_path / "a.pt"
    held = msgspec.structs.asdict(make_model(name))
    if "encoders" in change:
        change = {"settings": msgspec.structs.replace(held["settings"], **change)}
    with pytest.raises(ValueError, match=reason):  # already in the making
        checkpoints.save_model(path, TrainedModel(**{**held, **change}))


def test_history_belongs_to_the_epoch(tmp_path):
    path = tmp_path / "a.pt"
    checkpoints.save_model(path, make_state())
    torch.save({**torch.load(path, weights_only=True), "epoch": 2}, path)
    message = refused(checkpoints.load_model, path, TrainingState, STAGE)
    assert "epoch 2, but 1 rows of history" in message


# --- embeddings --------------------------------------------------------------------------------


def put_embeddings(folder: Path, scale: float = 1.0) -> NetworkMetrics:
    """Write the embeddings of a run; return its metrics."""
    train, val = (np.full((len(TOY_SONGS[split]), 3), scale / 3) for split in ("train", "val"))
    train[1] = [1, 2, 3]
    hashes = checkpoints.write_embeddings(folder, train, val, TOY_SONGS["train"])
    path = put_network(folder, "resnet", 2, seed=0, embeddings=hashes) / "metrics.json"
    return read_record(path, NetworkMetrics, STAGE)


def test_embeddings_come_back(tmp_path):
    metrics = put_embeddings(tmp_path)
    found = checkpoints.read_embeddings(tmp_path, metrics, TOY_SONGS["val"], STAGE)
    assert found.train.dtype == found.val.dtype == np.float32
    assert found.train[:2].tolist() == [[np.float32(1 / 3)] * 3, [1, 2, 3]]
    assert found.val.tolist() == [[np.float32(1 / 3)] * 3] * len(TOY_SONGS["val"])
    assert (found.train_songs, found.val_songs) == (TOY_SONGS["train"], TOY_SONGS["val"])


@pytest.mark.parametrize("name", EMBEDDING_FILES)
def test_embeddings_that_are_missing_changed_or_of_another_run_are_named(tmp_path, name):
    metrics = put_embeddings(tmp_path)
    path = tmp_path / name

    def check() -> None:
        expected = rf"{path} is missing, or not of the run .*: run {STAGE} --overwrite"
        with pytest.raises(UserError, match=expected):
            checkpoints.read_embeddings(tmp_path, metrics, TOY_SONGS["val"], STAGE)

    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    check()
    path.unlink()
    check()
    path.write_bytes(kept)
    of_no_run = msgspec.structs.replace(metrics, embeddings=None)  # as a fold's
    with pytest.raises(UserError, match="not of the run"):
        checkpoints.read_embeddings(tmp_path, of_no_run, TOY_SONGS["val"], STAGE)


def test_embeddings_of_other_songs_are_refused(tmp_path):
    metrics = put_embeddings(tmp_path)
    with pytest.raises(UserError, match=r"is of 48 songs, val_predictions\.json of 47: run "):
        checkpoints.read_embeddings(tmp_path, metrics, TOY_SONGS["val"][1:], STAGE)


# --- history -----------------------------------------------------------------------------------

HEADER = "epoch,lr,train_loss,val_loss,val_top1,val_top3,seconds\n"


def test_history_comes_back(tmp_path):
    path = tmp_path / "history.csv"
    rows = [ROW, msgspec.structs.replace(ROW, epoch=2, lr=1e-5, val_loss=1 / 3)]
    checkpoints.write_history(path, rows)
    assert path.read_text() == (
        f"{HEADER}1,0.1,1.25,1,0.5,0.75,2.5\n2,1e-05,1.25,{1 / 3},0.5,0.75,2.5\n"
    )
    assert checkpoints.read_history(path, STAGE) == rows


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        HEADER,
        f"{HEADER}1,0.1,1.25,1,0.5,0.75\n",  # a row cut short
        f"{HEADER}1,0.1,nan,1,0.5,0.75,2.5\n",
        f"{HEADER}1,0.1,1.25,1,1.5,0.75,2.5\n",
        f"{HEADER}0,0.1,1.25,1,0.5,0.75,2.5\n",
        f"{HEADER}1.5,0.1,1.25,1,0.5,0.75,2.5\n",
        f"{HEADER}one,0.1,1.25,1,0.5,0.75,2.5\n",
        "epoch,loss\n1,2\n",
    ],
)
def test_a_broken_history_is_refused(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(checkpoints.read_history, path, STAGE)
    assert re.fullmatch(rf"{path} is broken \(.+\): run {STAGE} again", message)
