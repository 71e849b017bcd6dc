"""Commands for one's own music: check a data folder, or make one by album.

    python -m artist20.collection check data/artist20
    python -m artist20.collection split ~/Music --output data/mine --seed 0 --test

Names are compared in NFC, without case and outer spaces. Discs and editions of an album are one
album, and songs that sound the same, sample by sample, are one song.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from tqdm import tqdm

from artist20 import UserError, audio, printable, runtime
from artist20.dataset import (
    NO_NAMES,
    SPLITS,
    Song,
    describe,
    find_files,
    is_utf8,
    parse_song,
    read_list,
    read_test,
    songs_among,
    spelling_key,
    tidy,
)
from artist20.files import LOCK, only_writer, told_when_full, write_json

T = TypeVar("T")

MOST_NAMED = 5  # of songs that are the same

# What stands behind an album's name on its discs and editions: "Wall (Disc 1)", "Wall_CD2", "Jazz
# [Deluxe Edition]". Editions are in brackets: "Remastered" may be an album's name.
DISC = re.compile(
    r"[\s_,:([-]*(?<![a-z])(?:cd|dis[ck])[\s_.#-]*(?:\d{1,2}|[ivx]+|one|two|three|four)"
    r"(?:[\s_]*of[\s_]*\d{1,2})?[\s_)\]]*$",
    re.IGNORECASE,
)
EDITION = re.compile(
    r"[\s_-]*[([][^()[\]]*"
    r"(?:deluxe|remaster|expanded|anniversary|bonus|special|limited|reissue|edition)"
    r"[^()[\]]*[)\]][\s_]*$",
    re.IGNORECASE,
)
DISC_FOLDER = re.compile(
    r"(?:cd|dis[ck])[\s_.#-]*(?:\d{1,2}|[ivx]+|one|two|three|four)(?![a-z0-9])", re.IGNORECASE
)  # "CD1", "Disc 2 - Live"
NO_ARTIST = re.compile(
    r"various(?: artists)?|va|compilations?|soundtracks?|unknown(?: artist)?", re.IGNORECASE
)
SEVERAL = re.compile(r"(?<![a-z])(?:feat|ft|featuring|vs)(?![a-z])", re.IGNORECASE)


def main_album(name: str) -> str:
    """Return an album's name without the disc or edition behind it: "Wall" of "Wall (Disc 1)"."""
    shorter = EDITION.sub("", DISC.sub("", name))
    return main_album(shorter) if shorter not in (*NO_NAMES, name) else name


def _map_files(function: Callable[[Path], T], files: Sequence[Path], label: str) -> list[T]:
    """Call a function with every file, in as many processes as there are cores."""
    runtime.check_for_semaphores()
    pool = ProcessPoolExecutor(initializer=runtime.start_worker)
    try:
        with runtime.signals_held():
            results = pool.map(function, files, chunksize=8)
        return list(tqdm(results, label, len(files), disable=None, leave=False))
    finally:
        pool.shutdown(cancel_futures=True)


# --- check -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examined:
    """What decoding a file from beginning to end has shown.

    Attributes
    ----------
    seconds : float
        How much could be decoded.
    sound : str
        SHA-256 of what was decoded; empty if nothing could be, or it is silence.
    problems, notes : list of str
        What is wrong with it, and what is odd.
    """

    seconds: float
    sound: str
    problems: list[str]
    notes: list[str]


def examine(file: Path) -> Examined:
    """Decode a file, and compare its length with the one that its header announces."""
    sound, n_samples = hashlib.sha256(), 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", audio.AudioNote)
        try:
            for block in audio.read_blocks(file):
                sound.update(block.tobytes())
                n_samples += len(block)
        except audio.AudioError as error:
            return Examined(0.0, "", [error.reason], [])
    said = [warning.message for warning in caught]
    odd = [message for message in said if isinstance(message, audio.AudioNote)]
    problems = [message.reason for message in odd if message.damaged]
    notes = [message.reason for message in odd if not message.damaged]
    seconds, announced = n_samples / audio.SAMPLE_RATE, audio.announced_seconds(file)
    if announced and abs(seconds - announced) > max(0.5, 0.01 * announced):
        notes.append(f"is {seconds:.1f} s long, {announced:.1f} s by its header or size")
    silent = any(message.silent for message in odd)
    return Examined(seconds, "" if silent else sound.hexdigest(), problems, notes)


