"""One fine-tuning: a head put on an encoder and taught what some labelled texts say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from data import labelled
from data.batches import by_length, slices
from data.derived import fingerprint
from engine import record
from engine.loop import Batch, Result, fit, gather, share
from engine.optim import adamw
from finetune import layers, pooling
from finetune.config import Finetune
from finetune.texts import Texts, tokenise

TOGETHER = 4  # batches dealt out by length together: more pads less, but makes batches less random
STANDARDISED_OVER = 512  # training texts the pooled coordinates are standardised over
AT_ONCE = 64  # texts predicted together


class Taught(NamedTuple):
    """What a fine-tuning leaves."""

    model: PreTrainedModel
    """Plain transformers."""
    head: torch.nn.Module
    """The module that was trained, which holds the model."""
    figures: dict[str, dict[str, float]]
    """Of the test and the validation rows."""
    predicted: dict[str, np.ndarray]
    """What the head says of them."""
    result: Result
    """How the training went."""


@torch.no_grad()
def predict(head: torch.nn.Module, texts: Texts, accelerator: Accelerator, batch_size: int = AT_ONCE) -> list[np.ndarray]:
    """What the head says of every text, in their order, the same on every process."""
    head.eval()
    ordered = np.argsort(texts.lengths, kind="stable")
    batches = [ordered[at:at + batch_size] for at in range(0, len(ordered), batch_size)]
    found = []
    for places in share(batches, accelerator):
        inputs = {name: tensor.to(accelerator.device) for name, tensor in texts.inputs(places).items()}
        with accelerator.autocast():
            found.append((places, head.predict(**inputs).cpu().numpy()))
    found = gather(found, accelerator)
    by_place = {place: value for places, values in found for place, value in zip(places, values)}
    return [by_place[place] for place in range(len(ordered))]


def head_of(config: Finetune):
    """The file of the head, which says what it reads, learns and is measured by."""
    return importlib.import_module(f"finetune.heads.{config.head.name}")


def teach(folder: Path, config: Finetune, splits: dict[str, list[labelled.Example]], names: list[str],
          run: record.Run, accelerator: Accelerator, title: str, random: bool = False) -> Taught:
    """Put the head on the encoder in `folder` and train it in `run`; random: from random weights."""
    head_file = head_of(config)
    texts = {split: tokenise(examples, folder, config.max_length, f"task {config.task.name}, {split}", head_file.targets, names)
             for split, examples in splits.items()}
    torch.manual_seed(config.seed)
    model, constant = head_file.build(config.head, folder, names, config.dropout, random)
    depth_of_encoder = model.config.num_hidden_layers - bool(constant)
    head = head_file.Head(config.head, model)
    if constant:
        count = len(texts["train"].labels)  # rows stand label by label: take them from all along
        some = np.linspace(0, count - 1, min(count, STANDARDISED_OVER)).astype(int)
        pooling.standardise(model, map(texts["train"].inputs, np.array_split(some, -(-len(some) // 64))))
    run.begin(fingerprint(labelled.identity(config.task)))
    train, size = config.train, config.train.batch_size
    lengths = texts["train"].lengths

    def before_step(step: int) -> None:
        deepest = layers.deepest_learning(step, depth_of_encoder, config.layers, len(lengths) / size)
        layers.set_learning(model, deepest, depth_of_encoder, set(constant))

    def batches(step: int) -> list[Batch]:
        chosen = by_length(step, size, lengths, config.seed, TOGETHER)
        return [texts["train"].batch(chosen[places]) for places in
                slices(size, accelerator.process_index, accelerator.num_processes, train.micro_batch)]

    def evaluate(split: str) -> dict[str, float]:
        return head_file.score(predict(head, texts[split], accelerator), texts[split].labels)

    optimizer = adamw(head.named_parameters(), train, lambda name: layers.lr_scale(
        name, depth_of_encoder, config.layers, train.lr))
    result = fit(head, optimizer, batches, train, run, accelerator, seed=config.seed, title=title,
                 before_step=before_step, evaluate=lambda: evaluate("validation") if train.best else {},
                 monitor=head_file.MONITOR if train.best else None, patience=train.patience if train.best else None)
    predicted = {split: predict(head, texts[split], accelerator) for split in ("test", "validation")}
    figures = {split: head_file.score(said, texts[split].labels) for split, said in predicted.items()}
    return Taught(model, head, figures, predicted, result)
