"""Task 2, model 2, stage 1: train a residual CNN on log-mel spectrograms, from scratch.

Reads   DATA_DIR/train.json, val.json and the songs they list
Writes  RESULTS_DIR/task2/resnet/best.pt, last.pt, history.csv, metrics.json, val_predictions.json
                                 train_embeddings.npy, val_embeddings.npy, songs_train.json

Songs are decoded once, into RESULTS_DIR/task2/resnet/cache. A run that was stopped goes on with
--resume. The defaults are the homework's; a quick try on two CPU cores:

    python task2_train_wo_pretrain.py --data-dir data/demo --epochs 10 --crop-seconds 10

--recipe strong, into RESULTS_DIR/task2/resnet_strong, is what cross-validation found better: short
crops, many of them; 256 mel bins, of which the convolutions hear fours averaged, while a linear
model of every bin's statistics over time gives a second answer, the probabilities of both being
averaged; nothing chosen on the validation songs (benchmarks/RESULTS.md). Its cache takes 16 KB per
second of music, about 4.5 GB for artist20, where the homework's takes 4 KB.

With --fold K the training songs alone are used: the albums of the fold are held out and scored,
into a folder within; once all five are there, RESULTS_DIR/task2/resnet/cv_predictions.json has
every training song, scored unseen.

The embeddings are what the convolutions' last layer is given in best.pt, (n_songs, d) float32, the
mean over each song's windows: for the map of the songs, which folds do not need and do not write.

On a machine with several GPUs:

    torchrun --nproc-per-node=8 task2_train_wo_pretrain.py
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from artist20 import (
    augment,
    cli,
    dataset,
    distributed,
    evaluation,
    results,
    runtime,
    spectrogram,
    store,
    training,
)
from artist20.models import ArtistResNet
from artist20.spectrogram import FrontEnd, LogMels

SCRIPT = "task2_train_wo_pretrain.py"
NOISE_SNR_DB = (15.0, 40.0)


@dataclass(frozen=True)
class Recipe:
    """How the network is made and trained.

    Attributes
    ----------
    epochs, batch_size, lr, crop_seconds
        The options of these names.
    crops_per_song : int
        Random crops of every song in an epoch.
    warmup_epochs : int
        Of linearly growing learning rate, before the cosine.
    n_fft, n_mels : int
        See :class:`artist20.spectrogram.FrontEnd`.
    width, keep_frequency, bins_per_band, statistics
        See :class:`artist20.models.ArtistResNet`.
    dropout, weight_decay, label_smoothing, mixup_alpha : float
        Regularisation.
    noise_probability : float
        Share of the crops that noise is added to; the others are met as songs are scored.
    select : bool
        Whether the epoch is chosen on the validation songs; otherwise it is the last one.
    """

    epochs: int
    batch_size: int
    lr: float
    crop_seconds: float
    crops_per_song: int
    warmup_epochs: int
    n_fft: int
    n_mels: int
    width: int
    keep_frequency: bool
    bins_per_band: int
    statistics: bool
    dropout: float
    weight_decay: float
    label_smoothing: float
    mixup_alpha: float
    noise_probability: float
    select: bool

    @property
    def front_end(self) -> FrontEnd:
        """What log-mels are made with."""
        return FrontEnd(self.n_fft, self.n_mels)


HOMEWORK = Recipe(
    epochs=100,
    batch_size=32,
    lr=0.01,
    crop_seconds=150,
    crops_per_song=1,
    warmup_epochs=0,
    n_fft=1024,
    n_mels=64,
    width=64,
    keep_frequency=False,
    bins_per_band=1,
    statistics=False,
    dropout=0.3,
    weight_decay=0.01,
    label_smoothing=0.1,
    mixup_alpha=0.2,
    noise_probability=0.5,
    select=True,
)
# What is changed, and why, is in benchmarks/RESULTS.md.
STRONG = dataclasses.replace(
    HOMEWORK,
    epochs=80,
    lr=0.003,
    crop_seconds=5,
    crops_per_song=4,
    warmup_epochs=3,
    n_fft=4096,
    n_mels=256,
    width=32,
    keep_frequency=True,
    bins_per_band=4,
    statistics=True,
    weight_decay=0.05,
    select=False,
)
RECIPES = {"homework": HOMEWORK, "strong": STRONG}


def augmented_batches(
    songs: LogMels,
    labels: np.ndarray,
    n_frames: int,
    n_classes: int,
    recipe: Recipe,
    device: torch.device,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of augmented random crops, mixed in pairs.

    ``labels`` are of the songs' first version.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device).manual_seed(seed)
    for crops, crop_labels in spectrogram.random_crops(
        songs,
        labels,
        n_frames,
        recipe.batch_size,
        rng,
        recipe.crops_per_song,
        versions=len(songs.spans) // len(labels),
    ):
        log_mel = crops.to(device).float()
        snr_db = rng.uniform(*NOISE_SNR_DB, len(crops))
        snr_db[rng.random(len(crops)) >= recipe.noise_probability] = np.inf
        log_mel = augment.add_noise_to_log_mel(
            log_mel, torch.from_numpy(snr_db).float().to(device), generator
        )
        targets = augment.one_hot(crop_labels.to(device), n_classes)
        yield augment.mixup(log_mel, targets, recipe.mixup_alpha, rng)


def make_model(
    n_classes: int,
    songs: LogMels,
    n_frames: int,
    recipe: Recipe,
    device: torch.device,
    seed: int,
) -> ArtistResNet:
    """Make the network, with the training songs' mean and deviation of all that it standardises."""
    model = ArtistResNet(
        n_classes,
        n_mels=recipe.n_mels,
        dropout=recipe.dropout,
        width=recipe.width,
        keep_frequency=recipe.keep_frequency,
        bins_per_band=recipe.bins_per_band,
        statistics=recipe.statistics,
    )
    mean, std = songs.mean_and_std()
    model.standardize.mean.copy_(torch.from_numpy(mean))
    model.standardize.std.copy_(torch.from_numpy(std))
    if model.statistics is not None:
        rng = np.random.default_rng(seed)
        no_labels = np.zeros(len(songs.spans), dtype=int)
        crops = spectrogram.random_crops(songs, no_labels, n_frames, recipe.batch_size, rng)
        statistics = torch.cat(
            [model.statistics.of(model.standardize(x.float())) for x, _ in crops]
        ).double()
        model.statistics.standardize.mean.copy_(statistics.mean(dim=0))
        # All alike where there is one song, or silence.
        model.statistics.standardize.std.copy_(statistics.std(dim=0, correction=0).clamp_min(1e-3))
    model.to(device, memory_format=torch.channels_last)
    return distributed.synchronize_batch_norm(model)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LRScheduler:
    """Make the learning rate's course over the epochs."""
    if recipe.warmup_epochs:
        return training.warmup_cosine(optimizer, recipe.warmup_epochs, recipe.epochs)
    return CosineAnnealingLR(optimizer, recipe.epochs)


