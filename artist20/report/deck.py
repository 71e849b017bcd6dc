"""The slides, the model card and README's table: numbers from results.json, words from templates.

``python -m artist20.slides`` writes all three. Every slide, sentence and table is in
``templates/*.md.j2``, to be edited there; here is what they say, computed from the record
:class:`~artist20.results.Comparison`.
"""

import base64
import math
import mimetypes
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec.structs import asdict

from artist20 import UserError
from artist20.files import read_text, write_text
from artist20.naming import NOT_LEARNT_MARK, UNTRAINED_MARK, network_name, parse_network_name
from artist20.report import compare, tables
from artist20.results import (
    ArtistResult,
    Comparison,
    EncoderSettings,
    Interval,
    ModelResult,
    OfNetwork,
    OfTask1,
    Pair,
    ResNetRecipe,
    TransferRecipe,
)

TEMPLATES = Path(__file__).with_name("templates")
MARKERS = ("<!-- results -->", "<!-- end of results -->")  # of README's table
MOST_ARTISTS = 20  # that a slide has room for

# What the homework says of artist20's validation songs: top-1, top-3.
PUBLISHED = {
    "svm": (0.5714, 0.7879),
    "random_forest": (0.4632, 0.7273),
    "knn": (0.3723, 0.6104),
    "panns": (0.6017, 0.8312),
    "resnet": (0.7273, 0.8918),
}

# What the homework trains its networks with, as far as commands can change it.
HOMEWORK: dict[str, dict[str, float]] = {
    "panns": {"epochs": 100, "batch_size": 8, "lr": 0.005, "crop_seconds": 150, "views": 8},
    "resnet": {"epochs": 100, "batch_size": 32, "lr": 0.01, "crop_seconds": 150},
}

# Improvements that are asked after: of which model over which.
STEPS = (
    ("panns", "svm"),
    ("resnet", "svm"),
    ("resnet", "panns"),
    ("panns_strong", "panns"),
    ("resnet_strong", "resnet"),
)


# --- Markdown ----------------------------------------------------------------------------------


class Markdown(Markup):
    """Text that is Markdown already; whatever is put into it is escaped."""

    @classmethod
    def escape(cls, value: Any) -> "Markdown":
        """Keep a name from being read as Markdown or HTML, such as ``*``, ``_`` or ``|``."""
        if isinstance(value, Markup):
            return cls(value)
        text = re.sub(r"\s+", " ", str(value))
        return cls(re.sub(r"[\\`*_\[\]<>|~$#&]", r"\\\g<0>", text))


def code(text: str) -> Markdown:
    """Set a command in a code span, also within a table."""
    return Markdown("`{}`").format(Markdown(text.replace("|", r"\|")))


def marked(title: str) -> Markdown:
    """Name a model; that its figures mean nothing must not be missed."""
    name = unmarked(title)
    marks = title.removeprefix(name).removeprefix(", ")
    return Markdown("{}, **{}**").format(name, marks) if marks else Markdown.escape(name)


def unmarked(title: str) -> str:
    """Take off what a title says of why figures mean nothing."""
    return title.removesuffix(NOT_LEARNT_MARK).removesuffix(UNTRAINED_MARK)


def enumerated(names: Iterable[Any]) -> Markdown:
    """Join names: ``a, b and c``."""
    *others, last = map(Markdown.escape, names)
    return Markdown(" and ").join([Markdown(", ").join(others), last] if others else [last])


def value(setting: Any) -> str:
    """Write a setting for people; of a hash, its beginning."""
    if setting is None:
        return "–"
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    if isinstance(setting, float):
        return f"{setting:g}"
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        return ", ".join(map(value, setting)) or "–"
    text = str(setting)
    return f"{text[:16]}…" if len(text) == 64 else text


FILTERS: dict[str, Callable[..., Any]] = {
    "code": code,
    "enumerated": enumerated,
    "interval": partial(tables.percents, dash="–"),
    "marked": marked,
    "p_value": tables.p_text,
    "percent": lambda share, digits=1: f"{share:.{digits}%}",  # 48.7%
    "points": tables.points,
    "points_between": tables.points_between,
    "points_over": lambda share, other: tables.points(share - other),
    "thousands": "{:,}".format,  # 2,910,410
    "unmarked": unmarked,
    "value": value,
}


# --- what is said ------------------------------------------------------------------------------


def ranked(models: Mapping[str, ModelResult]) -> list[str]:
    """Return the models' names by top-1, among equals by top-3, the best first."""
    reached = {name: (model.val.top1, model.val.top3) for name, model in models.items()}
    return sorted(models, key=lambda name: reached[name], reverse=True)


