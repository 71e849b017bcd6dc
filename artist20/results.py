"""The records that stages hand one another, how each is read and written, and where each lies.

A record is a frozen :class:`msgspec.Struct`: reading a file checks every field, and a file that is
not what it should be is one line that names the file, the field and the stage to run again.
"""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, dataclass_transform, get_args

import msgspec
import numpy as np
from msgspec import Meta

from artist20 import UserError, naming
from artist20.files import parse_json, read_bytes, write_json
from artist20.naming import NOT_LEARNT_MARK, UNTRAINED_MARK

RESULTS_DIR = Path("results")  # where stages hand each other what they make, unless told otherwise
N_FOLDS = 5  # of cross-validation by album
NEARLY_ALL = 0.9  # a network that gives this share of songs to one artist has learnt nothing
HOMEWORK_EPOCHS = 100  # of both networks

Share = Annotated[float, Meta(ge=0, le=1)]  # of songs
Count = Annotated[int, Meta(ge=0)]
NonNegative = Annotated[float, Meta(ge=0)]  # which NaN is not
Seconds = NonNegative
Interval = tuple[float, float]
Verdict = Literal["better", "worse", "no significant difference"]
Precision = Literal["float32", "bfloat16"]
Solver = Literal["logistic regression", "shrinkage LDA", "nearest centroid"]
Fold = Literal["album", "song"]  # what stays whole in cross-validation
Level = Literal["song", "segment"]  # what a row of Task 1's features is
Breadth = Literal["homework", "wide"]  # of a search, see :func:`artist20.classical.make_grids`
RecipeName = Literal["homework", "strong"]  # how a network of Task 2 is trained
TASK1_LEVELS, TASK1_SEARCHES, RECIPES = map(get_args, (Level, Breadth, RecipeName))
Value = bool | int | float | str | None
Params = dict[str, Value]  # of a scikit-learn model


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True):
    """Base of all records."""


# --- where records lie -------------------------------------------------------------------------


def task1_dir(
    results_dir: Path, level: str = "song", rendition: str | None = None, search: str = "homework"
) -> Path:
    """Folder of Task 1's features, models and metrics; other models than the homework's, within."""
    folder = results_dir / f"task1{naming.rendition_suffix(rendition)}"
    folder /= "wide" if search == "wide" else ""
    return folder / ("segment" if level == "segment" else "")


def network_dir(
    results_dir: Path, model: str, recipe: str = "homework", rendition: str | None = None
) -> Path:
    """Folder of a network of Task 2: checkpoints, metrics, predictions; folds go within."""
    return results_dir / "task2" / naming.network_name(model, recipe, rendition)


def ensemble_dir(results_dir: Path) -> Path:
    """Folder of the models' combination: weights, metrics, predictions."""
    return results_dir / "ensemble"


def cache_dir(results_dir: Path) -> Path:
    """Folder of what was computed once per song; see :mod:`artist20.cache`."""
    return results_dir / "cache"


def results_dir_option(results_dir: Path) -> str:
    """Write the option that names a results folder other than the default, for commands."""
    return "" if results_dir == RESULTS_DIR else f" --results-dir {shlex.quote(str(results_dir))}"


# --- songs and where figures come from ---------------------------------------------------------


class SongRecord(Record, kw_only=True):
    """One labelled song."""

    path: str  # as the split list names it, such as ``"./train_val/queen/Jazz/01-Mustapha.mp3"``
    artist: str  # the two folders above the file
    album: str

    @property
    def group(self) -> str:
        """``"artist/album"``: what cross-validation keeps whole."""
        return f"{self.artist}/{self.album}"


def groups_of(songs: Iterable[SongRecord]) -> np.ndarray:
    """Collect the songs' ``"artist/album"``: (n_songs,)."""
    return np.array([song.group for song in songs])


