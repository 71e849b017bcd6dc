"""Notes to waveform: a singer, pitched instruments, drums and a mastering chain, all in NumPy.

Pure functions of their arguments and, where there is noise, of an explicit generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, signal

Waveform = np.ndarray  # (n_samples,) float32

SAMPLE_RATE = 16_000  # Hz, artist20's
TONE_BLOCK = 200  # samples; an instrument's longest note is its square, 2.5 s
MAX_PARTIALS = 20
CONTROL_HOP = 64  # samples
MAX_FREQUENCY = 7_600.0  # Hz, leaves the encoder's low-pass something to roll off
HALL_CUTOFF = 200.0  # Hz
EQ_CENTRES = (62.5, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)  # Hz, octave bands

# First three formants in Hz, men's averages: Peterson & Barney 1952, "Control methods used in a
# study of the vowels", JASA 24(2), table II.
VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (270, 2290, 3010),
    "I": (390, 1990, 2550),
    "e": (530, 1840, 2480),
    "ae": (660, 1720, 2410),
    "a": (730, 1090, 2440),
    "o": (570, 840, 2410),
    "U": (440, 1020, 2240),
    "u": (300, 870, 2240),
    "A": (640, 1190, 2390),
    "er": (490, 1350, 1690),
}
FORMANT_BANDWIDTHS = (60.0, 90.0, 120.0, 130.0, 200.0)  # Hz: the usual values of Klatt 1980


@dataclass(frozen=True, slots=True)
class Note:
    """One note of one part."""

    start: float  # seconds
    duration: float  # seconds
    pitch: int  # MIDI note number; without meaning for drums
    velocity: float  # linear amplitude, about 0 to 1
    vowel: str = "a"  # a key of VOWELS; for singers


@dataclass(frozen=True)
class Voice:
    """A singer: a vocal tract, a glottal source and habits."""

    tract: float  # formants relative to Peterson and Barney's men; women about 1.17, children 1.3
    fourth_formant: float  # Hz, unscaled; near 2900 it makes the singer's formant (Sundberg 1974)
    bandwidth: float  # factor on the formants' bandwidths: below 1 rings, above 1 is muffled
    source_cutoff: float  # Hz, of the source's low-pass: soft below 500, pressed above 1500
    breath: float  # aspiration noise relative to the source
    consonant: float  # level of the noise that opens a syllable
    vibrato_rate: float  # Hz
    vibrato_depth: float  # semitones
    vibrato_delay: float  # seconds
    scoop: float  # semitones below the note at which a note starts


@dataclass(frozen=True)
class Instrument:
    """A pitched instrument as a sum of partials, each of which dies away at its own pace."""

    rolloff: float  # partial k has amplitude k ** -rolloff
    # where the string is plucked, as a share of its length: partial k is scaled by
    # |sin(pi k comb)|; one half leaves the odd partials, as in a clarinet
    comb: float
    inharmonicity: float  # stiffness B in f_k = k f_0 sqrt(1 + B k^2) (Fletcher 1964)
    attack: float  # seconds until full level
    decay: float  # time constant of the first partial in seconds
    # how much faster the higher partials die: decay / (1 + damping (k - 1)), the law that the
    # averaging filter of Karplus and Strong 1983 follows at low frequencies
    damping: float
    detune: float = 0.0  # cents between two copies of the tone; 0 for one copy
    tremolo_rate: float = 0.0  # Hz
    tremolo_depth: float = 0.0  # share of the amplitude
    drive: float = 0.0  # gain into a soft clipper that the whole part passes; 0 for none


@dataclass(frozen=True)
class Kit:
    """A drum kit: frequencies in Hz at rest, decays in seconds."""

    kick_frequency: float
    kick_decay: float
    snare_frequency: float
    snare_decay: float
    snare_noise: float  # relative to the skin's tone
    hat_cutoff: float  # corner of the high-pass in Hz
    hat_decay: float


@dataclass(frozen=True)
class Production:
    """What a studio does to every song of an album."""

    equalisation: tuple[float, ...]  # gain in dB at each of EQ_CENTRES
    reverb_seconds: float  # time to fall by 60 dB
    reverb_level: float  # relative to what is sent to it
    noise_floor: float  # dB relative to the music
    compression: float  # share of the level's movement in dB that is taken out, 0 to 1
    loudness: float  # RMS of the song in dB relative to full scale


def _hertz(pitch: npt.ArrayLike) -> np.ndarray:
    """Compute the frequency in Hz of a MIDI note number (69 is 440 Hz)."""
    return 440.0 * 2.0 ** ((np.asarray(pitch) - 69.0) / 12.0)


def decibels(level: float) -> float:
    """Compute the linear amplitude of a level in dB."""
    return float(10.0 ** (level / 20.0))


def unit_rms(waveform: Waveform) -> Waveform:
    """Scale a waveform so that its RMS where it sounds is 1; silence stays silence."""
    energy = float(np.einsum("i,i->", waveform, waveform, dtype=np.float64))
    rms = math.sqrt(energy / max(1, int(np.count_nonzero(waveform))))
    return waveform / np.float32(rms or 1)


def _pulse_train(frequency: np.ndarray) -> Waveform:
    """Make harmonics of amplitude 2, up to `MAX_FREQUENCY`, of a frequency that moves."""
    # The Dirichlet kernel, whose cost does not grow with the harmonics: Winham & Steiglitz 1970.
    harmonics = max(1, int(MAX_FREQUENCY / frequency.max()))
    order = 2 * harmonics + 1
    cycles = np.cumsum(frequency) / SAMPLE_RATE
    half_phase = (np.pi * (cycles - np.rint(cycles))).astype(np.float32)
    below = np.sin(half_phase)
    pulses = np.full(len(frequency), order, np.float32)
    np.divide(np.sin(order * half_phase), below, out=pulses, where=np.abs(below) > 1e-4)
    return pulses - 1.0


@lru_cache(maxsize=64)
def _vocal_tract(voice: Voice, vowel: str) -> np.ndarray:
    """Make second-order sections, (6, 6), of source and formants: Klatt's 1980 cascade."""
    pole = np.exp(-2 * np.pi * voice.source_cutoff / SAMPLE_RATE)
    sections = [[1 - pole, 0, 0, 1, -pole, 0]]
    formants = (*VOWELS[vowel], voice.fourth_formant, 4500.0)
    for frequency, bandwidth in zip(formants, FORMANT_BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * voice.bandwidth * bandwidth / SAMPLE_RATE)
        b = 2 * radius * np.cos(2 * np.pi * voice.tract * frequency / SAMPLE_RATE)
        c = -(radius**2)
        sections.append([1 - b - c, 0, 0, 1, -b, -c])
    return np.array(sections)