def most_flattered(models: Iterable[ModelResult]) -> tuple[float, str]:
    """Return by how much choosing its epoch raised a model's top-1 at most, and whose that was."""
    gained = [(model.val.top1 - model.last.top1, model.title) for model in models if model.last]
    return max(gained, key=itemgetter(0))


def significant(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the pairs whose difference is significant."""
    return [pair for pair in pairs if pair.verdict != "no significant difference"]


def improvements(comparison: Comparison) -> list[Pair]:
    """Return what the homework's steps brought: the model that is to be better is the first."""
    models = comparison.models
    renditions = [(name, name.partition("@")[0]) for name in models if "@" in name]
    steps = [step for step in (*STEPS, *renditions) if models.keys() >= set(step)]
    by_rank = ranked(models)
    if "ensemble" in models:
        steps.append(("ensemble", next(name for name in by_rank if name != "ensemble")))
    of_task1, of_task2 = (
        [name for name in by_rank if models[name].folder.startswith(task)]
        for task in ("task1", "task2")
    )
    if of_task1 and of_task2:
        steps.append((of_task2[0], of_task1[0]))
    return [compare.against(comparison, first)[second] for first, second in dict.fromkeys(steps)]


def extreme_artists(model: ModelResult) -> Sequence[list[tuple[str, ArtistResult]]]:
    """Return a model's three easiest and three hardest artists, each with their counts."""
    artists = [(name, result) for name, result in model.artists.items() if result.songs]
    by_share = sorted(artists, key=lambda artist: compare.share(artist[1]))
    n = max(1, min(3, len(artists) // 2))
    return by_share[::-1][:n], by_share[:n]


def listed_artists(models: Mapping[str, ModelResult]) -> list[str]:
    """Return all artists; of more than a slide has room for, the easiest and the hardest."""
    artists = list(next(iter(models.values())).artists)
    if len(artists) <= MOST_ARTISTS:
        return artists

    def mean_f1(artist: str) -> float:
        return sum(model.artists[artist].f1 or 0 for model in models.values()) / len(models)

    by_f1, half = sorted(artists, key=mean_f1, reverse=True), MOST_ARTISTS // 2
    return by_f1[:half] + by_f1[-half:]


def album_effect(models: Mapping[str, ModelResult]) -> Interval | None:
    """Return the least and the most top-1 that Task 1 gains if folds split albums, where known."""
    details = [model.details for model in models.values()]
    by_fold = [of.model.cv_top1_by for of in details if isinstance(of, OfTask1)]
    both = [(of.get("song"), of.get("album")) for of in by_fold]
    gains = [song - album for song, album in both if song is not None and album is not None]
    return (min(gains), max(gains)) if gains else None


def ablation_extremes(
    comparison: Comparison,
) -> tuple[ModelResult, tuple[str, float], tuple[str, float]] | None:
    """Return the ablated model, and the families it misses most and does best with alone.

    Each with the difference in cross-validation's top-1 to all families. None without ablation.
    """
    ablation = comparison.ablation.get("task1")
    if not ablation:
        return None
    model = comparison.models[ablation.model]
    assert isinstance(model.details, OfTask1)
    whole, families = model.details.model.cv_top1, ablation.families.items()
    without = [(name, of.without - whole) for name, of in families if of.without is not None]
    alone = [(name, of.alone - whole) for name, of in families if of.alone is not None]
    if not without or not alone:
        return None
    return model, min(without, key=itemgetter(1)), max(alone, key=itemgetter(1))


def settings_rows(network: OfNetwork) -> list[tuple[str, str, str, str]]:
    """List a network's settings, two to a row, without what names its data."""
    settings = network.settings
    recipe = settings.recipe
    flat: dict[str, Any] = {
        "parameters trained": f"{network.parameters:,}",
        "epoch that is kept": network.epoch,
        **asdict(recipe),
        **{
            f"encoder {field}": " and ".join(str(getattr(of, field)) for of in settings.encoders)
            for field in (EncoderSettings.__struct_fields__ if settings.encoders else ())
        },
        "precision": settings.precision,
        **({"heard in": settings.heard} if settings.heard else {}),
        "patience": settings.patience,
        "also train on": settings.also_train_on,
        "seed": settings.seed,
    }
    cells = [(name.replace("_", " "), value(setting)) for name, setting in flat.items()]
    half = math.ceil(len(cells) / 2)
    pairs = zip_longest(cells[:half], cells[half:], fillvalue=("", ""))
    return [(*left, *right) for left, right in pairs]


def changes(name: str, recipe: TransferRecipe | ResNetRecipe) -> list[str]:
    """Say which of :data:`HOMEWORK`'s settings a run changed, and from what: ``epochs 5 (100)``."""
    words = {"batch_size": "batch", "lr": "learning rate", "crop_seconds": "seconds of a crop"}
    return [
        f"{words.get(field, field)} {value(getattr(recipe, field))} ({value(homework)})"
        for field, homework in HOMEWORK[name].items()
        if getattr(recipe, field) != homework
    ]


def homework_of(name: str) -> str:
    """Return the name of the network that the homework's recipe makes in place of another's."""
    named = parse_network_name(name)
    return network_name(named.model, "homework", named.rendition)


def versions(comparison: Comparison) -> list[str]:
    """List the libraries with the versions that were used, such as ``numpy 2.4.6``."""
    found: dict[str, dict[str, None]] = {}
    for run in comparison.runs.values():
        for name, version in run.versions.items():
            found.setdefault(name, {})[version] = None
    return [f"{name} {' or '.join(of)}" for name, of in found.items()]


# --- rendering ---------------------------------------------------------------------------------


def render(
    template: str,
    comparison: Comparison,
    figures: Mapping[str, Markdown],
    *,
    author: str = "",
    student_id: str = "",
    own_slides: str = "",
    full: bool = False,
) -> str:
    """Write Markdown by a template: ``"deck"``, ``"model_card"`` or ``"readme_table"``.

    ``figures`` are as :func:`find_figures` has them. One's own slides, Markdown too, stand after
    the others; in ``full``, the appendix comes last.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,  # so that macros return what is not escaped again
        finalize=Markdown.escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    # Templates call this module's functions.
    ours = {name: of for name, of in globals().items() if getattr(of, "__module__", "") == __name__}
    environment.globals |= {"compare": compare} | {k: ours[k] for k in ours.keys() - FILTERS.keys()}
    models = comparison.models

    def only(chosen: Callable[[str, ModelResult], bool]) -> dict[str, ModelResult]:
        return {name: model for name, model in models.items() if chosen(name, model)}

    strong = only(
        lambda _, model: (
            isinstance(model.details, OfNetwork) and model.details.settings.recipe_name == "strong"
        )
    )
    maps = [f"task2_map_{name}" for name in ranked(models)]  # the best network's first
    both_recipes = {*strong, *map(homework_of, strong)}
    text = environment.get_template(f"{template}.md.j2").render(
        comparison=comparison,
        data=comparison.dataset,
        models=models,
        task1=only(lambda _, model: model.folder == "task1"),
        segments=only(lambda _, model: model.folder == "task1/segment"),
        wide=only(lambda _, model: "/wide" in model.folder),
        strong=strong,
        both_recipes=only(lambda name, _: name in both_recipes),
        of_homework=only(lambda name, _: name in HOMEWORK),
        beyond=only(lambda name, model: model.folder != "task1" and name not in PUBLISHED),
        figures=figures,
        song_figure=next((name for name in figures if name.startswith("task2_song_")), ""),
        map_figure=next((name for name in maps if name in figures), ""),
        confidence=f"{100 * comparison.confidence:g} %",
        published=PUBLISHED if comparison.dataset.is_artist20 else {},
        against=partial(compare.against, comparison),
        author=author,
        student_id=student_id,
        own_slides=Markdown(own_slides),
        full=full,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def embed_images(page: str, folder: Path) -> str:
    """Put the pictures that an HTML page in a folder shows into the page itself."""

    def embedded(found: re.Match[str]) -> str:
        picture = folder / unquote(found[1])
        kind = mimetypes.guess_type(picture)[0]
        return f'src="data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"'

    return re.sub(r'src="([^":]+\.(?:png|svg))"', embedded, page)


def find_figures(assets_dir: Path, seen_from: Path) -> dict[str, Markdown]:
    """Find pictures: by name, where they lie as seen from a folder, as a URL has it."""
    return {
        file.stem: Markdown(quote(Path(os.path.relpath(file, seen_from)).as_posix()))
        for suffix in (".svg", ".png")  # PNG is taken where both are there
        for file in sorted(assets_dir.glob(f"*{suffix}"))
    }


def marp(slides: Path) -> str:
    """Return the command that turns slides into a page which holds its pictures."""
    html = str(slides.with_suffix(".html"))
    make = shlex.join(["npx", "@marp-team/marp-cli", str(slides), "--html", "-o", html])
    return f"{make} && {shlex.join(['python', '-m', 'artist20.slides', '--embed', html])}"


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between :data:`MARKERS` in a file, which must have each once."""
    start, end = MARKERS
    if not path.is_file():
        raise UserError(f"{path} is missing: name the file whose table is to be written")
    before = read_text(path)
    if re.findall(f"{start}|{end}", before) != [start, end]:
        raise UserError(f"{path} must have the lines {start} and {end} once, in this order")
    head, tail = before.split(start)[0], before.split(end)[1]
    write_text(path, f"{head}{start}\n\n{text.strip()}\n\n{end}{tail}")
