"""Predictions from a model's raw outputs, and the metric of predictions against labels."""

import numpy as np

METRIC_NAMES = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "micro F1",
    "regression": "Spearman",
    "token_classification": "entity F1",
}


def word_start_tokens(encoding, text: str) -> list[int | None]:
    """Return the first token of each word of a space-separated text; None for a word without one, or truncated."""
    starts = [0, *(position + 1 for position, character in enumerate(text) if character == " ")]
    return [encoding.char_to_token(start) for start in starts]


def decode_outputs(
    problem_type: str, outputs: list[np.ndarray], config: dict, word_starts: list[list[int | None]]
) -> list:
    """Return the prediction for each text: a label, a set of labels, a number, a tag for each word, or the embedding.

    outputs: for each text (labels,), (tokens, tags) or (width,). word_starts: for tags, by `word_start_tokens`.
    """
    if problem_type == "embedding":
        return list(outputs)
    names = [name for _, name in sorted(config["id2label"].items(), key=lambda item: int(item[0]))]
    if problem_type == "single_label_classification":
        return [names[int(logits.argmax())] for logits in outputs]
    if problem_type == "multi_label_classification":
        thresholds = np.array([config.get("thresholds", {}).get(name, 0.5) for name in names])
        return [frozenset(np.array(names)[1 / (1 + np.exp(-logits)) >= thresholds].tolist()) for logits in outputs]
    if problem_type == "regression":
        return [float(logits[0]) for logits in outputs]
    return [
        tuple("O" if token is None else names[int(logits[token].argmax())] for token in tokens)
        for logits, tokens in zip(outputs, word_starts, strict=True)
    ]


def compute_metric(problem_type: str, predictions: list, labels: list) -> float:
    """Compute the metric that METRIC_NAMES gives."""
    if problem_type == "single_label_classification":
        return float(np.mean([prediction == label for prediction, label in zip(predictions, labels, strict=True)]))
    if problem_type == "multi_label_classification":
        correct = sum(len(prediction & set(label)) for prediction, label in zip(predictions, labels, strict=True))
        return 2 * correct / max(1, sum(map(len, predictions)) + sum(map(len, labels)))
    if problem_type == "regression":
        from scipy.stats import spearmanr

        return float(spearmanr(predictions, labels).statistic)
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2

    references, hypotheses = list(map(list, labels)), list(map(list, predictions))
    return float(f1_score(references, hypotheses, mode="strict", scheme=IOB2, zero_division=0))


def agreement(problem_type: str, predictions: list, reference: list) -> float | None:
    """Compute the fraction of equal predictions; for embeddings, their mean cosine; for numbers, None."""
    if problem_type == "regression":
        return None
    if problem_type == "embedding":
        first, second = np.array(predictions), np.array(reference)
        return float(((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).mean())
    return float(np.mean([one == other for one, other in zip(predictions, reference, strict=True)]))
