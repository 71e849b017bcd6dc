"""Atomic writes, a lock for one writer, and reads that never run what they read.

Arrays are read without pickle; checkpoints (``weights_only=True``) and scikit-learn models (skops,
with a fixed list of trusted types) have readers and writers of their own, in
:mod:`artist20.checkpoints` and :mod:`artist20.classical`. Every write goes to a temporary name in
the same folder and is moved into place when it is whole. Knows nothing of music.
"""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec
import numpy as np

from artist20 import UserError

T = TypeVar("T")

# What the system says when a disk, a quota or a limit on the size of files is full.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(UserError):
    """A file that there is no space for. The message names it, and the space that there is."""


@contextmanager
def one_line_when_full(path: Path) -> Iterator[None]:
    """Turn a failure to write to ``path`` for want of space into a :class:`DiskFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise DiskFullError(
            f"{path} cannot be written: {os.strerror(error.errno)}; {free:.1f} MB are free there: "
            "make space"
        ) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it if the block succeeds.

    The suffix is kept, because some writers choose the format by it. After a failure, such as a
    :class:`DiskFullError`, the temporary file is gone and ``path`` is as it was. What a killed
    process left, the next one that writes the same file writes over; who comes while another
    writes it waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem[:50]  # a name that is as long as names can be has no room for more
    temporary = path.with_name(f".{stem}.tmp{path.suffix}")
    with one_line_when_full(path), _opened_alone(temporary) as file:
        try:
            yield temporary
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException as error:
            try:
                _raise_what_the_system_says(error, file)
            finally:
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _opened_alone(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, perhaps a new one, that no other process has opened so."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                still_there = os.path.samestat(path.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                still_there = False
            if still_there:  # and not moved to its place by whoever had it
                yield file
                return


def _raise_what_the_system_says(error: BaseException, file: IO[bytes]) -> None:
    """Find out whether NumPy, torch or libsndfile failed for want of space: they do not say."""
    if isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno is None):
        for _ in range(2):  # the first may still have space for a part
            os.write(file.fileno(), bytes(2**16))


LOCK = ".lock"  # in a folder: who writes to it, or did so last


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder; refuse one that another is writing to.

    The lock is the operating system's: it ends with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    # Unbuffered: what there is no space for would be written once more, and fail, at closing.
    with lock.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is writing to {folder} ({lock.read_text().strip()}): wait for it to "
                "end, or name another folder"
            ) from None
        with one_line_when_full(lock):
            file.truncate(0)
            who = f"process {os.getpid()} on {platform.node()}, {Path(sys.argv[0]).name}\n"
            file.write(os.fsencode(who))
        yield


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON (indented, UTF-8); NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table, whose columns are the first row's keys: there is one row at least."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_bytes(path: Path, made_by: str) -> bytes:
    """Read a file; a missing or unreadable one is a ``UserError`` that names ``made_by``."""
    check_is_file(path, made_by)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def read_text(path: Path) -> str:
    """Read a user's text file: UTF-8, with or without a byte order mark, or else refused."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise unreadable(path, error) from None


def parse_json(data: bytes | str | msgspec.Raw, kind: type[T]) -> T:
    """Parse JSON as a type of msgspec's: without NaN, infinity and numbers that no float can hold.

    What is no such JSON, or not of this type, is a ``ValueError`` that names the field.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_to_array)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(first_line(error)) from None


def _to_array(_: type, value: Any) -> Any:
    try:
        return np.array(msgspec.convert(value, list[list[float]]), dtype=float)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None  # to which msgspec adds the field


def check_is_file(path: Path, made_by: str) -> None:
    """Refuse what is missing, and what is no file: a folder cannot be read, a pipe never ends."""
    if not path.is_file():
        what = "is no file: move it away, then" if path.exists() else "is missing:"
        raise UserError(f"{path} {what} run {made_by} first")


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error that names a file which may not be read."""
    return UserError(f"{path} cannot be read ({error.strerror}): mend that")


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as ``.npy`` that can be read without pickle."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def read_array(path: Path, made_by: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Read an ``.npy`` file; a missing or broken one is a ``UserError`` that names ``made_by``."""
    check_is_file(path, made_by)
    try:
        array = np.load(path, allow_pickle=False, mmap_mode=mmap_mode)
    except PermissionError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # NumPy lets errors of zipfile, tokenize, ast and its own through
        reason = first_line(error)
        raise UserError(f"{path} cannot be read ({reason}): run {made_by} again") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is an archive, not an array: run {made_by} again")
    return array


def first_line(error: Exception) -> str:
    """Return an error's first line; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def write_rows(path: Path, parts: Iterable[np.ndarray]) -> None:
    """Write a float32 array as ``.npy``, given in parts of one row or several: at least one."""
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, np.float32))
    n_rows = 0
    # Not memory-mapped: a process that maps a file for which the disk has no space is killed.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            if n_rows == 0:
                header["shape"] = (0, part.shape[1])
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(part, np.float32).tobytes())
            n_rows += len(part)
        file.seek(0)  # NumPy pads the header, so that the number of rows can grow
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (n_rows, part.shape[1])})
