"""The artist/album/song layout: songs, split lists, folds, what a data set is known by.

A data folder holds ``train.json`` and ``val.json``, JSON lists of
``"./train_val/<artist>/<album>/<song>.mp3"``, and the unlabelled test songs ``test/001.mp3`` ...
What is refused here is a ``UserError``.
"""

import hashlib
import os
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from artist20 import Note, UserError, audio, printable
from artist20.files import parse_json, sha256_file
from artist20.naming import rendition_name
from artist20.results import N_FOLDS, Dataset, Record, Rendition, SongRecord

SPLITS = ("train", "val")
NO_CONTENT = "no content: "  # begins the content key of a file that may not be read
VOCALS = "vocals.json"  # in a tree of separated voices: of which files they are
NO_NAMES = ("", ".", "..")  # of folders: " .. ", tidied, would lead out of the data folder

# What NAS systems, macOS, Windows and Linux keep in folders of music, beside hidden folders.
SERVICE_FOLDERS = (
    *("@eaDir", "#recycle", "#snapshot", "lost+found", "__MACOSX", "$RECYCLE.BIN"),
    "System Volume Information",
)

# SHA-256 of artist20's own train.json and val.json, paths sorted, joined by newlines.
ARTIST20_LISTS = "ac33850d5c776cd58cb5ad0c52ddd5c8419c5632844b5b69729eeeee44210e46"


@dataclass(frozen=True)
class Song:
    """One labelled song."""

    path: str  # as the split list names it, such as ``"./train_val/queen/Jazz/01-Mustapha.mp3"``
    artist: str  # the two folders above the file
    album: str
    file: Path  # where it lies

    @property
    def record(self) -> SongRecord:
        """What other files say of the song."""
        return SongRecord(path=self.path, artist=self.artist, album=self.album)


def parse_song(data_dir: Path, path: str) -> Song:
    """Make a :class:`Song` of a list's entry; refuse other forms, and ways out of the folder."""
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/"):
        raise UserError(f"{path!r} leaves the data folder")
    if len(parts) != 4 or parts[0] != "train_val":
        raise UserError(f"{path!r} has not the form './train_val/<artist>/<album>/<song>'")
    file = data_dir / path
    if file.exists() and not file.resolve().is_relative_to(data_dir.resolve()):
        raise UserError(f"{path!r} is a link that leaves the data folder")
    return Song(path, parts[-3], parts[-2], file)


def is_utf8(name: str) -> bool:
    """Return whether a file's name can stand in a list: some have bytes that no text has."""
    return name == name.encode(errors="ignore").decode()


def spelling_key(name: str) -> str:
    """Return what all spellings of a name share: NFC, no case, no outer spaces."""
    return unicodedata.normalize("NFC", tidy(name).casefold())


def tidy(name: str) -> str:
    """Return a name in NFC, and without outer spaces unless it is nothing else."""
    name = unicodedata.normalize("NFC", name)
    return name if name.strip() in NO_NAMES else name.strip()


def find_files(folder: Path) -> list[Path]:
    """List what lies below a folder, sorted, but for hidden and :data:`SERVICE_FOLDERS`.

    Links are followed, and each folder is entered once. One that may not be read is noted.
    """

    def note(error: OSError) -> None:
        warnings.warn(Note(f"left out {printable(error.filename)}: {error.strerror}"), stacklevel=1)

    files: list[Path] = []
    entered: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=note, followlinks=True):
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not is_service(name))
        files += [Path(here, name) for name in names if not is_service(name)]
    return sorted(files)


def is_service(name: str) -> bool:
    """Return whether a name is another program's own: ``._001.mp3`` is, ``.38 Special`` is not."""
    return name in SERVICE_FOLDERS or re.match(r"\.[A-Za-z_]", name) is not None


def read_list(data_dir: Path, split: str) -> list[str]:
    """Read ``train.json`` or ``val.json`` as it stands: a list of paths."""
    list_file = data_dir / f"{split}.json"
    try:
        paths = parse_json(list_file.read_text(encoding="utf-8-sig"), list[str])
    except (FileNotFoundError, NotADirectoryError):
        some = islice(data_dir.glob("*/*/*"), 100)
        if any(file.suffix.lower() in audio.SUFFIXES for file in some):
            raise UserError(
                f"{list_file} is missing, but {data_dir} holds music: run 'python -m "
                f"artist20.collection split {data_dir} --output data/mine' first"
            ) from None
        raise UserError(
            f"{list_file} is missing: run 'bash get_dataset.sh', or name a folder that holds "
            "train.json, val.json and test/ with --data-dir"
        ) from None
    except ValueError as error:
        raise UserError(f"{list_file} is no JSON list of paths ({error})") from None
    if not paths:
        raise UserError(f"{list_file} lists no songs")
    return paths


