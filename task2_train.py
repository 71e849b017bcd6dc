r"""Task 2, model 1, stage 1: train a classifier on embeddings of a frozen Cnn14 (PANNs).

Reads   DATA_DIR/train.json, val.json and the songs they list; data/panns/Cnn14_16k_mAP=0.438.pth
Writes  RESULTS_DIR/task2/panns/best.pt, last.pt, history.csv, metrics.json, val_predictions.json
                                train_embeddings.npy, val_embeddings.npy, songs_train.json

Augmented views of the songs are embedded once, into RESULTS_DIR/task2/panns/cache; an epoch trains
the classifier alone. A run that was stopped goes on with --resume. The defaults are the homework's;
a quick try on two CPU cores, without the weights:

    python task2_train.py --data-dir data/demo --backbone-weights untrained \
        --epochs 10 --crop-seconds 5 --views 1 --windows 1

With --recipe strong, into RESULTS_DIR/task2/panns_strong: windows of 10 s over the whole song in
place of long crops, and of four classifiers the one that is best in cross-validation on the
training songs, folds by album: linear or MLP, on windows or on their mean and deviation.

That also writes candidates.json and cv_predictions.json, every training song scored unseen, by the
best of the four: which flatters it a little.

For the homework's recipe, --fold K uses the training songs alone: the albums of the fold are held
out and scored, into a folder within; all five give RESULTS_DIR/task2/panns/cv_predictions.json.

The embeddings in train_embeddings.npy and val_embeddings.npy, (n_songs, d) float32, are what the
classifier's last layer is given, the mean over a song's windows: for the map of the songs, which
folds do not need and do not write. They are the MLP's last hidden layer, not Cnn14's 2048 numbers:
as with the ResNet, the map then shows the network that the figures are of. For training songs it is
the mean over their augmented views, where the recipe has some, which Cnn14 has embedded already.

On a machine with several GPUs:

    torchrun --nproc-per-node=8 task2_train.py
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from artist20 import (
    UserError,
    augment,
    cli,
    dataset,
    distributed,
    evaluation,
    fetch,
    panns,
    results,
    runtime,
    training,
)
from artist20.files import write_json
from artist20.models import EmbeddingMLP
from artist20.panns import Backbone, Embeddings

SCRIPT = "task2_train.py"
DROPOUT = 0.3
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 5  # epochs
WARMUP_EPOCHS = 3
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Recipe:
    """What the classifier is, and how it is trained.

    Attributes
    ----------
    epochs, batch_size, lr, crop_seconds, views, windows
        The options of these names. Without views, training is on the windows.
    hidden : list of int
        Units of the classifier's hidden layers.
    pooled : bool
        Whether a song is one row, its windows' mean and deviation, or a row per window.
    select : bool
        Whether the epoch is chosen on the validation songs; otherwise it is the last one.
    """

    epochs: int
    batch_size: int
    lr: float
    crop_seconds: float
    views: int | None
    windows: int | None
    hidden: list[int]
    pooled: bool
    select: bool


MLP = [1024, 512, 256]
STRONG = Recipe(
    epochs=100,
    batch_size=64,
    lr=0.001,
    crop_seconds=10,
    views=None,
    windows=None,
    hidden=MLP,
    pooled=False,
    select=False,
)
RECIPES = {
    "homework": Recipe(
        epochs=100,
        batch_size=8,
        lr=0.005,
        crop_seconds=150,
        views=8,
        windows=None,
        hidden=MLP,
        pooled=False,
        select=True,
    ),
    "strong": STRONG,
}
# What the strong recipe chooses from: name -> changes.
CANDIDATES: dict[str, dict[str, Any]] = {
    "linear-windows": {"hidden": [], "pooled": False},
    "linear-pooled": {"hidden": [], "pooled": True},
    "mlp-windows": {"hidden": MLP, "pooled": False},
    "mlp-pooled": {"hidden": MLP, "pooled": True},
}


@dataclass(frozen=True)
class Run:
    """What all trainings of one command share.

    Attributes
    ----------
    args : argparse.Namespace
        The command line.
    device : torch.device
        Where to train.
    precision : torch.dtype
        What products are computed in.
    backbone : Backbone
        The frozen network.
    keys : dict of Path to str
        Content keys of all songs by their file.
    left_out : dict of str to str
        By path what is wrong with each song that cannot be decoded.
    started : float
        ``time.monotonic()`` at the start.
    """

    args: argparse.Namespace
    device: torch.device
    precision: torch.dtype
    backbone: Backbone
    keys: dict[Path, str]
    left_out: dict[str, str]
    started: float


def make_model(
    n_classes: int, embeddings: Embeddings, hidden: list[int], device: torch.device
) -> EmbeddingMLP:
    """Make the classifier, with the training embeddings' mean and deviation in it."""
    model = EmbeddingMLP(n_classes, DROPOUT, embeddings.rows.shape[1], hidden)
    std = embeddings.rows.std(axis=0)
    model.standardize.mean.copy_(torch.from_numpy(embeddings.rows.mean(axis=0)))
    # A unit of Cnn14 that no training song excites is passed on as it is.
    model.standardize.std.copy_(torch.from_numpy(np.where(std > 0, std, 1)))
    return model.to(device)