class Dataset(Record, kw_only=True):
    """The songs that figures are of."""

    # ``artist20`` for artist20's own lists, else what ``dataset.json`` or the folder says
    name: str
    synthesised: bool  # whether the songs are the demo's
    # SHA-256 over the songs' paths and contents: equal for equal data, on any machine
    fingerprint: str
    # the same over the training songs, with those that a fold holds out: equal for all folds and
    # for the run on all training songs
    train_fingerprint: str = ""
    artists: Count  # how many there are
    train: Count
    val: Count
    limit: int | None = None  # the stage's --limit
    unreadable: dict[str, str] = {}  # by path, why songs were left out

    @property
    def label(self) -> str:
        """Its name for titles; synthesised songs are said to be."""
        return self.name + (" (synthesised songs)" if self.synthesised else "")

    @property
    def identity(self) -> str:
        """A line that other songs do not share."""
        return f"{self.name}, {self.train} + {self.val} songs, {self.fingerprint[:16]}"

    @property
    def is_artist20(self) -> bool:
        """Whether this is artist20 itself and whole, not a stand-in for it."""
        return self.name == "artist20" and not self.synthesised and self.limit is None


class Rendition(Record, kw_only=True):
    """A tree of ``--audio-root``, whose files were heard in place of the data folder's own."""

    name: str  # see :func:`artist20.naming.rendition_name`
    fingerprint: str  # SHA-256 over the songs' paths and the contents of the tree's files


class Provenance(Record, kw_only=True):
    """Where a file comes from."""

    command: str  # the command line, as one would type it
    device: str  # what computed
    seconds: Seconds  # how long
    versions: dict[str, str]  # of Python and the libraries
    seed: int | None = None  # ``--seed``, of stages that have one


class Accuracy(Record, kw_only=True):
    """Shares of the songs whose artist is the best guess, or among the best three."""

    top1: Share
    top3: Share


class Quality(Accuracy, kw_only=True):
    """Accuracy, and the mean of -log p(true artist) in nats."""

    log_loss: float


# --- Task 1 ------------------------------------------------------------------------------------


class Preprocessing(Record, kw_only=True):
    """``task1/preprocessing.json``, written when all arrays are there."""

    dataset: Dataset
    arrays: dict[str, str]  # by file name the SHA-256 of each array
    feature_version: int  # see :data:`artist20.features.VERSION`
    rendition: Rendition | None = None  # what was heard, if not the data folder's own files
    provenance: Provenance


class Segments(Record, kw_only=True):
    """How songs are cut for models of segments."""

    seconds: Annotated[float, Meta(gt=0)]  # a segment's length
    covariance: bool  # whether the MFCCs' covariances are features; modulation always is


class Candidate(Record, kw_only=True):
    """One point of a grid in cross-validation."""

    params: Params  # the model's parameters
    mean: float  # of top-1 over the folds, by which points are chosen, as scikit-learn does
    std: float
    folds: list[float]  # top-1 in each
    top1: Share  # of all songs together, which is what tables show
    stopped_early: Count = 0  # folds whose fit reached its largest number of steps


class FitSettings(Record, kw_only=True):
    """What every fit of Task 1 depends on."""

    dataset: str  # :attr:`Dataset.identity`
    features: str  # SHA-256 of the array that rows are made of
    cv: Fold  # what stays whole in cross-validation
    seed: int
    segments: Segments | None = None  # how songs are cut, if rows are segments
    search: Breadth = "homework"


class SearchSettings(FitSettings, kw_only=True):
    """What a model's search depends on."""

    grid: list[dict[str, list[Value]]]  # parameters and their values
    steps: list[str]  # before the classifier, at the grid's first point, and the classifier


class Search(Record, kw_only=True):
    """``task1/search_<model>.json``: a model's search, and what was found."""

    settings: SearchSettings
    seconds: Seconds
    candidates: Annotated[list[Candidate], Meta(min_length=1)]  # best first
    folds_by: dict[Fold, Candidate | None]  # the best one, under both kinds of folds
    temperature: Annotated[float, Meta(gt=0)]  # see :func:`artist20.evaluation.fit_temperature`


class SegmentSearchSettings(FitSettings, kw_only=True):
    """What the choice of the segments depends on."""

    seconds: list[float]  # what is tried
    covariance: list[bool]
    chooser: str  # the model that it is tried with
    point: Params  # its parameters


