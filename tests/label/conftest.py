"""A session of labeling in an empty folder."""

from __future__ import annotations

import pytest
from tiny_labels import CLASSES

from label.items import Item
from label.session import Session
from label.store import AnswerFile


@pytest.fixture
def make_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(items: list[Item], classes: list[str] = CLASSES, **options) -> Session:
        return Session(items, AnswerFile(tmp_path / "labels/mine.csv", "text"), list(classes), **options)

    return make
