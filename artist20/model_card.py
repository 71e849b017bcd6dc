"""The model card (Mitchell et al. 2019): what the models are for, what they reach, their limits.

The prose is fixed; every number is from results.json. ``artist20.slides`` writes it.
"""

from typing import Any

from artist20 import comparison, tables
from artist20.tables import escape

OPENING = """\
# Model card: artist recognition on artist20

Models that name the artist of a song, out of the artists they were trained on. This card is
written by `python -m artist20.slides`; its numbers are from `results.json`."""

PURPOSE = """\
## What they are for

- **For** research and teaching: comparing hand-made features, transfer from PANNs and a residual
  CNN on one split by album, and grading the homework's test songs.
- **Not for** deciding who made, owns or is to be paid for a recording, for finding imitations, or
  for anything else that touches people's rights. A model always names an artist it knows, whoever
  is heard; what it answers for others means nothing."""

KINDS = {
    "task1": "statistics of hand-made features of the song",
    "task1/segment": "the same of segments, scores averaged over the song",
    "task2/panns": "MLP on embeddings of the frozen Cnn14",
    "task2/panns_strong": "as `metrics.json` has it, on embeddings of the frozen Cnn14",
    "task2/resnet": "residual CNN on log-mel spectrograms",
    "task2/resnet_strong": "narrower residual CNN on short log-mel crops, and a linear model of "
    "their statistics over time",
    "ensemble": "weighted product of the others' probabilities",
}

DATA = """\
artist20 (Ellis 2007) has 20 artists of English-language pop and rock with six albums each, as MP3
at 16 kHz, mono, 32 kbit/s. Albums are kept whole: no album is heard both in training and in
testing."""

LIMITS = """\
## Limits

- **The album effect.** Songs of an album share its sound, its band, studio and mastering. A model
  learns some of that in place of the artist. Here albums are never split; a figure from a split
  by song would be higher, and worth less. Task 1's `cv_top1_by` in `metrics.json` has both.
- **Few songs.** Songs of an album are right or wrong together, so that figures are less sure than
  the number of songs suggests: read them with their intervals, which draw whole albums.
- **Chosen on what is reported.** The homework's networks take the epoch that is best on the
  validation songs. The last epoch's figures stand beside; strong recipes choose nothing there.
- **Closed set.** There is no answer "none of these".
- **Instrumental songs.** A singer's voice carries over from album to album. Where nobody sings, as
  in four of artist20's test songs (074, 119, 169, 206), expect more mistakes.
- **One sound quality.** Training is on 16 kHz, mono, 32 kbit/s. Other recordings are brought to
  that rate, but not to that coding.
- **Narrow music.** Artists of one language, of a few decades and genres.
- **Copyright.** The songs belong to their owners and are not passed on here. Whether a model
  trained on them may be is for their owners' law to say. PANNs' weights: Kong et al., CC BY 4.0."""

CITE = """\
## How to cite

Name this repository with its version and the commit, and the works that it builds on:

- D. P. W. Ellis, "Classifying music audio with timbral and chroma features", ISMIR 2007, for
  artist20.
- Q. Kong, Y. Cao, T. Iqbal, Y. Wang, W. Wang and M. D. Plumbley, "PANNs: Large-scale pretrained
  audio neural networks for audio pattern recognition", IEEE/ACM TASLP 28, 2020, for Cnn14 and its
  weights.
- K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition", CVPR 2016,
  for the residual network.
- M. Mitchell et al., "Model cards for model reporting", FAT* 2019, for this form."""


def render(results: dict[str, Any]) -> str:
    """Write the model card: Markdown."""
    data, models = results["dataset"], results["models"]
    warnings = [f"> {sentence}" for sentence in tables.warnings(results)]
    kinds = tables.table(
        ["model", "what it is", "parameters", "seed"],
        [
            [
                tables.title(record),
                KINDS[record["folder"]],
                f"{record['parameters']:,}" if "parameters" in record else "–",
                str(results["runs"][record["folder"]]["seed"]),
            ]
            for record in models.values()
        ],
        left=2,
    )
    used = (
        f"Used here: **{tables.data_label(data)}**, {data['artists']} artists, {data['train']} "
        f"training songs and {data['val']} validation songs of {data['val_albums']} albums "
        f"(SHA-256 over paths and contents `{data['fingerprint'][:16]}…`)."
    )
    hardest = comparison.of_all_models(models)
    albums = [
        f"{escape(album)} ({hardest[album][0]} of {hardest[album][1]} guesses right)"
        for album in comparison.worst_albums(hardest)
    ]
    artists = list(next(iter(models.values()))["artists"])
    blocks = [
        OPENING,
        *warnings,
        PURPOSE,
        "## The models",
        kinds,
        "## Data",
        DATA,
        used,
        "## What they reach",
        f"> {stamp}" if (stamp := tables.stamp(results)) else "",
        tables.songs_line(results)
        + " Score: top-1 + 0.5 × top-3. CV: top-1 in cross-validation by album.",
        tables.results_table(results),
        tables.chosen_line(models),
        tables.left_out_line(results),
        "### By artist: F1",
        tables.artists_table(results, artists),
        f"Hardest albums, for all models together: {tables.enumerate_names(albums)}.",
        LIMITS,
        CITE,
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"
