"""The one loop that both networks share: epochs, checkpoints, resuming, history."""

import argparse
import csv
import io
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from artist20 import UserError, distributed, evaluation, files, results, runtime

# What is kept of an epoch in the midst of it: the sums are over its steps so far.
NEW_EPOCH = {"step": 0, "examples": 0, "loss_sum": 0.0, "seconds": 0.0}
BEST, LAST = "best.pt", "last.pt"
ANEW = "the same command with --overwrite"
RESULTS = (
    *(BEST, LAST, "history.csv", "metrics.json"),
    *("val_predictions.json", "test_predictions.json", "test_scores.json"),
    *results.EMBEDDING_FILES,
)


def open_run(
    folder: Path, settings: dict[str, Any], script: str, resume: bool, overwrite: bool
) -> dict[str, Any] | None:
    """Look at what a results folder holds before a run begins.

    Parameters
    ----------
    folder : Path
        The run's folder.
    settings : dict
        Everything that the result depends on.
    script : str
        The training script's name, for messages.
    resume, overwrite : bool
        The script's options.

    Returns
    -------
    dict or None
        The metrics if the folder holds this very run, finished; else None.

    Raises
    ------
    UserError
        If the folder holds a run of other settings, or an unfinished one, and neither --resume nor
        --overwrite says what to do with it; if another process is writing to it, or if a finished
        run lacks a file that was written before its metrics.
    """
    metrics_file = folder / "metrics.json"
    if overwrite:
        discard(folder)
    elif metrics_file.is_file():
        metrics = results.read_metrics(metrics_file, f"{script} --overwrite")
        results.check_same_settings(metrics["settings"], settings, metrics_file)
        check_whole(folder, metrics, script)
        return metrics
    elif (folder / LAST).is_file():
        with files.only_writer(folder):  # or it is no unfinished run, but one that goes on
            pass
        last = read_last(folder, f"{script} --overwrite")
        results.check_same_settings(last["config"], settings, folder / LAST)
        if not resume:
            raise UserError(
                f"{folder / LAST} is of an unfinished run (epoch {last['epoch']} of "
                f"{settings['epochs']}): --resume continues it, --overwrite starts again"
            )
    return None


def check_whole(folder: Path, metrics: dict[str, Any], script: str) -> None:
    """Refuse a finished run of which later stages would find a file missing or damaged.

    Raises
    ------
    UserError
        With --overwrite, without which the script would find the run finished.
    """
    anew = f"{script} --overwrite"
    best = results.read_checkpoint(folder / BEST, anew)
    results.check_same_run(folder, best, metrics, script)
    results.read_predictions(folder / "val_predictions.json", anew)
    results.read_history(folder / "history.csv", anew)
    for path in (folder / name for name in results.EMBEDDING_FILES):
        if "embeddings" in metrics and not (
            path.is_file()
            and results.has_form(metrics["embeddings"], {path.name: files.sha256_file(path)})
        ):
            raise UserError(f"{path} is missing, or not of the run in metrics.json: run {anew}")


def check_patience(args: argparse.Namespace) -> None:
    """Refuse --patience where the songs that are scored may not decide anything.

    Raises
    ------
    UserError
        With --fold, whose songs are to be scored unseen, and with any recipe but the homework's.
    """
    if args.patience and (args.fold or args.recipe != "homework"):
        where = "--fold" if args.fold else f"--recipe {args.recipe}"
        raise UserError(f"--patience stops by the songs that are scored, which {where} may not do")


