"""The loop that both networks share: epochs, the best one, checkpoints, Ctrl-C, resuming."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
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

from artist20 import UserError, checkpoints, distributed, evaluation, files, results, runtime
from artist20.checkpoints import EpochProgress, EpochRow, TrainedModel, TrainingState
from artist20.evaluation import Scores
from artist20.experiment import AGAIN, BEST, EVENTS, LAST, TrainingRun, discard
from artist20.models import LONG, ArtistResNet
from artist20.naming import CONVOLUTIONS
from artist20.results import NetworkMetrics, Predictions
from artist20.spectrogram import LogMels, per_song, to_seconds

SAVE_SECONDS = 10.0  # between checkpoints, where epochs are shorter
# What is said of a run that was stopped.
TO_RESUME = (
    "--resume, in place of --overwrite, goes on from what was saved; --overwrite saves nothing "
    "before its first epoch is done"
)
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(eq=False)
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
    """

    run: TrainingRun
    model: nn.Module  # on its device
    optimizer: Optimizer
    # One of plateaus is stepped with the validation loss, others once per epoch.
    schedule: LRScheduler | ReduceLROnPlateau
    score: Callable[[], Scores]  # of the validation songs
    _: KW_ONLY
    steps_per_epoch: int  # for the progress bar
    precision: torch.dtype = torch.float32  # what products are computed in
    # Share of every target that goes to all classes alike (Szegedy et al. 2016).
    label_smoothing: float = 0.0
    window_frames: int | None = None  # of a ResNet's windows, which its checkpoints carry

    def __post_init__(self) -> None:
        """Begin before the first epoch."""
        self.recipe = self.run.settings.recipe
        self.described = self.run.describe(self.window_frames)
        self.history: list[EpochRow] = []
        self.progress = EpochProgress()
        self._best: TrainedModel | None = None  # not written yet
        self._saved_at, self._saved_epochs = time.monotonic(), 0
        self._stopped: list[signal.Signals] = []
        self._replaces = self.run.replaces

    def fit(self, batches: Callable[[int], Batches]) -> None:
        """Train all epochs that are left.

        ``batches`` takes an epoch's number, from 1, and gives inputs and target probabilities, on
        the device; the same in every process.

        Raises
        ------
        UserError
            If the loss is no longer finite, or CUDA out of memory in a step. The last checkpoint
            stays.
        KeyboardInterrupt
            After Ctrl-C or SIGTERM, when ``last.pt`` is written, or the run that was to be replaced
            is kept.
        """
        epochs, patience = self.recipe.epochs, self.run.settings.patience
        self._resume()
        network = distributed.distribute(self.model)
        with (
            _stop_request() as self._stopped,
            self._only_writer(),
            self._event_writer() as events,
            tqdm(
                desc="train",
                total=epochs * self.steps_per_epoch,
                initial=len(self.history) * self.steps_per_epoch + self.progress.step,
                disable=distributed.quiet(),
                unit="step",
            ) as bar,
        ):
            for epoch in range(len(self.history) + 1, epochs + 1):
                best_epoch = max(self.history, key=_rank).epoch if self.history else 0
                if patience and epoch - 1 - best_epoch >= patience:
                    print(f"stopped early: none of {patience} epochs was better than {best_epoch}")
                    break
                lr = self.optimizer.param_groups[0]["lr"]
                with _one_line_if_a_step_fails(self.recipe.batch_size):
                    self._train_epoch(network, batches(epoch), bar)
                self._save_and_stop_if_asked()
                row = self._validate(lr)
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

        ``solve`` sets them, and returns the training songs' mean loss.
        """
        self._resume()
        if self.history:
            return
        with self._only_writer():
            started, n = time.monotonic(), len(self.run.train)
            loss = float(solve())
            self._check_finite(loss)
            self.optimizer.step()  # changes nothing, but schedules want it before theirs
            seconds = time.monotonic() - started
            self.progress = EpochProgress(step=1, examples=n, loss_sum=loss * n, seconds=seconds)
            self._validate(lr=0.0)
            self._save()

    def finish(
        self, embed: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    ) -> NetworkMetrics:
        """Score the validation songs with the last and the best epoch; write all that is left.

        Where the best epoch was chosen on these very songs, as the homework did it, that flatters
        it; so the last epoch's figures stand beside it. ``embed`` gives (n_songs, d) embeddings of
        the training songs, and of the validation songs, for their map: folds have none.
        """
        path = self.run.folder / BEST
        with self._only_writer():
            of_last = self.score()
            best = checkpoints.load_model(path, TrainedModel, AGAIN)
            kept = max(self.history, key=_rank) if self.recipe.select else self.history[-1]
            if (best.settings, best.epoch) != (self.run.settings, kept.epoch):
                raise UserError(f"{path} is of another run meanwhile: run {AGAIN}")
            load_weights(self.model, best, path, AGAIN)
            of_best = self.score() if self.recipe.select else of_last
            embeddings = embed() if embed and not self.run.settings.fold else None
            return distributed.on_main(lambda: self._write(best, of_best, of_last, embeddings))

    def _write(
        self,
        best: TrainedModel,
        of_best: Scores,
        of_last: Scores,
        embeddings: tuple[np.ndarray, np.ndarray] | None,
    ) -> NetworkMetrics:
        """Write a finished run; ``metrics.json`` last: whoever reads it finds all other files."""
        run, experiment, folder = self.run, self.run.experiment, self.run.folder
        train_songs, val_songs = ([song.record for song in of] for of in (run.train, run.val))
        train_loss = self.history[-1].train_loss
        learning = evaluation.learning(train_loss, of_best[""], run.val_labels, run.classes)
        checkpoints.save_model(folder / BEST, msgspec.structs.replace(best, learning=learning))
        scores = {experiment.name + part: of_part for part, of_part in of_best.items()}
        if self.recipe.select:
            scores |= {f"{experiment.name}{part}_last": of_last[part] for part in of_last}
        predictions = Predictions(classes=run.classes, songs=val_songs, scores=scores)
        results.write_record(folder / "val_predictions.json", predictions)
        hashes = embeddings and checkpoints.write_embeddings(folder, *embeddings, train_songs)
        metrics = NetworkMetrics(
            **msgspec.structs.asdict(evaluation.accuracy(of_best[""], run.val_labels)),
            model=experiment.name,
            epoch=best.epoch,
            last=evaluation.accuracy(of_last[""], run.val_labels),
            parts={
                part: evaluation.accuracy(of_part, run.val_labels)
                for part, of_part in of_best.items()
                if part
            },
            learning=learning,
            parameters=sum(of.numel() for of in self.model.parameters() if of.requires_grad),
            window_seconds=self.window_frames and round(to_seconds(self.window_frames), 3),
            epochs_seconds=round(sum(row.seconds for row in self.history), 1),
            settings=run.settings,
            dataset=run.dataset,
            audio_root=experiment.args.audio_root and str(experiment.args.audio_root),
            embeddings=hashes,
            provenance=runtime.provenance(
                experiment.args, runtime.device_name(experiment.device), experiment.started
            ),
        )
        results.write_record(folder / "metrics.json", metrics)
        return metrics

    def _only_writer(self) -> AbstractContextManager[None]:
        return files.only_writer(self.run.folder) if distributed.is_main() else nullcontext()

    def _event_writer(self) -> AbstractContextManager[Any]:
        if not (self.run.experiment.args.tensorboard and distributed.is_main()):
            return nullcontext()
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self.run.folder / EVENTS, purge_step=len(self.history) + 1)

    def _resume(self) -> None:
        """Take weights, optimizer, schedule and history from ``last.pt``, if it is there."""
        path = self.run.folder / LAST
        if not self.run.goes_on:
            return
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

    def _train_epoch(self, network: nn.Module, batches: Batches, bar: "tqdm[Any]") -> None:
        """Train on the next epoch's batches, until there are no more or a signal came."""
        started = time.monotonic()
        device, before = self.run.experiment.device, self.progress
        seed, epoch, rank = self.run.settings.seed, len(self.history) + 1, distributed.rank()
        network.train()
        step, examples = before.step, before.examples
        # Summed where it arises: to ask a GPU for a number in every step would make it wait. In
        # float64, or an epoch that is interrupted would give another sum in its last digits.
        done = before.loss_sum if distributed.is_main() else 0.0
        loss_sum = torch.tensor(done, dtype=torch.float64, device=device)
        # What an interrupted epoch has had is made once more, and passed over.
        for x, targets in islice(batches, step, None):
            runtime.seed_device(device, epoch_seed(seed, epoch, step, rank))
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
        total = distributed.total(loss_sum).item()
        self._check_finite(total)
        seconds = before.seconds + time.monotonic() - started
        self.progress = EpochProgress(step=step, examples=examples, loss_sum=total, seconds=seconds)

    def _save_and_stop_if_asked(self) -> None:
        """After a signal, save where training is and stop.

        Also between an epoch's last step and its validation, which may take longer than a job
        scheduler waits before it kills the process.
        """
        if distributed.any_of(bool(self._stopped)):
            self._check_finite(*self.model.state_dict().values())
            if self.history or not self._replaces:
                self._save()
            elif distributed.is_main():
                print(f"{self.run.folder} keeps the run that was to be replaced", file=sys.stderr)
            distributed.gather(None)  # no process leaves before it is written
            raise KeyboardInterrupt(*self._stopped)

    def _check_finite(self, *values: Tensor | float) -> None:
        """End the training where a loss or weights are not finite: ``last.pt`` stays as it was."""
        if not all(
            math.isfinite(value) if isinstance(value, float) else bool(value.isfinite().all())
            for value in values
        ):
            raise UserError(
                f"the loss became nan or infinite in epoch {len(self.history) + 1}; "
                f"{self.run.folder / LAST} is of before, if it is there: try a lower --lr with "
                "--overwrite"
            )

    def _validate(self, lr: float) -> EpochRow:
        """Score the validation songs, step the schedule, write ``history.csv``."""
        started = time.monotonic()
        reached = evaluation.quality(self.score()[""], self.run.val_labels)
        self._check_finite(reached.log_loss)  # the last step's harm shows here alone
        row = EpochRow(
            epoch=len(self.history) + 1,
            lr=lr,
            train_loss=self.progress.loss_sum / self.progress.examples,
            val_loss=reached.log_loss,
            val_top1=reached.top1,
            val_top3=reached.top3,
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
                of_epoch = {"epoch": row.epoch, "val_top1": row.val_top1}
                weights = _copied_to_cpu(self.model)
                self._best = msgspec.structs.replace(self.described, **of_epoch, weights=weights)
            if self._replaces:
                self._save()
            checkpoints.write_history(self.run.folder / "history.csv", self.history)
        return row

    def _save(self) -> None:
        """Write ``best.pt`` and ``last.pt``: resuming from an older one makes both again."""
        if not distributed.is_main():
            return
        folder = self.run.folder
        described = {
            **msgspec.structs.asdict(self.described),
            "epoch": len(self.history),
            "val_top1": None if self.progress.step else self.history[-1].val_top1,
            "weights": _copied_to_cpu(self.model),
        }
        last = TrainingState(
            **described,
            optimizer=self.optimizer.state_dict(),
            scheduler=self.schedule.state_dict(),
            progress=self.progress,
            history=self.history,
        )
        best = {folder / BEST: self._best} if self._best else {}
        checkpoints.save_models({**best, folder / LAST: last})
        self._best = None
        if self._replaces:  # only now, when there is something to keep
            discard(folder, keep=(BEST, LAST), events=not self.run.experiment.args.tensorboard)
            self._replaces = False
        self._saved_at, self._saved_epochs = time.monotonic(), len(self.history)


def warmup_cosine(optimizer: Optimizer, warmup: int, epochs: int) -> LambdaLR:
    """Make a schedule: some epochs of linear growth, then half a cosine that ends near 0."""

    def factor(epoch: int) -> float:
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))

    return LambdaLR(optimizer, factor)


