"""File -> mono float32 at a given rate, and back. The only place that decodes.

Decoding is soundfile's (libsndfile: MP3, FLAC, Ogg, WAV, ...), resampling is soxr's. Both work on
blocks, so that memory grows with what is asked for and never with the file.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import soxr

from artist20 import UserError, printable
from artist20.artifacts import atomic_path

SAMPLE_RATE = 16_000  # Hz; artist20's own
BLOCK_SECONDS = 10.0
WHOLE_BLOCKS = 60  # of songs that are kept as a whole: 38 MB at 16 kHz, where 3 hours take 0.7 GB
MAX_BLOCK = 2**24  # numbers decoded at a time, of all channels: 10 s of eight at 192 kHz
RATES = (1_000, 1_000_000)  # Hz; a header that says less or more would ask for all memory
MAX_LEVEL = 1e6  # integers written as floats are read; what squares to infinity is refused
CHANGED = "has changed while it was read"
EXTENSIONS = (".mp3", ".flac", ".ogg", ".wav", ".m4a")

STREAMED_WAV = 0xFFFF0000  # bytes of data that stand for "to the end" where a WAV was streamed
MPEG_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1
MP3_KBITS = (  # of layer III: of MPEG-2 and 2.5, and of MPEG-1
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)

# 64 kbit/s at 16 kHz. At the 32 kbit/s of artist20's own songs there is no room for the header that
# tells a decoder where the music begins: it would come back 1105 samples late.
MP3_CODING = {
    "format": "MP3",
    "subtype": "MPEG_LAYER_III",
    "bitrate_mode": "CONSTANT",
    "compression_level": 0.63,
}


class _Sequential(soundfile.SoundFile):
    """A file that is only read forwards.

    soundfile seeks after every block that it reads from a seekable file. For MP3 that costs a
    second decoding of the frames before, and libmpg123 complains about each on stderr.
    """

    def seekable(self) -> bool:
        return False


class AudioError(UserError):
    """A file that cannot be decoded, or that holds no sound. The message names it.

    Parameters
    ----------
    path : Path
        The file.
    reason : str
        What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # as they are: workers send it by pickle
        self.reason = reason

    def __str__(self) -> str:
        """Return the file's name and the reason, in one line."""
        path, reason = self.args
        return f"{printable(path)} {reason}"


