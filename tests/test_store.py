"""artist20.store: rows once stored come back right, whatever happened to the files meanwhile."""

import json
import os
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ARTISTS, write_song

from artist20 import UserError, audio, store
from artist20.store import RowStore

WIDTH = 3
KIND = {"settings": {}, "dtype": "float32", "width": WIDTH}


def open_store(parent: Path, **settings: object) -> RowStore:
    return RowStore(parent, "toy", settings, "float32", WIDTH)


def make_rows(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(int(rng.integers(0, 9)), WIDTH)).astype(np.float32)


def make_store(parent: Path, n_songs: int) -> dict[str, np.ndarray]:
    """Write a store, and return what it holds."""
    expected = {f"song {i}": make_rows(i) for i in range(n_songs)}
    with open_store(parent) as opened:
        for key, rows in expected.items():
            opened.append(key, rows)
    return expected


def read_back(opened: RowStore, key: str) -> np.ndarray:
    start, n_rows = opened.index()[key]
    return opened.rows()[start : start + n_rows]


# --- a store alone -----------------------------------------------------------------------------


def test_rows_come_back_at_once_and_after_reopening(tmp_path):
    with open_store(tmp_path) as opened:
        assert opened.rows().shape == (0, WIDTH)
        opened.append("a", make_rows(1))
        opened.append("b", make_rows(2))
        np.testing.assert_array_equal(read_back(opened, "a"), make_rows(1))
        opened.append("empty", np.empty((0, WIDTH)))
        opened.append("c", make_rows(3).astype(np.float64))  # of another type, in another order
        opened.append("d", np.asfortranarray(make_rows(4)))
    with open_store(tmp_path) as opened:
        assert "z" not in opened
        for i, key in enumerate("abcd", start=1):
            assert key in opened
            np.testing.assert_array_equal(read_back(opened, key), make_rows(i))
        assert opened.rows().dtype == np.float32
        assert not opened.rows().flags.writeable


def test_append_refuses_what_does_not_fit(tmp_path):
    with open_store(tmp_path) as opened:
        opened.append("a", make_rows(1))
        for key, rows in (
            ("a", make_rows(1)),  # known
            ("b", np.zeros((2, WIDTH + 1))),
            ("b", np.zeros(WIDTH)),
        ):
            with pytest.raises(ValueError, match="do not fit"):
                opened.append(key, rows)
        np.testing.assert_array_equal(read_back(opened, "a"), make_rows(1))


def test_other_settings_are_another_store(tmp_path):
    stores = [
        open_store(tmp_path, hop=1),
        open_store(tmp_path, hop=2),
        RowStore(tmp_path, "toy", {"hop": 1}, "float16", WIDTH),
        RowStore(tmp_path, "toy", {"hop": 1}, "float32", WIDTH + 1),
        RowStore(tmp_path, "other", {"hop": 1}, "float32", WIDTH),
    ]
    assert len({opened.folder for opened in stores}) == len(stores)
    stores[0].append("a", make_rows(1))
    assert "a" not in stores[1]
    assert json.loads((stores[1].folder / "settings.json").read_text())["hop"] == 2
    # The order of the settings does not matter.
    with open_store(tmp_path, x=1, y=2) as store:
        folder = store.folder
    with open_store(tmp_path, y=2, x=1) as store:
        assert store.folder == folder


def test_a_store_that_another_process_writes_to_is_refused(tmp_path):
    with open_store(tmp_path, hop=1) as store:
        store.append("a", make_rows(1))
        with pytest.raises(UserError, match="another run is writing to"):
            open_store(tmp_path, hop=1)
    with open_store(tmp_path, hop=1) as store:
        assert "a" in store


# --- crashes -----------------------------------------------------------------------------------


def test_what_is_committed_survives_a_killed_process(tmp_path):
    pid = os.fork()
    if pid == 0:
        try:
            opened = open_store(tmp_path)
            opened.append("a", make_rows(1))
            opened.commit()
            opened.append("b", np.ones((100_000, WIDTH)))  # more than any buffer holds
            opened.append("c", make_rows(2))
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    with open_store(tmp_path) as opened:
        assert (opened.folder / "rows.bin").stat().st_size == make_rows(1).nbytes
        assert [key for key in "abc" if key in opened] == ["a"]
        opened.append("b", make_rows(7))
        np.testing.assert_array_equal(read_back(opened, "a"), make_rows(1))
        np.testing.assert_array_equal(read_back(opened, "b"), make_rows(7))


def test_long_runs_commit_as_they_go(tmp_path, monkeypatch):
    opened = open_store(tmp_path)
    opened.append("a", make_rows(1))
    assert (opened.folder / "index.jsonl").read_text() == ""
    monkeypatch.setattr(store, "COMMIT_SECONDS", -1.0)
    opened.append("b", make_rows(2))
    assert len((opened.folder / "index.jsonl").read_text().splitlines()) == 2