def read_split(
    data_dir: Path, split: str, limit: int | None = None, left_out: Container[str] = ()
) -> list[Song]:
    """Read the songs of a split, in the list's order.

    ``limit`` keeps that many of them, see :func:`first_songs`; then songs whose paths are in
    ``left_out`` are left out, see :func:`check_readable`. A list that is missing or malformed, or
    has a song twice, is refused, and so are missing songs: all are counted, before any work begins.
    """
    list_file, paths = data_dir / f"{split}.json", read_list(data_dir, split)
    try:
        songs = [parse_song(data_dir, path) for path in paths]
    except UserError as error:
        raise UserError(f"{list_file}: {error}") from None
    times = Counter(song.file for song in songs)  # a path may be spelled in several ways
    twice = [song.path for song in songs if times[song.file] > 1]
    if twice:
        raise UserError(f"{list_file} lists {twice[-1]!r} more than once")
    if limit is not None:
        songs = first_songs(songs, limit)
    missing = [song.file for song in songs if not song.file.is_file()]
    more = f"; 'python -m artist20.collection check {data_dir}' names them all"
    _refuse_missing(missing, f"{len(songs)} songs", str(list_file), more)
    return [song for song in songs if song.path not in left_out]


def _refuse_missing(missing: Sequence[object], songs: str, where: str, more: str = "") -> None:
    if missing:
        first = f"the first is {printable(str(missing[0]))}{more}"
        raise UserError(f"{where}: {len(missing)} of {songs} are missing, {first}")


def first_songs(songs: Sequence[Song], limit: int) -> list[Song]:
    """Keep ``limit`` songs: the first of every artist's first album, and so on in turn.

    Split lists are sorted by artist, so that their plain beginning would be one artist alone.
    """
    albums: dict[str, dict[str, int]] = defaultdict(dict)  # by artist and album, songs so far
    turns = {}
    for song in songs:
        of_artist = albums[song.artist]
        number = of_artist[song.album] = of_artist.get(song.album, 0) + 1
        turns[song] = number, list(of_artist).index(song.album), song.artist
    kept = set(sorted(songs, key=turns.__getitem__)[:limit])
    return [song for song in songs if song in kept]


def read_train_val(
    data_dir: Path, limit: int | None = None, left_out: Container[str] = ()
) -> tuple[list[Song], list[Song]]:
    """Read both splits; refuse what has one artist alone, and artists of val that train lacks."""
    train = read_split(data_dir, "train", limit, left_out)
    val = read_split(data_dir, "val", limit, left_out)
    listed = f"with --limit {limit}, {data_dir}" if limit else str(data_dir)
    artists = set(class_names(train))
    if len(artists) < 2:
        raise UserError(f"{listed} has training songs of one artist only: nothing to tell apart")
    strangers = sorted(set(class_names(val)) - artists)
    if strangers:
        raise UserError(
            f"{listed} has validation songs, but no training songs, of {', '.join(strangers)}"
        )
    return train, val


