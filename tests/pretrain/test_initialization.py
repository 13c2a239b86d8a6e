"""What a new network starts with: counted vectors against pairs counted one by one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import SPECIAL_IDS

from pretrain.config import ModelConfig
from pretrain.model import initialization
from pretrain.model.build import encoder_from_config


def text(documents: int = 60, size: int = 40, words: int = 30) -> SimpleNamespace:
    """Shards in memory: every document keeps to one half of the words 10 to 29; 0 to 9 are in all; 30 to 35 never."""
    random, made = np.random.default_rng(0), []
    for number in range(documents):
        own = np.arange(10, 20) if number % 2 else np.arange(20, words)
        made.append(random.choice(np.concatenate([np.arange(10), own]), size=size))
    return SimpleNamespace(
        tokens=np.concatenate(made).astype(np.uint16), vocab_size=36, documents=np.arange(documents + 1) * size
    )


def counted_slowly(shards: SimpleNamespace) -> np.ndarray:
    """Positive pointwise mutual information, a pair at a time."""
    size = shards.vocab_size
    counts = np.zeros((size, size))
    for begin, end in zip(shards.documents[:-1], shards.documents[1:]):
        here = shards.tokens[begin:end]
        for i, one in enumerate(here):
            for j, other in enumerate(here):
                if 0 < abs(i - j) <= initialization.CONTEXT_WINDOW:
                    counts[one, other] += 1 / abs(i - j)
    total = counts.sum(1)
    share = total**initialization.SMOOTHING / (total**initialization.SMOOTHING).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.maximum(0, np.log(counts / total[:, None] / share))) * (
            counts > initialization.MIN_COUNT
        )


def test_vectors_are_the_factored_information_turned():
    shards, width = text(), 35
    vectors = initialization.compute_cooccurrence_vectors(shards, width, 0)
    left, scale, _ = np.linalg.svd(counted_slowly(shards))
    expected = (left * np.sqrt(scale))[:, :width]
    expected = expected[:30] / np.linalg.norm(expected[:30], axis=1, keepdims=True)
    # A rotation changes the vectors and none of their products.
    assert np.allclose(vectors[:30] @ vectors[:30].T, expected @ expected.T, atol=1e-5)
    assert (
        vectors.dtype == np.float32 and not vectors[30:].any() and np.allclose(np.linalg.norm(vectors[:30], axis=1), 1)
    )


def test_tokens_that_keep_company_are_alike_and_no_direction_has_it_all():
    vectors = initialization.compute_cooccurrence_vectors(text(), 8, 0)
    alike = vectors @ vectors.T
    assert alike[10:20, 10:20].mean() > 0.5 > 0.1 > alike[10:20, 20:30].mean()
    assert (vectors[:30] ** 2).mean(0).max() < 3 * (vectors[:30] ** 2).mean()


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_a_new_network_starts_at_them(architecture):
    torch.manual_seed(0)
    shape = ModelConfig(
        architecture=architecture, layers=1, hidden_size=16, attention_heads=2, intermediate_size=16, positions=32
    )
    encoder, shards = encoder_from_config(shape, SPECIAL_IDS, 36, 32, 0.0, None), text()
    weight = encoder.model.get_input_embeddings().weight
    before = weight.detach().clone()
    initialization.init_embeddings_from_cooccurrence(encoder, shards, 3)
    vectors = torch.from_numpy(initialization.compute_cooccurrence_vectors(shards, 16, 3))
    assert torch.equal(weight[30:], before[30:]), "tokens without company stay as they were"
    assert torch.allclose(torch.nn.functional.normalize(weight[:30].detach()), vectors[:30], atol=1e-5)
    assert torch.allclose(weight[:30].norm(dim=1), before.norm(dim=1).median())
    assert encoder.model.get_output_embeddings().weight is weight


def test_more_width_than_tokens_and_one_seed_one_answer():
    shards = text()
    one, again, other = (initialization.compute_cooccurrence_vectors(shards, 50, seed) for seed in (0, 0, 1))
    assert one.shape == (36, 50) and np.array_equal(one, again) and not np.allclose(one, other, atol=1e-2)
