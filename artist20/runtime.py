"""What surrounds a run: signals and exit statuses, device and precision, seeds, provenance."""

import argparse
import atexit
import getpass
import io
import multiprocessing
import os
import platform
import random
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from artist20 import Note, UserError, __version__, packages
from artist20.files import NO_SPACE, DiskFullError
from artist20.results import Provenance

if TYPE_CHECKING:
    import torch

STOPS = (signal.SIGINT, signal.SIGTERM)
NO_MEMORY = "not enough memory: try fewer --workers"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for libraries that draw from the global state
    torch.manual_seed(seed)


def seed_device(device: "torch.device", seed: int) -> None:
    """Seed what a device draws from; ``torch.manual_seed`` takes time for absent devices, too."""
    import torch

    generator = torch.default_generator
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    generator.manual_seed(seed)


def choose_device(name: str) -> "torch.device":
    """Return the ``torch.device`` for --device, and print which it is; refuse a missing GPU."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA GPU; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if name == "cuda":
        # What feeds a GPU copies songs: more threads would then spin in wait of the next one, on
        # cores on which workers decode (benchmarks/handing_over.py).
        torch.set_num_threads(1)
    # TF32, torch's default for convolutions and LSTMs, has ten bits: weak bins of a spectrum would
    # drown in its rounding.
    torch.backends.cudnn.allow_tf32 = False
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        print(f"device: {device_name(device)}")
    return device


def choose_precision(
    name: str, device: "torch.device", trained_in: str | None = None
) -> "torch.dtype":
    """Return the ``torch.dtype`` for --precision; auto is float32 for a model ``trained_in`` it."""
    import torch

    if name == "auto" and trained_in != "float32":
        # Not where oneDNN would emulate it, at half the speed of float32.
        has_it = device.type == "cuda" or (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
        name = "bfloat16" if has_it else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def to_device(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Copy a tensor to a device; a GPU is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":  # not pinned, it would wait its turn
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def device_name(device: "torch.device") -> str:
    """Name a ``torch.device`` for people: the GPU's name, or the CPU and its threads."""
    import torch

    n_processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
    processes = f", {n_processes} processes" if n_processes > 1 else ""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) + processes
    return f"CPU, {torch.get_num_threads()} threads{processes}"


def command() -> str:
    """Return the command line that runs, as one would type it."""
    module = sys.modules["__main__"].__spec__  # None for a script, unlike with -m
    program = ["-m", module.name] if module else [Path(sys.argv[0]).name]
    return shlex.join(["python", *program, *sys.argv[1:]])


def provenance(args: argparse.Namespace, device: str, started: float) -> Provenance:
    """Describe where a file comes from; ``started`` was ``time.monotonic()`` at the start."""
    return Provenance(
        command=command(),
        device=device,
        seconds=round(time.monotonic() - started, 1),
        versions=versions(),
        seed=getattr(args, "seed", None),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    from importlib.metadata import version

    libraries = "numpy scipy scikit-learn skops torch torchaudio librosa av soxr panns-inference"
    ours = {"artist20": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in libraries.split()}


def ensure_caches() -> None:
    """Let libraries keep their caches where the user has no home folder, or not even a name.

    Without a folder for them librosa and numba cannot be imported, without a name torch makes no
    optimiser: containers run as users of whom nothing is known. No result depends on a cache.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
    # Not Path.home(), which fails where there is none.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    try:
        tempfile.TemporaryFile(dir=cache if cache.exists() else cache.parent).close()
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix="artist20-cache-")
        atexit.register(folder.cleanup)
        os.environ["XDG_CACHE_HOME"] = folder.name
        os.environ.setdefault("MPLCONFIGDIR", folder.name)
        print(
            f"{cache} cannot be written: libraries make their caches anew in every run, which "
            "takes seconds; XDG_CACHE_HOME names another folder for them",
            file=sys.stderr,
        )


def run(
    main: Callable[[], int | None], to_go_on: str = "run the same command again to go on"
) -> None:
    """Run a script's ``main`` and exit.

    A :class:`~artist20.UserError` becomes one line on stderr and exit status 2, and so do memory
    and disks that are too small; Ctrl-C and SIGTERM become exit status 130 and 143. Finished work
    is on disk by then. A reader of stdout that leaves (``| head``) ends the script without a word,
    with exit status 141.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    show_notes_in_a_line()
    ensure_caches()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log file shows how far the script is; a name that the terminal's encoding lacks is
        # written with escapes.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_stop_again, hook)
    try:
        status = _status(main, to_go_on)
    except Exception as error:
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)  # workers, which they hold, end in order
        status = 1
    sys.unraisablehook = hook
    for number in STOPS:  # all is written: nothing to tell any more
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        if worker.daemon:  # Python would wait for ever for what leaves signals to this process
            worker.kill()
    if "RANK" in os.environ:  # set by torchrun
        from artist20 import distributed

        distributed.leave()
    sys.exit(status)


