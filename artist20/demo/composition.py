"""Artists, albums and songs as notes, all drawn from one seed.

An artist is a way of making music: a singing voice, favourite instruments, scales, rhythms, a
tempo. An album is a production that its songs share: line-up, equalisation, reverberation, noise
floor, loudness, mix. Artists share instruments, and productions hide voices, so that telling them
apart is neither trivial nor hopeless.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from artist20.demo import synthesis
from artist20.demo.synthesis import Instrument, Kit, Note, Production, Voice, Waveform

T = TypeVar("T")
Steps = tuple[int, ...]  # sixteenth notes of a bar, 0 to 15
Beat = tuple[Steps, Steps, Steps]  # kick, snare, hat
# A bar of melody: when each syllable begins and ends, and its degree above the chord's root.
Motif = tuple[tuple[int, int, int], ...]

# How many instruments there are in the world. Few, so that artists share them: when each had its
# own, an SVM on song statistics made no error on the validation songs.
N_PLAYERS, N_BASSES, N_KITS = 12, 6, 6

# Standard deviations of an album's equalisation in dB per octave, as a slope and from one octave to
# the next. That SVM then names the artist of about three in four songs of unheard albums, and of 94
# in 100 unheard songs from known albums.
EQ_SLOPE, EQ_WALK = 1.1, 2.1

STEPS = 16  # in a bar of 4/4


def _bars(drawn: str) -> tuple[Steps, ...]:
    """Read bars of 16 steps, on each of which a note begins (``x``) or not."""
    return tuple(tuple(i for i, mark in enumerate(bar) if mark == "x") for bar in drawn.split())


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
_DEGREES = "0453 0534 5304 0343 0034 1400 0630 0234 0654 3425 0003 0101"
PROGRESSIONS = tuple(tuple(map(int, degrees)) for degrees in _DEGREES.split())
# Where the syllables of a bar begin.
MELODIES = _bars("""
    x...x...x...x... x...x.x.x....... ..x.x.x.x...x... x..x..x.x...x...
    x.....x.x.....x. ....x.x.x.x.x... x.x.x...x.x.x... x.......x.......
    x.......x...x... ...x..x...x.x... x.xx..x.x.xx..x. x...x..x..x.x.x.
""")
# Where chords are struck.
STRUMS = _bars("""
    x............... x.......x....... x...x...x...x... ....x.......x...
    ..x...x...x...x. x.....x.....x... x..x..x...x.x... x.x.x.x.x.x.x.x.
    x...x.x...x.x.x. x..x....x..x....
""")
BASS_LINES = _bars("""
    x............... x.......x....... x.....x.x.....x. x...x...x...x...
    x.x.x.x.x.x.x.x. x..x..x...x..... x.........x.x...
""")
_DRUMS = _bars("""
    x.......x....... ....x.......x... x.x.x.x.x.x.x.x.
    x...x...x...x... ....x.......x... ..x...x...x...x.
    x.........x..... ........x....... x...x...x...x...
    x..x....x.x..... ....x.......x... xxxxxxxxxxxxxxxx
    x.....x...x..... ....x.......x... x.x.x.x.x.x.x.x.
    x......x..x..... ....x....x..x..x x.x.x.x.x.x.x.x.
    x.....x.x.....x. ...x..x.....x... x.x.x.x.x.x.x.x.
    x.x.....x.x..... ....x.x.....x.x. x...x...x...x...