def discard(folder: Path) -> None:
    """Remove a run's results from its folder, unless another process is writing to it."""
    if folder.is_dir():
        with files.only_writer(folder):
            for name in RESULTS:
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | ReduceLROnPlateau,
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    score_val: Callable[[], np.ndarray],
    val_labels: np.ndarray,
    *,
    epochs: int,
    steps_per_epoch: int,
    label_smoothing: float,
    seed: int,
    precision: torch.dtype,
    folder: Path,
    identity: dict[str, Any],
    select: bool = True,
    patience: int | None = None,
    tensorboard: bool = False,
) -> list[dict[str, float]]:
    """Train a network, or go on from ``last.pt``.

    After every epoch ``last.pt`` holds all that the next one depends on, and ``best.pt`` the
    weights with the best top-1 on the validation songs so far (then top-3, then loss), or without
    ``select`` the epoch's own. Ctrl-C and SIGTERM end the step and write ``last.pt`` in the midst
    of the epoch; a second one stops at once. Everything random in a step is seeded by the seed, the
    epoch and the step, so that no generator's state is needed for a resumed run to equal an
    uninterrupted one.

    With several processes, each trains on its share of every batch, and gradients are averaged;
    the main process writes.

    Parameters
    ----------
    model : nn.Module
        The network, on its device. It may give several answers, (n_answers, batch, n_classes): each
        learns by itself.
    optimizer, scheduler
        A plateau scheduler is stepped with the validation loss, others once per epoch.
    batches : callable
        Epoch number from 1 -> batches of inputs and target probabilities, on the device; the same
        in every process.
    score_val : callable
        -> (n_songs, n_classes) probabilities of the validation songs.
    val_labels : np.ndarray
        (n_songs,) their classes.
    epochs, steps_per_epoch : int
        Length of the run; steps are for the progress bar.
    label_smoothing : float
        Share of every target that goes to all classes alike (Szegedy et al. 2016).
    seed : int
        See above.
    precision : torch.dtype
        What autocast computes products in; loss and logits are float32.
    folder : Path
        Where checkpoints and history go.
    identity : dict
        ``kind``, ``classes`` and ``config``: what rebuilds the network, and what it was trained on;
        kept in checkpoints, beside ``val_top1``, which is None in the midst of an epoch.
    select : bool
        Whether ``best.pt`` is chosen on the validation songs.
    patience : int, optional
        Stop when this many epochs in a row were no better than the best one.
    tensorboard : bool
        Also write the history as TensorBoard events, to ``folder/tensorboard``.

    Returns
    -------
    list of dict
        The history, one entry per epoch.

    Raises
    ------
    UserError
        If the loss is no longer finite, or CUDA out of memory. The last good checkpoint stays.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, when ``last.pt`` is written.
    """
    history: list[dict[str, float]] = []
    state = dict(NEW_EPOCH)
    if (folder / LAST).is_file():
        last = read_last(folder, ANEW)
        load_weights(model, last, folder / LAST, ANEW)
        try:
            optimizer.load_state_dict(last["optimizer"])
            scheduler.load_state_dict(last["scheduler"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{folder / LAST} is of another optimizer: run {ANEW}") from None
        history, state = last["history"], last["state"]
        within = f", step {state['step']} of {steps_per_epoch}" if state["step"] else ""
        print(f"going on after epoch {len(history)} of {epochs}{within}")
        if history and distributed.is_main():  # it may have been stopped before it was written
            _write_history(folder / "history.csv", history)

    def save() -> None:
        if distributed.is_main():
            files.write_checkpoint(
                folder / LAST,
                {
                    **identity,
                    "epoch": len(history),
                    "val_top1": None if state["step"] else history[-1]["val_top1"],
                    "state": state,
                    "model": _on_cpu(model),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "history": history,
                },
            )

    runner = distributed.distribute(model)
    with ExitStack() as stack:
        stopped = stack.enter_context(_stop_request())
        stack.enter_context(_told_if_memory_is_short(identity["config"]))
        if distributed.is_main():
            stack.enter_context(files.only_writer(folder))
            if tensorboard:
                events = stack.enter_context(_event_writer(folder, len(history)))
        bar = stack.enter_context(
            tqdm(
                desc="train",
                total=epochs * steps_per_epoch,
                initial=len(history) * steps_per_epoch + state["step"],
                disable=distributed.quiet(),
                unit="step",
            )
        )
        for epoch in range(len(history) + 1, epochs + 1):
            best_epoch = max(history, key=_rank, default={"epoch": 0})["epoch"]
            if patience and epoch - 1 - best_epoch >= patience:
                print(f"stopped early: none of {patience} epochs was better than {best_epoch}")
                break
            started = time.monotonic()
            lr = optimizer.param_groups[0]["lr"]
            # What an interrupted epoch has had is made once more, and passed over.
            rest = islice(batches(epoch), state["step"], None)
            train_epoch(
                runner,
                optimizer,
                rest,
                label_smoothing,
                lambda step, epoch=epoch: step_seed(seed, epoch, step, distributed.rank()),
                precision,
                state,
                stopped,
                bar,
            )
            state["seconds"] += time.monotonic() - started
            if distributed.any_of(bool(stopped)):
                # Also after the last step: validation may take longer than a scheduler waits.
                if not all(value.isfinite().all() for value in model.state_dict().values()):
                    raise UserError(_not_finite(epoch, folder))
                save()
                distributed.gather(None)  # no process leaves before it is written
                raise KeyboardInterrupt(*stopped)
            started = time.monotonic()
            train_loss = state["loss_sum"] / state["examples"]
            scores = score_val()
            val_loss = evaluation.log_loss(scores, val_labels)
            # The last step's harm shows in the validation loss alone.
            if not math.isfinite(train_loss + val_loss):
                raise UserError(_not_finite(epoch, folder))
            row = {
                "epoch": epoch,
                "lr": lr,
                "train_loss": train_loss,
                "val_loss": val_loss,
                "val_top1": evaluation.top_k_accuracy(scores, val_labels, 1),
                "val_top3": evaluation.top_k_accuracy(scores, val_labels, 3),
                "seconds": state["seconds"] + time.monotonic() - started,
            }
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(row["val_loss"])
            else:
                scheduler.step()
            before = max((_rank(earlier) for earlier in history), default=(-1.0,))
            better = not select or _rank(row) > before
            history.append(row)
            state = dict(NEW_EPOCH)
            if distributed.is_main():
                if better:
                    best = {
                        **identity,
                        "epoch": epoch,
                        "val_top1": row["val_top1"],
                        "model": _on_cpu(model),
                    }
                    files.write_checkpoint(folder / BEST, best)
                _write_history(folder / "history.csv", history)
                if tensorboard:
                    for name, value in row.items():
                        events.add_scalar(name, value, epoch)
                bar.set_postfix(loss=f"{train_loss:.3f}", top1=f"{row['val_top1']:.1%}")
                bar.write(
                    f"epoch {epoch:3}/{epochs}  lr {lr:.2e}  train loss {train_loss:.3f}  "
                    f"val loss {row['val_loss']:.3f}  top-1 {row['val_top1']:.1%}  "
                    f"top-3 {row['val_top3']:.1%}  {row['seconds']:.1f} s"
                )
            save()
            if distributed.any_of(bool(stopped)):
                distributed.gather(None)
                raise KeyboardInterrupt(*stopped)
    return history


def warmup_cosine(optimizer: Optimizer, warmup: int, epochs: int) -> LambdaLR:
    """Make a schedule: some epochs of linear growth, then half a cosine that ends near 0."""

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))

    return LambdaLR(optimizer, factor)


