"""Classifiers with random weights, and real texts."""

from tiny_classifiers import classifiers, texts  # noqa: F401  fixtures