class SegmentSearch(Record, kw_only=True):
    """``task1/segment/search_segments.json``: which segments were tried."""

    settings: SegmentSearchSettings
    candidates: list[Candidate]  # whose params are the fields of :class:`Segments`


class Task1Settings(Record, kw_only=True):
    """What Task 1's models of a level have in common."""

    cv: Fold  # what stays whole in cross-validation
    folds: Count  # how many
    unseen_in_cv: Count  # training songs that count as wrong: their artist has no other album
    arrays: dict[str, str]  # :attr:`Preprocessing.arrays` of the features
    segments: Segments | None = None  # how songs are cut, if rows are segments
    search: Breadth = "homework"


class Task1Model(Quality, kw_only=True):
    """What one of Task 1's models reached on the validation songs, and in cross-validation."""

    calibration_error: float  # see :func:`artist20.evaluation.calibration_error`
    cv_top1: Share  # of all songs together
    cv_std: float  # over the folds
    cv_top1_by: dict[Fold, Share | None]  # under both kinds of folds
    params: Params  # the model's parameters
    temperature: float
    seconds: Seconds  # of the search


class Task1Metrics(Record, kw_only=True):
    """``metrics.json`` in a folder of :func:`task1_dir`."""

    models: dict[str, Task1Model]  # by name
    left_out: dict[str, str]  # why models could not be fitted
    best_in_cv: str  # a key of ``models``
    settings: Task1Settings
    dataset: Dataset
    rendition: Rendition | None = None  # :attr:`Preprocessing.rendition`
    audio_root: str | None = None  # where that was then
    provenance: Provenance
    untrained: ClassVar[bool] = False  # there is no encoder that could have random weights

    def __post_init__(self) -> None:
        """Check that models are known, and the best one is among them."""
        unknown = (self.models.keys() | self.left_out.keys()) - naming.TITLES.keys()
        if unknown:
            raise ValueError(f"unknown models {', '.join(sorted(unknown))}")
        if self.best_in_cv not in self.models:
            raise ValueError(f"best_in_cv {self.best_in_cv!r} is none of the models")

    @property
    def names(self) -> dict[str, str]:
        """The models: as tables and options call them -> as the folder's own files do."""
        suffix = "_of_segments" if self.settings.segments else ""
        suffix += "_wide" if self.settings.search == "wide" else ""
        suffix += naming.rendition_suffix(self.heard)
        return {f"{name}{suffix}": name for name in self.models}

    def title(self, name: str) -> str:
        """Return a model's name for people."""
        return naming.title(name) + self.described

    @property
    def described(self) -> str:
        """What tells these models from the homework's, with a comma before it."""
        segments = self.settings.segments
        cut = f", {segments.seconds:g} s segments" if segments else ""
        wide = ", wide search" if self.settings.search == "wide" else ""
        return cut + wide + (f", on {self.heard}" if self.heard else "")

    @property
    def of_homework(self) -> bool:
        """Whether rows and grids are the homework's: songs, and not the wide search's."""
        return not self.settings.segments and self.settings.search == "homework"

    @property
    def heard(self) -> str | None:
        """See :attr:`Settings.heard`."""
        return self.rendition.name if self.rendition else None

    @property
    def folds_by_album(self) -> bool:
        """Whether cross-validation held whole albums out."""
        return self.settings.cv == "album"


class AblationSettings(FitSettings, kw_only=True):
    """What an ablation depends on."""

    model: str  # that was best in cross-validation
    params: Params


class Family(Record, kw_only=True):
    """What a family of features is worth."""

    n_features: Count
    without: float | None  # top-1 in cross-validation, where it can be measured
    alone: float | None
    lost: float  # top-1 on the validation songs that is lost when the family is shuffled
    lost_std: float


class Ablation(Record, kw_only=True):
    """``task1/ablation.json``; ``complete`` when all families are in it."""

    settings: AblationSettings
    complete: bool
    families: dict[str, Family]


