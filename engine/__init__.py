"""Configuration, training loop, checkpoints and run records, independent of text and tasks."""
