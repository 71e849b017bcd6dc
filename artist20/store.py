"""What is computed once per song and kept: rows of numbers in one file, with an index beside it.

A store is a folder with ``rows.bin``, one array of rows that grows at its end, and
``index.jsonl``, one line per song that says which rows are its own. Songs are found by the
content of their audio file, so that a changed file is computed anew and a renamed one is not.
Settings are part of the folder's name: other settings, another store.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from artist20 import UserError, audio, distributed, printable, runtime
from artist20.audio import Waveform
from artist20.files import only_writer, told_when_full

ROWS = "rows.bin"
PARTS = "parts"  # folder of what processes of one run computed, until it is put together
COMMIT_SECONDS = 1.0  # at most this much finished work is lost by a crash


class RowStore:
    """Arrays of equally wide rows under string keys, appended once and never changed.

    One process at a time may have a store open; it is closed by leaving its ``with`` block.

    Parameters
    ----------
    parent : Path
        Folder of the store's folder.
    name : str
        First part of the folder's name; a hash of the settings is the second.
    settings : dict
        Everything that the rows depend on beside the audio. Kept in ``settings.json``.
    dtype : str
        NumPy type of the numbers.
    width : int
        Numbers per row.
    """

    def __init__(
        self, parent: Path, name: str, settings: dict[str, Any], dtype: str, width: int
    ) -> None:
        described = json.dumps({**settings, "dtype": dtype, "width": width}, sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        self.folder = parent / f"{name}-{digest}"
        self._lock = only_writer(self.folder)
        self._lock.__enter__()
        settings_file = self.folder / "settings.json"
        with told_when_full(settings_file):
            settings_file.write_text(described + "\n", encoding="utf-8")
        self.dtype = np.dtype(dtype)
        self.width = width
        self._rows_file = self.folder / ROWS
        self._index_file = self.folder / "index.jsonl"
        self._index: dict[str, tuple[int, int]] = {}
        self._pending: list[str] = []
        self._committed = time.monotonic()
        self._recover()

    def _recover(self) -> None:
        """Read the index, and cut off what a crash left behind its last whole line."""
        self._rows_file.touch()
        self._index_file.touch()
        row_bytes = self.width * self.dtype.itemsize
        n_stored = self._rows_file.stat().st_size // row_bytes
        whole = 0
        self._n_rows = 0
        with self._index_file.open("rb") as file:
            for line in file:
                try:
                    key, start, rows = json.loads(line)
                    follows = start == self._n_rows and 0 <= rows <= n_stored - start
                except (ValueError, TypeError, RecursionError):
                    break
                typed = isinstance(key, str) and type(rows) is int
                if not line.endswith(b"\n") or not follows or not typed:
                    break
                self._index[key] = (start, rows)
                self._n_rows = start + rows
                whole += len(line)
        os.truncate(self._index_file, whole)
        os.truncate(self._rows_file, self._n_rows * row_bytes)
        self._rows_out = self._rows_file.open("ab")
        self._index_out = self._index_file.open("ab")

    def __contains__(self, key: str) -> bool:
        """Whether rows of ``key`` are stored."""
        return key in self._index

    def append(self, key: str, rows: np.ndarray) -> None:
        """Store (n_rows, width) under a new key.

        Raises
        ------
        DiskFullError
            If there is no space; what was committed before is safe.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width or key in self._index:
            raise ValueError(f"rows of shape {rows.shape} do not fit the store, or {key} is known")
        with told_when_full(self._rows_file):
            self._rows_out.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self._index[key] = (self._n_rows, len(rows))
        self._pending.append(json.dumps([key, self._n_rows, len(rows)]) + "\n")
        self._n_rows += len(rows)
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Bring everything appended safely to disk: first the rows, then the lines naming them."""
        for out, data in (
            (self._rows_out, b""),
            (self._index_out, "".join(self._pending).encode()),
        ):
            with told_when_full(self._rows_file):
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        self._pending.clear()
        self._committed = time.monotonic()

    def index(self) -> dict[str, tuple[int, int]]:
        """Return the first row of every key in :meth:`rows`, and how many there are."""
        return dict(self._index)

    def rows(self) -> np.ndarray:
        """All rows, memory-mapped and read-only: (n_rows, width)."""
        self.commit()
        return _map_rows(self.folder, self.dtype.name, (self._n_rows, self.width))

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Commit, also after an error: what is finished is finished."""
        try:
            self.commit()
        finally:
            for out in (self._rows_out, self._index_out):
                with suppress(OSError):  # of what commit could not write, and has said so
                    out.close()
            self._lock.__exit__(None, None, None)


class _Songs(Dataset[np.ndarray]):
    """Songs as worker processes read and treat them."""

    def __init__(self, files: list[Path], treat: Callable[[Path], np.ndarray]) -> None:
        self.files = files
        self.treat = treat

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> np.ndarray | audio.AudioError:
        try:
            return self.treat(self.files[i])
        except audio.AudioError as error:  # returned, because raised it would end all workers
            return error


class _Loader(DataLoader[np.ndarray]):
    """Starts its workers without a stop between them."""

    def __iter__(self) -> Any:
        if self.num_workers:
            runtime.check_for_semaphores()
        with runtime.signals_held():
            return super().__iter__()


def _as_it_is(value: Any) -> Any:
    return value


def _as_they_are(_keys: list[str], arrays: list[np.ndarray]) -> list[np.ndarray]:
    return arrays


