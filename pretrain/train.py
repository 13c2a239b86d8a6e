"""The pretraining stage: prepare data, build the encoder, train it, write the encoder folder."""

import importlib
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from data.cache import read_manifest
from data.corpus.report import format_brief_summary
from data.encoders import read_record, resolve_encoder
from data.prepare import prepare
from data.sampling import row_generator, shard_batch, shuffled_batch
from data.tokens.shards import Shards
from engine.runs.run import Run
from engine.training.distributed import make_accelerator
from engine.training.optimizers import adamw, muon
from engine.training.step import MicroBatch
from engine.training.trainer import Callbacks, Trainer, TrainerOptions
from pretrain.artifacts import Artifacts, Folders
from pretrain.config import Pretrain
from pretrain.model.build import build_encoder
from pretrain.model.encoder import Encoder
from pretrain.summary import format_summary
from pretrain.validate_config import validate_batch_size, validate_config
from pretrain.validation import Validator


def prepare_data(config: Pretrain, accelerator: Accelerator) -> tuple[Folders, Path | None]:
    """Return (the folders, the shards folder of half-length rows if they are used), built if missing."""
    common = (config.corpus, config.tokenizer, config.init)
    with accelerator.main_process_first():
        if config.init:
            read_record(resolve_encoder(config.init))  # before the work: its record goes into that of the new encoder
        folders = prepare(*common, config.max_length, config.model.positions)
        short = None
        if config.short_sequence_fraction:
            short = prepare(*common, config.max_length // 2, config.model.positions)[2]
        if accelerator.is_main_process:
            print(format_brief_summary(folders[2]), flush=True)
    return folders, short


def make_batches(
    config: Pretrain, dataset, short_dataset, accelerator: Accelerator
) -> Callable[[int, int | None], list[MicroBatch]]:
    """Return a function that makes this process's micro-batches of a step, the first ones from `short_dataset`."""
    short_steps = round(config.short_sequence_fraction * config.train.steps)

    def batches(step: int, rows: int | None) -> list[MicroBatch]:
        source, factor = (short_dataset, 2) if step < short_steps else (dataset, 1)
        order = shuffled_batch(step, factor * config.train.batch_size, len(source), config.seed)
        shares = shard_batch(len(order), accelerator.process_index, accelerator.num_processes, rows and factor * rows)
        return [
            source.collate(order[share].tolist(), [row_generator(config.seed, step, row) for row in share.tolist()])
            for share in shares
        ]

    return batches


def build_optimizer(
    config: Pretrain, objective: nn.Module, encoder: Encoder, pretrained: set[nn.Parameter]
) -> torch.optim.Optimizer:
    """Build the optimizer; with `init`, parameters other than `pretrained` train at `head_lr_scale` times the rate."""
    parameters = dict(objective.named_parameters())

    def lr_scale(name: str) -> float:
        return config.head_lr_scale if config.init and parameters[name] not in pretrained else 1.0

    if config.train.optimizer == "muon":
        return muon(parameters.items(), config.train, config.train.matrix_lr, encoder.hidden_matrices(), lr_scale)
    return adamw(parameters.items(), config.train, lr_scale)


def pretrain(config: Pretrain) -> None:
    """Pretrain an encoder. Raises ConfigError or DataError for the user's mistakes before the run folder is written."""
    accelerator = make_accelerator(config.train.precision)
    run = Run(config, config.run, accelerator.is_main_process)
    if (run.folder / "encoder").is_dir():
        if accelerator.is_main_process:
            print(f"{run.folder} is finished.\n{format_summary(run)}")
        return

    validate_config(config, accelerator.num_processes)
    folders, short_folder = prepare_data(config, accelerator)
    init_folder, tokenizer_folder, shards_folder = folders
    encoder = build_encoder(config, init_folder, Shards(shards_folder, "train"))
    plugin = importlib.import_module(f"pretrain.objectives.{config.objective.name}")
    with accelerator.main_process_first():
        dataset, short_dataset = (
            plugin.Dataset(config.objective, Shards(folder, "train"), tokenizer_folder) if folder else None
            for folder in (shards_folder, short_folder)
        )
    validate_batch_size(config, len(dataset))
    if accelerator.is_main_process and dataset.warning():
        print(f"  {dataset.warning()}", flush=True)
    objective = plugin.Objective(config.objective, encoder)
    inputs = read_manifest(shards_folder)["inputs"]
    run.start(text=inputs["documents"], tokenizer=inputs["tokenizer"])

    pretrained = {weight for name, weight in encoder.model.named_parameters() if name not in encoder.new_parameters}
    init_weights = {}
    if config.init and config.init_fraction:
        init_weights = {parameter: parameter.detach().clone() for parameter in pretrained}
    head_only_steps = 0
    if config.init and encoder.new_parameters and objective.trains_mlm_head:
        head_only_steps = round(config.head_only_fraction * config.train.steps)

    def before_step(step: int) -> None:
        for parameter in pretrained:
            parameter.requires_grad_(step >= head_only_steps)

    # A head that is not trained is neither evaluated nor saved.
    with_head = objective.trains_mlm_head or not encoder.new_parameters
    validator = Validator(Shards(shards_folder, "held_out"), config.eval_rows, accelerator, with_head)
    artifacts = Artifacts(config, run, encoder, folders, accelerator, with_head)
    optimizer = build_optimizer(config, objective, encoder, pretrained)
    if config.train.compile:
        encoder.compile_layers()
    callbacks = Callbacks(before_step, objective.after_step, artifacts.push, evaluate=lambda: validator(encoder))
    options = TrainerOptions(config.seed, f"pretrain {config.run}", sharded=config.train.sharded)
    batches = make_batches(config, dataset, short_dataset, accelerator)
    result = Trainer(objective, optimizer, batches, config.train, run, accelerator, callbacks, options).fit()
    if init_weights:
        with torch.no_grad():
            for parameter, weights in init_weights.items():
                parameter.lerp_(weights.to(parameter.device), config.init_fraction)
        result.metrics = validator(encoder)

    if accelerator.is_main_process:
        artifacts.finish(result)
    accelerator.wait_for_everyone()
