"""The demo's data folder: names, split lists, files."""

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import soundfile
from tqdm import tqdm

from artist20 import UserError, runtime
from artist20.demo.composition import generator, render_song
from artist20.demo.synthesis import SAMPLE_RATE
from artist20.files import atomic_path, only_writer, parse_json, write_json
from artist20.results import Record, differences, write_record

MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
COMPRESSION = 0.85  # libsndfile's scale from 0 to 1: 32 kbit/s at 16 kHz


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Invented.
FIRST_NAMES = _words(
    "abrelle bastor cindrel dovarre elquin fennick galdora hestrel ivarno jostyn keldra lumarre "
    "mirvane noldeth ombrellin quillon"
)
LAST_NAMES = _words(
    "and_the_tarn brindlow casterwyn dunmarrow eskerby farrowmint grellan hollowick ingledew_four "
    "kestervale lorimand mossgrave nettlebane orchardine pellamar rooksby_trio"
)
ADJECTIVES = _words(
    "Amber Broken Careless Distant Electric Faded Golden Hollow Idle Last Midnight Northern Open "
    "Paper Quiet Restless"
)
NOUNS = _words(
    "Avenue Bridges Carousel Daylight Engine Ferry Garden Harbour Island Lantern Mirror Orchard "
    "Postcard River Summer Window"
)
TITLES = _words(
    "{0}_{1} The_{0}_{1} {0},_{0}_{1} {1}_(I'm_So_{0}) Don't_Wake_the_{0}_{1} Mr._{1}_Is_{0} "
    "{0}_{1}_[Live] {0}-{1}"
)
MAX_ARTISTS = len(FIRST_NAMES) * len(LAST_NAMES)
MAX_ALBUMS = len(ADJECTIVES) * len(NOUNS)


class Settings(Record, frozen=True, kw_only=True):
    """Everything that the files depend on."""

    format: int = 1  # raised whenever the same settings begin to give other files
    artists: int = 10
    albums: int = 6  # by each artist; at least 3
    songs: int = 4  # on each album
    seconds: float = 30.0  # length of a song
    seed: int = 0


class Marker(Record, frozen=True, kw_only=True):
    """``dataset.json``: whose files are in the folder."""

    name: str = "demo"
    synthesised: bool = True
    complete: bool
    settings: Settings


@dataclass(frozen=True)
class Track:
    """One file to make: where it lies, and the numbers of its artist, album and song."""

    path: str
    artist: int
    album: int
    song: int


def artist_name(seed: int, artist: int) -> str:
    """Return the name of an artist, another one for each of a seed."""
    number = generator(seed, "names").permutation(MAX_ARTISTS)[artist]
    first, last = divmod(int(number), len(LAST_NAMES))
    return f"{FIRST_NAMES[first]}_{LAST_NAMES[last]}"


def _title(seed: int, *key: int) -> str:
    """Return the title of an album (artist, album) or a song (artist, album, song)."""
    *family, number = key
    pairs = generator(seed, "titles", *family).permutation(MAX_ALBUMS)
    adjective, noun = divmod(int(pairs[number % len(pairs)]), len(NOUNS))
    template = str(generator(seed, "template", *key).choice(TITLES))
    return template.format(ADJECTIVES[adjective], NOUNS[noun])


