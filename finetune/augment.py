"""Other versions of a text: tokens left out, stretches that change places (Wei and Zou 2019). Nothing is downloaded."""

from __future__ import annotations

import numpy as np

from finetune.config import Augment


def varied(special: np.ndarray, config: Augment, generator: np.random.Generator) -> np.ndarray:
    """Which tokens of a text are shown, in what order: int64, numbers of its tokens.

    special: bool (length,), the tokens that stay where they are: those the tokenizer puts around texts. One of the others,
    where there are any, is always left. Stretches change places within what lies between two special tokens, so that a
    pair of texts stays one.
    """
    order = np.arange(len(special))
    if generator.random() < config.swap:
        bounds = np.flatnonzero(np.concatenate([[True], special, [True]]))
        rooms = [(start, end) for start, end in zip(bounds[:-1], bounds[1:] - 1) if end - start >= 2]
        if rooms:
            start, end = rooms[generator.integers(len(rooms))]
            size = int(generator.integers(1, min(config.longest, (end - start) // 2) + 1))
            first, second = np.sort(generator.choice(end - start - 2 * size + 1, 2)) + start
            second += size
            order[first:first + size], order[second:second + size] = (np.arange(second, second + size),
                                                                      np.arange(first, first + size))
    kept = special | (generator.random(len(special)) >= config.drop)
    if not special.all() and not (kept & ~special).any():
        kept[generator.choice(np.flatnonzero(~special))] = True
    return order[kept[order]]
