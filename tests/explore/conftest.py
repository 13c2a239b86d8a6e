"""Classifiers with random weights."""

from tiny_classifiers import classifiers  # noqa: F401  a fixture
