"""What surrounds a run: full disks, other runs, signals, workers, homes, memory, imports."""

import ast
import getpass
import graphlib
import multiprocessing
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import librosa
import numba.core.caching
import numpy as np
import platformdirs
import pytest
import torch
from conftest import assert_one_line, toy_model, toy_settings
from sklearn.preprocessing import StandardScaler

from artist20 import UserError, audio, cache, classical, collection, runtime
from artist20.checkpoints import save_model
from artist20.files import (
    DiskFullError,
    atomic_path,
    only_writer,
    write_array,
    write_json,
    write_rows,
)

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT = 20_000  # bytes that a file may have
NOISE = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)


def shell(code, **more):
    """Run Python code with ``runtime``, as a script would."""
    command = [sys.executable, "-c", f"from artist20 import runtime\n{code}"]
    return subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, timeout=60, **more)


def status_of(main, *options):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as end:
            runtime.run(main, *options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return end.value.code


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


# --- imports -----------------------------------------------------------------------------------

# From the ground up, see DESIGN; rooms that are not named here stand above.
FLOORS = [
    {"packages", "files", "naming", "results", "checkpoints", "runtime", "cli", "distributed"},
    {"audio", "dataset", "cache", "collection", "fetch", "vocals"},
    {"evaluation"},  # which knows numbers alone
    {"features", "modulation", "spectrogram", "augment"},
    {"models", "encoders", "linear", "classical"},
]


def imports():
    """Return by module of the package which others it imports."""
    found = {}
    for file in (REPOSITORY / "artist20").rglob("*.py"):
        found[".".join(file.relative_to(REPOSITORY).with_suffix("").parts)] = names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return {module: names & found.keys() for module, names in found.items()}


def test_imports_point_down_and_not_in_circles():
    list(graphlib.TopologicalSorter(imports()).static_order())  # raises CycleError

    def floor(module):
        room = module.split(".")[1]
        return next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))

    up = [
        f"{module} -> {name}"
        for module, names in imports().items()
        for name in names
        if name != "artist20" and floor(name) > floor(module)
    ]
    assert up == []


def test_importing_the_package_changes_nothing():
    """But for what scikit-learn's OpenMP asks for; also where a shell names a missing backend."""
    code = """
import importlib, os, signal, sys, warnings
import sklearn
os.environ["MPLBACKEND"] = "module://not_installed"
def state():
    hooks = sys.excepthook, sys.unraisablehook, sys.stdout, sys.stderr, warnings.formatwarning
    return dict(os.environ), hooks, [signal.getsignal(n) for n in signal.valid_signals()]
"""
    code += f"modules = {[module for module in imports() if not module.endswith('__main__')]}\n"
    code += "before = state()\nfor module in modules: importlib.import_module(module)\n"
    code += "assert state() == before, (before, state())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1"])  # which is nobody's
def test_no_test_reaches_a_network(host):
    """Every stage runs within this process in some test, where that would be an error."""
    with pytest.raises(AssertionError, match="no need of a network"):
        socket.create_connection((host, 80), timeout=1)


