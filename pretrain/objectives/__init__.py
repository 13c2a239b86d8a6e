"""Objectives, one file each (`objective.name=X` is X.py): `Config`, `Objective` and, unless two views do, `Dataset`."""
