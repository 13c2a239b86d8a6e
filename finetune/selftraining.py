"""Self-training: the model labels texts nobody has labelled, and a new one learns from those it is surest of.

(Scudder 1965; Lee 2013; Xie et al. 2020.) A round: teach; read the unlabelled texts once; let a logistic regression on what
the last layer reads take in more and more of them, which costs no network; keep of each class the most confident ones; then
teach the encoder again from its pretrained weights with these beside the labels. Texts are labelled as they are, and learned
under dropout and `augment`: that is the consistency of two views.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression

from data import labelled
from engine import record
from engine.errors import ConfigError
from engine.files import write_json
from finetune import pooling, probe
from finetune.config import Finetune
from finetune.teaching import Taught, head_of, predict, teach
from finetune.texts import tokenise

PASSES = 6  # of the regression over the unlabelled texts, each taking in more of them
FIRST, LAST = 0.2, 0.8  # share of the texts of each class that the first and the last pass take in


def unlabelled(rows: list[labelled.Example], taken: list[labelled.Example], count: int, seed: int) -> list[labelled.Example]:
    """`count` of the training rows whose label was not taken, by seed. Their labels are not looked at."""
    known = set(map(id, taken))
    left = [example for example in rows if id(example) not in known]
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


def self_train(folder: Path, config: Finetune, rows: list[labelled.Example], splits: dict[str, list[labelled.Example]],
               names: list[str], run: record.Run, accelerator: Accelerator, title: str,
               random: bool = False) -> Taught:
    """`teach` in rounds; rows: all training rows, whose texts may be used, of which splits["train"] have their label.

    random: each teaching begins with random weights. A round's labels are kept in `round-N/labels.json`: one that is
    finished is not done again.
    """
    settings, head_file = config.selftrain, head_of(config)
    texts = unlabelled(rows, splits["train"], settings.texts, config.seed)
    if not texts:
        raise ConfigError("selftrain.rounds: every training row has its label taken; there is no unlabelled text left")
    own, splits, seconds = splits["train"], dict(splits), 0.0
    seen = {split: splits[split] for split in ("train", "validation") if split in splits}
    for number in range(1, settings.rounds + 1):
        beside = record.Run(config, config.run, accelerator.is_main_process, run.folder / f"round-{number}")
        path = beside.folder / "labels.json"
        if not path.is_file():
            taught = teach(folder, config, {**seen, "train": splits["train"]}, names, beside, accelerator,
                           f"{title}, round {number}", random)
            began = time.time()
            reads = probe.Features(taught.model)
            with pooling.at_first_token(taught.model):
                features, others = (np.stack(predict(reads, tokenise(examples, folder, config.max_length, config.task.name),
                                                     accelerator)) for examples in (own, texts))
            found = spread(features, head_file.targets(own, names), others, settings.labelled_share)
            places, classes = surest(found, settings.share, settings.least)
            if accelerator.is_main_process:
                write_json(path, {"places": places.tolist(), "classes": classes.tolist(),
                                  "seconds": taught.result.seconds + time.time() - began})
            accelerator.wait_for_everyone()
        told = json.loads(path.read_text(encoding="utf-8"))
        seconds += told.get("seconds", 0.0)
        guessed = [texts[place]._replace(label=names[name]) for place, name in zip(told["places"], told["classes"])]
        # The labels that were given stand as often as makes them their share of what is learned.
        times = max(1, round(settings.labelled_share / (1 - settings.labelled_share) * len(guessed) / len(own)))
        splits["train"] = own * times + guessed
    train = config.train.model_copy(update={"steps": settings.steps or config.train.steps})
    taught = teach(folder, config.model_copy(update={"train": train}), splits, names, run, accelerator, title, random)
    return taught._replace(result=replace(taught.result, seconds=seconds + taught.result.seconds))
