"""Linear classifiers with a closed form or a convex one, as weights of a network's last layer."""

import numpy as np
import scipy.linalg
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from artist20.results import Solver

NEVER = -1e6  # logit of a class without training songs
LEAST_VARIANCE = 1e-3  # within classes, of inputs that have 1 over all songs


def solve(
    solver: Solver, x: np.ndarray, labels: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear classifier.

    Parameters
    ----------
    solver : {"logistic regression", "LDA", "nearest centroid"}
        LDA shrinks the covariance as much as Ledoit and Wolf (2004) estimate. The nearest centroid
        is that by cosine, and takes vectors of length 1.
    x : np.ndarray
        (n_songs, n_inputs), standardised.
    labels : np.ndarray
        (n_songs,) class indices.
    n_classes : int
        How many there are, including classes without songs: these are never the answer.

    Returns
    -------
    weight : np.ndarray
        (n_classes, n_inputs) float32.
    bias : np.ndarray
        (n_classes,) float32: logits are ``x @ weight.T + bias``.
    """
    present = np.unique(labels)
    weight = np.zeros((n_classes, x.shape[1]), np.float32)
    bias = np.full(n_classes, NEVER, np.float32)
    if solver == "nearest centroid":
        centroids = np.stack([x[labels == label].mean(axis=0) for label in present])
        weight[present], bias[present] = normalize(centroids), 0
        return weight, bias
    if solver == "LDA":
        weight[present], bias[present] = _lda(x.astype(float), labels)
        return weight, bias
    model = LogisticRegression(max_iter=10_000).fit(x, labels)
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn then has the second class's logit less the first's
        coef, intercept = np.stack([0 * coef[0], coef[0]]), np.array([0, intercept[0]])
    weight[present], bias[present] = coef, intercept
    return weight, bias


def _lda(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit what scikit-learn's LDA fits with solver ``lsqr`` and automatic shrinkage.

    Its covariance is a diagonal and one row per song. Where there are fewer songs than inputs,
    solving for them (Woodbury) takes a second where 4,096 inputs take a minute.
    """
    diagonal, rows, means, priors = np.zeros(x.shape[1]), [], [], []
    for label in np.unique(labels):
        of_class = x[labels == label]
        mean, prior = of_class.mean(axis=0), len(of_class) / len(x)
        std = of_class.std(axis=0)
        scale = np.where(std > 0, std, 1)
        scaled = (of_class - mean) / scale
        shrinkage = ledoit_wolf_shrinkage(scaled) if len(of_class) > 1 else 1.0
        diagonal += prior * shrinkage * np.square(scaled).mean() * scale**2
        rows.append(np.sqrt(prior * (1 - shrinkage) / len(of_class)) * scaled * scale)
        means.append(mean)
        priors.append(prior)
    stacked, centres = np.concatenate(rows), np.stack(means)
    diagonal = np.maximum(diagonal, LEAST_VARIANCE)  # classes of one or two songs give none
    if len(x) > x.shape[1]:
        covariance = np.diag(diagonal) + stacked.T @ stacked
        weight = scipy.linalg.solve(covariance, centres.T, assume_a="pos").T
    else:
        whitened = stacked / diagonal
        inner = np.eye(len(stacked)) + whitened @ stacked.T
        of_rows = scipy.linalg.solve(inner, whitened @ centres.T, assume_a="pos")
        weight = centres / diagonal - of_rows.T @ whitened
    return weight, np.log(priors) - (weight * centres).sum(axis=1) / 2
