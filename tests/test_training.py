import csv
import dataclasses
import errno
import math
import signal
from argparse import Namespace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ARTISTS, TOY_DATASET, make_waveform, toy_network, toy_settings
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

import task2_train_wo_pretrain as stage
from artist20 import (
    UserError,
    checkpoints,
    evaluation,
    files,
    results,
    spectrogram,
    training,
)
from artist20.augment import AlbumDifferences
from artist20.checkpoints import EpochRow, TrainedModel, TrainingState
from artist20.dataset import Song
from artist20.experiment import Experiment, TrainingRun
from artist20.models import TimeStatistics
from artist20.results import Predictions
from artist20.spectrogram import FrontEnd, LogMels

N_SONGS, N_CLASSES, EPOCHS = 12, 4, 5
CLASSES = list("abcd")
LABELS = np.arange(N_SONGS) % N_CLASSES
SONGS = [Song(f"{i}", CLASSES[k], "x", Path(f"{i}")) for i, k in enumerate(LABELS)]
X = torch.randn(N_SONGS, 10, generator=torch.Generator().manual_seed(0))


class InterruptionError(Exception):
    pass


@pytest.fixture(autouse=True)
def saved_after_every_epoch(monkeypatch):
    """As where epochs are long."""
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)


def make_run(folder, *, epochs=EPOCHS, seed=0, precision=torch.float32, **more):
    args = Namespace(
        overwrite=more.pop("overwrite", False),
        tensorboard=more.pop("tensorboard", False),
        recipe="homework",
        seed=seed,
        audio_root=None,
    )
    cpu = torch.device("cpu")
    songs = Experiment(args, "resnet", cpu, precision, SONGS, {}, {}, 0.0)
    settings = toy_settings("resnet", epochs=epochs, seed=seed, **more)
    return TrainingRun(songs, folder, SONGS, SONGS, [], CLASSES, TOY_DATASET, settings, None)


def make_toy(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, N_CLASSES)
    )


def toy_batches(epoch, seed=0):
    rng = np.random.default_rng(training.epoch_seed(seed, epoch))
    for batch in np.array_split(rng.permutation(N_SONGS), 3):
        noise = torch.from_numpy(rng.normal(0, 0.1, (len(batch), 10))).float()
        targets = F.one_hot(torch.from_numpy(LABELS[batch]), N_CLASSES).float()
        yield X[batch] + noise, targets


def run_toy(folder, schedule="cosine", seed=0, batches=None, score=None, lr=0.01, **more):
    """Train a small network; return its history."""
    model = make_toy(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    scheduler = (
        CosineAnnealingLR(optimizer, EPOCHS)
        if schedule == "cosine"
        else ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2)
    )
    score = score or (lambda: training.predict(model, X, torch.float32))
    return fit(
        make_run(folder, seed=seed, **more),
        model,
        optimizer,
        scheduler,
        batches or (lambda epoch: toy_batches(epoch, seed)),
        score,
    )


def fit(run, model, optimizer, schedule, batches, score, label_smoothing=0.1):
    trainer = training.Trainer(
        run,
        model,
        optimizer,
        schedule,
        lambda: {"": score()},
        steps_per_epoch=3,
        precision=run.experiment.precision,
        label_smoothing=label_smoothing,
        window_frames=30,
    )
    trainer.fit(batches)
    return trainer.history