# --- Task 2 ------------------------------------------------------------------------------------


class TransferRecipe(Record, tag="transfer", tag_field="kind", kw_only=True):
    """How a classifier on a frozen encoder's embeddings is made and trained."""

    epochs: Annotated[int, Meta(ge=1)]  # the options of these names
    batch_size: Annotated[int, Meta(ge=1)]
    lr: Annotated[float, Meta(gt=0)]
    crop_seconds: Annotated[float, Meta(gt=0, le=3600)] | None  # None: the encoder's own window
    views: Annotated[int, Meta(ge=1)] | None  # augmented ones; None: training is on plain windows
    windows: Annotated[int, Meta(ge=1)] | None
    # what finds the weights: epochs of an optimizer, or :mod:`artist20.linear` at once
    solver: Literal["epochs"] | Solver
    temperature: Annotated[float, Meta(gt=0)]  # see :class:`artist20.models.EmbeddingMLP`
    hidden: tuple[Annotated[int, Meta(ge=1, le=65536)], ...]  # units of its hidden layers
    pooled: bool  # whether a song is one row, its windows' mean and deviation, or a row per window
    select: bool  # whether the epoch is chosen on the validation songs, or else the last one
    optimizer: str  # names; the script makes them
    schedule: str
    dropout: Annotated[float, Meta(ge=0, lt=1)]
    weight_decay: float
    warmup_epochs: Count  # of linearly growing learning rate, before the cosine
    plateau_factor: float  # of the schedule on a plateau
    plateau_patience: Count


class ResNetRecipe(Record, tag="resnet", tag_field="kind", kw_only=True):
    """How the residual CNN is made and trained."""

    # Bounds are far beyond any sense: a file that says more would ask for all memory.
    epochs: Annotated[int, Meta(ge=1)]  # the options of these names
    batch_size: Annotated[int, Meta(ge=1)]
    lr: Annotated[float, Meta(gt=0)]
    crop_seconds: Annotated[float, Meta(gt=0)]
    crops_per_song: Annotated[int, Meta(ge=1)]  # random crops of every song in an epoch
    warmup_epochs: Count  # of linearly growing learning rate, before the cosine
    # see :class:`artist20.spectrogram.FrontEnd`
    n_fft: Annotated[int, Meta(ge=2, le=2**16, multiple_of=2)]
    n_mels: Annotated[int, Meta(ge=1, le=1024)]
    width: Annotated[int, Meta(ge=1, le=1024)]  # see :class:`artist20.models.ArtistResNet`
    # whether pooling is over time alone, so that the hidden layer knows at which frequency
    # something was
    keep_frequency: bool
    bins_per_band: Annotated[int, Meta(ge=1)]  # mel bins that are averaged for the convolutions
    # share of a window's answer, outside training, that :class:`artist20.models.TimeStatistics`
    # gives on a shortcut around the convolutions
    lda_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    # share of a song's answer that it gives of windows :data:`artist20.models.LONG` times as long,
    # see :func:`artist20.training.predict_songs`
    long_lda_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    # whether crops are to sound as if of other albums, see
    # :class:`artist20.augment.AlbumDifferences`; runs from before it had none
    other_albums: bool = False
    dropout: Annotated[float, Meta(ge=0, lt=1)]  # of the hidden layer
    weight_decay: float
    label_smoothing: float
    mixup_alpha: float
    noise_probability: float  # share of the crops that noise is added to; scored songs have none
    noise_snr_db: tuple[float, float]  # between which its level is drawn
    select: bool  # whether the epoch is chosen on the validation songs, or else the last one

    def __post_init__(self) -> None:
        """Check that bins make whole bands."""
        if self.n_mels % self.bins_per_band:
            raise ValueError(f"{self.n_mels} mel bins do not make bands of {self.bins_per_band}")


