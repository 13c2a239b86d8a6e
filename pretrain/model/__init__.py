"""The encoder in training: where it comes from, how it starts, what it computes."""
