"""What families of features are worth to one of Task 1's models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec.structs import asdict
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from artist20 import classical, evaluation, results
from artist20.classical import Fitted, Rows
from artist20.results import FitSettings, Params


def explain(
    fitted: Fitted, rows: dict[str, Rows], folder: Path, settings: FitSettings, workers: int
) -> None:
    """Write ``ablation.json``: what each family of features is worth to a model.

    It is written anew after each family, so that a stopped run goes on with the next. ``rows`` are
    the songs of both splits; for the others see :func:`artist20.classical.search_and_fit`.
    """
    file = folder / "ablation.json"
    name, params = fitted.name, fitted.best.params
    wanted = results.AblationSettings(**asdict(settings), model=name, params=params)
    families: dict[str, results.Family] = {}
    if file.is_file():
        before = results.read_record(file, results.Ablation, classical.MADE_BY)
        results.check_same_settings(before.settings, wanted, file)
        if before.complete:
            print(f"{file}: is there already, not measured again")
            return
        families = before.families
    train, columns = rows["train"], rows["train"].families
    lost = permutation_importance(fitted.model, rows["val"], np.unique(train.y), settings.seed)
    missing = [family for family in lost if family not in families]
    for family in tqdm(missing, "ablation", disable=None, unit="family"):
        inside = columns == family
        families[family] = results.Family(
            n_features=int(inside.sum()),
            without=_cv_top1(name, train, ~inside, params, settings, workers),
            alone=_cv_top1(name, train, inside, params, settings, workers),
            lost=lost[family][0],
            lost_std=lost[family][1],
        )
        complete = len(families) == len(lost)
        record = results.Ablation(settings=wanted, complete=complete, families=families)
        results.write_record(file, record)


def _cv_top1(
    name: str, train: Rows, columns: np.ndarray, params: Params, settings: FitSettings, workers: int
) -> float | None:
    """Cross-validate a model on some columns; None where they are too few or too large to fit."""
    train = replace(train, X=train.X[:, columns], names=np.array(train.names)[columns].tolist())
    for fit, _ in classical.split_folds(train, settings.cv, settings.seed):
        X = train.of_songs(fit).X
        if not (X.size and np.ptp(X, axis=0).any()):
            return None
    try:
        (found, *_), _ = classical.search(
            name, train, classical.one_point(params), settings, workers, None
        )
    except classical.OutOfScaleError:
        return None
    return found.top1


def permutation_importance(
    model: Pipeline, rows: Rows, classes: np.ndarray, seed: int, repeats: int = 10
) -> dict[str, tuple[float, float]]:
    """Measure how much top-1 is lost when a family of features is shuffled over rows.

    Whole families, because the statistics of one are correlated: shuffled alone, hardly any of
    901 columns would be missed (Breiman 2001, for single columns). By family the mean and standard
    deviation over the repeats, as fractions of songs.
    """
    rng = np.random.default_rng(seed)
    labels = np.searchsorted(classes, rows.y)
    families = rows.families
    whole = evaluation.top_k_accuracy(classical.song_scores(model, rows), labels, 1)
    result = {}
    for family in dict.fromkeys(families.tolist()):
        lost = []
        for _ in range(repeats):
            X = rows.X.copy()
            inside = families == family
            X[:, inside] = X[rng.permutation(len(X))][:, inside]
            shuffled = classical.song_scores(model, replace(rows, X=X))
            lost.append(whole - evaluation.top_k_accuracy(shuffled, labels, 1))
        result[family] = float(np.mean(lost)), float(np.std(lost))
    return result
