"""artist20.cache: what is kept comes back right, whatever happened to files and processes."""

import errno
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from multiprocessing import util
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ARTISTS, write_song

from artist20 import UserError, audio, cache, distributed, files
from artist20.cache import Cache

KEYS = [f"{i}{i}key" for i in range(5)]


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Songs by key."""
    folder = tmp_path_factory.mktemp("songs")
    found = {key: folder / f"{key}, (it's).flac" for key in KEYS}
    for i, file in enumerate(found.values()):
        write_song(file, next(iter(ARTISTS)), seed=i, seconds=0.3)
    return found


def head(file: Path) -> np.ndarray:
    """Treat a song, in a worker."""
    return audio.open_song(file)[:12].reshape(4, 3)


class Recorder:
    """Treat songs in this process; remember which were given together."""

    def __init__(self):
        self.groups = []

    def __call__(self, keys, arrays):
        """Give, as a network's last digits do, what depends on the whole batch."""
        self.groups.append(keys)
        return [array + sum(each.sum() for each in arrays) for array in arrays]


def fill(kept, songs, in_main=None, workers=0, **options):
    return kept.fill(songs, head, in_main, workers=workers, label="toy", **options)


def contents(kept):
    return {path.name: path.read_bytes() for path in kept.folder.rglob("*.npy")}


# --- one array ---------------------------------------------------------------------------------


def test_an_array_lies_under_kind_settings_and_key(tmp_path, songs, capsys):
    kept = Cache(tmp_path, "toy", {"hop": 2, "name": "ä"})
    assert kept.path("ab12").relative_to(kept.folder) == Path("ab/ab12.npy")
    assert kept.folder.parent == tmp_path
    assert kept.folder.name.startswith("toy-")
    assert "ab12" not in kept
    assert fill(kept, songs) == {}
    for key, file in songs.items():
        assert key in kept
        np.testing.assert_array_equal(kept.load(key), head(file))
    assert json.loads((kept.folder / "settings.json").read_text()) == {"hop": 2, "name": "ä"}
    assert capsys.readouterr().out == f"toy: 0 of 5 songs are in {kept.folder}\n"


def test_other_settings_are_another_folder(tmp_path):
    def folder(kind="toy", **settings):
        return Cache(tmp_path, kind, settings).folder

    assert folder(x=1, y=2) == folder(y=2, x=1)
    assert len({folder(x=1), folder(x=2), folder(x=1, y=2), folder("other", x=1)}) == 4


DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "text": lambda path: path.write_text("no array"),
    "huge": lambda path: path.write_bytes(
        path.read_bytes().replace(b"(4, 3), }" + 12 * b" ", b"(4, 3000000000000), }")
    ),
    "archive": lambda path: np.savez(path.open("wb"), np.zeros((4, 3))),
    "NaN": lambda path: np.save(path, [[1, np.nan]]),
    "infinite": lambda path: np.save(path, [[1, -np.inf]]),
    "one axis": lambda path: np.save(path, np.zeros(3)),
    "words": lambda path: np.save(path, [["a", "b"]]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_in_a_line_and_made_anew_when_deleted(tmp_path, songs, damage):
    kept = Cache(tmp_path, "toy", {})
    fill(kept, songs)
    expected, path = contents(kept), kept.path(KEYS[2])
    damage(path)
    with pytest.raises(UserError) as error:
        kept.load(KEYS[2])
    assert str(error.value).startswith(f"{path} is missing or damaged: delete it")
    assert "\n" not in str(error.value)
    path.unlink(missing_ok=True)
    fill(kept, songs)
    assert contents(kept) == expected


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_file_cannot_run_code(tmp_path):
    kept, marker = Cache(tmp_path, "toy", {}), tmp_path / "ran"
    path = kept.path("key")
    path.parent.mkdir(parents=True)
    np.save(path, np.array([[Evil(marker)]]), allow_pickle=True)
    np.load(path, allow_pickle=True)  # the control: read the unsafe way, it does run
    assert marker.exists()
    marker.unlink()
    with pytest.raises(UserError, match="damaged"):
        kept.load("key")
    assert not marker.exists()


# --- filling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_only_what_is_missing_is_computed(tmp_path, songs, workers):
    kept = Cache(tmp_path, "toy", {})
    computed = []
    for wanted in (KEYS[1:3], KEYS, KEYS):
        recorder = Recorder()
        fill(kept, {key: songs[key] for key in wanted}, recorder, workers)
        computed.append(recorder.groups)
    assert computed == [[[KEYS[1]], [KEYS[2]]], [[KEYS[0]], [KEYS[3]], [KEYS[4]]], []]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_workers_compute_they_write(tmp_path, songs, monkeypatch, workers):
    """A disk that is slow to write one file writes several at once."""
    main, writers = os.getpid(), tmp_path / "writers"
    monkeypatch.setattr(cache, "write_array", lambda path, _: log_writer(writers, path))
    fill(Cache(tmp_path, "toy", {}), songs, workers=workers)
    written = dict(line.split() for line in writers.read_text().splitlines())
    assert written.keys() == {*KEYS}
    assert all((int(pid) == main) == (workers == 0) for pid in written.values())


def log_writer(writers: Path, path: Path) -> None:
    with writers.open("a") as file:
        file.write(f"{path.stem} {os.getpid()}\n")


@pytest.mark.parametrize(
    "error", [UserError("no space\nfor it"), PermissionError(errno.EACCES, "not yours", "a.npy")]
)
def test_what_stops_a_worker_is_said_as_if_it_had_been_here(tmp_path, songs, monkeypatch, error):
    def write(*_):
        raise error

    monkeypatch.setattr(cache, "write_array", write)
    with pytest.raises(type(error)) as found:
        fill(Cache(tmp_path, "toy", {}), songs, workers=2)
    assert str(found.value) == str(error)


MISSING = [set(some) for n in range(6) for some in itertools.combinations(range(5), n)]


def test_songs_are_given_together_whatever_is_there_already(tmp_path, songs):
    """Where one of a group is missing, the whole group is given, and the one is written."""
    whole = Cache(tmp_path, "whole", {})
    recorder = Recorder()
    fill(whole, songs, recorder, songs_at_a_time=2)
    groups = [KEYS[:2], KEYS[2:4], KEYS[4:]]
    assert recorder.groups == groups
    for missing in MISSING:
        kept = Cache(tmp_path, "stopped", {})
        shutil.copytree(whole.folder, kept.folder)
        untouched = [kept.path(KEYS[i]) for i in range(5) if i not in missing]
        written = [path.stat().st_ino for path in untouched]
        for i in missing:
            kept.path(KEYS[i]).unlink()
        recorder = Recorder()
        fill(kept, songs, recorder, songs_at_a_time=2)
        assert recorder.groups == [groups[i] for i in sorted({i // 2 for i in missing})]
        assert contents(kept) == contents(whole)
        assert [path.stat().st_ino for path in untouched] == written
        shutil.rmtree(kept.folder)


@pytest.mark.parametrize("bad", [{0, 3}, {1}, {2, 3}, {4}, {0, 1, 2, 3, 4}], ids=str)
def test_songs_that_cannot_be_decoded_are_returned_after_the_others_are_done(tmp_path, songs, bad):
    damaged = dict(songs)
    for i in bad:
        damaged[KEYS[i]] = tmp_path / f"bad {i}.flac"
        damaged[KEYS[i]].write_text("no music")
    kept, recorder = Cache(tmp_path, "toy", {}), Recorder()
    reasons = fill(kept, damaged, recorder, songs_at_a_time=2)
    assert reasons == {KEYS[i]: "holds no audio" for i in bad}
    assert [key for key in KEYS if key in kept] == [KEYS[i] for i in range(5) if i not in bad]
    assert sum(map(len, recorder.groups)) == 5 - len(bad)
    # Mended songs are computed, the others are not computed again.
    recorder = Recorder()
    assert fill(kept, songs, recorder) == {}
    assert recorder.groups == [[KEYS[i]] for i in sorted(bad)]


def test_a_killed_fill_keeps_what_is_done_and_goes_on_to_the_same(tmp_path, songs):
    """The process is killed while it writes the second array of the second group."""
    whole, killed = Cache(tmp_path, "whole", {}), Cache(tmp_path, "killed", {})
    fill(whole, songs, Recorder(), songs_at_a_time=2)
    pid = os.fork()
    if pid == 0:
        save = np.save

        def save_half_of_the_fourth(path, array, **options):
            if len(contents(killed)) == 4:
                save(path, array[:2])
                os.kill(os.getpid(), signal.SIGKILL)
            save(path, array, **options)

        try:
            np.save = save_half_of_the_fourth
            fill(killed, songs, Recorder(), songs_at_a_time=2)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)
    expected, found = contents(whole), contents(killed)
    assert len(found) == 4  # three that are whole, and a half under another name
    for key in KEYS[:3]:
        assert found[f"{key}.npy"] == expected[f"{key}.npy"]
    assert KEYS[3] not in killed
    fill(killed, songs, Recorder(), songs_at_a_time=2)
    assert contents(killed) == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_fill_that_fails_keeps_what_is_done(tmp_path, songs, error):
    def in_main(keys, arrays):
        if keys == [KEYS[3]]:
            raise error
        return arrays

    kept = Cache(tmp_path, "toy", {})
    with pytest.raises(error):
        fill(kept, songs, in_main, workers=2)
    assert [key for key in KEYS if key in kept] == KEYS[:3]


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path, songs):
    def in_main(keys, _arrays):
        return [np.zeros((1, 1 if keys == [KEYS[0]] else 10_000))]

    kept = Cache(tmp_path, "toy", {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(files.DiskFullError, match=f"{KEYS[1]}.npy cannot be written"):
            fill(kept, songs, in_main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(contents(kept)) == [f"{KEYS[0]}.npy"]


def test_processes_share_the_groups(tmp_path, songs, monkeypatch, capsys):
    """What the main process finds missing is computed, each group by one of two processes."""
    kept, groups, of_main = Cache(tmp_path, "toy", {}), [], []
    damaged = {**songs, KEYS[2]: tmp_path / "nowhere.flac"}

    def on_main(compute):
        if not of_main:
            of_main.append(compute())
        return of_main[0]

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "on_main", on_main)
    monkeypatch.setattr(distributed, "gather", lambda value: [{"of": "another"}, value])
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        recorder = Recorder()
        reasons = fill(kept, damaged, recorder, songs_at_a_time=2)
        groups.append(recorder.groups)
        assert list(reasons) == (["of", KEYS[2]] if rank else ["of"])
    assert groups == [[KEYS[:2], KEYS[4:]], [[KEYS[3]]]]
    assert capsys.readouterr().out.count("songs are in") == 1


# --- worker processes --------------------------------------------------------------------------


def test_a_long_song_that_is_read_twice_has_its_notes_once(tmp_path, monkeypatch, recwarn):
    """The worker has said it: where this process decodes the song again, nothing is said."""
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 1)
    file = tmp_path / "silence.wav"
    soundfile.write(file, np.zeros(320_000), 16_000)
    (song,) = cache.map_songs([file], audio.open_song, workers=1, label="toy")
    assert isinstance(song, audio.LongSong)
    assert not song[: len(song)].any()
    assert not [warning for warning in recwarn if warning.category is audio.AudioNote]


def large(file: Path) -> np.ndarray:
    """Note which process treats a song, and return more than a pipe holds."""
    (file.parent / f"{os.getpid()}.worker").touch()
    return np.zeros(1_000_000)


def arrays(file):
    number = int(file.name)
    rng = np.random.default_rng(number)
    kinds = [
        rng.normal(size=400_000).astype(np.float32),  # of the size of a song
        rng.normal(size=(2000, 800)).astype(np.float16)[:, ::2].T,
        rng.normal(size=10),
        np.zeros((0, 64), np.float16),
        np.arange(200_000).astype("datetime64[s]"),
    ]
    return kinds[number % len(kinds)]


def fails(*_):
    raise OSError(errno.EMFILE, "Too many open files")


PATCHED = {"no descriptor": (os, "memfd_create"), "no folder": (util, "get_temp_dir")}


@pytest.fixture(params=["mapped", *PATCHED])
def mapped(request, monkeypatch):
    """Whether workers hand arrays over in memory; otherwise something that it takes fails."""
    if request.param in PATCHED:
        if multiprocessing.get_start_method() != "fork":
            pytest.skip("the workers would not have what is patched here")
        monkeypatch.setattr(*PATCHED[request.param], fails)
    return request.param == "mapped"


def test_arrays_arrive_as_they_were_and_large_ones_are_not_copied(tmp_path, mapped):
    files = [tmp_path / str(number) for number in range(10)]
    arrived = cache.map_songs(files, arrays, workers=2, label="toy")
    for file, found in zip(files, arrived, strict=True):
        expected = arrays(file)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
        assert isinstance(found.base, np.ndarray) == (
            mapped and found.dtype.kind == "f" and found.nbytes >= cache.MAPPED_BYTES
        )
        if found.dtype.kind == "f":
            found[:1] = 0  # as torch wants it


def descriptors(_file):
    return np.full(300_000, len(list(Path("/proc/self/fd").iterdir())), np.float32)


def test_no_descriptor_is_left_behind(tmp_path, mapped):
    found = cache.map_songs([tmp_path] * 12, descriptors, workers=1, label="toy")
    counts = [array[0] for array in found]
    assert max(counts) <= counts[1] + 4  # of arrays on their way


def test_a_stop_waits_until_all_workers_have_started(tmp_path, monkeypatch):
    """One that came between them left the first without a parent that ends it."""
    start, started = BaseProcess.start, []

    def start_and_stop(process: BaseProcess) -> None:
        start(process)
        started.append(process)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(BaseProcess, "start", start_and_stop)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(iter(cache.map_songs([tmp_path / "song"] * 3, large, workers=2, label="toy")))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(started) == 2
    assert not any(process.is_alive() for process in started)


@pytest.mark.usefixtures("mapped")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    pid = os.fork()
    if pid == 0:
        try:
            songs = cache.map_songs([tmp_path / "song"] * 20, large, workers=2, label="toy")
            list(itertools.islice(songs, 2))  # one of each worker
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)
    workers = [Path("/proc", file.stem) for file in tmp_path.glob("*.worker")]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
