"""One prepared run on a CUDA GPU, which ends with a report; ``benchmarks/gpu.sh`` starts it.

    bash benchmarks/gpu.sh --wheels FOLDER --report gpu.md    # ten minutes at most
    bash benchmarks/gpu.sh --smoke                            # on a CPU, cut to fit a minute or so

FOLDER is what ``benchmarks/gpu_wheels.sh`` made, for a machine that has no more than Python 3.12,
torch, torchaudio and NumPy. Every stage is a command with a time limit, to which is added what the
stages before it left of theirs. The report is written anew after each, so that it is there whatever
fails or stops the run. The exit status is 1 if any stage failed.

1. The tests that need CUDA; ``torch.compile``, which is slow, comes last of all.
2. A data set of artist20's size, synthesised. Without it nothing else is run.
3. The homework's configuration, as the scripts have it by default.
4. The strong recipe, ECAPA and the separator, on a part of the songs.
5. The ratios of ``benchmarks/training.py``.
"""

import argparse
import compileall
import importlib
import multiprocessing
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

# Nothing but the standard library: --wheels brings everything else.

REPOSITORY = Path(__file__).resolve().parents[1]
GRACE = 4.0  # seconds before its limit at which a stage is asked to stop
EVERY = 0.2  # seconds between two samples
BUSY = 0.9  # share of the time, or of the cores, that counts as bound by them
TAIL = 50  # lines of what a stage printed that the report shows
STOPS = (signal.SIGINT, signal.SIGTERM)
STOPPED = "**stopped**"
DATA, HOMEWORK = "2. Data", "3. Homework"
# What the stages of a trial take longest to import: it is done once, and each is a fork.
IMPORTS = (
    *("task1_preprocessing", "task2_train", "task2_train_wo_pretrain", "task2_inference"),
    *("artist20.vocals", "librosa.filters", "torch._dynamo", "torchlibrosa.stft", "pytest"),
)
SMOKE_LIMIT = 240  # seconds of any stage on a CPU, which may be busy

# How a stage's output tells what it does: a line when songs are begun, one after each epoch.
SONGS = re.compile(r"([a-z].*): (\d+) of (\d+) songs are in ")
EPOCH = re.compile(r"epoch +\d+/")


@dataclass(frozen=True)
class Stage:
    """One command of the run."""

    part: str
    name: str
    command: list[str]  # what Python runs
    limit: float  # seconds, of its own
    # Seconds of audio that a phase goes through, for each song, or for each epoch.
    audio: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """How busy the machine is at a moment."""

    at: float  # time.monotonic()
    cores: float
    gpu: float  # share of the time in which it computed anything, NaN without a GPU
    gpu_bytes: int  # of all processes


@dataclass(frozen=True)
class Line:
    """A line that a stage printed."""

    at: float  # time.monotonic()
    text: str


@dataclass(frozen=True)
class Finished:
    """What came of a stage."""

    stage: Stage
    outcome: str
    start: float
    stop: float
    lines: list[Line]
    samples: list[Sample]


@dataclass(frozen=True)
class Phase:
    """A stretch of a stage's time."""

    name: str
    start: float
    stop: float
    count: int  # songs, or epochs; 0 if it was stopped before its end


