"""Pretraining objectives, one file each: a `Config`, a `Dataset` that makes micro-batches in NumPy, and an `Objective`.

The folder is the list: `objective.name=X` means the file X.py here.
"""