""")
BEATS = tuple(zip(_DRUMS[::3], _DRUMS[1::3], _DRUMS[2::3], strict=True))


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
    beats: tuple[Beat, ...]
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
class Bar:
    """One bar of a song."""

    number: int
    section: Section
    motif: Motif
    root: int  # scale degree of its chord


@dataclass(frozen=True)
class Song:
    """What one song takes from its artist and album."""

    artist: Artist
    step: float  # seconds
    tonic: int  # MIDI pitch class
    scale: tuple[int, ...]
    progressions: dict[str, tuple[int, ...]]  # of verse and chorus
    motifs: dict[str, tuple[Motif, ...]]  # two each, in turn
    players: tuple[Player, ...]  # two
    strums: tuple[Steps, ...]  # of each player
    bass_line: Steps
    beat: Beat

    def pitch(self, degree: int) -> int:
        """Compute the MIDI note number of a scale degree above the tonic."""
        octave, within = divmod(degree, len(self.scale))
        return self.tonic + 12 * octave + self.scale[within]

    def pitch_near(self, centre: int, degree: int) -> int:
        """Compute that of a scale degree in the octave that lies nearest to ``centre``."""
        pitch = self.pitch(degree)
        return pitch + 12 * round((centre - pitch) / 12)

    def moment(self, bar: Bar, step: int, rng: np.random.Generator) -> float:
        """Draw the seconds from the start at which people play a step."""
        late = self.artist.swing * (step % 2) + rng.normal(0, 0.03)
        return max(0.0, (bar.number * STEPS + step + late) * self.step)


# --- drawing artists, albums and songs -----------------------------------------------------------


def generator(seed: int, what: str, *key: int) -> np.random.Generator:
    """Make the generator of one thing, whatever else is made and in what order."""
    words = (zlib.crc32(what.encode()), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=words))


def _choose(rng: np.random.Generator, options: tuple[T, ...], size: int) -> tuple[T, ...]:
    """Pick ``size`` different options."""
    return tuple(options[i] for i in rng.permutation(len(options))[:size])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_player(seed: int, number: int) -> Player:
    """Draw one of the instruments that artists share, and how it accompanies."""
    rng = generator(seed, "player", number)
    decay, attack, damping, inharmonicity = {
        "plucked": (_log_uniform(rng, 0.3, 1.2), 0.003, rng.uniform(0.1, 0.5), 1e-4),
        "struck": (_log_uniform(rng, 0.5, 2.0), 0.004, rng.uniform(0.2, 0.9), 6e-4),
        "sustained": (20.0, _log_uniform(rng, 0.02, 0.15), 0.0, 0.0),
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
    """Draw one of the basses that artists share."""
    rng = generator(seed, "bass", number)
    return Instrument(
        rolloff=rng.uniform(0.8, 2.2),
        comb=rng.uniform(0.1, 0.5),
        inharmonicity=1e-4,
        attack=0.005,
        decay=_log_uniform(rng, 0.3, 2.0),
        damping=rng.uniform(0.1, 0.5),
        drive=float(rng.choice((0.0, 0.0, 1.5))),
    )


def draw_kit(seed: int, number: int) -> Kit:
    """Draw one of the drum kits that artists share."""
    rng = generator(seed, "kit", number)
    return Kit(
        kick_frequency=rng.uniform(42, 70),
        kick_decay=_log_uniform(rng, 0.05, 0.2),
        snare_frequency=rng.uniform(150, 260),
        snare_decay=_log_uniform(rng, 0.04, 0.18),
        snare_noise=_log_uniform(rng, 0.3, 1.5),
        hat_cutoff=rng.uniform(3000, 6500),
        hat_decay=_log_uniform(rng, 0.015, 0.12),
    )


def draw_artist(seed: int, artist: int) -> Artist:
    """Draw artist number ``artist``, the same whatever the number of artists."""
    rng = generator(seed, "artist", artist)
    tract = rng.uniform(0.94, 1.2)
    return Artist(
        voice=Voice(
            tract=tract,
            fourth_formant=rng.uniform(2900, 3900),
            bandwidth=_log_uniform(rng, 0.7, 1.6),
            source_cutoff=_log_uniform(rng, 300, 1200),
            breath=_log_uniform(rng, 0.03, 0.5),
            consonant=_log_uniform(rng, 0.03, 0.2),
            vibrato_rate=rng.uniform(4.5, 7.0),
            vibrato_depth=rng.uniform(0.0, 0.8),
            vibrato_delay=rng.uniform(0.05, 0.35),
            scoop=rng.uniform(0.0, 2.0),
        ),
        # Short vocal tracts go with high voices.
        centre=round(57 + 40 * (tract - 1.05) + rng.normal(0, 2.5)),
        vowels=_choose(rng, tuple(synthesis.VOWELS), 6),
        players=_choose(rng, tuple(range(N_PLAYERS)), 5),
        basses=_choose(rng, tuple(range(N_BASSES)), 2),
        kits=_choose(rng, tuple(range(N_KITS)), 2),
        scales=_choose(rng, SCALES, 2),
        progressions=_choose(rng, PROGRESSIONS, 4),
        chord_size=int(rng.choice((2, 3, 3, 4))),
        melodies=_choose(rng, MELODIES, 4),
        strums=_choose(rng, STRUMS, 3),
        beats=_choose(rng, BEATS, 3),
        bass_lines=_choose(rng, BASS_LINES, 2),
        tempo=_log_uniform(rng, 80, 140),
        swing=float(rng.choice((0.0, 0.0, 0.15, 0.33))),
        leap=rng.uniform(0.8, 2.2),
    )


def draw_album(seed: int, artist: int, album: int) -> Album:
    """Draw album number ``album`` of artist number ``artist``."""
    habits = draw_artist(seed, artist)
    rng = generator(seed, "album", artist, album)
    # Neighbouring bands move together, as they do under a mixing desk's hands.
    bands = np.arange(len(synthesis.EQ_CENTRES))
    curve = rng.normal(0, EQ_SLOPE) * bands + np.cumsum(rng.normal(0, EQ_WALK, len(bands)))
    levels = {"voice": 0, "player": -4, "bass": -5, "kick": -5, "snare": -8, "hat": -14}
    return Album(
        players=tuple(draw_player(seed, number) for number in _choose(rng, habits.players, 3)),
        bass=draw_bass(seed, int(rng.choice(habits.basses))),
        kit=draw_kit(seed, int(rng.choice(habits.kits))),
        tempo=float(np.exp(rng.normal(0, 0.08))),
        mix={part: level + rng.normal(0, 2.5) for part, level in levels.items()},
        production=Production(
            equalisation=tuple(float(gain) for gain in curve - curve.mean()),
            reverb_seconds=_log_uniform(rng, 0.2, 2.0),
            reverb_level=_log_uniform(rng, 0.1, 0.7),
            noise_floor=rng.uniform(-65, -35),
            compression=rng.uniform(0.0, 0.6),
            loudness=rng.uniform(-22, -12),
        ),
    )


def _spans(onsets: Steps) -> Iterator[tuple[int, int]]:
    """Pair each onset with the next one, the last with the bar's end."""
    return zip(onsets, (*onsets[1:], STEPS), strict=True)


