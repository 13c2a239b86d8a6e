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

from data import curate, labelled
from data.config import Corpus, CorpusFile
from data.derived import fingerprint
from engine import record
from engine.config import load
from engine.errors import ConfigError, DataError
from engine.files import write_json
from finetune import documents, pooling, probe
from finetune.config import Finetune
from finetune.teaching import Taught, head_of, predict, teach
from finetune.texts import tokenise

PASSES = 6  # of the regression over the unlabelled texts, each taking in more of them
FIRST, LAST = 0.2, 0.8  # share of the texts of each class that the first and the last pass take in


def unlabelled(rows: list[labelled.Example], taken: list[labelled.Example], count: int, seed: int) -> list[labelled.Example]:
    """`count` of the training rows whose label was not taken, by seed. Their labels are not looked at.

    Rows without a letter or digit say nothing, and may have no token at all: they are left out.
    """
    known = set(map(id, taken))
    left = [example for example in rows
            if id(example) not in known and all(any(map(str.isalnum, text)) for text in example.texts)]
    order = np.random.Generator(np.random.Philox(key=[seed, 2**35])).permutation(len(left))
    return [left[place] for place in order[:count]]


def surest(probabilities: np.ndarray, share: float, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(places, classes) of the most confident `share` of the texts of each predicted class, none below `least`.

    probabilities: (texts, classes). At least one text of every class that is predicted at all.
    """
    said, confidence = probabilities.argmax(1), probabilities.max(1)
    places = []
    for name in np.unique(said):
        own = np.flatnonzero(said == name)
        own = own[np.argsort(-confidence[own], kind="stable")][:max(1, round(share * len(own)))]
        places.append(own[confidence[own] >= least])
    places = np.concatenate(places)
    return places, said[places]


def spread(features: np.ndarray, labels: np.ndarray, others: np.ndarray, labelled_share: float) -> np.ndarray:
    """Class probabilities of `others` (texts, width) by a regression that learns from `features`, and then from others too.

    labels: class ids of `features`; together they weigh `labelled_share` of all that a pass learns from, or more.
    """
    size = np.sqrt(np.square(features).sum(1).mean())
    features, others = features / size, others / size
    model = LogisticRegression(C=10, max_iter=2_000).fit(features, labels)
    for share in np.linspace(FIRST, LAST, PASSES):
        found = model.predict_proba(others)
        places, classes = surest(found, share)
        weights = np.ones(len(labels) + len(places))
        weights[:len(labels)] = max(1.0, labelled_share / (1 - labelled_share) * len(places) / len(labels))
        model = LogisticRegression(C=1, max_iter=2_000).fit(
            np.concatenate([features, others[places]]), np.concatenate([labels, model.classes_[classes]]), weights)
    found = np.zeros((len(others), labels.max() + 1))
    found[:, model.classes_] = model.predict_proba(others)
    return found


class Rows(NamedTuple):
    """What may be labelled: texts of the task, one by one."""

    texts: list[labelled.Example]
    text: str | None = None

    def judged(self, taught: Taught, known: list[labelled.Example], labels: np.ndarray, config: Finetune,
               read: Callable[..., np.ndarray]) -> np.ndarray:
        """Class probabilities, (texts, classes). labels: class ids of `known`; read: what a module predicts of texts, and
        whether a person is told how far it is."""
        features = probe.Features(taught.model)
        return spread(read(features, known), labels, read(features, self.texts, True), config.selftrain.labelled_share)

    def texts_of(self, place: int) -> list[labelled.Example]:
        """The text at that place."""
        return [self.texts[place]]

    def all_texts(self) -> list[labelled.Example]:
        """All there are."""
        return self.texts


class Documents(NamedTuple):
    """What may be labelled: documents, all sentences of one alike."""

    sentences: list[labelled.Example]
    whose: np.ndarray
    text: str | None = None
    """Which text they are of: the name of the corpus's folder."""

    def judged(self, taught: Taught, known: list[labelled.Example], labels: np.ndarray, config: Finetune,
               read: Callable[..., np.ndarray]) -> np.ndarray:
        """Class probabilities, (documents, classes); the rest as for rows."""
        said = read(taught.head, self.sentences, True)
        return documents.by_document(said, self.whose, np.bincount(labels, minlength=said.shape[1]) / len(labels))

    def texts_of(self, place: int) -> list[labelled.Example]:
        """The sentences of the document at that place."""
        first, end = np.searchsorted(self.whose, [place, place + 1])
        return self.sentences[first:end]

    def all_texts(self) -> list[labelled.Example]:
        """All sentences there are."""
        return self.sentences


def corpus_of(config: Finetune) -> Corpus:
    """The corpus that `selftrain.corpus` names. Raises ConfigError when there is none of that name."""
    return load(CorpusFile, [config.selftrain.corpus]).corpus


def pool_of(config: Finetune, others: list[labelled.Example], accelerator: Accelerator) -> Rows | Documents:
    """What is labelled in rounds: sentences of the corpus's documents, or else `others`.

    Raises ConfigError or DataError where that is nothing.
    """
    settings = config.selftrain
    if settings.corpus is None:
        if not others:
            raise ConfigError("selftrain.rounds: every training row has its label taken; there is no unlabelled text left")
        return Rows(others)
    corpus = corpus_of(config)
    with accelerator.main_process_first():
        folder = curate.documents(corpus)
    texts = (document["text"] for document in curate.read_documents(folder))
    drawn = documents.drawn(texts, settings.documents, config.seed)
    sentences, whose = documents.sentences_of(drawn, settings.sentences, config.seed)
    if not sentences:
        raise DataError(f"selftrain.corpus: {settings.corpus} has no sentence of {documents.WORDS[0]} to {documents.WORDS[1]} words")
    return Documents(sentences, whose, folder.name)


def self_train(folder: Path, config: Finetune, rows: list[labelled.Example], splits: dict[str, list[labelled.Example]],
               names: list[str], run: record.Run, accelerator: Accelerator, title: str,
               random: bool = False) -> Taught:
    """`teach` in rounds; rows: all training rows, whose texts may be used, of which splits["train"] have their label.

    random: each teaching begins with random weights. A round's labels are kept in `round-N/labels.json`: one that is
    finished is not done again, unless it was of other texts or from other labels. Raises ConfigError and DataError where there is no text to label.
    """
    settings, head_file, own, seconds = config.selftrain, head_of(config), splits["train"], 0.0
    others = unlabelled(rows, own, settings.texts, config.seed)
    pool = pool_of(config, others, accelerator)
    labels, splits = head_file.targets(own, names), dict(splits)
    of = fingerprint([[list(example.texts), example.label] for example in own]
                     + [list(example.texts) for example in pool.all_texts()])
    seen = {split: splits[split] for split in ("train", "validation") if split in splits}

    def read(head: torch.nn.Module, examples: list[labelled.Example], aloud: bool = False) -> np.ndarray:
        with pooling.at_first_token(head.model):
            return np.stack(predict(head, tokenise(examples, folder, config.max_length, config.task.name), accelerator,
                                    title=f"{title}, round {number}, reads" if aloud else None))

    def brought_back(head: torch.nn.Module) -> None:
        if isinstance(pool, Documents) and others:
            documents.balance(head.model, read(head, others), np.bincount(labels, minlength=len(names)) / len(labels))

    later = config.model_copy(update={"train": config.train.model_copy(
        update={"steps": max(settings.min_steps, config.train.steps)})})
    for number in range(1, settings.rounds + 1):
        beside = record.Run(config, config.run, accelerator.is_main_process, run.folder / f"round-{number}")
        path = beside.folder / "labels.json"
        if not path.is_file() or json.loads(path.read_text(encoding="utf-8")).get("of") != of:
            taught = teach(folder, config if number == 1 else later, {**seen, "train": splits["train"]}, names, beside,
                           accelerator, f"{title}, round {number}", random, text=pool.text)
            began = time.time()
            places, classes = surest(pool.judged(taught, own, labels, config, read), settings.share, settings.least)
            if accelerator.is_main_process:
                write_json(path, {"of": of, "places": places.tolist(), "classes": classes.tolist(),
                                  "seconds": taught.result.seconds + time.time() - began})
            accelerator.wait_for_everyone()
        told = json.loads(path.read_text(encoding="utf-8"))
        seconds += told.get("seconds", 0.0)
        guessed = [text._replace(label=names[name]) for place, name in zip(told["places"], told["classes"])
                   for text in pool.texts_of(place)]
        # The labels that were given stand as often as makes them their share of what is learned.
        times = max(1, round(settings.labelled_share / (1 - settings.labelled_share) * len(guessed) / len(own)))
        splits["train"] = own * times + guessed
    taught = teach(folder, later, splits, names, run, accelerator, title, random, finish=brought_back, text=pool.text)
    return taught._replace(result=replace(taught.result, seconds=seconds + taught.result.seconds))
