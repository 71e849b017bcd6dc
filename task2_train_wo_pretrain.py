"""Task 2, model 2, stage 1: train a residual CNN on log-mel spectrograms, from scratch.

Reads   DATA_DIR/train.json, val.json and the songs they list
Writes  RESULTS_DIR/task2/resnet/best.pt, last.pt, history.csv, metrics.json, val_predictions.json
                                 train_embeddings.npy, val_embeddings.npy, songs_train.json

Songs are decoded once, into RESULTS_DIR/cache. A run that was stopped goes on with --resume. The
defaults are the homework's, with a hidden layer that is normalised. Files of embeddings are for the
map of the songs: the convolutions' penultimate layer in best.pt, (n_songs, d) float32, the mean
over each song's windows.

--recipe strong, into RESULTS_DIR/task2/resnet_strong, is what cross-validation found better: short
crops, many of them, that are made to sound as if they were of other albums; 256 mel bins, which the
convolutions get averaged in groups of four, while LDA of statistics over time, of all bins, of how
the spectrum's shape varies and of how fast levels rise and fall, in windows of 5 s and of 20 s,
gives two thirds of the answer; nothing chosen on the validation songs (benchmarks/RESULTS.md). Its
cache takes 24 KB per second of music, about 6.8 GB for artist20, where the homework's takes 4 KB.

With --audio-root, songs are heard as that tree has them, and all goes to task2/resnet@<tree>. With
--fold K the albums of a fold of the training songs are held out and scored, into the subfolder
fold-K; all five give cv_predictions.json: every training song, scored by a network that was not
trained on its album.

    python task2_train_wo_pretrain.py --data-dir data/demo --recipe strong --epochs 12
    python task2_train_wo_pretrain.py --recipe strong --audio-root data/artist20_vocals
    torchrun --nproc-per-node=8 task2_train_wo_pretrain.py    # on a machine with several GPUs
"""

import artist20.packages  # says which are missing

import argparse
from collections.abc import Iterator
from functools import partial

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from artist20 import augment, cli, distributed, experiment, runtime, spectrogram, training
from artist20.augment import AlbumDifferences
from artist20.cache import Cache
from artist20.experiment import TrainingRun
from artist20.models import LONG, ArtistResNet, TimeStatistics
from artist20.results import NetworkMetrics, ResNetRecipe, groups_of
from artist20.spectrogram import FrontEnd, LogMels, Stored

HOMEWORK = ResNetRecipe(
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
    lda_share=0,
    long_lda_share=0,
    other_albums=False,
    dropout=0.3,
    weight_decay=0.01,
    label_smoothing=0.1,
    mixup_alpha=0.2,
    noise_probability=0.5,
    noise_snr_db=(15.0, 40.0),
    select=True,
)
# What is changed, and why, is in benchmarks/RESULTS.md.
STRONG = msgspec.structs.replace(
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
    lda_share=1 / 2,
    long_lda_share=1 / 3,
    other_albums=True,
    weight_decay=0.05,
    select=False,
)
RECIPES = {"homework": HOMEWORK, "strong": STRONG}
LDA_WINDOWS = 50_000  # of the training songs, that LDA is fitted to: memory holds their statistics


