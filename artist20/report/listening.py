"""Pages to listen to songs on: player, spectrogram, and whom a network hears when.

A page is one HTML file that holds all it needs, sound included, and reaches for nothing else. How
it looks and what it does is in ``templates/listening.html.j2`` and ``listening.js``.
"""

import argparse
import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image
from tqdm import tqdm

from artist20 import UserError, audio, dataset, distributed, inference, printable, runtime
from artist20.checkpoints import SongVectors, TrainedModel, load_model, read_embeddings
from artist20.evaluation import top_k
from artist20.experiment import BEST, read_best
from artist20.report import compare, song_plots
from artist20.report.style import Drawing, Page, readable
from artist20.results import NetworkMetrics, Predictions, SongRecord, read_record
from artist20.trained import Heard, TrainedNetwork, load_network

TEMPLATES = Path(__file__).with_name("templates")
MAX_COLUMNS = 1200  # of a spectrogram


class ShownArtist(NamedTuple):
    """An artist in a page's table, and as a curve."""

    line: int  # which of the template's lines draws the curve
    name: str
    is_true: bool  # whether the song is the artist's
    rank: int  # in the song as a whole, from 1 on
    share: float  # probability in the song as a whole
    curve: list[float]  # and in each window
    mark: int  # the window where its letter stands on the curve


class Confused(NamedTuple):
    """A song with a high probability of a wrong artist."""

    song: SongRecord
    artist: str  # the wrong one
    share: float  # the probability
    similar: SongRecord  # that artist's most similar training song
    cosine: float  # of both songs' embeddings


@dataclass(frozen=True)
class Panel:
    """A song on a page: its heading and notes, whom a network hears in it, whose it is if known."""

    heading: str
    notes: list[str]
    song: Heard
    classes: Sequence[str]
    artist: str | None

    @property
    def artists(self) -> list[ShownArtist]:
        """The true artist, if known, and the likeliest others; likeliest first."""
        columns = song_plots.artists_shown(self.song.whole, self.classes, self.artist)
        ranks = top_k(self.song.whole[None], len(self.classes))[0].tolist()
        n_windows = len(self.song.curve)
        shown = [
            ShownArtist(
                line,
                readable(printable(self.classes[column])),
                self.classes[column] == self.artist,
                ranks.index(column) + 1,
                float(self.song.whole[column]),
                self.song.curve[:, column].astype(float).round(3).tolist(),
                # Letters share the song out, so that no two meet.
                (2 * line + 1) * n_windows // (2 * len(columns)),
            )
            for line, column in enumerate(columns)
        ]
        return sorted(shown, key=lambda of: of.rank)

    @property
    def sound(self) -> str:
        """The song as MP3, in base64."""
        return b64encode(audio.to_mp3(self.song.waveform)).decode()

    @property
    def picture(self) -> str:
        """The spectrogram as PNG, in base64."""
        columns, lowest, highest = song_plots.spectrum(self.song.log_mel, MAX_COLUMNS)
        levels = 255 * ((columns - lowest) / (highest - lowest)).clip(0, 1)
        image = Image.fromarray(levels[::-1].astype(np.uint8))
        image.putpalette((255 * colormaps["magma"](range(256))[:, :3]).astype(np.uint8).tobytes())
        buffer = BytesIO()
        image.save(buffer, "PNG", optimize=True)
        return b64encode(buffer.getvalue()).decode()

    @property
    def frequencies(self) -> list[tuple[float, float]]:
        """Frequencies in kHz to be marked on the axis; how high each is, from 0 to 1."""
        n_mels = self.song.log_mel.shape[1]
        bins = song_plots.tick_bins(n_mels)
        return [(hz / 1000, at / n_mels) for hz, at in zip(song_plots.TICKS_HZ, bins, strict=True)]


