"""Make a synthesised data set in artist20's layout, to try every stage without the real one.

    python -m artist20.demo data/demo
    python -m artist20.demo data/tiny --artists 3 --albums 3 --songs 1 --seconds 2

In: nothing but a seed. Out: DIR/train.json, DIR/val.json, DIR/train_val/<artist>/<album>/*.mp3,
DIR/test/*.mp3, DIR/answers.json (who made the test songs) and DIR/dataset.json (what made the
data set). The same command gives the same bytes, however many processes work on them, and goes on
where an interrupted one stopped.

An artist is a way of making music: a singing voice, favourite instruments, scales, rhythms, a
tempo. An album is a production that its songs share: line-up, equalisation, reverberation, noise
floor, loudness, mix. Artists share instruments, and productions hide voices, so that telling them
apart is neither trivial nor hopeless. All names are invented.
"""

import argparse
import math
import multiprocessing
import os
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from tqdm import tqdm

from artist20 import UserError, cli, runtime
from artist20.files import atomic_path, only_writer, parse_json, write_json
from artist20.synthesis import (
    EQ_CENTRES,
    SAMPLE_RATE,
    VOWELS,
    Instrument,
    Kit,
    Note,
    Production,
    Voice,
    Waveform,
    decibels,
    fade,
    master,
    render_drum,
    render_instrument,
    render_voice,
    unit_rms,
)

T = TypeVar("T")
Steps = tuple[int, ...]  # sixteenth notes of a bar, 0 to 15

FORMAT = 1  # raise it whenever the same settings begin to give other files
COMPRESSION_LEVEL = 0.85  # libsndfile's scale from 0 to 1: 32 kbit/s at 16 kHz

# How many instruments there are in the world. Few, so that artists share them: when each had its
# own, an SVM on song statistics made no error on the validation songs.
N_PLAYERS, N_BASSES, N_KITS = 12, 6, 6

# Standard deviations of an album's equalisation in dB per octave, as a slope and from one octave to
# the next. That SVM then names the artist of about three in four songs of unheard albums, and of 94
# in 100 unheard songs from known albums.
EQ_SLOPE, EQ_WALK = 1.1, 2.1

