"""A session of labeling, whatever shows it: which row is next, what its answer does, and how far it is."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from data.tasks.splits import permute
from engine.errors import UserError
from label.items import Item
from label.store import AnswerFile

MAX_CLASS_CHARS = 100
MAX_CLUSTER_SHOWN = 24


class RefusedError(UserError):
    """An answer that cannot be taken; the session goes on."""


@dataclass
class Session:
    """Rows, classes and answers. find_nearest: (text, labeled texts) -> the nearest of these."""

    items: list[Item]
    store: AnswerFile
    classes: list[str]
    num_answers: int | None = None
    descriptions: dict[str, str] = field(default_factory=dict)
    suggest: bool = True
    find_nearest: Callable[[str, list[str]], list[str]] = lambda text, labeled: []
    queue_time: str = ""
    """Time of the queue: what it shows as suspect was answered before."""

    def __post_init__(self):
        self.steps: list[float] = []  # seconds of each answer of this session
        self.position, self.shown_at = 0, time.monotonic()
        for answer in self.store.answers.values():
            self.add_class(answer.label)

    def add_class(self, label: str) -> None:
        """Add a class that is not there yet."""
        if label and label not in self.classes:
            self.classes.append(label)

    def is_open(self, item: Item) -> bool:
        """Return whether a row has no answer, or is to be shown again."""
        answer = self.store.answers.get(item.text)
        return answer is None or item.reason == "suspect" and answer.time < self.queue_time

    def find_label(self, item: Item) -> str:
        """Return the label that a row has already, here or in another file; empty without one."""
        answer = self.store.answers.get(item.text)
        return answer.label if answer else item.label

    @property
    def is_full(self) -> bool:
        """Whether the answers asked for are given."""
        return self.num_answers is not None and len(self.steps) >= self.num_answers

    def current(self) -> Item | None:
        """Return the row to label, None at the end."""
        while self.position < len(self.items) and not self.is_open(self.items[self.position]):
            self.position += 1
        return None if self.is_full or self.position == len(self.items) else self.items[self.position]

    def take(self, item_id: int) -> Item:
        """Return the current row. Raises RefusedError if it is another, as after a key that was pressed twice."""
        item = self.current()
        if item is None or item.id != item_id:
            raise RefusedError("this row was answered already")
        return item

    def check_label(self, label: str) -> str:
        """Return a class, which is added if it is new. Raises RefusedError for one that no file should hold."""
        if label in self.classes:
            return label
        label = " ".join(label.split())
        if not label or len(label) > MAX_CLASS_CHARS:
            raise RefusedError(f"a class has 1 to {MAX_CLASS_CHARS} characters")
        self.add_class(label)
        return label

    def answer(self, item_id: int, answer: str, label: str = "") -> None:
        """Take the answer about the current row: label, unsure or skip."""
        item = self.take(item_id)
        if answer not in ("label", "unsure", "skip"):
            raise RefusedError(f"no answer {answer!r}")
        label = self.check_label(label) if answer == "label" else ""
        seconds, before = time.monotonic() - self.shown_at, self.store.answers.get(item.text)
        self.store.add([(item.text, label, before.role if before else item.role, answer, seconds)])
        self.finish_step(seconds)

    def finish_step(self, seconds: float) -> None:
        """Count an answer, and start the clock of the next row."""
        self.steps.append(seconds)
        self.position += 1
        self.shown_at = time.monotonic()

    def list_cluster(self, item_id: int) -> list[Item]:
        """Return the rows of the current row's cluster that may be labeled together, itself first.

        Test rows are answered one by one: what is like others must not decide on them.
        """
        item = self.take(item_id)
        if not item.cluster or item.role == "measure":
            return []
        others = [other for other in self.items if other.cluster == item.cluster and other.role == "train"]
        return [item, *(other for other in others if other is not item and self.is_open(other))]

    def sample_cluster(self, item_id: int, count: int = MAX_CLUSTER_SHOWN) -> list[Item]:
        """Return at most `count` rows of the current row's cluster, itself first, the others drawn at random."""
        first, *others = self.list_cluster(item_id)
        order = permute(len(others), item_id, 0)[: count - 1]
        return [first, *(others[position] for position in sorted(order))]

    def answer_cluster(self, item_id: int, label: str, count: int) -> int:
        """Give a whole cluster one label; return the number of rows. count: that was confirmed."""
        items = self.list_cluster(item_id)
        if not items or len(items) != count:
            raise RefusedError("the cluster has changed; look at it again")
        label, seconds = self.check_label(label), time.monotonic() - self.shown_at
        each = seconds / len(items)
        self.store.add([(item.text, label, item.role, "label", each) for item in items])
        self.finish_step(seconds)
        return len(items)

    def undo(self) -> bool:
        """Take the last answer back, also of an earlier session; return whether there was one."""
        texts = self.store.undo()
        taken = set(texts)
        positions = [position for position, item in enumerate(self.items) if item.text in taken]
        self.position = min([*positions, self.position])
        if texts and self.steps:
            self.steps.pop()
        self.shown_at = time.monotonic()
        return bool(texts)

    def nearest(self, item: Item) -> list[tuple[str, str]]:
        """Return (text, label) of the labeled rows most like one."""
        answers = self.store.answers
        labeled = [text for text, answer in answers.items() if answer.answer == "label"]
        return [(text, answers[text].label) for text in self.find_nearest(item.text, labeled)]

    def progress(self) -> dict:
        """Return the counts of the session and of the file."""
        counts = Counter(answer.label for answer in self.store.answers.values() if answer.answer == "label")
        return {
            "answered": len(self.steps),
            "asked": self.num_answers,
            "seconds": round(statistics.median(self.steps), 1) if self.steps else None,
            "by_class": [counts[label] for label in self.classes],
            **self.store.count(),
        }

    def describe_progress(self) -> str:
        """Return the progress in a line."""
        found = self.progress()
        parts = [f"{found['labeled']:,} rows labeled, {found['measure']:,} of them test rows"]
        parts += [f"{found[key]:,} {word}" for key, word in (("unsure", "unsure"), ("skip", "skipped")) if found[key]]
        if found["seconds"] is not None:
            number = found["answered"]
            parts.append(f"{number:,} answer{'s' * (number > 1)} now, {found['seconds']:.1f} s each")
        return "; ".join(parts)


def modified_at(path: os.PathLike | None) -> str:
    """Return the time of change of a file in UTC, as answers have it; empty without a file."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(os.stat(path).st_mtime, UTC).isoformat().replace("+00:00", "Z") if path else ""
