"""From a checked configuration to an encoder folder: documents, tokenizer, shards, training, folder."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import torch

from data.batches import generator, order, slices
from data.derived import manifest
from data.prepare import prepare
from data.report import looked_at
from data.shards import Shards
from engine import record
from engine.errors import ConfigError, DataError
from engine.gradient import Batch
from engine.loop import accelerator as make_accelerator, fit
from engine.optim import adamw, muon
from pretrain import start
from pretrain.config import Pretrain
from pretrain.encoder import Encoder
from pretrain.evaluation import HeldOut
from pretrain.leaving import Leaving
from pretrain.origin import continue_from, from_nothing
from pretrain.report import summary


def new_encoder(config: Pretrain, init: Path | None, shards: Shards) -> Encoder:
    """The encoder as it is before the first step: the one in the folder `init`, or one from nothing."""
    torch.manual_seed(config.seed)
    encoder = (continue_from(init, config.length, config.dropout, config.pooling) if init else
               from_nothing(config.model, shards.special, shards.vocab_size, config.length, config.dropout, config.pooling))
    known = encoder.model.get_input_embeddings().num_embeddings
    if shards.vocab_size > known:
        raise DataError(f"{config.init}: its tokenizer makes {shards.vocab_size:,} tokens, its network knows {known:,}")
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
    if config.train.sharded and (config.train.compile or config.train.average or config.train.optimizer != "adamw"):
        raise ConfigError("train.sharded: goes with train.optimizer=adamw, without train.compile and train.average")
    encoder = new_encoder(config, init, shards)
    objective_file = importlib.import_module(f"pretrain.objectives.{config.objective.name}")
    with accelerator.main_process_first():
        examples = objective_file.Examples(config.objective, shards, tokenizer)
        short = objective_file.Examples(config.objective, Shards(short_folder, "train"), tokenizer) if config.short_rows else None
    if config.train.batch_size > len(examples):
        raise ConfigError(f"train.batch_size: {config.train.batch_size} is more than the {len(examples)} rows that the text"
                          " makes; take fewer, a shorter length, or more text")
    if accelerator.is_main_process and examples.hint():
        print(f"  {examples.hint()}", flush=True)
    objective = objective_file.Objective(config.objective, encoder)
    inputs = manifest(shard_folder)["inputs"]
    run.begin(text=inputs["documents"], tokenizer=inputs["tokenizer"])

    head_only = round(config.head_warmup * config.train.steps) if encoder.new and init and objective.teaches_vocabulary else 0
    brought = {parameter for name, parameter in encoder.model.named_parameters() if name not in encoder.new}

    held = {parameter: parameter.detach().clone() for parameter in brought} if init and config.init_share else {}

    def before_step(step: int) -> None:
        for parameter in brought:
            parameter.requires_grad_(step >= head_only)

    def batches(step: int, rows: int | None) -> list[Batch]:
        own, times = (short, 2) if step < round(config.short_rows * config.train.steps) else (examples, 1)
        numbers = order(step, times * config.train.batch_size, len(own), config.seed)
        return [own.collate(numbers[places].tolist(), [generator(config.seed, step, place) for place in places.tolist()])
                for places in slices(len(numbers), accelerator.process_index, accelerator.num_processes, rows and times * rows)]

    # A head that nobody has taught is neither measured nor saved.
    with_head = objective.teaches_vocabulary or not encoder.new
    held_out = HeldOut(Shards(shard_folder, "held_out"), config.evaluation_rows, accelerator, with_head)
    leaving = Leaving(config, run, encoder, init, tokenizer, shard_folder, accelerator, with_head)
    parameters = dict(objective.named_parameters())

    def lr_scale(name: str) -> float:
        return config.head_lr_scale if init and parameters[name] not in brought else 1.0

    optimizer = (muon(parameters.items(), config.train, config.train.matrix_lr, encoder.matrices(), lr_scale)
                 if config.train.optimizer == "muon" else adamw(parameters.items(), config.train, lr_scale))
    if config.train.compile:
        encoder.compile_layers()
    result = fit(objective, optimizer, batches, config.train, run, accelerator, seed=config.seed,
                 title=f"pretrain {config.run}", before_step=before_step, after_step=objective.after_step,
                 after_save=leaving.push, evaluate=lambda: held_out(encoder), sharded=config.train.sharded)
    if held:
        with torch.no_grad():
            for parameter, weights in held.items():
                parameter.lerp_(weights.to(parameter.device), config.init_share)
        result.evaluation = held_out(encoder)

    if accelerator.is_main_process:
        leaving.finish(result)
    accelerator.wait_for_everyone()
