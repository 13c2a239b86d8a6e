"""Label-efficiency study: test scores against the number of labels, for the pretrained encoder and its baselines."""
