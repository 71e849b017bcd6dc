import csv
import dataclasses
import json
import math
import shutil
import signal

import numpy as np
import pytest
import torch
from conftest import ARTISTS, TOY_DATASET, TOY_SONGS, make_waveform, toy_predictions
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from tqdm import tqdm

import task2_train_wo_pretrain as stage
from artist20 import UserError, augment, files, results, spectrogram, training
from artist20.models import ArtistResNet, EmbeddingMLP
from artist20.spectrogram import FrontEnd

N_SONGS, N_CLASSES, EPOCHS = 12, 4, 5
LABELS = np.arange(N_SONGS) % N_CLASSES
X = torch.randn(N_SONGS, 10, generator=torch.Generator().manual_seed(0))
IDENTITY = {"kind": "toy", "classes": list("abcd"), "config": {"epochs": EPOCHS, "seed": 0}}


class InterruptionError(Exception):
    pass


@pytest.fixture(autouse=True)
def heard():
    """Hear Ctrl-C also where the tests were started without: in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make_toy(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, N_CLASSES)
    )


def toy_batches(epoch, seed=0):
    rng = np.random.default_rng(training.epoch_seed(seed, epoch))
    for batch in np.array_split(rng.permutation(N_SONGS), 3):
        noise = torch.from_numpy(rng.normal(0, 0.1, (len(batch), 10))).float()
        targets = augment.one_hot(torch.from_numpy(LABELS[batch]), N_CLASSES)
        yield X[batch] + noise, targets


def run_toy(
    folder, schedule="cosine", seed=0, epochs=EPOCHS, batches=None, score_val=None, lr=0.01, **more
):
    model = make_toy(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    scheduler = (
        CosineAnnealingLR(optimizer, EPOCHS)
        if schedule == "cosine"
        else ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2)
    )
    return training.fit(
        model,
        optimizer,
        scheduler,
        batches or (lambda epoch: toy_batches(epoch, seed)),
        score_val or (lambda: training.predict(model, X, torch.float32)),
        LABELS,
        epochs=epochs,
        steps_per_epoch=3,
        label_smoothing=0.1,
        seed=seed,
        folder=folder,
        identity=IDENTITY,
        **{"precision": torch.float32, **more},
    )


def interrupt_in(epoch):
    """Give batches that end in the middle of an epoch."""

    def batches(current):
        for i, batch in enumerate(toy_batches(current)):
            if current == epoch and i == 1:
                raise InterruptionError
            yield batch

    return batches


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def assert_equal(a, b):
    """Compare nested dicts and lists with tensors in them, exactly."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key != "seconds":
                assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_equal(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


# --- fit ---------------------------------------------------------------------------------------


def test_history(tmp_path):
    history = run_toy(tmp_path)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    expected = [0.005 * (1 + math.cos(math.pi * i / EPOCHS)) for i in range(EPOCHS)]
    assert [row["lr"] for row in history] == pytest.approx(expected)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "val_loss", "val_top1", "val_top3", "seconds"
    ]  # fmt: skip
    assert [{key: float(value) for key, value in row.items()} for row in rows] == history


def test_training_learns(tmp_path):
    history = run_toy(tmp_path, epochs=60, lr=0.05)
    assert history[0]["val_top1"] < 0.6
    assert history[-1]["val_top1"] > 0.75
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


def test_train_loss_is_the_mean_over_examples_with_smoothed_labels(tmp_path):
    model = nn.Linear(10, N_CLASSES)
    targets = augment.one_hot(torch.from_numpy(LABELS), N_CLASSES)
    smoothed = 0.9 * targets + 0.1 / N_CLASSES
    expected = -(smoothed * model(X).log_softmax(dim=1)).sum(dim=1).mean().item()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    history = training.fit(
        model,
        optimizer,
        CosineAnnealingLR(optimizer, 1),
        lambda _epoch: [(X[:8], targets[:8]), (X[8:], targets[8:])],  # unequal batches
        lambda: training.predict(model, X, torch.float32),
        LABELS,
        epochs=1,
        steps_per_epoch=2,
        label_smoothing=0.1,
        seed=0,
        precision=torch.float32,
        folder=tmp_path,
        identity=IDENTITY,
    )
    assert history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_checkpoints_hold_what_rebuilds_the_network(tmp_path):
    history = run_toy(tmp_path)
    last = results.read_checkpoint(tmp_path / "last.pt", "x")
    best = results.read_checkpoint(tmp_path / "best.pt", "x")
    for checkpoint in (last, best):
        assert {key: checkpoint[key] for key in IDENTITY} == IDENTITY
        make_toy().load_state_dict(checkpoint["model"])
    assert last["epoch"] == EPOCHS
    assert last["history"] == history
    for checkpoint in (last, best):
        assert checkpoint["val_top1"] == history[checkpoint["epoch"] - 1]["val_top1"]
    assert not list(tmp_path.glob(".*.tmp*"))


