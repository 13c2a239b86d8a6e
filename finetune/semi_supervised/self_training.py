"""Self-training: the model labels texts nobody has labelled, and a new one learns from those it is surest of.

(Scudder 1965; Lee 2013; Xie et al. 2020.) A round: teach; read the unlabelled texts once; let a logistic regression on what
the last layer reads take in more and more of them, which costs no network; keep of each class the most confident ones; then
teach the encoder again from its pretrained weights with these beside the labels. Texts are labelled as they are, and learned
under dropout and `augment`: that is the consistency of two views.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression

from data.cache import fingerprint
from data.corpus.build import build_corpus
from data.corpus.config import Corpus, CorpusFile
from data.corpus.documents import iter_documents
from data.tasks.task import Example
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from engine.files import write_json
from engine.runs.run import Run
from finetune import linear_probe
from finetune.config import Finetune
from finetune.dataset import tokenize_examples
from finetune.heads import load_head_file
from finetune.inference import predict
from finetune.model import mean_pooling
from finetune.semi_supervised import documents
from finetune.training import FineTuneOutput, finetune_model

NUM_PASSES = 6  # of the regression over the unlabelled texts, each taking in more of them
FIRST_FRACTION, LAST_FRACTION = 0.2, 0.8  # share of the texts of each class that the first and the last pass take in


def sample_unlabeled(rows: list[Example], labeled: list[Example], count: int, seed: int) -> list[Example]:
    """`count` of the training rows whose label was not taken, by seed. Their labels are not looked at.

    Rows without a letter or digit say nothing, and may have no token at all: they are left out.
    """
    known = set(map(id, labeled))
    left = [
        example
        for example in rows
        if id(example) not in known and all(any(map(str.isalnum, text)) for text in example.texts)
    ]
    order = np.random.Generator(np.random.Philox(key=[seed, 2**35])).permutation(len(left))
    return [left[place] for place in order[:count]]


def select_most_confident(
    probabilities: np.ndarray, top_fraction: float, min_confidence: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(places, classes) of the most confident `top_fraction` of the texts of each predicted class, none below `min_confidence`.

    probabilities: (texts, classes). At least one text of every class that is predicted at all.
    """
    said, confidence = probabilities.argmax(1), probabilities.max(1)
    places = []
    for name in np.unique(said):
        own = np.flatnonzero(said == name)
        own = own[np.argsort(-confidence[own], kind="stable")][: max(1, round(top_fraction * len(own)))]
        places.append(own[confidence[own] >= min_confidence])
    places = np.concatenate(places)
    return places, said[places]


def propagate_labels(
    labeled_features: np.ndarray, labels: np.ndarray, unlabeled_features: np.ndarray, labeled_fraction: float
) -> np.ndarray:
    """Class probabilities of `unlabeled_features` (texts, width) by a regression that learns from `labeled_features`, and then from others too.

    labels: class ids of `labeled_features`; together they weigh `labeled_fraction` of all that a pass learns from, or more.
    """
    size = np.sqrt(np.square(labeled_features).sum(1).mean())
    labeled_features, unlabeled_features = labeled_features / size, unlabeled_features / size
    model = LogisticRegression(C=10, max_iter=2_000).fit(labeled_features, labels)
    for share in np.linspace(FIRST_FRACTION, LAST_FRACTION, NUM_PASSES):
        found = model.predict_proba(unlabeled_features)
        places, classes = select_most_confident(found, share)
        weights = np.ones(len(labels) + len(places))
        weights[: len(labels)] = max(1.0, labeled_fraction / (1 - labeled_fraction) * len(places) / len(labels))
        model = LogisticRegression(C=1, max_iter=2_000).fit(
            np.concatenate([labeled_features, unlabeled_features[places]]),
            np.concatenate([labels, model.classes_[classes]]),
            weights,
        )
    found = np.zeros((len(unlabeled_features), labels.max() + 1))
    found[:, model.classes_] = model.predict_proba(unlabeled_features)
    return found


class UnlabeledTexts(NamedTuple):
    """What may be labelled: texts of the task, one by one."""

    texts: list[Example]
    text_fingerprint: str | None = None

    def predict_proba(
        self,
        finetuned: FineTuneOutput,
        labeled: list[Example],
        labels: np.ndarray,
        config: Finetune,
        predict_fn: Callable[..., np.ndarray],
    ) -> np.ndarray:
        """Class probabilities, (texts, classes). labels: class ids of `labeled`; predict_fn: what a module predicts of texts, and
        whether a person is told how far it is.
        """
        features = linear_probe.LastLayerInputs(finetuned.model)
        return propagate_labels(
            predict_fn(features, labeled),
            labels,
            predict_fn(features, self.texts, True),
            config.selftrain.labeled_fraction,
        )

    def get_texts(self, index: int) -> list[Example]:
        """The text at that place."""
        return [self.texts[index]]

    def all_texts(self) -> list[Example]:
        """All there are."""
        return self.texts


class UnlabeledDocuments(NamedTuple):
    """What may be labelled: documents, all sentences of one alike."""

    sentences: list[Example]
    document_ids: np.ndarray
    text_fingerprint: str | None = None
    """Which text they are of: the name of the corpus's folder."""

    def predict_proba(
        self,
        finetuned: FineTuneOutput,
        labeled: list[Example],
        labels: np.ndarray,
        config: Finetune,
        predict_fn: Callable[..., np.ndarray],
    ) -> np.ndarray:
        """Class probabilities, (documents, classes); the rest as for rows."""
        said = predict_fn(finetuned.head, self.sentences, True)
        return documents.document_probabilities(
            said, self.document_ids, np.bincount(labels, minlength=said.shape[1]) / len(labels)
        )

    def get_texts(self, index: int) -> list[Example]:
        """The sentences of the document at that place."""
        first, end = np.searchsorted(self.document_ids, [index, index + 1])
        return self.sentences[first:end]

    def all_texts(self) -> list[Example]:
        """All sentences there are."""
        return self.sentences


