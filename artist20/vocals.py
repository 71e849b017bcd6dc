"""Separate the voice from every song of a data folder, with torchaudio's Hybrid Demucs.

    python -m artist20.vocals data/artist20 data/artist20_vocals
    python -m artist20.vocals data/tiny data/tiny_vocals --weights untrained

Reads   DATA_DIR/train.json, val.json and the songs they list, DATA_DIR/test/001.mp3 ...
Writes  OUTPUT_DIR/train_val/<artist>/<album>/<song>    the voice alone, under the song's own name,
                                                        16 kHz mono, as long as the song
        OUTPUT_DIR/test/001.mp3 ...
        OUTPUT_DIR/vocals.json    the separator; the songs that are done, and their files' SHA-256

``bash get_dataset.sh --vocals`` fetches the weights and does the first of these. A run that was
stopped goes on where it was; a song whose file has changed is separated anew. Songs that cannot be
read are named when all others are done, and the exit status is 1.

Device memory is that of :data:`CHUNKS_TOGETHER` chunks of :data:`CHUNK_SECONDS`, however long a
song is: 6.5 GiB on a GPU. The computer's is that of a few songs of ten minutes: longer ones are
decoded as they are separated.
"""

import artist20.packages  # says which are missing

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchaudio.models import hdemucs_high
from torchaudio.pipelines import HDEMUCS_HIGH_MUSDB_PLUS

from artist20 import UserError, audio, cli, dataset, fetch, runtime
from artist20.cache import map_songs
from artist20.files import only_writer, parse_json, sha256_file
from artist20.results import Record, differences, write_record

UNTRAINED = "untrained"

SOURCES = ["drums", "bass", "other", "vocals"]  # in the order of the bundle's model
SEPARATOR_RATE = HDEMUCS_HIGH_MUSDB_PLUS.sample_rate  # Hz

CHUNK_SECONDS = 10.0
OVERLAP_SECONDS = 2.0  # at least; a quarter more is computed than without
FADE_SECONDS = 1.0  # in the middle of an overlap: half a second at every cut is not used
# Samples of a step of the network's coarsest layers: a hop of 1024, then a stride of 2. What is
# moved by another distance is heard on another grid: separate()'s 10 to 31 dB become 2 to 4.
STRIDE = 2048
SHORTEST = 2 * SEPARATOR_RATE / audio.SAMPLE_RATE  # samples: of fewer there may be none at 16 kHz
CHUNKS_TOGETHER = {"cpu": 1, "cuda": 8}  # a GPU takes 1.4 times as long for four as for one
MIN_SECONDS = 1.0  # the network fails on a few hundred samples; shorter songs are padded


class Settings(Record, frozen=True, kw_only=True):
    """Everything that vocals depend on beside the songs."""

    weights: str  # SHA-256 of the separator's weights file, or "untrained, seed N"
    model: str = "HDEMUCS_HIGH_MUSDB_PLUS"
    chunk_seconds: float = CHUNK_SECONDS
    overlap_seconds: float = OVERLAP_SECONDS
    fade_seconds: float = FADE_SECONDS
    mp3_compression_level: float = cast(float, audio.MP3_CODING["compression_level"])


class Vocals(Record, frozen=True, kw_only=True):
    """``vocals.json``."""

    settings: Settings
    command: str
    versions: dict[str, str]
    songs: dict[str, str]  # by path, SHA-256 of the file that a finished song was made of


@dataclass(frozen=True)
class Separator:
    """A network that separates sources."""

    # (batch, 2, n_samples) -> (batch, len(SOURCES), 2, n_samples) at SEPARATOR_RATE; in eval mode
    network: nn.Module
    weights: str  # as in :class:`Settings`


def load_separator(weights: str, device: torch.device) -> Separator:
    """Load Hybrid Demucs with a file's weights, or make it ``"untrained"``; put it on a device.

    The architecture is that of torchaudio's ``HDEMUCS_HIGH_MUSDB_PLUS`` (Défossez 2021, "Hybrid
    Spectrogram and Waveform Source Separation"), whose own ``get_model`` would fetch the weights
    into the home folder and compare no checksum. A file without them is a ``UserError``.
    """
    if weights == UNTRAINED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = hdemucs_high(SOURCES)
        name = f"{UNTRAINED}, seed 0"
        print("separator: UNTRAINED Hybrid Demucs: what it writes is no vocals")
    else:
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"{path} is missing: 'bash get_dataset.sh --vocals' fetches it, or "
                f"'--weights {UNTRAINED}' runs without (what that writes is no vocals)"
            )
        name = sha256_file(path)
        network = hdemucs_high(SOURCES)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception:  # torch lets errors of pickle, zipfile and its own through
            raise UserError(
                f"{path} does not hold the weights of Hybrid Demucs (its SHA-256 is {name}): move "
                "it away and run 'bash get_dataset.sh --vocals'"
            ) from None
        published = name == fetch.HDEMUCS.sha256
        note = "" if published else f": not the published weights, its SHA-256 is {name}"
        print(f"separator: Hybrid Demucs, {path}{note}")
    return Separator(network.eval().requires_grad_(False).to(device), name)