GARBAGE = [
    b"\n",
    b"5\n",
    b"null\n",
    b"{}\n",
    b'["x"]\n',
    b'["x", 1, 2, 3]\n',
    b'["x", 0, 1]\n',
    b'["x", null, 1]\n',
    b'["x", %d, "1"]\n',
    b'["x", %d, null]\n',
    b'["x", %d, -1]\n',
    b'["x", %d, 0.5]\n',
    b'["x", %d, 0.0]\n',
    b'[["x"], %d, 0]\n',
    b"[5, %d, 0]\n",
    b'["x", %d, false]\n',
    b"[" * 100_000 + b"\n",
    b'["x", %d, 1]\n',  # whole, but of rows that are not there
    b'["x", %d, 0]',  # whole, but not ended
    b"\x00" * 50,
    b"\xff\xfe garbage",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_behind_the_index_is_cut_off(tmp_path, garbage):
    expected = make_store(tmp_path, 5)
    n_rows = sum(len(rows) for rows in expected.values())
    garbage = garbage.replace(b"%d", str(n_rows).encode())
    with open_store(tmp_path) as opened:
        index = opened.folder / "index.jsonl"
    whole = index.read_bytes()
    index.write_bytes(whole + garbage)
    with open_store(tmp_path) as opened:
        assert "x" not in opened
        for key, rows in expected.items():
            np.testing.assert_array_equal(read_back(opened, key), rows)
    assert index.read_bytes() == whole


@pytest.mark.parametrize("seed", range(60))
def test_nothing_wrong_is_ever_served(tmp_path, seed):
    """Cut the files anywhere, or lengthen them: what is whole is there, and all else is not."""
    rng = np.random.default_rng(seed)
    expected = make_store(tmp_path, 12)
    with open_store(tmp_path) as opened:
        rows_file, index_file = opened.folder / "rows.bin", opened.folder / "index.jsonl"
    row_bytes, lines = WIDTH * 4, index_file.read_bytes().splitlines(keepends=True)
    n_rows, n_lines = rows_file.stat().st_size // row_bytes, len(lines)

    if rng.random() < 0.5:
        size = int(rng.integers(0, rows_file.stat().st_size))
        rows_file.write_bytes(rows_file.read_bytes()[:size])
        n_rows = size // row_bytes
    elif rng.random() < 0.5:
        rows_file.write_bytes(rows_file.read_bytes() + rng.bytes(int(rng.integers(1, 99))))
    if rng.random() < 0.5:
        size = int(rng.integers(0, index_file.stat().st_size))
        index_file.write_bytes(index_file.read_bytes()[:size])
        n_lines = index_file.read_bytes().count(b"\n")
    elif rng.random() < 0.5:
        index_file.write_bytes(index_file.read_bytes() + rng.bytes(int(rng.integers(1, 99))))

    whole, end = [], 0
    for key in list(expected)[:n_lines]:
        end += len(expected[key])
        if end > n_rows:
            break
        whole.append(key)
    for _ in range(2):  # mended by the first opening, as it is for the second
        with open_store(tmp_path) as opened:
            assert [key for key in expected if key in opened] == whole
            for key in whole:
                np.testing.assert_array_equal(read_back(opened, key), expected[key])

    with open_store(tmp_path) as opened:  # and it can be filled again
        for key, rows in expected.items():
            if key not in opened:
                opened.append(key, rows)
    with open_store(tmp_path) as opened:
        for key, rows in expected.items():
            np.testing.assert_array_equal(read_back(opened, key), rows)


# --- fill --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("songs")
    files = {f"key {i}": folder / f"{i}, (it's).flac" for i in range(5)}
    for i, file in enumerate(files.values()):
        write_song(file, next(iter(ARTISTS)), seed=i, seconds=0.3 + 0.1 * i)
    return files


def head(file: Path) -> np.ndarray:
    """Treat a song, in a worker."""
    return audio.load(file)[: 4 * WIDTH].reshape(-1, WIDTH)


def stored(parent: Path, files: dict[str, Path], in_main, **options: object):
    options = {"workers": 1, "label": "toy", **options}
    return store.stored_rows(
        parent, "toy", **KIND, files=files, in_worker=head, in_main=in_main, **options
    )


def test_a_long_song_that_is_read_twice_has_its_notes_once(tmp_path, monkeypatch, recwarn):
    """The worker has said it: where this process decodes the song again, nothing is said."""
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 0)
    file = tmp_path / "silence.wav"
    soundfile.write(file, np.zeros(44_100), 44_100)

    def in_main(_keys: list[str], songs: list[audio.LongSong]) -> list[np.ndarray]:
        return [song[: len(song)][: 4 * WIDTH].reshape(-1, WIDTH) for song in songs]

    options = {"in_worker": audio.open_song, "in_main": in_main, "workers": 1, "label": "toy"}
    store.stored_rows(tmp_path, "toy", **KIND, files={"key": file}, **options)
    assert not [warning for warning in recwarn if warning.category is audio.AudioNote]


