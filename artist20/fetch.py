"""Fetch what training needs: the artist20 data set, the PANNs weights, separated vocals.

``bash get_dataset.sh`` is the way in; ``bash get_dataset.sh --help`` lists the options.

What is already there and passes its check is not fetched again, so that after any failure the same
command goes on from where it stopped. Exit status: 0 all there; 1 something could not be fetched or
is damaged; 2 the command or a folder of the user's is wrong.
"""

import argparse
import errno
import lzma
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from tqdm import tqdm

from artist20 import UserError, runtime
from artist20.files import NO_SPACE, parse_json, sha256_file

REPOSITORY = Path(__file__).resolve().parents[1]

# A zip of about 1.3 GB whose folder hw1/artist20/ is the data set.
ARCHIVE_URL = "https://drive.google.com/uc?id=1-J56Ge9mtgI5E_V9vfRX_Bw6Q5H_hinB"
ARCHIVE_NAME = "artist20.zip"

# The data set is MP3, which a zip hardly shrinks: ten times its size is a bomb or another archive.
MAX_UNPACKED = 16 * 2**30  # bytes
MAX_LIST = 2**26  # bytes of train.json or val.json, which are read as a whole

TIMEOUT = 60  # seconds without a byte
RETRIES = 3

# All that zipfile raises for a damaged archive; RuntimeError covers features it does not know,
# ValueError names that are no valid UTF-8.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
# Those that others write: Windows takes Deflate64 for files beyond 2 GB.
UNSUPPORTED = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
ENCRYPTED, UTF8 = 1 << 0, 1 << 11  # flags of an entry


@dataclass(frozen=True)
class Weights:
    """One file of pretrained weights, and how to know that it is the right one.

    Attributes
    ----------
    name : str
        File name.
    url : str
        Where it is fetched from.
    size : int
        In bytes.
    sha256 : str
        In hexadecimal.
    license : str
        Under which its authors publish it.
    folder : str
        Its place in ``data/``.
    """

    name: str
    url: str
    size: int
    sha256: str
    license: str
    folder: str = "panns"


# Kong et al. 2020, "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
# Recognition"; Zenodo record 3987831.
CNN14_16K = Weights(
    name="Cnn14_16k_mAP=0.438.pth",
    url="https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
    size=358_668_570,
    sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
    license="CC BY 4.0",
)
CNN14_32K = Weights(
    name="Cnn14_mAP=0.431.pth",
    url="https://zenodo.org/records/3987831/files/Cnn14_mAP%3D0.431.pth?download=1",
    size=327_428_481,
    sha256="0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
    license="CC BY 4.0",
)
# Défossez 2021, "Hybrid Spectrogram and Waveform Source Separation"; the weights of torchaudio's
# HDEMUCS_HIGH_MUSDB_PLUS. Neither torchaudio nor PyTorch's server states a checksum: size and
# SHA-256 are those that several independent projects pin for this address. The download itself has
# not been tried here. What its author allows: facebookresearch/demucs, issue 327.
HDEMUCS = Weights(
    name="hdemucs_high_trained.pt",
    url="https://download.pytorch.org/torchaudio/models/hdemucs_high_trained.pt",
    size=334_697_255,
    sha256="a004b2790d73ffeaa535db458a1a79b539dfdbafbccc31f275d07e632ebd7816",
    license="for scientific purposes only",
    folder="hdemucs",
)


class FetchError(Exception):
    """Something could not be fetched, or what was fetched is damaged.

    Its message is one line that says what to do. The command line exits with status 1.
    """


# --- download ----------------------------------------------------------------------------------


