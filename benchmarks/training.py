"""How fast the networks train and name artists, as ratios to the straightforward way.

In one run on the same songs: an epoch of the ResNet against the same steps on one batch that lies
in memory; bfloat16 against float32; the ResNet's data from the cache against decoding with librosa
for every crop; Cnn14's embeddings; an epoch of the MLP; and inference, decoding included.

    python -m artist20.demo DIR
    python benchmarks/training.py --data-dir DIR --limit 96
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import librosa
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import task2_train
import task2_train_wo_pretrain as stage
from artist20 import UserError, audio, cli, dataset, encoders, runtime, spectrogram, training
from artist20.augment import AlbumDifferences
from artist20.cache import map_songs
from artist20.encoders import UNTRAINED
from artist20.encoders.embeddings import Embeddings
from artist20.results import groups_of
from artist20.spectrogram import FrontEnd, LogMels, Stored


def seconds_of(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Time a piece of work, after one run that does not count: the best of some."""
    found = []
    for _ in range(1 + times):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found[1:])


def make_run(recipe: object, n_classes: int, labels: np.ndarray, device: torch.device) -> Any:
    """Make what an epoch asks of a :class:`~artist20.experiment.TrainingRun`."""
    return SimpleNamespace(
        experiment=SimpleNamespace(device=device),
        settings=SimpleNamespace(recipe=recipe, seed=0),
        goes_on=False,
        replaces=False,
        classes=range(n_classes),
        labels=labels,
        describe=lambda _window_frames: None,
    )


def train_epoch(
    run: Any, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: torch.dtype
) -> None:
    """Take the steps of an epoch as the training scripts do."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    trainer = training.Trainer(
        run, model, optimizer, None, None, steps_per_epoch=0, precision=precision
    )
    trainer._train_epoch(model, batches, tqdm(disable=True))


def straightforward_crop(file: Path, n_frames: int, front_end: FrontEnd) -> np.ndarray:
    """Decode a song and compute the log-mel of a crop, as a data set's __getitem__ often does."""
    y, sr = librosa.load(file, sr=audio.SAMPLE_RATE)
    n_samples = n_frames * spectrogram.HOP_LENGTH
    start = np.random.default_rng(0).integers(max(1, len(y) - n_samples))
    power = librosa.feature.melspectrogram(
        y=y[start : start + n_samples],
        sr=sr,
        n_fft=front_end.n_fft,
        hop_length=spectrogram.HOP_LENGTH,
        n_mels=front_end.n_mels,
    )
    return librosa.power_to_db(power).astype(np.float32)


def print_row(what: str, seconds: float, note: str) -> None:
    """Print one line of the table."""
    print(f"{what:44}{seconds:9.2f}  {note}")


def print_operations(work: Callable[[], object], device: torch.device) -> None:
    """Print which operations take the time of a piece of work."""
    with torch.profiler.profile(acc_events=True) as profiler:
        work()
    order = f"self_{device.type}_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60))


