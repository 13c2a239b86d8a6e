"""Images for the report of a run: what the network is shown, nearest neighbors, reconstructions of mae.

They are people's data, so they go into the report of the run alone, which is never published.
"""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from data.images.shards import PixelShards
from data.sampling import row_generator, take_evenly
from pretrain.image_validation import FIXED_SEED
from pretrain.image_views import ImageViewDataset
from pretrain.model.image_encoder import ImageEncoder, normalized

NUM_VIEWED, NUM_QUERIES, NUM_NEIGHBORS, NUM_RECONSTRUCTED = 8, 5, 5, 3
MAX_CANDIDATES = 1_000
Gallery = list[tuple[str, list[list[str]]]]
"""Sections of a page: title, and rows of images as data URLs."""


def to_url(pixels: np.ndarray) -> str:
    """Return a PNG of uint8 pixels (size, size, channels) as a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def denormalized(encoder: ImageEncoder, images: Tensor) -> np.ndarray:
    """Return uint8 pixels (images, size, size, channels) of normalized images."""
    mean, std = (np.array(values) for values in encoder.processor[1:])
    values = images.permute(0, 2, 3, 1).float().cpu().numpy() * std + mean
    return (255 * values.clip(0, 1)).round().astype(np.uint8)


@torch.no_grad()
def draw_gallery(
    encoder: ImageEncoder, objective: nn.Module, dataset: ImageViewDataset, held_out: PixelShards
) -> Gallery:
    """Return at most 64 images: training images with two views, held-out ones with neighbors, reconstructions."""
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
    if hasattr(objective, "reconstruct"):
        sections.append(
            (
                "Held-out images, what is visible of them, and the reconstruction",
                reconstruct(encoder, objective, held_out, device),
            )
        )
    return [(title, [[to_url(image) for image in row] for row in rows]) for title, rows in sections]


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


def reconstruct(
    encoder: ImageEncoder, objective: nn.Module, held_out: PixelShards, device: torch.device
) -> list[list[np.ndarray]]:
    """Return some held-out images, each followed by its visible patches and the reconstruction."""
    pixels = held_out.pixels[take_evenly(range(len(held_out)), NUM_RECONSTRUCTED)]
    images = normalized(encoder, pixels, device)
    visible, restored = (denormalized(encoder, each) for each in objective.reconstruct(images))
    return [list(row) for row in zip(pixels, visible, restored, strict=True)]
