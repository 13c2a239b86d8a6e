"""Checks of a pretraining configuration that no single section can make, before any data is prepared."""

import os
import shutil
from typing import Any

from data.sampling import shard_batch
from engine.errors import ConfigError
from engine.log import get_logger
from pretrain.config import Pretrain

logger = get_logger(__name__)


def validate_config(config: Pretrain, num_processes: int) -> None:
    """Raise ConfigError for settings that cannot be combined or that this machine cannot run."""
    train = config.train
    if train.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise ConfigError("train.compile: torch.compile needs a C++ compiler, g++ or the one that CXX names")
    if config.objective.name == "vae" and config.init_fraction:
        raise ConfigError("init_fraction: the decoder of vae fits the encoder as it is trained; set it to 0")
    if train.batch_size < num_processes:
        raise ConfigError(f"train.batch_size: {train.batch_size} is fewer than the {num_processes} processes")
    if train.sharded and (train.compile or train.average_fraction or train.optimizer != "adamw"):
        raise ConfigError("train.sharded: needs train.optimizer=adamw, no train.compile and no train.average_fraction")
    # The first process has the largest share of a batch and the last one the smallest.
    ends, rows = (0, num_processes - 1), train.micro_batch_size
    most, fewest = (len(shard_batch(train.batch_size, index, num_processes, rows)) for index in ends)
    if train.sharded and most != fewest:
        raise ConfigError(
            f"train.batch_size: {train.batch_size} rows for {num_processes} processes, with"
            f" train.micro_batch_size={rows}, are {most} micro-batches in some and {fewest} in others, for which"
            f" train.sharded would wait forever; use a multiple of {num_processes}"
        )


def validate_dataset(config: Pretrain, dataset: Any) -> None:
    """Raise ConfigError if one step needs more rows than the training set has; log the warning of the set, if any."""
    if config.train.batch_size > len(dataset):
        raise ConfigError(
            f"train.batch_size: {config.train.batch_size} is more than the {len(dataset)} rows of the training set;"
            " use a smaller batch, a smaller max_length, or more text"
        )
    if warning := dataset.warning():
        logger.info(f"  {warning}")
