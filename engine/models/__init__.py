"""Running trained networks."""

LOAD_KWARGS = {"trust_remote_code": False}
"""Options of every load by transformers: code in a model folder is never run."""
LOAD_WEIGHTS_KWARGS = {**LOAD_KWARGS, "use_safetensors": True}
"""Options of every load of weights: nothing is unpickled."""
