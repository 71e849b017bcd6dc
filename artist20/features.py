"""Task 1: waveform -> named frame features -> their statistics over time.

Definitions are librosa's at its defaults unless a docstring says otherwise; they are computed in
torch, in blocks of frames, on the CPU or a GPU.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor

from artist20 import UserError, audio, modulation, runtime
from artist20.audio import SAMPLE_RATE, Waveform
from artist20.cache import Cache
from artist20.files import check_is_file, read_array, sha256_file, write_array, write_rows
from artist20.results import Preprocessing, SongRecord, groups_of, read_record, write_record

N_FFT = 2048  # samples, 128 ms
HOP_LENGTH = 512  # samples, 32 ms
N_MELS = 128
N_MFCC = 20
N_CHROMA = 12
N_LOW_MEL = 12
DELTA_WIDTH = 9  # frames
ROLLOFF = 0.85  # share of the magnitude below the rolloff frequency
CONTRAST_FMIN = 200.0  # Hz, upper edge of the lowest band; the others are octaves above it
CONTRAST_BANDS = 6
CONTRAST_QUANTILE = 0.02
TOP_DB = 80.0  # dB below the song's loudest bin at which levels in dB are cut off
AMIN = 1e-10  # power below which levels in dB are not followed
BLOCK_FRAMES = {"cpu": 128, "cuda": 4096}  # computed at a time: what a core's cache or a GPU likes
UNIT_FRAMES = 156  # statistics are kept per unit of about 5 s, and merged to segments and songs
SHORT_WINDOWS = HOP_LENGTH // modulation.HOP_LENGTH  # of a hop
GROUP_UNITS = 12  # finished at a time, which bounds memory
UNIT_SECONDS = UNIT_FRAMES * HOP_LENGTH / SAMPLE_RATE

VERSION = 3  # of the definitions here: stored features of another version are not used

STATISTICS = ("mean", "std", "max", "min")

FAMILIES = {
    "mfcc": N_MFCC,
    "mfcc_delta": N_MFCC,
    "mfcc_delta2": N_MFCC,
    "mel": N_MELS,
    "chroma": N_CHROMA,
    "contrast": CONTRAST_BANDS + 1,
    "low_mel": N_LOW_MEL,
    "centroid": 1,
    "bandwidth": 1,
    "rolloff": 1,
    "mel_energy": 1,
    "rms": 1,
    "zero_crossing_rate": 1,
}

FRAME_FEATURES = [
    family if size == 1 else f"{family}_{i:0{len(str(size - 1))}d}"
    for family, size in FAMILIES.items()
    for i in range(size)
]
RAW_SIZES = {  # what is kept of a song's frames until its loudest one is known
    "mel_power": N_MELS,
    "chroma": N_CHROMA,
    "peaks": CONTRAST_BANDS + 1,
    "valleys": CONTRAST_BANDS + 1,
    "scalars": 5,
    "levels": SHORT_WINDOWS * modulation.N_BANDS,
}
N_STATISTICS = len(FRAME_FEATURES) * len(STATISTICS)
PAIRS = np.triu_indices(N_MFCC, k=1)  # of MFCCs

FEATURE_NAMES = [f"{name}_{stat}" for name in FRAME_FEATURES for stat in STATISTICS] + ["tempo"]
COVARIANCE_NAMES = [f"mfcc_cov_{i:02d}_{j:02d}" for i, j in zip(*PAIRS, strict=True)]
MODULATION_NAMES = [
    f"modulation_{i:02d}_{j:02d}"
    for i in range(modulation.N_BANDS)
    for j in range(modulation.N_RATES)
]
SEGMENT_NAMES = [*FEATURE_NAMES, *MODULATION_NAMES, *COVARIANCE_NAMES]
UNIT_NAMES = ["n_frames", *SEGMENT_NAMES]

TEMPO_WINDOW = 8 * SAMPLE_RATE // HOP_LENGTH  # frames of onset strength correlated with themselves
TEMPO_START = 120.0  # BPM that is likeliest before anything is heard
TEMPO_OCTAVES = 1.0  # standard deviation around it
TEMPO_MOST = 320.0  # BPM


def family_of(name: str) -> str:
    """Return the family of a feature: the longest family name that its own begins with."""
    families = [*FAMILIES, "tempo", "modulation", "mfcc_cov"]
    return max((family for family in families if name.startswith(family)), key=len)


def song_units(blocks: Iterable[Tensor]) -> np.ndarray:
    """Compute a song's statistics, unit by unit: (n_units, len(UNIT_NAMES)) float32.

    The waveform comes in blocks of any length, (n_samples,) float32 at :data:`SAMPLE_RATE`, on the
    device that is to compute. Of every frame, of which there are 1 + n_samples // HOP_LENGTH:

    - ``mfcc``, ``mfcc_delta``, ``mfcc_delta2``: 20 mel-frequency cepstral coefficients (Davis and
      Mermelstein 1980) and their first and second derivatives over 9 frames (Savitzky-Golay).
    - ``mel``: mel spectrogram in dB re 1, cut off 80 dB below the song's loudest bin.
    - ``chroma``: 12 pitch classes, each frame divided by its largest. Tuning is taken to be
      A4 = 440 Hz, where librosa would estimate it per song.
    - ``contrast``: level of the peaks over the valleys in dB in a lowest band and six octaves
      (Jiang et al. 2002).
    - ``low_mel``: power in the 12 lowest mel bins, not in dB.
    - ``centroid``, ``bandwidth``, ``rolloff`` (Hz): first and second moment of the magnitude
      spectrum, and the frequency below which 85 % of it lie.
    - ``mel_energy``: power summed over the mel bins.
    - ``rms``, ``zero_crossing_rate``: per frame of 2048 samples.

    Silent frames have centroid, bandwidth, rolloff, chroma and contrast 0 and -100 dB.

    Units are consecutive frames of the song, about :data:`UNIT_FRAMES` each, one unit at least. Per
    unit: its number of frames; mean, standard deviation, maximum and minimum over time of every
    frame feature; the whole song's tempo in BPM; the spectrum of each of 16 mel bands' level over
    time, in 12 bands from 2 to 120 Hz, in dB, -30 in silence (as McKinney and Breebaart 2003, who
    have four bands); the covariances of every two MFCCs (Mandel and Ellis 2005).
    """
    raw = [_block_features(block) for block in _padded_blocks(blocks)]
    loudest = _loudest(raw)
    n_frames = _n_frames(raw)
    n_units = max(1, round(n_frames / UNIT_FRAMES))
    sizes = [len(unit) for unit in np.array_split(np.arange(n_frames), n_units)]
    pairs = torch.triu_indices(N_MFCC, N_MFCC, 1, device=raw[0].device)
    rows, rises, first = [], [], 0
    for group in range(0, n_units, GROUP_UNITS):
        n = sizes[group : group + GROUP_UNITS]
        frames, levels, rise = _finish(raw, loudest, first, first + sum(n))
        first += sum(n)
        rises.append(rise)
        for unit, level in zip(frames.split(n, dim=1), levels.split(n, dim=1), strict=True):
            std, mean = torch.std_mean(unit, dim=1, correction=0)
            of_frames = torch.stack([mean, std, unit.amax(dim=1), unit.amin(dim=1)], dim=1)
            mfcc = unit[:N_MFCC] - mean[:N_MFCC, None]
            covariance = (mfcc @ mfcc.T / unit.shape[1])[*pairs]
            level = level.view(SHORT_WINDOWS, modulation.N_BANDS, -1).permute(1, 2, 0).flatten(1)
            parts = [of_frames, modulation.spectrum(level), covariance]
            rows.append(torch.cat([part.flatten() for part in parts]))
    song_tempo = tempo(_onset_strength(torch.cat(rises)))
    units = np.insert(torch.stack(rows).cpu().numpy(), N_STATISTICS, song_tempo, axis=1)
    return np.insert(units, 0, sizes, axis=1)


def cached_units(
    parent: Path, files: Mapping[str, Path], device: torch.device, workers: int
) -> tuple[Cache, dict[str, str]]:
    """Compute the :func:`song_units` of all songs that the cache lacks.

    ``parent`` is :func:`artist20.results.cache_dir`'s, and ``files`` are songs by the hash of their
    contents. On a GPU, workers decode and this process computes. Returns the cache, and by key what
    is wrong with the songs that cannot be read.
    """

    def on_device(_keys: list[str], waveforms: list[Waveform]) -> list[np.ndarray]:
        return [song_units(_pieces(waveform, device)) for waveform in waveforms]

    units = Cache(parent, "features", {"columns": UNIT_NAMES, "version": VERSION})
    on_cpu = device.type == "cpu"
    unreadable = units.fill(
        files,
        _units_of_file if on_cpu else audio.open_song,
        None if on_cpu else on_device,
        workers=workers,
        label="features",
    )
    return units, unreadable


def _units_of_file(file: Path) -> np.ndarray:
    """Compute in a worker process, while the song is decoded: memory never holds its waveform."""
    return song_units(map(torch.from_numpy, audio.read_blocks(file)))


def _pieces(waveform: Waveform, device: torch.device) -> Iterator[Tensor]:
    size = BLOCK_FRAMES["cuda"] * HOP_LENGTH
    for first in range(0, len(waveform), size):
        yield runtime.to_device(torch.from_numpy(waveform[first : first + size]), device)


def merge_units(units: np.ndarray, n_segments: int) -> np.ndarray:
    """Merge a song's units into segments: (n_segments, len(SEGMENT_NAMES)) float32.

    There are at most as many segments as units, which are shared out as evenly as they can be; one
    has the song's own statistics. Statistics are those of the segments' frames, and modulations the
    means of the units'.
    """
    return np.stack([_merge(segment) for segment in np.array_split(units, n_segments)])


def _merge(units: np.ndarray) -> np.ndarray:
    ends = np.cumsum([1, N_STATISTICS, 1, len(MODULATION_NAMES)])
    columns = np.split(units.astype(np.float64), ends, axis=1)
    n_frames, statistics, tempo_, modulations, covariance = columns
    weight = n_frames / n_frames.sum()
    statistics = statistics.reshape(len(units), -1, len(STATISTICS))
    mean, std, highest, lowest = np.moveaxis(statistics, 2, 0)
    merged_mean = (weight * mean).sum(axis=0)
    between = mean - merged_mean
    variance = (weight * (std**2 + between**2)).sum(axis=0)
    between = between[:, PAIRS[0]] * between[:, PAIRS[1]]  # MFCCs are the first columns
    merged = [merged_mean, np.sqrt(variance), highest.max(axis=0), lowest.min(axis=0)]
    statistics = np.stack(merged, axis=1).ravel()
    modulations = (weight * modulations).sum(axis=0)
    covariance = (weight * (covariance + between)).sum(axis=0)
    return np.concatenate([statistics, tempo_[0], modulations, covariance]).astype(np.float32)


def tempo(onset_strength: Tensor) -> float:
    """Estimate the tempo in BPM, as librosa.feature.tempo does (Ellis 2007).

    The onset strength is correlated with itself in windows of 8 s around every frame; the mean
    over the song is weighted by how likely a tempo is beforehand, a normal distribution on the
    octaves around 120 BPM. Where nothing ever begins, as in silence, that alone decides: 117.1875
    BPM, the nearest that frames of 32 ms can express.
    """
    n_frames = len(onset_strength)
    # As in librosa, the strength falls to zero in a straight line beyond both ends.
    fade = torch.linspace(0, 1, TEMPO_WINDOW // 2 + 1, device=onset_strength.device)[:-1]
    head, tail = onset_strength[:1] * fade, onset_strength[-1:] * fade.flip(0)
    padded = torch.cat([head, onset_strength, tail]).double()
    window = torch.hann_window(TEMPO_WINDOW, dtype=torch.float64, device=padded.device)
    total = padded.new_zeros(TEMPO_WINDOW)
    windows = padded.unfold(0, TEMPO_WINDOW, 1)[:n_frames]
    for chunk in windows.split(BLOCK_FRAMES[padded.device.type]):
        spectrum = torch.fft.rfft(chunk * window, n=2 * TEMPO_WINDOW)
        correlation = torch.fft.irfft(modulation.squared(spectrum))[:, :TEMPO_WINDOW]
        largest = correlation.abs().amax(dim=1, keepdim=True)
        smallest = torch.finfo(torch.float32).tiny
        total += torch.where(largest < smallest, correlation, correlation / largest).sum(dim=0)
    bpm = 60 * SAMPLE_RATE / HOP_LENGTH / np.arange(1, TEMPO_WINDOW)
    prior = -0.5 * ((np.log2(bpm) - np.log2(TEMPO_START)) / TEMPO_OCTAVES) ** 2
    prior[bpm >= TEMPO_MOST] = -np.inf
    strength = (total / n_frames).cpu().numpy()[1:]
    return float(bpm[np.argmax(np.log1p(1e6 * strength) + prior)])


def _padded_blocks(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Cut a song, between half frames of silence, into blocks of whole frames.

    (2, (n_frames - 1) * HOP_LENGTH + N_FFT) each: samples; and 1 where the sign changes from the
    sample before.
    """
    blocks = iter(blocks)
    first = next(blocks)
    buffer = first.new_zeros(2, N_FFT // 2)
    n_frames = BLOCK_FRAMES[first.device.type]
    size = (n_frames - 1) * HOP_LENGTH + N_FFT
    # Smaller values count as zero, and zero as positive. The edge is no crossing.
    negative = first[:1] < -AMIN
    for block in chain([first], blocks):
        sign = torch.cat([negative, block < -AMIN])
        negative = sign[-1:]
        crossed = (sign[1:] != sign[:-1]).to(block.dtype)
        buffer = torch.cat([buffer, torch.stack([block, crossed])], dim=1)
        while buffer.shape[1] >= size:
            yield buffer[:, :size]
            buffer = buffer[:, n_frames * HOP_LENGTH :]
    buffer = F.pad(buffer, (0, N_FFT // 2))
    # At least one frame: a block leaves three hops behind, and the padding is two.
    n_frames = 1 + (buffer.shape[1] - N_FFT) // HOP_LENGTH
    yield buffer[:, : (n_frames - 1) * HOP_LENGTH + N_FFT]


def _block_features(block: Tensor) -> Tensor:
    """Compute what needs each frame alone: (sum(RAW_SIZES), n_frames)."""
    device = block.device
    waveform, crossed = block
    # In double precision: above an MP3's cutoff there is only the transform's own rounding error
    # in single precision, and the contrast of the highest band would measure that. Frames are
    # rows: most of what follows runs along a frame's bins, which then lie side by side.
    window = torch.hann_window(N_FFT, dtype=torch.float64, device=device)
    frames = waveform.double().unfold(0, N_FFT, HOP_LENGTH) * window
    exact_power = modulation.squared(torch.fft.rfft(frames))
    exact_magnitude = exact_power.sqrt()
    power, magnitude = exact_power.float(), exact_magnitude.float()
    tiny = torch.finfo(torch.float32).tiny

    # Sums of the magnitude, and of it times the frequency and times the frequency's square.
    moments = exact_magnitude @ _frequency_powers(device)
    total, first, second = moments.clamp_min(0).unbind(dim=1)
    silent = total < tiny
    total = total.clamp_min(tiny)
    centroid = first / total
    bandwidth = (second / total - centroid.square()).clamp_min(0).sqrt()
    reached = magnitude.cumsum(dim=1)
    bins = torch.searchsorted(reached, ROLLOFF * reached[:, -1:])[:, 0]
    rolloff = _frequency_powers(device)[:, 1][bins]

    filters, _ = _filters(device)
    mel_power, chroma = (power @ filters).split([N_MELS, N_CHROMA], dim=1)
    loudest = chroma.amax(dim=1, keepdim=True)
    chroma = torch.where(loudest > tiny, chroma / loudest, chroma)
    peaks, valleys = _peaks_and_valleys(magnitude)

    scalars = [
        centroid.where(~silent, 0).float(),
        bandwidth.where(~silent, 0).float(),
        rolloff.float(),
        (_frame_sums(waveform.square()) / N_FFT).sqrt(),
        # A crossing into a frame's first sample lies before the frame.
        (_frame_sums(crossed) - crossed[: 1 - N_FFT + len(crossed) : HOP_LENGTH]) / N_FFT,
    ]
    levels = _short_levels(waveform)
    return torch.cat([mel_power.T, chroma.T, peaks, valleys, torch.stack(scalars), levels])


def _short_levels(waveform: Tensor) -> Tensor:
    """Compute mel power in short windows about the middle of every frame's hop.

    (SHORT_WINDOWS * N_BANDS, n_frames): all bands of a window, then those of the next.
    """
    first = (N_FFT - HOP_LENGTH + modulation.HOP_LENGTH - modulation.N_FFT) // 2
    n_frames = 1 + (len(waveform) - N_FFT) // HOP_LENGTH
    windows = waveform[first:].unfold(0, modulation.N_FFT, modulation.HOP_LENGTH)
    window = torch.hann_window(modulation.N_FFT, device=waveform.device)
    spectrum = torch.fft.rfft(windows[: n_frames * SHORT_WINDOWS] * window)
    _, filters = _filters(waveform.device)
    return (modulation.squared(spectrum) @ filters).view(n_frames, -1).T


def _finish(
    raw: list[Tensor], loudest: dict[str, Tensor], first: int, last: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute, of some frames, what takes a song's loudest frame, or a frame's neighbours.

    Returns (len(FRAME_FEATURES), last - first); (SHORT_WINDOWS * N_BANDS, last - first) levels in
    dB; and (last - first,) mean rise in dB over the mel bins since the frame before.
    """
    # Neighbours for the derivatives, whose ends are then cut off unless the song ends there, too.
    half = DELTA_WIDTH // 2
    low, high = max(0, first - half), min(_n_frames(raw), last + half)
    size = raw[0].shape[1]  # as of all blocks but the last
    begin = low // size
    part = torch.cat(raw[begin : -(-high // size)], dim=1)
    part = part[:, low - begin * size : high - begin * size]
    mel_power, chroma, peaks, valleys, scalars, levels = part.split(list(RAW_SIZES.values()))
    centroid, bandwidth, rolloff, rms, crossings = scalars.split(1)
    mel = _to_db(mel_power, loudest["mel_power"])
    mfcc = _dct(mel.device) @ mel
    families = {
        "mfcc": mfcc,
        "mfcc_delta": _delta(mfcc, 1),
        "mfcc_delta2": _delta(mfcc, 2),
        "mel": mel,
        "chroma": chroma,
        "contrast": _to_db(peaks, loudest["peaks"]) - _to_db(valleys, loudest["valleys"]),
        "low_mel": mel_power[:N_LOW_MEL],
        "centroid": centroid,
        "bandwidth": bandwidth,
        "rolloff": rolloff,
        "mel_energy": mel_power.sum(dim=0, keepdim=True),
        "rms": rms,
        "zero_crossing_rate": crossings,
    }
    frames = torch.cat([families[family] for family in FAMILIES])
    rise = F.pad((mel[:, 1:] - mel[:, :-1]).clamp_min(0).mean(dim=0), (1, 0))
    kept = slice(first - low, last - low)
    levels = _to_db(levels[:, kept], loudest["levels"])
    return frames[:, kept], levels, rise[kept]


def _loudest(raw: list[Tensor]) -> dict[str, Tensor]:
    """Find a song's largest value of each kind in :data:`RAW_SIZES`."""
    of_blocks = torch.stack([block.amax(dim=1) for block in raw]).amax(dim=0)
    kinds = zip(RAW_SIZES, of_blocks.split(list(RAW_SIZES.values())), strict=True)
    return {kind: rows.amax() for kind, rows in kinds}


def _n_frames(raw: list[Tensor]) -> int:
    return (len(raw) - 1) * raw[0].shape[1] + raw[-1].shape[1]


def _frame_sums(x: Tensor) -> Tensor:
    """Sum over frames. They are whole numbers of hops, so that hops are summed once."""
    hops = x.view(-1, HOP_LENGTH).sum(dim=1)
    return hops.unfold(0, N_FFT // HOP_LENGTH, 1).sum(dim=1)


def _peaks_and_valleys(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the largest and of the smallest bins of every band: 2 x (n_bands, n_frames)."""
    peaks, valleys = [], []
    for band, n_averaged in _contrast_bands():
        bins = magnitude[:, band]
        # On a CPU NumPy sorts all of them faster than torch finds the few.
        if bins.device.type == "cpu":
            bins = torch.from_numpy(np.sort(bins.numpy(), axis=1))
        else:
            bins = bins.sort(dim=1).values
        peaks.append(bins[:, -n_averaged:].mean(dim=1))
        valleys.append(bins[:, :n_averaged].mean(dim=1))
    return torch.stack(peaks), torch.stack(valleys)


def _to_db(power: Tensor, loudest: Tensor) -> Tensor:
    level = 10 * power.clamp_min(AMIN).log10()
    return level.clamp_min(10 * loudest.clamp_min(AMIN).log10() - TOP_DB)


def _delta(x: Tensor, order: int) -> Tensor:
    """Differentiate over frames; the polynomials at both ends are those of the outermost frames."""
    n_frames = x.shape[1]
    if n_frames < DELTA_WIDTH:  # a clip under 0.26 s: its last frame is held
        held = F.pad(x[None], (0, DELTA_WIDTH - n_frames), mode="replicate")[0]
        return _delta(held, order)[:, :n_frames]
    weights = _savgol_weights(x.device, order)
    half = DELTA_WIDTH // 2
    inner = F.conv1d(x[:, None], weights[half][None, None])[:, 0]
    head = x[:, :DELTA_WIDTH] @ weights[:half].T
    tail = x[:, -DELTA_WIDTH:] @ weights[half + 1 :].T
    return torch.cat([head, inner, tail], dim=1)


def _onset_strength(rise: Tensor) -> Tensor:
    # The rise belongs to the later frame, and half a window later, where librosa puts it.
    return F.pad(rise, (N_FFT // (2 * HOP_LENGTH), 0))[: len(rise)]


@cache
def _frequency_powers(device: torch.device) -> Tensor:
    """(n_bins, 3) float64: 1, the frequency in Hz and its square."""
    frequency = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    return torch.stack([frequency**power for power in range(3)], dim=1).to(device)


@cache
def _filters(device: torch.device) -> list[Tensor]:
    """Mel filters of equal area (Slaney 1998), of frames and of short windows.

    (n_bins, N_MELS + N_CHROMA), with chroma's beside them, and (n_bins, N_BANDS).
    """
    import librosa  # takes a second, and a folder for its caches

    mel = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT)
    chroma = librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=N_FFT)
    both = np.concatenate([mel, chroma])
    short = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=modulation.N_FFT, n_mels=modulation.N_BANDS)
    return [torch.from_numpy(filters.T.copy()).to(device) for filters in (both, short)]


@cache
def _dct(device: torch.device) -> Tensor:
    """(N_MFCC, N_MELS) orthonormal DCT-II."""
    matrix = scipy.fft.dct(np.eye(N_MELS), norm="ortho", axis=0)[:N_MFCC]
    return torch.from_numpy(matrix.astype(np.float32)).to(device)


@cache
def _savgol_weights(device: torch.device, order: int) -> Tensor:
    """(DELTA_WIDTH, DELTA_WIDTH): row p gives the derivative at position p of a window."""
    weights = [
        scipy.signal.savgol_coeffs(DELTA_WIDTH, order, deriv=order, pos=pos, use="dot")
        for pos in range(DELTA_WIDTH)
    ]
    return torch.from_numpy(np.array(weights, dtype=np.float32)).to(device)


@cache
def _contrast_bands() -> list[tuple[slice, int]]:
    """Bins of each band, and how many of them make its peak and its valley.

    A band also takes the bin below its lower edge, and leaves the bin at its upper edge to the
    next; the highest reaches to the Nyquist frequency.
    """
    frequency = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = [0.0, *(CONTRAST_FMIN * 2.0**i for i in range(CONTRAST_BANDS + 1))]
    bands = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = np.flatnonzero((frequency >= low) & (frequency <= high))
        first = inside[0] - 1 if i > 0 else inside[0]
        last = len(frequency) - 1 if i == CONTRAST_BANDS else inside[-1]
        n_averaged = max(1, round(CONTRAST_QUANTILE * float(last - first + 1)))
        bands.append((slice(first, last + 1 if i == CONTRAST_BANDS else last), n_averaged))
    return bands


# --- the arrays of both splits ------------------------------------------------------------------

MADE_BY = "task1_preprocessing.py"
ARRAYS = ("X", "y", "units", "unit_songs")  # of each split


@dataclass(frozen=True)
class FeatureSet:
    """Task 1's features of one split."""

    X: np.ndarray  # (n_songs, n_features) float32
    y: np.ndarray  # (n_songs,) artist names
    albums: np.ndarray  # (n_songs,) "artist/album": the groups of cross-validation
    songs: list[SongRecord]  # the rows of X
    names: list[str]  # the features, columns of X


def write_features(
    folder: Path, split: str, songs: Sequence[SongRecord], units: Iterable[np.ndarray]
) -> None:
    """Write a split's features to Task 1's folder.

    ``songs`` go to ``y_<split>.npy`` and ``songs_<split>.json``; each song's ``units``, (n_units,
    len(UNIT_NAMES)), one below another to ``units_<split>.npy``, and merged to ``X_<split>.npy``.
    They are taken one by one: together they may be larger than memory.
    """
    X = np.empty((len(songs), len(FEATURE_NAMES)), np.float32)
    n_units = np.empty(len(songs), int)

    def song_by_song() -> Iterator[np.ndarray]:
        for i, of_song in enumerate(units):
            X[i] = merge_units(of_song, 1)[0, : X.shape[1]]
            n_units[i] = len(of_song)
            yield of_song

    write_rows(folder / f"units_{split}.npy", song_by_song())
    unit_songs = np.repeat(np.arange(len(songs), dtype=np.int32), n_units)
    write_array(folder / f"unit_songs_{split}.npy", unit_songs)
    write_array(folder / f"X_{split}.npy", X)
    write_array(folder / f"y_{split}.npy", np.array([song.artist for song in songs]))
    write_record(folder / f"songs_{split}.json", songs)
    write_record(folder / "feature_names.json", FEATURE_NAMES)


def feature_hashes(folder: Path) -> dict[str, str]:
    """Hash (SHA-256) the arrays of both splits, by file name."""
    names = [f"{array}_{split}.npy" for split in ("train", "val") for array in ARRAYS]
    for name in names:
        check_is_file(folder / name, MADE_BY)
    return {name: sha256_file(folder / name) for name in names}


def read_prepared(folder: Path) -> Preprocessing:
    """Read ``preprocessing.json``, and check that the arrays beside it are those that it is of."""
    prepared = read_record(folder / "preprocessing.json", Preprocessing, MADE_BY)
    arrays = feature_hashes(folder)
    changed = [name for name in arrays if prepared.arrays.get(name) != arrays[name]]
    if changed:
        raise UserError(
            f"{folder}: {', '.join(changed)} changed since preprocessing.json was written: run "
            f"{MADE_BY} again"
        )
    return prepared


def read_features(folder: Path, split: str) -> FeatureSet:
    """Read a split's features of songs, and check that its files belong together."""
    X = read_array(folder / f"X_{split}.npy", MADE_BY)
    y = read_array(folder / f"y_{split}.npy", MADE_BY)
    songs = read_record(folder / f"songs_{split}.json", list[SongRecord], MADE_BY)
    names = read_record(folder / "feature_names.json", list[str], MADE_BY)
    if X.shape != (len(songs), len(names)) or y.tolist() != [song.artist for song in songs]:
        raise UserError(
            f"{folder}: X_{split}.npy {X.shape}, y_{split}.npy {y.shape}, songs_{split}.json and "
            f"feature_names.json do not belong together: run {MADE_BY} again"
        )
    return FeatureSet(X, y, groups_of(songs), songs, names)


def read_units(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a split's ``units_<split>.npy``, memory-mapped, and ``unit_songs_<split>.npy``.

    :func:`read_prepared` checks what is in them.
    """
    units = read_array(folder / f"units_{split}.npy", MADE_BY, mmap_mode="r")
    return units, read_array(folder / f"unit_songs_{split}.npy", MADE_BY)