def batches(
    songs: LogMels, differences: AlbumDifferences, n_frames: int, run: TrainingRun, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of augmented random crops, mixed in pairs.

    Behind the training songs ``songs`` may have their alternate versions.
    """
    recipe, device = run.settings.recipe, run.experiment.device
    seed = training.epoch_seed(run.settings.seed, epoch)
    rng = np.random.default_rng(seed)
    generator = torch.Generator(device).manual_seed(seed)
    versions = len(songs) // len(run.labels)
    for crops, crop_labels in spectrogram.random_crops(
        songs, run.labels, n_frames, recipe.batch_size, rng, recipe.crops_per_song, versions
    ):
        log_mel = runtime.to_device(crops[:, :, : recipe.n_mels], device).float()
        if recipe.other_albums:
            difference = torch.from_numpy(differences.draw(len(crops), rng))
            log_mel += runtime.to_device(difference, device)[:, None]
        snr_db = rng.uniform(*recipe.noise_snr_db, len(crops))
        snr_db[rng.random(len(crops)) >= recipe.noise_probability] = np.inf
        snr = runtime.to_device(torch.from_numpy(snr_db).float(), device)
        log_mel = augment.add_noise_to_log_mel(log_mel, snr, generator)
        targets = F.one_hot(runtime.to_device(crop_labels, device), len(run.classes))
        yield augment.mixup(log_mel, targets.float(), recipe.mixup_alpha, rng)


def make_model(
    songs: LogMels, mean: np.ndarray, std: np.ndarray, n_frames: int, run: TrainingRun
) -> ArtistResNet:
    """Make the network, with what is computed of the training songs before it is trained."""
    model = ArtistResNet(len(run.classes), run.settings.recipe)
    model.standardize.mean.copy_(torch.from_numpy(mean))
    model.standardize.std.copy_(torch.from_numpy(std))
    model.to(run.experiment.device, memory_format=torch.channels_last)
    if not run.goes_on:  # last.pt has LDA
        fit_lda(model.statistics, songs, n_frames, run)
        fit_lda(model.long_statistics, songs, LONG * n_frames, run)
    return distributed.synchronize_batch_norm(model)


def fit_lda(lda: TimeStatistics | None, songs: LogMels, n_frames: int, run: TrainingRun) -> None:
    """Solve for LDA of windows over the training songs."""
    if lda is None:
        return
    windows = spectrogram.windows_of(songs, n_frames)
    rng = np.random.default_rng(run.settings.seed)
    windows = [windows[i] for i in sorted(rng.permutation(len(windows))[:LDA_WINDOWS])]

    def statistics_of(log_mel: Tensor) -> np.ndarray:
        return lda.of(runtime.to_device(log_mel, run.experiment.device).float()).cpu().numpy()

    statistics = spectrogram.score_crops(statistics_of, songs, windows, n_frames, "statistics")
    lda.fit(statistics, run.labels[[song for song, _ in windows]], len(windows) / len(songs))


def make_optimizer(model: nn.Module, recipe: ResNetRecipe) -> tuple[Optimizer, LRScheduler]:
    """Make the optimizer and the learning rate's course over the epochs."""
    decay = recipe.weight_decay
    optimizer = AdamW(model.parameters(), lr=recipe.lr, weight_decay=decay, fused=True)
    if recipe.warmup_epochs:
        return optimizer, training.warmup_cosine(optimizer, recipe.warmup_epochs, recipe.epochs)
    return optimizer, CosineAnnealingLR(optimizer, recipe.epochs)


def train(run: TrainingRun, cache: Cache) -> NetworkMetrics:
    """Train the network, score the validation songs, write all files."""
    recipe, precision = run.settings.recipe, run.experiment.precision
    songs, val_songs, others = (
        LogMels([Stored(cache, key) for key, _ in run.experiment.keyed(of)])
        for of in (run.train, run.val, run.others)
    )
    n_frames = spectrogram.crop_frames(songs, recipe.crop_seconds)
    runtime.seed_everything(run.settings.seed)
    spectra, mean, std = songs.spectra(recipe.n_mels)
    albums = groups_of(song.record for song in run.train)
    differences = AlbumDifferences(spectra, run.labels, albums)
    model = make_model(songs, mean, std, n_frames, run)
    if run.experiment.args.compile:
        # LDA, which is no part of training, would take as long to compile as all the rest.
        model.embed = torch.compile(model.embed)  # type: ignore[method-assign]
    # The training songs, and behind them their alternate versions in the same order.
    versions = LogMels([*songs.songs, *others.songs]).to_device(run.experiment.device)
    train_songs = LogMels(versions.songs[: len(songs)])
    val_songs = val_songs.to_device(run.experiment.device)  # every epoch scores them
    trainer = training.Trainer(
        run,
        model,
        *make_optimizer(model, recipe),
        partial(training.predict_songs, model, val_songs, n_frames, precision),
        steps_per_epoch=-(-len(run.train) * recipe.crops_per_song // recipe.batch_size),
        precision=precision,
        label_smoothing=recipe.label_smoothing,
        window_frames=n_frames,
    )
    trainer.fit(partial(batches, versions, differences, n_frames, run))

    def embed(of: LogMels, label: str) -> np.ndarray:
        penultimate = partial(training.embed, model, precision=precision)
        return spectrogram.per_song(penultimate, of, n_frames, f"embedding {label} songs")

    return trainer.finish(lambda: (embed(train_songs, "training"), embed(val_songs, "validation")))


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_audio_root_option(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, RECIPES)
    return parser.parse_args()


def main() -> None:
    """Run the stage."""
    args = parse_args()
    recipe = cli.chosen_recipe(args, RECIPES)
    front_end = FrontEnd.of(recipe)
    cache = spectrogram.open_cache(args.results_dir, front_end)
    study = experiment.begin(args, "resnet")
    study = study.decoded(partial(spectrogram.fill_cache, cache, front_end, args.workers))
    run = study.open(recipe, fold=args.fold)
    run.report(run.finished or train(run, cache))
    study.conclude(run, "task2_inference_wo_pretrain.py")


if __name__ == "__main__":
    runtime.run(main, training.TO_RESUME)