def download(url: str, path: Path, by_hand: str) -> None:
    """Download ``url`` to ``path``, going on from what a broken download left beside it.

    Parameters
    ----------
    url : str
        A Google Drive link or a plain one.
    path : Path
        Holds the whole file afterwards. Until then the bytes lie beside it, in ``<name>*.part``.
    by_hand : str
        What the user can do instead: "by hand: ..." ends the error's message.

    Raises
    ------
    FetchError
        If the file cannot be had. What arrived is kept for the next try.
    """
    import gdown  # a third of a second: not for those who only import the table of weights

    def attempt() -> None:
        gdown.download(
            url,
            str(path),
            quiet=not sys.stderr.isatty(),
            resume=True,
            timeout=TIMEOUT,
            retries=RETRIES,
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {path}", flush=True)
    try:
        try:
            attempt()
        except gdown.exceptions.DownloadError as error:
            if "requested byte range" not in str(error):
                raise
            # The server cannot resume, or its file has changed. gdown keeps the part, and would
            # stumble over it for ever.
            for part in path.parent.glob(f"{path.name}????????.part"):
                part.unlink()
            attempt()
    # gdown reads Google's web pages, and fails in as many ways as these can change.
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise FetchError(
            f"could not download {url} ({reason}); run the same command again to go on, or "
            f"{by_hand}"
        ) from error


def verify(path: Path, weights: Weights) -> str | None:
    """Say what is wrong with a file of weights, or None if it is the right one.

    Size and SHA-256 are compared; the file must exist.
    """
    size = path.stat().st_size
    if size != weights.size:
        return f"{size} bytes instead of {weights.size}"
    sha256 = sha256_file(path)
    if sha256 != weights.sha256:
        return f"sha256 {sha256} instead of {weights.sha256}"
    return None


def fetch_weights(weights: Weights, root: Path) -> None:
    """Put verified weights into their folder in ``root``, unless they are there.

    A file of the right name with wrong content is removed, whoever put it there.

    Raises
    ------
    FetchError
        If they cannot be downloaded, or the download is not the right file; it is removed then.
    """
    path = root / weights.folder / weights.name
    if path.exists():
        problem = verify(path, weights)
        if problem is None:
            print(f"{path}: already downloaded, checksum OK", flush=True)
            return
        print(f"{path} has {problem}: removed", flush=True)
        path.unlink()
    by_hand = (
        f"by hand: download {weights.url} as {path} ({weights.size} bytes, sha256 "
        f"{weights.sha256}), then run the same command again"
    )
    part = path.with_name(f"{weights.name}.part")
    download(weights.url, part, by_hand)
    problem = verify(part, weights)
    if problem:
        part.unlink()
        raise FetchError(f"the download of {weights.name} has {problem}: removed; {by_hand}")
    part.replace(path)
    print(f"{path}: right size and sha256 ({weights.license})", flush=True)


# --- unpack ------------------------------------------------------------------------------------


def _own_name(info: zipfile.ZipInfo) -> str:
    """Return an entry's name; of UTF-8 that lacks its flag, zipfile makes code page 437."""
    with suppress(UnicodeError):
        if not info.flag_bits & UTF8:
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _leaves(name: str) -> bool:
    """Tell whether a path would, on any system, leave the folder that it is put into."""
    parts = re.split(r"[/\\]", name)
    drive = any(re.match("[A-Za-z]:", part) for part in parts)
    return not parts[0] or ".." in parts or "\0" in name or drive


def _refusal(info: zipfile.ZipInfo) -> str | None:
    """Say why an archive with this entry is not to be unpacked, if so."""
    own = _own_name(info)
    # zipfile cuts a name at a null byte; newer versions take another from an extra field.
    for name in (info.orig_filename, own, unicodedata.normalize("NFC", own)):
        if not name:
            return "has no name"
        if _leaves(name):
            return "would land outside the data folder"
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither file nor folder"
    return None


def plan_members(archive: zipfile.ZipFile, target: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Choose what to unpack: the files of the folder that holds train.json and val.json.

    Parameters
    ----------
    archive : zipfile.ZipFile
        The archive.
    target : Path
        Where the user can put the folder, if Python cannot unpack it.

    Returns
    -------
    dict
        Path within that folder -> entry.

    Raises
    ------
    FetchError
        If any entry of the archive is unsafe, not exactly one folder holds the two lists, or what
        is in it cannot be read.
    """

    def unreadable(info: zipfile.ZipInfo, reason: str) -> FetchError:
        return FetchError(
            f"{archive.filename}: {info.filename!r} {reason}: nothing was unpacked; unpack the "
            "archive with 7-Zip or unzip, put the folder that holds train.json and val.json at "
            f"{target}, then run the same command again"
        )

    for info in archive.infolist():
        refusal = _refusal(info)
        if refusal:
            raise FetchError(
                f"{archive.filename}: entry {info.orig_filename!r} {refusal}: nothing was unpacked"
            )
    entries: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if "\\" in info.filename:
            raise unreadable(info, "has '\\' where zip has '/', as some old Windows tools write")
        path = PurePosixPath(_own_name(info))
        if info.is_dir() or "__MACOSX" in path.parts or path.name == ".DS_Store":
            continue
        if path in entries:
            raise FetchError(f"{archive.filename}: {str(path)!r} is in it twice")
        entries[path] = info
    folders = [
        path.parent
        for path in entries
        if path.name == "train.json" and path.with_name("val.json") in entries
    ]
    if len(folders) != 1:
        found = ", ".join(sorted(map(str, folders))) or "none"
        raise FetchError(
            f"{archive.filename} should have one folder with train.json and val.json in it, "
            f"hw1/artist20/; it has: {found}"
        )
    members = {
        path.relative_to(folders[0]): info
        for path, info in entries.items()
        if path.is_relative_to(folders[0])
    }
    for info in members.values():
        if info.flag_bits & ENCRYPTED:
            raise unreadable(info, "is encrypted")
        if info.compress_type not in COMPRESSIONS:
            method = UNSUPPORTED.get(info.compress_type, f"method {info.compress_type}")
            raise unreadable(info, f"is compressed with {method}, which Python cannot unpack")
    return members


def _as_listed(
    archive: zipfile.ZipFile, members: dict[PurePosixPath, zipfile.ZipInfo]
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Spell paths as the two lists do: macOS decomposes accents, and others do not."""
    spellings = {}
    for name in ("train.json", "val.json"):
        info = members[PurePosixPath(name)]
        try:
            if info.file_size > MAX_LIST:
                raise ValueError(f"{info.file_size:,} bytes")
            with _opened(archive, info) as source:
                content = source.read()
            listed = [PurePosixPath(path) for path in parse_json(content.decode("utf-8-sig"))]
        except (ValueError, TypeError) as error:
            raise FetchError(
                f"{archive.filename}: {info.filename!r} is no JSON list of paths ({error}): "
                "nothing was unpacked"
            ) from error
        for path in listed:
            if not _leaves(str(path)):
                spellings[unicodedata.normalize("NFC", str(path))] = path
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for path, info in members.items():
        spelled = spellings.get(unicodedata.normalize("NFC", str(path)), path)
        if spelled in found:
            raise FetchError(
                f"{archive.filename}: {str(spelled)!r} is in it twice, spelled in two ways: "
                "nothing was unpacked"
            )
        found[spelled] = info
    n_other = sum(not info.filename.endswith(str(path)) for path, info in found.items())
    if n_other:
        print(
            f"note: {archive.filename}: {n_other} of {len(found)} names are spelled otherwise in "
            "it: they are read as UTF-8, and written as train.json and val.json have them",
            flush=True,
        )
    return found


def unpack(archive_file: Path, target: Path) -> None:
    """Unpack the data set of an archive to ``target``, wholly or not at all.

    Parameters
    ----------
    archive_file : Path
        The zip; it is not changed.
    target : Path
        The folder to make; it must not exist.

    Raises
    ------
    FetchError
        If the archive is damaged, unsafe, too large or not the data set.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Unpacked beside its final place and moved there whole: after an interrupted run the next one
    # begins with an empty folder again.
    partial = target.with_name(f".{target.name}.unpacking")
    try:
        archive = zipfile.ZipFile(archive_file)
    except DAMAGED as error:
        raise FetchError(
            f"{archive_file} is not a whole zip archive ({error}), perhaps half a download: "
            "delete it and download it again"
        ) from error
    with archive:
        members = plan_members(archive, target)
        # zipfile reads no more of an entry than its announced size: the sum is a true bound.
        total = sum(info.file_size for info in members.values())
        free = shutil.disk_usage(target.parent).free
        if total > min(MAX_UNPACKED, free):
            raise FetchError(
                f"{archive_file} would unpack to {total:,} bytes: at most {MAX_UNPACKED:,} are "
                f"expected, and {free:,} are free in {target.parent}; if these are too few, make "
                "space, then run the same command again"
            )
        members = _as_listed(archive, members)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with tqdm(
                desc="unpacking", total=total, unit="B", unit_scale=True, disable=None
            ) as progress:
                for path, info in members.items():
                    file = partial / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with _opened(archive, info) as source, file.open("xb") as copy:
                        shutil.copyfileobj(source, copy)
                    progress.update(info.file_size)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """Open an entry; what fails while it is read is damage."""
    try:
        with archive.open(info) as source:
            yield source
    except (*DAMAGED, OSError) as error:
        # A place before the file's beginning; all other such errors are the disk's.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise FetchError(
            f"{archive.filename}: {info.filename!r} is damaged ({error}): nothing was unpacked; "
            "delete the archive and download it again"
        ) from error


# --- data sets ---------------------------------------------------------------------------------


def _run_module(module: str, *args: str) -> bool:
    """Run another part of the project as the user would; its output is shown. True if it passed."""
    return subprocess.run([sys.executable, "-m", module, *args], cwd=REPOSITORY).returncode == 0


def passes_check(data_dir: Path) -> bool:
    """Check a data folder; its problems are printed."""
    print(f"checking {data_dir}", flush=True)
    return _run_module("artist20.collection", "check", str(data_dir))


def is_there(data_dir: Path) -> bool:
    """Tell whether a data folder is there and passes the check.

    Raises
    ------
    UserError
        If it is there, but does not pass: it may hold something of the user's.
    """
    if not (data_dir.exists() or data_dir.is_symlink()):
        return False
    if not passes_check(data_dir):
        raise UserError(
            f"{data_dir} is there but does not pass the check, its problems are named above: "
            "move it away, then run the same command again"
        )
    print(f"{data_dir}: already there, passes the check", flush=True)
    return True


def fetch_dataset(root: Path, archive: Path | None) -> None:
    """Put the checked data set into ``root/artist20``, unless it is there.

    Parameters
    ----------
    root : Path
        The folder for all data.
    archive : Path or None
        The user's own copy of the archive; None downloads it to ``root/artist20.zip``.

    Raises
    ------
    FetchError
        If the archive cannot be had, or what is in it is not right.
    UserError
        If a folder with problems is in the place.
    """
    target = root / "artist20"
    if is_there(target):
        return
    if archive is None:
        archive = root / ARCHIVE_NAME
        if not archive.exists():
            by_hand = (
                f"by hand: open {ARCHIVE_URL} in a browser, save the zip of about 1.3 GB as "
                f"{ARCHIVE_NAME}, then run: bash get_dataset.sh path/to/{ARCHIVE_NAME}"
            )
            download(ARCHIVE_URL, archive, by_hand)
    unpack(archive, target)
    if not passes_check(target):
        raise FetchError(
            f"{target}, unpacked from {archive}, does not pass the check: its problems are named "
            "above"
        )
    print(f"{target} is complete; {archive} is no longer needed", flush=True)


def build_demo(root: Path) -> None:
    """Build the synthesised data set in ``root/demo``, or the rest of it.

    Raises
    ------
    FetchError
        If it cannot be built.
    """
    target = root / "demo"
    if not _run_module("artist20.demo", str(target)):
        raise FetchError(f"the demo data set could not be built in {target}: see above")


def separate_vocals(root: Path) -> None:
    """Separate the vocals of ``root/artist20`` into ``root/artist20_vocals``, or the rest of them.

    Raises
    ------
    FetchError
        If songs fail, or the command.
    """
    target = root / "artist20_vocals"
    weights = root / HDEMUCS.folder / HDEMUCS.name
    where = [str(root / "artist20"), str(target)]
    if not _run_module("artist20.vocals", *where, "--weights", str(weights)):
        raise FetchError(f"{target} is not complete: see above")


# --- command line ------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; 'bash get_dataset.sh --help' lists the options")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises
    ------
    UserError
        If it makes no sense.
    """
    parser = _Parser(
        prog="bash get_dataset.sh",
        allow_abbrev=False,
        description="Fetch the artist20 data set (1.3 GB) into data/artist20, check it, and fetch "
        "the PANNs 16 kHz weights (359 MB) into data/panns. What is already there and "
        "passes its check is not fetched again; a broken download goes on from where it stopped.",
    )
    parser.add_argument(
        "archive",
        nargs="?",
        type=Path,
        metavar="path/to/data.zip",
        help="use this archive, which is kept, instead of downloading it",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="build the synthesised demo data set in data/demo, and fetch nothing unless told to",
    )
    parser.add_argument("--weights", action="store_true", help="fetch only the weights")
    parser.add_argument(
        "--weights-32k", action="store_true", help="fetch the 32 kHz weights (327 MB) as well"
    )
    parser.add_argument(
        "--vocals",
        action="store_true",
        help="fetch the weights of a separator (335 MB) and separate the songs' vocals into "
        "data/artist20_vocals, which takes a GPU; of the rest, fetch only the data set",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=REPOSITORY / "data",
        metavar="DIR",
        help="folder to use instead of data/ beside this script",
    )
    args = parser.parse_args(argv)
    if args.archive and args.weights:
        parser.error("--weights fetches only the weights: leave out the archive")
    if args.archive and not args.archive.is_file():
        raise UserError(f"no such file: {args.archive}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Raises
    ------
    UserError
        If the command or a folder of the user's is wrong.
    """
    args = parse_args(argv)
    root = args.root.absolute()
    only_part = args.demo or args.weights or args.vocals
    try:
        if args.demo:
            build_demo(root)
        if args.archive or args.vocals or not only_part:
            fetch_dataset(root, args.archive)
        if args.archive or args.weights or not only_part:
            fetch_weights(CNN14_16K, root)
        if args.weights_32k:
            fetch_weights(CNN14_32K, root)
        if args.vocals:
            fetch_weights(HDEMUCS, root)
            separate_vocals(root)
    except (FetchError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in NO_SPACE
        to_go_on = "; make space, then run the same command again" if full else ""
        print(f"error: {error}{to_go_on}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    runtime.run(main)
