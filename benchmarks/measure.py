"""What benchmarks measure of other processes."""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """List a process and all that it started, directly or not."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += descendants(int(child))
    return found


def memory_of(pid: int) -> float:
    """Sum the proportional set sizes of a process and its descendants, in MB."""
    total = 0
    try:
        for each in descendants(pid):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])
    except (OSError, TypeError):  # one of them has just ended
        return 0.0
    return total / 1024


def run(command: list[str], cwd: Path | None = None) -> tuple[float, float, float]:
    """Run a command; return its seconds, those of CPUs, and its peak memory in MB.

    Memory is the largest sum of all its processes' proportional set sizes.
    """
    started, peak, cpu = time.perf_counter(), 0.0, _cpu_seconds()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, _cpu_seconds() - cpu, peak


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
