"""The prepared run on a GPU: tried whole on the CPU, and its report when something goes wrong."""

import importlib
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from artist20 import dataset

REPOSITORY = Path(__file__).resolve().parents[1]

NVML = """
from types import SimpleNamespace


def nvmlInit():
    pass


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetName(_):
    return "Imaginary GPU"


def nvmlSystemGetDriverVersion():
    return "1.2.3"


def nvmlDeviceGetUtilizationRates(_):
    return SimpleNamespace(gpu=42)


def nvmlDeviceGetMemoryInfo(_):
    return SimpleNamespace(used=3 * 2**30)
"""


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("gpu")


def rows(report):
    """Read the report's tables: cells by line."""
    lines = [line for line in report.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_trial_does_everything_on_a_cpu(gpu, tmp_path):
    (tmp_path / "pynvml.py").write_text(NVML)
    with tarfile.open(tmp_path / "wheels.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "pynvml.py", "pynvml.py")
    report = tmp_path / "reports" / "gpu.md"
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            ["bash", "benchmarks/gpu.sh", "--smoke", "--wheels", tmp_path, "--report", report],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHON": sys.executable},
            stdout=log,
            stderr=log,
            check=False,
        )
    assert done.returncode == 0, (tmp_path / "log").read_text()[-5000:]
    text = report.read_text(encoding="utf-8")
    assert text.startswith("# Trial of the GPU run on a CPU: Imaginary GPU\n")
    assert "driver 1.2.3" in text
    stages = gpu.stages(Path(), smoke=False)
    outcomes = [row for row in rows(report) if row[0][0].isdigit()]
    assert [row[:3] for row in outcomes] == [[each.part, each.name, "done"] for each in stages]
    # What is said of each phase: its count, the stub's figures, audio per second.
    wanted = [(each.name, phase) for each in stages for phase in each.audio if phase != "decoding"]
    found = {(row[0], row[1].split(",")[0]): row for row in rows(report) if len(row) == 8}
    for key in wanted:
        if key != ("ResNet, strong", "epochs"):  # of one epoch, which is warming up
            assert found[key][3:5] == ["42%", "3.0"]
            assert float(found[key][7].replace(",", "")) > 0
    assert re.search(r"- ResNet: [\d.]+ s an epoch, GPU busy: 42% ", text)
    assert re.search(r"configuration, as far as it came: \d+ s ", text)


def test_what_only_the_gpu_runs_has_options_that_exist(gpu, monkeypatch):
    for stage in gpu.stages(Path("work"), smoke=False):
        words = stage.command[1:] if stage.command[0] == "-m" else stage.command
        if words[0] == "pytest":
            continue
        monkeypatch.setattr(sys, "argv", words)
        importlib.import_module(words[0].removesuffix(".py").rpartition("/")[2]).parse_args()


def test_the_songs_of_encoders_are_enough_for_every_fold(gpu, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    full_size = importlib.import_module("full_size")
    monkeypatch.setattr(full_size, "write_copy", lambda *_: None)
    for path in full_size.enlarge(tmp_path, full_size.FULL)["train"]:
        song = tmp_path / path
        song.parent.mkdir(parents=True, exist_ok=True)
        song.touch()
    (ecapa,) = (each for each in gpu.stages(Path(), smoke=False) if each.name == "ECAPA")
    limit = int(ecapa.command[ecapa.command.index("--limit") + 1])
    for fold in range(1, dataset.N_FOLDS + 1):
        train, held_out, classes = dataset.read_to_fit(tmp_path, fold, limit)
        assert len(train) + len(held_out) == limit
        assert len(classes) == 20


def test_a_phase_between_two_samples_is_measured(gpu):
    samples = [gpu.Sample(at, 1.0, busy, 0) for at, busy in ((10.0, 0.1), (10.2, 0.7), (10.4, 0.3))]
    assert gpu.cells(10.05, 10.15, samples)[1] == "70%"
    assert gpu.cells(10.5, 10.6, samples)[1] == "–"


def test_the_limits_leave_time_to_unpack_within_ten_minutes(gpu):
    assert sum(stage.limit for stage in gpu.stages(Path(), smoke=False)) <= 585


CHILD = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def is_gone(pid):
    """Wait a moment for a process to end."""
    for _ in range(100):
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_the_report_tells_what_failed_and_what_took_too_long(gpu, tmp_path, capfd):
    todo = [
        gpu.Stage("1", "deaf", ["-c", CHILD], 6),
        gpu.Stage("2", "fails", ["-c", "print('no such GPU'); exit(3)"], 60),
        gpu.Stage("3", "fine", ["-c", "print('all is well')"], 60),
    ]
    report = tmp_path / "gpu.md"
    started = time.monotonic()
    assert gpu.run(todo, dict(os.environ), report, "GPU run") == 1
    assert time.monotonic() - started < 20
    assert [row[2] for row in rows(report)][1:4] == [
        "**stopped at its limit** of 6 s",
        "**failed**, exit status 3",
        "done",
    ]
    of_limit = [float(row[3].split(" of ")[1]) for row in rows(report)[1:4]]
    assert of_limit[1] <= 60 < 110 < of_limit[2] <= 120  # with what is left of the second's
    text = report.read_text(encoding="utf-8")
    assert "no such GPU" in text
    assert "stopped before its end" not in text
    pid = re.search(r"^(\d+)$", text, re.MULTILINE)[1]
    assert is_gone(pid)
    assert "all is well" in capfd.readouterr().out  # as it went


def test_without_data_nothing_else_is_run(gpu, tmp_path):
    todo = [
        gpu.Stage(gpu.DATA, "cut off", ["-c", "import time; time.sleep(600)"], 2),
        gpu.Stage(gpu.HOMEWORK, "features", ["-c", "print('ran')"], 60),
    ]
    report = tmp_path / "gpu.md"
    assert gpu.run(todo, dict(os.environ), report, "GPU run") == 1
    assert [row[2] for row in rows(report)][1:3] == [
        "**stopped at its limit** of 2 s",
        "**not run**",
    ]
    assert "Without data nothing else is run." in report.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_report_and_no_processes(gpu, tmp_path, number):
    report = tmp_path / "gpu.md"
    code = f"""
import sys
sys.path.insert(0, "benchmarks")
import gpu
todo = [gpu.Stage("1", "first", ["-c", "print('hello')"], 60)]
todo += [gpu.Stage("2", "second", ["-c", {CHILD!r}], 60), gpu.Stage("3", "third", [], 60)]
gpu.stages = lambda *_: todo
sys.argv = ["gpu.py", "--report", {str(report)!r}]
sys.exit(gpu.main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    pid = next(line for line in process.stdout if line.strip().isdigit()).strip()
    process.send_signal(number)
    assert process.wait(30) == 130
    process.stdout.close()
    assert is_gone(pid)
    text = report.read_text(encoding="utf-8")
    assert "The run was stopped before its end." in text
    assert [row[2] for row in rows(report)][1:4] == ["done", "**stopped**", "**not run**"]
