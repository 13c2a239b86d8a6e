"""Data: raw text and labeled rows to token batches, independent of objectives and heads."""