def stages(work: Path, smoke: bool) -> list[Stage]:
    """List the run, or what ``--smoke`` makes of it. The limits make less than ten minutes."""
    data, few = work / "data", work / "few"
    results, untrained = ["--results-dir", work / "results"], ["--encoder-weights", "untrained"]
    common = ["--data-dir", data, *results, "--device", "cpu" if smoke else "cuda"]
    workers = ["--workers", 1] if smoke else []
    seconds, crop, n_train, n_some = (1, 1, 9, 9) if smoke else (170, 150, 949, 100)
    part = "1. Tests"

    def stage(name: str, limit: float, *command: Any, cut: str = "", **audio: float) -> Stage:
        """Make a stage; ``cut`` are options with which a CPU has time for it."""
        words = [*command, *(cut.split() if smoke else [])]
        return Stage(part, name, list(map(str, words)), SMOKE_LIMIT if smoke else limit, audio)

    test = ("-m", "pytest", "-m", "cuda", "-vv", "tests/test_cuda.py", "-k")
    tests = stage("tests", 50, *test, "not compiled")
    compiling = stage("torch.compile", 55, *test, "compiled")
    part = DATA
    made = stage("full_size", 45, "benchmarks/full_size.py", data, few, *workers, cut="--trial")
    part = HOMEWORK
    common += workers
    homework = [
        stage("features", 50, "task1_preprocessing.py", *common, features=seconds),
        stage(
            "ResNet",
            105,
            *("task2_train_wo_pretrain.py", *common),
            cut="--epochs 3 --batch-size 8",
            **{"log-mels": seconds, "epochs": n_train * crop},
        ),
        stage("ResNet, inference", 12, "task2_inference_wo_pretrain.py", *common),
        stage(
            "Cnn14 and MLP",
            120,
            *("task2_train.py", *common, *untrained),
            cut="--epochs 2 --views 1 --windows 1 --limit 4",
            **{
                "decoding": seconds,
                "embeddings of panns-views": (1 if smoke else 8) * crop,
                "embeddings of panns-windows": seconds,
            },
        ),
        stage("Cnn14 and MLP, inference", 18, "task2_inference.py", *common),
    ]
    part = "4. Others"
    some = ["--limit", n_some]
    others = [
        stage(
            "ResNet, strong",
            28,
            *("task2_train_wo_pretrain.py", *common, *some, "--recipe", "strong", "--epochs", 8),
            cut="--epochs 1",
            **{"log-mels": seconds, "epochs": n_some * 4 * min(5, crop)},
        ),
        stage(
            "ECAPA",
            26,
            *("task2_train.py", *common, *some, *untrained, "--encoder", "ecapa", "--epochs", 1),
            **{"embeddings of ecapa-windows": seconds},
        ),
        stage(
            "separator",
            18,
            *("-m", "artist20.vocals", few, work / "vocals", "--weights", "untrained"),
            *("--device", "cpu" if smoke else "cuda"),
            vocals=seconds,
        ),
    ]
    part = "5. Ratios"
    ratios = stage(
        "benchmark",
        34,
        *("benchmarks/training.py", *common, "--operations", "--limit", 64),
        cut="--limit 4 --batch-size 2 --trial",
    )
    return [tests, made, *homework, *others, ratios, compiling]


# --- running -----------------------------------------------------------------------------------


class Gpu:
    """The first GPU as NVML sees it, if there is one."""

    def __init__(self) -> None:
        self.name, self.driver, self._nvml, self._handle = "no GPU", "", None, None
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # of a module that may be missing, or of its own kind
            print(f"no GPU is watched: {type(error).__name__}: {error}")
            return
        self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
        self.name = pynvml.nvmlDeviceGetName(self._handle)
        self.driver = pynvml.nvmlSystemGetDriverVersion()

    def sample(self) -> tuple[float, int]:
        """Return the busy share of the last moments, and the bytes in use."""
        if self._nvml is None:
            return float("nan"), 0
        busy = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
        return busy, self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used


