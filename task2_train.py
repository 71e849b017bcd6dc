r"""Task 2, model 1, stage 1: train a classifier on embeddings of a frozen Cnn14 (PANNs).

Reads   DATA_DIR/train.json, val.json and the songs they list; the encoder's published weights
Writes  RESULTS_DIR/task2/panns/best.pt, last.pt, history.csv, metrics.json, val_predictions.json
                                train_embeddings.npy, val_embeddings.npy, songs_train.json

Augmented views of the songs are embedded once, into RESULTS_DIR/cache; an epoch trains the
classifier alone. A run that was stopped goes on with --resume. The defaults are the homework's; a
quick try on two CPU cores, without the weights:

    python task2_train.py --data-dir data/demo --encoder-weights untrained \
        --epochs 10 --crop-seconds 5 --views 1 --windows 1

With --recipe strong, into RESULTS_DIR/task2/panns_strong: windows of 10 s over the whole song in
place of long crops, and of four classifiers the one that is best in cross-validation on the
training songs, folds by album: linear or MLP, on windows or on their mean and deviation. That also
writes candidates.json and cv_predictions.json, every training song scored unseen, by the best of
the four: which flatters it a little.

For the homework's recipe, --fold K uses the training songs alone: the fold's albums are held out
and scored, into the subfolder fold-K; all five give RESULTS_DIR/task2/panns/cv_predictions.json.

The embeddings in train_embeddings.npy and val_embeddings.npy, (n_songs, d) float32, are the
classifier's penultimate layer, the mean over a song's windows, or over a training song's augmented
views: for the map of the songs, which folds do not need and do not write.

On a machine with several GPUs:

    torchrun --nproc-per-node=8 task2_train.py
"""

import argparse
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from artist20 import (
    UserError,
    augment,
    cli,
    distributed,
    evaluation,
    experiment,
    fetch,
    results,
    runtime,
    training,
)
from artist20.dataset import Song
from artist20.encoders import panns
from artist20.encoders.base import UNTRAINED
from artist20.encoders.embeddings import Embedder, Embeddings
from artist20.experiment import Experiment, Run
from artist20.models import EmbeddingMLP
from artist20.results import ClassifierCandidate, ClassifierChoice, NetworkMetrics, TransferRecipe

SCRIPT = "task2_train.py"

MLP = (1024, 512, 256)
HOMEWORK = TransferRecipe(
    epochs=100,
    batch_size=8,
    lr=0.005,
    crop_seconds=150,
    views=8,
    windows=None,
    hidden=MLP,
    pooled=False,
    select=True,
    optimizer="Adam",
    schedule="reduce on plateau",
    dropout=0.3,
    weight_decay=0.0,
    warmup_epochs=0,
    plateau_factor=0.5,
    plateau_patience=5,
)
STRONG = msgspec.structs.replace(
    HOMEWORK,
    batch_size=64,
    lr=0.001,
    crop_seconds=10,
    views=None,
    select=False,
    optimizer="AdamW",
    schedule="cosine annealing",
    weight_decay=0.05,
    warmup_epochs=3,
)
RECIPES = {"homework": HOMEWORK, "strong": STRONG}
# What the strong recipe chooses from.
CANDIDATES = {
    f"{kind}-{rows}": msgspec.structs.replace(STRONG, hidden=hidden, pooled=rows == "pooled")
    for kind, hidden in (("linear", ()), ("mlp", MLP))
    for rows in ("windows", "pooled")
}


def make_model(n_classes: int, embeddings: Embeddings, recipe: TransferRecipe) -> EmbeddingMLP:
    """Make the classifier, with the training embeddings' mean and deviation in it."""
    model = EmbeddingMLP(n_classes, recipe.dropout, embeddings.rows.shape[1], recipe.hidden)
    std = embeddings.rows.std(axis=0)
    model.standardize.mean.copy_(torch.from_numpy(embeddings.rows.mean(axis=0)))
    # A unit of the encoder that no training song excites is passed on as it is.
    model.standardize.std.copy_(torch.from_numpy(np.where(std > 0, std, 1)))
    return model


