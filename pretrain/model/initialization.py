"""Initialize a new model's token embeddings and output bias from corpus statistics, counted in seconds.

Otherwise it spends its first half million tokens on learning token frequencies and co-occurrences.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from data.tokens.shards import Shards
from pretrain.model.encoder import Encoder

CONTEXT_WINDOW = 8  # tokens on either side, weighted by 1 / distance
MAX_TOKENS = 2**22  # tokens counted; twice as many did not help (docs/lab-notebook)
MIN_COUNT = 0.4  # rarer pairs are dropped: they are most of all pairs, and mainly noise
NUM_THREADS = 2  # that count pairs; each holds those of one distance in memory
SMOOTHING = 0.75  # exponent of the context frequencies, against a bias toward rare tokens (Levy et al. 2015)


@torch.no_grad()
def init_bias_from_frequencies(encoder: Encoder, counts: np.ndarray) -> None:
    """Set a new head's bias to the log token frequencies, which take long to learn; counts int64 (vocabulary,)."""
    bias = getattr(encoder.model.get_output_embeddings(), "bias", None)
    named = encoder.model.named_parameters()
    if any(parameter is bias and name in encoder.new_parameters for name, parameter in named):
        # Some published models have more embeddings than their tokenizer has tokens.
        smoothed = torch.ones(len(bias), dtype=torch.float64)
        smoothed[: len(counts)] += torch.from_numpy(counts[: len(bias)])
        bias.copy_((smoothed / smoothed.sum()).log())


@torch.no_grad()
def init_embeddings_from_cooccurrence(encoder: Encoder, shards: Shards, seed: int) -> None:
    """Replace the random embeddings of tokens seen in the corpus by co-occurrence vectors of the same median norm."""
    weight = encoder.model.get_input_embeddings().weight
    vectors = torch.from_numpy(compute_cooccurrence_vectors(shards, weight.shape[1], seed))
    known = vectors.norm(dim=1) > 0
    weight[: len(vectors)][known] = vectors[known] * weight.norm(dim=1).median()


def compute_cooccurrence_vectors(shards: Shards, dim: int, seed: int) -> np.ndarray:
    """Compute unit vectors, float32 (vocabulary, dim), similar for tokens of similar contexts; zero for unseen tokens.

    The positive pointwise mutual information of tokens within a window of a document is factored by truncated SVD,
    which word2vec does implicitly (Levy and Goldberg 2014). A random rotation spreads the variance over the attention
    heads.
    """
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    size, tokens = shards.vocab_size, np.asarray(shards.tokens[:MAX_TOKENS]).astype(np.int32)
    document = np.zeros(len(tokens), dtype=np.int32)
    document[shards.documents[1:][shards.documents[1:] < len(tokens)]] = 1
    document = document.cumsum()

    def count_pairs(distance: int) -> sparse.csr_matrix:
        same = document[distance:] == document[:-distance]
        first, second = tokens[:-distance][same], tokens[distance:][same]
        weights = np.full(len(first), 1 / distance, dtype=np.float32)
        return sparse.csr_matrix((weights, (first, second)), (size, size))

    counts = sparse.csr_matrix((size, size), dtype=np.float32)
    with ThreadPoolExecutor(NUM_THREADS) as threads:  # scipy sorts pairs without the interpreter lock
        for pairs in threads.map(count_pairs, range(1, CONTEXT_WINDOW + 1)):
            counts += pairs
    counts = (counts + counts.T).tocoo()
    total = np.bincount(counts.row, counts.data, size)
    share = total**SMOOTHING / (total**SMOOTHING).sum()
    pmi = np.log(counts.data / total[counts.row] / share[counts.col])
    keep = (pmi > 0) & (counts.data > MIN_COUNT)
    matrix = sparse.csr_matrix((pmi[keep].astype(np.float32), (counts.row[keep], counts.col[keep])), (size, size))
    rank = min(dim, size - 1)
    left, scale, _ = randomized_svd(matrix, rank, n_iter=2, random_state=seed)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    vectors = (left * np.sqrt(scale)) @ rotation[:rank]
    vectors[total == 0] = 0  # exactly
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)).astype(np.float32)