def make_optimizer(
    model: EmbeddingMLP, recipe: Recipe
) -> tuple[torch.optim.Optimizer, LRScheduler | ReduceLROnPlateau]:
    """Make the optimizer and the learning rate's course over the epochs."""
    if recipe.select:
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
        plateau = {"factor": PLATEAU_FACTOR, "patience": PLATEAU_PATIENCE}
        return optimizer, ReduceLROnPlateau(optimizer, **plateau)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, weight_decay=WEIGHT_DECAY, fused=True
    )
    return optimizer, training.warmup_cosine(optimizer, WARMUP_EPOCHS, recipe.epochs)


def embed(
    run: Run, recipe: Recipe, songs: list[dataset.Song], views: int | None = None
) -> Embeddings:
    """Embed songs: augmented views of each, or windows over its whole length."""
    args = run.args
    cache = results.panns_dir(args.results_dir) / "cache"
    files = [song.file for song in songs]
    keys = [run.keys[song.file] for song in songs]
    if views:
        return panns.cached_views(
            cache, files, keys, run.backbone, recipe.crop_seconds, views, args.seed, args.workers
        )
    windows = panns.cached_windows(
        cache, files, keys, run.backbone, recipe.crop_seconds, recipe.windows, args.workers
    )
    return windows.pooled() if recipe.pooled else windows


