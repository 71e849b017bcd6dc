"""The figures' house style: fonts, colours, names for people, and how pictures are written.

Nothing here touches pyplot's global state.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple, ParamSpec

from matplotlib import font_manager, rcParams, style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from PIL import Image

from artist20 import Note, UserError
from artist20.files import DiskFullError, atomic_path, write_text

P = ParamSpec("P")
Look = dict[str, Any]  # keywords of matplotlib's functions

FONT = "DejaVu Sans"  # comes with matplotlib: the same picture on every machine
STYLE = {
    "font.family": FONT,
    "font.size": 12,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "figure.constrained_layout.w_pad": 0.12,  # inches
    "figure.constrained_layout.h_pad": 0.08,
    "text.parse_math": False,  # an artist's name may hold dollar signs
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's default, Type 3
    "svg.hashsalt": "artist20",  # names of parts are drawn at random without it
}

# Each pair differs in lightness too, so that a grey print keeps it apart.
TOP1_COLOUR = "#3B7FBF"
TOP3_COLOUR = "#B5D5EF"
ORANGE = "#D98A29"
INK = "#222222"
FAINT = "#666666"
# Okabe and Ito's colours (2008), told apart with any colour vision, without the yellow, which is
# lost on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P")

MARGIN = 0.2  # inches
DPI = 150  # of a PNG
MOST_LETTERS = 40  # of a name
LETTER = 0.09  # inches, the mean width in the font size of labels

# What would name the program and the time: the same figure is the same bytes.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Creator": None, "Date": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


class Drawing(NamedTuple):
    """A figure, the name of its file without suffix, and its caption."""

    name: str
    figure: Figure
    caption: str


class Page(NamedTuple):
    """An HTML page, and the name of its file without suffix."""

    name: str
    html: str


def in_house_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in :data:`STYLE`, whatever the user's matplotlibrc says.

    Letters that :data:`FONT` lacks are drawn in installed fonts that have them.
    """

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _house_style():
            figure = draw(*args, **kwargs)
            if letters := _letters_beyond_font(figure):
                rcParams["font.family"] = [FONT, *_fonts_with(letters)[0]]
                figure = draw(*args, **kwargs)
        return figure

    return in_style


@contextmanager
def _house_style() -> Iterator[None]:
    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        # Of each missing letter by itself: save_all names them together.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        # Of each font that has no bold.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        yield


def _letters_beyond_font(figure: Figure) -> frozenset[str]:
    """Collect the letters in a figure that FONT lacks."""
    known = get_font(findfont(FontProperties(family=FONT))).get_charmap()
    written = {letter for text in figure.findobj(Text) for letter in text.get_text()}
    return frozenset(c for c in written if c.isprintable() and ord(c) not in known)


@cache
def _fonts_with(letters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Choose installed fonts that have these letters, Noto's first; return those that none has."""
    if not letters:
        return [], letters
    listed = {entry.fname for entry in fontManager.ttflist}
    for file in sorted({*font_manager.findSystemFonts()} - listed):  # newer than matplotlib's list
        with suppress(OSError, RuntimeError):  # of fonts that it cannot draw
            fontManager.addfont(file)
    files = {e.name: e.fname for e in fontManager.ttflist if not e.name.startswith("Last Resort")}
    chosen = []
    for name in sorted(files, key=lambda name: (not name.startswith("Noto Sans"), name)):
        known = get_font(files[name]).get_charmap()
        if found := {letter for letter in letters if ord(letter) in known}:
            chosen.append(name)
            letters -= found
    return chosen, letters


def new_figure(width: float, height: float, title: str) -> Figure:
    """Make a figure of that many inches, and as much higher as the wrapped title needs."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    heading = figure.suptitle(title, x=MARGIN / width, ha="left", wrap=True)
    figure.set_figheight(height + heading.get_window_extent().height / figure.dpi)
    return figure


def add_footnote(figure: Figure, words: str) -> None:
    """Write small print below all axes, wrapped to the figure's width."""
    x = MARGIN / figure.get_figwidth()
    figure.supxlabel(words, x=x, ha="left", fontsize=10, color=FAINT, wrap=True)


def text_width(words: str, size: float, weight: str) -> float:
    """Compute the width of a line of text in inches."""
    path = TextPath((0, 0), words, size=size, prop=FontProperties(weight=weight))
    return float(path.get_extents().width) / 72


def readable(name: str) -> str:
    """Write an artist's or a song's name for people; a very long one loses its middle."""
    name, half = name.replace("_", " "), MOST_LETTERS // 2
    return name if len(name) <= MOST_LETTERS else f"{name[:half]}…{name[1 - half :]}"


def wrapped(title: str, characters: int) -> str:
    """Break a model's title into lines, but not between a number and its unit."""
    return fill(title.replace(" s segments", "\N{NO-BREAK SPACE}s segments"), characters)


def save(figure: Figure, path: Path, caption: str) -> None:
    """Write a figure and its caption, each atomically; the same figure gives the same bytes.

    The suffix of ``path`` is the format, one of :data:`METADATA`. The caption goes to a ``.txt``
    beside it: what is seen, and which files of the results folder it was made from.
    """
    with atomic_path(path) as picture:
        with _house_style():
            figure.savefig(picture, dpi=DPI, metadata=METADATA[path.suffix])
        if path.suffix == ".png":  # a palette makes it a third as large
            with Image.open(picture) as image:
                reduced = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
                reduced.save(picture, dpi=(DPI, DPI), optimize=True)
    write_text(path.with_suffix(".txt"), f"{caption}\n")


def save_all(
    parts: Iterable[Callable[[], Iterable[Drawing | Page]]], folder: Path, file_format: str
) -> int:
    """Draw and write what there are results for; return the script's exit status.

    A part that raises a UserError is left out, with what it would have yielded next: it is named,
    and the status is 1. If there are no results for any figure, the first part's error is raised; a
    full disk is an error at once.
    """
    missing: list[UserError] = []
    lost: set[str] = set()
    n_written = 0
    for part in parts:
        try:
            for made in part():
                n_written += 1
                if isinstance(made, Page):
                    path = folder / f"{made.name}.html"
                    write_text(path, made.html)
                    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
                else:
                    path = folder / f"{made.name}.{file_format}"
                    save(made.figure, path, made.caption)
                    print(f"wrote {path}")
                    lost |= _fonts_with(_letters_beyond_font(made.figure))[1]
        except DiskFullError:  # what comes next has no space, either
            raise
        except UserError as error:
            missing.append(error)
    if lost:
        letters = " ".join(sorted(lost)[:MOST_LETTERS])
        note = (
            f"no installed font has {letters}: figures have boxes in their place; install one "
            "that has, Noto Sans CJK for Chinese, Japanese and Korean, else Noto Sans of their "
            "script, and run the same command again"
        )
        warnings.warn(Note(note), stacklevel=2)
    if missing and not n_written:
        raise missing[0]
    for message in dict.fromkeys(map(str, missing)):
        print(f"left out: {message}")
    return 1 if missing else 0
