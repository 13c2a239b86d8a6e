"""What a network says of texts, from its numbers to what a person would be told, and how often that is right."""

from __future__ import annotations

import numpy as np


def words_at(encoded, text: str) -> list[int | None]:
    """The first token of each word of a text, a space between any two; None of one that has none, or was cut off."""
    starts = [0, *(place + 1 for place, letter in enumerate(text) if letter == " ")]
    return [encoded.char_to_token(start) for start in starts]


def answers(says: str, said: list[np.ndarray], config: dict, words: list[list[int | None]]) -> list:
    """What is told of each text: a label; a set of labels; a number; a tag for each word; the vector itself.

    said: of each text, (labels,) or (tokens, tags) or (width,); words: of tags, what `words_at` gives for each text.
    """
    if says == "vectors":
        return list(said)
    names = [name for _, name in sorted(config["id2label"].items(), key=lambda each: int(each[0]))]
    if says == "class":
        return [names[int(logits.argmax())] for logits in said]
    if says == "labels":
        least = np.array([config.get("thresholds", {}).get(name, 0.5) for name in names])
        return [frozenset(np.array(names)[1 / (1 + np.exp(-logits)) >= least].tolist()) for logits in said]
    if says == "number":
        return [float(logits[0]) for logits in said]
    return [tuple("O" if at is None else names[int(logits[at].argmax())] for at in places)
            for logits, places in zip(said, words)]


FIGURES = {"class": "accuracy", "labels": "micro F1", "number": "Spearman", "tags": "entity F1"}


def figure(says: str, told: list, labels: list) -> float:
    """That one of FIGURES, of what is told against the labels of test.json."""
    if says == "class":
        return float(np.mean([one == label for one, label in zip(told, labels)]))
    if says == "labels":
        right, all_said = sum(len(one & set(label)) for one, label in zip(told, labels)), sum(map(len, told))
        return 2 * right / max(1, all_said + sum(map(len, labels)))
    if says == "number":
        from scipy.stats import spearmanr
        return float(spearmanr(told, labels).statistic)
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2
    return float(f1_score([list(label) for label in labels], [list(one) for one in told], mode="strict", scheme=IOB2,
                          zero_division=0))


def same(says: str, one: list, other: list) -> float | None:
    """Share of the texts of which two networks tell the same; of vectors their mean cosine; None of numbers."""
    if says == "number":
        return None
    if says == "vectors":
        first, second = np.array(one), np.array(other)
        return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).mean())
    return float(np.mean([each == another for each, another in zip(one, other)]))
