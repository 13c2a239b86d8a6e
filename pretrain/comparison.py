"""Compare a run with its `init`: weights, to average them, and embeddings, to show what training gained and lost."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.modalities import Modality
from pretrain.model.base import BaseEncoder

MAX_AGREEMENT_INPUTS = 1_000  # every pair of them is compared


class InitialWeights:
    """A copy of the weights that training starts from, in host memory."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.weights = {parameter: parameter.detach().to("cpu", copy=True) for parameter in parameters}

    @torch.no_grad()
    def interpolate(self, fraction: float) -> None:
        """Replace the current weights by an average that has `fraction` of the initial ones (Wortsman et al. 2022)."""
        for parameter, weights in self.weights.items():
            parameter.lerp_(weights.to(parameter.device), fraction)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Put the initial weights back for the duration of a `with` block."""
        current = [parameter.detach().clone() for parameter in self.weights]
        try:
            self.load(self.weights.values())
            yield
        finally:
            self.load(current)

    @torch.no_grad()
    def load(self, values: Iterable[Tensor]) -> None:
        """Copy values into the parameters."""
        for parameter, value in zip(self.weights, values, strict=True):
            parameter.copy_(value)


def embedding_agreement(first: Tensor, second: Tensor) -> float:
    """Compute Spearman's correlation of all pairwise cosines of two encoders' embeddings, each (inputs, width).

    1 if both rank all pairs of inputs alike; NaN for fewer than three inputs or constant embeddings.
    """
    cosines = []
    for embeddings in (first, second):
        unit = F.normalize(embeddings[:MAX_AGREEMENT_INPUTS].float(), dim=-1).cpu()
        rows, columns = np.triu_indices(len(unit), 1)
        cosines.append((unit @ unit.T).numpy()[rows, columns])
    if len(cosines[0]) < 3 or not all(np.ptp(values) > 0 for values in cosines):
        return float("nan")
    return float(spearmanr(*cosines).statistic)


def compare_with_init(modality: Modality, encoder: BaseEncoder, initial: InitialWeights) -> dict[str, dict[str, float]]:
    """Return {"before": metrics, "after": metrics} of the initial and the current weights, and their "agreement"."""
    with initial.restored():
        before, first = modality.measure_quality(encoder)
    after, last = modality.measure_quality(encoder)
    if first is None:
        return {}
    if np.isfinite(agreement := embedding_agreement(first, last)):
        before, after = {"agreement": 1.0, **before}, {"agreement": agreement, **after}
    return {"before": before, "after": after}