def cpu_ticks() -> tuple[int, int]:
    """Return the ticks that all cores have worked, and all ticks, since the machine started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for disks


def watch(gpu: Gpu, ended: threading.Event, samples: list[Sample]) -> None:
    """Sample GPU and cores until a stage has ended."""
    worked, everything = cpu_ticks()
    while not ended.wait(EVERY):
        now, of_all = cpu_ticks()
        share = (now - worked) / max(1, of_all - everything)
        worked, everything = now, of_all
        samples.append(Sample(time.monotonic(), share * (os.cpu_count() or 1), *gpu.sample()))


def read_lines(output: int, lines: list[Line]) -> None:
    """Print what a stage prints, and note when."""
    with open(output, errors="replace") as file:
        for text in file:
            lines.append(Line(time.monotonic(), text.rstrip()))
            print(text, end="", flush=True)


def run_here(command: list[str], environment: dict[str, str], output: int) -> None:
    """Run a command in this process, a fork that has imported all, as Python would."""
    os.setsid()
    for number in STOPS:
        signal.signal(number, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(output, stream)
    # Anew: this process's own may be a file.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, closefd=False) for stream in (1, 2))
    os.chdir(REPOSITORY)
    os.environ.update(environment)
    as_module = command[0] == "-m"
    sys.argv = command[as_module:]
    sys.path.insert(0, str(REPOSITORY if as_module else Path(command[0]).parent))
    if as_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def start(
    command: list[str], environment: dict[str, str], output: int, imported: bool
) -> tuple[int, Callable[[], int | None]]:
    """Start a command in a session of its own; return its number and what gives its exit status."""
    if imported:
        fork = multiprocessing.get_context("fork").Process(
            target=run_here, args=(command, environment, output)
        )
        fork.start()
        return fork.pid or 0, lambda: fork.exitcode
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    return process.pid, process.poll


def wait(status: Callable[[], int | None], seconds: float) -> int | None:
    """Wait for a command to end; return its exit status, or None if it has not."""
    until = time.monotonic() + seconds
    while status() is None and time.monotonic() < until:
        time.sleep(0.05)
    return status()


def end(pid: int, status: Callable[[], int | None], grace: float) -> None:
    """Ask a command to stop, as Ctrl-C does; kill what is left of it and of its workers."""
    with suppress(ProcessLookupError):
        if status() is None:
            os.killpg(pid, signal.SIGINT)
            wait(status, grace)
        os.killpg(pid, signal.SIGKILL)
    wait(status, grace)


def run_stage(
    stage: Stage, environment: dict[str, str], gpu: Gpu, imported: bool = False
) -> Finished:
    """Run a stage within its limit, in a fork of this process if all is ``imported``."""
    print(f"\n=== {stage.part}: {stage.name} (at most {stage.limit:.0f} s)", flush=True)
    grace = min(GRACE, stage.limit / 2)
    begun, ended = time.monotonic(), threading.Event()
    lines: list[Line] = []
    samples: list[Sample] = []
    readable, writable = os.pipe()
    pid, status = start(stage.command, environment, writable, imported)
    os.close(writable)
    threads = [
        threading.Thread(target=read_lines, args=(readable, lines), daemon=True),
        threading.Thread(target=watch, args=(gpu, ended, samples), daemon=True),
    ]
    try:
        for thread in threads:
            thread.start()
        found = wait(status, stage.limit - grace)
        outcome = "done" if found == 0 else f"**failed**, exit status {found}"
        if found is None:
            outcome = f"**stopped at its limit** of {stage.limit:.0f} s"
    except KeyboardInterrupt:
        outcome = STOPPED
    finally:
        end(pid, status, grace)
        ended.set()
        for thread in threads:  # a process that left the group may hold the output open
            thread.join(GRACE)
    finished = Finished(stage, outcome, begun, time.monotonic(), lines, samples)
    print(f"=== {outcome} after {finished.stop - begun:.1f} s", flush=True)
    return finished


def run(
    todo: Sequence[Stage],
    environment: dict[str, str],
    report: Path,
    title: str,
    imported: bool = False,
) -> int:
    """Run stages, and write the report after each; return the exit status."""
    gpu, finished, note = Gpu(), [], "The run was stopped before its end."
    try:
        left = 0.0
        for stage in todo:
            stage = replace(stage, limit=stage.limit + left)
            finished.append(run_stage(stage, environment, gpu, imported))
            if not imported:  # a trial's limits are as long as any stage may take
                left = stage.limit - (finished[-1].stop - finished[-1].start)
            if finished[-1].outcome == STOPPED:
                raise KeyboardInterrupt
            write_report(report, title, gpu, todo, finished, note)
            if stage.part == DATA and finished[-1].outcome != "done":
                note = "Without data nothing else is run."
                return 1
        note = ""
    finally:
        write_report(report, title, gpu, todo, finished, note)
        print(f"\nreport: {report}")
    return int(any(each.outcome != "done" for each in finished))


# --- the report --------------------------------------------------------------------------------


def phases(finished: Finished) -> Iterator[Phase]:
    """Find out from what a stage printed what it did when.

    Songs are worked on from the line that counts them to the next one, whatever that says. Of
    epochs, each of which prints a line at its end, the first one is not counted: it is said with
    what comes before it, and GPUs find their way in it.
    """

    def kind(numbered: tuple[int, Line]) -> Any:
        number, line = numbered
        return "epochs" if EPOCH.match(line.text) else number

    for name, group in groupby(enumerate(finished.lines), kind):
        numbers, lines = zip(*group, strict=True)
        if name == "epochs":
            yield Phase("epochs", lines[0].at, lines[-1].at, len(lines) - 1)
        elif match := SONGS.match(lines[0].text):
            following = finished.lines[numbers[0] + 1 :]
            stop = following[0].at if following else finished.stop
            whole = following and not following[0].text.startswith("stopped")
            count = int(match[3]) - int(match[2]) if whole else 0
            yield Phase(match[1], lines[0].at, stop, count)


def measured(samples: Sequence[Sample]) -> tuple[float, int, float]:
    """Return the GPU's mean busy share, the most memory in use, and the mean of busy cores."""
    if not samples:
        return float("nan"), 0, float("nan")
    return (
        fmean(sample.gpu for sample in samples),
        max(sample.gpu_bytes for sample in samples),
        fmean(sample.cores for sample in samples),
    )


