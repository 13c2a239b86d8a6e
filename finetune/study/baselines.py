"""The linear references: logistic regression on word counts, and on the encoder's frozen mean-pooled vectors.

How strongly they are held back is chosen by cross-validation on the training labels alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel

from data.encoders import LOAD_KWARGS
from data.tasks.task import Example
from engine.errors import DataError
from finetune.dataset import tokenize_examples
from finetune.evaluation.baselines import TFIDF_C_VALUES, fit_tfidf_vectorizer

FROZEN_C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse regularisation, on coordinates of variance 1
FOLDS = 5
BATCH_SIZE = 64
FeatureExtractor = Callable[[np.ndarray | list[str], np.ndarray | list[str]], tuple]
"""(learned from, others) to the numbers of each."""


def predict_logistic(
    train, labels: np.ndarray, test, extract_features: FeatureExtractor, c_values: tuple[float, ...]
) -> np.ndarray:
    """Class ids int (tests,) of logistic regression on the features of texts or vectors."""

    def fit(numbers, classes: np.ndarray, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1_000).fit(numbers, classes)

    folds, right = min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min())), np.zeros(len(c_values))
    if folds > 1:
        for learned, left_out in StratifiedKFold(folds).split(labels, labels):
            numbers, others = extract_features(select_rows(train, learned), select_rows(train, left_out))
            right += [
                (fit(numbers, labels[learned], strength).predict(others) == labels[left_out]).sum()
                for strength in c_values
            ]
    else:
        right[len(c_values) // 2] = 1  # a class of a single label leaves nothing to validate on
    numbers, others = extract_features(train, test)
    return fit(numbers, labels, c_values[int(right.argmax())]).predict(others)


def select_rows(rows, indices: np.ndarray):
    """Some of the rows."""
    return rows[indices] if isinstance(rows, np.ndarray) else [rows[place] for place in indices]


def predict_tfidf(train: list[Example], labels: np.ndarray, test: list[Example]) -> np.ndarray:
    """Class ids (tests,) by TF-IDF of words and word pairs."""

    def features(learned: list[str], others: list[str]) -> tuple:
        vectorizer = fit_tfidf_vectorizer(learned)
        return vectorizer.transform(learned), vectorizer.transform(others)

    texts = [["\n".join(example.texts) for example in examples] for examples in (train, test)]
    return predict_logistic(texts[0], labels, texts[1], features, TFIDF_C_VALUES)


def predict_linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Class ids (tests,) by vectors, float (texts, width)."""

    def features(learned: np.ndarray, others: np.ndarray) -> tuple:
        scaler = StandardScaler().fit(learned)
        return scaler.transform(learned), scaler.transform(others)

    return predict_logistic(train, labels, test, features, FROZEN_C_VALUES)


class FrozenEncoder:
    """The encoder as it is: a text's vector is the mean of its tokens' last states."""

    def __init__(self, folder: Path, max_length: int, device: torch.device):
        try:
            self.model = (
                AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **LOAD_KWARGS)
                .to(device)
                .eval()
            )
        except Exception as error:
            raise DataError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from None
        self.folder, self.max_length, self.device = folder, max_length, device

    @torch.no_grad()
    def __call__(self, examples: list[Example]) -> np.ndarray:
        """float32 (texts, width), in the order of the examples."""
        texts = tokenize_examples(examples, self.folder, self.max_length, "study")
        ordered, found = np.argsort(texts.lengths, kind="stable"), None
        for at in range(0, len(ordered), BATCH_SIZE):
            places = ordered[at : at + BATCH_SIZE]
            inputs = {name: tensor.to(self.device) for name, tensor in texts.get_inputs(places).items()}
            mask = inputs["attention_mask"][..., None]
            states = self.model(**inputs).last_hidden_state * mask
            means = (states.sum(1) / mask.sum(1)).float().cpu().numpy()
            found = np.empty((len(ordered), means.shape[1]), np.float32) if found is None else found
            found[places] = means
        return found