def place_chunks(n_samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay chunks over a song, about evenly spaced, each overlapping the next.

    Returned are (n_chunks,) first samples, multiples of :data:`STRIDE`, (n_chunks,) ends,
    and (n_chunks + 1,) positions between which each chunk is the nearest: the middles of the
    overlaps, after minus and before plus infinity.
    """
    length = min(round(CHUNK_SECONDS * SEPARATOR_RATE), n_samples)
    step = length - round(OVERLAP_SECONDS * SEPARATOR_RATE) - STRIDE
    last = n_samples - length
    n_chunks = 1 + -(-last // step) if last else 1
    starts = np.linspace(0, last, n_chunks).astype(int) // STRIDE * STRIDE
    stops = starts + length
    stops[-1] = n_samples
    seams = (starts[1:] + stops[:-1]) / 2
    return starts, stops, np.array([-np.inf, *seams, np.inf])


def separate(separator: Separator, waveform: audio.Waveform) -> Iterator[np.ndarray]:
    """Separate a song's vocals, chunk by chunk.

    ``waveform`` is (n_samples,) float32 at :data:`SEPARATOR_RATE`; the network hears it on both its
    channels. Parts that make up (n_samples,) float32 come out, the mean of both channels.

    Neighbouring chunks are cross-faded with linear weights that sum to one. A network that hears no
    more than ``(OVERLAP_SECONDS - FADE_SECONDS) / 2`` around a sample gives what it would give of
    the whole song at once. Hybrid Demucs is normalised over all that it is given, so that it comes
    near that and no more: with random weights, on 30 s of three songs, to 10, 28 and 31 dB.
    """
    fade = FADE_SECONDS * SEPARATOR_RATE
    starts, stops, seams = place_chunks(len(waveform))
    overlap = np.zeros(0, np.float32)  # what earlier chunks have from where this one begins
    ends = np.append(starts[1:], len(waveform))  # up to where later chunks add nothing
    parts = _separate_chunks(separator.network, waveform, zip(starts, stops, strict=True))
    for part, start, stop, end, left, right in zip(
        parts, starts, stops, ends, seams[:-1], seams[1:], strict=True
    ):
        position = np.arange(start, stop)
        weight = np.clip(np.minimum(position - left, right - position) / fade + 0.5, 0, 1)
        part = weight.astype(np.float32) * part
        part[: len(overlap)] += overlap
        yield part[: end - start]
        overlap = part[end - start :]


def _separate_chunks(
    network: nn.Module, waveform: audio.Waveform, chunks: Iterable[tuple[int, int]]
) -> Iterator[np.ndarray]:
    """Yield the vocals of each chunk, given by its first sample and the one after its last."""
    device = next(network.parameters()).device
    shortest = round(MIN_SECONDS * SEPARATOR_RATE)
    for length, alike in groupby(chunks, lambda chunk: chunk[1] - chunk[0]):  # the last may differ
        while together := list(islice(alike, CHUNKS_TOGETHER[device.type])):
            mono = torch.from_numpy(np.stack([waveform[slice(*chunk)] for chunk in together]))
            padded = F.pad(mono.to(device), (0, max(0, shortest - length)))
            with torch.inference_mode():
                sources = network(padded[:, None].expand(-1, 2, -1))
                parts = sources[:, SOURCES.index("vocals"), :, :length].mean(dim=1).cpu().numpy()
            yield from parts


def computed_ahead(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same, the next one computed meanwhile: a GPU separates faster than this encodes."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, parts, None)
        try:
            while (part := coming.result()) is not None:
                coming = thread.submit(next, parts, None)
                yield part
        finally:
            del coming  # an error in it knows this frame, and both the whole song


def read_finished(output: Path, settings: Settings) -> dict[str, str]:
    """Read of which songs a folder holds the vocals; refuse one of other things, or settings."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a folder")
    # A lock alone is what a run leaves that was stopped at its very beginning.
    if not output.exists() or all(path.name.startswith(".") for path in output.iterdir()):
        return {}
    try:
        made = parse_json((output / "vocals.json").read_bytes(), Vocals)
    except (OSError, ValueError):
        raise UserError(
            f"{output} holds something else than separated vocals, or its vocals.json is damaged: "
            "name another folder, or delete this one"
        ) from None
    if other := differences(made.settings, settings):
        raise UserError(
            f"{output} holds vocals of other settings ({'; '.join(other)}): delete it, or name "
            "another folder"
        )
    return made.songs


