"""Kill every stage at random moments: the next run must end as if nothing had been.

A small demo study is run once without a stop. Then, for every stage and --kills times: the folder
as it was before that stage, the stage, SIGINT, SIGTERM or SIGKILL to it alone or to all its
processes at a random moment, and the same command once more (with --resume where there is one).
What is in the folder then must be what the uninterrupted run left there, no file more or less, and
equal but for seconds, commands and skops's own identifiers. Exit statuses must be those of the
README, nothing may be said in tracebacks, and no process may be left.

Imports are done once, in a process of which every run is a fork: kills meet a stage's work, and
not the seconds before it. Task 1's grids are cut to one setting of every model.

With --full, stages are not killed but run with a limit on the size of their files, at random, as
on a full disk: they must say so in one line with exit status 2, and go on without the limit.

    python benchmarks/interruption.py
    python benchmarks/interruption.py --stages task1_train --kills 100 --seed 1
    python benchmarks/interruption.py --stages task1_train --first 7 --kills 1    # the 7th alone
    python benchmarks/interruption.py --full
"""

import argparse
import atexit
import csv
import json
import os
import re
import resource
import runpy
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import joblib
import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

# What the stages import, for their forks.
from artist20 import classical, cli, files, results, runtime

COMPUTE = ["--data-dir", "data", "--device", "cpu", "--workers", "2"]
TRAIN = [*COMPUTE, "--epochs", "4", "--crop-seconds", "2", "--batch-size", "4"]
PANNS = ["--backbone-weights", "untrained", "--views", "1", "--windows", "1"]
RESNET = "task2_train_wo_pretrain"
# Every stage: a script, or a module; its options; what the second run has beside them.
STAGES: dict[str, tuple[str, list[str], list[str]]] = {
    "demo": (
        "artist20.demo",
        ["data", "--artists", "3", "--albums", "5", "--songs", "2", "--seconds", "3"],
        [],
    ),
    "dataset check": ("artist20.collection", ["check", "data"], []),
    "dataset split": (
        "artist20.collection",
        ["split", "data/train_val", "--output", "mine", "--test"],
        [],
    ),
    "task1_preprocessing": ("task1_preprocessing", COMPUTE, []),
    "task2_train": ("task2_train", [*TRAIN, *PANNS], ["--resume"]),
    "task2_inference": ("task2_inference", COMPUTE, []),
    "task2_gen_report": ("task2_gen_report", [], []),
    RESNET: (RESNET, TRAIN, ["--resume"]),
    f"{RESNET} strong": (RESNET, [*TRAIN, "--recipe", "strong"], ["--resume"]),
    "task2_inference_wo_pretrain": ("task2_inference_wo_pretrain", COMPUTE, []),
    "task2_gen_report_wo_pretrain": ("task2_gen_report_wo_pretrain", [], []),
    "task1_train": ("task1_train", ["--workers", "1"], []),
    "task1_gen_report": ("task1_gen_report", [], []),
    "task1_train segment": ("task1_train", ["--workers", "1", "--level", "segment"], []),
    "task1_gen_report segment": ("task1_gen_report", ["--level", "segment"], []),
    "task1_inference": ("artist20.task1_inference", COMPUTE, []),
    "ensemble": ("artist20.ensemble", [], []),
    "comparison": ("artist20.comparison", [], []),
    "slides": ("artist20.slides", [], []),
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
# By a signal: caught, or when all is done. (Zero: it came too late.)
STATUS = {signal.SIGINT: (130, -2), signal.SIGTERM: (143, -15), signal.SIGKILL: (-9,)}
VOLATILE = {"seconds", "epochs_seconds", "command"}  # of a run, and not of its result
PATIENCE = 120.0  # seconds that a run may take


def serve(requests: IO[str], answers: IO[str]) -> str | None:
    """Fork for every request, and answer with the fork's number and at its end with its status.

    Returns
    -------
    str or None
        In a fork, the program to run; in the server, None when there are no more requests.
    """
    for grids in classical.GRIDS.values():
        for name, grid in grids.items():
            grids[name] = [{key: values[:1] for key, values in grid[0].items()}]
    for request in requests:
        pid = os.fork()
        if not pid:
            program, options, folder, log, limit = json.loads(request)
            os.setsid()
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with Path(log).open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            # The server's own think that they are what they were.
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            os.chdir(folder)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = [program, *options]
            return program
        print(pid, file=answers, flush=True)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, file=answers, flush=True)
    return None


