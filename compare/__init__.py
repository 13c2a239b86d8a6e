"""Comparison of pretraining objectives: each trained for the same CPU seconds, then measured with few labels."""
