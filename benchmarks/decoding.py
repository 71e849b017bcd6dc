"""How fast songs are decoded, against soundfile alone, and resampled, soxr against FFmpeg."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
import soundfile

from artist20 import audio, cli, dataset, runtime

RATE, HIGH, SECONDS, REPEATS = audio.SAMPLE_RATE, 44_100, 180, 3
VBR = {**audio.MP3_CODING, "bitrate_mode": "VARIABLE"}
KINDS = ((RATE, 1, ".mp3", audio.MP3_CODING), (HIGH, 2, ".mp3", VBR), (HIGH, 2, ".flac", {}))
SHARP = "16000:filter_size=160:linear_interp=1:filter_type=kaiser:kaiser_beta=12"


def straightforward(file: Path) -> Iterator[np.ndarray]:
    """Decode with soundfile and soxr; the errors that libmpg123 prints change no sample."""
    with soundfile.SoundFile(file) as song:
        blocks = song.blocks(10 * song.samplerate, dtype="float32", always_2d=True)
        mono = (block.mean(axis=1) for block in blocks)
        yield from mono if song.samplerate == RATE else audio.resample(mono, song.samplerate)


def by_ffmpeg(blocks: Iterable[np.ndarray], options: str = "16000") -> Iterator[np.ndarray]:
    """Bring 44.1 kHz to 16 kHz by FFmpeg's aresample."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=HIGH, format="flt", layout="mono")
    ends = graph.add("aresample", options), graph.add("abuffersink")
    graph.link_nodes(source, *ends).configure()
    for block in blocks:
        frame = av.AudioFrame.from_ndarray(block[None], "flt", "mono")
        frame.sample_rate = HIGH
        graph.push(frame)
    graph.push(None)
    with suppress(EOFError):
        while True:
            yield graph.pull().to_ndarray()[0]


def compare(title: str, ways: dict[str, Callable], songs: list) -> None:
    """Let ways take turns; print how fast they are, and their ratios to the first."""
    speeds = np.empty((REPEATS, len(ways)))
    for row in speeds:
        for i, way in enumerate(ways.values()):
            started = time.perf_counter()
            n_samples = sum(len(block) for song in songs for block in way(song))
            row[i] = n_samples / RATE / (time.perf_counter() - started)
    print(title)
    for name, column in zip(ways, speeds.T, strict=True):
        ratio = "{:.2f} ({:.2f} to {:.2f})".format(*np.quantile(column / speeds[:, 0], [0.5, 0, 1]))
        print(f"  {name:15}{np.median(column):7.0f} times real time, ratio {ratio}")


def main() -> None:
    """Compare ways to decode, then ways to resample."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, help="take 20 of its songs for the first kind")
    data_dir = parser.parse_args().data_dir
    decoders = {"soundfile": straightforward, "artist20.audio": audio.read_blocks}
    with tempfile.TemporaryDirectory() as folder:
        for rate, n_channels, suffix, options in KINDS:
            song = np.random.default_rng(0).normal(0, 0.1, (SECONDS * rate, n_channels))
            song += np.sin(np.arange(len(song)) / 9)[:, None] / 2
            soundfile.write(file := Path(folder, f"song{suffix}"), song, rate, **options)
            given = dataset.read_split(data_dir, "train", 20) if data_dir and rate == RATE else []
            files = [song.file for song in given] or [file] * 3
            theirs, ours = (np.concatenate([*way(files[0])]) for way in decoders.values())
            gap = np.abs(ours[: len(theirs)] - theirs[: len(ours)]).max()
            compare(f"{rate} Hz {suffix}, samples differ by {gap:.1g} at most", decoders, files)
    ways = {"FFmpeg": by_ffmpeg, "FFmpeg, sharp": lambda blocks: by_ffmpeg(blocks, SHARP)}
    ways["soxr"] = lambda blocks: audio.resample(blocks, HIGH)
    phases = 2 * np.pi * np.outer((7500, 8200), np.arange(SECONDS * HIGH) / HIGH)
    tones = [np.split(tone, 18) for tone in np.sin(phases).astype(np.float32)]
    compare("44.1 kHz to 16 kHz; of tones at 7500 and 8200 Hz the first should stay", ways, tones)
    for name, way in ways.items():
        levels = (np.concatenate([*way(tone)])[RATE:-RATE].std() * 2**0.5 for tone in tones)
        print(f"  {name:15}", *(f"{20 * np.log10(level):7.1f} dB" for level in levels))


if __name__ == "__main__":
    runtime.run(main)
