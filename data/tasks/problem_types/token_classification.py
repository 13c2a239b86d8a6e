"""Token classification: a tag for each word, entities in IOB2.

A row is Example(("Anna in Rome",), ("B-person", "O", "B-place")). The words of a text are joined by spaces. A word's
first token predicts its tag; words without a token, or beyond the maximum length, are predicted as O.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from data.sources.values import get_list, get_text, get_value, is_number
from data.tasks import iob
from data.tasks.columns import find_sentence
from data.tasks.problem_types import Decision, ProblemType, output_names
from data.tasks.splits import Example
from engine.config.schema import Section
from engine.errors import ConfigError, DataError, OptionError

if TYPE_CHECKING:
    from torch import Tensor


class TokenClassification(ProblemType):
    """A tag for each word; a prediction is the probabilities of each token, (tokens, tags) for each text."""

    name = default_head = "token_classification"
    labels_words, activation = True, "softmax"
    metric_for_best, report_metrics = "f1", ("f1", "precision", "recall")
    export_metric = "entity F1"
    card_description = "A named-entity recognition model for entities of the types {labels}."
    card_limitation = "It finds only the entity types listed above, and is weaker on text unlike the task's."
    pipeline_options = ", aggregation_strategy='first'"
    example_title = "Tag the tokens of {inputs}"
    example_code = """for encoding, tags in zip(encodings, outputs.argmax(-1)):
    for token, tag, mask, special in zip(encoding.tokens, tags, encoding.attention_mask, encoding.special_tokens_mask):
        if mask and not special:
            print(f"{config['id2label'][str(tag)]}  {token}")