def album_folds(
    artists: np.ndarray, albums: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Share songs out in folds, each with about as many songs of every artist; albums stay whole.

    ``artists`` and ``albums`` are (n_songs,) names; ``seed`` shuffles the albums. Returned are per
    fold the numbers of the songs to fit on and of those held out, ascending. There are
    :data:`~artist20.results.N_FOLDS` of them, or as many as albums, or songs of one artist, or
    parts that are not empty; none, if that is less than two.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    # Of one artist, who has a song for every fold.
    most = int(np.unique(artists, return_counts=True)[1].max(initial=0))
    n_folds = min(N_FOLDS, most, len(np.unique(albums)))
    if n_folds < 2:
        return []
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Fewer albums than folds: artist20's artists have four.
        warnings.filterwarnings("ignore", message="The least populated class", module="sklearn")
        folds = list(splitter.split(artists, artists, albums))
    return [(fit, held_out) for fit, held_out in folds if len(held_out)]


def read_to_fit(
    data_dir: Path, fold: int | None, limit: int | None = None, left_out: Container[str] = ()
) -> tuple[list[Song], list[Song], list[str]]:
    """Read the songs to train on, those to score, and the classes.

    Without a fold these are both splits; with one, the training songs alone, of which the albums of
    this fold are scored. Folds are the data set's own: the same for every network and every seed.
    """
    if fold is None:
        train, val = read_train_val(data_dir, limit, left_out)
        return train, val, class_names(train)
    songs = read_split(data_dir, "train", limit, left_out)
    artists = np.array([song.artist for song in songs])
    albums = np.array([song.record.group for song in songs])
    folds = album_folds(artists, albums, seed=0)
    if len(folds) < N_FOLDS:
        raise UserError(f"{data_dir} has too few training albums or songs for {N_FOLDS} folds")
    fit, held_out = ([songs[i] for i in part] for part in folds[fold - 1])
    return fit, held_out, class_names(songs)


def alternate_versions(
    songs: Sequence[Song], directory: Path, option: str = "--also-train-on"
) -> list[Song]:
    """Find other versions of songs in a tree of the same names, which ``option`` has named."""
    found = [replace(song, file=directory / song.path) for song in songs]
    missing = [song.file for song in found if not song.file.is_file()]
    _refuse_missing(missing, f"{len(songs)} songs", f"{option} {directory}")
    return found


def as_heard(songs: Sequence[Song], audio_root: Path | None) -> list[Song]:
    """Return songs with the files of --audio-root in place of their own, if it is given."""
    if audio_root is None:
        return list(songs)
    rendition_name(audio_root)  # refused before any work
    return alternate_versions(songs, audio_root, "--audio-root")


def check_made_of(audio_root: Path, songs: Sequence[Song], keys: Mapping[Path, str]) -> None:
    """Refuse separated vocals of other files than the songs' own, by their :func:`content_keys`.

    A tree without ``vocals.json`` was made by other means, and passes.
    """
    file = audio_root / VOCALS
    if not file.is_file():
        return
    try:
        made_of = parse_json(file.read_bytes(), _MadeOf).songs
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): separate the songs again") from None
    now = {song.path: keys[song.file] for song in songs}
    changed = [
        path for path, key in now.items() if made_of.get(path, key) != key and NO_CONTENT not in key
    ]
    if changed:
        raise UserError(
            f"{audio_root} was made of other files of {len(changed)} songs, the first is "
            f"{printable(changed[0])}: run python -m artist20.vocals DATA_DIR {audio_root}"
        )


class _MadeOf(Record):
    songs: dict[str, str]  # see :class:`artist20.vocals.Vocals`


def describe_rendition(
    heard: Sequence[Song], keys: Mapping[Path, str], audio_root: Path | None
) -> Rendition | None:
    """Describe what :func:`as_heard` returned, by its :func:`content_keys`; None: songs' own."""
    name = rendition_name(audio_root)
    return Rendition(name=name, fingerprint=fingerprint(heard, keys)) if name else None


def class_names(songs: Iterable[Song]) -> list[str]:
    """Return the artists, sorted: the classes in the order in which all files have them."""
    return sorted({song.artist for song in songs})


def class_indices(songs: Sequence[Song], classes: Sequence[str]) -> np.ndarray:
    """Return every song's artist as an index into ``classes``: (n_songs,)."""
    index = {artist: i for i, artist in enumerate(classes)}
    return np.array([index[song.artist] for song in songs])


def songs_among(found: Sequence[Path], where: Path | str) -> list[Path]:
    """Keep the songs among files and folders found ``where``, and print what else there is."""
    songs = [path for path in found if audio.is_song(path)]
    if others := sorted(set(found).difference(songs)):
        kinds = Counter(
            "folder" if path.is_dir() else path.suffix.lower() or "without suffix"
            for path in others
        )
        counted = ", ".join(f"{n} {printable(kind)}" for kind, n in kinds.most_common())
        first = printable(others[0].name)
        print(f"note: no audio, left out of {printable(where)}: {counted}; the first is {first}")
    return songs


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_service(entry.name))


def read_test(data_dir: Path) -> dict[str, Path]:
    """Find the test songs: ``{"001": .../test/001.mp3, ...}`` in the order of their names.

    Without a folder ``test`` they are the songs that lie in the data folder itself.
    """
    folder = data_dir / "test"
    if not folder.is_dir():
        if not (data_dir.is_dir() and any(map(audio.is_song, _entries(data_dir)))):
            raise UserError(
                f"{folder} is missing: it should hold the test songs 001.mp3, 002.mp3, ...; they "
                f"may also lie in {data_dir} itself"
            )
        print(f"note: {folder} is not there: the test songs are those in {data_dir} itself")
        folder = data_dir
    files = songs_among(_entries(folder), folder)
    if not files:
        raise UserError(f"{folder} holds no audio files")
    by_number: dict[str | int, Path] = {}  # 1.mp3 and 001.mp3 have one answer
    for file in files:
        number = int(file.stem) if file.stem.isascii() and file.stem.isdigit() else file.stem
        other = by_number.setdefault(number, file)
        if other != file:
            names = f"{printable(other.name)} and {printable(file.name)}"
            raise UserError(f"{folder} holds {names}: keep one")
        if not is_utf8(file.name):
            raise UserError(f"{printable(file)}: its name is no UTF-8: rename it")
    return {file.stem: file for file in files}