def load_corpus(config: Finetune) -> Corpus:
    """The corpus that `selftrain.corpus` names. Raises ConfigError when there is none of that name."""
    return load_config(CorpusFile, [config.selftrain.corpus]).corpus


def build_pool(
    config: Finetune, unlabeled: list[Example], accelerator: Accelerator
) -> UnlabeledTexts | UnlabeledDocuments:
    """What is labelled in rounds: sentences of the corpus's documents, or else `unlabeled`.

    Raises ConfigError or DataError where that is nothing.
    """
    settings = config.selftrain
    if settings.corpus is None:
        if not unlabeled:
            raise ConfigError(
                "selftrain.rounds: every training row has its label taken; there is no unlabelled text left"
            )
        return UnlabeledTexts(unlabeled)
    corpus = load_corpus(config)
    with accelerator.main_process_first():
        folder = build_corpus(corpus)
    texts = (document["text"] for document in iter_documents(folder))
    drawn = documents.reservoir_sample(texts, settings.max_documents, config.seed)
    sentences, whose = documents.sample_sentences(drawn, settings.sentences_per_document, config.seed)
    if not sentences:
        raise DataError(
            f"selftrain.corpus: {settings.corpus} has no sentence of {documents.SENTENCE_WORD_RANGE[0]} to {documents.SENTENCE_WORD_RANGE[1]} words"
        )
    return UnlabeledDocuments(sentences, whose, folder.name)


def self_train(
    folder: Path,
    config: Finetune,
    train_rows: list[Example],
    splits: dict[str, list[Example]],
    label_names: list[str],
    run: Run,
    accelerator: Accelerator,
    title: str,
    random_init: bool = False,
) -> FineTuneOutput:
    """`teach` in rounds; train_rows: all training rows, whose texts may be used, of which splits["train"] have their label.

    random_init: each teaching begins with random weights. A round's labels are kept in `round-N/labels.json`: one that is
    finished is not done again, unless it was of other texts or from other labels. Raises ConfigError and DataError where there is no text to label.
    """
    settings, head_file, own, seconds = config.selftrain, load_head_file(config), splits["train"], 0.0
    others = sample_unlabeled(train_rows, own, settings.max_texts, config.seed)
    pool = build_pool(config, others, accelerator)
    labels, splits = head_file.encode_labels(own, label_names), dict(splits)
    of = fingerprint(
        [[list(example.texts), example.label] for example in own]
        + [list(example.texts) for example in pool.all_texts()]
    )
    seen = {split: splits[split] for split in ("train", "validation") if split in splits}

    def read(head: torch.nn.Module, examples: list[Example], aloud: bool = False) -> np.ndarray:
        with mean_pooling.pool_first_token_only(head.model):
            return np.stack(
                predict(
                    head,
                    tokenize_examples(examples, folder, config.max_length, config.task.name),
                    accelerator,
                    progress_title=f"{title}, round {number}, reads" if aloud else None,
                )
            )

    def brought_back(head: torch.nn.Module) -> None:
        if isinstance(pool, UnlabeledDocuments) and others:
            documents.match_class_priors(
                head.model, read(head, others), np.bincount(labels, minlength=len(label_names)) / len(labels)
            )

    later = config.model_copy(
        update={"train": config.train.model_copy(update={"steps": max(settings.min_steps, config.train.steps)})}
    )
    for number in range(1, settings.rounds + 1):
        beside = Run(config, config.run, accelerator.is_main_process, run.folder / f"round-{number}")
        path = beside.folder / "labels.json"
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")).get("of") != of:
            taught = finetune_model(
                folder,
                config if number == 1 else later,
                {**seen, "train": splits["train"]},
                label_names,
                beside,
                accelerator,
                f"{title}, round {number}",
                random_init,
                text_fingerprint=pool.text_fingerprint,
            )
            began = time.time()
            places, classes = select_most_confident(
                pool.predict_proba(taught, own, labels, config, read), settings.top_fraction, settings.min_confidence
            )
            if accelerator.is_main_process:
                write_json(
                    path,
                    {
                        "of": of,
                        "places": places.tolist(),
                        "classes": classes.tolist(),
                        "seconds": taught.train_result.seconds + time.time() - began,
                    },
                )
            accelerator.wait_for_everyone()
        told = json.loads(path.read_text(encoding="utf-8"))
        seconds += told.get("seconds", 0.0)
        guessed = [
            text._replace(label=label_names[name])
            for place, name in zip(told["places"], told["classes"])
            for text in pool.get_texts(place)
        ]
        # The labels that were given stand as often as makes them their share of what is learned.
        times = max(1, round(settings.labeled_fraction / (1 - settings.labeled_fraction) * len(guessed) / len(own)))
        splits["train"] = own * times + guessed
    taught = finetune_model(
        folder,
        later,
        splits,
        label_names,
        run,
        accelerator,
        title,
        random_init,
        on_train_end=brought_back,
        text_fingerprint=pool.text_fingerprint,
    )
    return taught._replace(result=replace(taught.train_result, seconds=seconds + taught.train_result.seconds))
