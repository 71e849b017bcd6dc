"""What surrounds a run: full disks, other runs, other encodings, memory that is short."""

import getpass
import json
import multiprocessing
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import librosa
import numba.core.caching
import numpy as np
import platformdirs
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.preprocessing import StandardScaler

from artist20 import (
    UserError,
    audio,
    collection,
    dataset,
    evaluation,
    figures,
    results,
    runtime,
    store,
    training,
)
from artist20.files import (
    DiskFullError,
    atomic_path,
    only_writer,
    read_array,
    write_array,
    write_checkpoint,
    write_json,
    write_sklearn,
)
from artist20.models import ArtistResNet, EmbeddingMLP
from artist20.store import RowStore

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 20_000  # bytes that a file may have
NOISE = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)


@pytest.fixture
def full_disk():
    """Let no file grow beyond LIMIT; give back what ends that."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, most))
    yield make_space
    make_space()


# --- full disks --------------------------------------------------------------------------------


def save_figure(path):
    figure = Figure()
    figure.subplots().imshow(NOISE)
    figures.save(figure, path, "A caption.")


def write_units(path):
    song = dataset.Song("./train_val/a/b/c.mp3", "a", "b", Path("c.mp3"))
    results.write_features(path.parent, "train", np.zeros((1, 2)), [NOISE], [song.record()])


WRITERS = {
    "a.json": lambda path: write_json(path, NOISE.tolist()),
    "a.npy": lambda path: write_array(path, NOISE),
    "units_train.npy": write_units,
    "a.pt": lambda path: write_checkpoint(path, {"model": torch.from_numpy(NOISE)}),
    "a.skops": lambda path: write_sklearn(path, StandardScaler().fit(np.tile(NOISE, 50))),
    "a.mp3": lambda path: audio.write(path, np.tile(NOISE.ravel() / 9, 20)),
    "a.wav": lambda path: audio.write(path, NOISE.ravel() / 9),
    "a.png": save_figure,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, full_disk, name):
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(DiskFullError, match="MB are free there: make space") as caught:
        WRITERS[name](path)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert not [file for file in tmp_path.iterdir() if ".tmp" in file.name]
    full_disk()
    WRITERS[name](path)
    assert path.stat().st_size > LIMIT


def test_a_store_on_a_full_disk_keeps_what_it_has(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(store, "COMMIT_SECONDS", 0.0)
    kind = (tmp_path, "toy", {}, "float32", 100)
    with (
        pytest.raises(DiskFullError, match=r"rows\.bin cannot be written"),
        RowStore(*kind) as rows,
    ):
        for i in range(200):
            rows.append(str(i), NOISE[i : i + 1])
    full_disk()
    with RowStore(*kind) as rows:
        n_kept = len(rows.index())
        assert n_kept == LIMIT // (4 * 100)
        for i in range(n_kept, 200):
            rows.append(str(i), NOISE[i : i + 1])
        assert np.array_equal(rows.rows(), NOISE)


def test_a_full_disk_ends_a_script_with_one_line(tmp_path, full_disk, monkeypatch, capsys):
    def main():
        write_array(tmp_path / "X.npy", NOISE)

    assert status_of(main, "the same command goes on") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'X.npy'} cannot be written: File too large; ")
    assert error.endswith("make space; the same command goes on\n")
    assert not list(tmp_path.iterdir())


def test_a_copied_data_set_on_a_full_disk_names_its_own_file(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    full_disk()
    source = tmp_path / "music.mp3"
    source.write_bytes(bytes(2 * LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    with pytest.raises(DiskFullError, match=r"copy\.mp3 cannot be written"):
        collection._link(source, tmp_path / "copy.mp3")


# --- other runs --------------------------------------------------------------------------------


def in_a_fork(work):
    """Call a function in another process, which ends with it; return that process's number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    path = tmp_path / "a.json"

    def killed():
        with atomic_path(path) as temporary:
            temporary.write_text("half, and longer than what follows")
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_a_fork(killed), 0)
    assert len(list(tmp_path.iterdir())) == 1
    write_json(path, 1)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "1\n"