# (top-1, top-3, loss) per epoch and the epoch that is to be kept
RANKINGS = [
    ([(2, 4, 1.0), (3, 4, 9.0), (3, 3, 0.1), (2, 4, 0.1)], 2),  # top-1 first
    ([(3, 3, 0.1), (3, 4, 9.0), (2, 4, 0.1)], 2),  # then top-3
    ([(3, 4, 2.0), (3, 4, 1.0), (3, 4, 1.5)], 2),  # then loss
    ([(3, 4, 1.0), (3, 4, 1.0)], 1),  # then the earlier one
]


@pytest.mark.parametrize(("ranks", "expected"), RANKINGS)
def test_best_is_chosen_by_top1_top3_and_loss(tmp_path, monkeypatch, ranks, expected):
    script = iter(ranks)
    current = {}

    def score_val():
        current.update(zip((1, 3, "loss"), next(script), strict=True))
        return np.full((N_SONGS, N_CLASSES), 0.25)

    monkeypatch.setattr(training.evaluation, "top_k_accuracy", lambda _s, _l, k: current[k])
    monkeypatch.setattr(training.evaluation, "log_loss", lambda _s, _l: current["loss"])
    run_toy(tmp_path, epochs=len(ranks), score_val=score_val)
    assert results.read_checkpoint(tmp_path / "best.pt", "x")["epoch"] == expected


def test_best_holds_the_weights_of_its_epoch(tmp_path):
    weights = []
    model = make_toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    right = np.eye(N_CLASSES)[LABELS]
    scores = iter([right * 0.5 + 0.1, right * 0.9 + 0.01, np.roll(right, 1, axis=1) + 0.01])

    def score_val():
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    training.fit(
        model,
        optimizer,
        CosineAnnealingLR(optimizer, 3),
        toy_batches,
        score_val,
        LABELS,
        epochs=3,
        steps_per_epoch=3,
        label_smoothing=0.0,
        seed=0,
        precision=torch.float32,
        folder=tmp_path,
        identity=IDENTITY,
    )
    fresh = make_toy(seed=9)
    assert training.read_best(tmp_path, fresh) == 2
    assert_equal(dict(fresh.state_dict()), weights[1])
    assert not torch.equal(weights[1]["0.weight"], weights[2]["0.weight"])


# --- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, schedule, epoch):
    whole = run_toy(tmp_path / "whole", schedule)
    with pytest.raises(InterruptionError):
        run_toy(tmp_path / "parts", schedule, batches=interrupt_in(epoch))
    assert (tmp_path / "parts/last.pt").is_file() == (epoch > 1)
    torch.rand(7)  # the new process's random state is another one
    parts = run_toy(tmp_path / "parts", schedule)
    assert without_seconds(parts) == without_seconds(whole)
    assert len({row["lr"] for row in whole}) > 1
    for name in ("last.pt", "best.pt"):
        a, b = (results.read_checkpoint(tmp_path / run / name, "x") for run in ("whole", "parts"))
        assert_equal(a, b)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("epoch", "step"), [(1, 0), (2, 1), (3, 2), (5, 1)])
def test_a_signal_ends_the_step_and_nothing_is_lost(tmp_path, number, epoch, step):
    whole = run_toy(tmp_path / "whole")

    def batches(current):
        for i, batch in enumerate(toy_batches(current)):
            if (current, i) == (epoch, step):
                signal.raise_signal(number)
            yield batch

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as stop:
        run_toy(tmp_path / "parts", batches=batches)
    assert stop.value.args == (number,)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    last = results.read_checkpoint(tmp_path / "parts/last.pt", "x")
    # Also after the last step: what is left of that epoch is to validate.
    assert (last["epoch"], last["state"]["step"]) == (epoch - 1, step + 1)
    assert last["val_top1"] is None  # these weights have not been validated
    torch.rand(7)
    parts = run_toy(tmp_path / "parts")
    assert without_seconds(parts) == without_seconds(whole)
    for name in ("last.pt", "best.pt"):
        a, b = (results.read_checkpoint(tmp_path / run / name, "x") for run in ("whole", "parts"))
        assert_equal(a, b)


