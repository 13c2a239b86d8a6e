"""From a checked configuration to an encoder folder: documents, tokenizer, shards, training, folder."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import torch

from data.batches import generator, order, slices
from data.derived import manifest
from data.encoders import record_of
from data.prepare import prepare
from data.report import looked_at
from data.shards import Shards
from engine import record
from engine.errors import ConfigError
from engine.files import write_json
from engine.loop import Batch, accelerator as make_accelerator, fit
from engine.optim import adamw, muon
from pretrain import start
from pretrain.config import Pretrain
from pretrain.encoder import Encoder, save
from pretrain.evaluation import HeldOut
from pretrain.origin import continue_from, from_nothing
from pretrain.report import card, summary


def new_encoder(config: Pretrain, init: Path | None, shards: Shards) -> Encoder:
    """The encoder as it is before the first step: the one in the folder `init`, or one from nothing."""
    torch.manual_seed(config.seed)
    encoder = (continue_from(init, config.length, config.dropout, config.pooling) if init else
               from_nothing(config.model, shards.special, shards.vocab_size, config.length, config.dropout, config.pooling))
    start.at_frequencies(encoder, shards.frequencies())
    if not init and config.model.embeddings == "cooccurrence":
        start.at_cooccurrences(encoder, shards, config.seed)
    return encoder


def pretrain(config: Pretrain) -> None:
    """Run stage one. Raises ConfigError and DataError for the user's mistakes, before anything is written to the run."""
    accelerator = make_accelerator(config.train.precision)
    run = record.Run(config, config.run, accelerator.is_main_process)
    if (run.folder / "encoder").is_dir():
        if accelerator.is_main_process:
            print(f"{run.folder} is finished.\n{summary(run)}")
        return

    config.objective.suits(config.train.batch_size, config.dropout, config.length)
    if config.short_rows and (config.objective.name != "mlm" or config.length < 16):
        raise ConfigError("short_rows: half rows are for objective.name=mlm and a length of 16 or more; leave it out")
    with accelerator.main_process_first():
        init, tokenizer, shard_folder = prepare(config.corpus, config.tokenizer, config.init, config.length,
                                                config.model.positions)
        short_folder = prepare(config.corpus, config.tokenizer, config.init, config.length // 2,
                               config.model.positions)[2] if config.short_rows else shard_folder
        if accelerator.is_main_process:
            print(looked_at(shard_folder), flush=True)
    shards = Shards(shard_folder, "train")
    if config.train.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError("train.compile: torch.compile needs a C++ compiler, g++ or the one that CXX names")
    if config.train.batch_size < accelerator.num_processes:
        raise ConfigError(f"train.batch_size: {config.train.batch_size} is fewer than the"
                          f" {accelerator.num_processes} processes")
    encoder = new_encoder(config, init, shards)
    objective_file = importlib.import_module(f"pretrain.objectives.{config.objective.name}")
    with accelerator.main_process_first():
        examples = objective_file.Examples(config.objective, shards, tokenizer)
        short = objective_file.Examples(config.objective, Shards(short_folder, "train"), tokenizer) if config.short_rows else None
    if accelerator.is_main_process and examples.hint():
        print(f"  {examples.hint()}", flush=True)
    objective = objective_file.Objective(config.objective, encoder)
    run.begin(shard_folder.name)

    head_only = round(config.head_warmup * config.train.steps) if encoder.new and init and objective.teaches_vocabulary else 0
    brought = {parameter for name, parameter in encoder.model.named_parameters() if name not in encoder.new}

    held = {parameter: parameter.detach().clone() for parameter in brought} if init and config.init_share else {}

    def before_step(step: int) -> None:
        for parameter in brought:
            parameter.requires_grad_(step >= head_only)

    def batches(step: int) -> list[Batch]:
        own, times = (short, 2) if step < round(config.short_rows * config.train.steps) else (examples, 1)
        numbers, at_once = order(step, times * config.train.batch_size, len(own), config.seed), config.train.micro_batch
        return [own.collate(numbers[places].tolist(), [generator(config.seed, step, place) for place in places.tolist()])
                for places in slices(len(numbers), accelerator.process_index, accelerator.num_processes,
                                     at_once and times * at_once)]

    # A head that nobody has taught is neither measured nor saved.
    with_head = objective.teaches_vocabulary or not encoder.new
    held_out = HeldOut(Shards(shard_folder, "held_out"), config.evaluation_rows, accelerator, with_head)
    parameters = dict(objective.named_parameters())

    def lr_scale(name: str) -> float:
        return config.head_lr_scale if init and parameters[name] not in brought else 1.0

    optimizer = (muon(parameters.items(), config.train, config.train.matrix_lr, encoder.matrices(), lr_scale)
                 if config.train.optimizer == "muon" else adamw(parameters.items(), config.train, lr_scale))
    if config.train.compile:
        encoder.compile_layers()
    result = fit(objective, optimizer, batches, config.train, run, accelerator, seed=config.seed,
                 title=f"pretrain {config.run}", before_step=before_step, after_step=objective.after_step,
                 evaluate=lambda: held_out(encoder))
    if held:
        with torch.no_grad():
            for parameter, weights in held.items():
                parameter.lerp_(weights.to(parameter.device), config.init_share)
        result.evaluation = held_out(encoder)

    if accelerator.is_main_process:
        made = {
            "kind": "encoder", "run": config.run, "config": config.model_dump(mode="json"),
            "init": config.init, "init_record": record_of(init) if init else {},
            "documents": {key: value for key, value in manifest(shard_folder).items() if key != "inputs"},
            "shards": shard_folder.name, "steps": result.step, "tokens": result.tokens,
            "seconds": round(result.seconds, 1), "processes": accelerator.num_processes,
            "precision": accelerator.mixed_precision.replace("no", "float32"), "evaluation": result.evaluation,
            "longest_text": config.length, "versions": record.versions(),
        }
        write_json(run.folder / "metrics.json", {
            "held_out": result.evaluation, "steps": result.step, "tokens": result.tokens,
            "seconds": round(result.seconds, 1), "tokens_per_second": round(result.tokens / result.seconds)})
        save(encoder, run.folder / "encoder", tokenizer, made, card(made), with_head)
        print(summary(run))
    accelerator.wait_for_everyone()
