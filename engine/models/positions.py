"""Position ids of an architecture, read from its modules."""

from copy import deepcopy

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

offsets: dict[str, int] = {}


def position_offset(model: PreTrainedModel) -> int:
    """Return the position id of a text's first token: RoBERTa and its kind count on from the padding token's id.

    Their table of position embeddings has a row for padding, unlike that of other architectures.
    """
    size = getattr(model.config, "max_position_embeddings", None)
    try:
        token_embeddings = model.get_input_embeddings()
    except NotImplementedError:  # hashes of characters
        token_embeddings = None
    for module in model.modules():
        padding_index, weight = (getattr(module, name, None) for name in ("padding_idx", "weight"))
        is_table = padding_index is not None and weight is not None and module is not token_embeddings
        if is_table and len(weight) == size:
            return padding_index + 1
    return 0


def max_positions(config: PreTrainedConfig) -> int | None:
    """Return the maximum number of tokens of a network with this configuration; None if it has no limit."""
    size = getattr(config, "max_position_embeddings", None)
    if not isinstance(size, int) or size < 1:
        return None
    key = config.to_json_string(use_diff=False)
    if key not in offsets:
        try:
            with torch.device("meta"):  # the modules without weights
                offsets[key] = position_offset(AutoModel.from_config(deepcopy(config)))
        except Exception:
            offsets[key] = 0  # the error is reported when the weights are loaded
    return size - offsets[key]
