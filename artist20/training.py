"""The one loop that both networks share: epochs, checkpoints, resuming, history."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from artist20 import UserError, artifacts, evaluation

BEST, LAST = "best.pt", "last.pt"
RESULTS = (
    *(BEST, LAST, "history.csv", "metrics.json"),
    *("val_predictions.json", "test_predictions.json"),
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
        --overwrite says what to do with it.
    """
    metrics_file = folder / "metrics.json"
    if overwrite and folder.is_dir():
        with artifacts.only_writer(folder):
            for name in RESULTS:
                (folder / name).unlink(missing_ok=True)
    elif metrics_file.is_file():
        metrics = artifacts.read_metrics(metrics_file, f"{script} --overwrite")
        artifacts.check_same_settings(metrics["settings"], settings, metrics_file)
        return metrics
    elif (folder / LAST).is_file():
        last = artifacts.read_checkpoint(folder / LAST, script)
        artifacts.check_same_settings(last["config"], settings, folder / LAST)
        if not resume:
            raise UserError(
                f"{folder / LAST} is of an unfinished run (epoch {last['epoch']} of "
                f"{settings['epochs']}): --resume continues it, --overwrite starts again"
            )
    return None


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
    folder: Path,
    identity: dict[str, Any],
) -> list[dict[str, float]]:
    """Train a network, or go on from ``last.pt``.

    After every epoch ``last.pt`` holds all that the next one depends on, and ``best.pt`` the
    weights with the best top-1 on the validation songs so far (then top-3, then loss). Everything
    random in an epoch is seeded by the seed and the epoch's number, so that a resumed run equals
    an uninterrupted one.

    Parameters
    ----------
    model : nn.Module
        The network, on its device.
    optimizer, scheduler
        A plateau scheduler is stepped with the validation loss, others once per epoch.
    batches : callable
        Epoch number from 1 -> batches of inputs and target probabilities, on the device.
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
    folder : Path
        Where checkpoints and history go.
    identity : dict
        ``kind``, ``classes`` and ``config``: what rebuilds the network, kept in checkpoints.

    Returns
    -------
    list of dict
        The history, one entry per epoch.

    Raises
    ------
    UserError
        If the loss is no longer finite. The last good epoch's checkpoint stays.
    """
    history: list[dict[str, float]] = []
    if (folder / LAST).is_file():
        last = artifacts.read_checkpoint(folder / LAST, "training")
        model.load_state_dict(last["model"])
        optimizer.load_state_dict(last["optimizer"])
        scheduler.load_state_dict(last["scheduler"])
        history = last["history"]
        print(f"going on after epoch {len(history)} of {epochs}")

    total = epochs * steps_per_epoch
    done = len(history) * steps_per_epoch
    with (
        artifacts.only_writer(folder),
        tqdm(desc="train", total=total, initial=done, disable=None, unit="step") as progress,
    ):
        for epoch in range(len(history) + 1, epochs + 1):
            started = time.monotonic()
            torch.manual_seed(epoch_seed(seed, epoch))
            lr = optimizer.param_groups[0]["lr"]
            train_loss = _train_epoch(model, optimizer, batches(epoch), label_smoothing, progress)
            scores = score_val()
            val_loss = evaluation.log_loss(scores, val_labels)
            # The last step's harm shows in the validation loss alone.
            if not math.isfinite(train_loss + val_loss):
                raise UserError(
                    f"the loss became {train_loss + val_loss} in epoch {epoch}; {folder / LAST} "
                    f"holds the epoch before, if any: try a lower --lr with --overwrite"
                )
            row = {
                "epoch": epoch,
                "lr": lr,
                "train_loss": train_loss,
                "val_loss": val_loss,
                "val_top1": evaluation.top_k_accuracy(scores, val_labels, 1),
                "val_top3": evaluation.top_k_accuracy(scores, val_labels, 3),
                "seconds": time.monotonic() - started,
            }
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(row["val_loss"])
            else:
                scheduler.step()
            if _rank(row) > max((_rank(earlier) for earlier in history), default=(-1.0,)):
                best = {**identity, "epoch": epoch, "model": _on_cpu(model)}
                artifacts.write_checkpoint(folder / BEST, best)
            history.append(row)
            artifacts.write_checkpoint(
                folder / LAST,
                {
                    **identity,
                    "epoch": epoch,
                    "model": _on_cpu(model),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "history": history,
                },
            )
            _write_history(folder / "history.csv", history)
            progress.set_postfix(loss=f"{train_loss:.3f}", top1=f"{row['val_top1']:.1%}")
            progress.write(
                f"epoch {epoch:3}/{epochs}  lr {lr:.2e}  train loss {train_loss:.3f}  "
                f"val loss {row['val_loss']:.3f}  top-1 {row['val_top1']:.1%}  "
                f"top-3 {row['val_top3']:.1%}  {row['seconds']:.1f} s"
            )
    return history


def epoch_seed(seed: int, epoch: int) -> int:
    """Mix a seed and an epoch's number into one seed."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where that is safe and faster: on CUDA GPUs."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor) -> np.ndarray:
    """Return class probabilities of a batch: (batch, n_classes) float32."""
    device = next(model.parameters()).device
    model.eval()
    with autocast(device):
        logits = model(x.to(device).float())
    return logits.float().softmax(dim=1).cpu().numpy()


def read_best(folder: Path, model: nn.Module) -> int:
    """Load the weights of ``best.pt`` into a network; return their epoch."""
    best = artifacts.read_checkpoint(folder / BEST, "training")
    model.load_state_dict(best["model"])
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
) -> dict[str, Any]:
    """Score the validation songs with the last and the best epoch; write metrics and predictions.

    The best epoch was chosen on these very songs, as the homework did it, which flatters it; so
    the last epoch's figures stand beside it.

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

    Returns
    -------
    dict
        The metrics.
    """
    scores = {f"{name}_last": score_val()}
    epoch = read_best(folder, model)
    scores = {name: score_val(), **scores}
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
        "selected_on": "validation songs",
        "last": result[f"{name}_last"],
        **metrics,
    }
    artifacts.write_predictions(
        folder / "val_predictions.json", artifacts.Predictions(classes, songs, scores)
    )
    artifacts.write_json(folder / "metrics.json", metrics)
    return metrics


def summary_line(metrics: dict[str, Any]) -> str:
    """Say in one line what a run reached."""
    return (
        f"top-1 {metrics['top1']:.1%}, top-3 {metrics['top3']:.1%} in epoch {metrics['epoch']}, "
        f"chosen on these validation songs; last epoch: {metrics['last']['top1']:.1%}, "
        f"{metrics['last']['top3']:.1%}"
    )


def _train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    label_smoothing: float,
    progress: tqdm,
) -> float:
    """Train on all batches; return the mean loss per example."""
    device = next(model.parameters()).device
    model.train()
    total, n_examples = torch.zeros((), device=device), 0
    for x, targets in batches:
        with autocast(device):
            logits = model(x)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
        n_examples += len(x)
        progress.update()
    return float(total) / n_examples


def _rank(row: dict[str, float]) -> tuple[float, ...]:
    return row["val_top1"], row["val_top3"], -row["val_loss"]


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in model.state_dict().items()}


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text(text.getvalue())
