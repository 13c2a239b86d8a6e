"""Classifiers of transformers with two small layers and random weights, and real texts."""

from __future__ import annotations

import csv

import pytest

AUTO_CLASSES = {
    "single": "BertForSequenceClassification",
    "multi": "BertForSequenceClassification",
    "number": "BertForSequenceClassification",
    "words": "BertForTokenClassification",
}
LABELS = {
    "single": ["bad", "fair", "good"],
    "multi": ["long", "short", "odd, or not"],
    "number": ["score"],
    "words": ["O", "B-person", "I-person", "B-place", "I-place"],
}
PROBLEM_TYPES = {"single": None, "multi": "multi_label_classification", "number": "regression", "words": None}


@pytest.fixture(scope="session")
def classifiers(tiny, tmp_path_factory):
    """Return the folder of a classifier for each kind of label, as a hub has them, without a record."""
    import torch
    import transformers
    from tiny_models import SMALL
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    folders = {}
    for kind, name in AUTO_CLASSES.items():
        torch.manual_seed(1)
        names = LABELS[kind]
        settings = {"num_labels": len(names), "id2label": dict(enumerate(names)), "problem_type": PROBLEM_TYPES[kind]}
        settings["label2id"] = {label: index for index, label in enumerate(names)}
        model = getattr(transformers, name)(
            transformers.BertConfig(**SMALL | {"vocab_size": len(tokenizer), "initializer_range": 0.5}, **settings)
        )
        torch.nn.init.normal_(model.classifier.weight, std=1.0)
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folders[kind])
        tokenizer.save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="session")
def texts(sentiment_files) -> list[str]:
    with open(sentiment_files / "labels.csv", encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]