class EncoderSettings(Record, kw_only=True):
    """A frozen encoder."""

    name: str  # of :mod:`artist20.encoders`
    weights: str  # their SHA-256, or ``"untrained, seed N"``
    sample_rate: Annotated[int, Meta(ge=1)]  # of the waveforms that it takes, in Hz

    @property
    def pretrained(self) -> bool:
        """Whether the weights are the published ones."""
        return not self.weights.startswith("untrained")


class Settings(Record, kw_only=True):
    """Everything that the result of a training depends on."""

    recipe_name: RecipeName
    recipe: TransferRecipe | ResNetRecipe
    encoders: list[EncoderSettings] = []  # of a classifier on their embeddings, side by side
    precision: Precision  # what an encoder's and the ResNet's products are computed in
    patience: int | None = None  # ``--patience``
    dataset: str  # :attr:`Dataset.identity`
    rendition: Rendition | None = None  # what was heard, if not the data folder's own files
    also_train_on: str | None = None  # fingerprint of the alternate versions of the training songs
    fold: int | None = None  # which fold's albums are held out
    seed: int

    @property
    def heard(self) -> str | None:
        """The name of the tree that was heard; None for the data folder's own files."""
        return self.rendition.name if self.rendition else None

    @property
    def untrained(self) -> bool:
        """Whether an encoder has random weights: figures then mean nothing."""
        return not all(encoder.pretrained for encoder in self.encoders)

    @property
    def title(self) -> str:
        """The network's name for people."""
        model = "+".join(encoder.name for encoder in self.encoders) or "resnet"
        name = naming.network_name(model, self.recipe_name, self.heard)
        return naming.title(name) + self.shortened + UNTRAINED_MARK * self.untrained

    @property
    def shortened(self) -> str:
        """That the homework's recipe was cut short, with a comma before it."""
        cut = self.recipe_name == "homework" and self.recipe.epochs < HOMEWORK_EPOCHS
        return f", {self.recipe.epochs} of {HOMEWORK_EPOCHS} epochs" if cut else ""


class Learning(Record, kw_only=True):
    """What shows whether a training taught its network anything."""

    train_loss: NonNegative  # of the last epoch, in nats
    chance_loss: NonNegative  # ln(number of artists): what equal probabilities cost
    most_guessed: str  # the artist who is the best guess for most validation songs
    guessed: Share  # of the validation songs that are taken for this artist's
    own: Share  # of the validation songs that are this artist's
    top1: Share  # of the validation songs, by the epoch that is reported
    commonest: Share  # of the validation songs that are of the artist with most of them

    @property
    def failure(self) -> str | None:
        """Why the network has learnt nothing, if so."""
        # Where LDA answers too, the convolutions' training loss is not all there is to learning.
        if self.train_loss >= self.chance_loss and self.top1 < 2 * self.commonest:
            return (
                f"the training loss of the last epoch, {self.train_loss:.3f}, is no lower than the "
                f"{self.chance_loss:.3f} of equal probabilities"
            )
        if self.guessed >= NEARLY_ALL > self.own:
            return (
                f"{self.guessed:.0%} of the validation songs are taken for {self.most_guessed}'s, "
                f"who made {self.own:.0%}"
            )
        if self.top1 <= self.commonest < NEARLY_ALL:
            return (
                f"top-1 of {self.top1:.1%} of the validation songs is no more than naming one "
                f"artist throughout reaches, {self.commonest:.1%}"
            )
        return None


