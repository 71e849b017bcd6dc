"""The options that scripts share."""

from artist20.packages import ROOT

import argparse
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from artist20 import UserError
from artist20.results import N_FOLDS, RECIPES, RESULTS_DIR, TASK1_LEVELS, TASK1_SEARCHES

T = TypeVar("T", bound=msgspec.Struct)

DATA_DIR, ASSETS_DIR = Path("data/artist20"), Path("assets")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the description's lines as they are, and show defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help opens with a script's own docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=_HelpFormatter)


def positive_int(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def seed_int(text: str) -> int:
    """Parse a seed that NumPy and torch take."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError("must be from 0 to 4294967295")
    return value


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _option(name: str, **how: Any) -> Callable[[argparse.ArgumentParser], object]:
    """Make the function that adds one option to a parser."""
    return lambda parser: parser.add_argument(name, **how)


add_results_option = _option(
    "--results-dir", type=Path, default=RESULTS_DIR, help="what the stages hand each other"
)
add_audio_root_option = _option(
    "--audio-root",
    type=Path,
    metavar="DIR",
    help="tree of the data folder's form and names with another rendition of every song, such "
    "as its vocals, which is heard in the song's place; results go to <model>@<tree's name>",
)
add_device_option = _option(
    "--device",
    choices=("auto", "cuda", "cpu"),
    default="auto",
    help="where to compute; auto takes the GPU where there is one",
)
add_skip_option = _option(
    "--skip-unreadable",
    action="store_true",
    help="leave out songs that cannot be decoded, and record them in the metrics, in place of "
    "stopping with all their names",
)
add_seed_option = _option("--seed", type=seed_int, default=0, help="seed of everything random")
add_precision_option = _option(
    "--precision",
    choices=("auto", "bfloat16", "float32"),
    default="auto",
    help="of an encoder's and the ResNet's products, where auto takes bfloat16 on CUDA and on "
    "CPUs that have it; classifiers on embeddings are float32",
)
add_recipe_option = _option(
    "--recipe",
    choices=RECIPES,
    default="homework",
    help="how the network is trained: as in the homework, or what does better",
)
add_encoder_weights_option = _option(
    "--encoder-weights",
    metavar="PATH",
    help="its published weights, 'untrained' to try the code without them (default: what "
    "get_dataset.sh --encoder NAME fetched into data/weights)",
)


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """Add --workers: of the cores that this process may use, its share among torchrun's."""
    share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    parser.add_argument(
        "--workers", type=positive_int, default=max(1, share), help="processes that work at a time"
    )


def add_compute_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --workers."""
    add_device_option(parser)
    add_workers_option(parser)


def add_data_options(
    parser: argparse.ArgumentParser,
    limit: str = "only N songs per split, taken from all artists in turn, for a quick try",
) -> None:
    """Add the options on where to read and write: --data-dir, --results-dir, --limit."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=DATA_DIR,
        help="folder with train.json, val.json, train_val/ and test/",
    )
    add_results_option(parser)
    parser.add_argument("--limit", type=positive_int, metavar="N", help=limit)


def add_assets_option(parser: argparse.ArgumentParser) -> None:
    """Add --assets-dir and --format."""
    add = parser.add_argument
    add("--assets-dir", type=Path, default=ASSETS_DIR, help="folder for the figures")
    add("--format", choices=("png", "svg", "pdf"), default="png", help="of the figures")


def add_song_options(parser: argparse.ArgumentParser) -> None:
    """Add what report scripts take for single songs: --song, --html, --confused, --data-dir."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--song",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="draw where in these audio files which artist is heard, instead of all else",
    )
    group.add_argument(
        "--confused",
        type=positive_int,
        nargs="?",
        const=5,
        metavar="N",
        help="write a page to listen to the N most confused validation songs on (5), each beside "
        "the song that it is most like of the artist whom it is taken for, instead of all else",
    )
    add = parser.add_argument
    add("--html", action="store_true", help="with --song, write a page to listen on, no picture")
    add("--data-dir", type=Path, default=DATA_DIR, help="folder with train_val/, for --confused")


def add_task1_options(parser: argparse.ArgumentParser) -> None:
    """Add --level and --search, which choose among Task 1's models."""
    parser.add_argument(
        "--level",
        choices=TASK1_LEVELS,
        default="song",
        help="whether a row of features is a song, as in the homework, or a few seconds of one",
    )
    parser.add_argument(
        "--search",
        choices=TASK1_SEARCHES,
        default="homework",
        help="whether grids are the homework's, or scaler and number of features are searched, too",
    )