def test_writers_of_one_file_take_turns(tmp_path):
    path = tmp_path / "a.txt"

    def write(text):
        for _ in range(50):
            with atomic_path(path) as temporary:
                for _ in range(3):
                    with temporary.open("a") as file:
                        file.write(text)
                assert temporary.read_text() == 3 * text
        (tmp_path / f"{text}.done").touch()

    for pid in [in_a_fork(lambda text=text: write(text)) for text in "abc"]:
        os.waitpid(pid, 0)
    assert path.read_text() in ("aaa", "bbb", "ccc")
    assert {file.name for file in tmp_path.iterdir()} == {"a.txt", "a.done", "b.done", "c.done"}


def test_a_lock_that_there_is_no_space_for_is_told(tmp_path):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    try:
        with (
            pytest.raises(DiskFullError, match=r"\.lock cannot be written"),
            only_writer(tmp_path),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_the_second_run_is_told_of_the_first_and_a_killed_one_holds_nothing(tmp_path):
    holding = tmp_path / "holding"

    def hold():
        with only_writer(tmp_path):
            holding.touch()
            time.sleep(60)

    pid = in_a_fork(hold)
    wait_for(holding.exists)
    with (
        pytest.raises(UserError, match=f"another run is writing to .*process {pid} on "),
        only_writer(tmp_path),
    ):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with only_writer(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()


def test_no_worker_of_a_killed_check_is_left(tiny_copy, tmp_path):
    """Its workers wait for songs at a pipe of which each holds both ends."""
    song = next((tiny_copy / "train_val").rglob("*.mp3"))
    worker = tmp_path / "worker"

    def slow(file):
        worker.write_text(str(os.getpid()))
        time.sleep(0.2)
        return iter(())

    def check():
        audio.read_blocks = slow
        collection.check(tiny_copy)

    assert song.is_file()
    pid = in_a_fork(check)
    wait_for(lambda: worker.is_file() and worker.read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: not Path("/proc", worker.read_text()).exists())


def test_an_error_of_our_own_leaves_no_worker_that_is_waited_for(tmp_path, capsys):
    files = [tmp_path / f"{i}.mp3" for i in range(20)]

    def treat(file):
        return 1 / int(file.stem)

    def main():
        for _ in store.map_songs(files, treat, workers=1, label="songs"):
            time.sleep(0.01)

    of_other_tests = set(multiprocessing.active_children())
    assert status_of(main) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    wait_for(lambda: not set(multiprocessing.active_children()) - of_other_tests)


# --- start methods of worker processes: Python 3.14 has another one than those before it ---------


def started_by(method, tmp_path):
    """Environment of a Python whose worker processes start so."""
    code = f"import multiprocessing; multiprocessing.set_start_method({method!r})"
    (tmp_path / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_leave_stops_to_their_parent_and_end_with_it(method, tmp_path):
    code = """
import multiprocessing, os, signal, time
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(2, initializer=runtime.start_worker)
with runtime.signals_held():
    jobs = [pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []) for _ in range(9)]
print(all(job.result() == {signal.SIGINT, signal.SIGTERM} for job in jobs))
for _ in range(2):
    pool.submit(time.sleep, 100)
time.sleep(1.5)  # in which a worker must not take another process for its parent
print(*(worker.pid for worker in multiprocessing.active_children()))
os.kill(os.getpid(), signal.SIGKILL)"""
    done = shell(code, stdout=subprocess.PIPE, env=started_by(method, tmp_path))
    assert done.returncode == -signal.SIGKILL, done.stderr
    blocked, workers = done.stdout.decode().splitlines()
    assert blocked == "True"
    assert len(workers.split()) == 2
    wait_for(lambda: not any(Path("/proc", pid).exists() for pid in workers.split()))


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.long)])
def test_stages_decode_however_their_workers_are_started(method, tiny_copy, tmp_path):
    """And notes are one line."""
    first = json.loads((tiny_copy / "train.json").read_text())[0]
    silent = (tiny_copy / first).resolve()
    audio.write(silent, np.zeros(16_000, np.float32))
    for command, note in (
        (f"-m artist20.collection check {tiny_copy}", f"note: {silent.relative_to(tiny_copy)} "),
        (
            f"task1_preprocessing.py --data-dir {tiny_copy} --results-dir {tmp_path} --device cpu "
            "--limit 2 --workers 1",
            f"note: {silent} ",
        ),
    ):
        done = subprocess.run(
            [sys.executable, *command.split()],
            cwd=REPOSITORY,
            env=started_by(method, tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert f"{note}is silent throughout\n" in done.stdout + done.stderr
        assert "Warning" not in done.stderr


# --- shared memory -----------------------------------------------------------------------------

USERS_OF_WORKERS = """
import sys
from pathlib import Path
from artist20 import UserError, collection, demo, store
data_dir = Path(sys.argv[1])
files = list(data_dir.rglob("*.mp3"))
def main():
    for use in (
        lambda: demo.build(data_dir / "demo", artists=2, albums=3, songs=1, seconds=1, workers=2),
        lambda: list(store.map_songs(files, len, workers=2, label="songs")),
        lambda: collection.check(data_dir),
    ):
        try:
            use()
        except UserError as error:
            print(error)
    print(list(store.map_songs([], len, workers=2, label="none")))
    use()
runtime.run(main)"""


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "Read-only file system"), ("size=4k", "No space left on device")]
)
def test_shared_memory_that_workers_cannot_use_is_one_line(tiny_copy, options, reason):
    """Their locks lie there; songs and features don't, so that a few kilobytes are enough."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    fill = "head -c 8k /dev/zero > /dev/shm/full 2> /dev/null"
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm; {fill}; exec "$@"'
    code = f"from artist20 import runtime\n{USERS_OF_WORKERS}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", code, tiny_copy],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    line = f"/dev/shm: {reason}: worker processes need a few kilobytes there"
    assert [text[: len(line)] for text in done.stdout.splitlines()] == [line, line, line, "[]"]
    assert done.stderr.splitlines()[-1].startswith(f"error: {line}")
    assert "Traceback" not in done.stderr


# --- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1"])  # which is nobody's
def test_no_test_reaches_a_network(host):
    """Every stage runs within this process in some test, where that would be an error."""
    with pytest.raises(AssertionError, match="no need of a network"):
        socket.create_connection((host, 80), timeout=1)


# --- home folders ------------------------------------------------------------------------------


def nobody(_uid):
    raise KeyError("a container's user")


@pytest.mark.parametrize("home", ["none", "missing", "no folder", "cache of another user"])
def test_caches_have_a_place_without_a_home(tmp_path, monkeypatch, capsys, home):
    (tmp_path / "file").touch()
    (tmp_path / ".cache").symlink_to("/proc")
    folders = {"missing": "nobody", "no folder": "file/nobody", "cache of another user": "."}
    for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    if home in folders:
        monkeypatch.setenv("HOME", str(tmp_path / folders[home]))
    monkeypatch.setattr(pwd, "getpwuid", nobody)

    runtime.ensure_caches()

    assert getpass.getuser() == str(os.getuid())
    cache = Path(platformdirs.user_cache_dir("librosa"))
    assert cache.parent.is_dir()
    assert os.environ["MPLCONFIGDIR"] == str(cache.parent)
    of_numba = numba.core.caching.UserWideCacheLocator.from_function(nobody, librosa.__file__)
    assert Path(of_numba.get_cache_path()).is_relative_to(cache.parent)
    assert "cannot be written: libraries make their caches anew" in capsys.readouterr().err
    assert not (tmp_path / "nobody").exists()


def test_a_home_that_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    runtime.ensure_caches()
    assert dict(os.environ) == before
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_workers_that_are_left_do_not_hold_up_the_end():
    """They do not heed what Python ends them with."""
    code = """