class NetworkMetrics(Accuracy, kw_only=True):
    """``task2/<model>/metrics.json``, written last: whoever reads it finds all other files."""

    model: str  # its name, see :func:`artist20.naming.network_name`
    epoch: Annotated[int, Meta(ge=1)]  # of the weights in ``best.pt``, of ``top1`` and ``top3``
    last: Accuracy  # of the last epoch
    # what parts of the network reach alone, by the ending of their names
    parts: dict[str, Accuracy] = {}
    learning: Learning
    parameters: Count  # that were trained
    window_seconds: float | None = None  # of a ResNet
    epochs_seconds: Seconds  # of all epochs together
    settings: Settings
    dataset: Dataset
    audio_root: str | None = None  # where the tree of ``settings.rendition`` was then
    # SHA-256 of each of :data:`artist20.checkpoints.EMBEDDING_FILES`; a fold has none
    embeddings: dict[str, str] | None = None
    provenance: Provenance
    folds_by_album: ClassVar[bool] = True  # see :attr:`Task1Metrics.folds_by_album`

    def __post_init__(self) -> None:
        """Check that the model is known, and named after what it heard."""
        if naming.parse_network_name(self.model).rendition != self.settings.heard:
            raise ValueError(f"the rendition of {self.model!r} is {self.settings.heard!r}")

    @property
    def selected(self) -> bool:
        """Whether the epoch was chosen on the validation songs, which flatters it."""
        return self.settings.recipe.select

    @property
    def untrained(self) -> bool:
        """See :attr:`Settings.untrained`."""
        return self.settings.untrained

    @property
    def names(self) -> dict[str, str]:
        """See :attr:`Task1Metrics.names`; first the network, then its parts."""
        return {name: name for name in (self.model, *(self.model + part for part in self.parts))}

    def title(self, name: str) -> str:
        """Return the name for people of the model, or of a part of it."""
        marks = UNTRAINED_MARK * self.untrained + NOT_LEARNT_MARK * bool(self.learning.failure)
        alone = ", convolutions alone" if name.endswith(naming.CONVOLUTIONS) else ""
        return naming.title(self.model) + alone + self.settings.shortened + marks


class ClassifierCandidate(Record, kw_only=True):
    """What a classifier of the strong transfer recipe reached in cross-validation."""

    cv_top1: Share
    cv_log_loss: float


class ClassifierChoice(Record, kw_only=True):
    """``candidates.json``: which classifier was chosen, and from which."""

    chosen: str
    candidates: dict[str, ClassifierCandidate]


# --- the ensemble ------------------------------------------------------------------------------


class Paired(Record, kw_only=True):
    """Two models on the same songs."""

    difference: float  # of their top-1, first less second
    interval: Interval  # by bootstrap over albums
    only_first: Count  # songs that one of the two alone has right
    only_second: Count
    p: Share  # of McNemar's exact test


class MemberFigures(Record, kw_only=True):
    """A model in the ensemble: its name for people, weight, and figures on both splits."""

    title: str
    weight: float
    cv: Quality
    val: Quality


class EnsembleSettings(Record, kw_only=True):
    """How weights are fitted; see :mod:`artist20.ensemble`."""

    floor: float
    ridge: float
    folds: Count
    seed: int


class EnsembleMetrics(Quality, kw_only=True):
    """``ensemble/metrics.json``."""

    calibration_error: float
    cv: Quality  # on the training songs, each scored with weights that were fitted on other folds
    members: dict[str, MemberFigures]  # by name
    best_member_in_cv: str
    against_best_member: dict[Literal["cv", "val"], Paired]  # on the training, validation songs
    untrained: bool  # whether a member with weight hears through an untrained encoder
    files: dict[str, str]  # by path in the results folder, the SHA-256 of what it was computed from
    settings: EnsembleSettings
    dataset: Dataset
    provenance: Provenance

    def title(self, name: str) -> str:
        """Return its name for people."""
        return naming.title(name) + UNTRAINED_MARK * self.untrained


# --- scores ------------------------------------------------------------------------------------


