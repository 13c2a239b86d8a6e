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

NAME = "headstart"
LONGEST = 512  # beyond it the scores, length x length, cost more memory than they save time


def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
              dropout: float = 0.0, scaling: float | None = None, document_bounds: Tensor | None = None,
              **rest) -> tuple[Tensor, None]:
    """Scaled dot-product attention (Vaswani et al. 2017); query, key, value (rows, heads, length, width of a head).

    The mask is boolean, true where attention is allowed, and broadcasts to (rows, heads, length, length);
    `document_bounds`, int32 (documents + 1,), says the same in numbers into the rows laid end to end. Returns
    (rows, length, heads, width of a head).
    """
    if document_bounds is not None:
        return by_document(query, key, value, document_bounds, scaling, rest.get("sliding_window")), None
    by_products = (query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape == key.shape
                   and query.shape[2] <= LONGEST and not rest.get("is_causal"))
    if not by_products:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
                                      **rest)
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


def by_document(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, scaling: float | None,
                sliding_window: int | None) -> Tensor:
    """Attention within each document and no further than its window; shapes as in `attention`."""
    rows, heads, length, width = query.shape
    flat = [tensor.transpose(1, 2).reshape(rows * length, -1, width) for tensor in (query, key, value)]
    # transformers counts the token itself into a window; here it is how many are seen on either side.
    side = -1 if sliding_window is None else sliding_window - 1
    found = varlen_attn(*flat, bounds, bounds, length, length, scale=scaling, window_size=(side, side))
    return found.view(rows, length, heads, width)


def goes_by_document(model: PreTrainedModel, bounds: Tensor | None) -> bool:
    """Whether `attention` can take documents one by one: flash attention's kernels want a GPU and half precision."""
    return (bounds is not None and varlen_attn is not None and model.config._attn_implementation == NAME
            and bounds.is_cuda and torch.is_autocast_enabled("cuda"))


class Rotation(torch.autograd.Function):
    """Rotary positions (Su et al. 2021) of queries and keys: halves of a head's width are the two coordinates."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        return rotated(query, cosine, sine), rotated(key, cosine, sine)

    @staticmethod
    def backward(ctx, query: Tensor, key: Tensor):
        cosine, sine = ctx.saved_tensors
        return rotated(query, cosine, -sine), rotated(key, cosine, -sine), None, None


def rotated(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`states` turned by an angle, written once; cosine and sine broadcast to (rows, heads, length, width / 2)."""
    found = torch.empty(states.shape, dtype=states.dtype)
    (x, y), (left, right) = states.chunk(2, -1), found.chunk(2, -1)
    torch.mul(x, cosine, out=left).addcmul_(y, sine, value=-1)
    torch.mul(y, cosine, out=right).addcmul_(x, sine)
    return found


def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """transformers' `apply_rotary_pos_emb`, whose dozen passes over memory took a twelfth of a step on a CPU (LOG.md)."""
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return plain_rotary(query, key, cos, sin, unsqueeze_dim)
    half = query.shape[-1] // 2
    return Rotation.apply(query, key, *(angle[..., :half].unsqueeze(unsqueeze_dim).to(query.dtype) for angle in (cos, sin)))


plain_rotary = modeling_modernbert.apply_rotary_pos_emb
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use(model: PreTrainedModel) -> None:
    """Make `model` attend by `attention`, unless its architecture has an attention of its own. Saved files do not change."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
    if model.config.model_type == "modernbert":
        # A function of transformers' module, so of every such network in this process; exact, but for rounding.
        modeling_modernbert.apply_rotary_pos_emb = rotary
