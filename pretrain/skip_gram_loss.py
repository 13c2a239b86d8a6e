"""Skip-gram with negative sampling (Mikolov et al. 2013), over all pairs of tokens in a window at once."""

import torch
from torch import Tensor


class SkipGramLoss(torch.autograd.Function):
    """Computes the gradient in the forward pass, in autocast's precision if it is enabled.

    All scores of a row are one matrix product, of which the diagonals in the window count: a product of several times
    the size is faster than to gather vectors pair by pair.
    """

    @staticmethod
    def forward(
        ctx, centers: Tensor, contexts: Tensor, negatives: Tensor, document_ids: Tensor, window: int, num_negatives: int
    ) -> Tensor:
        """Return the summed loss and store the gradients; shapes as in `skip_gram_loss`."""
        device = centers.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else centers.dtype
        tiny = torch.finfo(torch.float32).tiny
        with torch.autocast(device, enabled=False):
            centers, contexts, negatives = (tensor.to(dtype) for tensor in (centers, contexts, negatives))
            scores, loss = centers @ contexts.mT, torch.zeros((), device=centers.device)
            gradient, (pairs, totals) = torch.zeros_like(scores), pair_weights(document_ids, window)
            for distance, weights in pairs:
                for offset in (distance, -distance):
                    probs = scores.diagonal(offset, 1, 2).float().sigmoid()
                    loss -= (weights * probs.clamp(min=tiny).log()).sum()
                    gradient.diagonal(offset, 1, 2).copy_((probs - 1) * weights)
            probs = (centers @ negatives.mT).float().sigmoid()
            weights = totals[:, :, None] * (num_negatives / negatives.shape[1])
            loss -= (weights * (1 - probs).clamp(min=tiny).log()).sum()
            pushed = (probs * weights).to(dtype)
            ctx.gradients = (
                (gradient @ contexts).float() + (pushed @ negatives).float(),
                (gradient.mT @ centers).float(),
                (pushed.mT @ centers).float(),
            )
        return loss

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        """Scale the stored gradients."""
        return (*(gradient * grad_output for gradient in ctx.gradients), None, None, None)


def pair_weights(document_ids: Tensor, window: int) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Return ([(distance, weight of each token with the one so far after it)], each token's sum over both sides).

    A pair's weight is the probability that a window of uniform size, from 1 to `window`, has it. Weights are float32
    (rows, length - distance), sums (rows, length).
    """
    pairs, totals = [], torch.zeros(document_ids.shape, device=document_ids.device)
    for distance in range(1, min(window, document_ids.shape[1] - 1) + 1):
        same = (document_ids[:, distance:] == document_ids[:, :-distance]) & (document_ids[:, distance:] >= 0)
        weights = same * ((window + 1 - distance) / window)
        totals[:, distance:] += weights
        totals[:, :-distance] += weights
        pairs.append((distance, weights))
    return pairs, totals


def skip_gram_loss(
    centers: Tensor, contexts: Tensor, negatives: Tensor, document_ids: Tensor, window: int, num_negatives: int
) -> Tensor:
    """Compute the summed loss of all pairs of tokens of a document in a window; differentiable once.

    centers, contexts: both vectors of each token, (rows, length, width). negatives: context vectors of a row's sample,
    (rows, samples, width), which all its pairs share; they weigh as much as `num_negatives` of each pair. document_ids:
    int64 (rows, length), -1 for padding.
    """
    return SkipGramLoss.apply(centers, contexts, negatives, document_ids, window, num_negatives)