def _draw_motif(artist: Artist, onsets: Steps, rng: np.random.Generator) -> Motif:
    """Draw a bar of melody: a random walk that meets the chord on strong beats."""
    walk = np.cumsum(rng.normal(0, artist.leap, len(onsets)))
    motif = []
    for (onset, end), step in zip(_spans(onsets), walk, strict=True):
        # Root, third and fifth are the even degrees.
        degree = 2 * round(step / 2) if onset % 8 == 0 else round(step)
        motif.append((onset, end, min(max(degree, -3), 5)))
    return tuple(motif)


def _draw_song(artist: Artist, album: Album, rng: np.random.Generator) -> Song:
    """Draw a song's material."""
    beats_a_minute = artist.tempo * album.tempo * np.exp(rng.normal(0, 0.08))
    kinds = ("verse", "chorus")
    return Song(
        artist=artist,
        step=60 / beats_a_minute / 4,
        tonic=int(rng.integers(12)),
        scale=_choose(rng, artist.scales, 1)[0],
        progressions=dict(zip(kinds, _choose(rng, artist.progressions, 2), strict=True)),
        motifs={
            kind: tuple(_draw_motif(artist, bar, rng) for bar in _choose(rng, artist.melodies, 2))
            for kind in kinds
        },
        players=_choose(rng, album.players, 2),
        strums=_choose(rng, artist.strums, 2),
        bass_line=_choose(rng, artist.bass_lines, 1)[0],
        beat=_choose(rng, artist.beats, 1)[0],
    )


# --- writing notes -------------------------------------------------------------------------------


