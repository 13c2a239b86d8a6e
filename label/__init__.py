"""Labeling by a person, with keys, in the browser or the terminal; each answer is a row of labels.csv."""
