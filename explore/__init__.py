"""A map of unlabeled data, and which of its inputs to label first."""