def _not_finite(epoch: int, folder: Path) -> str:
    return (
        f"the loss became nan or infinite in epoch {epoch}; {folder / LAST} is of before, if it "
        "is there: try a lower --lr with --overwrite"
    )


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix a seed and an epoch's number into one seed."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Mix a seed, where training is and the process's number into one seed."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0])


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Compute products in ``precision``; float32 is what everything is in without it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def predict(model: nn.Module, x: Tensor, precision: torch.dtype) -> np.ndarray:
    """Return class probabilities of a batch: (batch, n_classes) float32.

    Those of a network with several answers, (n_answers, batch, n_classes), are averaged.
    """
    probabilities = _apply(model, model, x, precision).softmax(dim=-1)
    if probabilities.dim() == 3:
        probabilities = probabilities.mean(dim=0)
    return probabilities.cpu().numpy()


def embed(model: nn.Module, x: Tensor, precision: torch.dtype) -> np.ndarray:
    """Return what the network's last layer is given of a batch: (batch, d) float32."""
    return _apply(model, model.embed, x, precision).cpu().numpy()


@torch.inference_mode()
def _apply(
    model: nn.Module, method: Callable[[Tensor], Tensor], x: Tensor, precision: torch.dtype
) -> Tensor:
    device = next(model.parameters()).device
    model.eval()
    with autocast(device, precision):
        result = method(x.to(device).float())
    return result.float()


def read_last(folder: Path, made_by: str) -> dict[str, Any]:
    """Read ``last.pt``: what :func:`fit` goes on from.

    Raises
    ------
    UserError
        If it is broken, or no such file.
    """
    last = results.read_checkpoint(folder / LAST, made_by)
    form = {
        "epoch": int,
        "model": dict,
        "optimizer": dict,
        "scheduler": dict,
        "state": {"step": int, "examples": int, "loss_sum": float, "seconds": float},
        "history": [dict.fromkeys(results.HISTORY, float)],
    }
    if not results.has_form(last, form) or last["epoch"] != len(last["history"]):
        raise UserError(f"{folder / LAST} is of no run that can go on: run {made_by}")
    return last


def load_weights(model: nn.Module, checkpoint: dict[str, Any], path: Path, made_by: str) -> None:
    """Load a checkpoint's weights into the network that it is of.

    Raises
    ------
    UserError
        If they do not fit it, or are not all finite.
    """
    weights = checkpoint.get("model")
    try:
        finite = all(bool(weight.isfinite().all()) for weight in weights.values())
        model.load_state_dict(weights)
    except (AttributeError, TypeError, RuntimeError):
        raise UserError(f"{path} does not fit the network: run {made_by}") from None
    if not finite:
        raise UserError(f"{path} holds weights that are NaN or infinite: run {made_by}")


