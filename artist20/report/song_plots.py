"""Where in a song which artist is heard."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from matplotlib.figure import Figure

from artist20 import evaluation, printable, spectrogram
from artist20.checkpoints import EMBEDDING_FILES
from artist20.report.style import Drawing, Look, in_house_style, new_figure, readable
from artist20.results import Predictions, SongRecord, read_record
from artist20.trained import TrainedNetwork

N_RIVALS = 3
MADE_BY = "the network's training"
# Of a true artist, if there is one, and the rivals; told apart in grey print by their dashes.
TRUE_LINE: Look = {"color": "#0072B2", "linewidth": 2.6, "linestyle": "-", "zorder": 3}
RIVAL_LINES: tuple[Look, ...] = (
    {"color": "#D55E00", "linewidth": 1.6, "linestyle": "-"},
    {"color": "#009E73", "linewidth": 1.6, "linestyle": (0, (5, 1.5))},
    {"color": "#000000", "linewidth": 1.4, "linestyle": (0, (1, 1.5))},
)
MAX_COLUMNS = 600  # of a spectrogram
DYNAMIC_RANGE = 70.0  # dB
TICKS_HZ = (250, 500, 1000, 2000, 4000)

# What a caption says of a song that a network learnt from, or did not.
LEARNT = {
    "train": "It is one of the training songs, on which the network is flattered.",
    "val": "It is one of the validation songs.",
    "neither": "Going by its path, it is none of the songs of the network's training.",
    "unknown": "Whether the network was trained on it is not known: its folder has no lists of "
    "songs.",
}


def draw(
    file: Path, name: str, network: TrainedNetwork, folder: Path, heard_by: str
) -> Iterator[Drawing]:
    """Draw a song's spectrogram and whom the network hears over time; ``name`` is the picture's.

    The true artist is the folder above the album's, as in the data folder. The network's results
    folder may tell whether it was trained on the song; ``heard_by`` is its name for people, and
    which songs it was trained on. A file that cannot be read is an AudioError.
    """
    song = network.hear(file)
    artist = file.parent.parent.name
    columns = artists_shown(song.whole, network.classes, artist)
    shown = [network.classes[i] for i in columns]
    labels = [
        f"{readable(who)}{', the true artist' if who == artist else ''}: {share:.1%}"
        for who, share in zip(shown, song.whole[columns], strict=True)
    ]
    split = split_of(file, folder)
    learnt = ", this song among them" * (split == "train")
    yield Drawing(
        name,
        timeline(
            song.log_mel,
            song.duration,
            song.seconds,
            song.curve[:, columns],
            labels,
            has_true=artist in shown,
            title=f"{readable(printable(file.stem))}, as heard by {heard_by}{learnt}",
        ),
        f"Log-mel spectrogram of {printable(file.name)}, and the probability of {len(shown)} "
        f"artists in windows of {song.window_seconds:.1f} s, each drawn at its middle; the legend "
        f"has those of the whole song, as inference gives them. {LEARNT[split]} Made from "
        f"task2/{folder.name}/best.pt and the song.",
    )


def artists_shown(whole: np.ndarray, classes: Sequence[str], artist: str | None) -> list[int]:
    """Choose whom to draw: the true artist, if the network knows one, then the likeliest others."""
    ranked = evaluation.top_k(whole[None], len(whole))[0].tolist()
    true = [i for i in ranked if classes[i] == artist]
    return true + [i for i in ranked if classes[i] != artist][:N_RIVALS]


def split_of(file: Path, folder: Path) -> str:
    """Find a file in the lists of a run's songs by its last folders: a key of :data:`LEARNT`."""
    train_list, val_list = folder / EMBEDDING_FILES[2], folder / "val_predictions.json"
    if not (train_list.is_file() and val_list.is_file()):
        return "unknown"
    splits = {
        "train": read_record(train_list, list[SongRecord], MADE_BY),
        "val": read_record(val_list, Predictions, MADE_BY).songs,
    }
    for split, songs in splits.items():
        if any(f"/{file.as_posix()}".endswith(f"/{PurePosixPath(of.path)}") for of in songs):
            return split
    return "neither"


def picture_names(files: Sequence[Path]) -> list[str]:
    """Name a picture after each song, ``task2_song_<name>``; further songs of a name are numbered.

    What is no letter, digit, dot or dash becomes an underscore.
    """
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem = name = re.sub(r"[^\w.-]+", "_", file.stem)[:50]  # a name has 255 bytes
        number = 1
        while name.casefold() in taken:  # some file systems take capitals for small letters
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(f"task2_song_{name}")
    return names


@in_house_style
def timeline(
    log_mel: np.ndarray,
    duration: float,
    seconds: np.ndarray,
    curves: np.ndarray,
    labels: Sequence[str],
    *,
    has_true: bool,
    title: str,
) -> Figure:
    """Draw a song's log-mel spectrogram, and below it what artists are heard in it over time.

    ``log_mel`` is (n_frames, n_mels) in dB; ``seconds`` are the middles of windows, (n_windows,),
    and ``curves`` the artists' probabilities in them, (n_windows, n_artists). The legend has a
    label per artist; ``has_true`` says whether the first one is the song's own.
    """
    figure = new_figure(11, 6, title)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.15))
    columns, lowest, highest = spectrum(log_mel, MAX_COLUMNS)
    look: Look = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
    extent = (0, duration, 0, len(columns))
    above.imshow(columns, vmin=lowest, vmax=highest, extent=extent, **look)
    above.set_yticks(tick_bins(len(columns)), [f"{hz / 1000:g}" for hz in TICKS_HZ])
    above.set_ylabel("Frequency (kHz)")
    lines = (TRUE_LINE, *RIVAL_LINES) if has_true else RIVAL_LINES
    for curve, label, line in zip(curves.T, labels, lines, strict=False):
        alone = {"marker": "o", "markersize": 7} if len(seconds) == 1 else {}
        below.plot(seconds, 100 * curve, label=label, clip_on=False, **line, **alone)
    below.set(xlim=(0, duration), ylim=(0, 100), ylabel="Probability (%)")
    below.set_yticks(range(0, 101, 25))
    below.grid(axis="y")
    in_minutes = duration > 100
    if in_minutes:
        below.xaxis.set_major_formatter(lambda at, _: f"{at // 60:.0f}:{at % 60:02.0f}")
    below.set_xlabel("Time (min:s)" if in_minutes else "Time (s)")
    place: Look = {"loc": "outside lower left", "alignment": "left", "ncols": 2}
    figure.legend(title="In the song as a whole:", handlelength=2.6, **place)
    return figure


def spectrum(log_mel: np.ndarray, most: int) -> tuple[np.ndarray, float, float]:
    """Average neighbouring frames: (n_mels, n_columns) in dB; and the levels that colours span."""
    parts = np.array_split(log_mel.astype(np.float32), min(most, len(log_mel)))
    columns = np.array([part.mean(axis=0) for part in parts]).T
    highest = columns.max()
    return columns, highest - DYNAMIC_RANGE, max(highest, columns.min() + 1)


def tick_bins(n_mels: int) -> np.ndarray:
    """Place :data:`TICKS_HZ` among mel bins."""
    return np.interp(TICKS_HZ, spectrogram.mel_hz(n_mels), np.arange(n_mels) + 0.5)
