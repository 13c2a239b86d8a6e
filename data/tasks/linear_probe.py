"""Logistic regression on vectors, with C chosen by cross-validation on the training labels."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

PROBE_C_VALUES = 10.0 ** np.arange(-4, 3)
FOLDS = 5


def fit_logistic_regression(
    features: np.ndarray,
    labels: np.ndarray,
    seed: int,
    c: float | None = None,
    weights: np.ndarray | None = None,
    has_bias: bool = True,
) -> LogisticRegression:
    """Fit logistic regression of class ids (texts,) on features (texts, width).

    c: inverse regularization strength; None: the best by cross-validated log-likelihood, with no more folds than the
    rarest class has texts, or 1 if a class has only one text. weights: of the texts, (texts,); None: all are equal.
    has_bias: whether the solution has an intercept.
    """
    folds = min(FOLDS, np.bincount(labels).min())
    if c is None and folds < 2:
        c = 1.0
    if c is None:
        split, scoring = StratifiedKFold(folds, shuffle=True, random_state=seed), "neg_log_loss"
        models = [LogisticRegression(C=value, fit_intercept=has_bias, max_iter=2_000) for value in PROBE_C_VALUES]
        params = None if weights is None else {"sample_weight": weights}
        scores = [
            cross_val_score(model, features, labels, cv=split, scoring=scoring, params=params).mean()
            for model in models
        ]
        c = float(PROBE_C_VALUES[int(np.argmax(scores))])
    return LogisticRegression(C=c, fit_intercept=has_bias, max_iter=2_000).fit(features, labels, weights)
