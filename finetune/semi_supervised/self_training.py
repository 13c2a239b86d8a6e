"""Self-training: the model pseudo-labels unlabeled texts, and a new one also trains on its most confident predictions.

(Scudder 1965; Lee 2013; Xie et al. 2020.) A round: fine-tune; extract the last layer's inputs for the unlabeled texts;
fit a logistic regression on them that takes in more and more of the texts, which needs no forward pass; keep the most
confident texts of each class; fine-tune again from the pretrained weights on these and the labels. Texts are labeled
unchanged and trained on with dropout and `augment`, as in consistency training.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.preprocessing import StandardScaler

from data.cache import fingerprint
from data.corpus.build import build_corpus
from data.corpus.config import CorpusFile
from data.corpus.documents import iter_documents
from data.encoders import hash_weights
from data.tasks.label_propagation import NAMES_C, propagate_labels, select_most_confident, weigh_texts
from data.tasks.linear_probe import fit_logistic_regression
from data.tasks.task import Example
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from engine.files import read_json, write_json
from engine.models.embed import run_batches
from engine.runs.run import Run
from finetune import linear_probe
from finetune.config import Finetune
from finetune.modalities import load_modality
from finetune.semi_supervised import documents
from finetune.training import FineTuneOutput, TaskData, finetune_model


def sample_unlabeled(rows: list[Example], labeled: list[Example], count: int, seed: int) -> list[Example]:
    """Sample `count` training rows that are not in `labeled` and have a letter or digit, without using their labels."""
    used = set(map(id, labeled))
    unlabeled = [row for row in rows if id(row) not in used and all(any(map(str.isalnum, text)) for text in row.texts)]
    order = np.random.Generator(np.random.Philox(key=[seed, 2**35])).permutation(len(unlabeled))
    return [unlabeled[index] for index in order[:count]]


PredictFn = Callable[..., np.ndarray]
"""(module, texts, whether to show progress) -> predictions."""


class LabeledTexts(NamedTuple):
    """The labeled rows of a task, and the texts made of the names of its classes."""

    examples: list[Example]
    """The rows, then the texts."""
    labels: np.ndarray
    """Class ids, int64 (texts,)."""
    num_rows: int
    class_weight: float

    @property
    def weights(self) -> np.ndarray | None:
        """Return the weights of all texts, as `weigh_texts` does."""
        return weigh_texts(self.labels, self.num_rows, self.class_weight)

    def class_priors(self, num_classes: int) -> np.ndarray:
        """Return the fraction of the rows in each class, (classes,)."""
        return np.bincount(self.labels[: self.num_rows], minlength=num_classes) / self.num_rows


class UnlabeledTexts(NamedTuple):
    """A pool of the task's own texts."""

    texts: list[Example]
    labeled_fraction: float
    text_fingerprint: str | None = None

    def predict_proba(self, finetuned: FineTuneOutput, labeled: LabeledTexts, predict_fn: PredictFn) -> np.ndarray:
        """Return class probabilities, (texts, classes)."""
        extractor = linear_probe.LastLayerInputs(finetuned.head.network)
        labeled_features, features = predict_fn(extractor, labeled.examples), predict_fn(extractor, self.texts, True)
        return propagate_labels(labeled_features, labeled.labels, features, self.labeled_fraction, labeled.weights)

    def get_texts(self, index: int) -> list[Example]:
        """Return the text at `index`."""
        return [self.texts[index]]


class UnlabeledDocuments(NamedTuple):
    """A pool of documents. All sentences of a document get the same label."""

    texts: list[Example]
    """Sentences."""
    document_ids: np.ndarray
    text_fingerprint: str | None = None
    """Fingerprint of their text: the name of the corpus's folder."""

    def predict_proba(self, finetuned: FineTuneOutput, labeled: LabeledTexts, predict_fn: PredictFn) -> np.ndarray:
        """Return class probabilities, (documents, classes); the arguments are those of `UnlabeledTexts`."""
        probabilities = predict_fn(finetuned.head, self.texts, True)
        class_priors = labeled.class_priors(probabilities.shape[1])
        return documents.document_probabilities(probabilities, self.document_ids, class_priors)

    def get_texts(self, index: int) -> list[Example]:
        """Return the sentences of the document at `index`."""
        first, end = np.searchsorted(self.document_ids, [index, index + 1])
        return self.texts[first:end]


