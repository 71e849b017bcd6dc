"""Name the artists of as many songs as artist20's test has, with a checkpoint and nothing else.

The songs are those of a data folder, looped to --song-seconds without being coded anew, in a new
folder that holds them alone; there is no training data, and no network is used. Time is the
command's own, imports included; memory is the largest sum of its processes' proportional set sizes.

    python benchmarks/grading.py --data-dir data/demo --checkpoint resnet/best.pt panns/best.pt
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from measure import run

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from artist20 import audio, checkpoints, cli, dataset, runtime
from artist20.checkpoints import TrainedModel
from artist20.results import ResNetRecipe, TransferRecipe

SCRIPTS = {
    TransferRecipe: "task2_inference.py",
    ResNetRecipe: "task2_inference_wo_pretrain.py",
}
BYTES_PER_SECOND = 4000  # of MP3 at 32 kbit/s
FRAME_BYTES = 144  # at 16 kHz


def loop(source: Path, target: Path, seconds: float) -> None:
    """Repeat the frames of an MP3 of 16 kHz and 32 kbit/s, but for the first, which is a header."""
    coded = source.read_bytes()
    frames = coded[coded.index(b"\xff\xf3") + FRAME_BYTES :]
    frames = frames[: len(frames) // FRAME_BYTES * FRAME_BYTES]
    size = int(seconds * BYTES_PER_SECOND)
    target.write_bytes((frames * (size // len(frames) + 1))[:size])


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="where the songs are from")
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--songs", type=cli.positive_int, default=233, help="how many")
    parser.add_argument("--song-seconds", type=float, default=240, help="their length")
    return parser.parse_args()


def main() -> None:
    """Make the songs, run every checkpoint's script on them, and print a row each."""
    args = parse_args()
    sources = dataset.read_split(args.data_dir, "train")
    print(f"{'':60}{'seconds':>9}{'of CPUs':>9}{'MB':>7}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test").mkdir()
        for i in range(args.songs):
            song = Path(folder, "test", f"{i + 1:03}.mp3")
            loop(sources[i % len(sources)].file, song, args.song_seconds)
        minutes = args.songs * len(audio.open_song(song)) / audio.SAMPLE_RATE / 60
        for checkpoint in args.checkpoint:
            trained = checkpoints.load_model(checkpoint, TrainedModel, "training")
            kind = type(trained.settings.recipe)
            where = ["--data-dir", folder, "--output", f"{folder}/test_predictions.json"]
            script = [sys.executable, str(REPOSITORY / SCRIPTS[kind])]
            seconds, cpu_seconds, megabytes = run(
                [*script, "--checkpoint", str(checkpoint.resolve()), *where], Path(folder)
            )
            found = json.loads(Path(folder, "test_predictions.json").read_text(encoding="utf-8"))
            print(f"{checkpoint!s:60}{seconds:9.0f}{cpu_seconds:9.0f}{megabytes:7.0f}", end="")
            print(f"  {len(found)} songs, {60 * minutes / seconds:.0f} x real time")


if __name__ == "__main__":
    runtime.run(main)
