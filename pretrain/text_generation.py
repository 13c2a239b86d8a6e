"""Perplexity of held-out texts, their continuation, and the folder that generates text.

The objective is that of `pretrain.objectives.causal`.
"""

import math
import re
from pathlib import Path

import torch
from tokenizers import Regex, decoders
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel

from data.sampling import take_evenly
from engine.log import warn_once
from engine.models.load import load_tokenizer
from engine.training.distributed import shard_list
from pretrain.objective import BaseObjective, Gallery, HeldOut

MAX_ROWS, BATCH_SIZE = 256, 16
NUM_SHOWN, SHOWN_TOKENS = 6, 16


@torch.no_grad()
def measure_perplexity(objective: BaseObjective, held_out: HeldOut) -> dict[str, float]:
    """Return {"next_token_loss", in nats per token, "perplexity"} of held-out rows, the same at every evaluation."""
    accelerator, dataset = held_out.accelerator, objective.dataset_class(objective.config, held_out.data)
    rows = shard_list(take_evenly(range(len(dataset)), MAX_ROWS), accelerator)
    totals = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for start in range(0, len(rows), BATCH_SIZE):
        batch = dataset.collate(rows[start : start + BATCH_SIZE], []).inputs
        inputs = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            output = objective(**inputs)
        totals += torch.stack([output.loss.double(), output.count.double()])
    loss, count = accelerator.reduce(totals, "sum").tolist()
    loss /= max(1, count)
    return {"next_token_loss": loss, "perplexity": math.exp(min(loss, 700))}


def report_guessing(metrics: dict[str, float], vocab_size: int) -> None:
    """Warn once if the next token is predicted worse than by guessing."""
    if not metrics["perplexity"] < vocab_size:
        message = "warning: training diverges: guessing among all tokens would be better; try a lower train.lr"
        warn_once(message, "divergence")


@torch.no_grad()
def continue_texts(model: PreTrainedModel, held_out: HeldOut) -> Gallery:
    """Return a section of held-out texts: the beginning, and the most likely continuation."""
    shards, tokenizer, section = held_out.data, load_tokenizer(held_out.tokenizer_folder), []
    long_enough = shards.pieces[shards.pieces[:, 1] > SHOWN_TOKENS]
    options = {"max_new_tokens": 2 * SHOWN_TOKENS, "do_sample": False, "use_cache": True, **ending(held_out)}
    for start, _ in take_evenly(long_enough, NUM_SHOWN):
        beginning = [shards.special_ids["cls"], *shards.tokens[start : start + SHOWN_TOKENS].tolist()]
        ids = torch.tensor([beginning], device=held_out.accelerator.device)
        generated = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(beginning) :]
        parts = (beginning, generated.tolist())
        section.append([tokenizer.decode(part, skip_special_tokens=True) for part in parts])
    return [("Beginnings of held-out texts, and their most likely continuation", section)] if section else []


def ending(held_out: HeldOut) -> dict[str, int]:
    """Return the ids that end and pad generated texts."""
    special_ids = held_out.data.special_ids
    return {"eos_token_id": special_ids["sep"], "pad_token_id": special_ids["pad"]}


def continuing_decoder(prefix: str) -> decoders.Decoder:
    """Return a decoder of WordPiece with a space before the first word, where a text is continued.

    prefix: of tokens that continue a word.
    """
    marks = [decoders.Replace(f" {mark}", mark) for mark in ".,!?"]
    start, inside = Regex(f"^(?!{re.escape(prefix)})"), Regex(f"^{re.escape(prefix)}")
    steps = [decoders.Replace(start, " "), decoders.Replace(inside, ""), *marks, decoders.Fuse()]
    return decoders.Sequence(steps)


def save_text_generator(model: PreTrainedModel, folder: Path, held_out: HeldOut) -> None:
    """Write a folder that `pipeline("text-generation")` loads: a text starts as in training, and does not end."""
    tokenizer, first_id = load_tokenizer(held_out.tokenizer_folder), held_out.data.special_ids["cls"]
    first, last = (tokenizer.convert_ids_to_tokens(held_out.data.special_ids[name]) for name in ("cls", "sep"))
    template = {"single": f"{first} $A", "pair": f"{first} $A $B", "special_tokens": [(first, first_id)]}
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(**template)
    if isinstance(backend.decoder, decoders.WordPiece):
        backend.decoder = continuing_decoder(backend.decoder.prefix)
    tokenizer.bos_token, tokenizer.eos_token = first, last
    tokenizer.save_pretrained(folder)
    model.generation_config.update(bos_token_id=first_id, **ending(held_out))
    model.save_pretrained(folder)
