"""The model card, from a run's record."""
