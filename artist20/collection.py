"""Commands for one's own music: check a data folder, or make one by album.

    python -m artist20.collection check data/artist20
    python -m artist20.collection split ~/Music --output data/mine --seed 0 --test

Names are compared in NFC, without case and outer spaces. Discs and editions of an album are one
album, and songs that sound the same, sample by sample, are one song.
"""

import artist20.packages  # says which are missing

import argparse
import hashlib
import os
import random
import re
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from artist20 import UserError, audio, cli, dataset, printable, runtime
from artist20.cache import map_songs
from artist20.dataset import NO_NAMES, SPLITS, Song, describe, is_utf8, spelling_key, tidy
from artist20.files import one_line_when_full, only_writer, write_json

MOST_NAMED = 5  # of songs that are the same
MAX_NAME = 255  # bytes of a file's name, on every usual file system

# What stands behind an album's name on its discs and editions: "Wall (Disc 1)", "Wall_CD2", "Jazz
# [Deluxe Edition]". Editions are in brackets: "Remastered" may be an album's name.
NUMBERED = r"(?:cd|dis[ck])[\s_.#-]*(?:\d{1,2}|[ivx]+|one|two|three|four)"
DISC = re.compile(rf"(?i)[\s_,:([-]*(?<![a-z]){NUMBERED}(?:[\s_]*of[\s_]*\d{{1,2}})?[\s_)\]]*$")
EDITION = re.compile(
    r"(?i)[\s_-]*[([][^()[\]]*"
    r"(?:deluxe|remaster|expanded|anniversary|bonus|special|limited|reissue|edition)"
    r"[^()[\]]*[)\]][\s_]*$"
)
DISC_FOLDER = re.compile(rf"(?i){NUMBERED}(?![a-z0-9])")  # "CD1", "Disc 2 - Live"
NO_ARTIST = re.compile(
    r"(?i)various(?: artists)?|va|compilations?|soundtracks?|unknown(?: artist)?"
)
SEVERAL = re.compile(r"(?i)(?<![a-z])(?:feat|ft|featuring|vs)(?![a-z])")


def main_album(name: str) -> str:
    """Return an album's name without the disc or edition behind it: "Wall" of "Wall (Disc 1)"."""
    shorter = EDITION.sub("", DISC.sub("", name))
    return main_album(shorter) if shorter not in (*NO_NAMES, name) else name


def _album_key(artist: str, album: str) -> tuple[str, str]:
    """Return what all discs and editions of an album share."""
    return spelling_key(artist), spelling_key(main_album(tidy(album)))


@dataclass(frozen=True)
class Examined:
    """What decoding a file from beginning to end has shown."""

    seconds: float
    sound: str  # SHA-256 of what was decoded; empty if that is silence
    problems: list[str]  # what is wrong with it
    notes: list[str]  # what is odd, but need not be wrong


def examine(file: Path) -> Examined:
    """Decode a file as :func:`audio.read_blocks` does; compare its length with its header's."""
    sound, n_samples = hashlib.sha256(), 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", audio.AudioNote)
        for block in audio.read_blocks(file):
            sound.update(block.tobytes())
            n_samples += len(block)
    odd = [note.message for note in caught if isinstance(note.message, audio.AudioNote)]
    problems = [note.reason for note in odd if note.kind == "damaged"]
    notes = [note.reason for note in odd if note.kind == "silent"]
    heard = "" if notes else sound.hexdigest()
    seconds, announced = n_samples / audio.SAMPLE_RATE, audio.announced_seconds(file)
    if announced and abs(seconds - announced) > max(0.5, 0.01 * announced):
        notes.append(f"is {seconds:.1f} s long, {announced:.1f} s by its header or size")
    return Examined(seconds, heard, problems, notes)


def _examine_all(files: list[Path]) -> Iterable[Examined | audio.AudioError]:
    return map_songs(files, examine, workers=len(os.sched_getaffinity(0)), label="decoding")


# --- check -------------------------------------------------------------------------------------