def render(title: str, about: str, groups: Iterable[tuple[str, Sequence[Panel]]]) -> str:
    """Write a page of groups of songs that stand side by side, each below a heading or ``""``."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,  # names of songs and artists may be anything
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clock"] = lambda seconds: "{}:{:02}".format(*divmod(round(seconds), 60))
    script = (TEMPLATES / "listening.js").read_text(encoding="utf-8")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("listening.html.j2").render(
        title=title, about=about, groups=groups, script=Markup(script), digest=digest
    )


def song_page(
    file: Path,
    notes: list[str],
    network: TrainedNetwork,
    checkpoint: TrainedModel,
    artist: str | None,
) -> str:
    """Write the page of one song; raises as :func:`artist20.audio.open_song`."""
    title = f"{song_name(file)}, as heard by {checkpoint.settings.title}"
    shown = Panel("", notes, network.hear(file), network.classes, artist)
    return render(title, f"Network {inference.describe(checkpoint)}.", [("", [shown])])


def song_name(file: Path | str) -> str:
    """Name a song for people by its file."""
    return readable(printable(Path(file).stem))


def most_confused(
    predictions: Predictions, model: str, vectors: SongVectors, most: int
) -> list[Confused]:
    """Find the validation songs with the highest probability of a wrong artist, that one first."""
    from sklearn.preprocessing import normalize  # seconds to import, and other pages need none

    wrong = predictions.scores[model].copy()
    wrong[np.arange(len(wrong)), predictions.labels] = 0
    train, val = normalize(vectors.train), normalize(vectors.val)
    artists = np.array([song.artist for song in vectors.train_songs])
    found = []
    for i in np.argsort(-wrong.max(axis=1), kind="stable")[:most]:
        rival = predictions.classes[wrong[i].argmax()]
        cosines = np.where(artists == rival, train @ val[i], -np.inf)
        similar = vectors.train_songs[cosines.argmax()]
        found.append(Confused(predictions.songs[i], rival, wrong[i].max(), similar, cosines.max()))
    return found


# --- report scripts ----------------------------------------------------------------------------


def parts(
    args: argparse.Namespace, folder: Path, made_by: str
) -> list[Callable[[], Iterator[Drawing | Page]]]:
    """Load a network; list what is to be made of the songs of --song, or by --confused.

    ``args`` are of :func:`artist20.cli.add_song_options`; ``folder`` is the network's results
    folder, and ``made_by`` the command that trains it, for messages.
    """
    if args.html and not args.song:
        raise UserError("--html goes with --song: name the song")
    checkpoint = load_model(folder / BEST, TrainedModel, made_by)
    device, weights = runtime.choose_device("auto"), getattr(args, "encoder_weights", None)
    network = load_network(folder / BEST, checkpoint, device, weights)
    if args.confused:
        return [partial(_confused, args, folder, made_by, network, checkpoint)]
    heard_by = f"{checkpoint.settings.title}, trained on {checkpoint.trained_on}"

    def make(file: Path, name: str) -> Iterator[Drawing | Page]:
        if args.html:
            artist, split = file.parent.parent.name, song_plots.split_of(file, folder)
            notes = [song_plots.LEARNT[split]]
            yield Page(name, song_page(file, notes, network, checkpoint, artist))
        else:
            yield from song_plots.draw(file, name, network, folder, heard_by)

    files = list(dict.fromkeys(path.resolve() for path in args.song))
    names = song_plots.picture_names(files)
    return [partial(make, file, name) for file, name in zip(files, names, strict=True)]


def _confused(
    args: argparse.Namespace,
    folder: Path,
    made_by: str,
    network: TrainedNetwork,
    checkpoint: TrainedModel,
) -> Iterator[Page]:
    """Write the page of --confused."""
    metrics = read_record(folder / "metrics.json", NetworkMetrics, made_by)
    predictions = read_record(folder / "val_predictions.json", Predictions, made_by)
    compare.check_reached(folder, metrics.model, metrics, predictions, made_by)
    read_best(folder, metrics, f"{made_by} --overwrite")  # which refuses one of another run
    vectors = read_embeddings(folder, metrics, predictions.songs, made_by)

    def hear(song: SongRecord, note: str) -> Panel:
        file = dataset.parse_song(args.audio_root or args.data_dir, song.path).file
        if not file.is_file():
            raise UserError(f"{file} is missing: name the data folder with --data-dir")
        heading = f"{song_name(file)}, by {readable(printable(song.artist))}"
        return Panel(heading, [note], network.hear(file), network.classes, song.artist)

    found = most_confused(predictions, metrics.model, vectors, args.confused)

    def pairs() -> Iterator[tuple[str, list[Panel]]]:
        for of in tqdm(found, "songs", disable=distributed.quiet(), leave=False):
            name = readable(printable(of.artist))
            note = f"The training song of {name} that is most like it (cosine {of.cosine:.2f})."
            heard = [hear(of.song, "One of the validation songs."), hear(of.similar, note)]
            yield f"{song_name(of.song.path)}: {of.share:.0%} for {name}", heard

    title = f"Songs in which {checkpoint.settings.title} hears another artist"
    about = (
        f"Of {len(predictions.songs)} validation songs the {len(found)} with the highest "
        f"probability of a wrong artist. Network {inference.describe(checkpoint)}."
    )
    yield Page(f"task2_confused_songs_{metrics.model}", render(title, about, pairs()))
