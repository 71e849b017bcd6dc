"""Task 2, model 1, stage 1: train a classifier on embeddings of a frozen encoder.

Reads   DATA_DIR/train.json, val.json and the songs they list; the encoder's published weights
Writes  RESULTS_DIR/task2/panns/best.pt, last.pt, history.csv, metrics.json, val_predictions.json
                                train_embeddings.npy, val_embeddings.npy, songs_train.json

Augmented views of the songs are embedded once, into RESULTS_DIR/cache; an epoch trains the
classifier alone. A run that was stopped goes on with --resume. The defaults are the homework's,
with hidden layers that are normalised. Files of embeddings are for the map of the songs: the
classifier's penultimate layer, (n_songs, d) float32, the mean over a song's windows, or over a
training song's augmented views.

With --recipe strong, into RESULTS_DIR/task2/panns_strong: windows over the whole song, as long as
in the encoder's own training, in place of long crops; and of several classifiers the one that is
best in cross-validation on the training songs, folds by album. That also writes candidates.json and
cv_predictions.json, the out-of-fold scores of every training song by the best of them: which
flatters it a little. For the homework's recipe, --fold K scores the albums of a fold of the
training songs, into the subfolder fold-K; all five give cv_predictions.json.

--encoder names others than PANNs' Cnn14, for --recipe strong: ecapa and ge2e tell voices apart,
tagger knows tags of music; several stand side by side, in RESULTS_DIR/task2/ecapa+tagger_strong.
With --audio-root, songs are heard as that tree has them, and all goes to task2/panns@<tree>.

    python task2_train.py
    python task2_train.py --encoder ge2e --data-dir data/demo --epochs 10    # a quick try
    torchrun --nproc-per-node=8 task2_train.py --encoder ecapa,tagger        # on several GPUs
"""

import artist20.packages  # says which are missing

import argparse
import shlex
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from artist20 import UserError, candidates, cli, encoders, experiment, linear, runtime, training
from artist20.dataset import Song
from artist20.distributed import on_main
from artist20.encoders import ENCODERS
from artist20.encoders.embeddings import Embedder, Embeddings, make_embedders, side_by_side
from artist20.experiment import TrainingRun
from artist20.models import EmbeddingMLP
from artist20.results import NetworkMetrics, TransferRecipe

MLP = (1024, 512, 256)
HOMEWORK = TransferRecipe(
    epochs=100,
    batch_size=8,
    lr=0.005,
    crop_seconds=150,
    views=8,
    windows=None,
    solver="epochs",
    temperature=1.0,
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
    crop_seconds=None,
    views=None,
    select=False,
    optimizer="AdamW",
    schedule="cosine annealing",
    weight_decay=0.05,
    warmup_epochs=3,
)
RECIPES = {"homework": HOMEWORK, "strong": STRONG}
SOLVED = {"hidden": (), "pooled": True, "epochs": 1}
# What the strong recipe chooses from.
CANDIDATES = {
    "linear-windows": {"hidden": (), "pooled": False},
    "mlp-windows": {"hidden": MLP, "pooled": False},
    "linear-pooled": {"hidden": (), "pooled": True},
    "mlp-pooled": {"hidden": MLP, "pooled": True},
    "logistic": SOLVED | {"solver": "logistic regression"},
    # Its logits differ by hundreds: probabilities that are 0 could not be calibrated.
    "lda": SOLVED | {"solver": "shrinkage LDA", "temperature": 30.0},
    "centroid": SOLVED | {"solver": "nearest centroid"},
}


def make_model(n_classes: int, embeddings: Embeddings, recipe: TransferRecipe) -> EmbeddingMLP:
    """Make the classifier, with the training embeddings' mean and deviation in it."""
    model = EmbeddingMLP(n_classes, recipe, embeddings.rows.shape[1])
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
        factor, patience = recipe.plateau_factor, recipe.plateau_patience
        return optimizer, ReduceLROnPlateau(optimizer, factor=factor, patience=patience)
    return optimizer, training.warmup_cosine(optimizer, recipe.warmup_epochs, recipe.epochs)