def train(run: Run, recipe: Recipe, fold: int | None, folder: Path) -> dict[str, Any]:
    """Train one classifier, and return the metrics."""
    args, device = run.args, run.device
    train_songs, val_songs, classes = dataset.read_to_fit(
        args.data_dir, fold, args.limit, run.left_out
    )
    twins = dataset.twins(train_songs, args.also_train_on) if args.also_train_on else []
    keys = [run.keys[song.file] for song in (*train_songs, *val_songs)]
    data = dataset.summary(args.data_dir, train_songs, val_songs, keys, args.limit, run.left_out)
    settings = {
        "backbone": "Cnn14",
        "backbone_weights": run.backbone.weights,
        "sample_rate": run.backbone.sample_rate,
        "recipe": args.recipe,
        **dataclasses.asdict(recipe),
        "stretch_rates": list(panns.STRETCH_RATES),
        "noise_snr_db": list(panns.NOISE_SNR_DB),
        "augment_probability": panns.AUGMENT_PROBABILITY,
        "optimizer": "Adam" if recipe.select else "AdamW",
        "schedule": "reduce on plateau" if recipe.select else "cosine annealing",
        "plateau_factor": PLATEAU_FACTOR,
        "plateau_patience": PLATEAU_PATIENCE,
        "warmup_epochs": WARMUP_EPOCHS,
        "weight_decay": WEIGHT_DECAY,
        "dropout": DROPOUT,
        "precision": runtime.plain_name(run.precision),
        "patience": args.patience,
        "dataset": dataset.identity(data),
        "also_train_on": dataset.fingerprint(twins, [run.keys[twin.file] for twin in twins])
        if twins
        else None,
        "fold": fold,
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
    train_embeddings = embeddings = embed(run, recipe, train_songs, recipe.views)
    if twins:
        embeddings = embeddings.joined(embed(run, recipe, twins, recipe.views))
    val_embeddings = embed(run, recipe, val_songs)

    runtime.seed_everything(args.seed)
    model = make_model(len(classes), embeddings, recipe.hidden, device)
    if args.compile:
        model.compile()
    optimizer, scheduler = make_optimizer(model, recipe)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(training.epoch_seed(args.seed, epoch))
        for x, batch_labels in panns.random_views(embeddings, labels, recipe.batch_size, rng):
            yield x.to(device), augment.one_hot(batch_labels.to(device), len(classes))

    def per_song(apply: Callable[..., np.ndarray], rows: Embeddings, n_songs: int) -> np.ndarray:
        def of_songs(songs: np.ndarray) -> np.ndarray:
            mine = rows.of_songs(songs)
            values = apply(model, torch.from_numpy(mine.rows), run.precision)
            return evaluation.mean_per_song(values, mine.song_index, len(songs))

        return distributed.score_divided(n_songs, of_songs)

    def score_val() -> np.ndarray:
        return per_song(training.predict, val_embeddings, len(val_songs))

    def embed_songs() -> tuple[np.ndarray, np.ndarray]:
        return (
            per_song(training.embed, train_embeddings, len(train_songs)),
            per_song(training.embed, val_embeddings, len(val_songs)),
        )

    history = training.fit(
        model,
        optimizer,
        scheduler,
        batches,
        score_val,
        val_labels,
        epochs=recipe.epochs,
        steps_per_epoch=-(-len(train_songs) // recipe.batch_size),
        label_smoothing=0.0,
        seed=args.seed,
        precision=run.precision,
        folder=folder,
        identity={
            "kind": "panns",
            "classes": classes,
            "config": settings,
            "trained_on": dataset.label(data),
            "train_songs": np.bincount(labels, minlength=len(classes)).tolist(),
            "val_songs": len(val_songs),
        },
        select=recipe.select,
        patience=args.patience,
        tensorboard=args.tensorboard,
    )
    name = results.network_name("panns", args.recipe)
    metrics = {
        "model": name,
        "pretrained": run.backbone.pretrained,
        "backbone": "pretrained" if run.backbone.pretrained else "untrained backbone",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs_seconds": round(sum(row["seconds"] for row in history), 1),
        "settings": settings,
        **runtime.provenance(args, data, runtime.device_name(device), run.started),
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
        None if fold else embed_songs,
    )


def train_folds(run: Run, recipe: Recipe, folder: Path) -> tuple[float, float]:
    """Cross-validate one classifier; return top-1 and log loss of all training songs."""
    songs = dataset.read_split(run.args.data_dir, "train", run.args.limit, run.left_out)
    name = results.network_name("panns", run.args.recipe)
    for fold in range(1, results.N_FOLDS + 1):
        train(run, recipe, fold, folder / f"fold-{fold}")
    records = [song.record() for song in songs]
    distributed.on_main(lambda: training.pool_folds(folder, name, SCRIPT, records))
    pooled = results.read_predictions(folder / "cv_predictions.json", SCRIPT)
    scores = pooled.scores[name]
    top1 = evaluation.top_k_accuracy(scores, pooled.labels, 1)
    return top1, evaluation.log_loss(scores, pooled.labels)


def choose(run: Run, recipe: Recipe, folder: Path) -> tuple[str, Recipe]:
    """Choose a classifier by cross-validation: the best top-1, among equals the least log loss."""
    if run.args.overwrite:
        # All before the first is trained anew: --resume must not meet what other settings made.
        folds = [f"fold-{fold}" for fold in range(1, results.N_FOLDS + 1)]
        for name, fold in product(CANDIDATES, folds):
            distributed.on_main(partial(training.discard, folder / name / fold))
        distributed.on_main(partial(training.discard, folder))
    found = {}
    for name, changes in CANDIDATES.items():
        candidate = dataclasses.replace(recipe, **changes)
        top1, loss = train_folds(run, candidate, folder / name)
        found[name] = {"cv_top1": top1, "cv_log_loss": loss}
        print(f"{name}: {top1:.1%} in cross-validation, log loss {loss:.3f}")
    best = max(found, key=lambda name: (found[name]["cv_top1"], -found[name]["cv_log_loss"]))
    print(f"chosen: {best}")
    if distributed.is_main():
        write_json(folder / "candidates.json", {"chosen": best, "candidates": found})
    return best, dataclasses.replace(recipe, **CANDIDATES[best])


def start(args: argparse.Namespace) -> Run:
    """Load the backbone, and find out which songs there are."""
    started = time.monotonic()
    device = distributed.start(runtime.choose_device(args.device))
    precision = runtime.choose_precision(args.precision, device)
    if args.fold:
        songs = dataset.read_split(args.data_dir, "train", args.limit)
    else:
        songs = [
            song for split in dataset.read_train_val(args.data_dir, args.limit) for song in split
        ]
    keys = distributed.on_main(lambda: dataset.content_keys(songs))
    backbone = panns.load_backbone(args.backbone_weights, args.seed, device, precision)
    # To embed songs takes far longer than to decode them, and gains nothing when songs are
    # missing: so all are decoded first, once, and the bad ones named before any work begins.
    cache = results.panns_dir(args.results_dir) / "cache"
    reasons = panns.find_undecodable(cache, [song.file for song in songs], keys, args.workers)
    left_out = dataset.find_unreadable(songs, keys, reasons, args.skip_unreadable)
    if args.also_train_on:
        kept = dataset.read_split(args.data_dir, "train", args.limit, left_out)
        twins = dataset.twins(kept, args.also_train_on)
        songs += twins
        keys += distributed.on_main(lambda: dataset.content_keys(twins))
    by_file = {song.file: key for song, key in zip(songs, keys, strict=True)}
    return Run(args, device, precision, backbone, by_file, left_out, started)


def print_summary(metrics: dict[str, Any]) -> None:
    """Say what a run reached, and whether that means anything."""
    if not metrics["pretrained"]:
        print("untrained backbone: these figures say nothing about PANNs")
    print(training.summary_line(metrics))


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, RECIPES)
    parser.add_argument(
        "--views",
        type=cli.positive_int,
        help="augmented embeddings per training song (default: homework: 8, strong: none)",
    )
    parser.add_argument(
        "--windows",
        type=cli.positive_int,
        help="at most this many windows per validation or test song, and with --recipe strong per "
        "training song (default: cover the song)",
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
    recipe = cli.chosen_recipe(args, RECIPES)
    folder = results.panns_dir(args.results_dir, args.recipe)
    if args.recipe == "strong":
        for option in ("fold", "views"):
            if getattr(args, option):
                raise UserError(f"--recipe strong cross-validates by itself: leave --{option} out")
    training.check_patience(args)
    run = start(args)
    if args.fold:
        metrics = train(run, recipe, args.fold, folder / f"fold-{args.fold}")
        print_summary(metrics)
        songs = dataset.read_split(args.data_dir, "train", args.limit, run.left_out)
        records = [song.record() for song in songs]
        distributed.on_main(lambda: training.pool_folds(folder, metrics["model"], SCRIPT, records))
        return
    if args.recipe == "strong":
        chosen, recipe = choose(run, recipe, folder)
    metrics = train(run, recipe, None, folder)
    if args.recipe == "strong" and distributed.is_main():
        held_out = results.read_predictions(folder / chosen / "cv_predictions.json", SCRIPT)
        results.write_predictions(folder / "cv_predictions.json", held_out)
    print_summary(metrics)
    option = "" if args.recipe == "homework" else f" --recipe {args.recipe}"
    print(f"results are in {folder}; next: python task2_inference.py{option}")


if __name__ == "__main__":
    runtime.run(
        main,
        "--resume, in place of --overwrite, goes on where it was",
    )
