"""One fine-tuning: a head put on an encoder and taught what some labelled texts say."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from data import labelled
from data.batches import by_class, by_length, generator, slices
from data.derived import fingerprint
from engine import record
from engine.errors import ConfigError
from engine.gradient import Batch
from engine.loop import Result, fit
from engine.optim import adamw
from engine.parallel import gather, share
from finetune import layers, pooling, probe
from finetune.config import Finetune
from finetune.finishing import finished
from finetune.texts import Texts, tokenise
from finetune.trunk import Trunk

TOGETHER = 8  # batches dealt out by length together: more pads less, but makes batches less random
STANDARDISED_OVER = 512  # training texts the pooled coordinates are standardised over
DIRECTION = 0.1  # what a head solved afterwards reads is the mean vector this small, where tanh is nearly straight
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
    details: dict
    """What else there is to tell of the test rows."""
    adapted: torch.nn.Module | None = None
    """The model with peft's adapters, where there are some: one and the same until they are merged."""


@torch.no_grad()
def predict(head: torch.nn.Module, texts: Texts, accelerator: Accelerator, batch_size: int = AT_ONCE,
            title: str | None = None) -> list[np.ndarray]:
    """What the head says of every text, in their order, the same on every process.

    title: under which a person is told how far it is; none: nobody is.
    """
    head.eval()
    ordered = np.argsort(texts.lengths, kind="stable")
    batches = [ordered[at:at + batch_size] for at in range(0, len(ordered), batch_size)]
    found, own = [], share(batches, accelerator)
    with record.Progress(title, len(own), 0, title is not None and accelerator.is_main_process, "batch") as progress:
        for places in own:
            inputs = {name: tensor.to(accelerator.device) for name, tensor in texts.inputs(places).items()}
            with accelerator.autocast():
                found.append((places, head.predict(**inputs).cpu().numpy()))
            progress.update(len(found), f"{batch_size * progress.rate(len(found)):,.0f} texts/s")
    found = gather(found, accelerator)
    by_place = {place: value for places, values in found for place, value in zip(places, values)}
    return [by_place[place] for place in range(len(ordered))]


def head_of(config: Finetune):
    """The file of the head, which says what it reads, learns and is measured by."""
    return importlib.import_module(f"finetune.heads.{config.head.name}")


def fits(config: Finetune) -> None:
    """Raises ConfigError when the head and the way it is to be taught do not go together."""
    head_file, name = head_of(config), config.head.name
    if getattr(head_file, "SOLVED", False) and config.train.best:
        raise ConfigError(f"train.best: the last layer of head.name={name} is solved after training, so that no"
                          " evaluation before can tell which weights are best; set train.best=false")
    if head_file.KIND != "class" and config.selftrain.rounds:
        raise ConfigError(f"selftrain.rounds: a text of head.name={name} is not of one class; leave it 0")
    if config.selftrain.rounds and config.selftrain.corpus and not isinstance(config.task.text, str):
        raise ConfigError("selftrain.corpus: a document's sentences are one text each, and the task's rows are of"
                          f" {' and '.join(config.task.text)}; leave it out")
    if head_file.KIND != "class" and config.train.sampling == "classes":
        raise ConfigError(f"train.sampling: rows of head.name={name} are not of one class each; set rows")
    if head_file.KIND == "tags" and (config.augment.drop or config.augment.swap):
        raise ConfigError("augment: tags belong to words, which it would leave out or move; head.name=tokens goes without")
    if config.layers.probe and (config.adapter.name != "none" or name != "classification"):
        raise ConfigError("layers.probe: wants head.name=classification and adapter.name=none")
    changed = [f"head.{key}" for key in ("balance", "focal", "label_smoothing") if getattr(config.head, key, None)]
    if changed and (config.layers.probe or name == "contrastive" and not config.head.beside):
        where = "layers.probe" if config.layers.probe else "head.name=contrastive with head.beside=0"
        raise ConfigError(f"{changed[0]}: {where} has no loss that it could change; leave it out")
    if config.layers.probe and (config.augment.drop or config.augment.swap):
        raise ConfigError("augment: layers.probe reads every text once, as it is; leave it out")
    if config.selftrain.corpus and not config.selftrain.rounds:
        raise ConfigError("selftrain.corpus: nothing is labelled in selftrain.rounds=0; give 1 or more")
    of_lora = [key for key in ("rank", "alpha", "dropout", "dora", "rslora")
               if getattr(config.adapter, key) != type(config.adapter).model_fields[key].default]
    if of_lora and config.adapter.name != "lora":
        raise ConfigError(f"adapter.{of_lora[0]}: is of adapter.name=lora, not {config.adapter.name}; leave it out")


def probed(head: torch.nn.Module, model: PreTrainedModel, texts: Texts, seed: int, accelerator: Accelerator,
           choose: bool = True) -> Result:
    """Solve the last linear layer on what it reads of the texts, instead of a training, or after one.

    choose: whether its strength is chosen by cross-validation: not where the encoder has learned these labels already.
    """
    began = time.time()
    features = np.stack(predict(probe.Features(model), texts, accelerator))
    strength = None if choose else 1 / np.square(features).sum(1).mean()
    probe.write(probe.solve(features, texts.labels, seed, strength), model)
    head.eval()
    return Result(0, int(texts.lengths.sum()), time.time() - began, {})


