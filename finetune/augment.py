"""Augmentation of a training text by dropping tokens and swapping spans (Wei and Zou 2019)."""

import numpy as np


def augment_tokens(
    is_special: np.ndarray, generator: np.random.Generator, drop: float = 0.0, swap: float = 0.0, max_span: int = 4
) -> np.ndarray:
    """Return the indices of the tokens to keep, int64, in their new order; the settings are those of `augment`.

    is_special: bool (length,), tokens that stay in place: those the tokenizer adds around texts. At least one of the
    others is kept. Spans are swapped only between two special tokens, so that a pair of texts stays a pair.
    """
    order = np.arange(len(is_special))
    if generator.random() < swap:
        bounds = np.flatnonzero(np.concatenate([[True], is_special, [True]]))
        segments = [(a, b) for a, b in zip(bounds[:-1], bounds[1:] - 1, strict=True) if b - a >= 2]
        if segments:
            start, end = segments[generator.integers(len(segments))]
            size = int(generator.integers(1, min(max_span, (end - start) // 2) + 1))
            first, second = np.sort(generator.choice(end - start - 2 * size + 1, 2)) + start
            first, second = first + np.arange(size), second + size + np.arange(size)
            order[first], order[second] = second, first
    keep = is_special | (generator.random(len(is_special)) >= drop)
    if not is_special.all() and not (keep & ~is_special).any():
        keep[generator.choice(np.flatnonzero(~is_special))] = True
    return order[keep[order]]