class Predictions(Record, eq=False, kw_only=True):
    """``val_predictions.json``, ``cv_predictions.json``: class scores of labelled songs."""

    classes: list[str]  # artist names, the columns of the scores
    songs: list[SongRecord]  # the rows of the scores
    scores: dict[str, np.ndarray]  # per model (n_songs, n_classes) probabilities

    def __post_init__(self) -> None:
        """Check that classes, songs and scores belong together."""
        if not self.songs or not {song.artist for song in self.songs} <= set(self.classes):
            raise ValueError("artists and songs do not belong together")
        _check_scores(self.scores, self.classes, len(self.songs))

    @property
    def labels(self) -> np.ndarray:
        """(n_songs,) index of each song's artist in ``classes``."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[song.artist] for song in self.songs])

    @property
    def albums(self) -> np.ndarray:
        """(n_songs,) ``"artist/album"``: what is drawn and held out as a whole."""
        return groups_of(self.songs)


class TestScores(Record, eq=False, kw_only=True):
    """``test_scores.json``: class scores of the test songs."""

    __test__ = False  # for pytest, which collects by name

    classes: list[str]  # artist names, the columns of the scores
    songs: dict[str, str]  # the rows: by key, such as ``"001"``, the SHA-256 of a song's file
    # per model the SHA-256 of what was applied: a file, or several that were averaged
    checkpoints: dict[str, list[str]]
    # by the key of a song that could not be read, what is wrong with it. Its scores are the
    # artists' shares of the training songs
    guessed: dict[str, str]
    scores: dict[str, np.ndarray]  # per model (n_songs, n_classes) probabilities

    def __post_init__(self) -> None:
        """Check that models, songs and scores belong together."""
        if self.checkpoints.keys() != self.scores.keys():
            raise ValueError("checkpoints and scores are of different models")
        if not self.guessed.keys() <= self.songs.keys():
            raise ValueError("guessed names songs that are not there")
        _check_scores(self.scores, self.classes, len(self.songs))


def are_classes(names: Sequence[str]) -> bool:
    """Return whether names are in the one order that all files have them in."""
    return len(names) > 1 and list(names) == sorted(set(names))


def _check_scores(scores: dict[str, np.ndarray], classes: list[str], n_songs: int) -> None:
    if not are_classes(classes):
        raise ValueError("classes are not sorted, or not two at least")
    for model, of_model in scores.items():
        in_range = (of_model >= 0) & (of_model <= 1)  # which NaN is not
        if of_model.shape != (n_songs, len(classes)) or not in_range.all():
            raise ValueError(f"scores of {model} are not {(n_songs, len(classes))} probabilities")


# --- the comparison ----------------------------------------------------------------------------


class Intervals(Record, kw_only=True):
    """Intervals of top-1 and top-3."""

    top1: Interval
    top3: Interval


class Figures(Accuracy, kw_only=True):
    """What a table says of a model."""

    over_albums: Intervals  # by bootstrap, albums or songs being drawn
    over_songs: Intervals
    macro_f1: float  # mean over the artists that have songs
    course_score: float  # top-1 + 0.5 x top-3


class Graded(Accuracy, kw_only=True):
    """What a model reached on the test songs; one without a prediction counts as wrong."""

    songs: Count
    over_songs: Intervals  # by bootstrap
    course_score: float


class AlbumResult(Record, kw_only=True):
    """An album's songs, and how many of them are right."""

    songs: Count
    right: Count


class ArtistResult(AlbumResult, kw_only=True):
    """The same of an artist, how often the artist is the guess, and F1."""

    guessed: Count
    f1: float | None


class Confusion(Record, kw_only=True):
    """How many of an artist's songs are taken for another's."""

    artist: str
    guess: str
    songs: Count


class OfTask1(Record, tag="task1", tag_field="kind", kw_only=True):
    """What is said of Task 1's models alone."""

    settings: Task1Settings
    model: Task1Model
    search: SearchSettings | None = None
    n_candidates: Count = 0  # that were tried


class OfNetwork(Record, tag="network", tag_field="kind", kw_only=True):
    """What is said of networks alone; see :class:`NetworkMetrics`."""

    epoch: Count
    parameters: Count
    window_seconds: float | None = None
    settings: Settings


class OfEnsemble(Record, tag="ensemble", tag_field="kind", kw_only=True):
    """What is said of the ensemble alone; see :class:`EnsembleMetrics`."""

    members: dict[str, MemberFigures]
    best_member_in_cv: str
    against_best_member: dict[Literal["cv", "val"], Paired]