def make_one_epoch(folder, model, optimizer, **options):
    """Make a trainer of one epoch."""
    return training.Trainer(
        make_run(folder, epochs=1),
        model,
        optimizer,
        CosineAnnealingLR(optimizer, 1),
        lambda: {"": training.predict(model, X, torch.float32)},
        steps_per_epoch=2,
        window_frames=30,
        **options,
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
    return [msgspec.structs.replace(row, seconds=0) for row in history]


def read(path, kind=TrainedModel):
    return checkpoints.load_model(path, kind, "x")


def assert_equal(a, b):
    """Compare nested records, dicts and lists with tensors in them, exactly."""
    assert type(a) is type(b)
    if isinstance(a, msgspec.Struct):
        a, b = msgspec.structs.asdict(a), msgspec.structs.asdict(b)
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


def assert_same_checkpoints(one, other):
    assert_equal(*(read(folder / "best.pt") for folder in (one, other)))
    assert_equal(*(read(folder / "last.pt", TrainingState) for folder in (one, other)))


# --- fit ---------------------------------------------------------------------------------------


def test_history(tmp_path):
    history = run_toy(tmp_path)
    assert [row.epoch for row in history] == [1, 2, 3, 4, 5]
    expected = [0.005 * (1 + math.cos(math.pi * i / EPOCHS)) for i in range(EPOCHS)]
    assert [row.lr for row in history] == pytest.approx(expected)
    assert checkpoints.read_history(tmp_path / "history.csv", "x") == history
    with (tmp_path / "history.csv").open() as file:
        assert next(csv.reader(file)) == [
            "epoch", "lr", "train_loss", "val_loss", "val_top1", "val_top3", "seconds"
        ]  # fmt: skip


def test_training_learns(tmp_path):
    history = run_toy(tmp_path, epochs=60, lr=0.05)
    assert history[0].val_top1 < 0.6
    assert history[-1].val_top1 > 0.75
    assert history[-1].train_loss < 0.7 * history[0].train_loss


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {}])
def test_train_loss_is_the_mean_over_examples_with_smoothed_labels(tmp_path, options):
    model = nn.Linear(10, N_CLASSES)
    targets = F.one_hot(torch.from_numpy(LABELS), N_CLASSES).float()
    smoothed = 0.9 * targets + 0.1 / N_CLASSES if options else targets
    expected = -(smoothed * model(X).log_softmax(dim=1)).sum(dim=1).mean().item()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    trainer = make_one_epoch(tmp_path, model, optimizer, **options)
    trainer.fit(lambda _epoch: [(X[:8], targets[:8]), (X[8:], targets[8:])])  # unequal batches
    assert trainer.history[0].train_loss == pytest.approx(expected, rel=1e-5)


def test_checkpoints_hold_what_rebuilds_the_network(tmp_path):
    history = run_toy(tmp_path)
    last, best = read(tmp_path / "last.pt", TrainingState), read(tmp_path / "best.pt")
    for checkpoint in (last, best):
        assert checkpoint.classes == CLASSES
        assert checkpoint.settings == make_run(tmp_path).settings
        assert (checkpoint.train_songs, checkpoint.val_songs) == ([3, 3, 3, 3], 12)
        make_toy().load_state_dict(checkpoint.weights)
        assert checkpoint.val_top1 == history[checkpoint.epoch - 1].val_top1
    assert last.epoch == EPOCHS
    assert last.history == history
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

    def score():
        current.update(zip((1, 3, "loss"), next(script), strict=True))
        return np.full((N_SONGS, N_CLASSES), 0.25)

    monkeypatch.setattr(training.evaluation, "top_k_accuracy", lambda _s, _l, k: current[k] / 4)
    monkeypatch.setattr(training.evaluation, "log_loss", lambda _s, _l: current["loss"])
    run_toy(tmp_path, epochs=len(ranks), score=score)
    assert read(tmp_path / "best.pt").epoch == expected


