"""Which features, embeddings and linear models name artists best, and how far they get together.

Reads songs as numbers: songs.json, features.npy, units.npy, unit_names.json, unit_song.npy,
ge2e.npy, ge2e_song.npy, tagger.npy. Training songs are cross-validated, albums whole, and a fold's
model has its settings and its temperature from folds within that fold's training songs. Then the
validation songs.

    python benchmarks/feature_rows.py --features-dir sungpop20-features --seeds 0 1
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from artist20 import classical, cli, ensemble, evaluation
from artist20.classical import Grid, Rows
from artist20.features import UNIT_NAMES
from artist20.files import parse_json
from artist20.naming import TITLES
from artist20.results import FitSettings, Segments, Value

SPLITS = ("cv", "val")
SCALED: dict[str, list[Value]] = {"scaler": ["standard"], "k": [300]}  # of the highest F values
GRIDS: dict[str, Grid] = {
    "lda": [{**SCALED, "shrinkage": [0.3, 0.5, 0.7, 0.9]}],
    "logistic_regression": [{**SCALED, "k": [300, None], "C": [0.01, 0.1]}],
    "svm": [{**SCALED, "k": [300, None], "kernel": ["linear"], "C": [0.01, 1.0]}],
}


def read_songs(folder: Path) -> dict[str, dict[str, Rows]]:
    """Read every representation of the songs: by its name, by split."""
    songs = parse_json((folder / "songs.json").read_bytes(), list[dict[str, str]])
    y, albums, split_of = (np.array([of[k] for of in songs]) for k in ("artist", "album", "split"))
    array = {file.stem: np.load(file).astype(np.float32) for file in folder.glob("*.npy")}
    of_window = [array["ge2e"][array["ge2e_song"] == i] for i in range(len(songs))]
    ge2e = np.array([np.concatenate([of.mean(axis=0), of.std(axis=0)]) for of in of_window])
    one = np.arange(len(songs))
    tables = {"features": array["features"], "ge2e": ge2e, "tagger": array["tagger"]}
    for first, second in (("ge2e", "tagger"), ("features", "ge2e")):
        tables[f"{first} + {second}"] = np.concatenate([tables[first], tables[second]], axis=1)
    found = {name: Rows(X, one, y, albums, [""] * X.shape[1]) for name, X in tables.items()}
    segments = Segments(seconds=20, covariance=True)  # as good there as of 5 s, and fewer
    # These songs have no modulations: the columns are 0, and constant columns are dropped.
    units = np.zeros((len(array["units"]), len(UNIT_NAMES)), np.float32)
    names = parse_json((folder / "unit_names.json").read_bytes(), list[str])
    units[:, [UNIT_NAMES.index(name) for name in names]] = array["units"]
    unit_song = array["unit_song"].astype(int)
    found["segments"] = classical.cut_segments(units, unit_song, y, albums, segments)
    splits = {split: np.flatnonzero(split_of == split) for split in ("train", "val")}
    return {name: {k: of.of_songs(i) for k, i in splits.items()} for name, of in found.items()}


def score(name: str, fit: Rows, others: Rows, classes: np.ndarray, seed: int) -> np.ndarray:
    """Choose settings on the songs to fit, fit, and score others: (n_songs, n_classes)."""
    settings = FitSettings(dataset="", features="", cv="album", seed=seed)
    (best, *_), unseen = classical.search(name, fit, GRIDS[name], settings, 1, None)
    known, labels = np.unique(fit.y, return_inverse=True)
    temperature = evaluation.fit_temperature(classical.logits(name, unseen), labels)
    model = classical.fit_model(name, fit, best.params, seed)
    scores = np.zeros((len(others.y), len(classes)))
    places = np.searchsorted(classes, known)
    scores[:, places] = classical.probabilities(name, model, others, temperature)
    return scores


def score_all(name: str, songs: dict[str, Rows], seed: int) -> dict[str, np.ndarray]:
    """Score the training songs, each unseen, and the validation songs: (n_songs, n_classes)."""
    train, classes = songs["train"], np.unique(songs["train"].y)
    held_out = np.empty((len(train.y), len(classes)))
    for fit, held in classical.split_folds(train, "album", seed):
        held_out[held] = score(name, train.of_songs(fit), train.of_songs(held), classes, seed)
    return {"cv": held_out, "val": score(name, train, songs["val"], classes, seed)}


def combine(
    how: str, members: list[dict[str, np.ndarray]], labels: np.ndarray, folds: list
) -> dict[str, np.ndarray]:
    """Score with several models together; weights are fitted as artist20.ensemble does."""
    log_p = {split: ensemble.log_probabilities([of[split] for of in members]) for split in SPLITS}
    if how == "weighted":
        weights = ensemble.fit_weights(log_p["cv"], labels)
        held_out = ensemble.cross_validate(log_p["cv"], labels, folds)
        return {"cv": held_out, "val": ensemble.pool(log_p["val"], weights)}
    mean = {split: np.exp(of).mean(axis=0) for split, of in log_p.items()}
    return mean if how == "averaged" else {split: of.mean(axis=0) for split, of in log_p.items()}


def main() -> None:
    """Print the table, then what comes of its rows together."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--features-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=cli.seed_int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    songs = read_songs(args.features_dir)
    train, val = songs["features"].values()
    artists = {"cv": train.y, "val": val.y}
    labels = {split: np.searchsorted(np.unique(train.y), y) for split, y in artists.items()}

    def show(what: str, of_seeds: list[dict[str, np.ndarray]]) -> None:
        cells = [what]
        for split in SPLITS:
            reached = [evaluation.accuracy(of[split], labels[split]) for of in of_seeds]
            top1, top3 = (np.mean([getattr(of, k) for of in reached]) for k in ("top1", "top3"))
            cells.append(f"{100 * top1:.1f} / {100 * top3:.1f}")
        print("|", " | ".join(cells), "|", flush=True)

    print("| mean over seeds of top-1 / top-3 | cross-validation | validation |\n|---|---|---|")
    rows = {}
    for name, model in product(songs, GRIDS):
        rows[name, model] = [score_all(model, songs[name], seed) for seed in args.seeds]
        show(f"{TITLES[model]}, {name}", rows[name, model])
    folds = [classical.split_folds(train, "album", seed) for seed in args.seeds]
    single = [name for name in songs if "+" not in name]
    groups = {f"{TITLES[of]} of {', '.join(single)}": list(product(single, [of])) for of in GRIDS}
    groups |= {"these twelve": list(product(single, GRIDS)), "all rows": list(rows)}
    for (what, members), how in product(groups.items(), ("averaged", "multiplied", "weighted")):
        of_seeds = zip(zip(*(rows[member] for member in members), strict=True), folds, strict=True)
        show(f"{what}, {how}", [combine(how, [*of], labels["cv"], by) for of, by in of_seeds])


if __name__ == "__main__":
    main()