def plan(settings: Settings) -> dict[str, list[Track]]:
    """Lay out a data set, split by album about 4:1:1; ``test`` is shuffled, the others sorted."""
    seed, albums = settings.seed, settings.albums
    n_held_out = max(1, round(albums / 6))
    tracks: dict[str, list[Track]] = {"train": [], "val": [], "test": []}
    for artist, album in product(range(settings.artists), range(albums)):
        folder = f"train_val/{artist_name(seed, artist)}/{_title(seed, artist, album)}"
        split = ("test", "val", "train")[min(2, (albums - 1 - album) // n_held_out)]
        for song in range(settings.songs):
            path = f"{folder}/{song + 1:02d}-{_title(seed, artist, album, song)}.mp3"
            tracks[split].append(Track(path, artist, album, song))
    for split in ("train", "val"):
        tracks[split].sort(key=lambda track: track.path)
    order = generator(seed, "test order").permutation(len(tracks["test"]))
    tracks["test"] = [
        replace(tracks["test"][i], path=f"test/{number:03d}.mp3")
        for number, i in enumerate(order, start=1)
    ]
    return tracks


def write_song(directory: Path, settings: Settings, track: Track) -> None:
    """Make one file of the data set."""
    waveform = render_song(settings.seed, track.artist, track.album, track.song, settings.seconds)
    with atomic_path(directory / track.path) as temporary:
        soundfile.write(temporary, waveform, SAMPLE_RATE, compression_level=COMPRESSION, **MP3)


def _write_songs(directory: Path, settings: Settings, tracks: list[Track], workers: int) -> None:
    write = partial(write_song, directory, settings)

    def wait(songs: Iterable[None]) -> None:
        for _ in tqdm(songs, "synthesising", len(tracks), unit="song", disable=None):
            pass

    if min(workers, len(tracks)) <= 1:
        wait(map(write, tracks))
        return
    # Spawned: a fork of a process with threads (BLAS, torch in tests) may hang. Nothing here calls
    # BLAS or a threaded FFT, so that one process keeps one core busy and no more.
    runtime.check_for_semaphores()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=runtime.start_worker)
    try:
        with runtime.signals_held():
            songs = pool.map(write, tracks)
        wait(songs)
    finally:
        pool.shutdown(cancel_futures=True)


def _check_folder(directory: Path, settings: Settings) -> bool:
    """Tell whether a data set of these settings is complete; refuse a folder of anything else."""
    advice = "choose another folder or delete it"
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, not a folder: {advice}")
    # A lock and half a marker are what a run leaves that was stopped at its very beginning.
    if not directory.exists() or all(path.name.startswith(".") for path in directory.iterdir()):
        return False
    try:
        marker = parse_json((directory / "dataset.json").read_bytes(), Marker)
    except (OSError, ValueError):
        marker = None
    if marker is None or marker.name != "demo":
        raise UserError(f"{directory} holds something else than a demo data set: {advice}")
    if other := ", ".join(differences(marker.settings, settings)):
        raise UserError(f"{directory} holds a demo data set of other settings ({other}): {advice}")
    return marker.complete


def build(directory: Path, settings: Settings, workers: int) -> None:
    """Make a data set, or the rest of one that was begun, and print what was made.

    The folder may be missing, empty, or a data set of the same settings: anything else in it, or
    another run that writes to it, is a UserError. The files do not depend on the number of workers.
    """
    started = time.monotonic()
    splits = plan(settings)
    lists = {
        "train.json": [f"./{track.path}" for track in splits["train"]],
        "val.json": [f"./{track.path}" for track in splits["val"]],
        "answers.json": [artist_name(settings.seed, track.artist) for track in splits["test"]],
    }
    # In the order of artists, so that neighbours share the tones that are cached.
    tracks = sorted(
        (track for split in splits.values() for track in split),
        key=lambda track: (track.artist, track.album, track.song),
    )
    files = (*lists, *(track.path for track in tracks))
    if _check_folder(directory, settings) and all((directory / name).is_file() for name in files):
        print(f"{directory} is complete already; nothing to do")
        return

    with only_writer(directory):
        missing = [track for track in tracks if not (directory / track.path).is_file()]
        # Files are whole once they have their names, and the marker says whose they are: together
        # they tell a later run what it may keep.
        write_record(directory / "dataset.json", Marker(complete=False, settings=settings))
        _write_songs(directory, settings, missing, workers)
        for name, entries in lists.items():
            write_json(directory / name, entries)
        write_record(directory / "dataset.json", Marker(complete=True, settings=settings))

    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    kept = len(tracks) - len(missing)
    print(
        f"{directory}: {settings.artists} artists, {settings.artists * settings.albums} albums, "
        f"{len(tracks)} songs ({sizes}{f'; {kept} of them were there' if kept else ''}), "
        f"{len(tracks) * settings.seconds / 3600:.2f} hours of music in "
        f"{time.monotonic() - started:.0f} seconds"
    )
