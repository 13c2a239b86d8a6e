"""A linear probe: the encoder as it is, and the last linear layer solved exactly on what it reads.

Logistic regression, its strength chosen by cross-validation on the training labels, so no validation label is used. The
solution is written into the layer: what is left is a model like any other, made in the time of reading the texts once.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.model.build import get_last_linear

PROBE_C_VALUES = 10.0 ** np.arange(-4, 3)
FOLDS = 5


class LastLayerInputs(nn.Module):
    """In a head's place: what the last linear layer reads."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def predict(self, **inputs: Tensor) -> Tensor:
        """(texts, width)."""
        read = []
        hook = get_last_linear(self.model).register_forward_pre_hook(lambda module, given: read.append(given[0]))
        try:
            self.model(**inputs)
        finally:
            hook.remove()
        return read[0].float()


def fit_logistic_regression(
    features: np.ndarray, labels: np.ndarray, seed: int, C: float | None = None
) -> LogisticRegression:
    """The regression of class ids (texts,) on (texts, width), at `C`; none: the best by held-out log-likelihood.

    The fewest texts of a class are the most folds; a class of one text leaves nothing to choose by, and the strength 1.
    """
    folds = min(FOLDS, np.bincount(labels).min())
    if C is None and folds < 2:
        C = 1.0
    if C is None:
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
        told = [
            cross_val_score(
                LogisticRegression(C=C, max_iter=2_000), features, labels, cv=split, scoring="neg_log_loss"
            ).mean()
            for C in PROBE_C_VALUES
        ]
        C = float(PROBE_C_VALUES[int(np.argmax(told))])
    return LogisticRegression(C=C, max_iter=2_000).fit(features, labels)


@torch.no_grad()
def copy_to_last_layer(classifier: LogisticRegression, model: PreTrainedModel) -> None:
    """Put a solution into the last linear layer; of two classes it has one row, the second's, and each takes half."""
    weight, bias = torch.from_numpy(classifier.coef_), torch.from_numpy(classifier.intercept_)
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    last = get_last_linear(model)
    last.weight.copy_(weight)
    last.bias.copy_(bias)
