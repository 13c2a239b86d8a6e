"""Checkpoints: their format, and a thread that writes them."""