def read_blocks(path: Path, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Decode a file block by block.

    Parameters
    ----------
    path : Path
        Any file that libsndfile reads. Channels are averaged.
    sample_rate : int
        Rate of the result in Hz; the file is resampled where its own differs.

    Yields
    ------
    np.ndarray
        (n_samples,) float32, about ten seconds, full scale at 1.

    Raises
    ------
    AudioError
        If the file cannot be decoded, holds NaN, infinity or no sample, or samples beyond
        :data:`MAX_LEVEL`, or has a sample rate outside :data:`RATES`.
    """
    n_samples = 0
    try:
        if not path.is_file():  # a pipe would never end
            raise AudioError(path, "is no file")
        path.open("rb").close()  # libsndfile would not say that it may not
        with _Sequential(os.fsencode(path)) as file:
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise AudioError(path, f"has a sample rate of {file.samplerate} Hz")
            blocks = _decode(path, file)
            if file.samplerate != sample_rate:
                blocks = resample(blocks, file.samplerate, sample_rate)
            for waveform in blocks:
                n_samples += len(waveform)
                if len(waveform):
                    yield waveform
    except (soundfile.LibsndfileError, OSError) as error:
        where = f" beyond {n_samples / sample_rate:.0f} s" if n_samples else ""
        raise AudioError(path, f"cannot be decoded{where}: {_reason(error)}") from None
    if n_samples == 0:
        raise AudioError(path, "holds no audio")


def resample(
    blocks: Iterable[np.ndarray], sample_rate: int, to_rate: int = SAMPLE_RATE
) -> Iterator[np.ndarray]:
    """Bring a waveform to another rate, block by block.

    Parameters
    ----------
    blocks : iterable of np.ndarray
        (n_samples,) float32 each.
    sample_rate, to_rate : int
        Their rate and that of the result in Hz.

    Yields
    ------
    np.ndarray
        (n_samples,) float32, one for every block and one more; a short one may be empty.
    """
    resampler = soxr.ResampleStream(sample_rate, to_rate, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _decode(path: Path, file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """Yield blocks of the mean over channels: (n_samples,) float32 at the file's own rate."""
    block_size = min(int(BLOCK_SECONDS * file.samplerate), MAX_BLOCK // file.channels)
    while len(block := file.read(block_size, dtype="float32", always_2d=True)):
        waveform = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        if not np.isfinite(waveform).all():
            raise AudioError(path, "holds samples that are NaN or infinite")
        if np.abs(waveform).max() > MAX_LEVEL:
            raise AudioError(path, f"holds samples beyond {MAX_LEVEL:g}; full scale is 1")
        yield waveform


def load(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decode a whole file: (n_samples,) float32. Raises as :func:`read_blocks` does."""
    return _joined(read_blocks(path, sample_rate))


class LongSong:
    """A song that is too long to be kept: its waveform is decoded where slices of it are taken.

    Slices in the order of their beginnings, as windows over the song are, take one pass through
    the file; a slice that begins before the last one starts another.

    Parameters
    ----------
    path : Path
        The file.
    sample_rate : int
        Rate of the slices in Hz.
    n_samples : int
        The song's length at that rate.

    Raises
    ------
    AudioError
        If the file is gone.
    """

    def __init__(self, path: Path, sample_rate: int, n_samples: int) -> None:
        self.path = path
        self._version = _version(path)
        self.sample_rate = sample_rate
        self.n_samples = n_samples
        self._blocks: Iterator[np.ndarray] = iter(())
        self._first = n_samples  # where the last slice began
        self._held = np.empty(0, np.float32)  # all that is decoded from there on

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.n_samples

    def __getitem__(self, part: slice) -> np.ndarray:
        """Decode a slice in steps of 1: (n_samples,) float32.

        Raises
        ------
        AudioError
            As :func:`read_blocks` does, or if the file has become another.
        ValueError
            For other steps.
        """
        start, stop, step = part.indices(self.n_samples)
        if step != 1:
            raise ValueError("a song is read in steps of 1")
        stop = max(start, stop)
        if start < self._first:
            self._blocks = read_blocks(self.path, self.sample_rate)
            self._first, self._held = 0, self._held[:0]
        parts, end = [self._held[start - self._first :]], self._first + len(self._held)
        while end < stop:
            block = next(self._blocks, None)
            if block is None:
                raise AudioError(self.path, CHANGED)
            end += len(block)
            if end > start:
                parts.append(block[-(end - start) :])
        if _version(self.path) != self._version:
            raise AudioError(self.path, CHANGED)
        self._first, self._held = start, np.concatenate(parts)
        return self._held[: stop - start]


def _version(path: Path) -> tuple[int, int]:
    """Tell a file from what may replace it: its size, and when it was written."""
    try:
        status = path.stat()
    except OSError:
        raise AudioError(path, CHANGED) from None
    return status.st_size, status.st_mtime_ns


Waveform = np.ndarray | LongSong


def open_song(path: Path, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Decode a whole file, and keep it unless it is long.

    Parameters
    ----------
    path, sample_rate
        See :func:`read_blocks`, which says what is raised, too.

    Returns
    -------
    np.ndarray or LongSong
        (n_samples,) float32, or of songs beyond about ten minutes what has the same length and the
        same slices.
    """
    blocks = read_blocks(path, sample_rate)
    beginning = _joined(islice(blocks, WHOLE_BLOCKS))
    n_more = sum(len(block) for block in blocks)
    return LongSong(path, sample_rate, len(beginning) + n_more) if n_more else beginning


def write(path: Path, waveform: np.ndarray) -> None:
    """Write a waveform, (n_samples,) float32: see :func:`write_blocks`."""
    write_blocks(path, [waveform])


def write_blocks(path: Path, blocks: Iterable[np.ndarray]) -> None:
    """Write a file in the format that its suffix names, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    blocks : iterable of np.ndarray
        (n_samples,) float32 at :data:`SAMPLE_RATE`, full scale at 1. MP3 and Ogg keep what lies
        beyond; FLAC and WAV, of 16 bits, cut it off.

    Raises
    ------
    UserError
        If it cannot be written. What ``blocks`` raises goes through, and leaves no file.
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
        raise UserError(f"{path} cannot be written ({_reason(error)})") from None


def duration(path: Path) -> float:
    """Length in seconds, found by decoding the file: headers of MP3s only estimate it."""
    return sum(len(block) for block in read_blocks(path)) / SAMPLE_RATE


def missing_seconds(path: Path, decoded: float) -> float:
    """Tell how much shorter a decoded file is than its header says: it was cut off, or is damaged.

    An MP3 says it in a Xing or Info frame, a WAV in the size of its data; where an MP3 has no such
    frame, and for Ogg, nothing can be known and the answer is 0. A FLAC that was cut off cannot be
    decoded at all.

    Parameters
    ----------
    path : Path
        A file that :func:`read_blocks` can read.
    decoded : float
        Its :func:`duration`.
    """
    with soundfile.SoundFile(os.fsencode(path)) as file:
        announced = file.frames / file.samplerate
        if file.format == "MP3" and not re.search(b"Xing|Info", _behind_tag(path)[:4096]):
            return 0.0  # what libsndfile says is guessed from the file's size
        sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if sizes and int(sizes[1]) < STREAMED_WAV:
        announced *= int(sizes[1]) / int(sizes[2])
    return max(0.0, announced - decoded)


def ends_within_a_frame(path: Path) -> bool:
    """Tell whether an MP3's last frame is incomplete, as it is in most that were cut off.

    Frames are followed by the lengths that their headers give (ISO/IEC 11172-3 and 13818-3, layer
    III). False also where that cannot be done to the end: other formats, free bit rates, garbage.
    """
    data, position = _behind_tag(path), 0
    while position + 4 <= len(data):
        header = int.from_bytes(data[position : position + 4])
        version, layer = header >> 19 & 3, header >> 17 & 3
        bit_rate, rate = header >> 12 & 15, header >> 10 & 3
        if header >> 21 != 0x7FF or version == 1 or layer != 1 or rate == 3 or bit_rate in (0, 15):
            return False
        first = version == 3  # MPEG-1; its halves and quarters of the rate are MPEG-2 and 2.5
        sample_rate = MPEG_RATES[rate] >> (3 - version if version else 2)
        length = (144 if first else 72) * 1000 * MP3_KBITS[first][bit_rate - 1] // sample_rate
        position += length + (header >> 9 & 1)
    return position > len(data) or data[position:].startswith(b"\xff")


def _joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    waveform = np.empty(0, np.float32)
    for block in blocks:
        first = len(waveform)
        # In its place: blocks beside the whole would take twice the memory, of hours 1.4 GB.
        waveform.resize(first + len(block), refcheck=False)
        waveform[first:] = block
    return waveform


def _behind_tag(path: Path) -> bytes:
    """Read a file from behind its ID3v2 tag, if it has one."""
    data = path.read_bytes()
    if not data.startswith(b"ID3"):
        return data
    return data[10 + sum(byte << 7 * (3 - i) for i, byte in enumerate(data[6:10])) :]


def _reason(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        reason = error.error_string.rstrip(". ")
        # What libsndfile says of a file named .mp3 that is there, and no MP3.
        return "Format not recognised" if reason.startswith("File does not exist") else reason
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
