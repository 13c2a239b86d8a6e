"""From a checked configuration to an encoder folder: documents, tokenizer, shards, training, folder."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import torch

from data.cache import read_manifest
from data.corpus.report import format_brief_summary
from data.prepare import prepare
from data.sampling import row_generator, shard_batch, shuffled_batch
from data.tokens.shards import Shards
from engine.errors import ConfigError, DataError
from engine.runs.run import Run
from engine.training.distributed import make_accelerator as make_accelerator
from engine.training.optimizers import adamw, muon
from engine.training.step import MicroBatch
from engine.training.trainer import fit
from pretrain.artifacts import Artifacts
from pretrain.config import Pretrain
from pretrain.model import initialization
from pretrain.model.build import encoder_from_config, encoder_from_pretrained
from pretrain.model.encoder import Encoder
from pretrain.summary import summary
from pretrain.validation import Validator


def build_encoder(config: Pretrain, init_folder: Path | None, shards: Shards) -> Encoder:
    """The encoder as it is before the first step: the one in the folder `init_folder`, or one from nothing."""
    torch.manual_seed(config.seed)
    encoder = (
        encoder_from_pretrained(init_folder, config.max_length, config.dropout, config.pooling)
        if init_folder
        else encoder_from_config(
            config.model, shards.special_ids, shards.vocab_size, config.max_length, config.dropout, config.pooling
        )
    )
    known = encoder.model.get_input_embeddings().num_embeddings
    if shards.vocab_size > known:
        raise DataError(f"{config.init}: its tokenizer makes {shards.vocab_size:,} tokens, its network knows {known:,}")
    initialization.init_bias_from_frequencies(encoder, shards.token_counts())
    if not init_folder and config.model.embeddings == "cooccurrence":
        initialization.init_embeddings_from_cooccurrence(encoder, shards, config.seed)
    return encoder


def pretrain(config: Pretrain) -> None:
    """Run stage one. Raises ConfigError and DataError for the user's mistakes, before anything is written to the run."""
    accelerator = make_accelerator(config.train.precision)
    run = Run(config, config.run, accelerator.is_main_process)
    if (run.folder / "encoder").is_dir():
        if accelerator.is_main_process:
            print(f"{run.folder} is finished.\n{summary(run)}")
        return

    config.objective.validate_training(config.train.batch_size, config.dropout, config.max_length)
    if config.short_sequence_fraction and (config.objective.name != "mlm" or config.max_length < 16):
        raise ConfigError(
            "short_sequence_fraction: half rows are for objective.name=mlm and a length of 16 or more; leave it out"
        )
    with accelerator.main_process_first():
        init, tokenizer, shard_folder = prepare(
            config.corpus, config.tokenizer, config.init, config.max_length, config.model.positions
        )
        short_folder = (
            prepare(config.corpus, config.tokenizer, config.init, config.max_length // 2, config.model.positions)[2]
            if config.short_sequence_fraction
            else shard_folder
        )
        if accelerator.is_main_process:
            print(format_brief_summary(shard_folder), flush=True)
    shards = Shards(shard_folder, "train")
    if config.train.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError("train.compile: torch.compile needs a C++ compiler, g++ or the one that CXX names")
    if config.train.batch_size < accelerator.num_processes:
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} is fewer than the {accelerator.num_processes} processes"
        )
    if config.train.sharded and (
        config.train.compile or config.train.average_fraction or config.train.optimizer != "adamw"
    ):
        raise ConfigError(
            "train.sharded: goes with train.optimizer=adamw, without train.compile and train.average_fraction"
        )
    encoder = build_encoder(config, init, shards)
    objective_file = importlib.import_module(f"pretrain.objectives.{config.objective.name}")
    with accelerator.main_process_first():
        examples = objective_file.Examples(config.objective, shards, tokenizer)
        short = (
            objective_file.Examples(config.objective, Shards(short_folder, "train"), tokenizer)
            if config.short_sequence_fraction
            else None
        )
    if config.train.batch_size > len(examples):
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} is more than the {len(examples)} rows that the text"
            " makes; take fewer, a shorter length, or more text"
        )
    if accelerator.is_main_process and examples.warning():
        print(f"  {examples.warning()}", flush=True)
    objective = objective_file.Objective(config.objective, encoder)
    inputs = read_manifest(shard_folder)["inputs"]
    run.start(text=inputs["documents"], tokenizer=inputs["tokenizer"])

    head_only = (
        round(config.head_only_fraction * config.train.steps)
        if encoder.new_parameters and init and objective.trains_mlm_head
        else 0
    )
    brought = {parameter for name, parameter in encoder.model.named_parameters() if name not in encoder.new_parameters}

    held = {parameter: parameter.detach().clone() for parameter in brought} if init and config.init_fraction else {}

    def before_step(step: int) -> None:
        for parameter in brought:
            parameter.requires_grad_(step >= head_only)

    def batches(step: int, rows: int | None) -> list[MicroBatch]:
        own, times = (short, 2) if step < round(config.short_sequence_fraction * config.train.steps) else (examples, 1)
        numbers = shuffled_batch(step, times * config.train.batch_size, len(own), config.seed)
        return [
            own.collate(
                numbers[places].tolist(), [row_generator(config.seed, step, place) for place in places.tolist()]
            )
            for places in shard_batch(
                len(numbers), accelerator.process_index, accelerator.num_processes, rows and times * rows
            )
        ]

    # A head that nobody has taught is neither measured nor saved.
    with_head = objective.trains_mlm_head or not encoder.new_parameters
    held_out = Validator(Shards(shard_folder, "held_out"), config.eval_rows, accelerator, with_head)
    leaving = Artifacts(config, run, encoder, init, tokenizer, shard_folder, accelerator, with_head)
    parameters = dict(objective.named_parameters())

    def lr_scale(name: str) -> float:
        return config.head_lr_scale if init and parameters[name] not in brought else 1.0

    optimizer = (
        muon(parameters.items(), config.train, config.train.matrix_lr, encoder.hidden_matrices(), lr_scale)
        if config.train.optimizer == "muon"
        else adamw(parameters.items(), config.train, lr_scale)
    )
    if config.train.compile:
        encoder.compile_layers()
    result = fit(
        objective,
        optimizer,
        batches,
        config.train,
        run,
        accelerator,
        seed=config.seed,
        title=f"pretrain {config.run}",
        before_step=before_step,
        after_step=objective.after_step,
        after_save=leaving.push,
        evaluate=lambda: held_out(encoder),
        sharded=config.train.sharded,
    )
    if held:
        with torch.no_grad():
            for parameter, weights in held.items():
                parameter.lerp_(weights.to(parameter.device), config.init_fraction)
        result.metrics = held_out(encoder)

    if accelerator.is_main_process:
        leaving.finish(result)
    accelerator.wait_for_everyone()
