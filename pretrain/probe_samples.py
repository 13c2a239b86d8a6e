"""Random samples of a task's training rows, for the probes of an encoder."""

from data.tasks.task import Example, sample_examples
from engine.errors import ConfigError


def draw_samples(train: list[Example], counts: list[int], seeds: int, key: str) -> dict[int, list[list[int]]]:
    """Return, for each number of rows, the indices in `train` of a sample per seed.

    Raises ConfigError, which names `key` of the configuration, if there are too few rows.
    """
    position = {id(row): index for index, row in enumerate(train)}
    try:
        return {
            count: [[position[id(row)] for row in sample_examples(train, count, seed)] for seed in range(seeds)]
            for count in counts
        }
    except ConfigError as error:
        raise ConfigError(str(error).replace("task.num_examples", key, 1)) from None
