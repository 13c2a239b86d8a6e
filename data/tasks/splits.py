"""Labeled examples, and their deterministic splits (by a hash of the text) and samples (by seed)."""

import hashlib
from collections import Counter, defaultdict
from typing import Literal, NamedTuple

from engine.errors import ConfigError

MIN_SPLIT_ROWS = 4  # of classes too small to split off a row of each


class Example(NamedTuple):
    """One labeled row."""

    texts: tuple[str, ...]
    """One text, the two texts of a pair, or more."""
    label: str | tuple[str, ...] | float
    """The class, the labels or tags, or the number."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The distinct classes, labels or tags; empty for a number."""
        if isinstance(self.label, str):
            return (self.label,)
        return tuple(dict.fromkeys(self.label)) if isinstance(self.label, tuple) else ()


def join_texts(examples: list[Example]) -> list[str]:
    """Return one text per example."""
    return ["\n".join(example.texts) for example in examples]


def normalize(texts: tuple[str, ...]) -> str:
    """Normalize whitespace and case for comparison."""
    return "\0".join(" ".join(text.split()).casefold() for text in texts)


def hash_text(texts: tuple[str, ...]) -> str:
    """Hash the normalized text, so that splits do not depend on the order of rows."""
    return hashlib.sha256(normalize(texts).encode("utf-8", "replace")).hexdigest()


def split_off(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Return (split off, rest): the examples with the smallest text hashes, stratified if each has a single class.

    Where that is no row of any class, because each has few, rows are split off across classes.
    """
    if examples and not isinstance(examples[0].label, str):
        return split_off_unstratified(examples, fraction)
    by_label = group_by_label(examples)
    off, rest = [], []
    for label in sorted(by_label):
        ordered = sorted(by_label[label], key=lambda example: hash_text(example.texts))
        count = round(fraction * len(ordered))
        off += ordered[:count]
        rest += ordered[count:]
    if not off and round(fraction * len(examples)) >= MIN_SPLIT_ROWS:
        return split_off_unstratified(examples, fraction)
    return off, rest


def group_by_label(examples: list[Example]) -> dict[str, list[Example]]:
    """Group examples by their label."""
    by_label = defaultdict(list)
    for example in examples:
        by_label[example.label].append(example)
    return by_label


def split_off_unstratified(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Split off examples with several labels or a number; one that would leave a label without a row stays."""
    left, off, rest = Counter(name for example in examples for name in example.label_names), [], []
    for example in sorted(examples, key=lambda example: (hash_text(example.texts), example.label)):
        if len(off) < round(fraction * len(examples)) and all(left[name] > 1 for name in example.label_names):
            off.append(example)
            left.subtract(example.label_names)
        else:
            rest.append(example)
    return off, rest


def subtract(examples: list[Example], others: list[Example]) -> list[Example]:
    """Return the examples without those in `others`, compared by text; each of them removes one."""
    counts = Counter(normalize(example.texts) for example in others)
    left = []
    for example in examples:
        text = normalize(example.texts)
        if counts[text]:
            counts[text] -= 1
        else:
            left.append(example)
    return left


def sample_examples(
    examples: list[Example],
    num_examples: int | Literal["all"],
    seed: int,
    shots: int | None = None,
    reserve: list[Example] | None = None,
) -> list[Example]:
    """Sample stratified by class, or `shots` of each; smaller samples are subsets of larger. Raises ConfigError.

    reserve: rows to take after all examples, or all of a class.
    """
    reserve = reserve or []
    if shots is None and num_examples in (0, "all"):
        return examples if num_examples else []
    has_classes = isinstance(examples[0].label, str)
    if shots and not has_classes:
        raise ConfigError(f"task.shots={shots}: rows have no single class each; use task.num_examples")
    error = f"task.num_examples={num_examples}"
    if shots is None and num_examples > len(examples):
        if num_examples > len(examples) + len(reserve):
            raise ConfigError(f"{error}: only {len(examples)} training rows; give a smaller number or all")
        order = permute(len(reserve), seed, 0)
        return examples + [reserve[row] for row in order[: num_examples - len(examples)]]
    if not has_classes:
        return sample_unstratified(examples, num_examples, seed)
    by_label = group_by_label(examples)
    if shots is None and num_examples < len(by_label):
        raise ConfigError(f"{error}: fewer than the {len(by_label)} classes; give {len(by_label)} or more")
    ranked, further = [], group_by_label(reserve) if shots else {}
    for index, label in enumerate(sorted(by_label)):
        rows = by_label[label]
        order = permute(len(rows), seed, index)[:shots]
        if shots and len(rows) < shots:
            order += range(len(rows), len(rows) + len(further.get(label, ())[: shots - len(rows)]))
            rows = rows + further.get(label, [])
        # One example of each class first, then the rest in proportion by Webster's method, which, unlike the largest
        # remainder, never takes fewer of a class when the sample grows.
        ranked += [(rank > 0, (rank - 0.5) / max(1, len(rows) - 1), index, rows[row]) for rank, row in enumerate(order)]
    chosen = ranked if shots else sorted(ranked, key=lambda entry: entry[:3])[:num_examples]
    return [example for *_, example in sorted(chosen, key=lambda entry: (entry[2], *entry[:2]))]


def permute(count: int, seed: int, stream: int) -> list[int]:
    """Return the numbers below `count` in a random order that follows from the seed and the stream."""
    import numpy as np  # the command line reads this file, and numpy takes as long to import as all the rest

    return np.random.Generator(np.random.Philox(key=[seed, stream])).permutation(count).tolist()


def sample_unstratified(examples: list[Example], num_examples: int, seed: int) -> list[Example]:
    """Sample examples with several labels or a number; those with a label not sampled yet come first."""
    first, later, seen = [], [], set()
    for row in permute(len(examples), seed, 0):
        names = examples[row].label_names
        (later if seen.issuperset(names) else first).append(examples[row])
        seen.update(names)
    return (first + later)[:num_examples]
