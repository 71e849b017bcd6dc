"""Write the slides of the homework's report, and the model card, of what was measured.

Reads   ASSETS_DIR/results.json, and which figures lie beside it; RESULTS_DIR, to see that the file
        is of what is there now; report_own.md, if there is one
Writes  report.md        the slides, for Marp
        MODEL_CARD.md    beside it
        with --readme, the table of results between that file's two markers

Every number is from results.json, which python -m artist20.comparison makes; the words are in
artist20/report/templates. Slides of your own belong into report_own.md beside report.md: they stand
at the end, and are never written over. --full adds an appendix with everything that was measured.

    python -m artist20.slides --author "A. Student" --id R00000000
    npx @marp-team/marp-cli report.md --html -o report.html
    python -m artist20.slides --embed report.html    # its pictures go into it: one file to hand on
"""

import artist20.packages  # says which are missing

import argparse
from pathlib import Path

from artist20 import cli, runtime
from artist20.files import check_is_file, read_text, write_text
from artist20.report import compare, deck


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
        type=cli.output_file,
        default=Path("report.md"),
        help="the slides; MODEL_CARD.md is written beside it",
    )
    parser.add_argument("--author", default="", help="name on the first slide")
    parser.add_argument("--id", default="", metavar="ID", help="student number beside it")
    parser.add_argument("--full", action="store_true", help="add the appendix")
    parser.add_argument(
        "--embed", type=Path, metavar="HTML", help="put the pictures of this file into it, no more"
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
    if args.embed:
        check_is_file(args.embed, "npx @marp-team/marp-cli")
        write_text(args.embed, deck.embed_images(read_text(args.embed), args.embed.parent))
        print(f"{args.embed} holds its pictures now")
        return
    comparison = compare.read_up_to_date(args.results_dir, args.assets_dir)
    figures = deck.find_figures(args.assets_dir, args.output.parent)
    own = args.output.with_name(f"{args.output.stem}_own.md")
    slides = deck.render(
        "deck",
        comparison,
        figures,
        author=args.author,
        student_id=args.id,
        full=args.full,
        own_slides=read_text(own) if own.is_file() else "",
    )
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
