"""Stages are killed or find the disk full: the same command again ends as if nothing had been.

Command lines are run, and files are looked at. What an interrupted run and the next one leave must
be what an uninterrupted run leaves, no file more or less, and equal but for seconds, commands and
skops's own identifiers. Exit statuses must be the README's, nothing may be said in tracebacks, and
no process may be left.

In every run of the suite this is the demo, killed at one moment. ``-m long`` takes every stage of a
small study at random moments: ARTIST20_KILLS of each signal (default 1), ARTIST20_KILL_SEED picks
others.
"""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
import torch

from artist20 import classical
from artist20.demo.folder import Settings, build

REPOSITORY = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
# By a signal: caught, or when all is done. (Zero: it came too late.)
STATUS = {signal.SIGINT: (130, -2), signal.SIGTERM: (143, -15), signal.SIGKILL: (-9,)}
VOLATILE = {"seconds", "epochs_seconds", "command"}  # of a run, and not of its result
PATIENCE = 300  # seconds that a run may take
N_KILLS = int(os.environ.get("ARTIST20_KILLS", "1"))
SEED = int(os.environ.get("ARTIST20_KILL_SEED", "0"))

COMPUTE = ["--data-dir", "data", "--device", "cpu", "--workers", "2"]
TRAIN = [*COMPUTE, "--epochs", "4", "--crop-seconds", "2", "--batch-size", "4"]
UNTRAINED = ["--encoder-weights", "untrained", "--views", "1", "--windows", "1"]


# Grids of one setting of every model, in place of a script's own.
SMALL_SEARCH = """
import runpy, sys
from artist20 import classical
for grids in classical.GRIDS.values():
    for name, grid in grids.items():
        grids[name] = [{key: values[:1] for key, values in grid[0].items()}]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Stage:
    """A command line, and how to go on with it."""

    program: list[str]  # what Python runs
    options: list[str]
    again: list[str] = field(default_factory=list)  # options to go on with
    again_statuses: tuple[int, ...] = (0,)

    def command(self, *more: str) -> list[str]:
        """Return what to run."""
        return [sys.executable, *self.program, *self.options, *more]

    @property
    def is_torchrun(self) -> bool:
        """Whether several processes are started, by a program with exit statuses of its own."""
        return self.program[1:2] == TORCHRUN[1:2]


def script(name: str) -> list[str]:
    return [str(REPOSITORY / f"{name}.py")]


def module(name: str) -> list[str]:
    return ["-m", f"artist20.{name}"]


SIZES = ["--artists", "3", "--albums", "5", "--songs", "2", "--seconds", "3", "--workers", "2"]
DEMO = Stage(module("demo"), ["data", *SIZES])
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
RESNET, PANNS = script("task2_train_wo_pretrain"), script("task2_train")
SMALL_TASK1 = Stage(["-c", SMALL_SEARCH, *script("task1_train")], ["--workers", "1"])
STAGES = {
    "demo": DEMO,
    # A data folder that is there is not made again.
    "split": Stage(
        module("collection"),
        ["split", "data/train_val", "--output", "mine", "--test"],
        again_statuses=(0, 2),
    ),
    "demo, tiny": Stage(
        module("demo"), ["tiny", "--artists=2", "--albums=3", "--songs=1", "--seconds=2"]
    ),
    "vocals": Stage(
        module("vocals"), ["tiny", "tiny_vocals", "--weights", "untrained", "--device", "cpu"]
    ),
    "resnet": Stage(RESNET, TRAIN, ["--resume"]),
    "resnet, strong": Stage(RESNET, [*TRAIN, "--recipe", "strong"], ["--resume"]),
    "resnet, two processes": Stage(
        [*TORCHRUN, *RESNET], [*TRAIN, "--results-dir", "two"], ["--resume"]
    ),
    "resnet, inference": Stage(script("task2_inference_wo_pretrain"), COMPUTE),
    "resnet, report": Stage(script("task2_gen_report_wo_pretrain"), []),
    "panns": Stage(PANNS, [*TRAIN, *UNTRAINED], ["--resume"]),
    "panns, inference": Stage(script("task2_inference"), COMPUTE),
    "panns, report": Stage(script("task2_gen_report"), []),
    "preprocessing": Stage(script("task1_preprocessing"), COMPUTE),
    "task1": SMALL_TASK1,
    "task1, segments": replace(SMALL_TASK1, options=[*SMALL_TASK1.options, "--level", "segment"]),
    "task1, wide": replace(SMALL_TASK1, options=[*SMALL_TASK1.options, "--search", "wide"]),
    "task1, inference": Stage(module("task1_inference"), COMPUTE),
    "task1, report": Stage(script("task1_gen_report"), []),
    "ensemble": Stage(module("ensemble"), []),
    "comparison": Stage(module("comparison"), []),
    "slides": Stage(module("slides"), []),
}


# --- running -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    status: int  # or minus the signal's number
    seconds: float
    said: str  # all that it printed


def run(
    command: list[str],
    folder: Path,
    kill: tuple[Callable[[float], bool], signal.Signals, bool] | None = None,
    limit: int | None = None,
) -> Ended:
    """Run a command line in a folder, and check that it leaves no process and no traceback.

    Parameters
    ----------
    command : list of str
    folder : Path
    kill : (callable, signal, bool), optional
        Whether it is time, of the seconds since the start; what to kill with; whether to kill the
        one process, or its whole group, too. What SIGKILL kills of torchrun is one of its ranks.
    limit : int, optional
        How large files may grow, in bytes: pipes may more.
    """

    def before() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is run in the background ignores it
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=before,
    )
    sessions = {process.pid}
    try:
        if kill:
            is_time, number, alone = kill
            while process.poll() is None and not is_time(time.monotonic() - started):
                time.sleep(0.002)
            if process.poll() is None:
                children = [pid for pid, parent, _ in processes() if parent == process.pid]
                ranks = children if TORCHRUN[1] in command else []
                sessions.update(ranks)
                if ranks and number == signal.SIGKILL:
                    os.killpg(ranks[0], number)
                else:
                    (os.kill if alone else os.killpg)(process.pid, number)
        said, _ = process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - started
        while alive(sessions) and time.monotonic() - started < seconds + 30:
            time.sleep(0.05)  # workers may still be importing
        assert not alive(sessions), f"processes are left; it said: {said}"
    finally:
        for pid in alive(sessions):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    if TORCHRUN[1] not in command:  # which says in one how its processes ended
        assert not re.search("Traceback|Exception ignored", said), said
    return Ended(process.returncode, seconds, said)


def processes() -> Iterator[tuple[int, int, int]]:
    """List the processes that have not ended: number, parent, session."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if state != "Z":
            yield int(stat.parent.name), int(parent), int(session)


