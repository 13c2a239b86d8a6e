"""Attention, and the rotation of queries and keys before it, by the fastest exact means for where they run.

On CPUs in bf16, torch's fused attention is some three times slower, forward and backward, than two matrix products and a
softmax at the lengths encoders are trained at (measured: LOG.md). On a GPU packed documents are attended to one by one, as
sequences of their own lengths, with no mask. Everywhere else torch's fused attention is the one to take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.modernbert import modeling_modernbert

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # a torch built without it
    varlen_attn = None

ATTN_IMPLEMENTATION = "headstart"
MAX_MATMUL_LENGTH = 512  # beyond it the scores, length x length, cost more memory than they save time


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seqlens: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017); query, key, value (rows, heads, length, width of a head).

    The mask is boolean, true where attention is allowed, and broadcasts to (rows, heads, length, length);
    `cu_seqlens`, int32 (documents + 1,), says the same in numbers into the rows laid end to end. Returns
    (rows, length, heads, width of a head).
    """
    if cu_seqlens is not None:
        return varlen_attention(query, key, value, cu_seqlens, scaling, kwargs.get("sliding_window")), None
    by_products = (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.shape == key.shape
        and query.shape[2] <= MAX_MATMUL_LENGTH
        and not kwargs.get("is_causal")
    )
    if not by_products:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scores = query * (scaling or query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    if attention_mask is not None:
        # Added where they lie: filling them in is a slow pass, and one more on the way back. Not -inf: a row of padding,
        # which attends to nothing, must not become NaN.
        far = torch.finfo(scores.dtype).min
        scores += torch.zeros(attention_mask.shape, dtype=scores.dtype).masked_fill_(~attention_mask, far)
    weights = scores.softmax(-1)
    if dropout:
        weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scaling: float | None, sliding_window: int | None
) -> Tensor:
    """Attention within each document and no further than its window; shapes as in `attention_forward`."""
    rows, heads, length, width = query.shape
    flat = [tensor.transpose(1, 2).reshape(rows * length, -1, width) for tensor in (query, key, value)]
    # transformers counts the token itself into a window; here it is how many are seen on either side.
    side = -1 if sliding_window is None else sliding_window - 1
    found = varlen_attn(*flat, cu_seqlens, cu_seqlens, length, length, scale=scaling, window_size=(side, side))
    return found.view(rows, length, heads, width)


def can_use_varlen(model: PreTrainedModel, cu_seqlens: Tensor | None) -> bool:
    """Whether `attention_forward` can take documents one by one: flash attention's kernels want a GPU and half precision."""
    return (
        cu_seqlens is not None
        and varlen_attn is not None
        and model.config._attn_implementation == ATTN_IMPLEMENTATION
        and cu_seqlens.is_cuda
        and torch.is_autocast_enabled("cuda")
    )


class ApplyRotaryEmb(torch.autograd.Function):
    """Rotary positions (Su et al. 2021) of queries and keys: halves of a head's width are the two coordinates."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        return apply_rotation(query, cosine, sine), apply_rotation(key, cosine, sine)

    @staticmethod
    def backward(ctx, query: Tensor, key: Tensor):
        cosine, sine = ctx.saved_tensors
        return apply_rotation(query, cosine, -sine), apply_rotation(key, cosine, -sine), None, None


def apply_rotation(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`states` turned by an angle, written once; cosine and sine broadcast to (rows, heads, length, width / 2)."""
    found = torch.empty(states.shape, dtype=states.dtype)
    (x, y), (left, right) = states.chunk(2, -1), found.chunk(2, -1)
    torch.mul(x, cosine, out=left).addcmul_(y, sine, value=-1)
    torch.mul(y, cosine, out=right).addcmul_(x, sine)
    return found


def fast_apply_rotary_pos_emb(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Transformers' `apply_rotary_pos_emb`, whose dozen passes over memory took a twelfth of a step on a CPU (LOG.md)."""
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return original_apply_rotary_pos_emb(query, key, cos, sin, unsqueeze_dim)
    half = query.shape[-1] // 2
    return ApplyRotaryEmb.apply(
        query, key, *(angle[..., :half].unsqueeze(unsqueeze_dim).to(query.dtype) for angle in (cos, sin))
    )


original_apply_rotary_pos_emb = modeling_modernbert.apply_rotary_pos_emb
AttentionInterface.register(ATTN_IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(ATTN_IMPLEMENTATION, sdpa_mask)


def use_fast_attention(model: PreTrainedModel) -> None:
    """Make `model` attend by `attention_forward`, unless its architecture has an attention of its own. Saved files do not change."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTN_IMPLEMENTATION)
    if model.config.model_type == "modernbert":
        # A function of transformers' module, so of every such network in this process; exact, but for rounding.
        modeling_modernbert.apply_rotary_pos_emb = fast_apply_rotary_pos_emb
