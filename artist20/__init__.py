"""Music artist recognition on artist20: the code that the stage scripts share."""

import atexit
import getpass
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType

__version__ = "0.1.0"

MAX_LINE = 10_000  # characters of an error's line; two paths can have 8,192


class UserError(Exception):
    """A mistake of the user's that one line can explain.

    Its message names the file and what to do. Scripts print it without a traceback and exit with
    status 2.
    """

    def __str__(self) -> str:
        """Return the message; of a line that a file's content made endless, both its ends."""
        half = MAX_LINE // 2
        return "\n".join(
            f"{line[:half]} ... {line[-half:]}" if len(line) > MAX_LINE else line
            for line in super().__str__().split("\n")
        )


class Note(UserWarning):
    """Something odd about a user's file that one line tells; work goes on.

    Scripts print ``note:`` and the message to stderr.
    """


def _stopped_early(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Say in one line that Ctrl-C came before :func:`artist20.cli.run`: imports take seconds."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped before it began", file=sys.stderr)
        sys.exit(130)
    sys.__excepthook__(kind, error, traceback)


sys.excepthook = _stopped_early


def printable(name: str | Path) -> str:
    """Write a file's name so that it stays on one line, and any terminal can show it.

    Line breaks, control characters and bytes that are no UTF-8 come out as escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


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


ensure_caches()  # before any of these libraries is imported
