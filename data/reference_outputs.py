"""What a network says of a few texts, written down: whoever loads the folder it leaves can see that it says the same.

It is kept in the run's folder, not in the one that is given away, because it holds other people's sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from data.encoders import LOAD_KWARGS
from data.tasks.task import Example
from data.tokens.shards import Shards

MAX_TEXTS = 16  # texts that the network is asked about
MAX_ROWS = 2_000  # labelled rows


def take_evenly(items: Sequence, max_items: int = MAX_TEXTS) -> list:
    """At most `max_items` of the items, from all along."""
    count = min(max_items, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def sample_rows(examples: Sequence[Example], max_length: int) -> dict:
    """{"texts", "labels", "longest", "of"}: labelled rows for whoever measures another form of the model, with the longest text
    in tokens and how many rows there are.
    """
    kept = take_evenly(examples, MAX_ROWS)
    return {
        "texts": [list(each.texts) for each in kept],
        "labels": [each.label for each in kept],
        "longest": max_length,
        "of": len(examples),
    }


def decode_texts(shards: Shards, tokenizer_folder: Path) -> list[tuple[str]]:
    """Texts of the shards, as the tokenizer in `tokenizer_folder` spells them."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, **LOAD_KWARGS)
    texts = [
        tokenizer.decode(shards.tokens[start : start + size]).strip() for start, size in take_evenly(shards.pieces)
    ]
    return [(text,) for text in texts if text]


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def record_outputs(
    network: nn.Module,
    tokenizer_folder: Path,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
    output_fn: Callable[[object], Tensor],
) -> dict:
    """{"texts", "longest", "said"}: of each text, one by one and in float32, what `output_fn` takes from the network's output.

    texts: one or two strings each, or more that the separator of the tokenizer in `tokenizer_folder` will join; max_length: tokens.
    The network is left on the CPU, where it is asked.
    """
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, **LOAD_KWARGS)
    network = network.to("cpu").eval()
    between, kept = tokenizer.sep_token or tokenizer.eos_token or "\n", []
    texts = [list(text) if len(text) < 3 else [between.join(text)] for text in texts]
    max_length = min(max_length, tokenizer.model_max_length)
    for text in texts:
        inputs = tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt")
        kept.append(output_fn(network(**inputs)).float().tolist())
    return {"texts": texts, "longest": max_length, "said": kept}