def names_among(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Make a parser of names with commas between them; their order means nothing."""
    names = list(known)

    def parse(text: str) -> list[str]:
        found = sorted(set(text.split(",")))
        unknown = ", ".join(repr(name) for name in found if name not in names)
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown}: there are {', '.join(names)}")
        return found

    return parse


def add_encoder_option(parser: argparse.ArgumentParser, encoders: Iterable[str]) -> None:
    """Add --encoder; parsed arguments go to :func:`with_encoder_recipe`."""
    parser.set_defaults(recipe=None)
    parser.add_argument(
        "--encoder",
        type=names_among(encoders),
        default="panns",
        metavar="NAME[,NAME]",
        help=f"frozen encoder, or several side by side: {', '.join(encoders)}",
    )


def with_encoder_recipe(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments with the recipe that goes with the encoder.

    The homework's is for Cnn14 alone: its crops of 150 s are far from what other encoders were
    trained on.
    """
    homework = len(args.encoder) == 1 and args.encoder[0].startswith("panns")
    if args.recipe == "homework" and not homework:
        raise UserError(f"--encoder {','.join(args.encoder)} goes with --recipe strong alone")
    args.recipe = args.recipe or ("homework" if homework else "strong")
    return args


def add_training_options(parser: argparse.ArgumentParser, recipes: dict[str, Any]) -> None:
    """Add the options of a training script, whose defaults are attributes of ``recipes``.

    What is not given stays None: see :func:`chosen_recipe`.
    """
    add_recipe_option(parser)
    add = parser.add_argument
    for option, kind, what in (
        ("--epochs", positive_int, "length of the run"),
        ("--batch-size", positive_int, "crops per training step"),
        ("--lr", positive_float, "highest learning rate"),
        ("--crop-seconds", positive_float, "length of crops"),
    ):
        attribute = option[2:].replace("-", "_")
        defaults = ", ".join(
            f"{name}: {default:g}"
            for name, recipe in recipes.items()
            if (default := getattr(recipe, attribute)) is not None
        )
        add(option, type=kind, help=f"{what} (default: {defaults})")
    add(
        "--fold",
        type=int,
        choices=range(1, N_FOLDS + 1),
        help="cross-validate: hold this fold of the training songs' albums out, and score it in "
        "place of the validation songs",
    )
    add(
        "--also-train-on",
        type=Path,
        metavar="DIR",
        help="tree of the data folder's form and names with another version of every training "
        "song, such as its vocals; crops are drawn from both, songs are scored as they are",
    )
    add(
        "--patience",
        type=positive_int,
        metavar="N",
        help="stop when N epochs have brought nothing better (default: never)",
    )
    add("--compile", action="store_true", help="compile the network first; repays itself seldom")
    add("--tensorboard", action="store_true", help="write TensorBoard events beside the results")
    add_skip_option(parser)
    add_precision_option(parser)
    add_seed_option(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume", action="store_true", help="go on with the run in the results folder, if any"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace the run in the results folder, if any"
    )


def chosen_recipe(args: argparse.Namespace, recipes: dict[str, T]) -> T:
    """Return the recipe for --recipe, changed as the options of its attributes' names say."""
    recipe = recipes[args.recipe]
    given = {name: getattr(args, name, None) for name in recipe.__struct_fields__}
    changed = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(recipe, **changed)


def output_file(text: str) -> Path:
    """Parse the name of a file to write; a link stands for the file that it leads to."""
    path = Path(text).resolve() if Path(text).is_symlink() else Path(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is a folder or a device: name a file")
    if path.parent.exists() and not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is a file: name a file in a folder")
    return path


def command(program: str, args: argparse.Namespace, *folders: str) -> str:
    """Return the command of another stage, which can be copied into the same shell.

    ``program`` is such as ``"task1_train.py --level segment"`` or ``"-m artist20.slides"``;
    ``folders`` are those of ``args`` that the other stage is to be told, too, where they are not
    the defaults: of ``data_dir``, ``results_dir`` and ``assets_dir``.
    """
    defaults = {"data_dir": DATA_DIR, "results_dir": RESULTS_DIR, "assets_dir": ASSETS_DIR}
    line = f"python {program}"
    if Path.cwd() != ROOT:  # scripts run from anywhere, modules from their own folder
        root = shlex.quote(str(ROOT))
        modules = program.startswith("-m")
        line = f"PYTHONPATH={root} {line}" if modules else f"python {root}/{program}"
    for name in folders:
        folder = getattr(args, name)
        if folder != defaults[name]:
            line += f" --{name.replace('_', '-')} {shlex.quote(str(folder))}"
    return line


def next_stage(program: str, args: argparse.Namespace, *folders: str) -> str:
    """Return ``next:`` and the :func:`command` of a later stage."""
    return f"next: {command(program, args, *folders)}"


def first_stage(data_dir: Path) -> str:
    """Return :func:`next_stage` for new songs, whose results go to a folder of their own."""
    args = argparse.Namespace(data_dir=data_dir, results_dir=RESULTS_DIR / data_dir.name)
    return next_stage("task1_preprocessing.py", args, "data_dir", "results_dir")