def _sing(voice: Voice, note: Note, rng: np.random.Generator) -> Waveform:
    """Sing one syllable."""
    n_samples = max(2, round(note.duration * SAMPLE_RATE))
    # Pitch moves slowly: it is worked out at every CONTROL_HOP-th sample only.
    moments = np.arange(0, n_samples + CONTROL_HOP, CONTROL_HOP)
    time = moments / SAMPLE_RATE
    swell = np.clip((time - voice.vibrato_delay) / 0.2, 0, 1)
    vibrato = np.sin(2 * np.pi * (voice.vibrato_rate * time + rng.random()))
    pitch = note.pitch - voice.scoop * np.exp(-time / 0.04) + voice.vibrato_depth * swell * vibrato
    pitch += rng.normal(0, 0.08)
    frequency = np.interp(np.arange(n_samples), moments, _hertz(pitch))
    noise = rng.standard_normal(n_samples, dtype=np.float32)
    source = _pulse_train(frequency) + voice.breath * noise
    # Open vowels would drown closed ones: singers even them out.
    sung = unit_rms(signal.sosfilt(_vocal_tract(voice, note.vowel), source).astype(np.float32))
    fade(sung, attack=0.03, release=0.06)
    hiss = np.diff(noise[: round(0.07 * SAMPLE_RATE)])
    sung[: len(hiss)] += voice.consonant * hiss * np.hanning(len(hiss)).astype(np.float32)
    return np.float32(note.velocity) * sung


