"""Task 2, model 2, stage 1: train a residual CNN on log-mel spectrograms, from scratch.

Reads   DATA_DIR/train.json, val.json and the songs they list
Writes  RESULTS_DIR/task2/resnet/best.pt, last.pt, history.csv, metrics.json, val_predictions.json

Songs are decoded once, into RESULTS_DIR/task2/resnet/cache. A run that was stopped goes on with
--resume. The defaults are the homework's; a quick try on two CPU cores:

    python task2_train_wo_pretrain.py --data-dir data/demo --epochs 10 --crop-seconds 10

On a machine with several GPUs:

    torchrun --nproc-per-node=8 task2_train_wo_pretrain.py
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from artist20 import artifacts, augment, cli, dataset, evaluation, parallel, spectrogram, training
from artist20.models import ArtistResNet
from artist20.spectrogram import LogMels

MIXUP_ALPHA = 0.2
NOISE_SNR_DB = (15.0, 40.0)
NOISE_PROBABILITY = 0.5  # songs are scored as they are, and must be met like that too
LABEL_SMOOTHING = 0.1
DROPOUT = 0.3
WEIGHT_DECAY = 0.01


def augmented_batches(
    songs: LogMels,
    labels: np.ndarray,
    n_frames: int,
    n_classes: int,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of random crops, half of them with noise, mixed in pairs, on the device."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device).manual_seed(seed)
    for crops, crop_labels in spectrogram.random_crops(songs, labels, n_frames, batch_size, rng):
        log_mel = crops.to(device).float()
        snr_db = rng.uniform(*NOISE_SNR_DB, len(crops))
        snr_db[rng.random(len(crops)) >= NOISE_PROBABILITY] = np.inf
        log_mel = augment.add_noise_to_log_mel(
            log_mel, torch.from_numpy(snr_db).float().to(device), generator
        )
        targets = augment.one_hot(crop_labels.to(device), n_classes)
        yield augment.mixup(log_mel, targets, MIXUP_ALPHA, rng)


def make_model(n_classes: int, songs: LogMels, device: torch.device) -> ArtistResNet:
    """Make the network, with the training songs' mean and deviation of every mel bin in it."""
    model = ArtistResNet(n_classes, spectrogram.N_MELS, DROPOUT)
    mean, std = songs.mean_and_std()
    model.standardize.mean.copy_(torch.from_numpy(mean))
    model.standardize.std.copy_(torch.from_numpy(std))
    model.to(device, memory_format=torch.channels_last)
    return parallel.synchronize_batch_norm(model)


def train(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, and return the metrics."""
    started = time.monotonic()
    device = parallel.start(cli.choose_device(args.device))
    precision = cli.choose_precision(args.precision, device)
    train_songs, val_songs = dataset.read_train_val(args.data_dir, args.limit)
    keys = parallel.on_main(lambda: dataset.content_keys([*train_songs, *val_songs]))
    data = dataset.summary(args.data_dir, train_songs, val_songs, keys, args.limit)
    settings = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "lr": args.lr,
        "crop_seconds": args.crop_seconds,
        "noise_snr_db": list(NOISE_SNR_DB),
        "noise_probability": NOISE_PROBABILITY,
        "mixup_alpha": MIXUP_ALPHA,
        "label_smoothing": LABEL_SMOOTHING,
        "optimizer": "AdamW",
        "schedule": "cosine annealing",
        "weight_decay": WEIGHT_DECAY,
        "dropout": DROPOUT,
        "precision": cli.plain_name(precision),
        "patience": args.patience,
        "front_end": spectrogram.FRONT_END,
        "dataset": dataset.identity(data),
        "seed": args.seed,
    }
    script = "task2_train_wo_pretrain.py"
    finished = parallel.on_main(
        lambda: training.open_run(folder, settings, script, args.resume, args.overwrite)
    )
    if finished:
        print(f"{folder} holds this run already; --overwrite trains anew")
        return finished

    classes = dataset.class_names(train_songs)
    labels = dataset.class_indices(train_songs, classes)
    val_labels = dataset.class_indices(val_songs, classes)
    n_train = len(train_songs)
    everything = spectrogram.cached_log_mels(
        folder / "cache", [song.file for song in (*train_songs, *val_songs)], keys, args.workers
    )
    train_mels = LogMels(everything.rows, everything.spans[:n_train])
    val_mels = LogMels(everything.rows, everything.spans[n_train:])

    n_frames = spectrogram.to_frames(args.crop_seconds)
    longest = max(length for _, length in train_mels.spans)
    if longest < n_frames:
        print(
            f"the longest training song has {spectrogram.to_seconds(longest):.1f} s: crops of that "
            f"length instead of {args.crop_seconds:g} s"
        )
        n_frames = longest

    cli.seed_everything(args.seed)
    model = make_model(len(classes), train_mels, device)
    if args.compile:
        model.compile()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, weight_decay=WEIGHT_DECAY, fused=True
    )
    train_mels = train_mels.near(device)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return augmented_batches(
            train_mels,
            labels,
            n_frames,
            len(classes),
            args.batch_size,
            device,
            training.epoch_seed(args.seed, epoch),
        )

    def score(songs: np.ndarray) -> np.ndarray:
        scores, song_index = spectrogram.score_windows(
            lambda x: training.predict(model, x, precision),
            LogMels(val_mels.rows, [val_mels.spans[song] for song in songs]),
            n_frames,
            args.batch_size,
        )
        return evaluation.mean_per_song(scores, song_index, len(songs))

    def score_val() -> np.ndarray:
        return parallel.score_divided(len(val_songs), score)

    history = training.fit(
        model,
        optimizer,
        CosineAnnealingLR(optimizer, args.epochs),
        batches,
        score_val,
        val_labels,
        epochs=args.epochs,
        steps_per_epoch=-(-n_train // args.batch_size),
        label_smoothing=LABEL_SMOOTHING,
        seed=args.seed,
        precision=precision,
        folder=folder,
        identity={
            "kind": "resnet",
            "classes": classes,
            "config": settings,
            "window_frames": n_frames,
        },
        patience=args.patience,
        tensorboard=args.tensorboard,
    )
    metrics = {
        "model": "resnet",
        "pretrained": False,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "window_seconds": round(spectrogram.to_seconds(n_frames), 3),
        "epochs_seconds": round(sum(row["seconds"] for row in history), 1),
        "settings": settings,
        **cli.provenance(args, data, cli.device_name(device), started),
    }
    records = [song.record() for song in val_songs]
    return training.finish(
        folder, "resnet", model, score_val, records, classes, val_labels, metrics
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, epochs=100, batch_size=32, lr=0.01, crop_seconds=150)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.resnet_dir(args.results_dir)
    metrics = train(args, folder)
    print(training.summary_line(metrics))
    print(f"results are in {folder}; next: python task2_inference_wo_pretrain.py")


if __name__ == "__main__":
    cli.run(
        main,
        "--resume, in place of --overwrite, goes on where it was",
    )
