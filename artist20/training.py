"""The loop that both networks share: epochs, the best one, checkpoints, Ctrl-C, resuming."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from artist20 import (
    UserError,
    checkpoints,
    distributed,
    evaluation,
    files,
    results,
    runtime,
    spectrogram,
)
from artist20.checkpoints import EpochProgress, EpochRow, TrainedModel, TrainingState
from artist20.experiment import AGAIN, BEST, LAST, TrainingRun
from artist20.models import LONG, ArtistResNet
from artist20.results import Accuracy, NetworkMetrics, Predictions
from artist20.spectrogram import LogMels, to_seconds

SAVE_SECONDS = 10.0  # between checkpoints, where epochs are shorter
Batches = Iterable[tuple[Tensor, Tensor]]


class Trainer:
    """Train a network, or go on from ``last.pt``.

    After every epoch, or every :data:`SAVE_SECONDS` where epochs are shorter, ``last.pt`` holds all
    that the next one depends on, and ``best.pt`` the weights with the best top-1 on the validation
    songs so far (then top-3, then loss); if the recipe does not select an epoch, it holds the
    latest one. Ctrl-C and SIGTERM end the step and write both in the midst of the epoch; a second
    one stops at once. Everything random in a step is seeded by the seed, the epoch and the step, so
    that no generator's state is needed for a resumed run to equal an uninterrupted one.

    With several processes, each trains on its share of every batch, and gradients are averaged;
    the main process writes.

    Parameters
    ----------
    run : TrainingRun
        Settings, folder, songs.
    model : nn.Module
        The network, on its device.
    optimizer, schedule
        A plateau scheduler is stepped with the validation loss, others once per epoch.
    score : callable
        -> (n_songs, n_classes) probabilities of the validation songs.
    steps_per_epoch : int
        For the progress bar.
    precision : torch.dtype
        What products are computed in.
    label_smoothing : float
        Share of every target that goes to all classes alike (Szegedy et al. 2016).
    window_frames : int, optional
        Length of a ResNet's windows, which its checkpoints carry.
    """

    def __init__(
        self,
        run: TrainingRun,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler | ReduceLROnPlateau,
        score: Callable[[], np.ndarray],
        *,
        steps_per_epoch: int,
        precision: torch.dtype = torch.float32,
        label_smoothing: float = 0.0,
        window_frames: int | None = None,
    ) -> None:
        self.run = run
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.score = score
        self.precision = precision
        self.steps_per_epoch = steps_per_epoch
        self.label_smoothing = label_smoothing
        self.described = run.describe(window_frames)
        self.recipe = run.settings.recipe
        self.history: list[EpochRow] = []
        self.progress = EpochProgress()
        self._best: TrainedModel | None = None  # not written yet
        self._saved_at, self._saved_epochs = time.monotonic(), 0
        self._stopped: list[signal.Signals] = []

    def fit(self, batches: Callable[[int], Batches]) -> None:
        """Train all epochs that are left.

        Parameters
        ----------
        batches : callable
            Epoch number from 1 -> batches of inputs and target probabilities, on the device; the
            same in every process.

        Raises
        ------
        UserError
            If the loss is no longer finite, or CUDA out of memory in a step. The last checkpoint
            stays.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, when ``last.pt`` is written.
        """
        args, folder = self.run.experiment.args, self.run.folder
        epochs = self.recipe.epochs
        if (folder / LAST).is_file():
            self._resume()
        network = distributed.distribute(self.model)
        with ExitStack() as stack:
            self._stopped = stack.enter_context(_stop_request())
            events = None
            if distributed.is_main():
                stack.enter_context(files.only_writer(folder))
                if args.tensorboard:
                    events = stack.enter_context(_event_writer(folder, len(self.history)))
            bar = stack.enter_context(
                tqdm(
                    desc="train",
                    total=epochs * self.steps_per_epoch,
                    initial=len(self.history) * self.steps_per_epoch + self.progress.step,
                    disable=distributed.quiet(),
                    unit="step",
                )
            )
            for epoch in range(len(self.history) + 1, epochs + 1):
                best_epoch = max(self.history, key=_rank).epoch if self.history else 0
                if args.patience and epoch - 1 - best_epoch >= args.patience:
                    print(
                        f"stopped early: none of {args.patience} epochs was better than "
                        f"{best_epoch}"
                    )
                    break
                lr = self.optimizer.param_groups[0]["lr"]
                with _one_line_if_a_step_fails(self.recipe.batch_size):
                    self._train_epoch(network, batches(epoch), epoch, bar)
                self._save_and_stop_if_asked()
                row = self._validate(epoch, lr)
                if events:
                    for name, value in msgspec.structs.asdict(row).items():
                        events.add_scalar(name, value, epoch)
                if distributed.is_main():
                    bar.set_postfix(loss=f"{row.train_loss:.3f}", top1=f"{row.val_top1:.1%}")
                    bar.write(
                        f"epoch {epoch:3}/{epochs}  lr {lr:.2e}  train loss {row.train_loss:.3f}  "
                        f"val loss {row.val_loss:.3f}  top-1 {row.val_top1:.1%}  "
                        f"top-3 {row.val_top3:.1%}  {row.seconds:.1f} s"
                    )
                self._save_and_stop_if_asked()
                if time.monotonic() - self._saved_at >= SAVE_SECONDS:
                    self._save()
            if len(self.history) > self._saved_epochs:
                self._save()
            self._save_and_stop_if_asked()

    def fit_at_once(self, solve: Callable[[], float]) -> None:
        """Set the weights in one go, which is the run's only epoch.

        Parameters
        ----------
        solve : callable
            Sets the network's weights -> the training songs' mean loss.
        """
        folder = self.run.folder
        if (folder / LAST).is_file():
            self._resume()
        if self.history:
            return
        with ExitStack() as stack:
            if distributed.is_main():
                stack.enter_context(files.only_writer(folder))
            started, n = time.monotonic(), len(self.run.train)
            loss = _number(solve(), 1, folder)
            self.optimizer.step()  # changes nothing, but schedules want it before theirs
            seconds = time.monotonic() - started
            self.progress = EpochProgress(step=1, examples=n, loss_sum=loss * n, seconds=seconds)
            self._validate(1, lr=0.0)
            self._save()

    def finish(
        self, embed: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    ) -> NetworkMetrics:
        """Score the validation songs with the last and the best epoch; write all that is left.

        Where the best epoch was chosen on these very songs, as the homework did it, that flatters
        it; so the last epoch's figures stand beside it. ``metrics.json`` is written last, so that
        whoever reads it finds all other files.

        Parameters
        ----------
        embed : callable, optional
            -> (n_songs, d) embeddings of the training songs, and those of the validation songs, by
            the best epoch, for their map. Folds are not mapped, and have none.
        """
        with ExitStack() as stack:
            if distributed.is_main():
                stack.enter_context(files.only_writer(self.run.folder))
            return self._finish(embed)

    def _finish(self, embed: Callable[[], tuple[np.ndarray, np.ndarray]] | None) -> NetworkMetrics:
        run, experiment = self.run, self.run.experiment
        of_last = self.score()
        best = checkpoints.load_model(run.folder / BEST, TrainedModel, AGAIN)
        if best.settings != run.settings:
            raise UserError(f"{run.folder / BEST} is of another run meanwhile: run {AGAIN}")
        load_weights(self.model, best, run.folder / BEST, AGAIN)
        name = experiment.name
        scores = {name: of_last}
        if self.recipe.select:
            scores = {name: self.score(), f"{name}_last": of_last}
        embeddings = embed() if embed else None
        reached = evaluation.accuracy(scores[name], run.val_labels)
        last = evaluation.accuracy(of_last, run.val_labels)
        train_loss = self.history[-1].train_loss
        learning = evaluation.learning(train_loss, scores[name], run.val_labels, run.classes)

        def write() -> NetworkMetrics:
            finished = msgspec.structs.replace(best, learning=learning)
            checkpoints.save_model(run.folder / BEST, finished)
            results.write_record(
                run.folder / "val_predictions.json",
                Predictions(
                    classes=run.classes, songs=[song.record for song in run.val], scores=scores
                ),
            )
            hashes = None
            if embeddings:
                train_songs = [song.record for song in run.train]
                hashes = checkpoints.write_embeddings(run.folder, *embeddings, train_songs)
            frames = self.described.window_frames
            metrics = NetworkMetrics(
                model=name,
                top1=reached.top1,
                top3=reached.top3,
                epoch=best.epoch,
                last=Accuracy(top1=last.top1, top3=last.top3),
                learning=learning,
                parameters=sum(parameter.numel() for parameter in self.model.parameters()),
                window_seconds=round(to_seconds(frames), 3) if frames else None,
                epochs_seconds=round(sum(row.seconds for row in self.history), 1),
                settings=run.settings,
                dataset=run.dataset,
                audio_root=experiment.args.audio_root and str(experiment.args.audio_root),
                embeddings=hashes,
                provenance=runtime.provenance(
                    experiment.args, runtime.device_name(experiment.device), experiment.started
                ),
            )
            results.write_record(run.folder / "metrics.json", metrics)
            return metrics

        return distributed.on_main(write)

    def _resume(self) -> None:
        """Take weights, optimizer, schedule and history from ``last.pt``."""
        path = self.run.folder / LAST
        last = checkpoints.load_model(path, TrainingState, AGAIN)
        load_weights(self.model, last, path, AGAIN)
        try:
            self.optimizer.load_state_dict(last.optimizer)
            self.schedule.load_state_dict(last.scheduler)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{path} is of another optimizer: run {AGAIN}") from None
        self.history, self.progress = last.history, last.progress
        self._saved_epochs = len(self.history)
        step = self.progress.step
        within = f", step {step} of {self.steps_per_epoch}" if step else ""
        print(f"going on after epoch {len(self.history)} of {self.recipe.epochs}{within}")
        if self.history and distributed.is_main():  # it may have been stopped before it was written
            checkpoints.write_history(self.run.folder / "history.csv", self.history)

    def _train_epoch(
        self, network: nn.Module, batches: Batches, epoch: int, bar: "tqdm[Any]"
    ) -> None:
        """Train on an epoch's batches, until there are no more or a signal came."""
        started = time.monotonic()
        settings, before = self.run.settings, self.progress
        device = self.run.experiment.device
        network.train()
        step, examples = before.step, before.examples
        # Summed where it arises: to ask a GPU for a number in every step would make it wait. In
        # float64, or an epoch that is interrupted would give another sum in its last digits.
        done = before.loss_sum if distributed.is_main() else 0.0
        loss_sum = torch.tensor(done, dtype=torch.float64, device=device)
        # What an interrupted epoch has had is made once more, and passed over.
        for x, targets in islice(batches, step, None):
            runtime.seed_device(device, step_seed(settings.seed, epoch, step, distributed.rank()))
            n_examples = len(x)
            if distributed.world_size() > 1:
                mine = runtime.to_device(distributed.share(n_examples), device)
                x, targets = x[mine], targets[mine]
            with autocast(device, self.precision):
                logits = network(x).float()
            summed_loss = F.cross_entropy(
                logits, targets, reduction="sum", label_smoothing=self.label_smoothing
            )
            self.optimizer.zero_grad(set_to_none=True)
            # Averaged over the processes: the sum of their parts of the mean is wanted.
            (summed_loss / n_examples * distributed.world_size()).backward()
            self.optimizer.step()
            loss_sum += summed_loss.detach()
            step += 1
            examples += n_examples
            bar.update()
            if distributed.any_of(bool(self._stopped)):
                break
        self.progress = EpochProgress(
            step=step,
            examples=examples,
            loss_sum=_number(distributed.total(loss_sum), epoch, self.run.folder),
            seconds=before.seconds + time.monotonic() - started,
        )

    def _save_and_stop_if_asked(self) -> None:
        """After a signal, save where training is and stop.

        Also between an epoch's last step and its validation, which may take longer than a job
        scheduler waits before it kills the process.
        """
        if not distributed.any_of(bool(self._stopped)):
            return
        if not all(value.isfinite().all() for value in self.model.state_dict().values()):
            raise UserError(_not_finite(len(self.history) + 1, self.run.folder))
        self._save()
        distributed.gather(None)  # no process leaves before it is written
        raise KeyboardInterrupt(*self._stopped)

    def _validate(self, epoch: int, lr: float) -> EpochRow:
        """Score the validation songs, step the schedule, write ``history.csv``."""
        started = time.monotonic()
        folder, labels = self.run.folder, self.run.val_labels
        scores = self.score()
        # The last step's harm shows in the validation loss alone.
        val_loss = evaluation.log_loss(scores, labels)
        row = EpochRow(
            epoch=epoch,
            lr=lr,
            train_loss=self.progress.loss_sum / self.progress.examples,
            val_loss=_number(val_loss, epoch, folder),
            val_top1=evaluation.top_k_accuracy(scores, labels, 1),
            val_top3=evaluation.top_k_accuracy(scores, labels, 3),
            seconds=self.progress.seconds + time.monotonic() - started,
        )
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(row.val_loss)
        else:
            self.schedule.step()
        keep = not self.recipe.select or all(_rank(row) > _rank(of) for of in self.history)
        self.history.append(row)
        self.progress = EpochProgress()
        if distributed.is_main():
            if keep:
                weights = {name: value.clone() for name, value in _on_cpu(self.model).items()}
                self._best = msgspec.structs.replace(
                    self.described, epoch=epoch, val_top1=row.val_top1, weights=weights
                )
            checkpoints.write_history(folder / "history.csv", self.history)
        return row

    def _save(self) -> None:
        """Write ``best.pt``, then ``last.pt``: who goes on from an older one makes both again."""
        if not distributed.is_main():
            return
        folder = self.run.folder
        if self._best:
            checkpoints.save_model(folder / BEST, self._best)
            self._best = None
        described = {
            **msgspec.structs.asdict(self.described),
            "epoch": len(self.history),
            "val_top1": None if self.progress.step else self.history[-1].val_top1,
            "weights": _on_cpu(self.model),
        }
        checkpoints.save_model(
            folder / LAST,
            TrainingState(
                **described,
                optimizer=self.optimizer.state_dict(),
                scheduler=self.schedule.state_dict(),
                progress=self.progress,
                history=self.history,
            ),
        )
        self._saved_at, self._saved_epochs = time.monotonic(), len(self.history)


