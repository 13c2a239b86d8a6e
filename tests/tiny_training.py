"""A tiny network and training, for tests of the training loop, and short trainings of objectives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tiny_models import make_batch
from torch import nn

from data.sampling import shard_batch
from engine.config.schema import Section
from engine.runs.run import Run
from engine.training.optimizers import adamw, muon
from engine.training.settings import Train
from engine.training.step import MicroBatch, Output
from engine.training.trainer import Callbacks, Trainer, TrainerOptions, TrainResult

ROWS = 8


class Settings(Section):
    train: Train


class TinyNet(nn.Module):
    """Maps three numbers to four, of which each row counts a different number."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(3, 6), nn.Dropout(dropout), nn.Linear(6, 4)

    def forward(self, x, y, mask):
        output = self.last(self.dropout(torch.tanh(self.first(x))))
        return Output(((output - y) ** 2 * mask).sum(), mask.sum())


def full_batch(step: int) -> dict[str, torch.Tensor]:
    x = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(step))
    # From zero to four numbers per row, so that micro-batches have very different counts.
    mask = torch.arange(4) < torch.arange(ROWS)[:, None] * 4 // (ROWS - 1)
    return {"x": x, "y": torch.sin(2 * x @ torch.ones(3, 4)), "mask": mask}


def train_settings(**overrides) -> Train:
    defaults = {"steps": 10, "lr": 0.01, "batch_size": ROWS, "weight_decay": 0.1, "warmup_fraction": 0.3}
    return Train(**(defaults | {"log_every": 2, "eval_every": 4, "save_every": 3} | overrides))


def run_training(
    folder,
    cpu_accelerator,
    config: Train,
    dropout: float = 0.0,
    fail_at_step: int | None = None,
    make_hooks=lambda module: {},
    use_muon: bool = False,
    monitor: str | None = None,
    patience: int | None = None,
    **hooks,
) -> tuple[TinyNet, Run, TrainResult]:
    """Train in a folder, or resume the run there. fail_at_step: the step at which a batch raises InterruptedError."""
    torch.manual_seed(0)
    module, run = TinyNet(dropout), Run(Settings(train=config), "r", folder=folder)
    run.start()

    def get_micro_batches(step: int, rows: int | None) -> list[MicroBatch]:
        if step == fail_at_step:
            raise InterruptedError
        return [
            MicroBatch({name: value[indices] for name, value in full_batch(step).items()}, num_tokens=len(indices))
            for indices in shard_batch(ROWS, 0, 1, rows)
        ]

    def lr_scale(name: str) -> float:
        return 0.5 if name.startswith("first") else 1.0

    if use_muon:
        optimizer = muon(module.named_parameters(), config, 0.03, {module.first.weight}, lr_scale)
    else:
        optimizer = adamw(module.named_parameters(), config, lr_scale)
    callbacks, options = Callbacks(**hooks, **make_hooks(module)), TrainerOptions(7, "t", monitor, patience)
    trainer = Trainer(module, optimizer, get_micro_batches, config, run, cpu_accelerator, callbacks, options)
    return module, run, trainer.fit()


def train_objective(
    folder,
    accelerator,
    objective: nn.Module,
    dataset,
    steps: int,
    fail_at: int | None = None,
    plant: Callable[[int, MicroBatch], None] = lambda step, batch: None,
) -> tuple[dict[str, torch.Tensor], Run]:
    """Train an objective in a folder, or resume it; return its weights and buffers, and the run.

    fail_at: the step at which a batch raises InterruptedError. plant: changes the batch of a step.
    """
    options = {"schedule": "constant", "warmup_fraction": 0.0, "beta1": 0.5, "average_fraction": 0.5}
    config = train_settings(steps=steps, save_every=2, eval_every=9, log_every=1, batch_size=4, lr=1e-3, **options)
    run = Run(Settings(train=config), "r", folder=folder)
    run.start()

    def get_micro_batches(step: int, rows: int | None) -> list[MicroBatch]:
        if step == fail_at:
            raise InterruptedError
        batch = make_batch(dataset, [(4 * step + row) % min(8, len(dataset)) for row in range(4)], step)
        plant(step, batch)
        return [batch]

    optimizer = adamw(objective.named_parameters(), config)
    callbacks, settings = Callbacks(after_step=objective.after_step), TrainerOptions(7, "t")
    Trainer(objective, optimizer, get_micro_batches, config, run, accelerator, callbacks, settings).fit()
    return {name: tensor.clone() for name, tensor in objective.state_dict().items()}, run
