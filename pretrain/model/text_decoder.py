"""Small decoders that see nothing of a text but its embedding (Wang et al. 2021), or a latent vector of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.kernels.attention import attention_forward
from engine.kernels.linear_cross_entropy import linear_cross_entropy
from pretrain.model.encoder import Encoder
from pretrain.model.packing import build_mask

HEAD_SIZE = 64


class DecoderLayer(nn.Module):
    """Attention to the tokens before, then a feed-forward part, normalized before each (Xiong et al. 2020)."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.vector, self.attention_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.queries_keys_values, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return states (rows, length, width); vectors: the embedding of each position's text, of the same shape."""
        # Attention to a single key returns a linear map of it, whatever the query.
        states = states + self.vector(vectors)
        heads = self.queries_keys_values(self.attention_norm(states)).unflatten(-1, (3, self.num_heads, -1))
        attended, _ = attention_forward(self, *heads.permute(2, 0, 3, 1, 4), mask)
        states = states + self.output(attended.flatten(2))
        return states + self.feed_forward(states)


class TextDecoder(nn.Module):
    """Predicts each token of a text from the tokens before it and the text's embedding.

    embeddings: those of the tokens, (tokens, dim), which are the output projection too. width: of the states and of the
    text's embedding. bias: of the output projection at the start, (tokens,); None: zeros.
    """

    def __init__(self, embeddings: nn.Module, width: int, num_layers: int, bias: Tensor | None = None):
        super().__init__()
        dim = embeddings.embedding_dim
        self.embeddings, self.input = embeddings, nn.Sequential(nn.Linear(dim, width), nn.LayerNorm(width))
        num_heads = next(count for count in range(max(1, width // HEAD_SIZE), 0, -1) if width % count == 0)
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads) for _ in range(num_layers))
        self.projection = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.LayerNorm(dim))
        self.bias = nn.Parameter(torch.zeros(embeddings.num_embeddings) if bias is None else bias.detach().clone())

    @classmethod
    def of_encoder(cls, encoder: Encoder, num_layers: int) -> TextDecoder:
        """Return a new decoder with the token embeddings of an encoder."""
        # A new head's bias has the token frequencies, which take long to learn.
        bias = getattr(encoder.model.get_output_embeddings(), "bias", None)
        return cls(encoder.model.get_input_embeddings(), encoder.width, num_layers, bias)

    def decode(self, vectors: Tensor, input_ids: Tensor, position_ids: Tensor, document_ids: Tensor) -> Tensor:
        """Return states (rows, length, dimension of the token embeddings) of packed texts.

        vectors: (texts, width). The other arguments, int64 (rows, length), are as in `pretrain.model.encoder`, with
        documents numbered as the texts are.
        """
        states = self.input(F.embedding(input_ids, self.embeddings.weight))
        states = states + encode_positions(position_ids, states.shape[-1]).to(states.dtype)
        mask, vectors = build_mask(document_ids, "mask", is_causal=True), vectors[document_ids.clamp(min=0)]
        for layer in self.layers:
            states = layer(states, vectors, mask)
        return self.projection(states)

    def forward(self, vectors: Tensor, target_indices: Tensor, targets: Tensor, **rows: Tensor) -> Tensor:
        """Return the summed cross-entropy, in nats, of the next tokens: `pretrain.next_tokens.find_next_tokens`."""
        states = self.decode(vectors, **rows).flatten(0, 1)[target_indices]
        return linear_cross_entropy(states, self.embeddings.weight, self.bias, targets)

    @torch.no_grad()
    def generate(self, vectors: Tensor, first_id: int, last_id: int, max_tokens: int) -> list[list[int]]:
        """Return the most likely next token, one after the other, of each text, without special tokens."""
        ids = torch.full((len(vectors), 1), first_id, device=vectors.device)
        documents = torch.arange(len(vectors), device=vectors.device)[:, None]
        for length in range(1, max_tokens + 1):
            positions = torch.arange(length, device=ids.device).expand(len(ids), -1)
            states = self.decode(vectors, ids, positions, documents.expand(-1, length))[:, -1]
            logits = F.linear(states.float(), self.embeddings.weight, self.bias)
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
        rows = [row[1:] for row in ids.tolist()]
        return [row[: row.index(last_id)] if last_id in row else row for row in rows]


class LatentTextDecoder(nn.Module):
    """The decoder of a variational autoencoder, with the layer that describes latent vectors of an embedding.

    dim: of the latent vectors; width: of the embeddings of texts; vocabulary: number and width of the token embeddings;
    ends: ids of the tokens before and after a text, which `generate` needs.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        layers: int,
        vocabulary: tuple[int, int],
        ends: tuple[int, int] = (0, 0),
        decoder: TextDecoder | None = None,
    ):
        super().__init__()
        self.options = {"dim": dim, "width": width, "layers": layers, "vocabulary": [*vocabulary], "ends": [*ends]}
        self.posterior = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * dim))
        self.input = nn.Linear(dim, width)
        self.decoder = decoder or TextDecoder(nn.Embedding(*vocabulary), width, layers)

    @classmethod
    def of_encoder(cls, encoder: Encoder, dim: int, num_layers: int) -> LatentTextDecoder:
        """Return a new decoder with the token embeddings of an encoder."""
        decoder = TextDecoder.of_encoder(encoder, num_layers)
        return cls(dim, encoder.width, num_layers, tuple(decoder.embeddings.weight.shape), decoder=decoder)

    def describe(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent vectors, float32 (texts, dim)."""
        return self.posterior(embeddings).float().chunk(2, 1)

    def forward(self, latents: Tensor, target_indices: Tensor, targets: Tensor, **rows: Tensor) -> Tensor:
        """Return the summed cross-entropy of the next tokens, as `TextDecoder` does."""
        return self.decoder(self.input(latents), target_indices, targets, **rows)

    def generate(self, latents: Tensor, max_tokens: int = 64) -> list[list[int]]:
        """Return the most likely next token, one after the other, of each text, without special tokens."""
        with torch.no_grad():
            return self.decoder.generate(self.input(latents), *self.options["ends"], max_tokens)


def encode_positions(position_ids: Tensor, width: int) -> Tensor:
    """Return sines and cosines of positions (...), float32 (..., width) (Vaswani et al. 2017)."""
    half = -(-width // 2)
    frequencies = 10_000 ** -(torch.arange(half, device=position_ids.device) / half)
    angles = position_ids[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)[..., :width]
