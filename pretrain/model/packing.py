"""Ways to compute packed rows such that no document attends to another; position ids alone isolate nothing.

`prepare_encoder` takes the first one that gives a packed document the states that it has alone:

    mask       a boolean attention mask, (rows, 1, length, length)
    additive   the same as numbers to add to the scores, for architectures with eager attention
    unpacked   one document per row: slower, and exact wherever padding changes nothing
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Restore = Callable[[Tensor], Tensor]
"""Hidden states of a model to those of the packed rows, (rows, length, width)."""


def list_packings(model: PreTrainedModel, is_causal: bool = False) -> tuple[str, ...]:
    """Return the ways that may suit a model, the fastest first; is_causal: whether it reads from left to right."""
    if is_causal and getattr(model.config, "sliding_window", None) and model.config.model_type != "modernbert-decoder":
        return ("unpacked",)  # one mask would be used for all layers, without the window
    has_own_attention = model.config._attn_implementation == "eager"
    return ("additive", "mask", "unpacked") if has_own_attention else ("mask", "unpacked")


def build_mask(document_ids: Tensor, packing: str, is_causal: bool = False) -> Tensor:
    """Return the attention mask of rows, (rows, 1, length, length), for the way `mask` or `additive`.

    is_causal: whether a token attends to no later one.
    """
    mask = (document_ids[:, :, None] == document_ids[:, None, :])[:, None]
    if is_causal:
        mask = mask.tril()
    if packing == "mask":
        return mask
    additive = torch.zeros(mask.shape, device=mask.device)
    return additive.masked_fill_(~mask, torch.finfo(additive.dtype).min)


def unpack_rows(
    input_ids: Tensor, position_ids: Tensor, document_ids: Tensor, pad_id: int
) -> tuple[dict[str, Tensor], Restore]:
    """Return (inputs with one document per row; function that packs the states of these inputs again)."""
    is_text = document_ids >= 0
    is_start = is_text.clone()
    is_start[:, 1:] &= document_ids[:, 1:] != document_ids[:, :-1]
    at = is_text.flatten().nonzero()[:, 0]
    row, column = (is_start.flatten().cumsum(0) - 1)[at], position_ids.flatten()[at]
    unpacked = input_ids.new_full((int(row.max()) + 1, int(column.max()) + 1), pad_id)
    attention_mask = torch.zeros_like(unpacked)
    unpacked[row, column], attention_mask[row, column] = input_ids.flatten()[at], 1

    def restore(states: Tensor) -> Tensor:
        packed = states.new_zeros(input_ids.numel(), states.shape[-1])
        return packed.index_put((at,), states[row, column]).view(*input_ids.shape, -1)

    return {"input_ids": unpacked, "attention_mask": attention_mask}, restore


def ignore_pairwise_mask(module: nn.Module, args: tuple, inputs: dict) -> tuple[tuple, dict]:
    """Remove a mask of pairs of tokens from the inputs of embeddings that multiply by a mask of tokens (DeBERTa)."""
    mask = inputs.get("mask")
    return args, {**inputs, "mask": None} if isinstance(mask, Tensor) and mask.ndim > 2 else inputs