@dataclass(frozen=True)
class _Part:
    """What a data folder lists as one of its splits, or holds as its test songs."""

    split: str
    files: list[Path]
    artists: set[str]
    albums: set[tuple[str, str]]


def check(data_dir: Path) -> list[str]:
    """Check a data folder, print a table of what it holds, and return every problem by name.

    Every file is decoded from beginning to end. What is odd, but need not be wrong, is printed as a
    note: a length other than its header's, silence, editions of one album in both splits.

    Raises
    ------
    UserError
        If a split list is missing or malformed.
    """
    problems: list[str] = []
    train, val = (_listed(data_dir, split, problems) for split in SPLITS)
    problems += [f"val.json: train has no song of {a}" for a in sorted(val.artists - train.artists)]
    problems += [f"{a}/{b} is in both splits" for a, b in sorted(train.albums & val.albums)]
    problems += [
        f"{file.relative_to(data_dir)} is in both splits"
        for file in sorted(set(train.files) & set(val.files))
    ]
    notes = _compare_names(train, val, problems)
    parts = [train, val]
    try:
        parts.append(_Part("test", list(read_test(data_dir).values()), set(), set()))
    except UserError as error:
        problems.append(str(error))

    files = [file for part in parts for file in part.files if file.is_file()]
    checked = dict(zip(files, _map_files(examine, files, "decoding"), strict=True))
    for file, examined in checked.items():
        name = printable(file.relative_to(data_dir))
        problems += [f"{name} {problem}" for problem in examined.problems]
        notes += [f"{name} {note}" for note in examined.notes]
    across, within = _same_recordings(data_dir, parts, checked)
    # artist20's split is the published one: what it has in both is told, and cannot be mended.
    if describe(data_dir)["name"] == "artist20":
        notes += across
    else:
        problems += across
    for note in (*notes, *within):
        print(f"note: {note}")

    print(f"{'split':6}{'artists':>9}{'albums':>8}{'songs':>7}{'hours':>8}")
    for part in parts:
        hours = sum(checked[file].seconds for file in part.files if file in checked) / 3600
        known = [len(part.artists), len(part.albums)] if part.split != "test" else ["-", "-"]
        print(f"{part.split:6}{known[0]:>9}{known[1]:>8}{len(part.files):7}{hours:8.2f}")
    return problems


def _listed(data_dir: Path, split: str, problems: list[str]) -> _Part:
    """Read a split list, and add what is wrong with its entries to ``problems``."""
    songs: dict[Path, Song] = {}
    missing = []
    for path in read_list(data_dir, split):
        try:
            song = parse_song(data_dir, path)
        except UserError as error:
            problems.append(f"{split}.json: {error}")
            continue
        if song.file in songs:
            problems.append(f"{split}.json: {path!r} is listed twice")
        elif not song.file.is_file():
            missing.append(song)
        songs[song.file] = song
    there = {_nfc(file) for file in (data_dir / "train_val").rglob("*")} if missing else set()
    for song in missing:
        normalised = ", but for its Unicode form: rename it" if _nfc(song.file) in there else ""
        problems.append(f"{split}.json: {song.path!r} is missing{normalised}")
    return _Part(
        split,
        list(songs),
        {song.artist for song in songs.values()},
        {(song.artist, song.album) for song in songs.values()},
    )


def _nfc(file: Path) -> str:
    return unicodedata.normalize("NFC", str(file))


