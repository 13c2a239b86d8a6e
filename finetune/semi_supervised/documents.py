"""Pseudo-labels of whole documents, for tasks on single sentences.

A model trained on few labels is unreliable on one sentence, but its mean over a document's sentences is much better.
Each of them can then serve as an example of the document's class (Kotzias et al. 2015 do so with labeled documents).
The documents do not come from the task's own rows, so the trained model is shifted back to the task's class priors.
"""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from transformers import PreTrainedModel

from data.corpus.sentence_dedup import split_sentences
from data.tasks.task import Example
from finetune.model.network import scale_output

SENTENCE_WORD_RANGE = (4, 50)  # inclusive
NUM_ITERATIONS = 200  # of matching the class priors; a handful is enough


def reservoir_sample(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """Sample `count` of the texts uniformly, or all if there are fewer, without holding more (Vitter 1985)."""
    generator, reservoir = np.random.Generator(np.random.Philox(key=[seed, 2**36])), []
    for number, text in enumerate(texts):
        if number < count:
            reservoir.append(text)
        elif (index := int(generator.integers(number + 1))) < count:
            reservoir[index] = text
    return reservoir


def sample_sentences(texts: list[str], sentences_per_document: int, seed: int) -> tuple[list[Example], np.ndarray]:
    """Return (sampled sentences; their document ids, int64 (sentences,)). Texts without a usable sentence get no id."""
    generator, examples, document_ids = np.random.Generator(np.random.Philox(key=[seed, 2**37])), [], []
    low, high = SENTENCE_WORD_RANGE
    for text in texts:
        sentences = [sentence.split() for sentence in split_sentences(text)]
        sentences = [" ".join(words) for words in sentences if low <= len(words) <= high]
        sentences = [sentence for sentence in sentences if any(map(str.isalnum, sentence))]
        chosen = np.sort(generator.permutation(len(sentences))[:sentences_per_document])
        if len(chosen):
            document_ids += [document_ids[-1] + 1 if document_ids else 0] * len(chosen)
            examples += [Example((sentences[index],), "") for index in chosen]
    return examples, np.array(document_ids, dtype=np.int64)


def document_probabilities(probabilities: np.ndarray, document_ids: np.ndarray, class_priors: np.ndarray) -> np.ndarray:
    """Return class probabilities of documents, (documents, classes), from sentences' (sentences, classes).

    document_ids: int64 (sentences,); class_priors: (classes,). A document's scores are the mean log-probabilities,
    centered over all documents, plus the log priors.
    """
    logs = np.log(np.clip(probabilities, 1e-6, 1))
    sums = np.stack([np.bincount(document_ids, column) for column in logs.T], axis=1)
    scores = sums / np.bincount(document_ids)[:, None]
    return softmax(scores - scores.mean(0) + np.log(np.clip(class_priors, 1e-6, 1)), axis=1)


def prior_shift(probabilities: np.ndarray, class_priors: np.ndarray) -> np.ndarray:
    """Return the logit shift, (classes,), that makes the mean probabilities equal the priors (Saerens et al. 2002)."""
    logits = log_softmax(np.log(np.clip(probabilities, 1e-12, 1)), axis=1)
    shift, log_priors = np.zeros(len(class_priors)), np.log(np.clip(class_priors, 1e-6, 1))
    for _ in range(NUM_ITERATIONS):
        shift += log_priors - np.log(softmax(logits + shift, axis=1).mean(0))
    return shift - shift.mean()


def match_class_priors(model: PreTrainedModel, probabilities: np.ndarray, class_priors: np.ndarray) -> None:
    """Shift the last layer's bias so that the mean of these predicted probabilities becomes the class priors."""
    scale_output(model, 1.0, torch.from_numpy(prior_shift(probabilities, class_priors)).float())
