"""What a network says of texts, from its numbers to what a person would be told, and how often that is right."""

from __future__ import annotations

import numpy as np


def word_start_tokens(encoding, text: str) -> list[int | None]:
    """The first token of each word of a text, a space between any two; None of one that has none, or was cut off."""
    starts = [0, *(place + 1 for place, letter in enumerate(text) if letter == " ")]
    return [encoding.char_to_token(start) for start in starts]


def decode_outputs(
    problem_type: str, outputs: list[np.ndarray], config: dict, word_starts: list[list[int | None]]
) -> list:
    """What is told of each text: a label; a set of labels; a number; a tag for each word; the vector itself.

    outputs: of each text, (labels,) or (tokens, tags) or (width,); word_starts: of tags, what `word_start_tokens` gives for each text.
    """
    if problem_type == "embedding":
        return list(outputs)
    names = [name for _, name in sorted(config["id2label"].items(), key=lambda each: int(each[0]))]
    if problem_type == "single_label_classification":
        return [names[int(logits.argmax())] for logits in outputs]
    if problem_type == "multi_label_classification":
        least = np.array([config.get("thresholds", {}).get(name, 0.5) for name in names])
        return [frozenset(np.array(names)[1 / (1 + np.exp(-logits)) >= least].tolist()) for logits in outputs]
    if problem_type == "regression":
        return [float(logits[0]) for logits in outputs]
    return [
        tuple("O" if at is None else names[int(logits[at].argmax())] for at in places)
        for logits, places in zip(outputs, word_starts)
    ]


METRIC_NAMES = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "micro F1",
    "regression": "Spearman",
    "token_classification": "entity F1",
}


def compute_metric(problem_type: str, predictions: list, labels: list) -> float:
    """That one of FIGURES, of what is told against the labels of test.json."""
    if problem_type == "single_label_classification":
        return float(np.mean([one == label for one, label in zip(predictions, labels)]))
    if problem_type == "multi_label_classification":
        right, all_said = (
            sum(len(one & set(label)) for one, label in zip(predictions, labels)),
            sum(map(len, predictions)),
        )
        return 2 * right / max(1, all_said + sum(map(len, labels)))
    if problem_type == "regression":
        from scipy.stats import spearmanr

        return float(spearmanr(predictions, labels).statistic)
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    return float(
        f1_score(
            [list(label) for label in labels],
            [list(one) for one in predictions],
            mode="strict",
            scheme=IOB2,
            zero_division=0,
        )
    )


def agreement(problem_type: str, predictions: list, reference: list) -> float | None:
    """Share of the texts of which two networks tell the same; of vectors their mean cosine; None of numbers."""
    if problem_type == "regression":
        return None
    if problem_type == "embedding":
        first, second = np.array(predictions), np.array(reference)
        return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).mean())
    return float(np.mean([each == another for each, another in zip(predictions, reference)]))
