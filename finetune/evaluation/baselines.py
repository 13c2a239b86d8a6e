"""Baselines on the same labels and test rows: TF-IDF + a linear model, and the same network without our pretraining."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from data.encoders import original_init, read_record, resolve_encoder
from data.tasks.task import Example
from engine.errors import DataError
from finetune.evaluation import metrics
from finetune.evaluation.postprocess import postprocess

TFIDF_C_VALUES = (0.1, 1.0, 10.0, 100.0)
DEFAULT_C = 10.0  # when there is no validation set
BASELINE_NAMES = {
    "single_label_classification": "TF-IDF + logistic regression",
    "multi_label_classification": "TF-IDF + one logistic regression a label",
    "regression": "TF-IDF + ridge regression",
}
"""Name of the linear model, by problem type."""


def measure_baselines(
    head_file: ModuleType,
    folder: Path,
    splits: dict[str, list[Example]],
    label_names: list[str],
    train_reference: Callable[[Path, str, bool], dict],
) -> dict[str, dict]:
    """Return the name and metrics of each baseline.

    train_reference: fine-tune (encoder folder, title, whether to use random weights) and return the metrics.
    """
    results = {}
    if head_file.PROBLEM_TYPE in BASELINE_NAMES:
        results["tfidf"] = tfidf_baseline(splits, label_names, head_file)
    if head_file.PROBLEM_TYPE == "token_classification":
        results["majority_tag"] = majority_tag_baseline(splits)
    try:
        reference, random_init, name = reference_encoder(folder)
        results["without_pretraining"] = {"name": name, **train_reference(reference, f"  {name}", random_init)}
    except DataError as error:
        results["without_pretraining"] = {"name": f"not measured: {error}"}
    return results


def reference_encoder(folder: Path) -> tuple[Path, bool, str]:
    """Return (folder, whether to use random weights, name) of the same network without our pretraining."""
    if init := original_init(read_record(folder)):
        return resolve_encoder(init), False, f"{init}, the same network without our pretraining"
    return folder, True, "the same network from random weights"


def fit_tfidf_vectorizer(texts: list[str]) -> TfidfVectorizer:
    """Fit TF-IDF of words and word pairs; if no text has a word of two letters, of whitespace-separated tokens."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    if not any(map(re.compile(vectorizer.token_pattern).search, texts)):
        vectorizer.set_params(token_pattern=r"\S+")
    return vectorizer.fit(texts)


def fit_linear_model(problem_type: str, c: float, vectors, labels: np.ndarray, label_names: list[str]) -> Callable:
    """Return a function from vectors to predictions, as a head of the problem type makes them."""
    if problem_type == "regression":
        return Ridge(alpha=1 / c).fit(vectors, labels).predict
    if problem_type == "single_label_classification":
        model = LogisticRegression(C=c, max_iter=1_000).fit(vectors, labels)

        def predict_proba(rows) -> np.ndarray:
            probabilities = np.zeros((rows.shape[0], len(label_names)))
            probabilities[:, model.classes_] = model.predict_proba(rows)
            return probabilities

        return predict_proba
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about labels that no text has, or every text
        binary = LogisticRegression(C=c, max_iter=1_000, class_weight="balanced")
        model = OneVsRestClassifier(binary).fit(vectors, labels)
    return lambda rows: model.predict_proba(rows)[:, -len(label_names) :]  # two columns, no and yes, for a single label


def tfidf_baseline(splits: dict[str, list[Example]], label_names: list[str], head_file: ModuleType) -> dict:
    """Return the name and the metrics by split of TF-IDF + a linear model.

    C and the head's postprocessing are fitted on the validation set; without one, C is DEFAULT_C.
    """
    validate = "validation" in splits
    texts = {split: ["\n".join(example.texts) for example in examples] for split, examples in splits.items()}
    labels = {split: head_file.encode_labels(examples, label_names) for split, examples in splits.items()}
    vectorizer = fit_tfidf_vectorizer(texts["train"])
    vectors = {split: vectorizer.transform(texts[split]) for split in texts}
    results = []
    for c in TFIDF_C_VALUES if validate else (DEFAULT_C,):
        predict = fit_linear_model(head_file.PROBLEM_TYPE, c, vectors["train"], labels["train"], label_names)
        predictions = {split: predict(vectors[split]) for split in texts if split != "train"}
        results.append(postprocess(head_file, None, predictions, labels, label_names, validate).metrics)
    best = max(results, key=lambda result: result["validation"][head_file.METRIC_FOR_BEST]) if validate else results[0]
    return {"name": BASELINE_NAMES[head_file.PROBLEM_TYPE], **best}


def majority_tag_baseline(splits: dict[str, list[Example]]) -> dict:
    """Return the name and the metrics by split of each word's most frequent training tag, O for an unseen word."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for example in splits["train"]:
        for word, tag in zip(example.texts[0].split(" "), example.label, strict=False):
            counts[word][tag] += 1
    majority = {word: max(sorted(tags), key=tags.get) for word, tags in counts.items()}
    results = {
        split: metrics.entity_metrics(
            [[majority.get(word, "O") for word in example.texts[0].split(" ")] for example in splits[split]],
            [list(example.label) for example in splits[split]],
        )
        for split in ("test", "validation")
        if split in splits
    }
    return {"name": "the most frequent tag of each word", **results}
