"""Other versions of a text: tokens left out, stretches that change places (Wei and Zou 2019). Nothing is downloaded."""

from __future__ import annotations

import numpy as np

from finetune.config import Augment


def augment_tokens(is_special: np.ndarray, config: Augment, generator: np.random.Generator) -> np.ndarray:
    """Which tokens of a text are shown, in what order: int64, numbers of its tokens.

    is_special: bool (length,), the tokens that stay where they are: those the tokenizer puts around texts. One of the others,
    where there are any, is always left. Stretches change places within what lies between two special tokens, so that a
    pair of texts stays one.
    """
    order = np.arange(len(is_special))
    if generator.random() < config.swap:
        bounds = np.flatnonzero(np.concatenate([[True], is_special, [True]]))
        rooms = [(start, end) for start, end in zip(bounds[:-1], bounds[1:] - 1) if end - start >= 2]
        if rooms:
            start, end = rooms[generator.integers(len(rooms))]
            size = int(generator.integers(1, min(config.max_span, (end - start) // 2) + 1))
            first, second = np.sort(generator.choice(end - start - 2 * size + 1, 2)) + start
            second += size
            order[first : first + size], order[second : second + size] = (
                np.arange(second, second + size),
                np.arange(first, first + size),
            )
    kept = is_special | (generator.random(len(is_special)) >= config.drop)
    if not is_special.all() and not (kept & ~is_special).any():
        kept[generator.choice(np.flatnonzero(~is_special))] = True
    return order[kept[order]]
