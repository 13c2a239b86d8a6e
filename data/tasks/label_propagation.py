"""Class probabilities of unlabeled inputs, from the vectors of a few labeled ones or of the names of the classes.

A logistic regression takes in more and more of its own most confident predictions.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

BALANCED_SHOTS = 64  # labels per class up to which class weights are balanced; not at all from twice as many on
EQUAL_WEIGHTS = 1e-9  # largest difference of weights that are equal but for rounding
NUM_PASSES = 6  # of the regression over the unlabeled texts
NAMES_C = 10.0  # with many classes, a stronger regularization follows the more frequent ones
FIRST_FRACTION, LAST_FRACTION = 0.2, 0.8  # of the texts of each class that the first and the last pass train on


def balance_classes(labels: np.ndarray) -> np.ndarray:
    """Return balanced class weights of labeled texts, (texts,), with a mean of 1. labels: class ids.

    With few labels, all classes have the same total weight, because a regularized regression predicts classes with
    fewer labels too rarely. With many, all texts have the same weight, and the class frequencies are learned.
    """
    counts = np.bincount(labels)
    shots = len(labels) / np.count_nonzero(counts)
    weights = np.power(counts[labels], -np.clip(2 - shots / BALANCED_SHOTS, 0, 1), dtype=float)
    return weights / weights.mean()


def weigh_texts(labels: np.ndarray, num_labeled: int, class_weight: float) -> np.ndarray | None:
    """Return the weights of texts, (texts,), or None if they are equal.

    Those of `balance_classes` for the first `num_labeled` texts, and `class_weight` for all others of a class together.
    labels: class ids.
    """
    weights = balance_classes(labels[:num_labeled]) if num_labeled else np.zeros(0)
    if len(labels) == num_labeled:
        return None if np.ptp(weights) < EQUAL_WEIGHTS else weights
    of_classes = labels[num_labeled:]
    return np.concatenate([weights, class_weight / np.bincount(of_classes)[of_classes]])


def select_most_confident(
    probabilities: np.ndarray, top_fraction: float, min_confidence: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return (indices, classes) of the most confident `top_fraction` of the texts of each predicted class.

    probabilities: (texts, classes). At least one text of every predicted class, but none below `min_confidence`.
    """
    predictions, confidence, selected = probabilities.argmax(1), probabilities.max(1), []
    for class_id in np.unique(predictions):
        indices = np.flatnonzero(predictions == class_id)
        indices = indices[np.argsort(-confidence[indices], kind="stable")]
        indices = indices[: max(1, round(top_fraction * len(indices)))]
        selected.append(indices[confidence[indices] >= min_confidence])
    selected = np.concatenate(selected)
    return selected, predictions[selected]


def propagate_labels(
    labeled_features: np.ndarray,
    labels: np.ndarray,
    unlabeled_features: np.ndarray,
    labeled_fraction: float,
    weights: np.ndarray | None = None,
    c: float = 1.0,
) -> np.ndarray:
    """Return class probabilities of unlabeled texts by a regression that takes in more of them at each pass.

    features: (texts, width); labels: class ids; weights: of the labeled texts, None if equal. The labeled texts have at
    least `labeled_fraction` of a pass's weight. c: inverse regularization strength of the passes.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    scale = np.sqrt(np.square(labeled_features).sum(1).mean())
    labeled_features, unlabeled_features = labeled_features / scale, unlabeled_features / scale
    model = LogisticRegression(C=10, max_iter=2_000).fit(labeled_features, labels, weights)
    for fraction in np.linspace(FIRST_FRACTION, LAST_FRACTION, NUM_PASSES):
        indices, classes = select_most_confident(model.predict_proba(unlabeled_features), fraction)
        factor = max(1.0, labeled_fraction / (1 - labeled_fraction) * len(indices) / weights.sum())
        all_weights = np.concatenate([factor * weights, np.ones(len(indices))])
        features = np.concatenate([labeled_features, unlabeled_features[indices]])
        targets = np.concatenate([labels, model.classes_[classes]])
        model = LogisticRegression(C=c, max_iter=2_000).fit(features, targets, all_weights)
    probabilities = np.zeros((len(unlabeled_features), labels.max() + 1))
    probabilities[:, model.classes_] = model.predict_proba(unlabeled_features)
    return probabilities
