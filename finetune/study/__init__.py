"""What pretraining is worth in labels: a figure against their number, for ours and its references."""
