"""Where packages are missing, or Ctrl-C comes, one line says so: what every script imports first.

``--help`` then still prints what the script does. Python 3.7 and later can run this file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
_usual_hook = sys.excepthook


def missing(name: str | None) -> str:
    """Return the line on a package that this Python does not have."""
    return _remedied(f"{sys.executable} has no package {name}")


def _remedied(problem: str) -> str:
    return (
        f"{problem}: run 'make setup' and 'source .venv/bin/activate', or 'pip install -r "
        f"requirements.txt', in {ROOT}"
    )


def _stop(line: str) -> NoReturn:
    """End the script; --help gets as far as that goes without its options."""
    if {"-h", "--help"}.isdisjoint(sys.argv):
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    print(f"{sys.modules['__main__'].__doc__}\nIts options are not listed: {line}")
    sys.exit(0)


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError):
        _stop(missing(error.name))
    if isinstance(error, KeyboardInterrupt):  # before runtime.run, which is still to be imported
        print("stopped before it began", file=sys.stderr)
        sys.exit(130)
    _usual_hook(kind, error, trace)


_program = Path(getattr(sys.modules["__main__"], "__file__", None) or "/").resolve()
if {_program.parent, _program.parent.parent} & {ROOT, ROOT / "artist20"}:  # nobody else's
    sys.excepthook = _hook
    if sys.version_info < (3, 11):  # noqa: UP036 - python3 often is an older one
        _stop(_remedied(f"Python 3.11 or later is needed, {sys.executable} is older"))
