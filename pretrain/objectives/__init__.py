"""One file an objective: its `Config`, its `Examples` (what a step is drawn from, and
numbers of them to a batch, in NumPy) and its `Objective` (the module).

The folder is the list: `objective.name=X` means the file X.py here.
"""