def standardise(model: PreTrainedModel, texts: Texts, constant: list[torch.nn.Parameter]) -> None:
    """Bring what the added pooling layer gives, where there is one, to mean 0 and variance 1 over some of the texts."""
    if constant:
        count = len(texts.lengths)  # rows stand label by label: take them from all along
        some = np.linspace(0, count - 1, min(count, STANDARDISED_OVER)).astype(int)
        pooling.standardise(model, map(texts.inputs, np.array_split(some, -(-len(some) // AT_ONCE))))


def teach(folder: Path, config: Finetune, splits: dict[str, list[labelled.Example]], names: list[str],
          run: record.Run, accelerator: Accelerator, title: str, random: bool = False,
          finish: Callable[[torch.nn.Module], None] = lambda head: None, text: str | None = None) -> Taught:
    """Put the head on the encoder in `folder` and train it in `run`; random: from random weights.

    finish: given the head once it is trained, before its figures are taken. text: fingerprint of what besides the task's
    rows is learned from.
    """
    head_file = head_of(config)
    fits(config)
    texts = {split: tokenise(examples, folder, config.max_length, f"task {config.task.name}, {split}", head_file.targets, names,
                             words=head_file.KIND == "tags")
             for split, examples in splits.items()}
    torch.manual_seed(config.seed)
    model, constant = head_file.build(config.head, folder, names, config.dropout, random)
    depth_of_encoder = model.config.num_hidden_layers - bool(constant)
    if config.layers.reinitialise:
        layers.reinitialise(model, config.layers.reinitialise, depth_of_encoder)
    head = head_file.Head(config.head, model)
    if hasattr(head, "observe"):
        head.observe(texts["train"].labels)
    solved = getattr(head_file, "SOLVED", False)
    if not solved:
        standardise(model, texts["train"], constant)
    adapted = None
    if config.adapter.name != "none":
        from finetune import adapters  # peft takes a second to load
        adapted = adapters.adapt(model, config.adapter, depth_of_encoder)
        constant = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        head.unchanging = {name for name, parameter in head.named_parameters() if not parameter.requires_grad}
    train, size, unmoved, lengths = config.train, config.train.batch_size, set(constant), texts["train"].lengths
    layers_alone = solved and not config.head.beside  # nothing of the head learns before it is solved
    if layers_alone and config.layers.frozen >= depth_of_encoder:
        raise ConfigError(f"layers.frozen: {config.layers.frozen} are all layers, and head.name={config.head.name} has nothing else that"
                          " learns; freeze fewer, or take head.beside=1")
    plan = layers.plan(train.steps, depth_of_encoder, config.layers, len(lengths) / size, least=int(layers_alone))
    run.begin(labels=fingerprint(labelled.identity(config.task)), **({"text": text} if text else {}))
    trunk = Trunk(model, [texts["train"], *([texts["validation"]] if train.best else [])], run.folder, config.layers.cache_mb)

    def before_step(step: int) -> None:
        deepest, stays = plan[step]
        layers.set_learning(model, deepest, depth_of_encoder, unmoved)
        trunk.begin_at(depth_of_encoder - deepest if config.layers.cache and stays else 0)

    def batches(step: int, rows: int | None) -> list[Batch]:
        chosen = (by_class(step, size, texts["train"].labels, config.seed, getattr(head_file, "PARTNERS", 1))
                  if train.sampling == "classes" else by_length(step, size, lengths, config.seed, TOGETHER))
        augment = config.augment if config.augment.drop or config.augment.swap else None
        return [texts["train"].batch(chosen[places], augment, [generator(config.seed, step, place) for place in places])
                for places in slices(size, accelerator.process_index, accelerator.num_processes, rows)]

    def evaluate(split: str) -> dict[str, float]:
        return head_file.score(predict(head, texts[split], accelerator), texts[split].labels)

    optimizer = adamw(head.named_parameters(), train, lambda name: layers.lr_scale(
        name, depth_of_encoder, config.layers, train.lr, config.adapter.lr_factor if adapted else 1.0))
    with pooling.at_first_token(model):
        if config.layers.probe and not train.check:
            result = probed(head.to(accelerator.device), model, texts["train"], config.seed, accelerator)
        else:
            result = fit(head, optimizer, batches, train, run, accelerator, seed=config.seed, title=title,
                         before_step=before_step, evaluate=lambda: evaluate("validation") if train.best else {},
                         monitor=head_file.MONITOR if train.best else None, patience=train.patience if train.best else None)
            if solved:
                if pooling.is_written(model):
                    pooling.pass_on(model, DIRECTION)
                solving = probed(head, model, texts["train"], config.seed, accelerator, choose=False)
                result = replace(result, seconds=result.seconds + solving.seconds)
        finish(head)
        predicted = {split: predict(head, texts[split], accelerator) for split in ("test", "validation") if split in texts}
    told = finished(head_file, head, predicted, {split: texts[split].labels for split in predicted}, names, train.best)
    trunk.close()
    return Taught(model, head, told.figures, told.predicted, result, told.details, adapted)