def map_songs(
    files: list[Path], treat: Callable[[Path], Waveform], *, workers: int, label: str
) -> Iterable[Waveform | audio.AudioError]:
    """Read songs in worker processes, a few ahead of the caller, with a progress bar.

    Parameters
    ----------
    files : list of Path
        Audio files.
    treat : callable
        What to do with each file, in the worker: any function that can be pickled, for instance
        ``audio.open_song``. What it returns is copied several times on its way here.
    workers : int
        Number of processes; each computes with one thread.
    label : str
        What the progress bar says.

    Returns
    -------
    iterable
        In the files' order: what ``treat`` returned, or the ``AudioError`` that it raised.
    """
    loader = _Loader(
        _Songs(files, treat),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(files)),
        worker_init_fn=runtime.start_worker,
    )
    return tqdm(loader, label, disable=distributed.quiet(), unit="song")


def stored_rows(
    parent: Path,
    name: str,
    settings: dict[str, Any],
    dtype: str,
    width: int,
    files: Mapping[str, Path],
    in_worker: Callable[[Path], Waveform],
    in_main: Callable[[list[str], list[Waveform]], list[np.ndarray]] = _as_they_are,
    *,
    workers: int,
    label: str,
    songs_at_a_time: int = 1,
    unreadable: dict[str, str] | None = None,
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Compute the rows of all songs that a store lacks, and return those of all.

    With several processes each computes its share, into a store of its own, and the main process
    puts these together; shares that a stopped run left behind are used, too.

    Parameters
    ----------
    parent, name, settings, dtype, width
        The store's, see :class:`RowStore`.
    files : mapping of str to Path
        Audio files by key.
    in_worker : callable
        File -> array or LongSong, done in the worker processes.
    in_main : callable, optional
        Keys and those of several songs -> rows of each, done in this process: the place for a GPU.
    workers, label
        See :func:`map_songs`.
    songs_at_a_time : int
        How many songs ``in_main`` is given: always the same ones together, whatever is stored
        already, because what a network makes of a song depends, in its last digits, on the others
        in the batch.
    unreadable : dict of str to str, optional
        Gets, by key, what is wrong with every song that cannot be decoded, in place of an error at
        the end.

    Returns
    -------
    rows : np.ndarray
        (n_rows, width) of the whole store, memory-mapped and read-only.
    index : dict of str to (int, int)
        First row and number of rows of each song, by key.

    Raises
    ------
    UserError
        If songs cannot be decoded, unless ``unreadable`` is given: names them all, after all others
        are done. Also, at once and in any case, if ``in_main`` finds a LongSong changed since it
        was opened.
    """
    kind = (settings, dtype, width)
    keys = list(files)
    groups = [keys[i : i + songs_at_a_time] for i in range(0, len(keys), songs_at_a_time)]

    def look() -> tuple[Path, list[list[str]]]:
        with RowStore(parent, name, *kind) as store:
            _absorb_parts(store, kind)
            known = store.index().keys() & files.keys()
        print(f"{label}: {len(known)} of {len(files)} songs are in {store.folder}")
        return store.folder, [group for group in groups if not known.issuperset(group)]

    folder, incomplete = distributed.on_main(look)
    rank = distributed.rank()
    my_groups = incomplete[rank :: distributed.world_size()]
    mine = [key for group in my_groups for key in group]
    last_of_groups = {group[-1] for group in my_groups}
    alone = distributed.world_size() == 1
    where = (parent, name) if alone else (folder / PARTS, str(rank))
    problems: dict[str, str] = {}
    with RowStore(*where, *kind) as store:
        results = map_songs([files[key] for key in mine], in_worker, workers=workers, label=label)
        waiting: dict[str, Waveform] = {}
        for key, result in zip(mine, results, strict=True):
            if isinstance(result, audio.AudioError):
                problems[key] = result.reason
            else:
                waiting[key] = result
            if waiting and key in last_of_groups:
                rows = in_main(list(waiting), list(waiting.values()))
                for done, of_song in zip(waiting, rows, strict=True):
                    if done not in store:
                        store.append(done, of_song)
                waiting = {}
        rows, index = store.rows(), store.index()
    problems = {key: line for part in distributed.gather(problems) for key, line in part.items()}

    def put_together() -> tuple[int, dict[str, tuple[int, int]]]:
        with RowStore(parent, name, *kind) as store:
            _absorb_parts(store, kind)
            return len(store.rows()), store.index()

    if not alone:
        n_rows, index = distributed.on_main(put_together)
        rows = _map_rows(folder, dtype, (n_rows, width))
    if unreadable is not None:
        unreadable.update(problems)
    elif problems:
        raise UserError(
            f"{len(problems)} song{'s' if len(problems) > 1 else ''} cannot be read; "
            "mend or take off the lists:\n"
            + "\n".join(f"{printable(files[key])} {reason}" for key, reason in problems.items())
        )
    return rows, index


def _absorb_parts(store: RowStore, kind: tuple[dict[str, Any], str, int]) -> None:
    """Take over what processes of a run on several computed, and remove their stores."""
    for folder in sorted((store.folder / PARTS).glob("*-*")):
        with RowStore(folder.parent, folder.name.rpartition("-")[0], *kind) as part:
            rows = part.rows()
            for key, (first, n_rows) in part.index().items():
                if key not in store:
                    store.append(key, rows[first : first + n_rows])
        store.commit()
        shutil.rmtree(folder)


def check_finite(numbers: np.ndarray, parent: Path) -> None:
    """Refuse numbers made of a store's rows that are not all finite: these were never stored.

    Raises
    ------
    UserError
        If they are not: names the folder of the stores.
    """
    if not np.isfinite(numbers).all():
        raise UserError(f"{parent} is damaged: delete it and run the same command again")


def _map_rows(folder: Path, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    if shape[0] == 0:
        return np.empty(shape, dtype)
    # As a plain array: every slice of a memmap would be one, of half a kilobyte.
    return np.memmap(folder / ROWS, dtype, "r", shape=shape).view(np.ndarray)