def build_pool(
    config: Finetune, unlabeled: list[Example], accelerator: Accelerator
) -> UnlabeledTexts | UnlabeledDocuments:
    """Return the documents of the corpus, or else `unlabeled`. Raise ConfigError or DataError if there are none."""
    settings = config.selftrain
    if settings.corpus is None:
        if not unlabeled:
            raise ConfigError(
                "selftrain.rounds: all training rows are used with their label; no unlabeled text is left"
            )
        return UnlabeledTexts(unlabeled, settings.labeled_fraction)
    corpus = load_config(CorpusFile, [settings.corpus]).corpus
    with accelerator.main_process_first():
        folder = build_corpus(corpus)
    texts = (document["text"] for document in iter_documents(folder))
    sample = documents.reservoir_sample(texts, settings.max_documents, config.seed)
    sentences, document_ids = documents.sample_sentences(sample, settings.sentences_per_document, config.seed)
    if not sentences:
        low, high = documents.SENTENCE_WORD_RANGE
        raise DataError(f"selftrain.corpus: {settings.corpus} has no sentence of {low} to {high} words")
    return UnlabeledDocuments(sentences, document_ids, folder.name)


class SelfTrainer:
    """Fine-tunes in rounds of self-training.

    train_rows: all training rows; those not in the "train" split are unlabeled text. random_init: start each round from
    random weights. The pseudo-labels of a round are stored in `round-N/labels.json`; a finished round is not repeated,
    unless its texts, its labels or the encoder have changed. Raises ConfigError or DataError without text to label.
    """

    def __init__(
        self,
        folder: Path,
        config: Finetune,
        train_rows: list[Example],
        data: TaskData,
        run: Run,
        accelerator: Accelerator,
        title: str,
        random_init: bool = False,
    ):
        self.folder, self.config, self.run, self.accelerator = folder, config, run, accelerator
        self.title, self.random_init, self.rows = title, random_init, data.splits["train"]
        self.unlabeled = sample_unlabeled(train_rows, self.rows, config.selftrain.max_texts, config.seed)
        self.pool = build_pool(config, self.unlabeled, accelerator)
        self.data = replace(data, text_fingerprint=self.pool.text_fingerprint)
        self.modality = load_modality(config)
        examples = self.rows + data.class_texts
        labels = self.modality.problem_type.encode_labels(examples, data.label_names)
        self.labeled = LabeledTexts(examples, labels, len(self.rows), config.class_names.weight)
        all_texts = [list(example.texts) for example in self.pool.texts]
        rows = [[list(example.texts), example.label] for example in examples]
        self.inputs = fingerprint([*rows, *all_texts, hash_weights(folder), random_init])
        later_train = config.train.model_copy(update={"steps": max(config.selftrain.min_steps, config.train.steps)})
        self.later_config = config.model_copy(update={"train": later_train})

    def train(self) -> FineTuneOutput:
        """Run all rounds, then train on the labels and the pseudo-labels of the last one."""
        train_set, seconds = self.rows, 0.0
        for number in range(1, self.config.selftrain.rounds + 1):
            saved = self.run_round(number, train_set)
            seconds += saved.get("seconds", 0.0)
            train_set = self.make_train_set(saved)
        data = replace(self.data, splits=self.data.splits | {"train": train_set})
        output = self.finetune(self.later_config, data, self.run, self.title, on_train_end=self.match_class_priors)
        result = output.train_result
        return output._replace(train_result=replace(result, seconds=seconds + result.seconds))

    def finetune(self, config: Finetune, data: TaskData, run: Run, title: str, **hooks) -> FineTuneOutput:
        """Fine-tune the pretrained weights once."""
        return finetune_model(self.folder, config, data, run, self.accelerator, title, self.random_init, **hooks)

    def run_round(self, number: int, train_set: list[Example]) -> dict:
        """Pseudo-label the pool with a model trained on `train_set`, if not yet done; return the file's content."""
        settings, title = self.config.selftrain, f"{self.title}, round {number}"
        folder = self.run.folder / f"round-{number}"
        run, path = Run(self.config, self.config.run, self.accelerator.is_main_process, folder), folder / "labels.json"
        if not path.is_file() or read_json(path).get("fingerprint") != self.inputs:
            start, seconds = time.monotonic(), 0.0
            if not train_set:
                probabilities = self.predict_from_names()
            elif number == 1 and settings.teacher == "frozen":
                probabilities = self.predict_from_layers()
            else:
                splits = {split: rows for split, rows in self.data.splits.items() if split != "test"}
                data = replace(self.data, splits=splits | {"train": train_set})
                output = self.finetune(self.config if number == 1 else self.later_config, data, run, title)
                start, seconds = time.monotonic(), output.train_result.seconds
                predict_fn = partial(self.predict_texts, f"{title}, predicting")
                probabilities = self.pool.predict_proba(output, self.labeled, predict_fn)
            indices, classes = select_most_confident(probabilities, settings.top_fraction, settings.min_confidence)
            content = {
                "fingerprint": self.inputs,
                "indices": indices.tolist(),
                "class_ids": classes.tolist(),
                "seconds": seconds + time.monotonic() - start,
            }
            if self.accelerator.is_main_process:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(path, content)
            self.accelerator.wait_for_everyone()
        return read_json(path)

    def make_train_set(self, saved: dict) -> list[Example]:
        """Return the pseudo-labeled texts of a round and the labeled rows, repeated to their fraction of the set."""
        pseudo_labeled = [
            text._replace(label=self.data.label_names[class_id])
            for index, class_id in zip(saved["indices"], saved["class_ids"], strict=True)
            for text in self.pool.get_texts(index)
        ]
        if not self.rows:
            return pseudo_labeled
        fraction = self.config.selftrain.labeled_fraction
        ratio = fraction / (1 - fraction)
        return self.rows * max(1, round(ratio * len(pseudo_labeled) / len(self.rows))) + pseudo_labeled

    def predict_from_names(self) -> np.ndarray:
        """Return class probabilities, (texts, classes), from the names of the classes, by the encoder as it is."""
        features = [
            self.modality.embed(examples, self.folder, self.accelerator, self.random_init)
            for examples in (self.labeled.examples, self.pool.texts)
        ]
        features = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in features]
        fraction = self.config.selftrain.labeled_fraction
        return propagate_labels(features[0], self.labeled.labels, features[1], fraction, self.labeled.weights, NAMES_C)

    def predict_from_layers(self) -> np.ndarray:
        """Return class probabilities, (inputs, classes), by a regression on all layers of the encoder as it is."""
        rows, pool = self.rows, self.pool.texts
        features = self.modality.embed_layers(rows + pool, self.folder, self.accelerator, self.random_init)
        features = StandardScaler().fit_transform(features)
        model = fit_logistic_regression(features[: len(rows)], self.labeled.labels[: len(rows)], self.config.seed)
        probabilities = np.zeros((len(pool), len(self.data.label_names)))
        probabilities[:, model.classes_] = model.predict_proba(features[len(rows) :])
        return probabilities

    def predict_texts(
        self, title: str, module: torch.nn.Module, examples: list[Example], show_progress: bool = False
    ) -> np.ndarray:
        """Return predictions. title: of the progress, if it is shown."""
        dataset, progress_title = self.modality.build_dataset(examples, self.folder, self.config.task.name), None
        if show_progress:
            progress_title = title
        with module.network.training_forward():
            predictions = run_batches(module, dataset, self.accelerator, progress_title=progress_title)
            return np.stack(predictions)

    def match_class_priors(self, head: torch.nn.Module) -> None:
        """Match the head's predictions to the labels' class priors, if it was trained on documents."""
        if isinstance(self.pool, UnlabeledDocuments) and self.unlabeled:
            class_priors = self.labeled.class_priors(len(self.data.label_names))
            predictions = self.predict_texts(self.title, head, self.unlabeled)
            documents.match_class_priors(head.model, predictions, class_priors)