import multiprocessing, signal, time
def work():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    time.sleep(100)
def main():
    global worker
    worker.start()
    ready.wait()
    raise KeyboardInterrupt
context = multiprocessing.get_context("fork")
ready, worker = context.Event(), context.Process(target=work, daemon=True)
runtime.run(main)"""
    done = shell(code)
    assert (done.returncode, done.stderr) == (
        130,
        b"stopped; run the same command again to go on\n",
    )


def test_a_stop_is_held_and_does_not_reach_new_programs(capfd):
    code = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), runtime.signals_held():
            signal.raise_signal(signal.SIGINT)
            subprocess.run([sys.executable, "-Sc", code], check=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().out == "2\n"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_stop_in_a_destructor_is_not_lost():
    code = """
import signal, time
class Caught:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
def main():
    Caught()
    time.sleep(60)
runtime.run(main)"""
    done = shell(code)
    assert done.returncode == 143
    assert done.stderr == b"stopped; run the same command again to go on\n"


def test_importing_the_package_changes_nothing():
    code = "import os, sys, warnings; before = dict(os.environ), sys.excepthook, sys.stdout, "
    code += "warnings.formatwarning\nimport artist20, artist20.results\n"
    code += (
        "assert before == (dict(os.environ), sys.excepthook, sys.stdout, warnings.formatwarning)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


# --- stdout ------------------------------------------------------------------------------------


def shell(code, **more):
    """Run Python code with ``cli``, as a script would."""
    command = [sys.executable, "-c", f"from artist20 import runtime\n{code}"]
    return subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, timeout=60, **more)


def test_a_full_stdout_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = shell("runtime.run(lambda: print('table'))", stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"error: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"LC_ALL": "C", "HOME": ""}]
)
def test_names_are_printed_whatever_the_encoding(environment):
    code = r"runtime.run(lambda: print('Bj\u00f6rk \u2013 \u266b \udcff'))"
    done = shell(code, stdout=subprocess.PIPE, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"Bj")
    assert done.stdout.endswith(b"\\udcff\n")


# --- memory ------------------------------------------------------------------------------------


def status_of(main, *options):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as end:
            runtime.run(main, *options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return end.value.code


TORCH = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 2 GiB"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError(TORCH),
            "CUDA out of memory: tried to allocate 2.50 GiB; try --device cpu",
        ),
        (MemoryError(), "not enough memory: try fewer --workers"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B"),
            "not enough memory: try fewer --workers",
        ),
    ],
)
def test_short_memory_is_one_line(error, said, capsys):
    def main():
        raise error

    assert status_of(main) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(("size", "advice"), [(32, "--batch-size 16"), (1, "--crop-seconds")])
def test_short_memory_in_training_names_the_batch_size_to_try(tmp_path, size, advice):
    model = torch.nn.Linear(1, 2)
    optimizer = torch.optim.SGD(model.parameters())

    def batches(_epoch):
        raise torch.OutOfMemoryError(TORCH)

    with pytest.raises(UserError, match=f"allocate 2.50 GiB in batches of {size}: .*{advice}"):
        training.fit(
            model,
            optimizer,
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1),
            batches,
            lambda: np.full((1, 2), 0.5),
            np.array([0]),
            epochs=1,
            steps_per_epoch=1,
            label_smoothing=0.0,
            seed=0,
            precision=torch.float32,
            folder=tmp_path,
            identity={"kind": "toy", "classes": [], "config": {"batch_size": size}},
        )


# --- size --------------------------------------------------------------------------------------


def test_two_thousand_artists(tmp_path):
    """Heads, ranking and files of more artists than anybody has asked for yet."""
    classes = [f"artist {i:04}" for i in range(2000)]
    resnet, mlp = ArtistResNet(len(classes), 64), EmbeddingMLP(len(classes))
    logits = training.predict(resnet, torch.zeros(2, 64, 64), torch.float32)
    assert logits.shape == (2, 2000)
    scores = training.predict(mlp, torch.randn(3, 2048), torch.float32)
    songs = [{"path": f"{i}.mp3", "artist": classes[-1 - i], "album": "a"} for i in range(3)]
    path = tmp_path / "val_predictions.json"
    results.write_predictions(path, results.Predictions(classes, songs, {"mlp": scores}))
    back = results.read_predictions(path, "this test")
    assert back.labels.tolist() == [1999, 1998, 1997]
    assert np.array_equal(evaluation.top_k(back.scores["mlp"], 3), evaluation.top_k(scores, 3))


def test_features_are_never_all_in_memory(tmp_path):
    n_songs, n_features = 2000, 1000
    song = dataset.Song("./train_val/a/b/c.mp3", "a", "b", Path("c.mp3"))
    X = (np.full(n_features, i, np.float32) for i in range(n_songs))
    tracemalloc.start()
    units, records = [np.zeros((1, 2))] * n_songs, [song.record()] * n_songs
    results.write_features(tmp_path, "val", X, units, records)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    written = read_array(tmp_path / "X_val.npy", "this test", mmap_mode="r")
    assert written[:, 0].tolist() == list(range(n_songs))
    assert most < written.nbytes / 2
