"""How fast the networks train and name artists, as ratios to the straightforward way.

In one run on the same songs: an epoch of the ResNet against the same steps on one batch that lies
in memory; bfloat16 against float32; the ResNet's data from the cache against decoding with librosa
for every crop; Cnn14's embeddings; an epoch of the MLP; and inference, decoding included.

    make demo && python benchmarks/training.py --data-dir data/demo --limit 96
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, repeat
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import task2_train
import task2_train_wo_pretrain as resnet
from artist20 import UserError, audio, cli, dataset, panns, runtime, spectrogram, training
from artist20.spectrogram import FrontEnd, LogMels
from artist20.store import map_songs


def seconds_of(work: Callable[[], object], device: torch.device, times: int = 3) -> float:
    """Time a piece of work, after one run that does not count: the best of some."""
    work()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - started)
    return min(found)


def train_epoch(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: torch.dtype
) -> None:
    """Take the steps of an epoch as training.fit does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    state = dict(training.NEW_EPOCH)
    bar = tqdm(disable=True)
    training.train_epoch(model, optimizer, batches, 0.1, int, precision, state, [], bar)


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


def measure_resnet(args: argparse.Namespace, device: torch.device, cache: Path) -> None:
    """Measure the ResNet's epochs and its data path."""
    songs = dataset.read_split(args.data_dir, "train", args.limit)
    classes = dataset.class_names(songs)
    labels = dataset.class_indices(songs, classes)
    keys = dataset.content_keys(songs)
    recipe = cli.chosen_recipe(args, resnet.RECIPES)
    files = [song.file for song in songs]
    mels = spectrogram.cached_log_mels(cache, files, keys, args.workers, recipe.front_end)
    longest = max(length for _, length in mels.spans)
    n_frames = min(spectrogram.to_frames(recipe.crop_seconds), longest)
    model = resnet.make_model(len(classes), mels, n_frames, recipe, device, 0)
    near = mels.near(device)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return resnet.augmented_batches(
            near, labels, n_frames, len(classes), recipe, model.standardize.mean, 0
        )

    one = next(iter(batches()))
    n_steps = len(songs) * recipe.crops_per_song // recipe.batch_size
    if not n_steps:
        raise UserError(
            f"{len(songs)} songs are no batch of {recipe.batch_size}: --batch-size takes fewer"
        )
    precision = runtime.choose_precision(args.precision, device)
    steps = seconds_of(lambda: train_epoch(model, repeat(one, n_steps), precision), device)
    epoch = seconds_of(lambda: train_epoch(model, islice(batches(), n_steps), precision), device)
    exact = seconds_of(lambda: train_epoch(model, repeat(one, n_steps), torch.float32), device, 1)
    size = (
        f"{n_steps} steps of {recipe.batch_size} crops of {spectrogram.to_seconds(n_frames):.0f} s"
    )
    print_row("ResNet, one batch in memory", steps, f"{size}, {runtime.plain_name(precision)}")
    print_row("ResNet, an epoch", epoch, f"{epoch / steps:.2f} x the row above")
    print_row("ResNet, one batch in memory, float32", exact, f"{exact / steps:.2f} x the first row")
    if device.type == "cuda":
        print_row("ResNet, the GPU's busy share", epoch, f"{steps / epoch:.0%}")

    data = seconds_of(lambda: [None for _ in batches()], device)
    some = songs[: max(8, len(songs) // 8)]
    straight = seconds_of(
        lambda: [straightforward_crop(song.file, n_frames, recipe.front_end) for song in some],
        device,
        1,
    )
    straight *= len(songs) * recipe.crops_per_song / len(some)
    print_row("ResNet's data, cached, augmented", data, f"{len(songs)} songs")
    print_row(
        "ResNet's data, decoded each epoch", straight, f"{straight / data:.1f} x the row above"
    )

    def infer() -> None:
        load = partial(spectrogram.load_log_mel, front_end=recipe.front_end)
        for log_mel in map_songs(files, load, workers=args.workers, label="inference"):
            song = LogMels(log_mel, [(0, len(log_mel))])
            predict = lambda x: training.predict(model, x, precision)  # noqa: E731
            spectrogram.score_windows(predict, song, n_frames, 16)

    seconds = seconds_of(infer, device, 1)
    print_row("ResNet, inference", seconds, f"{len(songs) / seconds:.1f} songs per second")


def measure_panns(args: argparse.Namespace, device: torch.device) -> None:
    """Measure Cnn14's embeddings and the MLP's epochs at artist20's size."""
    precision = runtime.choose_precision(args.precision, device)
    clip = torch.randn(int(10 * audio.SAMPLE_RATE), device=device)
    n_clips = 4 if device.type == "cpu" else 256
    found = {}
    for dtype in (precision, torch.float32):
        backbone = panns.load_backbone(panns.UNTRAINED, 0, device, dtype)
        found[dtype] = seconds_of(lambda b=backbone: panns.embed(b, [clip] * n_clips), device)
    rate = 10 * n_clips / found[precision]
    ratio = found[torch.float32] / found[precision]
    print_row(
        f"Cnn14, {n_clips} clips of 10 s",
        found[precision],
        f"{rate:.0f} x real time; float32 takes {ratio:.2f} x as long",
    )

    rng = np.random.default_rng(0)
    n_songs, n_views = 949, 8
    embeddings = panns.Embeddings(
        rng.random((n_songs * n_views, panns.EMBEDDING_SIZE), dtype=np.float32),
        np.repeat(np.arange(n_songs), n_views),
    )
    labels = rng.integers(20, size=n_songs)
    model = task2_train.make_model(20, embeddings, task2_train.MLP, device)

    def epoch() -> None:
        views = panns.random_views(embeddings, labels, 8, np.random.default_rng(0))
        batches = ((x.to(device), F.one_hot(y, 20).float().to(device)) for x, y in views)
        train_epoch(model, batches, precision)

    seconds = seconds_of(epoch, device)
    print_row("MLP, an epoch of 949 songs x 8 views", seconds, f"100 epochs: {100 * seconds:.0f} s")


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
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    args = parse_args()
    device = runtime.choose_device(args.device)
    print(f"{'':44}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as cache:
        measure_resnet(args, device, Path(cache))
    measure_panns(args, device)


if __name__ == "__main__":
    runtime.run(main)
