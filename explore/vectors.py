"""Vectors of texts: by the encoder or, of very many texts, by static vectors distilled from it.

A static vector is that of a token alone, as the encoder reads it (Tulkens and van Dongen 2024: model2vec); the vector
of a text is the mean over its tokens, in which frequent tokens count less (Arora et al. 2017). It takes a hundredth of
the time and keeps about half of what the encoder's vectors are worth for choosing (docs/explore.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.encoders import hash_weights, limit_length, read_pooling
from data.tasks.splits import Example
from data.tokens.dataset import tokenize_examples
from engine.models import embed
from engine.models.load import load_tokenizer
from engine.training.distributed import make_accelerator
from explore.steps import Steps

PART_INPUTS = 4_096  # inputs of a file of vectors
STATIC_BLOCK = 20_000
SMOOTHING = 1e-3  # tokens of this frequency count half
MAX_STATIC_TOKENS = 256


def to_unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, float32; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


class TextEncoder:
    """The encoder in a folder, loaded when the first text is embedded. Raises DataError if it cannot be."""

    def __init__(self, folder: Path, max_length: int):
        self.folder, self.max_length = folder, max_length
        self.key = [hash_weights(folder), max_length]
        self.embedder: embed.Embedder | None = None

    def embed(self, texts: list[str], title: str | None = None) -> np.ndarray:
        """Return the unit vectors of texts, float32 (texts, width). title: of the progress bar, if there is one."""
        accelerator = make_accelerator("native")
        if self.embedder is None:
            model = embed.load_model(self.folder).to(accelerator.device)
            self.embedder = embed.Embedder(model, read_pooling(self.folder) or "mean")
        examples = [Example((text,), "") for text in texts]
        dataset = tokenize_examples(examples, self.folder, self.max_length, str(self.folder), allow_empty=True)
        return to_unit(np.stack(embed.run_batches(self.embedder, dataset, accelerator, progress_title=title)))


def embed_in_parts(texts: list[str], key: str, encoder: TextEncoder, steps: Steps) -> np.ndarray:
    """Return the unit vectors of texts, float16 (texts, width), computed and stored part by part.

    key: fingerprint of the texts.
    """
    parts = []
    for start in range(0, len(texts), PART_INPUTS):
        part = texts[start : start + PART_INPUTS]
        title = f"encode {start + len(part):,} of {len(texts):,}"
        found = steps.get(
            "vectors",
            [key, start, *encoder.key],
            lambda part=part, title=title: {"vectors": encoder.embed(part, title).astype(np.float16)},
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


def distill(folder: Path) -> np.ndarray:
    """Return the vector of every token that the encoder reads alone, float32 (tokens, width)."""
    import torch

    accelerator, tokenizer = make_accelerator("native"), load_tokenizer(folder)
    model = embed.load_model(folder).to(accelerator.device)
    assert limit_length(8, tokenizer, model.config) >= 3

    class Tokens:
        lengths = np.full(len(tokenizer), 3)

        @staticmethod
        def get_inputs(indices: np.ndarray) -> dict:
            rows = [tokenizer.build_inputs_with_special_tokens([int(index)]) for index in indices]
            ids = torch.tensor(rows)
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    embedder = embed.Embedder(model, read_pooling(folder) or "mean")
    vectors = np.stack(embed.run_batches(embedder, Tokens(), accelerator, 1_024, "distill static vectors"))
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
        from scipy.sparse import csr_matrix

        starts = np.concatenate([[0], np.cumsum(lengths)])
        counted = csr_matrix((np.ones(len(ids), np.float32), ids, starts), (len(lengths), len(weighted)))
        blocks.append(to_unit(counted @ weighted).astype(np.float16))
    return np.concatenate(blocks)
