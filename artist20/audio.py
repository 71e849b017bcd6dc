"""File -> mono float32 at a given rate, and back. The only place that decodes.

Decoding is FFmpeg's (through PyAV: MP3, AAC, FLAC, Ogg, Opus, WAV, WMA, ...), resampling is soxr's.
Both work on blocks, so that memory grows with what is asked for and never with the file.
"""

import io
import os
import warnings
import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
import soxr
from av.container import InputContainer

from artist20 import Note, UserError, printable
from artist20.files import atomic_path

SAMPLE_RATE = 16_000  # Hz; artist20's own
BLOCK_SECONDS = 10.0
WHOLE_BLOCKS = 60  # of songs that are kept as a whole: 38 MB at 16 kHz, where 3 hours take 0.7 GB
RATES = (1_000, 1_000_000)  # Hz; a broken header that says less or more would ask for all memory
MAX_LEVEL = 1e6  # integers written as floats are read; what squares to infinity is refused
SILENCE = 2.0**-15  # highest sample of a silent song: the smallest step of 16 bits
CANCELLED = 1e-4  # power of the channels' mean relative to theirs: 40 dB below
MAX_GAP = 0.02  # seconds between two FLAC or Ogg frames; FFmpeg drops damaged ones without a word
MAX_END = 2**13  # bytes before the first frame, or behind the last, that are not looked at
MAX_JUNK = 2**26  # bytes read in search of another frame: FFmpeg holds them all in memory
TAGS = (b"APETAGEX", b"LYRICS", b"ID3", b"TAG")  # how they begin
UNKNOWN_LENGTH = 0x7FFF_0000  # bytes; WAVs written to a pipe announce more than this
SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}