def execute(program: str) -> None:
    """Run a script or a module as the main one."""
    if "." in program:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(REPOSITORY / f"{program}.py"), run_name="__main__")


class Server:
    """The other end of :func:`serve`."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self.requests = requests
        self.answers = answers

    def start(self, *request: Any) -> int:
        """Start a run; return its process's number, which is also its session's."""
        print(json.dumps(request), file=self.requests, flush=True)
        return int(self.answers.readline())

    def wait(self, seconds: float) -> int | None:
        """Return the exit status of what runs, or None if it does not end in time."""
        if not select.select([self.answers], [], [], seconds)[0]:
            return None
        return int(self.answers.readline())


def alive(session: int) -> list[int]:
    """List the processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(of) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def run(
    server: Server,
    stage: str,
    folder: Path,
    again: bool = False,
    kill: tuple[float, int, bool] | None = None,
    limit: int | None = None,
) -> tuple[int, float, str, list[str]]:
    """Run a stage, and kill it if ``kill`` says after how many seconds, how, and whether alone.

    ``limit`` is on the size of its files, in bytes.

    Returns
    -------
    status : int
        Exit status, or minus the signal's number.
    seconds : float
        How long it took.
    said : str
        All that it printed.
    problems : list of str
        What should not be.
    """
    program, options, more = STAGES[stage]
    # What is printed goes through a pipe, to which the limit does not apply.
    log = folder.with_name("log")
    os.mkfifo(log)
    reading_end = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    writing_end = os.open(log, os.O_WRONLY)  # held, so that it ends here and not before the start
    os.set_blocking(reading_end, True)
    printed: list[bytes] = []
    reader = threading.Thread(
        target=lambda: printed.extend(iter(partial(os.read, reading_end, 2**16), b""))
    )
    reader.start()
    started = time.perf_counter()
    arguments = [*options, *(more if again else [])]
    session = server.start(program, arguments, str(folder), str(log), limit)
    status, problems = None, []
    if kill:
        after, number, alone = kill
        status = server.wait(after)
        if status is None:
            try:
                (os.kill if alone else os.killpg)(session, number)
            except ProcessLookupError:  # it has no session yet, or has just ended
                os.kill(session, number)
    if status is None:
        status = server.wait(PATIENCE)
    if status is None:
        problems.append(f"does not end within {PATIENCE:g} s")
        os.killpg(session, signal.SIGKILL)
        status = server.wait(PATIENCE)
    seconds = time.perf_counter() - started
    deadline = time.monotonic() + 30  # workers may still be importing
    while alive(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = alive(session)
    if left:
        problems.append(f"{len(left)} processes are left")
        os.killpg(session, signal.SIGKILL)
    os.close(writing_end)
    reader.join()
    os.close(reading_end)
    log.unlink()
    said = b"".join(printed).decode(errors="replace")
    traceback = re.search("Traceback|Exception ignored", said)
    if traceback:
        lines = [line.strip() for line in said[traceback.start() :].splitlines()]
        problems.append(f"a traceback: {' | '.join(lines)}")
    return status, seconds, said, problems


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
    """Hash what every file in a folder says; files of other stages' locks are left out."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_dir() or file.name == ".lock":
            continue
        if file.suffix == ".json":
            value = steady(files.read_json(file, "the stage"))
        elif file.suffix == ".pt":
            value = steady(results.read_checkpoint(file, "the stage"))
        elif file.suffix == ".skops":
            value = answers_of(results.read_sklearn(file))
        elif file.suffix == ".csv":
            value = steady(list(csv.DictReader(file.open())))
        else:
            value = file.read_bytes()
        found[str(file.relative_to(folder))] = joblib.hash(value)
    return found


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Say which files are missing, too many or others."""
    names = sorted(found.keys() | expected.keys())
    kinds = {(True, False): "too many", (False, True): "missing", (True, True): "differs"}
    return [
        f"{re.sub('[0-9]{3,}', 'N', name)} {kinds[name in found, name in expected]}"
        for name in names
        if found.get(name) != expected.get(name)
    ]


def try_kills(
    server: Server,
    stage: str,
    before: Path,
    expected: dict[str, str],
    seconds: float,
    largest: int,
    args: argparse.Namespace,
) -> tuple[Counter, dict[str, list[int]]]:
    """Kill a stage so many times; count how that ended, and list what should not be, by kill."""
    ended: Counter = Counter()
    problems: dict[str, list[int]] = defaultdict(list)
    folder = before.with_name("trial")
    for kill_number in range(args.first, args.first + args.kills):
        rng = np.random.default_rng([args.seed, list(STAGES).index(stage), kill_number])
        shutil.copytree(before, folder, symlinks=True)
        number, alone = SIGNALS[rng.integers(len(SIGNALS))], bool(rng.integers(2))
        if args.full:
            how, good = "full: ", (2,)
            # From less than any file to the largest, evenly on a logarithmic scale.
            limit = int(2 ** rng.uniform(6, np.log2(largest)))
            status, _, said, found = run(server, stage, folder, limit=limit)
            if status == 2 and not re.search(r"^error: .* cannot be written: ", said, re.MULTILINE):
                found.append(f"it says: {said.strip()[-200:]}")
        else:
            how, good = f"{number.name} to {'one' if alone else 'all'}: ", STATUS[number]
            kill = (rng.uniform(0, seconds), number, alone)
            status, took, said, found = run(server, stage, folder, kill=kill)
            if status == 0:  # the first run, from which the moments are drawn, was slower
                seconds = min(seconds, took)
        if status in (0, *good):
            name = "full" if args.full else number.name
            ended["finished before" if status == 0 else name] += 1
        else:
            ended["other"] += 1
            found.append(f"exit status {status}: {said.strip()[-200:]}")
        status, _, said, more = run(server, stage, folder, again=True)
        # A data folder that is there is not made again.
        if status and not (stage == "dataset split" and status == 2):
            more.append(f"exit status {status}: {said.strip()[-200:]}")
        more += differences(contents(folder), expected)
        for problem in (*(how + each for each in found), *(f"{how}then {each}" for each in more)):
            problems[problem].append(kill_number)
        shutil.rmtree(folder)
    return ended, problems


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--kills", type=cli.positive_int, default=20, help="of every stage")
    parser.add_argument("--first", type=cli.positive_int, default=1, help="number of the first")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), help="only these")
    parser.add_argument("--full", action="store_true", help="limit file sizes, instead of killing")
    cli.add_seed_option(parser)
    return parser.parse_args()


