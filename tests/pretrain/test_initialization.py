"""Initialization from corpus statistics, compared with pairs counted in plain loops."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import SPECIAL_IDS

from pretrain.config import ModelConfig
from pretrain.model import initialization
from pretrain.model.build import encoder_from_config


def make_shards(documents: int = 60, size: int = 40, words: int = 30) -> SimpleNamespace:
    """Shards in memory: 0 to 9 are in all documents, 10 to 19 or 20 to 29 in every other, 30 to 35 in none."""
    random, texts = np.random.default_rng(0), []
    for number in range(documents):
        half = np.arange(10, 20) if number % 2 else np.arange(20, words)
        texts.append(random.choice(np.concatenate([np.arange(10), half]), size=size))
    return SimpleNamespace(
        tokens=np.concatenate(texts).astype(np.uint16), vocab_size=36, documents=np.arange(documents + 1) * size
    )


def slow_pmi(shards: SimpleNamespace) -> np.ndarray:
    """Positive pointwise mutual information, pair by pair."""
    size = shards.vocab_size
    counts = np.zeros((size, size))
    for start, end in pairwise(shards.documents):
        tokens = shards.tokens[start:end]
        for i, one in enumerate(tokens):
            for j, other in enumerate(tokens):
                if 0 < abs(i - j) <= initialization.CONTEXT_WINDOW:
                    counts[one, other] += 1 / abs(i - j)
    total = counts.sum(1)
    share = total**initialization.SMOOTHING / (total**initialization.SMOOTHING).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.nan_to_num(np.maximum(0, np.log(counts / total[:, None] / share)))
    return pmi * (counts > initialization.MIN_COUNT)


def test_cooccurrence_vectors_are_the_factored_and_rotated_pmi():
    shards, dim = make_shards(), 35
    vectors = initialization.compute_cooccurrence_vectors(shards, dim, 0)
    left, scale, _ = np.linalg.svd(slow_pmi(shards))
    expected = (left * np.sqrt(scale))[:, :dim]
    expected = expected[:30] / np.linalg.norm(expected[:30], axis=1, keepdims=True)
    # A rotation changes the vectors but not their dot products.
    assert np.allclose(vectors[:30] @ vectors[:30].T, expected @ expected.T, atol=1e-5)
    assert vectors.dtype == np.float32 and not vectors[30:].any()
    assert np.allclose(np.linalg.norm(vectors[:30], axis=1), 1)


def test_tokens_of_similar_contexts_are_similar_and_variance_is_spread_over_dimensions():
    vectors = initialization.compute_cooccurrence_vectors(make_shards(), 8, 0)
    similarity = vectors @ vectors.T
    assert similarity[10:20, 10:20].mean() > 0.5 > 0.1 > similarity[10:20, 20:30].mean()
    assert (vectors[:30] ** 2).mean(0).max() < 3 * (vectors[:30] ** 2).mean()


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_new_model_starts_with_cooccurrence_vectors(architecture):
    torch.manual_seed(0)
    shape = ModelConfig(
        architecture=architecture, layers=1, hidden_size=16, attention_heads=2, intermediate_size=16, positions=32
    )
    encoder, shards = encoder_from_config(shape, SPECIAL_IDS, 36, 32, 0.0, None), make_shards()
    weight = encoder.model.get_input_embeddings().weight
    before = weight.detach().clone()
    initialization.init_embeddings_from_cooccurrence(encoder, shards, 3)
    vectors = torch.from_numpy(initialization.compute_cooccurrence_vectors(shards, 16, 3))
    assert torch.equal(weight[30:], before[30:]), "unseen tokens keep their random vectors"
    assert torch.allclose(torch.nn.functional.normalize(weight[:30].detach()), vectors[:30], atol=1e-5)
    assert torch.allclose(weight[:30].norm(dim=1), before.norm(dim=1).median())
    assert encoder.model.get_output_embeddings().weight is weight


def test_more_dimensions_than_tokens_and_dependence_on_the_seed():
    shards = make_shards()
    one, again, other = (initialization.compute_cooccurrence_vectors(shards, 50, seed) for seed in (0, 0, 1))
    assert one.shape == (36, 50) and np.array_equal(one, again) and not np.allclose(one, other, atol=1e-2)
