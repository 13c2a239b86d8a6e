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
from data.shards import Shards

AT_MOST = 16  # texts


def spread(items: Sequence) -> list:
    """At most AT_MOST of the items, from all along."""
    return [items[place * len(items) // AT_MOST] for place in range(AT_MOST)] if len(items) > AT_MOST else list(items)


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