def check(data_dir: Path) -> list[str]:
    """Check a data folder, print a table of what it holds, and return every problem by name.

    Every file is decoded from beginning to end. What is odd, but need not be wrong, is printed as a
    note: a length other than its header's, silence, editions of one album in both splits.
    """
    problems: list[str] = []
    train, val = (_listed(data_dir, split, problems) for split in SPLITS)
    in_train, in_val = ({(song.artist, song.album) for song in songs} for songs in (train, val))
    strangers = {artist for artist, _ in in_val} - {artist for artist, _ in in_train}
    problems += [f"val.json: train has no song of {artist}" for artist in sorted(strangers)]
    in_both = sorted(in_train & in_val)
    problems += [f"{artist}/{album} is in both splits" for artist, album in in_both]
    notes = _compare_names(in_train, in_val, problems)
    parts = {"train": [song.file for song in train], "val": [song.file for song in val]}
    try:
        parts["test"] = list(dataset.read_test(data_dir).values())
    except UserError as error:
        problems.append(str(error))

    files = list(dict.fromkeys(file for part in parts.values() for file in part if file.is_file()))
    examined: dict[Path, Examined] = {}
    for file, found in zip(files, _examine_all(files), strict=True):
        name = printable(file.relative_to(data_dir))
        if isinstance(found, audio.AudioError):
            problems.append(f"{name} {found.reason}")
            continue
        examined[file] = found
        problems += [f"{name} {problem}" for problem in found.problems]
        notes += [f"{name} {note}" for note in found.notes]
    across, within = _same_recordings(data_dir, parts, examined)
    # artist20's split is the published one: what it has in both is told, and cannot be mended.
    (notes if describe(data_dir).name == "artist20" else problems).extend(across)
    for note in (*notes, *within):
        print(f"note: {note}")

    print(f"{'split':6}{'artists':>9}{'albums':>8}{'songs':>7}{'hours':>8}")
    for part, of_part in parts.items():
        albums = {file.parent for file in of_part}
        counts = ["-", "-"] if part == "test" else [len({a.parent for a in albums}), len(albums)]
        hours = sum(examined[file].seconds for file in of_part if file in examined) / 3600
        print(f"{part:6}{counts[0]:>9}{counts[1]:>8}{len(of_part):7}{hours:8.2f}")
    return problems


def _listed(data_dir: Path, split: str, problems: list[str]) -> list[Song]:
    """Read a split list, and add what is wrong with its entries to ``problems``."""
    songs: dict[Path, Song] = {}
    for path in dataset.read_list(data_dir, split):
        try:
            song = dataset.parse_song(data_dir, path)
        except UserError as error:
            problems.append(f"{split}.json: {error}")
            continue
        if song.file in songs:
            problems.append(f"{split}.json: {path!r} is listed twice")
        elif not song.file.is_file():
            problems.append(f"{split}.json: {path!r} is missing")
        songs[song.file] = song
    return list(songs.values())


def _compare_names(
    in_train: set[tuple[str, str]], in_val: set[tuple[str, str]], problems: list[str]
) -> list[str]:
    """Add artists of two spellings and divided albums to ``problems``; return notes."""
    spellings = defaultdict(set)
    for artist, _ in in_train | in_val:
        spellings[spelling_key(artist)].add(artist)
    for names in spellings.values():
        if len(names) > 1:
            problems.append(f"{_quoted(names)} are spellings of one artist: use one of them")
    notes = []
    others = defaultdict(list)
    for artist, album in sorted(in_val - in_train):
        others[_album_key(artist, album)].append(album)
    for artist, album in sorted(in_train):
        for other in others[_album_key(artist, album)]:
            line = f"{artist}: {album!r} in train and {other!r} in val are"
            if spelling_key(DISC.sub("", album)) == spelling_key(DISC.sub("", other)):
                problems.append(f"{line} one album")
            else:
                notes.append(f"{line} editions of one album")
    return notes


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(map(repr, sorted(names)))


def _same_recordings(
    data_dir: Path, parts: dict[str, list[Path]], examined: dict[Path, Examined]
) -> tuple[list[str], list[str]]:
    """List the songs that sound the same, in a line each: those in several parts, those in one."""
    same: dict[str, dict[Path, str]] = defaultdict(dict)
    for part, files in parts.items():
        for file in files:
            if file in examined and examined[file].sound:
                same[examined[file].sound].setdefault(file, part)
    across, within = [], []
    for group in same.values():
        names = [printable(file.relative_to(data_dir)) for file in group]
        if len(group) > MOST_NAMED:
            names[MOST_NAMED:] = [f"{len(group) - MOST_NAMED} more"]
        line = f"{', '.join(names[:-1])} and {names[-1]} are the same recording"
        if len(set(group.values())) > 1:
            across.append(f"{line}, in {' and '.join(dict.fromkeys(group.values()))}")
        elif len(group) > 1:
            within.append(line)
    return across, within


# --- split -------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class _Found:
    """A song of somebody's music, and what it is to be called in the data folder."""

    artist: str
    album: str
    name: str
    file: Path


def split(music_dir: Path, output: Path, seed: int, with_test: bool) -> None:
    """Split an ``artist/album/song`` tree by album, about 4:1:1, into a new data folder.

    The songs are hard-linked into ``output`` where the file system allows it, else copied, so that
    the data folder stands by itself and the music is never touched. Discs and editions become one
    album. Of an ``artist/song`` tree every song is an album. Artists with fewer than two albums are
    left out by name. ``with_test`` sets an album aside from artists with three or more, in
    ``test/`` and ``answers.json``.
    """
    if output.exists():
        raise UserError(f"{output} exists: name a new folder with --output")
    if not music_dir.is_dir():
        raise UserError(f"{music_dir} is no folder")
    files = dataset.songs_among(dataset.find_files(music_dir), music_dir)
    found = [song for file in files if (song := _place(file, music_dir))]
    _refuse_one_artist(found, music_dir)
    # Of a song that also lies among various artists', that copy is the one to leave out.
    found.sort(key=lambda song: bool(NO_ARTIST.fullmatch(song.artist)))
    tree: dict[str, dict[str, list[_Found]]] = defaultdict(lambda: defaultdict(list))
    for song in _join_spellings(_without_copies(found)):
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
    """Find out what a song is to be called; print if it lies where no song should."""
    parts = file.relative_to(music_dir).parts
    reason = "it lies not in artist/album/"
    match parts:
        case _ if not all(map(is_utf8, parts)):
            reason = "its path is no UTF-8"
        case artist, name:
            return _Found(artist, file.stem, name, file)
        case artist, album, name:
            return _Found(artist, album, name, file)
        case artist, album, disc, name if DISC_FOLDER.match(disc):
            return _Found(artist, album, f"{disc} - {name}", file)
    print(f"left out {printable(file)}: {reason}")
    return None


