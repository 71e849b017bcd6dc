r"""Task 2, model 1, stage 1: train a classifier on embeddings of a frozen Cnn14 (PANNs).

Reads   DATA_DIR/train.json, val.json and the songs they list; data/panns/Cnn14_16k_mAP=0.438.pth
Writes  RESULTS_DIR/task2/panns/best.pt, last.pt, history.csv, metrics.json, val_predictions.json

Augmented views of the songs are embedded once, into RESULTS_DIR/task2/panns/cache; an epoch trains
the classifier alone. A run that was stopped goes on with --resume. The defaults are the homework's;
a quick try on two CPU cores, without the weights:

    python task2_train.py --data-dir data/demo --backbone-weights untrained \
        --epochs 10 --crop-seconds 5 --views 1 --windows 1

On a machine with several GPUs:

    torchrun --nproc-per-node=8 task2_train.py
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from artist20 import (
    artifacts,
    augment,
    cli,
    dataset,
    evaluation,
    fetch,
    panns,
    parallel,
    training,
)
from artist20.models import EmbeddingMLP
from artist20.panns import Embeddings

DROPOUT = 0.3
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 5  # epochs


def make_model(n_classes: int, embeddings: Embeddings, device: torch.device) -> EmbeddingMLP:
    """Make the classifier, with the training embeddings' mean and deviation in it."""
    model = EmbeddingMLP(n_classes, DROPOUT)
    std = embeddings.rows.std(axis=0)
    model.standardize.mean.copy_(torch.from_numpy(embeddings.rows.mean(axis=0)))
    # A unit of Cnn14 that no training song excites is passed on as it is.
    model.standardize.std.copy_(torch.from_numpy(np.where(std > 0, std, 1)))
    return model.to(device)


def train(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, and return the metrics."""
    started = time.monotonic()
    device = parallel.start(cli.choose_device(args.device))
    precision = cli.choose_precision(args.precision, device)
    train_songs, val_songs = dataset.read_train_val(args.data_dir, args.limit)
    keys = parallel.on_main(lambda: dataset.content_keys([*train_songs, *val_songs]))
    data = dataset.summary(args.data_dir, train_songs, val_songs, keys, args.limit)
    backbone = panns.load_backbone(args.backbone_weights, args.seed, device, precision)
    settings = {
        "backbone": "Cnn14",
        "backbone_weights": backbone.weights,
        "sample_rate": backbone.sample_rate,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "lr": args.lr,
        "crop_seconds": args.crop_seconds,
        "views": args.views,
        "windows": args.windows,
        "stretch_rates": list(panns.STRETCH_RATES),
        "noise_snr_db": list(panns.NOISE_SNR_DB),
        "augment_probability": panns.AUGMENT_PROBABILITY,
        "optimizer": "Adam",
        "schedule": "reduce on plateau",
        "plateau_factor": PLATEAU_FACTOR,
        "plateau_patience": PLATEAU_PATIENCE,
        "dropout": DROPOUT,
        "precision": cli.plain_name(precision),
        "patience": args.patience,
        "dataset": dataset.identity(data),
        "seed": args.seed,
    }
    finished = parallel.on_main(
        lambda: training.open_run(folder, settings, "task2_train.py", args.resume, args.overwrite)
    )
    if finished:
        print(f"{folder} holds this run already; --overwrite trains anew")
        return finished

    classes = dataset.class_names(train_songs)
    labels = dataset.class_indices(train_songs, classes)
    val_labels = dataset.class_indices(val_songs, classes)
    cache = folder / "cache"
    views = panns.cached_views(
        cache,
        [song.file for song in train_songs],
        keys[: len(train_songs)],
        backbone,
        args.crop_seconds,
        args.views,
        args.seed,
        args.workers,
    )
    val_windows = panns.cached_windows(
        cache,
        [song.file for song in val_songs],
        keys[len(train_songs) :],
        backbone,
        args.crop_seconds,
        args.windows,
        args.workers,
    )
    val_rows = torch.from_numpy(val_windows.rows)

    cli.seed_everything(args.seed)
    model = make_model(len(classes), views, device)
    if args.compile:
        model.compile()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(training.epoch_seed(args.seed, epoch))
        for embeddings, batch_labels in panns.random_views(views, labels, args.batch_size, rng):
            yield (
                embeddings.to(device),
                augment.one_hot(batch_labels.to(device), len(classes)),
            )

    def score_val() -> np.ndarray:
        return parallel.score_divided(len(val_songs), score)

    def score(songs: np.ndarray) -> np.ndarray:
        mine = np.isin(val_windows.song_index, songs)
        scores = training.predict(model, val_rows[mine], precision)
        song_index = np.searchsorted(songs, val_windows.song_index[mine])
        return evaluation.mean_per_song(scores, song_index, len(songs))

    history = training.fit(
        model,
        optimizer,
        ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE),
        batches,
        score_val,
        val_labels,
        epochs=args.epochs,
        steps_per_epoch=-(-len(train_songs) // args.batch_size),
        label_smoothing=0.0,
        seed=args.seed,
        precision=precision,
        folder=folder,
        identity={"kind": "panns", "classes": classes, "config": settings},
        patience=args.patience,
        tensorboard=args.tensorboard,
    )
    metrics = {
        "model": "panns",
        "pretrained": backbone.pretrained,
        "backbone": "pretrained" if backbone.pretrained else "untrained backbone",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs_seconds": round(sum(row["seconds"] for row in history), 1),
        "settings": settings,
        **cli.provenance(args, data, cli.device_name(device), started),
    }
    records = [song.record() for song in val_songs]
    return training.finish(folder, "panns", model, score_val, records, classes, val_labels, metrics)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, epochs=100, batch_size=8, lr=0.005, crop_seconds=150)
    parser.add_argument(
        "--views", type=cli.positive_int, default=8, help="augmented embeddings per training song"
    )
    parser.add_argument(
        "--windows",
        type=cli.positive_int,
        help="at most this many windows per validation or test song (default: cover the song)",
    )
    parser.add_argument(
        "--backbone-weights",
        metavar="PATH",
        default=f"data/panns/{fetch.CNN14_16K.name}",
        help=f"Cnn14's published weights, or '{panns.UNTRAINED}' to try the code without them",
    )
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    folder = artifacts.panns_dir(args.results_dir)
    metrics = train(args, folder)
    if not metrics["pretrained"]:
        print("untrained backbone: these figures say nothing about PANNs")
    print(training.summary_line(metrics))
    print(f"results are in {folder}; next: python task2_inference.py")


if __name__ == "__main__":
    cli.run(
        main,
        "--resume, in place of --overwrite, goes on where it was",
    )