def measure_resnet(args: argparse.Namespace, device: torch.device, results_dir: Path) -> None:
    """Measure the ResNet's epochs and its data path."""
    songs = dataset.read_split(args.data_dir, "train", args.limit)
    classes = dataset.class_names(songs)
    recipe = cli.chosen_recipe(args, stage.RECIPES)
    front_end = FrontEnd.of(recipe)
    cache = spectrogram.open_cache(results_dir, front_end)
    keys = dataset.content_keys(songs)
    files = list(keys)
    by_key = {key: file for file, key in keys.items()}
    spectrogram.fill_cache(cache, front_end, args.workers, by_key)
    log_mels = LogMels([Stored(cache, key) for key in keys.values()])
    n_frames = spectrogram.crop_frames(log_mels, recipe.crop_seconds)
    labels = dataset.class_indices(songs, classes)
    run = make_run(recipe, len(classes), labels, device)
    spectra, mean, std = log_mels.spectra(recipe.n_mels)
    albums = groups_of(song.record for song in songs)
    differences = AlbumDifferences(spectra, labels, albums)
    model = stage.make_model(log_mels, mean, std, n_frames, run)
    epochs = partial(stage.batches, log_mels.to_device(device), differences, n_frames, run)

    one = next(epochs(1))
    n_steps = len(songs) * recipe.crops_per_song // recipe.batch_size
    if not n_steps:
        raise UserError(
            f"{len(songs)} songs are no batch of {recipe.batch_size}: --batch-size takes fewer"
        )
    precision = runtime.choose_precision(args.precision, device)
    train = partial(train_epoch, run, model)
    times = 1 if args.trial else 3
    steps = seconds_of(lambda: train(repeat(one, n_steps), precision), device, times)
    epoch = seconds_of(lambda: train(islice(epochs(1), n_steps), precision), device, times)
    exact = seconds_of(lambda: train(repeat(one, n_steps), torch.float32), device, 1)
    size = (
        f"{n_steps} steps of {recipe.batch_size} crops of {spectrogram.to_seconds(n_frames):.0f} s"
    )
    print_row(
        "ResNet, one batch in memory", steps, f"{size}, {str(precision).removeprefix('torch.')}"
    )
    print_row("ResNet, an epoch", epoch, f"{epoch / steps:.2f} x the row above")
    print_row("ResNet, one batch in memory, float32", exact, f"{exact / steps:.2f} x the first row")
    if device.type == "cuda":
        print_row("ResNet, the GPU's busy share", epoch, f"{steps / epoch:.0%}")

    data = seconds_of(lambda: list(map(len, epochs(1))), device, times)
    some = files[: max(8, len(files) // 8)]
    straight = seconds_of(
        lambda: [straightforward_crop(file, n_frames, front_end) for file in some], device, 1
    )
    straight *= len(songs) * recipe.crops_per_song / len(some)
    print_row("ResNet's data, cached, augmented", data, f"{len(songs)} songs")
    print_row(
        "ResNet's data, decoded each epoch", straight, f"{straight / data:.1f} x the row above"
    )

    score = partial(training.predict_songs, model, n_frames=n_frames, precision=precision)
    load = partial(spectrogram.load_log_mel, front_end=front_end)
    read = partial(map_songs, files, load, workers=args.workers, label="inference")

    def infer() -> None:
        for log_mel in read():
            score(LogMels([log_mel]).to_device(device))

    seconds = seconds_of(infer, device, 1)
    print_row("ResNet, inference", seconds, f"{len(songs) / seconds:.1f} songs per second")
    if args.operations:
        print_operations(lambda: train(islice(epochs(1), n_steps), precision), device)


def measure_transfer(args: argparse.Namespace, device: torch.device) -> None:
    """Measure Cnn14's embeddings and the MLP's epochs at artist20's size."""
    precision = runtime.choose_precision(args.precision, device)
    seconds, times = (1, 1) if args.trial else (10, 3)
    clips = [torch.randn(seconds * audio.SAMPLE_RATE, device=device)]
    clips *= 4 if device.type == "cpu" else 256
    name = "ge2e" if args.trial else "panns"
    (encoder,) = encoders.load([name], UNTRAINED, 0, device, precision)
    found = {
        dtype: seconds_of(partial(replace(encoder, precision=dtype).embed, clips), device, times)
        for dtype in {precision, torch.float32}
    }
    rate = seconds * len(clips) / found[precision]
    ratio = found[torch.float32] / found[precision]
    print_row(
        f"{'a small encoder' if args.trial else 'Cnn14'}, {len(clips)} clips of {seconds} s",
        found[precision],
        f"{rate:.0f} x real time; float32 takes {ratio:.2f} x as long",
    )

    rng = np.random.default_rng(0)
    n_songs, n_views, n_classes = 16 if args.trial else 949, 8, 20
    embeddings = Embeddings(
        rng.random((n_songs * n_views, encoder.definition.size), dtype=np.float32),
        np.repeat(np.arange(n_songs), n_views),
    )
    homework = task2_train.HOMEWORK
    run = make_run(homework, n_classes, rng.integers(n_classes, size=n_songs), device)
    model = task2_train.make_model(n_classes, embeddings, homework).to(device)
    batches = partial(task2_train.batches, embeddings, run, 1)
    epoch = seconds_of(lambda: train_epoch(run, model, batches(), torch.float32), device, times)
    what = f"MLP, an epoch of {n_songs} songs x {n_views} views"
    print_row(what, epoch, f"100 epochs: {100 * epoch:.0f} s")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_precision_option(parser)
    cli.add_recipe_option(parser)
    parser.add_argument("--batch-size", type=cli.positive_int, help="crops per step of the ResNet")
    parser.add_argument(
        "--crop-seconds",
        type=cli.positive_float,
        help="length of the crops (default: the recipe's)",
    )
    parser.add_argument(
        "--operations",
        action="store_true",
        help="print which operations an epoch of the ResNet spends its time on",
    )
    parser.add_argument(
        "--trial", action="store_true", help="a small encoder and few songs, to see that it runs"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    args = parse_args()
    device = runtime.choose_device(args.device)
    print(f"{'':44}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as results_dir:
        measure_resnet(args, device, Path(results_dir))
    measure_transfer(args, device)


if __name__ == "__main__":
    runtime.run(main)