def warmup_cosine(optimizer: Optimizer, warmup: int, epochs: int) -> LambdaLR:
    """Make a schedule: some epochs of linear growth, then half a cosine that ends near 0."""

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))

    return LambdaLR(optimizer, factor)


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
    """Return class probabilities of a batch: (batch, n_classes) float32."""
    return _apply(model, model, x, precision).softmax(dim=-1).cpu().numpy()


def predict_songs(
    model: ArtistResNet, songs: LogMels, n_frames: int, precision: torch.dtype
) -> np.ndarray:
    """Return class probabilities of songs, from windows over all of each: (n_songs, n_classes)."""
    answers = spectrogram.per_song(partial(predict, model, precision=precision), songs, n_frames)
    if model.long_statistics is None:
        return answers
    of_long = partial(predict, model.long_statistics, precision=precision)
    long_answers = spectrogram.per_song(of_long, songs, LONG * n_frames)
    return answers + model.long_lda_share * (long_answers - answers)


def embed(model: nn.Module, x: Tensor, precision: torch.dtype) -> np.ndarray:
    """Return penultimate-layer embeddings of a batch: (batch, d) float32."""
    return _apply(model, model.embed, x, precision).cpu().numpy()  # type: ignore[arg-type]


@torch.inference_mode()
def _apply(
    model: nn.Module, method: Callable[[Tensor], Tensor], x: Tensor, precision: torch.dtype
) -> Tensor:
    device = next(model.parameters()).device
    model.eval()
    with autocast(device, precision):
        result = method(x.to(device).float())
    return result.float()


