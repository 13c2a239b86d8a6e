"""Vectors of inputs, and of texts: by the encoder or, of very many texts, by static vectors distilled from it.

A static vector is that of a token alone, as the encoder reads it (Tulkens and van Dongen 2024: model2vec); the vector
of a text is the mean over its tokens, in which frequent tokens count less (Arora et al. 2017). It takes a hundredth of
the time and keeps about half of what the encoder's vectors are worth for choosing (docs/explore.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from data.encoders import hash_weights
from data.modalities.text import MODALITY
from data.tasks.splits import Example
from data.tasks.tfidf import tfidf_vectorizer
from data.tokens.dataset import tokenize_examples
from engine.models import embed
from engine.models.load import load_tokenizer
from engine.training.distributed import make_accelerator
from explore.choose import sample_indices
from explore.steps import Steps

PART_INPUTS = 4_096  # inputs of a file of vectors
STATIC_BLOCK = 20_000
SMOOTHING = 1e-3  # tokens of this frequency count half
MAX_STATIC_TOKENS = 256
TOKEN_BATCH = 1_024
SVD_DIMS, MAX_SVD_TEXTS = 100, 10_000
SVD_STREAM = 2**36 + 11


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, float32; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


class TextEncoder:
    """The encoder in a folder, loaded when the first text is embedded. Raises DataError if it cannot be.

    random_seed: of random weights instead of those in the folder.
    """

    def __init__(self, folder: Path, max_length: int, random_seed: int | None = None):
        self.folder, self.max_length, self.random_seed = folder, max_length, random_seed
        self.key = [hash_weights(folder), max_length]
        self.embedder: nn.Module | None = None

    def embed(self, texts: list[str], title: str | None = None) -> np.ndarray:
        """Return the unit vectors of texts, float32 (texts, width). title: of the progress bar, if there is one."""
        accelerator = make_accelerator("native")
        if self.embedder is None:
            if self.random_seed is None:
                self.embedder = MODALITY.load_embedder(self.folder)
            else:
                torch.manual_seed(self.random_seed)
                self.embedder = embed.Embedder(embed.load_model(self.folder, random_init=True))
            self.embedder = self.embedder.to(accelerator.device)
        examples = [Example((text,), "") for text in texts]
        dataset = tokenize_examples(examples, self.folder, self.max_length, str(self.folder), allow_empty=True)
        return to_unit(np.stack(embed.run_batches(self.embedder, dataset, accelerator, progress_title=title)))


def embed_in_parts(inputs: list, key: list, embed: Callable[[list, str], np.ndarray], steps: Steps) -> np.ndarray:
    """Return the unit vectors of inputs, float16 (inputs, width), computed and stored part by part.

    key: what they depend on. embed: returns the unit vectors of some inputs; the title is of the progress bar.
    """
    parts = []
    for start in range(0, len(inputs), PART_INPUTS):
        part = inputs[start : start + PART_INPUTS]
        title = f"encode {start + len(part):,} of {len(inputs):,}"
        found = steps.get(
            "vectors",
            [key[0], start, *key[1:]],
            lambda part=part, title=title: {"vectors": embed(part, title).astype(np.float16)},
        )
        parts.append(found["vectors"])
    return np.concatenate(parts)


def iter_token_ids(texts: list[str], folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (token ids of a block of texts, number of tokens of each text), without special tokens."""
    tokenizer = load_tokenizer(folder)
    length = min(MAX_STATIC_TOKENS, tokenizer.model_max_length)
    for start in range(0, len(texts), STATIC_BLOCK):
        options = {"add_special_tokens": False, "truncation": True, "max_length": length}
        ids = tokenizer(texts[start : start + STATIC_BLOCK], **options)["input_ids"]
        yield np.concatenate([np.array(row, np.int32) for row in ids]), np.array([len(row) for row in ids])


class LoneTokens:
    """Each token of a tokenizer alone, between its special tokens, as inputs."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        whole, inside = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
        first = whole.index(inside[0])
        self.before, self.after = whole[:first], whole[first + len(inside) :]
        self.lengths = np.full(len(tokenizer), len(self.before) + 1 + len(self.after))

    def get_inputs(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return the network's inputs for these tokens."""
        ids = torch.tensor([[*self.before, int(index), *self.after] for index in indices])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def distill(folder: Path) -> np.ndarray:
    """Return the vector of every token that the encoder reads alone, float32 (tokens, width)."""
    accelerator = make_accelerator("native")
    embedder = MODALITY.load_embedder(folder).to(accelerator.device)
    tokens = LoneTokens(load_tokenizer(folder))
    vectors = np.stack(embed.run_batches(embedder, tokens, accelerator, TOKEN_BATCH, "distill static vectors"))
    return (vectors - vectors.mean(0)).astype(np.float32)


def embed_static(texts: list[str], token_vectors: np.ndarray, folder: Path) -> np.ndarray:
    """Return the unit vector of each text, float16 (texts, width): the weighted mean over its tokens."""
    counts = np.zeros(len(token_vectors), np.int64)
    for ids, _ in iter_token_ids(texts, folder):
        counts += np.bincount(ids, minlength=len(counts))
    weights = SMOOTHING / (SMOOTHING + counts / max(1, counts.sum()))
    weighted = (token_vectors * weights[:, None]).astype(np.float32)
    blocks = []
    for ids, lengths in iter_token_ids(texts, folder):
        starts = np.concatenate([[0], np.cumsum(lengths)])
        counted = csr_matrix((np.ones(len(ids), np.float32), ids, starts), (len(lengths), len(weighted)))
        blocks.append(to_unit(counted @ weighted).astype(np.float16))
    return np.concatenate(blocks)


def read_word_vectors(folder: Path) -> np.ndarray:
    """Return the vector of every token at the input of an encoder, float32 (tokens, width)."""
    weights = embed.load_model(folder).get_input_embeddings().weight.detach().float().numpy()
    return weights - weights.mean(0)


def fit_tfidf(texts: list[str], seed: int) -> Callable[[list[str]], np.ndarray]:
    """Return a function from texts to TF-IDF reduced to SVD_DIMS (latent semantic analysis), unit, float32."""
    from sklearn.decomposition import TruncatedSVD

    fitted = [texts[index] for index in sample_indices(np.arange(len(texts)), MAX_SVD_TEXTS, seed, SVD_STREAM)]
    vectorizer = tfidf_vectorizer(fitted, (1, 1))
    matrix = vectorizer.fit_transform(fitted)
    svd = TruncatedSVD(max(1, min(SVD_DIMS, matrix.shape[1] - 1)), random_state=seed).fit(matrix)
    return lambda rows: to_unit(svd.transform(vectorizer.transform(rows)))
