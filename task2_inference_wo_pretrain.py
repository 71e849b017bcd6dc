"""Task 2, model 2, stage 2: name the artists of the test songs with the trained residual CNN.

Reads   RESULTS_DIR/task2/resnet/best.pt, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task2/resnet/test_predictions.json    {"001": [best, second, third], ...}
                                 test_scores.json         all scores

Windows over the whole song are averaged, and so are several networks. A file that cannot be read
is named, the artists with the most training songs are its prediction, and the exit status is 1.
With --limit N all goes to test_predictions_first_N.json. With --recipe strong, all is in
RESULTS_DIR/task2/resnet_strong; with --audio-root, in RESULTS_DIR/task2/resnet@<tree>.

    python task2_inference_wo_pretrain.py
    python task2_inference_wo_pretrain.py --audio song.mp3 ALBUM_FOLDER --output artists.csv
    python task2_inference_wo_pretrain.py --recipe strong --checkpoint seed-0/best.pt seed-1/best.pt
"""

import artist20.packages  # says which are missing

import argparse
from functools import partial

import numpy as np

from artist20 import cli, inference, naming, results, runtime, spectrogram, trained
from artist20.evaluation import Scores
from artist20.results import ResNetRecipe
from artist20.spectrogram import FrontEnd


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/resnet")
    cli.add_recipe_option(parser)
    return parser.parse_args()


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = runtime.choose_device(args.device)
    rendition = naming.rendition_name(args.audio_root)
    folder = results.network_dir(args.results_dir, "resnet", args.recipe, rendition=rendition)
    checkpoints = inference.read_checkpoints(args, folder, ResNetRecipe)
    networks = [
        trained.load_resnet(path, checkpoint, device, args.precision)
        for path, checkpoint in checkpoints.items()
    ]

    def score_song(log_mels: dict[FrontEnd, np.ndarray]) -> Scores:
        answers = [network.score_song(log_mels[network.front_end]) for network in networks]
        parts = [part for part in answers[0] if all(part in answer for answer in answers)]
        return {part: np.mean([answer[part] for answer in answers], axis=0) for part in parts}

    # Log-mels take a fraction of their waveform's memory: they are what workers hand over.
    front_ends = {network.front_end for network in networks}
    read_song = partial(spectrogram.load_log_mels, front_ends=front_ends)
    status = inference.run(args, folder, checkpoints, score_song, read_song)
    if not (args.audio or args.checkpoint):  # which a grader has without the other results
        options = naming.network_options(folder.name, args.audio_root)
        print(cli.next_stage(f"task2_gen_report_wo_pretrain.py{options}", args, "results_dir"))
    return status


if __name__ == "__main__":
    runtime.run(main)
