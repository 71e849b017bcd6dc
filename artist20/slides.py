"""Write the slides of the homework's report, and the model card, of what was measured.

Reads   ASSETS_DIR/results.json, and which figures lie beside it; RESULTS_DIR, to see that the file
        is of what is there now
Writes  report.md        the slides, for Marp
        MODEL_CARD.md    beside it
        with --readme, the table of results between that file's two markers

Every number is from results.json, which python -m artist20.comparison makes; the words are in
artist20/report/templates.

    python -m artist20.slides --results-dir results --assets-dir assets --output report.md
    npx @marp-team/marp-cli report.md --html -o report.html
"""

import artist20.packages  # first: it says which are missing  # isort: skip

import argparse
from pathlib import Path

from artist20 import cli, runtime
from artist20.files import write_text
from artist20.report import compare, deck
from artist20.results import Comparison, read_record, results_file


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    parser.add_argument(
        "--assets-dir",
        type=Path,
        default=Path("assets"),
        help="folder with results.json and the figures",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.md"),
        help="the slides; MODEL_CARD.md is written beside it",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help=f"put the table of results between {' and '.join(deck.MARKERS)} in this file",
    )
    return parser.parse_args()


def main() -> None:
    """Write the slides and the model card."""
    args = parse_args()
    file = results_file(args.assets_dir)
    comparison = read_record(file, Comparison, compare.COMMAND)
    compare.check_up_to_date(comparison, args.results_dir, file)
    figures = deck.find_figures(args.assets_dir, args.output.parent)
    slides = deck.render("deck", comparison, figures)
    card = args.output.with_name("MODEL_CARD.md")
    for path, text in ((args.output, slides), (card, deck.render("model_card", comparison, {}))):
        write_text(path, text)
        print(f"wrote {path}")
    shown = [name for name, url in figures.items() if f"]({url})" in slides]
    # Which run drew them, a picture does not say.
    print(f"figures in it, as they lie in {args.assets_dir}: {', '.join(shown) or 'none'}")
    if args.readme:
        deck.put_between_markers(args.readme, deck.render("readme_table", comparison, {}))
        print(f"wrote the table in {args.readme}")
    print(f"next: {deck.marp(args.output)}")


if __name__ == "__main__":
    runtime.run(main)
