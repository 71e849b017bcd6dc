"""Music artist recognition on artist20: the code that the stage scripts share."""

from __future__ import annotations

from pathlib import Path

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


def printable(name: str | Path) -> str:
    """Write a file's name so that it stays on one line, and any terminal can show it.

    Line breaks, control characters and bytes that are no UTF-8 come out as escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))
