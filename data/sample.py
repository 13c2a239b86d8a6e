"""What a network says of a few texts, written down: whoever loads the folder it leaves can see that it says the same.

It is kept in the run's folder, not in the one that is given away, because it holds other people's sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from data.encoders import SAFELY
from data.labelled import Example
from data.shards import Shards

AT_MOST = 16  # texts that the network is asked about
ROWS = 2_000  # labelled rows


def spread(items: Sequence, most: int = AT_MOST) -> list:
    """At most `most` of the items, from all along."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def rows(examples: Sequence[Example], longest: int) -> dict:
    """{"texts", "labels", "longest", "of"}: labelled rows for whoever measures another form of the model, with the longest text
    in tokens and how many rows there are."""
    kept = spread(examples, ROWS)
    return {"texts": [list(each.texts) for each in kept], "labels": [each.label for each in kept], "longest": longest,
            "of": len(examples)}


def of_shards(shards: Shards, folder: Path) -> list[tuple[str]]:
    """Texts of the shards, as the tokenizer in `folder` spells them."""
    tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
    texts = [tokenizer.decode(shards.tokens[start:start + size]).strip() for start, size in spread(shards.pieces)]
    return [(text,) for text in texts if text]


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def sample(network: nn.Module, folder: Path, texts: Sequence[tuple[str, ...]], longest: int,
           said: Callable[[object], Tensor]) -> dict:
    """{"texts", "longest", "said"}: of each text, one by one and in float32, what `said` takes from the network's output.

    texts: one or two strings each, or more that the separator of the tokenizer in `folder` will join; longest: tokens.
    The network is left on the CPU, where it is asked.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
    network = network.to("cpu").eval()
    between, kept = tokenizer.sep_token or tokenizer.eos_token or "\n", []
    texts = [list(text) if len(text) < 3 else [between.join(text)] for text in texts]
    longest = min(longest, tokenizer.model_max_length)
    for text in texts:
        inputs = tokenizer(*text, truncation=True, max_length=longest, return_tensors="pt")
        kept.append(said(network(**inputs)).float().tolist())
    return {"texts": texts, "longest": longest, "said": kept}
