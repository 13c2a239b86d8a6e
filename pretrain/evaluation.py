"""What is measured while pretraining, on held-out text without labels, the same whatever is being trained."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from data.batches import framed, generator, laid_out
from data.shards import Shards
from engine.parallel import share
from engine.tied import everyone
from pretrain.contrast import spread
from pretrain.encoder import Encoder
from pretrain.objectives import mlm

FIXED_SEED = 20_181_011
HALVES = 1_000  # texts among which one's other half is sought
HALF = 32  # tokens of a half at most
SHORTEST = 8  # and at least


class HeldOut:
    """`count` held-out rows with 15 % of their tokens hidden, and the halves of held-out texts: the same ones for every
    run, seed and training rate."""

    def __init__(self, shards: Shards, count: int, accelerator: Accelerator, with_head: bool = True, batch_size: int = 64):
        """with_head: whether the masked-language head is worth measuring."""
        config = mlm.Config(mask_rate=mlm.EVALUATION_RATE)
        rows = range(0, len(shards), max(1, len(shards) // count))[:count] if with_head else []
        own = share(list(rows), accelerator)
        self.accelerator, self.examples = accelerator, mlm.Examples(config, shards)
        self.batches = [self.examples.collate(own[at:at + batch_size],
                                              [generator(FIXED_SEED, 0, row) for row in own[at:at + batch_size]]).inputs
                        for at in range(0, len(own), batch_size)]
        own = share(halves(shards), accelerator)
        self.halves = [laid(own[at:at + batch_size], shards) for at in range(0, len(own), batch_size)]

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"loss": nats per hidden token, "accuracy": share of them ranked first}, and what `retrieved` gives."""
        # These batches have another shape than training's: compiling for them would take longer than they do.
        with torch.compiler.set_stance("force_eager"):
            return {**(self.masked(encoder) if self.batches else {}), **self.retrieved(encoder)}

    def masked(self, encoder: Encoder) -> dict[str, float]:
        """Masked language modelling of the rows of all processes."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for batch in self.batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            targets = inputs.pop("targets")
            with self.accelerator.autocast():
                logits = encoder.vocabulary_logits(**inputs).float()
            right = (logits.argmax(-1) == targets).sum()
            loss = F.cross_entropy(logits, targets, reduction="sum")
            totals += torch.stack([loss.double(), right.double(), right.new_tensor(len(targets)).double()])
        loss, right, count = self.accelerator.reduce(totals, "sum").tolist()
        return {"loss": loss / count, "accuracy": right / count}

    def retrieved(self, encoder: Encoder) -> dict[str, float]:
        """{"retrieval": share of texts whose other half is the nearest of all, "mrr": mean reciprocal rank of it, "among": how
        many texts there are}, and the `spread` of the halves, by cosine of the encoder's text vectors."""
        found = [torch.zeros(0, 2, encoder.model.config.hidden_size, device=self.accelerator.device)]
        for batch in self.halves:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            count = int(inputs["document_ids"].max()) + 1
            with self.accelerator.autocast():
                states = encoder.hidden(**inputs)
            found.append(encoder.vectors(states, inputs["document_ids"], count).unflatten(0, (count // 2, 2)))
        vectors, _ = everyone(torch.cat(found))
        if not len(vectors):
            return {}
        first, second = F.normalize(vectors, dim=-1).unbind(1)
        scores = first @ second.T
        # Of texts as near as the right one, half are taken to be nearer: equal vectors find nothing.
        right = scores.diagonal()[:, None]
        rank = 1 + (scores > right).sum(1) + ((scores == right).sum(1) - 1) / 2
        return {"retrieval": (rank == 1).float().mean().item(), "mrr": (1 / rank).mean().item(), "among": len(rank),
                **{name: figure.item() for name, figure in spread(vectors).items()}}


def halves(shards: Shards) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first and the last tokens of up to HALVES held-out texts, of different documents while there are any."""
    pieces = shards.pieces[shards.pieces[:, 1] >= 2 * SHORTEST]
    pieces = pieces[np.argsort(pieces[:, 0], kind="stable")]
    document = np.searchsorted(shards.documents, pieces[:, 0], side="right")
    another = np.diff(document, prepend=-1) > 0
    chosen = np.concatenate([pieces[another], pieces[~another]])[:HALVES]
    sizes = np.minimum(HALF, chosen[:, 1] // 2)
    return [(shards.tokens[start:start + half], shards.tokens[start + size - half:start + size])
            for (start, size), half in zip(chosen.tolist(), sizes.tolist())]


def laid(pairs: list[tuple[np.ndarray, np.ndarray]], shards: Shards) -> dict[str, torch.Tensor]:
    """Rows whose documents are both halves of some texts."""
    rows, _ = laid_out([framed(half, shards.special, shards.length) for pair in pairs for half in pair], shards.length,
                       shards.special["pad"])
    return {name: torch.from_numpy(array) for name, array in rows.items()}
