"""What is computed once per song and kept: one ``.npy`` file each, found by content and settings.

``cache/<kind>-<hash of the settings>/<2 hex digits>/<content key>.npy``: a changed song is computed
anew and a renamed one is not; each set of settings has its own folder. Files are written
atomically: a killed run loses only the songs it was working on, whose temporary files the next run
writes over, and processes do not meet.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.reduction import DupFd, ForkingPickler
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from artist20 import UserError, audio, distributed, runtime
from artist20.audio import Waveform
from artist20.files import write_array, write_json

S = TypeVar("S")
T = TypeVar("T")

MAPPED_BYTES = 2**20  # from which on an array is not sent through a pipe


class Cache:
    """Arrays under songs' content keys, in a folder of ``parent`` for their kind and settings.

    ``settings``, kept in ``settings.json``, are all that they depend on beside the audio.
    """

    def __init__(self, parent: Path, kind: str, settings: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = parent / f"{kind}-{digest}"
        self._settings = settings

    def path(self, key: str) -> Path:
        """Return where a song's array lies, or would lie."""
        return self.folder / key[:2] / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        """Whether a song's array is there."""
        return self.path(key).is_file()

    def load(self, key: str) -> np.ndarray:
        """Read a song's array, (n_rows, n_columns); a damaged file is a ``UserError``."""
        path = self.path(key)
        try:
            array = np.load(path, allow_pickle=False)
            whole = array.ndim == 2 and array.dtype.kind == "f" and np.isfinite(array).all()
        except Exception:  # NumPy lets errors of zipfile, tokenize, ast and its own through
            whole = False
        if not whole:
            raise UserError(
                f"{path} is missing or damaged: delete it and run the same command again"
            )
        return array

    def fill(
        self,
        files: Mapping[str, Path],
        in_worker: Callable[[Path], Waveform],
        in_main: Callable[[list[str], list[Waveform]], list[np.ndarray]] | None = None,
        *,
        workers: int,
        label: str,
        songs_at_a_time: int = 1,
    ) -> dict[str, str]:
        """Compute the arrays of all songs that lack one; with several processes each its share.

        ``in_worker``, in the worker processes, makes of a file the array, or what ``in_main`` makes
        it from. Without ``in_main`` they also write it: disks that are slow to write one file write
        several.

        ``in_main``, in this process, is the place for a GPU. It makes arrays of several songs' keys
        and of what workers made of them, always the same ``songs_at_a_time``, whatever is there
        already: what a network makes of a song depends, in its last digits, on the whole batch.

        Returned is by key what is wrong with every song that cannot be decoded.
        """
        keys = list(files)
        known = {key for key in keys if key in self}
        if distributed.is_main():
            print(f"{label}: {len(known)} of {len(keys)} songs are in {self.folder}")
            write_json(self.folder / "settings.json", self._settings)
        groups = [keys[i : i + songs_at_a_time] for i in range(0, len(keys), songs_at_a_time)]
        groups = distributed.on_main(lambda: [group for group in groups if not known >= {*group}])
        mine = groups[distributed.rank() :: distributed.world_size()]
        wanted = [key for group in mine for key in group]
        last_of_groups = {group[-1] for group in mine}
        unreadable: dict[str, str] = {}
        waiting: dict[str, Any] = {}
        treat = in_worker if in_main else partial(_compute_and_write, compute=in_worker)
        inputs: list[Any] = [
            files[key] if in_main else (files[key], self.path(key)) for key in wanted
        ]
        songs = map_songs(inputs, treat, workers=workers, label=label)
        for key, song in zip(wanted, songs, strict=True):
            if isinstance(song, audio.AudioError):
                unreadable[key] = song.reason
            elif isinstance(song, Exception):
                raise song
            elif in_main:
                waiting[key] = song
            if in_main and waiting and key in last_of_groups:
                arrays = in_main(list(waiting), list(waiting.values()))
                for done, array in zip(waiting, arrays, strict=True):
                    if done not in known:
                        write_array(self.path(done), array)
                waiting = {}
        parts = distributed.gather(unreadable)
        return {key: reason for part in parts for key, reason in part.items()}


def _compute_and_write(
    file_and_path: tuple[Path, Path], compute: Callable[[Path], Any]
) -> Exception | None:
    """Return what stopped it: raised, it would end all workers, and come in many lines."""
    file, path = file_and_path
    array = compute(file)
    try:
        write_array(path, array)
    except (UserError, OSError) as error:
        return error
    return None


class _Songs(Dataset[Any]):
    def __init__(self, songs: Sequence[S], treat: Callable[[S], Any]) -> None:
        self.songs = songs
        self.treat = treat

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, i: int) -> Any:
        try:
            return self.treat(self.songs[i])
        except audio.AudioError as error:  # returned, because raised it would end all workers
            return error


class _Loader(DataLoader[Any]):
    """Starts its workers without a stop between them."""

    def __iter__(self) -> Any:
        if self.num_workers:
            runtime.check_for_semaphores()
        with runtime.signals_held():
            return super().__iter__()


def _as_it_is(value: Any) -> Any:
    return value


def _start_worker(worker: int) -> None:
    runtime.start_worker(worker)
    if not hasattr(os, "memfd_create"):  # not Linux
        return
    # An error: no socket can be made, by which an array would be handed over.
    with suppress(OSError), os.fdopen(os.memfd_create("probe"), "wb") as probe:
        DupFd(probe.fileno())
        ForkingPickler.register(np.ndarray, _reduce)


def _reduce(array: np.ndarray) -> Any:
    """Have the other process map a large array, in half the time (benchmarks/handing_over.py)."""
    # torch's shared memory would do, too, but lies in /dev/shm: containers have 64 MB there.
    if array.nbytes >= MAPPED_BYTES and array.dtype.kind in "fiu":
        # Without memory or descriptors: through the pipe.
        with suppress(OSError), os.fdopen(os.memfd_create("song"), "wb") as memory:
            memory.write(np.ascontiguousarray(array).data.cast("B"))
            memory.flush()
            return _mapped, (DupFd(memory.fileno()), array.dtype, array.shape)
    return array.__reduce__()


def _mapped(handle: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    with os.fdopen(handle.detach(), "r+b", buffering=0) as memory:
        mapped = mmap.mmap(memory.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    return np.frombuffer(mapped, dtype).reshape(shape)


def map_songs(
    songs: Sequence[S], treat: Callable[[S], T], *, workers: int, label: str
) -> Iterable[T | audio.AudioError]:
    """Read songs in worker processes, of one thread each, a few ahead of the caller.

    ``treat``, which must be one that can be pickled, is given each of the songs: files, or whatever
    it takes. Returned is in their order what it returned, or the ``AudioError`` that it raised.
    Every array of :data:`MAPPED_BYTES` or more holds a file descriptor: keep few.
    """
    loader = _Loader(
        _Songs(songs, treat),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(songs)),
        worker_init_fn=_start_worker,
    )
    return tqdm(loader, label, disable=distributed.quiet(), unit="song")
