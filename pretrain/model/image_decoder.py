"""Networks that draw images: from a vector (DCGAN's generator; Radford et al. 2016), or from another image.

No layer normalizes by a batch, so an image depends on no other one, and there is nothing to store but weights.
"""

import math

from torch import Tensor, nn

SMALLEST_GRID = 4  # positions on a side of the first, smallest map
CHANNELS_PER_GROUP = 8  # of group normalization
SMALLEST_VALUE = 0.02  # of a pixel in a logit, which would be infinite at 0


class ImageDecoder(nn.Module):
    """Vectors (images, dim) to images (images, channels, size, size) with values from 0 to 1.

    width: channels of the largest hidden map; each smaller one has twice as many, at most `8 * width`.
    normalizes: whether hidden maps are normalized, by groups of channels of each image, as for an adversarial loss. An
    autoencoder would learn the brightness of images more slowly.
    """

    def __init__(self, dim: int, channels: int, size: int, width: int, normalizes: bool = False):
        super().__init__()
        self.options = {"dim": dim, "channels": channels, "size": size, "width": width, "normalizes": normalizes}
        doublings = max(1, math.ceil(math.log2(size / (2 * SMALLEST_GRID - 1))))
        self.grid, self.size = math.ceil(size / 2**doublings), size
        widths = [width * min(8, 2**level) for level in reversed(range(doublings))]
        self.input = nn.Linear(dim, widths[0] * self.grid**2)
        norm = group_norm if normalizes else lambda _: nn.Identity()
        layers: list[nn.Module] = [norm(widths[0]), nn.ReLU()]
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), norm(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1))
        if not normalizes:
            for module in layers:
                if isinstance(module, nn.ConvTranspose2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, vectors: Tensor) -> Tensor:
        """Draw images."""
        maps = self.layers(self.input(vectors).unflatten(1, (-1, self.grid, self.grid)))
        start = (maps.shape[-1] - self.size) // 2
        return maps[..., start : start + self.size, start : start + self.size].float().sigmoid()


class LatentDecoder(nn.Module):
    """The decoder of a variational autoencoder, with the layer that describes latent vectors of an embedding."""

    def __init__(self, embedding_dim: int, dim: int, channels: int, size: int, width: int):
        super().__init__()
        self.decoder = ImageDecoder(dim, channels, size, width)
        shape = {"dim": dim, "channels": channels, "size": size, "width": width}
        self.options = {"embedding_dim": embedding_dim, **shape}
        self.posterior = nn.Linear(embedding_dim, 2 * dim)

    def describe(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent vectors, float32 (images, dim)."""
        return self.posterior(embeddings).float().chunk(2, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw images."""
        return self.decoder(latents)


class ImageTranslator(nn.Module):
    """Images with values from 0 to 1 to others of the same shape (Johnson et al. 2016), for sizes divisible by 4.

    width: channels of the largest hidden map; blocks: residual blocks on the smallest one.
    """

    def __init__(self, channels: int, width: int, blocks: int):
        super().__init__()
        self.options = {"channels": channels, "width": width, "blocks": blocks}
        self.input = nn.Sequential(
            *conv(channels, width, 7, 1), *conv(width, 2 * width, 3, 2), *conv(2 * width, 4 * width, 3, 2)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*conv(4 * width, 4 * width, 3, 1), *conv(4 * width, 4 * width, 3, 1)[:-1])
            for _ in range(blocks)
        )
        self.output = nn.Sequential(
            *(nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.InstanceNorm2d(width), nn.ReLU()),
            nn.Conv2d(width, channels, 7, 1, 3, padding_mode="reflect"),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Translate images: the network adds to their logits, so that it starts close to leaving them as they are."""
        states = self.input(2 * images - 1)
        for block in self.blocks:
            states = states + block(states)
        return (
            images.float().clamp(SMALLEST_VALUE, 1 - SMALLEST_VALUE).logit() + self.output(states).float()
        ).sigmoid()


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a normalization of each image by groups of channels."""
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


def conv(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    """Return a convolution, a normalization of each image, and ReLU."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, padding_mode="reflect")
    return [convolution, nn.InstanceNorm2d(after), nn.ReLU()]
