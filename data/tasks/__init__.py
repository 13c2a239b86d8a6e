"""Labeled tasks: rows, splits, label sets."""
