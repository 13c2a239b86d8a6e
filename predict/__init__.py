"""Predictions of a fine-tuned model for files of any size, with what they are worth and why."""
