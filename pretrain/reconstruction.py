"""How well held-out texts are rebuilt from their embeddings, and a few of them for the report of a run.

The objectives are those of texts in `pretrain.objectives.denoise` and `pretrain.objectives.vae`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from data.sampling import row_generator, take_evenly
from engine.log import warn_once
from engine.models.load import load_tokenizer
from pretrain.objective import FIXED_SEED, BaseObjective, Gallery, HeldOut

MAX_TEXTS, BATCH_SIZE = 256, 64
MIN_GAIN = 0.01  # nats per token that a text's own embedding must be worth
NUM_SHOWN, MAX_SHOWN_TOKENS = 6, 32
T = TypeVar("T")


@torch.no_grad()
def map_held_out(objective: BaseObjective, held_out: HeldOut, compute: Callable[..., T]) -> list[T]:
    """Return what `compute(**inputs)` returns of each batch of held-out texts, with the same noise at every evaluation.

    On every process, as which text is another depends on the batches.
    """
    accelerator, dataset = held_out.accelerator, objective.dataset_class(objective.config, held_out.data)
    rows, results = take_evenly(range(len(dataset)), MAX_TEXTS), []
    for start in range(0, len(rows), BATCH_SIZE):
        part = rows[start : start + BATCH_SIZE]
        batch = dataset.collate(part, [row_generator(FIXED_SEED, 0, row) for row in part]).inputs
        inputs = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            results.append(compute(**inputs))
    return results


def measure_reconstruction(objective: BaseObjective, held_out: HeldOut) -> dict[str, float]:
    """Return the loss of held-out texts, in nats per token, and what their own embeddings are worth.

    "reconstruction_loss": as in training; "embedding_gain": how much higher it is with the embedding of another text.
    """

    def measure(**inputs: Tensor) -> Tensor:
        (own, count), (other, _) = (objective.rebuild(shift=shift, **inputs) for shift in (0, 1))
        return torch.stack([own.double(), other.double(), count.double()]).cpu()

    own, other, count = sum(map_held_out(objective, held_out, measure), torch.zeros(3, dtype=torch.float64)).tolist()
    gain = (other - own) / max(1, count)
    return {"reconstruction_loss": own / max(1, count), "embedding_gain": gain}


def report_ignored_embeddings(metrics: dict[str, float]) -> None:
    """Warn once if a text's own embedding is worth nothing to the decoder."""
    if metrics["embedding_gain"] < MIN_GAIN:
        advice = "try a higher objective.delete_rate, more train.steps, or a higher train.lr"
        warn_once(f"warning: the decoder ignores the embeddings (less than {MIN_GAIN} nats per token); {advice}")


@torch.no_grad()
def draw_reconstructions(objective: BaseObjective, held_out: HeldOut) -> Gallery:
    """Return a section of held-out texts: the text, what the encoder reads of it, and the decoder's reconstruction."""
    shards, tokenizer = held_out.data, load_tokenizer(held_out.tokenizer_folder)
    special_ids, device = shards.special_ids, held_out.accelerator.device
    dataset, section = objective.dataset_class(objective.config, shards), []
    shown = take_evenly(range(len(dataset)), NUM_SHOWN)
    batch = dataset.collate(shown, [row_generator(FIXED_SEED, 0, row) for row in shown]).inputs
    vectors: Tensor = objective.embed_texts(**{name: tensor.to(device) for name, tensor in batch.items()})
    rebuilt = objective.decoder.generate(vectors, special_ids["cls"], special_ids["sep"], MAX_SHOWN_TOKENS)
    texts = dataset.read_texts(shown, [row_generator(FIXED_SEED, 0, row) for row in shown])
    for (kept, whole), ids in zip(texts, rebuilt, strict=True):
        section.append([tokenizer.decode(row[:MAX_SHOWN_TOKENS]) for row in (whole, kept, ids)])
    title = "Held-out texts, what the encoder reads of them, and what is rebuilt from its embedding"
    return [(title, section)]
