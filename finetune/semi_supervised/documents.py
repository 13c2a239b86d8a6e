"""Documents nobody has labelled, where a text to be classified is a sentence: what most of a document's sentences say, all do.

One sentence is judged badly by a model of few labels; the mean over a document's sentences much better, and each of them
then passes for an example of the document's class (Kotzias et al. 2015 learn the sentences so from labelled documents).
They come from elsewhere than the task's own rows, so what is learned is brought back to how often each class is there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from transformers import PreTrainedModel

from data.corpus.sentence_dedup import split_sentences
from data.tasks.task import Example
from finetune.model.build import scale_output

SENTENCE_WORD_RANGE = (4, 50)  # fewest and most of a sentence that is learned from
NUM_ITERATIONS = 200  # of bringing the classes to their shares; a handful is enough


def reservoir_sample(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` of the texts by seed, each as likely as any other, all if there are fewer; no more are held (Vitter 1985)."""
    random, kept = np.random.Generator(np.random.Philox(key=[seed, 2**36])), []
    for number, text in enumerate(texts):
        place = number if number < count else int(random.integers(number + 1))
        if number < count:
            kept.append(text)
        elif place < count:
            kept[place] = text
    return kept


def sample_sentences(texts: list[str], sentences_per_document: int, seed: int) -> tuple[list[Example], np.ndarray]:
    """(sentences of the texts, `sentences_per_document` of each by seed, int64 (sentences,): which text each is of). No text goes without."""
    random, found, whose = np.random.Generator(np.random.Philox(key=[seed, 2**37])), [], []
    for text in texts:
        own = [" ".join(sentence.split()) for sentence in split_sentences(text)]
        own = [
            sentence
            for sentence in own
            if SENTENCE_WORD_RANGE[0] <= len(sentence.split()) <= SENTENCE_WORD_RANGE[1]
            and any(map(str.isalnum, sentence))
        ]
        own = [own[place] for place in np.sort(random.permutation(len(own))[:sentences_per_document])]
        if own:
            whose += [whose[-1] + 1 if whose else 0] * len(own)
            found += [Example((sentence,), "") for sentence in own]
    return found, np.array(whose, dtype=np.int64)


def document_probabilities(probabilities: np.ndarray, document_ids: np.ndarray, class_priors: np.ndarray) -> np.ndarray:
    """Class probabilities of documents, (documents, classes), from those of their sentences, (sentences, classes).

    document_ids: int64 (sentences,), the document of each. The mean of the log-probabilities; over all documents each class has
    the same mean, and then what `class_priors` (classes,) say.
    """
    logs = np.log(np.clip(probabilities, 1e-6, 1))
    sums = np.stack([np.bincount(document_ids, column) for column in logs.T], axis=1)
    scores = sums / np.bincount(document_ids)[:, None]
    return softmax(scores - scores.mean(0) + np.log(np.clip(class_priors, 1e-6, 1)), axis=1)


def prior_shift(probabilities: np.ndarray, class_priors: np.ndarray) -> np.ndarray:
    """(classes,): what to add to the logits so that the mean probability of each class is its share (Saerens et al. 2002)."""
    logits = log_softmax(np.log(np.clip(probabilities, 1e-12, 1)), axis=1)
    found, wanted = np.zeros(len(class_priors)), np.log(np.clip(class_priors, 1e-6, 1))
    for _ in range(NUM_ITERATIONS):
        found += wanted - np.log(softmax(logits + found, axis=1).mean(0))
    return found - found.mean()


def match_class_priors(model: PreTrainedModel, probabilities: np.ndarray, class_priors: np.ndarray) -> None:
    """Write into the last layer what brings the classes to their shares over texts of these probabilities."""
    scale_output(model, 1.0, torch.from_numpy(prior_shift(probabilities, class_priors)).float())