def test_a_signal_in_the_step_that_ruins_the_weights_saves_nothing(tmp_path):
    run_toy(tmp_path, epochs=1)
    before = (tmp_path / "last.pt").read_bytes()

    def batches(epoch):
        for i, (x, targets) in enumerate(toy_batches(epoch)):
            if i == 1:
                signal.raise_signal(signal.SIGTERM)
            yield (x * 1e30 if i == 1 else x), targets

    with pytest.raises(UserError, match="nan or infinite in epoch 2"):
        run_toy(tmp_path, batches=batches, lr=float("inf"))
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_second_signal_stops_at_once(tmp_path):
    def batches(_epoch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
        yield

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, batches=batches)
    assert not (tmp_path / "last.pt").is_file()


def test_patience_ends_a_run_that_no_longer_improves(tmp_path, monkeypatch, capsys):
    ranks = iter([(0.1,), (0.5,), (0.4,), (0.5,), (0.3,)])
    by_epoch = {}
    monkeypatch.setattr(
        training, "_rank", lambda row: by_epoch.setdefault(row["epoch"], None) or next_rank(row)
    )

    def next_rank(row):
        by_epoch[row["epoch"]] = next(ranks)
        return by_epoch[row["epoch"]]

    history = run_toy(tmp_path, patience=2)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert "none of 2 epochs was better than 2" in capsys.readouterr().out
    assert run_toy(tmp_path, patience=2) == history


def test_tensorboard_events_are_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(InterruptionError):
        run_toy(tmp_path, batches=interrupt_in(3), tensorboard=True)
    history = run_toy(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "val_loss", "val_top1", "lr"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["epoch"], pytest.approx(row[name])) for row in history]


def test_bfloat16_learns_with_losses_in_float32(tmp_path):
    history = run_toy(tmp_path / "half", epochs=5, precision=torch.bfloat16)
    exact = run_toy(tmp_path / "exact", epochs=5)
    losses = np.array([[row["train_loss"] for row in rows] for rows in (history, exact)])
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    last = results.read_checkpoint(tmp_path / "half/last.pt", "x")
    weights = [value.dtype for value in last["model"].values() if value.is_floating_point()]
    assert set(weights) == {torch.float32}


def test_the_plateau_is_that_of_the_validation_loss(tmp_path):
    history = run_toy(tmp_path, "plateau")
    scheduler = results.read_checkpoint(tmp_path / "last.pt", "x")["scheduler"]
    assert scheduler["best"] in [row["val_loss"] for row in history]