@lru_cache(maxsize=256)  # 40 MB: a song repeats few pitches often, songs share instruments
def _tone(instrument: Instrument, pitch: int) -> Waveform:
    """Sound one pitch for `TONE_BLOCK` squared samples."""
    k = np.arange(1, MAX_PARTIALS + 1)
    amplitude = k**-instrument.rolloff * (np.abs(np.sin(np.pi * k * instrument.comb)) + 0.02)
    rate = (1 + instrument.damping * (k - 1)) / instrument.decay
    stretch = k * np.sqrt(1 + instrument.inharmonicity * k**2)
    copies = (0.0,) if instrument.detune == 0 else (-instrument.detune / 2, instrument.detune / 2)
    frequency = np.concatenate([stretch * _hertz(pitch + cents / 100) for cents in copies])
    amplitude = np.tile(amplitude, len(copies)) * (frequency < MAX_FREQUENCY)
    exponent = (2j * np.pi * frequency - np.tile(rate, len(copies)))[:, None]

    # exp(s (a + b)) = exp(s a) exp(s b): two short tables of exponentials in place of a long one
    # for each partial. The sum over partials stays out of BLAS, whose threads would get in the way
    # of the other processes.
    time = np.arange(TONE_BLOCK) / SAMPLE_RATE
    coarse = amplitude[:, None] * np.exp(exponent * TONE_BLOCK * time)
    fine = np.exp(exponent * time)
    sounded: Waveform = np.einsum(
        "ka,kb->ab",
        np.concatenate([coarse.imag, coarse.real]).astype(np.float32),
        np.concatenate([fine.real, fine.imag]).astype(np.float32),
    ).ravel()
    time = np.arange(len(sounded), dtype=np.float32) / SAMPLE_RATE
    sounded *= np.minimum(time / np.float32(instrument.attack), 1)
    if instrument.tremolo_depth:
        tremolo = np.sin(np.float32(2 * np.pi * instrument.tremolo_rate) * time)
        sounded *= 1 + np.float32(instrument.tremolo_depth) * tremolo
    return sounded


