"""The checkpoint format and the thread that writes checkpoints."""
