"""Shards in memory and models that train in a second."""

from __future__ import annotations

import importlib
import re

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from data.sampling import row_generator
from engine.training.step import MicroBatch
from pretrain.config import ModelConfig
from pretrain.model.build import encoder_from_config
from pretrain.model.encoder import Encoder
from pretrain.model.static_encoder import StaticEncoder
from pretrain.objectives import mlm
from pretrain.pairs import ViewDataset

SPECIAL_IDS = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
VOCAB_SIZE, MAX_LENGTH = 90, 32


class InMemoryShards:
    """Shards of two or three documents per row, in memory."""

    max_length, vocab_size, special_ids = MAX_LENGTH, VOCAB_SIZE, SPECIAL_IDS

    def __init__(self, num_rows: int = 6):
        random, self.rows = np.random.default_rng(0), []
        tokens, pieces = [], []
        for _ in range(num_rows):
            ids, position, document = np.zeros(32, int), np.zeros(32, int), np.full(32, -1)
            at = 0
            for number, size in enumerate(random.integers(3, 9, size=random.integers(2, 4))):
                body = random.integers(5, 90, size=size)
                ids[at : at + size + 2] = [2, *body, 3]
                pieces.append((sum(map(len, tokens)), size))
                tokens.append(body)
                position[at : at + size + 2], document[at : at + size + 2] = np.arange(size + 2), number
                at += size + 2
            self.rows.append((ids, position, document))
        self.tokens, self.pieces = np.concatenate(tokens), np.array(pieces)
        self.documents = np.append(0, self.pieces.sum(1))

    def __len__(self) -> int:
        return len(self.rows)

    def token_counts(self) -> np.ndarray:
        return np.bincount(self.tokens, minlength=self.vocab_size)

    def get_row(self, index: int):
        return self.rows[index]


def make_batch(dataset, indices: list[int], step: int = 0) -> MicroBatch:
    return dataset.collate(indices, [row_generator(0, step, index) for index in indices])


def text_dataset(file, config, shards: InMemoryShards | None = None):
    """Return the data set of an objective's file for texts."""
    dataset = getattr(file, "Dataset", None) or getattr(file, "DATASETS", {}).get("text", ViewDataset)
    return dataset(config, shards or InMemoryShards(), None)


def collate_batch(config: mlm.Config, step: int = 0, shards: InMemoryShards | None = None) -> MicroBatch:
    return make_batch(mlm.Dataset(config, shards or InMemoryShards()), list(range(6)), step)


def tiny_encoder(
    architecture: str = "modernbert",
    dropout: float = 0.0,
    pooling: str | None = None,
    is_causal: bool = False,
    **overrides,
) -> Encoder:
    """An encoder for `InMemoryShards`, with the same weights at every call."""
    torch.manual_seed(0)
    shape = {"layers": 2, "hidden_size": 32, "attention_heads": 2, "intermediate_size": 32, "positions": MAX_LENGTH}
    model_config = ModelConfig(architecture=architecture, **{**shape, **overrides})
    return encoder_from_config(model_config, SPECIAL_IDS, VOCAB_SIZE, MAX_LENGTH, dropout, pooling, is_causal)


def tiny_static_encoder() -> StaticEncoder:
    """Vectors for `InMemoryShards`, the same at every call."""
    torch.manual_seed(0)
    return StaticEncoder(InMemoryShards().token_counts(), 30, SPECIAL_IDS, MAX_LENGTH, 1e-2)


def make_text_objective(name: str):
    """Return (objective, its data set) for `InMemoryShards`, with the same weights at every call."""
    file = importlib.import_module(f"pretrain.objectives.{name}")
    encoder = tiny_encoder("bert", is_causal=name == "causal") if name != "skipgram" else tiny_static_encoder()
    torch.manual_seed(1)
    return file.Objective(file.Config(), encoder), text_dataset(file, file.Config())


SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 48,
}


def tiny_bert(**overrides) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SMALL, **overrides)).eval()


def padded_batch(batch_size: int = 5, length: int = 20):
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (batch_size, length), generator=random)
    mask = (torch.arange(length) < torch.randint(4, length, (batch_size, 1), generator=random)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def depth_by_name(name: str, num_layers: int) -> int:
    """Return the depth of a parameter of BERT or ModernBERT, by its name."""
    if match := re.search(r"\.layers?\.(\d+)\.", name):
        return max(0, num_layers - int(match[1]))
    return num_layers + 1 if "embeddings" in name else int("final_norm" in name)