def _compare_names(train: _Part, val: _Part, problems: list[str]) -> list[str]:
    """Add artists of two spellings and divided albums to ``problems``; return notes."""
    spellings = defaultdict(set)
    for artist in train.artists | val.artists:
        spellings[spelling_key(artist)].add(artist)
    for names in spellings.values():
        if len(names) > 1:
            problems.append(f"{_quoted(names)} are spellings of one artist: use one of them")
    notes = []
    of_val = defaultdict(list)
    for artist, album in val.albums:
        of_val[spelling_key(artist), spelling_key(main_album(album))].append(album)
    for artist, album in sorted(train.albums):
        for other in of_val[spelling_key(artist), spelling_key(main_album(album))]:
            line = f"{artist}: {album!r} in train and {other!r} in val are"
            if spelling_key(DISC.sub("", album)) != spelling_key(DISC.sub("", other)):
                notes.append(f"{line} editions of one album")
            elif album != other:
                problems.append(f"{line} one album")
    return notes


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(map(repr, sorted(names)))


def _same_recordings(
    data_dir: Path, parts: Sequence[_Part], checked: dict[Path, Examined]
) -> tuple[list[str], list[str]]:
    """List the songs that sound the same, in a line each: those in several parts, those in one."""
    same: dict[str, dict[Path, str]] = defaultdict(dict)
    for part in parts:
        for file in part.files:
            if file in checked and checked[file].sound:
                same[checked[file].sound].setdefault(file, part.split)
    across, within = [], []
    for group in same.values():
        names = [f"{printable(file.relative_to(data_dir))}" for file in group]
        if len(group) > MOST_NAMED:
            names[MOST_NAMED:] = [f"{len(group) - MOST_NAMED} more"]
        line = f"{', '.join(names[:-1])} and {names[-1]} are the same recording"
        splits = list(dict.fromkeys(group.values()))
        if len(splits) > 1:
            across.append(f"{line}, in {' and '.join(splits)}")
        elif len(group) > 1:
            within.append(line)
    return across, within


# --- split -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A song of somebody's music, and what it is to be called in the data folder."""

    file: Path
    artist: str
    album: str
    name: str


def split(music_dir: Path, output: Path, seed: int, with_test: bool) -> None:
    """Split an ``artist/album/song`` tree by album, about 4:1:1, into a data folder.

    The songs are hard-linked into ``output`` where the file system allows it, else copied, so that
    the data folder stands by itself and the music is never touched. Discs and editions become one
    album. Of an ``artist/song`` tree every song is an album. Artists with fewer than two albums are
    left out by name; a test album is set aside from artists with three or more.

    Parameters
    ----------
    music_dir : Path
        The tree; its top folders are the artists.
    output : Path
        The data folder to make; it must not exist.
    seed : int
        Decides which albums go where.
    with_test : bool
        Whether to set test songs aside, in ``test/`` and ``answers.json``.

    Raises
    ------
    UserError
        If ``output`` exists, another run is making it, ``music_dir`` is one artist's folder, or
        fewer than two artists remain.
    """
    if output.exists():
        raise UserError(f"{output} exists: name a new folder with --output")
    if not music_dir.is_dir():
        raise UserError(f"{music_dir} is no folder")
    files = songs_among(find_files(music_dir), music_dir)
    found = [song for file in files if (song := _place(file, music_dir))]
    _refuse_one_artist(found, music_dir)
    # Of a song that also lies among various artists', that copy is the one to leave out.
    found.sort(key=lambda song: bool(NO_ARTIST.fullmatch(song.artist)))
    found = _without_copies(found)
    tree: dict[str, dict[str, list[_Found]]] = defaultdict(lambda: defaultdict(list))
    for song in _join_spellings(found):
        tree[song.artist][song.album].append(song)

    songs: dict[str, list[_Found]] = {"train": [], "val": [], "test": []}
    n_artists = 0
    for artist, albums in sorted(tree.items()):
        if len(albums) < 2:
            print(f"left out {printable(artist)}: {len(albums)} album, at least 2 are needed")
            continue
        n_artists += 1
        if NO_ARTIST.fullmatch(artist):
            print(f"note: {printable(artist)} may be no artist: if so, take the folder away")
        elif SEVERAL.search(artist):
            print(f"note: {printable(artist)} may be several artists, or one of the others' songs")
        order = sorted(albums)
        random.Random(f"{seed}/{artist}").shuffle(order)
        n_held_out = max(1, round(len(order) / 6))
        n_test = n_held_out if with_test and len(order) >= 3 else 0
        if with_test and not n_test:
            print(f"{printable(artist)} has 2 albums: none is set aside for the test")
        for i, album in enumerate(order):
            part = "test" if i < n_test else "val" if i < n_test + n_held_out else "train"
            songs[part] += albums[album]
    if n_artists < 2:
        raise UserError(
            f"{music_dir} holds {n_artists} artists with 2 albums or more: 2 are needed"
        )
    _write_data_folder(output, songs, seed)
    counts = ", ".join(f"{len(files)} {part}" for part, files in songs.items() if files)
    print(f"{output}: {n_artists} artists, {counts} songs")