# Names that promise audio, so that a file of such a name is a song even if it turns out broken.
# Any other file is a song if FFmpeg finds audio in it.
SUFFIXES = (
    *(".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".caf", ".dsf", ".flac"),
    *(".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mp4", ".mpc", ".oga", ".ogg", ".opus", ".tta"),
    *(".wav", ".webm", ".wma", ".wv"),
)

# 64 kbit/s at 16 kHz. At the 32 kbit/s of artist20's own songs there is no room for the header that
# tells a decoder where the music begins: it would come back 1105 samples late.
MP3_CODING = dict(
    format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.63
)


class AudioError(UserError):
    """A file that cannot be decoded, or holds no sound: one line of its name and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # as they are: workers send it by pickle
        self.reason = reason

    def __str__(self) -> str:
        """Return the file's name and the reason, in one line."""
        return f"{printable(self.args[0])} {self.reason}"


class AudioNote(Note):
    """What is odd about a song: ``"damaged"`` in parts, or ``"silent"`` throughout."""

    def __init__(self, path: Path, reason: str, kind: Literal["damaged", "silent"]) -> None:
        super().__init__(f"{printable(path)} {reason}")
        self.reason = reason
        self.kind = kind


def read_blocks(path: Path, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Decode a file block by block, following changes of rate and channels within it.

    Yields (n_samples,) float32 of about ten seconds, full scale at 1: the mean of the channels, of
    several audio streams the best. Damaged frames are skipped. What is odd about a file is an
    :class:`AudioNote`, given when it has been read to its end: lost parts, silence throughout,
    channels that cancel each other out.

    Raises :class:`AudioError` if the file cannot be decoded, holds no sample, NaN or samples beyond
    :data:`MAX_LEVEL`, or has a sample rate outside :data:`RATES`.
    """
    n_samples = 0
    try:
        for rate, stretch in groupby(_mono(path), key=itemgetter(0)):
            blocks: Iterator[np.ndarray] = (block for _, block in stretch)
            if rate != sample_rate:
                blocks = resample(blocks, rate, sample_rate)
            for waveform in blocks:
                n_samples += len(waveform)
                if len(waveform):
                    yield waveform
    except (av.FFmpegError, OSError) as error:
        where = f" beyond {n_samples / sample_rate:.0f} s" if n_samples else ""
        raise AudioError(path, f"cannot be decoded{where}: {error.strerror}") from None
    if n_samples == 0:
        raise AudioError(path, "holds no audio")


def resample(
    blocks: Iterable[np.ndarray], sample_rate: int, to_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """Resample blocks of (n_samples,) float32: one more comes out, and short ones may be empty."""
    resampler = soxr.ResampleStream(sample_rate, to_rate, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


class _Source(io.FileIO):
    """A file as FFmpeg reads it, which expects no exceptions and seeks frames without end."""

    since_frame = 0  # bytes that were read since the last one

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) if self.since_frame < MAX_JUNK else b""
        self.since_frame += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Source, InputContainer]]:
    """Open a regular file, and nothing that it names: a playlist could name any file or host."""
    if not path.is_file():  # a pipe would never end
        raise AudioError(path, "is no file")
    if not path.stat().st_size:
        raise AudioError(path, "is empty")
    options = {"protocol_whitelist": "none"}
    with (
        _Source(path) as source,
        av.open(source, "r", metadata_errors="ignore", options=options) as container,
    ):
        yield source, container


def _frames(path: Path) -> Iterator[tuple[float, av.AudioFrame]]:
    """Yield what can be decoded, with the second that it begins at; at the end, note what was not.

    Lost are packets that fail between others that do not, time between frames that say when they
    are due, an end that FFmpeg does not get to, and long stretches of bytes without a frame, in
    formats that are nothing but frames. Tags may stand before, between and behind them.
    """
    n_bad = n_damaged = start = end = 0
    seconds = damaged_at = 0.0
    due = None  # when the next frame belongs
    notes = []
    with _opened(path) as (source, container):
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            raise AudioError(path, "holds no audio")
        numbered = container.format.name in ("flac", "ogg")
        only_frames = numbered or container.format.name in ("mp3", "aac")
        size = path.stat().st_size
        try:
            for packet in container.demux(stream):
                try:
                    frames = stream.decode(packet)
                except av.FFmpegError:
                    n_bad += 1
                    continue
                if not frames:
                    continue
                if numbered and frames[0].time is not None:
                    if due is not None and frames[0].time - due > MAX_GAP:
                        n_bad = max(n_bad, 1)
                    due = frames[0].time + sum(f.samples / f.sample_rate for f in frames)
                position = packet.pos or 0
                if not seconds:
                    start = 0 if numbered else position + packet.size  # headers may hold pictures
                elif n_bad and not _is_tag(path, end, position):
                    damaged_at = damaged_at or seconds
                    n_damaged += n_bad
                n_bad, end = 0, max(end, position + packet.size)
                source.since_frame = 0
                for frame in frames:
                    yield seconds, frame
                    seconds += frame.samples / frame.sample_rate
        except av.FFmpegError as error:
            if not seconds:
                raise
            notes.append(f"cannot be decoded beyond {seconds:.1f} s: {error.strerror}")
            end = size
    if n_bad and not seconds:
        raise AudioError(path, "cannot be decoded: FFmpeg can read none of its frames")
    if n_damaged:
        what = "frame" if n_damaged == 1 else "frames"
        notes.append(f"has {n_damaged} damaged {what}, the first at {damaged_at:.1f} s: skipped")
    for what, first, last in (("begins with", 0, start), ("ends in", end, size)):
        if only_frames and last - first > MAX_END and not _is_tag(path, first, last):
            notes.append(f"{what} {last - first} bytes without sound")
    for note in notes:
        warnings.warn(AudioNote(path, note, "damaged"), stacklevel=1)


def _is_tag(path: Path, start: int, stop: int) -> bool:
    """Return whether a tag begins near either end of a stretch of a file."""
    with path.open("rb") as file:
        found = b""
        for place in (start, max(start, stop - MAX_END)):
            file.seek(place)
            found += file.read(min(MAX_END, max(0, stop - place)))
    return any(tag in found for tag in TAGS)


def _block_and_form(of: tuple[float, av.AudioFrame]) -> tuple[object, ...]:
    """Return what frames share that are put together: about ten seconds of one rate and form."""
    start, frame = of
    return start // BLOCK_SECONDS, frame.sample_rate, frame.layout.nb_channels, frame.format.name


def _mono(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield rate and mean over channels, (n_samples,) float32; at the end, note silence."""
    peak = -1.0  # highest sample, if there are any
    of_mean = of_channels = 0.0  # energy of the mean, mean of the channels' energies
    for _, group in groupby(_frames(path), _block_and_form):
        frames = [frame for _, frame in group]
        rate, block = frames[0].sample_rate, _samples(frames)
        if not RATES[0] <= rate <= RATES[1]:
            raise AudioError(path, f"has a sample rate of {rate} Hz")
        waveform = block[0] if len(block) == 1 else block.mean(axis=0)
        highest = float(np.abs(waveform).max(initial=0))
        if not highest <= MAX_LEVEL:  # as NaN is not, either
            raise AudioError(path, f"holds NaN or samples beyond {MAX_LEVEL:g}; full scale is 1")
        peak = max(peak, highest)
        if len(block) > 1:
            of_mean += float(np.vdot(waveform, waveform))
            of_channels += float(np.einsum("ij,ij", block, block)) / len(block)
        yield rate, waveform
    if of_mean < CANCELLED * of_channels:
        reason = "is nearly silent: its channels cancel out"
        warnings.warn(AudioNote(path, reason, "silent"), stacklevel=1)
    elif 0 <= peak < SILENCE:
        warnings.warn(AudioNote(path, "is silent throughout", "silent"), stacklevel=1)


def _samples(frames: list[av.AudioFrame]) -> np.ndarray:
    """Join frames of one form: (n_channels, n_samples) float32, full scale at 1."""
    form, n_channels = frames[0].format, frames[0].layout.nb_channels
    kind = np.dtype(SAMPLE_TYPES[form.name.removesuffix("p")])
    n_planes, n_together = (n_channels, 1) if form.is_planar else (1, n_channels)
    planes = [  # of eight channels PyAV counts a ninth plane, which is not there
        [np.frombuffer(memoryview(of), kind, f.samples * n_together) for of in f.planes[:n_planes]]
        for f in frames
    ]
    samples = np.concatenate(planes, axis=1)
    if n_together > 1:
        samples = samples.reshape(-1, n_together).T
    if kind.kind == "f":
        with np.errstate(over="ignore"):  # to infinity, which is refused
            return samples.astype(np.float32, copy=False)
    full_scale = np.float32(2 ** (8 * kind.itemsize - 1))
    return samples.astype(np.float32) / full_scale - np.float32(kind.kind == "u")


def _tags(path: Path) -> dict[str, str] | None:
    """Return a file's tags, by names in lower case; None if it holds no audio."""
    try:
        with _opened(path) as (_, container):
            if (stream := container.streams.best("audio")) is None:
                return None
            tags = {**container.metadata, **stream.metadata}  # Ogg's are the stream's
    except (AudioError, av.FFmpegError, OSError):
        return None
    return {key.lower(): value for key, value in tags.items()}


def is_song(path: Path) -> bool:
    """Return whether a file is to be taken for a song: by its name, or because it holds audio."""
    return path.suffix.lower() in SUFFIXES or _tags(path) is not None


def artist_tag(path: Path) -> str | None:
    """Return the artist that a file's own tags name, if it can be read and they do."""
    tags = _tags(path) or {}
    return tags.get("album_artist") or tags.get("artist")


def announced_seconds(path: Path) -> float | None:
    """Return the seconds that a file's header announces, or FFmpeg estimates of its size."""
    # FFmpeg goes by the file's size, which a WAV that was cut off has lost.
    with suppress(wave.Error, EOFError), wave.open(os.fspath(path)) as song:
        n_bytes = song.getnframes() * song.getnchannels() * song.getsampwidth()
        if 0 < n_bytes < UNKNOWN_LENGTH:
            return song.getnframes() / song.getframerate()
    with _opened(path) as (_, container):
        return container.duration / av.time_base if container.duration else None


class LongSong:
    """A song of ``n_samples`` that is too long to be kept: slices of its waveform are decoded.

    Slices in the order of their beginnings, as windows over the song are, take one pass through
    the file; a slice that begins before the last one starts another.
    """

    def __init__(self, path: Path, sample_rate: int, n_samples: int) -> None:
        self.path = path
        self.sample_rate = sample_rate
        self.n_samples = n_samples
        self._blocks: Iterator[np.ndarray] = iter(())
        self._first = n_samples  # where the last slice began
        self._held = np.empty(0, np.float32)  # all that is decoded from there on

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.n_samples

    def __getitem__(self, part: slice) -> np.ndarray:
        """Decode a slice in steps of 1, (n_samples,) float32; raises as :func:`read_blocks`."""
        start, stop, step = part.indices(self.n_samples)
        if step != 1:
            raise ValueError("a song is read in steps of 1")
        stop = max(start, stop)
        if start < self._first:
            self._blocks = read_blocks(self.path, self.sample_rate)
            self._first, self._held = 0, self._held[:0]
        parts, end = [self._held[start - self._first :]], self._first + len(self._held)
        with warnings.catch_warnings(action="ignore", category=AudioNote):  # open_song has said it
            while end < stop:
                if (block := next(self._blocks, None)) is None:
                    raise AudioError(self.path, "has changed while it was read")
                end += len(block)
                if end > start:
                    parts.append(block[-(end - start) :])
        self._first, self._held = start, np.concatenate(parts)
        return self._held[: stop - start]


Waveform = np.ndarray | LongSong


def open_song(path: Path, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Decode a whole file: (n_samples,) float32. Raises as :func:`read_blocks` does.

    Songs beyond about ten minutes are not kept, but what has their length and slices.
    """
    blocks = read_blocks(path, sample_rate)
    beginning = np.concatenate([np.empty(0, np.float32), *islice(blocks, WHOLE_BLOCKS)])
    n_more = sum(len(block) for block in blocks)
    return LongSong(path, sample_rate, len(beginning) + n_more) if n_more else beginning


def write_blocks(path: Path, blocks: Iterable[np.ndarray]) -> None:
    """Write a file in the format that its suffix names, whole or not at all; make its folder.

    ``blocks`` are (n_samples,) float32 at :data:`SAMPLE_RATE`, full scale at 1: MP3 and Ogg keep
    what lies beyond; FLAC and WAV, of 16 bits, cut it off. What they raise leaves no file, either;
    what cannot be written is a ``UserError``.
    """
    if path.suffix[1:].upper() not in soundfile.available_formats():
        raise UserError(f"{path} cannot be written: there is no writer of {path.suffix} files")
    coding = MP3_CODING if path.suffix.lower() == ".mp3" else {}
    try:
        with atomic_path(path) as temporary:
            with soundfile.SoundFile(os.fsencode(temporary), "w", SAMPLE_RATE, 1, **coding) as file:
                for block in blocks:
                    file.write(block)
            # Whether there was space for what is written at closing, libsndfile does not say.
            size = temporary.stat().st_size
            with temporary.open("ab") as end:
                end.write(bytes(2**16))
                end.flush()
                end.truncate(size)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be written ({error.error_string})") from None


def to_mp3(waveform: Waveform) -> bytes:
    """Encode (n_samples,) float32 at 16 kHz as MP3 of 48 kbit/s, which every browser plays."""
    buffer, step = io.BytesIO(), int(BLOCK_SECONDS * SAMPLE_RATE)
    coding = MP3_CODING | {"compression_level": 0.74}
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, **coding) as file:
        for start in range(0, len(waveform), step):
            file.write(waveform[start : start + step])
    return buffer.getvalue()