def make_optimizer(
    model: EmbeddingMLP, recipe: TransferRecipe
) -> tuple[Optimizer, LRScheduler | ReduceLROnPlateau]:
    """Make the optimizer and the learning rate's course over the epochs."""
    make = {"Adam": Adam, "AdamW": AdamW}[recipe.optimizer]
    optimizer = make(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    if recipe.schedule == "reduce on plateau":
        return optimizer, ReduceLROnPlateau(
            optimizer, factor=recipe.plateau_factor, patience=recipe.plateau_patience
        )
    return optimizer, training.warmup_cosine(optimizer, recipe.warmup_epochs, recipe.epochs)


def batches(embeddings: Embeddings, run: Run, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch: a row of every training song, drawn at random."""
    device = run.experiment.device
    rng = np.random.default_rng(training.epoch_seed(run.settings.seed, epoch))
    for rows, labels in embeddings.random_rows(run.labels, run.settings.recipe.batch_size, rng):
        yield rows.to(device), augment.one_hot(labels.to(device), len(run.classes))


def train(run: Run, embedder: Embedder) -> NetworkMetrics:
    """Embed the songs, train the classifier, score the validation songs, write all files."""
    recipe, precision = run.settings.recipe, run.experiment.precision

    def embed(songs: list[Song], views: int | None) -> Embeddings:
        keyed = run.experiment.keyed(songs)
        if views:
            return embedder.views(keyed, views, run.settings.seed)
        windows = embedder.windows(keyed, recipe.windows)
        return windows.pooled() if recipe.pooled else windows

    train_rows = rows = embed(run.train, recipe.views)
    if run.others:
        rows = rows.joined(embed(run.others, recipe.views))
    val_rows = embed(run.val, None)
    runtime.seed_everything(run.settings.seed)
    model = make_model(len(run.classes), rows, recipe).to(run.experiment.device)
    if run.experiment.args.compile:
        model.compile()
    predict, penultimate = (
        partial(apply, model, precision=precision) for apply in (training.predict, training.embed)
    )
    trainer = training.Trainer(
        run,
        model,
        *make_optimizer(model, recipe),
        lambda: val_rows.per_song(predict, len(run.val)),
        steps_per_epoch=-(-len(run.train) // recipe.batch_size),
    )
    trainer.fit(partial(batches, rows, run))
    if run.settings.fold:
        return trainer.finish()
    return trainer.finish(
        lambda: (
            train_rows.per_song(penultimate, len(run.train)),
            val_rows.per_song(penultimate, len(run.val)),
        )
    )


def choose(songs: Experiment, embedder: Embedder, recipe: TransferRecipe) -> TransferRecipe:
    """Choose a classifier by cross-validation: the best top-1, among equals the least log loss."""
    folds = range(1, results.N_FOLDS + 1)
    if songs.args.overwrite:
        # All before the first is trained anew: --resume must not meet what other settings made.
        for folder in [songs.folder / name / f"fold-{k}" for name in CANDIDATES for k in folds]:
            distributed.on_main(partial(experiment.discard, folder))
        distributed.on_main(partial(experiment.discard, songs.folder))
    found, pooled = {}, {}
    for name, candidate in CANDIDATES.items():
        candidate = msgspec.structs.replace(
            recipe, hidden=candidate.hidden, pooled=candidate.pooled
        )
        for fold in folds:
            run = songs.open(candidate, embedder.encoder.settings, fold, songs.folder / name)
            run.finished or train(run, embedder)
        pooled[name] = songs.pool_folds(songs.folder / name)
        quality = evaluation.quality(pooled[name].scores[songs.name], pooled[name].labels)
        found[name] = ClassifierCandidate(cv_top1=quality.top1, cv_log_loss=quality.log_loss)
        print(f"{name}: {quality.top1:.1%} in cross-validation, log loss {quality.log_loss:.3f}")
    best = max(found, key=lambda name: (found[name].cv_top1, -found[name].cv_log_loss))
    print(f"chosen: {best}")
    if distributed.is_main():
        choice = ClassifierChoice(chosen=best, candidates=found)
        results.write_record(songs.folder / "candidates.json", choice)
        results.write_record(songs.folder / "cv_predictions.json", pooled[best])
    return msgspec.structs.replace(
        recipe, hidden=CANDIDATES[best].hidden, pooled=CANDIDATES[best].pooled
    )


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
        "--encoder-weights",
        metavar="PATH",
        default=f"data/weights/{fetch.CNN14_16K.name}",
        help=f"Cnn14's published weights, or '{UNTRAINED}' to try the code without them",
    )
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    recipe = cli.chosen_recipe(args, RECIPES)
    if args.recipe == "strong" and (args.fold or args.views):
        option = "fold" if args.fold else "views"
        raise UserError(f"--recipe strong cross-validates by itself: leave --{option} out")
    songs = experiment.begin(args, "panns", SCRIPT)
    encoder = panns.load(args.encoder_weights, args.seed, songs.device, songs.precision)
    embedder = Embedder(encoder, args.results_dir, recipe.crop_seconds, args.workers)
    songs = songs.decoded(embedder.find_undecodable)
    if args.recipe == "strong":
        recipe = choose(songs, embedder, recipe)
    run = songs.open(recipe, encoder.settings, args.fold)
    run.report(run.finished or train(run, embedder))
    if args.fold:
        songs.pool_folds()
    else:
        option = "" if args.recipe == "homework" else f" --recipe {args.recipe}"
        print(f"results are in {run.folder}; next: python task2_inference.py{option}")


if __name__ == "__main__":
    runtime.run(main, "--resume, in place of --overwrite, goes on where it was")
