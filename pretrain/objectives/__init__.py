"""Objectives, one file each (`objective.name=X` is X.py): `Config`, `Dataset` (makes micro-batches) and `Objective`."""