def read_best(folder: Path, model: nn.Module) -> int:
    """Load the weights of ``best.pt`` into a network; return their epoch."""
    best = results.read_checkpoint(folder / BEST, ANEW)
    load_weights(model, best, folder / BEST, ANEW)
    return best["epoch"]


def finish(
    folder: Path,
    name: str,
    model: nn.Module,
    score_val: Callable[[], np.ndarray],
    songs: list[dict[str, str]],
    classes: list[str],
    labels: np.ndarray,
    metrics: dict[str, Any],
    select: bool = True,
    train_songs: list[dict[str, str]] | None = None,
    embed_songs: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """Score the validation songs with the last and the best epoch; write metrics and predictions.

    Where the best epoch was chosen on these very songs, as the homework did it, that flatters it;
    so the last epoch's figures stand beside it. The songs' embeddings, for their map, are the best
    epoch's; ``metrics.json`` is written last, so that whoever reads it finds all of them.

    Parameters
    ----------
    folder : Path
        The run's folder, with ``best.pt``.
    name : str
        The model's name in ``val_predictions.json``.
    model : nn.Module
        With the last epoch's weights; holds the best epoch's afterwards.
    score_val : callable
        -> (n_songs, n_classes) probabilities of the validation songs.
    songs : list of dict
        The validation songs' records.
    classes : list of str
        The artists.
    labels : np.ndarray
        (n_songs,) the songs' classes.
    metrics : dict
        Everything else that ``metrics.json`` is to hold.
    select : bool
        As in :func:`fit`.
    train_songs : list of dict, optional
        The training songs' records, where their embeddings are kept.
    embed_songs : callable, optional
        -> (n_songs, d) embeddings of the training songs, and those of the validation songs. A fold
        of cross-validation is not mapped, and has none.

    Returns
    -------
    dict
        The metrics.
    """
    last = score_val()
    epoch = read_best(folder, model)  # in every process; nobody writes it any more
    scores = {name: score_val(), f"{name}_last": last} if select else {name: last}
    embeddings = embed_songs() if embed_songs else None
    result = {
        model_name: {
            "top1": evaluation.top_k_accuracy(score, labels, 1),
            "top3": evaluation.top_k_accuracy(score, labels, 3),
        }
        for model_name, score in scores.items()
    }
    metrics = {
        **result[name],
        "epoch": epoch,
        "selected_on": "validation songs" if select else "nothing",
        "last": result[f"{name}_last" if select else name],
        **metrics,
    }
    if distributed.is_main():
        results.write_predictions(
            folder / "val_predictions.json", results.Predictions(classes, songs, scores)
        )
        if embeddings:
            metrics["embeddings"] = results.write_embeddings(folder, *embeddings, train_songs)
        files.write_json(folder / "metrics.json", metrics)
    return metrics


def pool_folds(folder: Path, name: str, script: str, songs: list[dict[str, str]]) -> None:
    """Put the folds of a cross-validation together, once all are there.

    Writes ``cv_predictions.json``: every training song, scored by a network that did not learn
    from its album. Of runs whose epoch was chosen on the songs held out, the last epoch's scores
    are taken: it was not chosen. (The homework's PANNs recipe still lowers its learning rate by
    their loss, as it does by the validation songs'.)

    Parameters
    ----------
    folder : Path
        The run's folder, which holds one per fold.
    name : str
        The model's name.
    script : str
        The training script's name, for messages.
    songs : list of dict
        All training songs' records.

    Raises
    ------
    UserError
        If the folds' runs are of different settings or songs.
    """
    settings, classes = [], []
    scores: dict[str, np.ndarray] = {}
    for fold in range(1, results.N_FOLDS + 1):
        metrics_file = folder / f"fold-{fold}" / "metrics.json"
        if not metrics_file.is_file():
            print(
                f"{metrics_file} is not there: run {script} --fold {fold}, too, to pool the folds"
            )
            return
        metrics = results.read_metrics(metrics_file, script)
        of_fold = metrics["settings"]
        settings.append(
            {
                **{key: value for key, value in of_fold.items() if key not in ("fold", "dataset")},
                # A hash over the songs learnt from, of which every fold has its own.
                "also_train_on": of_fold.get("also_train_on") is not None,
                # Of those learnt from and those held out together.
                "training_songs": metrics["dataset"]["fingerprint"],
            }
        )
        results.check_same_settings(settings[-1], settings[0], metrics_file)
        part = results.read_predictions(metrics_file.with_name("val_predictions.json"), script)
        of_songs = part.scores.get(f"{name}_last", part.scores.get(name))
        if of_songs is None:
            raise UserError(
                f"{metrics_file.with_name('val_predictions.json')} has no scores of {name}: run "
                f"{script} --fold {fold} --overwrite"
            )
        scores |= {song["path"]: row for song, row in zip(part.songs, of_songs, strict=True)}
        classes.append(part.classes)
    paths = [song["path"] for song in songs]
    if scores.keys() != set(paths) or any(names != classes[0] for names in classes):
        raise UserError(
            f"the folds in {folder} are of other songs than the training songs are now: run "
            f"{script} --overwrite for each"
        )
    pooled = results.Predictions(
        classes[0], songs, {name: np.array([scores[path] for path in paths])}
    )
    results.write_predictions(folder / "cv_predictions.json", pooled)
    top1, top3 = (evaluation.top_k_accuracy(pooled.scores[name], pooled.labels, k) for k in (1, 3))
    print(f"all {results.N_FOLDS} folds, {len(songs)} songs: top-1 {top1:.1%}, top-3 {top3:.1%}")


def summary_line(metrics: dict[str, Any]) -> str:
    """Say in one line what a run reached."""
    line = f"top-1 {metrics['top1']:.1%}, top-3 {metrics['top3']:.1%} in epoch {metrics['epoch']}"
    if metrics["selected_on"] == "nothing":
        return f"{line}, the last"
    return (
        f"{line}, chosen on these songs; last epoch: {metrics['last']['top1']:.1%}, "
        f"{metrics['last']['top3']:.1%}"
    )


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    label_smoothing: float,
    seed_of: Callable[[int], int],
    precision: torch.dtype,
    state: dict[str, Any],
    stopped: list[Any],
    bar: tqdm,
) -> None:
    """Train on an epoch's batches, until there are no more or a signal came; keep count in state.

    ``state`` has the steps done, the examples in them and the sum of their losses.
    """
    device = next(model.parameters()).device
    model.train()
    # Summed where it arises: to ask a GPU for a number in every step would make it wait.
    loss_sum = torch.tensor(state["loss_sum"] if distributed.is_main() else 0.0, device=device)
    for x, targets in batches:
        torch.manual_seed(seed_of(state["step"]))
        n_examples = len(x)
        if distributed.world_size() > 1:
            mine = distributed.share(n_examples).to(device)
            x, targets = x[mine], targets[mine]
        with autocast(device, precision):
            logits = model(x).float()
        n_answers = len(logits) if logits.dim() == 3 else 1  # every one is to be right by itself
        targets = targets.expand(logits.shape).reshape(-1, logits.shape[-1])
        loss = F.cross_entropy(
            logits.reshape(targets.shape), targets, reduction="sum", label_smoothing=label_smoothing
        )
        loss = loss / (n_answers * n_examples)
        optimizer.zero_grad(set_to_none=True)
        # Averaged over the processes: the sum of their parts of the mean is wanted.
        (loss * distributed.world_size()).backward()
        optimizer.step()
        loss_sum += loss.detach() * n_examples
        state["step"] += 1
        state["examples"] += n_examples
        bar.update()
        if distributed.any_of(bool(stopped)):
            break
    state["loss_sum"] = float(distributed.total(loss_sum))


@contextmanager
def _stop_request() -> Iterator[list[Any]]:
    """Note Ctrl-C and SIGTERM in the list instead of raising; the second one raises at once.

    The list is what the KeyboardInterrupt is to be made with, once all is saved.
    """
    stopped: list[Any] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def note(number: int, _frame: object) -> None:
        if stopped:
            raise KeyboardInterrupt(*stopped)
        stopped.append(signal.Signals(number))
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_if_memory_is_short(config: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        size = config["batch_size"]
        smaller = f"--batch-size {size // 2}" if size > 1 else "a smaller --crop-seconds"
        raise UserError(
            f"{runtime.out_of_cuda_memory(error)} in batches of {size}: try {smaller}, with "
            "--overwrite if there are epochs already"
        ) from None


@contextmanager
def _event_writer(folder: Path, epochs_done: int) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard", purge_step=epochs_done + 1) as writer:
        yield writer


def _rank(row: dict[str, float]) -> tuple[float, ...]:
    return row["val_top1"], row["val_top3"], -row["val_loss"]


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in model.state_dict().items()}


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    with files.atomic_path(path) as temporary:
        temporary.write_text(text.getvalue())
