"""The pretraining stage: prepare data, build the encoder, train it, write the encoder folder."""

import importlib
from collections.abc import Callable

import torch
from torch import nn

from data.sampling import row_generator, shard_batch, shuffled_batch
from engine.log import get_logger
from engine.runs.run import Run
from engine.training.distributed import broadcast_from_main, make_accelerator
from engine.training.optimizers import adamw, muon
from engine.training.step import MicroBatch
from engine.training.trainer import Callbacks, Trainer, TrainerOptions
from pretrain.artifacts import Artifacts
from pretrain.collapse import CollapseMonitor
from pretrain.comparison import InitialWeights, compare_with_init
from pretrain.config import Pretrain
from pretrain.modalities import Modality, load_modality
from pretrain.model.base import BaseEncoder
from pretrain.objective import BaseObjective
from pretrain.summary import format_summary
from pretrain.validate_config import validate_config, validate_dataset

logger = get_logger(__name__)


def make_batches(modality: Modality) -> Callable[[int, int | None], list[MicroBatch]]:
    """Return a function that makes this process's micro-batches of a step."""
    config, accelerator = modality.config, modality.accelerator

    def batches(step: int, rows: int | None) -> list[MicroBatch]:
        source, factor = modality.dataset_at(step)
        order = shuffled_batch(step, factor * config.train.batch_size, len(source), config.seed)
        shares = shard_batch(len(order), accelerator.process_index, accelerator.num_processes, rows and factor * rows)
        return [
            source.collate(order[share].tolist(), [row_generator(config.seed, step, row) for row in share.tolist()])
            for share in shares
        ]

    return batches


def make_evaluate(
    modality: Modality, encoder: BaseEncoder, objective: BaseObjective, with_head: bool
) -> Callable[[], dict[str, float]]:
    """Return a function that evaluates the current weights; it warns if embeddings of views collapse.

    with_head: whether the head of masked tokens is evaluated too.
    """
    validator, monitor = modality.build_validator(with_head), CollapseMonitor()
    if objective.compares_views and not modality.config.init:
        mode = encoder.training
        monitor.check(validator(encoder.eval()))
        encoder.train(mode)

    def evaluate() -> dict[str, float]:
        metrics = validator(encoder)
        if objective.compares_views:
            monitor.check(metrics)
        return {**metrics, **objective.evaluate(modality.held_out_data())}

    return evaluate


def build_optimizer(
    config: Pretrain, objective: BaseObjective, encoder: BaseEncoder, pretrained: set[nn.Parameter]
) -> torch.optim.Optimizer:
    """Build the optimizer; with `init`, new parameters train at `head_lr_scale` times the rate.

    New are those that are neither `pretrained` nor of the objective's copies of the encoder.
    """
    parameters = dict(objective.named_parameters())
    known = pretrained.union(*(network.parameters() for network in objective.list_copies()))

    def lr_scale(name: str) -> float:
        return config.head_lr_scale if config.init and parameters[name] not in known else 1.0

    if config.train.optimizer == "muon":
        return muon(parameters.items(), config.train, config.train.matrix_lr, encoder.hidden_matrices(), lr_scale)
    return adamw(parameters.items(), config.train, lr_scale)


def pretrain(config: Pretrain) -> None:
    """Pretrain an encoder. Raises ConfigError or DataError for the user's mistakes before the run folder is written."""
    accelerator = make_accelerator(config.train.precision)
    run = Run(config, config.run, accelerator.is_main_process)
    if run.is_finished:
        logger.info(f"{run.folder} is finished.\n{format_summary(run)}")
        return

    validate_config(config, accelerator.num_processes)
    modality = load_modality(config, accelerator)
    modality.validate_config()
    fingerprints = modality.prepare()
    config = modality.resolve_objective()
    encoder = modality.build_encoder()
    objective_file = importlib.import_module(f"pretrain.objectives.{config.objective.name}")
    with accelerator.main_process_first():
        dataset = modality.build_dataset(objective_file)
    validate_dataset(config, dataset)
    # Not left to the trainer, as embeddings are evaluated before training.
    objective = objective_file.Objective(config.objective, encoder).to(accelerator.device)
    pretrained = {weight for name, weight in encoder.model.named_parameters() if name not in encoder.new_parameters}
    optimizer = build_optimizer(config, objective, encoder, pretrained)
    run.start(**fingerprints)
    run.config = config  # config.yaml keeps what was asked for, so that the same command resumes the run

    initial = InitialWeights(pretrained) if config.init else None
    head_only_steps = 0
    if config.init and encoder.new_parameters and objective.trains_mlm_head:
        head_only_steps = round(config.head_only_fraction * config.train.steps)

    def before_step(step: int) -> None:
        objective.is_evaluated |= step + 1 == config.train.steps
        for parameter in pretrained:
            parameter.requires_grad_(step >= head_only_steps)

    # A head that is not trained is neither evaluated nor saved.
    with_head = (objective.trains_mlm_head or not encoder.new_parameters) and not encoder.is_causal
    evaluate = make_evaluate(modality, encoder, objective, with_head)
    artifacts = Artifacts(config, run, encoder, modality, with_head)
    if config.train.compile:
        encoder.compile_layers()
    callbacks = Callbacks(before_step, objective.after_step, artifacts.push, evaluate)
    batches, train, unit = make_batches(modality), config.train, modality.shared.unit
    options = TrainerOptions(config.seed, f"pretrain {config.run}", sharded=train.sharded, unit=unit)
    result = Trainer(objective, optimizer, batches, train, run, accelerator, callbacks, options).fit()
    quality = {}
    if initial:
        if config.init_fraction:
            initial.interpolate(config.init_fraction)
            result.metrics = evaluate()
        quality = compare_with_init(modality, encoder, initial)
        if reason := broadcast_from_main(modality.keeps_init(quality), accelerator):
            logger.info(f"  {reason}")
            initial.interpolate(1.0)
            result.metrics = evaluate()

    if accelerator.is_main_process:
        artifacts.finish(result, quality, objective)
    accelerator.wait_for_everyone()
