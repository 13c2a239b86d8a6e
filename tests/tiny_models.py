"""Shards held in memory and networks that train in a second."""

from __future__ import annotations

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from data.sampling import row_generator
from pretrain.objectives import mlm

SPECIAL_IDS = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}


class InMemoryShards:
    """Shards of two or three documents a row, held in memory."""

    max_length, vocab_size, special_ids = 32, 90, SPECIAL_IDS

    def __init__(self, count: int = 6):
        random, self.rows = np.random.default_rng(0), []
        tokens, pieces = [], []
        for _ in range(count):
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
        self.documents = self.pieces.sum(1)

    def __len__(self) -> int:
        return len(self.rows)

    def get_row(self, index: int):
        return self.rows[index]


def collate_batch(config: mlm.Config, step: int = 0, shards=InMemoryShards()):
    return mlm.Dataset(config, shards).collate(list(range(6)), [row_generator(0, step, row) for row in range(6)])


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
