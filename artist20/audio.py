"""File -> mono float32 at a given rate, and back. The only place that decodes.

Decoding is soundfile's (libsndfile: MP3, FLAC, Ogg, WAV, ...), resampling is soxr's. Both work on
blocks, so that memory grows with what is asked for and never with the file.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from artist20 import UserError
from artist20.artifacts import atomic_path

SAMPLE_RATE = 16_000  # Hz; artist20's own
BLOCK_SECONDS = 10.0
MAX_LEVEL = 1e6  # integers written as floats are read; what squares to infinity is refused
EXTENSIONS = (".mp3", ".flac", ".ogg", ".wav", ".m4a")

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
    """A file that cannot be decoded, or that holds no sound. The message names it."""


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
        :data:`MAX_LEVEL`.
    """
    if not path.is_file():
        raise AudioError(f"{path} is no file")
    n_samples = 0
    try:
        with _Sequential(path) as file:
            resampler = None
            if file.samplerate != sample_rate:
                resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
            block_size = int(BLOCK_SECONDS * file.samplerate)
            while True:
                block = file.read(block_size, dtype="float32", always_2d=True)
                last = len(block) == 0
                waveform = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
                if not np.isfinite(waveform).all():
                    raise AudioError(f"{path} holds samples that are NaN or infinite")
                if np.abs(waveform).max(initial=0) > MAX_LEVEL:
                    raise AudioError(f"{path} holds samples beyond {MAX_LEVEL:g}; full scale is 1")
                if resampler is not None:
                    waveform = resampler.resample_chunk(waveform, last=last)
                n_samples += len(waveform)
                if len(waveform):
                    yield waveform
                if last:
                    break
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{path} cannot be decoded: {_reason(error)}") from None
    if n_samples == 0:
        raise AudioError(f"{path} holds no audio")


def load(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Decode a whole file: (n_samples,) float32. Raises as :func:`read_blocks` does."""
    return np.concatenate(list(read_blocks(path, sample_rate)))


def write(path: Path, waveform: np.ndarray) -> None:
    """Write a file in the format that its suffix names, whole or not at all.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    waveform : np.ndarray
        (n_samples,) float32 at :data:`SAMPLE_RATE`, full scale at 1. MP3 and Ogg keep what lies
        beyond; FLAC and WAV, of 16 bits, cut it off.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    coding = MP3_CODING if path.suffix.lower() == ".mp3" else {}
    try:
        with atomic_path(path) as temporary:
            soundfile.write(temporary, waveform, SAMPLE_RATE, **coding)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path} cannot be written ({_reason(error)})") from None


def duration(path: Path) -> float:
    """Length in seconds, found by decoding the file: headers of MP3s only estimate it."""
    return sum(len(block) for block in read_blocks(path)) / SAMPLE_RATE


def _reason(error: Exception) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        reason = error.error_string.rstrip(". ")
        # What libsndfile says of a file named .mp3 that is there, and no MP3.
        return "Format not recognised" if reason.startswith("File does not exist") else reason
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