@lru_cache(maxsize=32)
def _drum(kit: Kit, name: str) -> Waveform:
    """Strike one drum of a kit: ``"kick"``, ``"snare"`` or ``"hat"``."""
    time = np.arange(round(0.5 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    noise = np.random.default_rng(0).standard_normal(len(time), dtype=np.float32)
    if name == "kick":
        # The skin starts tighter than it rests: the phase of 1 + 3 exp(-t / 0.02).
        cycles = kit.kick_frequency * (time + 0.06 * (1 - np.exp(-time / 0.02)))
        struck = np.sin(2 * np.pi * cycles) * np.exp(-time / kit.kick_decay)
    elif name == "snare":
        skin = np.sin(2 * np.pi * kit.snare_frequency * time) * np.exp(-time / 0.06)
        struck = skin + kit.snare_noise * noise * np.exp(-time / kit.snare_decay)
    else:
        high = signal.butter(2, kit.hat_cutoff, "high", fs=SAMPLE_RATE, output="sos")
        struck = signal.sosfilt(high, noise) * np.exp(-time / kit.hat_decay)
    struck = struck.astype(np.float32)
    fade(struck, attack=0.001, release=0.02)
    return struck


@lru_cache(maxsize=32)
def _ramp(n_samples: int) -> Waveform:
    """Rise from 0 to 1, without reaching it. Cached, because every note has two."""
    return np.arange(n_samples, dtype=np.float32) / np.float32(max(1, n_samples))


def fade(sound: Waveform, *, attack: float, release: float) -> None:
    """Fade a sound in and out in place, over seconds that are shortened to fit it."""
    rise = min(len(sound) // 2, round(attack * SAMPLE_RATE))
    fall = min(len(sound) // 2, round(release * SAMPLE_RATE))
    sound[:rise] *= _ramp(rise)
    sound[len(sound) - fall :] *= _ramp(fall)[::-1]


def _play(notes: list[Note], n_samples: int, play: Callable[[Note], Waveform]) -> Waveform:
    """Add up what notes sound like, shape (n_samples,); what juts out is cut off."""
    part = np.zeros(n_samples, np.float32)
    for note in notes:
        sound, first = play(note), round(note.start * SAMPLE_RATE)
        room = part[first : first + len(sound)]
        room += sound[: len(room)]
    return part


def render_voice(
    voice: Voice, notes: list[Note], n_samples: int, rng: np.random.Generator
) -> Waveform:
    """Sing a part, shape (n_samples,)."""
    return _play(notes, n_samples, lambda note: _sing(voice, note, rng))


def render_instrument(instrument: Instrument, notes: list[Note], n_samples: int) -> Waveform:
    """Play a part on a pitched instrument, shape (n_samples,)."""

    def play(note: Note) -> Waveform:
        n_sounding = max(2, round(note.duration * SAMPLE_RATE))
        sound = np.float32(note.velocity) * _tone(instrument, note.pitch)[:n_sounding]
        fade(sound, attack=0.0, release=0.04)
        return sound

    part = _play(notes, n_samples, play)
    if instrument.drive:
        part = np.tanh(np.float32(instrument.drive) * unit_rms(part))
    return part


def render_drum(kit: Kit, name: str, notes: list[Note], n_samples: int) -> Waveform:
    """Play one drum's part, shape (n_samples,)."""
    struck = _drum(kit, name)
    return _play(notes, n_samples, lambda note: np.float32(note.velocity) * struck)


def master(mix: Waveform, production: Production, rng: np.random.Generator) -> Waveform:
    """Equalise, reverberate, compress, add noise, bring to the album's loudness: within 0.9."""
    n_samples = len(mix)
    tail = round(production.reverb_seconds * SAMPLE_RATE)
    n_fft = fft.next_fast_len(n_samples + tail, real=True)

    # Polack's model of a hall, exponentially decaying noise: 60 dB are a factor of exp(-6.91).
    fall = np.exp(np.linspace(0, -6.91, tail, dtype=np.float32))
    hall = rng.standard_normal(tail, dtype=np.float32) * fall
    hall *= np.float32(production.reverb_level) / np.sqrt(np.sum(np.square(hall)))
    response = fft.rfft(hall, n_fft)
    # No bass goes into the hall, which would blur it.
    response[: round(HALL_CUTOFF * n_fft / SAMPLE_RATE)] = 0
    response += 1

    grid = fft.rfftfreq(4096, 1 / SAMPLE_RATE)
    curve = np.interp(np.log2(grid + 1), np.log2(EQ_CENTRES), production.equalisation)
    frequencies = fft.rfftfreq(n_fft, 1 / SAMPLE_RATE)
    response *= np.interp(frequencies, grid, 10 ** (curve / 20)).astype(np.float32)
    mix = unit_rms(fft.irfft(fft.rfft(mix, n_fft) * response, n_fft)[:n_samples])

    hop = SAMPLE_RATE // 50
    padded = np.pad(mix, (0, -n_samples % hop)).reshape(-1, hop)
    level = np.sqrt(np.mean(np.square(padded), axis=1)) + 0.05
    level = signal.lfilter([0.1], [1, -0.9], level, zi=[0.9 * level[0]])[0]
    centres = (np.arange(len(level)) + 0.5) * hop
    gain = np.interp(np.arange(n_samples), centres, level**-production.compression)
    mix *= gain.astype(np.float32)

    noise = rng.standard_normal(n_samples, dtype=np.float32)
    mix = unit_rms(mix) + np.float32(decibels(production.noise_floor)) * noise
    return np.float32(0.9) * np.tanh(np.float32(decibels(production.loudness) / 0.9) * mix)
