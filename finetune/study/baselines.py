"""Linear baselines: logistic regression on TF-IDF features and on frozen mean-pooled embeddings.

The regularization strength is chosen by cross-validation on the training labels alone.
"""

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

FROZEN_C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse regularization, for features of variance 1
NUM_FOLDS, BATCH_SIZE = 5, 64
FeatureExtractor = Callable[[np.ndarray | list[str], np.ndarray | list[str]], tuple]
"""Maps (training rows, other rows) to the features of both, fitted on the training rows."""


def predict_logistic(
    train, labels: np.ndarray, test, extract_features: FeatureExtractor, c_values: tuple[float, ...]
) -> np.ndarray:
    """Predict class ids int (tests,) by logistic regression on features of texts or vectors."""

    def fit(features, classes: np.ndarray, c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1_000).fit(features, classes)

    num_folds = min(NUM_FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    correct = np.zeros(len(c_values))
    if num_folds > 1:
        for fold, rest in StratifiedKFold(num_folds).split(labels, labels):
            features, others = extract_features(select_rows(train, fold), select_rows(train, rest))
            correct += [(fit(features, labels[fold], c).predict(others) == labels[rest]).sum() for c in c_values]
    else:
        correct[len(c_values) // 2] = 1  # a class with one label cannot be cross-validated
    features, others = extract_features(train, test)
    return fit(features, labels, c_values[int(correct.argmax())]).predict(others)


def select_rows(rows, indices: np.ndarray):
    """Return the rows at these indices."""
    return rows[indices] if isinstance(rows, np.ndarray) else [rows[index] for index in indices]


def predict_tfidf(train: list[Example], labels: np.ndarray, test: list[Example]) -> np.ndarray:
    """Predict class ids (tests,) from TF-IDF of words and word pairs."""

    def extract_features(learned: list[str], others: list[str]) -> tuple:
        vectorizer = fit_tfidf_vectorizer(learned)
        return vectorizer.transform(learned), vectorizer.transform(others)

    train, test = (["\n".join(example.texts) for example in examples] for examples in (train, test))
    return predict_logistic(train, labels, test, extract_features, TFIDF_C_VALUES)


def predict_linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predict class ids (tests,) from embeddings, float (texts, width)."""

    def extract_features(learned: np.ndarray, others: np.ndarray) -> tuple:
        scaler = StandardScaler().fit(learned)
        return scaler.transform(learned), scaler.transform(others)

    return predict_logistic(train, labels, test, extract_features, FROZEN_C_VALUES)


class FrozenEncoder:
    """The encoder without fine-tuning; a text's embedding is the mean of its tokens' last hidden states."""

    def __init__(self, folder: Path, max_length: int, device: torch.device):
        try:
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **LOAD_KWARGS)
            self.model = model.to(device).eval()
        except Exception as error:
            raise DataError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from None
        self.folder, self.max_length, self.device = folder, max_length, device

    @torch.no_grad()
    def __call__(self, examples: list[Example]) -> np.ndarray:
        """Return embeddings float32 (texts, width), in the order of the examples."""
        texts = tokenize_examples(examples, self.folder, self.max_length, "study")
        order, embeddings = np.argsort(texts.lengths, kind="stable"), []
        for start in range(0, len(order), BATCH_SIZE):
            inputs = texts.get_inputs(order[start : start + BATCH_SIZE])
            inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
            mask = inputs["attention_mask"][..., None]
            states = self.model(**inputs).last_hidden_state * mask
            embeddings.append((states.sum(1) / mask.sum(1)).float().cpu().numpy())
        return np.concatenate(embeddings)[np.argsort(order)]
