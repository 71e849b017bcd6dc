"""Commands for one's own music: check a data folder, or make one by album.

python -m artist20.collection check data/artist20
python -m artist20.collection split ~/Music --output data/mine --seed 0 --test
"""

import argparse
import hashlib
import os
import random
import shutil
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from artist20 import UserError, audio, cli, printable
from artist20.artifacts import LOCK, only_writer, told_when_full, write_json
from artist20.dataset import SPLITS, Song, is_utf8, parse_song, read_list, read_test


@dataclass(frozen=True)
class Examined:
    """What decoding a file from beginning to end has shown.

    Attributes
    ----------
    seconds : float
        How much could be decoded.
    sound : str
        SHA-256 of what was decoded; empty if nothing could be.
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
        notes.append(f"is {seconds:.1f} s long; its header makes it {announced:.1f} s")
    return Examined(seconds, sound.hexdigest(), problems, notes)


def check(data_dir: Path) -> list[str]:
    """Check a data folder, print a table of what it holds, and return every problem by name.

    Every file is decoded from beginning to end. What is odd about it, but need not be wrong, is
    printed as a note: a length other than its header's, silence.

    Raises
    ------
    UserError
        If a split list is missing or malformed.
    """
    problems = []
    rows: list[tuple[str, set[str], set[tuple[str, str]], list[Path]]] = []
    for split in SPLITS:
        songs: dict[Path, Song] = {}
        for path in read_list(data_dir, split):
            try:
                song = parse_song(data_dir, path)
            except UserError as error:
                problems.append(f"{split}.json: {error}")
                continue
            if song.file in songs:
                problems.append(f"{split}.json: {path!r} is listed twice")
            elif not song.file.is_file():
                problems.append(f"{split}.json: {path!r} is missing")
            songs[song.file] = song
        artists = {song.artist for song in songs.values()}
        albums = {(song.artist, song.album) for song in songs.values()}
        rows.append((split, artists, albums, [song.file for song in songs.values()]))
    (_, train_artists, train_albums, train_files), (_, val_artists, val_albums, val_files) = rows
    problems += [f"val.json: train has no song of {a}" for a in sorted(val_artists - train_artists)]
    problems += [f"{a}/{b} is in both splits" for a, b in sorted(train_albums & val_albums)]
    problems += [
        f"{file.relative_to(data_dir)} is in both splits"
        for file in sorted(set(train_files) & set(val_files))
    ]
    try:
        rows.append(("test", set(), set(), list(read_test(data_dir).values())))
    except UserError as error:
        problems.append(str(error))

    files = [file for *_, files in rows for file in files if file.is_file()]
    cli.check_for_semaphores()
    pool = ProcessPoolExecutor(initializer=cli.start_worker)
    try:
        with cli.signals_held():
            results = pool.map(examine, files, chunksize=8)
        bar = tqdm(results, "decoding", len(files), disable=None, leave=False)
        checked = dict(zip(files, bar, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    for file, examined in checked.items():
        name = printable(file.relative_to(data_dir))
        problems += [f"{name} {problem}" for problem in examined.problems]
        for note in examined.notes:
            print(f"note: {name} {note}")

    print(f"{'split':6}{'artists':>9}{'albums':>8}{'songs':>7}{'hours':>8}")
    for split, artists, albums, files in rows:
        hours = sum(checked[file].seconds for file in files if file in checked) / 3600
        known = [str(len(artists)), str(len(albums))] if split != "test" else ["-", "-"]
        print(f"{split:6}{known[0]:>9}{known[1]:>8}{len(files):7}{hours:8.2f}")
    return problems


# --- split -------------------------------------------------------------------------------------


def split(music_dir: Path, output: Path, seed: int, with_test: bool) -> None:
    """Split an ``artist/album/song`` tree by album, about 4:1:1, into a data folder.

    The songs are hard-linked into ``output`` where the file system allows it, else copied, so that
    the data folder stands by itself and the music is never touched. Artists with fewer than two
    albums are left out by name; a test album is set aside from artists with three or more.

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
        If ``output`` exists, another run is making it, or fewer than two artists remain.
    """
    if output.exists():
        raise UserError(f"{output} exists: name a new folder with --output")
    if not music_dir.is_dir():
        raise UserError(f"{music_dir} is no folder")
    tree: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    # The second pattern finds what lies too deep or too high, to name it; it follows no links.
    found = {*music_dir.glob("*/*/*"), *music_dir.rglob("*")}
    files = sorted(file for file in found if file.is_file() and audio.is_song(file))
    for file in tqdm(files, "reading", disable=None, leave=False):
        problem = _unfit(file, music_dir)
        if problem:
            print(f"left out {printable(file)}: {problem}")
        else:
            tree[file.parts[-3]][file.parts[-2]].append(file)

    songs: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    n_artists = 0
    for artist, albums in sorted(tree.items()):
        if len(albums) < 2:
            print(f"left out {artist}: {len(albums)} album, at least 2 are needed")
            continue
        n_artists += 1
        order = sorted(albums)
        random.Random(f"{seed}/{artist}").shuffle(order)
        n_held_out = max(1, round(len(order) / 6))
        n_test = n_held_out if with_test and len(order) >= 3 else 0
        if with_test and not n_test:
            print(f"{artist} has 2 albums: none is set aside for the test")
        for i, album in enumerate(order):
            part = "test" if i < n_test else "val" if i < n_test + n_held_out else "train"
            songs[part] += albums[album]
    if n_artists < 2:
        raise UserError(
            f"{music_dir} holds {n_artists} artists with 2 albums or more: 2 are needed"
        )

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
            for file in sorted(songs[part]):
                path = f"./train_val/{'/'.join(file.parts[-3:])}"
                _link(file, partial / path)
                paths.append(path)
            write_json(partial / f"{part}.json", paths)
        if with_test:
            order = sorted(songs["test"])
            random.Random(seed).shuffle(order)
            for number, file in enumerate(order, start=1):
                _link(file, partial / "test" / f"{number:03}{file.suffix.lower()}")
            answers = [file.parts[-3] for file in order]
            write_json(partial / "answers.json", answers)
        if output.exists():  # of a run that ended meanwhile
            raise UserError(f"{output} exists: name a new folder with --output")
        partial.rename(output)
        (output / LOCK).unlink()
    counts = ", ".join(f"{len(files)} {part}" for part, files in songs.items() if files)
    print(f"{output}: {n_artists} artists, {counts} songs")


def _unfit(file: Path, music_dir: Path) -> str | None:
    """Say what keeps a file out: a path that no list can hold, or no audio at its beginning."""
    if len(file.relative_to(music_dir).parts) != 3:
        return "it lies not in artist/album/"
    path = "/".join(file.parts[-3:])
    if "\\" in path or not is_utf8(path):
        return "there is a backslash in its path, or what is no UTF-8"
    try:
        next(audio.read_blocks(file))
    except audio.AudioError as error:
        return error.reason
    return None


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
    cli.run(main)
