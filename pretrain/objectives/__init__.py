"""Pretraining objectives, one file each, with a `Config`, a `Dataset` (makes micro-batches, in NumPy) and an `Objective`.

The folder is the list: `objective.name=X` means the file X.py here.
"""