def _write_melody(song: Song, bar: Bar, rng: np.random.Generator) -> Iterator[Note]:
    """Write a bar for the singer, or for the instrument that takes the singer's place."""
    for onset, end, degree in bar.motif:
        # A motif comes back often, and never quite the same.
        aside = int(rng.choice((-1, 1))) if rng.random() < 0.15 else 0
        climb = song.pitch(bar.root + degree + bar.section.lift + aside) - song.pitch(bar.root)
        yield Note(
            start=song.moment(bar, onset, rng),
            duration=0.95 * song.step * min(end - onset, STEPS // 2),
            pitch=song.pitch_near(song.artist.centre, bar.root) + climb,
            velocity=bar.section.level * rng.uniform(0.8, 1.0),
            vowel=str(rng.choice(song.artist.vowels)),
        )


def _write_chords(song: Song, number: int, bar: Bar, rng: np.random.Generator) -> Iterator[Note]:
    """Write a bar of accompaniment for player ``number``."""
    player = song.players[number]
    degrees = enumerate((0, 4, 2, 6)[: song.artist.chord_size])
    chord = [song.pitch_near(player.register + 4 * i, bar.root + degree) for i, degree in degrees]
    if player.style == "arpeggio":
        struck = [(step, 2, [chord[step // 2 % len(chord)]]) for step in range(0, STEPS, 2)]
    elif player.style == "hold":
        struck = [(step, STEPS // 2, chord) for step in (0, STEPS // 2)]
    else:
        struck = [(step, end - step, chord) for step, end in _spans(song.strums[number])]
    for step, length, pitches in struck:
        start = song.moment(bar, step, rng)
        velocity = bar.section.level * rng.uniform(0.7, 1.0)
        for pitch in pitches:
            yield Note(start, length * song.step, pitch, velocity)


def _write_bass(song: Song, bar: Bar, rng: np.random.Generator) -> Iterator[Note]:
    """Write a bar of bass: the root, and now and then the fifth."""
    for step, end in _spans(song.bass_line):
        degree = bar.root + (4 if step > STEPS // 2 and rng.random() < 0.3 else 0)
        yield Note(
            start=song.moment(bar, step, rng),
            duration=0.9 * song.step * (end - step),
            pitch=song.pitch_near(38, degree),
            velocity=bar.section.level * rng.uniform(0.8, 1.0),
        )


def _write_drum(song: Song, bar: Bar, onsets: Steps, rng: np.random.Generator) -> Iterator[Note]:
    """Write a bar for one drum, with the beats accented."""
    for step in onsets:
        start, level = song.moment(bar, step, rng), bar.section.level * (0.7 if step % 4 else 1.0)
        yield Note(start, duration=0.5, pitch=0, velocity=level * rng.uniform(0.8, 1.0))


def _compose(song: Song, seconds: float, rng: np.random.Generator) -> dict[str, list[Note]]:
    """Write out a song: parts voice, player0, player1, bass, kick, snare and hat."""
    names = ("voice", "player0", "player1", "bass", "kick", "snare", "hat")
    parts: dict[str, list[Note]] = {name: [] for name in names}
    n_bars = math.ceil(seconds / (STEPS * song.step))
    section_bars = 8 if n_bars >= 64 else 4 if n_bars >= 32 else 2 if n_bars >= 8 else 1
    form = FORM if n_bars >= 8 else SHORT_FORM
    for i in range(n_bars):
        name = form[i // section_bars % len(form)]
        section = SECTIONS[name]
        kind = "chorus" if name == "chorus" else "verse"
        bar = Bar(i, section, song.motifs[kind][i % 2], song.progressions[kind][i % 4])
        parts["voice" if section.sung else "player1"] += _write_melody(song, bar, rng)
        for number in range(2 if section.full else 1):
            parts[f"player{number}"] += _write_chords(song, number, bar, rng)
        if section.drums or section.full:
            parts["bass"] += _write_bass(song, bar, rng)
        if section.drums:
            kick, snare, hat = song.beat
            if section_bars > 1 and i % section_bars == section_bars - 1:
                snare = (*snare, 13, 14, 15)  # the fill that leads on
            for drum, onsets in (("kick", kick), ("snare", snare), ("hat", hat)):
                parts[drum] += _write_drum(song, bar, onsets, rng)
    return parts


def render_song(
    seed: int, artist_number: int, album_number: int, song_number: int, seconds: float
) -> Waveform:
    """Compose, play and produce one song: (round(16000 * seconds),) float32, within 0.9."""
    artist, album = draw_artist(seed, artist_number), draw_album(seed, artist_number, album_number)
    rng = generator(seed, "song", artist_number, album_number, song_number)
    song = _draw_song(artist, album, rng)
    n_samples = round(seconds * synthesis.SAMPLE_RATE)
    mix = np.zeros(n_samples, np.float32)
    for name, notes in _compose(song, seconds, rng).items():
        if name == "voice":
            sound = synthesis.render_voice(artist.voice, notes, n_samples, rng)
        elif name == "bass":
            sound = synthesis.render_instrument(album.bass, notes, n_samples)
        elif name.startswith("player"):
            instrument = song.players[int(name[-1])].instrument
            sound = synthesis.render_instrument(instrument, notes, n_samples)
        else:
            sound = synthesis.render_drum(album.kit, name, notes, n_samples)
        # Players are numbered, and mixed alike.
        level = album.mix[name.rstrip("01")] + rng.normal(0, 1.5)
        mix += np.float32(synthesis.decibels(level)) * synthesis.unit_rms(sound)
    waveform = synthesis.master(mix, album.production, rng)
    synthesis.fade(waveform, attack=0.01, release=min(2.0, seconds / 20))
    return waveform
