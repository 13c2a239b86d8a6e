"""Linear probe: freeze the encoder and fit the last linear layer exactly.

Logistic regression with C chosen by cross-validation on the training labels, so no validation label is used. It is
copied into the layer: the result is an ordinary model, trained in the time of one forward pass over the texts.
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.model.network import Network, get_last_linear

PROBE_C_VALUES = 10.0 ** np.arange(-4, 3)
FOLDS = 5


class LastLayerInputs(nn.Module):
    """A head that predicts the inputs of the model's last linear layer."""

    def __init__(self, network: Network):
        super().__init__()
        self.network, self.model = network, network.model

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the features, (inputs, width)."""
        return self.network.last_layer_inputs(inputs)[0]


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


@torch.no_grad()
def copy_to_last_layer(classifier: LogisticRegression, model: PreTrainedModel) -> None:
    """Copy a solution into the last linear layer; the single row of a two-class solution is split over both classes."""
    weight, bias = torch.from_numpy(classifier.coef_), torch.from_numpy(classifier.intercept_)
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    last = get_last_linear(model)
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)
