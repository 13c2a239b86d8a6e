"""What a new network starts with instead of noise: token vectors and a vocabulary bias counted from the text.

A network from nothing spends its first half million tokens on finding out which tokens are frequent and which keep company;
both can be counted in seconds.
"""

from __future__ import annotations

import numpy as np
import torch

from data.tokens.shards import Shards
from pretrain.model.encoder import Encoder

CONTEXT_WINDOW = 8  # tokens on either side that count as company, the farther the less
MAX_TOKENS = 2**22  # how much text is counted; twice as much gave no better start (LOG.md)
MIN_COUNT = 0.4  # company no weightier than this is left out: most pairs, and more noise than news
SMOOTHING = 0.75  # power of a company's frequency (Levy et al. 2015), or rare tokens would look like strong company


@torch.no_grad()
def init_bias_from_frequencies(encoder: Encoder, counts: np.ndarray) -> None:
    """Start a new head's bias at the logarithm of each token's frequency; counts int64 (vocabulary,).

    A bias learned at the encoder's rate would take tens of thousands of steps to get there, and until then the encoder
    is bent to make up for it.
    """
    bias = getattr(encoder.model.get_output_embeddings(), "bias", None)
    if any(
        parameter is bias and name in encoder.new_parameters for name, parameter in encoder.model.named_parameters()
    ):
        # Some published networks hold more rows than their tokenizer has tokens.
        smoothed = torch.ones(len(bias), dtype=torch.float64)
        smoothed[: len(counts)] += torch.from_numpy(counts[: len(bias)])
        bias.copy_((smoothed / smoothed.sum()).log())


@torch.no_grad()
def init_embeddings_from_cooccurrence(encoder: Encoder, shards: Shards, seed: int) -> None:
    """Start new token embeddings at `compute_cooccurrence_vectors`, as long as the random vectors they replace; the others stay."""
    weight = encoder.model.get_input_embeddings().weight
    vectors = torch.from_numpy(compute_cooccurrence_vectors(shards, weight.shape[1], seed))
    known = vectors.norm(dim=1) > 0
    weight[: len(vectors)][known] = vectors[known] * weight.norm(dim=1).median()


def compute_cooccurrence_vectors(shards: Shards, dim: int, seed: int) -> np.ndarray:
    """float32 (vocabulary, width): unit vectors of the tokens, alike for tokens that keep the same company; zero for unseen.

    The positive pointwise mutual information of tokens within a window of each other, inside a document, factored to
    `dim` by truncated singular value decomposition: what word2vec does implicitly (Levy and Goldberg 2014). Turned by a
    random rotation, so that no attention head gets more of the variance than another.
    """
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    size, tokens = shards.vocab_size, np.asarray(shards.tokens[:MAX_TOKENS]).astype(np.int32)
    document = np.zeros(len(tokens), dtype=np.int32)
    document[shards.documents[1:][shards.documents[1:] < len(tokens)]] = 1
    document = document.cumsum()
    counts = sparse.csr_matrix((size, size), dtype=np.float32)
    for apart in range(1, CONTEXT_WINDOW + 1):
        together = document[apart:] == document[:-apart]
        first, second = tokens[:-apart][together], tokens[apart:][together]
        counts += sparse.csr_matrix((np.full(len(first), 1 / apart, dtype=np.float32), (first, second)), (size, size))
    counts = (counts + counts.T).tocoo()
    total = np.bincount(counts.row, counts.data, size)
    share = total**SMOOTHING / (total**SMOOTHING).sum()
    information = np.log(counts.data / total[counts.row] / share[counts.col])
    kept = (information > 0) & (counts.data > MIN_COUNT)
    matrix = sparse.csr_matrix(
        (information[kept].astype(np.float32), (counts.row[kept], counts.col[kept])), (size, size)
    )
    rank = min(dim, size - 1)
    left, scale, _ = randomized_svd(matrix, rank, n_iter=2, random_state=seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    vectors = (left * np.sqrt(scale)) @ rotation[:rank]
    vectors[total == 0] = 0  # but for rounding
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)).astype(np.float32)