def alive(sessions: set[int]) -> list[int]:
    """List the processes of sessions that have not ended."""
    return [pid for pid, _, session in processes() if session in sessions]


# --- what is in a folder -----------------------------------------------------------------------


def steady(value: Any) -> Any:
    """Leave out of a JSON value or a checkpoint what differs between equal runs."""
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key not in VOLATILE}
    if isinstance(value, list | tuple):
        return [steady(each) for each in value]
    # Two equal tensors are not the same bytes in memory.
    return value.numpy() if torch.is_tensor(value) else value


def answers_of(model: Any) -> np.ndarray:
    """Ask a model: one that is read twice has not the same bytes in memory."""
    X = np.random.default_rng(0).normal(size=(50, model.n_features_in_))
    return (getattr(model, "predict_proba", None) or model.decision_function)(X)


def contents(folder: Path) -> dict[str, str]:
    """Hash what every file in a folder says, but for locks."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_dir() or file.name == ".lock":
            continue
        value: Any = file.read_bytes()
        if file.suffix == ".json":
            value = steady(json.loads(value))
        elif file.suffix == ".pt":
            value = steady(torch.load(file, weights_only=True))
        elif file.suffix == ".skops":
            value = answers_of(skops.io.load(file, trusted=classical.TRUSTED_TYPES))
        elif file.suffix == ".csv":
            value = steady(list(csv.DictReader(value.decode().splitlines())))
        found[str(file.relative_to(folder))] = joblib.hash(value)
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Name the files that are missing, too many or others."""
    kinds = {(True, False): "too many", (False, True): "missing", (True, True): "differs"}
    return [
        f"{name}: {kinds[name in found, name in expected]}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def go_on(stage: Stage, folder: Path, expected: dict[str, str]) -> None:
    """Run a stage to its end, and compare."""
    ended = run(stage.command(*stage.again), folder)
    assert ended.status in stage.again_statuses, ended.said
    assert differences(contents(folder), expected) == []


# --- in every run of the suite -----------------------------------------------------------------


def test_the_demo_goes_on_where_it_was_killed(tmp_path):
    settings = Settings(artists=3, albums=5, songs=2, seconds=3.0)
    build(tmp_path / "whole/data", settings, workers=1)
    trial = tmp_path / "trial"
    trial.mkdir()

    def is_time(_: float) -> bool:  # some songs are there, and others in hand
        return len(list(trial.glob("data/train_val/*/*/[0-9]*.mp3"))) > 4

    # The one process: its workers must notice.
    ended = run(DEMO.command(), trial, kill=(is_time, signal.SIGKILL, True))
    assert ended.status == -signal.SIGKILL, ended.said
    assert 4 < len(list(trial.rglob("*.mp3"))) < 30
    go_on(DEMO, trial, contents(tmp_path / "whole"))


# --- every stage -------------------------------------------------------------------------------


class Study:
    """A study that is run stage by stage without a stop, and what was there before each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = folder / "whole"
        self.whole.mkdir()
        self.befores: dict[str, Path] = {}
        self.expected: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}  # imports, all

    def run(self, name: str) -> None:
        """Run all stages up to one."""
        for i, (each, stage) in enumerate(STAGES.items()):
            if each not in self.expected:
                before = self.folder / str(i)
                shutil.copytree(self.whole, before, symlinks=True)
                imports = run(stage.command("--help"), self.whole)
                ended = run(stage.command(), self.whole)
                assert ended.status == 0, f"{each} fails by itself: {ended.said}"
                self.befores[each] = before
                self.seconds[each] = (min(imports.seconds, ended.seconds / 2), ended.seconds)
                self.expected[each] = contents(self.whole)
            if each == name:
                return


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


@pytest.mark.long
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_goes_on_where_it_was_killed(name, study, tmp_path):
    study.run(name)
    stage, (earliest, latest) = STAGES[name], study.seconds[name]
    for i in range(N_KILLS * len(SIGNALS)):
        rng = np.random.default_rng([SEED, list(STAGES).index(name), i])
        number, alone = SIGNALS[i % len(SIGNALS)], bool(rng.integers(2))
        moment = rng.uniform(earliest, latest)
        trial = tmp_path / "trial"
        shutil.copytree(study.befores[name], trial, symlinks=True)
        kill = (lambda seconds, moment=moment: seconds > moment, number, alone)
        ended = run(stage.command(), trial, kill=kill)
        said = f"{number.name} to {'one' if alone else 'all'} after {moment:.2f} s: {ended}"
        if not stage.is_torchrun:
            assert ended.status in (0, *STATUS[number]), said
        latest = min(latest, ended.seconds) if ended.status == 0 else latest
        print(said)  # what was done, should the next run fail
        go_on(stage, trial, study.expected[name])
        shutil.rmtree(trial)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in STAGES if not STAGES[name].is_torchrun])
def test_a_full_disk_is_one_line_and_the_stage_goes_on(name, study, tmp_path):
    study.run(name)
    changed = (
        (study.whole / file).stat()
        for file, value in study.expected[name].items()
        if value != contents_before(study, name).get(file)
    )
    largest = max(file.st_size for file in changed if file.st_nlink == 1)  # a link takes no space
    for i in range(N_KILLS):
        rng = np.random.default_rng([SEED, list(STAGES).index(name), 1000 + i])
        trial = tmp_path / "trial"
        shutil.copytree(study.befores[name], trial, symlinks=True)
        # From less than any file to the largest, evenly on a logarithmic scale.
        limit = int(2 ** rng.uniform(6, np.log2(largest)))
        ended = run(STAGES[name].command(), trial, limit=limit)
        print(limit, ended)
        assert ended.status == 2
        assert re.search(r"^error: .* cannot be written: ", ended.said, re.MULTILINE)
        go_on(STAGES[name], trial, study.expected[name])
        shutil.rmtree(trial)


def contents_before(study: Study, name: str) -> dict[str, str]:
    """Hash what was there before a stage."""
    names = list(STAGES)
    i = names.index(name)
    return study.expected[names[i - 1]] if i else {}
