"""Reasons for a prediction: the nearest labeled rows, and the words that decided (of images see `predict.pictures`)."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

from data.classifier import Classifier
from data.images.task import ImageTask, find_places
from data.tasks.novelty import hash_inputs
from data.tasks.splits import Example
from data.tasks.task import Task, read_task
from engine.config.loader import validate
from engine.errors import UserError
from engine.html import shorten
from engine.log import warn_once
from engine.runs.run import RUNS_FOLDER
from predict.predictions import Prediction
from predict.rows import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_STEPS = 24  # of the path from the baseline to the text
NUM_WORDS = 5
MAX_TEXT_CHARS = 120
STEP_BATCH = 24


class Explainer:
    """Finds reasons. Nearest rows need the training rows at hand; words need captum."""

    def __init__(self, classifier: Classifier):
        self.classifier = classifier
        self.rows = read_training_rows(classifier)
        problem_type = classifier.problem_type
        is_detector = problem_type.is_detector
        self.has_words = classifier.modality.name == "text" and not problem_type.labels_words and not is_detector
        if self.has_words and not find_spec("captum"):
            warn_once("note: without captum there are no words among the reasons; pip install captum")
            self.has_words = False
        self.tokenizer: PreTrainedTokenizerBase | None = None

    def explain(self, item: Item, prediction: Prediction) -> dict:
        """Return {"nearest": [{"text" or "image", "label"}], "words": [[word, attribution]]}, of what is known."""
        reasons = {}
        if nearest := [self.rows[index] for index in prediction.neighbors if index in self.rows]:
            reasons["nearest"] = nearest
        if self.has_words and not item.is_empty:
            words = self.attribute_words(item.example, prediction)
            reasons["words"] = sorted(words, key=lambda word: -abs(word[1]))[:NUM_WORDS]
        return reasons

    def attribute_words(self, example: Example, prediction: Prediction) -> list[list]:
        """Return [word, attribution] of each word in order: integrated gradients (Sundararajan et al. 2017).

        The attributions are of the logit of the prediction, from a text of padding; they add up to its difference.
        """
        from captum.attr import LayerIntegratedGradients

        from engine.models.load import load_tokenizer

        self.tokenizer = self.tokenizer or load_tokenizer(self.classifier.folder)
        model, tokenizer = self.classifier.model, self.tokenizer
        device, limit = model.device, self.classifier.read([example]).max_length
        texts = example.texts
        if len(texts) > 2:  # joined as in training
            texts = ((tokenizer.sep_token or tokenizer.eos_token or "\n").join(texts),)
        encoding = tokenizer(*texts, truncation=True, max_length=limit, return_tensors="pt")
        inputs = {name: tensor.to(device) for name, tensor in encoding.items()}
        ids = inputs.pop("input_ids")
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=device))
        baseline = torch.where(special, ids, torch.full_like(ids, tokenizer.pad_token_id))
        names = prediction.names or self.classifier.names[:1]
        target = self.classifier.names.index(names[0])

        def forward(token_ids: torch.Tensor) -> torch.Tensor:
            repeated = {name: tensor.expand(len(token_ids), -1) for name, tensor in inputs.items()}
            return model(input_ids=token_ids, **repeated).logits[:, target]

        gradients = LayerIntegratedGradients(forward, model.get_input_embeddings())
        values = gradients.attribute(ids, baseline, n_steps=NUM_STEPS, internal_batch_size=STEP_BATCH)
        scores = values.sum(-1)[0].detach().cpu().numpy()
        return join_tokens(encoding, scores, texts)


def list_reasons(reasons: dict) -> list[str]:
    """Return the reasons as lines."""
    lines = [f"like {row['label']}: {row.get('text', row.get('image'))}" for row in reasons.get("nearest", [])]
    if words := reasons.get("words"):
        lines.append("words: " + ", ".join(f"{word} {score:+.2f}" for word, score in words))
    return lines


def join_tokens(encoding: object, scores: np.ndarray, texts: tuple[str, ...]) -> list[list]:
    """Return [word, sum of its tokens' scores] of each word of the texts, in order."""
    words: dict[tuple[int, int], list] = {}
    for token, score in enumerate(scores):
        word, text = encoding.token_to_word(0, token), encoding.token_to_sequence(0, token)
        if word is None or text is None:
            continue
        start, end = encoding.word_to_chars(0, word, text)
        entry = words.setdefault((text, word), [texts[text][start:end], 0.0])
        entry[1] += float(score)
    return [[word, round(score, 4)] for word, score in words.values()]


def read_training_rows(classifier: Classifier) -> dict[int, dict]:
    """Return {"text" or "image", "label"} of the training rows at hand, by their number in the model's file.

    Only for own runs: the record of a model made elsewhere must not decide what is read.
    """
    known = classifier.detector or classifier.novelty
    if known is None or not classifier.record or not classifier.folder.resolve().is_relative_to(RUNS_FOLDER.resolve()):
        return {}
    numbers: dict[int, list[int]] = {}
    for number, value in enumerate(known.hashes.tolist()):
        numbers.setdefault(value, []).append(number)
    rows: dict[int, dict] = {}
    with suppress(UserError, OSError):
        schema = Task if classifier.modality.name == "text" else ImageTask
        task = validate(schema, classifier.record["config"]["task"])
        splits = read_task(task, needs_validation=False)
        examples = splits["train"] + splits["validation"]
        places = find_places(task) if schema is ImageTask else {}
        for value, example in zip(hash_inputs(examples).tolist(), examples, strict=True):
            text = " | ".join(example.texts)
            label = list(example.label) if isinstance(example.label, tuple) else example.label
            for number in numbers.get(value, []):
                shown_as = {"image": places[text]} if text in places else {"text": shorten(text, MAX_TEXT_CHARS)}
                rows[number] = {**shown_as, "label": label}
    if not rows:
        warn_once("note: the training rows are not at hand, so the nearest of them are not among the reasons")
    return rows
