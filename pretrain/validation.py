"""What is measured while pretraining, on held-out text without labels, the same whatever is being trained."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from data.sampling import row_generator
from data.tokens.collate import add_special_tokens, pack_texts
from data.tokens.shards import Shards
from engine.training.distributed import shard_list
from engine.training.gradcache import all_gather_rows
from pretrain.info_nce import embedding_stats
from pretrain.model.encoder import Encoder
from pretrain.objectives import mlm

FIXED_SEED = 20_181_011
MAX_RETRIEVAL_TEXTS = 1_000  # texts among which one's other half is sought
MAX_HALF_TOKENS = 32  # tokens of a half at most
MIN_HALF_TOKENS = 8  # and at least


class Validator:
    """`count` held-out rows with 15 % of their tokens hidden, and the halves of held-out texts: the same ones for every
    run, seed and training rate.
    """

    def __init__(
        self, shards: Shards, num_rows: int, accelerator: Accelerator, with_head: bool = True, batch_size: int = 64
    ):
        """with_head: whether the masked-language head is worth measuring."""
        config = mlm.Config(mask_rate=mlm.EVAL_MASK_RATE)
        rows = range(0, len(shards), max(1, len(shards) // num_rows))[:num_rows] if with_head else []
        own = shard_list(list(rows), accelerator)
        self.accelerator, self.dataset = accelerator, mlm.Dataset(config, shards)
        self.mlm_batches = [
            self.dataset.collate(
                own[at : at + batch_size], [row_generator(FIXED_SEED, 0, row) for row in own[at : at + batch_size]]
            ).inputs
            for at in range(0, len(own), batch_size)
        ]
        own = shard_list(split_halves(shards), accelerator)
        self.retrieval_batches = [
            pack_pairs(own[at : at + batch_size], shards) for at in range(0, len(own), batch_size)
        ]

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"loss": nats per hidden token, "accuracy": share of them ranked first}, and what `retrieved` gives."""
        # These batches have another shape than training's: compiling for them would take longer than they do.
        with torch.compiler.set_stance("force_eager"):
            return {**(self.mlm_metrics(encoder) if self.mlm_batches else {}), **self.retrieval_metrics(encoder)}

    def mlm_metrics(self, encoder: Encoder) -> dict[str, float]:
        """Masked language modelling of the rows of all processes."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for batch in self.mlm_batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            targets = inputs.pop("targets")
            with self.accelerator.autocast():
                logits = encoder.mlm_logits(**inputs).float()
            right = (logits.argmax(-1) == targets).sum()
            loss = F.cross_entropy(logits, targets, reduction="sum")
            totals += torch.stack([loss.double(), right.double(), right.new_tensor(len(targets)).double()])
        loss, right, count = self.accelerator.reduce(totals, "sum").tolist()
        return {"loss": loss / count, "accuracy": right / count}

    def retrieval_metrics(self, encoder: Encoder) -> dict[str, float]:
        """{"retrieval_acc@1": share of texts whose other half is the nearest of all, "mrr": mean reciprocal rank of it, "num_candidates": how
        many texts there are}, and the `spread` of the halves, by cosine of the encoder's text vectors.
        """
        found = [torch.zeros(0, 2, encoder.model.config.hidden_size, device=self.accelerator.device)]
        for batch in self.retrieval_batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            count = int(inputs["document_ids"].max()) + 1
            with self.accelerator.autocast():
                states = encoder.last_hidden_state(**inputs)
            found.append(encoder.pool(states, inputs["document_ids"], count).unflatten(0, (count // 2, 2)))
        vectors, _ = all_gather_rows(torch.cat(found))
        if not len(vectors):
            return {}
        first, second = F.normalize(vectors, dim=-1).unbind(1)
        scores = first @ second.T
        # Of texts as near as the right one, half are taken to be nearer: equal vectors find nothing.
        right = scores.diagonal()[:, None]
        rank = 1 + (scores > right).sum(1) + ((scores == right).sum(1) - 1) / 2
        return {
            "retrieval_acc@1": (rank == 1).float().mean().item(),
            "mrr": (1 / rank).mean().item(),
            "num_candidates": len(rank),
            **{name: figure.item() for name, figure in embedding_stats(vectors).items()},
        }


def split_halves(shards: Shards) -> list[tuple[np.ndarray, np.ndarray]]:
    """The first and the last tokens of up to HALVES held-out texts, of different documents while there are any."""
    pieces = shards.pieces[shards.pieces[:, 1] >= 2 * MIN_HALF_TOKENS]
    pieces = pieces[np.argsort(pieces[:, 0], kind="stable")]
    document = np.searchsorted(shards.documents, pieces[:, 0], side="right")
    another = np.diff(document, prepend=-1) > 0
    chosen = np.concatenate([pieces[another], pieces[~another]])[:MAX_RETRIEVAL_TEXTS]
    sizes = np.minimum(MAX_HALF_TOKENS, chosen[:, 1] // 2)
    return [
        (shards.tokens[start : start + half], shards.tokens[start + size - half : start + size])
        for (start, size), half in zip(chosen.tolist(), sizes.tolist())
    ]


def pack_pairs(pairs: list[tuple[np.ndarray, np.ndarray]], shards: Shards) -> dict[str, torch.Tensor]:
    """Rows whose documents are both halves of some texts."""
    rows, _ = pack_texts(
        [add_special_tokens(half, shards.special_ids, shards.max_length) for pair in pairs for half in pair],
        shards.max_length,
        shards.special_ids["pad"],
    )
    return {name: torch.from_numpy(array) for name, array in rows.items()}
