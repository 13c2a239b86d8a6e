"""Attention by the fastest exact means for where it runs.

On CPUs in bf16, torch's fused attention is some three times slower, forward and backward, than two matrix products and a
softmax at the lengths encoders are trained at (measured: LOG.md); everywhere else it is the one to take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "headstart"
LONGEST = 512  # beyond it the scores, length x length, cost more memory than they save time


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
              dropout: float = 0.0, scaling: float | None = None, **rest) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017); query, key, value (rows, heads, length, width of a head).

    The mask is boolean, true where attention is allowed, and broadcasts to (rows, heads, length, length). Returns
    (rows, length, heads, width of a head).
    """
    by_products = (query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape == key.shape
                   and query.shape[2] <= LONGEST and not rest.get("is_causal"))
    if not by_products:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **rest)
    scores = query * (scaling or query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    if attention_mask is not None:
        # Not -inf: a row of padding, which attends to nothing, must not become NaN.
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if dropout:
        weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use(model: PreTrainedModel) -> None:
    """Make `model` attend by `attention`, unless its architecture has an attention of its own. Saved files do not change."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
