"""Attention and rotary position embeddings by the fastest exact method of the device.

On CPUs in bf16, torch's fused attention is about three times slower than two matrix products and a softmax at the usual
lengths of encoders (docs/lab-notebook). On GPUs, packed documents are sequences of variable length, without a mask.
"""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.modernbert import modeling_modernbert

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # not in every torch build
    varlen_attn = None

ATTN_IMPLEMENTATION = "headstart"
MAX_MATMUL_LENGTH = 512  # above it, the length x length scores cost more memory than they save time


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
    """Compute scaled dot-product attention (Vaswani et al. 2017); query, key, value (rows, heads, length, width).

    attention_mask: boolean, true where attention is allowed; broadcasts to (rows, heads, length, length).
    cu_seqlens: int32 (documents + 1,), the documents' bounds in the concatenated rows, used instead of the mask.
    Returns (rows, length, heads, width).
    """
    if cu_seqlens is not None:
        return varlen_attention(query, key, value, cu_seqlens, scaling, kwargs.get("sliding_window")), None
    is_short = query.shape == key.shape and query.shape[2] <= MAX_MATMUL_LENGTH
    is_short &= attention_mask is None or attention_mask.dtype == torch.bool
    # transformers makes no mask for a causal network without padding, and relies on is_causal.
    lacks_mask = attention_mask is None and query.shape[2] > 1 and is_causal(module, kwargs)
    if not (is_short and not lacks_mask and query.device.type == "cpu" and query.dtype == torch.bfloat16):
        kwargs |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scores = query * (scaling or query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    if attention_mask is not None:
        # Adding in place is faster than masked_fill, forward and backward. A finite minimum, unlike -inf, keeps padding
        # rows, which attend to nothing, from becoming NaN.
        minimum = torch.finfo(scores.dtype).min
        scores += torch.zeros(attention_mask.shape, dtype=scores.dtype).masked_fill_(~attention_mask, minimum)
    weights = scores.softmax(-1)
    if dropout:
        weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


def is_causal(module: nn.Module, arguments: dict) -> bool:
    """Return whether a call without a mask reads from left to right, as transformers' `sdpa_attention_forward` does."""
    passed = arguments.get("is_causal")
    return bool(getattr(module, "is_causal", False) if passed is None else passed)


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, scaling: float | None, sliding_window: int | None
) -> Tensor:
    """Compute attention within each document and window; shapes as in `attention_forward`."""
    rows, heads, length, width = query.shape
    flat = [tensor.transpose(1, 2).reshape(rows * length, -1, width) for tensor in (query, key, value)]
    # transformers counts the token itself in a window; torch takes the number of tokens on each side.
    side = -1 if sliding_window is None else sliding_window - 1
    output = varlen_attn(*flat, cu_seqlens, cu_seqlens, length, length, scale=scaling, window_size=(side, side))
    return output.view(rows, length, heads, width)


def can_use_varlen(model: PreTrainedModel, cu_seqlens: Tensor | None) -> bool:
    """Return whether documents can be separate sequences: flash attention needs a GPU and half precision."""
    if cu_seqlens is None or varlen_attn is None or model.config._attn_implementation != ATTN_IMPLEMENTATION:
        return False
    return cu_seqlens.is_cuda and torch.is_autocast_enabled("cuda")


class ApplyRotaryEmb(torch.autograd.Function):
    """Rotary position embedding (Su et al. 2021) of queries and keys; the halves of a head are the two coordinates."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys."""
        ctx.save_for_backward(cosine, sine)
        return apply_rotation(query, cosine, sine), apply_rotation(key, cosine, sine)

    @staticmethod
    def backward(ctx, query: Tensor, key: Tensor):
        """Rotate their gradients back."""
        cosine, sine = ctx.saved_tensors
        return apply_rotation(query, cosine, -sine), apply_rotation(key, cosine, -sine), None, None


def apply_rotation(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate `states` in one pass; cosine and sine broadcast to (rows, heads, length, width / 2)."""
    rotated = torch.empty(states.shape, dtype=states.dtype)
    (x, y), (left, right) = states.chunk(2, -1), rotated.chunk(2, -1)
    torch.mul(x, cosine, out=left).addcmul_(y, sine, value=-1)
    torch.mul(y, cosine, out=right).addcmul_(x, sine)
    return rotated


def fast_apply_rotary_pos_emb(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """Replace transformers' `apply_rotary_pos_emb`, which takes a twelfth of a step on a CPU (docs/lab-notebook)."""
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return original_apply_rotary_pos_emb(query, key, cos, sin, unsqueeze_dim)
    half = query.shape[-1] // 2
    cosine, sine = (angle[..., :half].unsqueeze(unsqueeze_dim).to(query.dtype) for angle in (cos, sin))
    return ApplyRotaryEmb.apply(query, key, cosine, sine)


original_apply_rotary_pos_emb = modeling_modernbert.apply_rotary_pos_emb
AttentionInterface.register(ATTN_IMPLEMENTATION, attention_forward)
AttentionMaskInterface.register(ATTN_IMPLEMENTATION, sdpa_mask)


def use_fast_attention(model: PreTrainedModel) -> None:
    """Make `model` use `attention_forward`, unless its architecture has its own attention. Not saved with the model."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTN_IMPLEMENTATION)
    if model.config.model_type == "modernbert":
        # Replaces a module function, so it affects all ModernBERT models of this process; exact up to rounding.
        modeling_modernbert.apply_rotary_pos_emb = fast_apply_rotary_pos_emb
