"""A tiny network and training, for tests of the training loop."""

from __future__ import annotations

import torch
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