def test_best_holds_the_weights_of_its_epoch(tmp_path):
    weights = []
    model = make_toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    right = np.eye(N_CLASSES)[LABELS]
    scores = iter([right * 0.5 + 0.1, right * 0.9 + 0.01, np.roll(right, 1, axis=1) + 0.01])

    def score():
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    run = make_run(tmp_path, epochs=3)
    fit(run, model, optimizer, CosineAnnealingLR(optimizer, 3), toy_batches, score)
    best = read(tmp_path / "best.pt")
    assert best.epoch == 2
    assert_equal(best.weights, weights[1])
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
    assert len({row.lr for row in whole}) > 1
    assert_same_checkpoints(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_what_was_not_saved_is_trained_again(tmp_path, schedule, monkeypatch):
    whole = run_toy(tmp_path / "whole", schedule)
    clock = iter(range(0, 10_000, 2))  # of which an epoch takes several
    monkeypatch.setattr(training.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(training, "SAVE_SECONDS", 30)
    with pytest.raises(InterruptionError):
        run_toy(tmp_path / "parts", schedule, batches=interrupt_in(5))
    saved = read(tmp_path / "parts/last.pt", TrainingState)
    best = read(tmp_path / "parts/best.pt")
    assert 1 <= best.epoch <= saved.epoch < 4
    parts = run_toy(tmp_path / "parts", schedule)
    assert without_seconds(parts) == without_seconds(whole)
    assert_same_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_a_signal_in_the_last_write_stops_the_run(tmp_path, monkeypatch):
    whole = run_toy(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_SECONDS", 60)
    save = checkpoints.save_models

    def stopped(models):
        save(models)
        last = models.get(tmp_path / "parts/last.pt")
        if last and len(last.history) == EPOCHS:
            monkeypatch.setattr(checkpoints, "save_models", save)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoints, "save_models", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "parts")
    assert without_seconds(run_toy(tmp_path / "parts")) == without_seconds(whole)
    assert_same_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_smaller_batches_are_advised_where_they_help(tmp_path):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has")

    with pytest.raises(UserError, match=r"allocate 3.00 GiB in batches of 4: try --batch-size 2"):
        run_toy(tmp_path, batches=out_of_memory, batch_size=4)
    with pytest.raises(torch.OutOfMemoryError):  # windows to score are another number
        run_toy(tmp_path, score=out_of_memory, batch_size=4)


def test_a_network_that_cannot_be_compiled_is_one_line(tmp_path):
    error = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})

    def no_compiler(*_):
        raise error("no compiler\nand where it was looked for")

    with pytest.raises(UserError, match=r"^--compile failed \(no compiler\): leave it out$"):
        run_toy(tmp_path, batches=no_compiler)


def test_an_epochs_loss_is_summed_exactly(tmp_path, monkeypatch):
    """Or its parts, by several processes or after an interruption, would give another sum."""
    parts, cross_entropy = [], training.F.cross_entropy

    def kept(*arguments, **more):
        parts.append(cross_entropy(*arguments, **more))
        return parts[-1]

    monkeypatch.setattr(training.F, "cross_entropy", kept)
    history = run_toy(tmp_path)
    losses = np.reshape([part.item() for part in parts], (EPOCHS, 3))
    assert [row.train_loss for row in history] == [math.fsum(row) / N_SONGS for row in losses]


def test_short_epochs_are_saved_once_in_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_SECONDS", 60)
    saved, save = [], checkpoints.save_models
    monkeypatch.setattr(
        checkpoints, "save_models", lambda models: (saved.extend(models), save(models))
    )
    history = run_toy(tmp_path)
    assert [path.name for path in saved] == ["best.pt", "last.pt"]  # when all epochs are done
    assert len(history) == read(tmp_path / "last.pt").epoch == EPOCHS


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
    last = read(tmp_path / "parts/last.pt", TrainingState)
    # Also after the last step: what is left of that epoch is to validate.
    assert (last.epoch, last.progress.step) == (epoch - 1, step + 1)
    assert last.val_top1 is None  # these weights have not been validated
    torch.rand(7)
    parts = run_toy(tmp_path / "parts")
    assert without_seconds(parts) == without_seconds(whole)
    assert_same_checkpoints(tmp_path / "whole", tmp_path / "parts")


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
    monkeypatch.setattr(training, "_rank", lambda row: by_epoch.get(row.epoch) or next_rank(row))

    def next_rank(row):
        by_epoch[row.epoch] = next(ranks)
        return by_epoch[row.epoch]

    history = run_toy(tmp_path, patience=2)
    assert [row.epoch for row in history] == [1, 2, 3, 4]
    assert "none of 2 epochs was better than 2" in capsys.readouterr().out
    assert run_toy(tmp_path, patience=2) == history


def test_tensorboard_events_are_the_history(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(InterruptionError):
        run_toy(tmp_path, batches=interrupt_in(3), tensorboard=True)
    run_toy(tmp_path, tensorboard=True)
    history = run_toy(tmp_path, tensorboard=True, overwrite=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "val_loss", "val_top1", "lr"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row.epoch, pytest.approx(getattr(row, name))) for row in history]