def train(args: argparse.Namespace, recipe: Recipe, folder: Path, cache: Path) -> dict[str, Any]:
    """Train, and return the metrics."""
    started = time.monotonic()
    device = distributed.start(runtime.choose_device(args.device))
    precision = runtime.choose_precision(args.precision, device)
    of_data = (args.data_dir, args.fold, args.limit)
    train_songs, val_songs, classes = dataset.read_to_fit(*of_data)
    songs = [*train_songs, *val_songs]
    keys = distributed.on_main(lambda: dataset.content_keys(songs))
    # The one pass that decodes fills the cache, too: to look for bad songs first would take a
    # second one. They are named at its end, before anything is trained, replaced or removed.
    reasons: dict[str, str] = {}
    files = [song.file for song in songs]
    spectrogram.cached_log_mels(cache, files, keys, args.workers, recipe.front_end, reasons)
    left_out = dataset.find_unreadable(songs, keys, reasons, args.skip_unreadable)
    if left_out:
        train_songs, val_songs, classes = dataset.read_to_fit(*of_data, left_out)
    twins = dataset.twins(train_songs, args.also_train_on) if args.also_train_on else []
    keys = [key for key in keys if key not in reasons]
    twin_keys = distributed.on_main(lambda: dataset.content_keys(twins))
    n_train, n_songs = len(train_songs), len(train_songs) + len(val_songs)
    data = dataset.summary(args.data_dir, train_songs, val_songs, keys, args.limit, left_out)
    settings = {
        "recipe": args.recipe,
        **dataclasses.asdict(recipe),
        "noise_snr_db": list(NOISE_SNR_DB),
        "optimizer": "AdamW",
        "schedule": "cosine annealing",
        "precision": runtime.plain_name(precision),
        "patience": args.patience,
        "front_end": recipe.front_end.settings(),
        "dataset": dataset.identity(data),
        "also_train_on": dataset.fingerprint(twins, twin_keys) if twins else None,
        "fold": args.fold,
        "seed": args.seed,
    }
    finished = distributed.on_main(
        lambda: training.open_run(folder, settings, SCRIPT, args.resume, args.overwrite)
    )
    if finished:
        print(f"{folder} holds this run already; --overwrite trains anew")
        return finished

    labels = dataset.class_indices(train_songs, classes)
    val_labels = dataset.class_indices(val_songs, classes)
    everything = spectrogram.cached_log_mels(
        cache,
        [song.file for song in (*train_songs, *val_songs, *twins)],
        [*keys, *twin_keys],
        args.workers,
        recipe.front_end,
    )
    for first, length in everything.spans:
        store.check_finite(everything.rows[first : first + length], cache)
    train_mels = LogMels(everything.rows, everything.spans[:n_train])
    val_mels = LogMels(everything.rows, everything.spans[n_train:n_songs])
    versions = LogMels(everything.rows, train_mels.spans + everything.spans[n_songs:])

    n_frames = spectrogram.to_frames(recipe.crop_seconds)
    longest = max(length for _, length in train_mels.spans)
    if longest < n_frames:
        print(
            f"the longest training song has {spectrogram.to_seconds(longest):.1f} s: crops of that "
            f"length instead of {recipe.crop_seconds:g} s"
        )
        n_frames = longest

    runtime.seed_everything(args.seed)
    model = make_model(len(classes), train_mels, n_frames, recipe, device, args.seed)
    if args.compile:
        model.compile()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
    )
    versions = versions.near(device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return augmented_batches(
            versions,
            labels,
            n_frames,
            len(classes),
            recipe,
            device,
            training.epoch_seed(args.seed, epoch),
        )

    def per_song(
        apply: Callable[..., np.ndarray], mels: LogMels, label: str | None = None
    ) -> np.ndarray:
        def of_songs(songs: np.ndarray) -> np.ndarray:
            values, song_index = spectrogram.score_windows(
                lambda x: apply(model, x, precision),
                LogMels(mels.rows, [mels.spans[song] for song in songs]),
                n_frames,
                recipe.batch_size,
                label,
            )
            return evaluation.mean_per_song(values, song_index, len(songs))

        return distributed.score_divided(len(mels.spans), of_songs)

    def score_val() -> np.ndarray:
        return per_song(training.predict, val_mels)

    def embed_songs() -> tuple[np.ndarray, np.ndarray]:
        return (
            per_song(training.embed, train_mels, "embedding training songs"),
            per_song(training.embed, val_mels, "embedding validation songs"),
        )

    history = training.fit(
        model,
        optimizer,
        make_schedule(optimizer, recipe),
        batches,
        score_val,
        val_labels,
        epochs=recipe.epochs,
        steps_per_epoch=-(-n_train * recipe.crops_per_song // recipe.batch_size),
        label_smoothing=recipe.label_smoothing,
        seed=args.seed,
        precision=precision,
        folder=folder,
        identity={
            "kind": "resnet",
            "classes": classes,
            "config": settings,
            "window_frames": n_frames,
            "trained_on": dataset.label(data),
            "train_songs": np.bincount(labels, minlength=len(classes)).tolist(),
            "val_songs": len(val_songs),
        },
        select=recipe.select,
        patience=args.patience,
        tensorboard=args.tensorboard,
    )
    name = results.network_name("resnet", args.recipe)
    metrics = {
        "model": name,
        "pretrained": False,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window_seconds": round(spectrogram.to_seconds(n_frames), 3),
        "epochs_seconds": round(sum(row["seconds"] for row in history), 1),
        "settings": settings,
        **runtime.provenance(args, data, runtime.device_name(device), started),
    }
    return training.finish(
        folder,
        name,
        model,
        score_val,
        [song.record() for song in val_songs],
        classes,
        val_labels,
        metrics,
        recipe.select,
        [song.record() for song in train_songs],
        None if args.fold else embed_songs,
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, RECIPES)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    recipe = cli.chosen_recipe(args, RECIPES)
    training.check_patience(args)
    folder = results.resnet_dir(args.results_dir, args.recipe, args.fold)
    cache = results.resnet_dir(args.results_dir) / "cache"
    metrics = train(args, recipe, folder, cache)
    print(training.summary_line(metrics))
    if args.fold:
        left_out = metrics["dataset"].get("unreadable", ())
        songs = dataset.read_split(args.data_dir, "train", args.limit, left_out)
        records = [song.record() for song in songs]
        distributed.on_main(
            lambda: training.pool_folds(folder.parent, metrics["model"], SCRIPT, records)
        )
    else:
        recipe_option = "" if args.recipe == "homework" else f" --recipe {args.recipe}"
        print(
            f"results are in {folder}; next: python task2_inference_wo_pretrain.py{recipe_option}"
        )


if __name__ == "__main__":
    runtime.run(
        main,
        "--resume, in place of --overwrite, goes on where it was",
    )