def main(server: Server) -> int:
    """Run the study, then kill its stages; return 1 if anything was found."""
    args = parse_args()
    total: Counter = Counter()
    print(f"{'':30}{'seconds':>8}{'INT':>5}{'TERM':>5}{'KILL':>5}{'full':>5}", end="")
    print(f"{'done':>5}{'other':>6}  found")
    with tempfile.TemporaryDirectory() as temporary:
        before, whole = Path(temporary, "before"), Path(temporary, "whole")
        before.mkdir()
        for stage in STAGES:
            shutil.copytree(before, whole, symlinks=True)
            status, seconds, said, problems = run(server, stage, whole)
            if status or problems:
                print(f"{stage} fails by itself: {status} {problems}\n{said}")
                return 2
            if args.stages is None or stage in args.stages:
                expected = contents(whole)
                largest = max(file.stat().st_size for file in whole.rglob("*") if file.is_file())
                ended, found = try_kills(server, stage, before, expected, seconds, largest, args)
                columns = [*(number.name for number in SIGNALS), "full", "finished before"]
                cells = "".join(f"{ended[name]:5}" for name in columns)
                n_found = sum(map(len, found.values()))
                print(f"{stage:30}{seconds:8.1f}{cells}{ended['other']:6}  {n_found or 'nothing'}")
                for problem, kills in found.items():
                    print(f"    kill {', '.join(map(str, kills))}: {problem}")
                total.update(kills=ended.total(), found=n_found)
            shutil.rmtree(before)
            whole.rename(before)
    print(f"{total['kills']} kills, {total['found']} problems")
    return 1 if total["found"] else 0


if __name__ == "__main__":
    to_server, to_main = os.pipe(), os.pipe()
    if os.fork():
        pipes = Server(os.fdopen(to_server[1], "w"), os.fdopen(to_main[0]))
        os.close(to_server[0])
        runtime.run(lambda: main(pipes))
    os.close(to_server[1])
    stage_to_run = serve(os.fdopen(to_server[0]), os.fdopen(to_main[1], "w"))
    if stage_to_run:
        try:
            execute(stage_to_run)
        except SystemExit as end:  # all that Python does then, but for taking its modules apart
            threading._shutdown()
            atexit._run_exitfuncs()
            os._exit(end.code or 0)
