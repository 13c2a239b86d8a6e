"""Next-token prediction (Radford et al. 2018), by a decoder or by an encoder that reads from left to right.

The encoder folder is that of the network without its head, and `generator/` that of the whole network, which
`pipeline("text-generation")` of transformers loads.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from data.tokens.collate import collate_rows
from engine.config.schema import Section
from engine.training.step import MicroBatch, Output
from pretrain.model.encoder import Encoder
from pretrain.next_tokens import find_next_tokens
from pretrain.objective import BaseObjective, Gallery, HeldOut
from pretrain.objectives import mlm
from pretrain.text_generation import continue_texts, measure_perplexity, report_guessing, save_text_generator


class Config(Section):
    """Next-token prediction."""

    name: Literal["causal"] = "causal"
    """causal: predict the next token."""
    is_causal: ClassVar[bool] = True

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


class Dataset(mlm.Dataset):
    """Rows of the shards."""

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make packed rows, `next_indices` and `targets`, as of `find_next_tokens`; nothing in them is random."""
        inputs = collate_rows(self.shards, indices)
        at, targets = find_next_tokens(inputs["input_ids"], inputs["document_ids"])
        num_tokens = int((inputs["document_ids"] >= 0).sum())
        inputs |= {"next_indices": at, "targets": targets}
        return MicroBatch({name: torch.from_numpy(array) for name, array in inputs.items()}, num_tokens)


class Objective(BaseObjective):
    """Summed cross-entropy of the next tokens, and their count."""

    has_generator, dataset_class = True, Dataset

    def __init__(self, config: Config, encoder: Encoder):
        super().__init__()
        self.config, self.encoder = config, encoder

    def forward(self, next_indices: Tensor, targets: Tensor, **rows: Tensor) -> Output:
        """Compute the loss of inputs from `Dataset.collate`."""
        loss = self.encoder.mlm_loss(next_indices, targets, **rows)
        return Output(loss, targets.new_full((), len(targets)))

    def evaluate(self, held_out: HeldOut) -> dict[str, float]:
        """Return perplexity on held-out rows; report a divergence after the first evaluation."""
        metrics = measure_perplexity(self, held_out)
        if self.is_evaluated:
            report_guessing(metrics, held_out.data.vocab_size)
        self.is_evaluated = True
        return metrics

    def draw_gallery(self, held_out: HeldOut) -> Gallery:
        """Return beginnings of held-out texts, with the most likely continuation."""
        return continue_texts(self.encoder.model, held_out)

    def save_generator(self, folder: Path, held_out: HeldOut) -> None:
        """Write the network with its head, and a tokenizer that does not end a text."""
        save_text_generator(self.encoder.model, folder, held_out)