def fill(parent: Path, files: dict[str, Path], **options: object) -> list[str]:
    """Fill a store, check what is in it, and return the keys that were computed."""
    computed = []

    def in_main(keys: list[str], rows: list[np.ndarray]) -> list[np.ndarray]:
        computed.extend(keys)
        return rows

    rows, index = stored(parent, files, in_main, **options)
    assert not rows.flags.writeable
    for key, file in files.items():
        first, n_rows = index[key]
        np.testing.assert_array_equal(rows[first : first + n_rows], head(file))
    return computed


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_missing_alone_is_computed(tmp_path, songs, workers):
    keys = list(songs)
    first = {key: songs[key] for key in keys[1:3]}
    assert fill(tmp_path, first, workers=workers) == keys[1:3]
    assert fill(tmp_path, songs, workers=workers) == [keys[0], *keys[3:]]
    assert fill(tmp_path, songs, workers=workers) == []


def test_songs_are_given_a_few_at_a_time(tmp_path, songs):
    groups = []

    def in_main(keys: list[str], rows: list[np.ndarray]) -> list[np.ndarray]:
        groups.append(keys)
        return rows

    stored(tmp_path, songs, in_main, workers=2, songs_at_a_time=2)
    assert groups == [["key 0", "key 1"], ["key 2", "key 3"], ["key 4"]]


@pytest.mark.parametrize("n_stored", range(5))
def test_songs_are_given_together_whatever_a_stopped_run_has_stored(tmp_path, songs, n_stored):
    def batch(keys: list[str], rows: list[np.ndarray]) -> list[np.ndarray]:
        """Give, as a network's last digits do, what depends on the whole batch."""
        return [one + sum(each.sum() for each in rows) for one in rows]

    whole, whole_index = stored(tmp_path / "whole", songs, batch, songs_at_a_time=2)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (index_file,) = tmp_path.glob("stopped/*/index.jsonl")
    index_file.write_bytes(b"".join(index_file.read_bytes().splitlines(True)[:n_stored]))
    rows, index = stored(tmp_path / "stopped", songs, batch, songs_at_a_time=2)
    assert index == whole_index
    np.testing.assert_array_equal(rows, whole)


@pytest.mark.parametrize("songs_at_a_time", [1, 3])
def test_all_unreadable_songs_are_named_after_the_others(tmp_path, songs, songs_at_a_time):
    copy = dict(songs)
    for key in ("key 0", "key 3"):
        copy[key] = tmp_path / f"bad {key}.flac"
        copy[key].write_text("no music")
    copy["key 4"] = tmp_path / "nowhere.flac"
    with pytest.raises(UserError, match=r"^3 songs cannot be read") as caught:
        fill(tmp_path, copy, songs_at_a_time=songs_at_a_time)
    _, *lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("bad key 0.flac", "bad key 3.flac", "nowhere.flac"), strict=True):
        assert line.startswith(str(tmp_path / name))
    # Mended songs are computed, the others are not computed again.
    assert fill(tmp_path, songs) == ["key 0", "key 3", "key 4"]


def test_unreadable_songs_may_be_left_out(tmp_path, songs):
    bad = tmp_path / "bad.flac"
    bad.write_text("no music")
    problems = {}
    _, index = stored(tmp_path, {**songs, "bad": bad}, lambda _, rows: rows, unreadable=problems)
    assert list(problems) == ["bad"]
    assert problems == {"bad": "holds no audio"}
    assert index.keys() == songs.keys()


def test_one_unreadable_song_is_one_song(tmp_path, songs):
    bad = tmp_path / "bad.wav"
    shutil.copyfile(__file__, bad)
    with pytest.raises(UserError, match=r"^1 song cannot"):
        fill(tmp_path, {**songs, "bad": bad})


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_keeps_what_is_finished(tmp_path, songs, error):
    def in_main(keys: list[str], rows: list[np.ndarray]) -> list[np.ndarray]:
        if keys == ["key 3"]:
            raise error
        return rows

    with pytest.raises(error):
        stored(tmp_path, songs, in_main, workers=2)
    assert fill(tmp_path, songs) == ["key 3", "key 4"]


def large(file: Path) -> np.ndarray:
    """Say which process treats a song, and return more than a pipe holds."""
    (file.parent / f"{os.getpid()}.worker").touch()
    return np.zeros(1_000_000)


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
            next(iter(store.map_songs([tmp_path / "song"] * 3, large, workers=2, label="toy")))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(started) == 2
    assert not any(process.is_alive() for process in started)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    files = [tmp_path / "song"] * 20
    pid = os.fork()
    if pid == 0:
        try:
            results = iter(store.map_songs(files, large, workers=2, label="toy"))
            next(results)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)
    workers = [Path("/proc", file.stem) for file in tmp_path.glob("*.worker")]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_processes_of_a_stopped_run_computed_is_used(tmp_path, songs):
    fill(tmp_path, {"key 0": songs["key 0"]})
    (folder,) = tmp_path.iterdir()
    for rank, keys in enumerate((["key 1", "key 0"], ["key 3"])):
        with RowStore(folder / store.PARTS, str(rank), *KIND.values()) as part:
            for key in keys:
                part.append(key, head(songs[key]))
    assert fill(tmp_path, songs) == ["key 2", "key 4"]
    assert not list((folder / store.PARTS).iterdir())
