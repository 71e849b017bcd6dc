"""Make a data folder of artist20's size with the demo's generator, by copying its songs.

    python benchmarks/full_size.py data/full data/few

The generator would take 45 minutes of one core for so many songs. It makes a twelfth of them; the
others are copies that differ in a tag, so that each is decoded, cached and learnt from as a song of
its own. All last 170 s: of 150 s, the homework's crops would be the whole songs, and those that are
stretched in time would all differ in length. The second folder has the first two songs for
training and for validation, for what takes longer.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from artist20 import cli, runtime
from artist20.demo.folder import Settings, artist_name, build, plan

TAG_BYTES = 128  # of an ID3v1 tag, which ends a file


@dataclass(frozen=True)
class Size:
    """What to make."""

    settings: Settings
    sizes: dict[str, int]  # of the splits, at least those of the settings
    few: int  # songs of each split in the second folder


FULL = Size(
    Settings(artists=20, albums=6, songs=1, seconds=170),
    sizes={"train": 949, "val": 231, "test": 233},
    few=2,
)
TRIAL = Size(
    Settings(artists=2, albums=6, songs=1, seconds=1),
    sizes={"train": 9, "val": 3, "test": 3},
    few=1,
)


def write_copy(song: Path, copy: Path, number: int) -> None:
    """Write a song with a tag behind it, which another number makes another file."""
    copy.write_bytes(song.read_bytes() + f"TAG{number}".encode().ljust(TAG_BYTES, b"\0"))


def write_list(folder: Path, name: str, entries: list[str]) -> None:
    """Write the list of a split, or the answers."""
    (folder / f"{name}.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


def enlarge(folder: Path, size: Size) -> dict[str, list[str]]:
    """Add copies to a demo data set, and list them; return the lists."""
    splits, lists = plan(size.settings), {}
    for split in ("train", "val"):
        paths = [Path(track.path) for track in splits[split]]
        for i in range(len(paths), size.sizes[split]):
            number, track = divmod(i, len(splits[split]))
            paths.append(paths[track].with_stem(f"{paths[track].stem}-{number}"))
            write_copy(folder / paths[track], folder / paths[i], number)
        lists[split] = [f"./{path}" for path in paths]
    tests = splits["test"]
    for i in range(len(tests), size.sizes["test"]):
        number, track = divmod(i, len(tests))
        write_copy(folder / tests[track].path, folder / f"test/{i + 1:03d}.mp3", number)
    lists["answers"] = [
        artist_name(size.settings.seed, tests[i % len(tests)].artist)
        for i in range(size.sizes["test"])
    ]
    for name, entries in lists.items():
        write_list(folder, name, entries)
    return lists


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("few", type=Path, metavar="FEW", help="folder for a few of its songs")
    parser.add_argument("--trial", action="store_true", help="15 songs of a second")
    cli.add_workers_option(parser)
    return parser.parse_args()


def main() -> None:
    """Make both folders."""
    args = parse_args()
    size = TRIAL if args.trial else FULL
    build(args.folder, size.settings, args.workers)
    lists = enlarge(args.folder, size)
    for split in ("train", "val"):
        few = lists[split][: size.few]
        for path in few:
            (args.few / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(args.folder / path, args.few / path)
        write_list(args.few, split, few)
    counts = ", ".join(f"{n} {split}" for split, n in size.sizes.items())
    print(f"{args.folder}, with copies: {counts} songs")


if __name__ == "__main__":
    runtime.run(main)