def _refuse_one_artist(found: Sequence[_Found], music_dir: Path) -> None:
    """Refuse a folder of one artist's albums; print what becomes of songs without an album."""
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


def _without_copies(found: Sequence[_Found]) -> list[_Found]:
    """Leave out songs that cannot be decoded, and those that sound like one before them."""
    first: dict[str, _Found] = {}
    examined = _examine_all([song.file for song in found])
    for song, of_song in zip(found, examined, strict=True):
        if isinstance(of_song, audio.AudioError):
            print(f"left out {printable(song.file)}: {of_song.reason}")
        elif (one := first.setdefault(of_song.sound or str(song.file), song)) is not song:
            of = printable(one.file)
            print(f"left out {printable(song.file)}: the same recording as {of}")
    return list(first.values())


def _join_spellings(found: Sequence[_Found]) -> list[_Found]:
    """Give every artist and album one spelling, and an album's discs and editions its name."""
    artists: dict[str, Counter[str]] = defaultdict(Counter)
    albums: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for song in found:
        artists[spelling_key(song.artist)][song.artist] += 1
        albums[_album_key(song.artist, song.album)][song.album] += 1
    chosen = {key: tidy(_commonest(spellings)) for key, spellings in artists.items()}
    for key, spellings in artists.items():
        if len(spellings) > 1:
            print(f"{_quoted(spellings)} are one artist: {chosen[key]!r}")
    for (key, _), spellings in albums.items():
        if len(spellings) > 1:
            whole = main_album(tidy(_commonest(spellings)))
            print(f"{printable(chosen[key])}: {_quoted(spellings)} are kept together: {whole!r}")

    joined, taken = [], set()
    for song in found:
        artist, album, name = chosen[spelling_key(song.artist)], tidy(song.album), tidy(song.name)
        spellings = albums[_album_key(song.artist, song.album)]
        if len(spellings) > 1:
            behind = album.removeprefix(main_album(album)).strip(" _-,:()[]")
            name = f"{behind} - {name}" if behind else name
            album = main_album(tidy(_commonest(spellings)))
        stem, suffix, number = PurePath(name).stem, PurePath(name).suffix, 2
        while (artist, album, spelling_key(name)) in taken:  # a folder may not tell case
            name, number = f"{stem} ({number}){suffix}", number + 1
        if len(os.fsencode(name)) > MAX_NAME:
            print(f"left out {printable(song.file)}: its name, with the disc's, is too long")
            continue
        taken.add((artist, album, spelling_key(name)))
        joined.append(_Found(artist, album, name, song.file))
    return joined


def _commonest(spellings: Counter[str]) -> str:
    return max(sorted(spellings), key=spellings.__getitem__)


def _write_data_folder(output: Path, songs: dict[str, list[_Found]], seed: int) -> None:
    """Make a data folder of the songs of every part, wholly or not at all."""
    # Made beside its final place and moved there whole: an interrupted run leaves no half data set.
    partial = output.with_name(f".{output.name}.partial")
    with only_writer(partial):
        made = partial / output.name
        shutil.rmtree(made, ignore_errors=True)  # of an interrupted run
        for part in SPLITS:
            paths = {f"./train_val/{s.artist}/{s.album}/{s.name}": s for s in sorted(songs[part])}
            for path, song in paths.items():
                _link(song.file, made / path)
            write_json(made / f"{part}.json", list(paths))
        test = sorted(songs["test"])
        random.Random(seed).shuffle(test)
        for number, song in enumerate(test, start=1):
            _link(song.file, made / "test" / f"{number:03}{song.file.suffix.lower()}")
        if test:
            write_json(made / "answers.json", [song.artist for song in test])
        made.rename(output)
        shutil.rmtree(partial)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        with one_line_when_full(target):
            shutil.copyfile(source, target)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
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
    args = parser.parse_args(argv)

    if args.command == "split":
        split(args.music_dir, args.output, args.seed, args.test)
        print(cli.first_stage(args.output))
        return 0
    problems = check(args.data_dir)
    for problem in problems:
        print(problem)
    print(f"{len(problems) or 'no'} problem{'s' if len(problems) != 1 else ''}")
    return 1 if problems else 0


if __name__ == "__main__":
    runtime.run(main)