def heard_test_songs(songs: Mapping[str, Path], audio_root: Path | None) -> dict[str, Path]:
    """Do with test songs as :func:`as_heard`; in the tree their suffixes may be others.

    Vocals that were separated of other files than these are refused.
    """
    if audio_root is None:
        return dict(songs)
    found = read_test(audio_root)
    missing = [key for key in songs if key not in found]
    _refuse_missing(missing, f"{len(songs)} test songs", f"--audio-root {audio_root}")
    if (audio_root / VOCALS).is_file():
        own = [as_test_song(file) for file in songs.values()]
        check_made_of(audio_root, own, content_keys(own))
    return {key: found[key] for key in songs}


def as_test_song(file: Path) -> Song:
    """Make a :class:`Song` of a test song, by nobody known."""
    return Song(f"./test/{file.name}", "", "", file)


class Marker(Record):
    """``dataset.json`` in a data folder: what the data set is called, and whether it is made up."""

    name: str
    synthesised: bool


def describe(data_dir: Path) -> Marker:
    """Read which data set this is: by ``dataset.json``, artist20's lists, or the folder's name."""
    file = data_dir / "dataset.json"
    if file.is_file():
        try:
            return parse_json(file.read_bytes(), Marker)
        except ValueError as error:
            raise UserError(f"{file} does not say 'name' and 'synthesised' ({error})") from None
    paths = sorted(path for split in SPLITS for path in read_list(data_dir, split))
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    name = data_dir.resolve().name
    if digest == ARTIST20_LISTS:
        name = "artist20"
    elif name == "artist20":  # part of it, or another split: not to stand beside its figures
        name = "artist20, other lists"
    return Marker(name=name, synthesised=False)


def content_keys(songs: Iterable[Song]) -> dict[Path, str]:
    """Hash (SHA-256) every song's file once, several at a time: hashing releases the GIL.

    A file that may not be read gets a key of its own, under which nothing is ever found or kept:
    when it is decoded it is named, with all others that cannot be.
    """
    files = list(dict.fromkeys(song.file for song in songs))
    with ThreadPoolExecutor() as pool:
        digests = pool.map(content_key, files)
        bar = tqdm(digests, "hashing", len(files), disable=None, leave=False)
        return dict(zip(files, bar, strict=True))


def content_key(file: Path) -> str:
    """Hash (SHA-256) a file, see :func:`content_keys`."""
    try:
        return sha256_file(file)
    except OSError:
        return f"{NO_CONTENT}{file}"


def check_readable(
    songs: Sequence[Song], keys: Mapping[Path, str], reasons: Mapping[str, str], skip: bool
) -> dict[str, str]:
    """Refuse songs that cannot be decoded, all by name, once all have been tried.

    ``keys`` are the songs' :func:`content_keys`, ``reasons`` by key what decoding found wrong. With
    ``skip`` such songs are left out: printed, and returned by path with what is wrong.
    """
    bad = {song: reasons[keys[song.file]] for song in songs if keys[song.file] in reasons}
    lines = [f"{printable(song.file)} {reason}" for song, reason in bad.items()]
    if lines and not skip:
        raise UserError(
            f"{len(lines)} of {len(songs)} songs cannot be read; mend them, take them off the "
            "lists, or leave them out with --skip-unreadable:\n" + "\n".join(lines)
        )
    for line in lines:
        print(f"left out: {line}")
    if lines:
        print(f"{len(lines)} of {len(songs)} songs are left out: they cannot be read")
    return {song.path: reason for song, reason in bad.items()}


def fingerprint(songs: Iterable[Song], keys: Mapping[Path, str]) -> str:
    """Hash (SHA-256) the songs' paths and contents: equal for equal data, on any machine."""
    lines = sorted(f"{song.path}\t{keys[song.file]}" for song in songs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def summary(
    data_dir: Path,
    train: Sequence[Song],
    val: Sequence[Song],
    keys: Mapping[Path, str],
    limit: int | None,
    left_out: Mapping[str, str] | None = None,
    fold: int | None = None,
) -> Dataset:
    """Describe the songs used: name, fingerprint, sizes, what was left out.

    ``keys`` are the songs' :func:`content_keys`. With a ``fold``, ``val`` are held-out training
    songs; ``left_out`` is what :func:`check_readable` gave.
    """
    marker = describe(data_dir)
    songs = [*train, *val]
    return Dataset(
        name=marker.name,
        synthesised=marker.synthesised,
        fingerprint=fingerprint(songs, keys),
        train_fingerprint=fingerprint(songs if fold else train, keys),
        artists=len(class_names(train)),
        train=len(train),
        val=len(val),
        limit=limit,
        unreadable=dict(left_out or {}),
    )
