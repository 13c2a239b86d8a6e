"""What training changed: averaged weights, agreement with init, and the warning about lost quality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn

from pretrain.comparison import InitialWeights, compare_with_init, embedding_agreement
from publish.card.results import MAX_STS_LOSS, MIN_AGREEMENT, MIN_CANDIDATES, describe_quality


def test_weights_are_averaged_with_the_initial_ones_and_restored():
    model = nn.Linear(3, 2)
    first = [parameter.detach().clone() for parameter in model.parameters()]
    initial = InitialWeights(model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 4
    with initial.restored():
        assert all(torch.equal(*pair) for pair in zip(model.parameters(), first, strict=True))
    assert all(torch.allclose(now, start + 4) for now, start in zip(model.parameters(), first, strict=True))
    initial.interpolate(0.25)
    assert all(torch.allclose(now, start + 3) for now, start in zip(model.parameters(), first, strict=True))


def test_agreement_is_the_rank_correlation_of_pairwise_cosines():
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, 20, 8, generator=generator)
    second = first + noise

    def cosines(embeddings: np.ndarray) -> list[float]:
        pairs = [(a, b) for i, a in enumerate(embeddings) for b in embeddings[:i]]
        return [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]

    expected = np.corrcoef(*(rankdata(cosines(each.numpy().astype(float))) for each in (first, second)))[0, 1]
    assert abs(embedding_agreement(first, second) - expected) < 1e-4 and 0.2 < expected < 0.95
    assert abs(embedding_agreement(first, 3 * first) - 1) < 1e-6
    assert np.isnan(embedding_agreement(first[:2], second[:2])) and np.isnan(embedding_agreement(first, 0 * first))


class Measured:
    """A modality with ten inputs; the weights of an encoder are their embeddings."""

    def measure_quality(self, encoder):
        return {"retrieval_acc@1": encoder.weight.sum().item()}, encoder.weight.detach().clone()


def test_both_weights_are_measured():
    encoder = nn.Linear(4, 10, bias=False)
    initial = InitialWeights(encoder.parameters())
    before = encoder.weight.sum().item()
    with torch.no_grad():
        encoder.weight += torch.randn(10, 4)
    quality = compare_with_init(Measured(), encoder, initial)
    assert quality["before"] == {"agreement": 1.0, "retrieval_acc@1": before}
    assert quality["after"]["retrieval_acc@1"] == encoder.weight.sum().item() and quality["after"]["agreement"] < 0.99


def quality_of(retrieval: float, agreement: float, sts: float | None = None) -> dict:
    before, after = {"agreement": 1.0}, {"agreement": agreement}
    before |= {"retrieval_acc@1": 0.5, "num_candidates": 400}
    after |= {"retrieval_acc@1": retrieval, "num_candidates": 400}
    if sts is not None:
        before, after = before | {"sts_spearman": 0.8}, after | {"sts_spearman": sts}
    return {"quality": {"before": before, "after": after}}


@pytest.mark.parametrize(
    "retrieval, agreement, sts, warns",
    [
        (0.50, MIN_AGREEMENT - 0.01, None, True),
        (0.45, MIN_AGREEMENT - 0.01, None, True),
        (0.52, MIN_AGREEMENT - 0.01, None, True),  # within a standard error of 0.025
        (0.53, MIN_AGREEMENT - 0.01, None, False),
        (0.50, MIN_AGREEMENT + 0.01, None, False),
        (0.50, MIN_AGREEMENT - 0.01, 0.8, False),  # STS decides where it is measured
        (0.50, MIN_AGREEMENT + 0.01, 0.8 - MAX_STS_LOSS - 0.001, True),
        (0.60, MIN_AGREEMENT - 0.01, 0.8 - MAX_STS_LOSS - 0.001, False),
    ],
)
def test_a_warning_where_quality_is_lost_and_nothing_gained(retrieval, agreement, sts, warns):
    lines = dict(describe_quality(quality_of(retrieval, agreement, sts)))
    assert ("warning" in lines) == warns
    assert f"{agreement:.3f}" in lines["general quality"] and f"0.500 before, {retrieval:.3f}" in lines["own corpus"]
    assert ("STS 0.800 before" in lines["general quality"]) == (sts is not None)


def test_few_candidates_are_too_few_to_compare():
    metrics = quality_of(0.50, MIN_AGREEMENT - 0.01)
    for values in metrics["quality"].values():
        values["num_candidates"] = MIN_CANDIDATES - 1
    lines = dict(describe_quality(metrics))
    assert "warning" not in lines and "(49 candidates, too few to compare): 0.500 before" in lines["own corpus"]


def test_a_run_without_init_has_no_such_lines():
    assert describe_quality({}) == [] and describe_quality({"quality": {}}) == []