def _place(file: Path, music_dir: Path) -> _Found | None:
    """Find out what a song is to be called; say so if it lies where no song should."""
    parts = file.relative_to(music_dir).parts
    if any("\\" in part or not is_utf8(part) for part in parts):
        print(f"left out {printable(file)}: there is a backslash in its path, or what is no UTF-8")
        return None
    match parts:
        case artist, name:
            return _Found(file, artist, file.stem, name)
        case artist, album, name:
            return _Found(file, artist, album, name)
        case artist, album, disc, name if DISC_FOLDER.match(disc):
            return _Found(file, artist, album, f"{disc} - {name}")
    print(f"left out {printable(file)}: it lies not in artist/album/")
    return None


def _refuse_one_artist(found: Sequence[_Found], music_dir: Path) -> None:
    """Refuse a folder of one artist's albums; say what becomes of songs without an album."""
    if not found:
        raise UserError(f"{music_dir} is to hold folders of artists, with albums in them")
    loose = [song for song in found if song.file.parent.parent == music_dir]
    one_of_each = {song.artist: song.file for song in loose}
    if len(loose) == len(found) and len(one_of_each) > 1:
        tags = {spelling_key(audio.artist_tag(file) or "") for file in one_of_each.values()}
        of_one_artist = len(tags) == 1 and tags != {""}
    else:
        in_albums = [song.album for song in found if song.file.parent.parent != music_dir]
        of_one_artist = bool(in_albums) and all(DISC_FOLDER.match(album) for album in in_albums)
    if of_one_artist:
        raise UserError(f"{music_dir} holds one artist's albums: pass its parent")
    if loose:
        print(
            f"note: {len(loose)} songs lie in no album, the first is {printable(loose[0].file)}: "
            "each is taken for an album of its own; if their folders are albums, pass the folder "
            "that holds the artists"
        )


def _beginning(file: Path) -> str | audio.AudioError:
    """Hash what the first block of a file sounds like, or return what is wrong with it."""
    try:
        return hashlib.sha256(next(audio.read_blocks(file)).tobytes()).hexdigest()
    except audio.AudioError as error:
        return error


def _without_copies(found: Sequence[_Found]) -> list[_Found]:
    """Leave out songs that cannot be decoded, and those that sound like one before them."""
    alike = defaultdict(list)
    beginnings = _map_files(_beginning, [song.file for song in found], "reading")
    for song, beginning in zip(found, beginnings, strict=True):
        if isinstance(beginning, audio.AudioError):
            print(f"left out {printable(song.file)}: {beginning.reason}")
        else:
            alike[beginning].append(song)
    suspects = [song for group in alike.values() if len(group) > 1 for song in group]
    whole = _map_files(examine, [song.file for song in suspects], "comparing")
    first: dict[str, _Found] = {}
    copies = set()
    for song, examined in zip(suspects, whole, strict=True):
        original = first.setdefault(examined.sound or str(song.file), song)
        if original is not song:
            copies.add(song)
            of = printable(original.file)
            print(f"left out {printable(song.file)}: the same recording as {of}")
    decoded = {song for group in alike.values() for song in group}
    return [song for song in found if song in decoded - copies]


