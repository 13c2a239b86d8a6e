"""From a checked configuration to a model folder: labels, encoder, head, training layer by layer, figures."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path

import torch
from transformers.utils import logging

from data import labelled, sample
from data.config import licences
from data.encoders import base_of, began_with, locate, record_of
from data.sources import name_of
from data.tokenizer import FILES
from engine import machine, record
from engine.errors import ConfigError, DataError
from engine.files import write_json, write_text, write_whole
from engine.loop import accelerator as make_accelerator
from finetune import baselines
from finetune.adapting import TASK, adapted
from finetune.config import Finetune
from finetune.report import summary
from finetune.selftraining import corpus_of, self_train
from finetune.teaching import Taught, fits, head_of, teach
from publish.card import card
from publish.report import page_of


FEWEST = 16  # examples of a step where classes come in turn, however few labels there are: each has partners and others
SAYS = {"class": partial(torch.softmax, dim=-1), "tags": partial(torch.softmax, dim=-1), "labels": torch.sigmoid,
        "number": torch.clone}
"""What plain transformers makes of the logits of each kind of head."""


def newest_encoder() -> str:
    """The encoder folder last finished, but for those adapted to one task. Raises ConfigError when there is none."""
    found = sorted((path for path in record.RUNS.glob("*/encoder/record.json") if not (path.parents[1] / TASK).is_file()),
                   key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError("encoder: none given and none in out/runs; run make pretrain first, or give encoder=minilm")
    return str(found[-1].parent)


def resolved(config: Finetune, encoder: str, folder: Path, labels: int) -> Finetune:
    """The configuration with what follows from the labels and the encoder written out."""
    train = config.train
    steps = train.steps or min(train.max_steps, max(train.min_steps, math.ceil(train.epochs * labels / train.batch_size)))
    # Where rows come class by class, and so again and again, a step of more than there are draws some of them twice.
    size = min(train.batch_size, max(labels, FEWEST)) if train.sampling == "classes" else train.batch_size
    pretrained = record_of(folder).get("config", {}).get("train", {}).get("lr") or train.unrecorded_lr
    written = {"batch_size": size, "steps": steps, "lr": train.lr or train.lr_fraction * pretrained}
    layers = config.layers.model_copy(update={"head_lr": config.layers.head_lr or head_of(config).HEAD_LR})
    return config.model_copy(update={"encoder": encoder, "layers": layers, "train": train.model_copy(update=written)})


def without_pretraining(folder: Path, encoder: str) -> tuple[Path, bool, str]:
    """(folder, whether with random weights, its name) of the same network without any pretraining of ours."""
    if init := began_with(record_of(folder)):
        return locate(init), False, f"{init}, the same network without our pretraining"
    return folder, True, "the same network from random weights"


def finetune(config: Finetune) -> None:
    """Run stage two. Raises ConfigError and DataError for the user's mistakes, before anything is written to the run."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    fits(config)
    accelerator, head_file = make_accelerator(config.train.precision), head_of(config)
    with accelerator.main_process_first():
        encoder = config.encoder or newest_encoder()
        folder = locate(encoder)
        rows = labelled.read(config.task, head_file.KIND)
    names = labelled.label_list(config.task, rows, head_file.KIND)
    if not config.train.best:
        validation = rows.pop("validation")  # no label of theirs is used, not even to tell a figure
        if config.task.labels == "all" and not config.task.per_class and not config.task.validation:
            rows["train"] = rows["train"] + validation  # split off for what is not done; what is all there is may as well teach
    splits = {**rows, "train": labelled.few(rows["train"], config.task.labels, config.seed, config.task.per_class)}
    if config.train.batch_size < accelerator.num_processes:
        raise ConfigError(f"train.batch_size: {config.train.batch_size} is fewer than the"
                          f" {accelerator.num_processes} processes")
    if config.adapt.steps and not config.train.check:  # minutes: once what can be told to be wrong has been told
        with accelerator.main_process_first():
            encoder = adapted(config, encoder, accelerator.is_main_process)
            folder = locate(encoder)
    config = resolved(config, encoder, folder, len(splits["train"]))
    run = record.Run(config, config.run, accelerator.is_main_process)
    if (run.folder / "model").is_dir() and (run.folder / "metrics.json").is_file():
        if accelerator.is_main_process:
            print(f"{run.folder} is finished.\n{summary(run)}")
        return

    def learn(folder: Path, run: record.Run, title: str, random: bool = False) -> Taught:
        if config.selftrain.rounds:
            return self_train(folder, config, rows["train"], splits, names, run, accelerator, title, random)
        return teach(folder, config, splits, names, run, accelerator, title, random)

    taught = learn(folder, run, f"finetune {config.run}")
    compared = {}
    if config.baselines:
        if head_file.KIND in baselines.NAMES:
            compared["tfidf"] = baselines.tfidf(splits, names, head_file)
        if head_file.KIND == "tags":
            compared["commonest_tag"] = baselines.commonest_tag(splits)
        try:
            plain, random, name = without_pretraining(folder, encoder)
            beside = record.Run(config, config.run, accelerator.is_main_process, run.folder / "without_pretraining")
            plain_figures = learn(plain, beside, f"  {name}", random).figures
            compared["without_pretraining"] = {"name": name, **plain_figures}
        except DataError as error:
            compared["without_pretraining"] = {"name": f"not measured: {error}"}

    if accelerator.is_main_process:
        shown = getattr(head_file, "SHOWN", (head_file.MONITOR,))
        made = {"kind": "model", "run": config.run, "config": config.model_dump(mode="json"), "labels": names,
                "rows": {split: len(examples) for split, examples in splits.items()}, "figures": taught.figures,
                "learns": head_file.KIND, "shown": shown,
                "labels_available": len(rows["train"]), "steps": taught.result.step,
                "seconds": round(taught.result.seconds, 1), "processes": accelerator.num_processes,
                "precision": accelerator.mixed_precision.replace("no", "float32"),
                "baselines": compared, "encoder_record": record_of(folder), "versions": record.versions(),
                "hardware": machine.describe(), "licences": {
                    "labels": {name_of(config.task.train): config.task.train.licence}, "base": base_of(encoder, folder),
                    **({"corpus": licences(corpus_of(config))} if config.selftrain.rounds and config.selftrain.corpus else {})}}
        write_json(run.folder / "metrics.json", {
            **taught.figures, **taught.details, "learns": head_file.KIND, "shown": shown, "baselines": compared,
            "task": config.task.name, "encoder": encoder,
            "labels": len(splits["train"]), "labels_available": len(rows["train"]),
            "steps": taught.result.step, "seconds": round(taught.result.seconds, 1)})

        write_json(run.folder / "test.json", sample.rows(splits["test"], config.max_length))
        write_text(run.folder / "report.html", page_of(run))

        if taught.adapted is not None:
            from finetune import adapters
            adapters.save_apart(taught.adapted, run.folder)
            adapters.merge(taught.adapted)

        if calibration := taught.model.config.to_dict().get("calibration"):
            made["calibration"] = calibration
        write_json(run.folder / "sample.json", sample.sample(
            taught.model, folder, [example.texts for example in sample.spread(splits["test"])], config.max_length,
            lambda output: SAYS[head_file.KIND](output.logits[0])))

        def fill(path: Path) -> None:
            taught.model.save_pretrained(path)
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