def batches(
    embeddings: Embeddings, run: TrainingRun, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch: a row of every training song, drawn at random."""
    device = run.experiment.device
    rng = np.random.default_rng(training.epoch_seed(run.settings.seed, epoch))
    for rows, labels in embeddings.random_rows(run.labels, run.settings.recipe.batch_size, rng):
        targets = F.one_hot(runtime.to_device(labels, device), len(run.classes)).float()
        yield runtime.to_device(rows, device), targets


def solve(model: EmbeddingMLP, embeddings: Embeddings, run: TrainingRun) -> float:
    """Set the last layer's weights in one go; return the training songs' mean loss."""
    with torch.inference_mode():
        x = model.eval().embed(torch.from_numpy(embeddings.rows).to(run.experiment.device)).cpu()
    labels = run.labels[embeddings.song_index]
    solver, n_classes = run.settings.recipe.solver, len(run.classes)
    # By one process, so that all have the same.
    found = on_main(lambda: linear.solve(solver, x.numpy(), labels, n_classes))
    weight, bias = map(torch.from_numpy, found)
    model.output.load_state_dict({"weight": weight, "bias": bias})
    logits = (x @ weight.T + bias) / model.temperature
    return float(F.cross_entropy(logits, torch.from_numpy(labels)))


def train(run: TrainingRun, embedders: list[Embedder]) -> NetworkMetrics:
    """Embed the songs, train the classifier, score the validation songs, write all files."""
    recipe = run.settings.recipe

    def embed(songs: list[Song], views: int | None) -> Embeddings:
        keyed = run.experiment.keyed(songs)
        if views:
            return embedders[0].views(keyed, views, run.settings.seed)
        windows = [embedder.windows(keyed, recipe.windows) for embedder in embedders]
        return side_by_side([each.pooled() for each in windows] if recipe.pooled else windows)

    train_rows = rows = embed(run.train, recipe.views)
    if run.others:
        rows = rows.joined(embed(run.others, recipe.views))
    val_rows = embed(run.val, None)
    runtime.seed_everything(run.settings.seed)
    model = make_model(len(run.classes), rows, recipe).to(run.experiment.device)
    if run.experiment.args.compile:
        model.compile()
    # In float32, like its training: on an H100 no slower than bfloat16 for so few songs.
    predict = partial(training.predict, model, precision=torch.float32)
    penultimate = partial(training.embed, model, precision=torch.float32)
    trainer = training.Trainer(
        run,
        model,
        *make_optimizer(model, recipe),
        lambda: {"": val_rows.per_song(predict, len(run.val))},
        steps_per_epoch=-(-len(run.train) // recipe.batch_size),
    )
    if recipe.solver == "epochs":
        trainer.fit(partial(batches, rows, run))
    else:
        trainer.fit_at_once(partial(solve, model, rows, run))
    return trainer.finish(
        lambda: (
            train_rows.per_song(penultimate, len(run.train)),
            val_rows.per_song(penultimate, len(run.val)),
        )
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_audio_root_option(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, RECIPES)
    cli.add_encoder_option(parser, ENCODERS)
    cli.add_encoder_weights_option(parser)
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
    return cli.with_encoder_recipe(parser.parse_args())


def main() -> None:
    """Run the stage."""
    args = parse_args()
    recipe = cli.chosen_recipe(args, RECIPES)
    if args.recipe == "strong" and (args.fold or args.views):
        option = "fold" if args.fold else "views"
        raise UserError(f"--recipe strong cross-validates by itself: leave --{option} out")
    names, weights = args.encoder, args.encoder_weights
    study = experiment.begin(args, "+".join(names))
    loaded = encoders.load(names, weights, args.seed, study.device, study.precision)
    embedders = make_embedders(loaded, args.results_dir, recipe.crop_seconds, args.workers)
    study = study.decoded(embedders[0].find_undecodable)
    settings = [encoder.settings for encoder in loaded]
    if args.recipe == "strong":
        for embedder in embedders:  # all songs before the first fold
            embedder.windows(study.keyed(study.heard), recipe.windows)
        choices = {
            name: msgspec.structs.replace(recipe, **of)
            for name, of in CANDIDATES.items()
            if of["pooled"] or len(loaded) == 1  # encoders' windows differ, songs do not
        }
        recipe = candidates.choose(study, settings, choices, partial(train, embedders=embedders))
    run = study.open(recipe, settings, args.fold)
    run.report(run.finished or train(run, embedders))
    given = weights not in (None, encoders.UNTRAINED)
    option = f" --encoder-weights {shlex.quote(weights)}" if given else ""
    study.conclude(run, "task2_inference.py", option)


if __name__ == "__main__":
    runtime.run(main, training.TO_RESUME)
