"""Reference outputs of a network on a few texts, to verify that a loaded or exported copy gives the same.

They stay in the run's folder, not in the published one, because they contain text from the data.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from data.encoders import limit_length
from data.sampling import take_evenly
from data.tasks.task import Example
from data.tokens.shards import Shards
from engine.models.load import load_tokenizer

MAX_ROWS = 2_000  # labeled rows


def sample_rows(examples: Sequence[Example], max_length: int) -> dict:
    """Return {"texts", "labels", "max_length" in tokens, "total_rows"}, labeled rows to evaluate exported models on."""
    rows = take_evenly(examples, MAX_ROWS)
    texts, labels = [list(row.texts) for row in rows], [row.label for row in rows]
    return {"texts": texts, "labels": labels, "max_length": max_length, "total_rows": len(examples)}


def decode_texts(shards: Shards, tokenizer_folder: Path) -> list[tuple[str]]:
    """Decode a few texts of the shards."""
    tokenizer = load_tokenizer(tokenizer_folder)
    pieces = take_evenly(shards.pieces)
    texts = [tokenizer.decode(shards.tokens[start : start + size]).strip() for start, size in pieces]
    return [(text,) for text in texts if text]


@torch.no_grad()
@torch.compiler.set_stance("force_eager")
def record_outputs(
    network: PreTrainedModel,
    tokenizer_folder: Path,
    texts: Sequence[tuple[str, ...]],
    max_length: int,
    output_fn: Callable[[object], Tensor],
) -> dict:
    """Return {"texts", "max_length", "outputs"}: `output_fn` of the network's output for each text, in float32.

    texts: one or two strings each; more are joined by the separator token. max_length: in tokens. The network runs on
    the CPU and is then moved back to its device; it stays in evaluation mode.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    device = next(network.parameters()).device
    separator, outputs = tokenizer.sep_token or tokenizer.eos_token or "\n", []
    texts = [list(text) if len(text) < 3 else [separator.join(text)] for text in texts]
    max_length = limit_length(max_length, tokenizer, network.config)
    network.to("cpu").eval()
    try:
        for text in texts:
            inputs = tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt")
            outputs.append(output_fn(network(**inputs)).float().tolist())
    finally:
        network.to(device)
    return {"texts": texts, "max_length": max_length, "outputs": outputs}