def _status(main: Callable[[], int | None], to_go_on: str) -> int:
    """Run ``main``; return the exit status, when nothing that ``main`` made is held any more."""
    try:
        return main() or 0
    except DiskFullError as error:
        line = f"{error}; {to_go_on}"
    except UserError as error:
        line = str(error)
    except KeyboardInterrupt as interrupt:
        print(f"stopped; {to_go_on}", file=sys.stderr)
        return 143 if interrupt.args == (signal.SIGTERM,) else 130
    except MemoryError:
        line = NO_MEMORY
    except ModuleNotFoundError as error:
        line = packages.missing(error.name)
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except OSError as error:
        if error.filename is not None:
            line = f"{error.filename}: {error.strerror}"
        elif error.errno in NO_SPACE:  # files that are written here have names
            _silence_stdout()
            line = f"stdout or a log cannot be written: {error.strerror}"
        else:
            raise
    except RuntimeError as error:
        import torch

        from artist20 import distributed

        if isinstance(error, torch.OutOfMemoryError):
            line = f"{out_of_cuda_memory(error)}; try --device cpu"
        elif "can't allocate memory" in str(error):  # torch, on CPUs
            line = NO_MEMORY
        elif distributed.other_is_gone(error):
            line = f"another process is gone; {to_go_on}"
        else:
            raise
    print(f"error: {line}", file=sys.stderr)
    return 2


def out_of_cuda_memory(error: Exception) -> str:
    """Return what CUDA could not allocate, in a few words."""
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    return f"CUDA out of memory{f': tried to allocate {asked[1]}' if asked else ''}"


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block ends; keep them from processes started in it.

    Workers are to be started so, in the main thread. Stopped in the midst of that, their parent
    would know of some and end none. A signal to the whole process group, as Ctrl-C is, must not
    take the workers from a parent that is about to end them in order.
    """
    resource_tracker.ensure_running()  # its start among the workers' would let signals through
    came: list[int] = []
    before = {stop: signal.signal(stop, lambda number, _: came.append(number)) for stop in STOPS}
    # A new program has none of these handlers, but its signals are blocked where its parent's were.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for stop, handler in before.items():
            signal.signal(stop, handler)
        for number in came:
            signal.raise_signal(number)


def check_for_semaphores() -> None:
    """Refuse a ``/dev/shm`` that cannot hold what worker processes take turns by."""
    try:
        multiprocessing.Lock()
    except OSError as error:
        raise UserError(
            f"/dev/shm: {error.strerror}: worker processes need a few kilobytes there, so mount it "
            "writable and make space in it (docker run --tmpfs /dev/shm)"
        ) from None


def start_worker(_worker: int = 0) -> None:
    """Prepare a worker process: to be called first in each.

    It prints notes as the script does, and ends when its parent has ended. A parent that was killed
    ends none, and its workers would wait for ever for songs, or for theirs to be taken from them.
    """
    show_notes_in_a_line()
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    # Not until getppid() changes: the fork server starts workers that are another process's. In a
    # fork, younger siblings hold open what this waits for; but they wait, too, the youngest for the
    # parent alone.
    parent.join()
    os._exit(1)


def _stop_again(hook: Callable[..., object], unraisable: "sys.UnraisableHookArgs") -> None:
    """Repeat a stop that came where Python drops it: in a destructor, or in a C library's call."""
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        number = signal.SIGTERM if error.args == (signal.SIGTERM,) else signal.SIGINT
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
    else:
        hook(unraisable)


def show_notes_in_a_line() -> None:
    """Print a :class:`~artist20.Note` as one line, where Python names the code that warned."""
    usual = warnings.formatwarning

    def in_a_line(message: Warning | str, category: type[Warning], *at: Any, **more: Any) -> str:
        is_note = issubclass(category, Note)
        return f"note: {message}\n" if is_note else usual(message, category, *at, **more)

    warnings.formatwarning = in_a_line


def _silence_stdout() -> None:
    """Keep Python from trying once more to write what is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _raise_terminated(signal_number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(signal_number))
