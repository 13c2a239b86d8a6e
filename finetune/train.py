"""From a checked configuration to a model folder: labels, encoder, head, training layer by layer, figures."""

from __future__ import annotations

import importlib
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from transformers.utils import logging

from data import labelled
from data.batches import by_length, slices
from data.derived import fingerprint
from data.encoders import locate, record_of
from data.tokenizer import FILES
from engine import record
from engine.errors import ConfigError, DataError
from engine.files import write_json, write_whole
from engine.loop import Batch, accelerator as make_accelerator, fit, gather, share
from engine.optim import adamw
from finetune import baselines, layers, pooling
from finetune.config import Finetune
from finetune.report import card, summary
from finetune.texts import Texts, tokenise

TOGETHER = 4  # batches dealt out by length together: more pads less, but makes batches less random
STANDARDISED_OVER = 512  # training texts the pooled coordinates are standardised over


def newest_encoder() -> str:
    """The encoder folder last finished. Raises ConfigError when there is none."""
    found = sorted(record.RUNS.glob("*/encoder/record.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError("encoder: none given and none in out/runs; run make pretrain first, or give encoder=minilm")
    return str(found[-1].parent)


def resolved(config: Finetune, encoder: str, folder: Path, labels: int) -> Finetune:
    """The configuration with what follows from the labels and the encoder written out."""
    train = config.train
    steps = train.steps or min(train.max_steps, max(train.min_steps, math.ceil(train.epochs * labels / train.batch_size)))
    pretrained = record_of(folder).get("config", {}).get("train", {}).get("lr") or train.unrecorded_lr
    written = {"steps": steps, "lr": train.lr or train.lr_fraction * pretrained}
    return config.model_copy(update={"encoder": encoder, "train": train.model_copy(update=written)})


@torch.no_grad()
def predict(head: torch.nn.Module, texts: Texts, accelerator: Accelerator, batch_size: int = 64) -> np.ndarray:
    """Probabilities of every text, (texts, classes), the same on every process."""
    head.eval()
    ordered = np.argsort(texts.lengths, kind="stable")
    batches = [ordered[at:at + batch_size] for at in range(0, len(ordered), batch_size)]
    found = []
    for places in share(batches, accelerator):
        inputs = {name: tensor.to(accelerator.device) for name, tensor in texts.inputs(places).items()}
        with accelerator.autocast():
            found.append((places, head.predict(**inputs).cpu().numpy()))
    found = gather(found, accelerator)
    probabilities = np.empty((len(ordered), found[0][1].shape[1]), dtype=np.float32)
    for places, values in found:
        probabilities[places] = values
    return probabilities


def train_on(folder: Path, config: Finetune, splits: dict[str, list[labelled.Example]], names: list[str],
             run: record.Run, accelerator: Accelerator, title: str, random: bool = False):
    """Put the head on the encoder in `folder` and train it in `run`; returns (model, figures by split, Result)."""
    head_file = importlib.import_module(f"finetune.heads.{config.head.name}")
    texts = {split: tokenise(examples, names, folder, config.max_length, f"task {config.task.name}, {split}")
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
                 before_step=before_step, evaluate=lambda: evaluate("validation"), monitor=head_file.MONITOR,
                 patience=train.patience)
    return model, {split: evaluate(split) for split in ("test", "validation")}, result


def without_pretraining(folder: Path, encoder: str) -> tuple[Path, bool, str]:
    """(folder, whether with random weights, its name) of the same network without our pretraining."""
    made = record_of(folder)
    if made.get("init"):
        return locate(made["init"]), False, f"{made['init']}, the same network without our pretraining"
    return folder, True, "the same network from random weights"


def finetune(config: Finetune) -> None:
    """Run stage two. Raises ConfigError and DataError for the user's mistakes, before anything is written to the run."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    accelerator = make_accelerator(config.train.precision)
    with accelerator.main_process_first():
        encoder = config.encoder or newest_encoder()
        folder = locate(encoder)
        rows = labelled.read(config.task)
    names = labelled.label_list(config.task, rows)
    splits = {**rows, "train": labelled.few(rows["train"], config.task.labels, config.seed)}
    config = resolved(config, encoder, folder, len(splits["train"]))
    if config.train.batch_size < accelerator.num_processes:
        raise ConfigError(f"train.batch_size: {config.train.batch_size} is fewer than the"
                          f" {accelerator.num_processes} processes")
    run = record.Run(config, config.run, accelerator.is_main_process)
    if (run.folder / "model").is_dir() and (run.folder / "metrics.json").is_file():
        if accelerator.is_main_process:
            print(f"{run.folder} is finished.\n{summary(run)}")
        return

    model, figures, result = train_on(folder, config, splits, names, run, accelerator, f"finetune {config.run}")
    compared = {}
    if config.baselines:
        compared["tfidf"] = {"name": "TF-IDF + logistic regression", **baselines.tfidf(splits, names)}
        try:
            plain, random, name = without_pretraining(folder, encoder)
            beside = record.Run(config, config.run, accelerator.is_main_process, run.folder / "without_pretraining")
            _, plain_figures, _ = train_on(plain, config, splits, names, beside, accelerator, f"  {name}", random)
            compared["without_pretraining"] = {"name": name, **plain_figures}
        except DataError as error:
            compared["without_pretraining"] = {"name": f"not measured: {error}"}

    if accelerator.is_main_process:
        made = {"kind": "model", "run": config.run, "config": config.model_dump(mode="json"), "labels": names,
                "rows": {split: len(examples) for split, examples in splits.items()}, "figures": figures,
                "baselines": compared, "encoder_record": record_of(folder), "versions": record.versions()}
        write_json(run.folder / "metrics.json", {
            **figures, "baselines": compared, "task": config.task.name, "encoder": encoder,
            "labels": len(splits["train"]), "labels_available": len(rows["train"]),
            "steps": result.step, "seconds": round(result.seconds, 1)})

        def fill(path: Path) -> None:
            model.save_pretrained(path)
            for name in FILES:
                if (folder / name).is_file():
                    shutil.copy(folder / name, path / name)
            write_json(path / "record.json", made)
            (path / "README.md").write_text(card(made), encoding="utf-8")

        write_whole(run.folder / "model", fill)
        for leftover in [*run.folder.glob("**/step-*"), *run.folder.glob("**/best")]:
            shutil.rmtree(leftover)
        print(summary(run))
    accelerator.wait_for_everyone()