def bound_by(gpu: float, cores: float) -> str:
    """Say what a phase waits for, as far as sampling can tell."""
    if gpu >= BUSY:
        return "GPU"
    if cores >= BUSY * (os.cpu_count() or 1):
        return "CPU cores"
    return "one process, launches or disk" if gpu == gpu else "no GPU was watched"


def cells(start: float, stop: float, samples: Sequence[Sample]) -> list[str]:
    """Write what was measured between two moments: seconds, GPU, its memory, cores, bound by."""
    # A sample is of the moments before it: of a phase shorter than those it is the only one.
    gpu, most, cores = measured([each for each in samples if start <= each.at <= stop + EVERY])
    share, busy = (f"{gpu:.0%}", f"{cores:.1f}")
    cells = [f"{stop - start:.1f}", share, f"{most / 2**30:.1f}", busy, bound_by(gpu, cores)]
    return ["–" if cell.startswith("nan") else cell for cell in cells]


def table(columns: str, rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; ``columns`` are between bars."""
    n_columns = columns.count("|") + 1
    lines = [f"| {columns} |", "|---" * n_columns + "|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def outcome_rows(todo: Sequence[Stage], finished: Sequence[Finished]) -> Iterator[list[str]]:
    """Write what came of every stage."""
    for each in finished:
        taken, *more, _ = cells(each.start, each.stop, each.samples)
        of_limit = f"{taken} of {each.stage.limit:.0f}"
        yield [each.stage.part, each.stage.name, each.outcome, of_limit, *more]
    for stage in todo[len(finished) :]:
        yield [stage.part, stage.name, "**not run**", *[""] * 4]


def phase_rows(finished: Sequence[Finished]) -> Iterator[list[str]]:
    """Write how fast each phase was, and what bounds it; short ones without audio are left out."""
    for each in finished:
        for phase in phases(each):
            seconds = phase.stop - phase.start
            heard = each.stage.audio.get(phase.name, 0) * phase.count
            if heard or seconds >= 1:
                done = f"{phase.name}, {phase.count or 'not to its end'}"
                rate = f"{heard / seconds:,.0f}" if heard else ""
                of_phase = cells(phase.start, phase.stop, each.samples)
                yield [each.stage.name, done, *of_phase, rate]


def summary(finished: Sequence[Finished]) -> Iterator[str]:
    """Write what the goals are about: the homework's seconds, and how busy its trainings are."""
    homework = [each for each in finished if each.stage.part == HOMEWORK]
    for each in homework:
        for phase in phases(each):
            if phase.name == "epochs" and phase.count:
                pace = (phase.stop - phase.start) / phase.count
                busy = cells(phase.start, phase.stop, each.samples)[1]
                yield f"- {each.stage.name}: {pace:.2f} s an epoch, GPU busy: {busy} (goal: 90%)"
    seconds = sum(each.stop - each.start for each in homework)
    yield f"- the homework's configuration, as far as it came: {seconds:.0f} s (goal: 300 s)"


def write_report(
    path: Path,
    title: str,
    gpu: Gpu,
    todo: Sequence[Stage],
    finished: Sequence[Finished],
    note: str,
) -> None:
    """Write all that is known by now."""
    printed = [
        f"### {each.stage.name}\n\n```\n$ python {shlex.join(each.stage.command)}\n"
        + "\n".join(line.text for line in each.lines[-TAIL:])
        + "\n```"
        for each in finished
    ]
    measures = "seconds | GPU busy | GPU memory, peak GiB | CPU cores busy"
    sections = [
        f"# {title}: {gpu.name}",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, driver {gpu.driver or 'none'}, torch "
        f"{version('torch')}, Python {sys.version.split()[0]}, {os.cpu_count()} CPU cores. GPU and "
        f"cores are sampled {1 / EVERY:.0f} times a second; a GPU is busy where any kernel runs.",
        note,
        table(f"part | stage | outcome | {measures}", list(outcome_rows(todo, finished))),
        "## What bounds them",
        "\n".join(summary(finished)),
        table(f"stage | phase | {measures} | bound by | audio, s/s", list(phase_rows(finished))),
        "## What was printed",
        *printed,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n\n".join(filter(None, sections)) + "\n", encoding="utf-8")
    temporary.replace(path)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="cut everything to fit a CPU")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="what gpu_wheels.sh made")
    parser.add_argument("--report", type=Path, default=Path("results/gpu.md"), metavar="FILE")
    return parser.parse_args()


