"""Validation on held-out unlabeled text, the same for every objective."""

from collections.abc import Iterator

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
from pretrain.objective import FIXED_SEED
from pretrain.objectives import mlm

MAX_RETRIEVAL_TEXTS = 1_000
MAX_LOGITS = 2**27  # of a block of masked positions: 512 MB in float32
MIN_HALF_TOKENS, MAX_HALF_TOKENS = 8, 32
MIN_SHORT_HALF_TOKENS, MIN_LONG_FRACTION = 4, 0.5


class Validator:
    """Masked-language loss of `num_rows` held-out rows, and retrieval between the halves of held-out texts.

    Rows, masks and halves are the same for every run, seed and mask rate.
    """

    def __init__(
        self, shards: Shards, num_rows: int, accelerator: Accelerator, with_head: bool = True, batch_size: int = 64
    ):
        """with_head: whether to evaluate the masked-language head."""
        self.accelerator, self.dataset = accelerator, mlm.Dataset(mlm.Config(mask_rate=mlm.EVAL_MASK_RATE), shards)
        rows = range(0, len(shards), max(1, len(shards) // num_rows))[:num_rows] if with_head else []
        self.has_rows = bool(rows)  # of all processes: one that has none still takes part in the sum

        def batches(items: list) -> list[list]:
            local = shard_list(items, accelerator)
            return [local[start : start + batch_size] for start in range(0, len(local), batch_size)]

        self.mlm_batches = [
            self.dataset.collate(batch, [row_generator(FIXED_SEED, 0, row) for row in batch]).inputs
            for batch in batches(list(rows))
        ]
        self.retrieval_batches = [pack_pairs(batch, shards) for batch in batches(split_halves(shards))]

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Return the metrics of `mlm_metrics` and `retrieval_metrics`."""
        # Compiling for the shapes of these batches would take longer than running them.
        with torch.compiler.set_stance("force_eager"):
            mlm_metrics = self.mlm_metrics(encoder) if self.has_rows else {}
            return {**mlm_metrics, **retrieval_metrics(self.embed_halves(encoder))}

    def mlm_metrics(self, encoder: Encoder) -> dict[str, float]:
        """Compute "loss", in nats per masked token, and "accuracy", over the rows of all processes."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for batch in self.mlm_batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            targets = inputs.pop("targets")
            with self.accelerator.autocast():
                for start, logits in iter_mlm_logits(encoder, self.dataset.shards.vocab_size, **inputs):
                    part = targets[start : start + len(logits)]
                    loss = F.cross_entropy(logits, part, reduction="sum")
                    correct = (logits.argmax(-1) == part).sum()
                    totals += torch.stack([loss.double(), correct.double(), correct.new_tensor(len(part)).double()])
        loss, correct, count = self.accelerator.reduce(totals, "sum").tolist()
        return {"loss": loss / count, "accuracy": correct / count}

    @torch.no_grad()
    def embed_halves(self, encoder: Encoder) -> torch.Tensor:
        """Return the embeddings of the halves of the held-out texts of all processes, float32 (texts, 2, width)."""
        pooled = [torch.zeros(0, 2, encoder.model.config.hidden_size, device=self.accelerator.device)]
        for batch in self.retrieval_batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            count = int(inputs["document_ids"].max()) + 1
            with self.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
                states = encoder.last_hidden_state(**inputs)
            pooled.append(encoder.pool(states, inputs["document_ids"], count).unflatten(0, (count // 2, 2)))
        return all_gather_rows(torch.cat(pooled))[0]


def iter_mlm_logits(
    encoder: Encoder, vocab_size: int, masked_indices: torch.Tensor, **rows: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (first position, float32 logits (positions, vocabulary)) of blocks of the masked positions.

    Of a large vocabulary, the logits of all of them would need more memory than training does.
    """
    block = max(1, MAX_LOGITS // vocab_size)
    starts = range(0, len(masked_indices), block)
    if not encoder.has_linear_decoder:  # the head is more than the projection, and is run anew for each block
        for start in starts:
            yield start, encoder.mlm_logits(masked_indices[start : start + block], **rows).float()
        return
    decoder, states = encoder.model.get_output_embeddings(), encoder.apply_mlm_head(masked_indices, rows, project=False)
    for start in starts:
        yield start, decoder(states[start : start + block]).float()


def retrieval_metrics(embeddings: torch.Tensor) -> dict[str, float]:
    """Compute retrieval of each text's second half by its first, by cosine, and the halves' `embedding_stats`.

    embeddings: of the halves, (texts, 2, width). "retrieval_acc@1": fraction ranked first; "mrr": mean reciprocal rank;
    "num_candidates": number of texts.
    """
    if not len(embeddings):
        return {}
    first, second = F.normalize(embeddings, dim=-1).unbind(1)
    scores = first @ second.T
    # Half of the ties rank before the correct text, so that equal embeddings score no hits.
    correct = scores.diagonal()[:, None]
    rank = 1 + (scores > correct).sum(1) + ((scores == correct).sum(1) - 1) / 2
    return {
        "retrieval_acc@1": (rank == 1).float().mean().item(),
        "mrr": (1 / rank).mean().item(),
        "num_candidates": len(rank),
        **{name: stat.item() for name, stat in embedding_stats(embeddings).items()},
    }


def split_halves(shards: Shards) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the first and last tokens of up to MAX_RETRIEVAL_TEXTS texts, first one text of each document."""
    sizes = shards.pieces[:, 1]
    # In a corpus of short texts, shorter halves are better than none.
    is_short = (sizes >= 2 * MIN_HALF_TOKENS).mean() < MIN_LONG_FRACTION
    pieces = shards.pieces[sizes >= 2 * (MIN_SHORT_HALF_TOKENS if is_short else MIN_HALF_TOKENS)]
    pieces = pieces[np.argsort(pieces[:, 0], kind="stable")]
    document = np.searchsorted(shards.documents, pieces[:, 0], side="right")
    is_new = np.diff(document, prepend=-1) > 0
    chosen = np.concatenate([pieces[is_new], pieces[~is_new]])[:MAX_RETRIEVAL_TEXTS].tolist()
    halves = [(start, start + size, min(MAX_HALF_TOKENS, size // 2)) for start, size in chosen]
    return [(shards.tokens[start : start + half], shards.tokens[end - half : end]) for start, end, half in halves]


def pack_pairs(pairs: list[tuple[np.ndarray, np.ndarray]], shards: Shards) -> dict[str, torch.Tensor]:
    """Pack pairs of texts into rows, one document per text."""
    special_ids, max_length = shards.special_ids, shards.max_length
    texts = [add_special_tokens(text, special_ids, max_length) for pair in pairs for text in pair]
    rows, _ = pack_texts(texts, max_length, special_ids["pad"])
    return {name: torch.from_numpy(array) for name, array in rows.items()}
