"""One file a head: its `Config`, its `build` (a plain transformers model), its `Head` (the module trained) and `score`.

The folder is the list: `head.name=X` means the file X.py here.
"""
