"""What the figures are held against: a linear model on word counts, with the same labels and the same test rows."""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from data.labelled import Example
from finetune import metrics

STRENGTHS = (0.1, 1.0, 10.0, 100.0)


def tfidf(splits: dict[str, list[Example]], labels: list[str]) -> dict[str, dict[str, float]]:
    """TF-IDF of words and word pairs + logistic regression, its strength chosen on validation: figures by split."""
    number = {label: index for index, label in enumerate(labels)}
    texts = {split: ["\n".join(example.texts) for example in examples] for split, examples in splits.items()}
    truth = {split: np.array([number[example.label] for example in examples]) for split, examples in splits.items()}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    vectors = {"train": vectorizer.fit_transform(texts["train"])}
    vectors |= {split: vectorizer.transform(texts[split]) for split in ("validation", "test")}
    fitted = [LogisticRegression(C=strength, max_iter=1_000).fit(vectors["train"], truth["train"])
              for strength in STRENGTHS]
    best = max(fitted, key=lambda model: model.score(vectors["validation"], truth["validation"]))
    return {split: metrics.classification(best.predict(vectors[split]), truth[split])
            for split in ("validation", "test")}
