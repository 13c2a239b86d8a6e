"""Which rows: split off by a hash of the text, and a few of them taken by seed, every class or label among them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Literal, NamedTuple

import numpy as np

from engine.errors import ConfigError


class Example(NamedTuple):
    """One labelled row."""

    texts: tuple[str, ...]
    """One text, or the two of a pair, or more."""
    label: str | tuple[str, ...] | float
    """The class's name; or the names of all labels; or a number."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes or labels in it, each once; a number has none."""
        if isinstance(self.label, str):
            return (self.label,)
        return tuple(dict.fromkeys(self.label)) if isinstance(self.label, tuple) else ()


def normalize(texts: tuple[str, ...]) -> str:
    """A text as compared: white space and case aside."""
    return "\0".join(" ".join(text.split()).casefold() for text in texts)


def hash_text(texts: tuple[str, ...]) -> str:
    """What splits are decided by: it follows the text alone, not its place in the file."""
    return hashlib.sha256(normalize(texts).encode("utf-8", "replace")).hexdigest()


def split_off(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(split off, the rest): within each class, the share whose text's hash is smallest.

    Rows that are no single class are taken all together; one that would leave a label without a row stays in the rest.
    """
    if examples and not isinstance(examples[0].label, str):
        return split_off_unstratified(examples, fraction)
    by_label = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    off, rest = [], []
    for label in sorted(by_label):
        ordered = sorted(by_label[label], key=lambda example: hash_text(example.texts))
        count = round(fraction * len(ordered))
        off += ordered[:count]
        rest += ordered[count:]
    return off, rest


def split_off_unstratified(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """`split_off` of rows that have several labels each, or a number."""
    left, off, rest = Counter(name for example in examples for name in example.label_names), [], []
    for example in sorted(examples, key=lambda example: (hash_text(example.texts), example.label)):
        if len(off) < round(fraction * len(examples)) and all(left[name] > 1 for name in example.label_names):
            off.append(example)
            left.subtract(example.label_names)
        else:
            rest.append(example)
    return off, rest


def subtract(examples: list[Example], others: list[Example]) -> list[Example]:
    """The examples that are left when each of the others, by its text, has been taken away once."""
    away = Counter(normalize(example.texts) for example in others)
    left = []
    for example in examples:
        if away[normalize(example.texts)]:
            away[normalize(example.texts)] -= 1
        else:
            left.append(example)
    return left


def sample_examples(
    examples: list[Example], count: int | Literal["all"], seed: int, per_class: int | None = None
) -> list[Example]:
    """`count` examples, each class in proportion, or `per_class` of each; by seed; fewer are always among more.

    Of rows with several labels or a number any are drawn, but first those that bring a label not drawn before. Raises
    ConfigError.
    """
    if count == "all" and per_class is None:
        return examples
    classes = isinstance(examples[0].label, str)
    if per_class and not classes:
        raise ConfigError(
            f"task.shots={per_class}: these rows have no single class each; give task.num_examples instead"
        )
    by_label = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    if per_class is None and count > len(examples):
        raise ConfigError(
            f"task.num_examples={count}: there are {len(examples)} training rows; give a smaller number or all"
        )
    if not classes:
        return sample_unstratified(examples, count, seed)
    if per_class is None and count < len(by_label):
        raise ConfigError(
            f"task.num_examples={count}: fewer than the {len(by_label)} classes; give {len(by_label)} or more"
        )
    ranked = []
    for index, label in enumerate(sorted(by_label)):
        own = by_label[label]
        order = np.random.Generator(np.random.Philox(key=[seed, index])).permutation(len(own))
        # In the order of the draw: the same rows first as `count` would take.
        order = order[:per_class] if per_class else order
        # One of each class first, then the rest in proportion (Webster's method: unlike the largest remainder, it never
        # takes fewer of a class when more are taken in all).
        ranked += [
            (rank > 0, (rank - 0.5) / max(1, len(own) - 1), index, own[place]) for rank, place in enumerate(order)
        ]
    chosen = ranked if per_class else sorted(ranked, key=lambda entry: entry[:3])[:count]
    return [example for *_, example in sorted(chosen, key=lambda entry: (entry[2], *entry[:2]))]


def sample_unstratified(examples: list[Example], num_examples: int, seed: int) -> list[Example]:
    """`sample_examples` of rows that have several labels each, or a number."""
    first, later, seen = [], [], set()
    for place in np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(examples)):
        (later if seen.issuperset(examples[place].names) else first).append(examples[place])
        seen.update(examples[place].names)
    return (first + later)[:num_examples]