def stop(number: int, _frame: object) -> None:
    """End the run in order, as Ctrl-C does."""
    raise KeyboardInterrupt(signal.Signals(number))


def main() -> int:
    """Run everything; return the exit status."""
    args = parse_args()
    for number in STOPS:  # also in a shell's background
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="artist20-gpu-") as folder:
        work = Path(folder)
        device = "cpu" if args.smoke else "cuda"
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ARTIST20_TEST_DEVICE": device}
        if args.wheels:
            started = time.monotonic()
            with tarfile.open(args.wheels / "wheels.tar.xz") as archive:
                archive.extractall(work / "site", filter="data")
            compileall.compile_dir(work / "site", quiet=2, workers=0)  # on all cores, once
            print(f"unpacked the wheels in {time.monotonic() - started:.0f} s", flush=True)
            sys.path.insert(0, str(work / "site"))  # for NVML
            environment["PYTHONPATH"] = f"{work / 'site'}:{os.environ.get('PYTHONPATH', '')}"
            # Other plugins may be installed, of another pytest.
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        if args.smoke:
            sys.path.insert(0, str(REPOSITORY))
            for name in IMPORTS:
                importlib.import_module(name)
        title = "Trial of the GPU run on a CPU" if args.smoke else "GPU run"
        try:
            todo, report = stages(work, args.smoke), args.report.resolve()
            return run(todo, environment, report, title, imported=args.smoke)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main())
