"""The test rows that a classifier is most certainly wrong about, for a run's report, which is not published."""

import numpy as np

from data.tasks.task import Example
from finetune.modalities import Modality

MAX_MISTAKES = 24


def describe_mistakes(
    modality: Modality, examples: list[Example], predictions: list[np.ndarray], label_names: list[str]
) -> list[dict]:
    """Return {"prediction", "label", "confidence"} and "text" or "image", the most confident mistakes first.

    predictions: class probabilities of the examples. Empty for other problem types than one class per input.
    """
    if not modality.problem_type.has_single_class:
        return []
    labels, probabilities = modality.problem_type.encode_labels(examples, label_names), np.asarray(predictions)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES].tolist()
    shown = modality.show([examples[index] for index in wrong]) if wrong else []
    return [
        {
            "prediction": label_names[predicted[index]],
            "label": label_names[labels[index]],
            "confidence": float(confidence[index]),
            **content,
        }
        for index, content in zip(wrong, shown, strict=True)
    ]
