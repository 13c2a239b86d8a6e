"""One prediction: from a model's output to the columns of a row."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.classifier import Classifier
from data.tasks.confidence import fit_thresholds
from data.tasks.problem_types import Decision
from data.tasks.problem_types.anomaly_detection import ANOMALOUS, NORMAL
from data.tasks.problem_types.token_classification import decode_words
from engine.errors import ConfigError
from predict.rows import Item

DIGITS = 4
SMALLEST = 1e-6  # distance of a threshold from 0 and from 1
COLUMNS = ("label", "probability", "score", "p_value", "unsure", "unlike", "why")


@dataclass
class Prediction:
    """What a model predicts for one input."""

    label: Any
    """A class, a list of labels, a number, a list of tags or of spans; None for an empty input."""
    probability: Any = None
    """Of the class; a list, one for each label; of words, the lowest of all tags; None of a number."""
    score: float | None = None
    """How unlike the normal rows the input is, of a detector."""
    p_value: float | None = None
    """Share of normal rows with a score at least as high, of a detector."""
    unsure: bool | None = None
    unlike: bool | None = None
    why: dict | None = None
    """Reasons, as `predict.why` finds them."""
    doubt: float = 0.0
    """From 0, sure, to 1."""
    names: list[str] = field(default_factory=list)
    """Names of what was decided."""
    neighbors: list[int] = field(default_factory=list)
    """Nearest training rows, as numbered in the model's file."""
    outputs: np.ndarray | None = None

    def to_columns(self) -> dict[str, Any]:
        """Return the values by column."""
        return {name: getattr(self, name) for name in COLUMNS}


class Decider:
    """Turns the outputs of a classifier into predictions. Raises ConfigError for a precision it cannot give."""

    def __init__(self, classifier: Classifier, precision: float | None):
        self.classifier, self.problem_type = classifier, classifier.problem_type
        self.thresholds: dict[str, float] | None = None
        if precision is not None:
            if self.problem_type.activation == "none":
                raise ConfigError("precision: for labels; this model predicts numbers")
            if classifier.confidence is None:
                reason = "has no confidence.safetensors, by which a precision is reached; fine-tune it with Headstart"
                raise ConfigError(f"precision: {classifier.folder} {reason}")
            self.thresholds = fit_thresholds(classifier.confidence, precision)

    def list_columns(self) -> list[str]:
        """List the columns that predictions add to a row."""
        if self.problem_type.is_detector:
            return ["label", "score", "p_value"]
        columns = ["label"]
        if self.problem_type.activation != "none":
            columns.append("probability")
        columns += ["unsure"] * (self.thresholds is not None) + ["unlike"] * (self.classifier.novelty is not None)
        return columns

    def decide(self, item: Item, output: np.ndarray) -> Prediction:
        """Return the prediction for an input from what the classifier's `predict` returned."""
        if item.is_empty:
            return Prediction(None)
        if self.problem_type.is_detector:
            return self.judge(float(output[0]), [int(index) for index in output[1:]])
        values, score, neighbors = self.classifier.split_output(output)
        first_tokens = item.first_tokens
        config, names = self.classifier.config, self.classifier.names
        decisions = self.problem_type.list_decisions(values, names, config, first_tokens)
        prediction = Prediction(None, names=[decision.label for decision in decisions], neighbors=neighbors)
        if self.problem_type.labels_words:
            self.fill_words(prediction, decisions, values, first_tokens, item.text)
        elif self.problem_type.activation == "none":
            number = self.problem_type.decode_outputs([values], config)[0]
            # Where the numbers have a scale of their own, six digits may be the same for all of them.
            prediction.label = float(f"{number:.15g}" if "label_scale" in config else f"{number:.6g}")
        elif self.problem_type.has_single_class:
            prediction.label, prediction.probability = decisions[0].label, round(decisions[0].probability, DIGITS)
            prediction.doubt, prediction.outputs = 1 - decisions[0].probability, values
        else:
            prediction.label = [decision.label for decision in decisions]
            prediction.probability = [round(decision.probability, DIGITS) for decision in decisions]
            prediction.doubt = measure_doubt(values, self.problem_type.list_thresholds(config))
        if self.thresholds is not None:
            prediction.unsure = any(
                decision.probability < self.thresholds.get(decision.label, np.inf) for decision in decisions
            )
        if score is not None:
            prediction.unlike = bool(score > self.classifier.novelty.threshold[0])
        return prediction

    def judge(self, score: float, neighbors: list[int]) -> Prediction:
        """Return whether an input is anomalous from its score; the doubt puts the highest scores first."""
        detector = self.classifier.detector
        label = ANOMALOUS if score > detector.threshold[0] else NORMAL
        p_value = round(detector.p_value(score), DIGITS)
        rounded = float(f"{score:.6g}")
        return Prediction(label, None, rounded, p_value, doubt=score, names=[label], neighbors=neighbors)

    def fill_words(
        self,
        prediction: Prediction,
        decisions: list[Decision],
        values: np.ndarray,
        first_tokens: np.ndarray,
        text: object,
    ) -> None:
        """Set the tags of a list of words, or the spans of a text, and the lowest probability of all tags."""
        tags, probabilities = decode_words(values, self.classifier.names, first_tokens)
        lowest = min(probabilities, default=1.0)
        prediction.probability, prediction.doubt = round(lowest, DIGITS), 1 - lowest
        if not isinstance(text, str):
            prediction.label = tags
            return
        places = [match.span() for match in re.finditer(r"\S+", text)]
        prediction.label = []
        for decision in decisions:
            start, end = places[decision.words[0]][0], places[decision.words[1] - 1][1]
            found = {"start": start, "end": end, "label": decision.label, "text": text[start:end]}
            prediction.label.append(found | {"probability": round(decision.probability, DIGITS)})


def measure_doubt(probabilities: np.ndarray, thresholds: np.ndarray) -> float:
    """Return the doubt about the label that is nearest to its threshold: 1 there, and 0 at a probability of 0 or 1.

    probabilities, thresholds: (labels,).
    """
    thresholds = thresholds.clip(SMALLEST, 1 - SMALLEST)
    ways = np.where(probabilities >= thresholds, 1 - thresholds, thresholds)
    return 1 - float((np.abs(probabilities - thresholds) / ways).min())
