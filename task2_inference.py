"""Task 2, model 1, stage 2: name the artists of the test songs with an encoder and the classifier.

Reads   RESULTS_DIR/task2/panns/best.pt, the encoder's weights, DATA_DIR/test/001.mp3 ...
Writes  RESULTS_DIR/task2/panns/test_predictions.json    {"001": [best, second, third], ...}
                                test_scores.json         all scores

Windows over the whole song are averaged, and so are several classifiers. A file that cannot be read
is named, the artists with the most training songs are its prediction, and the exit status is 1.
With --limit N all goes to test_predictions_first_N.json. --encoder, --recipe and --audio-root name
the model, and with it the folder, as for task2_train.py.

    python task2_inference.py --encoder ecapa
    python task2_inference.py --audio song.mp3 ALBUM_FOLDER --output artists.csv
"""

import artist20.packages  # says which are missing

import argparse
from functools import partial

import numpy as np

from artist20 import UserError, audio, cli, inference, naming, results, runtime, trained
from artist20.encoders import ENCODERS
from artist20.evaluation import Scores
from artist20.results import TransferRecipe


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    inference.add_options(parser, "task2/panns")
    cli.add_recipe_option(parser)
    cli.add_encoder_option(parser, ENCODERS)
    cli.add_encoder_weights_option(parser)
    return cli.with_encoder_recipe(parser.parse_args())


def main() -> int:
    """Run the stage."""
    args = parse_args()
    device = runtime.choose_device(args.device)
    model, rendition = "+".join(args.encoder), naming.rendition_name(args.audio_root)
    folder = results.network_dir(args.results_dir, model, args.recipe, rendition=rendition)
    checkpoints = inference.read_checkpoints(args, folder, TransferRecipe)
    inference.check_alike(checkpoints, "encoders", "precision")
    inference.check_alike(checkpoints, "recipe.crop_seconds", "recipe.windows")
    path, checkpoint = next(iter(checkpoints.items()))
    first = checkpoint.settings
    names = [encoder.name for encoder in first.encoders]
    if names != args.encoder:  # or its answers would be filed under another name
        raise UserError(f"{path} was trained with --encoder {','.join(names)}: say so, too")
    loaded = trained.load_encoders(first, args.encoder_weights, device, args.precision)
    recipe, size = first.recipe, sum(encoder.definition.size for encoder in loaded)
    classifiers = [
        trained.load_classifier(path, checkpoint, size, device)
        for path, checkpoint in checkpoints.items()
    ]

    def score_song(waveform: audio.Waveform) -> Scores:
        rows = trained.embed_windows(loaded, waveform, recipe.crop_seconds, recipe.windows)
        return {"": np.mean([classifier.score_song(rows) for classifier in classifiers], axis=0)}

    read_song = partial(audio.open_song, sample_rate=loaded[0].definition.sample_rate)
    status = inference.run(args, folder, checkpoints, score_song, read_song)
    if not (args.audio or args.checkpoint):  # which a grader has without the other results
        options = naming.network_options(folder.name, args.audio_root)
        print(cli.next_stage(f"task2_gen_report.py{options}", args, "results_dir"))
    return status


if __name__ == "__main__":
    runtime.run(main)
