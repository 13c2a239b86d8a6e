"""Running trained networks."""

LOAD_KWARGS = {"trust_remote_code": False}
"""Options of every load by transformers: code in a model folder is never run."""