def epoch_seed(seed: int, epoch: int, *within: int) -> int:
    """Mix a seed, an epoch's number and what lies within it into one seed."""
    return int(np.random.SeedSequence([seed, epoch, *within]).generate_state(1)[0])


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Compute products in ``precision``; float32 is what everything is in without it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


def predict(model: nn.Module, x: Tensor, precision: torch.dtype) -> np.ndarray:
    """Return class probabilities of a batch: (batch, n_classes) float32."""
    return _apply(model, model, x, precision).softmax(dim=-1).cpu().numpy()


def predict_songs(
    model: ArtistResNet, songs: LogMels, n_frames: int, precision: torch.dtype
) -> Scores:
    """Score songs by windows over all of each; of a network with LDA, its convolutions, too."""
    if model.statistics is None and model.long_statistics is None:
        return {"": per_song(partial(predict, model, precision=precision), songs, n_frames)}

    def of_windows(log_mel: Tensor) -> np.ndarray:
        parts = _apply(model, model.parts, log_mel, precision)
        return parts.softmax(dim=-1).flatten(1).cpu().numpy()

    answer, convolutions = np.split(per_song(of_windows, songs, n_frames), 2, axis=1)
    if model.long_statistics is not None:
        of_long = partial(predict, model.long_statistics, precision=precision)
        long_answer = per_song(of_long, songs, LONG * n_frames)
        answer += model.long_lda_share * (long_answer - answer)
    return {"": answer, CONVOLUTIONS: convolutions}


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
    """Load a checkpoint's weights into its network; UserError if they do not fit, or are NaN."""
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
        half = batch_size // 2
        smaller = f"--batch-size {half}" if half else "a smaller --crop-seconds"
        raise UserError(
            f"{runtime.out_of_cuda_memory(error)} in batches of {batch_size}: try {smaller}, with "
            "--overwrite if there are epochs already"
        ) from None
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise UserError(f"--compile failed ({files.first_line(error)}): leave it out") from None


def _rank(row: EpochRow) -> tuple[float, ...]:
    return row.val_top1, row.val_top3, -row.val_loss


def _copied_to_cpu(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
