"""All models that have been run on one data set, side by side.

Reads   every model's metrics.json, val_predictions.json, cv_predictions.json; of Task 1 also
        search_*.json, ablation.json; with --answers also test_scores.json
Writes  ASSETS_DIR/results.json                  all that is said of them, and the files it is from
                   task2_dot_plot.png            every model's top-1 and top-3, with intervals
                   task2_time_and_accuracy.png   what their training took

With --answers, what models reached on the test songs stands beside the validation songs. With
--protocol cv, for small collections, also what they reached on training and validation songs
together, every song scored by a model that did not learn from its album.

    python -m artist20.comparison --results-dir results --assets-dir assets
    python -m artist20.comparison --answers data/artist20/answers.json

With names of results folders, nothing of that: all their runs stand in one table. Those that differ
in their seed alone are one row, with mean and standard deviation, and every two rows are compared.

    python -m artist20.comparison results/seed-* --csv seeds.csv
"""

import artist20.packages  # says which are missing

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from artist20 import UserError, cli, runtime
from artist20.report import compare, deck, plots, runs, tables
from artist20.report.style import Drawing, save_all
from artist20.results import RESULTS_DIR, Comparison, results_file, write_record


def figures(comparison: Comparison) -> Iterator[Drawing]:
    """Draw all models, from results.json alone."""
    data, models = comparison.dataset, compare.by_kind(comparison.models)
    made = "Made from results.json."
    yield Drawing(
        "task2_dot_plot",
        plots.dot_plot(
            models,
            [compare.kind_of(model) for model in models.values()],
            deck.PUBLISHED if data.is_artist20 else {},
            title=f"All models on {data.val} validation songs of {data.label}",
        ),
        "Top-1 and top-3 accuracy of all models, each with its 95 % interval by bootstrap over "
        f"albums; test songs, where their answers were given, over songs. {made}",
    )
    yield Drawing(
        "task2_time_and_accuracy",
        plots.time_and_accuracy(
            comparison.models, title=f"Time and accuracy on {data.val} songs of {data.label}"
        ),
        "Top-1 of all models against the seconds of their training: of Task 1 the search and fit, "
        f"of networks all epochs, of the ensemble its weights alone. {made}",
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="RESULTS_DIR",
        help="results folders whose runs are to be put into one table, in place of all the rest",
    )
    parser.add_argument(
        "--csv",
        type=cli.output_file,
        metavar="FILE",
        help="that table; all pairs go to FILE_pairs.csv",
    )
    cli.add_results_option(parser)
    cli.add_assets_option(parser)
    parser.add_argument(
        "--answers", type=Path, help="JSON list of the test songs' artists, as for inference"
    )
    parser.add_argument(
        "--protocol",
        choices=("split", "cv"),
        default="split",
        help="which songs figures are of: the validation songs, or also all songs, each held out",
    )
    args = parser.parse_args()
    of_one = args.answers or args.protocol == "cv" or args.results_dir != RESULTS_DIR
    if args.folders and of_one:
        raise UserError("--results-dir, --answers and --protocol are for one folder without a name")
    if args.csv and not args.folders:
        raise UserError(
            "--csv is for named folders: python -m artist20.comparison results --csv x.csv"
        )
    return args


def compare_folders(args: argparse.Namespace) -> None:
    """Print the runs of several results folders in one table, and write it to --csv."""
    rows = runs.read_rows(args.folders)
    table = [runs.summarise(*row) for row in rows.items()]
    pairs = runs.compare_rows(rows)
    runs.print_rows(rows, table, pairs)
    if args.csv:
        of_pairs = args.csv.with_stem(f"{args.csv.stem}_pairs")
        for path, records in ((args.csv, table), (of_pairs, pairs)):
            if records:
                runs.write_csv(path, records)
                print(f"wrote {path}")


def main() -> None:
    """Write results.json, print its tables, then where it, figures and predictions are."""
    args = parse_args()
    if args.folders:
        return compare_folders(args)
    pooled = args.protocol == "cv"
    comparison = compare.gather(args.results_dir, runtime.command(), args.answers, pooled)
    file = results_file(args.assets_dir)
    write_record(file, comparison)
    tables.print_all(comparison)
    print()
    save_all([partial(figures, comparison)], args.assets_dir, args.format)
    print(file)
    folders = {args.results_dir / model.folder for model in comparison.models.values()}
    predictions = (found for folder in folders for found in folder.glob("*_predictions.json"))
    for path in sorted([*args.assets_dir.glob(f"*.{args.format}"), *predictions]):
        print(path)
    print(cli.next_stage("-m artist20.slides", args, "results_dir", "assets_dir"))


if __name__ == "__main__":
    runtime.run(main)