PROGRAMS = sorted(
    [path.name for path in REPOSITORY.glob("task*.py")]
    + [
        f"artist20/{path.relative_to(REPOSITORY / 'artist20')}"
        for path in (REPOSITORY / "artist20").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_missing_packages_are_one_line_and_help_goes_without(program):
    module = program.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    run = ["-m", module] if program.startswith("artist20/") else [str(REPOSITORY / program)]
    bare = [sys.executable, "-S", "-B", *run]  # -S: without what pip has installed
    options = {"cwd": REPOSITORY, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(bare, **options)
    assert done.returncode == 2 and done.stdout == ""
    assert_one_line(done.stderr)
    for said in (sys.executable, "make setup", "pip install -r requirements.txt", str(REPOSITORY)):
        assert said in done.stderr
    done = subprocess.run([*bare, "--help"], **options)
    assert done.returncode == 0 and done.stderr == ""
    docstring = ast.get_docstring(ast.parse((REPOSITORY / program).read_text(encoding="utf-8")))
    assert docstring.splitlines()[0] in done.stdout and "Its options" in done.stdout


def test_ctrl_c_while_packages_are_imported_is_one_line(tmp_path):
    (tmp_path / "numpy.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "task1_train.py"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "stopped before it began\n")


def test_a_package_that_is_missed_later_is_one_line(capsys):
    def main():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert status_of(main) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "has no package torch" in error


# --- full disks --------------------------------------------------------------------------------


@pytest.fixture
def full_disk():
    """Let no file grow beyond LIMIT; give back what ends that."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def make_space(limit=most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))

    make_space(LIMIT)
    yield make_space
    make_space()


WRITERS = {
    "a.json": lambda path: write_json(path, NOISE.tolist()),
    "a.npy": lambda path: write_array(path, NOISE),
    "rows.npy": lambda path: write_rows(path, iter(NOISE[:, None])),
    "a.pt": lambda path: save_model(
        path, toy_model(toy_settings("resnet"), {"model": torch.from_numpy(NOISE)}, ["a", "b"])
    ),
    "a.skops": lambda path: classical.write_sklearn(path, StandardScaler().fit(np.tile(NOISE, 50))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path, full_disk, name):
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(DiskFullError, match="MB are free there: make space") as caught:
        WRITERS[name](path)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    full_disk()
    WRITERS[name](path)
    assert path.stat().st_size > LIMIT


def test_a_full_disk_ends_a_script_with_one_line(tmp_path, full_disk, capsys):
    assert status_of(lambda: write_array(tmp_path / "X.npy", NOISE), "the same goes on") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'X.npy'} cannot be written: File too large; ")
    assert error.endswith("make space; the same goes on\n")
    assert not list(tmp_path.iterdir())


def test_a_copied_data_set_on_a_full_disk_names_its_own_file(tmp_path, full_disk, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    full_disk()
    (tmp_path / "music.mp3").write_bytes(bytes(2 * LIMIT))
    full_disk(LIMIT)
    with pytest.raises(DiskFullError, match=r"copy\.mp3 cannot be written"):
        collection._link(tmp_path / "music.mp3", tmp_path / "copy.mp3")


def test_a_lock_that_there_is_no_space_for_is_told(tmp_path, full_disk):
    full_disk(0)
    with pytest.raises(DiskFullError, match=r"\.lock cannot be written"), only_writer(tmp_path):
        pass
    full_disk()  # before pytest writes that this has passed


# --- other runs --------------------------------------------------------------------------------


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


def test_the_second_run_is_told_of_the_first_and_a_killed_one_holds_nothing(tmp_path):
    holding = tmp_path / "holding"

    def hold():
        with only_writer(tmp_path):
            holding.touch()
            time.sleep(60)

    pid = in_a_fork(hold)
    wait_for(holding.exists)
    told = pytest.raises(UserError, match=f"another run is writing to .*process {pid} on ")
    with told, only_writer(tmp_path):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with only_writer(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()


# --- signals and workers -----------------------------------------------------------------------


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


STOPPED = b"stopped; run the same command again to go on\n"


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stop_in_a_destructor_is_not_lost(name, status):
    code = f"""
import signal, time
class Caught:
    def __del__(self):
        signal.raise_signal(signal.{name})
def main():
    Caught()
    time.sleep(60)
runtime.run(main)"""
    done = shell(code)
    assert (done.returncode, done.stderr) == (status, STOPPED)


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
    assert (done.returncode, done.stderr) == (130, STOPPED)


def test_an_error_of_our_own_leaves_no_worker_that_is_waited_for(tmp_path, capsys):
    files = [tmp_path / f"{i}.mp3" for i in range(20)]

    def treat(file):
        return 1 / int(file.stem)

    def main():
        for _ in cache.map_songs(files, treat, workers=1, label="songs"):
            time.sleep(0.01)

    of_other_tests = set(multiprocessing.active_children())
    assert status_of(main) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    wait_for(lambda: not set(multiprocessing.active_children()) - of_other_tests)


def started_by(method, tmp_path):
    """Environment of a Python whose worker processes start so: 3.14 has another way than before."""
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
def test_songs_are_decoded_however_workers_are_started(method, tmp_path):
    """And their notes are one line."""
    audio.write_blocks(tmp_path / "silent.wav", [np.zeros(16_000, np.float32)])
    code = f"""
from pathlib import Path
from artist20 import audio, cache
if __name__ == "__main__":
    def main():
        songs = [Path("{tmp_path}/silent.wav")]
        print(*map(len, cache.map_songs(songs, audio.open_song, workers=1, label="songs")))
    runtime.run(main)"""
    done = shell(code, stdout=subprocess.PIPE, env=started_by(method, tmp_path))
    assert (done.returncode, done.stdout) == (0, b"16000\n"), done.stderr
    assert f"note: {tmp_path}/silent.wav is silent throughout\n" in done.stderr.decode()
    assert b"Warning" not in done.stderr


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "Read-only file system"), ("size=4k", "No space left on device")]
)
def test_shared_memory_that_workers_cannot_use_is_one_line(tiny_data, options, reason):
    """Their locks lie there; songs and features don't, so that a few kilobytes are enough."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    fill = "head -c 8k /dev/zero > /dev/shm/full 2> /dev/null"
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm; {fill}; exec "$@"'
    command = [sys.executable, "-m", "artist20.collection", "check", tiny_data]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    line = f"error: /dev/shm: {reason}: worker processes need a few kilobytes there, so mount it"
    assert (done.returncode, done.stderr.splitlines()[-1][: len(line)]) == (2, line)
    assert "Traceback" not in done.stderr


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
    place = Path(platformdirs.user_cache_dir("librosa")).parent
    assert place.is_dir()
    assert os.environ["MPLCONFIGDIR"] == str(place)
    of_numba = numba.core.caching.UserWideCacheLocator.from_function(nobody, librosa.__file__)
    assert Path(of_numba.get_cache_path()).is_relative_to(place)
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


# --- stdout and memory -------------------------------------------------------------------------


def test_a_full_stdout_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = shell("runtime.run(lambda: print('table'))", stdout=full)
    line = b"error: stdout or a log cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_names_are_printed_whatever_the_encoding(environment):
    code = r"runtime.run(lambda: print('Bj\u00f6rk \u2013 \u266b \udcff'))"
    done = shell(code, stdout=subprocess.PIPE, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"Bj")
    assert done.stdout.endswith(b"\\udcff\n")


TORCH = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 2 GiB"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a.json is missing"), "a.json is missing"),
        (PermissionError(13, "Permission denied", "a.json"), "a.json: Permission denied"),
        (MemoryError(), runtime.NO_MEMORY),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            runtime.NO_MEMORY,
        ),
        (
            torch.OutOfMemoryError(TORCH),
            "CUDA out of memory: tried to allocate 2.50 GiB; try --device cpu",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, said, capsys):
    def main():
        raise error

    assert status_of(main) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_float32_is_float32_on_a_gpu_too(monkeypatch):
    """With TF32 levels in dB would be wrong by 20 dB in Cnn14's highest bands, and more."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    runtime.choose_device("cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_what_feeds_a_gpu_leaves_the_cores_to_workers(monkeypatch):
    """Threads that spin between copies take cores from the workers that decode."""
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "device_name", str)
    runtime.choose_device("cpu")
    assert used == []
    assert runtime.choose_device("auto").type == "cuda"
    assert used == [1]


@pytest.mark.parametrize("error", [RuntimeError("ours"), OSError(22, "Invalid argument")])
def test_an_error_of_our_own_has_a_traceback(error, capsys):
    def main():
        raise error

    assert status_of(main) == 1
    assert capsys.readouterr().err.startswith("Traceback")
