"""Images for the report of a run: what the network is shown and nearest neighbors.

They are people's data, so they go into the report of the run alone, which is never published.
"""

import numpy as np
import torch
from torch.nn import functional as F

from data.images.shards import PixelShards
from data.sampling import row_generator, take_evenly
from pretrain.image_outputs import denormalized
from pretrain.image_validation import FIXED_SEED
from pretrain.image_views import ImageViewDataset
from pretrain.model.image_encoder import ImageEncoder, normalized
from pretrain.objective import Gallery

NUM_VIEWED, NUM_QUERIES, NUM_NEIGHBORS = 8, 5, 5
MAX_CANDIDATES = 1_000


@torch.no_grad()
def draw_views(encoder: ImageEncoder, dataset: ImageViewDataset, held_out: PixelShards) -> Gallery:
    """Return training images with two views, and held-out ones with their neighbors; at most 54 images."""
    shown = take_evenly(range(len(dataset)), NUM_VIEWED)
    views = ImageViewDataset(dataset.shards, dataset.settings)
    inputs = views.collate(shown, [row_generator(FIXED_SEED, 0, row) for row in shown]).inputs
    device = next(encoder.parameters()).device
    drawn = encoder.make_views(inputs["pixels"].to(device), inputs["view_params"].to(device))
    pairs = denormalized(encoder, drawn).reshape(len(shown), 2, *drawn.shape[2:], -1)
    rows = zip(inputs["pixels"].numpy(), pairs, strict=True)
    sections = [("What the network is shown: an image and two views of it", [[image, *pair] for image, pair in rows])]
    if len(held_out) > NUM_NEIGHBORS:
        title = "Held-out images, and the nearest others by their embeddings"
        sections.append((title, find_neighbors(encoder, held_out, device)))
    return sections


def find_neighbors(encoder: ImageEncoder, held_out: PixelShards, device: torch.device) -> list[list[np.ndarray]]:
    """Return some held-out images, each followed by the nearest others by the cosine of their embeddings."""
    pixels = held_out.pixels[take_evenly(range(len(held_out)), MAX_CANDIDATES)]
    parts = [pixels[start : start + 64] for start in range(0, len(pixels), 64)]
    unit = F.normalize(torch.cat([encoder.embed_images(normalized(encoder, part, device)) for part in parts]), dim=-1)
    queries = take_evenly(range(len(pixels)), NUM_QUERIES)
    cosines = unit[queries] @ unit.T
    cosines[range(len(queries)), queries] = -1
    nearest = cosines.topk(NUM_NEIGHBORS).indices.tolist()
    return [[pixels[query], *pixels[others]] for query, others in zip(queries, nearest, strict=True)]
