"""Music artist recognition on artist20: the code that the stage scripts share."""

import sys
from pathlib import Path
from types import TracebackType

__version__ = "0.1.0"


class UserError(Exception):
    """A mistake of the user's that one line can explain.

    Its message names the file and what to do. Scripts print it without a traceback and exit with
    status 2.
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