def load_weights(model: nn.Module, trained: TrainedModel, path: Path, made_by: str) -> None:
    """Load a checkpoint's weights into the network that it is of.

    Raises
    ------
    UserError
        If they do not fit it, or are not all finite.
    """
    try:
        finite = all(bool(weight.isfinite().all()) for weight in trained.weights.values())
        model.load_state_dict(trained.weights)
    except (AttributeError, TypeError, RuntimeError):
        raise UserError(f"{path} does not fit the network: run {made_by}") from None
    if not finite:
        raise UserError(f"{path} holds weights that are NaN or infinite: run {made_by}")


@contextmanager
def _stop_request() -> Iterator[list[signal.Signals]]:
    """Note Ctrl-C and SIGTERM in the list instead of raising; the second one raises at once.

    The list is what the KeyboardInterrupt is to be made with, once all is saved.
    """
    stopped: list[signal.Signals] = []
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
def _one_line_if_a_step_fails(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = (
            f"--batch-size {batch_size // 2}" if batch_size > 1 else "a smaller --crop-seconds"
        )
        raise UserError(
            f"{runtime.out_of_cuda_memory(error)} in batches of {batch_size}: try {smaller}, with "
            "--overwrite if there are epochs already"
        ) from None
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = files.first_line(error)
        raise UserError(f"--compile failed ({reason}): leave it out") from None


@contextmanager
def _event_writer(folder: Path, epochs_done: int) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder / "tensorboard", purge_step=epochs_done + 1) as writer:
        yield writer


def _rank(row: EpochRow) -> tuple[float, ...]:
    return row.val_top1, row.val_top3, -row.val_loss


def _on_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in model.state_dict().items()}


def _number(value: Tensor | float, epoch: int, folder: Path) -> float:
    """Return a loss as a number; one that is not finite ends the training."""
    if not math.isfinite(float(value)):
        raise UserError(_not_finite(epoch, folder))
    return float(value)


def _not_finite(epoch: int, folder: Path) -> str:
    return (
        f"the loss became nan or infinite in epoch {epoch}; {folder / LAST} is of before, if it "
        "is there: try a lower --lr with --overwrite"
    )
