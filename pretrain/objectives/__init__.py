"""One file an objective: its `Config`, its `collate` (NumPy, rows to a batch) and its `Objective` (the module).

The folder is the list: `objective.name=X` means the file X.py here.
"""
