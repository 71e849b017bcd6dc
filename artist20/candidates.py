"""Which of several classifiers on embeddings is best in cross-validation on the training songs."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from artist20 import distributed, evaluation, experiment, files, results
from artist20.experiment import Experiment, TrainingRun
from artist20.results import EncoderSettings, Predictions, TransferRecipe

FOLDS = range(1, results.N_FOLDS + 1)


def choose(
    study: Experiment,
    encoders: list[EncoderSettings],
    candidates: Mapping[str, TransferRecipe],
    train: Callable[[TrainingRun], object],
) -> TransferRecipe:
    """Train all candidates on every fold; take the best top-1, among equals the least log loss.

    The study's folder takes a folder for each candidate, ``candidates.json``, and
    ``cv_predictions.json`` of the one that is taken. ``train`` trains and finishes a run. Returns
    the recipe to train on all songs, with its temperature.
    """
    if study.args.overwrite:
        # All before the first is trained anew: --resume must not meet what other settings made.
        of_folds = [study.folder / name / f"fold-{k}" for name in candidates for k in FOLDS]
        distributed.on_main(lambda: _discard([*of_folds, study.folder]))
    found, pooled, temperatures = {}, {}, {}
    for name, candidate in candidates.items():
        for fold in FOLDS:
            run = study.open(candidate, encoders, fold, study.folder / name)
            if not run.finished:
                train(run)
        out_of_fold = study.pool_folds(study.folder / name)
        assert out_of_fold  # all folds are there
        pooled[name], temperatures[name] = _calibrated(out_of_fold, study.name, candidate)
        quality = evaluation.quality(pooled[name].scores[study.name], pooled[name].labels)
        found[name] = results.ClassifierCandidate(
            cv_top1=quality.top1, cv_log_loss=quality.log_loss
        )
        print(f"{name}: {quality.top1:.1%} in cross-validation, log loss {quality.log_loss:.3f}")
    best = max(found, key=lambda name: (found[name].cv_top1, -found[name].cv_log_loss))
    print(f"chosen: {best}")
    if distributed.is_main():
        choice = results.ClassifierChoice(chosen=best, candidates=found)
        results.write_record(study.folder / "candidates.json", choice)
        results.write_record(study.folder / "cv_predictions.json", pooled[best])
    return replace(candidates[best], temperature=temperatures[best])


def _discard(folders: list[Path]) -> None:
    for folder in filter(Path.is_dir, folders):
        with files.only_writer(folder):
            experiment.discard(folder)


def _calibrated(
    out_of_fold: Predictions, name: str, candidate: TransferRecipe
) -> tuple[Predictions, float]:
    """Fit the temperature of a classifier that was not trained to give probabilities.

    Each song is one row, so dividing its logits raises its probabilities to a power: the pooled
    ones are enough to fit it.
    """
    if candidate.solver == "epochs":
        return out_of_fold, candidate.temperature
    logits = np.log(out_of_fold.scores[name].clip(np.finfo(np.float32).tiny))
    factor = round(evaluation.fit_temperature(logits, out_of_fold.labels), 4)
    scores = {name: evaluation.calibrated(logits, factor)}
    return replace(out_of_fold, scores=scores), candidate.temperature * factor