@pytest.mark.parametrize("epoch", [1, 2])
def test_overwrite_keeps_the_former_run_until_an_epoch_is_done(tmp_path, epoch, monkeypatch):
    """Such as where --compile has no compiler, or a batch does not fit a GPU."""
    monkeypatch.setattr(training, "SAVE_SECONDS", 1000)  # as where epochs are short
    run_toy(tmp_path, seed=1, tensorboard=True)
    for name in ("metrics.json", "mine.txt"):
        (tmp_path / name).write_text("former")
    former = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert any("events" in path.name for path in former)
    with pytest.raises(InterruptionError):
        run_toy(tmp_path, batches=interrupt_in(epoch), overwrite=True)
    if epoch == 1:
        assert {path: path.read_bytes() for path in former} == former
    else:
        found = {path.name for path in tmp_path.iterdir()} - {files.LOCK}
        assert found == {"best.pt", "last.pt", "history.csv", "mine.txt"}  # and no events
        run_toy(tmp_path)
        run_toy(tmp_path / "alone")
        assert_same_checkpoints(tmp_path, tmp_path / "alone")


@pytest.mark.parametrize("full", ["best.pt", "last.pt"])
def test_a_disk_that_is_full_when_a_run_is_overwritten_leaves_it_whole(tmp_path, full, monkeypatch):
    run_toy(tmp_path, seed=1)
    (tmp_path / "metrics.json").write_text("former")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    save = torch.save

    def save_while_there_is_space(held, path):
        if full.removesuffix(".pt") in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(held, path)

    monkeypatch.setattr(torch, "save", save_while_there_is_space)
    with pytest.raises(files.DiskFullError, match=rf"{full} cannot be written"):
        run_toy(tmp_path, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


@pytest.mark.parametrize("former", [False, True])
def test_ctrl_c_in_the_first_epoch_is_saved_unless_a_former_run_would_go(tmp_path, former, capsys):
    if former:
        run_toy(tmp_path, seed=1)
        (tmp_path / "metrics.json").write_text("former")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}

    def stopped(epoch):
        for i, batch in enumerate(toy_batches(epoch)):
            if i == 1:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, batches=stopped, overwrite=former)
    said = f"{tmp_path} keeps the run that was to be replaced\n" in capsys.readouterr().err
    assert said == former
    if former:
        assert {path: path.read_bytes() for path in before} == before
    else:
        assert read(tmp_path / "last.pt", TrainingState).progress.step > 0


def test_bfloat16_learns_with_losses_in_float32(tmp_path):
    history = run_toy(tmp_path / "half", epochs=5, precision=torch.bfloat16)
    exact = run_toy(tmp_path / "exact", epochs=5)
    losses = np.array([[row.train_loss for row in rows] for rows in (history, exact)])
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    last = read(tmp_path / "half/last.pt")
    weights = [value.dtype for value in last.weights.values() if value.is_floating_point()]
    assert set(weights) == {torch.float32}


def test_the_plateau_is_that_of_the_validation_loss(tmp_path):
    history = run_toy(tmp_path, "plateau")
    scheduler = read(tmp_path / "last.pt", TrainingState).scheduler
    assert scheduler["best"] in [row.val_loss for row in history]


def test_what_is_solved_for_is_one_epoch_and_not_solved_for_again(tmp_path):
    solved = []

    def fit_at_once():
        model = nn.Linear(10, N_CLASSES)
        optimizer = torch.optim.SGD(model.parameters(), lr=1)
        trainer = make_one_epoch(tmp_path, model, optimizer)

        def solve():
            solved.append(model)
            nn.init.ones_(model.weight)
            return 0.25

        trainer.fit_at_once(solve)
        assert (model.weight == 1).all()
        return trainer.history

    (row,) = fit_at_once()
    assert (row.epoch, row.lr, row.train_loss) == (1, 0, 0.25)
    assert read(tmp_path / "best.pt").epoch == 1
    assert fit_at_once() == [row]
    assert len(solved) == 1


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
    assert read(tmp_path / "last.pt").epoch == 2