def separate_songs(data_dir: Path, output: Path, separator: Separator) -> list[str]:
    """Separate all songs of a data folder whose vocals are not there yet; return failures, and why.

    ``output`` is missing, empty, or was made by this function with the same weights; anything else
    in it is a ``UserError``, and so are songs that are not there.
    """
    songs, has_test = [], (data_dir / "test").is_dir()
    # A grader's folder has no lists.
    if not has_test or any((data_dir / f"{split}.json").exists() for split in dataset.SPLITS):
        songs = [song for split in dataset.SPLITS for song in dataset.read_split(data_dir, split)]
    if has_test:
        test_files = dataset.read_test(data_dir).values()
        songs += map(dataset.as_test_song, test_files)
    settings = Settings(weights=separator.weights)
    read_finished(output, settings)  # before anything is put into a folder of another's
    with only_writer(output):
        finished = read_finished(output, settings)
        keys = dataset.content_keys(songs)
        missing = [
            song
            for song in songs
            if finished.get(song.path) != keys[song.file] or not (output / song.path).is_file()
        ]
        print(f"vocals: {len(songs) - len(missing)} of {len(songs)} songs are in {output}")
        # What is of a song's former file goes first: no stop can leave it under the song's name.
        for song in missing:
            finished.pop(song.path, None)
            (output / song.path).unlink(missing_ok=True)

        def record() -> None:
            command, versions = runtime.command(), runtime.versions()
            made = Vocals(settings=settings, command=command, versions=versions, songs=finished)
            write_record(output / "vocals.json", made)

        record()
        failures = []
        decode = partial(audio.open_song, sample_rate=SEPARATOR_RATE)
        # One process decodes, a few songs ahead.
        waveforms = map_songs([song.file for song in missing], decode, workers=1, label="vocals")
        for song, waveform in zip(missing, waveforms, strict=True):
            try:
                vocals = computed_ahead(_vocals(song.file, waveform, separator))
                audio.write_blocks(output / song.path, audio.resample(vocals, SEPARATOR_RATE))
            except audio.AudioError as error:
                failures.append(str(error))
            else:
                finished[song.path] = keys[song.file]
                record()
    return failures


def _vocals(
    file: Path, waveform: audio.Waveform | audio.AudioError, separator: Separator
) -> Iterator[np.ndarray]:
    """Separate what could be decoded; refuse what has no sound, or gives no finite one."""
    if isinstance(waveform, audio.AudioError):
        raise waveform
    if len(waveform) < SHORTEST:
        raise audio.AudioError(file, "is too short")
    for part in separate(separator, waveform):
        if not np.isfinite(part).all():
            raise audio.AudioError(file, "makes the separator give NaN or infinity")
        yield part


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "data_dir", type=Path, metavar="DATA_DIR", help="data folder, or one with test/ alone"
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="folder to make")
    parser.add_argument(
        "--weights",
        metavar="PATH",
        default=str(fetch.HDEMUCS.path()),
        help=f"Hybrid Demucs's weights, or '{UNTRAINED}' to try the code without them",
    )
    cli.add_device_option(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_args(argv)
    started = time.monotonic()
    device = runtime.choose_device(args.device)
    torch.backends.cudnn.allow_tf32 = True  # an MP3 loses more than its rounding
    separator = load_separator(args.weights, device)
    failures = separate_songs(args.data_dir, args.output_dir, separator)
    untrained = separator.weights.startswith(UNTRAINED)
    note = ": no vocals, of an UNTRAINED separator" if untrained else ""
    print(f"{args.output_dir} done in {time.monotonic() - started:.0f} s{note}")
    if failures:
        print(f"error: {len(failures)} songs could not be separated:", file=sys.stderr)
        print(*failures, sep="\n", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    runtime.run(main)