def test_a_finished_run_is_not_trained_further(tmp_path):
    history = run_toy(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    assert run_toy(tmp_path) == history
    assert (tmp_path / "last.pt").read_bytes() == before


def test_the_seed_decides_the_history(tmp_path):
    first = run_toy(tmp_path / "a", seed=0)
    assert without_seconds(run_toy(tmp_path / "b", seed=0)) == without_seconds(first)
    assert without_seconds(run_toy(tmp_path / "c", seed=1)) != without_seconds(first)


def test_epochs_and_seeds_have_seeds_of_their_own():
    seeds = [training.epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == 400
    assert training.epoch_seed(3, 4) == training.epoch_seed(3, 4)


# --- NaN ---------------------------------------------------------------------------------------


def test_nan_loss_stops_and_keeps_the_epoch_before(tmp_path):
    kept = {}

    def batches(epoch):
        if epoch == 3:
            kept["last"] = (tmp_path / "last.pt").read_bytes()
        for x, targets in toy_batches(epoch):
            yield (x * float("nan") if epoch == 3 else x), targets

    with pytest.raises(UserError, match=r"nan or infinite in epoch 3; .*last.pt.*--lr"):
        run_toy(tmp_path, batches=batches)
    assert (tmp_path / "last.pt").read_bytes() == kept["last"]
    assert results.read_checkpoint(tmp_path / "last.pt", "x")["epoch"] == 2


def test_weights_that_the_last_step_ruins_are_not_kept(tmp_path):
    model = nn.Linear(10, N_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    targets = augment.one_hot(torch.from_numpy(LABELS), N_CLASSES)

    def batches(epoch):
        # One step per epoch: its loss is finite, what it makes of the weights is not.
        optimizer.param_groups[0]["lr"] = 0.1 if epoch == 1 else float("inf")
        return [(X, targets)]

    with pytest.raises(UserError, match="nan or infinite in epoch 2"):
        training.fit(
            model,
            optimizer,
            ReduceLROnPlateau(optimizer),
            batches,
            lambda: training.predict(model, X, torch.float32),
            LABELS,
            epochs=3,
            steps_per_epoch=1,
            label_smoothing=0.0,
            seed=0,
            precision=torch.float32,
            folder=tmp_path,
            identity=IDENTITY,
        )
    last = results.read_checkpoint(tmp_path / "last.pt", "x")
    assert last["epoch"] == 1
    assert last["model"]["weight"].isfinite().all()


# --- open_run ----------------------------------------------------------------------------------


SETTINGS = {"epochs": 5, "lr": 0.1, "seed": 0}


def make_metrics(settings):
    reached = {"top1": 0.5, "top3": 0.5}
    result = {**reached, "epoch": 1, "last": reached, "model": "resnet", "seconds": 1}
    return {**result, "pretrained": False, "dataset": TOY_DATASET, "settings": settings}


def put_finished(folder, settings=SETTINGS):
    put_unfinished(folder, settings)
    shutil.copy(folder / "last.pt", folder / "best.pt")
    row = dict.fromkeys(results.HISTORY, 1.0)
    training._write_history(folder / "history.csv", [row])
    predictions = toy_predictions("val", {"resnet": 1.0}, 0)
    results.write_predictions(folder / "val_predictions.json", predictions)
    vectors = (np.eye(len(TOY_SONGS[split]), dtype="f4")[:, :3] for split in ("train", "val"))
    embeddings = results.write_embeddings(folder, *vectors, TOY_SONGS["train"])
    metrics = {**make_metrics(settings), "embeddings": embeddings}
    files.write_json(folder / "metrics.json", metrics)


def put_unfinished(folder, settings=SETTINGS):
    checkpoint = {"kind": "toy", "classes": ["a", "b"], "config": settings, "epoch": 2}
    checkpoint |= {"model": {}, "optimizer": {}, "scheduler": {}, "state": training.NEW_EPOCH}
    checkpoint["history"] = [dict.fromkeys(results.HISTORY, 1.0)] * 2
    files.write_checkpoint(folder / "last.pt", checkpoint)


def open_run(folder, settings=SETTINGS, resume=False, overwrite=False):
    return training.open_run(folder, settings, "task2_train.py", resume, overwrite)


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_folder_is_free(tmp_path, resume):
    assert open_run(tmp_path / "none", resume=resume) is None


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_of_the_same_settings_is_reused(tmp_path, resume):
    put_finished(tmp_path)
    assert open_run(tmp_path, resume=resume)["top1"] == 0.5


@pytest.mark.parametrize(
    "name",
    ["best.pt", "val_predictions.json", "history.csv", *results.EMBEDDING_FILES],
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_finished_run_with_a_damaged_file_is_to_be_trained_anew(tmp_path, name, damage):
    """Later stages would say to run this one, and this one that the run is finished."""
    put_finished(tmp_path)
    path = tmp_path / name
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=rf"{name}.*run task2_train.py --overwrite") as error:
        open_run(tmp_path)
    assert "\n" not in str(error.value)
    assert open_run(tmp_path, overwrite=True) is None


def test_a_checkpoint_of_another_run_is_no_finished_run(tmp_path):
    put_finished(tmp_path)
    best = results.read_checkpoint(tmp_path / "best.pt", "x")
    files.write_checkpoint(tmp_path / "best.pt", {**best, "config": {"n_mels": 10**9}})
    with pytest.raises(UserError, match=r"best\.pt is not of the run in .* --overwrite$"):
        open_run(tmp_path)


def test_a_run_that_goes_on_elsewhere_is_not_called_unfinished(tmp_path):
    put_unfinished(tmp_path)
    with (
        files.only_writer(tmp_path),
        pytest.raises(UserError, match="another run is writing"),
    ):
        open_run(tmp_path)


@pytest.mark.parametrize("put", [put_finished, put_unfinished])
@pytest.mark.parametrize("resume", [False, True])
def test_other_settings_are_refused_by_name(tmp_path, put, resume):
    put(tmp_path)
    with pytest.raises(UserError, match=r"lr 0\.1 -> 0\.2") as error:
        open_run(tmp_path, {**SETTINGS, "lr": 0.2}, resume=resume)
    assert "--overwrite" in str(error.value)
    assert "seed" not in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unfinished_run_needs_a_word(tmp_path):
    put_unfinished(tmp_path)
    with pytest.raises(UserError, match=r"epoch 2 of 5.*--resume.*--overwrite"):
        open_run(tmp_path)
    assert open_run(tmp_path, resume=True) is None
    assert (tmp_path / "last.pt").is_file()


def test_overwrite_removes_the_run_and_nothing_else(tmp_path):
    put_finished(tmp_path)
    for name in (*training.RESULTS, "test_predictions.json"):
        (tmp_path / name).touch()
    (tmp_path / "cache").mkdir()
    assert open_run(tmp_path, {"lr": 7}, overwrite=True) is None
    assert {path.name for path in tmp_path.iterdir()} >= {"cache"}
    assert not any((tmp_path / name).exists() for name in training.RESULTS)


def test_settings_survive_json(tmp_path):
    """What is compared with a metrics file must be what JSON gives back."""
    settings = {"front_end": FrontEnd().settings(), "snr": [15.0, 40.0], "windows": None}
    put_finished(tmp_path, settings)
    assert open_run(tmp_path, settings)


# --- finish ------------------------------------------------------------------------------------


def test_finish_reports_the_best_and_the_last_epoch(tmp_path):
    right = np.eye(N_CLASSES)[LABELS] * 0.8 + 0.05
    wrong = np.roll(right, 1, axis=1)
    model = make_toy(1)
    best = {name: value.clone() for name, value in make_toy(2).state_dict().items()}
    files.write_checkpoint(tmp_path / "best.pt", {**IDENTITY, "epoch": 3, "model": best})

    def score_val():
        is_best = torch.equal(model.state_dict()["0.weight"], best["0.weight"])
        return right if is_best else wrong

    def embed_songs():
        weight = model.state_dict()["0.weight"].numpy()
        return weight[:3], weight[3:5]

    songs = [{"path": f"{i}", "artist": "abcd"[k], "album": "x"} for i, k in enumerate(LABELS)]
    metrics = training.finish(
        tmp_path,
        "toy",
        model,
        score_val,
        songs,
        list("abcd"),
        LABELS,
        {"seed": 0},
        train_songs=songs[:3],
        embed_songs=embed_songs,
    )
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["top1"], metrics["top3"], metrics["epoch"]) == (1, 1, 3)
    assert metrics["last"]["top1"] == 0
    assert metrics["seed"] == 0
    predictions = results.read_predictions(tmp_path / "val_predictions.json", "x")
    assert np.allclose(predictions.scores["toy"], right)
    assert np.allclose(predictions.scores["toy_last"], wrong)
    assert (predictions.labels == LABELS).all()
    kept = results.read_embeddings(tmp_path, metrics, songs[3:5], "x")
    assert np.array_equal(kept.train, best["0.weight"][:3])  # of the epoch that is reported
    assert np.array_equal(kept.val, best["0.weight"][3:5])
    assert kept.train_songs == songs[:3]


# --- predict -----------------------------------------------------------------------------------


def test_predict_gives_probabilities_without_dropout():
    model = make_toy().train()
    scores = training.predict(model, X.half(), torch.float32)
    assert scores.dtype == np.float32
    assert scores.sum(axis=1) == pytest.approx(np.ones(N_SONGS), abs=1e-5)
    assert np.array_equal(scores, training.predict(model, X.half(), torch.float32))
    alone = np.concatenate(
        [training.predict(model, X[i : i + 1], torch.float32) for i in range(N_SONGS)]
    )
    assert np.abs(training.predict(model, X, torch.float32) - alone).max() < 1e-6


class Twice(nn.Module):
    """A network with two answers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.other = nn.Linear(10, N_CLASSES), nn.Linear(10, N_CLASSES)

    def forward(self, x):
        return torch.stack([self.one(x), self.other(x)])


def test_several_answers_learn_as_they_would_alone_and_are_averaged():
    def learn(model, lr):
        optimizer = torch.optim.SGD(model.parameters(), lr)
        state = dict(training.NEW_EPOCH)
        bar = tqdm(disable=True)
        training.train_epoch(
            model, optimizer, toy_batches(0), 0.1, int, torch.float32, state, [], bar
        )
        return model, state["loss_sum"]

    together, loss = learn(Twice(), 2.0)
    alone = [learn(each, 1.0) for each in (Twice().one, Twice().other)]  # the mean halves gradients
    for found, (expected, _) in zip((together.one, together.other), alone, strict=True):
        torch.testing.assert_close(found.weight, expected.weight)
    assert loss == pytest.approx(sum(of_one for _, of_one in alone) / 2, rel=1e-5)
    scores = [training.predict(model, X, torch.float32) for model, _ in alone]
    found = training.predict(together, X, torch.float32)
    np.testing.assert_allclose(found, np.mean(scores, axis=0), rtol=1e-4)


def test_embed_gives_what_the_last_layer_is_given():
    torch.manual_seed(0)
    for model, x in (
        (EmbeddingMLP(3, n_inputs=10, hidden=[8, 6]), X),
        (EmbeddingMLP(3, n_inputs=10, hidden=[]), X),
        (ArtistResNet(3, width=4, keep_frequency=True), torch.randn(2, 40, 64)),
    ):
        given = []
        model.output.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs))
        training.predict(model.train(), x, torch.float32)
        ((expected,),) = given
        found = training.embed(model.train(), x, torch.float32)
        assert found.dtype == np.float32
        assert found.shape == (len(x), model.output.in_features)
        assert np.array_equal(found, expected)


# --- the real network --------------------------------------------------------------------------


def test_resnet_overfits_eight_songs(tmp_path):
    artists = list(ARTISTS)
    # Songs of the same artist in different classes: only the songs themselves tell them apart.
    songs = [
        spectrogram.log_mel(make_waveform(artists[i % 3], i, 2.0), FrontEnd()) for i in range(8)
    ]
    labels = np.arange(8) % 4
    starts = np.cumsum([0, *map(len, songs[:-1])])
    mels = spectrogram.LogMels(
        np.concatenate(songs), [(int(s), len(x)) for s, x in zip(starts, songs, strict=True)]
    )
    torch.manual_seed(0)
    model = ArtistResNet(4, dropout=0.0)
    mean, std = mels.mean_and_std()
    model.standardize.mean.copy_(torch.from_numpy(mean))
    model.standardize.std.copy_(torch.from_numpy(std))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epochs, n_frames = 6, 24

    def batches(epoch):
        rng = np.random.default_rng(training.epoch_seed(0, epoch))
        for _ in range(10):  # steps enough for batch normalisation to know its statistics
            for x, y in spectrogram.random_crops(mels, labels, n_frames, 8, rng):
                yield x.float(), augment.one_hot(y, 4)

    def score():
        predict = lambda x: training.predict(model, x, torch.float32)  # noqa: E731
        scores, song_index = spectrogram.score_windows(predict, mels, n_frames, 16)
        return training.evaluation.mean_per_song(scores, song_index, 8)

    history = training.fit(
        model,
        optimizer,
        CosineAnnealingLR(optimizer, epochs),
        batches,
        score,
        labels,
        epochs=epochs,
        steps_per_epoch=10,
        label_smoothing=0.0,
        seed=0,
        precision=torch.float32,
        folder=tmp_path,
        identity=IDENTITY,
    )
    assert max(row["val_top1"] for row in history) == 1


def test_the_rate_grows_then_falls_to_nothing():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = training.warmup_cosine(optimizer, 3, 9)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[6] == pytest.approx(1.0)  # half way through the cosine
    assert all(np.diff(rates[3:]) < 0)
    assert 0 < rates[-1] < 0.2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_the_strong_network_is_standardised_by_the_training_songs():
    rng = np.random.default_rng(0)
    recipe = dataclasses.replace(stage.STRONG, n_mels=16, width=4)
    level = rng.normal(-40, 10, (60, 1, 16))
    rows = np.concatenate(level + rng.normal(0, 5, (60, 20, 16))).astype(np.float16)
    songs = spectrogram.LogMels(rows, [(20 * i, 20) for i in range(60)])
    cpu = torch.device("cpu")
    model = stage.make_model(4, songs, 20, recipe, cpu, 0)
    x = model.standardize(torch.from_numpy(rows).float().view(60, 20, 16))
    statistics = model.statistics.standardize(model.statistics.of(x))
    assert x.mean(dim=(0, 1)).abs().max() < 1e-3
    assert statistics.mean(dim=0).abs().max() < 1e-3
    assert (statistics.std(dim=0, correction=0) - 1).abs().max() < 1e-3

    silence = spectrogram.LogMels(np.full((40, 16), -100, np.float16), [(0, 20), (20, 20)])
    silent = stage.make_model(4, silence, 20, recipe, cpu, 0)
    assert silent(torch.full((1, 20, 16), -100.0)).isfinite().all()
    deck = dataclasses.replace(stage.HOMEWORK, n_mels=16, width=4)
    assert stage.make_model(4, silence, 20, deck, cpu, 0).statistics is None