def test_weights_that_the_last_step_ruins_are_not_kept(tmp_path):
    model = nn.Linear(10, N_CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    targets = F.one_hot(torch.from_numpy(LABELS), N_CLASSES).float()

    def batches(epoch):
        # One step per epoch: its loss is finite, what it makes of the weights is not.
        optimizer.param_groups[0]["lr"] = 0.1 if epoch == 1 else float("inf")
        return [(X, targets)]

    with pytest.raises(UserError, match="nan or infinite in epoch 2"):
        fit(
            make_run(tmp_path, epochs=3),
            model,
            optimizer,
            ReduceLROnPlateau(optimizer),
            batches,
            lambda: training.predict(model, X, torch.float32),
        )
    last = read(tmp_path / "last.pt")
    assert last.epoch == 1
    assert last.weights["weight"].isfinite().all()


# --- finish ------------------------------------------------------------------------------------


def row(epoch, train_loss):
    reached = {"val_loss": 1, "val_top1": 0.5, "val_top3": 0.5, "seconds": 1}
    return EpochRow(epoch=epoch, lr=0.1, train_loss=train_loss, **reached)


def test_a_run_that_another_one_replaced_is_not_finished(tmp_path):
    """It is neither written beside the other's files nor takes them for its own."""
    model = make_toy()
    trainer = make_one_epoch(tmp_path, model, torch.optim.AdamW(model.parameters()))
    other = make_run(tmp_path, lr=0.1).describe(30)
    weights = trainer.model.state_dict()
    checkpoints.save_model(tmp_path / "best.pt", msgspec.structs.replace(other, weights=weights))
    trainer.history = [row(1, 1.0)]
    with files.only_writer(tmp_path), pytest.raises(UserError, match="another run is writing to"):
        trainer.finish()
    with pytest.raises(UserError, match=r"best\.pt is of another run"):
        trainer.finish()
    assert not (tmp_path / "metrics.json").exists()


def test_an_epoch_that_is_not_the_best_of_the_history_is_refused(tmp_path):
    """Such as where --overwrite was killed between its best.pt and its last.pt, and resumed."""
    model = make_toy()
    trainer = make_one_epoch(tmp_path, model, torch.optim.AdamW(model.parameters()))
    best = msgspec.structs.replace(trainer.described, epoch=1, weights=model.state_dict())
    checkpoints.save_model(tmp_path / "best.pt", best)
    trainer.history = [row(1, 1.0), msgspec.structs.replace(row(2, 1.0), val_top1=0.6)]
    with pytest.raises(UserError, match=r"best\.pt is of another run .*--overwrite"):
        trainer.finish()


@pytest.mark.parametrize("select", [True, False])
def test_finish_reports_the_best_and_the_last_epoch(tmp_path, select):
    right = np.eye(N_CLASSES)[LABELS] * 0.8 + 0.05
    wrong = np.roll(right, 1, axis=1)
    model = make_toy(1)
    best = {name: value.clone() for name, value in make_toy(2).state_dict().items()}
    run = make_run(tmp_path, select=select)
    kept = 1 if select else 2  # the first of two alike, or the last
    described = msgspec.structs.replace(run.describe(30), epoch=kept, val_top1=1.0, weights=best)
    checkpoints.save_model(tmp_path / "best.pt", described)
    is_best = lambda: torch.equal(model.state_dict()["0.weight"], best["0.weight"])  # noqa: E731

    def embed_songs():
        weight = model.state_dict()["0.weight"].numpy()
        return weight[:N_SONGS], weight[:N_SONGS] + 1

    trainer = training.Trainer(
        run,
        model,
        None,
        None,
        lambda: {"": right, ":part": wrong} if is_best() else {"": wrong, ":part": right},
        steps_per_epoch=1,
        window_frames=30,
    )
    trainer.history = [row(1, 0.3), row(2, 1.25)]
    metrics = trainer.finish(embed_songs)
    assert metrics.learning.train_loss == 1.25  # of the last epoch
    assert read(tmp_path / "best.pt").learning == metrics.learning
    assert metrics == results.read_record(tmp_path / "metrics.json", results.NetworkMetrics, "x")
    expected = (1, 1, kept) if select else (0, metrics.last.top3, kept)
    assert (metrics.top1, metrics.top3, metrics.epoch) == expected
    assert metrics.last.top1 == 0
    assert metrics.parts[":part"].top1 == (0 if select else 1)
    assert list(metrics.names) == ["resnet", "resnet:part"]
    assert metrics.parameters == 10 * 16 + 16 + 2 * 16 + 16 * 4 + 4
    predictions = results.read_record(tmp_path / "val_predictions.json", Predictions, "x")
    assert np.allclose(predictions.scores["resnet"], right if select else wrong)
    assert np.allclose(predictions.scores["resnet:part"], wrong if select else right)
    last = {"resnet_last", "resnet:part_last"} if select else set()
    assert predictions.scores.keys() == {"resnet", "resnet:part", *last}
    assert (predictions.labels == LABELS).all()
    kept = checkpoints.read_embeddings(tmp_path, metrics, predictions.songs, "x")
    assert np.array_equal(kept.train, best["0.weight"][:N_SONGS])  # of the epoch that is reported
    assert [song.path for song in kept.train_songs] == [song.path for song in SONGS]


def finish_after(folder, train_loss, scores):
    run = make_run(folder)
    model = make_toy()
    described = msgspec.structs.replace(run.describe(30), epoch=1, weights=model.state_dict())
    checkpoints.save_model(folder / "best.pt", described)
    trainer = training.Trainer(
        run, model, None, None, lambda: {"": scores}, steps_per_epoch=1, window_frames=30
    )
    trainer.history = [row(1, train_loss)]
    metrics = trainer.finish()
    run.report(metrics)
    return metrics


@pytest.mark.parametrize(
    ("train_loss", "n_of_one", "said"),
    [
        (1.3862, 9, None),
        (1.3863, 9, "training loss of the last epoch, 1.386, is no lower than the 1.386 of equal"),
        (1.3863, 8, None),  # half are right, where one name has a quarter: LDA knows something
        (0.2, 11, "92% of the validation songs are taken for b's, who made 25%"),
    ],
)
def test_a_run_that_has_learnt_nothing_says_so(tmp_path, capsys, train_loss, n_of_one, said):
    scores = np.eye(N_CLASSES)[np.where(np.arange(N_SONGS) < n_of_one, 1, LABELS)]
    metrics = finish_after(tmp_path, train_loss, scores)
    out = capsys.readouterr().out
    assert ("warning: this network has learnt nothing" in out) == bool(said)
    title = "ResNet, 5 of 100 epochs"
    assert metrics.title("resnet") == title + (", did not learn" if said else "")
    if said:
        assert said in metrics.learning.failure and metrics.learning.failure in out


@pytest.mark.parametrize("n_right", [3, 4])
def test_a_run_that_is_no_better_than_one_name_for_all_says_so(tmp_path, n_right):
    others = (LABELS + 1 + np.arange(N_SONGS) % 2) % N_CLASSES  # wrong ones, of all artists
    scores = np.eye(N_CLASSES)[np.where(np.arange(N_SONGS) < n_right, LABELS, others)]
    said = finish_after(tmp_path, 0.2, scores).learning.failure
    one_name = "top-1 of 25.0% of the validation songs is no more than naming one artist throughout"
    assert (said is not None and said.startswith(one_name)) == (n_right == 3)


def test_songs_that_nearly_all_are_one_artists_may_be_named_so():
    labels = np.array([0] * 19 + [1])
    found = evaluation.learning(0.1, np.eye(2)[np.zeros(20, dtype=int)], labels, ["a", "b"])
    assert found.guessed == 1 and found.failure is None


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


def test_embed_gives_what_the_last_layer_is_given():
    torch.manual_seed(0)
    for model, x in (
        (toy_network("panns", 3, 10, hidden=(8, 6)), X),
        (toy_network("panns", 3, 10, hidden=()), X),
        (toy_network("resnet", 3, width=4, keep_frequency=True), torch.randn(2, 40, 64)),
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
    mels = LogMels(songs)
    torch.manual_seed(0)
    model = toy_network("resnet", 4, dropout=0.0)
    _, mean, std = mels.spectra(64)
    model.standardize.mean.copy_(torch.from_numpy(mean))
    model.standardize.std.copy_(torch.from_numpy(std))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epochs, n_frames = 4, 56

    def batches(epoch):
        rng = np.random.default_rng(training.epoch_seed(0, epoch))
        for _ in range(10):  # steps enough for batch normalisation to know its statistics
            for x, y in spectrogram.random_crops(mels, labels, n_frames, 8, rng):
                yield x.float(), F.one_hot(y, 4).float()

    def score():
        predict = lambda x: training.predict(model, x, torch.float32)  # noqa: E731
        return spectrogram.per_song(predict, mels, n_frames)

    run = dataclasses.replace(make_run(tmp_path, epochs=epochs), val=SONGS[:8])
    schedule = CosineAnnealingLR(optimizer, epochs)
    history = fit(run, model, optimizer, schedule, batches, score, label_smoothing=0.0)
    assert max(row.val_top1 for row in history) == 1


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


def test_crops_sound_as_if_they_were_of_other_albums(tmp_path):
    rng = np.random.default_rng(0)
    songs = LogMels(list(rng.normal(-40, 10, (len(SONGS), 20, 16)).astype(np.float16)))
    differences = AlbumDifferences(
        songs.spectra(16)[0], LABELS, np.array([f"album {i}" for i in range(len(SONGS))])
    )

    def crops(other_albums):
        recipe = {"n_mels": 16, "mixup_alpha": 0.0, "noise_probability": 0.0, "batch_size": 12}
        settings = toy_settings("resnet", other_albums=other_albums, **recipe)
        run = dataclasses.replace(make_run(tmp_path), settings=settings)
        (batch,) = stage.batches(songs, differences, 20, run, 1)
        return batch

    (plain, labels), (shifted, same_labels) = crops(False), crops(True)
    assert torch.equal(labels, same_labels)
    difference = shifted - plain  # of every frame the same
    torch.testing.assert_close(difference, difference[:, :1].expand_as(plain), rtol=0, atol=1e-3)
    assert (difference.abs().amax(dim=(1, 2)) > 0.1).all()


def test_the_strong_network_has_lda_of_the_training_songs(tmp_path, monkeypatch):
    def make(songs, name, n_frames=20, **more):
        run = dataclasses.replace(
            make_run(tmp_path),
            train=[SONGS[i % 2] for i in range(len(songs))],
            settings=toy_settings(name, n_mels=32, width=4, **more),
        )
        songs = LogMels(songs)
        _, mean, std = songs.spectra(32)
        return stage.make_model(songs, mean, std, n_frames, run)

    rng = np.random.default_rng(0)
    songs = rng.normal(-40, 10, (60, 1, 160)) + rng.normal(0, 5, (60, 20, 160))
    songs[::2, :, 3] += 20  # of class 0
    songs = songs.astype(np.float16)
    model = make(list(songs), "resnet_strong", lda_share=0.5, bins_per_band=4)
    x = torch.from_numpy(songs).float()
    statistics = model.statistics.standardize(model.statistics.of(x))
    assert model.standardize(x[..., :32]).mean(dim=(0, 1)).abs().max() < 1e-3
    assert statistics.mean(dim=0).abs().max() < 1e-3
    assert (statistics.std(dim=0, correction=0) - 1).abs().max() < 1e-3
    answers = model.statistics(x).argmax(dim=1)
    assert (answers == torch.arange(60) % 2).float().mean() > 0.95

    given = []
    monkeypatch.setattr(TimeStatistics, "fit", lambda _, *arguments: given.append(arguments))
    for most, n_rows in ((1000, 180), (179, 179), (60, 60)):  # of three windows of a song
        monkeypatch.setattr(stage, "LDA_WINDOWS", most)
        make(list(songs), "resnet_strong", 8, lda_share=0.5, bins_per_band=4)
        rows, labels, rows_per_song = given.pop()
        assert len(np.unique(rows, axis=0)) == n_rows
        assert rows_per_song == n_rows / 60
        # Each is one of the windows, with its song's label.
        windows = np.stack([song[start:][:8] for song in songs for start in (0, 6, 12)])
        expected = model.statistics.of(torch.from_numpy(windows).float()).numpy()
        distance = np.abs(rows[:, None, :32] - expected[None, :, :32]).max(axis=2)
        assert (labels == distance.argmin(axis=1) // 3 % 2).all()
        assert distance.min(axis=1).max() < 1e-3
    (tmp_path / "last.pt").touch()  # of a run that goes on: its weights are to be loaded
    make(list(songs), "resnet_strong", 8, lda_share=0.5, bins_per_band=4)
    assert not given
    monkeypatch.undo()
    (tmp_path / "last.pt").unlink()

    silence = [np.full((20, 160), -100, np.float16)] * 2
    silent = make(silence, "resnet_strong", lda_share=0.5, bins_per_band=4).eval()
    assert silent(torch.full((1, 20, 160), -100.0)).isfinite().all()
    assert make(silence, "resnet").statistics is None