def _join_spellings(found: Sequence[_Found]) -> list[_Found]:
    """Give every artist and album one spelling, and an album's discs and editions its name."""
    artists: dict[str, Counter[str]] = defaultdict(Counter)
    albums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for song in found:
        artists[spelling_key(song.artist)][song.artist] += 1
        albums[_album_key(song)][song.album] += 1
    chosen = {key: tidy(_commonest(spellings)) for key, spellings in artists.items()}
    for key, spellings in artists.items():
        if len(spellings) > 1:
            print(f"{_quoted(spellings)} are one artist: {chosen[key]!r}")
    for (key, _), spellings in albums.items():
        if len(spellings) > 1:
            whole = main_album(tidy(_commonest(spellings)))
            artist = printable(chosen[key])
            print(f"{artist}: {_quoted(spellings)} are kept together: {whole!r}")

    joined, taken = [], set()
    for song in found:
        artist = chosen[spelling_key(song.artist)]
        album, name = tidy(song.album), tidy(song.name)
        spellings = albums[_album_key(song)]
        if len(spellings) > 1:
            behind = album.removeprefix(main_album(album)).strip(" _-,:()[]")
            name = f"{behind} - {name}" if behind else name
            album = main_album(tidy(_commonest(spellings)))
        stem, suffix, number = PurePath(name).stem, PurePath(name).suffix, 2
        while (artist, album, spelling_key(name)) in taken:  # a folder may not tell case
            name, number = f"{stem} ({number}){suffix}", number + 1
        taken.add((artist, album, spelling_key(name)))
        joined.append(_Found(song.file, artist, album, name))
    return joined


def _album_key(song: _Found) -> tuple[str, str]:
    return spelling_key(song.artist), spelling_key(main_album(tidy(song.album)))


def _commonest(spellings: Counter[str]) -> str:
    return max(sorted(spellings), key=spellings.__getitem__)


def _write_data_folder(output: Path, songs: dict[str, list[_Found]], seed: int) -> None:
    """Make a data folder of the songs of every part, wholly or not at all."""
    # Made beside its final place and moved there whole: an interrupted run leaves no half data set.
    partial = output.with_name(f".{output.name}.partial")
    with only_writer(partial):
        for left in partial.iterdir():  # of an interrupted run
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != LOCK:
                left.unlink()
        for part in SPLITS:
            paths = []
            for song in sorted(songs[part], key=lambda song: (song.artist, song.album, song.name)):
                path = f"./train_val/{song.artist}/{song.album}/{song.name}"
                _link(song.file, partial / path)
                paths.append(path)
            write_json(partial / f"{part}.json", paths)
        if songs["test"]:
            order = sorted(songs["test"], key=lambda song: (song.artist, song.album, song.name))
            random.Random(seed).shuffle(order)
            for number, song in enumerate(order, start=1):
                _link(song.file, partial / "test" / f"{number:03}{song.file.suffix.lower()}")
            write_json(partial / "answers.json", [song.artist for song in order])
        if output.exists():  # of a run that ended meanwhile
            raise UserError(f"{output} exists: name a new folder with --output")
        partial.rename(output)
        (output / LOCK).unlink()


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        with told_when_full(target):
            shutil.copyfile(source, target)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m artist20.collection",
        description="Check a data folder, or make one by album.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checker = commands.add_parser(
        "check", help="list what a data folder holds and every problem; exit status 1 if any"
    )
    checker.add_argument("data_dir", type=Path, metavar="DIR")
    splitter = commands.add_parser(
        "split", help="make a data folder of an artist/album/song tree, split by album about 4:1:1"
    )
    splitter.add_argument("music_dir", type=Path, metavar="MUSIC_DIR")
    splitter.add_argument("--output", type=Path, required=True, help="data folder to make")
    splitter.add_argument("--seed", type=int, default=0, help="decides which albums go where")
    splitter.add_argument("--test", action="store_true", help="set test songs and answers aside")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_args(argv)
    if args.command == "split":
        split(args.music_dir, args.output, args.seed, args.test)
        return 0
    problems = check(args.data_dir)
    for problem in problems:
        print(problem)
    print(f"{len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''}")
    return 1 if problems else 0


if __name__ == "__main__":
    runtime.run(main)
