"""What the figures are held against: a linear model on word counts, with the same labels and the same test rows."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from types import ModuleType

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from data.tasks.task import Example
from finetune.evaluation import metrics
from finetune.evaluation.postprocess import postprocess

TFIDF_C_VALUES = (0.1, 1.0, 10.0, 100.0)
DEFAULT_C = 10.0  # the strength where there are no validation rows to choose it on
BASELINE_NAMES = {
    "single_label_classification": "TF-IDF + logistic regression",
    "multi_label_classification": "TF-IDF + one logistic regression a label",
    "regression": "TF-IDF + ridge regression",
}
"""Of the linear model of each kind of label that has one."""


def fit_tfidf_vectorizer(texts: list[str]) -> TfidfVectorizer:
    """TF-IDF of the words of these texts and their pairs; where no text has a word of two letters, of what spaces part."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    if not any(map(re.compile(vectorizer.token_pattern).search, texts)):
        vectorizer.set_params(token_pattern=r"\S+")
    return vectorizer.fit(texts)


def fit_linear_model(problem_type: str, C: float, vectors, labels: np.ndarray, label_names: list[str]):
    """A function from vectors to what a head of that kind would say of them."""
    if problem_type == "regression":
        return Ridge(alpha=1 / C).fit(vectors, labels).predict
    if problem_type == "single_label_classification":
        model = LogisticRegression(C=C, max_iter=1_000).fit(vectors, labels)

        def probabilities(some) -> np.ndarray:
            found = np.zeros((some.shape[0], len(label_names)))
            found[:, model.classes_] = model.predict_proba(some)
            return found

        return probabilities
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a label that no text, or every one, has: it is said always or never
        model = OneVsRestClassifier(LogisticRegression(C=C, max_iter=1_000, class_weight="balanced")).fit(
            vectors, labels
        )
    return lambda some: model.predict_proba(some)[:, -len(label_names) :]  # of a single label it gives no and yes


def tfidf_baseline(splits: dict[str, list[Example]], label_names: list[str], head_file: ModuleType) -> dict:
    """TF-IDF of words and word pairs + a linear model, its strength chosen on validation: its name, and figures by split.

    What the head tunes on the validation rows is tuned here too. Without such rows the strength is UNTOLD.
    """
    validate = "validation" in splits
    texts = {split: ["\n".join(example.texts) for example in examples] for split, examples in splits.items()}
    truth = {split: head_file.encode_labels(examples, label_names) for split, examples in splits.items()}
    vectorizer = fit_tfidf_vectorizer(texts["train"])
    vectors = {split: vectorizer.transform(texts[split]) for split in texts}
    figures = []
    for strength in TFIDF_C_VALUES if validate else (DEFAULT_C,):
        say = fit_linear_model(head_file.PROBLEM_TYPE, strength, vectors["train"], truth["train"], label_names)
        predicted = {split: say(vectors[split]) for split in texts if split != "train"}
        figures.append(postprocess(head_file, None, predicted, truth, label_names, validate).metrics)
    best = max(figures, key=lambda each: each["validation"][head_file.METRIC_FOR_BEST]) if validate else figures[0]
    return {"name": BASELINE_NAMES[head_file.PROBLEM_TYPE], **best}


def majority_tag_baseline(splits: dict[str, list[Example]]) -> dict:
    """Each word with the tag it has most often in training, O for one not met there: the name, and figures by split."""
    seen: dict[str, Counter] = defaultdict(Counter)
    for example in splits["train"]:
        for word, tag in zip(example.texts[0].split(" "), example.label):
            seen[word][tag] += 1
    commonest = {word: max(sorted(tags), key=tags.get) for word, tags in seen.items()}
    return {"name": "the commonest tag of each word"} | {
        split: metrics.entity_metrics(
            [[commonest.get(word, "O") for word in example.texts[0].split(" ")] for example in splits[split]],
            [list(example.label) for example in splits[split]],
        )
        for split in ("test", "validation")
        if split in splits
    }