STEPS = 16  # in a bar of 4/4
SCALES = (
    (0, 2, 4, 5, 7, 9, 11),  # major
    (0, 2, 3, 5, 7, 9, 10),  # Dorian
    (0, 1, 3, 5, 7, 8, 10),  # Phrygian
    (0, 2, 4, 6, 7, 9, 11),  # Lydian
    (0, 2, 4, 5, 7, 9, 10),  # Mixolydian
    (0, 2, 3, 5, 7, 8, 10),  # natural minor
    (0, 2, 3, 5, 7, 8, 11),  # harmonic minor
)
# Scale degrees, one chord a bar.
PROGRESSIONS = (
    (0, 4, 5, 3),
    (0, 5, 3, 4),
    (5, 3, 0, 4),
    (0, 3, 4, 3),
    (0, 0, 3, 4),
    (1, 4, 0, 0),
    (0, 6, 3, 0),
    (0, 2, 3, 4),
    (0, 6, 5, 4),
    (3, 4, 2, 5),
    (0, 0, 0, 3),
    (0, 1, 0, 1),
)
# The steps on which the syllables of a bar begin.
MELODIES = (
    (0, 4, 8, 12),
    (0, 4, 6, 8),
    (2, 4, 6, 8, 12),
    (0, 3, 6, 8, 12),
    (0, 6, 8, 14),
    (4, 6, 8, 10, 12),
    (0, 2, 4, 8, 10, 12),
    (0, 8),
    (0, 8, 12),
    (3, 6, 10, 12),
    (0, 2, 3, 6, 8, 10, 11, 14),
    (0, 4, 7, 10, 12, 14),
)
# The steps on which chords are struck.
STRUMS = (
    (0,),
    (0, 8),
    (0, 4, 8, 12),
    (4, 12),
    (2, 6, 10, 14),
    (0, 6, 12),
    (0, 3, 6, 10, 12),
    (0, 2, 4, 6, 8, 10, 12, 14),
    (0, 4, 6, 10, 12, 14),
    (0, 3, 8, 11),
)
# Kick, snare, hat.
BEATS = (
    ((0, 8), (4, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
    ((0, 4, 8, 12), (4, 12), (2, 6, 10, 14)),
    ((0, 10), (8,), (0, 4, 8, 12)),
    ((0, 3, 8, 10), (4, 12), tuple(range(16))),
    ((0, 6, 10), (4, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
    ((0, 7, 10), (4, 9, 12, 15), (0, 2, 4, 6, 8, 10, 12, 14)),
    ((0, 6, 8, 14), (3, 6, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
    ((0, 2, 8, 10), (4, 6, 12, 14), (0, 4, 8, 12)),
)
BASS_LINES = (
    (0,),
    (0, 8),
    (0, 6, 8, 14),
    (0, 4, 8, 12),
    (0, 2, 4, 6, 8, 10, 12, 14),
    (0, 3, 6, 10),
    (0, 10, 12),
)


@dataclass(frozen=True)
class Section:
    """A part of a song's form: how loud it is and who plays."""

    level: float
    sung: bool
    drums: bool
    full: bool  # everybody plays
    lift: int  # scale degrees by which the melody lies higher than in a verse


SECTIONS = {
    "intro": Section(0.5, sung=False, drums=False, full=True, lift=0),
    "verse": Section(0.7, sung=True, drums=True, full=False, lift=0),
    "chorus": Section(1.0, sung=True, drums=True, full=True, lift=3),
    "bridge": Section(0.6, sung=True, drums=False, full=False, lift=2),
    "solo": Section(0.9, sung=False, drums=True, full=True, lift=2),
}
FORM = ("intro", "verse", "chorus", "verse", "chorus", "bridge", "solo", "chorus")
SHORT_FORM = ("verse", "chorus")  # of a song with fewer than eight bars

# Invented, and together longer than any list of artists asked for here.
FIRST_NAMES = (
    *("abrelle", "bastor", "cindrel", "dovarre", "elquin", "fennick", "galdora", "hestrel"),
    *("ivarno", "jostyn", "keldra", "lumarre", "mirvane", "noldeth", "ombrellin", "quillon"),
)
LAST_NAMES = (
    *("and_the_tarn", "brindlow", "casterwyn", "dunmarrow", "eskerby", "farrowmint", "grellan"),
    *("hollowick", "ingledew_four", "kestervale", "lorimand", "mossgrave", "nettlebane"),
    *("orchardine", "pellamar", "rooksby_trio"),
)
ADJECTIVES = (
    *("Amber", "Broken", "Careless", "Distant", "Electric", "Faded", "Golden", "Hollow"),
    *("Idle", "Last", "Midnight", "Northern", "Open", "Paper", "Quiet", "Restless"),
)
NOUNS = (
    *("Avenue", "Bridges", "Carousel", "Daylight", "Engine", "Ferry", "Garden", "Harbour"),
    *("Island", "Lantern", "Mirror", "Orchard", "Postcard", "River", "Summer", "Window"),
)
TITLES = (
    "{0}_{1}",
    "The_{0}_{1}",
    "{0},_{0}_{1}",
    "{1}_(I'm_So_{0})",
    "Don't_Wake_the_{0}_{1}",
    "Mr._{1}_Is_{0}",
    "{0}_{1}_[Live]",
    "{0}-{1}",
)


@dataclass(frozen=True)
class Player:
    """An instrument and how chords are played on it."""

    instrument: Instrument
    style: str  # "strum", "arpeggio" or "hold"
    register: int  # MIDI note number around which its chords lie


@dataclass(frozen=True)
class Artist:
    """A way of making music, which all of an artist's albums share."""

    voice: Voice
    centre: int  # of the voice's range, MIDI note number
    vowels: tuple[str, ...]
    players: tuple[int, ...]
    basses: tuple[int, ...]
    kits: tuple[int, ...]
    scales: tuple[tuple[int, ...], ...]
    progressions: tuple[tuple[int, ...], ...]
    chord_size: int
    melodies: tuple[Steps, ...]
    strums: tuple[Steps, ...]
    beats: tuple[tuple[Steps, Steps, Steps], ...]
    bass_lines: tuple[Steps, ...]
    tempo: float  # beats a minute
    swing: float  # share of a step by which every second step comes late
    leap: float  # standard deviation of a melody's intervals, in scale degrees


@dataclass(frozen=True)
class Album:
    """A line-up and a production, which all of an album's songs share."""

    players: tuple[Player, ...]
    bass: Instrument
    kit: Kit
    tempo: float  # relative to the artist's
    mix: dict[str, float]  # level of each part in dB
    production: Production


@dataclass(frozen=True)
class Motif:
    """A bar of melody: when its syllables begin, and their degrees above the chord's root."""

    onsets: Steps
    degrees: tuple[int, ...]


@dataclass(frozen=True)
class Song:
    """What one song takes from its artist and album."""

    step: float  # seconds
    swing: float
    tonic: int  # MIDI pitch class
    scale: tuple[int, ...]
    progressions: dict[str, tuple[int, ...]]
    motifs: dict[str, tuple[Motif, Motif]]
    players: tuple[Player, Player]
    strums: tuple[Steps, Steps]
    bass_line: Steps
    beat: tuple[Steps, Steps, Steps]

    def pitch(self, degree: int) -> int:
        """Pitch of a scale degree above the tonic, as a MIDI note number."""
        octave, within = divmod(degree, len(self.scale))
        return self.tonic + 12 * octave + self.scale[within]

    def pitch_near(self, centre: int, degree: int) -> int:
        """Pitch of a scale degree in the octave that lies nearest to ``centre``."""
        pitch = self.pitch(degree)
        return pitch + 12 * round((centre - pitch) / 12)

    def moment(self, bar: int, step: int, rng: np.random.Generator) -> float:
        """Seconds from the start at which a step is played, by people."""
        late = self.swing * (step % 2) + rng.normal(0, 0.03)
        return max(0.0, (bar * STEPS + step + late) * self.step)


@dataclass(frozen=True)
class Track:
    """One file to make: where it lies, and the numbers of its artist, album and song."""

    path: str
    artist: int
    album: int
    song: int


def generator(seed: int, what: str, *key: int) -> np.random.Generator:
    """Return the generator of one thing, whatever else is made and in what order."""
    words = (zlib.crc32(what.encode()), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=words))


def choose(rng: np.random.Generator, options: tuple[T, ...], size: int) -> tuple[T, ...]:
    """Pick ``size`` different options."""
    return tuple(options[i] for i in rng.permutation(len(options))[:size])


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def artist_name(seed: int, artist: int) -> str:
    """Name an artist, differently from all others of the seed."""
    number = generator(seed, "names").permutation(len(FIRST_NAMES) * len(LAST_NAMES))[artist]
    first, last = divmod(int(number), len(LAST_NAMES))
    return f"{FIRST_NAMES[first]}_{LAST_NAMES[last]}"


def title(seed: int, *key: int) -> str:
    """Name an album (artist, album) or a song (artist, album, song), differently from its kin."""
    *family, number = key
    pairs = generator(seed, "titles", *family).permutation(len(ADJECTIVES) * len(NOUNS))
    adjective, noun = divmod(int(pairs[number % len(pairs)]), len(NOUNS))
    template = str(generator(seed, "template", *key).choice(TITLES))
    return template.format(ADJECTIVES[adjective], NOUNS[noun])


def draw_player(seed: int, number: int) -> Player:
    """Invent one of the instruments that artists share, and how it accompanies."""
    rng = generator(seed, "player", number)
    decay, attack, damping, inharmonicity = {
        "plucked": (log_uniform(rng, 0.3, 1.2), 0.003, rng.uniform(0.1, 0.5), 1e-4),
        "struck": (log_uniform(rng, 0.5, 2.0), 0.004, rng.uniform(0.2, 0.9), 6e-4),
        "sustained": (20.0, log_uniform(rng, 0.02, 0.15), 0.0, 0.0),
    }[str(rng.choice(("plucked", "struck", "sustained")))]
    instrument = Instrument(
        rolloff=rng.uniform(0.7, 2.0),
        comb=rng.uniform(0.1, 0.5),
        inharmonicity=inharmonicity,
        attack=attack,
        decay=decay,
        damping=damping,
        detune=float(rng.choice((0.0, 8.0, 15.0))),
        tremolo_rate=rng.uniform(3.0, 7.0),
        tremolo_depth=float(rng.choice((0.0, 0.0, 0.2, 0.4))),
        drive=float(rng.choice((0.0, 0.0, 0.0, 1.0, 3.0))),
    )
    style = str(rng.choice(("strum", "arpeggio", "hold")))
    return Player(instrument, style, int(rng.integers(52, 68)))


def draw_bass(seed: int, number: int) -> Instrument:
    """Invent one of the basses that artists share."""
    rng = generator(seed, "bass", number)
    return Instrument(
        rolloff=rng.uniform(0.8, 2.2),
        comb=rng.uniform(0.1, 0.5),
        inharmonicity=1e-4,
        attack=0.005,
        decay=log_uniform(rng, 0.3, 2.0),
        damping=rng.uniform(0.1, 0.5),
        detune=0.0,
        tremolo_rate=0.0,
        tremolo_depth=0.0,
        drive=float(rng.choice((0.0, 0.0, 1.5))),
    )


def draw_kit(seed: int, number: int) -> Kit:
    """Invent one of the drum kits that artists share."""
    rng = generator(seed, "kit", number)
    return Kit(
        kick_frequency=rng.uniform(42, 70),
        kick_decay=log_uniform(rng, 0.05, 0.2),
        snare_frequency=rng.uniform(150, 260),
        snare_decay=log_uniform(rng, 0.04, 0.18),
        snare_noise=log_uniform(rng, 0.3, 1.5),
        hat_cutoff=rng.uniform(3000, 6500),
        hat_decay=log_uniform(rng, 0.015, 0.12),
    )


def draw_artist(seed: int, artist: int) -> Artist:
    """Invent artist number ``artist``, the same whatever the number of artists."""
    rng = generator(seed, "artist", artist)
    tract = rng.uniform(0.94, 1.2)
    return Artist(
        voice=Voice(
            tract=tract,
            fourth_formant=rng.uniform(2900, 3900),
            bandwidth=log_uniform(rng, 0.7, 1.6),
            source_cutoff=log_uniform(rng, 300, 1200),
            breath=log_uniform(rng, 0.03, 0.5),
            consonant=log_uniform(rng, 0.03, 0.2),
            vibrato_rate=rng.uniform(4.5, 7.0),
            vibrato_depth=rng.uniform(0.0, 0.8),
            vibrato_delay=rng.uniform(0.05, 0.35),
            scoop=rng.uniform(0.0, 2.0),
        ),
        # Short vocal tracts go with high voices.
        centre=round(57 + 40 * (tract - 1.05) + rng.normal(0, 2.5)),
        vowels=choose(rng, tuple(VOWELS), 6),
        players=choose(rng, tuple(range(N_PLAYERS)), 5),
        basses=choose(rng, tuple(range(N_BASSES)), 2),
        kits=choose(rng, tuple(range(N_KITS)), 2),
        scales=choose(rng, SCALES, 2),
        progressions=choose(rng, PROGRESSIONS, 4),
        chord_size=int(rng.choice((2, 3, 3, 4))),
        melodies=choose(rng, MELODIES, 4),
        strums=choose(rng, STRUMS, 3),
        beats=choose(rng, BEATS, 3),
        bass_lines=choose(rng, BASS_LINES, 2),
        tempo=log_uniform(rng, 80, 140),
        swing=float(rng.choice((0.0, 0.0, 0.15, 0.33))),
        leap=rng.uniform(0.8, 2.2),
    )


def draw_album(seed: int, artist: int, album: int) -> Album:
    """Invent album number ``album`` of artist number ``artist``."""
    habits = draw_artist(seed, artist)
    rng = generator(seed, "album", artist, album)
    # Neighbouring bands move together, as they do under a mixing desk's hands.
    bands = np.arange(len(EQ_CENTRES))
    curve = rng.normal(0, EQ_SLOPE) * bands + np.cumsum(rng.normal(0, EQ_WALK, len(bands)))
    levels = {"voice": 0, "players": -4, "bass": -5, "kick": -5, "snare": -8, "hat": -14}
    return Album(
        players=tuple(draw_player(seed, number) for number in choose(rng, habits.players, 3)),
        bass=draw_bass(seed, int(rng.choice(habits.basses))),
        kit=draw_kit(seed, int(rng.choice(habits.kits))),
        tempo=float(np.exp(rng.normal(0, 0.08))),
        mix={part: level + rng.normal(0, 2.5) for part, level in levels.items()},
        production=Production(
            equalisation=tuple(float(gain) for gain in curve - curve.mean()),
            reverb_seconds=log_uniform(rng, 0.2, 2.0),
            reverb_level=log_uniform(rng, 0.1, 0.7),
            noise_floor=rng.uniform(-65, -35),
            compression=rng.uniform(0.0, 0.6),
            loudness=rng.uniform(-22, -12),
        ),
    )


def draw_motif(artist: Artist, onsets: Steps, rng: np.random.Generator) -> Motif:
    """Invent a bar of melody: a random walk that meets the chord on strong beats."""
    walk = np.cumsum(rng.normal(0, artist.leap, len(onsets)))
    # Root, third and fifth are the even degrees.
    snapped = [
        2 * round(degree / 2) if onset % 8 == 0 else round(degree)
        for onset, degree in zip(onsets, walk, strict=True)
    ]
    return Motif(onsets, tuple(min(max(degree, -3), 5) for degree in snapped))


def draw_song(artist: Artist, album: Album, rng: np.random.Generator) -> Song:
    """Invent a song's material."""
    beats_a_minute = artist.tempo * album.tempo * np.exp(rng.normal(0, 0.08))
    kinds = ("verse", "chorus")
    return Song(
        step=60 / beats_a_minute / 4,
        swing=artist.swing,
        tonic=int(rng.integers(12)),
        scale=choose(rng, artist.scales, 1)[0],
        progressions=dict(zip(kinds, choose(rng, artist.progressions, 2), strict=True)),
        motifs={
            kind: tuple(
                draw_motif(artist, onsets, rng) for onsets in choose(rng, artist.melodies, 2)
            )
            for kind in kinds
        },
        players=choose(rng, album.players, 2),
        strums=choose(rng, artist.strums, 2),
        bass_line=choose(rng, artist.bass_lines, 1)[0],
        beat=choose(rng, artist.beats, 1)[0],
    )


def spans(onsets: Steps) -> Iterator[tuple[int, int]]:
    """Pair each onset with the next one, the last with the bar's end."""
    return zip(onsets, (*onsets[1:], STEPS), strict=True)


def write_melody(
    artist: Artist, song: Song, bar: int, kind: str, section: Section, rng: np.random.Generator
) -> list[Note]:
    """Write a bar for the singer, or for the instrument that takes the singer's place."""
    motif = song.motifs[kind][bar % 2]
    root = song.progressions[kind][bar % 4]
    notes = []
    for (onset, end), degree in zip(spans(motif.onsets), motif.degrees, strict=True):
        # A motif comes back often, and never quite the same.
        aside = int(rng.choice((-1, 1))) if rng.random() < 0.15 else 0
        climb = song.pitch(root + degree + section.lift + aside) - song.pitch(root)
        notes.append(
            Note(
                start=song.moment(bar, onset, rng),
                duration=0.95 * song.step * min(end - onset, STEPS // 2),
                pitch=song.pitch_near(artist.centre, root) + climb,
                velocity=section.level * rng.uniform(0.8, 1.0),
                vowel=str(rng.choice(artist.vowels)),
            )
        )
    return notes


def write_chords(
    artist: Artist,
    song: Song,
    number: int,
    bar: int,
    root: int,
    level: float,
    rng: np.random.Generator,
) -> list[Note]:
    """Write a bar of accompaniment for player ``number``."""
    player = song.players[number]
    chord = [
        song.pitch_near(player.register + 4 * voice, root + degree)
        for voice, degree in enumerate((0, 4, 2, 6)[: artist.chord_size])
    ]
    if player.style == "arpeggio":
        struck = [(step, 2, [chord[step // 2 % len(chord)]]) for step in range(0, STEPS, 2)]
    elif player.style == "hold":
        struck = [(step, STEPS // 2, chord) for step in (0, STEPS // 2)]
    else:
        struck = [(step, end - step, chord) for step, end in spans(song.strums[number])]
    notes = []
    for step, length, pitches in struck:
        start = song.moment(bar, step, rng)
        velocity = level * rng.uniform(0.7, 1.0)
        notes += [Note(start, length * song.step, pitch, velocity) for pitch in pitches]
    return notes


def write_bass(
    song: Song, bar: int, root: int, level: float, rng: np.random.Generator
) -> list[Note]:
    """Write a bar of bass: the root, and now and then the fifth."""
    notes = []
    for step, end in spans(song.bass_line):
        degree = root + (4 if step > STEPS // 2 and rng.random() < 0.3 else 0)
        notes.append(
            Note(
                start=song.moment(bar, step, rng),
                duration=0.9 * song.step * (end - step),
                pitch=song.pitch_near(38, degree),
                velocity=level * rng.uniform(0.8, 1.0),
            )
        )
    return notes


def write_drum(
    song: Song, bar: int, onsets: Steps, level: float, rng: np.random.Generator
) -> list[Note]:
    """Write a bar for one drum, with the beats accented."""
    return [
        Note(
            start=song.moment(bar, step, rng),
            duration=0.5,
            pitch=0,
            velocity=level * (1.0 if step % 4 == 0 else 0.7) * rng.uniform(0.8, 1.0),
        )
        for step in onsets
    ]


def compose(
    artist: Artist, song: Song, seconds: float, rng: np.random.Generator
) -> dict[str, list[Note]]:
    """Write out a song.

    Returns
    -------
    dict of str to list of Note
        The parts ``voice``, ``player0``, ``player1``, ``bass``, ``kick``, ``snare`` and ``hat``.
    """
    names = ("voice", "player0", "player1", "bass", "kick", "snare", "hat")
    parts: dict[str, list[Note]] = {name: [] for name in names}
    n_bars = math.ceil(seconds / (STEPS * song.step))
    section_bars = 8 if n_bars >= 64 else 4 if n_bars >= 32 else 2 if n_bars >= 8 else 1
    form = FORM if n_bars >= 8 else SHORT_FORM
    for bar in range(n_bars):
        section_name = form[bar // section_bars % len(form)]
        section = SECTIONS[section_name]
        kind = "chorus" if section_name == "chorus" else "verse"
        root = song.progressions[kind][bar % 4]
        singer = "voice" if section.sung else "player1"
        parts[singer] += write_melody(artist, song, bar, kind, section, rng)
        for number in range(2 if section.full else 1):
            parts[f"player{number}"] += write_chords(
                artist, song, number, bar, root, section.level, rng
            )
        if section.drums or section.full:
            parts["bass"] += write_bass(song, bar, root, section.level, rng)
        if section.drums:
            kick, snare, hat = song.beat
            if section_bars > 1 and bar % section_bars == section_bars - 1:
                snare = (*snare, 13, 14, 15)  # the fill that leads on
            for name, onsets in (("kick", kick), ("snare", snare), ("hat", hat)):
                parts[name] += write_drum(song, bar, onsets, section.level, rng)
    return parts


def render_song(seed: int, track: Track, seconds: float) -> Waveform:
    """Compose, play and produce one song.

    Returns
    -------
    ndarray, shape (round(seconds * SAMPLE_RATE),)
        Mono, between -0.9 and 0.9.
    """
    artist = draw_artist(seed, track.artist)
    album = draw_album(seed, track.artist, track.album)
    rng = generator(seed, "song", track.artist, track.album, track.song)
    song = draw_song(artist, album, rng)
    parts = compose(artist, song, seconds, rng)
    n_samples = round(seconds * SAMPLE_RATE)
    mix = np.zeros(n_samples, np.float32)
    for name, notes in parts.items():
        if name == "voice":
            sound = render_voice(artist.voice, notes, n_samples, rng)
        elif name == "bass":
            sound = render_instrument(album.bass, notes, n_samples)
        elif name.startswith("player"):
            sound = render_instrument(song.players[int(name[-1])].instrument, notes, n_samples)
        else:
            sound = render_drum(album.kit, name, notes, n_samples)
        level = album.mix["players" if name.startswith("player") else name] + rng.normal(0, 1.5)
        mix += np.float32(decibels(level)) * unit_rms(sound)
    waveform = master(mix, album.production, rng)
    fade(waveform, attack=0.01, release=min(2.0, seconds / 20))
    return waveform


def write_song(directory: Path, seed: int, track: Track, seconds: float) -> None:
    """Make one file of the data set."""
    waveform = render_song(seed, track, seconds)
    with atomic_path(directory / track.path) as temporary:
        soundfile.write(
            temporary,
            waveform,
            SAMPLE_RATE,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=COMPRESSION_LEVEL,
        )


def plan(*, artists: int, albums: int, songs: int, seed: int) -> dict[str, list[Track]]:
    """Lay out a data set, split by album about 4:1:1.

    Returns
    -------
    dict of str to list of Track
        ``train`` and ``val``, sorted by path, and ``test`` in an order that the seed shuffles.
    """
    n_held_out = max(1, round(albums / 6))
    tracks: dict[str, list[Track]] = {"train": [], "val": [], "test": []}
    for artist in range(artists):
        for album in range(albums):
            folder = f"train_val/{artist_name(seed, artist)}/{title(seed, artist, album)}"
            split = ("test", "val", "train")[min(2, (albums - 1 - album) // n_held_out)]
            tracks[split] += [
                Track(
                    path=f"{folder}/{song + 1:02d}-{title(seed, artist, album, song)}.mp3",
                    artist=artist,
                    album=album,
                    song=song,
                )
                for song in range(songs)
            ]
    order = generator(seed, "test order").permutation(len(tracks["test"]))
    shuffled = [tracks["test"][i] for i in order]
    return {
        "train": sorted(tracks["train"], key=lambda track: track.path),
        "val": sorted(tracks["val"], key=lambda track: track.path),
        "test": [
            Track(f"test/{number:03d}.mp3", track.artist, track.album, track.song)
            for number, track in enumerate(shuffled, start=1)
        ],
    }


def check_sizes(
    *, artists: int, albums: int, songs: int, seconds: float, seed: int, workers: int
) -> None:
    """Raise UserError for a size that no data set can have."""
    most = {"artists": len(FIRST_NAMES) * len(LAST_NAMES), "albums": len(ADJECTIVES) * len(NOUNS)}
    if not 2 <= artists <= most["artists"]:
        raise UserError(f"--artists {artists}: must be from 2 to {most['artists']}")
    if not 3 <= albums <= most["albums"]:
        raise UserError(
            f"--albums {albums}: must be from 3 (train, val and test need one each) to "
            f"{most['albums']}"
        )
    if songs < 1:
        raise UserError(f"--songs {songs}: must be at least 1")
    if not 1 <= seconds < math.inf:
        raise UserError(f"--seconds {seconds}: must be at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: must not be negative")
    if workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1")


def is_complete(directory: Path, settings: dict[str, Any]) -> bool:
    """Tell whether a data set is there already, as opposed to nothing or its beginning.

    Raises
    ------
    UserError
        If the folder holds something else, which must not be overwritten.
    """
    advice = "choose another folder or delete it"
    try:
        # A lock and half a marker are what a run leaves that was stopped at its very beginning.
        if all(path.name.startswith(".") for path in directory.iterdir()):
            return False
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise UserError(f"{directory} is a file, not a folder: {advice}") from None
    try:
        marker = parse_json((directory / "dataset.json").read_text(encoding="utf-8"))
        made_here = marker["name"] == "demo"
        found, complete = dict(marker["settings"]), bool(marker["complete"])
    except (OSError, ValueError, TypeError, KeyError):
        made_here = False
    if not made_here:
        raise UserError(f"{directory} holds something else than a demo data set: {advice}")
    if found != settings:
        listed = ", ".join(f"{name} {value}" for name, value in found.items())
        raise UserError(f"{directory} holds a demo data set of other settings ({listed}): {advice}")
    return complete


def write_songs(
    directory: Path, seed: int, tracks: list[Track], seconds: float, workers: int
) -> None:
    """Make the files of ``tracks``, in several processes if ``workers`` is above 1."""
    with tqdm(total=len(tracks), desc="Synthesising", unit="song", disable=None) as progress:
        if workers == 1:
            for track in tracks:
                write_song(directory, seed, track, seconds)
                progress.update()
            return
        # Spawned: a fork of a process with threads (BLAS, torch in tests) may hang. Nothing here
        # calls BLAS or a threaded FFT, so that one process keeps one core busy and no more.
        runtime.check_for_semaphores()
        pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=runtime.start_worker,
        )
        try:
            with runtime.signals_held():
                jobs = [
                    pool.submit(write_song, directory, seed, track, seconds) for track in tracks
                ]
            for job in as_completed(jobs):
                job.result()
                progress.update()
        finally:
            pool.shutdown(cancel_futures=True)


def build(
    directory: Path,
    *,
    artists: int = 10,
    albums: int = 6,
    songs: int = 4,
    seconds: float = 30.0,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Make a data set, or the rest of one that was begun, and say what was made.

    Parameters
    ----------
    directory : Path
        Where to; missing, empty, or a data set of the same settings.
    artists, albums, songs : int
        Number of artists, of albums by each (at least 3), and of songs on each.
    seconds : float
        Length of a song.
    seed : int
        Of everything random.
    workers : int, optional
        Processes; by default one per core. The files do not depend on it.

    Raises
    ------
    UserError
        If a size makes no sense, if the folder holds anything else, or if another run is writing
        to it.
    """
    started = time.monotonic()
    workers = (os.cpu_count() or 1) if workers is None else workers
    check_sizes(
        artists=artists, albums=albums, songs=songs, seconds=seconds, seed=seed, workers=workers
    )
    settings = {
        "format": FORMAT,
        "artists": artists,
        "albums": albums,
        "songs": songs,
        "seconds": seconds,
        "seed": seed,
    }
    splits = plan(artists=artists, albums=albums, songs=songs, seed=seed)
    lists = {
        "train.json": [f"./{track.path}" for track in splits["train"]],
        "val.json": [f"./{track.path}" for track in splits["val"]],
        "answers.json": [artist_name(seed, track.artist) for track in splits["test"]],
    }
    # In the order of artists, so that neighbours share the tones that are cached.
    tracks = sorted(
        (track for split in splits.values() for track in split),
        key=lambda track: (track.artist, track.album, track.song),
    )
    files = (*lists, *(track.path for track in tracks))
    if is_complete(directory, settings) and all((directory / name).is_file() for name in files):
        print(f"{directory} is complete already; nothing to do")
        return

    with only_writer(directory):
        missing = [track for track in tracks if not (directory / track.path).is_file()]
        # What a killed run left half-written; test/*.mp3 would match it.
        for orphan in directory.rglob(".*.tmp.*"):
            orphan.unlink()
        # Files are whole once they have their names, and the marker says whose they are: together
        # they tell a later run what it may keep.
        marker = {"name": "demo", "synthesised": True, "complete": False, "settings": settings}
        write_json(directory / "dataset.json", marker)
        write_songs(directory, seed, missing, seconds, min(workers, max(1, len(missing))))
        for name, entries in lists.items():
            write_json(directory / name, entries)
        write_json(directory / "dataset.json", {**marker, "complete": True})

    kept = len(tracks) - len(missing)
    print(
        f"{directory}: {artists} artists, {artists * albums} albums, {len(tracks)} songs "
        f"({', '.join(f'{len(split)} {name}' for name, split in splits.items())}"
        f"{f'; {kept} of them were there' if kept else ''}), "
        f"{len(tracks) * seconds / 3600:.2f} hours of music in "
        f"{time.monotonic() - started:.0f} seconds"
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--artists", type=int, default=10, help="number of artists")
    parser.add_argument("--albums", type=int, default=6, help="albums by each artist, at least 3")
    parser.add_argument("--songs", type=int, default=4, help="songs on each album")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a song")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = vars(parse_args(argv))
    build(options.pop("directory"), **options)


if __name__ == "__main__":
    runtime.run(main)