class ModelResult(Record, kw_only=True):
    """What is said of a model."""

    title: str  # its name for people
    folder: str  # where it is in the results folder
    untrained: bool  # whether it hears through an untrained encoder: its figures then mean nothing
    not_learnt: str | None = None  # :attr:`Learning.failure` of a network
    val: Figures  # on the validation songs
    last: Figures | None = None  # of the last epoch, if another was chosen on these songs
    # of the training songs, each scored by a model that did not learn from its album
    cv: Accuracy | None = None
    # the same of all labelled songs, no epoch being chosen on them either: with ``--protocol cv``
    pooled: Figures | None = None
    test: Graded | None = None  # where the answers are given
    seconds: Seconds  # of training
    artists: dict[str, ArtistResult]
    albums: dict[str, AlbumResult]  # by ``"artist/album"``
    worst_albums: list[str]
    confusions: list[Confusion]  # the most frequent
    details: OfTask1 | OfNetwork | OfEnsemble


class Pair(Paired, kw_only=True):
    """Two models of a comparison."""

    first: str  # their names
    second: str
    p_holm: Share  # p after Holm's correction over all pairs
    verdict: Verdict  # what the first one is


class AblationResult(Record, kw_only=True):
    """What families of features are worth, to which model."""

    model: str
    families: dict[str, Family]


class Comparison(Record, kw_only=True):
    """``results.json``: all that is said of the models, and the files that it is from."""

    command: str
    dataset: Dataset
    val_albums: Count  # albums of the validation songs
    resamples: Count  # of the bootstrap
    confidence: Share  # of the intervals
    significance: Share  # p below which models differ
    models: Annotated[dict[str, ModelResult], Meta(min_length=1)]  # in the order of the stages
    left_out: dict[str, str]  # by title why models could not be fitted
    pairs: list[Pair]  # networks whose epoch is chosen on these songs as they were after the last
    ablation: dict[str, AblationResult]  # by folder
    runs: dict[str, Provenance]
    files: dict[str, str]  # by path in the results folder, its SHA-256


def results_file(assets_dir: Path) -> Path:
    """Path of :class:`Comparison`."""
    return assets_dir / "results.json"


# --- reading and writing records ---------------------------------------------------------------

T = TypeVar("T")


def read_record(path: Path, kind: type[T], made_by: str) -> T:
    """Read a JSON file as a record, or as a list or dict of records.

    One that is missing, or not such JSON, is a ``UserError`` that says to run ``made_by``.
    """
    try:
        return parse_json(read_bytes(path, made_by), kind)
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}): run {made_by} again") from None


def write_record(path: Path, record: Any) -> None:
    """Write a record, or a list or dict of records, as JSON; NaN and infinity are refused."""
    write_json(path, msgspec.to_builtins(record, enc_hook=_to_lists))


def _to_lists(array: Any) -> Any:
    """Give numbers six significant digits."""
    if not isinstance(array, np.ndarray):
        raise NotImplementedError(type(array))
    return [[float(f"{number:.6g}") for number in row] for row in array]


def differences(made: Record, wanted: Record) -> list[str]:
    """List the fields in which two records differ, with both values."""

    def flat(value: Any, name: str = "") -> dict[str, Any]:
        # Encoders go by their names.
        if isinstance(value, list) and all(isinstance(of, dict) and "name" in of for of in value):
            value = {of["name"]: of for of in value}
        if not isinstance(value, dict):
            return {name: value}
        dot = "." if name else ""
        return {k: v for key, of in value.items() for k, v in flat(of, f"{name}{dot}{key}").items()}

    before, after = flat(msgspec.to_builtins(made)), flat(msgspec.to_builtins(wanted))
    return [
        f"{name} {before.get(name)!r} -> {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def check_same_settings(made: Record, wanted: Record, where: Path) -> None:
    """Refuse to go on from, or to replace, what other settings made; name each difference."""
    if found := differences(made, wanted):
        raise UserError(
            f"{where} is of a run with other settings ({'; '.join(found)}): "
            "--overwrite replaces it, another --results-dir keeps it"
        )


def write_test_predictions(path: Path, top3: dict[str, list[str]]) -> None:
    """Write the course's form: ``{"001": [best, second, third], ...}``."""
    write_json(path, dict(sorted(top3.items())))