"""

    def prepare_row(self, row: dict, task: Section, location: str) -> dict:
        """Return the row with lists of words and tags, from a text and its spans or tags."""
        column = task.text if isinstance(task.text, str) else task.text[0]
        text = get_value(row, column, location)
        if not (isinstance(text, str) or is_number(text)) or get_list(row, column, location) is not None:
            return row
        spans = iob.read_spans(row, column, task.label, location)
        if spans is None:
            words = get_text(row, column, location).split()
            if len(words) == 1 and get_list(row, task.label, location) is None:
                others = [name for name in row if name not in (column, task.label)]
                group = find_sentence(others) or "COLUMN"
                problem = f"{location}: one word, {words[0]!r}; words that are rows need the column of their sentence"
                raise OptionError(problem, "group_by", group)
            return {**row, column: words}
        words, tags = iob.split_at_spans(get_text(row, column, location), spans)
        return {**row, column: words, task.label: tags}

    def read_texts(self, row: dict, columns: list[str], location: str) -> tuple[str, ...]:
        """Return the words of a row, joined by spaces."""
        if len(columns) > 1:
            raise ConfigError(f"task.text: token classification takes one column, not {' and '.join(columns)}")
        return (iob.join_words(row, columns[0], location),)

    def parse_label(self, row: dict, task: Section, location: str) -> tuple[str, ...]:
        """Return the tags of a row's words, in IOB2."""
        column = task.text if isinstance(task.text, str) else task.text[0]
        return iob.read_tags(row, column, task.label, task.label_names, location)

    def known_labels(self, task: Section, train: list[Example], location: str) -> set[str]:
        """Return the tags of the training rows, and I-X for every B-X. Raises DataError if there is no entity."""
        known = {name for example in train for name in example.label_names}
        if known <= {"O"}:
            raise DataError(f"{location}: every tag is O; there is no entity to learn")
        return set(iob.expand_tags(known))

    def list_label_names(self, task: Section, present: set[str]) -> list[str]:
        """Return the tags as in `expand_tags`."""
        return iob.expand_tags(present)

    def encode_labels(self, examples: list[Example], label_names: list[str]) -> list[np.ndarray]:
        """Return tag ids, int64 (words,) for each text."""
        ids = {name: index for index, name in enumerate(label_names)}
        return [np.array([ids[tag] for tag in example.label], dtype=np.int64) for example in examples]

    def loss(self, logits: Tensor, labels: Tensor, **options: object) -> Tensor:
        """Compute the cross-entropy of logits (tokens, tags) and tag ids (tokens,)."""
        from torch.nn import functional as F

        return F.cross_entropy(logits, labels, **options)

    def quick_metrics(self, predictions: list[np.ndarray], labels: list[np.ndarray]) -> dict[str, float]:
        """Compute the entity metrics; labels, (3, words), are each word's tag, first and last token."""
        from data.tasks import metrics

        def to_names(ids: np.ndarray) -> list[str]:
            # Ids as in `data.tasks.iob`: 0 is O, then B and I of each type.
            return ["O" if number == 0 else f"{'IB'[number % 2]}-{(number - 1) // 2}" for number in ids.tolist()]

        pairs = zip(predictions, labels, strict=True)
        predicted = [to_names(decode_word_tags(outputs, first)) for outputs, (_, first, _) in pairs]
        return metrics.entity_metrics(predicted, [to_names(tags) for tags, *_ in labels])

    def measure_own_baselines(self, splits: dict[str, list[Example]]) -> dict[str, dict]:
        """Measure each word's most frequent training tag, O for an unseen word."""
        from data.tasks import metrics

        counts: dict[str, Counter] = defaultdict(Counter)
        for example in splits["train"]:
            for word, tag in zip(example.texts[0].split(" "), example.label, strict=False):
                counts[word][tag] += 1
        majority = {word: max(sorted(tags), key=tags.get) for word, tags in counts.items()}
        results = {
            split: metrics.entity_metrics(
                [[majority.get(word, "O") for word in example.texts[0].split(" ")] for example in splits[split]],
                [list(example.label) for example in splits[split]],
            )
            for split in ("test", "validation")
            if split in splits
        }
        return {"majority_tag": {"name": "the most frequent tag of each word", **results}}

    def card_labels(self, label_names: list[str]) -> list[str]:
        """Return the entity types."""
        return [name[2:] for name in label_names if name.startswith("B-")]

    def decode_outputs(
        self, outputs: list[np.ndarray], config: dict, word_starts: list[list[int | None]] | None = None
    ) -> list[tuple[str, ...]]:
        """Return the tag of each word of each text, O for one without a token."""
        names = output_names(config)
        return [
            tuple("O" if token is None else names[int(logits[token].argmax())] for token in tokens)
            for logits, tokens in zip(outputs, word_starts, strict=True)
        ]

    def list_decisions(
        self, output: np.ndarray, names: list[str], config: dict, first_tokens: np.ndarray | None = None
    ) -> list[Decision]:
        """Return the entities; the probability of one is the lowest of its words' tags."""
        tags, probabilities = decode_words(output, names, first_tokens)
        return [
            Decision(kind, (start, end), float(min(probabilities[start:end])))
            for kind, start, end in iob.find_entities(tags)
        ]

    def list_true_keys(self, label: tuple[str, ...]) -> set[tuple]:
        """Return a key for each entity."""
        return {(kind, (start, end)) for kind, start, end in iob.find_entities(label)}

    def score_predictions(self, predictions: list[tuple[str, ...]], labels: list) -> float:
        """Compute the F1 of entities."""
        from seqeval.metrics import f1_score
        from seqeval.scheme import IOB2

        references, hypotheses = list(map(list, labels)), list(map(list, predictions))
        return float(f1_score(references, hypotheses, mode="strict", scheme=IOB2, zero_division=0))


def decode_words(output: np.ndarray, names: list[str], first_tokens: np.ndarray) -> tuple[list[str], list[float]]:
    """Return the tag of each word and its probability, from (tokens, tags); O with probability 1 without a token."""
    tags, probabilities = [], []
    for token in first_tokens.tolist():
        best = int(output[token].argmax()) if token >= 0 else -1
        tags.append(names[best] if token >= 0 else "O")
        probabilities.append(float(output[token, best]) if token >= 0 else 1.0)
    return tags, probabilities


def decode_word_tags(probabilities: np.ndarray, first_tokens: np.ndarray) -> np.ndarray:
    """Return the predicted tag of each word, int64 (words,), from (length, tags); 0, which is O, without a token."""
    return np.where(first_tokens >= 0, probabilities.argmax(-1)[first_tokens.clip(min=0)], 0)


PROBLEM_TYPE = TokenClassification()
