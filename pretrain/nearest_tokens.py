"""Tokens with the most similar vectors, for the report of a run."""

import torch
from torch import Tensor
from torch.nn import functional as F

from data.sampling import take_evenly
from engine.models.load import load_tokenizer
from pretrain.objective import Gallery, HeldOut

NUM_QUERIES, NUM_NEAREST = 12, 8
RANKS = range(200, 2_000)  # of the tokens shown, by frequency: the most frequent have little meaning
MIN_COUNT = 3


def draw_nearest_tokens(vectors: Tensor, held_out: HeldOut) -> Gallery:
    """Return a section with tokens of held-out text and the nearest others by cosine; vectors: (vocabulary, width)."""
    counts, tokenizer = torch.from_numpy(held_out.data.token_counts()), load_tokenizer(held_out.tokenizer_folder)
    known = (counts >= MIN_COUNT).nonzero()[:, 0]
    order = known[counts[known].argsort(descending=True, stable=True)].tolist()
    queries = take_evenly(order[RANKS.start : RANKS.stop] or order, NUM_QUERIES)
    unit = F.normalize(vectors.float().cpu(), dim=-1)
    cosines = unit[queries] @ unit[known].T
    nearest = cosines.topk(min(NUM_NEAREST + 1, len(known))).indices.tolist()
    rows = [
        [", ".join(tokenizer.convert_ids_to_tokens(dict.fromkeys([query, *known[near].tolist()])))]
        for query, near in zip(queries, nearest, strict=True)
    ]
    return [("Tokens, and those with the most similar vectors", rows)] if rows else []
